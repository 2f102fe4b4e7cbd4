"""Backpropagation as it is derived, for any number of layers; `reference.py` says the same in a dozen plain lines.

Columns are examples: X = A[0] is (n_0, m), A[l] is (n_l, m), W[l] is (n_l, n_{l-1}), b[l] is (n_l, 1), l = 1 … L.

                output layer L                      hidden layer l
    forward     z = W A_prev + b, A = f_L(z)        z = W A_prev + b, A = f(z)
    loss        (1/m) Σ_i loss(A, Y)
    dz          A − Y for every canonical pair      dA ⊙ f′(z); for ReLU dA ⊙ [z > 0], ReLU′(0) = 0
    dW          (1/m) dz A_prevᵀ                    the same
    db          (1/m) Σ_i dz⁽ⁱ⁾                     the same
    dA_prev     Wᵀ dz                               the same

dz as written is m times ∂loss/∂z, since the derivation carries the 1/m in dW and db. So does the code: everything here
is a *sum* over the examples at hand. The one division, by the global m, is made once, after the sum over all ranks.

No large array is allocated in a pass: all live in a `Group`, the buffers of some examples that are computed together.
A group's examples are some shards of the batch. A shard's products have exactly the shard's shape, since the bits of a
matrix product depend on its shape; another shape is taken only where the group's `Shortcuts` say that it is proven.

What the network does on the way forward stands directly above what that means on the way back. `activations.py` knows
f and f′, `outputs.py` knows f_L, the loss and dz.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import blas
from ddp_mlp.nn.buffers import Group, GroupMatrix
from ddp_mlp.nn.outputs import Output

Weights = dict[int, NDArray[Any]]

Drop = Callable[[int, GroupMatrix, GroupMatrix | None], None]

TILE = 64
"""Rows that are turned at a time: all at once, most memory is fetched again for every column."""


# ---- the network -----------------------------------------------------------------------------------------------------


def forward(W: Weights, b: Weights, group: Group, drop: Drop | None = None) -> None:
    """Compute A[1] … A[L−1] and the output layer's z (left in A[L]) from A[0], in the group's buffers.

    `drop(l, A[l], slope)` may set some of a hidden layer's A to zero and scale the rest (dropout), and where there is a
    slope f′(z), that in the same way.
    """
    for l in range(1, group.L + 1):
        W_l, A = W[l], group.A[l]
        for A_prev, z in group.z[l]:
            blas.multiply(W_l, A_prev, z)  #                           z = W A_prev         (n_l, m)
        if l < group.L:
            f, slope = group.activations[l], group.slope.get(l)
            f.forward(A.whole, b[l], slope and slope.whole, group.space[l])  # A = f(z + b)
            if drop is not None:
                drop(l, A, slope)
        else:
            np.add(A.whole, b[l], out=A.whole)  #                      z += b               (n_L, m)


def backward(W: Weights, group: Group, keep_scale: float = 1.0) -> Iterator[tuple[int, GroupMatrix, GroupMatrix]]:
    """Carry dz[L] back to dz[1]; yield every layer's (l, dz[l], A[l−1]), from which dW = dz A_prevᵀ and db = Σ dz.

    In the forward pass this was z = W A_prev + b, so now dA_prev = Wᵀ dz; and A_prev = f(z), so dz = dA ⊙ f′(z).
    keep_scale is what dropout has scaled the A with that it has not set to 0.
    """
    for l in range(group.L, 0, -1):
        dz, A_prev = group.dz[l], group.A[l - 1]
        yield l, dz, A_prev  #                                         dW = dz A_prevᵀ, db = Σ_i dz⁽ⁱ⁾
        if l > 1:
            dz_prev, W_T = group.dz[l - 1], W[l].T
            if group.shortcuts[l].dA_turned:
                multiply_turned(W_T, dz, dz_prev, group.turned)
            else:
                for dz_k, dA in group.dA[l]:
                    blas.multiply(W_T, dz_k, dA)  #                    dA_prev = Wᵀ dz      (n_{l-1}, m)
            f, slope = group.activations[l - 1], group.slope.get(l - 1)
            f.backward(dz_prev.whole, A_prev.whole, slope and slope.whole, keep_scale, group.space[l - 1])


def gradient_sum(W: Weights, b: Weights, group: Group, output: Output, dW: Weights, db: Weights) -> tuple[float, int]:
    """Set dW and db to the gradient's sums over a group of one shard; return its loss sum and correct predictions.

    The whole pass of a single shard, forward and back, with the bits that the shard has among others.
    """
    forward(W, b, group)
    [sums] = output.gradient(group)
    for l, dz, A_prev in backward(W, group):
        weight_gradient(dz.whole, A_prev.whole, dW[l])
        bias_gradient(dz.whole, db[l])
    return sums


# ---- its products ----------------------------------------------------------------------------------------------------


def multiply(M: NDArray[Any], A: GroupMatrix, out: GroupMatrix, at_once: bool) -> None:
    """Set out = M A, (k, n) times (n, m), in one product or shard by shard: z = W A_prev, and back dA_prev = Wᵀ dz."""
    if at_once or len(A.shards) == 1:
        blas.multiply(M, A.whole, out.whole)
    else:
        for A_k, out_k in zip(A.stacks, out.stacks, strict=True):
            blas.multiply(M, A_k, out_k)


def multiply_turned(M: NDArray[Any], A: GroupMatrix, out: GroupMatrix, scratch: NDArray[Any]) -> None:
    """Set out = M A, (k, n) times (n, m), in one product that is formed C-ordered in the scratch, at least (k m,)."""
    turned = scratch[: out.whole.size].reshape(out.whole.shape)
    blas.multiply(M, A.whole, turned)
    for start in range(0, len(turned), TILE):
        np.copyto(out.whole[start : start + TILE], turned[start : start + TILE])


def weight_gradient(dz: NDArray[Any], A_prev: NDArray[Any], dW: NDArray[Any]) -> None:
    """Set dW = dz A_prevᵀ, the sum over the examples of dz (n_l, m) and A_prev (n_{l-1}, m), or of some rows of it.

    Of a stack of shards, (k, …, …), every shard's own, with the bits that it has alone.
    """
    blas.multiply(dz, A_prev.mT, dW)


def bias_gradient(dz: NDArray[Any], db: NDArray[Any]) -> None:
    """Set db (n_l, 1) = Σ_i dz⁽ⁱ⁾, the sum over the examples of dz (n_l, m); of a stack, every shard's own."""
    np.add.reduce(dz, axis=-1, keepdims=True, out=db)
