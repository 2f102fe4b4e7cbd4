"""All W[l] and b[l] of a network in one flat vector, of which they are views.

The vector holds W[1], b[1], W[2], b[2], …, each starting on a multiple of 16 elements (64 bytes in float32). In memory
W[l] is Fortran-ordered, that is (n_{l-1}, n_l) row by row, since BLAS multiplies few examples by it faster that way.
The few elements between two parts are zero and stay zero: their gradient is.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.randomness import Purpose

ALIGNMENT = 16

Start: TypeAlias = Literal["He", "Glorot", "Yang"]
"""How a layer's weights begin, by who has it so."""
VARIANCES: dict[Start, Callable[[int, int], float]] = {
    "He": lambda n_prev, n: 2 / n_prev,
    "Glorot": lambda n_prev, n: 2 / (n_prev + n),
    "Yang": lambda n_prev, n: 1 / n_prev**2,
}
"""Of W[l] (n, n_prev), drawn from N(0, variance). He et al., "Delving deep into rectifiers", ICCV 2015, eq. 10; Glorot
and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010, eq. 12; Yang and
Hu, "Feature learning in infinite-width neural networks", ICML 2021, table 1 (of the output layer: outputs begin near 0,
however wide the layer before).
"""


@dataclass(frozen=True)
class Layout:
    """Where the parameters of a network of the given widths lie in the flat vector."""

    widths: tuple[int, ...]
    """(n_0, …, n_L): features, hidden widths, classes."""

    @property
    def L(self) -> int:
        """The number of layers that have parameters."""
        return len(self.widths) - 1

    @property
    def count(self) -> int:
        """The number of parameters, without the alignment gaps."""
        return sum(n * (n_prev + 1) for n_prev, n in pairwise(self.widths))

    @property
    def length(self) -> int:
        """The length of the flat vector, in elements."""
        return sum(_aligned(n * n_prev) + _aligned(n) for n_prev, n in pairwise(self.widths))

    def views(self, flat: NDArray[Any]) -> tuple[dict[int, NDArray[Any]], dict[int, NDArray[Any]]]:
        """Return ({l: W[l] (n_l, n_{l-1})}, {l: b[l] (n_l, 1)}), l = 1 … L, as views of the flat vector (length,)."""
        W, b = {}, {}
        start = 0
        for l, (n_prev, n) in enumerate(pairwise(self.widths), start=1):
            W[l] = flat[start : start + n * n_prev].reshape(n_prev, n).T
            start += _aligned(n * n_prev)
            b[l] = flat[start : start + n].reshape(n, 1)
            start += _aligned(n)
        return W, b

    def arrays(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return {"W1": (n_1, n_0), "b1": (n_1,), …} as views of the flat vector (length,): the order of the hash."""
        W, b = self.views(flat)
        return {name: array for l in W for name, array in ((f"W{l}", W[l]), (f"b{l}", b[l][:, 0]))}

    def fill(self, flat: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy {"W1": …, "b1": …, …} into the flat vector (length,)."""
        for name, view in self.arrays(flat).items():
            view[...] = arrays[name]

    def initialize(
        self,
        flat: NDArray[Any],
        seed: int,
        starts: Mapping[int, Start] | None = None,
        arithmetic: Arithmetic = NATIVE,
    ) -> None:
        """Fill the flat vector (length,): b[l] = 0, W[l] ~ N(0, variance), as `starts` says of l and else as He has it.

        Drawn from (seed, layer) in float64 and rounded to the vector's dtype.
        """
        flat[...] = 0
        W, _ = self.views(flat)
        for l, W_l in W.items():
            draw = arithmetic.normal(W_l.shape, seed, Purpose.WEIGHTS, l)
            n, n_prev = W_l.shape
            W_l[...] = draw * np.sqrt(VARIANCES[(starts or {}).get(l, "He")](n_prev, n))

    def weights_mask(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a flat vector (length,) of the dtype that is 1 where a W lies and 0 elsewhere."""
        mask = np.zeros(self.length, dtype)
        for W_l in self.views(mask)[0].values():
            W_l[...] = 1
        return mask


def parameters_sha256(arrays: Iterable[NDArray[Any]]) -> str:
    """Return the SHA-256 (hex) of the little-endian bytes of W1, b1, W2, b2, …, each in C order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
