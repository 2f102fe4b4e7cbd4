"""What is asked of a training step, whoever provides the ranks: MPI, its simulation, or one process."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.data.batches import Batch
from ddp_mlp.inference.evaluate import EVALUATION_ROWS, ForwardPass, evaluate
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.between import ExactSum, PlainSum
from ddp_mlp.training.loop import take_step
from ddp_mlp.training.step import TrainingStep
from ddp_mlp.training.update import Regularization
from tests.reference import ArraySource, examples, loss_and_gradient

F64 = np.dtype(np.float64)
WIDTHS = (12, 9, 7, 4)


def make_step(
    communicator: Communicator,
    X: NDArray[Any],
    y: NDArray[np.int64],
    *,
    K: int | None = 8,
    chunk_rows: int = 4096,
    clip_norm: float | None = None,
) -> TrainingStep:
    """Return a step of plain gradient descent; K = None is the plain sum."""
    layout = Layout(WIDTHS)
    reduction = (
        PlainSum(communicator, layout.length, F64) if K is None else ExactSum(communicator, layout.length, F64, K)
    )
    step = TrainingStep(
        communicator,
        Architecture(layout),
        reduction,
        ArraySource(X, y),
        optimizers.create("sgd"),
        Regularization(clip_norm=clip_norm),
        dtype=F64,
        seed=0,
        chunk_rows=chunk_rows,
    )
    first = np.zeros(layout.length)
    layout.initialize(first, 0)
    reduction.parameters[reduction.slice] = first[reduction.slice]
    reduction.publish()
    return step


def gradient_is_that_of_the_whole_batch(communicator: Communicator, K: int | None) -> None:
    """The mean over all ranks' examples is the formula on the whole batch in one process, to 1e-13."""
    X, y = examples(53, WIDTHS[0], WIDTHS[-1])
    step = make_step(communicator, X, y, K=K)
    before = step.reduction.parameters.copy()
    loss, expected = loss_and_gradient(step.layout.arrays(before), X, y)
    result = take_step(step, Batch(0, 1, np.arange(53)), learning_rate=1.0, measure_norm=True)
    found = step.layout.arrays(before - step.reduction.parameters)  # a step of size 1 is the gradient
    norm = np.sqrt(sum(np.sum(g**2) for g in expected.values()))
    error = np.sqrt(sum(np.sum((found[name] - expected[name]) ** 2) for name in expected))
    assert error <= 1e-13 * norm
    assert result.totals.loss_mean == pytest.approx(loss, rel=1e-13)
    assert result.totals.examples == result.totals.weight_sum == 53
    assert result.gradient_norm == pytest.approx(norm, rel=1e-13)


def a_smaller_batch_leaves_nothing_behind(communicator: Communicator) -> None:
    """After a batch of 53 rows, one of 5 is trained as if it had been the first: no stale buffer is read."""
    X, y = examples(53, WIDTHS[0], WIDTHS[-1])
    after, fresh = make_step(communicator, X, y), make_step(communicator, X, y)
    start = after.reduction.parameters.copy()
    take_step(after, Batch(0, 1, np.arange(53)), learning_rate=0.1)
    communicator.node_barrier()
    after.reduction.parameters[after.reduction.slice] = start[after.reduction.slice]
    after.reduction.publish()
    for step in (after, fresh):
        take_step(step, Batch(0, 2, np.arange(5)), learning_rate=0.1)
    assert after.reduction.parameters.tobytes() == fresh.reduction.parameters.tobytes()


def evaluation_counts_every_row_once(communicator: Communicator) -> None:
    """Loss and accuracy over several blocks are those of plain NumPy over all rows."""
    X, y = examples(2 * EVALUATION_ROWS + 31, WIDTHS[0], WIDTHS[-1])
    step = make_step(communicator, X, y)
    totals = evaluate(communicator, ForwardPass(step.architecture, step.reduction.parameters), step.source, None)
    loss, _ = loss_and_gradient(step.layout.arrays(step.reduction.parameters), X, y)
    assert totals.loss_mean == pytest.approx(loss, rel=1e-13)
    assert totals.examples == len(X)
    chosen = np.arange(0, len(X), 3)
    some = evaluate(communicator, ForwardPass(step.architecture, step.reduction.parameters), step.source, chosen)
    loss, _ = loss_and_gradient(step.layout.arrays(step.reduction.parameters), X[chosen], y[chosen])
    assert some.loss_mean == pytest.approx(loss, rel=1e-13)


def a_loss_that_is_not_finite_changes_no_parameter(communicator: Communicator) -> None:
    """All ranks see it in the same step, the parameters stay finite, and the layer is named."""
    X, y = examples(40, WIDTHS[0], WIDTHS[-1])
    X[17] = np.inf
    step = make_step(communicator, X, y)
    before = step.reduction.parameters.copy()
    with np.errstate(invalid="ignore"):
        result = take_step(step, Batch(0, 1, np.arange(40)), 1.0)
    assert not np.isfinite(result.totals.loss_sum)
    assert step.reduction.parameters.tobytes() == before.tobytes()
    assert step.first_layer_not_finite() == 1
