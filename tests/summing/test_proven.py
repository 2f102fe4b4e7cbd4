"""Tests of the proof by which products change their shape."""

import functools
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from ddp_mlp.nn import backprop, blas, cblas
from ddp_mlp.nn.buffers import Group, GroupMatrix
from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.summing import proven
from tests.orders import orders, orders_begun_elsewhere

F32 = np.dtype(np.float32)


def test_a_shape_that_changes_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one product over the group differs from the shards' own by one bit, it is not used."""
    exact = backprop.multiply

    def one_bit_off(M: Any, A: GroupMatrix, out: GroupMatrix, at_once: bool) -> None:
        exact(M, A, out, at_once)
        if at_once:
            out.whole[0, -1] = np.nextafter(out.whole[0, -1], F32.type(np.inf))

    widths = (20, 16, 12, 4)
    group = Group(widths, (8, 8), F32)
    monkeypatch.setattr(proven, "multiply", one_bit_off)
    found = proven.prove(group).values()
    assert not any(shortcuts.z_at_once or shortcuts.dA_at_once for shortcuts in found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("terms", [3, 5, 64, 128])
def test_a_single_number_added_up_in_another_order_is_refused(
    terms: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one number of the product, the last row's and column's, is the sum of two parts, it is not used."""
    exact, kind = backprop.multiply, np.dtype(dtype)

    def in_two_parts(M: Any, A: GroupMatrix, out: GroupMatrix, at_once: bool) -> None:
        exact(M, A, out, at_once=False)
        products = M[-1] * A.whole[:, -1]
        orders = [functools.reduce(np.add, products)]
        orders += [functools.reduce(np.add, products[:-2]) + functools.reduce(np.add, products[-2:])]
        out.whole[-1, -1] = orders[at_once]

    widths = (terms, 33, 4)
    monkeypatch.setattr(proven, "multiply", in_two_parts)
    assert not proven.prove(Group(widths, (12, 13), kind))[1].z_at_once


def test_a_turned_product_that_changes_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where dA formed in the other order differs by one bit, for one shard as for several, it is not formed so."""
    widths = (20, 300, 300, 4)
    exact = backprop.multiply

    def turned(M: Any, A: GroupMatrix, out: GroupMatrix, scratch: Any) -> None:
        exact(M, A, out, at_once=False)

    def one_bit_off(M: Any, A: GroupMatrix, out: GroupMatrix, scratch: Any) -> None:
        exact(M, A, out, at_once=False)
        out.whole[0, -1] = np.nextafter(out.whole[0, -1], F32.type(np.inf))

    for sizes in ((16,), (8, 8)):
        monkeypatch.setattr(proven, "multiply_turned", turned)
        assert proven.prove(Group(widths, sizes, F32))[2].dA_turned
        assert not proven.prove(Group(widths, sizes, F32))[3].dA_turned, "too few weights"
        monkeypatch.setattr(proven, "multiply_turned", one_bit_off)
        assert not proven.prove(Group(widths, sizes, F32))[2].dA_turned
    monkeypatch.setattr(proven, "multiply_turned", turned)
    assert not proven.prove(Group(widths, (65,), F32))[2].dA_turned, "too many examples"


def test_blocks_that_change_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block of columns of dW differs from the same columns of the whole, blocks are not used."""
    exact = blas.add_product

    def one_bit_off(dz: Any, A_prev: Any, dW: Any) -> None:
        exact(dz, A_prev, dW)
        if dW.shape[1] < 20:
            dW[0, 0] = np.nextafter(dW[0, 0], F32.type(np.inf))

    monkeypatch.setattr(proven, "add_product", one_bit_off)
    monkeypatch.setattr(proven, "CACHE_BYTES", 16 * 4 * 7)
    monkeypatch.setattr(proven, "WIDE", 20 * 16)
    group = Group((20, 16, 4), (8, 8), F32)
    found = proven.prove(group)[1]
    assert not found.dW_in_blocks
    assert found.dW_added, "which is as good as it was"


def test_products_of_all_shards_in_small_blocks_are_for_few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 16 in a shard; and where a block gives one other bit, never."""

    def one_bit_off(dz: Any, A_prev: Any, dW: Any) -> None:
        exact(dz, A_prev, dW)
        if dW.shape[1] < 300:
            dW[0, 0] = np.nextafter(dW[0, 0], F32.type(np.inf))

    exact, widths = backprop.weight_gradient, (300, 260, 4)
    blocks = proven.small_blocks(260, 300, 4, 8)
    assert [block.stop - block.start for block in blocks] == [126, 126, 48], "128 KiB of float32 each"
    assert proven.prove(Group(widths, (16, 15), F32))[1].dW_together
    assert not proven.prove(Group(widths, (17, 16), F32))[1].dW_together, "too many examples"
    assert not proven.prove(Group(widths, (16,), F32))[1].dW_together, "one shard"
    monkeypatch.setattr(proven, "weight_gradient", one_bit_off)
    assert not proven.prove(Group(widths, (16, 15), F32))[1].dW_together


@pytest.mark.parametrize("of_sums", [False, True])
def test_prepared_products_that_give_one_other_bit_are_not_used(monkeypatch: pytest.MonkeyPatch, of_sums: bool) -> None:
    """Neither where a product is formed in blocks by itself, nor where it is added to a sum."""

    def off(dz: Any, A_prev: Any, dW: Any, **added: bool) -> Any:
        if of_sums:
            blas.add_product(dz, A_prev, dW)
            dW[-1, -1] = np.nextafter(dW[-1, -1], F32.type(np.inf))
            return None
        function, arguments = blas.prepared_product(dz, A_prev, dW, **added)

        def call(*of: Any) -> None:
            function(*of)
            dW[-1, -1] = np.nextafter(dW[-1, -1], F32.type(np.inf))

        return call, arguments

    group = Group((300, 260, 4), (16, 15), F32)
    assert proven.prove(group)[1].dW_prepared
    monkeypatch.setattr(proven, "add_product" if of_sums else "prepared_product", off)
    found = proven.prove(group)[1]
    assert not found.dW_prepared
    assert found.dW_together


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("widths", "sizes"),
    [
        ((64, 128, 64, 10), (32, 31, 32, 33)),
        ((64, 33, 17, 10), (12, 13, 12, 13)),
        ((3, 1, 1, 2), (1, 2)),
        ((3, 2, 2, 2), (1, 1)),
        ((20, 300, 300, 10), (16, 15, 16)),
        ((20, 300, 300, 10), (64,)),
    ],
)
def test_what_is_proven_gives_the_shards_bits(widths: tuple[int, ...], sizes: tuple[int, ...], dtype: str) -> None:
    """On other numbers than those of the proof, every product it allows has the bits of the shards' own products.

    Two orders may agree by chance in nine of ten draws, and always if the numbers' products are exact.
    """
    kind = np.dtype(dtype)
    group = Group(widths, sizes, kind)
    random = np.random.default_rng(9)
    names = ("z_at_once", "dA_at_once", "dA_turned")
    allowed = [(name, l) for l, found in proven.prove(group).items() for name in names if getattr(found, name)]
    for what, l in allowed * 200:
        W = random.standard_normal((widths[l - 1], widths[l])).astype(kind).T
        M, A, out = (W, group.A[l - 1], group.A[l]) if what == "z_at_once" else (W.T, group.dz[l], group.dz[l - 1])
        A.whole[...] = random.standard_normal(A.whole.shape)
        if what == "dA_turned":
            backprop.multiply_turned(M, A, out, group.turned)
        else:
            backprop.multiply(M, A, out, at_once=True)
        at_once = out.whole.tobytes()
        backprop.multiply(M, A, out, at_once=False)
        assert out.whole.tobytes() == at_once, (what, l)


REFUSES_ADDING = {"Haswell", "Zen"}
"""OpenBLAS's kernels whose product in float64 the proof lets not add itself; Zen has Haswell's."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("widths", "sizes"), [((784, 130, 10), (16, 15, 16)), ((300, 300, 300), (64, 64))])
def test_a_product_that_adds_itself_gives_the_bits_of_product_and_sum(
    widths: tuple[int, ...], sizes: tuple[int, ...], dtype: str
) -> None:
    """On other numbers than those of the proof; it is allowed but for float64 with OpenBLAS's Haswell kernel."""
    kind = np.dtype(dtype)
    group = Group(widths, sizes, kind)
    random = np.random.default_rng(9)
    assert blas.can_add_products(kind), "NumPy's own wheels have a BLAS that can be called"
    same = []
    dz, A_prev = group.dz[1], group.A[0]
    for _ in range(50):
        dz.whole[...], A_prev.whole[...] = (random.standard_normal(a.whole.shape) for a in (dz, A_prev))
        for dz_i, A_i in zip(dz.shards, A_prev.shards, strict=True):
            total = random.standard_normal(widths[:2]).astype(kind).T
            product = np.empty_like(total)
            backprop.weight_gradient(dz_i, A_i, product)
            expected = total + product
            for block in proven.column_blocks(widths[1], widths[0], kind.itemsize):
                blas.add_product(dz_i, A_i[block], total[:, block])
            same.append(total.tobytes() == expected.tobytes())
    allowed = proven.prove(group)[1].dW_added
    assert all(same) or not allowed
    assert allowed or (dtype == "float64" and blas.libraries()[0].architecture in REFUSES_ADDING)


def drawn(terms: int, dtype: np.dtype[Any]) -> tuple[list[Any], list[Any], Any]:
    """Return the terms of a product's numbers in every draw of a proof, each (draws, 16, 24).

    The last array is by what the numbers are multiplied to give what they are added to.
    """
    M, A = np.empty((16, terms), dtype), np.empty((24, terms), dtype)
    numbers = proven.Terms(A)
    factors, rows, columns = (np.empty((proven.draws(terms), *shape), dtype) for shape in ((16, 24), M.shape, A.shape))
    for draw, factor in enumerate(factors):
        random = generator(0, Purpose.CANARY, 1, draw)
        proven.fill_columns(M, random)
        numbers.draw(random)
        proven.addend(np.ones((16, 24), dtype), random, factor)
        rows[draw], columns[draw] = M, A
    a = [np.repeat(rows[:, :, None, k], 24, axis=2) for k in range(terms)]
    return a, [np.repeat(columns[:, None, :, k], 16, axis=1) for k in range(terms)], factors


def ever_differ(one: Any, other: Any, terms: int, dtype: np.dtype[Any], added: bool) -> bool:
    """Tell whether two orders differ on any of 20,000 ordinary sums, or on sums that nearly cancel."""
    random = np.random.default_rng(terms)
    a, b = ([random.standard_normal(20_000).astype(dtype) for _ in range(terms)] for _ in range(2))
    if terms > 1:
        exact = sum(x.astype(np.float64) * y for x, y in zip(a[1:], b[1:], strict=True))
        b[0][::2] = (-exact / a[0])[::2].astype(dtype)
    c = [random.standard_normal(20_000).astype(dtype)] if added else []
    return bool(np.any(one(a, b, *c) != other(a, b, *c)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("terms", range(1, 65))
def test_two_orders_that_differ_are_told_apart_by_every_number(terms: int, dtype: str) -> None:
    """Each of a product's numbers shows each of two orders: any of them planted in any one number is refused."""
    kind = np.dtype(dtype)
    a, b, _ = drawn(terms, kind)
    found = orders(terms)
    sums = {name: order(a, b) for name, order in found.items()}
    for (one, x), (other, y) in combinations(sums.items(), 2):
        if np.all(x == y, axis=0).any():
            assert not ever_differ(found[one], found[other], terms, kind, False), (one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("terms", range(1, 65))
def test_a_sum_begun_elsewhere_is_told_apart_by_every_number(terms: int, dtype: str) -> None:
    """A product that is formed and then added, in whatever order, and one whose terms are added to what is there."""
    kind = np.dtype(dtype)
    a, b, factors = drawn(terms, kind)
    elsewhere = orders_begun_elsewhere(terms)
    for name, order in orders(terms).items():

        def after(a: Any, b: Any, c: Any, order: Any = order) -> Any:
            return c + order(a, b)

        c = order(a, b) * factors
        expected = after(a, b, c)
        for other, begun in elsewhere.items():
            if np.all(begun(a, b, c) == expected, axis=0).any():
                assert not ever_differ(after, begun, terms, kind, True), (name, other)


@pytest.mark.parametrize("at_a_time", [1, 7])
@pytest.mark.parametrize("n_prev", [300, 1])
def test_a_sum_of_another_order_is_not_left_to_the_product(
    n_prev: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the product's terms are added to what is there one or some after the other, product and sum stay apart.

    MKL does so where it has a single column to form.
    """

    def one_after_the_other(dz: Any, A: Any, out: Any) -> None:
        for i in range(0, dz.shape[1], at_a_time):
            out += dz[:, i : i + at_a_time] @ A[:, i : i + at_a_time].T

    def product(dz: Any, A: Any, dW: Any) -> None:
        dW[...] = 0
        one_after_the_other(dz, A, dW)

    widths = (n_prev, 300, 4)
    monkeypatch.setattr(proven, "WIDE", n_prev * 300)
    monkeypatch.setattr(proven, "weight_gradient", product)
    monkeypatch.setattr(proven, "add_product", one_after_the_other)
    found = proven.prove(Group(widths, (14, 14), F32))[1]
    assert not found.dW_in_blocks
    assert not found.dW_added


def test_a_sum_whose_zero_has_another_sign_is_not_left_to_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a product of zeros, +0 by itself, is added as −0, product and sum stay apart."""

    def positive(dz: Any, A: Any, dW: Any) -> None:
        exact(dz, A, dW)
        dW += 0  # +0 + −0 is +0

    def negative(dz: Any, A: Any, out: Any) -> None:
        product = np.empty_like(out)
        positive(dz, A, product)
        out += product
        out[product == 0] = -0.0

    exact = backprop.weight_gradient
    widths = (300, 300, 4)
    for add, allowed in ((negative, False), (blas.add_product, True)):
        monkeypatch.setattr(proven, "weight_gradient", positive)
        monkeypatch.setattr(proven, "add_product", add)
        found = proven.prove(Group(widths, (64, 64), F32))[1]
        assert found.dW_added == allowed


def test_without_a_known_name_in_the_library_products_are_formed_and_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another BLAS may have no C interface, or hide it."""
    nameless = cblas.CBlas(cblas.numpys().path, ("no_{}gemm",))
    monkeypatch.setattr(cblas, "numpys", lambda: nameless)
    widths = (300, 300, 4)
    assert not blas.can_add_products(F32)
    found = proven.prove(Group(widths, (8, 8), F32))[1]
    assert found.dW_in_blocks
    assert not found.dW_added


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_add_product_adds_a_product(dtype: str) -> None:
    """To slices of larger arrays, and to nothing else: whole numbers show it exactly."""
    random = np.random.default_rng(0)
    dz, A, out = (random.integers(-9, 9, shape).astype(dtype).T for shape in ((20, 7), (20, 30), (30, 7)))
    expected = out.copy()
    expected[:, 4:19] += dz[:, 5:16] @ A[4:19, 5:16].T
    blas.add_product(dz[:, 5:16], A[4:19, 5:16], out[:, 4:19])
    assert out.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(16, 16, 16), (1, 1), (5, 4, 4, 5, 5), (33,)])
@pytest.mark.parametrize("widths", [(64, 128, 10), (3, 1, 2), (17, 33, 26), (784, 100, 10)])
def test_a_stack_of_shards_has_the_bits_of_each_shard(
    widths: tuple[int, ...], sizes: tuple[int, ...], dtype: str
) -> None:
    """z, dW, db and dA of shards of one size, formed in one call, are those of each shard by itself."""
    kind, random = np.dtype(dtype), np.random.default_rng(2)
    group = Group(widths, sizes, kind)
    W = random.standard_normal(widths[:2]).astype(kind).T
    A_prev, dz = group.A[0], group.dz[1]

    def fill() -> None:
        A_prev.whole[...], dz.whole[...] = (random.standard_normal(a.whole.shape) for a in (A_prev, dz))

    def product(M: Any, A_i: Any) -> bytes:
        out = np.empty((A_i.shape[1], len(M)), kind).T
        np.matmul(M, A_i, out=out)
        return out.tobytes()

    fill()
    alone = [product(W, A_i) for A_i in A_prev.shards]
    backprop.multiply(W, A_prev, group.A[1], at_once=False)
    assert [z.tobytes() for z in group.A[1].shards] == alone

    fill()
    alone = [product(W.T, dz_i) for dz_i in dz.shards]
    backprop.multiply(W.T, dz, A_prev, at_once=False)
    assert [dA.tobytes() for dA in A_prev.shards] == alone

    fill()
    found = []
    for dz_k, A_k in zip(dz.stacks, A_prev.stacks, strict=True):
        dW, db = np.empty((len(dz_k), *widths[:2]), kind).mT, np.empty((len(dz_k), 1, widths[1]), kind).mT
        backprop.weight_gradient(dz_k, A_k, dW)
        backprop.bias_gradient(dz_k, db)
        found += [(dW_i.tobytes(), db_i.tobytes()) for dW_i, db_i in zip(dW, db, strict=True)]
    for dz_i, A_i, (dW_bytes, db_bytes) in zip(dz.shards, A_prev.shards, found, strict=True):
        dW, db = np.empty(widths[:2], kind).T, np.empty((1, widths[1]), kind).T
        backprop.weight_gradient(dz_i, A_i, dW)
        backprop.bias_gradient(dz_i, db)
        assert (dW.tobytes(), db.tobytes()) == (dW_bytes, db_bytes)


def test_a_single_shard_is_left_alone() -> None:
    """One shard has nothing to gain."""
    assert not any(any(found) for found in proven.prove(Group((20, 16, 4), (16,), F32)).values())


def test_column_blocks_cover_the_columns() -> None:
    """The blocks follow one another, and each fits into the cache."""
    blocks = proven.column_blocks(512, 784, 4)
    assert [column for block in blocks for column in range(block.start, block.stop)] == list(range(784))
    assert all((block.stop - block.start) * 512 * 4 <= proven.CACHE_BYTES for block in blocks)
    assert proven.column_blocks(10**9, 3, 8) == [slice(0, 1), slice(1, 2), slice(2, 3)]
