"""What a run says to people: the journal's events in words, for its own console and for whoever follows elsewhere.

Invariants:
- a line has at most COLUMNS characters, but for one long word such as a path;
- of many epochs, some are told: the first, the last, round numbers between, and one after each half minute.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ddp_mlp.errors import printable
from ddp_mlp.parallel.terminal import COLUMNS
from ddp_mlp.run_dir.journal import JOURNAL, Event
from ddp_mlp.summing.tree import automatic_shards
from ddp_mlp.units import byte_size, counted

EPOCHS_TOLD = 40
"""Epochs told at most, where they are fast."""
SILENT_SECONDS = 30.0
"""An epoch that ends this long after the last one told is told too."""
HASH_DIGITS = 16
"""Digits of a hash on the screen, where whole ones would fill a line; the journal has it whole."""
SHOWN = ("loss", "accuracy", "rmse", "r2")
"""What is told of an evaluation; the journal has all of it."""


class Narrator:
    """Tells a run's events, one after the other, as lines for people."""

    def __init__(self) -> None:
        self._start: Event = {}
        self._told_seconds = 0.0
        self._is_crowded = False
        """Whether ranks share cores, and what that costs has not been told."""

    def lines(self, event: Event, saved: int | None = None) -> list[str]:
        """Return the lines for an event, none for an unknown kind. Raises KeyError for a field missing.

        `saved`: the step of the last checkpoint, where that is known.
        """
        tell = {
            "start": self._tell_start,
            "step": lambda event: [self._step_line(event, saved)],
            "epoch": self._tell_epoch,
            "interrupted": self._tell_interruption,
            "final": self._tell_end,
        }.get(event["event"])
        return [line for told in (tell(event) if tell else []) for line in wrapped(told)]

    def _tell_start(self, event: Event) -> list[str]:
        self._start, self._told_seconds = event, event["seconds"]
        config, data = event["config"], event["data"]
        splits = ", ".join(f"{rows:,} {split}" for split, rows in data["rows"].items())
        widths = "-".join(map(str, [data["features"], *config["hidden"], event.get("outputs", data.get("classes"))]))
        resumed = event.get("resumed_from")
        lines = [
            f"data      {data['path']}: {splits}; {counted(data['features'], 'feature')}, {_of_targets(data)}",
            *(f"          {note}" for note in data.get("notes", ())),
            *self._tell_access(event),
            f"network   {widths}, {event['parameters']:,} parameters, {config['dtype']}",
            f"training  {config['optimizer']}, learning rate {config['learning_rate']:g} ({config['schedule']}), "
            f"batch size {config['batch_size']}, {counted(event['steps_per_epoch'], 'step')} per epoch, "
            f"seed {config['seed']}",
            f"ranks     P = {event['ranks']} on {counted(event['nodes'], 'node')}, {_sum(event)}; {event['blas']}, "
            f"{counted(config['threads'], 'thread')}",
        ]
        idle = event["ranks"] - event["shards"]
        if idle > 0:
            them = "it" if idle == 1 else "them"
            more = "more shards" if _is_native(config) else "larger batches"
            lines.append(f"          {counted(idle, 'rank')} without a shard, idle: {more} would use {them}")
        if crowd := event.get("crowded"):
            lines.append(f"          {_of_crowd(crowd, event)}")
        self._is_crowded = bool(crowd)
        return [*lines, f"run       {config['run_dir']}" + (f", resumed from {resumed}" if resumed else "")]

    def _tell_access(self, event: Event) -> list[str]:
        """Say how the rows are got at, where they come from a file: and by what figures `auto` chose."""
        access = event["data"].get("access")
        if access is None:
            return []
        kinds = {"memory": "in memory, one copy per node", "stream": "streamed from the file, read ahead"}
        figures = f"{byte_size(access['node_bytes'])} a node, which has {byte_size(access['free_bytes'])} free"
        asked = " (auto)" if event["config"]["access"] == "auto" else ""
        return [f"access    {access['kind']}{asked}: {kinds[access['kind']]}, {figures}"]

    def _step_line(self, event: Event, saved: int | None) -> str:
        total = self._start["total_steps"]
        figures = [f"{name} {number(event[name])}" for name in ("loss", "accuracy") if name in event]
        place = f"step {event['step']:>{len(f'{total:,}')},}/{total:,}"
        rate = f"{event['examples_per_second']:,.0f} examples/s"
        kept = [] if saved is None else [f"saved at {saved:,}"]
        return fit_line([place, *figures, f"{duration(self._seconds_left(event))} left", rate, *kept])

    def _tell_epoch(self, event: Event) -> list[str]:
        epoch, epochs = event["epoch"], self._start["config"]["epochs"]
        late = event["seconds"] - self._told_seconds >= SILENT_SECONDS
        if not (late or epoch in (1, epochs) or epoch % epochs_between(epochs) == 0):
            return []
        self._told_seconds = event["seconds"]
        place = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
        line = fit_line([place, *epoch_figures(event), f"{event['examples_per_second']:,.0f} examples/s"])
        return [line, *self._tell_crowding(event)]

    def _tell_crowding(self, event: Event) -> list[str]:
        """Say once a start what it costs that ranks share cores, as it was measured."""
        if not (self._is_crowded and "crowded_times" in event):
            return []
        self._is_crowded = False
        times = f"{event['crowded_times']:.3g}"
        return [f"cores     shared: a step took {times} times the processor time of its busiest rank"]

    def _tell_interruption(self, event: Event) -> list[str]:
        return [f"stopped   by {event['reason']} after step {event['step']:,}, {duration(event['seconds'])}"]

    def _tell_end(self, event: Event) -> list[str]:
        run_dir = self._start["config"]["run_dir"]
        counts = f"{counted(event['step'], 'step')}, {counted(event['epoch'], 'epoch')}, {duration(event['seconds'])}"
        lines = [f"ended     by {event['ended']}: {counts}"]
        if "best_epoch" in event:
            lines.append(f"best      epoch {event['best_epoch']}")
        return [*lines, f"kept      {run_dir}/checkpoints/{event['checkpoint']}", f"journal   {run_dir}/{JOURNAL}"]

    def _seconds_left(self, event: Event) -> float:
        """Return the seconds that the steps to come will take, at the pace since the last start."""
        done: int = event["step"] - self._start["step"]
        left: int = self._start["total_steps"] - event["step"]
        passed: float = event["seconds"] - self._start["seconds"]
        return max(0.0, passed / max(1, done) * left)


def fit_line(parts: Sequence[str], columns: int = COLUMNS) -> str:
    """Return a line of the parts, the first of which matter most: those that do not fit are left out."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > columns:
            break
        line += f"  {part}"
    return line


def epochs_between(epochs: int, most: int = EPOCHS_TOLD) -> int:
    """Return the round number, 1, 2 or 5 times a power of ten, that divides this many epochs into `most` at most."""
    round_numbers: Iterator[int] = (digit * 10**power for power in range(20) for digit in (1, 2, 5))
    return next(number for number in round_numbers if epochs <= most * number)


def wrapped(line: str) -> list[str]:
    """Return a line made printable, as several where it is long; those that go on are indented under its words."""
    return textwrap.wrap(
        printable(line), COLUMNS, subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False
    )


def _is_native(config: Mapping[str, Any]) -> bool:
    """Return whether a run's arithmetic is the processor's; version 0.1 had no other."""
    return bool(config.get("arithmetic", "native") == "native")


def _sum(event: Event) -> str:
    """Say how a run's gradients are summed."""
    config = event["config"]
    return (
        f"K = {counted(event['shards'], 'shard')}, {config['reduction']} sum"
        if _is_native(config)
        else "portable arithmetic: no shards, the same bits on any machine"
    )


def _of_crowd(crowd: Mapping[str, Any], event: Event) -> str:
    """Say that ranks share cores, and what to do; what it costs is measured, and told after the first epoch."""
    ranks, threads, cores = crowd["ranks"], crowd["threads"], crowd["cores"]
    each = "" if threads == ranks else f" with {threads // ranks} threads each"
    fewer = "fewer ranks"
    if _is_native(event["config"]):
        exact, K = event["config"]["reduction"] == "exact", event["shards"]
        fewer += f" and --shards {K}" if exact and automatic_shards(1) != K else ""
    else:
        exact = True
    return (
        f"{ranks} ranks{each} share {cores:.3g} core{'' if cores == 1 else 's'} of {crowd['host']}: {fewer} end "
        f"{'with the same bits, ' if exact else ''}mostly sooner"
    )


def epoch_figures(event: Event) -> list[str]:
    """Return the losses and accuracies of an epoch event in words: of train, and of valid behind them."""
    found = []
    for figure in SHOWN:
        told = [f"{_words(figure)} {number(event[f'train_{figure}'])}"] if f"train_{figure}" in event else []
        if f"valid_{figure}" in event:
            told.append(f"valid {'' if told else _words(figure) + ' '}{number(event[f'valid_{figure}'])}")
        found += [", ".join(told)] if told else []
    return found


def result(final: Mapping[str, Any]) -> str:
    """Return the line by which scripts know a run's result, from its final event."""
    return ", ".join([*_result_figures(final), f"parameters_sha256 {final['parameters_sha256']}"])


def result_on_screen(final: Mapping[str, Any], columns: int = COLUMNS) -> list[str]:
    """Return a run's result for people: of the hash its first digits, in lines that fit the screen."""
    return listed([*_result_figures(final), short_hash(final["parameters_sha256"])], columns)


def short_hash(sha256: str) -> str:
    """Return a hash of parameters as a screen has it."""
    return f"parameters_sha256 {sha256[:HASH_DIGITS]}…"


def listed(parts: Sequence[str], columns: int) -> list[str]:
    """Return parts one after the other with commas, in as many lines as they need."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(", ,") + len(part) > columns:
            lines[-1] += ","
            lines.append("")
        lines[-1] += f", {part}" if lines[-1] else part
    return lines


def _result_figures(final: Mapping[str, Any]) -> list[str]:
    names = [f"{split}_{figure}" for split in ("valid", "test") for figure in SHOWN]
    figures = [f"{_words(name)} {number(final[name])}" for name in names if name in final]
    return [*figures, f"{final['seconds']:.1f} s"]


def number(value: float | str) -> str:
    """Return a figure to four places, or to four digits where it is tiny or huge; the journal has "nan" as text."""
    found = float(value)
    return f"{found:.4f}" if found == 0 or 1e-3 <= abs(found) < 1e5 else f"{found:.4g}"


def _words(name: str) -> str:
    """Return the name of a figure as it is told, such as "valid RMSE"."""
    return " ".join({"rmse": "RMSE", "r2": "R²"}.get(word, word) for word in name.split("_"))


def _of_targets(data: Mapping[str, Any]) -> str:
    if "classes" in data:
        return counted(data["classes"], "class")
    names = data["targets"]
    return (
        f"{len(names)} target{'s' if len(names) > 1 else ''}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
    )


def duration(seconds: float) -> str:
    """Return a time as hours:minutes:seconds, such as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
