"""The ranks over MPI: the only module that imports mpi4py, and only when ranks are connected."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError, EnvironmentMismatch
from ddp_mlp.parallel.communicator import PAGE, Communicator, zeros_on_a_page
from ddp_mlp.parallel.launcher import LAUNCHED_SIZE, is_launched, launched_size
from ddp_mlp.parallel.single import SingleProcess

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Intracomm

T = TypeVar("T")
GOODBYE_SECONDS = 0.3
"""Between the last line of output and the end of a job: launchers drop what they have not read by then."""
LETTER = 7
"""The tag of what `post` sends; nothing else goes from rank to rank on that communicator."""
ABORT_SECONDS, FINALIZE_SECONDS = 3, 10
"""How long MPI_Abort and MPI_Finalize may take, before the process ends without them."""


@final
class MPIRanks(Communicator):
    """The ranks of MPI.COMM_WORLD (or of another communicator), numbered node by node."""

    def __init__(self, world: Any, node_size: int | None = None) -> None:
        """Renumber the ranks of `world`; with node_size, take nodes to have at most that many ranks. Collective."""
        from mpi4py import MPI

        self._MPI = MPI
        self.library = _library(MPI)
        node = world.Split_type(MPI.COMM_TYPE_SHARED, key=world.rank)
        if node_size is not None:
            machine, node = node, node.Split(node.rank // node_size, key=node.rank)
            machine.Free()
        leader = node.bcast(world.rank)
        self._world = world.Split(0, key=leader * world.size + node.rank)
        self._node = node
        self.rank, self.size = self._world.rank, self._world.size
        leaders = self._world.allgather(leader)
        starts = [r for r in range(self.size) if r == 0 or leaders[r] != leaders[r - 1]]
        self.nodes = [range(lo, hi) for lo, hi in zip(starts, [*starts[1:], self.size], strict=True)]
        self.node = max(i for i, lo in enumerate(starts) if lo <= self.rank)
        column = self.local_rank if self.local_rank < self.columns else MPI.UNDEFINED
        self._column = self._world.Split(column, key=self.node)
        self._windows: list[Any] = []
        self._node_size = node_size
        self._on_their_way: list[Any] = []

    def broadcast(self, value: T) -> T:
        return self._world.bcast(value)  # type: ignore[no-any-return]

    def allgather(self, value: T) -> list[T]:
        return self._world.allgather(value)  # type: ignore[no-any-return]

    def barrier(self) -> None:
        self._world.Barrier()

    def share(self, count: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        counts = self._node.allgather(count)
        if len(counts) == 1:
            return [zeros_on_a_page(count, dtype)]
        size = -(-count * dtype.itemsize // PAGE) * PAGE
        window = self._MPI.Win.Allocate_shared(size, 1, comm=self._node)
        window.Lock_all(self._MPI.MODE_NOCHECK)
        self._windows.append(window)
        arrays = [
            np.asarray(window.Shared_query(local_rank)[0], np.uint8)[: n * dtype.itemsize].view(dtype)
            for local_rank, n in enumerate(counts)
        ]
        arrays[self._node.rank][...] = 0
        self.node_barrier()
        return arrays

    def node_barrier(self) -> None:
        if self._windows:
            self._windows[-1].Sync()
            self._node.Barrier()
            self._windows[-1].Sync()
        elif self._node.size > 1:
            self._node.Barrier()

    def Exchange(self, send: NDArray[Any], sent: Sequence[int], receive: NDArray[Any], received: Sequence[int]) -> None:
        self._column.Alltoallv(
            [send.view(np.uint8), _bytes(sent, send)], [receive.view(np.uint8), _bytes(received, receive)]
        )

    def Swap(self, node: int, send: NDArray[Any], receive: NDArray[Any]) -> None:
        self._column.Sendrecv(send.view(np.uint8), node, recvbuf=receive.view(np.uint8), source=node)

    def Complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        counts = _bytes(np.diff(bounds), array)
        displacements = _bytes(bounds[:-1], array)
        self._column.Allgatherv(self._MPI.IN_PLACE, [array.view(np.uint8), counts, displacements, self._MPI.BYTE])

    def Gather(self, part: NDArray[Any], counts: Sequence[int]) -> NDArray[Any] | None:
        whole = np.empty(sum(counts), part.dtype) if self.rank == 0 else None
        receive = None if whole is None else [whole.view(np.uint8), _bytes(counts, part)]
        self._world.Gatherv(np.ascontiguousarray(part).view(np.uint8), receive)
        return whole

    def Allreduce(self, array: NDArray[Any]) -> None:
        self._world.Allreduce(self._MPI.IN_PLACE, array, op=self._MPI.SUM)

    def split(self, color: int | None) -> Communicator | None:
        if (level := self._MPI.Query_thread()) < self._MPI.THREAD_MULTIPLE:
            raise EnvironmentMismatch(
                f"{self.library} was started with thread level {level}: groups of ranks need MPI_THREAD_MULTIPLE, "
                "which mpi4py asks for unless mpi4py.rc says otherwise"
            )
        part = self._world.Split(self._MPI.UNDEFINED if color is None else color, key=self.rank)
        if part == self._MPI.COMM_NULL:
            return None
        made = MPIRanks(part, self._node_size)
        part.Free()
        return made

    def post(self, value: Any, rank: int) -> None:
        self._on_their_way = [letter for letter in self._on_their_way if not letter.Test()]
        self._on_their_way.append(self._world.isend(value, rank, LETTER))

    def collect(self) -> tuple[int, Any] | None:
        status = self._MPI.Status()
        letter = self._world.improbe(self._MPI.ANY_SOURCE, LETTER, status)
        return None if letter is None else (status.source, letter.recv())

    def close(self) -> None:
        for window in self._windows:
            window.Unlock_all()
            window.Free()
        self._windows.clear()

    def free(self) -> None:
        for letter in self._on_their_way:
            letter.Wait()
        for communicator in (self._world, self._node, self._column):
            if communicator != self._MPI.COMM_NULL:
                communicator.Free()

    def leave(self, exit_code: int, patience: float | None = None) -> NoReturn:
        with suppress(OSError):  # Python tries again at its end, and reports it; nobody waits for this rank until then
            sys.stdout.flush()
            sys.stderr.flush()
        with _limited(patience, self.abort, exit_code):
            self._world.Barrier()
        # All work is done. Between hosts, MPICH 4.0 over UCX waits here for ever, one job in four on a busy machine.
        # mpi4py's function would let no other thread run, so that the library's own is called.
        with _limited(FINALIZE_SECONDS, _leave_without_mpi, exit_code):
            ctypes.CDLL(self._MPI.__file__).MPI_Finalize()
        sys.exit(exit_code)

    def abort(self, exit_code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(GOODBYE_SECONDS)
        signal.alarm(ABORT_SECONDS)  # the kernel ends this process if the MPI library cannot
        self._MPI.COMM_WORLD.Abort(exit_code)
        os._exit(exit_code)


def connect(environment: Mapping[str, str] = os.environ) -> Communicator:
    """Start MPI, if its library is there, and return the communicator of all ranks. Collective.

    Without a launcher no MPI is started: alone, the program needs none that works. Raises EnvironmentMismatch where the
    launcher started several processes and they do not find one another.
    """
    if not is_launched(environment) and "mpi4py.MPI" not in sys.modules:
        return SingleProcess()
    # Open MPI's wheel offers a shared-memory window component that only complains; the plain one serves.
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")
    launched, name = launched_size(environment)
    try:
        import mpi4py

        if "mpi4py.MPI" not in sys.modules:  # a library under another one's launcher may end the process as it starts
            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if launched == 1:
            return SingleProcess()
        raise EnvironmentMismatch(
            f"{name} = {launched}, but no MPI library was found ({str(error).splitlines()[0]}): "
            'install one, for example pip install "ddp_mlp[mpich]"'
        ) from None
    library = _library(MPI)
    mismatch = f"the launcher does not match the MPI library ({library}): use that library's own mpirun"
    if not MPI.Is_initialized():
        if name == LAUNCHED_SIZE[0] and "MPICH" in library:
            raise EnvironmentMismatch(f"{name} = {launched}, which Open MPI's mpirun sets: {mismatch}")
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    if launched > 1 and MPI.COMM_WORLD.size == 1:
        raise EnvironmentMismatch(
            f"{name} = {launched}, but MPI found a world of 1 process: {mismatch}, or srun --mpi=pmi2 with MPICH"
        )
    if MPI.COMM_WORLD.size == 1:
        return SingleProcess()
    asked = environment.get("DDP_MLP_NODE_SIZE")
    if asked is not None and not (asked.isascii() and asked.isdecimal() and len(asked) < 10 and int(asked) >= 1):
        raise ConfigError(
            f"DDP_MLP_NODE_SIZE = {asked!r}: must be an integer of at least 1, the ranks per node to pretend"
        )
    return MPIRanks(MPI.COMM_WORLD, int(asked) if asked else None)


@contextmanager
def _limited(seconds: float | None, end: Callable[[int], Any], exit_code: int) -> Iterator[None]:
    """Call end(exit_code), in another thread, if the block takes longer than `seconds`; None is no limit."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, end, [exit_code])
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


def _library(MPI: Any) -> str:
    """Return the MPI library's name and version, on one line without runs of blanks."""
    return " ".join(MPI.Get_library_version().splitlines()[0].strip(" ,\0").split())


def _leave_without_mpi(exit_code: int) -> NoReturn:
    """End this process, and with MPICH's mpirun the job, while MPI_Finalize is waiting. Local.

    Hydra takes the code from an abort in the words of PMI-1; from ranks that just exit, it takes 255 now and then. Open
    MPI's mpirun makes 1 of code 0, and may crash.
    """
    if "HYDI_CONTROL_FD" in os.environ:
        os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={exit_code}\n".encode())
        time.sleep(ABORT_SECONDS)  # Hydra is faster
    os._exit(exit_code)


def _bytes(counts: Any, array: NDArray[Any]) -> list[int]:
    return [int(n) * array.itemsize for n in counts]
