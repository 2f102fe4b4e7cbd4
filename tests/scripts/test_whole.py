"""Tests of the timing of whole runs: of epochs after the first, from the journal of a real run."""

from pathlib import Path

import pytest

from scripts.benchmarks import whole


def test_a_step_is_timed_between_the_ends_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With validation rows too; what comes before the first epoch's end is not counted."""
    monkeypatch.setitem(whole.SHAPES, "tiny", (3, (4,), 2, 10))
    whole.write(tmp_path / "data.h5", 60, 3, 2, valid=20)
    timed = whole.run(tmp_path / "data.h5", "tiny", 1, 4, ["--seed", "3"])
    assert 0 < timed.step < 1
    assert timed.start > timed.step
