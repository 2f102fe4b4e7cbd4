"""Tests of `--describe`: the figures are those of a real step, and nothing is trained or written."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.data.batches import Batch
from ddp_mlp.data.opening import open_data
from ddp_mlp.explaining.describe import Outline, lines, outline
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.parallel.mpi import MPIRanks
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.writer import DatasetWriter
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.summing.plan import make_plan
from ddp_mlp.training.loop import take_step
from ddp_mlp.training.needs import exact_part
from ddp_mlp.training.step import TrainingStep
from ddp_mlp.training.update import Regularization
from tests.conftest import Program
from tests.traffic import Count


@pytest.fixture(params=[None, 1, 2], ids=["one node", "nodes of 1", "nodes of 2"])
def communicator(request: pytest.FixtureRequest) -> Iterator[MPIRanks]:
    """All ranks, on one node or on several."""
    from mpi4py import MPI

    made = MPIRanks(MPI.COMM_WORLD, request.param)
    yield made
    made.close()


@pytest.mark.mpi
@pytest.mark.parametrize(
    "keys",
    [
        {"batch_size": 100, "hidden": (33, 17)},
        {"batch_size": "full", "hidden": (20,), "chunk_rows": 50, "l2": 0.1, "optimizer": "momentum"},
        {"batch_size": 3, "hidden": (), "dtype": "float64", "class_weight": "balanced", "shards": 5},
        {"batch_size": 700, "hidden": (300, 5), "chunk_rows": 200, "optimizer": "adamw"},
    ],
    ids=["usual", "chunks", "few examples", "groups"],
)
def test_the_plan_is_what_a_step_does(communicator: MPIRanks, digits: Path, keys: dict[str, Any]) -> None:
    """Traffic, optimizer state and buffers of passes are to the byte those of two real steps; gradient sums at most."""
    config = Config(data=str(digits), **keys)
    found = outline(config, communicator)
    data = open_data(config, communicator)
    dtype, optimizer = np.dtype(config.dtype), optimizers.create(config.optimizer)
    reduction = ExactSum(communicator, found.layout.length, dtype, found.K)
    regularization = Regularization(l2=config.l2, weight_decay=optimizer.default_weight_decay)
    step = TrainingStep(
        communicator,
        Architecture(found.layout),
        reduction,
        data.train[0],
        optimizer,
        regularization,
        dtype=dtype,
        seed=0,
        chunk_rows=config.chunk_rows,
    )
    mine = found.ranks[communicator.rank]

    count = Count(communicator)
    take_step(step, Batch(0, 1, np.arange(found.batch_size)), 0.01)
    assert count.sent == mine.sent
    take_step(step, Batch(0, 2, np.arange(found.rows % found.batch_size or found.batch_size)), 0.01)

    mask = 0 if step.update.mask is None else step.update.mask.nbytes
    assert sum(array.nbytes for array in step.state.values()) + mask == mine.optimizer
    assert found.parameters == reduction.parameters.nbytes
    assert mine.examples == sum(len(part) for part in rows_of(found, communicator.rank))

    groups = [*step._groups.values()]
    buffers = 0
    for group in groups:
        buffers += group.nbytes + (0 if group.w is None else group.w.nbytes)
        buffers += group.A[0].whole.size  # rows arrive as uint8
    evaluation = mine.activations - buffers
    assert 0 < evaluation == evaluation_bytes(config, found)

    held = sum(part.flat.nbytes for part in [*step._partials, *step._spares])
    held += sum(array.nbytes for array in step._scratch.arrays.values())
    held += sum(getattr(reduction, name).nbytes for name in ("_send", "_receive") if hasattr(reduction, name))
    assert held <= mine.gradients <= 2 * held + 4096


@pytest.mark.mpi
@pytest.mark.parametrize("halving", [True, False])
def test_both_forms_of_a_sum_send_what_is_said(communicator: MPIRanks, halving: bool) -> None:
    """By halving where nodes are siblings, or flat, a step sends the sums and parameters that are counted."""
    length, K = 5000, 8
    reduction = ExactSum(communicator, length, np.dtype(np.float32), K, halving)
    part = exact_part(make_plan(K, length, communicator.nodes, halving), communicator)
    count = Count(communicator)
    reduction.collect(100)
    list(reduction.sums(100))
    reduction.publish()
    assert count.sent == 4 * part.sent + 8 * part.tallies


def rows_of(found: Outline, rank: int) -> Iterator[range]:
    """Yield the rows of a batch that each shard of a rank holds, by the two formulas of the design."""
    K, P, m = found.K, len(found.ranks), found.batch_size
    for i in range(K * rank // P, K * (rank + 1) // P):
        yield range(m * i // K, m * (i + 1) // K)


def evaluation_bytes(config: Config, found: Outline) -> int:
    """Return the bytes of the buffers in which the 360 rows of test are evaluated, 256 and 104 at a time."""
    widths, itemsize = found.layout.widths, np.dtype(config.dtype).itemsize
    *inner, classes = widths
    weighted = config.class_weight is not None
    total = 0
    for m in (256, 104):
        numbers = m * (sum(inner) + sum(inner[1:]) + 2 * classes + 5 + weighted)
        numbers += 2 * max(*inner, 32 * 1024)  # zeros, and a bias for each of a block's examples
        total += numbers * itemsize + m * (3 * 8 + max(inner)) + m * inner[0]
    return total


def test_describe_prints_and_neither_trains_nor_writes(mpirun: Program, digits: Path, tmp_path: Path) -> None:
    """Two ranks: exit code 0, one description on stdout, its counts right, and no folder made."""
    run_dir = tmp_path / "run"
    flags = ["--describe", "--data", digits, "--hidden", "100,50", "--run_dir", run_dir, "--epochs", "7"]
    outcome = mpirun(2, "-m", "ddp_mlp.train", *flags, cwd=tmp_path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert f"{64 * 100 + 100 + 100 * 50 + 50 + 50 * 10 + 10:,} parameters" in outcome.stdout
    assert outcome.stdout.count("P = 2 on 1 node, K = 8 shards of 16 examples, exact sum") == 1
    assert "7 epochs of 12 steps, batches of 128 (the last of 29), adam" in outcome.stdout
    assert list(tmp_path.iterdir()) == []


def test_labels_of_unnamed_classes_are_counted(tmp_path: Path) -> None:
    """Without class names the largest label says how many classes there are; validation rows come off train."""
    path = tmp_path / "data.h5"
    y = np.repeat([0, 1, 700], [10, 25, 15])
    with DatasetWriter(path, {"train": 50}, 3, np.dtype(np.float32), 701) as writer:
        writer.append("train", np.zeros((50, 3), np.float32), y)
    config = Config(data=str(path), valid_fraction=0.2, batch_size="full", hidden=(1,))
    found = outline(config, SingleProcess())
    assert found.layout.widths == (3, 1, 701)
    assert found.rows == found.batch_size == 8 + 20 + 12
    assert "50 train (10 of them held out for validation)" in next(lines(config, found, SingleProcess()))


def test_bad_data_end_describe_as_they_end_training(run_python: Program, tmp_path: Path) -> None:
    """A file that is not there: exit code 74 and one line."""
    outcome = run_python("-m", "ddp_mlp.train", "--describe", "--data", tmp_path / "no.h5")
    assert outcome.returncode == 74
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1


def test_many_ranks_are_two_lines(digits: Path) -> None:
    """Beyond LINES_AT_MOST different ranks, each column shows its least and its most."""
    found = outline(Config(data=str(digits)), SingleProcess())
    ranks = [found.ranks[0]._replace(examples=n, sent=1000 - n) for n in range(100, 120)]
    shown = list(lines(Config(data=str(digits)), replace(found, ranks=ranks), SingleProcess()))
    assert [line.split()[:2] for line in shown[-2:]] == [["least", "100"], ["most", "119"]]
    assert [line.split()[-2:] for line in shown[-2:]] == [["881", "B"], ["900", "B"]]


def test_portable_arithmetic_has_no_shards(run_python: Program) -> None:
    """Ranks share each batch, sums are float64, and the word shard stands in one place: that there are none."""
    outcome = run_python("-m", "ddp_mlp.train", "--describe", "true", "--arithmetic", "portable")
    assert outcome.returncode == 0, outcome.stderr
    assert "shares of 128 examples, portable arithmetic: no shards" in outcome.stdout
    assert "K =" not in outcome.stdout
    assert "67.3 KiB" in outcome.stdout  # 17,226 float32 parameters, and one partial of their sums in float64
    assert "0          134.6 KiB" in outcome.stdout
