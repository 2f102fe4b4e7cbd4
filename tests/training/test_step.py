"""Tests of one training step, inside the ranks: run with any number of them."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from ddp_mlp.data.batches import Batch
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.mpi import MPIRanks
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.training.loop import take_step
from tests.checks import steps
from tests.checks.steps import WIDTHS, make_step
from tests.reference import examples, loss_and_gradient

F64 = np.dtype(np.float64)


@pytest.fixture
def communicator() -> Iterator[Communicator]:
    """All ranks."""
    from mpi4py import MPI

    made = MPIRanks(MPI.COMM_WORLD)
    yield made
    made.close()
    made.free()


@pytest.mark.mpi
@pytest.mark.parametrize("K", [8, 7, 1, 64, None])
def test_gradient_is_that_of_the_whole_batch(communicator: Communicator, K: int | None) -> None:
    """The mean over all ranks' examples is the formula on the whole batch in one process, to 1e-13."""
    steps.gradient_is_that_of_the_whole_batch(communicator, K)


@pytest.mark.mpi
def test_a_smaller_batch_leaves_nothing_behind(communicator: Communicator) -> None:
    """After a batch of 53 rows, one of 5 is trained as if it had been the first: no stale buffer is read."""
    steps.a_smaller_batch_leaves_nothing_behind(communicator)


@pytest.mark.mpi
def test_small_groups_give_the_same_bits(communicator: Communicator) -> None:
    """Going through a subtree in several groups, for want of memory, is the same sum."""
    X, y = examples(160, WIDTHS[0], WIDTHS[-1])
    at_once, in_groups = make_step(communicator, X, y), make_step(communicator, X, y, chunk_rows=20)
    for step in (at_once, in_groups):
        take_step(step, Batch(0, 1, np.arange(160)), learning_rate=0.1)
    assert at_once.reduction.parameters.tobytes() == in_groups.reduction.parameters.tobytes()


@pytest.mark.mpi
def test_a_shard_larger_than_a_chunk_is_a_chain_of_chunks(communicator: Communicator) -> None:
    """Chunks bound the memory of activations; the gradient stays that of the whole batch, to rounding."""
    X, y = examples(160, WIDTHS[0], WIDTHS[-1])
    step = make_step(communicator, X, y, chunk_rows=7)
    before = step.reduction.parameters.copy()
    _, expected = loss_and_gradient(step.layout.arrays(before), X, y)
    take_step(step, Batch(0, 1, np.arange(160)), learning_rate=1.0)
    for name, found in step.layout.arrays(before - step.reduction.parameters).items():
        assert np.linalg.norm(found - expected[name]) <= 1e-13 * np.linalg.norm(expected[name])
    assert max(group.m for group in step._groups.values()) <= 7 if step._groups else True


@pytest.mark.mpi
def test_clipping_scales_the_whole_gradient(communicator: Communicator) -> None:
    """The step with clip_norm is the plain step times clip_norm / norm."""
    X, y = examples(40, WIDTHS[0], WIDTHS[-1])
    plain = make_step(communicator, X, y)
    clipped = make_step(communicator, X, y, clip_norm=0.01)
    before = plain.reduction.parameters.copy()
    norm = take_step(plain, Batch(0, 1, np.arange(40)), 1.0, measure_norm=True).gradient_norm
    assert take_step(clipped, Batch(0, 1, np.arange(40)), 1.0).gradient_norm == norm
    assert norm is not None
    expected = (before - plain.reduction.parameters) * (0.01 / (norm + 1e-6))
    assert np.allclose(before - clipped.reduction.parameters, expected, rtol=1e-9, atol=1e-16)


@pytest.mark.mpi
def test_a_loss_that_is_not_finite_changes_no_parameter(communicator: Communicator) -> None:
    """All ranks see it in the same step, the parameters stay finite, and the layer is named."""
    steps.a_loss_that_is_not_finite_changes_no_parameter(communicator)


@pytest.mark.mpi
def test_evaluation_counts_every_row_once(communicator: Communicator) -> None:
    """Loss and accuracy over several blocks are those of plain NumPy over all rows."""
    steps.evaluation_counts_every_row_once(communicator)


def test_a_step_allocates_next_to_nothing() -> None:
    """After the first, a step on one rank takes no memory for activations, gradients or updates."""
    X, y = examples(512, WIDTHS[0], WIDTHS[-1])
    step = make_step(SingleProcess(), X, y)
    batch = Batch(0, 1, np.arange(512))
    take_step(step, batch, 0.1)
    tracemalloc.start()
    take_step(step, batch, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The test's own source makes one copy of X on its way: 512 · 12 float64. One hidden activation is 512 · 9.
    assert peak < 512 * (12 + 9) * 8
