"""A network as a whole: its shape, the functions of its layers, its loss; everything but the parameters' values."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from ddp_mlp.nn.activations import Activation
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.functions import PORTABLE, Functions
from ddp_mlp.nn.outputs import SOFTMAX, Output
from ddp_mlp.nn.parameters import Layout

T = TypeVar("T")


def with_functions(part: T, functions: Functions) -> T:
    """Return an activation or an output layer that is made of other functions; as it is, where it takes none."""
    takes_any = any(field.name == "functions" for field in fields(part))  # type: ignore[arg-type] # dataclasses all
    return replace(part, functions=functions) if takes_any else part  # type: ignore[type-var]


@dataclass(frozen=True)
class Network:
    """Where the parameters lie, f of every hidden layer, and the output layer with its loss."""

    layout: Layout
    activations: tuple[Activation, ...] = ()
    """Of the hidden layers l = 1 … L−1; ReLU where there are none."""
    output: Output = SOFTMAX
    targets: int = 0
    """How many numbers an example's target has; 0 where it is a class."""

    def group(self, sizes: Sequence[int], dtype: np.dtype[Any], training: bool = True) -> Group:
        """Return buffers for a pass over shards of the given sizes; without `training`, for the way forward alone."""
        return Group(self.layout.widths, sizes, dtype, self.activations, self.targets, training)

    @property
    def portable(self) -> "Network":
        """The same network, with functions that have the same bits on every machine."""
        activations = tuple(with_functions(f, PORTABLE) for f in self.activations)
        return replace(self, activations=activations, output=with_functions(self.output, PORTABLE))

    @property
    def starts_as_glorot(self) -> frozenset[int]:
        """The layers l whose weights begin as Glorot has it; the output layer's begin as the last hidden layer's."""
        hidden = {l for l, f in enumerate(self.activations, start=1) if f.start == "Glorot"}
        return frozenset(hidden | {self.layout.L} if self.layout.L - 1 in hidden else hidden)
