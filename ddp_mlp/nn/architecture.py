"""A network but for its parameters' values: its shape, the functions of its layers, its loss."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from ddp_mlp.nn import outputs
from ddp_mlp.nn.activations import ACTIVATIONS, Activation
from ddp_mlp.nn.buffers import FEW, Group
from ddp_mlp.nn.functions import PORTABLE, Functions
from ddp_mlp.nn.outputs import SOFTMAX, Output
from ddp_mlp.nn.parameters import Layout, Start
from ddp_mlp.nn.targets import Targets

T = TypeVar("T")


def with_functions(part: T, functions: Functions) -> T:
    """Return an activation or an output layer that is made of other functions; as it is, where it takes none."""
    takes_any = any(field.name == "functions" for field in fields(part))  # type: ignore[arg-type] # dataclasses all
    return replace(part, functions=functions) if takes_any else part  # type: ignore[type-var]


@dataclass(frozen=True)
class Architecture:
    """Where the parameters lie, f of every hidden layer, and the output layer with its loss."""

    layout: Layout
    activations: tuple[Activation, ...] = ()
    """Of the hidden layers l = 1 … L−1; ReLU where there are none."""
    output: Output = SOFTMAX
    """As it is trained."""
    scoring: Output = SOFTMAX
    """As it is evaluated: labels are not smoothed, and no target counts for another's missing ones."""
    targets: int = 0
    """How many numbers an example's target has; 0 where it is a class."""

    def group(self, sizes: Sequence[int], dtype: np.dtype[Any], training: bool = True) -> Group:
        """Return buffers for a pass over shards of the given sizes; without `training`, for the way forward alone."""
        return Group(self.layout.widths, sizes, dtype, self.activations, self.targets, training)

    def group_bytes(self, m: int, dtype: np.dtype[Any], training: bool = True) -> int:
        """Return the bytes of the buffers for a pass over m ≥ 1 examples, without making any for more than two."""
        one, two = (self.group([n], dtype, training) for n in (1, 2))
        fixed, turned = 2 * one.nbytes - two.nbytes, two.turned.nbytes - one.turned.nbytes
        each = two.nbytes - one.nbytes - (turned if m > FEW else 0)
        return fixed + m * each

    @property
    def portable(self) -> "Architecture":
        """The same network, with functions that have the same bits on every machine."""
        activations = tuple(with_functions(f, PORTABLE) for f in self.activations)
        output, scoring = with_functions(self.output, PORTABLE), with_functions(self.scoring, PORTABLE)
        return replace(self, activations=activations, output=output, scoring=scoring)

    @property
    def activation(self) -> str:
        """The activations as the configuration has them: one for all hidden layers, or one each, with commas."""
        names = [f.name for f in self.activations] or ["relu"]
        return names[0] if len(set(names)) == 1 else ",".join(names)

    @property
    def starts(self) -> dict[int, Start]:
        """How the weights of layer l begin: a hidden layer's as its activation has it, the output layer's as its loss.

        For classes the output layer's begin as the last hidden layer's. For numbers they begin near 0: a first guess
        far from every target would have to be unlearnt, by the hidden layers too.
        """
        L, hidden = self.layout.L, {l: f.start for l, f in enumerate(self.activations, start=1)}
        return {**hidden, L: hidden.get(L - 1, "He") if self.output.has_classes else "Yang"}


def create(
    features: int,
    hidden: Sequence[int],
    targets: Targets,
    *,
    activation: str = "relu",
    output_activation: str = "identity",
    label_smoothing: float = 0.0,
    huber_delta: float = 1.0,
    factor: Sequence[float] | None = None,
    weight: Sequence[float] | None = None,
) -> Architecture:
    """Return the network of so many features and hidden units, as the configuration has it.

    `activation` and `output_activation` are one name, or one for each hidden layer and each number, with commas;
    `factor` (n_T,) multiplies the loss of every number in training, `weight` (n_T,) in evaluation. Raises ValueError
    where there are too many or too few.

    >>> create(4, (8, 8), Targets(classes=("a", "b")), activation="tanh,relu").activation
    'tanh,relu'
    """
    repeat = len(targets.quantiles) or 1
    constrained = one_for_each(output_activation, targets.count) if output_activation != "identity" else ()
    output, scoring = (
        outputs.create(
            targets.loss,
            n_L=targets.outputs,
            label_smoothing=smoothing,
            huber_delta=huber_delta,
            quantiles=targets.quantiles,
            factor=None if each is None else tuple(f for f in each for _ in range(repeat)),
            constrained=tuple(name for name in constrained for _ in range(repeat)),
        )
        for smoothing, each in ((label_smoothing, factor), (0.0, weight))
    )
    functions = tuple(ACTIVATIONS[name] for name in one_for_each(activation, len(hidden)))
    return Architecture(Layout((features, *hidden, targets.outputs)), functions, output, scoring, targets.count)


def one_for_each(names: str, count: int) -> tuple[str, ...]:
    """Return `count` names from one, or from as many with commas. Raises ValueError for another number of them.

    >>> one_for_each("tanh", 2), one_for_each("tanh, relu", 2)
    (('tanh', 'tanh'), ('tanh', 'relu'))
    """
    found = tuple(name.strip() for name in names.split(","))
    if len(found) == 1:
        return found * count
    if len(found) != count:
        raise ValueError(f"{len(found)} names for {count}")
    return found
