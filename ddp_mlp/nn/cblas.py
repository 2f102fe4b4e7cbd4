"""Products of matrices by the C interface of a BLAS library (Netlib's cblas.h): NumPy's own, or another one.

A product is always one call of gemm, whatever its shape: not gemv for a vector, nor dot for two.
"""

import ctypes
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import EnvironmentMismatch

NAMES = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_", "cblas_{}gemm")
"""In NumPy's own wheels, in builds with 64-bit integers, and in others; those read the lower half of what they get."""
ROW_MAJOR, COLUMN_MAJOR, PLAIN, TRANSPOSED = 101, 102, 111, 112
"""The values of CBLAS_LAYOUT and CBLAS_TRANSPOSE in cblas.h."""
SEQUENTIAL = 1
"""The value of MKL_THREADING_SEQUENTIAL in mkl_service.h."""
MKL = "mkl"
INSTALL_MKL = 'pip install "ddp_mlp[mkl]", or choose blas = numpy'


Gemm = Callable[..., None]
Arguments = tuple[Any, ...]


class CBlas:
    """The gemm of one library, for float32 and float64."""

    def __init__(self, path: str | Path, names: tuple[str, ...] = NAMES) -> None:
        """Load a library, which may be loaded already. Raises OSError."""
        self.path = Path(path)
        self._library = ctypes.CDLL(str(path))
        self._gemm = {np.dtype(kind): self._found(names, letter, real) for kind, letter, real in _KINDS}

    def has(self, dtype: np.dtype[Any]) -> bool:
        """Return whether there is a gemm for float32 or float64 under a name known here."""
        return self._gemm[dtype] is not None

    def multiply(self, A: NDArray[Any], B: NDArray[Any], out: NDArray[Any]) -> None:
        """Set out = A B, (…, n, k) times (…, k, m), in whatever memory order each of them is."""
        if out.ndim > 2:
            A = np.broadcast_to(A, (*out.shape[:-2], *A.shape[-2:]))
            B = np.broadcast_to(B, (*out.shape[:-2], *B.shape[-2:]))
            for A_i, B_i, out_i in zip(A, B, out, strict=True):
                self.multiply(A_i, B_i, out_i)
        elif not A.shape[1]:
            out[...] = 0
        else:
            self._call(A, B, 0.0, out)

    def add(self, A: NDArray[Any], B: NDArray[Any], out: NDArray[Any]) -> None:
        """Set out += A B, (n, k) times (k, m). The sum is formed in the library's own order."""
        if A.shape[1]:
            self._call(A, B, 1.0, out)

    def prepared(self, A: NDArray[Any], B: NDArray[Any], beta: float, out: NDArray[Any]) -> tuple[Gemm, Arguments]:
        """Return gemm, and with what it is called to set out = A B + beta out; the arrays must live as long as that.

        None of them may be empty, or lie neither by rows nor by columns.
        """
        assert min(*A.shape, *B.shape) > 0
        assert _order(A) is not None
        assert _order(B) is not None
        return self._arguments(A, B, beta, out)

    def _call(self, A: NDArray[Any], B: NDArray[Any], beta: float, out: NDArray[Any]) -> None:
        if not out.size:
            return
        (A, _, _), (B, _, _) = _operand(A), _operand(B)  # which live until it is done
        gemm, arguments = self._arguments(A, B, beta, out)
        gemm(*arguments)

    def _arguments(self, A: NDArray[Any], B: NDArray[Any], beta: float, out: NDArray[Any]) -> tuple[Gemm, Arguments]:
        gemm, order = self._gemm[out.dtype], _order(out)
        assert gemm is not None, "as `has` says"
        assert A.dtype == B.dtype == out.dtype
        assert order is not None, "a result lies by rows or by columns"
        by_columns, ld_out = order
        (A, A_by_columns, ld_A), (B, B_by_columns, ld_B) = _operand(A), _operand(B)
        A_how, B_how = (PLAIN if own == by_columns else TRANSPOSED for own in (A_by_columns, B_by_columns))
        (n, k), m = A.shape, B.shape[1]
        A_at, B_at, out_at = (a.ctypes.data for a in (A, B, out))
        layout = COLUMN_MAJOR if by_columns else ROW_MAJOR
        return gemm, (layout, A_how, B_how, n, m, k, 1.0, A_at, ld_A, B_at, ld_B, beta, out_at, ld_out)

    def _found(self, names: tuple[str, ...], letter: str, real: Any) -> Gemm | None:
        size, array = ctypes.c_int64, ctypes.c_void_p
        kinds = (*3 * [ctypes.c_int], *3 * [size], real, *2 * [array, size], real, array, size)
        for name in (name.format(letter) for name in names):
            if hasattr(self._library, name):
                return ctypes.CFUNCTYPE(None, *kinds)((name, self._library))
        return None


_KINDS: tuple[tuple[Any, str, Any], ...] = ((np.float32, "s", ctypes.c_float), (np.float64, "d", ctypes.c_double))


def _order(a: NDArray[Any]) -> tuple[bool, int] | None:
    """Return whether a matrix lies by columns rather than by rows, and its leading dimension; None for neither."""
    (rows, columns), (down, across) = a.shape, (stride // a.itemsize for stride in a.strides)
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):
        return True, rows if columns == 1 else across
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return False, columns if rows == 1 else down
    return None


def _operand(a: NDArray[Any]) -> tuple[NDArray[Any], bool, int]:
    """Return a matrix, or a copy of it, whether it lies by columns, and its leading dimension."""
    order = _order(a)
    return (np.asfortranarray(a), True, len(a)) if order is None else (a, *order)


@cache
def numpys() -> CBlas:
    """Return the library that NumPy's matmul is linked with."""
    path: Any = importlib.import_module("numpy._core._multiarray_umath").__file__
    return CBlas(path)


@cache
def load(name: str) -> CBlas:
    """Return the library that `blas` names: mkl, or the path of one. Raises EnvironmentMismatch."""
    path = find_mkl() if name == MKL else Path(name)
    if path is None:
        raise EnvironmentMismatch(f"blas = {name}: is not installed; {INSTALL_MKL}")
    try:
        found = CBlas(path)
    except OSError as error:
        raise EnvironmentMismatch(f"blas = {name}: cannot be loaded ({error}); choose blas = numpy") from error
    if not all(found.has(np.dtype(kind)) for kind, _, _ in _KINDS):
        raise EnvironmentMismatch(f"blas = {name}: is no library with the C interface of BLAS, such as cblas_sgemm")
    return found


def find_mkl() -> Path | None:
    """Return MKL's library that is installed beside this Python, by pip or conda; None where there is none."""
    places = [Path(sys.prefix) / "lib"]
    try:
        files = importlib.metadata.files("mkl") or ()
        places = [Path(str(file.locate())).parent for file in files if file.name.startswith("libmkl_rt.so")] + places
    except importlib.metadata.PackageNotFoundError:
        pass
    found = (path.resolve() for place in places for path in sorted(place.glob("libmkl_rt.so*")))
    return next(found, None)
