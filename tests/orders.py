"""Orders in which a BLAS may form a sum of products, each in NumPy's elementwise arithmetic: what a proof must refuse.

Terms are lists of arrays: term k is a[k] · b[k], elementwise. Fused multiply-add rounds once, by error-free
transformations and rounding to odd (Boldo, Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms
using rounding to odd", IEEE Transactions on Computers 57(4), 2008).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Terms = Sequence[Array]
Order = Callable[[Terms, Terms], Array]
"""Forms Σ a[k] b[k]."""
Added = Callable[[Terms, Terms, Array], Array]
"""Forms c + Σ a[k] b[k]."""


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b rounded, and its error (Knuth)."""
    s = a + b
    b_part = s - a
    return s, (a - (s - b_part)) + (b - b_part)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a b in float64 rounded, and its error (Dekker)."""

    def halves(x: Array) -> tuple[Array, Array]:
        c = x * 134217729.0
        high = c - (c - x)
        return high, x - high

    p = a * b
    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


def rounded_to_odd(s: Array, error: Array) -> Array:
    """Return s + error, where it is no float64, as the one of its two neighbours whose last bit is odd."""
    bits = s.view(np.int64)
    other = np.where((error > 0) == (s > 0), bits + 1, bits - 1)
    rounded: Array = np.where((error != 0) & (bits & 1 == 0), other, bits).view(np.float64)
    return rounded


def fma(a: Array, b: Array, c: Array) -> Array:
    """Return a b + c, rounded once, for float32 or float64."""
    if a.dtype == np.float32:
        s, error = two_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))
        return rounded_to_odd(s, error).astype(np.float32)
    p, p_error = two_product(a, b)
    high, low = two_sum(c, p_error)
    total, total_error = two_sum(p, high)
    s, error = two_sum(total_error, low)
    result: Array = total + rounded_to_odd(s, error)
    return result


def chain(a: Terms, b: Terms, which: Sequence[int], fused: bool, start: Array | None = None) -> Array:
    """Add the terms of these numbers one after the other, to `start` if it is given."""
    total = start
    for k in which:
        if fused and total is not None:
            total = fma(a[k], b[k], total)
        else:
            total = a[k] * b[k] if total is None else total + a[k] * b[k]
    assert total is not None
    return total


def lanes(a: Terms, b: Terms, width: int, fused: bool) -> Array:
    """Add every width-th term in a sum of its own, and those sums in pairs."""
    sums = [chain(a, b, range(i, len(a), width), fused) for i in range(width)]
    while len(sums) > 1:
        sums = [sums[i] + sums[i + 1] if i + 1 < len(sums) else sums[i] for i in range(0, len(sums), 2)]
    return sums[0]


def orders(terms: int) -> dict[str, Order]:
    """Return the orders of that many terms by name, each with fused multiply-add and without."""
    every, found = range(terms), dict[str, Order]()
    for fused in (False, True):
        kind = "fused" if fused else "plain"
        found[kind] = partial(chain, which=every, fused=fused)
        found[f"{kind}, reversed"] = partial(chain, which=every[::-1], fused=fused)
        for width in (2, 4, 8, 16):
            if width <= terms:
                found[f"{kind}, {width} lanes"] = partial(lanes, width=width, fused=fused)
        for cut in {1, terms // 2, terms - 2, terms - 1}:
            if 0 < cut < terms:
                found[f"{kind}, split at {cut}"] = partial(split, cut=cut, fused=fused)
    if terms > 1:
        found["fused but for the last"] = lambda a, b: chain(a, b, every[:-1], True) + a[-1] * b[-1]
        found["plain but for the last"] = lambda a, b: fma(a[-1], b[-1], chain(a, b, every[:-1], False))
    return found


def split(a: Terms, b: Terms, cut: int, fused: bool) -> Array:
    """Add the first terms and the others, and the two sums."""
    every = range(len(a))
    return chain(a, b, every[:cut], fused) + chain(a, b, every[cut:], fused)


def some_by_some(a: Terms, b: Terms, c: Array, some: int, fused: bool) -> Array:
    """Add to c the sums of some terms after another."""
    for first in range(0, len(a), some):
        c = c + chain(a, b, range(first, min(first + some, len(a))), fused)
    return c


def orders_begun_elsewhere(terms: int) -> dict[str, Added]:
    """Return the orders that begin from what the product is added to, by name."""
    every, found = range(terms), dict[str, Added]()
    for fused in (False, True):
        kind = "fused" if fused else "plain"
        found[kind] = lambda a, b, c, f=fused: chain(a, b, every, f, c)  # type: ignore[misc]
        found[f"{kind}, reversed"] = lambda a, b, c, f=fused: chain(a, b, every[::-1], f, c)  # type: ignore[misc]
        for some in (4, 7):
            if some < terms:
                found[f"{kind}, {some} by {some}"] = partial(some_by_some, some=some, fused=fused)
    return found
