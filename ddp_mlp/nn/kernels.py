"""What the bits of native arithmetic depend on besides the program: BLAS, NumPy, its vector instructions, libm.

Two processes with the same names and the same fingerprint compute the same bits; names alone may hide a difference.
"""

import hashlib
import math
import platform
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import blas, functions
from ddp_mlp.nn.randomness import Purpose, words

SAMPLED = 2_003
"""Numbers on which every function is tried: whole vectors, and what is left over."""


def vector_instructions() -> tuple[str, ...]:
    """Return the instruction sets, beyond those it always needs, that NumPy has found here.

    But for AVX512_ICL and the like, which serve sorting and half precision.
    """
    found: Any = np.show_config(mode="dicts")
    return tuple(name for name in found["SIMD Extensions"].get("found", ()) if not name.startswith("AVX512_"))


def names() -> dict[str, str]:
    """Return what this process computes with, by name. Local."""
    return _names(blas.in_use())


@cache
def _names(library: blas.Library) -> dict[str, str]:
    return {
        "BLAS kernel": " ".join(library),
        "numpy": np.__version__,
        "vector instructions": " ".join(vector_instructions()) or "none beyond the least",
        "libm": " ".join(filter(None, platform.libc_ver())) or platform.system(),
    }


def fingerprint(dtype: np.dtype[Any]) -> str:
    """Return a hash of what functions, sums, roots and products of this dtype come to here. Local.

    Values, not their effect on a result: of exp, log and the others, in and outside of vectors; of libm's functions,
    which learning rates are made of; of sums along each axis; of products of several shapes.
    """
    return _fingerprint(dtype, blas.in_use())


@cache
def _fingerprint(dtype: np.dtype[Any], library: blas.Library) -> str:
    digest = hashlib.sha256()
    for values in _values(dtype):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def products_fingerprint(widths: tuple[int, ...], sizes: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Return a hash of one pass's products, in the shapes of shards of these sizes in a network. Local."""
    digest = hashlib.sha256()
    for l, (n_prev, n) in enumerate(pairwise(widths)):
        W = _drawn(l, n_prev * n, dtype).reshape(n_prev, n).T
        for m in sizes:
            A, dz = _drawn(l + 1, m * n_prev, dtype).reshape(m, n_prev).T, _drawn(l + 2, m * n, dtype).reshape(m, n).T
            for left, right in ((W, A), (W.T, dz), (dz, A.T)):
                out = np.empty((right.shape[1], len(left)), dtype).T
                blas.multiply(left, right, out)
                digest.update(out.T.tobytes())
    return digest.hexdigest()[:16]


def _values(dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    x = _drawn(0, SAMPLED, dtype) * dtype.type(20)
    native, above = functions.NATIVE, np.abs(x) + dtype.type(2.0**-20)
    for function in (native.exp, native.expm1, native.tanh, native.erf):
        yield function(x)
        yield function(x[::3])
    for function in (native.log, native.log1p, np.sqrt):
        yield function(above)
        yield function(above[::3])
    matrix = x[:1936].reshape(44, 44)
    for axis in (0, 1):
        yield np.add.reduce(matrix, axis=axis)
        yield np.add.reduce(matrix.T[:33], axis=axis)
        yield np.maximum.reduce(matrix, axis=axis)
    yield np.add.reduce(x.astype(np.float64))
    yield np.divide(x, above)
    learning = _drawn(0, 200, np.dtype(np.float64)).tolist()
    yield np.array([[math.cos(v), math.sqrt(abs(v)), math.pow(abs(v), 0.3), abs(v) ** 17] for v in learning])
    for n, k, m in ((23, 19, 37), (1, 40, 5), (64, 33, 1), (1, 57, 1), (130, 70, 66)):
        A, B = _drawn(1, n * k, dtype).reshape(k, n).T, _drawn(2, k * m, dtype).reshape(m, k).T
        out = np.empty((m, n), dtype).T
        blas.multiply(A, B, out)
        yield out.T


def _drawn(what: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers (count,) in [−1, 1) that are the same everywhere: NumPy's distributions need not be."""
    drawn = words(0, Purpose.CANARY, what, count, count=count) >> np.uint64(11)
    return (drawn * 2.0**-52 - 1).astype(dtype)
