"""What a survey of the data has found, kept in a run's folder, so that a resume need not read every row again.

Invariants:
- a record is of the very files that were read: device, inode, size, times of change of each, as they were before;
- what cannot be read, is not whole, or says another version or another reading of the files is no record.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddp_mlp.errors import DataError
from ddp_mlp.storage.atomic import write_atomically
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.regular import open_regular
from ddp_mlp.storage.survey import NumberSurvey, Survey

SURVEY = "data.json"
"""The record's name in a run's folder."""
FORMAT = 1
LARGEST = 1 << 30
"""Bytes of a record: a million features take a tenth of it."""
COUNTS = ("class_counts", "count")
"""Arrays of whole numbers; the others are float64."""


class Record(NamedTuple):
    """What was found, in which files, and how they were read."""

    reading: dict[str, Any]
    """What decides what a file's rows are taken for, as JSON holds it."""
    files: list[list[int]]
    """The identity of each file."""
    surveys: dict[str, Survey]
    """Of each split."""


def identities(info: DatasetInfo) -> list[list[int]]:
    """Return device, inode, size in bytes, and times of change (content, then status; ns) of each file. Local.

    Empty where one of them cannot be asked.
    """
    paths = dict.fromkeys(part.path for structure in info.splits.values() for part in structure.parts)
    with suppress(OSError):
        found = [os.stat(path) for path in paths]
        return [[one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns] for one in found]
    return []


def save(path: Path, record: Record) -> None:
    """Keep a record. Raises StorageError."""
    surveys = {split: _plain(survey) for split, survey in record.surveys.items()}
    content = json.dumps([FORMAT, record.reading, record.files, surveys])
    write_atomically(path, f"{_digest(content)} {content}\n".encode())


def load(path: Path) -> Record | None:
    """Return the record that a file holds, or None."""
    with suppress(OSError, DataError, ValueError, TypeError, KeyError, RecursionError):
        with open_regular(path) as file:
            digest, _, content = file.read(LARGEST).decode().rstrip("\n").partition(" ")
        if digest != _digest(content):
            return None
        version, reading, files, surveys = json.loads(content)
        if version == FORMAT:
            return Record(reading, files, {split: _survey(values) for split, values in surveys.items()})
    return None


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _plain(survey: Survey | NumberSurvey) -> dict[str, Any]:
    """Return a survey's fields as JSON holds them; Python writes floats so that they are read back to the last bit."""
    values: dict[str, Any] = {}
    for field in fields(survey):
        value = getattr(survey, field.name)
        if isinstance(value, NumberSurvey):
            value = _plain(value)
        elif isinstance(value, np.ndarray):
            value = value.tolist()
        values[field.name] = value
    return values


def _survey(values: dict[str, Any]) -> Survey:
    numbers = values["numbers"]
    arrays = _arrays(values) | {"blocks": tuple(values["blocks"])}
    return Survey(**{**values, **arrays, "numbers": None if numbers is None else NumberSurvey(**_arrays(numbers))})


def _arrays(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: np.array(value, np.int64 if name in COUNTS else np.float64)
        for name, value in values.items()
        if isinstance(value, list) and name != "blocks"
    }
