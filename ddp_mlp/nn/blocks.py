"""Functions of one block of numbers that serve arrays of any shape, with memory for what they form on the way.

Invariants:
- a block's memory belongs to the thread that computes it, is made once, and stays in the second cache;
- `out` may be the array that is read; an element's result depends on that element alone.
"""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Block: TypeAlias = NDArray[np.float64]
Room: TypeAlias = Sequence[Block]
"""Vectors as long as the block, for what a function forms on the way."""

BLOCK = 8192
"""Elements at a time."""
ROOM = 10
"""Vectors that a function may need."""
LINE = 8
"""Elements of a cache line: each vector starts on one."""


class Rooms(threading.local):
    """The calling thread's room, for blocks of any length."""

    def __init__(self) -> None:
        memory = np.empty(ROOM * BLOCK + LINE)
        self._memory = memory[-memory.ctypes.data % (8 * LINE) // 8 :]
        self.of = lru_cache(maxsize=64)(self._cut)
        """of(n) → ROOM vectors (n,)."""

    def _cut(self, n: int) -> Room:
        apart = max(1, -(-n // LINE)) * LINE
        return tuple(self._memory[start : start + n] for start in range(0, ROOM * apart, apart))


ROOMS = Rooms()


def in_blocks(function: Callable[[Block, Block, Room], None]) -> Callable[..., NDArray[np.float64]]:
    """Let function(x, out, room) of one contiguous block serve arrays of any shape, layout and size.

    It must not read x once it has begun to write out, which may be x; nor call what this returns.
    """

    @wraps(function)
    def whole(x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[np.float64]:
        values = np.asarray(x, np.float64)
        result = np.empty(values.shape) if out is None else out
        flat, size = values.ravel(), values.size
        direct = result.dtype == np.float64 and result.flags.c_contiguous
        target = result.reshape(-1) if direct else np.empty(size)
        if 0 < size <= BLOCK:
            function(flat, target, ROOMS.of(size))
        else:
            for start in range(0, size, BLOCK):
                stop = min(start + BLOCK, size)
                function(flat[start:stop], target[start:stop], ROOMS.of(stop - start))
        if not direct:
            with np.errstate(all="ignore"):
                result[...] = target.reshape(result.shape)
        return result

    return whole
