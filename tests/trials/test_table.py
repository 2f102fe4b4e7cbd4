"""trials.jsonl: the last line of a trial holds, a torn end is not read, and what may differ is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.trials import table
from ddp_mlp.trials.table import Row, Table


def row(trial: int, score: float | None = None) -> Row:
    """Return a trial's line."""
    fold = {"score": score, "failed": None, "epochs": 3, "seconds": 1.5 * trial, "host": "here"}
    rung: Row = {"epochs": 3, "score": score, "folds": [fold]}
    if score is None:
        rung = {"epochs": None, "score": None, "folds": [None]}
    return {"trial": trial, "settings": {"seed": trial}, "state": "open", "score": score, "rungs": [rung]}


def test_the_last_line_of_a_trial_holds(tmp_path: Path) -> None:
    """In whatever order trainings end; `compact` leaves one line each, by number."""
    path = tmp_path / table.TABLE
    found = Table(path)
    for line in (row(2), row(0), row(2, 0.5), row(1), row(0, 0.25)):
        found.append(line)
    assert list(table.read(path)) == [0, 1, 2]
    assert [r["score"] for r in table.read(path).values()] == [0.25, None, 0.5]
    found.compact(table.read(path).values())
    assert path.read_bytes().count(b"\n") == 3
    found.append(row(1, 0.75))
    found.close()
    assert [r["score"] for r in table.read(path).values()] == [0.25, 0.75, 0.5]


def test_a_torn_end_is_not_read(tmp_path: Path) -> None:
    """At every length of the file, all whole lines are there and nothing else."""
    path = tmp_path / table.TABLE
    found = Table(path)
    for trial in range(3):
        found.append(row(trial))
    found.close()
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert list(table.read(path)) == list(range(whole[:length].count(b"\n")))


DAMAGED: list[dict[str, Any]] = [
    {"trial": "1"},
    {"trial": True},
    {"state": "begun"},
    {"score": "0.5"},
    {"score": float("nan")},
    {"rungs": [1]},
    {"rungs": [{}]},
    {"rungs": [{"epochs": 3, "score": 0.5, "folds": 1}]},
    {"rungs": [{"epochs": 3, "score": 0.5, "folds": [1]}]},
    {"rungs": [{"epochs": 3, "score": 0.5, "folds": [{"score": 0.5}]}]},
    {"rungs": [{"epochs": None, "score": 0.5, "folds": [None]}]},
    {"rungs": [row(1, 0.5)["rungs"][0] | {"epochs": None}]},
    {"rungs": [{"epochs": 3, "score": None, "folds": [{"score": None, "epochs": 3, "seconds": 1}]}]},
]
"""What a whole line must not say."""


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b'{"trial": 1}',
        b"nonsense",
        b'{"trial": 1, "settings": 3, "state": "open", "score": null, "rungs": []}',
        *(json.dumps(row(1, 0.5) | change).encode() for change in DAMAGED),
    ],
)
def test_a_foreign_line_is_named(tmp_path: Path, line: bytes) -> None:
    """In the middle of the file: at its end, it may be what a crash has left."""
    path = tmp_path / table.TABLE
    good = table._line(row(0))
    path.write_bytes(good + line + b"\n" + good)
    with pytest.raises(DataError, match=r"line 2 is not a trial of a search"):
        table.read(path)
    path.write_bytes(good + line + b"\n")
    assert list(table.read(path)) == [0]


def test_no_file_is_no_trials_and_a_folder_is_an_error(tmp_path: Path) -> None:
    """Reading and writing."""
    assert table.read(tmp_path / "none") == {}
    with pytest.raises(StorageError, match="cannot be read"):
        table.read(tmp_path)
    with pytest.raises(StorageError, match="cannot be written"):
        Table(tmp_path)


def test_a_full_disk_is_an_error() -> None:
    """/dev/full takes nothing."""
    with pytest.raises(StorageError, match="free some space"):
        Table(Path("/dev/full")).append(row(0))


def test_seconds_and_hosts_may_differ() -> None:
    """And nothing else."""
    other = row(3, 0.5)
    other["rungs"][0]["folds"][0] |= {"seconds": 9.0, "host": "there"}
    assert other != row(3, 0.5)
    assert table.lasting(other) == table.lasting(row(3, 0.5))
    assert table.lasting(row(3, 0.5)) != table.lasting(row(3, 0.25))
