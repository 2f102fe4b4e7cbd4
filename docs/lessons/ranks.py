"""The ranks of a lesson: those of mpirun, or this one process alone; the few calls that it needs, all collective."""

from pathlib import Path
from typing import Any, TypeVar

from ddp_mlp.parallel.launcher import launched_size

T = TypeVar("T")
_world: Any = None
if launched_size()[0] > 1:
    from mpi4py import MPI

    _world = MPI.COMM_WORLD

DIGITS = str(Path(__file__).resolve().parents[2] / "data" / "digits.h5")
"""1,797 handwritten digits, which come with the checkout."""

rank: int = _world.rank if _world else 0
size: int = _world.size if _world else 1


def gather(value: T) -> list[T]:
    """Return every rank's value, in rank order, on every rank."""
    return _world.allgather(value) if _world else [value]


def allreduce(array: Any) -> Any:
    """Return the sum of every rank's array, added in the order that the MPI library chooses."""
    if not _world:
        return array.copy()
    total = array.copy()
    _world.Allreduce(array, total)
    return total


def barrier() -> None:
    """Wait for every rank."""
    if _world:
        _world.Barrier()
