"""A portable pass: the same bits for any cut of the batch, the gradient of float64, and what outliers lose."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import lines as of_batch
from ddp_mlp.nn import products
from ddp_mlp.nn.activations import ACTIVATIONS
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.lines import Limbs, Lines, sample
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy, create
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.portable import Pass, RoundedWeights

FLOAT64 = np.dtype(np.float64)
Array = NDArray[Any]


def rounded_by(parts: int, W: dict[int, NDArray[Any]], widths: tuple[int, ...]) -> RoundedWeights:
    """Return the weights as one of `parts` ranks of a node has them, who share memory."""
    memory: list[NDArray[np.float64]] = []

    def weights_of(part: int) -> RoundedWeights:
        taken = iter(memory.copy())

        def allocate(count: int) -> NDArray[np.float64]:
            if part == 0:
                memory.append(np.zeros(count))
                return memory[-1]
            return next(taken)

        return RoundedWeights(widths, allocate, part, parts)

    ranks = [weights_of(part) for part in range(parts)]
    for rank in ranks:
        rank.look(W)
    for rank in ranks:
        rank.set(W)
    return ranks[-1]


class Batch:
    """A network with random parameters, and a batch of random examples for it."""

    def __init__(self, network: Architecture, m: int, weighted: bool = False, spread: float = 0.0) -> None:
        random = np.random.default_rng(1)
        self.network, self.m = network.portable, m
        layout, widths = network.layout, network.layout.widths
        self.flat = np.zeros(layout.length, np.float32)
        layout.initialize(self.flat, 3, arithmetic=PORTABLE)
        self.X = random.standard_normal((m, widths[0])) * 10 ** (spread * random.random((m, 1)))
        self.y = random.integers(0, widths[-1], m)
        self.Y = np.abs(random.standard_normal((m, network.targets or 1)))
        self.w = random.random(m) * 10.0 ** random.integers(-3, 4, m) if weighted else None

    def share(self, lo: int, hi: int) -> tuple[Pass | None, Lines]:
        """Take some rows forward and back, and return what is left."""
        layout = self.network.layout
        W, b = layout.views(self.flat)
        weights, lines = rounded_by(3, W, layout.widths), Lines(layout.widths)
        lines.begin()
        if lo == hi:
            lines.end()
            return None, lines
        group = self.network.group([hi - lo], FLOAT64)
        group.A[0].whole[...] = self.X[lo:hi].T
        group.y[...] = self.y[lo:hi]
        if self.network.targets:
            group.Y.whole[...] = self.Y[lo:hi].T
        group.w = None if self.w is None else self.w[lo:hi].copy()
        way = Pass(group, weights, lines)
        way.forward(b)
        self.network.output.gradient(group)
        way.backward(sample(lo, hi - lo, self.m))
        lines.loss_and_weight.high[:] = np.abs(group.losses).max(), 1 if group.w is None else group.w.max()
        lines.end()
        return way, lines

    def gradient(self, cuts: list[int], order: list[int] | None = None) -> tuple[Array, float, int]:
        """Return the flat gradient sum, the loss sum, and the number of second limbs, from shares of the batch."""
        layout = self.network.layout
        shares = [self.share(lo, hi) for lo, hi in pairwise(cuts)]
        table = np.concatenate(
            [
                np.max([lines.table[:1] for _, lines in shares], axis=0),
                np.sum([lines.table[1:] for _, lines in shares], axis=0, dtype=np.int32),
            ]
        )
        flat, more, loss = np.zeros(layout.length), np.zeros(0), 0.0
        limbs, exponent = None, 0
        for i in order or range(len(shares)):
            way, lines = shares[i]
            if way is None:
                continue
            lines.table[...] = table
            limbs, exponent = Limbs(lines, self.m), int(lines.loss_and_weight.exponent[0])
            part, rest = np.zeros(layout.length), np.zeros(limbs.length)
            way.weight_gradient(limbs, *layout.views(part), rest)
            flat, more = flat + part, rest + more if len(more) else rest
            loss += of_batch.sum_in_units(way.group.losses, exponent, self.m)
        assert limbs is not None
        limbs.spread_out(more, *layout.views(flat))
        return flat, loss * of_batch.sum_unit(exponent, self.m), limbs.rows


@pytest.mark.parametrize("widths", [(784, 100, 10), (3, 200, 2, 150, 4), (40, 20_000, 1)])
def test_weights_are_rounded_as_rows_are_in_any_shares(widths: tuple[int, ...]) -> None:
    """By 1, 2, 3, 7 and more ranks than there are rows: each row to a unit of its own, as `products` has it."""
    layout = Layout(widths)
    flat = np.zeros(layout.length, np.float32)
    layout.initialize(flat, 3, arithmetic=PORTABLE)
    W, _ = layout.views(flat)
    for parts in (1, 2, 3, 7, 203):
        weights = rounded_by(parts, W, widths)
        for l, W_l in W.items():
            wide = W_l.astype(np.float64)
            unit = products.units(products.exponents(products.largest(wide, 1)), weights.bits[l].W)
            products.round_to(wide, unit, wide)
            assert np.array_equal(weights.W[l], wide)
            assert np.array_equal(weights.unit[l], unit[:, 0])
            assert np.array_equal(weights.inverse[l], 1 / unit[:, 0])


def test_weights_of_all_magnitudes_are_rounded_in_float32_as_in_float64() -> None:
    """Ties, values just below a power of two, subnormals, zeros, float32's largest, infinity and NaN."""
    random = np.random.default_rng(5)
    n_prev, n = 784, 48
    halves = random.integers(-(2**23), 2**23, (n, n_prev)).astype(np.float32)  # many ties
    ordinary = random.standard_normal((n, n_prev)).astype(np.float32)
    below = np.nextafter(np.float32(1), np.float32(0)) * np.sign(ordinary)
    spread = ordinary * np.exp2(random.integers(-30, 1, (n, n_prev))).astype(np.float32)
    some_zero, endless, none = ordinary.copy(), ordinary.copy(), ordinary.copy()
    some_zero[3], endless[4, 9], none[5, 9] = -0.0, np.inf, np.nan
    given = {"ties": halves, "below": below, "spread": spread, "zeros": some_zero, "infinity": endless, "NaN": none}
    given |= {f"2^{e}": ordinary * np.float32(2.0**e) for e in (-149, -146, -140, -130, -110, 75, 100, 119, 125)}
    for name, W in given.items():
        for parts in (1, 3):
            expected = W.astype(np.float64)
            unit = products.units(products.exponents(products.largest(expected, 1)), 21)
            with np.errstate(invalid="ignore"):
                weights = rounded_by(parts, {1: np.asfortranarray(W)}, (n_prev, n))
                products.round_to(expected, unit, expected)
            assert weights.W[1].tobytes() == expected.tobytes() or name in ("infinity", "NaN"), name
            assert np.array_equal(weights.W[1], expected, equal_nan=True), name


CUTS = ([0, 203], [0, 100, 203], [0, 0, 7, 7, 90, 203, 203], [0, 1, 2, 3, 203], [*range(0, 203, 29), 203])

NETWORKS = {
    "softmax": Architecture(Layout((61, 33, 17, 11)), output=SoftmaxCrossEntropy(0.1)),
    "no hidden layer": Architecture(Layout((5, 3))),
    "narrow and wide": Architecture(Layout((3, 200, 2, 150, 4))),
    **{
        name: Architecture(Layout((9, 20, 12, 4)), (ACTIVATIONS[name],) * 2)
        for name in ("leaky_relu", "elu", "tanh", "sigmoid", "softplus", "gelu", "silu", "identity")
    },
    **{
        loss: Architecture(Layout((9, 20, 4)), output=create(loss, n_L=4, quantiles=(0.1, 0.9)), targets=4)
        for loss in ("binary_cross_entropy", "squared_error", "poisson", "huber", "absolute_error")
    },
    "quantile": Architecture(Layout((9, 20, 4)), output=create("quantile", n_L=4, quantiles=(0.1, 0.9)), targets=2),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_one_gradient_for_every_cut_and_order(name: str, weighted: bool) -> None:
    """Whole, in shares of any size, empty ones too, added in any order: to the bit, and the loss as well."""
    batch = Batch(NETWORKS[name], 203, weighted)
    expected = batch.gradient(CUTS[0])
    assert np.isfinite(expected[0]).all()
    assert np.any(expected[0])
    for cuts in CUTS[1:]:
        order = np.random.default_rng(2).permutation(len(cuts) - 1).tolist()
        found = batch.gradient(cuts, order)
        assert found[0].tobytes() == expected[0].tobytes()
        assert found[1:] == expected[1:]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_that_of_float64(name: str, weighted: bool) -> None:
    """Against the native pass in float64: each row of dW and db to 4e-6 of its terms; the loss to 1e-6."""
    from ddp_mlp.nn import backprop

    batch = Batch(NETWORKS[name], 203, weighted)
    network = NETWORKS[name]
    layout, group = network.layout, network.group([203], FLOAT64)
    group.A[0].whole[...], group.y[...] = batch.X.T, batch.y
    if network.targets:
        group.Y.whole[...] = batch.Y.T
    group.w = batch.w
    expected = np.zeros(layout.length)
    W, b = layout.views(batch.flat.astype(np.float64))
    loss, _ = backprop.gradient_sum(W, b, group, network.output, *layout.views(expected))
    found, found_loss, _ = batch.gradient([0, 203])
    assert found_loss == pytest.approx(loss, rel=1e-6)
    for l in range(1, group.L + 1):
        dz, A_prev = np.abs(group.dz[l].whole), np.abs(group.A[l - 1].whole)
        terms = dz @ A_prev.T, np.sum(dz, axis=1, keepdims=True)  # what is added up, where a sum may cancel
        for mine, theirs, added in zip(layout.views(found), layout.views(expected), terms, strict=True):
            error = np.linalg.norm(mine[l] - theirs[l], axis=1)
            size = np.linalg.norm(added, axis=1)
            # A unit whose outgoing weights are all small loses their lowest bits: it is held to the usual size.
            assert (error <= 4e-6 * np.maximum(size, size.mean())).all()


def product(dz: Array, A: Array) -> tuple[Array, int]:
    """Return dz Aᵀ as a portable pass forms it, and how many rows had a second limb."""
    (n, m), n_prev = dz.shape, len(A)
    group, lines = Group((n_prev, n), (m,), FLOAT64), Lines((n_prev, n))
    group.A[0].whole[...], group.A[1].whole[...] = A, dz
    way = Pass(group, RoundedWeights((n_prev, n)), lines)
    lines.begin()
    for line, x in ((lines.dz[1], dz), (lines.A[0], A)):
        line.high[...] = np.abs(x).max(axis=1)
    lines.sample(lines.samples([np.asfortranarray(A), np.asfortranarray(dz)], sample(0, m, m)))
    lines.end()
    limbs = Limbs(lines, m)
    dW, db, more = {1: np.zeros((n, n_prev))}, {1: np.zeros((n, 1))}, np.zeros(limbs.length)
    way.weight_gradient(limbs, dW, db, more)
    limbs.spread_out(more, dW, db)
    assert np.abs(db[1][:, 0] - dz.sum(axis=1)).max() <= 1e-3 * np.abs(dz).sum(axis=1).max()
    return dW[1], limbs.rows


@pytest.mark.parametrize("m", [64, 512, 4096])
@pytest.mark.parametrize("ratio", [1e0, 1e2, 1e4, 1e6])
def test_one_outlier_does_not_erase_the_rest(m: int, ratio: float) -> None:
    """Where A is zero for the outlier's example, each row of dW is right to 1e-5; with one limb, only up to 10²."""
    random = np.random.default_rng(int(ratio) + m)
    dz, A = random.standard_normal((32, m)), np.maximum(random.standard_normal((48, m)), 0)
    outlier = int(random.integers(m))
    dz[:, outlier] *= ratio
    found, limbs = product(dz, A)
    expected = dz @ A.T
    for columns in (A[:, outlier] == 0, A[:, outlier] >= 0):
        error = np.linalg.norm((found - expected)[:, columns], axis=1)
        assert (error <= 1e-5 * np.linalg.norm(expected[:, columns], axis=1)).all()
    assert (limbs >= 32) if ratio > 1e3 else (limbs == 0 or ratio == 1e2)
    one_limb = of_batch.RESERVE
    of_batch.RESERVE = -1000  # planted: no second limb
    try:
        without, _ = product(dz, A)
    finally:
        of_batch.RESERVE = one_limb
    unseen = A[:, outlier] == 0
    error = np.linalg.norm((without - expected)[:, unseen], axis=1) / np.linalg.norm(expected[:, unseen], axis=1)
    assert (error.max() > 1e-4) == (ratio > 1e3)


def test_outliers_on_both_sides() -> None:
    """Rows of dz and of A_prev that spread: all four products are needed, and are there."""
    random = np.random.default_rng(5)
    dz, A = random.standard_normal((6, 300)), random.standard_normal((5, 300))
    dz[1, 7], dz[2, 8], A[3, 9], A[4, 7] = 1e6, 1e5, 1e6, 0
    A[3, [7, 8]], dz[:, 9] = 0, 0
    found, limbs = product(dz, A)
    assert limbs == 3
    expected = dz @ A.T
    assert abs(found[1, 3] - expected[1, 3]) <= 1e-5 * abs(expected[1, 3])
    assert abs(found[2, 3] - expected[2, 3]) <= 1e-5 * abs(expected[2, 3])


def test_sums_of_losses_are_exact_to_their_unit() -> None:
    """In any shares, to 2⁻⁵² of the largest times m."""
    losses = np.random.default_rng(0).exponential(size=1001)
    e = int(np.frexp(losses.max())[1])
    whole = of_batch.sum_in_units(losses, e, 1001)
    assert whole == of_batch.sum_in_units(losses[:7], e, 1001) + of_batch.sum_in_units(losses[7:], e, 1001)
    assert whole * of_batch.sum_unit(e, 1001) == pytest.approx(losses.sum(), rel=1e-12)


def test_what_is_not_finite_shows() -> None:
    """In the table, whichever share has it; an infinite weight gives a loss that is not finite."""
    batch = Batch(NETWORKS["softmax"], 20)
    batch.flat[0] = np.inf
    with np.errstate(invalid="ignore"):
        _, lines = batch.share(0, 10)
    assert not lines.finite
    _, fine = Batch(NETWORKS["softmax"], 20).share(0, 10)
    assert fine.finite


def test_portable_networks_compute_with_portable_functions() -> None:
    """Each part that takes functions has been given them, and nothing else has changed."""
    for network in NETWORKS.values():
        parts: list[Any] = [*network.activations, network.output]
        made: list[Any] = [*network.portable.activations, network.portable.output]
        for part, found in zip(parts, made, strict=True):
            if hasattr(part, "functions"):
                assert found.functions is PORTABLE.functions
                assert replace(found, functions=part.functions) == part
            else:
                assert found == part
