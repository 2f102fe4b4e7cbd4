"""Arrays in files: NPY and NPZ, numbers and labels in NumPy's format; what IDX has in common with them."""

import gzip
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion.array_targets import ArrayTargets, targets_in
from ddp_mlp.conversion.dialect import is_index
from ddp_mlp.conversion.source import (
    ForeignRows,
    Piece,
    Stream,
    distinct,
    open_stream,
    reading,
    rows_at_once,
    unpacked_size,
)
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.storage.hdf5 import DEFLATE_RATIO


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: `open` gives a stream of at most `size` bytes, the values from `start` on.

    They are in C order, or `by_column`: then its rows are scattered over the whole stream.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    open: Callable[[], Stream]
    size: int
    by_column: bool = False

    def __post_init__(self) -> None:
        declared = self.start + math.prod(self.shape) * self.dtype.itemsize
        if declared > self.size:
            raise DataError(f"{self.name}: is cut short: it declares {declared} bytes and has at most {self.size}")

    def rows(self, size: int, flat: bool = False) -> Iterator[NDArray[Any]]:
        """Read `size` rows at a time, each flattened: (k, values per row), native byte order; `flat`: single values."""
        total, width = (math.prod(self.shape), 1) if flat else (self.shape[0], math.prod(self.shape[1:]))
        with reading(self.path), self.open() as stream:
            stream.seek(self.start)
            scattered = self._scattered(stream) if self.by_column else None
            for lo in range(0, total, size):
                count = min(size, total - lo)
                if scattered is None:
                    rows = np.empty((count, width), self.dtype)
                    _read_into(stream, rows.reshape(-1))
                else:
                    rows = np.ascontiguousarray(scattered[lo : lo + count]).reshape(count, width)
                if lo + count == total and scattered is None and stream.read(1):
                    raise ValueError(f"it goes on behind its {math.prod(self.shape)} values")
                native = rows.astype(self.dtype.newbyteorder("="), copy=False)
                yield native.view(np.uint8) if native.dtype == np.bool_ else native

    def _scattered(self, stream: Stream) -> NDArray[Any]:
        """Map a column-ordered array where it is a plain file; a packed one can only be read whole."""
        if not isinstance(stream, gzip.GzipFile | zipfile.ZipExtFile):
            if self.path.stat().st_size != self.start + math.prod(self.shape) * self.dtype.itemsize:
                raise ValueError(f"it goes on behind its {math.prod(self.shape)} values")
            return np.memmap(self.path, self.dtype, "r", self.start, self.shape, "F")
        values = np.empty(self.shape, self.dtype, "F")
        _read_into(stream, values.reshape(-1, order="F"))
        if stream.read(1):
            raise ValueError(f"it goes on behind its {math.prod(self.shape)} values")
        return values


def _read_into(stream: Stream, values: NDArray[Any]) -> None:
    """Fill `values`, one-dimensional and contiguous, from the stream."""
    buffer = values.view(np.uint8).data
    filled = 0
    while filled < len(buffer):
        piece = stream.read(min(len(buffer) - filled, 1 << 20))
        if not piece:
            raise EOFError("it is cut short")
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)


def npy(path: Path) -> StoredArray:
    """Describe an array in a file of NumPy's format."""
    return _npy_array(path, str(path), lambda: open_stream(path), unpacked_size(path))


def _npy_array(path: Path, name: str, opener: Callable[[], Stream], size: int) -> StoredArray:
    """Describe an array in NumPy's format (numpy.lib.format), in a file of its own or inside an NPZ."""
    with reading(path), opener() as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"NPY version {version} is not one for plain numbers")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read_header(stream)
        start = stream.tell()
    if dtype.kind not in "biufUS" or dtype.names:
        raise DataError(f"{name}: is {dtype}: must be integers, floats or, for labels, text")
    return StoredArray(path, name, shape, dtype, start, opener, size, by_column and len(shape) > 1)


def npz_splits(path: Path, x_name: str, y_name: str, targets: tuple[str, ...] = ()) -> dict[str, ForeignRows]:
    """Find examples and labels in an NPZ: by the names given, or by split as Keras's and MedMNIST's files have them."""
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def array(member: str) -> StoredArray:
        info = members[member]
        size = info.file_size
        if info.compress_type == zipfile.ZIP_DEFLATED:
            size = min(size, info.compress_size * DEFLATE_RATIO)
        return _npy_array(path, f"{path}: {member!r}", lambda: zipfile.ZipFile(path).open(info), size)

    splits: dict[str, ArrayRows] = {}
    used: set[str] = set()
    for split, alias in (("train", "train"), ("valid", "valid"), ("valid", "val"), ("test", "test")):
        for x, y in (
            (f"x_{alias}", f"y_{alias}"),
            (f"X_{alias}", f"y_{alias}"),
            (f"{alias}_images", f"{alias}_labels"),
        ):
            if x in members and y in members:
                splits[split] = ArrayRows(array(x), array(y), targets=targets)
                used |= {x, y}
    if x_name in members and y_name in members:
        used = {x_name, y_name}
        splits = {"train": ArrayRows(array(x_name), array(y_name), targets=targets)}
    if "train" not in splits:
        found = ", ".join(repr(name) for name in list(members)[:10]) or "no arrays"
        raise DataError(f"{path}: has no {x_name!r} and {y_name!r}; found {found}; --x_name and --y_name choose others")
    if others := [repr(name) for name in members if name not in used]:
        splits["train"].said += (f"{path}: takes no part: {', '.join(others[:10])}{', …' if len(others) > 10 else ''}",)
    return dict(splits)


class ArrayRows(ForeignRows):
    """X and y in arrays; or one 2-D array with the label as one of its columns, or with none.

    `targets` are the names of y's columns, where they are numbers.
    """

    def __init__(
        self, X: StoredArray, y: StoredArray | None, label: str | None = None, targets: tuple[str, ...] = ()
    ) -> None:
        self.name = str(X.path)
        self._X, self._y = X, y
        if len(X.shape) < 2 or X.dtype.kind not in "biuf" or not math.prod(X.shape):
            raise DataError(f"{X.name}: is {X.dtype} {X.shape}: X must be numbers, (examples, features)")
        self._width = math.prod(X.shape[1:])
        self._label = -1
        self._how = ArrayTargets("labels")
        if label is not None:
            if y is not None:
                raise ConfigError(f"--label {label}: {X.name} has its labels in an array of their own")
            self._label = _label_column(label, self._width, X.path)
            if self._width < 2:
                raise DataError(f"{X.name}: has one column; expected features and a label")
        elif y is not None:
            self._check_shape(y)
            called = y.name.rpartition(": ")[2].strip("'") if y.path == X.path else "y"
            self._how = targets_in(self.name, called, self._y_pieces(y), targets)
        self.targets = self._how.names
        self.labelled = (y is not None and self._how.kind != "numbers") or label is not None
        self.features = self._width - (label is not None)
        if len(X.shape) > 2 and label is None:
            self.feature_shape = X.shape[1:]
            self.said = (f"{X.name}: {X.shape[0]:,} rows of {' x '.join(map(str, X.shape[1:]))}",)
        self.said += self._how.said
        self.float_dtype = X.dtype.newbyteorder("=") if X.dtype.kind == "f" else np.dtype(np.float32)
        if self.float_dtype.itemsize > 8:
            raise DataError(f"{X.name}: is {X.dtype}: must be at most 64 bits wide")

    @property
    def title(self) -> str:
        return self._X.name

    def _check_shape(self, y: StoredArray) -> None:
        X, rows = self._X, self._X.shape[0]
        if math.prod(y.shape) == rows or (len(y.shape) == 2 and y.shape[0] == rows and y.shape[1]):
            return
        if len(X.shape) == 2 and math.prod(y.shape) == X.shape[1]:
            raise DataError(f"{X.name}: has shape {X.shape} and {y.name} {y.shape}: is X transposed? save X.T")
        raise DataError(f"{y.name}: has shape {y.shape}: labels must be ({rows},), one per row of {X.name}")

    def _y_pieces(self, y: StoredArray) -> Iterator[NDArray[Any]]:
        """Yield y as (k,) or (k, columns), for as many rows as X is read at a time."""
        single = math.prod(y.shape) == self._X.shape[0]
        for piece in y.rows(rows_at_once(self._width * self._X.dtype.itemsize), flat=single):
            yield piece[:, 0] if single else piece

    def pieces(self) -> Iterator[Piece]:
        size = rows_at_once(self._width * self._X.dtype.itemsize)
        lo = 0
        targets = None if self._y is None else self._y_pieces(self._y)
        for X in self._X.rows(size):
            if targets is not None:
                yield self._how.piece(X, next(targets), None, self.name, lo)
            elif self.labelled:
                found = distinct(X[:, self._label], self.name, lo)
                yield Piece(np.delete(X, self._label, axis=1), *found)
            else:
                yield Piece(X)
            lo += len(X)


def _label_column(label: str, columns: int, path: Path) -> int:
    """Return the column that `label` means, from the end when it is negative."""
    if not is_index(label):
        raise ConfigError(f"--label {label!r}: an array's columns have no names; give an index")
    index = int(label)
    if not -columns <= index < columns:
        raise ConfigError(f"--label {label}: {path} has the columns 0 to {columns - 1}")
    return index % columns
