"""Rounding to whole units in blocks of examples that stay in cache, by views and memory that are made once.

Invariants:
- the bits are those of `products.units` and `products.round_to`;
- every operand is a whole vector. NumPy copies what it has to repeat (a bias, a unit) anew for each operation, which
  costs more than the operation: so what is repeated is laid out once, a `tile` for what belongs to rows, `repeated` for
  what belongs to examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.buffers import aligned_empty
from ddp_mlp.nn.products import EXACT, ROUNDING, UNIT_LIMIT, Array

FLOAT64 = np.dtype(np.float64)
BLOCK = 16 * 1024
"""Values of a block: five vectors of them stay in the second cache."""
SHORT, SEVERAL = 192, 8
"""So few values of an example are a short row, and so many of these are looked through together."""
EXPONENT = np.int64(0x7FF << 52)
"""The bits of a float64's exponent: what is left of a number is the power of two at or below its magnitude."""
TO_INFINITY = 2.0 ** (1024 - UNIT_LIMIT)
"""Makes infinity, and so NaN, of what no unit within the limit serves; nothing else overflows."""

LEAST_POWERS = [2.0 ** (bits - UNIT_LIMIT - 1) for bits in range(EXACT)]
"""By the bits of a line: 2^(e − 1) where the line's unit is the smallest in use."""
TO_CONSTANTS = [2.0 ** (1 - bits) / TO_INFINITY * ROUNDING for bits in range(EXACT)]
"""By the bits of a line: what makes its constant of TO_INFINITY · 2^(e − 1)."""


@dataclass(slots=True)
class Block:
    """Some examples of an array (n, m) in Fortran order, k of them, with room for what is done to them."""

    number: int
    """Of the array's blocks, from 0."""
    examples: slice
    columns: Array
    """(n, k)."""
    rows: Array
    """(k, n): an example in each."""
    flat: Array
    """(k n,), as all below but for `starts` and what is (k,) or (k, n); all three are one memory."""
    flat_bits: NDArray[np.int64]
    """The bits of `flat`: those of numbers that are not negative have the same order, and are compared sooner."""
    magnitude: Array
    magnitude_bits: NDArray[np.int64]
    tile: Array
    other_tile: Array
    repeated: Array
    repeated_rows: Array
    """(k, n), the memory of `repeated`."""
    positive: NDArray[np.bool_]
    """(k n,)."""
    starts: NDArray[np.int64]
    """(k,): where in `flat` an example begins."""
    constant: Array
    """(k, 1): of each example, what is added and taken away again to round it."""
    constant_bits: NDArray[np.int64]
    """(k,)."""
    groups: Array
    """(k / j, j n), j of narrow examples side by side: a maximum over rows is the faster the longer they are."""
    magnitude_groups: Array
    """The same of `magnitude`."""
    several: Array
    """(j n,), and below (j, n): the largest of all groups."""
    several_rows: Array
    is_whole: bool
    """Whether it is all of the array."""

    def measure(self, magnitude_bits: NDArray[np.int64], bits: int) -> None:
        """Lay out, in `repeated`, the rounding constants of the examples of a magnitude (k n,), in this many bits."""
        np.maximum.reduceat(magnitude_bits, self.starts, out=self.constant_bits)
        np.bitwise_and(self.constant_bits, EXPONENT, self.constant_bits)
        to_constants(self.constant, LEAST_POWERS[bits], TO_CONSTANTS[bits])
        np.copyto(self.repeated_rows, self.constant)

    def round_examples(self, bits: int, signed: bool) -> None:
        """Round every example, in place, to a unit of its own; `signed` where values may be below zero."""
        if signed:
            np.abs(self.flat, self.magnitude)
        self.measure(self.magnitude_bits if signed else self.flat_bits, bits)
        np.add(self.flat, self.repeated, self.flat)
        np.subtract(self.flat, self.repeated, self.flat)

    def round_rows(self) -> None:
        """Round every row, in place, by the constants that lie in the tile."""
        np.add(self.flat, self.tile, self.flat)
        np.subtract(self.flat, self.tile, self.flat)

    def through_relu(self, A: Array, keep_scale: float) -> None:
        """Turn dA into dA ⊙ [A > 0] · keep_scale, in place, for A (k n,)."""
        np.greater(A, 0.0, out=self.positive)
        np.multiply(self.flat, self.positive, self.flat)
        if keep_scale != 1.0:
            np.multiply(self.flat, keep_scale, self.flat)

    def note(self, high: Array, signed: bool) -> None:
        """Raise high (n,) from zeros to the largest magnitude of every row; if signed, leave all in `magnitude`."""
        if signed:
            np.abs(self.flat, self.magnitude)
        np.maximum.reduce(self.magnitude_groups if signed else self.groups, axis=0, out=self.several)
        if self.is_whole:
            np.maximum.reduce(self.several_rows, axis=0, out=high)
            return
        rows = self.several_rows
        np.maximum(high, rows[0] if len(rows) == 1 else np.maximum.reduce(rows, axis=0), out=high)


def to_constants(powers: Array, least: float | Array, factor: float | Array) -> None:
    """Turn 2^(e − 1) of lines with values below 2^e, in place, into what rounds a line to its unit.

    `least` and `factor` are those of LEAST_POWERS and TO_CONSTANTS for the bits that lines have.
    """
    np.maximum(powers, least, out=powers)
    np.multiply(powers, TO_INFINITY, powers)
    np.multiply(powers, factor, powers)


class Room:
    """The memory that the blocks of all arrays of a pass share: one block is worked on at a time."""

    def __init__(self, heights: Sequence[int], m: int) -> None:
        """Make room for arrays (n, m) of these n."""
        size = max(n * width(n, m) for n in heights)
        self._vectors = [aligned_empty(size, FLOAT64) for _ in range(4)]
        self._positive = np.empty(size, bool)
        most = max(width(n, m) for n in heights)
        widths = {n: width(n, m) for n in heights}
        self._tiles = [{n: v[: k * n].reshape(k, n) for n, k in widths.items()} for v in self._vectors[1:3]]
        """By n, as the blocks of arrays (n, m) have them."""
        self._constant, self._several = np.empty(most), np.empty(SEVERAL * max(heights))

    def blocks(self, x: Array) -> list[Block]:
        """Return the blocks of x (n, m), which is kept, not copied."""
        n, m = x.shape
        step = width(n, m)
        parts = [slice(start, min(start + step, m)) for start in range(0, m, step)]
        return [self._block(x, number, examples) for number, examples in enumerate(parts)]

    def _block(self, x: Array, number: int, examples: slice) -> Block:
        (n, m), k = x.shape, examples.stop - examples.start
        together = SEVERAL if n < SHORT and k % SEVERAL == 0 else 1
        rows = x.T[examples]
        magnitude, tile, other, repeated = (vector[: k * n] for vector in self._vectors)
        flat, constant, several = rows.reshape(-1), self._constant[:k], self._several[: n * together]
        return Block(
            *(number, examples, rows.T, rows, flat, flat.view(np.int64)),
            *(magnitude, magnitude.view(np.int64), tile, other, repeated, repeated.reshape(k, n)),
            self._positive[: k * n],
            *(np.arange(0, k * n, n), constant[:, None], constant.view(np.int64)),
            *(flat.reshape(-1, n * together), magnitude.reshape(-1, n * together)),
            *(several, several.reshape(together, n)),
            k == m,
        )

    def lay(self, of_rows: NDArray[np.floating], other: bool = False) -> None:
        """Repeat what belongs to n rows, (n,), in the (other) tile of the blocks of arrays (n, m)."""
        np.copyto(self._tiles[other][len(of_rows)], of_rows)

    @property
    def nbytes(self) -> int:
        """The bytes of all of it."""
        return sum(a.nbytes for a in [*self._vectors, self._positive, self._constant, self._several])


def width(n: int, m: int) -> int:
    """Return how many of m examples of n values a block has."""
    return min(m, max(1, BLOCK // n))
