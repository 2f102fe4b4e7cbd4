"""What is asked of the maths, with or without a fault in it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import backprop
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout


def gradient_sums(
    layout: Layout, flat: NDArray[Any], X: NDArray[Any], y: NDArray[np.int64], group: Group | None = None
) -> tuple[float, int, NDArray[Any]]:
    """Return (loss sum, correct, gradient sum as a flat vector) of all examples in one shard."""
    W, b = layout.views(flat)
    gradient = np.zeros_like(flat)
    dW, db = layout.views(gradient)
    group = group or Group(layout.widths, (len(X),), flat.dtype)
    group.A[0].whole.T[...] = X
    group.y[...] = y
    return *backprop.gradient_sum(W, b, group, SoftmaxCrossEntropy(), dW, db), gradient


def relu_has_derivative_zero_at_zero() -> None:
    """A hidden unit whose z is exactly 0 passes no gradient on."""
    layout = Layout((1, 1, 2))
    flat = np.zeros(layout.length)
    layout.fill(
        flat, {"W1": np.zeros((1, 1)), "b1": np.zeros(1), "W2": np.array([[1.0], [3.0]]), "b2": np.array([0.0, 1.0])}
    )
    gradient = layout.arrays(gradient_sums(layout, flat, np.ones((1, 1)), np.array([0]))[2])
    assert gradient["W1"].tolist() == [[0]]
    assert gradient["b1"].tolist() == [0]
