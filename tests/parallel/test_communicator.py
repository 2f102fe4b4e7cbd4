"""Tests of the ranks as one interface; those marked mpi run inside any number of ranks."""

from collections.abc import Iterator

import numpy as np
import pytest

from ddp_mlp.errors import ConfigError, DataError, EnvironmentMismatch
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.launcher import launched_rank
from ddp_mlp.parallel.mpi import MPIRanks, connect
from ddp_mlp.parallel.single import SingleProcess
from tests.checks import ranks as checks

F64 = np.dtype(np.float64)


@pytest.fixture(params=[None, 1, 2], ids=lambda n: f"node_size={n}")
def ranks(request: pytest.FixtureRequest) -> Iterator[Communicator]:
    """All ranks, on nodes of 1, 2 or all ranks."""
    from mpi4py import MPI

    made = MPIRanks(MPI.COMM_WORLD, request.param)
    yield made
    made.close()
    made.free()


@pytest.mark.mpi
def test_communicators_are_given_back() -> None:
    """MPICH has no more than 2,048 of them for a process; each of these takes four."""
    from mpi4py import MPI

    for _ in range(1100):
        MPIRanks(MPI.COMM_SELF, 1).free()


@pytest.mark.mpi
def test_ranks_are_numbered_node_by_node(ranks: Communicator) -> None:
    """The nodes' ranks follow one another, and every rank finds itself on its node."""
    checks.ranks_are_numbered_node_by_node(ranks)


@pytest.mark.mpi
def test_shared_arrays_are_seen_by_the_whole_node(ranks: Communicator) -> None:
    """Arrays start as zeros on a page of their own, and what one rank writes its neighbours read."""
    checks.shared_arrays_are_seen_by_the_whole_node(ranks)


@pytest.mark.mpi
def test_exchange_moves_each_part_to_its_node(ranks: Communicator) -> None:
    """Part i of what a rank sends arrives at its counterpart on node i; parts may differ in length."""
    checks.exchange_moves_each_part_to_its_node(ranks)


@pytest.mark.mpi
def test_complete_fills_in_the_other_nodes_parts(ranks: Communicator) -> None:
    """After it, each counterpart has all parts; nothing else of the array is touched."""
    checks.complete_fills_in_the_other_nodes_parts(ranks)


@pytest.mark.mpi
def test_gather_brings_parts_to_rank_0(ranks: Communicator) -> None:
    """Parts of different lengths, none among them, arrive in rank order."""
    checks.gather_brings_parts_to_rank_0(ranks)


@pytest.mark.mpi
def test_an_error_on_one_rank_is_raised_on_all(ranks: Communicator) -> None:
    """What the last rank finds wrong, every rank raises, and all know who found it."""
    checks.an_error_on_one_rank_is_raised_on_all(ranks)


@pytest.mark.mpi
def test_on_rank_0_shares_result_and_error(ranks: Communicator) -> None:
    """The function runs once; its result, or its error, is everybody's."""
    checks.on_rank_0_shares_result_and_error(ranks)


def test_a_class_that_forgets_a_method_cannot_be_made() -> None:
    """Whatever a communicator must do has no default that would act as one process in silence."""
    methods = {name: getattr(SingleProcess, name) for name in Communicator.__abstractmethods__}
    assert type("Whole", (Communicator,), methods)
    for name in methods:
        partly = type("Partly", (Communicator,), {other: methods[other] for other in methods if other != name})
        with pytest.raises(TypeError, match=f"abstract method '?{name}"):
            partly()
    does_something = {"on_rank_0", "in_agreement", "share_one", "local_rank", "columns"}  # made of the others
    public = {name for name in vars(Communicator) if not name.startswith("_")}
    assert public == Communicator.__abstractmethods__ | does_something


def test_one_process_has_the_same_interface() -> None:
    """Without MPI, every collective is what it is for one rank."""
    one = SingleProcess()
    assert one.allgather(3) == [3]
    assert one.broadcast("x") == "x"
    shared = one.share(5, F64)
    assert [array.tolist() for array in shared] == [[0] * 5]
    assert shared[0].ctypes.data % 4096 == 0
    gathered = one.Gather(np.arange(3.0), [3])
    assert gathered is not None
    assert gathered.tolist() == [0, 1, 2]
    receive = np.zeros(2)
    one.Exchange(np.array([1.0, 2.0]), [2], receive, [2])
    assert receive.tolist() == [1, 2]
    with pytest.raises(DataError, match="no good"):
        one.on_rank_0(_refuse)


def _refuse() -> None:
    raise DataError("no good")


def test_launched_rank_is_known_before_mpi_starts() -> None:
    """The launchers' variables tell a process its rank; without one it is 0."""
    assert launched_rank({}) == 0
    assert launched_rank({"PMI_RANK": "3"}) == 3
    assert launched_rank({"OMPI_COMM_WORLD_RANK": "2", "SLURM_PROCID": "7"}) == 2


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_launcher_without_an_mpi_library_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes that cannot find one another would each train alone: exit 78, with the remedy."""
    monkeypatch.setitem(__import__("sys").modules, "mpi4py", None)
    with pytest.raises(EnvironmentMismatch, match=f"{name} = 4, but no MPI library was found.*pip install"):
        connect({name: "4"})
    assert type(connect({name: "1"})) is SingleProcess


@pytest.mark.mpi
def test_a_node_size_that_is_no_number_is_refused() -> None:
    """DDP_MLP_NODE_SIZE is checked like any other setting."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.size > 1:
        with pytest.raises(ConfigError, match="DDP_MLP_NODE_SIZE = 'two'"):
            connect({"DDP_MLP_NODE_SIZE": "two"})


@pytest.mark.mpi
def test_parts_are_worlds_of_their_own(ranks: Communicator) -> None:
    """Every third rank is in none; the others, by parity, exchange and share among themselves, in the old order."""
    color = None if ranks.rank % 3 == 2 else ranks.rank % 2
    part = ranks.split(color)
    assert (part is None) == (color is None)
    if part is not None:
        mine = [rank for rank in range(ranks.size) if rank % 3 != 2 and rank % 2 == color]
        assert part.allgather(ranks.rank) == mine
        assert mine[part.rank] == ranks.rank
        arrays = part.share(1, F64)
        arrays[part.local_rank][...] = ranks.rank
        part.node_barrier()
        assert [array[0] for array in arrays] == [mine[rank] for rank in part.nodes[part.node]]
        part.close()
        part.free()
    assert ranks.split(None) is None


@pytest.mark.mpi
def test_letters_arrive_in_the_order_of_their_sender(ranks: Communicator) -> None:
    """Each rank writes three letters to every rank, itself too; nothing else is in the post."""
    for number in range(3):
        for rank in range(ranks.size):
            ranks.post((number, ranks.rank), rank)
    found: list[tuple[int, tuple[int, int]]] = []
    while len(found) < 3 * ranks.size:
        letter = ranks.collect()
        found += [] if letter is None else [letter]
    assert all(sender == written_by for sender, (_, written_by) in found)
    for rank in range(ranks.size):
        assert [number for sender, (number, _) in found if sender == rank] == [0, 1, 2]
    ranks.barrier()
    assert ranks.collect() is None


def test_one_process_writes_to_itself() -> None:
    """Without MPI: in order, and a part of one rank is one rank."""
    alone = SingleProcess()
    assert alone.collect() is None
    alone.post("a", 0)
    alone.post("b", 0)
    assert [alone.collect(), alone.collect(), alone.collect()] == [(0, "a"), (0, "b"), None]
    assert isinstance(alone.split(3), SingleProcess)
    assert alone.split(None) is None
