"""One pass through the network with the same bits on every machine, and for any share of the examples.

As in `backprop`, columns are examples and everything is a *sum* over the examples at hand; in float64, with products
that are exact (`products`). Three kinds of lines are rounded to whole multiples of a unit:

    z = W A_prev       rows of W, and the examples of A_prev: an example's z depends on that example alone
    dA_prev = Wᵀ dz    rows of W, and the examples of dz, each row's unit of W taken into account
    dW = dz A_prevᵀ    rows of dz and rows of A_prev over the *whole* batch, and so db

So the first two need nothing of other ranks; before the third, the ranks agree on the lines' exponents (`Lines`). A row
that spreads further than its bits reach has a second limb, the remainder, and dW gets its products on top.

What a layer hands on is A as it has been rounded: that is the A of the derivation, also in f′.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import products
from ddp_mlp.nn.buffers import CACHED, Group, aligned_empty
from ddp_mlp.nn.products import NOT_FINITE, Array, Bits, exponents, largest, round_to, units

Drop = Callable[[int, Array, Array | None, slice], None]

SAMPLED = 64  # examples, at least, whose exponents say what is usual in a row
RESERVE = 16  # bits that a usual value keeps: its rounding error is below 10⁻⁵


class Weights:
    """All W[l] rounded row by row to whole units, as float64; memory that may be shared by the ranks of a node."""

    def __init__(self, widths: Sequence[int], allocate: Callable[[int], Array] | None = None) -> None:
        """`allocate(count)` returns zeros (count,)."""
        self.widths = tuple(widths)
        self.bits: dict[int, Bits] = {}
        self.W: dict[int, Array] = {}
        """{l: (n_l, n_{l-1})}, Fortran-ordered."""
        self.unit: dict[int, Array] = {}
        """{l: (n_l, 1)}: of each row."""
        self._inverse: dict[int, Array] = {}
        allocate = allocate or np.zeros
        for l, (n_prev, n) in enumerate(pairwise(widths), start=1):
            self.bits[l] = products.layer_bits(n_prev, n)
            self.W[l] = allocate(n * n_prev).reshape(n_prev, n).T
            self.unit[l] = allocate(n).reshape(n, 1)
            self._inverse[l] = np.zeros((n, 1))

    def set(self, W: dict[int, NDArray[Any]], part: int = 0, parts: int = 1) -> None:
        """Round the part-th of `parts` shares of every layer's rows; W[l] (n_l, n_{l-1}) is float32."""
        for l, W_l in W.items():
            n, n_prev = W_l.shape
            rows = slice(n * part // parts, n * (part + 1) // parts)
            width = max(1, CACHED // max(1, rows.stop - rows.start))
            blocks = [slice(start, start + width) for start in range(0, n_prev, width)]
            high = np.zeros((rows.stop - rows.start, 1))
            for block in blocks:
                np.copyto(self.W[l][rows, block], W_l[rows, block])
                np.maximum(high, largest(self.W[l][rows, block], 1), out=high)
            unit = units(exponents(high), self.bits[l].W)
            self.unit[l][rows] = unit
            for block in blocks:
                round_to(self.W[l][rows, block], unit, self.W[l][rows, block])

    def share(self) -> None:
        """Take note of what all parts have set. Local, once all are done."""
        for l, unit in self.unit.items():
            np.divide(1.0, unit, out=self._inverse[l])

    def multiplied(self, l: int, A_prev: Array, out: Array) -> None:
        """Set out (n_l, m) = W[l] A_prev."""
        products.multiply(self.W[l], A_prev, out)

    def multiplied_back(self, l: int, dz: Array, scratch: Array, out: Array) -> None:
        """Set out (n_{l-1}, m) = W[l]ᵀ dz, with dz rounded example by example in the scratch, (n_l, m) like dz."""
        for examples in blocks(dz):
            t = scratch[:, examples]
            np.multiply(dz[:, examples], self.unit[l], out=t)
            round_to(t, units(exponents(largest(t, 0)), self.bits[l].dz), t)
            np.multiply(t, self._inverse[l], out=t)
        products.multiply(self.W[l].T, scratch, out)


@dataclass
class Line:
    """What is known of some rows over the examples seen so far: (n,) each, views of `Lines.table`."""

    high: Array
    """The largest magnitude."""
    exponent: NDArray[np.int32]
    """Of `high`; NOTHING for zeros, NOT_FINITE for what is not finite."""
    usual: NDArray[np.int32]
    """The sum of the exponents of the sampled values that are not zero."""
    count: NDArray[np.int32]
    """How many those are."""


class Lines:
    """The exponents of all rows of A[0] … A[L−1] and dz[1] … dz[L], and of losses and weights, over a whole batch.

    Each rank notes what it sees; the table's first row is to become the maximum over all ranks, the others the sum.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self.L = L = len(widths) - 1
        sizes = [*widths[:-1], *widths[1:], 2]
        self.table = np.zeros((3, sum(sizes)), np.int32)
        self._high = np.zeros(sum(sizes))
        bounds = np.cumsum([0, *sizes]).tolist()
        lines = [Line(self._high[lo:hi], *(row[lo:hi] for row in self.table)) for lo, hi in pairwise(bounds)]
        self.A = dict(enumerate(lines[:L]))
        self.dz = dict(enumerate(lines[L : 2 * L], start=1))
        self.loss_and_weight = lines[-1]

    def begin(self) -> None:
        """Forget what has been noted."""
        self.table[...] = 0
        self._high[...] = 0

    def end(self) -> None:
        """Turn the largest values into exponents."""
        self.table[0] = exponents(self._high)

    @property
    def finite(self) -> bool:
        """Whether losses and weights are."""
        return bool((self.loss_and_weight.exponent < NOT_FINITE).all())

    def note(self, line: Line, x: Array, sampled: slice) -> None:
        """Note the rows of x (n, m), of whose examples `sampled` are looked at more closely."""
        high = largest(x, 1)[:, 0]
        np.maximum(line.high, high, out=line.high)
        some = x[:, sampled]
        present = some != 0
        _, e = np.frexp(some)
        e[~present] = 0
        line.usual += np.add.reduce(e, axis=1, dtype=np.int32)
        line.count += np.add.reduce(present, axis=1, dtype=np.int32)


def spread_rows(line: Line, bits: int) -> NDArray[np.int64]:
    """Return the rows whose usual magnitude lies so far below the largest that it would keep less than RESERVE bits."""
    usual = line.usual // np.maximum(line.count, 1)
    spread = (line.count > 0) & (line.exponent < NOT_FINITE) & (line.exponent - usual > bits - RESERVE)
    return np.flatnonzero(spread)


def sample(first: int, m: int, batch: int) -> slice:
    """Return which of m examples, that are the batch's from number `first` on, are sampled: every so-manieth of all."""
    stride = max(1, batch // SAMPLED)
    return slice(-first % stride, m, stride)


def blocks(x: Array) -> Iterator[slice]:
    """Yield blocks of the examples of x (n, m) that stay in cache."""
    n, m = x.shape
    width = max(1, CACHED // n)
    for start in range(0, m, width):
        yield slice(start, min(start + width, m))


def round_examples(x: Array, bits: int) -> None:
    """Round every example of x (n, m), in place, to a unit of its own."""
    for examples in blocks(x):
        block = x[:, examples]
        round_to(block, units(exponents(largest(block, 0)), bits), block)


def forward(weights: Weights, b: dict[int, NDArray[Any]], group: Group, drop: Drop | None = None) -> None:
    """Compute A[1] … A[L−1], rounded example by example, and the output's z, from A[0] in the group's buffers.

    A[0] is rounded as well. `drop(l, A[l], slope, examples)` may set some of a block's A to zero and scale the rest,
    and where there is a slope f′(z), that in the same way.
    """
    round_examples(group.A[0].whole, weights.bits[1].A)
    for l in range(1, group.L + 1):
        A = group.A[l].whole
        weights.multiplied(l, group.A[l - 1].whole, A)  #                 z = W A_prev         (n_l, m)
        for examples in blocks(A):
            block = A[:, examples]
            if l == group.L:
                np.add(block, b[l], out=block)  #                         z += b               (n_L, m)
                continue
            slope = group.slope[l].whole[:, examples] if l in group.slope else None
            group.activations[l].forward(block, b[l], slope, group.zeros, group.room)  # A = f(z + b)
            if drop is not None:
                drop(l, block, slope, examples)
            round_to(block, units(exponents(largest(block, 0)), weights.bits[l + 1].A), block)


def backward(
    weights: Weights, group: Group, lines: Lines, sampled: slice, scratch: Array, keep_scale: float = 1.0
) -> None:
    """Carry dz[L] back to dz[1], and note the lines of every dz[l] and A[l−1] for the products dz A_prevᵀ.

    `scratch` has room for the largest dz.
    """
    for l in range(group.L, 0, -1):
        dz, A_prev = group.dz[l].whole, group.A[l - 1].whole
        lines.note(lines.dz[l], dz, sampled)
        lines.note(lines.A[l - 1], A_prev, sampled)
        if l > 1:
            dz_prev = group.dz[l - 1].whole
            rounded = scratch[: dz.size].reshape(dz.shape[::-1]).T
            weights.multiplied_back(l, dz, rounded, dz_prev)  #           dA_prev = Wᵀ dz      (n_{l-1}, m)
            slope = group.slope[l - 1].whole if l - 1 in group.slope else None
            group.activations[l - 1].backward(dz_prev, A_prev, slope, keep_scale, group.positive)


class Limbs:
    """Which rows of a batch have a second limb, and where their products lie in one flat vector.

    For rows K of dz and J of A_prev with remainders R_K, R_J: R_K A_prevᵀ (K, n_prev), dz R_Jᵀ (n, J), R_K R_Jᵀ (K, J),
    Σ R_K (K,). All ranks find the same, from `Lines` that they have agreed on.
    """

    def __init__(self, lines: Lines, m: int) -> None:
        self.bits = products.gradient_bits(m)
        self.dz = {l: spread_rows(line, self.bits[0]) for l, line in lines.dz.items()}
        self.A = {l: spread_rows(line, self.bits[1]) for l, line in lines.A.items()}
        self.shapes: dict[int, list[tuple[int, int]]] = {}
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


def weight_gradient(
    group: Group, lines: Lines, limbs: Limbs, dW: dict[int, Array], db: dict[int, Array], more: Array
) -> None:
    """Set dW[l] = dz A_prevᵀ and db[l] = Σ dz, and `more` (limbs.length,) to the second limbs' products: exact sums.

    Rounds all dz and A in place, by what all ranks have agreed on in `lines`.
    """
    rests = limbs.views(more)
    for l in range(1, group.L + 1):
        dz, rest_dz = rounded_rows(group.dz[l].whole, lines.dz[l], limbs.bits[0], limbs.dz[l])
        A, rest_A = rounded_rows(group.A[l - 1].whole, lines.A[l - 1], limbs.bits[1], limbs.A[l - 1])
        np.matmul(dz, A.T, out=dW[l])
        np.add.reduce(dz, axis=1, keepdims=True, out=db[l])
        of_dz, of_A, of_both, of_b = rests[l]
        if rest_dz.size:
            np.matmul(rest_dz, A.T, out=of_dz)
            np.add.reduce(rest_dz, axis=1, keepdims=True, out=of_b)
        if rest_A.size:
            np.matmul(dz, rest_A.T, out=of_A)
        if rest_dz.size and rest_A.size:
            np.matmul(rest_dz, rest_A.T, out=of_both)


def rounded_rows(x: Array, line: Line, bits: int, spread: NDArray[np.int64]) -> tuple[Array, Array]:
    """Round the rows of x (n, m) in place; return it, and what is left of the rows `spread`, rounded once more."""
    unit = units(line.exponent, bits)[:, None]
    rest = x[spread]
    for examples in blocks(x):
        round_to(x[:, examples], unit, x[:, examples])
    if rest.size:
        np.subtract(rest, x[spread], out=rest)
        round_to(rest, products.remainder_unit(unit[spread], bits), rest)
    return x, rest


def sum_in_units(values: Array, exponent: int, m: int) -> float:
    """Return the sum of some of m values (all of one exponent at most) as a whole number of `sum_unit`: exact."""
    return float(np.add.reduce(np.rint(values / sum_unit(exponent, m))))


def sum_unit(exponent: int, m: int) -> float:
    """Return the unit in which m values below 2^exponent are summed as whole numbers below 2⁵³."""
    bits = products.EXACT - products.exponent_of_count(m)
    return float(units(np.array([exponent], np.int32), bits)[0])


def scratch_for(group: Group) -> Array:
    """Return memory for `backward`: as much as the largest dz has."""
    scratch: Array = aligned_empty(max(panel.whole.size for panel in group.dz.values()), np.dtype(np.float64))
    return scratch
