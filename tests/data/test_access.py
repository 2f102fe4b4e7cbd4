"""Tests of how rows are got at: what fits, what `auto` picks, and what is refused before memory is taken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.data import access
from ddp_mlp.data.access import choose_access, memory_bytes, stream_bytes
from ddp_mlp.data.memory import load_split
from ddp_mlp.data.stream import StreamSource
from ddp_mlp.errors import ConfigError
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import DatasetInfo, SplitInfo, inspect
from tests.conftest import Program

PLAIN = Standardization(np.zeros(64), np.ones(64))
F32 = np.dtype(np.float32)


def described(rows: int, features: int = 100) -> DatasetInfo:
    """Return the structure of a file of float32 rows that nobody has."""
    return DatasetInfo("data.h5", features, None, {"train": SplitInfo(rows, "float32", False)}, "X", "y", (0, 0))


def chosen(info: DatasetInfo, **keys: Any) -> str:
    """Return the kind of access that is chosen on one process."""
    return choose_access(Config(**{"shuffle": "blocks", **keys}), info, SingleProcess()).kind


def test_auto_holds_in_memory_what_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 70 % of what the node has free goes to memory, more is streamed: 416 bytes a row of 100 features."""
    monkeypatch.setattr(access, "free_memory", lambda shared: 10**9)
    assert chosen(described(700_000_000 // 416)) == "memory"
    assert chosen(described(700_000_000 // 416 + 1)) == "stream"


@pytest.mark.parametrize("asked", ["memory", "stream"])
def test_what_is_asked_for_is_done_where_it_fits(asked: str) -> None:
    """Small data may be held or streamed."""
    assert chosen(described(1000), access=asked) == asked


@pytest.mark.parametrize(
    ("rows", "keys", "words"),
    [
        (
            10_000_000,
            {"access": "memory"},
            "access = memory: the data take 3.9 GiB, but a node has 953.7 MiB free: set acc",
        ),
        (1000, {"access": "stream", "shuffle": "rows"}, "access = stream: shuffle = rows .* set shuffle = blocks"),
        (10_000_000, {"shuffle": "rows"}, "access = auto is stream here, as the data take 3.9 GiB .* shuffle = blocks"),
        (1000, {"access": "stream", "batch_size": "full"}, "batch_size = full needs all rows in memory"),
        (10_000_000, {"block_rows": 100_000}, "block_rows = 100000: .* 1.2 GiB, but .* lower block_rows"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(
    rows: int, keys: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, known to all ranks, before anything is allocated."""
    monkeypatch.setattr(access, "free_memory", lambda shared: 10**9)
    with pytest.raises(ConfigError, match=words) as raised:
        chosen(described(rows), **keys)
    assert raised.value.found_by == 0


def test_bytes_are_those_of_the_arrays(digits: Path) -> None:
    """What is announced is what X, y and the order take in memory, and what the ring takes in a stream."""
    info = inspect(digits)
    held = [load_split(info, split, SingleProcess(), F32, PLAIN) for split in info.splits]
    order = 8 * info.splits["train"].rows
    assert memory_bytes(Config(), info) == sum(source.X.nbytes + source.y.nbytes for source in held) + order
    ring = StreamSource(info, "train", held[0].m, SingleProcess(), F32, PLAIN, batch_size=128, block_rows=16).ring
    assert stream_bytes(Config(block_rows=16), info) == ring.X.nbytes + ring.y.nbytes


def test_ranks_agree_and_the_start_says_what_was_picked(mpirun: Program, digits: Path, tmp_path: Path) -> None:
    """The console's line names the kind, that auto chose it, and the figures; shuffle = rows is refused with exit 2."""
    flags = ["-m", "ddp_mlp.train", "--data", digits, "--epochs", "1", "--run_dir", tmp_path / "run"]
    outcome = mpirun(2, *flags, "--shuffle", "blocks")
    assert outcome.returncode == 0, outcome.stderr
    assert "access    memory (auto): in memory, one copy per node, " in outcome.stderr
    outcome = mpirun(2, *flags, "--access", "stream")
    assert outcome.returncode == 2, outcome.stderr
    assert "set shuffle = blocks" in outcome.stderr
    assert len([line for line in outcome.stderr.splitlines() if line.startswith("error: ")]) == 1
