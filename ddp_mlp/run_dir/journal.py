"""What a run says to programs: metrics.jsonl, one event after the other. For rank 0 alone.

A line is one JSON object in ASCII, written with one call, whole or not at all. The journal's end goes into each
checkpoint, so that a resumed run cuts the journal back to the step it restores and goes on from there.
"""

import errno
import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddp_mlp.errors import StorageError

FILE = "metrics.jsonl"
"""The journal's name in a run's folder."""

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
