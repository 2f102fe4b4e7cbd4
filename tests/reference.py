"""What several tests compare with, and what they feed: the reference's gradient by name, arrays as a source."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import reference
from ddp_mlp.nn.buffers import Group


def loss_and_gradient(
    parameters: Mapping[str, NDArray[Any]], X: NDArray[Any], y: NDArray[np.int64]
) -> tuple[float, dict[str, NDArray[Any]]]:
    """Return the mean cross-entropy of a ReLU network and its gradient; rows of X (m, n_0) are examples."""
    layers = range(1, len(parameters) // 2 + 1)
    W = {l: parameters[f"W{l}"] for l in layers}
    b = {l: parameters[f"b{l}"][:, None] for l in layers}
    Y = np.eye(len(b[layers[-1]]), dtype=X.dtype)[y]
    loss, dW, db = reference.loss_and_gradient(W, b, X.T, Y.T)
    return loss, {name: array for l in layers for name, array in ((f"W{l}", dW[l]), (f"b{l}", db[l][:, 0]))}


class ArraySource:
    """Examples in two arrays, handed out as the training step asks for them."""

    def __init__(self, X: NDArray[Any], y: NDArray[np.int64]) -> None:
        self.X, self.y, self.m = X, y, len(X)

    def gather(self, rows: NDArray[np.int64], group: Group) -> None:
        """Put rows (m,) into the group's buffers."""
        group.A[0].whole.T[...] = self.X[rows]
        group.y[...] = self.y[rows]


def examples(m: int, features: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return X (m, features) and y (m,) at random."""
    random = np.random.default_rng(seed)
    return random.standard_normal((m, features)), random.integers(0, classes, m)
