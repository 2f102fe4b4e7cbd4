"""The maths once more, for reading: no buffers, no shards, no ranks, the derivation's letters.

Columns are examples: X = A[0] is (n_0, m); W[l] is (n_l, n_{l-1}), b[l] is (n_l, 1), l = 1 … L. Y is (n_L, m): one-hot
for a class, numbers otherwise; w (m,) are sample weights. The fast code in `backprop.py`, `activations.py` and
`outputs.py`, which have the sources, computes the same; tests hold one against the other. It shares no code with them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[int, Array]
One = Callable[[Array], Array]
Pair = Callable[[Array, Array], Array]


def loss_and_gradient(
    W: Weights, b: Weights, X: Array, Y: Array, w: Array | None = None, loss: str = "cross_entropy", f: str = "relu"
) -> tuple[float, Weights, Weights]:
    """Return the mean loss (1/Σw) Σ_i w_i loss(A, Y) of a network whose hidden layers are f, and its gradient."""
    L, w = len(W), np.ones(X.shape[1]) if w is None else w
    z, A, dW, db = dict[int, Array](), {0: X}, dict[int, Array](), dict[int, Array]()
    for l in range(1, L + 1):
        z[l] = W[l] @ A[l - 1] + b[l]  #                                (n_l, m)
        A[l] = HIDDEN[f](z[l]) if l < L else OUTPUT[loss](z[l])
    mean = np.sum(w * LOSS[loss](A[L], Y)) / np.sum(w)

    dz = w * DZ[loss](A[L], Y)  #                                       (n_L, m)
    for l in range(L, 0, -1):
        dW[l] = dz @ A[l - 1].T / np.sum(w)  #                          (n_l, n_{l-1})
        db[l] = dz.sum(axis=1, keepdims=True) / np.sum(w)  #            (n_l, 1)
        if l > 1:
            dA = W[l].T @ dz  #                                         (n_{l-1}, m)
            dz = dA * SLOPE[f](z[l - 1])
    return float(mean), dW, db


def softmax(z: Array) -> Array:
    """Return exp(z_k) / Σ_j exp(z_j) of every column."""
    e = np.exp(z - z.max(axis=0))
    return np.asarray(e / e.sum(axis=0))


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + e⁻ᶻ)."""
    return np.asarray(1 / (1 + np.exp(-z)))


def normal(z: Array) -> Array:
    """Return Φ(z), the normal distribution function."""
    return np.asarray(np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))(z))


def identity(z: Array) -> Array:
    """Return z."""
    return z


DELTA, Q = 1.0, 0.5
"""Of the Huber loss, and of the quantile."""

OUTPUT: dict[str, One] = {
    "cross_entropy": softmax,
    "binary_cross_entropy": sigmoid,
    "squared_error": identity,
    "poisson": np.exp,
    "huber": identity,
    "absolute_error": identity,
    "quantile": identity,
}
LOSS: dict[str, Pair] = {
    "cross_entropy": lambda A, Y: -(Y * np.log(A)),
    "binary_cross_entropy": lambda A, Y: -(Y * np.log(A) + (1 - Y) * np.log(1 - A)),
    "squared_error": lambda A, Y: (A - Y) ** 2 / 2,
    "poisson": lambda A, Y: A - Y * np.log(A),
    "huber": lambda A, Y: np.where(abs(A - Y) <= DELTA, (A - Y) ** 2 / 2, DELTA * (abs(A - Y) - DELTA / 2)),
    "absolute_error": lambda A, Y: abs(A - Y),
    "quantile": lambda A, Y: np.maximum(Q * (Y - A), (Q - 1) * (Y - A)),
}
DZ: dict[str, Pair] = {
    "cross_entropy": lambda A, Y: A - Y,
    "binary_cross_entropy": lambda A, Y: A - Y,
    "squared_error": lambda A, Y: A - Y,
    "poisson": lambda A, Y: A - Y,
    "huber": lambda A, Y: np.clip(A - Y, -DELTA, DELTA),
    "absolute_error": lambda A, Y: np.sign(A - Y),
    "quantile": lambda A, Y: np.where(A == Y, 0, (A > Y) - Q),
}
HIDDEN: dict[str, One] = {
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, z / 100),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softplus": lambda z: np.logaddexp(0, z),
    "gelu": lambda z: z * normal(z),
    "silu": lambda z: z * sigmoid(z),
    "identity": identity,
}
SLOPE: dict[str, One] = {
    "relu": lambda z: z > 0,
    "leaky_relu": lambda z: np.where(z > 0, 1, 1 / 100),
    "elu": lambda z: np.exp(np.minimum(z, 0)),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "sigmoid": lambda z: sigmoid(z) * (1 - sigmoid(z)),
    "softplus": sigmoid,
    "gelu": lambda z: normal(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    "silu": lambda z: sigmoid(z) * (1 + z * (1 - sigmoid(z))),
    "identity": np.ones_like,
}
