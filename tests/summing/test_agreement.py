"""Tables that all ranks agree on: against NumPy's maxima and sums, on any nodes, with few messages."""

import numpy as np
import pytest

from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.summing.agreement import Agreement
from tests.simulated_mpi import World
from tests.traffic import Count

SHAPE = (3, 17)


def tables(P: int) -> np.ndarray:
    """Return a table of each rank (P, 3, 17), int32, with numbers below zero."""
    return np.random.default_rng(P).integers(-1000, 1000, (P, *SHAPE)).astype(np.int32)


@pytest.mark.parametrize(("P", "node_size"), [(1, 1), (2, 1), (3, 1), (5, 1), (6, 1), (7, 1), (8, 1), (7, 3), (6, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_all_ranks_agree(P: int, node_size: int, seed: int) -> None:
    """Twice, one after the other: nothing is left of the first."""

    def program(communicator: Communicator) -> list[bytes]:
        agreement, found = Agreement(communicator, SHAPE), []
        for mine in (tables(P)[communicator.rank], -tables(P)[communicator.rank]):
            agreement.reach(mine)
            communicator.node_barrier()
            found.append(mine.tobytes())
        return found

    every = tables(P)
    expected = [np.concatenate([t[:, :1].max(axis=0), t[:, 1:].sum(axis=0)]).astype(np.int32) for t in (every, -every)]
    assert World(P, seed, node_size).run(program) == [[table.tobytes() for table in expected]] * P


def test_one_process_keeps_its_table() -> None:
    """Nobody else has one."""
    mine = tables(1)[0]
    Agreement(SingleProcess(), SHAPE).reach(mine)
    assert np.array_equal(mine, tables(1)[0])


@pytest.mark.parametrize(("nodes", "most"), [(8, 3), (7, 4), (16, 4)])
def test_messages_are_logarithmically_many(nodes: int, most: int) -> None:
    """Of the rank that sends most: log₂ N, and two more where N is no power of two."""

    def program(communicator: Communicator) -> int:
        count, agreement = Count(communicator), Agreement(communicator, SHAPE)
        agreement.reach(tables(nodes)[communicator.rank])
        return count.seen("Swap", "int32").messages

    assert max(World(nodes, 0, 1).run(program)) == most
