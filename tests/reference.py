"""Oracles that share no code with the program: a network's loss and gradient in plain NumPy, arrays as a source."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.backprop import Group


def loss_and_gradient(
    parameters: Mapping[str, NDArray[Any]], X: NDArray[Any], y: NDArray[np.int64]
) -> tuple[float, dict[str, NDArray[Any]]]:
    """Return the mean cross-entropy of a ReLU network and its gradient; rows of X (m, n_0) are examples."""
    L, m = len(parameters) // 2, len(X)
    inputs, activation = [], X
    for l in range(1, L + 1):
        inputs.append(activation)
        z = activation @ parameters[f"W{l}"].T + parameters[f"b{l}"]
        activation = np.maximum(z, 0) if l < L else z
    z = activation - activation.max(axis=1, keepdims=True)
    probability = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    loss = -np.log(probability[np.arange(m), y]).mean()
    dz = probability - np.eye(z.shape[1], dtype=z.dtype)[y]
    gradient = {}
    for l in range(L, 0, -1):
        gradient[f"W{l}"], gradient[f"b{l}"] = dz.T @ inputs[l - 1] / m, dz.sum(axis=0) / m
        if l > 1:
            dz = (dz @ parameters[f"W{l}"]) * (inputs[l - 1] > 0)
    return float(loss), gradient


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
