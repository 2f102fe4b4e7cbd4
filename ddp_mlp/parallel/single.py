"""One process on its own: rank 0 of 1, without an MPI library."""

import os
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.parallel.communicator import Communicator, zeros_on_a_page

T = TypeVar("T")


@final
class SingleProcess(Communicator):
    """The ranks where there is only this one: every collective returns at once."""

    rank = 0
    size = 1
    node = 0
    nodes = (range(1),)
    library = "none"

    def __init__(self) -> None:
        self._letters: deque[tuple[int, Any]] = deque()

    def broadcast(self, value: T) -> T:
        return value

    def allgather(self, value: T) -> list[T]:
        return [value]

    def barrier(self) -> None:
        pass

    def share(self, count: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        return [zeros_on_a_page(count, dtype)]

    def node_barrier(self) -> None:
        pass

    def Exchange(self, send: NDArray[Any], sent: Sequence[int], receive: NDArray[Any], received: Sequence[int]) -> None:
        receive[: received[0]] = send[: sent[0]]

    def Swap(self, node: int, send: NDArray[Any], receive: NDArray[Any]) -> None:
        receive[...] = send

    def Complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        pass

    def Gather(self, part: NDArray[Any], counts: Sequence[int]) -> NDArray[Any] | None:
        return part.copy()

    def Allreduce(self, array: NDArray[Any]) -> None:
        pass

    def split(self, color: int | None) -> Communicator | None:
        return None if color is None else SingleProcess()

    def apart(self) -> Communicator:
        return SingleProcess()

    def post(self, value: Any, rank: int) -> None:
        self._letters.append((rank, value))

    def collect(self) -> tuple[int, Any] | None:
        return self._letters.popleft() if self._letters else None

    def close(self) -> None:
        pass

    def free(self) -> None:
        pass

    def leave(self, exit_code: int, patience: float | None = None) -> NoReturn:
        sys.exit(exit_code)

    def abort(self, exit_code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
