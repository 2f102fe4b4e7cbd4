"""Which matrix products may be made in another shape than the shards' own: those seen to give the same bits.

One product over all of a group's examples is faster than one per leaf, dW is added up faster in blocks of columns that
stay in cache, and for few examples dA is formed faster in the other memory order. Whether BLAS gives the same bits
depends on the shapes and the kernel. The order of additions inside a product does not depend on the numbers, so that
random numbers in the very shapes decide it. Two orders may well agree on a number (nine times in ten for sums of
three): small products are drawn until `ENOUGH` numbers have been compared. Where the bits differ, the leaf's own shape
is used: slower, never different.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.backprop import FEW, Group, Panel, multiply, multiply_turned, weight_gradient
from ddp_mlp.nn.randomness import Purpose, generator

CACHE_BYTES = 1024 * 1024
"""Bytes of dW that are added up at a time."""
WIDE = 2**16
"""Weights of a layer from which on a product pays for being turned."""
ENOUGH = 2048
"""Numbers of each product to compare: orders that agree on 99 of 100 of them are told apart but once in 10^9."""


def proven(widths: Sequence[int], group: Group, dtype: np.dtype[Any]) -> frozenset[tuple[str, int]]:
    """Return which products of this group may change shape, as (what, layer).

    ("z", l) and ("dA", l): W A_prev and Wᵀ dz over the whole group; ("dW", l): dz A_prevᵀ in `column_blocks`: where
    there are several leaves. ("dA turned", l): `multiply_turned` for few examples and at least WIDE weights. The
    group's buffers are overwritten.
    """
    several = len(group.sizes) > 1
    found = set()
    for l in range(1, group.L + 1):
        n_prev, n = widths[l - 1], widths[l]
        A_prev, Z, dz = group.A[l - 1], group.A[l], group.dz[l]
        same = {"z", "dW"} if several else set()
        if several and l > 1:
            same.add("dA")
        if l > 1 and n * n_prev >= WIDE and group.m <= FEW:
            same.add("dA turned")
        fewest = min(n * group.m, n_prev * group.m, n * n_prev * len(group.sizes))
        for turn in range(-(-ENOUGH // fewest) if same else 0):
            random = generator(0, Purpose.CANARY, l, turn)
            W = _draw(random, n_prev, n, dtype).T
            A_prev.whole[...] = _draw(random, n_prev, group.m, dtype)
            if "z" in same and not _same_at_once(W, A_prev, Z):
                same.remove("z")
            for leaf in dz.leaves:
                leaf[...] = _draw(random, n, leaf.shape[1], dtype)
            if "dW" in same and not _same_in_blocks(dz, A_prev):
                same.remove("dW")
            if "dA" in same and not _same_at_once(W.T, dz, group.dz[l - 1]):
                same.remove("dA")
            if "dA turned" in same and not _same_at_once(W.T, dz, group.dz[l - 1], group.turned):
                same.remove("dA turned")
        found |= {(what, l) for what in same}
    return frozenset(found)


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


def _same_in_blocks(dz: Panel, A_prev: Panel) -> bool:
    n, n_prev = dz.leaves[0].shape[0], A_prev.whole.shape[0]
    blocks = column_blocks(n, n_prev, A_prev.whole.itemsize)
    whole, blocked = np.empty((2, n_prev, n), A_prev.whole.dtype)
    for dz_i, A_i in zip(dz.leaves, A_prev.leaves, strict=True):
        weight_gradient(dz_i, A_i, whole.T)
        for block in blocks:
            weight_gradient(dz_i, A_i[block], blocked.T[:, block])
        if whole.tobytes() != blocked.tobytes():
            return False
    return True


def _draw(random: np.random.Generator, rows: int, columns: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return random.standard_normal((rows, columns), dtype)
