"""What is known of the lines of a whole batch: how large they are, and which spread further than their bits reach.

Invariants:
- all of it is maxima and sums of whole numbers: once the ranks have exchanged one table, all know the same;
- a row whose usual values lie far below its largest has a second limb, the remainder, in the weights' gradient.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import products
from ddp_mlp.nn.products import NOT_FINITE, UNIT_LIMIT, Array, exponents
from ddp_mlp.nn.rounding import LEAST_POWERS, TO_CONSTANTS, to_constants

SAMPLED = 64  # examples, at least, and below twice as many, whose exponents say what is usual in a row
RESERVE = 16  # bits that a usual value keeps: its rounding error is below 10⁻⁵
FRACTION_BITS, EXPONENT_BITS, BIAS = 4, 0x7FF0, 1022
"""Of a float64's first quarter: a number x with 2^(e − 1) ≤ |x| < 2ᵉ has e + BIAS in the bits of its exponent."""
SHORT_SUM = 32
"""Exponents, each below 2¹¹, whose sum has 16 bits; NumPy adds those sooner than longer ones."""
FIRST = slice(3 if sys.byteorder == "little" else 0, None, 4)
"""Where the first quarters lie among the quarters."""


NO_ROWS = np.zeros(0, np.int64)


@dataclass
class Line:
    """What is known of some rows over the examples seen so far: (n,) each, views of what `Lines` has of all."""

    high: Array
    """The largest magnitude."""
    exponent: NDArray[np.int32]
    """Of `high`; NOTHING for zeros, NOT_FINITE for what is not finite."""
    usual: NDArray[np.int32]
    """The sum of the exponents of the sampled values that are not zero."""
    count: NDArray[np.int32]
    """How many those are."""
    constant: Array
    """What rounds a value to the row's unit when it is added and taken away again."""


class RowsOfBits(NamedTuple):
    """What follows from the bits that rows have; (n,) each."""

    reach: NDArray[np.int32]
    """How far below the largest exponent a usual one may lie."""
    to_constants: tuple[Array, Array]
    """`least` and `factor` of `rounding.to_constants`."""


class Samples(NamedTuple):
    """Where the values of some examples lie, and room for their exponents."""

    exponents: NDArray[np.uint16]
    """(examples, rows of all arrays)."""
    present: NDArray[np.bool_]
    """The same: which are not those of zeros."""
    parts: list[tuple[NDArray[np.uint16], NDArray[np.uint16]]]
    """Of each array: its rows' part of that, and the first quarters of its values."""


class Lines:
    """The exponents of all rows of A[0] … A[L−1] and dz[1] … dz[L], and of losses and weights, over a whole batch.

    Each rank notes what it sees; the table's first row is to become the maximum over all ranks, the others the sum.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        L = len(widths) - 1
        sizes = [*widths[:-1], *widths[1:], 2]
        bounds = np.cumsum([0, *sizes]).tolist()
        self.table = np.zeros((3, bounds[-1]), np.int32)
        self._high, self._constants = np.zeros(bounds[-1]), np.zeros(bounds[-1])
        self._places = list(pairwise(bounds))
        all_rows = (self._high, *self.table, self._constants)
        lines = [Line(*(of_rows[lo:hi] for of_rows in all_rows)) for lo, hi in self._places]
        self.A = dict(enumerate(lines[:L]))
        self.dz = dict(enumerate(lines[L : 2 * L], start=1))
        self.loss_and_weight = lines[-1]
        self.no_dz, self.no_A = dict.fromkeys(self.dz, NO_ROWS), dict.fromkeys(self.A, NO_ROWS)
        """What most batches have of rows that spread."""
        self._is_A = np.arange(bounds[-1]) < bounds[L]
        self._by_bits: dict[tuple[int, int], RowsOfBits] = {}
        self._exponents = np.zeros((0, bounds[-2]), np.uint16)
        """Room for what is sampled."""

    def begin(self) -> None:
        """Forget what has been noted."""
        self.table[...] = 0
        self._high[...] = 0

    def samples(self, arrays: Sequence[Array], sampled: slice) -> Samples:
        """Return where some examples' values lie, in A[0] … A[L−1], dz[1] … dz[L], each (n, m) in Fortran order."""
        count = len(range(*sampled.indices(arrays[0].shape[1])))
        if len(self._exponents) < count:
            self._exponents = np.empty((count, self._exponents.shape[1]), np.uint16)
        e = self._exponents[:count]
        quarters = (x.T[sampled].view(np.uint16)[:, FIRST] for x in arrays)
        present = np.empty(e.shape, bool)
        return Samples(e, present, [(e[:, lo:hi], x) for (lo, hi), x in zip(self._places[:-1], quarters, strict=True)])

    def sample(self, samples: Samples) -> None:
        """Note the exponents of some examples as they now are."""
        e, present, parts = samples
        if not len(e):
            return
        for part, quarters in parts:
            np.copyto(part, quarters)
        np.bitwise_and(e, EXPONENT_BITS, out=e)  # 0 for zeros, and for what is subnormal
        np.right_shift(e, FRACTION_BITS, out=e)
        np.not_equal(e, 0, out=present)
        count = np.add.reduce(present.view(np.uint8), axis=0, dtype=np.uint8).astype(np.int32)
        usual = np.multiply(count, -BIAS)
        for start in range(0, len(e), SHORT_SUM):
            np.add(usual, np.add.reduce(e[start : start + SHORT_SUM], axis=0, dtype=np.uint16), out=usual)
        self.table[1, :-2] += usual
        self.table[2, :-2] += count

    def end(self) -> None:
        """Turn the largest values into exponents."""
        self.table[0] = exponents(self._high)

    @property
    def finite(self) -> bool:
        """Whether losses and weights are."""
        return all(e < NOT_FINITE for e in self.loss_and_weight.exponent.tolist())

    def settle(self, bits: tuple[int, int]) -> None:
        """Set the rows' constants from their exponents, for these bits of dz and of A."""
        np.ldexp(1.0, self.table[0] - 1, out=self._constants)
        to_constants(self._constants, *self._of_bits(bits).to_constants)

    def spread(self, bits: tuple[int, int]) -> NDArray[np.bool_]:
        """Return of each row whether a usual value lies so far below the largest that it keeps less than RESERVE bits.

        In the table's order, for these bits of dz and of A.
        """
        exponent, usual, count = self.table
        near = exponent - self._of_bits(bits).reach  # what usual exponents are not to be below
        found: NDArray[np.bool_] = (usual < near * count) & (exponent < NOT_FINITE)  # not 0 < 0, without usual values
        return found

    def spread_rows(self, bits: tuple[int, int]) -> tuple[dict[int, NDArray[np.int64]], dict[int, NDArray[np.int64]]]:
        """Return the rows of every dz[l], and of every A[l], that are `spread`: in most batches, none."""
        spread = self.spread(bits)
        if not np.count_nonzero(spread):
            return self.no_dz, self.no_A
        found = [np.flatnonzero(spread[lo:hi]) for lo, hi in self._places[:-1]]
        return dict(zip(self.dz, found[len(self.A) :], strict=True)), dict(zip(self.A, found, strict=False))

    def _of_bits(self, bits: tuple[int, int]) -> "RowsOfBits":
        """Return what follows from these bits of dz and of A for every row."""
        if bits not in self._by_bits:
            of_row = np.where(self._is_A, bits[1], bits[0])
            least, factor = (np.array(of_bits)[of_row] for of_bits in (LEAST_POWERS, TO_CONSTANTS))
            self._by_bits[bits] = RowsOfBits((of_row - RESERVE).astype(np.int32), (least, factor))
        return self._by_bits[bits]


def sample(first: int, m: int, batch: int) -> slice:
    """Return which of m examples, that are the batch's from number `first` on, are sampled: every so-manieth of all."""
    stride = max(1, batch // SAMPLED)
    return slice(-first % stride, m, stride)


class Limbs:
    """Which rows of a batch have a second limb, and where their products lie in one flat vector.

    For rows K of dz and J of A_prev with remainders R_K, R_J: R_K A_prevᵀ (K, n_prev), dz R_Jᵀ (n, J), R_K R_Jᵀ (K, J),
    Σ R_K (K,). All ranks find the same, from `Lines` that they have agreed on.
    """

    def __init__(self, lines: Lines, m: int) -> None:
        self.bits = products.gradient_bits(m)
        self.dz, self.A = lines.spread_rows(self.bits)
        self.shapes: dict[int, list[tuple[int, int]]] = {}
        self.length = self.rows = 0
        if self.dz is lines.no_dz:
            return
        for l, line in lines.dz.items():
            n, n_prev, K, J = len(line.high), len(lines.A[l - 1].high), len(self.dz[l]), len(self.A[l - 1])
            self.shapes[l] = [(K, n_prev), (n, J), (K, J), (K, 1)]
        self.length = sum(n * k for shapes in self.shapes.values() for n, k in shapes)
        self.rows = sum(map(len, [*self.dz.values(), *self.A.values()]))

    def views(self, flat: Array) -> dict[int, list[Array]]:
        """Return {l: the four products} as views of the flat vector (length,)."""
        found: dict[int, list[Array]] = {}
        start = 0
        for l, shapes in self.shapes.items():
            found[l] = []
            for n, k in shapes:
                found[l].append(flat[start : start + n * k].reshape(k, n).T)
                start += n * k
        return found

    def spread_out(self, flat: Array, dW: dict[int, Array], db: dict[int, Array]) -> None:
        """Add the global sums of the products in `flat` to where they belong in dW (n_l, n_{l-1}) and db (n_l, 1)."""
        for l, (of_dz, of_A, of_both, of_b) in self.views(flat).items():
            K, J = self.dz[l], self.A[l - 1]
            dW[l][K] += of_dz
            dW[l][:, J] += of_A
            dW[l][np.ix_(K, J)] += of_both
            db[l][K] += of_b

    def wipe_out(self, dW: dict[int, Array], db: dict[int, Array]) -> None:
        """Set to zero again what `spread_out` has added to zeros."""
        for l in self.shapes:
            K, J = self.dz[l], self.A[l - 1]
            dW[l][K] = dW[l][:, J] = db[l][K] = 0


def sum_in_units(values: Array, exponent: int, m: int) -> float:
    """Return the sum of some of m values, none above 2^exponent, as a whole number of `sum_unit`: exact."""
    return float(np.add.reduce(np.rint(values / sum_unit(exponent, m))))


def sum_unit(exponent: int, m: int) -> float:
    """Return the unit in which m values below 2^exponent are summed as whole numbers below 2⁵³."""
    bits = products.EXACT - products.exponent_of_count(m)
    return math.nan if exponent > UNIT_LIMIT else math.ldexp(1.0, max(exponent, bits - UNIT_LIMIT) - bits)
