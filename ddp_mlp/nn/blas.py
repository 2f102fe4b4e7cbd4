"""The BLAS that computes products: NumPy's own, unless another is asked for; what it is, and the products themselves.

A product that is added where it belongs saves two passes over memory: the one in which BLAS clears C first, and the
sum afterwards. Where NumPy's BLAS has no C interface under a name known here, `can_add_products` says so.

Invariant: while a block of `used` runs, all products of this process are computed by the library that it asked for;
after the last one, by NumPy's. A block that asks for another library waits.
"""

import ctypes
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import cblas
from ddp_mlp.nn.buffers import aligned_empty
from ddp_mlp.nn.cblas import Arguments, CBlas, Gemm
from ddp_mlp.nn.threads import controller

NUMPYS = "numpy"
"""What `blas` calls NumPy's own library."""
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
    Another library multiplies by gemm, whatever the shape.
    """
    if _other is not None:
        _other.multiply(A, B, out)
        return
    if out.shape[-2:] == (1, 1):
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
    return (_other or cblas.numpys()).has(dtype)


def add_product(dz: NDArray[Any], A: NDArray[Any], out: NDArray[Any]) -> None:
    """Set out += dz Aᵀ, a sum over the columns: (n, m) times (p, m) transposed. All of one dtype, Fortran-ordered.

    Rows and columns may be slices of larger arrays, as long as a column's elements lie side by side. A sum of products
    and `out` is formed in BLAS's own order, which need not be that of a product and one addition.
    """
    (_other or cblas.numpys()).add(dz, A.T, out)


def prepared_product(dz: NDArray[Any], A: NDArray[Any], out: NDArray[Any], added: bool) -> tuple[Gemm, Arguments]:
    """Return a function and its arguments that set out = dz Aᵀ, or out += dz Aᵀ, operands as in `add_product`.

    To be called as often as one likes, while the arrays live and the library is in use.
    """
    return (_other or cblas.numpys()).prepared(dz, A.T, 1.0 if added else 0.0, out)


# ---- another library than NumPy's ------------------------------------------------------------------------------------

_other: CBlas | None = None
_using = threading.Condition()
_users: list[str] = []


@contextmanager
def used(name: str) -> Iterator[None]:
    """Let the library that `blas` names compute all products of this process in this block: numpy, mkl, or a path.

    Raises EnvironmentMismatch.
    """
    library = None if name == NUMPYS else cblas.load(name)
    with _using:
        while _users and _users[0] != name:
            _using.wait()
        if not _users:
            _choose(library)
        _users.append(name)
    try:
        yield
    finally:
        with _using:
            _users.pop()
            if not _users:
                _choose(None)
                _using.notify_all()


def _choose(library: CBlas | None) -> None:
    global _other
    if library is not None and _other is None:
        controller.cache_clear()  # that looks at what is loaded once
    _other = library


def in_use() -> Library:
    """Return the library that computes products now."""
    return libraries()[0] if _other is None else _described(_other.path)


@cache
def _described(path: Path) -> Library:
    """Return what a library is, as far as threadpoolctl knows it and it tells."""
    for entry in controller().info():
        if entry["user_api"] == "blas" and Path(entry["filepath"]).resolve() == path.resolve():
            kernel = entry.get("architecture") or _mkl_branch(path)
            return Library(f"{entry['internal_api']} {entry['version']}", kernel)
    return Library(path.name, UNKNOWN)


def _mkl_branch(path: Path) -> str:
    """Return which of MKL's branches of code this processor takes, as MKL numbers them."""
    branch = getattr(ctypes.CDLL(str(path)), "MKL_CBWR_Get_Auto_Branch", None)
    return UNKNOWN if branch is None else f"branch {branch()}"
