"""Tests of the record of what a survey has found: read back to the last bit, or not at all."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.storage import surveyed
from ddp_mlp.storage.dataset import inspect
from ddp_mlp.storage.survey import NumberSurvey, Survey
from ddp_mlp.storage.surveyed import Record
from tests.oracles import write_data

ODD = np.array([0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308])
NUMBERS = NumberSurvey(np.array([3, 0]), ODD[:2], ODD[2:], np.array([1.0, np.inf]), np.array([2.0, -np.inf]), ODD[:2])
SURVEYS = {
    "train": Survey(3, ODD, ODD, ODD, ODD, np.array([1, 0, 2]), 0.1 + 0.7, "ab12", ODD, None, ("c0", "ff")),
    "valid": Survey(3, ODD, ODD, ODD, ODD, np.zeros(0, np.int64), 3.0, "", ODD, NUMBERS, ("00",)),
}
RECORD = Record({"names": ["X", "y"], "rule": {"missing": False}}, [[1, 2, 3, 2**63, 5]], SURVEYS)


def bits(survey: Any) -> dict[str, Any]:
    """Return a survey's fields, arrays as dtype and bytes."""
    found: dict[str, Any] = {}
    for field in fields(survey):
        value = getattr(survey, field.name)
        if isinstance(value, NumberSurvey):
            value = bits(value)
        found[field.name] = (value.dtype, value.tobytes()) if isinstance(value, np.ndarray) else value
    return found


def test_a_record_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    """Denormal numbers, the sign of zero, infinity and large integers too."""
    path = tmp_path / "data.json"
    surveyed.save(path, RECORD)
    found = surveyed.load(path)
    assert found is not None
    assert found[:2] == RECORD[:2]
    assert {split: bits(survey) for split, survey in found.surveys.items()} == {
        split: bits(survey) for split, survey in SURVEYS.items()
    }


def a_folder(path: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    """Put a pipe in its place, to which nobody writes."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        a_folder,
        a_pipe,
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:-5]),
        lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text(path.read_text().replace('"ab12"', '"ab13"')),
    ],
)
def test_a_spoilt_record_is_none(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    """It is gone, no file, torn, damaged, or altered."""
    path = tmp_path / "data.json"
    surveyed.save(path, RECORD)
    spoil(path)
    assert surveyed.load(path) is None


def test_another_format_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by a version that may have meant something else."""
    path = tmp_path / "data.json"
    with monkeypatch.context() as patch:
        patch.setattr(surveyed, "FORMAT", surveyed.FORMAT + 1)
        surveyed.save(path, RECORD)
    assert surveyed.load(path) is None


def test_the_identity_shows_every_change(tmp_path: Path) -> None:
    """A copy, a byte more, another time; and a file is named once, though it has several splits."""
    path = tmp_path / "data.h5"
    write_data(path, {"train": 20, "valid": 5})
    info = inspect(path)
    before = surveyed.identities(info)
    assert len(before) == 1
    assert surveyed.identities(info) == before
    os.utime(path, ns=(0, before[0][3]))  # the time of change of its content is as it was
    assert surveyed.identities(info) != before
    content = path.read_bytes()
    path.unlink()
    assert surveyed.identities(info) == []
    path.write_bytes(content)
    assert surveyed.identities(info) not in ([], before)
