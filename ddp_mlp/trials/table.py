"""trials.jsonl, the table of a search: one line per trial, its settings and all that has come of it so far.

- While a search goes on, a line is appended whenever a training has ended: a trial's last line holds. `compact` leaves
  one line per trial, in the order of their numbers; a search that has ended is compact.
- But for "seconds" and "host", no byte depends on ranks, groups, timing or interruptions.
- A line is one JSON object in ASCII, written with one call; an end of the file that a crash has torn is not read.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.storage.atomic import write_atomically

TABLE = "trials.jsonl"
PASSING = ("seconds", "host")
"""What may differ between two runs of the same search."""
COUNTED = ("epochs", "seconds")
"""Numbers that every training has."""

STATES = ("open", "stopped", "finished", "failed")

Row = dict[str, Any]
"""A trial: "trial", "settings", "state", "score", "rungs", "reason" where it failed."""


class Table:
    """The file, open for appending. For rank 0 alone."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises StorageError."""
        self._path = path
        self._file = self._open()

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror}") from error

    def append(self, row: Row) -> None:
        """Add a trial's newest line. Raises StorageError."""
        line = _line(row)
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            reason = f"{error.strerror}; free some space, and let it go on from here"
            raise StorageError(f"{self._path}: cannot be written: {reason}") from error

    def compact(self, rows: Iterable[Row]) -> None:
        """Put one line per trial in the file's place: whole and on the disk, or not at all. Raises StorageError."""
        write(self._path, rows)
        os.close(self._file)
        self._file = self._open()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read(path: Path) -> dict[int, Row]:
    """Return the trials of a table by their numbers, ascending; empty where there is no file.

    Raises DataError for a line that is not a trial's, StorageError.
    """
    try:
        text = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    rows: dict[int, Row] = {}
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if _is_row(row):
            rows[row["trial"]] = row
        elif number < len(lines):  # of a last line that was torn, the rest may have been written on behind
            raise DataError(f"{path}: line {number} is not a trial of a search: remove the line")
    return dict(sorted(rows.items()))


def write(path: Path, rows: Iterable[Row]) -> None:
    """Put one line per trial in the file's place: whole and on the disk, or not at all. Raises StorageError."""
    write_atomically(path, b"".join(map(_line, rows)))


def lasting(value: Any) -> Any:
    """Return a row, or a part of one, without what may differ between two runs of the same search."""
    if isinstance(value, Mapping):
        return {name: lasting(item) for name, item in value.items() if name not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def _is_row(row: Any) -> bool:
    """Tell whether this is a trial, with all that is read of one."""
    return (
        isinstance(row, dict)
        and type(row.get("trial")) is int
        and isinstance(row.get("settings"), dict)
        and row.get("state") in STATES
        and _is_score(row.get("score"))
        and isinstance(row.get("rungs"), list)
        and all(_is_rung(entry) for entry in row["rungs"])
    )


def _is_rung(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("folds"), list):
        return False
    is_complete = all(entry["folds"])
    trained = [fold for fold in entry["folds"] if fold is not None]
    return (
        all(isinstance(fold, dict) and _is_fold(fold) for fold in trained)
        and (entry.get("score") is None or is_complete)
        and _is_score(entry.get("score"))
        and (type(entry.get("epochs")) is int if is_complete else entry.get("epochs") is None)
    )


def _is_fold(fold: Mapping[str, Any]) -> bool:
    """Tell whether this is what came of a training: a score, or why it failed."""
    ended = fold.get("score") is not None or isinstance(fold.get("failed"), str)
    return ended and _is_score(fold.get("score")) and all(type(fold.get(name)) in (int, float) for name in COUNTED)


def _is_score(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"
