"""What a run was made of: settings, first those that are not the default, data, software, and its starts."""

from typing import Any

from ddp_mlp import config as configuration
from ddp_mlp.reporting.markup import Raw, escaped, folded, paragraph, table
from ddp_mlp.reporting.runs import RunLog
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.units import counted

ENDS = {"final": "ended", "interrupted": "reason", "failed": "reason"}
"""The events that end a start, with the field that says why."""


def shown(value: Any) -> str:
    """Return a value as a configuration file has it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_of(run: RunLog) -> str:
    """Return the settings that differ from the default, and the rest, data and software folded."""
    defaults = configuration.to_dict(configuration.Config())
    chosen = set(run.chosen)
    names = [name for name in run.config if name != "run_dir"]
    differ = [name for name in names if name in chosen or run.config[name] != defaults.get(name)]
    rest = [name for name in names if name not in differ]
    words = "Not the default; bold: chosen by the user, the others settled by the program."
    command = f"python -m ddp_mlp.train --config {run.folder / 'config.yaml'} --run_dir NEW"
    again = "" if run.folder.is_file() else f"<p>Run it again: <code>{escaped(command)}</code></p>"  # a saved model
    return (
        paragraph(words, soft=True)
        + _listed(run, differ, chosen)
        + again
        + folded(f"{len(rest)} settings as they are by default", _listed(run, rest, set()), on_paper=False)
        + folded("Data and software", table(["", ""], _facts(run)))
    )


def _listed(run: RunLog, names: list[str], chosen: set[str]) -> str:
    lines = "".join(
        f"<li{' class=chosen' if name in chosen else ''}>{escaped(name)} = {escaped(shown(run.config[name]))}</li>"
        for name in names
    )
    return f'<ul class="settings">{lines}</ul>' if lines else paragraph("None.")


def _facts(run: RunLog) -> list[list[Any]]:
    start = run.start
    rows = ", ".join(f"{count:,} {split}" for split, count in start["data"]["rows"].items())
    hashes = [
        [f"SHA-256 of {split}", Raw(f"<code>{escaped(value)}</code>")] for split, value in start["fingerprint"].items()
    ]
    versions = ", ".join(f"{name} {' '.join(str(value).split())}" for name, value in start["versions"].items())
    return [
        ["data", f"{start['data'].get('path')}: {rows}"],
        *hashes,
        [
            "ranks",
            f"P = {start['ranks']} on {counted(start['nodes'], 'node')}, K = {counted(start['shards'], 'shard')}",
        ],
        ["hosts", ", ".join(map(str, start["hosts"]))],
        ["BLAS", start["blas"]],
        ["versions", versions],
    ]


def starts_of(run: RunLog, silent: str = "killed") -> list[list[str]]:
    """Return a row for each start of a run: when, which steps, how it ended, ranks, hosts, from which checkpoint.

    `silent` is what ended a start that tells no end, where another came after it.
    """
    rows = []
    bounds = [i for i, event in enumerate(run.events) if event["event"] == "start"]
    for lo, hi in zip(bounds, [*bounds[1:], len(run.events)], strict=True):
        start, last = run.events[lo], run.events[hi - 1]
        after = run.events[hi] if hi < len(run.events) else None
        ended = "running, or killed" if after is None else silent
        if last["event"] in ENDS:
            ended = str(last.get(ENDS[last["event"]], "ended"))
        reached = last["step"] if after is None else max([last["step"], *_whole_number(after, "cut_step")])
        span = f"{start['step']:,} to {reached:,}"
        hosts = ", ".join(map(str, start["hosts"]))
        rows.append([start.get("time", ""), span, ended, f"{start['ranks']}", hosts, start.get("resumed_from", "")])
    return rows


def _whole_number(event: Event, name: str) -> list[int]:
    """Return a field's whole number, or nothing where there is none."""
    return [event[name]] if type(event.get(name)) is int else []
