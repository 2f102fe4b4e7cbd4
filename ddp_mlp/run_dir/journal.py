"""What a run says: metrics.jsonl for programs; plain lines, or a bar on a terminal, for people. Rank 0 alone.

- A journal line is one JSON object in ASCII, written with one call, whole or not at all. Its end goes into each
  checkpoint, so that a resumed run cuts the journal back to the step it restores and goes on from there.
- People read the same events: `Narrator` puts them into words, for the run's own console and for whoever follows the
  journal from elsewhere.
- The result goes to stdout, all else to stderr, and nothing but printable characters to either.
"""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddp_mlp.errors import StorageError, printable
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.units import byte_size

FILE = "metrics.jsonl"
"""The journal's name in a run's folder."""
DRAW_SECONDS = 0.1
"""The bar is drawn so often."""

Event = dict[str, Any]


class Journal:
    """RUN_DIR/metrics.jsonl, to which events are appended."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Open the file, cut back to the whole lines in its first keep_bytes bytes. Raises StorageError."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.bytes = _end_of_last_line(self._file, min(keep_bytes, os.fstat(self._file).st_size))
            """The journal's length so far."""
            os.ftruncate(self._file, self.bytes)
            os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error

    def write(self, event: Event) -> None:
        """Append an event as a line. Raises StorageError, with nothing of the line left in the file."""
        line = json.dumps(_finite(event), allow_nan=False).encode() + b"\n"
        try:
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, self.bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            reason = f"{error.strerror}; free some space and resume"
            raise StorageError(f"{self._path}: cannot be written: {reason}") from error
        self.bytes += len(line)

    def sync(self) -> None:
        """Bring what is written to the disk: a checkpoint counts on it. From any thread. Raises StorageError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _end_of_last_line(file: int, end: int) -> int:
    """Return where the last whole line in the first `end` bytes ends: a crash of the machine may have torn one."""
    while end:
        start = max(0, end - 65536)
        if newline := os.pread(file, end - start, start).rfind(b"\n") + 1:
            return start + newline
        end = start
    return 0


def make_event(event: str, step: int, epoch: int, seconds: float, **values: Any) -> Event:
    """Return an event with the fields that all have; values that are None are left out."""
    fields = {"event": event, "step": step, "epoch": epoch, "seconds": round(seconds, 3), **values}
    return {name: value for name, value in fields.items() if value is not None}


def parse(text: bytes) -> tuple[list[Event], int]:
    """Return the events in a journal's bytes, and how many bytes they take: a last line without its end is not read.

    Raises ValueError for a line that is not a JSON object with the fields that all events have.
    """
    events = []
    whole = text.rfind(b"\n") + 1
    for number, line in enumerate(text[:whole].splitlines(), start=1):
        try:
            found = json.loads(line)
            events.append({**found, "step": int(found["step"]), "seconds": float(found["seconds"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f"line {number} is not an event of a run") from None
    return events, whole


class Narrator:
    """Tells a run's events, one after the other, as lines for people."""

    def __init__(self) -> None:
        self._start: Event = {}

    def lines(self, event: Event) -> list[str]:
        """Return the lines for an event, none for an unknown kind. Raises KeyError for a field missing."""
        tell = {
            "start": self._tell_start,
            "step": self._tell_step,
            "epoch": self._tell_epoch,
            "interrupted": self._tell_interruption,
            "final": self._tell_end,
        }.get(event["event"])
        return tell(event) if tell else []

    def _tell_start(self, event: Event) -> list[str]:
        self._start = event
        config, data = event["config"], event["data"]
        splits = ", ".join(f"{rows:,} {split}" for split, rows in data["rows"].items())
        widths = "-".join(map(str, [data["features"], *config["hidden"], data["classes"]]))
        resumed = event.get("resumed_from")
        lines = [
            f"data      {data['path']}: {splits}; {data['features']} features, {data['classes']} classes",
            *self._tell_access(event),
            f"network   {widths}, {event['parameters']:,} parameters, {config['dtype']}",
            f"training  {config['optimizer']}, learning rate {config['learning_rate']:g} ({config['schedule']}), "
            f"batch size {config['batch_size']}, {event['steps_per_epoch']:,} steps per epoch, seed {config['seed']}",
            f"ranks     P = {event['ranks']} on {event['nodes']} node(s), K = {event['shards']} shards, "
            f"{config['reduction']} sum; {event['blas']}, {config['threads']} thread(s)",
        ]
        idle = event["ranks"] - event["shards"]
        if idle > 0:
            lines.append(f"          {idle} ranks have no shard and stand idle: more shards would use them")
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

    def _tell_step(self, event: Event) -> list[str]:
        total = self._start["total_steps"]
        figures = [f"{name} {event[name]:.4f}" for name in ("loss", "accuracy")]
        place = f"step {event['step']:>{len(f'{total:,}')},}/{total:,}"
        rate = f"{event['examples_per_second']:,.0f} examples/s"
        return ["  ".join([place, *figures, rate, f"{duration(self._seconds_left(event))} left"])]

    def _tell_epoch(self, event: Event) -> list[str]:
        epochs = self._start["config"]["epochs"]
        names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        figures = [f"{name.replace('_', ' ')} {event[name]:.4f}" for name in names if name in event]
        place = f"epoch {event['epoch']:>{len(str(epochs))}}/{epochs}"
        return ["  ".join([place, *figures, f"{event['examples_per_second']:,.0f} examples/s"])]

    def _tell_interruption(self, event: Event) -> list[str]:
        return [f"stopped   by {event['reason']} after step {event['step']:,}, {duration(event['seconds'])}"]

    def _tell_end(self, event: Event) -> list[str]:
        run_dir = self._start["config"]["run_dir"]
        counts = f"{event['step']:,} steps, {event['epoch']} epochs, {duration(event['seconds'])}"
        lines = [f"ended     by {event['ended']}: {counts}"]
        if "best_epoch" in event:
            lines.append(f"best      epoch {event['best_epoch']}")
        return [*lines, f"kept      {run_dir}/checkpoints/{event['checkpoint']}", f"journal   {run_dir}/{FILE}"]

    def _seconds_left(self, event: Event) -> float:
        """Return the seconds that the steps to come will take, at the pace since the last start."""
        done: int = event["step"] - self._start["step"]
        left: int = self._start["total_steps"] - event["step"]
        passed: float = event["seconds"] - self._start["seconds"]
        return max(0.0, passed / max(1, done) * left)


class Console:
    """Lines for people on stderr, with a bar below them on a terminal, and the result on stdout.

    Silent where `quiet`, but for warnings and the result.
    """

    def __init__(self, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._narrator = Narrator()
        self._clock = clock
        self._bar: Any = None
        self._next_draw = -math.inf
        self._rate = Rate(clock)
        self._saved = ""

    def say(self, line: str) -> None:
        """Print a line about what is going on."""
        if not self._quiet:
            self._print(line)

    def warn(self, line: str) -> None:
        """Print a warning; also where quiet."""
        self._print(f"warning: {line}")

    def event(self, event: Event) -> None:
        """Tell an event: on a terminal the bar takes the place of step events."""
        if event["event"] == "final":
            self._close_bar()
        for line in self._narrator.lines(event) if not self._quiet else []:
            if not (self._live and event["event"] == "step"):
                self._print(line + (self._saved if event["event"] == "step" else ""))
        if event["event"] == "start" and self._live:
            self._open_bar(event)
        if event["event"] == "final":
            self.result(result(event))

    def result(self, line: str) -> None:
        """Print a result, to stdout."""
        print(printable(line), flush=True)

    def step(self, step: int, totals: Totals, examples: int) -> None:
        """Move the bar, if there is one, to a step: `totals` of the epoch so far, `examples` of the step."""
        if not self._live:
            return
        self._rate.count(examples)
        if self._clock() < self._next_draw or self._bar is None:
            return
        self._next_draw = self._clock() + DRAW_SECONDS
        self._bar.n = step
        figures = f"loss {totals.loss_mean:.4f}  accuracy {totals.accuracy:.3f}" if totals.examples else ""
        self._bar.set_description_str(f"{figures}  {self._rate.take():,.0f} examples/s{self._saved}", refresh=False)
        self._bar.refresh()

    def saved(self, step: int) -> None:
        """Remember the step of the last checkpoint, for the lines to come. From any thread."""
        self._saved = f"  saved at {step:,}"

    def close(self) -> None:
        """Take the bar away."""
        self._close_bar()

    def _open_bar(self, start: Event) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            initial=start["step"],
            total=start["total_steps"],
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}  {desc}  {remaining} left",
            leave=False,
            file=sys.stderr,
            dynamic_ncols=True,
            miniters=1,
        )

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, line: str) -> None:
        if self._bar is None:
            print(printable(line), file=sys.stderr, flush=True)
        else:
            self._bar.write(printable(line), file=sys.stderr)


class Rate:
    """Counts examples, and tells how many there were per second since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._examples = 0
        self._since = clock()

    def count(self, examples: int) -> None:
        """Add examples."""
        self._examples += examples

    def take(self) -> float:
        """Return the examples per second since the last call, to a tenth; begin to count anew."""
        now = self._clock()
        rate = self._examples / max(now - self._since, 1e-9)
        self._examples, self._since = 0, now
        return round(rate, 1)


def result(final: Mapping[str, Any]) -> str:
    """Return the line by which people and scripts know a run's result, from its final event."""
    names = ("valid_loss", "valid_accuracy", "test_loss", "test_accuracy")
    figures = [f"{name.replace('_', ' ')} {final[name]:.4f}" for name in names if name in final]
    return ", ".join([*figures, f"{final['seconds']:.1f} s", f"parameters_sha256 {final['parameters_sha256']}"])


def duration(seconds: float) -> str:
    """Return a time as hours:minutes:seconds, such as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def utc_now() -> str:
    """Return the time of day, such as 2026-11-22T13:30:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
