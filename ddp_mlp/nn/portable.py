"""One pass through the network with the same bits on every machine, and for any share of the examples.

As in `backprop`, columns are examples and everything is a *sum* over the examples at hand; in float64, with products
that are exact (`products`). Three kinds of lines are rounded to whole multiples of a unit:

    z = W A_prev       rows of W, and the examples of A_prev: an example's z depends on that example alone
    dA_prev = Wᵀ dz    rows of W, and the examples of dz, each row's unit of W taken into account
    dW = dz A_prevᵀ    rows of dz and rows of A_prev over the *whole* batch, and so db

So the first two need nothing of other ranks; before the third, the ranks agree on the lines' exponents (`Lines`). A row
that spreads further than its bits reach has a second limb, the remainder, and dW gets its products on top.

What a layer hands on is A as it has been rounded: that is the A of the derivation, also in f′.

Whatever is done to an array is done block by block while it is in cache: bias, f, rounding, the rows' largest values.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import products
from ddp_mlp.nn.activations import RELU
from ddp_mlp.nn.buffers import Group, aligned_empty
from ddp_mlp.nn.calls import Calls, do
from ddp_mlp.nn.lines import Limbs, Line, Lines, Samples
from ddp_mlp.nn.products import ROUNDING, Array, Bits
from ddp_mlp.nn.rounding import BLOCK, EXPONENT, FLOAT64, LEAST_POWERS, TO_CONSTANTS, Block, Room, to_constants

FLOAT32 = np.dtype(np.float32)
NARROW_BLOCK = 2 * BLOCK
"""Values of W of a block that is rounded in float32: half as many bytes each."""
NARROW_BITS = 22
"""In float32, (x + c) − c with c = 1.5 · 2²³ units rounds x of at most 2²² units to a whole number of them."""
TO_NARROW = 2.0 ** (23 - 52)
"""Makes that c of the one that rounds in float64."""
NARROW_UNIT = 2.0**100
"""All units must be below that: c stays within float32. A unit below float32's least rounds nothing, in either way."""

Drop = Callable[[int, Array, Array | None, slice], None]
Weights = dict[int, Array]


class RoundedWeights:
    """All W[l] rounded row by row to whole units, as float64; memory that may be shared by the ranks of a node.

    Each of `parts` ranks takes a share of all columns, which lie side by side, layer by layer: all `look`, then all
    `set`. On one node it is about what the rank has updated, and has in its cache.
    """

    def __init__(
        self, widths: Sequence[int], allocate: Callable[[int], Array] | None = None, part: int = 0, parts: int = 1
    ) -> None:
        """`allocate(count)` returns zeros (count,)."""
        self.widths = tuple(widths)
        self.bits: dict[int, Bits] = {}
        self.W: dict[int, Array] = {}
        """{l: (n_l, n_{l-1})}, Fortran-ordered."""
        allocate = allocate or np.zeros
        self._columns: dict[int, slice] = {}
        """{l: this part's share}, of the layers where it has one."""
        size = sum(n_prev * n for n_prev, n in pairwise(widths))
        share = size * part // parts, size * (part + 1) // parts
        first = 0
        for l, (n_prev, n) in enumerate(pairwise(widths), start=1):
            self.bits[l] = products.layer_bits(n_prev, n)
            self.W[l] = allocate(n * n_prev).reshape(n_prev, n).T
            lo, hi = (min(max(0, -(-(bound - first) // n)), n_prev) for bound in share)
            if lo < hi:
                self._columns[l] = slice(lo, hi)
            first += n_prev * n
        bounds = np.cumsum([0, *widths[1:]]).tolist()
        self._rows = {l: slice(lo, hi) for l, (lo, hi) in enumerate(pairwise(bounds), start=1)}
        """{l: where the layer's rows lie among all}, as in what follows."""
        self._highs = allocate(parts * bounds[-1]).reshape(parts, -1)
        """The largest magnitude of every row in each part's columns."""
        self._high = self._highs[part]
        self._constants, self._unit, self._inverse = np.zeros((3, bounds[-1]))
        self._constant_bits = self._constants.view(np.int64)
        self._least, self._factor = (
            np.repeat([of_bits[bits.W] for bits in self.bits.values()], widths[1:])
            for of_bits in (LEAST_POWERS, TO_CONSTANTS)
        )
        self.unit = {l: self._unit[rows] for l, rows in self._rows.items()}
        """{l: (n_l,)}: of each row."""
        self.inverse = {l: self._inverse[rows] for l, rows in self._rows.items()}
        """{l: (n_l,)}: 1 / unit."""
        room = max(NARROW_BLOCK, *widths[1:])
        self._tile, self._narrow = aligned_empty(room, FLOAT64), aligned_empty(2 * room, FLOAT32).reshape(2, room)

    def look(self, W: dict[int, NDArray[Any]]) -> None:
        """Note the largest magnitudes in this part's columns; W[l] (n_l, n_{l-1}) is float32."""
        for l, columns in self._columns.items():
            largest_of_rows(W[l].T[columns], self._high[self._rows[l]], self._narrow.reshape(-1))

    def set(self, W: dict[int, NDArray[Any]]) -> None:
        """Round this part's columns of what all have looked at."""
        np.maximum.reduce(self._highs, axis=0, out=self._constants)
        np.bitwise_and(self._constant_bits, EXPONENT, out=self._constant_bits)
        to_constants(self._constants, self._least, self._factor)
        np.divide(self._constants, ROUNDING, out=self._unit)  # exact
        np.divide(1.0, self._unit, out=self._inverse)
        all_small = bool(np.maximum.reduce(self._unit) < NARROW_UNIT)
        for l, columns in self._columns.items():
            given, rounded, constant = W[l].T[columns], self.W[l].T[columns], self._constants[self._rows[l]]
            if all_small and self.bits[l].W <= NARROW_BITS:
                round_narrow(given, rounded, constant, self._narrow)
            else:
                round_wide(given, rounded, constant, self._tile)


def largest_of_rows(W: NDArray[Any], out: Array, room: NDArray[np.float32]) -> None:
    """Set out (n_l,) to max |W| of each row; W (k, n_l) of float32 has them as columns, and is read once, in blocks.

    Room is (n_l,) or more.
    """
    n = len(out)
    step = max(1, min(len(W), len(room) // n))
    magnitudes = room[: step * n].reshape(step, n)
    high = np.maximum.reduce(np.abs(W[:step], magnitudes), axis=0)
    for start in range(step, len(W), step):
        some = W[start : start + step]
        np.maximum(high, np.maximum.reduce(np.abs(some, magnitudes[: len(some)]), axis=0), out=high)
    np.copyto(out, high)


def round_narrow(given: NDArray[Any], rounded: Array, constant: Array, room: NDArray[np.float32]) -> None:
    """Round rows, (k, n_l) of float32, by sums in float32, to at most 2^NARROW_BITS units: the same bits, sooner.

    `constant` (n_l,) rounds in float64. Room is (2, n_l) or more.
    """
    n = len(constant)
    step = max(1, min(len(given), NARROW_BLOCK // n))
    block, tile = room[0, : step * n].reshape(step, n), room[1, : step * n].reshape(step, n)
    np.copyto(tile, (constant * TO_NARROW).astype(np.float32))
    for start in range(0, len(given), step):
        some = given[start : start + step]
        k = len(some)
        np.add(some, tile[:k], out=block[:k])
        np.subtract(block[:k], tile[:k], out=block[:k])
        np.copyto(rounded[start : start + k], block[:k])


def round_wide(given: NDArray[Any], rounded: Array, constant: Array, room: Array) -> None:
    """Round rows, (k, n_l) of float32, by sums in float64; room is (n_l,) or more."""
    n = len(constant)
    step = max(1, min(len(given), BLOCK // n))
    tile = room[: step * n].reshape(step, n)
    np.copyto(tile, constant)
    for start in range(0, len(given), step):
        block = rounded[start : start + step]
        k = len(block)
        np.copyto(block, given[start : start + k])
        np.add(block, tile[:k], out=block)
        np.subtract(block, tile[:k], out=block)


class Pass:
    """The way of a group's examples through the network, with the views and the memory that it needs, made once."""

    def __init__(self, group: Group, weights: RoundedWeights, lines: Lines | None = None) -> None:
        """`lines` are noted on the way, for a way back; all three are kept, not copied."""
        self.group, self.weights, self.lines = group, weights, lines
        L, widths = group.L, weights.widths
        self._room = room = Room(widths, group.m)
        self._A = {l: room.blocks(matrix.whole) for l, matrix in group.A.items()}
        self._z = {
            l: products.multiplying(weights.W[l], group.A[l - 1].whole, group.A[l].whole) for l in range(1, L + 1)
        }
        """{l: the calls of z = W A_prev}."""
        self._signed = {0: True, **{l: f.name != RELU.name for l, f in group.activations.items()}}
        """Whether A[l] may have values below zero."""
        if lines is not None:
            self._ones = np.ones((1, group.m))
            self._dz = {l: room.blocks(matrix.whole) for l, matrix in group.dz.items()}
            largest = max((matrix.whole.size for l, matrix in group.dz.items() if l > 1), default=0)
            self._memory = aligned_empty(largest, FLOAT64)
            dz = {l: group.dz[l].whole for l in range(2, L + 1)}
            self._rounded = {l: self._memory[: x.size].reshape(x.shape[::-1]).T for l, x in dz.items()}
            self._into = {l: [block.flat for block in room.blocks(x)] for l, x in self._rounded.items()}
            self._dA = {
                l: products.multiplying(weights.W[l].T, self._rounded[l], group.dz[l - 1].whole)
                for l in range(2, L + 1)
            }
            """{l: the calls of dA_prev = Wᵀ dz}."""
            self._samples: dict[tuple[int, int, int], Samples] = {}
            """By the slice of the examples that are sampled."""
            self._gradient: tuple[Weights, Weights] = {}, {}
            self._sums: dict[int, Calls] = {}
            """{l: the calls of dW = dz A_prevᵀ and db = Σ dz}, into the arrays of `_gradient`."""

    @property
    def nbytes(self) -> int:
        """The bytes of its own memory, beside the group's."""
        return self._room.nbytes + (0 if self.lines is None else self._memory.nbytes + self._ones.nbytes)

    # ---- forward -----------------------------------------------------------------------------------------------------

    def forward(self, b: dict[int, NDArray[Any]], drop: Drop | None = None) -> None:
        """Compute A[1] … A[L−1], rounded example by example, and the output's z, from A[0] in the group's buffers.

        A[0] is rounded as well, unless it has been. `drop(l, A[l], slope, examples)` may set some of a block's A to
        zero and scale the rest, and where there is a slope f′(z), that in the same way.
        """
        group, room = self.group, self._room
        for block in self._A[0]:
            if not group.is_rounded:
                self._round(0, block)
            self._note(0, block)
        for l in range(1, group.L + 1):
            do(self._z[l])  #                                             z = W A_prev         (n_l, m)
            room.lay(b[l][:, 0])
            for block in self._A[l]:
                np.add(block.flat, block.tile, block.flat)  #             z += b               (n_l, m)
                if l == group.L:
                    continue
                slope = group.slope[l].whole[:, block.examples] if l in group.slope else None
                group.activations[l].apply(block.columns, slope, group.space[l])  # A = f(z)
                if drop is not None:
                    drop(l, block.columns, slope, block.examples)
                self._round(l, block)
                self._note(l, block)

    def _round(self, l: int, block: Block) -> None:
        """Round a block of A[l] example by example."""
        block.round_examples(self.weights.bits[l + 1].A, self._signed[l])

    def _note(self, l: int, block: Block) -> None:
        """Note the rows of a block of A[l], for a way back."""
        if self.lines is not None:
            block.note(self.lines.A[l].high, self._signed[l])

    # ---- backward ----------------------------------------------------------------------------------------------------

    def backward(self, sampled: slice, keep_scale: float = 1.0) -> None:
        """Carry dz[L] back to dz[1], and note the lines of every dz[l] and A[l−1] for the products dz A_prevᵀ."""
        group, weights, lines = self.group, self.weights, self._lines()
        for l in range(group.L, 0, -1):
            if l > 1:
                self._room.lay(weights.unit[l])
                self._room.lay(weights.inverse[l], other=True)
            for block in self._dz[l]:
                if l < group.L:
                    self._through(l, block, keep_scale)  #                dz = dA ⊙ f′(z)      (n_l, m)
                block.note(lines.dz[l].high, signed=True)
                if l > 1:
                    self._round_back(l, block, self._into[l][block.number])
            if l > 1:
                do(self._dA[l])  #                                        dA_prev = Wᵀ dz      (n_{l-1}, m)
        key = sampled.start, sampled.stop, sampled.step
        if key not in self._samples:
            A, dz = (group.A[l].whole for l in range(group.L)), (group.dz[l].whole for l in range(1, group.L + 1))
            self._samples[key] = lines.samples([*A, *dz], sampled)
        lines.sample(self._samples[key])

    def _through(self, l: int, block: Block, keep_scale: float) -> None:
        """Turn a block of dA[l] into dz = dA ⊙ f′(z), in place."""
        group, columns = self.group, block.columns
        if not self._signed[l]:
            block.through_relu(self._A[l][block.number].flat, keep_scale)
            return
        slope = group.slope[l].whole[:, block.examples] if l in group.slope else None
        A = group.A[l].whole[:, block.examples]
        group.activations[l].backward(columns, A, slope, keep_scale, group.space[l])

    def _round_back(self, l: int, block: Block, out: Array) -> None:
        """Round a block of dz[l] example by example into out, by units that each row's unit of W is divided out of.

        The rows' units are in the tile, their inverses in the other one, and dz's magnitudes have been noted.
        """
        np.multiply(block.magnitude, block.tile, block.magnitude)
        block.measure(block.magnitude_bits, self.weights.bits[l].dz)
        np.multiply(block.repeated, block.other_tile, block.repeated)
        np.add(block.flat, block.repeated, out)
        np.subtract(out, block.repeated, out)

    def _lines(self) -> Lines:
        assert self.lines is not None, "a pass that is to go back notes lines"
        return self.lines

    # ---- the gradient of the weights ---------------------------------------------------------------------------------

    def weight_gradient(self, limbs: Limbs, dW: dict[int, Array], db: dict[int, Array], more: Array) -> None:
        """Set dW[l] = dz A_prevᵀ, db[l] = Σ dz, and `more` (limbs.length,) to the second limbs' products: exact sums.

        Rounds all dz and A in place, by what all ranks have agreed on in `lines`.
        """
        group, lines = self.group, self._lines()
        rests = limbs.views(more) if limbs.rows else {}
        lines.settle(limbs.bits)
        if self._gradient[0] is not dW or self._gradient[1] is not db:
            self._gradient, self._sums = (dW, db), {l: self._summing(l, dW[l], db[l]) for l in dW}
        for l in range(1, group.L + 1):
            dz, A = group.dz[l].whole, group.A[l - 1].whole
            rest_dz = self._round_rows(dz, self._dz[l], lines.dz[l], limbs.bits[0], limbs.dz[l])
            rest_A = self._round_rows(A, self._A[l - 1], lines.A[l - 1], limbs.bits[1], limbs.A[l - 1])
            do(self._sums[l])  #                                          dW = dz A_prevᵀ, db = Σ_i dz⁽ⁱ⁾
            if not limbs.rows:
                continue
            of_dz, of_A, of_both, of_b = rests[l]
            if rest_dz.size:
                np.matmul(rest_dz, A.T, out=of_dz)
                np.matmul(rest_dz, self._ones.T, out=of_b)
            if rest_A.size:
                np.matmul(dz, rest_A.T, out=of_A)
            if rest_dz.size and rest_A.size:
                np.matmul(rest_dz, rest_A.T, out=of_both)

    def _summing(self, l: int, dW: Array, db: Array) -> Calls:
        """Return what sets dW = dz A_prevᵀ and db = Σ dz, of a layer."""
        dz, A_prev = self.group.dz[l].whole, self.group.A[l - 1].whole
        return [*products.multiplying_examples(dz, A_prev, dW), *products.summing_examples(dz, self._ones, db)]

    def _round_rows(self, x: Array, blocks: list[Block], line: Line, bits: int, spread: NDArray[np.int64]) -> Array:
        """Round the rows of x (n, m) in place; return what is left of the rows `spread`, rounded once more."""
        rest: Array = x[spread] if len(spread) else x[:0]
        self._room.lay(line.constant)
        for block in blocks:
            block.round_rows()
        if rest.size:
            np.subtract(rest, x[spread], out=rest)
            unit = line.constant[spread, None] / ROUNDING
            products.round_to(rest, products.remainder_unit(unit, bits), rest)
        return rest
