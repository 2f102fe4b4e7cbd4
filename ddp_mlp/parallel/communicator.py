"""The ranks of a run, whether they are one process or thousands over MPI: the only module that imports mpi4py.

Ranks are numbered node by node: a *node* is the set of ranks that share memory, and its ranks have consecutive numbers,
whatever order the launcher chose. Rank 0 is the launcher's rank 0. `Communicator` is the interface and, at the same
time, its single-process form, which needs no MPI library; `MPICommunicator` is the same over MPI.

MPI only moves bytes here. No sum of a run's numbers is left to it, but for `sum_in_place`, which `reduction =
"allreduce"` asks for by name.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError, EnvironmentMismatch, ProgramError
from ddp_mlp.parallel.launcher import LAUNCHED_SIZE as LAUNCHED_SIZE
from ddp_mlp.parallel.launcher import launched_rank as launched_rank
from ddp_mlp.parallel.launcher import launched_size

T = TypeVar("T")
GOODBYE_SECONDS = 0.3
"""Between the last line of output and the end of a job: launchers drop what they have not read by then."""
ABORT_SECONDS, FINALIZE_SECONDS = 3, 10
"""How long MPI_Abort and MPI_Finalize may take, before the process ends without them."""
PAGE = 4096
"""Bytes: shared arrays start on a page of their own."""


class Communicator:
    """One process on its own: rank 0 of 1. Methods marked collective are called by every rank, in the same order."""

    rank = 0
    size = 1
    node = 0
    """The number of this rank's node."""
    nodes: Sequence[range] = (range(1),)
    """The ranks of every node."""
    library = "none"
    """The MPI library's name and version."""

    @property
    def local_rank(self) -> int:
        """The rank's number within its node."""
        return self.rank - self.nodes[self.node].start

    @property
    def columns(self) -> int:
        """The size of the smallest node: so many ranks of each node have a counterpart in every other node."""
        return min(len(ranks) for ranks in self.nodes)

    # ---- objects: small, pickled, at start-up and between epochs -----------------------------------------------------

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank. Collective."""
        return value

    def allgather(self, value: T) -> list[T]:
        """Return every rank's value, in rank order, on every rank. Collective."""
        return [value]

    def on_rank_0(self, function: Callable[..., T], *args: Any) -> T:
        """Call function(*args) on rank 0 alone; all ranks return its result, or raise its ProgramError. Collective."""
        result, error = None, None
        if self.rank == 0:
            try:
                result = function(*args)
            except ProgramError as raised:
                error = raised
        result, error = self.broadcast((result, error))
        if error is not None:
            raise _agreed(error, 0)
        return result  # type: ignore[return-value] # None only where the function returns None

    @contextmanager
    def in_agreement(self) -> Iterator[None]:
        """Let the ranks do what may fail on any of them: all leave normally, or all with the first rank's ProgramError.

        The end of the block is collective; the block itself must not be.
        """
        error = None
        try:
            yield
        except ProgramError as raised:
            error = raised
        for rank, (found, name) in enumerate(self.allgather((error, host()))):
            if found is not None:
                raise _agreed(found if len(self.nodes) == 1 else type(found)(f"{found} (rank {rank} on {name})"), rank)

    def barrier(self) -> None:
        """Wait for every rank. Collective."""

    # ---- memory of a node -------------------------------------------------------------------------------------------

    def share(self, count: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        """Give this rank `count` zeros that its whole node can read and write; return every local rank's array.

        The arrays come in the order of the local ranks, one-dimensional and page-aligned; counts may differ from rank
        to rank. They live until `close`. What a rank wrote is seen by the others after the next `node_barrier`.
        Collective.
        """
        return [_page_aligned_zeros(count, dtype)]

    def share_one(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Share one array of `count` zeros in the whole node: as many as its first rank asks for. Collective."""
        return self.share(count if self.local_rank == 0 else 0, dtype)[0]

    def node_barrier(self) -> None:
        """Wait for every rank of the node; all then see what each has written to shared arrays. Collective."""

    # ---- bytes between nodes, among the ranks with the same local rank ----------------------------------------------

    def exchange(self, send: NDArray[Any], sent: Sequence[int], receive: NDArray[Any], received: Sequence[int]) -> None:
        """Send the i-th part of `send` (sent[i] elements) to node i's counterpart of this rank, and receive likewise.

        Parts follow one another without gaps, in node order. Collective among the counterparts.
        """
        receive[: received[0]] = send[: sent[0]]

    def swap(self, node: int, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Send all of `send` to a node's counterpart of this rank, and receive its `receive`. Collective of the two."""
        receive[...] = send

    def complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        """Fill array[bounds[i]:bounds[i+1]] from node i's counterpart of this rank, in place. Collective among them."""

    # ---- bytes between all ranks ------------------------------------------------------------------------------------

    def gather(self, part: NDArray[Any], counts: Sequence[int]) -> NDArray[Any] | None:
        """Return all ranks' one-dimensional parts, one after the other, on rank 0; None elsewhere. Collective."""
        return part.copy()

    def sum_in_place(self, array: NDArray[Any]) -> None:
        """Replace the array by its sum over all ranks, added in the MPI library's own order. Collective."""

    def close(self) -> None:
        """Give back the shared arrays. Collective."""

    def free(self) -> None:
        """Give back MPI's communicators, of which there are only so many; no use of this one afterwards. Collective."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close where all ranks leave together; after an error that this rank alone may have met, nobody would come."""
        if error is None or (isinstance(error, ProgramError) and error.found_by is not None):
            self.close()

    def leave(self, exit_code: int, patience: float | None = None) -> NoReturn:
        """Exit with the code once all ranks have come here, or after `patience` seconds without one. Collective."""
        sys.exit(exit_code)

    def abort(self, exit_code: int) -> NoReturn:
        """End all ranks at once with the exit code. Local: the others need not take part."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


class MPICommunicator(Communicator):
    """The ranks of MPI.COMM_WORLD (or of another communicator), numbered node by node."""

    def __init__(self, world: Any, node_size: int | None = None) -> None:
        """Renumber the ranks of `world`; with node_size, take nodes to have so many ranks at most. Collective."""
        from mpi4py import MPI

        self._MPI = MPI
        self.library = MPI.Get_library_version().splitlines()[0].strip(" ,\0")
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

    def broadcast(self, value: T) -> T:
        return self._world.bcast(value)  # type: ignore[no-any-return]

    def allgather(self, value: T) -> list[T]:
        return self._world.allgather(value)  # type: ignore[no-any-return]

    def barrier(self) -> None:
        self._world.Barrier()

    def share(self, count: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        counts = self._node.allgather(count)
        if len(counts) == 1:
            return super().share(count, dtype)
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

    def exchange(self, send: NDArray[Any], sent: Sequence[int], receive: NDArray[Any], received: Sequence[int]) -> None:
        self._column.Alltoallv(
            [send.view(np.uint8), _bytes(sent, send)], [receive.view(np.uint8), _bytes(received, receive)]
        )

    def swap(self, node: int, send: NDArray[Any], receive: NDArray[Any]) -> None:
        self._column.Sendrecv(send.view(np.uint8), node, recvbuf=receive.view(np.uint8), source=node)

    def complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        counts = _bytes(np.diff(bounds), array)
        displacements = _bytes(bounds[:-1], array)
        self._column.Allgatherv(self._MPI.IN_PLACE, [array.view(np.uint8), counts, displacements, self._MPI.BYTE])

    def gather(self, part: NDArray[Any], counts: Sequence[int]) -> NDArray[Any] | None:
        whole = np.empty(sum(counts), part.dtype) if self.rank == 0 else None
        receive = None if whole is None else [whole.view(np.uint8), _bytes(counts, part)]
        self._world.Gatherv(np.ascontiguousarray(part).view(np.uint8), receive)
        return whole

    def sum_in_place(self, array: NDArray[Any]) -> None:
        self._world.Allreduce(self._MPI.IN_PLACE, array, op=self._MPI.SUM)

    def close(self) -> None:
        for window in self._windows:
            window.Unlock_all()
            window.Free()
        self._windows.clear()

    def free(self) -> None:
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

    Raises EnvironmentMismatch where the launcher started several processes and they do not find one another.
    """
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
            return Communicator()
        raise EnvironmentMismatch(
            f"{name} = {launched}, but no MPI library was found ({str(error).splitlines()[0]}): "
            'install one, for example pip install "ddp_mlp[mpich]"'
        ) from None
    library = MPI.Get_library_version().splitlines()[0].strip(" ,\0")
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
        return Communicator()
    asked = environment.get("DDP_MLP_NODE_SIZE")
    if asked is not None and not (asked.isdigit() and int(asked) >= 1):
        raise ConfigError(
            f"DDP_MLP_NODE_SIZE = {asked!r}: must be an integer of at least 1, the ranks per node to pretend"
        )
    return MPICommunicator(MPI.COMM_WORLD, int(asked) if asked else None)


def host() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def end_on_exception(communicator: Communicator, debug: bool = False) -> NoReturn:
    """End all ranks because of the exception being handled, which this rank alone may have met. Local."""
    error = sys.exception()
    if isinstance(error, ProgramError) and not debug:
        print(f"error: {error}", file=sys.stderr)
        communicator.abort(error.exit_code)
    prefix = f"rank {communicator.rank} on {host()}: " if communicator.size > 1 else ""
    print(f"{prefix}{''.join(traceback.format_exception(error))}", file=sys.stderr, end="")
    communicator.abort(error.exit_code if isinstance(error, ProgramError) else 1)


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


def _leave_without_mpi(exit_code: int) -> NoReturn:
    """End this process, and with MPICH's mpirun the job, while MPI_Finalize is waiting. Local.

    Hydra takes the code from an abort in the words of PMI-1; from ranks that just exit, it takes 255 now and then. Open
    MPI's mpirun makes 1 of code 0, and may crash.
    """
    if "HYDI_CONTROL_FD" in os.environ:
        os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={exit_code}\n".encode())
        time.sleep(ABORT_SECONDS)  # Hydra is faster
    os._exit(exit_code)


def _agreed(error: ProgramError, rank: int) -> ProgramError:
    """Mark an error as known to every rank, so that all end by themselves and the rank that found it says so."""
    error.found_by = rank
    return error


def _bytes(counts: Any, array: NDArray[Any]) -> list[int]:
    return [int(n) * array.itemsize for n in counts]


def _page_aligned_zeros(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    raw = np.zeros(count * dtype.itemsize + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + count * dtype.itemsize].view(dtype)
