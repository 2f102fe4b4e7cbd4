"""A portable step on simulated ranks: one result for every number of them, pieces of a batch, empty shares."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.data.batches import Batch
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.training.loop import take_step
from ddp_mlp.training.portable_step import PortableStep, portable_sum
from ddp_mlp.training.update import Regularization
from tests.reference import ArraySource, examples
from tests.simulated_mpi import World

WIDTHS = (12, 9, 7, 4)
WORLDS = ((2, None), (3, 2), (7, None), (7, 3))


def make_step(communicator: Communicator, rows: int, chunk_rows: int, dropout: float = 0.0) -> PortableStep:
    """Return a step of plain gradient descent on so many examples."""
    layout = Layout(WIDTHS)
    reduction = portable_sum(communicator, layout.length)
    step = PortableStep(
        communicator,
        Architecture(layout),
        reduction,
        ArraySource(*examples(rows, WIDTHS[0], WIDTHS[-1])),
        optimizers.create("sgd", power=PORTABLE.power),
        Regularization(dropout=dropout),
        seed=0,
        chunk_rows=chunk_rows,
    )
    first = np.zeros(layout.length, np.float32)
    layout.initialize(first, 0, arithmetic=PORTABLE)
    reduction.parameters[reduction.slice] = first[reduction.slice]
    reduction.publish()
    return step


def gradient(rows: int, numbers: range, chunk_rows: int) -> NDArray[np.float64]:
    """Return the global gradient sum over some of the rows, which grow a hundredfold every 37, in float64."""
    return gradient_in(growing(rows, chunk_rows), numbers)


def growing(rows: int, chunk_rows: int) -> PortableStep:
    """Return a step on rows that grow a hundredfold every 37."""
    step = make_step(SingleProcess(), rows, chunk_rows)
    step.source.X *= 100.0 ** (np.arange(rows)[:, None] // 37)  # type: ignore[attr-defined]
    return step


def gradient_in(step: PortableStep, numbers: range) -> NDArray[np.float64]:
    """Return the global gradient sum over some of a step's rows, in float64."""
    step.begin(())
    for part in step.parts(Batch(0, 1, np.array(numbers))):
        step.forward(part)
        step.loss(part)
        step.backward(part)
    step.totals(len(numbers))
    found = np.concatenate([block.copy() for _, _, block in step.sums(len(numbers))] or [np.zeros(0)])
    step.publish()
    return found


@pytest.mark.parametrize(("rows", "chunk_rows"), [(100_000, 4096), (203, 40), (203, 4096), (5, 2), (3, 4096)])
def test_one_result_for_any_number_of_ranks(rows: int, chunk_rows: int) -> None:
    """In 25 pieces, in 6, in one; with fewer rows than ranks, and fewer in a piece: parameters, loss and hits."""

    def program(communicator: Communicator) -> tuple[bytes, float, int, int]:
        step = make_step(communicator, rows, chunk_rows, dropout=0.25)
        result = take_step(step, Batch(0, 1, np.arange(rows)), 0.05, measure_norm=True)
        largest = max((way.group.m for way in step._ways.values()), default=0)
        return step.reduction.parameters.tobytes(), result.totals.loss_sum, result.totals.correct, largest

    alone = program(SingleProcess())
    assert alone[3] == min(rows, chunk_rows)
    for P, node_size in WORLDS if rows < 1000 else WORLDS[:2]:
        for found in World(P, 1, node_size).run(program):
            assert found[:3] == alone[:3]
            assert found[3] <= -(-min(rows, chunk_rows) // P)  # memory for a rank's share of a piece, and no more


def test_pieces_are_added_along_the_tree() -> None:
    """Of five pieces: (1 + 2) + (3 + (4 + 5)), and no other order, which shows in the bits."""
    rows = 5 * 37
    a, b, c, d, e = (gradient(rows, range(lo, lo + 37), 4096) for lo in range(0, rows, 37))
    whole = gradient(rows, range(rows), 37)
    assert whole.tobytes() == ((a + b) + (c + (d + e))).tobytes()
    assert whole.tobytes() != ((((a + b) + c) + d) + e).tobytes()


def test_second_limbs_leave_nothing_for_the_next_batch() -> None:
    """Batches with other rows that spread, one after the other in one step, and each in a step of its own."""
    rows, step = 5 * 37, growing(5 * 37, 4096)
    for numbers in (range(37), range(185), range(60, 185), range(30, 80), range(37)):
        found = gradient_in(step, numbers)
        if len(numbers) > 37:
            assert step.figures()["second_limbs"] > 0
        assert found.tobytes() == gradient(rows, numbers, 4096).tobytes()


def test_a_loss_that_is_not_finite_changes_no_parameter() -> None:
    """On whichever rank it is, in whichever piece."""

    def program(communicator: Communicator) -> tuple[bool, float]:
        step = make_step(communicator, 50, 20)
        step.source.X[43, 2] = np.inf  # type: ignore[attr-defined]
        before = step.reduction.parameters.tobytes()
        with np.errstate(invalid="ignore"):
            result = take_step(step, Batch(0, 1, np.arange(50)), 0.05)
        return step.reduction.parameters.tobytes() == before, result.totals.loss_sum

    for same, loss in [program(SingleProcess()), *World(3, 1).run(program)]:
        assert same
        assert np.isnan(loss)
