"""Faults planted in the program, each of which the suite's own checks must catch.

A fault is a monkeypatch that a plausible mistake would amount to. Its check is a test, or the part of one, that the
ordinary suite runs anyway; here it must pass without the fault and fail with it.
"""

# ruff: noqa: D401 - checks and faults are described

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import threadpoolctl

from ddp_mlp.data.batches import Batch
from ddp_mlp.data.memory import MemoryBatches
from ddp_mlp.errors import DataError, EnvironmentMismatch
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.storage import checkpoints
from ddp_mlp.summing import between
from ddp_mlp.summing.between import Block, ExactSum
from ddp_mlp.summing.tree import Additions, additions
from ddp_mlp.training import state
from ddp_mlp.training.step import Part, TrainingStep
from ddp_mlp.training.update import Update
from tests.checks import maths, runs, schedules, steps, sums
from tests.checks.faults import after_own_sum
from tests.simulated_mpi import World

Check = Callable[[Path], object]
Plant = Callable[[pytest.MonkeyPatch], object]


class Fault(NamedTuple):
    """A fault, what plants it, what catches it, and as what."""

    plant: Plant
    check: Check
    shows_as: type[Exception]


FAULTS: dict[str, Fault] = {}


def caught_by(check: Check, shows_as: type[Exception] = AssertionError) -> Callable[[Plant], Plant]:
    """Put what is decorated in the table."""

    def enter(plant: Plant) -> Plant:
        FAULTS[plant.__name__.replace("_", " ")] = Fault(plant, check, shows_as)
        return plant

    return enter


# ---- checks of the suite ---------------------------------------------------------------------------------------------


def relu(_: Path) -> None:
    """Where z = 0 no gradient passes."""
    maths.relu_has_derivative_zero_at_zero()


def gradient_of_3_ranks(_: Path) -> None:
    """The mean over the ranks' rows is the formula on the whole batch, to 1e-13."""
    World(3, 0).run(lambda ranks: steps.gradient_is_that_of_the_whole_batch(ranks, 8))


def definition_of_the_sum(_: Path) -> None:
    """The sum over 4 ranks has the bits of the tree's definition; on one node, and on two, in both forms."""
    for node_size, halving_nodes in ((None, 2), (2, 2), (2, 100)):
        World(4, 0, node_size).run(
            lambda ranks, halving_nodes=halving_nodes: (  # type: ignore[misc] # mypy cannot infer a bound default
                sums.has_the_bits_of_the_definition(ranks, 3079, 8, 100, halving_nodes)
            )
        )


def same_bits(_: Path) -> None:
    """Four schedules of every model train to the bits of one process."""
    schedules.alone.cache_clear()
    try:
        for model in schedules.MODELS:
            seeds = (seed for seed in range(100) if schedules.draw(seed)[1] == model)
            for seed in islice(seeds, 4):
                schedules.check(seed)
    finally:
        schedules.alone.cache_clear()


def shorter_batch(_: Path) -> None:
    """A batch of 5 rows after one of 53 is trained as if it had been the first."""
    World(3, 1).run(steps.a_smaller_batch_leaves_nothing_behind)


def every_option(folder: Path) -> None:
    """With L2, dropout and weights, a step is the central difference of the loss."""
    runs.gradient_is_the_central_difference_of_the_loss(folder, 4096, None)


def decay(folder: Path) -> None:
    """Decoupled decay shrinks weights and leaves biases alone."""
    runs.decoupled_decay_shrinks_weights_alone(folder)


def best(folder: Path) -> None:
    """A run with restore_best ends with the parameters and the loss of its best epoch."""
    runs.patience_ends_a_run_and_restore_best_keeps_its_best(folder)


def resumed(folder: Path) -> None:
    """A run that a time limit stopped goes on to the bits of the uninterrupted one."""
    runs.time_limit_saves_and_the_next_start_goes_on(folder)


def run_on_other_ranks(folder: Path) -> None:
    """A run that is stopped and goes on, on other numbers of ranks, ends as that of one process."""
    schedules.check_run(2, folder)


# ---- faults ----------------------------------------------------------------------------------------------------------


@caught_by(gradient_of_3_ranks)
def one_rank_scales_its_gradient(patch: pytest.MonkeyPatch) -> None:
    """By a millionth."""

    def change(step: TrainingStep, batch: Batch, subtree: Any, flat: Any) -> None:
        flat *= 1 + 1e-6 * (step.communicator.rank == 1)

    after_own_sum(patch, change)


@caught_by(same_bits)
def one_rank_is_one_bit_off(patch: pytest.MonkeyPatch) -> None:
    """In one element of each of its partials, by the last bit."""

    def change(step: TrainingStep, batch: Batch, subtree: Any, flat: Any) -> None:
        if step.communicator.rank == 1:
            flat[7] = np.nextafter(flat[7], np.float32(np.inf))

    after_own_sum(patch, change)


@caught_by(gradient_of_3_ranks)
def mean_of_the_ranks_means(patch: pytest.MonkeyPatch) -> None:
    """Each rank divides by its own number of rows, and all by P."""

    def change(step: TrainingStep, batch: Batch, subtree: Any, flat: Any) -> None:
        m, K = len(batch.rows), step.reduction.K
        own = sum(m * hi // K - m * lo // K for lo, hi in step.reduction.subtrees)
        flat *= m / (own * step.communicator.size)

    after_own_sum(patch, change)


@caught_by(gradient_of_3_ranks)
def divided_by_m_twice(patch: pytest.MonkeyPatch) -> None:
    """Once where it belongs, and once more."""
    exact = Update.mean_gradient

    def faulty(update: Update, sums: Any, weight_sum: float) -> Iterator[Block]:
        for block in exact(update, sums, weight_sum):
            block[2][...] /= weight_sum
            yield block

    patch.setattr(Update, "mean_gradient", faulty)


@caught_by(definition_of_the_sum)
def grandchildren_swapped(patch: pytest.MonkeyPatch) -> None:
    """(a + b) + (c + d) becomes (a + c) + (b + d)."""
    swap = {1: 2, 2: 1}

    def faulty(root: Any, terms: Any, m: int, K: int) -> Additions:
        plan = additions(root, terms, m, K)
        if len(terms) < 4:
            return plan
        pairs = tuple((swap.get(left, left), swap.get(right, right)) for left, right in plan.pairs)
        return Additions(pairs, plan.result)

    patch.setattr(between, "additions", faulty)


@caught_by(same_bits)
def a_tree_that_depends_on_p(patch: pytest.MonkeyPatch) -> None:
    """Partials are added from left to right, as many as there happen to be."""

    def faulty(root: Any, terms: Any, m: int, K: int) -> Additions:
        present = [i for i, (lo, hi) in enumerate(terms) if m * lo // K < m * hi // K and root[0] <= lo < root[1]]
        return Additions(tuple((present[0], i) for i in present[1:]), present[0] if present else None)

    patch.setattr(between, "additions", faulty)


@caught_by(relu)
def relu_has_slope_1_at_0(patch: pytest.MonkeyPatch) -> None:
    """[z ≥ 0] in place of [z > 0]."""
    patch.setattr(np, "greater", np.greater_equal)


@caught_by(every_option)
def l2_added_per_shard(patch: pytest.MonkeyPatch) -> None:
    """Every shard adds λ W to its sum, as though the batch were its own."""

    def change(step: TrainingStep, batch: Batch, subtree: Any, flat: Any) -> None:
        shards = subtree[1] - subtree[0]
        for W, dW in zip(step.W.values(), step.layout.views(flat)[0].values(), strict=True):
            dW += shards * step.regularization.l2 * W

    after_own_sum(patch, change)
    patch.setattr(optimizers, "add_l2", lambda *_: None)


@caught_by(decay)
def decay_of_biases(patch: pytest.MonkeyPatch) -> None:
    """The mask of the weights lets everything through."""
    patch.setattr(Layout, "weights_mask", lambda layout, dtype: np.ones(layout.length, dtype))


@caught_by(every_option, EnvironmentMismatch)
def two_blas_threads(patch: pytest.MonkeyPatch) -> None:
    """The limit of one thread is not set; the program's own check sees it."""
    threadpoolctl.threadpool_limits(2, "blas")
    patch.setattr("ddp_mlp.training.machine.blas_threads", lambda _: nullcontext())


@caught_by(same_bits)
def optimizer_slice_shifted_by_one(patch: pytest.MonkeyPatch) -> None:
    """An element is updated with its neighbour's state."""
    exact = Update.apply

    def faulty(update: Update, block: Any, number: int, learning_rate: float) -> None:
        for array in update.state.values():
            array[...] = np.roll(array, 1)
        exact(update, block, number, learning_rate)

    patch.setattr(Update, "apply", faulty)


@caught_by(run_on_other_ranks)
def an_order_that_depends_on_p(patch: pytest.MonkeyPatch) -> None:
    """The epoch's order is drawn from the number of ranks too."""
    exact = MemoryBatches.__init__

    def faulty(batches: MemoryBatches, communicator: Any, rows: Any, *, seed: int, **keys: Any) -> None:
        exact(batches, communicator, rows, seed=seed + communicator.size, **keys)

    patch.setattr(MemoryBatches, "__init__", faulty)


@caught_by(same_bits)
def dropout_drawn_by_rank(patch: pytest.MonkeyPatch) -> None:
    """A shard's mask depends on which rank computes it."""
    exact = TrainingStep._drop

    def faulty(step: TrainingStep, *arguments: Any) -> None:
        seed, step.seed = step.seed, step.seed + step.communicator.rank
        exact(step, *arguments)
        step.seed = seed

    patch.setattr(TrainingStep, "_drop", faulty)


@caught_by(same_bits)
def clipped_by_a_rank_s_own_norm(patch: pytest.MonkeyPatch) -> None:
    """Each rank scales its slice by the norm of that slice."""

    def faulty(update: Update, blocks: Any) -> float:
        return float(np.sqrt(sum(np.sum(np.square(gradient, dtype=np.float64)) for _, _, gradient in blocks)))

    patch.setattr(Update, "_norm", faulty)


@caught_by(best, DataError)
def the_best_checkpoint_is_of_another_step(patch: pytest.MonkeyPatch) -> None:
    """What is saved as the best is the best before; the program sees that its epoch is wrong."""
    exact, before = checkpoints.save_best, []

    def faulty(folder: Path, checkpoint: Any) -> Any:
        before.append(checkpoint)
        return exact(folder, before[-2] if len(before) > 1 else checkpoint)

    patch.setattr(checkpoints, "save_best", faulty)


@caught_by(shorter_batch)
def stale_rows_of_a_longer_batch(patch: pytest.MonkeyPatch) -> None:
    """A shorter batch is filled up with what the buffer of the one before still holds."""
    exact = TrainingStep.parts

    def faulty(step: TrainingStep, batch: Batch) -> Iterator[Part]:
        before = getattr(step, "rows_before", batch.rows)
        step.rows_before = np.concatenate([batch.rows, before[len(batch.rows) :]])  # type: ignore[attr-defined]
        return exact(step, batch._replace(rows=step.rows_before))  # type: ignore[attr-defined]

    patch.setattr(TrainingStep, "parts", faulty)


@caught_by(same_bits)
def parameters_read_before_all_have_written(patch: pytest.MonkeyPatch) -> None:
    """A node's ranks do not wait for one another at the end of a step."""
    publish = ExactSum.publish

    def faulty(reduction: ExactSum) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(reduction.communicator, "node_barrier", lambda: None)
            publish(reduction)

    patch.setattr(ExactSum, "publish", faulty)


@caught_by(same_bits)
def partials_read_before_all_have_written(patch: pytest.MonkeyPatch) -> None:
    """A node's ranks do not wait for one another's sums."""
    collect = ExactSum.collect

    def faulty(reduction: ExactSum, m: int) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(reduction.communicator, "node_barrier", lambda: None)
            return collect(reduction, m)

    patch.setattr(ExactSum, "collect", faulty)


@caught_by(resumed)
def a_resume_without_the_optimizers_state(patch: pytest.MonkeyPatch) -> None:
    """Parameters are restored, running means begin at zero."""
    exact = state.restore
    patch.setattr(state, "restore", lambda step, parameters, optimizer: exact(step, parameters, None))


@caught_by(resumed)
def a_resume_at_the_beginning_of_the_epoch(patch: pytest.MonkeyPatch) -> None:
    """The epoch's first rows are trained again in place of those that are left."""
    exact = MemoryBatches._order
    patch.setattr(MemoryBatches, "_order", lambda batches, epoch, start: exact(batches, epoch, 0))


proven_once = schedules.proven_once  # for every test here


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes on the program as it is, and fails once the fault is in it."""
    fault = FAULTS[name]
    without, with_fault = tmp_path / "without", tmp_path / "with"
    without.mkdir()
    with_fault.mkdir()
    fault.check(without)
    with threadpoolctl.threadpool_limits(None):  # puts the number of threads back
        fault.plant(monkeypatch)
        with pytest.raises(fault.shows_as):
            fault.check(with_fault)


def test_the_table_is_whole() -> None:
    """A name used twice would drop a fault from the table."""
    assert len(FAULTS) == 20
