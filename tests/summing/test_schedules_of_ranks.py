"""The training step under thousands of schedules of its ranks: no deadlock, the same bits, and seeds that replay.

Each seed draws a number of ranks, a node size and a model, and decides every turn of `tests.simulated_mpi`. The
environment variable DDP_MLP_SCHEDULES says how many seeds there are; DDP_MLP_FIRST_SEED where they begin.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ddp_mlp.data.batches import Batch
from ddp_mlp.errors import DataError
from ddp_mlp.parallel.communicator import Communicator, end_on_exception
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.training.loop import take_step
from tests.checks import ranks as checks
from tests.checks import schedules, steps, sums
from tests.checks.schedules import BATCHES, MODELS, alone, check, check_run, draw, make_step, trained
from tests.simulated_mpi import Aborted, Deadlock, Mismatch, Rank, World

SCHEDULES = int(os.environ.get("DDP_MLP_SCHEDULES", "1000"))
FIRST_SEED = int(os.environ.get("DDP_MLP_FIRST_SEED", "0"))

proven_once = schedules.proven_once  # for every test here


# ---- the program under the simulation --------------------------------------------------------------------------------


@pytest.mark.timeout(60 + SCHEDULES // 10)
def test_every_schedule_gives_the_bits_of_one_process() -> None:
    """Thousands of interleavings on 2 to 6 ranks and up to 6 nodes end, all with the same parameters and figures."""
    for seed in range(FIRST_SEED, FIRST_SEED + SCHEDULES):
        check(seed)


def test_one_schedule_never_depends_on_the_sums_order_of_the_library() -> None:
    """The negative control: with reduction = allreduce, whose order the simulation draws, schedules end differently."""
    found = {World(5, seed).run(lambda c: trained(c, MODELS[0], plain=True))[0][2][0] for seed in range(8)}
    assert len(found) > 1


@pytest.mark.parametrize("seed", range(6))
def test_a_signal_to_any_rank_stops_all_and_the_run_goes_on_elsewhere(seed: int, tmp_path: Path) -> None:
    """Whole simulated runs: all ranks stop after the same step, and other ranks finish with the same bits."""
    check_run(seed, tmp_path)


def fails(seed: int) -> tuple[str, list[int]] | None:
    """Return how a seed's schedule fails, and its turns."""
    world, model, halving = draw(seed)
    try:
        outcomes = world.run(lambda communicator: trained(communicator, model, halving=halving))
    except Exception as error:
        return repr(error), world.choices
    wrong = [rank for rank, outcome in enumerate(outcomes) if outcome != alone(model)]
    return (f"ranks {wrong}", world.choices) if wrong else None


def test_a_missing_barrier_is_found_and_its_seed_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters published without waiting for the node: some schedules see it, and see it again turn by turn."""
    publish = ExactSum.publish

    def publish_without_waiting(reduction: ExactSum) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reduction.communicator, "node_barrier", lambda: None)
            publish(reduction)

    for model in MODELS:
        alone(model)
    monkeypatch.setattr(ExactSum, "publish", publish_without_waiting)
    failing = {seed: found for seed in range(40) if (found := fails(seed)) is not None}
    assert len(failing) >= 5
    for seed, found in list(failing.items())[:5]:
        assert fails(seed) == found


# ---- injected failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_an_exception_on_one_rank_ends_all(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever a rank fails alone, the job ends with its exit code 1, and no rank waits for it in `close`."""
    world, model, _ = draw(seed)
    drawn = random.Random(seed)
    victim, last_pause = drawn.randrange(len(world.ranks)), drawn.randrange(100)

    def program(communicator: Communicator) -> None:
        assert isinstance(communicator, Rank)
        pauses = iter(range(1000))

        def pause() -> None:
            if communicator.rank == victim and next(pauses) == last_pause:
                raise RuntimeError("a bug on this rank")
            Rank.pause(communicator)

        communicator.pause = pause  # type: ignore[method-assign] # the place of the failure
        try:
            trained(communicator, model)
            if communicator.rank == victim:
                raise RuntimeError("a bug on this rank")
        except RuntimeError:
            end_on_exception(communicator)

    with pytest.raises(Aborted) as caught:
        world.run(program)
    assert caught.value.exit_code == 1
    assert f"rank {victim} on " in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(60))
def test_an_error_found_by_one_rank_is_raised_by_all(seed: int) -> None:
    """Between steps, any rank may find something wrong: all leave with its error and give their memory back."""
    world, model, _ = draw(seed)
    finder, at = random.Random(seed).randrange(len(world.ranks)), seed % len(BATCHES)

    def program(communicator: Communicator) -> None:
        with communicator:
            step = make_step(communicator, model)
            for number, rows in enumerate(BATCHES):
                with communicator.in_agreement():
                    if number == at and communicator.rank == finder:
                        raise DataError("this rank cannot read on")
                take_step(step, Batch(0, number + 1, np.array(rows)), 0.01)

    with pytest.raises(DataError, match="cannot read on") as caught:
        world.run(program)
    assert caught.value.found_by == finder


@pytest.mark.parametrize("seed", range(30))
def test_numbers_that_are_not_finite_stop_all_ranks_in_the_same_step(seed: int) -> None:
    """A rank whose rows are damaged in memory: all see the loss in that step, and no parameter changes."""
    world, model, _ = draw(seed)
    at = 1 + seed % 2  # row 30 + at is in the second batch as well

    def program(communicator: Communicator) -> tuple[list[bool], bool]:
        with communicator, np.errstate(all="ignore"):
            step = make_step(communicator, model)
            finite, kept = [], b""
            for number, rows in enumerate(BATCHES[:2], start=1):
                if number == at:
                    step.source.X[rows[-1]] = np.inf  # type: ignore[attr-defined] # an ArraySource
                    kept = step.reduction.parameters.tobytes()
                finite.append(
                    bool(np.isfinite(take_step(step, Batch(0, number, np.array(rows)), 0.01).totals.loss_sum))
                )
                if not finite[-1]:
                    break
            assert step.first_layer_not_finite() == 1
            return finite, step.reduction.parameters.tobytes() == kept

    assert world.run(program) == [([True] * (at - 1) + [False], True)] * len(world.ranks)


# ---- the simulation itself -------------------------------------------------------------------------------------------


@pytest.fixture(params=[(1, None), (2, None), (3, 1), (3, 2), (5, 2), (6, 3)], ids=str)
def worlds(request: pytest.FixtureRequest) -> Iterator[World]:
    """Schedules on so many ranks, on nodes of so many."""
    size, node_size = request.param
    return (World(size, seed, node_size) for seed in range(6))


@pytest.mark.parametrize(
    "behaviour",
    [
        checks.ranks_are_numbered_node_by_node,
        checks.shared_arrays_are_seen_by_the_whole_node,
        checks.exchange_moves_each_part_to_its_node,
        checks.complete_fills_in_the_other_nodes_parts,
        checks.gather_brings_parts_to_rank_0,
        checks.an_error_on_one_rank_is_raised_on_all,
        checks.on_rank_0_shares_result_and_error,
        sums.slices_cover_the_vector,
        steps.evaluation_counts_every_row_once,
        steps.a_loss_that_is_not_finite_changes_no_parameter,
    ],
    ids=lambda behaviour: behaviour.__name__,
)
def test_the_simulation_behaves_like_mpi(worlds: Iterator[World], behaviour: Callable[[Communicator], None]) -> None:
    """What the suite asks of the ranks over MPI, it asks of the simulated ones."""
    for world in worlds:
        world.run(behaviour)


def test_ranks_that_wait_for_one_another_are_a_deadlock() -> None:
    """A collective that one rank leaves out is reported, with where each rank waits, instead of hanging."""

    def program(communicator: Communicator) -> None:
        if communicator.rank:
            communicator.barrier()

    for seed in range(10):
        with pytest.raises(Deadlock, match=r"rank 1 in barrier, rank 2 in barrier; 1 rank\(s\) have ended"):
            World(3, seed).run(program)


def test_ranks_that_call_different_things_are_a_mismatch() -> None:
    """Where MPI would hang, or mix up bytes, the simulation names both calls."""

    def program(communicator: Communicator) -> None:
        if communicator.rank:
            communicator.barrier()
        else:
            communicator.allgather(1)

    with pytest.raises(Mismatch, match=r"call 1 of all: (barrier on rank 1, allgather|allgather on rank 0, barrier)"):
        World(2, 3).run(program)


def test_schedules_differ_from_seed_to_seed() -> None:
    """A hundred seeds are about as many interleavings: priorities that seldom change can repeat one on few ranks."""
    assert len({tuple(check(seed).choices) for seed in range(100)}) >= 90
