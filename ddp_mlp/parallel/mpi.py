"""The ranks over MPI: the only module that imports mpi4py, and only when ranks are connected."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError, EnvironmentMismatch, Interrupted
from ddp_mlp.parallel import mapping, segments
from ddp_mlp.parallel.barrier import SharedBarrier, flag_bytes
from ddp_mlp.parallel.communicator import PAGE, Communicator, zeros_on_a_page
from ddp_mlp.parallel.host import host_name, places_to_share, shared_memory
from ddp_mlp.parallel.launcher import (
    is_launched,
    launched_by_open_mpi,
    launched_on_node,
    launched_rank,
    launched_size,
)
from ddp_mlp.parallel.leaving import GOODBYE_SECONDS, leave_without_mpi
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.parallel.waiting import limited
from ddp_mlp.units import byte_size

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Intracomm

T = TypeVar("T")
LETTER = 7
"""The tag of what `post` sends; nothing else goes from rank to rank on that communicator."""
START_SECONDS = 300.0
"""How long MPI may take to start, where nobody says how long."""
SEGMENT_BYTES = 1_100_000
"""What MPICH takes of /dev/shm for each rank of a node, as it starts."""
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
        self._fence: Any = None
        self._fast: SharedBarrier | None = None
        self._files_told = False
        self._node_size = node_size
        self._on_their_way: list[Any] = []

    def broadcast(self, value: T) -> T:
        return self._world.bcast(value)  # type: ignore[no-any-return]

    def allgather(self, value: T) -> list[T]:
        return self._world.allgather(value)  # type: ignore[no-any-return]

    def barrier(self) -> None:
        self._world.Barrier()

    def share(self, count: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        if all(len(ranks) == 1 for ranks in self.nodes):
            return [zeros_on_a_page(count, dtype)]
        wanted = [n * dtype.itemsize for n in self._node.allgather(count)]
        is_first = self._fence is None and len(wanted) > 1
        with self.in_agreement():  # every rank of a node comes to the same end
            shared = self._mapped([-(-n // PAGE) * PAGE for n in wanted])
            flags = self._mapped([flag_bytes(len(wanted))] * len(wanted)) if is_first else []
        if is_first:
            self._fence = self._MPI.Win.Allocate_shared(0, 1, comm=self._node)
            self._fence.Lock_all(self._MPI.MODE_NOCHECK)
            self._fast = SharedBarrier(flags, self.local_rank, self._fence.Sync, self._let_mpi_on)
        return [array[:n].view(dtype) for array, n in zip(shared, wanted, strict=True)]

    def _mapped(self, sizes: list[int]) -> list[NDArray[np.uint8]]:
        """Return bytes of these sizes that the ranks of this node share, one after the other. Collective of the node.

        Raises EnvironmentMismatch, on all of them, where there is no room.
        """
        if len(sizes) == 1:
            return [zeros_on_a_page(sizes[0], np.dtype(np.uint8))]
        sizes[0] = max(sizes[0], PAGE)  # no file of nothing can be mapped
        problems: list[str] = []
        for folder in self._node.bcast(places_to_share()):
            shared, problem, path = None, None, self._node.bcast(self._made(folder, sum(sizes)))
            try:
                if isinstance(path, OSError):
                    raise path
                shared = mapping.join(path, sizes, self.local_rank)
            except OSError as error:
                problem = f"{folder}: {error.strerror}"
            found = next(filter(None, self._node.allgather(problem)), None)
            if self.local_rank == 0 and isinstance(path, Path):
                path.unlink(missing_ok=True)
            if found is None and shared is not None:
                self._tell_of_files(folder, problems)
                return shared
            problems.append(str(found))
        raise EnvironmentMismatch(
            f"{byte_size(sum(sizes))} of shared memory are needed on {host_name()} ({'; '.join(problems)}): enlarge "
            "/dev/shm (docker run --shm-size=8g), set TMPDIR to a folder with room, or set shared_memory = off"
        )

    def _made(self, folder: Path, size: int) -> Path | OSError | None:
        """Return a file to share on the first rank of a node, or why there is none; None on the others. Local."""
        try:
            return mapping.make(folder, size) if self.local_rank == 0 else None
        except OSError as error:
            return error

    def _tell_of_files(self, folder: Path, problems: list[str]) -> None:
        """Say once where shared memory lies, where that is not the best place. Local."""
        if problems and self.local_rank == 0 and not self._files_told:
            self._files_told = True
            where = f"what ranks share on {host_name()} lies in files in {folder}"
            print(f"warning: {'; '.join(problems)}: {where}", file=sys.stderr, flush=True)

    def node_barrier(self) -> None:
        if self._fast is not None:
            self._fast.wait()
        elif self._node.size > 1:
            self._node.Barrier()

    def _let_mpi_on(self) -> bool:
        """Let MPI move what is on its way. Local."""
        return self._world.Iprobe(self._MPI.ANY_SOURCE, LETTER)  # type: ignore[no-any-return]

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

    def apart(self) -> Communicator:
        return MPIRanks(self._world, 1)

    def post(self, value: Any, rank: int) -> None:
        self._on_their_way = [letter for letter in self._on_their_way if not letter.Test()]
        self._on_their_way.append(self._world.isend(value, rank, LETTER))

    def collect(self) -> tuple[int, Any] | None:
        status = self._MPI.Status()
        letter = self._world.improbe(self._MPI.ANY_SOURCE, LETTER, status)
        return None if letter is None else (status.source, letter.recv())

    def close(self) -> None:
        if self._fence is not None:  # the arrays themselves go with the last who has them
            self._fence.Unlock_all()
            self._fence.Free()
            self._fence = self._fast = None

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
        with limited(patience, lambda reason: self._never_met(exit_code, reason)):
            self._world.Barrier()
        # All work is done. Between hosts, MPICH 4.0 over UCX waits here for ever, one job in four on a busy machine.
        # mpi4py's function would let no other thread run, so that the library's own is called.
        with limited(FINALIZE_SECONDS, lambda _: leave_without_mpi(exit_code)):
            ctypes.CDLL(self._MPI.__file__).MPI_Finalize()
        sys.exit(exit_code)

    def _never_met(self, exit_code: int, reason: str) -> NoReturn:
        """End all ranks, of which one has not come to the end: with the exit code, if that tells of trouble. Local."""
        if exit_code == 0:
            exit_code = Interrupted.exit_code
            time.sleep(min(2 * GOODBYE_SECONDS * self.rank, 3.0))  # the first abort ends the others
            where = f"rank {self.rank} on {host_name()}"
            print(f"error: {where}: all is done, but another rank has not come to the end: {reason}", file=sys.stderr)
        self.abort(exit_code)

    def abort(self, exit_code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(GOODBYE_SECONDS)
        signal.alarm(ABORT_SECONDS)  # the kernel ends this process if the MPI library cannot
        self._MPI.COMM_WORLD.Abort(exit_code)
        os._exit(exit_code)


def connect(environment: Mapping[str, str] = os.environ, patience: float = START_SECONDS) -> Communicator:
    """Start MPI, if its library is there, and return the communicator of all ranks. Collective.

    Without a launcher no MPI is started: alone, the program needs none that works. Raises EnvironmentMismatch where the
    launcher started several processes and they do not find one another, or /dev/shm is too small for MPI. Ends the
    process where the others are not there after `patience` seconds (0: waits for ever), or the launcher is gone.
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
    with limited(patience, _give_up, with_parent=True):
        return _meet(MPI, environment, launched, name)


def _meet(MPI: Any, environment: Mapping[str, str], launched: int, name: str | None) -> Communicator:
    """Start MPI, unless somebody has, and return the communicator of all ranks. Collective."""
    library = _library(MPI)
    mismatch = f"the launcher does not match the MPI library ({library}): use that library's own mpirun"
    if not MPI.Is_initialized():
        if launched_by_open_mpi(environment) and "MPICH" in library:
            raise EnvironmentMismatch(f"{name} = {launched}, which Open MPI's mpirun sets: {mismatch}")
        _make_room(library, environment)
        # mpi4py's function would let no other thread run, so that the library's own is called.
        ctypes.CDLL(MPI.__file__).MPI_Init_thread(None, None, MPI.THREAD_MULTIPLE, ctypes.byref(ctypes.c_int()))
        for communicator in (MPI.COMM_WORLD, MPI.COMM_SELF):
            communicator.Set_errhandler(MPI.ERRORS_RETURN)
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


def _make_room(library: str, environment: Mapping[str, str]) -> None:
    """Remove what dead jobs have left in /dev/shm, and see that MPI has room there: else it dies of a bus error. Local.

    Every process looks, so that none starts MPI where there is no room; what others of the job have taken shows by the
    segment that they have made.
    """
    rank, size = launched_on_node(environment) or (0, 0)
    if rank == 0:
        segments.remove_dead()
    needed, free = size * SEGMENT_BYTES, shared_memory().free
    if "MPICH" not in library or free >= needed or segments.any_young():
        return
    time.sleep(min(0.02 * launched_rank(environment), 2.0))
    if rank == 0:
        room = f"{byte_size(free)} are free on {host_name()}, and MPI takes {byte_size(needed)}"
        do = "enlarge it (docker run --shm-size=8g), or remove what lies there"
        print(f"error: /dev/shm is too small: {room}: {do}", file=sys.stderr, flush=True)
    else:
        time.sleep(1.0)
    leave_without_mpi(EnvironmentMismatch.exit_code)


def _give_up(reason: str) -> NoReturn:
    """End this process, for which MPI has not started; the first one that can says so. Local."""
    rank = launched_rank()
    time.sleep(min(2 * GOODBYE_SECONDS * rank, 3.0))  # the first exit ends the job, where the launcher still lives
    where = f"rank {rank} on {host_name()}"
    look = "look whether every rank runs, and every host answers; then start again"
    with suppress(OSError):
        os.write(2, f"error: {where}: MPI has not started ({reason}): {look}\n".encode())
    leave_without_mpi(Interrupted.exit_code)


def _library(MPI: Any) -> str:
    """Return the MPI library's name and version, on one line without runs of blanks."""
    return " ".join(MPI.Get_library_version().splitlines()[0].strip(" ,\0").split())


def _bytes(counts: Any, array: NDArray[Any]) -> list[int]:
    return [int(n) * array.itemsize for n in counts]
