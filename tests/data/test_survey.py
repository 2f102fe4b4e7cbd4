"""Tests of what a resume looks at: a sample where nothing tells of a change, every row where anything does."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.data import survey as surveys
from ddp_mlp.errors import DataError
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage import survey as blocks
from ddp_mlp.storage import surveyed
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import survey_block
from ddp_mlp.training import loop
from tests.conftest import Program
from tests.oracles import write_data

KEYS: dict[str, Any] = {"hidden": (5,), "batch_size": 50, "quiet": True, "log_every": 0}


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a block be ten rows."""
    monkeypatch.setattr(blocks, "SURVEY_BLOCK_ROWS", 10)


def train(folder: Path, epochs: int, **keys: Any) -> tuple[str, str]:
    """Train on data.h5 of the folder, or go on; return how its rows were checked, and the hash of the parameters."""
    if not (folder / "data.h5").exists():
        write_data(folder / "data.h5", {"train": 200, "valid": 40}, features=7)
    config = Config(
        **{**KEYS, "data": str(folder / "data.h5"), "run_dir": str(folder / "run"), "epochs": epochs, **keys}
    )
    final = loop.train(config, SingleProcess())
    events = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [event["data"]["check"] for event in events if event["event"] == "start"][-1], final["parameters_sha256"]


def test_a_resume_reads_a_sample(tmp_path: Path, many_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four blocks of ten rows of each split, and its bits are those of a run that was never stopped."""
    assert train(tmp_path, 1)[0] == "every row"
    read: list[tuple[str, int, int]] = []

    def noted(reader: Reader, lo: int, hi: int, *rest: Any) -> blocks.BlockSurvey:
        read.append((reader.split, lo, hi))
        return survey_block(reader, lo, hi, *rest)

    monkeypatch.setattr(surveys, "survey_block", noted)
    check, resumed = train(tmp_path, 2)
    assert check == "sample"
    assert [split for split, _, _ in read] == ["train"] * 4 + ["valid"] * 4
    assert (read[0], read[3]) == (("train", 0, 10), ("train", 190, 200))
    monkeypatch.undo()
    (tmp_path / "run").rename(tmp_path / "stopped")
    assert train(tmp_path, 2) == ("every row", resumed)


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda folder: None, {"check": "full"}),
        (lambda folder: os.utime(folder / "data.h5"), {}),
        (lambda folder: (folder / "data.h5").chmod(0o600), {}),
        (lambda folder: (folder / "run" / "data.json").unlink(), {}),
        (lambda folder: (folder / "run" / "data.json").write_text("?"), {}),
    ],
)
def test_a_resume_reads_every_row(tmp_path: Path, change: Any, keys: dict[str, Any]) -> None:
    """Where that is asked for, where anything tells of a change, and without a record; the next one has it again."""
    train(tmp_path, 1)
    change(tmp_path)
    assert train(tmp_path, 2, **keys)[0] == "every row"
    assert train(tmp_path, 3)[0] == "sample"


@pytest.mark.parametrize("row", [3, 195])
def test_a_change_that_nothing_tells_of_is_found_in_the_sample(
    tmp_path: Path, many_blocks: None, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    """A file system that keeps no times: then every row is read, and the data are refused as those of another run."""
    monkeypatch.setattr(surveyed, "identities", lambda info: [[1, 2, 3, 4, 5]])
    train(tmp_path, 1)
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file["train/X"][row, 0] += 1
    with pytest.raises(DataError, match=r"its train is not what the run of .* has been trained with"):
        train(tmp_path, 2)


def test_another_reading_of_the_same_file_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is of how rows were read, too, and of the version that read them."""
    train(tmp_path, 1)
    record = surveyed.load(tmp_path / "run" / "data.json")
    assert record is not None
    config = Config(**KEYS, run_dir=str(tmp_path / "run"))
    assert surveys._recalled(config, record.reading, record.files) is not None
    for name, value in record.reading.items():
        other = {**record.reading, name: [value]}
        assert surveys._recalled(config, other, record.files) is None
    assert surveys._recalled(config, record.reading, [[*record.files[0][:-1], 0]]) is None
    assert surveys._recalled(config, record.reading, []) is None


def test_the_sample_has_the_first_and_the_last_block() -> None:
    """And others between, drawn anew each time; no more than there are."""
    assert [surveys._sample(count) for count in (1, 2, 3, 4)] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    drawn = [surveys._sample(1000) for _ in range(20)]
    assert all(len(set(found)) == 4 and (found[0], found[-1]) == (0, 999) for found in drawn)
    assert len({found[1] for found in drawn}) > 5


def test_ranks_share_the_sample(tmp_path: Path, mpirun: Program) -> None:
    """Three ranks go on where one began, and say so; the same bits."""
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["train/X"] = random.standard_normal((30_000, 3)).astype(np.float32)
        file["train/y"] = random.integers(0, 3, 30_000)
    flags = ["--data", tmp_path / "data.h5", "--hidden", "[]", "--batch_size", "2000", "--shards", "8", "--quiet"]
    hashes = []
    for name, epochs in (("a", (1, 2)), ("b", (2,))):
        for P, until in zip((1, 3), epochs, strict=False):
            done = mpirun(
                P, "-m", "ddp_mlp.train", *flags, "--epochs", str(until), "--run_dir", tmp_path / name, timeout=60
            )
            assert done.returncode == 0, done.stderr
        hashes.append(done.stdout.split()[-1])
        events = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        checks = [event["data"]["check"] for event in events if event["event"] == "start"]
        assert checks[-1] == ("sample" if len(epochs) == 2 else "every row")
    assert hashes[0] == hashes[1]
