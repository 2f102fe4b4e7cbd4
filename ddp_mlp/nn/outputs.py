"""The output layer, its loss and dz = A − Y: the one place that knows which canonical pair is in use.

                softmax with cross-entropy
    A           exp(z_k) / Σ_j exp(z_j)
    loss        −Σ_k Y log A = log Σ_j exp(z_j) − z_y, from z: no logarithm of zero is taken
    dz          A − Y

Everything is formed shard by shard in a group's stacks, so that a shard has the same bits alone and among others.
Losses are *sums* over a shard's examples.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.buffers import Group, Stack
from ddp_mlp.nn.functions import NATIVE, Functions


class Output(Protocol):
    """The output function f_L and its loss."""

    def gradient(self, group: Group) -> list[tuple[float, int]]:
        """Turn the output z into dz, in place; return each shard's loss sum, in float64, and correct predictions."""

    def values(self, group: Group, out: NDArray[Any]) -> None:
        """Set out (m, n_L) to A = f_L(z), example by example; z stays as it is."""


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """One class of n_L: A = softmax(z), loss = −Σ_k Y log A.

    Y is one-hot, or with label smoothing s: 1 − s + s/n_L at the label and s/n_L elsewhere (Szegedy et al., "Rethinking
    the Inception architecture", CVPR 2016, §7). With sample weights, dz and the loss of example i are times w_i.
    """

    label_smoothing: float = 0.0
    functions: Functions = NATIVE

    def gradient(self, group: Group) -> list[tuple[float, int]]:
        """Turn the output z into dz = A − Y, in place; return each shard's loss sum, in float64, and how many it got.

        A prediction is correct where z is largest at the label; of equals, the first counts.
        """
        sums: list[tuple[float, int]] = []
        for stack in group.stacks:
            Z, loss = stack.Z, stack.loss
            np.copyto(Z, stack.z)
            correct = Z.argmax(axis=1, keepdims=True) == stack.y
            self._gradient(stack)
            if group.w is not None:
                w = group.w[stack.examples].reshape(loss.shape)
                np.multiply(Z, w, out=Z)
                np.multiply(loss, w, out=loss)
            np.copyto(stack.z, Z)
            loss_sums = np.add.reduce(loss.astype(np.float64, copy=False), axis=(1, 2)).tolist()
            sums += zip(loss_sums, np.add.reduce(correct, axis=(1, 2), dtype=np.int64).tolist(), strict=True)
        return sums

    def _gradient(self, stack: Stack) -> None:
        """Turn a stack's Z from z into dz, and set its loss, (k, 1, m_i)."""
        _, _, Z, y, first, at_y, z_max, exp_sum, z_y, A_y, loss = stack
        smoothing, (_, n, m), f = self.label_smoothing, Z.shape, self.functions
        values = Z.reshape(-1)
        np.multiply(y, m, out=at_y)
        np.add(at_y, first, out=at_y)

        np.maximum.reduce(Z, axis=1, keepdims=True, out=z_max)
        np.subtract(Z, z_max, out=Z)
        values.take(at_y, out=z_y, mode="clip")
        if smoothing:
            z_y *= 1 - smoothing
            z_y += (smoothing / n) * f.sum(Z)
        f.exp(Z, out=Z)
        f.sum(Z, out=exp_sum)
        np.divide(Z, exp_sum, out=Z)  #                     A = softmax(z)    (k, n_L, m_i)

        f.log(exp_sum, out=exp_sum)
        np.subtract(exp_sum, z_y, out=loss)  #              −Σ_k Y log A      (k, 1, m_i)

        if smoothing:
            np.subtract(Z, smoothing / n, out=Z)
        values.take(at_y, out=A_y, mode="clip")
        np.subtract(A_y, 1 - smoothing, out=A_y)
        values.put(at_y, A_y)  #                            dz = A − Y        (k, n_L, m_i)

    def values(self, group: Group, out: NDArray[Any]) -> None:
        """Set out (m, n_L) to A = softmax(z) of the output z, example by example; z stays as it is."""
        for stack in group.stacks:
            Z = stack.Z
            np.subtract(stack.z, np.max(stack.z, axis=1, keepdims=True), out=Z)
            self.functions.exp(Z, out=Z)
            np.divide(Z, self.functions.sum(Z), out=Z)
            out[stack.examples] = Z.swapaxes(1, 2).reshape(-1, Z.shape[1])
