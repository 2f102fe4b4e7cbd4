"""The arrays of a file that lie side by side as the features of a row, and how packed ones are unpacked.

    unpacked = stored · scale_factor + add_offset, missing where stored is _FillValue       (netCDF's conventions, §8.1)

Missing is also what `missing_value` names, and netCDF's own fill values in what was never written, where the file has
no other. `_Unsigned` says that whole numbers with a sign are meant without.

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

_NEVER_WRITTEN = {
    **{"int16": -(2**15) + 1, "int32": -(2**31) + 1, "int64": -(2**63) + 2},
    **{"uint16": 2**16 - 1, "uint32": 2**32 - 1, "uint64": 2**64 - 2},
    **{"float32": 9.969209968386869e36, "float64": 9.969209968386869e36},
}
"""netCDF's fill values (netcdf.h, NC_FILL_…), which it writes where nothing is; single bytes have none."""
_FILLS_AT_MOST = 64


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
    fills: tuple[float, ...] = ()
    """The stored values that mean that there is none; whole numbers are int, of any size."""
    meant: str = ""
    """The type of whole numbers whose sign is none (_Unsigned); else empty."""

    @property
    def width(self) -> int:
        """How many features it gives."""
        return math.prod(self.tail)

    @property
    def plain(self) -> bool:
        """Whether it is read as it is stored."""
        return self.scale is None and not self.fills and not self.meant

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
        missing = np.isin(raw, np.array(self.fills, raw.dtype)) if self.fills else None
        values = raw.view(self.meant) if self.meant else raw
        if self.scale is None:
            out[...] = values
        else:
            out[...] = values.astype(np.float64) * self.scale + self.offset
        if missing is not None and missing.any():
            if out.dtype.kind != "f":
                row, column = np.argwhere(missing)[0]
                found = f"row {lo + row} is {raw[row, column]}"
                raise DataError(f"{where}, {found}, its _FillValue: a missing value cannot be used")
            out[missing] = np.nan


def describe_variable(name: str, array: h5py.Dataset, where: str) -> Variable:
    """Return what an array (m, …) is as features. Raises DataError for attributes that are no numbers."""
    stored = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    scale, offset = (_number(array, attribute, where) for attribute in ("scale_factor", "add_offset"))
    meant = _meant(array, stored, where)
    dtype = np.dtype(meant or stored)
    if scale is not None or offset is not None:
        kinds = {np.asarray(array.attrs[name]).dtype for name in ("scale_factor", "add_offset") if name in array.attrs}
        dtype = np.dtype(np.float32) if kinds == {np.dtype(np.float32)} else np.dtype(np.float64)
        scale = 1.0 if scale is None else scale
    fills = _fills(array, stored, where)
    return Variable(name, tuple(array.shape[1:]), stored.name, dtype.name, scale, offset or 0.0, fills, meant)


def _number(array: h5py.Dataset, attribute: str, where: str) -> float | None:
    found = _numbers(array, attribute, where)
    if len(found) > 1:
        raise DataError(f"{where}: attribute {attribute} is {len(found)} numbers: must be one")
    return float(found[0]) if found else None


def _numbers(array: h5py.Dataset, attribute: str, where: str) -> list[float]:
    """Return the numbers in an attribute, whole ones as int; none where there is no such attribute."""
    if attribute not in array.attrs:
        return []
    declared = array.attrs.get_id(attribute)  # what it is, before any of it is read
    if declared.dtype.kind not in "iuf" or not 0 < math.prod(declared.shape) <= _FILLS_AT_MOST:
        raise DataError(f"{where}: attribute {attribute} is {declared.dtype} {declared.shape}: must be one number")
    found: list[float] = np.asarray(array.attrs[attribute]).reshape(-1).tolist()
    return found


def _fills(array: h5py.Dataset, stored: np.dtype[Any], where: str) -> tuple[float, ...]:
    """Return the stored values that mean that there is none, NaN apart: it says so itself."""
    found: dict[float, str] = {}
    for attribute in ("_FillValue", "missing_value"):
        found |= {value: attribute for value in _numbers(array, attribute, where) if not math.isnan(value)}
    if "_FillValue" not in array.attrs and (default := _NEVER_WRITTEN.get(stored.name)) is not None:
        own = np.zeros((), stored)
        properties = array.id.get_create_plist()
        if properties.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED and array.dtype.kind != "b":
            properties.get_fill_value(own)
            if own == np.asarray(default, stored):
                found[default] = "_FillValue"
    for value, attribute in found.items():
        limits = None if stored.kind == "f" else np.iinfo(stored)
        if limits is not None and not (limits.min <= value <= limits.max and value == int(value)):
            raise DataError(f"{where} is {stored.name}, and its attribute {attribute} {value:g}: must be of that type")
    return tuple(int(value) if stored.kind != "f" else value for value in found)


def _meant(array: h5py.Dataset, stored: np.dtype[Any], where: str) -> str:
    """Return the unsigned type that whole numbers with a sign stand for, as netCDF-3 had none; "" where they do not."""
    if "_Unsigned" not in array.attrs or stored.kind != "i":
        return ""
    declared = array.attrs.get_id("_Unsigned")
    if declared.dtype.kind != "S" or declared.shape not in ((), (1,)):
        raise DataError(f"{where}: attribute _Unsigned must be true or false, text of a fixed length")
    text = np.asarray(array.attrs["_Unsigned"]).astype("S5").reshape(-1)[0].lower()
    if text not in (b"true", b"false"):
        raise DataError(f"{where}: attribute _Unsigned is {text!r}: must be true or false")
    return f"u{stored.name}" if text == b"true" else ""


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
    """Return the type that holds what all variables give."""
    return np.result_type(*{np.dtype(variable.dtype) for variable in variables}).name
