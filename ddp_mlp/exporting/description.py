"""What an exported network is, in plain numbers and words: all that any of the formats is written from.

Invariants:
- outputs are in the user's units: y = target_mean + target_scale · f_L(z) where targets were scaled, else f_L(z);
- a network is described by what it computes, not by how it was trained: the loss does not matter here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.exporting.literals import comment
from ddp_mlp.inference.network import Network
from ddp_mlp.nn.architecture import one_for_each
from ddp_mlp.nn.targets import Targets

ACTIVATIONS = ("relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus", "gelu", "silu", "identity")
"""Of hidden layers."""
OUTPUTS = ("softmax", "sigmoid", "identity", "exp", "softplus", "relu")
"""Functions of the output layer."""

EXAMPLES = 16
"""Rows that an exported file tests itself with, at most."""
EXAMPLE_NUMBERS = 8192
"""Numbers that they have together, at most, unless fewer than three rows would be left."""


@dataclass(frozen=True)
class Description:
    """A trained network, as it is exported. The arrays are not copied."""

    parameters: Mapping[str, NDArray[Any]]
    """`W1` (n_1, n_0), `b1` (n_1,), …, `bL` (n_L,), all float32 or all float64."""
    activations: tuple[str, ...]
    """(L − 1,): of each hidden layer, one of ACTIVATIONS."""
    outputs: tuple[str, ...]
    """(n_L,): the function of each output, one of OUTPUTS; softmax is that of all or of none."""
    parameters_sha256: str
    mean: NDArray[np.float64] | None = None
    """(n_0,), subtracted from the inputs; None where inputs are taken as they are."""
    scale: NDArray[np.float64] | None = None
    """(n_0,), by which they are divided after that."""
    target_mean: NDArray[np.float64] | None = None
    """(n_L,), added to the outputs; None where they are taken as they are."""
    target_scale: NDArray[np.float64] | None = None
    """(n_L,), by which they are multiplied before that."""
    feature_names: tuple[str, ...] | None = None
    """n_0 names, where the data have any."""
    output_names: tuple[str, ...] | None = None
    """n_L names: of the classes where `classes`, else of the targets."""
    classes: bool = True
    """An output is the probability of a class, and the largest one decides."""
    exact: bool = False
    """The network was trained with `arithmetic = portable`: the layers are computed in float64, with products of whole
    numbers, and have the same bits everywhere."""
    examples: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """Rows (k, n_0) and what this program's own predict gives for them (k, n_L), for a file's test of itself."""

    @property
    def layers(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """(W[l] (n_l, n_{l-1}), b[l] (n_l,)) for l = 1 … L."""
        return [(self.parameters[f"W{l}"], self.parameters[f"b{l}"]) for l in range(1, len(self.parameters) // 2 + 1)]

    @property
    def widths(self) -> tuple[int, ...]:
        """(n_0, …, n_L)."""
        layers = self.layers
        return (layers[0][0].shape[1], *(len(b) for _, b in layers))

    @property
    def softmax(self) -> bool:
        """The outputs are softmax of z together."""
        return self.outputs[0] == "softmax"

    @property
    def dtype(self) -> np.dtype[Any]:
        """That in which the layers are computed: that of the parameters, or float64."""
        return np.dtype(np.float64) if self.exact else self.parameters["W1"].dtype

    @property
    def tolerance(self) -> float:
        """By how much other code may differ from this program's own predict, as a part of `sizes`.

        Not at all where it is exact. Else the rounding errors of a sum of n products grow as √n: 1e-6 in float32 up to
        widths of 256.
        """
        if self.exact:
            return 0.0
        unit = 1e-6 if self.dtype == np.float32 else 1e-14
        return unit * max(1.0, math.sqrt(max(self.widths) / 256))

    def sizes(self, Y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the size of each output (n_L,): the largest of its values Y (m, n_L), or its scale (1 without one).

        That of exp(z) is z times as large: what rounding changes of z is a part of z, and of exp(z) it is z times that.
        """
        scale = np.ones(self.widths[-1]) if self.target_scale is None else self.target_scale
        found: NDArray[np.float64] = np.maximum(np.abs(Y).max(axis=0), scale)
        z = np.where(np.array(self.outputs) == "exp", np.log(found), 1.0)
        return found * np.maximum(z, 1.0)

    @property
    def count(self) -> int:
        """The number of parameters."""
        return sum(array.size for array in self.parameters.values())


def describe_network(network: Network) -> Description:
    """Return what a trained network computes, with examples of its own answers. Local.

    Rows whose answer is too large for the network's type are no examples. Raises DataError where there is no other, or
    where that type does not hold the scale of an input.
    """
    standardization, targets = network.standardization, network.targets
    mean, scale = (standardization.mean, standardization.scale) if standardization.used else (None, None)
    names = network.architecture.activation
    target_mean, target_scale = (None, None) if targets.probabilities else in_units(targets)
    X = example_rows(mean, scale, network.features)
    with np.errstate(all="ignore"):
        Y = network.predictions(X)
        is_held = np.isfinite(standardization.scale.astype(network.dtype)).all()
    finite = np.isfinite(X).all(axis=1) & np.isfinite(Y).all(axis=1)
    if not (is_held and finite.any()):
        raise DataError(
            f"the network answers no row near those of training with numbers: its weights, or the units of its inputs, "
            f"are too large or too small for {network.dtype}: rescale the data, or train in float64"
        )
    return Description(
        parameters=network.parameters,
        activations=one_for_each(names, network.layout.L - 1),
        outputs=network.output_functions,
        parameters_sha256=network.parameters_sha256,
        mean=mean,
        scale=scale,
        target_mean=target_mean,
        target_scale=target_scale,
        feature_names=network.feature_names,
        output_names=targets.output_names,
        classes=bool(targets.classes),
        exact=network.arithmetic.is_portable,
        examples=(X[finite], Y[finite]),
    )


def in_units(targets: Targets) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return the mean and the scale of every output (n_L,), each None where it changes nothing."""
    repeat = len(targets.quantiles) or 1
    mean, scale = (np.repeat(np.array(each, np.float64), repeat) for each in (targets.mean, targets.scale))
    return mean if mean.any() else None, scale if (scale != 1).any() else None


def example_rows(mean: NDArray[np.float64] | None, scale: NDArray[np.float64] | None, n: int) -> NDArray[np.float64]:
    """Return rows (k, n) of inputs spread over ±√3 standard deviations about the mean: always the same ones.

    Multiples of the golden ratio, less whole numbers, are spread evenly (Weyl's sequence).
    """
    k = max(3, min(EXAMPLES, EXAMPLE_NUMBERS // n))
    spread = (np.arange(1, k * n + 1).reshape(k, n) * ((np.sqrt(5) - 1) / 2)) % 1
    rows: NDArray[np.float64] = np.sqrt(3) * (2 * spread - 1)
    if scale is not None:
        rows = rows * scale
    return rows if mean is None else rows + mean


def about(network: Description) -> list[str]:
    """Return what the network is, in a few lines for a comment."""
    kind = 8 * network.parameters["W1"].itemsize
    functions = ", ".join(dict.fromkeys((*network.activations, *network.outputs)))
    lines = [
        f"{'-'.join(map(str, network.widths))}, {functions}, {network.count:,} parameters of {kind} bits,",
        f"parameters_sha256 {network.parameters_sha256}",
    ]
    if network.mean is not None:
        lines.append("Inputs are in the units of the training data; they are standardized here.")
    if network.target_scale is not None:
        lines.append("Outputs are in the units of the training data.")
    return lines


def variables(network: Description, x: str, y: str, first: int = 0) -> list[str]:
    """Return a line for each input and output that has a name."""
    lines = []
    if network.feature_names is not None:
        lines += ["Inputs:", *_listed(network.feature_names, x, first)]
    if network.output_names is not None:
        what = "Outputs: the probability of" if network.outputs[0] in ("softmax", "sigmoid") else "Outputs:"
        lines += [what, *_listed(network.output_names, y, first)]
    return lines or ["Inputs and outputs have no names."]


def _listed(names: Sequence[str], element: str, first: int) -> Iterator[str]:
    """Yield a line of comment for each name, after its element, counted from `first`."""
    for k, name in enumerate(names, start=first):
        yield f"  {element.format(k):8} {comment(name)}"
