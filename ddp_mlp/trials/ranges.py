"""The values that one key of a search can have: each range is a function from [0, 1) to values.

Real numbers have DIGITS significant decimal digits: they are read, typed and compared by people.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ddp_mlp.nn.elementary import exp, log

DIGITS = 6


class Range(Protocol):
    """The values of one number of a trial."""

    @property
    def dimensions(self) -> int:
        """How many numbers in [0, 1) a value is made of."""

    def value(self, u: Sequence[float]) -> Any:
        """Return the value at u, `dimensions` numbers in [0, 1)."""

    def every(self) -> Iterator[Any] | None:
        """Return all values in their order, each once; None where there is a continuum of them."""

    def extremes(self) -> Iterator[Any]:
        """Return the values that decide whether all are valid."""

    def has(self, value: Any) -> bool:
        """Tell whether this is one of the values."""


@dataclass(frozen=True)
class Choice:
    """One of some values, all as likely."""

    values: tuple[Any, ...]
    dimensions: ClassVar[int] = 1

    def value(self, u: Sequence[float]) -> Any:
        return self.values[int(u[0] * len(self.values))]

    def every(self) -> Iterator[Any]:
        return iter(self.values)

    extremes = every

    def has(self, value: Any) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Whole:
    """Whole numbers lo, lo + step, … up to hi; with `log`, evenly in the logarithm."""

    lo: int
    hi: int
    step: int = 1
    log: bool = False
    dimensions: ClassVar[int] = 1

    def value(self, u: Sequence[float]) -> int:
        if not self.log:
            return self.lo + int(u[0] * ((self.hi - self.lo) // self.step + 1)) * self.step
        found = _between_logarithms(self.lo, self.hi + 1, u[0])
        steps = int(_rounded(found) - self.lo) // self.step
        return self.lo + max(0, min(steps, (self.hi - self.lo) // self.step)) * self.step

    def every(self) -> Iterator[int]:
        return iter(range(self.lo, self.hi + 1, self.step))

    def extremes(self) -> Iterator[int]:
        last = self.lo + (self.hi - self.lo) // self.step * self.step
        return iter((self.lo, last))

    def has(self, value: Any) -> bool:
        return isinstance(value, int) and value in range(self.lo, self.hi + 1, self.step)


@dataclass(frozen=True)
class Real:
    """Real numbers in [lo, hi]; with `log`, evenly in the logarithm; with `points`, so many of them, both ends too."""

    lo: float
    hi: float
    log: bool = False
    points: int | None = None
    dimensions: ClassVar[int] = 1

    def value(self, u: Sequence[float]) -> float:
        if self.points is None:
            return self._at(u[0])
        return self._at(int(u[0] * self.points) / max(1, self.points - 1))

    def every(self) -> Iterator[float] | None:
        if self.points is None:
            return None
        return (self._at(i / max(1, self.points - 1)) for i in range(self.points))

    def extremes(self) -> Iterator[float]:
        return iter((self.lo, self.hi))

    def has(self, value: Any) -> bool:
        if self.points is not None:
            return value in (self.every() or ())
        return isinstance(value, int | float) and self.lo <= value <= self.hi

    def _at(self, u: float) -> float:
        found = _between_logarithms(self.lo, self.hi, u) if self.log else self.lo + u * (self.hi - self.lo)
        return max(self.lo, min(_rounded(found), self.hi))


@dataclass(frozen=True)
class Widths:
    """Lists of widths: as many as `depth` says, all of one width, or, with `each`, every layer its own."""

    depth: Range
    width: Range
    each: bool
    deepest: int

    @property
    def dimensions(self) -> int:
        return 1 + (self.deepest if self.each else 1)

    def value(self, u: Sequence[float]) -> list[int]:
        layers = self.depth.value(u[:1])
        drawn = [self.width.value(u[i : i + 1]) for i in range(1, len(u))]
        return drawn[:layers] if self.each else drawn * layers

    def every(self) -> Iterator[list[int]] | None:
        depths = self.depth.every()
        if depths is None or self.width.every() is None:
            return None
        return (list(widths) for layers in depths for widths in self._of_depth(layers))

    def _of_depth(self, layers: int) -> Iterator[Sequence[int]]:
        widths = list(self.width.every() or ())
        if layers == 0:
            return iter([()])
        return itertools.product(widths, repeat=layers) if self.each else ((width,) * layers for width in widths)

    def extremes(self) -> Iterator[list[int]]:
        for layers in self.depth.extremes():
            for width in self.width.extremes():
                yield [width] * layers

    def has(self, value: Any) -> bool:
        if not isinstance(value, list) or not (self.each or len(set(value)) < 2):
            return False
        return self.depth.has(len(value)) and all(map(self.width.has, value))


def _between_logarithms(lo: float, hi: float, u: float) -> float:
    """Return lo^(1 − u) hi^u, with the same bits on every machine."""
    ends = log(np.array([lo, hi], np.float64))
    return float(exp(ends[:1] + u * (ends[1:] - ends[:1]))[0])


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
