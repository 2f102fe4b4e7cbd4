"""The memory of a pass: every large array that forward and backward write, made once and used by every such pass.

Columns are examples. Invariants:
- A[l] and dz[l] are Fortran-ordered: one example's values lie side by side, one shard behind the other;
- the output layer is formed in a `Stack`, where a shard's examples lie side by side, all shards of one size at once;
- large arrays start on a cache line, whatever their size.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.activations import RELU, ROOM, Activation, ActivationBuffers

CACHED = 32 * 1024
"""Elements of a block on which several elementwise operations follow one another."""
SMALL_BLOCK = 8 * 1024
"""The same, where these operations need several arrays at a time."""
OUTPUT_ROOM = 4
"""Arrays of the output layer's size that losses of numbers need besides."""
FEW = 64
"""Examples: up to this many, OpenBLAS forms Wᵀ dz of wide layers faster, by up to 2.6, if the result is C-ordered."""


class GroupMatrix(NamedTuple):
    """One quantity of a group's examples, in one memory: (n, m) as a whole, and as views of parts."""

    whole: NDArray[Any]
    examples: NDArray[Any]
    """(m, n): the whole, an example in each row."""
    shards: list[NDArray[Any]]
    """(n, m_i): one per shard."""
    stacks: list[NDArray[Any]]
    """(k, n, m_i): one per k shards of one size that follow one another."""


class Stack(NamedTuple):
    """The output layer of k shards of one size m_i, one behind the other."""

    examples: slice
    """Their place among the group's examples."""
    z: NDArray[Any]
    """(k, n_L, m_i), the memory of A[L] and dz[L]."""
    Z: NDArray[Any]
    """(k, n_L, m_i), C-ordered memory of its own, in which z becomes A and then dz."""
    y: NDArray[np.int64]
    """(k, 1, m_i): the labels; as all below, one number per example."""
    first: NDArray[np.int64]
    """Where in Z, as a vector, an example's first value lies."""
    at_y: NDArray[np.int64]
    """Where in Z, as a vector, an example's value at its label lies."""
    z_max: NDArray[Any]
    """An example's largest z."""
    exp_sum: NDArray[Any]
    """Σ_k exp(z − z_max), and then its logarithm."""
    z_y: NDArray[Any]
    """z − z_max at the label, or where labels are smoothed its mean under Y."""
    A_y: NDArray[Any]
    """A, the probability, at the label."""
    loss: NDArray[Any]


class Shortcuts(NamedTuple):
    """Which of a layer's products may have another shape than the shards' own, since it gives the same bits here."""

    z_at_once: bool = False
    """W A_prev over all examples of a group."""
    dA_at_once: bool = False
    """Wᵀ dz over all examples of a group."""
    dA_turned: bool = False
    """The same, formed C-ordered: for few examples and a wide layer."""
    dW_in_blocks: bool = False
    """dz A_prevᵀ in blocks of columns that stay in cache."""
    dW_together: bool = False
    """dz A_prevᵀ of all shards in blocks of columns that all stay in cache together: for few examples."""
    dW_prepared: bool = False
    """The same shard by shard, formed or added by calls of BLAS that are prepared once."""
    dW_added: bool = False
    """dz A_prevᵀ added by BLAS itself to the sum it belongs to, rather than formed and added."""


class NumberStack(NamedTuple):
    """What the output layer of a stack needs besides, where targets are numbers."""

    stack: Stack
    Y: NDArray[Any]
    """(k, targets, m_i): the targets; NaN where one is missing."""
    loss: NDArray[Any]
    """(k, n_L, m_i), of each output."""
    room: NDArray[Any]
    """(OUTPUT_ROOM, k, n_L, m_i)."""


class Group:
    """The buffers for a pass over m examples, some shards of a batch, reused by every pass over shards of these sizes.

    A batch that is computed whole, or a chunk of a shard too large for memory, is a group of one shard.
    `activations` are those of the hidden layers, ReLU where none are given; `targets` is how many numbers an example's
    target has, 0 where it is a class. A group for `training` keeps what the way back needs.
    """

    def __init__(
        self,
        widths: Sequence[int],
        sizes: Sequence[int],
        dtype: np.dtype[Any],
        activations: Sequence[Activation] = (),
        targets: int = 0,
        training: bool = True,
    ) -> None:
        self.L = len(widths) - 1
        self.activations = dict(enumerate(activations or [RELU] * (self.L - 1), start=1))
        """{l: the activation of hidden layer l}."""
        self.sizes = tuple(sizes)
        self.m = m = sum(sizes)
        bounds = [0, *np.cumsum(sizes).tolist()]
        self.slices = [slice(lo, hi) for lo, hi in pairwise(bounds)]

        runs = list(_runs(self.sizes))

        def columns(n: int) -> GroupMatrix:
            whole = aligned_empty(m * n, dtype).reshape(m, n).T
            stacks = [whole.T[start : start + k * size].reshape(k, size, n).swapaxes(-1, -2) for start, k, size in runs]
            return GroupMatrix(whole, whole.T, [whole[:, s] for s in self.slices], stacks)

        self.A = {l: columns(n) for l, n in enumerate(widths)}
        self.dz = {l: columns(n) for l, n in enumerate(widths) if 0 < l < self.L}
        self.dz[self.L] = self.A[self.L]  # dz = A − Y takes the place of z
        self.take(dict.fromkeys(range(1, self.L + 1), Shortcuts()))
        self.slope = {l: columns(widths[l]) for l, f in self.activations.items() if training and f.keeps_slope}
        """f′(z) of the hidden layers whose activation keeps it."""
        self.y = np.empty(m, np.int64)
        """Class numbers; of use where `targets` is 0."""
        self.Y = columns(targets)
        """(targets, m): numbers."""
        self.is_rounded = False
        """Whether A[0] has been rounded already, as portable passes round it."""
        self.w: NDArray[Any] | None = None
        """Sample weights (m,) of the dtype; None where every example weighs 1."""
        self.turned = aligned_empty(m * max(widths) if m <= FEW else 0, dtype)
        smooth = any(f.name != RELU.name for f in self.activations.values())
        self._zeros, self._tile = np.zeros(max(*widths, CACHED), dtype), aligned_empty(max(*widths, CACHED), dtype)
        self._positive = np.empty(m * max(widths), bool)
        self._room = aligned_empty(ROOM * max(*widths, SMALL_BLOCK) if smooth else 0, dtype).reshape(ROOM, -1)
        self.space = {l: self._space(widths[l]) for l in range(1, self.L)}
        """{l: what the activation of hidden layer l needs}, one memory for all of them."""
        self._output = aligned_empty(m * widths[-1], dtype)
        self._places = np.empty((2, m), np.int64)
        self._per_example = aligned_empty(5 * m, dtype).reshape(5, m)
        self.stacks = [self._stack(start, z) for (start, _, _), z in zip(runs, self.A[self.L].stacks, strict=True)]
        self._numbers = aligned_empty((1 + OUTPUT_ROOM) * m * widths[-1] if targets else 0, dtype)
        self.numbers = list(map(self._numbers_of, self.stacks, self.Y.stacks)) if targets else []
        """One per stack, where targets are numbers."""
        self.prepared: dict[Any, Any] = {}
        """What an output layer has prepared on these arrays, by what it is made of."""

    def take(self, shortcuts: dict[int, Shortcuts]) -> None:
        """Let products have the shapes that these say, by layer; they have the shards' own until this is called."""
        self.shortcuts = shortcuts
        A, dz = self.A, self.dz
        self.z = {l: _pairs(A[l - 1], A[l], shortcut.z_at_once) for l, shortcut in shortcuts.items()}
        """{l: the products (A_prev, z) whose z = W A_prev, of some shards each}."""
        self.dA = {l: _pairs(dz[l], dz[l - 1], shortcuts[l].dA_at_once) for l in range(2, self.L + 1)}
        """{l: the products (dz, dA_prev) whose dA_prev = Wᵀ dz, of some shards each}."""

    def _space(self, n: int) -> ActivationBuffers:
        k = min(self.m, max(1, CACHED // n))
        zeros, tile = (_first(memory, n, k) for memory in (self._zeros, self._tile))
        return ActivationBuffers(zeros, tile, _first(self._positive, n, self.m), self._room)

    def _stack(self, start: int, z: NDArray[Any]) -> Stack:
        k, n, size = z.shape
        examples = slice(start, start + k * size)
        Z = self._output[n * start : n * examples.stop].reshape(k, n, size)
        vectors = (self.y, *self._places, *self._per_example)
        stack = Stack(examples, z, Z, *(vector[examples].reshape(k, 1, size) for vector in vectors))
        stack.first[...] = n * size * np.arange(k)[:, None, None] + np.arange(size)
        return stack

    def _numbers_of(self, stack: Stack, Y: NDArray[Any]) -> NumberStack:
        k, n, size = stack.Z.shape
        part = slice(n * stack.examples.start, n * stack.examples.stop)
        room = self._numbers.reshape(1 + OUTPUT_ROOM, -1)[:, part].reshape(-1, k, n, size)
        return NumberStack(stack, Y, room[0], room[1:])

    @property
    def losses(self) -> NDArray[Any]:
        """The loss of every example (m,), times its weight, as the output layer left it."""
        losses: NDArray[Any] = self._per_example[4]
        return losses

    @property
    def nbytes(self) -> int:
        """The bytes of all buffers, but for sample weights."""
        matrices = [*self.A.values(), *(self.dz[l] for l in range(1, self.L)), *self.slope.values(), self.Y]
        others = [self.y, self._zeros, self._tile, self._positive, self._room, self.turned]
        others += [self._output, self._places, self._per_example, self._numbers]
        return sum(array.nbytes for array in [*(matrix.whole for matrix in matrices), *others])


def aligned_empty(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an uninitialised vector (count,) that starts on a 64-byte boundary, a cache line."""
    raw = np.empty(count * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * dtype.itemsize].view(dtype)


def _pairs(A: GroupMatrix, out: GroupMatrix, at_once: bool) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return the operands and results of a product, in one piece or stack by stack."""
    if at_once or len(A.shards) == 1:
        return [(A.whole, out.whole)]
    return list(zip(A.stacks, out.stacks, strict=True))


def _first(memory: NDArray[Any], n: int, m: int) -> NDArray[Any]:
    """Return the beginning of a vector as an array (n, m), Fortran-ordered."""
    return memory[: n * m].reshape(m, n).T


def _runs(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first example, number, size) of the shards of one size that follow one another."""
    first = 0
    for size, shards in groupby(sizes):
        k = len(list(shards))
        yield first, k, size
        first += k * size
