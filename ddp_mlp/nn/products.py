"""Products of matrices with the same bits on every machine: their sums are exact, so that no order can matter.

An operand is rounded, line by line, to whole multiples of one power of two, its *unit*: at most 2ᵃ units. A sum of k
products of a and b bits is then a whole number of units of at most k 2ᵃ⁺ᵇ. Where a + b + ⌈log₂ k⌉ ≤ 53, every partial
sum of a float64 product is exact: in any order, with fused multiply-add or without, on any number of threads.

Invariants:
- each sum that an operand enters keeps to that bound: one quantized W serves z = W A and dA = Wᵀ dz alike;
- all terms of one sum have one unit: a line is what a sum runs along. Wᵀ dz runs along the rows of W, each with a unit
  of its own, so the unit of dz_k is an example's divided by that of row k: a power of two as well;
- rounding is to the nearest multiple, of two the even one: (x + c) − c with c = 1.5 · 2⁵² units;
- units stay within 2^±UNIT_LIMIT, so that no product of two is subnormal; what is not finite becomes NaN.

A line with one value far above the rest keeps fewer bits of the rest. For the weights' gradient, whose lines run over
the whole batch, a second limb holds the remainder (`remainder_unit`); the others' lowest bits are lost.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.nn.calls import Calls, do
from ddp_mlp.nn.randomness import Purpose, words

Array = NDArray[np.float64]

EXACT = 53  # bits of float64: whole numbers up to 2⁵³
MOST = 24  # bits of an operand: as many as float32 has
LONGEST = 1 << 21  # terms of one exact sum; longer ones are cut into pieces of this many
SMALL, FEWEST = 10**6, 16
"""OpenBLAS multiplies matrices of up to SMALL multiplications unpacked on AVX-512, in ¾ of the time or less."""
UNIT_LIMIT = 400
ROUNDING = 1.5 * 2.0**52
NOTHING, NOT_FINITE = -1022, 1025  # the exponents of a line of zeros or subnormals, and of one with infinity or NaN
MANTISSA_BITS, EXPONENT_FIELD = 52, 0x7FF


class Bits(NamedTuple):
    """How many bits each operand of a layer's forward and backward product has."""

    W: int
    A: int
    """A_prev in z = W A_prev, a sum of n_{l-1} terms."""
    dz: int
    """dz in dA = Wᵀ dz, a sum of n_l terms."""


def layer_bits(n_prev: int, n: int) -> Bits:
    """Return the bits for a layer of n units on n_prev: as many as both its sums allow."""
    forward, backward = (EXACT - exponent_of_count(min(k, LONGEST)) for k in (n_prev, n))
    W = min(MOST, min(forward, backward) // 2)
    return Bits(W, min(MOST, forward - W), min(MOST, backward - W))


@cache
def gradient_bits(m: int) -> tuple[int, int]:
    """Return the bits of dz and of A_prev in dW = dz A_prevᵀ, a sum over m examples: one more for dz, which spreads."""
    both = EXACT - exponent_of_count(m)
    dz = min(MOST, both // 2 + 1)
    return dz, min(MOST, both - dz)


def exponent_of_count(k: int) -> int:
    """Return ⌈log₂ k⌉, 0 for k = 0."""
    return max(k - 1, 0).bit_length()


def exponents(largest: Array) -> NDArray[np.int64]:
    """Return the exponent e of each line, with 2^(e − 1) ≤ largest < 2ᵉ, from NOTHING to NOT_FINITE.

    As float64 has it in its bits: a subnormal's is not told from zero's, since no unit is as small.
    """
    e = np.right_shift(np.asarray(largest).view(np.int64), MANTISSA_BITS)
    np.bitwise_and(e, EXPONENT_FIELD, out=e)
    return np.add(e, NOTHING, out=e)


def units(e: NDArray[np.integer], bits: int | NDArray[np.int64]) -> Array:
    """Return the unit of each line from its exponent, so that a line's largest value has at most 2^bits units."""
    clipped = np.minimum(np.maximum(e, np.subtract(bits, UNIT_LIMIT)), UNIT_LIMIT)
    return np.where(e <= UNIT_LIMIT, np.ldexp(1.0, np.subtract(clipped, bits).astype(np.int32)), np.nan)


def largest(x: Array, axis: int, out: Array | None = None) -> Array:
    """Return max |x| along an axis, which is kept; 0 where there is nothing."""
    high: Array = np.maximum.reduce(x, axis=axis, keepdims=True, initial=0.0, out=out)
    low = np.minimum.reduce(x, axis=axis, keepdims=True, initial=0.0)
    return np.maximum(high, np.negative(low, out=low), out=high)


def round_to(x: Array, unit: Array, out: Array) -> None:
    """Set out to x rounded to whole multiples of the unit, a power of two that broadcasts; no zero is negative."""
    c = unit * ROUNDING
    np.add(x, c, out=out)
    np.subtract(out, c, out=out)


def multiply(M: Array, A: Array, out: Array) -> None:
    """Set out (n, m) = M A, (n, k) times (k, m), rounded before: exact; sums of more than LONGEST in pieces.

    A and out are in Fortran order, W or Wᵀ is M. Since no order matters, each shape takes what is fastest.
    """
    do(multiplying(M, A, out))


def multiplying(M: Array, A: Array, out: Array) -> Calls:
    """Return what `multiply` does, prepared."""
    n, k = M.shape
    if k == 1:  # NumPy leaves that to no BLAS, and takes ten times as long
        # no zero is to be negative, as in a sum that begins with 0
        return [(np.multiply, (A.T, M.T, out.T)), (np.add, (out, 0.0, out))]
    if M.flags.f_contiguous and k <= LONGEST:
        step = at_a_time(n * k, A.shape[1])
        parts = [slice(start, start + step) for start in range(0, A.shape[1], step)]
        return [(np.matmul, (M, A[:, part], out[:, part])) for part in parts]
    calls: Calls = [(np.matmul, (M[:, :LONGEST], A[:LONGEST], out))]
    for start in range(LONGEST, k, LONGEST):
        calls.append((add_product, (M[:, start : start + LONGEST], A[start : start + LONGEST], out)))
    return calls


def add_product(M: Array, A: Array, out: Array) -> None:
    """Add M A to out."""
    np.add(out, np.matmul(M, A), out=out)


def multiplying_examples(dz: Array, A: Array, out: Array) -> Calls:
    """Return what sets out (n, k) = dz Aᵀ, a sum over the examples of dz (n, m) and A (k, m), rounded before: exact.

    All are in Fortran order.
    """
    step = at_a_time(dz.size, len(A))
    return [
        (np.matmul, (dz, A[start : start + step].T, out[:, start : start + step])) for start in range(0, len(A), step)
    ]


def summing_examples(x: Array, ones: Array, out: Array) -> Calls:
    """Return what sets out (n, 1) = Σ_i x⁽ⁱ⁾, the sum over the examples of x (n, m), rounded before: exact.

    It is a product with ones, (1, ≥ m), which is faster than NumPy's sum.
    """
    return [(np.matmul, (ones[:, : x.shape[1]], x.T, out.T))]


def at_a_time(size: int, count: int) -> int:
    """Return how many of `count` vectors to multiply a matrix of this size with, so that the product is a small one.

    All at once where that is small, or would be only with few.
    """
    few = SMALL // max(size, 1)
    if few >= count or few < FEWEST:
        return max(count, 1)
    return few - few % FEWEST


def remainder_unit(unit: Array, bits: int) -> Array:
    """Return the unit of what rounding has left, at most half a unit, in so many bits."""
    return unit * 2.0**-bits


# ---- the start's probe -----------------------------------------------------------------------------------------------


def probe(shapes: Iterable[tuple[int, int, int, int, int]], product: Any = multiply) -> None:
    """Multiply operands at the bound and compare with whole numbers. Raises EnvironmentMismatch where they differ.

    `shapes` are (n, k, m, a, b): (n, k) of a bits times (k, m) of b bits. A library that is not plain (Strassen's
    method, a product emulated with fewer bits) fails, and so does one that flushes what is small or rounds otherwise.
    """
    check_rounding()
    for n, k, m, a, b in shapes:
        k = min(k, LONGEST)
        some, few = min(n, 8), min(m, 8)
        M, A = at_the_bound(some, k, a), at_the_bound(k, few, b)
        expected = M @ A
        found = np.empty((n, m), order="F")
        rows, columns = np.arange(n) % some, np.arange(m) % few
        product(M[rows].astype(np.float64), np.asfortranarray(A[:, columns].astype(np.float64)), found)
        if not np.array_equal(found, expected.astype(np.float64)[np.ix_(rows, columns)]):
            raise EnvironmentMismatch(
                f"arithmetic = portable: this BLAS's product of {n} × {k} and {k} × {m} is not exact for whole numbers "
                "below 2^53: use a plain BLAS, such as that of NumPy's wheels"
            )


def at_the_bound(rows: int, columns: int, bits: int) -> NDArray[np.int64]:
    """Return whole numbers (rows, columns) at ±2^bits or just below, odd and even; every other row has no signs."""
    drawn = words(0, Purpose.CANARY, rows, columns, bits, count=rows * columns).astype(np.int64).reshape(rows, columns)
    sign = np.where((np.arange(rows)[:, None] % 2 == 1) & (drawn & 8 == 8), -1, 1)
    values: NDArray[np.int64] = sign * ((1 << bits) - (drawn & 7))
    return values


def check_rounding() -> None:
    """Raise EnvironmentMismatch unless arrays are rounded to nearest and subnormal numbers are kept."""
    one, half, quarter = np.ones(64), np.full(64, np.ldexp(1.0, -53)), np.full(64, np.ldexp(1.0, -54))
    small, small_32 = np.full(64, np.ldexp(1.0, -1022)), np.full(64, np.ldexp(np.float32(1), -126), np.float32)
    up = one + half * 4.0
    nearest = np.array_equal(one + half, one) and np.array_equal(one + half * 3.0, up)
    nearest = nearest and np.array_equal(-one - half * 3.0, -up) and np.array_equal(-one - quarter, -one)
    halved, halved_32 = small * 0.5, small_32 * np.float32(0.5)
    kept = bool(halved.all() and halved_32.all()) and np.array_equal(halved + halved, small)
    if not nearest:
        raise EnvironmentMismatch(
            "arithmetic = portable: this process does not round to nearest: start it without that"
        )
    if not kept:
        raise EnvironmentMismatch(
            "arithmetic = portable: this process flushes subnormal numbers to zero: start it without that "
            "(a library built with -ffast-math may have set it)"
        )
