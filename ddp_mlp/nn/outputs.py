"""The output layer, its loss and dz: the one place that knows which of them is in use.

    loss                  target                 A = f_L(z)   loss of an example                  dz
    cross_entropy         one class of n_L       softmax      −Σ_k Y log A                        A − Y
    binary_cross_entropy  n_L times yes or no    sigmoid      −Σ_k Y log A + (1 − Y) log(1 − A)   A − Y
    squared_error         n_L numbers            identity     ½ Σ_k (A − Y)²                      A − Y
    poisson               n_L counts or rates    exp          Σ_k A − Y log A                     A − Y
    huber                 n_L numbers            identity     Σ_k ½ r², or δ (|r| − ½ δ)          clip(A − Y, −δ, δ)
    absolute_error        n_L numbers            identity     Σ_k |A − Y|                         sign(A − Y)
    quantile              targets × quantiles    identity     Σ_k q (Y − A) or (q − 1) (Y − A)    [A > Y] − q, or 0

dz = A − Y holds for each exponential family with its canonical link (McCullagh and Nelder, Generalized Linear Models,
1989, §2.2); Huber, "Robust estimation of a location parameter", Ann. Math. Statist. 35 (1964); Koenker and Bassett,
"Regression quantiles", Econometrica 46 (1978). With an output activation f_L other than a loss's own, not canonical,
dz is times f_L′(z).

Invariants:
- losses that take logarithms or exponentials are formed from z, never from log A;
- everything is formed shard by shard in a group's stacks, so that a shard has the same bits alone and among others;
- losses are *sums* over a shard's examples. With sample weights, dz and the loss of example i are times w_i;
- an output's loss and dz are times its `factor`: its weight, times Σw / Σw[observed] where targets may be missing.
  A missing target, NaN, has dz = 0 and no loss.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.activations import Pointwise, logistic, relu, softplus
from ddp_mlp.nn.buffers import Group, Stack
from ddp_mlp.nn.functions import Functions, prepared
from ddp_mlp.nn.steady import STEADY

Array: TypeAlias = NDArray[Any]
ShardSums: TypeAlias = list[tuple[float, int]]
"""Of each shard: its loss sum, in float64, and how many predictions are right (0 where none can be)."""


class Output(Protocol):
    """The output function f_L and its loss."""

    @property
    def loss(self) -> str:
        """The loss as the configuration calls it."""

    @property
    def has_classes(self) -> bool:
        """Whether a target is one class number, in `group.y`; otherwise numbers, in `group.Y`."""

    def gradient(self, group: Group) -> ShardSums:
        """Turn the output z into dz, in place; return each shard's loss sum and number of correct predictions."""

    def score(self, group: Group, values: Array | None = None) -> ShardSums:
        """Return the same sums of the output z, which stays as it is.

        Where `values` (m, n_L) are given, they become A = f_L(z), example by example.
        """

    def values(self, group: Group, out: Array) -> None:
        """Set out (m, n_L) to A = f_L(z), example by example; z stays as it is."""


class StackFunctions(NamedTuple):
    """Functions of a stack's arrays, prepared."""

    exp: Callable[[], object]
    """Z becomes exp(Z)."""
    log: Callable[[], object]
    """exp_sum becomes its logarithm."""


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """One class of n_L: A = softmax(z), loss = −Σ_k Y log A = log Σ_j exp(z_j) − z_y.

    Y is one-hot, or with label smoothing s: 1 − s + s/n_L at the label and s/n_L elsewhere (Szegedy et al., "Rethinking
    the Inception architecture", CVPR 2016, §7).
    """

    label_smoothing: float = 0.0
    functions: Functions = STEADY
    loss: str = "cross_entropy"
    has_classes: bool = True

    def gradient(self, group: Group) -> ShardSums:
        """Turn the output z into dz = A − Y, in place; return each shard's loss sum, in float64, and how many it got.

        A prediction is correct where z is largest at the label; of equals, the first counts.
        """
        sums: ShardSums = []
        for stack, on_stack in zip(group.stacks, self._prepared(group), strict=True):
            sums += self._score(stack, on_stack, group.w, None)
            self._turn_into_dz(stack, group.w)
        return sums

    def score(self, group: Group, values: Array | None = None) -> ShardSums:
        """Return the same sums of the output z, which stays as it is; `values` (m, n_L) become A."""
        sums: ShardSums = []
        for stack, on_stack in zip(group.stacks, self._prepared(group), strict=True):
            sums += self._score(stack, on_stack, group.w, None if values is None else values[stack.examples])
        return sums

    def _prepared(self, group: Group) -> list[StackFunctions]:
        """Return the functions of each stack's arrays."""
        f = self.functions
        if f not in group.prepared:
            group.prepared[f] = [
                StackFunctions(prepared(f.exp, stack.Z, stack.Z), prepared(f.log, stack.exp_sum, stack.exp_sum))
                for stack in group.stacks
            ]
        found: list[StackFunctions] = group.prepared[f]
        return found

    def _score(
        self, stack: Stack, on_stack: StackFunctions, w: Array | None, A: Array | None
    ) -> Iterable[tuple[float, int]]:
        """Set a stack's Z to A, its loss, and A (k m_i, n_L) where it is given; return the sums of its shards."""
        _, z, Z, y, first, at_y, z_max, exp_sum, z_y, _, loss = stack
        smoothing, (k, n, m), f = self.label_smoothing, Z.shape, self.functions
        np.multiply(y, m, out=at_y)
        np.add(at_y, first, out=at_y)

        np.copyto(Z, z)
        np.maximum.reduce(Z, axis=1, keepdims=True, out=z_max)
        np.subtract(Z, z_max, out=Z)
        Z.reshape(-1).take(at_y, out=z_y, mode="clip")
        if Z.size - np.count_nonzero(Z) == k * m:  # each example has one that is largest
            correct = _counts(z_y)
        else:  #                           some have several, or none, where z is not finite
            correct = _counts(z.argmax(axis=1, keepdims=True) - y)
        if smoothing:
            z_y *= 1 - smoothing
            z_y += (smoothing / n) * f.sum(Z)
        on_stack.exp()
        f.sum(Z, out=exp_sum)
        np.divide(Z, exp_sum, out=Z)  #                     A = softmax(z)    (k, n_L, m_i)
        if A is not None:
            np.copyto(A.reshape(k, m, n), Z.swapaxes(1, 2))

        on_stack.log()
        np.subtract(exp_sum, z_y, out=loss)  #              −Σ_k Y log A      (k, 1, m_i)
        if w is not None:
            np.multiply(loss, w[stack.examples].reshape(loss.shape), out=loss)
        return zip(_totals(loss), correct, strict=True)

    def _turn_into_dz(self, stack: Stack, w: Array | None) -> None:
        """Set a stack's z to dz, from A in its Z."""
        smoothing, Z, at_y, A_y = self.label_smoothing, stack.Z, stack.at_y, stack.A_y
        values = Z.reshape(-1)
        if smoothing:
            np.subtract(Z, smoothing / Z.shape[1], out=Z)
        values.take(at_y, out=A_y, mode="clip")
        np.subtract(A_y, 1 - smoothing, out=A_y)
        values.put(at_y, A_y)  #                            dz = A − Y        (k, n_L, m_i)
        if w is not None:
            np.multiply(Z, w[stack.examples].reshape(A_y.shape), out=Z)
        np.copyto(stack.z, Z)

    def values(self, group: Group, out: Array) -> None:
        """Set out (m, n_L) to A = softmax(z) of the output z, example by example; z stays as it is."""
        for stack, on_stack in zip(group.stacks, self._prepared(group), strict=True):
            Z, (k, n, m) = stack.Z, stack.Z.shape
            np.copyto(Z, stack.z)  # examples side by side: NumPy finds their largest z many at a time
            np.maximum.reduce(Z, axis=1, keepdims=True, out=stack.z_max)
            np.subtract(Z, stack.z_max, out=Z)
            on_stack.exp()
            self.functions.sum(Z, out=stack.exp_sum)
            np.divide(Z, stack.exp_sum, out=Z)
            np.copyto(out[stack.examples].reshape(k, m, n), Z.swapaxes(1, 2))


SOFTMAX = SoftmaxCrossEntropy()

CONSTRAINTS: dict[str, Pointwise] = {"softplus": softplus, "relu": relu}
"""The output activations besides identity: outputs that are never negative."""

Pair: TypeAlias = Callable[[Array, Array, Array, Array, Functions], None]
"""`pair(A, Y, loss, room, f)` turns A (k, n_L, m_i) into ∂loss/∂A in place, and sets loss, element by element."""
Link: TypeAlias = Callable[[Array, Array, Array, Functions], None]
"""`link(z, out, room, f)` sets out (n,) from z (n,); both may be the same."""


@dataclass(frozen=True)
class Numbers:
    """Numbers as targets, each output for itself: `pair` has its loss and dz."""

    loss: str
    pair: Pair = field(repr=False)
    link: Link | None = field(default=None, repr=False)
    """What makes A of z in `values`, where that is not z: sigmoid, exp."""
    factor: tuple[float, ...] | None = None
    """(n_L,): what an output's loss and dz are multiplied by; None is 1 for all."""
    constrained: tuple[str, ...] = ()
    """(n_L,): the output activation of every output, or none for all of them."""
    functions: Functions = STEADY
    has_classes: bool = False

    def gradient(self, group: Group) -> ShardSums:
        """Turn the output z into dz, in place; return each shard's loss sum, in float64, and 0 for correct ones."""
        sums = self.score(group)
        for stack in group.stacks:
            np.copyto(stack.z, stack.Z)
        return sums

    def score(self, group: Group, values: Array | None = None) -> ShardSums:
        """Return the same sums of the output z, which stays as it is, and leave dz in Z; `values` (m, n_L) become A."""
        if values is not None:
            self.values(group, values)
        sums: ShardSums = []
        for stack, Y, L, room in group.numbers:
            Z, loss = stack.Z, stack.loss
            np.copyto(Z, stack.z)
            target = room[0]
            k, targets, m = Y.shape
            np.copyto(target.reshape(k, targets, -1, m), Y[:, :, None])  # one for each quantile
            missing = np.isnan(target)
            some_missing = bool(missing.any())
            if some_missing:
                np.copyto(target, 0, where=missing)
            slope = self._constrain(Z, room[1:])
            self.pair(Z, target, L, room[1] if slope is None else room[2], self.functions)
            if slope is not None:
                np.multiply(Z, slope, out=Z)  #                       dz = dA ⊙ f_L′(z)
            if self.factor is not None:
                factor = np.asarray(self.factor, Z.dtype)[:, None]
                np.multiply(Z, factor, out=Z)
                np.multiply(L, factor, out=L)
            if some_missing:
                np.copyto(Z, 0, where=missing)
                np.copyto(L, 0, where=missing)
            self.functions.sum(L, out=loss)
            if group.w is not None:
                w = group.w[stack.examples].reshape(loss.shape)
                np.multiply(Z, w, out=Z)
                np.multiply(loss, w, out=loss)
            sums += ((total, 0) for total in _totals(loss))
        return sums

    def values(self, group: Group, out: Array) -> None:
        """Set out (m, n_L) to A = f_L(z) of the output z, example by example; z stays as it is."""
        for stack, _, _, room in group.numbers:
            Z = stack.Z
            np.copyto(Z, stack.z)
            if self.link is not None:
                self.link(Z.reshape(-1), Z.reshape(-1), room.reshape(len(room), -1), self.functions)
            self._constrain(Z, room)
            out[stack.examples] = Z.swapaxes(1, 2).reshape(-1, Z.shape[1])

    def _constrain(self, Z: Array, room: Array) -> Array | None:
        """Apply the output activations to Z (k, n_L, m_i) in place; return their slopes, in room[0], or None."""
        if not self.constrained:
            return None
        slope: Array = room[0]
        others = room[1:].reshape(len(room) - 1, -1)
        slope[...] = 1
        for k, name in enumerate(self.constrained):
            if name != "identity":
                z, dz = Z[:, k].reshape(-1), slope[:, k].reshape(-1)  # copies, contiguous
                CONSTRAINTS[name](z, dz, others[:, : z.size], self.functions)
                Z[:, k], slope[:, k] = z.reshape(Z[:, k].shape), dz.reshape(Z[:, k].shape)
        return slope


def binary_cross_entropy(A: Array, Y: Array, loss: Array, room: Array, f: Functions) -> None:
    """From A = z: the loss max(z, 0) − z Y + log(1 + e^−|z|), and σ(z) − Y."""
    z = A
    np.abs(z, out=loss)
    np.negative(loss, out=loss)
    f.exp(loss.reshape(-1), out=loss.reshape(-1))
    np.greater_equal(z, 0, out=room)
    np.maximum(room, loss, out=room)  #                      1, and e^−|z| where z is below 0
    flat = loss.reshape(-1)
    denominator = loss + 1
    np.divide(room, denominator, out=room)  #                A = σ(z)
    f.log1p(flat, out=flat)
    np.add(loss, np.maximum(z, 0), out=loss)
    np.subtract(loss, z * Y, out=loss)
    np.subtract(room, Y, out=A)  #                           dz = A − Y


def squared_error(A: Array, Y: Array, loss: Array, room: Array, f: Functions) -> None:
    """½ (A − Y)², and A − Y."""
    np.subtract(A, Y, out=A)
    np.multiply(A, A, out=loss)
    np.multiply(loss, 0.5, out=loss)


def poisson(A: Array, Y: Array, loss: Array, room: Array, f: Functions) -> None:
    """From A = z: the loss e^z − Y z, and e^z − Y."""
    z = A
    np.multiply(z, Y, out=room)
    flat = z.reshape(-1)
    f.exp(flat, out=flat)  #                    A = e^z
    np.subtract(A, room, out=loss)
    np.subtract(A, Y, out=A)  #                              dz = A − Y


def huber(delta: float) -> Pair:
    """With r = A − Y and c = clip(r, −δ, δ): c (r − ½ c), which is ½ r² or δ (|r| − ½ δ); and c."""

    def pair(A: Array, Y: Array, loss: Array, room: Array, f: Functions) -> None:
        np.subtract(A, Y, out=room)
        np.clip(room, -delta, delta, out=A)
        np.multiply(A, -0.5, out=loss)
        np.add(loss, room, out=loss)
        np.multiply(loss, A, out=loss)

    return pair


def absolute_error(A: Array, Y: Array, loss: Array, room: Array, f: Functions) -> None:
    """Form |A − Y|, and its sign."""
    np.subtract(A, Y, out=A)
    np.abs(A, out=loss)
    np.sign(A, out=A)


def quantile(levels: tuple[float, ...]) -> Pair:
    """With u = Y − A, at level q: max(q u, (q − 1) u); and [A > Y] − q, 0 at a tie. `levels` is (n_L,)."""

    def pair(A: Array, Y: Array, loss: Array, room: Array, f: Functions) -> None:
        q = np.asarray(levels, A.dtype)[:, None]
        np.subtract(Y, A, out=loss)
        np.less(loss, 0, out=room)
        np.subtract(room, q, out=A)
        np.copyto(A, 0, where=loss == 0)
        np.multiply(loss, A, out=loss)
        np.negative(loss, out=loss)

    return pair


def sigmoid_link(z: Array, out: Array, room: Array, f: Functions) -> None:
    """Set out to A = σ(z)."""
    logistic(z, out, room, f)


def exp_link(z: Array, out: Array, room: Array, f: Functions) -> None:
    """Set out to A = e^z."""
    f.exp(z, out=out)


def create(
    loss: str,
    *,
    n_L: int,
    label_smoothing: float = 0.0,
    huber_delta: float = 1.0,
    quantiles: tuple[float, ...] = (),
    factor: tuple[float, ...] | None = None,
    constrained: tuple[str, ...] = (),
) -> Output:
    """Return the output layer of n_L outputs with the loss called `loss`; an option counts for the losses that have it.

    >>> create("squared_error", n_L=2).loss
    'squared_error'
    """
    if loss == "cross_entropy":
        return SoftmaxCrossEntropy(label_smoothing)
    levels = quantiles * (n_L // len(quantiles)) if quantiles else ()
    pairs: dict[str, Callable[[], tuple[Pair, Link | None]]] = {
        "binary_cross_entropy": lambda: (binary_cross_entropy, sigmoid_link),
        "squared_error": lambda: (squared_error, None),
        "poisson": lambda: (poisson, exp_link),
        "huber": lambda: (huber(huber_delta), None),
        "absolute_error": lambda: (absolute_error, None),
        "quantile": lambda: (quantile(levels), None),
    }
    pair, link = pairs[loss]()
    return Numbers(loss, pair, link, factor, constrained)


def _counts(wrong: Array) -> list[int]:
    """Return how many examples are right in each shard (k, 1, m_i): those with a zero."""
    k, _, m = wrong.shape
    if k == 1:
        return [m - int(np.count_nonzero(wrong))]
    counts: list[int] = np.add.reduce(wrong == 0, axis=(1, 2), dtype=np.int64).tolist()
    return counts


def _totals(loss: Array) -> list[float]:
    """Return the sum of each shard's losses (k, 1, m_i), in float64."""
    totals: list[float] = np.add.reduce(loss.astype(np.float64, copy=False), axis=(1, 2)).tolist()
    return totals
