"""Which matrix products may be made in another shape than the shards' own: those seen to give the same bits.

One product over all of a group's examples is faster than one per leaf; dW is added up faster in blocks of columns that
stay in cache, and by BLAS itself as it forms a product; and for few examples dA is formed faster in the other memory
order. Whether BLAS gives the same bits depends on the shapes and the kernel: the last row and the last column of a
product may be added up in another order than the rest, so that every single number has to be compared. The order does
not depend on the numbers, so that some drawn in the very shapes decide it; where the bits differ, the leaf's own shape
is used: slower, never different.

What is drawn cancels: every exact sum is zero, and the result is nothing but rounding errors, which tell one order from
another nearly always (sums of ordinary random numbers hide the order of their last terms nine times in ten). One more
draw makes every term −0, since some kernels give the sum of such another sign than others do.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.backprop import multiply, multiply_turned, weight_gradient
from ddp_mlp.nn.blas import add_product, can_add_products
from ddp_mlp.nn.buffers import FEW, Group, Panel
from ddp_mlp.nn.randomness import Purpose, generator

CACHE_BYTES = 2 * 1024 * 1024
"""Bytes of dW that are added up at a time."""
WIDE = 2**16
"""Weights of a layer from which on products are so large that memory counts, not the number of calls."""
LARGEST = 2**11
"""Of the whole numbers that cancel: their differences are exact in every dtype."""


def proven(widths: Sequence[int], group: Group, dtype: np.dtype[Any]) -> frozenset[tuple[str, int]]:
    """Return which products of this group may change shape, as (what, layer).

    Where there are several leaves, ("z", l) and ("dA", l): W A_prev and Wᵀ dz over the whole group; and for at least
    WIDE weights ("dW in blocks", l): dz A_prevᵀ in `column_blocks`, and added, as far as `can_add_products`, by
    `add_product` in place of a product and a sum; or ("dW added", l): the latter alone. For so many weights and few
    examples, ("dA turned", l): `multiply_turned`. Overwrites the group's buffers.
    """

    def same(what: str, l: int, random: np.random.Generator | None) -> bool:
        n_prev, n = widths[l - 1], widths[l]
        A_prev, dz = group.A[l - 1], group.dz[l]
        if what == "z":
            W = _equal_columns(random, n, n_prev, dtype, "F")
            A_prev.whole[...] = _cancelling(random, n_prev, group.m)
            return _same_at_once(W, A_prev, group.A[l])
        if what in ("dW in blocks", "dW added"):
            one_of_each_size = dict(zip(group.sizes, zip(dz.leaves, A_prev.leaves, strict=True), strict=True))
            for m_i, (dz_i, A_i) in one_of_each_size.items():
                dz_i[...] = _equal_columns(random, n, m_i, dtype, "F")
                A_i[...] = _cancelling(random, m_i, n_prev).T
            blocks = column_blocks(n, n_prev, dtype.itemsize) if what == "dW in blocks" else [slice(0, n_prev)]
            return _same_in_blocks(list(one_of_each_size.values()), blocks)
        W_T = _equal_columns(random, n_prev, n, dtype, "C")
        dz.whole[...] = _cancelling(random, n, group.m)
        return _same_at_once(W_T, dz, group.dz[l - 1], group.turned if what == "dA turned" else None)

    found = set()
    several = len(group.sizes) > 1
    for l in range(1, group.L + 1):
        n_prev, n = widths[l - 1], widths[l]
        wide = n * n_prev >= WIDE
        terms: dict[str, int] = {}
        if several:
            terms["z"] = n_prev
        if several and l > 1:
            terms["dA"] = n
        if several and wide:
            terms["dW in blocks"] = terms["dW added"] = min(group.sizes)
        if wide and l > 1 and group.m <= FEW:
            terms["dA turned"] = n
        for what, number in terms.items():
            if what == "dW added" and (("dW in blocks", l) in found or not can_add_products(dtype)):
                continue  # no better, or not to be had
            drawn = (generator(0, Purpose.CANARY, l, turn) for turn in range(draws(number)))
            if same(what, l, None) and all(same(what, l, random) for random in drawn):
                found.add((what, l))
    return frozenset(found)


def draws(terms: int) -> int:
    """Return how many times sums of so many terms are compared.

    In a simulation with fused multiply-add, two orders of 3 terms agreed in at most 2 of 3 draws. Those of 64 terms did
    in 2 of 5 where they differed in the rounding of the last product alone, in 1 of 4 where the sum was split in two at
    another place, and in 1 of 1,000 where one had several partial sums and the other had none.
    """
    return 12 + 64 // terms


def column_blocks(n: int, n_prev: int, itemsize: int) -> list[slice]:
    """Return the blocks of columns of dW (n, n_prev), each of at most CACHE_BYTES, in which it is added up."""
    width = max(1, CACHE_BYTES // (n * itemsize))
    return [slice(start, min(start + width, n_prev)) for start in range(0, n_prev, width)]


def _same_at_once(M: NDArray[Any], A: Panel, out: Panel, scratch: NDArray[Any] | None = None) -> bool:
    """Compare the product over the whole group, turned where there is a scratch for it, with the leaves' own."""
    if scratch is None:
        multiply(M, A, out, at_once=True)
    else:
        multiply_turned(M, A, out, scratch)
    at_once = out.whole.tobytes()
    multiply(M, A, out, at_once=False)
    return out.whole.tobytes() == at_once


def _same_in_blocks(leaves: Sequence[tuple[NDArray[Any], NDArray[Any]]], blocks: Sequence[slice]) -> bool:
    """Compare the dW of leaves, each (dz, A_prev), formed and added in blocks of columns with what whole ones give."""
    products = []
    for dz, A_prev in leaves:
        whole, blocked = (np.empty((len(A_prev), len(dz)), dz.dtype).T for _ in range(2))
        weight_gradient(dz, A_prev, whole)
        for block in blocks:
            weight_gradient(dz, A_prev[block], blocked[:, block])
        if not _same_bits(whole, blocked):
            return False
        products.append(whole)
    if not can_add_products(products[0].dtype):
        return True
    for (dz, A_prev), product in zip(leaves, products, strict=True):
        for other in products:
            # As small as rounding errors, since anything larger would hide those of the sum; but no whole number of
            # them, since BLAS may start its sum from dW, and that would not be seen.
            dW = (other[:, ::-1] / 3).copy("F")
            expected = np.add(dW, product)
            for block in blocks:
                add_product(dz, A_prev[block], dW[:, block])
            if not _same_bits(expected, dW):
                return False
    return True


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Compare two Fortran-ordered arrays of one dtype, signs of zeros included."""
    bits = np.dtype(f"u{a.itemsize}")
    return np.array_equal(a.T.view(bits), b.T.view(bits))


def _equal_columns(
    random: np.random.Generator | None, n: int, terms: int, dtype: np.dtype[Any], order: Literal["C", "F"]
) -> NDArray[Any]:
    """Return M (n, terms), the same random numbers in every column; without a generator, −1."""
    M = np.empty((n, terms), dtype, order)
    M[...] = -1 if random is None else random.standard_normal((n, 1), dtype)
    return M


def _cancelling(random: np.random.Generator | None, terms: int, m: int) -> NDArray[Any]:
    """Return whole numbers (terms, m), each column of which adds up to zero, if there are several to add.

    Without a generator, zeros.
    """
    if random is None:
        return np.zeros((terms, m))
    whole = random.integers(-LARGEST, LARGEST, (terms, m), np.int16)
    return whole - np.roll(whole, random.integers(1, terms), axis=0) if terms > 1 else whole
