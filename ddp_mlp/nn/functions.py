"""The functions that losses and activations are made of, in two arithmetics with one interface.

NATIVE are NumPy's: as fast as they are, with bits that depend on the processor. PORTABLE are made of what IEEE 754
fixes alone, with the same bits everywhere. What takes `Functions` must itself use nothing else than these and
+ − × ÷ √, comparisons, maxima and selections, one NumPy call each: then it is as portable as they are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import elementary
from ddp_mlp.nn.blocks import BlockFunction

Elementwise = Callable[..., NDArray[Any]]
"""(x, out=…) → the function of every element."""


class Functions(NamedTuple):
    """Functions of arrays, each with NumPy's call: f(x, out=…)."""

    exp: Elementwise
    expm1: Elementwise
    log: Elementwise
    log1p: Elementwise
    tanh: Elementwise
    erf: Elementwise
    sum: Callable[..., NDArray[Any]]
    """(x, out=…) → the sum over the second axis, which is kept: (k, n, m) → (k, 1, m)."""


def native_sum(x: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return the sum over the second axis, kept, in NumPy's own order."""
    total: NDArray[Any] = np.add.reduce(x, axis=1, keepdims=True, out=out)
    return total


def tree_sum(x: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return the sum over the second axis, kept, by elementwise additions along one tree that n alone decides.

    Of n terms, the last ⌊n/2⌋ are added to the first, until one is left: (k, n, m) → (k, 1, m).
    """
    n = x.shape[1]
    if n == 0:
        return native_sum(x, out)
    half = n // 2
    terms = x[:, : n - half] + 0.0  # no zero is negative
    first = terms[:, :half]
    first += x[:, n - half :]
    n -= half
    while n > 1:
        half = n // 2
        first = terms[:, :half]
        first += terms[:, n - half : n]
        n -= half
    total: NDArray[Any] = np.add(terms[:, :1], 0.0, out=out)
    return total


def prepared(function: Elementwise, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], object]:
    """Return function(x, out=out) as a call to be made often, of arrays that stay where they are."""
    return function.on(x, out) if isinstance(function, BlockFunction) else partial(function, x, out=out)


NATIVE = Functions(np.exp, np.expm1, np.log, np.log1p, np.tanh, elementary.erf, native_sum)
PORTABLE = Functions(
    elementary.exp, elementary.expm1, elementary.log, elementary.log1p, elementary.tanh, elementary.erf, tree_sum
)
