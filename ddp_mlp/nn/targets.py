"""What the outputs of a network stand for: one class of several, or numbers in units of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error", "poisson", "huber", "absolute_error", "quantile")
STANDARDIZED = ("squared_error", "huber", "absolute_error", "quantile")
"""The losses whose targets are standardized, unless told otherwise."""
OWN_FUNCTIONS = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp"}
"""f_L of the losses that have one of their own."""


@dataclass(frozen=True)
class Targets:
    """The names of classes, or those of numbers with the map out of the network's units: y = mean + scale · A."""

    loss: str = "cross_entropy"
    classes: tuple[str, ...] = ()
    """Of cross_entropy alone."""
    names: tuple[str, ...] = ()
    """Of the numbers (n_T); for binary_cross_entropy those of the labels."""
    mean: tuple[float, ...] = ()
    """(n_T,): 0 where a number is not shifted."""
    scale: tuple[float, ...] = ()
    """(n_T,): 1 where a number is not scaled."""
    quantiles: tuple[float, ...] = ()
    """The levels of loss = quantile; output t · Q + j is number t at level j."""

    @property
    def count(self) -> int:
        """How many numbers a row's target has; 0 where it is a class."""
        return len(self.names)

    @property
    def outputs(self) -> int:
        """The width of the output layer, n_L."""
        return len(self.classes) or self.count * (len(self.quantiles) or 1)

    @property
    def probabilities(self) -> bool:
        """Whether the outputs are probabilities: of classes, or of labels."""
        return self.loss in ("cross_entropy", "binary_cross_entropy")

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of all outputs: of classes, of numbers, or such as "y at 0.9" for quantiles."""
        if self.quantiles:
            return tuple(f"{name} at {q:g}" for name in self.names for q in self.quantiles)
        return self.classes or self.names

    def in_units(self, A: NDArray[Any]) -> NDArray[np.float64]:
        """Return the values (m, n_L) in the targets' own units, float64, of the outputs A (m, n_L)."""
        repeat = len(self.quantiles) or 1
        mean, scale = (np.repeat(np.array(each), repeat) for each in (self.mean, self.scale))
        values: NDArray[np.float64] = mean + scale * A.astype(np.float64)
        return values

    def to_dict(self) -> dict[str, Any] | None:
        """Return what a checkpoint keeps, of JSON values; None for classes, which it has by themselves."""
        if not self.names:
            return None
        kept = {"loss": self.loss, "names": self.names, "mean": self.mean, "scale": self.scale}
        return {name: value if isinstance(value, str) else list(value) for name, value in kept.items()} | {
            "quantiles": list(self.quantiles)
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any] | None, classes: Sequence[str] = ()) -> Self:
        """Return what `to_dict` gave; None is classes. Raises ValueError for what it would not have given."""
        if kept is None:
            return cls(classes=tuple(classes))
        found = cls(
            loss=str(kept["loss"]),
            names=tuple(map(str, kept["names"])),
            mean=tuple(map(float, kept["mean"])),
            scale=tuple(map(float, kept["scale"])),
            quantiles=tuple(map(float, kept["quantiles"])),
        )
        n = found.count
        fits = n and len(found.mean) == len(found.scale) == n and np.isfinite([*found.mean, *found.scale]).all()
        if not fits or found.loss not in LOSSES[1:] or min(found.scale) <= 0:
            raise ValueError("its targets are not names with a mean and a positive scale each, and a loss for them")
        return found
