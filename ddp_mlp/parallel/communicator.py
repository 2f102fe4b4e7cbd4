"""The ranks of a run, whether they are one process or thousands over MPI: the interface, and what is built on it.

`single.SingleProcess` and `mpi.MPIRanks` implement it; a class that forgets a method cannot be made.

Invariants:
- ranks are numbered node by node: a *node* is the set of ranks that share memory, and its ranks have consecutive
  numbers, whatever order the launcher chose; rank 0 is the launcher's rank 0;
- as in mpi4py, operations in lower case carry any small object, pickled, and those with a capital letter carry the
  bytes of arrays, which every rank has allocated;
- MPI only moves bytes here: no sum of a run's numbers is left to it but for `Allreduce`, which
  `reduction = "allreduce"` asks for by name.
"""

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ProgramError
from ddp_mlp.parallel.host import host_name

T = TypeVar("T")
PAGE = 4096
"""Bytes: shared arrays start on a page of their own."""


class Communicator(ABC):
    """All ranks, seen from one. Methods marked collective are called by every rank, in the same order."""

    rank: int
    size: int
    node: int
    """The number of this rank's node."""
    nodes: Sequence[range]
    """The ranks of every node."""
    library: str
    """The MPI library's name and version."""

    @final
    @property
    def local_rank(self) -> int:
        """The rank's number within its node."""
        return self.rank - self.nodes[self.node].start

    @final
    @property
    def columns(self) -> int:
        """The size of the smallest node: this many ranks of each node have a counterpart in every other node."""
        return min(len(ranks) for ranks in self.nodes)

    # ---- objects: small, pickled, at start-up and between epochs -----------------------------------------------------

    @abstractmethod
    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank. Collective."""

    @abstractmethod
    def allgather(self, value: T) -> list[T]:
        """Return every rank's value, in rank order, on every rank. Collective."""

    @final
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

    @final
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
        for rank, (found, name) in enumerate(self.allgather((error, host_name()))):
            if found is not None:
                raise _agreed(found if len(self.nodes) == 1 else type(found)(f"{found} (rank {rank} on {name})"), rank)

    @abstractmethod
    def barrier(self) -> None:
        """Wait for every rank. Collective."""

    # ---- memory of a node -------------------------------------------------------------------------------------------

    @abstractmethod
    def share(self, count: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        """Give this rank `count` zeros that its whole node can read and write; return every local rank's array.

        The arrays come in the order of the local ranks, one-dimensional and page-aligned; counts may differ from rank
        to rank. They live until `close`. What a rank wrote is seen by the others after the next `node_barrier`.
        Collective.
        """

    @final
    def share_one(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Share one array of `count` zeros in the whole node: as many as its first rank asks for. Collective."""
        return self.share(count if self.local_rank == 0 else 0, dtype)[0]

    @abstractmethod
    def node_barrier(self) -> None:
        """Wait for every rank of the node; all then see what each has written to shared arrays. Collective."""

    # ---- bytes between nodes, among the ranks with the same local rank ----------------------------------------------

    @abstractmethod
    def Exchange(self, send: NDArray[Any], sent: Sequence[int], receive: NDArray[Any], received: Sequence[int]) -> None:
        """Send the i-th part of `send` (sent[i] elements) to node i's counterpart of this rank, and receive likewise.

        Parts follow one another without gaps, in node order. Collective among the counterparts.
        """

    @abstractmethod
    def Swap(self, node: int, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Send all of `send` to a node's counterpart of this rank, and receive its `receive`. Collective of the two."""

    @abstractmethod
    def Complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        """Fill array[bounds[i]:bounds[i+1]] from node i's counterpart of this rank, in place. Collective among them."""

    # ---- bytes between all ranks ------------------------------------------------------------------------------------

    @abstractmethod
    def Gather(self, part: NDArray[Any], counts: Sequence[int]) -> NDArray[Any] | None:
        """Return all ranks' one-dimensional parts, one after the other, on rank 0; None elsewhere. Collective."""

    @abstractmethod
    def Allreduce(self, array: NDArray[Any]) -> None:
        """Replace the array by its sum over all ranks, added in the MPI library's own order. Collective."""

    # ---- some of the ranks, and letters between any two -------------------------------------------------------------

    @abstractmethod
    def split(self, color: int | None) -> "Communicator | None":
        """Return the ranks with this rank's color, in this order, as ranks of their own; None for color None.

        Collective. Nodes are as here; `abort` ends all ranks, not those of the color alone.
        """

    @abstractmethod
    def apart(self) -> "Communicator":
        """Return the same ranks, in this order, each on a node of its own: they share no memory. Collective."""

    @abstractmethod
    def post(self, value: Any, rank: int) -> None:
        """Send a small object to a rank and return at once. Local; letters of one sender arrive in their order."""

    @abstractmethod
    def collect(self) -> tuple[int, Any] | None:
        """Return the sender and the object of a letter to this rank, or None where none has come. Local, at once."""

    # ---- the end ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Give back the shared arrays. Collective."""

    @abstractmethod
    def free(self) -> None:
        """Give back MPI's communicators, of which there is a limited number; this one is of no use then. Collective."""

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close where all ranks leave together; after an error that this rank alone may have met, nobody would come."""
        if error is None or (isinstance(error, ProgramError) and error.found_by is not None):
            self.close()

    @abstractmethod
    def leave(self, exit_code: int, patience: float | None = None) -> NoReturn:
        """Exit with the code once all ranks have come here. Collective.

        After `patience` seconds without one, end all ranks with the code; in place of 0, with that of Interrupted.
        """

    @abstractmethod
    def abort(self, exit_code: int) -> NoReturn:
        """End all ranks at once with the exit code. Local: the others need not take part."""


@contextmanager
def sharing(communicator: Communicator, shared: bool) -> Iterator[Communicator]:
    """Yield the ranks with the memory of their nodes or, where they are not to share it, apart. Collective."""
    if shared or len(communicator.nodes) == communicator.size:
        yield communicator
        return
    ranks = communicator.apart()
    try:
        yield ranks
    except ProgramError as error:
        if error.found_by is not None:
            ranks.free()
        raise
    ranks.free()


def end_on_exception(communicator: Communicator, debug: bool = False) -> NoReturn:
    """End all ranks because of the exception being handled, which this rank alone may have met. Local."""
    error = sys.exception()
    if isinstance(error, ProgramError) and not debug:
        print(f"error: {error}", file=sys.stderr)
        communicator.abort(error.exit_code)
    prefix = f"rank {communicator.rank} on {host_name()}: " if communicator.size > 1 else ""
    print(f"{prefix}{''.join(traceback.format_exception(error))}", file=sys.stderr, end="")
    communicator.abort(error.exit_code if isinstance(error, ProgramError) else 1)


def zeros_on_a_page(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `count` zeros of this process's own memory, page-aligned, as `share` has them."""
    raw = np.zeros(count * dtype.itemsize + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + count * dtype.itemsize].view(dtype)


def _agreed(error: ProgramError, rank: int) -> ProgramError:
    """Mark an error as known to every rank, so that all end by themselves and the rank that found it says so."""
    error.found_by = rank
    return error
