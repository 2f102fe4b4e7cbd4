"""The range of a source's values, and the smallest type that holds them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ddp_mlp.conversion.source import ForeignRows, Piece
from ddp_mlp.errors import DataError

_INTEGERS = [np.dtype(name) for name in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")]


@dataclass
class Scan:
    """What a reading of one source found."""

    rows: int = 0
    floats: bool = False
    minimum: int = 0
    maximum: int = 0


def scan(source: ForeignRows, largest: float) -> Scan:
    """Read `source` once; DataError for a value of X that is not finite or beyond `largest` in size."""
    found = Scan()
    for piece in with_progress(source, "reading", None):
        if piece.X.dtype.kind == "f":
            found.floats = True
            _check_floats(source, piece.X, found.rows, largest)
        else:
            found.minimum = min(found.minimum, int(piece.X.min()))
            found.maximum = max(found.maximum, int(piece.X.max()))
        found.rows += len(piece.X)
    if found.rows == 0:
        raise DataError(f"{source.name}: has no rows")
    return found


def _check_floats(source: ForeignRows, X: NDArray[Any], lo: int, largest: float) -> None:
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(X) <= min(largest, float(np.finfo(X.dtype).max)))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        name = f" ({source.columns[column]!r})" if source.columns else ""
        value = X[row, column]
        remedy = "too large for float32; give --dtype float64" if np.isfinite(value) else "every feature must be finite"
        raise DataError(f"{source.name}: {source.place(lo + int(row))}, feature {column}{name} is {value}: {remedy}")


def smallest_dtype(scans: Sequence[Scan], sources: Sequence[ForeignRows]) -> np.dtype[Any]:
    """Return the smallest integer type that holds every value, or the sources' float type where some are fractions."""
    if any(found.floats for found in scans):
        # A split of whole numbers beside one of floats: float32 would make equal ones of those beyond 2^24.
        large = any(not found.floats and max(-found.minimum, found.maximum) > 2**24 for found in scans)
        return np.result_type(*{source.float_dtype for source in sources}, *([np.float64] if large else []))
    low, high = min(found.minimum for found in scans), max(found.maximum for found in scans)
    for dtype in _INTEGERS:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    return np.dtype(np.float64)  # from below zero to beyond int64


def with_progress(source: ForeignRows, doing: str, rows: int | None) -> Iterator[Piece]:
    """Yield the source's pieces, with a bar on stderr where that is a terminal."""
    with tqdm(total=rows, desc=doing, unit=" rows", unit_scale=True, leave=False, disable=None) as bar:
        for piece in source.pieces():
            yield piece
            bar.update(len(piece.X))
