"""The two arithmetics of a run: what each number that a run depends on is made with.

`native` is NumPy's and the BLAS's: as fast as they are; the same bits on one kind of processor. `portable` is made of
what IEEE 754 fixes: the same bits everywhere. Whatever a run computes with functions, powers, sums or random numbers,
it asks of one of these; + − × ÷ √, comparisons, counts and `totals.total` are the same in both.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import cosine, elementary, functions, randomness
from ddp_mlp.nn.functions import Functions
from ddp_mlp.nn.randomness import Purpose

VERSION = 1
"""Of `portable`: whatever changes one of its bits counts it up."""


class Permutation(Protocol):
    """Draws an order."""

    def __call__(self, count: int, seed: int, purpose: Purpose, *indices: int) -> NDArray[np.int64]:
        """Return the numbers [0, count) in an order drawn from (seed, purpose, indices)."""


class Normal(Protocol):
    """Draws normally distributed numbers."""

    def __call__(self, shape: tuple[int, ...], seed: int, purpose: Purpose, *indices: int) -> NDArray[np.float64]:
        """Return standard normal numbers drawn from (seed, purpose, indices)."""


@dataclass(frozen=True)
class Arithmetic:
    """What differs between native and portable; picklable by its name."""

    name: str
    functions: Functions
    power: Callable[[float, int], float]
    """(x, n) → xⁿ for whole n ≥ 0."""
    real_power: Callable[[float, float], float]
    """(x, y) → x^y for x > 0."""
    cos: Callable[[float], float]
    permutation: Permutation
    normal: Normal
    sum_rows: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """(m, n) → (n,): the sum over the rows."""

    @property
    def is_portable(self) -> bool:
        """Whether bits are the same everywhere."""
        return self.name == "portable"

    def working(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the number type in which a run with parameters of this dtype computes its examples."""
        return np.dtype(np.float64) if self.is_portable else dtype

    def __reduce__(self) -> tuple[Callable[[str], "Arithmetic"], tuple[str]]:
        return called, (self.name,)


def whole_power(x: float, n: int) -> float:
    """Return xⁿ for whole n ≥ 0, by squaring and multiplying from the highest bit of n down.

    >>> whole_power(0.5, 10) == 0.5**10
    True
    """
    value = 1.0
    for bit in bin(n)[2:]:
        value = value * value * (x if bit == "1" else 1.0)
    return value


def native_sum_rows(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over the rows of x (m, n), in NumPy's own order."""
    total: NDArray[np.float64] = x.sum(axis=0)
    return total


def tree_sum_rows(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over the rows of x (m, n), along one tree that m alone decides."""
    total: NDArray[np.float64] = functions.tree_sum(x[None])[0, 0]
    return total


NATIVE = Arithmetic(
    "native",
    functions.NATIVE,
    power=operator.pow,
    real_power=math.pow,
    cos=math.cos,
    permutation=randomness.permutation,
    normal=randomness.normal,
    sum_rows=native_sum_rows,
)
PORTABLE = Arithmetic(
    "portable",
    functions.PORTABLE,
    power=whole_power,
    real_power=lambda x, y: float(elementary.exp(y * float(elementary.log(x)))),
    cos=lambda x: float(cosine.cos(x)),
    permutation=randomness.portable_permutation,
    normal=randomness.portable_normal,
    sum_rows=tree_sum_rows,
)


def called(name: str) -> Arithmetic:
    """Return the arithmetic of this name."""
    return {"native": NATIVE, "portable": PORTABLE}[name]
