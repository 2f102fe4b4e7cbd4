"""Tests of the output layer: loss and dz against their formulas, and the same bits alone and among others."""

import numpy as np
import pytest

from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy, create
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.steady import STEADY
from ddp_mlp.nn.targets import LOSSES

F64 = np.dtype(np.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_dz_is_the_derivative_of_the_loss(smoothing: float) -> None:
    """Here dz = A − Y with Y = 1 − s + s/n at the label and s/n elsewhere; the loss is its cross-entropy."""
    random = np.random.default_rng(0)
    z, y = random.standard_normal((3, 5)), random.integers(0, 3, 5)
    group = Group((1, 3), (5,), F64)
    group.A[1].whole[...], group.y[...] = z, y
    [(loss_sum, _)] = SoftmaxCrossEntropy(smoothing).gradient(group)
    A = np.exp(z) / np.exp(z).sum(axis=0)
    Y = (1 - smoothing) * np.eye(3)[y].T + smoothing / 3
    assert loss_sum == pytest.approx(-(Y * np.log(A)).sum(), rel=1e-13)
    assert np.allclose(group.dz[1].whole, A - Y, atol=1e-15)


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_large_outputs_do_not_overflow(scale: float) -> None:
    """Softmax and loss stay finite where exp(z) would not."""
    group = Group((1, 3), (1,), np.dtype(np.float32))
    group.A[1].whole[:, 0] = scale, 0, -scale
    group.y[...] = 2
    [(loss, correct)] = SoftmaxCrossEntropy().gradient(group)
    assert loss == pytest.approx(2 * scale, rel=1e-6)  # float32 rounds the scale itself
    assert correct == 0
    assert group.dz[1].whole[:, 0].tolist() == [1, 0, -1]


def test_values_are_probabilities_and_leave_z_alone() -> None:
    """Rows of A = softmax(z), one per example; the loss can still be formed afterwards."""
    random = np.random.default_rng(0)
    z = random.standard_normal((3, 5))
    group = Group((1, 3), (2, 3), F64)
    group.A[1].whole[...] = z
    out = np.empty((5, 3))
    SoftmaxCrossEntropy().values(group, out)
    np.testing.assert_allclose(out, (np.exp(z) / np.exp(z).sum(axis=0)).T, rtol=1e-14)
    assert group.A[1].whole.tolist() == z.tolist()


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_score_is_that_of_the_gradient_and_its_values_those_of_values_alone(loss: str, portable: bool) -> None:
    """To the bit, for shards of several sizes, with and without weights; z stays, and losses are kept."""
    random = np.random.default_rng(0)
    output = create(loss, n_L=4, label_smoothing=0.1, quantiles=(0.5,))
    network = Architecture(Layout((1, 4)), output=output, targets=0 if output.has_classes else 4)
    network = network.portable if portable else network
    z = random.standard_normal((4, 12)) * 3
    for weights in (None, random.random(12)):
        group = network.group((3, 3, 2, 4), F64)
        group.A[1].whole[...], group.y[...], group.Y.whole[...], group.w = z, np.arange(12) % 4, 1.5, weights
        values, beside = np.empty((12, 4)), np.empty((12, 4))
        sums = network.output.score(group)
        assert network.output.score(group, beside) == sums
        losses = group.losses.tobytes()
        network.output.values(group, values)
        assert values.tobytes() == beside.tobytes()
        assert group.A[1].whole.tolist() == z.tolist()
        assert network.output.gradient(group) == sums
        assert group.losses.tobytes() == losses
        assert group.dz[1].whole.tolist() != z.tolist()


def test_of_equal_outputs_the_first_is_the_prediction() -> None:
    """A tie is not counted as correct for the later class."""
    group = Group((1, 2), (3,), F64)
    group.A[1].shards[0][...] = [[1.0, 2.0, 0.0], [1.0, 2.0, 3.0]]
    group.y[...] = [0, 1, 1]
    [(_, correct)] = SoftmaxCrossEntropy().gradient(group)
    assert correct == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(64, 64, 64), (1, 1, 1, 1), (2, 1, 1, 9, 9, 1), (300, 299, 299)])
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 33])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_leaf_among_others_has_the_bits_of_a_leaf_alone(
    dtype: type, sizes: tuple[int, ...], classes: int, smoothing: float
) -> None:
    """Softmax, loss and dz of shards that are computed together, whatever their sizes, are those of each by itself."""
    random = np.random.default_rng(1)
    together = Group((1, classes), sizes, np.dtype(dtype))
    together.A[1].whole[...] = random.standard_normal((classes, together.m)) * 3
    together.y[...] = random.integers(0, classes, together.m)
    together.w = random.random(together.m).astype(dtype)
    output, expected = SoftmaxCrossEntropy(smoothing), []
    for size, place, shard in zip(sizes, together.slices, together.A[1].shards, strict=True):
        alone = Group((1, classes), (size,), np.dtype(dtype))
        alone.A[1].shards[0][...], alone.y[...], alone.w = shard, together.y[place], together.w[place]
        expected.append((output.gradient(alone), alone.A[1].whole.tobytes()))
    sums = output.gradient(together)
    assert [([s], shard.tobytes()) for s, shard in zip(sums, together.A[1].shards, strict=True)] == expected


def test_softmax_is_made_of_functions_that_are_proven() -> None:
    """An example's exp and log must not depend on which shards are computed with its own."""
    assert SoftmaxCrossEntropy().functions is STEADY
