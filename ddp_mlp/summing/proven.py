"""Which matrix products may be made in another shape than the shards' own: those seen to give the same bits.

One product over all of a group's examples is faster than one per shard; dW is added up faster in blocks of columns that
stay in cache, and by BLAS itself as it forms a product; and for few examples dA is formed faster in the other memory
order. Whether BLAS gives the same bits depends on the shapes and the kernel: the last row and the last column of a
product may be added up in another order than the rest, so that every single number has to be compared. The order does
not depend on the numbers, so that some drawn in the very shapes decide it; where the bits differ, the shard's own shape
is used: slower, never different.

What is drawn cancels: every exact sum is zero, and the result is nothing but rounding errors, which tell one order from
another nearly always (sums of ordinary random numbers hide the order of their last terms nine times in ten). One more
draw makes every term −0, since some kernels give the sum of such another sign than others do.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.backprop import multiply, multiply_turned, weight_gradient
from ddp_mlp.nn.blas import add_product, can_add_products
from ddp_mlp.nn.buffers import FEW, Group, Panel, Shortcuts
from ddp_mlp.nn.randomness import Purpose, generator

CACHE_BYTES = 2 * 1024 * 1024
"""Bytes of dW that are added up at a time."""
WIDE = 2**16
"""Weights of a layer from which on products are so large that memory counts, not the number of calls."""
LARGEST = 2**11
"""Of the whole numbers that cancel: their differences are exact in every dtype."""

Random = np.random.Generator | None
"""What numbers are drawn from; None is the one draw whose terms are all −0."""


def shortcuts(group: Group) -> dict[int, Shortcuts]:
    """Return which products of every layer of this group may change shape. Overwrites the group's buffers.

    Products over the whole group have a use where there are several shards; dW in blocks, and added by BLAS, in layers
    of at least WIDE weights; dA turned in such layers for at most FEW examples.
    """
    return {l: _shortcuts(group, l) for l in range(1, group.L + 1)}


def _shortcuts(group: Group, l: int) -> Shortcuts:
    A_prev, dz = group.A[l - 1], group.dz[l]
    (n_prev, _), (n, _), dtype = A_prev.whole.shape, dz.whole.shape, dz.whole.dtype
    several, wide = len(group.sizes) > 1, n * n_prev >= WIDE
    blocks, whole = column_blocks(n, n_prev, dtype.itemsize), [slice(0, n_prev)]
    least = min(group.sizes)

    def proven(same: Callable[[Group, int, Random], bool], terms: int) -> bool:
        drawn = (generator(0, Purpose.CANARY, l, draw) for draw in range(draws(terms)))
        return same(group, l, None) and all(same(group, l, random) for random in drawn)

    in_blocks = several and wide and proven(partial(_same_dW, blocks=blocks), least)
    return Shortcuts(
        z_at_once=several and proven(_same_z, n_prev),
        dA_at_once=several and l > 1 and proven(partial(_same_dA, turned=False), n),
        dA_turned=wide and l > 1 and group.m <= FEW and proven(partial(_same_dA, turned=True), n),
        dW_in_blocks=in_blocks,
        dW_added=several
        and wide
        and can_add_products(dtype)
        and (in_blocks or proven(partial(_same_dW, blocks=whole), least)),
    )


def _same_z(group: Group, l: int, random: Random) -> bool:
    A_prev, z = group.A[l - 1], group.A[l]
    W = _equal_columns(random, len(z.whole), len(A_prev.whole), z.whole.dtype, "F")
    A_prev.whole[...] = _cancelling(random, len(A_prev.whole), group.m)
    return _same_at_once(W, A_prev, z)


def _same_dA(group: Group, l: int, random: Random, turned: bool) -> bool:
    dz, dA = group.dz[l], group.dz[l - 1]
    W_T = _equal_columns(random, len(dA.whole), len(dz.whole), dz.whole.dtype, "C")
    dz.whole[...] = _cancelling(random, len(dz.whole), group.m)
    return _same_at_once(W_T, dz, dA, group.turned if turned else None)


def _same_dW(group: Group, l: int, random: Random, blocks: Sequence[slice]) -> bool:
    dz, A_prev = group.dz[l], group.A[l - 1]
    one_of_each_size = dict(zip(group.sizes, zip(dz.shards, A_prev.shards, strict=True), strict=True))
    for m_i, (dz_i, A_i) in one_of_each_size.items():
        dz_i[...] = _equal_columns(random, len(dz_i), m_i, dz_i.dtype, "F")
        A_i[...] = _cancelling(random, m_i, len(A_i)).T
    return _same_in_blocks(list(one_of_each_size.values()), blocks)


def draws(terms: int) -> int:
    """Return how many times sums of that many terms are compared.

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
    """Compare the product over the whole group, turned where there is a scratch for it, with the shards' own."""
    if scratch is None:
        multiply(M, A, out, at_once=True)
    else:
        multiply_turned(M, A, out, scratch)
    at_once = out.whole.tobytes()
    multiply(M, A, out, at_once=False)
    return out.whole.tobytes() == at_once


def _same_in_blocks(shards: Sequence[tuple[NDArray[Any], NDArray[Any]]], blocks: Sequence[slice]) -> bool:
    """Compare the dW of shards, each (dz, A_prev), formed and added in blocks of columns with what whole ones give."""
    products = []
    for dz, A_prev in shards:
        whole, blocked = (np.empty((len(A_prev), len(dz)), dz.dtype).T for _ in range(2))
        weight_gradient(dz, A_prev, whole)
        for block in blocks:
            weight_gradient(dz, A_prev[block], blocked[:, block])
        if not _same_bits(whole, blocked):
            return False
        products.append(whole)
    if not can_add_products(products[0].dtype):
        return True
    for (dz, A_prev), product in zip(shards, products, strict=True):
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
