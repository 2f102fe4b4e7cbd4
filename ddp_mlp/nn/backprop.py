"""Backpropagation through ReLU layers and a softmax/cross-entropy output, as it is derived, for any number of layers.

Columns are examples: X = A[0] is (n_0, m), A[l] is (n_l, m), W[l] is (n_l, n_{l-1}), b[l] is (n_l, 1), l = 1 … L.

                output layer L                      hidden layer l
    forward     z = W A_prev + b, A = softmax(z)    z = W A_prev + b, A = ReLU(z)
    loss        −(1/m) Σ_i Σ_k Y log A
    dz          A − Y                               dA ⊙ [z > 0], where ReLU′(0) = 0
    dW          (1/m) dz A_prevᵀ                    the same
    db          (1/m) Σ_i dz⁽ⁱ⁾                     the same
    dA_prev     Wᵀ dz                               the same

dz as written is m times ∂loss/∂z, since the derivation carries the 1/m in dW and db. So does the code: everything here
is a *sum* over the examples at hand. The one division, by the global m, is made once, after the sum over all ranks.

Nothing is allocated in a pass: every array lives in a `Group`, the buffers of some examples that are computed together.
A group's examples are cut into leaves (shards of the batch). A leaf's products have exactly the leaf's shape, since the
bits of a matrix product depend on its shape; a product over the whole group is made only where `at_once` allows it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = dict[int, NDArray[Any]]

CACHED = 32 * 1024
"""Elements of a block on which several elementwise operations follow one another."""
FEW = 64
"""Examples: up to so many, OpenBLAS forms Wᵀ dz of wide layers faster, by up to 2.6, where the result is C-ordered."""
TILE = 64
"""Rows that are turned at a time: all at once, most memory is fetched again for every column."""


class Panel(NamedTuple):
    """One quantity of a group's examples, in one memory: (n, m) as a whole, and as views of parts."""

    whole: NDArray[Any]
    leaves: list[NDArray[Any]]
    """(n, m_i): one per leaf."""
    stacks: list[NDArray[Any]]
    """(k, n, m_i): one per k leaves of one size that follow one another."""


class Stack(NamedTuple):
    """The output layer of k leaves of one size m_i, one behind the other."""

    examples: slice
    """Their place among the group's examples."""
    z: NDArray[Any]
    """(k, n_L, m_i), the memory of A[L] and dz[L]."""
    Z: NDArray[Any]
    """(k, n_L, m_i), C-ordered memory of its own."""
    y: NDArray[np.int64]
    """(k, 1, m_i), as all below."""
    at_label: NDArray[np.int64]
    """Where in Z, as a vector, an example's value at its label lies."""
    first: NDArray[np.int64]
    """Where in Z, as a vector, an example's first value lies."""
    shift: NDArray[Any]
    total: NDArray[Any]
    label: NDArray[Any]


class Group:
    """The buffers for a pass over m examples that are cut into leaves of the given sizes, reused by every such pass.

    A[l] and dz[l] are Fortran-ordered: one example's values lie side by side, one leaf behind the other. Softmax and
    loss are formed in a `Stack`, where a leaf's examples lie side by side, and all leaves of one size are done at once.
    """

    def __init__(self, widths: Sequence[int], sizes: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.L = len(widths) - 1
        self.sizes = tuple(sizes)
        self.m = m = sum(sizes)
        bounds = [0, *np.cumsum(sizes).tolist()]
        self.slices = [slice(lo, hi) for lo, hi in pairwise(bounds)]

        runs = list(_runs(self.sizes))

        def columns(n: int) -> Panel:
            whole = aligned_empty(m * n, dtype).reshape(m, n).T
            stacks = [whole.T[start : start + k * size].reshape(k, size, n).mT for start, k, size in runs]
            return Panel(whole, [whole[:, s] for s in self.slices], stacks)

        self.A = {l: columns(n) for l, n in enumerate(widths)}
        self.dz = {l: columns(n) for l, n in enumerate(widths) if 0 < l < self.L}
        self.dz[self.L] = self.A[self.L]  # dz = A − Y takes the place of z
        self.y = np.empty(m, np.int64)
        self.w: NDArray[Any] | None = None
        """Sample weights (m,) of the dtype; None where every example weighs 1."""
        self.zeros = np.zeros(max(*widths, CACHED), dtype)
        self.positive = np.empty(m * max(widths), bool)
        self.softmax = aligned_empty(m * widths[-1], dtype)
        self.turned = aligned_empty(m * max(widths) if m <= FEW else 0, dtype)
        self.per_example = aligned_empty(3 * m, dtype).reshape(3, m)
        self.index = np.empty((2, m), np.int64)
        self.stacks = [self._stack(start, z) for (start, _, _), z in zip(runs, self.A[self.L].stacks, strict=True)]

    def _stack(self, start: int, z: NDArray[Any]) -> Stack:
        k, n, size = z.shape
        examples = slice(start, start + k * size)
        Z = self.softmax[n * start : n * examples.stop].reshape(k, n, size)
        vectors = (self.y, *self.index, *self.per_example)
        stack = Stack(examples, z, Z, *(vector[examples].reshape(k, 1, size) for vector in vectors))
        stack.first[...] = n * size * np.arange(k)[:, None, None] + np.arange(size)
        return stack


AtOnce = Collection[tuple[str, int]]
"""Which products may change shape, as `proven.proven` names them; here ("z", l), ("dA", l), ("dA turned", l) count."""


def forward(
    W: Weights, b: Weights, group: Group, at_once: AtOnce = (), drop: Callable[[int, Panel], None] | None = None
) -> None:
    """Compute A[1] … A[L−1] and the output layer's z (left in A[L]) from A[0], in the group's buffers.

    `drop(l, A[l])` may set some of a hidden layer's A to zero and scale the rest (dropout).
    """
    for l in range(1, group.L + 1):
        multiply(W[l], group.A[l - 1], group.A[l], ("z", l) in at_once)  # z = W A_prev         (n_l, m)
        if l < group.L:
            rectify(group.A[l].whole, b[l], group.zeros)  #                 A = ReLU(z + b)   (n_l, m)
            if drop is not None:
                drop(l, group.A[l])
        else:
            np.add(group.A[l].whole, b[l], out=group.A[l].whole)  #         z += b            (n_L, m)


def output_gradient(group: Group, label_smoothing: float = 0.0) -> list[tuple[float, int]]:
    """Turn the output z into dz = A − Y, in place; return each leaf's loss sum, in float64, and correct predictions.

    Y is one-hot, or with label smoothing s: 1 − s + s/n_L at the label and s/n_L elsewhere (Szegedy et al., "Rethinking
    the Inception architecture", CVPR 2016, §7). With sample weights, dz and the loss of example i are times w_i.
    A label's probability enters the loss as a shifted log-sum-exp, so that no logarithm of zero is taken.
    """
    sums: list[tuple[float, int]] = []
    for examples, z, Z, y, at_label, first, shift, total, label in group.stacks:
        k, n, m = Z.shape
        np.copyto(Z, z)
        values = Z.reshape(-1)
        np.multiply(y, m, out=at_label)
        np.add(at_label, first, out=at_label)

        correct = Z.argmax(axis=1, keepdims=True) == y  #                   of equals, the first counts
        np.maximum.reduce(Z, axis=1, keepdims=True, out=shift)
        np.subtract(Z, shift, out=Z)
        values.take(at_label, out=label, mode="clip")
        if label_smoothing:
            label *= 1 - label_smoothing
            label += (label_smoothing / n) * np.add.reduce(Z, axis=1, keepdims=True)
        np.exp(Z, out=Z)
        np.add.reduce(Z, axis=1, keepdims=True, out=total)
        np.divide(Z, total, out=Z)  #                                       A = softmax(z)    (n_L, m_i)

        np.log(total, out=total)
        loss = np.subtract(total, label, out=label)  #                      −Σ_k Y log A      (1, m_i)

        if label_smoothing:
            np.subtract(Z, label_smoothing / n, out=Z)
        values.take(at_label, out=shift, mode="clip")
        np.subtract(shift, 1 - label_smoothing, out=shift)
        values.put(at_label, shift)  #                                      dz = A − Y        (n_L, m_i)

        if group.w is not None:
            w = group.w[examples].reshape(k, 1, m)
            np.multiply(Z, w, out=Z)
            np.multiply(loss, w, out=loss)
        np.copyto(z, Z)
        loss_sums = np.add.reduce(loss.astype(np.float64, copy=False), axis=(1, 2)).tolist()
        sums += zip(loss_sums, np.add.reduce(correct, axis=(1, 2), dtype=np.int64).tolist(), strict=True)
    return sums


def probabilities(group: Group, out: NDArray[Any]) -> None:
    """Set out (m, n_L) to A = softmax(z) of the output z, example by example; z stays as it is."""
    for examples, z, Z, *_ in group.stacks:
        np.subtract(z, np.max(z, axis=1, keepdims=True), out=Z)
        np.exp(Z, out=Z)
        np.divide(Z, np.sum(Z, axis=1, keepdims=True), out=Z)  #            A = softmax(z)    (n_L, m_i)
        out[examples] = Z.swapaxes(1, 2).reshape(-1, Z.shape[1])


def backward(
    W: Weights,
    group: Group,
    add_up: Callable[[int, Panel, Panel], None],
    at_once: AtOnce = (),
    keep_scale: float = 1.0,
) -> None:
    """Carry dz[L] back to dz[1] and hand every layer's (l, dz[l], A[l−1]) to add_up, which forms the sums dW and db.

    In the forward pass this was A = ReLU(z) (dropped out: times 0 or keep_scale), so now [z > 0] = [A > 0], and
    dz = dA ⊙ [A > 0] · keep_scale.
    """
    for l in range(group.L, 0, -1):
        dz, A_prev = group.dz[l], group.A[l - 1]
        add_up(l, dz, A_prev)
        if l > 1:
            dz_prev = group.dz[l - 1]
            if ("dA turned", l) in at_once:  #                              dA_prev = Wᵀ dz   (n_{l-1}, m)
                multiply_turned(W[l].T, dz, dz_prev, group.turned)
            else:
                multiply(W[l].T, dz, dz_prev, ("dA", l) in at_once)
            dA, A = dz_prev.whole, A_prev.whole
            positive = group.positive[: A.size].reshape(A.shape[::-1]).T
            np.greater(A, 0, out=positive)
            np.multiply(dA, positive, out=dA)  #                            dz = dA ⊙ [z > 0] (n_{l-1}, m)
            if keep_scale != 1.0:
                np.multiply(dA, keep_scale, out=dA)


def weight_gradient(dz: NDArray[Any], A_prev: NDArray[Any], dW: NDArray[Any]) -> None:
    """Set dW = dz A_prevᵀ, the sum over the examples of dz (n_l, m) and A_prev (n_{l-1}, m), or of some rows of it.

    Of a stack of leaves, (k, …, …), every leaf's own, with the bits that it has alone.
    """
    np.matmul(dz, A_prev.mT, out=dW)


def bias_gradient(dz: NDArray[Any], db: NDArray[Any]) -> None:
    """Set db (n_l, 1) = Σ_i dz⁽ⁱ⁾, the sum over the examples of dz (n_l, m); of a stack of leaves, every leaf's own."""
    np.add.reduce(dz, axis=-1, keepdims=True, out=db)


def rectify(Z: NDArray[Any], b: NDArray[Any], zeros: NDArray[Any]) -> None:
    """Set Z = ReLU(Z + b) in place, for Z (n, m) in Fortran order and b (n, 1).

    In blocks of examples that stay in cache, and against as many zeros: NumPy's maximum with a scalar is slower by 6.
    """
    n, m = Z.shape
    width = max(1, len(zeros) // n)
    for start in range(0, m, width):
        block = Z[:, start : start + width]
        np.add(block, b, out=block)
        np.maximum(block, zeros[: block.size].reshape(block.shape[::-1]).T, out=block)


def multiply(M: NDArray[Any], A: Panel, out: Panel, at_once: bool) -> None:
    """Set out = M A, (k, n) times (n, m), in one product or leaf by leaf."""
    if at_once or len(A.leaves) == 1:
        np.matmul(M, A.whole, out=out.whole)
    else:
        for A_k, out_k in zip(A.stacks, out.stacks, strict=True):
            np.matmul(M, A_k, out=out_k)


def multiply_turned(M: NDArray[Any], A: Panel, out: Panel, scratch: NDArray[Any]) -> None:
    """Set out = M A, (k, n) times (n, m), in one product that is formed C-ordered in the scratch, at least (k m,)."""
    turned = scratch[: out.whole.size].reshape(out.whole.shape)
    np.matmul(M, A.whole, out=turned)
    for start in range(0, len(turned), TILE):
        np.copyto(out.whole[start : start + TILE], turned[start : start + TILE])


def _runs(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first example, number, size) of the leaves of one size that follow one another."""
    first = 0
    for size, leaves in groupby(sizes):
        k = len(list(leaves))
        yield first, k, size
        first += k * size


def aligned_empty(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an uninitialised vector (count,) that starts on a 64-byte boundary, a cache line."""
    raw = np.empty(count * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * dtype.itemsize].view(dtype)
