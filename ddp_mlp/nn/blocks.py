"""Functions of one block of numbers that serve arrays of any shape, with memory for what they form on the way.

Invariants:
- a block's memory belongs to the thread that computes it, is made once, and stays in the second cache;
- `out` may be the array that is read; an element's result depends on that element alone.
"""

import threading
from collections.abc import Callable
from functools import lru_cache, partial, update_wrapper
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddp_mlp.nn.formulas import BlockRoom, Formula

Block: TypeAlias = NDArray[np.float64]

BLOCK = 8192
"""Elements at a time."""
ROOM = 10
"""Vectors that a function may need."""
LINE = 8
"""Elements of a cache line: each vector starts on one."""


class Rooms(threading.local):
    """The calling thread's room, for blocks of any length."""

    def __init__(self) -> None:
        memory = room_memory(BLOCK, ROOM)
        self.of = lru_cache(maxsize=64)(partial(room_in, memory, count=ROOM))
        """of(n) → ROOM vectors (n,)."""


def room_memory(n: int, count: int) -> Block:
    """Return memory for so many vectors (n,), from the beginning of a cache line on."""
    memory = np.empty((n + LINE) * count + LINE)
    return memory[-memory.ctypes.data % (8 * LINE) // 8 :]


def room_in(memory: Block, n: int, count: int) -> BlockRoom:
    """Return so many vectors (n,) of this memory."""
    apart = max(1, -(-n // LINE)) * LINE
    vectors = [memory[start : start + n] for start in range(0, count * apart, apart)]
    return BlockRoom(vectors, [vector.view(np.int64) for vector in vectors])


ROOMS = Rooms()


class Usual(NamedTuple):
    """What a function is where all numbers of a block are usual ones."""

    low: float
    high: float
    formula: Formula
    """The function of low ≤ x ≤ high."""

    def holds(self, x: Block) -> bool:
        """Tell whether low ≤ x ≤ high for all; not where one is NaN."""
        return bool(np.minimum.reduce(x) >= self.low and np.maximum.reduce(x) <= self.high)


class BlockFunction:
    """A function of one contiguous block that serves arrays of any shape, layout and size."""

    def __init__(self, function: Callable[[Block, Block, BlockRoom], None], usual: Usual | None = None) -> None:
        """function(x, out, room) has what is not `usual`; it writes out last, which may be x."""
        self._function, self._usual = function, usual
        self.__name__: str
        update_wrapper(self, function)

    def __reduce__(self) -> str:
        """Be pickled by name, as functions are."""
        return self.__name__

    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Return the function of each element, in `out` where it is given: of any type and layout."""
        values = np.asarray(x, np.float64)
        result = np.empty(values.shape) if out is None else out
        flat, size = values.ravel(), values.size
        direct = result.dtype == np.float64 and result.flags.c_contiguous
        target = result.reshape(-1) if direct else np.empty(size)
        if 0 < size <= BLOCK:
            self._set(flat, target)
        else:
            for start in range(0, size, BLOCK):
                self._set(flat[start : start + BLOCK], target[start : start + BLOCK])
        if not direct:
            with np.errstate(all="ignore"):
                result[...] = target.reshape(result.shape)
        return result

    def _set(self, x: Block, out: Block) -> None:
        room, usual = ROOMS.of(len(x)), self._usual
        if usual is not None and usual.holds(x):
            usual.formula(x, out, room)
        else:
            self._function(x, out, room)

    def on(self, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], object]:
        """Return function(x, out=out) as a call that finds all prepared, for arrays that stay where they are.

        It is one thread's at a time. A large array is as well served by the function itself.
        """
        usual, plain = self._usual, all(a.dtype == np.float64 and a.flags.c_contiguous for a in (x, out))
        if usual is None or not plain or not 0 < x.size <= BLOCK:
            return partial(self, x, out=out)
        flat, target, (low, high, formula) = x.reshape(-1), out.reshape(-1), usual
        room = room_in(room_memory(x.size, formula.vectors), x.size, formula.vectors)
        calls, otherwise = formula.on(flat, target, room), partial(self, x, out=out)

        def prepared() -> None:
            if np.minimum.reduce(flat) >= low and np.maximum.reduce(flat) <= high:
                for function, a, b, result in calls:
                    function(a, b, result)
            else:
                otherwise()

        return prepared


def in_blocks(usual: Usual | None = None) -> Callable[[Callable[[Block, Block, BlockRoom], None]], BlockFunction]:
    """Let the function that follows serve any array; where a block is `usual`, its formula does."""
    return lambda function: BlockFunction(function, usual)
