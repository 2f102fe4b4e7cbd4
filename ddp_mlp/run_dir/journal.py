"""What a run says to programs: metrics.jsonl, one event after the other. For rank 0 alone.

A line is one JSON object in ASCII, written with one call, whole or not at all. The journal's end goes into each
checkpoint, so that a resumed run cuts the journal back to the step it restores and goes on from there. What was cut of
the run's history, when it was started and what ended it, stays.
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddp_mlp.errors import StorageError
from ddp_mlp.run_dir.lock import is_still_at

JOURNAL = "metrics.jsonl"
"""The journal's name in a run's folder."""

HISTORY = ("start", "interrupted", "failed", "final")
"""The events that stay when a resume cuts a journal back."""

Event = dict[str, Any]


class Journal:
    """RUN_DIR/metrics.jsonl, to which events are appended."""

    def __init__(self, path: Path, keep_bytes: int = 0, keep_history: bool = True) -> None:
        """Open the file, cut back to the whole lines in its first keep_bytes bytes. Raises StorageError.

        With `keep_history` the lines behind them stay that say how the run was started and how it ended.
        """
        self._path = path
        self.lost = 0
        """Lines that could not be written."""
        try:
            self._file = _open(path)
            self.bytes = _end_of_last_line(self._file, min(keep_bytes, os.fstat(self._file).st_size))
            """The journal's length so far."""
            self.cut_step, history = _history(self._file, self.bytes)
            """The step of the last event that was cut off; 0 where none was."""
            os.ftruncate(self._file, self.bytes)
            if keep_history and history:
                self.bytes += os.write(self._file, history)
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, event: Event) -> None:
        """Append an event as a line. Raises StorageError, with nothing of the line left in the file.

        Where the file was deleted or replaced, all its lines are written anew, and this is raised after that.
        """
        line = json.dumps(_finite(event), allow_nan=False).encode() + b"\n"
        try:
            is_there = is_still_at(self._path, self._file)
            if not is_there:
                self._begin_anew()
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.lost += 1
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.bytes)
            raise self._refusal(error, "; free some space and resume") from error
        self.bytes += len(line)
        if not is_there:
            raise StorageError(f"{self._path}: was deleted or replaced during the run, and has been written anew")

    def sync(self) -> None:
        """Bring what is written to the disk: a checkpoint counts on it. From any thread. Raises StorageError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._refusal(error) from error

    def hash_of_best(self, epoch: int) -> str | None:
        """Return the hash that an epoch's event names for its parameters; None where it names none."""
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            for line in file:
                if b'"parameters_sha256"' in line:
                    event = json.loads(line)
                    if event.get("event") == "epoch" and event.get("epoch") == epoch:
                        return str(event["parameters_sha256"])
        return None

    def close(self) -> None:
        """Close the file. Raises StorageError where what was written may be lost; it is closed all the same."""
        try:
            os.close(self._file)
        except OSError as error:
            raise self._refusal(error) from error

    def _begin_anew(self) -> None:
        """Write what the open file holds, which has no name any more, to a new one in its place. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        new = _open(self._path)
        position = 0
        while piece := os.pread(self._file, 1 << 20, position):
            position += os.write(new, piece)
        os.dup2(new, self._file, inheritable=False)  # `sync` may be using the descriptor
        os.close(new)

    def _refusal(self, error: OSError, remedy: str = "") -> StorageError:
        reason = "it is a symbolic link: remove it" if error.errno == errno.ELOOP else error.strerror
        return StorageError(f"{self._path}: cannot be written: {reason}{remedy}")


def _open(path: Path) -> int:
    """Open the file so that all is written at its end: where a line is cut off, the next one leaves no hole."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _end_of_last_line(file: int, end: int) -> int:
    """Return where the last whole line in the first `end` bytes ends: a crash of the machine may have torn one."""
    while end:
        start = max(0, end - 65536)
        if newline := os.pread(file, end - start, start).rfind(b"\n") + 1:
            return start + newline
        end = start
    return 0


def _history(file: int, position: int) -> tuple[int, bytes]:
    """Return the step of the last whole event from `position` on, and the lines of a run's starts and ends there."""
    step, kept = 0, []
    with open(file, "rb", closefd=False) as rest:
        rest.seek(position)
        for line in rest:
            try:
                event = json.loads(line)
                step, kind = int(event["step"]), event["event"]
            except (ValueError, TypeError, KeyError, RecursionError):
                break  # torn, or a stranger's
            if kind in HISTORY and line.endswith(b"\n"):
                kept.append(line)
    return step, b"".join(kept)


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
