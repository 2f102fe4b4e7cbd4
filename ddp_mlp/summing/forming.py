"""Sums of terms, in tree order, formed in memory of one's own: terms that other ranks have written are read alone.

A processor that writes a cache line which another has written or read must first take it away from that one, and where
the two share no cache this is dear; reading what another has written is cheap. So a rank writes nothing here but the
result, which lies where no other rank reads, and a block of scratch memory for every sum that waits.

Invariant: which two are added, and which of them is on the left, is what `tree.Additions` says, wherever a sum lies.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.buffers import aligned_empty
from ddp_mlp.nn.calls import Calls
from ddp_mlp.summing.tree import Additions


class Blocks:
    """Scratch memory for sums on their way, blocks of up to `length` elements, made as they are needed."""

    def __init__(self, length: int, dtype: np.dtype[Any]) -> None:
        self._length, self._dtype = length, dtype
        self._blocks: list[NDArray[Any]] = []

    def block(self, number: int, length: int) -> NDArray[Any]:
        """Return the block of this number, as many elements of it as are asked for."""
        while len(self._blocks) <= number:
            self._blocks.append(aligned_empty(self._length, self._dtype))
        return self._blocks[number][:length]


def forming(order: Additions, terms: Sequence[NDArray[Any]], out: NDArray[Any], room: Blocks) -> Calls:
    """Return what sets `out` (n,) to the sum of the terms (n,) each, prepared once to be done again and again.

    `out` may be one of the terms, and is written last. Nothing is done where it is all of the sum, or there is none.
    """
    calls: Calls = []
    waiting: dict[int, int] = {}
    """The block of each sum on its way, by the term on its left."""
    free: list[int] = []
    for i, (left, right) in enumerate(order.pairs):
        a, b = (room.block(waiting[term], len(out)) if term in waiting else terms[term] for term in (left, right))
        if left not in waiting:
            waiting[left] = free.pop() if free else len(waiting)
        is_last = i == len(order.pairs) - 1
        calls.append((np.add, (a, b, out if is_last else room.block(waiting[left], len(out)))))
        if right in waiting:
            free.append(waiting.pop(right))
    if not calls and order.result is not None and not _is(terms[order.result], out):
        calls.append((np.copyto, (out, terms[order.result])))
    return calls


def _is(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two vectors of one length are the same memory."""
    return bool(a.ctypes.data == b.ctypes.data)
