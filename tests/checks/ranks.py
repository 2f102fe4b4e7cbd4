"""What is asked of ranks, whoever provides them: MPI, its simulation, or one process."""

import numpy as np
import pytest

from ddp_mlp.errors import DataError
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.tree import cut

F64 = np.dtype(np.float64)


def ranks_are_numbered_node_by_node(ranks: Communicator) -> None:
    """The nodes' ranks follow one another, and every rank finds itself on its node."""
    assert [rank for node in ranks.nodes for rank in node] == list(range(ranks.size))
    assert ranks.rank in ranks.nodes[ranks.node]
    assert ranks.allgather(ranks.rank) == list(range(ranks.size))


def shared_arrays_are_seen_by_the_whole_node(ranks: Communicator) -> None:
    """Arrays start as zeros on a page of their own, and what one rank writes its neighbours read."""
    arrays = ranks.share(3 + ranks.local_rank, F64)
    assert [len(array) for array in arrays] == [3 + i for i in range(len(ranks.nodes[ranks.node]))]
    assert not any(array.any() for array in arrays)
    assert arrays[ranks.local_rank].ctypes.data % 4096 == 0
    ranks.node_barrier()  # all have looked at the zeros
    arrays[ranks.local_rank][...] = ranks.rank + 1
    ranks.node_barrier()
    assert [array[0] for array in arrays] == [rank + 1 for rank in ranks.nodes[ranks.node]]
    ranks.node_barrier()


def exchange_moves_each_part_to_its_node(ranks: Communicator) -> None:
    """Part i of what a rank sends arrives at its counterpart on node i; parts may differ in length."""
    if ranks.local_rank < ranks.columns:
        nodes = range(len(ranks.nodes))
        send = np.concatenate([np.full(1 + ranks.node + i, 10.0 * ranks.node + i) for i in nodes])
        received = [1 + i + ranks.node for i in nodes]
        receive = np.zeros(sum(received))
        ranks.Exchange(send, [1 + ranks.node + i for i in nodes], receive, received)
        expected = np.concatenate([np.full(1 + i + ranks.node, 10.0 * i + ranks.node) for i in nodes])
        assert receive.tolist() == expected.tolist()


def complete_fills_in_the_other_nodes_parts(ranks: Communicator) -> None:
    """After it, each counterpart has all parts; nothing else of the array is touched."""
    if ranks.local_rank < ranks.columns:
        bounds = [2 + b for b in cut(7, len(ranks.nodes))]
        array = np.full(11, -1.0)
        array[bounds[ranks.node] : bounds[ranks.node + 1]] = ranks.node
        ranks.Complete(array, bounds)
        owners = [i for i in range(len(ranks.nodes)) for _ in range(bounds[i + 1] - bounds[i])]
        assert array.tolist() == [-1, -1, *owners, -1, -1]


def gather_brings_parts_to_rank_0(ranks: Communicator) -> None:
    """Parts of different lengths, none among them, arrive in rank order."""
    counts = list(range(ranks.size))
    whole = ranks.Gather(np.full(ranks.rank, float(ranks.rank)), counts)
    if ranks.rank == 0:
        assert whole is not None
        assert whole.tolist() == [float(rank) for rank in range(ranks.size) for _ in range(rank)]
    else:
        assert whole is None


def an_error_on_one_rank_is_raised_on_all(ranks: Communicator) -> None:
    """What the last rank finds wrong, every rank raises, and all know who found it."""

    def look() -> None:
        with ranks.in_agreement():
            if ranks.rank == ranks.size - 1:
                raise DataError("found here")

    with pytest.raises(DataError, match="found here") as caught:
        look()
    assert caught.value.found_by == ranks.size - 1


def on_rank_0_shares_result_and_error(ranks: Communicator) -> None:
    """The function runs once; its result, or its error, is everybody's."""
    calls: list[int] = []

    def function(value: int) -> int:
        calls.append(value)
        if value < 0:
            raise DataError("negative")
        return value + ranks.rank

    assert ranks.on_rank_0(function, 5) == 5
    assert len(calls) == (1 if ranks.rank == 0 else 0)
    with pytest.raises(DataError, match="negative"):
        ranks.on_rank_0(function, -1)
