"""What a model gets right and wrong on the test data: classes and mistakes, or each target's figures."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib.image
from numpy.typing import NDArray

from ddp_mlp.reporting.markup import Name, escaped, figures_of, folded, paragraph, table
from ddp_mlp.reporting.matrix import LABELLED, SMALL, matrix_svg
from ddp_mlp.reporting.names import followed
from ddp_mlp.reporting.number_outcome import NumberOutcome
from ddp_mlp.reporting.outcome import ClassOutcome, picture
from ddp_mlp.reporting.runs import RunLog
from ddp_mlp.reporting.target_charts import charts_of_numbers, charts_of_scores
from ddp_mlp.run_dir.narrator import number

PICTURE_PIXELS = 96
LISTED = 10
"""Most frequent confusions, and most confident mistakes where they are not pictures."""
CLASSES_SHOWN = 12
"""Classes that a table has at once; the others are folded."""

Shape = tuple[int, ...] | None
"""Of the features as a picture, where they are one."""
Found = ClassOutcome | NumberOutcome | str
"""What a run's model does on the test data, or why that cannot be known."""


def of_run(run: RunLog, outcome: Found, shape: Shape, prefix: str) -> str:
    """Return what is known of one run's model: classes and mistakes, or targets; or why nothing is.

    `prefix` makes ids unique in the page.
    """
    if isinstance(outcome, str):
        return paragraph(f"Not shown: {outcome}.") + of_targets(run)
    if isinstance(outcome, NumberOutcome):
        return of_targets(run) + figures_of(charts_of_numbers(outcome), prefix)
    told = run.final.get("test_accuracy") if run.final else None
    agrees = ""
    if told is not None:
        agrees = ", as the run's final event says" if told == outcome.accuracy else f"; the final event says {told:.2%}"
    right, rows = int(outcome.counted.right.sum()), int(outcome.counted.support.sum())
    kept = f"{right:,} of {rows:,} test rows are right, {outcome.accuracy:.2%}{agrees}; model of step {outcome.step:,}."
    matrix, confusions, classes = _matrix(run, outcome), _confusions(outcome), _classes(outcome)
    if len(outcome.classes) <= SMALL:
        parts = [f'<div class="side"><div>{matrix}</div><div>{confusions}{classes}</div></div>']
    else:
        parts = [matrix, f'<div class="side"><div>{confusions}</div><div>{classes}</div></div>']
    scores = figures_of(charts_of_scores(outcome.classes, outcome.ranks), prefix)
    return paragraph(kept) + "\n".join([*parts, _mistakes(outcome, shape), scores])


def _matrix(run: RunLog, outcome: ClassOutcome) -> str:
    n, text = len(outcome.classes), outcome.matrix_in_words(run.name)
    kind = "" if n <= SMALL else " large" if n > LABELLED else " medium"
    caption = "Confusion matrix: the denser a cell, the larger its share of the true class"
    svg = matrix_svg(outcome.confusion, outcome.classes, text)
    return f'<figure class="confusion{kind}"><figcaption>{escaped(caption)}</figcaption>{svg}</figure>'


def _confusions(outcome: ClassOutcome) -> str:
    confused = [[Name(label), Name(taken), count] for label, taken, count in outcome.confusions(LISTED)]
    return table(["true", "predicted", "rows"], confused, "Most frequent confusions") if confused else ""


def _classes(outcome: ClassOutcome) -> str:
    """Return the classes, those that need it most first: by F1, those without one last."""
    found = sorted(outcome.per_class(), key=lambda row: (row[4] is None, row[4] or 0.0))
    rows = [
        [Name(name), count, *(("–" if value is None else f"{value:.3f}") for value in scores)]
        for name, count, *scores in found
    ]
    head, caption = ["class", "rows", "precision", "recall", "F1"], "Classes, the lowest F1 first"
    shown, rest = (rows, []) if len(rows) <= CLASSES_SHOWN + 3 else (rows[:CLASSES_SHOWN], rows[CLASSES_SHOWN:])
    return table(head, shown, caption) + (folded(f"The other {len(rest)} classes", table(head, rest)) if rest else "")


def _mistakes(outcome: ClassOutcome, shape: Shape) -> str:
    if not outcome.mistakes:
        return paragraph("Every test row is right.")
    names = outcome.classes
    if shape is None:
        rows = [
            [m.row, Name(names[m.label]), Name(names[m.predicted]), f"{m.probability:.4f}"]
            for m in outcome.mistakes[:LISTED]
        ]
        note = "Most confident mistakes: rows of the test split, counted from 0"
        return table(["row", "true", "predicted", "probability"], rows, note)
    tiles = []
    for mistake in outcome.mistakes:
        true, said = names[mistake.label], followed(names[mistake.predicted])
        words = f"{true} predicted {said}, {mistake.probability:.3f}"
        alternative = f"Picture of test row {mistake.row}: {words}"
        tiles.append(
            f'<figure><img src="{_png(mistake.features, shape)}" alt="{escaped(alternative)}">'
            f"<figcaption>{escaped(words)}, row {mistake.row}</figcaption></figure>"
        )
    return f'<h3>Most confident mistakes</h3><div class="tiles">{"".join(tiles)}</div>'


def _png(features: NDArray[Any], shape: tuple[int, ...]) -> str:
    pixels = picture(features, shape)
    times = max(1, PICTURE_PIXELS // max(pixels.shape[:2]))
    buffer = io.BytesIO()
    enlarged = pixels.repeat(times, axis=0).repeat(times, axis=1)  # browsers that smooth do so at the edges alone
    matplotlib.image.imsave(buffer, enlarged, cmap="gray", vmin=0, vmax=1, format="png", origin="upper")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def of_targets(run: RunLog) -> str:
    """Return the figures of each target from the journal, those that need it most first."""
    source: dict[str, Any] = run.final or (run.of("epoch") or [{}])[-1]
    split = next((split for split in ("test", "valid") if isinstance(source.get(f"{split}_targets"), dict)), None)
    if split is None or "classes" in run.start["data"]:
        return ""
    of_each: dict[str, dict[str, Any]] = source[f"{split}_targets"]
    heads = list(dict.fromkeys(name for figures in of_each.values() for name in figures))
    by = next((name for name in ("r2", "f1", "accuracy") if name in heads), None)
    names = sorted(of_each, key=lambda name: _order(of_each[name].get(by))) if by else list(of_each)
    rows = [[Name(name), *(_told(of_each[name].get(head)) for head in heads)] for name in names]
    words = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "f1": "F1", "roc_auc": "ROC AUC"}
    labels = run.config.get("loss") == "binary_cross_entropy"
    titles = ["label" if labels else "target", *(words.get(head, head.replace("_", " ")) for head in heads)]
    held = "test" if split == "test" else "validation"
    kind = "Each label" if labels else "Each target, in its own units,"
    order = f", the lowest {words.get(by, by)} first" if by else ""
    return table(titles, rows, f"{kind} on the {held} data{order}")


def _order(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("inf")


def _told(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else "–"


def of_all_runs(runs: Sequence[RunLog], outcomes: Sequence[Found], shapes: Sequence[Shape]) -> str:
    """Return one table of all runs' classes or targets, and each run's mistakes, folded."""
    each = "".join(
        folded(f"The model of {run.name}", of_run(run, outcome, shape, f"test{place}"))
        for place, (run, outcome, shape) in enumerate(zip(runs, outcomes, shapes, strict=True))
    )
    return _classes_of_all(runs, outcomes) + each


def _classes_of_all(runs: Sequence[RunLog], outcomes: Sequence[Found]) -> str:
    known = [(run, outcome) for run, outcome in zip(runs, outcomes, strict=True) if isinstance(outcome, ClassOutcome)]
    if len(known) < 2 or len({outcome.classes for _, outcome in known}) > 1:
        return ""
    scores = [[row[4] for row in outcome.per_class()] for _, outcome in known]
    rows = []
    for name, *found in zip(known[0][1].classes, *scores, strict=True):
        defined = [value for value in found if value is not None]
        mean = sum(defined) / len(defined) if defined else float("inf")
        rows.append((mean, [Name(name), *("–" if value is None else f"{value:.3f}" for value in found)]))
    rows.sort(key=lambda row: row[0])
    head, lines = ["class", *(run.name for run, _ in known)], [line for _, line in rows]
    shown, rest = (lines, []) if len(lines) <= CLASSES_SHOWN + 3 else (lines[:CLASSES_SHOWN], lines[CLASSES_SHOWN:])
    return table(head, shown, "F1 on the test data, class by class, the lowest first") + (
        folded(f"The other {len(rest)} classes", table(head, rest)) if rest else ""
    )
