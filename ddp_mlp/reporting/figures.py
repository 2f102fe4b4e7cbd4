"""A run's result in figures: cards of one run, a table of several, their spread over seeds."""

import statistics
from collections.abc import Sequence
from typing import Any

from ddp_mlp.reporting.markup import Raw, escaped, paragraph, table
from ddp_mlp.reporting.runs import RunLog, seeds
from ddp_mlp.run_dir.narrator import HASH_DIGITS, number
from ddp_mlp.units import counted

FIGURES = ("accuracy", "r2", "rmse", "loss", "macro_f1", "roc_auc", "deviance", "coverage_error")
"""What is told of an evaluation, where it is there, the most telling first."""
NAMES = {"r2": "R²", "rmse": "RMSE", "macro_f1": "macro F1", "roc_auc": "ROC AUC", "coverage_error": "coverage error"}
SPLITS = {"test": "test", "valid": "validation"}
RUNS = 6
"""Colours that the style has for runs."""


def known(run: RunLog) -> dict[str, float]:
    """Return the figures of the final event, or else of the last epoch, by split and name."""
    epochs = run.of("epoch")
    source = run.final or (epochs[-1] if epochs else {})
    names = [f"{split}_{figure}" for split in SPLITS for figure in FIGURES]
    return {name: source[name] for name in names if isinstance(source.get(name), int | float)}


def figure(name: str, value: float) -> str:
    """Return a figure as it is read: shares in percent."""
    return f"{value:.2%}" if name.endswith(("accuracy", "coverage_error")) else number(value)


def named(name: str) -> str:
    """Return the name of a figure in words, such as "test accuracy"."""
    split, _, rest = name.partition("_")
    return f"{SPLITS[split]} {NAMES.get(rest, rest.replace('_', ' '))}"


def cards(run: RunLog) -> str:
    """Return the cards of a run: its result first, then what it took."""
    start, last = run.start, run.events[-1]
    found = _scores(run)
    rows = start["data"]["rows"]
    labels = run.config.get("loss") == "binary_cross_entropy"
    kind = "class" if "classes" in start["data"] else "label" if labels else "target"
    of = start["data"].get("classes") or len(start["data"].get("targets") or [0])
    features = start["data"].get("features")
    found.append(
        (f"{rows.get('train', 0):,} rows", "to train on", f"{counted(features or 0, 'feature')}, {counted(of, kind)}")
    )
    if run.best_epoch is not None:
        found.append((f"epoch {run.best_epoch}", "was the best", f"of {last['epoch']}, by {_monitored(run)}"))
    else:
        found.append(
            (f"{last['epoch']} epochs", "so far" if run.final is None else "in all", f"{last['step']:,} steps")
        )
    ranks = f"{start['ranks']} rank{'s' if start['ranks'] > 1 else ''}"
    nodes = f" on {start['nodes']} nodes" if start["nodes"] > 1 else ""
    found.append((duration_in_words(last["seconds"]), f"of training on {ranks}{nodes}", _pace(run)))
    widths = "-".join(map(str, [features, *run.config["hidden"], start.get("outputs", of)]))
    found.append((f"{start['parameters']:,}", "parameters", widths))
    listed = "".join(
        f"<li{' class=first' if i == 0 else ''}><b>{escaped(value)}</b> <span>{escaped(what)}</span>"
        + (f" <small>{escaped(more)}</small>" if more else "")
        + "</li>"
        for i, (value, what, more) in enumerate(found)
    )
    hashed = f"<p>parameters_sha256 <code>{escaped(run.sha256)}</code></p>" if run.sha256 else ""
    return f'<ul class="cards">{listed}</ul>\n{hashed}'


def _scores(run: RunLog) -> list[tuple[str, str, str]]:
    """Return a card for each split that was evaluated: the most telling figure, and below it the next ones."""
    figures, found = known(run), []
    several = len(run.start["data"].get("targets") or ()) > 1
    for split in SPLITS:
        of_split = [name for name in figures if name.startswith(f"{split}_")]
        if of_split:
            first, *more = of_split
            words = [
                f"{named(name).partition(' ')[2]} {figure(name, figures[name])}"
                + (" of a target's scale" if several and name.endswith("rmse") else "")
                for name in more[:2]
            ]
            found.append((figure(first, figures[first]), named(first), ", ".join(words)))
    held_out = any(split in run.start["data"]["rows"] for split in SPLITS)
    return found or [("–", "no figures", "no epoch has ended" if held_out else "nothing held out to evaluate on")]


def _monitored(run: RunLog) -> str:
    monitor = str(run.config.get("monitor") or "valid_loss")
    base, _, target = monitor.partition(":")
    words = named(base) if base.partition("_")[0] in SPLITS else base.replace("_", " ")
    return f"{words} of {target}" if target else words


def _pace(run: RunLog) -> str:
    rates = run.series("epoch", "examples_per_second")[1]
    return f"{statistics.median(rates):,.0f} examples a second" if len(rates) else ""


def duration_in_words(seconds: float) -> str:
    """Return a time in words, to two units at most, such as "3 minutes 5 seconds"."""
    if seconds < 1:
        return f"{seconds:.2g} seconds"
    if seconds < 10:
        return f"{seconds:.1f} seconds"
    left, words = round(seconds), []
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count, left = divmod(left, unit)
        if count:
            words.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " ".join(words[:2])


def results(runs: Sequence[RunLog]) -> str:
    """Return the table of several runs' results."""
    names = [f"{split}_{name}" for split in SPLITS for name in FIGURES[:4]]
    names = [name for name in names if any(name in known(run) for run in runs)]
    rows = []
    for place, run in enumerate(runs):
        figures, last = known(run), run.events[-1]
        swatch = f'<span class="swatch" style="background: var(--run-{place % RUNS})"></span>'
        cells = [figure(name, figures[name]) if name in figures else "–" for name in names]
        took = [
            duration_in_words(last["seconds"]),
            f"{run.start['ranks']}",
            f"{run.sha256[:HASH_DIGITS]}…" if run.sha256 else "",
        ]
        rows.append([Raw(swatch + escaped(run.name)), run.state, *cells, *took])
    head = ["run", "state", *map(named, names), "time", "ranks", "parameters_sha256"]
    return table(head, rows, "Figures of the kept model; of the last epoch where a run has not ended")


def spread(runs: Sequence[RunLog]) -> str:
    """Return the mean and deviation of figures over runs that differ by their seed alone; nothing where none do."""
    groups = seeds(runs)
    if not groups:
        return ""
    names = [name for name in known(groups[0][0]) if name.partition("_")[2] in FIGURES[:4]]
    rows = [
        [", ".join(run.name for run in group), f"{len(group)}", *(_spread_of(group, name) for name in names)]
        for group in groups
    ]
    note = "The deviation is that of a sample, with n − 1."
    return table(["runs", "seeds", *map(named, names)], rows, "Mean ± standard deviation over seeds") + paragraph(
        note, soft=True
    )


def _spread_of(group: Sequence[RunLog], name: str) -> str:
    values: list[Any] = [known(run).get(name) for run in group]
    if any(value is None for value in values):
        return "–"
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    if name.endswith("accuracy"):
        return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    return f"{number(mean)} ± {number(deviation)}"
