"""Tests of the global sums, inside the ranks: run with any number of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.mpi import MPIRanks
from ddp_mlp.summing.between import BLOCK, ExactSum, PlainSum
from ddp_mlp.summing.plan import QUANTUM
from ddp_mlp.summing.tallies import RankSignal
from tests.checks import sums
from tests.checks.sums import write_partials
from tests.oracles import shard_sums, tree_sum

pytestmark = pytest.mark.mpi

LENGTHS = [1, QUANTUM, 3 * QUANTUM + 16, BLOCK + 5 * QUANTUM]


@pytest.fixture(params=[None, 1, 2, 3], ids=lambda n: f"node_size={n}")
def communicator(request: pytest.FixtureRequest) -> Iterator[Communicator]:
    """All ranks, on nodes of 1, 2, 3 or all ranks."""
    from mpi4py import MPI

    made = MPIRanks(MPI.COMM_WORLD, request.param)
    yield made
    made.close()
    made.free()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("K", "m"), [(8, 100), (7, 37), (1, 5), (16, 3)])
@pytest.mark.parametrize("halving", [True, False])
def test_exact_sum_has_the_bits_of_the_definition(
    communicator: Communicator, length: int, K: int, m: int, halving: bool
) -> None:
    """Sum, update by each rank's slice, and sharing give every rank the one-process result, twice in a row."""
    sums.has_the_bits_of_the_definition(communicator, length, K, m, halving)


def test_a_rank_that_scales_its_gradient_is_seen(communicator: Communicator) -> None:
    """The planted fault: one rank's partials are 1 ulp too large, and the sum differs."""
    values = shard_sums(8, 4 * QUANTUM, np.float32)
    reduction = ExactSum(communicator, values.shape[1], np.dtype(np.float32), 8)
    write_partials(reduction, values, 100)
    if communicator.rank == communicator.size - 1:
        reduction.partials[...] *= np.float32(1 + 2**-22)
    reduction.collect(100)
    for lo, hi, gradient in reduction.sums(100):
        reduction.parameters[lo:hi] = gradient
    reduction.publish()
    expected = tree_sum(values, 100, 0, 8)
    assert expected is not None
    assert reduction.parameters.tobytes() != expected.tobytes()


def test_within_one_node_nothing_is_sent(communicator: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step asks MPI for bytes where there are several nodes, and there alone."""
    asked: list[str] = []

    def counted(name: str) -> Any:
        call = getattr(communicator, name)

        def count_and_call(*arguments: Any) -> None:
            asked.append(name)
            call(*arguments)

        return count_and_call

    for name in ("Exchange", "Swap", "Complete"):
        monkeypatch.setattr(communicator, name, counted(name))
    values = shard_sums(8, 4 * QUANTUM, np.float32)
    reduction = ExactSum(communicator, values.shape[1], np.dtype(np.float32), 8)
    write_partials(reduction, values, 100)
    reduction.collect(100)
    list(reduction.sums(100))
    reduction.publish()
    everyone = communicator.allgather(asked)
    assert any(everyone) == (len(communicator.nodes) > 1)


def test_slices_cover_the_vector(communicator: Communicator) -> None:
    """Every element is updated by one rank; slices begin and end on quanta."""
    sums.slices_cover_the_vector(communicator)


@pytest.mark.parametrize("plain", [False, True])
def test_tallies_reach_every_rank(communicator: Communicator, plain: bool) -> None:
    """All ranks see every shard's row, in shard order, and what each rank had to say."""
    dtype = np.dtype(np.float64)
    K = communicator.size if plain else 5
    reduction: Any = PlainSum(communicator, 8, dtype) if plain else ExactSum(communicator, 8, dtype, K)
    for repeat in range(2):
        reduction.tallies.start(RankSignal(100 + communicator.rank, repeat, 0))
        for shard in reduction.tallies.of_shard:
            reduction.tallies.add(shard, shard, 0, 1)
            reduction.tallies.add(shard, 0, repeat, 0)
        reduction.partials[...] = 0
        found = reduction.collect(10)
        assert found.shards.tolist() == [[shard, repeat, 1] for shard in range(K)]
        assert found.signals.tolist() == [[100 + rank, repeat, 0] for rank in range(communicator.size)]
        reduction.publish()


def test_tallies_of_a_rank_begin_on_a_line_of_their_own(communicator: Communicator) -> None:
    """Where all ranks share memory, none writes a line that another one writes."""
    tallies = ExactSum(communicator, 8, np.dtype(np.float32), 5).tallies
    start = np.asarray(tallies._own).ctypes.data % 64
    if len(communicator.nodes) == 1:
        assert start == 0


def test_plain_sum_equals_the_exact_sum_to_rounding(communicator: Communicator) -> None:
    """MPI_Allreduce adds the same numbers in an order of its own."""
    values = shard_sums(communicator.size, 2 * QUANTUM, np.float64)
    reduction = PlainSum(communicator, values.shape[1], np.dtype(np.float64))
    reduction.partials[0] = values[communicator.rank]
    reduction.collect(100)
    total = np.concatenate([gradient for _, _, gradient in reduction.sums(100)])
    reduction.publish()
    # At most P − 1 roundings of numbers as large as the sum of magnitudes.
    assert np.all(np.abs(total - values.sum(axis=0)) <= communicator.size * 2.0**-52 * np.abs(values).sum(axis=0))
