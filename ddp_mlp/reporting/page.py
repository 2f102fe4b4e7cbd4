"""A report as one HTML file: style, figures and pictures inside, no script, nothing fetched from elsewhere.

Text becomes HTML in `markup.py` alone.
"""

import base64
import io
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import matplotlib.image

import ddp_mlp
from ddp_mlp import config as configuration
from ddp_mlp.reporting.charts import charts_of, confusion_chart
from ddp_mlp.reporting.markup import Raw, escaped, figures_of, section, table
from ddp_mlp.reporting.number_outcome import NumberOutcome
from ddp_mlp.reporting.outcome import Outcome, picture
from ddp_mlp.reporting.runs import RunLog, differing
from ddp_mlp.reporting.target_charts import charts_of_numbers, charts_of_scores
from ddp_mlp.run_dir.journal import Event, utc_now
from ddp_mlp.run_dir.narrator import duration
from ddp_mlp.units import counted

ENDS = {"final": "ended", "interrupted": "reason"}
"""The events that end a start, with the field that says why."""
FIGURES = tuple(f"{split}_{name}" for name in ("accuracy", "r2", "rmse", "loss") for split in ("valid", "test"))
PICTURE_PIXELS = 96
LISTED = 10
"""Most frequent confusions, and most confident mistakes where they are not pictures."""


def page(
    runs: Sequence[RunLog],
    outcomes: Sequence[Outcome | NumberOutcome | str],
    shapes: Sequence[tuple[int, ...] | None],
    search: str = "",
) -> str:
    """Return the report of one or several runs; `outcomes` and `shapes` of their features as pictures, one per run.

    `search` is what `search_page` says of a search, whose first member the run is.
    """
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    body = [_summary(runs, title)]
    if len(runs) > 1:
        body.append(_differences(runs))
    body.append(section("Course", figures_of(charts_of(runs), "course") + _notes(runs)))
    for number, (run, outcome, shape) in enumerate(zip(runs, outcomes, shapes, strict=True)):
        heading = "Test data" if len(runs) == 1 else f"Test data: {run.name}"
        body.append(section(heading, _outcome(run, outcome, shape, f"test{number}")))
    for run in runs:
        body.append(section("What was run" if len(runs) == 1 else f"What was run: {run.name}", _origin(run)))
    if search:
        body.insert(1, search)
    return document(title, body)


def document(title: str, body: Sequence[str]) -> str:
    """Return a whole page with its style; `body` is HTML, part by part."""
    style = resources.files("ddp_mlp.reporting").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f'<link rel="icon" href="data:,">\n<title>{escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        + "\n".join(body)
        + f'\n<p class="soft">Made by ddp_mlp {escaped(ddp_mlp.__version__)}, {utc_now()}.</p>\n</body>\n</html>\n'
    )


def _summary(runs: Sequence[RunLog], title: str) -> str:
    if len(runs) > 1:
        return f"<header><h1>{escaped(title)}</h1></header>\n" + section("Results", _results(runs))
    (run,) = runs
    cards = [(_figure(name, value), name.replace("_", " ")) for name, value in _best_known(run).items()]
    cards += [
        (duration(run.events[-1]["seconds"]), "time"),
        (f"{run.events[-1]['step']:,}", "steps"),
        (f"{run.start['parameters']:,}", "parameters"),
        (f"{run.start['ranks']}", f"ranks, K = {run.start['shards']}"),
    ]
    rates = run.series("epoch", "examples_per_second")[1]
    if len(rates):
        cards.append((f"{sorted(rates)[len(rates) // 2]:,.0f}", "examples/s, median"))
    listed = "".join(f"<li><b>{escaped(value)}</b><span>{escaped(name)}</span></li>" for value, name in cards)
    hashed = _hash(run)
    return (
        f"<header><h1>{escaped(title)}</h1>"
        f'<p class="soft">{escaped(run.state)}, in <code>{escaped(run.folder)}</code></p></header>\n'
        f'<ul class="cards">{listed}</ul>\n'
        + (f"<p>parameters_sha256 <code>{escaped(hashed)}</code></p>" if hashed else "")
    )


def _results(runs: Sequence[RunLog]) -> str:
    names = [name for name in FIGURES if any(name in _best_known(run) for run in runs)]
    rows = []
    for number, run in enumerate(runs):
        known, last = _best_known(run), run.events[-1]
        swatch = f'<span class="swatch" style="background: var(--run-{number % 6})"></span>'
        figures = [_figure(name, known[name]) if name in known else "" for name in names]
        ranks = f"{run.start['ranks']}, {run.start['shards']}"
        rows.append(
            [
                Raw(swatch + escaped(run.name)),
                run.state,
                *figures,
                duration(last["seconds"]),
                last["step"],
                ranks,
                _hash(run)[:16],
            ]
        )
    head = ["run", "state", *(name.replace("_", " ") for name in names), "time", "steps", "P, K", "parameters_sha256"]
    return table(head, rows, "Figures of the kept model; of the last epoch where a run has not ended.")


def _differences(runs: Sequence[RunLog]) -> str:
    rows = [[name, *map(_show, values)] for name, values in differing(runs).items()]
    text = table(["setting", *(run.name for run in runs)], rows) if rows else "<p>No setting differs.</p>"
    return section("Settings that differ", text)


def _notes(runs: Sequence[RunLog]) -> str:
    """Say what is meant, and what is missing, so that nobody looks for it."""
    lines = []
    if not any(run.of("step") for run in runs):
        lines.append("No step events: the runs had log_every = 0, or are shorter than one interval.")
    if any(run.phase_seconds() for run in runs):
        lines.append("Waiting is for other ranks; between steps are evaluation, checkpoints and logging.")
    else:
        lines.append("Time per phase: the journals do not tell it.")
    if not any(run.waiting_by_rank() for run in runs):
        lines.append("Who waited: the journals do not tell it; with one rank, nobody does.")
    return "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines)


def _outcome(run: RunLog, outcome: Outcome | NumberOutcome | str, shape: tuple[int, ...] | None, prefix: str) -> str:
    if isinstance(outcome, str):
        return f"<p>Not shown: {escaped(outcome)}.</p>"
    if isinstance(outcome, NumberOutcome):
        return _numbers(outcome, prefix)
    told = run.final.get("test_accuracy") if run.final else None
    agrees = ""
    if told is not None:
        agrees = ", as the run's final event says" if told == outcome.accuracy else f"; the final event says {told:.2%}"
    kept = f"Computed from the checkpoint of step {outcome.step:,}: accuracy {outcome.accuracy:.2%}{agrees}."
    numbers = [
        [name, rows, *(("–" if value is None else f"{value:.3f}") for value in (precision, recall, f1))]
        for name, rows, precision, recall, f1 in outcome.per_class()
    ]
    classes = table(["class", "rows", "precision", "recall", "F1"], numbers, "Per class")
    confused = [[label, taken, count] for label, taken, count in outcome.confusions(LISTED)]
    most = table(["label", "taken for", "rows"], confused, "Most frequent confusions") if confused else ""
    chart = figures_of([confusion_chart(run, outcome)], prefix)
    scores = figures_of(charts_of_scores(outcome.classes, outcome.ranks), f"{prefix}scores")
    mistakes = _mistakes(outcome, shape)
    beside, below = ("", mistakes) if shape is not None else (mistakes, "")
    return (
        f"<p>{escaped(kept)}</p>\n"
        f'<div class="side"><div>{chart}</div><div>{classes}</div></div>\n'
        f'<div class="side"><div>{most}</div><div>{beside}</div></div>\n{scores}\n{below}'
    )


def _numbers(outcome: NumberOutcome, prefix: str) -> str:
    """Return what the kept model says of numbers or labels: figures of each target, and pictures."""
    scores, kind = outcome.scores, "label" if outcome.targets.probabilities else "target"
    figures = ", ".join(f"{name.replace('_', ' ')} {_told(value)}" for name, value in scores.figures.items())
    kept = f"Computed from the checkpoint of step {outcome.step:,}: loss {scores.loss:.6g}, {figures}."
    head = [name.replace("_", " ") for name in next(iter(scores.of_each.values()))]
    rows = [[name, *map(_told, each.values())] for name, each in scores.of_each.items()]
    return f"<p>{escaped(kept)}</p>\n{figures_of(charts_of_numbers(outcome), prefix)}\n" + table(
        [kind, *head], rows, f"Per {kind}, in its own units"
    )


def _told(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.6g}"


def _mistakes(outcome: Outcome, shape: tuple[int, ...] | None) -> str:
    if not outcome.mistakes:
        return "<p>Every test row is recognised.</p>"
    heading = "<h3>Most confident mistakes</h3>"
    names = outcome.classes
    if shape is None:
        rows = [[m.row, names[m.label], names[m.predicted], f"{m.probability:.4f}"] for m in outcome.mistakes[:LISTED]]
        note = "Most confident mistakes: rows of the test split, counted from 0"
        return table(["row", "label", "taken for", "probability"], rows, note)
    tiles = []
    for mistake in outcome.mistakes:
        words = f"{names[mistake.label]} taken for {names[mistake.predicted]}, {mistake.probability:.3f}"
        alternative = f"Picture of test row {mistake.row}: {words}"
        tiles.append(
            f'<figure><img src="{_png(mistake.features, shape)}" alt="{escaped(alternative)}">'
            f"<figcaption>{escaped(words)}, row {mistake.row}</figcaption></figure>"
        )
    return f'{heading}<div class="tiles">{"".join(tiles)}</div>'


def _origin(run: RunLog) -> str:
    start, config = run.start, run.config
    defaults = configuration.to_dict(configuration.Config())
    rows = ", ".join(f"{count:,} {split}" for split, count in start["data"]["rows"].items())
    widths = "-".join(
        map(str, [start["data"].get("features"), *config["hidden"], start.get("outputs", start["data"].get("classes"))])
    )
    facts = [
        ["data", f"{start['data'].get('path')}: {rows}"],
        *(
            [f"SHA-256 of {split}", Raw(f"<code>{escaped(value)}</code>")]
            for split, value in start["fingerprint"].items()
        ),
        ["network", f"{widths}, {start['parameters']:,} parameters"],
        [
            "ranks",
            f"P = {start['ranks']} on {counted(start['nodes'], 'node')}, K = {counted(start['shards'], 'shard')}",
        ],
        ["hosts", ", ".join(map(str, start["hosts"]))],
        ["BLAS", start["blas"]],
        ["versions", ", ".join(f"{name} {' '.join(str(value).split())}" for name, value in start["versions"].items())],
        [
            "again",
            Raw(f"<code>python -m ddp_mlp.train --config {escaped(run.folder / 'config.yaml')} --run_dir NEW</code>"),
        ],
    ]
    settings = "".join(
        f"<li{chosen}>{escaped(name)} = {escaped(_show(value))}</li>"
        for name, value in config.items()
        for chosen in [' class="chosen"' if name in defaults and value != defaults[name] else ""]
    )
    return (
        table(["", ""], facts)
        + "<h3>Starts</h3>"
        + _starts(run)
        + f'<h3>Settings</h3><p class="soft">Bold: not the default.</p><ul class="settings">{settings}</ul>'
    )


def _starts(run: RunLog) -> str:
    rows = []
    bounds = [i for i, event in enumerate(run.events) if event["event"] == "start"]
    for lo, hi in zip(bounds, [*bounds[1:], len(run.events)], strict=True):
        start, last = run.events[lo], run.events[hi - 1]
        after = run.events[hi] if hi < len(run.events) else None
        ended = "running, or killed" if after is None else "killed"
        if last["event"] in ENDS:
            ended = str(last.get(ENDS[last["event"]], "ended"))
        reached = last["step"] if after is None else max([last["step"], *_whole_number(after, "cut_step")])
        span = f"{start['step']:,} to {reached:,}"
        hosts = ", ".join(map(str, start["hosts"]))
        rows.append([start.get("time", ""), span, ended, f"{start['ranks']}", hosts, start.get("resumed_from", "")])
    return table(["time (UTC)", "steps", "ended by", "P", "hosts", "from"], rows)


def _whole_number(event: Event, name: str) -> list[int]:
    """Return a field's whole number, or nothing where there is none."""
    return [event[name]] if type(event.get(name)) is int else []


def _hash(run: RunLog) -> str:
    return str(run.final.get("parameters_sha256", "")) if run.final else ""


def _best_known(run: RunLog) -> dict[str, float]:
    """Return the figures of the final event, or else of the last epoch."""
    epochs = run.of("epoch")
    source = run.final or (epochs[-1] if epochs else {})
    return {name: source[name] for name in FIGURES if isinstance(source.get(name), int | float)}


def _png(features: Any, shape: tuple[int, ...]) -> str:
    pixels = picture(features, shape)
    times = max(1, PICTURE_PIXELS // max(pixels.shape[:2]))
    buffer = io.BytesIO()
    enlarged = pixels.repeat(times, axis=0).repeat(times, axis=1)  # browsers that smooth do so at the edges alone
    matplotlib.image.imsave(buffer, enlarged, cmap="gray", vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _show(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _figure(name: str, value: float) -> str:
    return f"{value:.2%}" if name.endswith("accuracy") else f"{value:.6g}" if name.endswith("rmse") else f"{value:.4f}"
