"""What hidden layers make of z, and what that means on the way back: the one place that knows f and f′.

    forward     A = f(z + b)
    backward    dz = dA ⊙ f′(z)

    name          f(z)                                    f′(z)
    relu          max(z, 0)                               [z > 0], so f′(0) = 0
    leaky_relu    z, and z / 100 below 0                  1, and 1/100 up to 0
    elu           z, and eᶻ − 1 below 0                   1, and eᶻ up to 0
    tanh          tanh z                                  1 − A²
    sigmoid       1 / (1 + e⁻ᶻ)                           A (1 − A)
    softplus      log(1 + eᶻ)                             1 / (1 + e⁻ᶻ)
    gelu          z Φ(z), Φ(z) = ½ (1 + erf(z / √2))      Φ(z) + z e^(−z²/2) / √(2π)
    silu          z σ(z), σ the sigmoid                   σ (1 + z (1 − σ))
    identity      z                                       1

ReLU's [z > 0] is [A > 0], so z need not be kept. For the others f′(z) is formed on the way forward, while z is in
cache, and kept: the `slope`. What dropout does to A it does to the slope too.

Sources: Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010; Maas, Hannun and
Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013 (leaky); Clevert, Unterthiner and
Hochreiter, "Fast and accurate deep network learning by exponential linear units", ICLR 2016; Dugas et al.,
"Incorporating second-order functional knowledge", NIPS 2000 (softplus); Hendrycks and Gimpel, "Gaussian error linear
units", 2016 (gelu and silu).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.functions import Functions
from ddp_mlp.nn.parameters import Start
from ddp_mlp.nn.steady import STEADY

Array: TypeAlias = NDArray[Any]
Pointwise: TypeAlias = Callable[[Array, Array | None, Array, Functions], None]
"""`function(z, slope, room, f)` sets z (n,) to f(z) and, where it is given, slope (n,) to f′(z); room is (4, ≥ n)."""

ROOM = 4
"""Arrays of a block that an activation needs besides z and slope."""
LEAK = 0.01
"""The slope of leaky_relu below 0."""


class ActivationBuffers(NamedTuple):
    """The memory that a hidden layer's activation needs besides A and dz; arrays (n, …) are Fortran-ordered."""

    zeros: Array
    """(n, k): for the k examples of a block, which stay in cache."""
    tile: Array
    """(n, k): room for b, repeated. NumPy repeats it anew, and slowly, for each operation."""
    positive: NDArray[np.bool_]
    """(n, m)."""
    room: Array
    """(ROOM, ≥ n); empty where all activations are ReLU."""


class Activation(Protocol):
    """A hidden layer's f and f′, on arrays (n, m) in Fortran order."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    @property
    def start(self) -> Start:
        """How the weights in front of it begin."""

    @property
    def keeps_slope(self) -> bool:
        """Whether f′(z) is formed on the way forward and kept for the way back."""

    def forward(self, Z: Array, b: Array, slope: Array | None, space: ActivationBuffers) -> None:
        """Set Z = f(Z + b) in place, for b (n, 1), and slope, where there is one, to f′(Z + b)."""

    def apply(self, Z: Array, slope: Array | None, space: ActivationBuffers) -> None:
        """Set Z = f(Z) in place, and slope, where there is one, to f′(Z): for a block of few examples."""

    def backward(self, dA: Array, A: Array, slope: Array | None, keep_scale: float, space: ActivationBuffers) -> None:
        """Turn dA (n, m) into dz = dA ⊙ f′(z) in place; keep_scale is what dropout has scaled A with."""


@dataclass(frozen=True)
class Relu:
    """max(z, 0), the derivation's; f′ follows from A."""

    name: str = "relu"
    start: Start = "He"
    keeps_slope: bool = False

    def forward(self, Z: Array, b: Array, slope: Array | None, space: ActivationBuffers) -> None:
        """Set Z = ReLU(Z + b) in place, for Z (n, m) in Fortran order and b (n, 1).

        In blocks of examples that stay in cache.
        """
        tile, m = space.tile, Z.shape[1]
        width = tile.shape[1]
        np.copyto(tile, b)
        for start in range(0, m, width):
            block = Z if m <= width else Z[:, start : start + width]
            np.add(block, tile[:, : block.shape[1]], out=block)
            self.apply(block, None, space)

    def apply(self, Z: Array, slope: Array | None, space: ActivationBuffers) -> None:
        """Set Z = ReLU(Z) in place, against as many zeros: NumPy's maximum with a scalar is slower by 6."""
        np.maximum(Z, space.zeros[:, : Z.shape[1]], out=Z)

    def backward(self, dA: Array, A: Array, slope: Array | None, keep_scale: float, space: ActivationBuffers) -> None:
        """Turn dA (n, m) into dz = dA ⊙ [A > 0] · keep_scale in place.

        In the forward pass this was A = ReLU(z), dropped out: times 0 or keep_scale; so now [z > 0] is [A > 0].
        """
        positive = space.positive[:, : A.shape[1]]
        np.greater(A, 0, out=positive)
        np.multiply(dA, positive, out=dA)
        if keep_scale != 1.0:
            np.multiply(dA, keep_scale, out=dA)


@dataclass(frozen=True)
class Smooth:
    """Any other f, given element by element with its slope."""

    name: str
    start: Start
    pointwise: Pointwise
    functions: Functions = STEADY
    keeps_slope: bool = True

    def forward(self, Z: Array, b: Array, slope: Array | None, space: ActivationBuffers) -> None:
        """Set Z = f(Z + b) in place, and slope, where there is one, to f′(Z + b); in blocks that stay in cache."""
        n, m = Z.shape
        width = max(1, space.room.shape[1] // n)
        for start in range(0, m, width):
            examples = slice(start, start + width)
            np.add(Z[:, examples], b, out=Z[:, examples])
            self.apply(Z[:, examples], None if slope is None else slope[:, examples], space)

    def apply(self, Z: Array, slope: Array | None, space: ActivationBuffers) -> None:
        """Set Z = f(Z) in place, and slope, where there is one, to f′(Z); in blocks for which there is room."""
        z, kept, room = Z.T.reshape(-1), None if slope is None else slope.T.reshape(-1), space.room
        size = room.shape[1]
        for start in range(0, len(z), size):
            part = slice(start, min(start + size, len(z)))
            self.pointwise(z[part], None if kept is None else kept[part], room[:, : part.stop - start], self.functions)

    def backward(self, dA: Array, A: Array, slope: Array | None, keep_scale: float, space: ActivationBuffers) -> None:
        """Turn dA (n, m) into dz = dA ⊙ slope in place: dropout has changed the slope as it has changed A."""
        assert slope is not None, "a group that is trained with keeps it"
        np.multiply(dA, slope, out=dA)


def relu(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to max(z, 0)."""
    if slope is not None:
        np.greater(z, 0, out=slope)
    np.maximum(z, 0, out=z)


def leaky_relu(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to z or, up to 0, z / 100."""
    steep = room[0]
    np.greater(z, 0, out=steep)
    np.multiply(steep, 1 - LEAK, out=steep)
    np.add(steep, LEAK, out=steep)
    np.multiply(z, steep, out=z)
    if slope is not None:
        slope[...] = steep


def elu(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to z or, below 0, eᶻ − 1 = 2 t / (1 − t) with t = tanh(z / 2), where nothing cancels."""
    below, t = room[0], room[1]
    np.minimum(z, 0, out=below)
    np.multiply(below, 0.5, out=t)
    f.tanh(t, out=t)
    np.subtract(1, t, out=below)
    np.divide(t, below, out=below)
    np.multiply(below, 2, out=below)
    np.maximum(z, 0, out=z)
    np.add(z, below, out=z)
    if slope is not None:
        np.add(below, 1, out=slope)


def tanh(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to tanh z."""
    f.tanh(z, out=z)
    if slope is not None:
        np.multiply(z, z, out=slope)
        np.subtract(1, slope, out=slope)


def sigmoid(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to 1 / (1 + e⁻ᶻ)."""
    logistic(z, z, room, f)
    if slope is not None:
        np.subtract(1, z, out=slope)
        np.multiply(z, slope, out=slope)


def softplus(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to log(1 + eᶻ) = max(z, 0) + log(1 + e^−|z|)."""
    if slope is not None:
        logistic(z, slope, room, f)
    e = room[0]
    np.abs(z, out=e)
    np.negative(e, out=e)
    f.exp(e, out=e)
    f.log1p(e, out=e)
    np.maximum(z, 0, out=z)
    np.add(z, e, out=z)


def gelu(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to z Φ(z), where Φ is the normal distribution function."""
    below, density = room[0], room[1]
    np.multiply(z, math.sqrt(0.5), out=below)
    f.erf(below, out=below)
    np.add(below, 1, out=below)
    np.multiply(below, 0.5, out=below)
    if slope is not None:
        np.multiply(z, z, out=density)
        np.multiply(density, -0.5, out=density)
        f.exp(density, out=density)
        np.multiply(density, 1 / math.sqrt(2 * math.pi), out=density)
        np.multiply(z, density, out=density)
        np.add(below, density, out=slope)
    np.multiply(z, below, out=z)


def silu(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Set z to z σ(z), where σ is the sigmoid."""
    s = room[1]
    logistic(z, s, room[2:], f)
    if slope is not None:
        np.subtract(1, s, out=slope)
        np.multiply(slope, z, out=slope)
        np.add(slope, 1, out=slope)
        np.multiply(slope, s, out=slope)
    np.multiply(z, s, out=z)


def identity(z: Array, slope: Array | None, room: Array, f: Functions) -> None:
    """Leave z as it is."""
    if slope is not None:
        slope[...] = 1


def logistic(z: Array, out: Array, room: Array, f: Functions) -> None:
    """Set out (n,) to σ(z) = 1 / (1 + e⁻ᶻ), from e = e^−|z|: 1 / (1 + e), and e / (1 + e) below 0; room is (2, n)."""
    e, numerator = room[0], room[1]
    np.abs(z, out=e)
    np.negative(e, out=e)
    f.exp(e, out=e)
    np.greater_equal(z, 0, out=numerator)
    np.maximum(numerator, e, out=numerator)  # e ≤ 1; a selection by `where` takes ten times as long
    np.add(e, 1, out=e)
    np.divide(numerator, e, out=out)


RELU = Relu()
ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        RELU,
        Smooth("leaky_relu", "He", leaky_relu),
        Smooth("elu", "He", elu),
        Smooth("tanh", "Glorot", tanh),
        Smooth("sigmoid", "Glorot", sigmoid),
        Smooth("softplus", "He", softplus),
        Smooth("gelu", "He", gelu),
        Smooth("silu", "He", silu),
        Smooth("identity", "Glorot", identity),
    )
}
