"""Tests of the maths, against finite differences, hand arithmetic and plain NumPy."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import backprop
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout
from tests.checks import maths
from tests.checks.maths import gradient_sums
from tests.reference import examples, loss_and_gradient

F64 = np.dtype(np.float64)


def initialized(widths: tuple[int, ...], dtype: np.dtype[Any] = F64) -> tuple[Layout, NDArray[Any]]:
    """Return a layout and parameters for it whose biases are not zero."""
    layout = Layout(widths)
    flat = np.zeros(layout.length, dtype)
    layout.initialize(flat, seed=1)
    for l, b in layout.views(flat)[1].items():
        b[...] = 0.1 * l
    return layout, flat


@pytest.mark.parametrize("widths", [(5, 4), (5, 7, 4), (5, 7, 6, 3), (3, 1, 2)])
def test_gradient_is_that_of_central_differences(widths: tuple[int, ...]) -> None:
    """Every parameter's derivative of the mean loss agrees to 1e-7, in float64."""
    layout, flat = initialized(widths)
    X, y = examples(9, widths[0], widths[-1])
    analytic = gradient_sums(layout, flat, X, y)[2] / len(X)
    numeric = np.zeros_like(flat)
    step = 1e-5
    for i in range(layout.length):
        original = flat[i]
        flat[i] = original + step
        above = gradient_sums(layout, flat, X, y)[0] / len(X)
        flat[i] = original - step
        below = gradient_sums(layout, flat, X, y)[0] / len(X)
        flat[i] = original
        numeric[i] = (above - below) / (2 * step)
    # The truncation error of central differences is step² ≈ 1e-10, their rounding error 1e-16 / step ≈ 1e-11.
    assert np.linalg.norm(analytic - numeric) <= 1e-7 * float(np.linalg.norm(numeric))


@pytest.mark.parametrize("widths", [(6, 4), (6, 9, 8, 4)])
def test_gradient_is_that_of_plain_numpy(widths: tuple[int, ...]) -> None:
    """The buffers and views compute what a few lines of plain NumPy compute."""
    layout, flat = initialized(widths)
    X, y = examples(20, widths[0], widths[-1])
    loss_sum, _, gradient = gradient_sums(layout, flat, X, y)
    loss_mean, expected = loss_and_gradient(layout.arrays(flat), X, y)
    assert loss_sum / 20 == pytest.approx(loss_mean, rel=1e-14)
    for name, array in layout.arrays(gradient).items():
        assert np.linalg.norm(array / 20 - expected[name]) <= 1e-14 * max(1.0, float(np.linalg.norm(expected[name])))


def test_a_2_2_2_network_by_hand() -> None:
    """One example, all numbers worked by hand.

    x = (1, 2); W1 = [[1, 1], [1, −1]], b1 = (0, 0): z = (3, −1), A1 = (3, 0).
    W2 = [[1, 5], [0, 7]], b2 = (−3, 0): z = (0, 0), A2 = (1/2, 1/2). Label 1: Y = (0, 1), loss = log 2.
    dz2 = (1/2, −1/2); dW2 = dz2 A1ᵀ = [[3/2, 0], [−3/2, 0]], db2 = (1/2, −1/2).
    dA1 = W2ᵀ dz2 = (1/2, 5/2 − 7/2) = (1/2, −1); z1 = (3, −1), so dz1 = (1/2, 0).
    dW1 = dz1 xᵀ = [[1/2, 1], [0, 0]], db1 = (1/2, 0).
    """
    layout = Layout((2, 2, 2))
    flat = np.zeros(layout.length)
    layout.fill(
        flat,
        {
            "W1": np.array([[1.0, 1.0], [1.0, -1.0]]),
            "b1": np.zeros(2),
            "W2": np.array([[1.0, 5.0], [0.0, 7.0]]),
            "b2": np.array([-3.0, 0.0]),
        },
    )
    loss, correct, gradient = gradient_sums(layout, flat, np.array([[1.0, 2.0]]), np.array([1]))
    found = layout.arrays(gradient)
    assert loss == np.log(2)
    assert correct == 0  # both outputs are equal: the first counts, and the label is the second
    assert found["W2"].tolist() == [[1.5, 0], [-1.5, 0]]
    assert found["b2"].tolist() == [0.5, -0.5]
    assert found["W1"].tolist() == [[0.5, 1], [0, 0]]
    assert found["b1"].tolist() == [0.5, 0]


def test_relu_has_derivative_zero_at_zero() -> None:
    """A hidden unit whose z is exactly 0 passes no gradient on."""
    maths.relu_has_derivative_zero_at_zero()


def test_sample_weights_scale_loss_and_gradient() -> None:
    """An example of weight 2 counts like two, one of weight 0 like none."""
    layout, flat = initialized((4, 6, 3))
    X, y = examples(3, 4, 3)
    group = Group(layout.widths, (3,), F64)
    group.w = np.array([2.0, 1.0, 0.0])
    weighted = gradient_sums(layout, flat, X, y, group)
    repeated = gradient_sums(layout, flat, X[[0, 0, 1]], y[[0, 0, 1]])
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-14)
    assert np.allclose(weighted[2], repeated[2], atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pass_allocates_next_to_nothing(dtype: type) -> None:
    """Forward and backward run in the group's buffers: what NumPy takes besides is far less than one activation."""
    layout, flat = initialized((64, 128, 128, 10), np.dtype(dtype))
    X, y = examples(512, 64, 10)
    group = Group(layout.widths, (512,), flat.dtype)
    gradient = np.zeros_like(flat)
    W, b = layout.views(flat)
    dW, db = layout.views(gradient)
    group.A[0].whole.T[...], group.y[...] = X, y

    def whole_pass() -> None:
        backprop.gradient_sum(W, b, group, SoftmaxCrossEntropy(), dW, db)

    whole_pass()
    tracemalloc.start()
    whole_pass()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # np.argmax copies the (10, 512) output; one hidden activation would be 128 · 512 elements.
    assert peak < 128 * 512 * np.dtype(dtype).itemsize / 2
