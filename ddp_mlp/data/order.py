"""The order in which an epoch takes its rows.

Invariants:
- the order of an epoch is a function of (seed, epoch) and of how `shuffle` is set: not of P, nor of how rows are read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.randomness import Purpose

WINDOW = 16
"""Blocks whose rows are mixed with one another under shuffle = blocks."""


def epoch_order(
    m: int, seed: int, epoch: int, shuffle: str, block_rows: int, arithmetic: Arithmetic = NATIVE
) -> NDArray[np.int64]:
    """Return the order (m,) in which an epoch takes the rows [0, m).

    "rows": any order. "blocks": blocks of block_rows consecutive rows in any order, then rows mixed within each window
    of WINDOW blocks, so that a window's rows come from a few contiguous places. "none": as they are.
    """
    if shuffle == "none":
        return np.arange(m)
    if shuffle == "rows":
        return arithmetic.permutation(m, seed, Purpose.ORDER, epoch)
    return np.concatenate([window.rows() for window in windows(m, seed, epoch, shuffle, block_rows, arithmetic)])


@dataclass(frozen=True)
class Window:
    """Some blocks of rows that an epoch takes one after the other, their rows mixed or as they are."""

    blocks: list[range]
    draw: tuple[int, int, int] | None
    """(seed, epoch, number) of the draw that mixes the rows; None for rows as they are."""
    arithmetic: Arithmetic = NATIVE

    @property
    def size(self) -> int:
        """The number of rows."""
        return sum(map(len, self.blocks))

    def positions(self) -> NDArray[np.int64]:
        """Return the order (size,) in which the rows are taken, counted through the blocks."""
        if self.draw is None:
            return np.arange(self.size)
        seed, epoch, number = self.draw
        return self.arithmetic.permutation(self.size, seed, Purpose.ORDER, epoch, number)

    def rows(self) -> NDArray[np.int64]:
        """Return the row numbers (size,) in the order in which they are taken."""
        return np.concatenate([np.arange(block.start, block.stop) for block in self.blocks])[self.positions()]


def windows(
    m: int, seed: int, epoch: int, shuffle: str, block_rows: int, arithmetic: Arithmetic = NATIVE
) -> Iterator[Window]:
    """Yield the windows of WINDOW blocks (fewer in the last) that make up an epoch of m rows; not for "rows"."""
    count = math.ceil(m / block_rows)
    mixed = shuffle == "blocks"
    order = arithmetic.permutation(count, seed, Purpose.ORDER, epoch) if mixed else np.arange(count)
    for number, start in enumerate(range(0, count, WINDOW), start=1):
        starts = (int(i) * block_rows for i in order[start : start + WINDOW])
        blocks = [range(lo, min(lo + block_rows, m)) for lo in starts]
        yield Window(blocks, (seed, epoch, number) if mixed else None, arithmetic)
