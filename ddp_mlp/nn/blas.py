"""The BLAS that NumPy calls: what it is, and products of matrices that NumPy does not offer as they are needed here.

A product that is added where it belongs saves two passes over memory: the one in which BLAS clears C first, and the
sum afterwards. Where NumPy's BLAS has no C interface under a name known here, `can_add_products` says so.
"""

import ctypes
import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.buffers import aligned_empty
from ddp_mlp.nn.threads import controller

NAMES = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_", "cblas_{}gemm")
"""In NumPy's own wheels, in builds with 64-bit integers, and in others; those read the lower half of what they get."""
COLUMN_MAJOR, PLAIN, TRANSPOSED = 102, 111, 112
"""The values of CBLAS_LAYOUT and CBLAS_TRANSPOSE in cblas.h, Netlib."""
UNKNOWN = "unknown"
CACHE_LINE = 64
"""Bytes."""


class Library(NamedTuple):
    """A BLAS library, and the processor for which it has chosen its kernels, such as SkylakeX."""

    name: str
    architecture: str


def libraries() -> list[Library]:
    """Return the BLAS libraries that this process has loaded, NumPy's first, or the one NumPy was built with.

    The latter where threadpoolctl knows none of them: Accelerate, Netlib's own, MKL without its libmkl_rt. SciPy, for
    one, may bring another.
    """
    config: Any = np.show_config(mode="dicts")
    built = config["Build Dependencies"]["blas"]
    loaded = {
        Library(f"{entry['internal_api']} {entry['version']}", entry.get("architecture", UNKNOWN))
        for entry in controller().info()
        if entry["user_api"] == "blas"
    }
    if not loaded:
        return [Library(f"{built['name']} {built['version']}", UNKNOWN)]
    return sorted(loaded, key=lambda library: (str(built["version"]) not in library.name, library))


def multiply(A: NDArray[Any], B: NDArray[Any], out: NDArray[Any]) -> None:
    """Set out = A B, (…, n, k) times (…, k, m): NumPy's product, with bits that do not depend on where operands lie.

    Of a row and a column NumPy has BLAS form the inner product, which some kernels add up in an order that depends on
    addresses (OpenBLAS's Katmai in float64, MKL): those are copied to where a cache line begins.
    """
    if A.shape[-2] == B.shape[-1] == 1:
        A, B = on_a_cache_line(A), on_a_cache_line(B)
    np.matmul(A, B, out=out)


def on_a_cache_line(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of (…, k, 1) or (…, 1, k) in which every vector begins on a 64-byte boundary."""
    *others, rows, columns = vectors.shape
    length, line = rows * columns, CACHE_LINE // vectors.itemsize
    count, width = math.prod(others), -(-length // line) * line
    copy = aligned_empty(count * width, vectors.dtype).reshape(*others, width)[..., :length]
    copy[...] = vectors.reshape(*others, length)
    return copy[..., :, None] if columns == 1 else copy[..., None, :]


def can_add_products(dtype: np.dtype[Any]) -> bool:
    """Return whether `add_product` works here for float32 or float64."""
    return _gemm(dtype) is not None


def add_product(dz: NDArray[Any], A: NDArray[Any], out: NDArray[Any]) -> None:
    """Set out += dz Aᵀ, a sum over the columns: (n, m) times (p, m) transposed. All of one dtype, Fortran-ordered.

    Rows and columns may be slices of larger arrays, as long as a column's elements lie side by side. A sum of products
    and `out` is formed in BLAS's own order, which need not be that of a product and one addition.
    """
    (n, m), p, size = dz.shape, len(A), out.itemsize
    gemm = _gemm(out.dtype)
    assert gemm is not None, "as can_add_products says"
    assert all(a.strides[0] == size and a.dtype == out.dtype for a in (dz, A, out))
    ld_dz, ld_A, ld_out = (a.strides[1] // size for a in (dz, A, out))
    dz_at, A_at, out_at = (a.ctypes.data for a in (dz, A, out))
    gemm(COLUMN_MAJOR, PLAIN, TRANSPOSED, n, p, m, 1.0, dz_at, ld_dz, A_at, ld_A, 1.0, out_at, ld_out)


@cache
def _gemm(dtype: np.dtype[Any]) -> Callable[..., None] | None:
    """Return cblas_?gemm of the dtype from the library that NumPy's matmul is linked with; None where it has none."""
    library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    letter, real = ("s", ctypes.c_float) if dtype == np.float32 else ("d", ctypes.c_double)
    size, array = ctypes.c_int64, ctypes.c_void_p
    prototype = ctypes.CFUNCTYPE(None, *3 * [ctypes.c_int], *3 * [size], real, *2 * [array, size], real, array, size)
    for name in NAMES:
        if hasattr(library, name.format(letter)):
            return prototype((name.format(letter), library))
    return None
