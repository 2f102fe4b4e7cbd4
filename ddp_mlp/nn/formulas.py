"""Formulas of vectors, written down in NumPy's notation, and done as a list of calls that is made once.

A formula is a function of a vector, made of ufuncs of two operands such as + − × ÷, and of views as whole numbers. It
is run once, on `Noted` vectors, which note what is done with them. To do what was noted, on memory that is there, takes
less time than the function itself: nothing is allocated, and the interpreter goes round in one short loop.

Invariants:
- each operation of the formula is one call of one ufunc, in its order;
- a result takes the place of what nothing reads any more, so that few vectors of memory do.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

Vector = NDArray[Any]
FLOAT, WHOLE = np.dtype(np.float64), np.dtype(np.int64)
X = -1
"""The number of a formula's argument; results are numbered from 0."""


class BlockRoom(NamedTuple):
    """Memory for what is formed on the way."""

    vectors: Sequence[NDArray[np.float64]]
    whole: Sequence[NDArray[np.int64]]
    """The same memory as whole numbers."""

    def beside(self, count: int, length: int) -> "BlockRoom":
        """Return the room without its first vectors, and of another length."""
        return BlockRoom([v[:length] for v in self.vectors[count:]], [v[:length] for v in self.whole[count:]])


class Noted(NDArrayOperatorsMixin):
    """A vector of a formula that is being noted: what is done with it is not done, but written down."""

    def __init__(self, calls: "list[Call]", number: int, dtype: np.dtype[Any]) -> None:
        self.calls, self.number, self.dtype = calls, number, dtype

    def view(self, dtype: Any) -> "Noted":
        """Return the same memory as numbers of another type."""
        return Noted(self.calls, self.number, np.dtype(dtype))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **other: Any) -> "Noted":
        """Note a call, and return its result."""
        assert method == "__call__", "reductions and the like are no part of a formula"
        assert not other, "each result is a new one"
        assert len(operands) == 2, "a call has two operands"
        a, b = operands
        result = Noted(self.calls, len(self.calls), np.result_type(a.dtype, b.dtype))
        self.calls.append(Call(ufunc, a, b, result))
        return result


class Call(NamedTuple):
    """One operation of a formula."""

    function: np.ufunc
    a: Any
    """An operand: a noted vector, or a number as an array without dimensions."""
    b: Any
    result: Noted


class Formula:
    """A formula as the list of its calls, for vectors of any length."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        """Note what `function` does: it takes a vector of float64 and returns one."""
        calls: list[Call] = []
        result = function(Noted(calls, X, FLOAT))
        assert calls[-1].result is result, "the last call forms the result"
        vector, self.vectors = vectors_of(calls)
        """`vectors` is how many the room must have."""
        count = 2 + self.vectors  # x and out, and the room
        constants = {id(x): x for call in calls for x in (call.a, call.b) if not isinstance(x, Noted)}
        place = {key: 2 * count + i for i, key in enumerate(constants)}
        self._constants = list(constants.values())

        def place_of(x: Any) -> int:
            return vector[x.number] + count * (x.dtype == WHOLE) if isinstance(x, Noted) else place[id(x)]

        self._calls = [(f, place_of(a), place_of(b), place_of(result)) for f, a, b, result in calls]
        """(function, its two operands, its result), by their places in what `_memory` returns."""

    def __call__(self, x: Vector, out: Vector, room: BlockRoom) -> None:
        """Set out, which may be x, to the formula's value."""
        v = self._memory(x, out, room)
        for function, a, b, result in self._calls:
            function(v[a], v[b], v[result])

    def on(self, x: Vector, out: Vector, room: BlockRoom) -> list[tuple[np.ufunc, Vector, Vector, Vector]]:
        """Return the same as (function, its two operands, its result): calls on these very vectors."""
        v = self._memory(x, out, room)
        return [(function, v[a], v[b], v[result]) for function, a, b, result in self._calls]

    def _memory(self, x: Vector, out: Vector, room: BlockRoom) -> list[Vector]:
        """Return x, out and vectors of the room, then the same as whole numbers, then constants."""
        vectors, whole = room.vectors[: self.vectors], room.whole[: self.vectors]
        assert len(vectors) == self.vectors, "the room is too small"
        return [x, out, *vectors, x.view(WHOLE), out.view(WHOLE), *whole, *self._constants]


def vectors_of(calls: list[Call]) -> tuple[dict[int, int], int]:
    """Return which vector x and each result is, and how many there are besides x and the last result.

    A result takes the vector of an operand that nothing reads any more, or of an earlier such one.
    """
    read = [{x.number for x in (call.a, call.b) if isinstance(x, Noted) and x.number >= 0} for call in calls]
    last = {number: i for i, numbers in enumerate(read) for number in numbers}
    vector = {X: 0, len(calls) - 1: 1}
    free: list[int] = []
    count = 0
    for i, numbers in enumerate(read[:-1]):
        free += [vector[number] for number in sorted(numbers) if last[number] == i]
        if not free:
            free.append(2 + count)
            count += 1
        vector[i] = free.pop()
    return vector, count
