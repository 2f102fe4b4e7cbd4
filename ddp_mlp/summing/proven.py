"""Which matrix products may be made in another shape than the shards' own: those seen to give the same bits.

One product over all of a group's examples is faster than one per shard; dW is added up faster in blocks of columns that
stay in cache, and by BLAS itself as it forms a product; and for few examples dA is formed faster in the other memory
order. Whether BLAS gives the same bits depends on the shapes and the kernel. Where the bits differ, the shard's own
shape is used: slower, never different.

Invariants:
- every single number of a product is compared, `draws` times: the last row and the last column may be added up in
  another order than the rest;
- what is compared shows the order. Terms nearly cancel, so that a sum is hardly more than its rounding errors: sums of
  ordinary random numbers hide the order of their last terms nine times in ten. No two terms cancel exactly: two of one
  size and opposite signs would hide their own rounding errors, in whatever order they are added;
- what a product is added to is about as large as the product and of the other sign, so that the sum shows the last
  digit of both;
- one more draw makes every term −0, since some kernels give the sum of such another sign than others do.

The order does not depend on the numbers; that it does not depend on where they lie is checked too.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.nn import blas
from ddp_mlp.nn.backprop import multiply, multiply_turned, weight_gradient
from ddp_mlp.nn.blas import add_product, can_add_products, prepared_product
from ddp_mlp.nn.buffers import FEW, Group, GroupMatrix, Shortcuts, aligned_empty
from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.summing import remembered
from ddp_mlp.summing.remembered import Proof

CACHE_BYTES = 2 * 1024 * 1024
"""Bytes of dW that are added up at a time."""
TOGETHER_BYTES, EACH_BYTES = 1024 * 1024, 128 * 1024
"""Bytes of all shards' products in a block of columns, and of one: for a product as small as that OpenBLAS takes a
kernel that copies nothing, which is faster for few examples."""
PREPARED_BYTES = 160 * 1024
"""Bytes of a block of dW that is formed shard by shard by prepared calls, for the same reason."""
FEW_EACH = 16
"""Examples: shards of at most so many are multiplied in such blocks."""
WIDE = 2**16
"""Weights of a layer from which on products are so large that memory counts, not the number of calls."""
LARGEST = 2**11
"""Of the whole numbers that cancel: sums of them are exact in every dtype."""
PLACES = 64
"""Bytes: over as many places, a cache line, an operand is moved."""

_KEPT: dict[Any, Proof] = {}
"""What this process has proven, by widths, sizes, dtype and library, whose kernel does not change."""
_PROVING = threading.Lock()

Random = np.random.Generator | None
"""What numbers are drawn from; None is the one draw whose terms are all −0."""
Form = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], None]
"""Sets `out` to dz A_prevᵀ, or adds that to it."""
Check = Callable[[Random], bool]
"""Draws operands, and compares a product in two shapes."""


def shortcuts(group: Group) -> Proof:
    """Return which products of every layer of this group may change shape, proven once for groups of these shapes.

    In this process, or where the cache folder has it, on this machine.

    May overwrite the group's buffers. Raises EnvironmentMismatch as `prove` does.
    """
    widths = tuple(len(group.A[l].whole) for l in range(group.L + 1))
    shapes = (widths, group.sizes, group.A[0].whole.dtype)
    key = (shapes, blas.in_use())
    with _PROVING:  # ranks may be threads of one process
        if key not in _KEPT:
            _KEPT[key] = _recalled_or_proven(group, shapes)
        return _KEPT[key]


def _recalled_or_proven(group: Group, shapes: tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]]) -> Proof:
    key = remembered.key_of(*shapes)
    proof = remembered.recall(key)
    if proof is None or set(proof) != set(range(1, group.L + 1)):
        proof = prove(group)
        remembered.remember(key, proof)
    return proof


def prove(group: Group) -> Proof:
    """Return which products of every layer of this group may change shape. Overwrites the group's buffers.

    Products over the whole group have a use where there are several shards; dW in blocks, and added by BLAS, in layers
    of at least WIDE weights; dA turned in such layers for at most FEW examples, and all shards' dW together for at most
    FEW_EACH in each.

    Raises EnvironmentMismatch where the bits of a shard's own products depend on where in memory they lie.
    """
    found = {}
    for l in range(1, group.L + 1):
        check_places(group, l)
        found[l] = _shortcuts(group, l)
    return found


def _shortcuts(group: Group, l: int) -> Shortcuts:
    A_prev, dz = group.A[l - 1], group.dz[l]
    (n_prev, _), (n, _), dtype = A_prev.whole.shape, dz.whole.shape, dz.whole.dtype
    several, wide = len(group.sizes) > 1, n * n_prev >= WIDE
    least = min(group.sizes)

    def proven(check: Callable[..., Check], terms: int, **how: Any) -> bool:
        same = check(group, l, **how)
        return same(None) and all(same(generator(0, Purpose.CANARY, l, draw)) for draw in range(draws(terms)))

    blocks, whole = column_blocks(n, n_prev, dtype.itemsize), [slice(0, n_prev)]
    few = several and wide and max(group.sizes) <= FEW_EACH
    small = small_blocks(n, n_prev, dtype.itemsize, len(group.sizes))
    prepared = prepared_blocks(n, n_prev, dtype.itemsize)
    in_blocks = several and wide and proven(_check_dW, least, blocks=blocks)
    return Shortcuts(
        z_at_once=several and proven(_check_z, n_prev),
        dA_at_once=several and l > 1 and proven(_check_dA, n, turned=False),
        dA_turned=wide and l > 1 and group.m <= FEW and proven(_check_dA, n, turned=True),
        dW_in_blocks=in_blocks,
        dW_together=few and proven(_check_dW, least, blocks=small, form=_form),
        dW_prepared=few
        and can_add_products(dtype)
        and proven(_check_dW, least, blocks=prepared, form=_form_prepared)
        and proven(_check_dW, least, blocks=prepared),
        dW_added=several and wide and can_add_products(dtype) and (in_blocks or proven(_check_dW, least, blocks=whole)),
    )


def draws(terms: int) -> int:
    """Return how many times sums of that many terms are compared.

    In a simulation of orders (one after the other, backwards, in parts, in lanes; each with fused multiply-add,
    without, and with one term unlike the others) two that differ did so in at least one draw for every number, and for
    nearly all in five. They agree most often where they add two of many terms elsewhere: in half of the draws.
    """
    return 24 + (240 // terms if terms > 2 else 0)


def column_blocks(n: int, n_prev: int, itemsize: int) -> list[slice]:
    """Return the blocks of columns of dW (n, n_prev), each of at most CACHE_BYTES, in which it is added up."""
    width = max(1, CACHE_BYTES // (n * itemsize))
    return [slice(start, min(start + width, n_prev)) for start in range(0, n_prev, width)]


def small_blocks(n: int, n_prev: int, itemsize: int, shards: int) -> list[slice]:
    """Return the blocks of columns of dW (n, n_prev) of which all shards' products stay in cache together."""
    width = max(1, min(EACH_BYTES, TOGETHER_BYTES // shards) // (n * itemsize))
    return [slice(start, min(start + width, n_prev)) for start in range(0, n_prev, width)]


def prepared_blocks(n: int, n_prev: int, itemsize: int) -> list[slice]:
    """Return the blocks of columns of dW (n, n_prev) that are formed by prepared calls, one shard after the other."""
    width = max(1, PREPARED_BYTES // (n * itemsize))
    return [slice(start, min(start + width, n_prev)) for start in range(0, n_prev, width)]


# ---- the comparisons -------------------------------------------------------------------------------------------------


def _check_z(group: Group, l: int) -> Check:
    A_prev, z = group.A[l - 1], group.A[l]
    W = np.empty((len(z.whole), len(A_prev.whole)), z.whole.dtype, "F")
    return _check_at_once(W, A_prev, z, None)


def _check_dA(group: Group, l: int, turned: bool) -> Check:
    dz, dA = group.dz[l], group.dz[l - 1]
    W_T = np.empty((len(dA.whole), len(dz.whole)), dz.whole.dtype)
    return _check_at_once(W_T, dz, dA, group.turned if turned else None)


def _check_at_once(M: NDArray[Any], A: GroupMatrix, out: GroupMatrix, scratch: NDArray[Any] | None) -> Check:
    """Compare the product over the whole group, turned where there is a scratch for it, with the shards' own.

    All shards have the same examples, as many as each has, so that one product stands for all of that size.
    """
    most = A.shards[int(np.argmax([A_i.shape[1] for A_i in A.shards]))]
    terms = Terms(most.T)

    def same(random: Random) -> bool:
        fill_columns(M, random)
        terms.draw(random)
        for A_k in A.stacks:
            A_k[...] = most[:, : A_k.shape[2]]
        if scratch is None:
            multiply(M, A, out, at_once=True)
        else:
            multiply_turned(M, A, out, scratch)
        at_once = out.whole.T.copy()
        first = 0
        for A_k, out_k in zip(A.stacks, out.stacks, strict=True):
            k, n, m_i = out_k.shape
            blas.multiply(M, A_k[:1], out_k[:1])
            found = at_once[first : first + k * m_i].reshape(k, m_i, n)
            if not np.array_equal(_bits(found), _bits(out_k[:1].mT).repeat(k, axis=0)):
                return False
            first += k * m_i
        return True

    return same


def _check_dW(group: Group, l: int, blocks: Sequence[slice], form: Form | None = None) -> Check:
    """Compare the dW of a shard of each size, formed or added in blocks of columns, with what whole ones give."""
    shards = dict(zip(group.sizes, zip(group.dz[l].shards, group.A[l - 1].shards, strict=True), strict=True)).values()
    checks = [_check_shard_dW(dz, A_prev, blocks, form or form_or_add) for dz, A_prev in shards]
    return lambda random: all(same(random) for same in checks)


def _check_shard_dW(dz: NDArray[Any], A_prev: NDArray[Any], blocks: Sequence[slice], form: Form) -> Check:
    terms = Terms(A_prev)
    whole, other = (np.empty((len(A_prev), len(dz)), dz.dtype).T for _ in range(2))

    def same(random: Random) -> bool:
        fill_columns(dz, random)
        terms.draw(random)
        weight_gradient(dz, A_prev, whole)
        if form is form_or_add and can_add_products(dz.dtype):
            addend(whole, random, other)
            np.add(other, whole, out=whole)
        for block in blocks:
            form(dz, A_prev[block], other[:, block])
        return np.array_equal(_bits(whole.T), _bits(other.T))

    return same


def _form(dz: NDArray[Any], A_prev: NDArray[Any], out: NDArray[Any]) -> None:
    """Set out to dz A_prevᵀ."""
    weight_gradient(dz, A_prev, out)


def _form_prepared(dz: NDArray[Any], A_prev: NDArray[Any], out: NDArray[Any]) -> None:
    """Set out to dz A_prevᵀ by a prepared call."""
    function, arguments = prepared_product(dz, A_prev, out, added=False)
    function(*arguments)


def form_or_add(dz: NDArray[Any], A_prev: NDArray[Any], out: NDArray[Any]) -> None:
    """Add dz A_prevᵀ to `out` where BLAS can do so, else set it: the form that a proof of dW in blocks is about."""
    if can_add_products(out.dtype):
        add_product(dz, A_prev, out)
    else:
        weight_gradient(dz, A_prev, out)


def _bits(a: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of a C-ordered array as whole numbers, which tell −0 from 0."""
    return a.view(np.dtype(f"u{a.itemsize}"))


# ---- what is drawn ---------------------------------------------------------------------------------------------------


class Terms:
    """Whole numbers for one operand of a product, rewritten in place by every draw; `target` is (sums, terms).

    Sums are of two kinds, in turn. Of one, the terms nearly cancel as a whole: an order shows by how its partial sums
    are rounded. Of the other, pairs of terms nearly cancel, 1, 2, 4, … apart, as they meet in an order that adds up
    every first, second, … term by itself: it shows how products are rounded. The numbers are drawn once; with each draw
    every sum meets the next one's numbers, so that it meets all kinds.
    """

    def __init__(self, target: NDArray[Any]) -> None:
        sums, terms = target.shape
        count = max(sums, draws(terms))
        random = generator(0, Purpose.CANARY, sums, terms)
        whole = random.integers(-LARGEST, LARGEST, (count, terms)).astype(np.float64)
        nearly = random.choice([-1, 1], (count, terms))
        row, last = np.arange(0, count, 2), random.integers(terms, size=(count + 1) // 2)
        if terms > 1:
            whole[row, last] += nearly[row, last] - whole[row].sum(axis=1)
        strides = [1 << bit for bit in range((terms - 1).bit_length())]
        for i, stride in enumerate(strides):
            rows = slice(1 + 2 * i, None, 2 * len(strides))
            _cancel_pairs(whole[rows], nearly[rows], stride)
        self._whole = np.empty_like(target, shape=(count, terms))
        self._whole[...] = whole
        self._target, self._draw = target, 0

    def draw(self, random: Random) -> None:
        """Write the next numbers; without a generator, zeros."""
        if random is None:
            self._target[...] = 0
            return
        sums, count = len(self._target), len(self._whole)
        first = self._draw % count
        head = min(sums, count - first)
        self._target[:head], self._target[head:] = self._whole[first : first + head], self._whole[: sums - head]
        self._draw += 1


def _cancel_pairs(whole: NDArray[Any], nearly: NDArray[Any], stride: int) -> None:
    """Let terms that lie a stride apart, every term in at most one pair, add up to ±1; terms without a pair are ±1."""
    terms = whole.shape[1]
    for k in range(terms):
        if k // stride % 2:
            whole[:, k] = nearly[:, k] - whole[:, k - stride]
        elif k + stride >= terms:
            whole[:, k] = nearly[:, k]


def fill_columns(M: NDArray[Any], random: Random) -> None:
    """Set M (n, terms) to random numbers, the same in every column; without a generator, to −1."""
    M[...] = -1 if random is None else random.standard_normal((len(M), 1), M.dtype)


def addend(product: NDArray[Any], random: Random, out: NDArray[Any]) -> None:
    """Set out to what a product (n, n_prev) is added to: of the other sign, half to one and a half times as large.

    Without a generator, to −0.
    """
    if random is None:
        out[...] = -0.0
    else:
        np.multiply(product, random.uniform(-1.5, -0.5, (1, product.shape[1])).astype(product.dtype), out=out)


# ---- where operands lie ----------------------------------------------------------------------------------------------


def check_places(group: Group, l: int) -> None:
    """Check that a shard's own products have the same bits wherever in memory their operands lie.

    Kernels for vectors may depend on it: they are given every place in a cache line. Those for matrices copy what they
    read; one other place stands for all.

    Raises EnvironmentMismatch.
    """
    n_prev, n, dtype = len(group.A[l - 1].whole), len(group.dz[l].whole), group.dz[l].whole.dtype
    for m_i in sorted(set(group.sizes)):
        for product, rows, terms, columns, orders in (
            ("W A", n, n_prev, m_i, "FF"),
            ("dz Aᵀ", n, m_i, n_prev, "FC"),
            ("Wᵀ dz", n_prev, n, m_i, "CF"),
        ):
            if not _same_everywhere(rows, terms, columns, dtype, orders):
                library = blas.in_use()
                raise EnvironmentMismatch(
                    f"{library.name} {library.architecture}: the bits of {product} of layer {l}, {rows} × {terms} "
                    f"times {terms} × {columns} in {dtype}, depend on where in memory its operands lie: "
                    "set OPENBLAS_CORETYPE to another kernel, or use another BLAS"
                )


def _same_everywhere(rows: int, terms: int, columns: int, dtype: np.dtype[Any], orders: str) -> bool:
    """Compare a product (rows, terms) times (terms, columns) of operands in these memory orders, moved about."""
    random = generator(0, Purpose.CANARY, rows, terms, columns)

    def moved(shape: tuple[int, int], order: str, place: int) -> NDArray[Any]:
        """Return memory for an array that starts that many elements into a cache line."""
        memory = aligned_empty(shape[0] * shape[1] + place, dtype)[place:]
        return memory.reshape(shape) if order == "C" else memory.reshape(shape[::-1]).T

    M, A = moved((rows, terms), orders[0], 0), moved((terms, columns), orders[1], 0)
    out = moved((rows, columns), "F", 0)
    fill_columns(M, random)
    Terms(A.T).draw(random)
    blas.multiply(M, A, out)
    places = [(1, 1, 1)]
    if rows == 1 or columns == 1:
        places = [(i, j, j) for i in range(PLACES // dtype.itemsize) for j in (0, i)]
    for M_place, A_place, out_place in places:
        M_i, A_i = moved(M.shape, orders[0], M_place), moved(A.shape, orders[1], A_place)
        out_i = moved(out.shape, "F", out_place)
        M_i[...], A_i[...] = M, A
        blas.multiply(M_i, A_i, out_i)
        if not np.array_equal(_bits(out.T), _bits(out_i.T)):
            return False
    return True
