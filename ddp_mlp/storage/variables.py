"""The arrays of a file that lie side by side as the features of a row, and how packed ones are unpacked.

    unpacked = stored · scale_factor + add_offset, missing where stored is _FillValue       (netCDF's conventions, §8.1)

Invariants:
- a variable's rows are flattened in C order, and variables follow one another in the order they were named in;
- unpacking is in float64, and rounded once to the type of `scale_factor` and `add_offset`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError


@dataclass(frozen=True)
class Variable:
    """One array of a split in one file."""

    name: str
    """Where it is: inside the split's group, or from the root."""
    tail: tuple[int, ...]
    """The shape of a row."""
    stored: str
    """The type in the file, native byte order; bool counts as uint8."""
    dtype: str
    """The type that it is read as."""
    scale: float | None = None
    offset: float = 0.0
    fill: float | None = None
    """The stored value that means that there is none."""

    @property
    def width(self) -> int:
        """How many features it gives."""
        return math.prod(self.tail)

    @property
    def plain(self) -> bool:
        """Whether it is read as it is stored."""
        return self.scale is None and self.fill is None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its features: its own where it is one, else with their place in a row."""
        own = self.name.rpartition("/")[2]
        if not self.tail:
            return (own,)
        places = np.ndindex(*self.tail)
        return tuple(f"{own}[{','.join(map(str, place))}]" for place in places)

    def unpack(self, raw: NDArray[Any], out: NDArray[Any], where: str, lo: int) -> None:
        """Put rows as they are stored (k, width) into `out` (k, width). DataError where a whole number is missing."""
        missing = None if self.fill is None else raw == np.asarray(self.fill, raw.dtype)
        if self.scale is None:
            out[...] = raw
        else:
            out[...] = raw.astype(np.float64) * self.scale + self.offset
        if missing is not None and missing.any():
            if out.dtype.kind != "f":
                row = lo + int(np.argwhere(missing)[0][0])
                raise DataError(f"{where}, row {row} is {self.fill:g}, its _FillValue: a missing value cannot be used")
            out[missing] = np.nan


def describe_variable(name: str, array: h5py.Dataset, where: str) -> Variable:
    """Return what an array (m, …) is as features. Raises DataError for attributes that are no numbers."""
    stored = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    scale, offset = (_number(array, attribute, where) for attribute in ("scale_factor", "add_offset"))
    fill = _number(array, "_FillValue", where)
    if fill is not None and math.isnan(fill):
        fill = None  # it is NaN already
    dtype = stored
    if scale is not None or offset is not None:
        kinds = {np.asarray(array.attrs[name]).dtype for name in ("scale_factor", "add_offset") if name in array.attrs}
        dtype = np.dtype(np.float32) if kinds == {np.dtype(np.float32)} else np.dtype(np.float64)
        scale = 1.0 if scale is None else scale
    return Variable(name, tuple(array.shape[1:]), stored.name, dtype.name, scale, offset or 0.0, fill)


def _number(array: h5py.Dataset, attribute: str, where: str) -> float | None:
    if attribute not in array.attrs:
        return None
    value = np.asarray(array.attrs[attribute])
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise DataError(f"{where}: attribute {attribute} is {value.dtype} {value.shape}: must be one number")
    return float(value.reshape(-1)[0])


def split_names(text: str) -> tuple[str, ...]:
    """Return the names of arrays in a list such as "T,q,ps"; where the first is from the root, all are."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if names and names[0].startswith("/"):
        return tuple(name if name.startswith("/") else f"/{name}" for name in names)
    return names


def feature_names(variables: Sequence[Variable]) -> tuple[str, ...]:
    """Return the names of the features that variables give side by side."""
    return tuple(name for variable in variables for name in variable.names)


def joined_dtype(variables: Sequence[Variable]) -> str:
    """Return the type of the features of variables side by side."""
    return np.result_type(*{np.dtype(variable.dtype) for variable in variables}).name
