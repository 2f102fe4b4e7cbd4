"""The maths once more, for reading: no buffers, no shards, no ranks, the derivation's letters.

Columns are examples: X = A[0] is (n_0, m), Y is (n_L, m), one-hot; W[l] is (n_l, n_{l-1}), b[l] is (n_l, 1), l = 1 … L.
The fast code in `backprop.py` computes the same; tests hold one against the other. It shares no code with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[int, NDArray[Any]]


def loss_and_gradient(W: Weights, b: Weights, X: NDArray[Any], Y: NDArray[Any]) -> tuple[float, Weights, Weights]:
    """Return the mean loss −(1/m) Σ_i Σ_k Y log A of a ReLU network with softmax, and its gradient (dW, db)."""
    A, dW, db, L, m = {0: X}, {}, {}, len(W), X.shape[1]
    for l in range(1, L + 1):
        z = W[l] @ A[l - 1] + b[l]  #                                   (n_l, m)
        A[l] = np.maximum(z, 0) if l < L else softmax(z)
    loss = -(1 / m) * np.sum(Y * np.log(A[L]), where=Y > 0)

    dz = A[L] - Y  #                                                    (n_L, m)
    for l in range(L, 0, -1):
        dW[l] = (1 / m) * dz @ A[l - 1].T  #                            (n_l, n_{l-1})
        db[l] = (1 / m) * dz.sum(axis=1, keepdims=True)  #              (n_l, 1)
        if l > 1:
            dA = W[l].T @ dz  #                                         (n_{l-1}, m)
            dz = dA * (A[l - 1] > 0)  # ReLU′(z) = [z > 0] = [A > 0]
    return float(loss), dW, db


def softmax(z: NDArray[Any]) -> NDArray[Any]:
    """Return exp(z_k) / Σ_j exp(z_j) of every column."""
    e = np.exp(z - z.max(axis=0))
    return np.asarray(e / e.sum(axis=0))
