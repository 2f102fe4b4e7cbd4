"""Other people's files as pieces of rows: CSV, Parquet, NPY, NPZ, IDX and HDF5, each read in file order.

Kept here:
- A source is read a few MiB at a time, as often as wanted, and gives the same pieces every time.
- Values are handed on as the file has them; what is no number, or not there, is refused with its row and column.
  Rows and columns are counted from 0, without a header line.
"""

import errno
import gzip
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError, DataError, StorageError
from ddp_mlp.storage import dataset
from ddp_mlp.storage.dataset import DEFLATE_RATIO, one_line, size_and_mtime

_PIECE_BYTES = 8 << 20
_CSV_BLOCK_BYTES = 1 << 20  # Arrow takes some 150 times as much at its peak
_CSV_LINE_BYTES = 64 << 20

Label: TypeAlias = int | str
Header: TypeAlias = Literal["auto", "yes", "no"]
Stream: TypeAlias = IO[bytes] | gzip.GzipFile


@dataclass(frozen=True)
class Piece:
    """Consecutive rows: X (k, features), and labels as `labels[codes]`, codes (k,); w (k,) float64 or None.

    Labels from a text file are text even where they are numbers: what they are is known when all have been seen.
    """

    X: NDArray[Any]
    labels: Sequence[Label]
    codes: NDArray[np.intp]
    w: NDArray[np.float64] | None = None


class Source(Protocol):
    """One split's rows in somebody's format.

    `float_dtype` is what X needs where it is not whole numbers; `columns` are the names of the features and `classes`
    those of the labels 0, 1, …, where the file has them.
    """

    name: str
    features: int
    float_dtype: np.dtype[Any]
    columns: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    weighted: bool

    def pieces(self) -> Iterator[Piece]:
        """Read the rows from the first to the last; DataError where they cannot be used."""
        ...


def open_sources(
    paths: Sequence[Path], label: str | None, header: Header, x_name: str, y_name: str
) -> dict[str, Source]:
    """Return the splits that the files at `paths` hold: `train`, and those that are kept apart by their author.

    One file may be a table (CSV, Parquet, a 2-D NPY), an NPZ or an HDF5 file. Two are examples and labels (NPY, IDX),
    or the tables of train and test; four are examples and labels of train and of test.
    Raises ConfigError when the files do not go together, StorageError and DataError for a file that cannot be used.
    """
    kinds = [_kind(path) for path in paths]
    mixed = " and ".join(sorted(set(kinds)))
    match kinds:
        case ["HDF5"]:
            info = dataset.inspect(paths[0], x_name, y_name)
            return {split: _Hdf5(info, split) for split in info.splits}
        case ["NPZ"]:
            return _npz_splits(paths[0], x_name, y_name)
        case ["NPY"]:
            return {"train": _Arrays(_npy(paths[0]), None, _required(label, "the columns are counted from 0"))}
        case ["CSV"] | ["CSV", "CSV"]:
            return _tables([_Csv(path, label, header) for [path] in _train_first([[path] for path in paths])])
        case ["Parquet"] | ["Parquet", "Parquet"]:
            return _tables([_Parquet(path, label) for [path] in _train_first([[path] for path in paths])])
        case ["NPY" | "IDX", "NPY" | "IDX"]:
            return {"train": _pair(paths, kinds)}
        case ["NPY" | "IDX", "NPY" | "IDX", "NPY" | "IDX", "NPY" | "IDX"]:
            pairs = _train_first([paths[:2], paths[2:]])
            return {
                split: _pair(pair, [_kind(path) for path in pair])
                for split, pair in zip(("train", "test"), pairs, strict=True)
            }
    raise ConfigError(
        f"{len(paths)} sources ({mixed}): expected one table, NPZ or HDF5 file; examples and labels (NPY, IDX); "
        "or these for train and for test"
    )


def _kind(path: Path) -> str:
    """Tell a file's format by its first bytes, unpacked where gzip packed them."""
    size_and_mtime(os.fspath(path))
    with _reading(path), _open(path) as stream:
        start = stream.read(4096)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5"
    if start.startswith(b"\x93NUMPY"):
        return "NPY"
    if start.startswith(b"PK\x03\x04"):
        return "NPZ"
    if start.startswith(b"PAR1"):
        return "Parquet"
    if len(start) >= 4 and start[:2] == b"\0\0" and start[2] in _IDX_DTYPES and start[3] > 0:
        return "IDX"
    if not start or b"\0" in start:
        raise DataError(f"{path}: is no CSV, Parquet, NPY, NPZ, IDX or HDF5 file")
    return "CSV"


def _open(path: Path) -> Stream:
    """Open a file for reading, unpacked where gzip packed it."""
    file = open(path, "rb")  # noqa: SIM115 (returned open)
    if file.read(2) == b"\x1f\x8b":
        file.close()
        return gzip.open(path)
    file.seek(0)
    return file


# What the libraries raise for damaged files, beside OSError; pyarrow's errors and most of NumPy's are ValueErrors.
_DAMAGE = (
    ValueError,
    EOFError,
    RuntimeError,  # an encrypted archive
    struct.error,
    tokenize.TokenError,  # an NPY header
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the readers of a format raise into one line that names the file."""
    try:
        yield
    except (OSError, *_DAMAGE) as error:
        number = getattr(error, "errno", None)
        kind = StorageError if number and number != errno.EINVAL else DataError  # EINVAL: a seek to nowhere
        raise kind(f"{path}: cannot be read: {one_line(error)[:300]}") from error


def _train_first(groups: list[Sequence[Path]]) -> list[Sequence[Path]]:
    """Put the files called "train" before those that are not: a shell's `*` lists MNIST's test files first."""
    named = [all("train" in path.name.lower() for path in group) for group in groups]
    return groups[::-1] if named == [False, True] else groups


def _required(label: str | None, choice: str) -> str:
    if label is None:
        raise ConfigError(f"--label is missing: give the name or the index of the label's column; {choice}")
    return label


def _column(label: str, columns: int, path: Path) -> int:
    """Return the column that the integer `label` means, from the end when it is negative."""
    index = int(label)
    if not -columns <= index < columns:
        raise ConfigError(f"--label {label}: {path} has the columns 0 to {columns - 1}")
    return index % columns


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _rows_at_once(row_bytes: int) -> int:
    return max(1, _PIECE_BYTES // row_bytes)


# --- Tables: CSV and Parquet, through pyarrow -------------------------------------------------------------------------


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError('CSV and Parquet files need pyarrow: pip install "ddp_mlp[parquet]"') from error
    return pyarrow


def _tables(tables: list[Any]) -> dict[str, Source]:
    first, last = tables[0], tables[-1]
    if (first.features, first.columns) != (last.features, last.columns):
        raise DataError(f"{last.name}: its columns are not those of {first.name}")
    return dict(zip(("train", "test"), tables, strict=False))


class _Table:
    """What CSV and Parquet have in common: named columns, one of them the label."""

    weighted = False
    classes: tuple[str, ...] | None = None

    def __init__(self, path: Path, names: Sequence[str] | None, width: int, label: str | None) -> None:
        self.path = path
        self.name = str(path)
        listed = ", ".join(repr(name) for name in (names or [])[:30]) or f"0 to {width - 1}"
        label = _required(label, f"{path} has {listed}")
        if width < 2:
            raise DataError(f"{path}: has one column; expected features and a label")
        if _is_integer(label):
            self._label = _column(label, width, path)
        elif names is not None and names.count(label) == 1:
            self._label = list(names).index(label)
        else:
            raise ConfigError(f"--label {label!r}: is not one column of {path}, which has {listed}")
        self._features = [column for column in range(width) if column != self._label]
        self._names = names
        self.features = width - 1
        self.columns = None if names is None else tuple(names[column] for column in self._features)

    def where(self, row: int, column: int) -> str:
        """Say which cell is meant; `column` counts all columns of the table."""
        name = "" if self._names is None else f" ({self._names[column]!r})"
        return f"{self.path}: row {row}, column {column}{name}"

    def _encoded(self, column: Any, lo: int) -> tuple[list[Label], NDArray[np.intp]]:
        """Return the distinct labels of an Arrow column that begins at row `lo`, and each row's among them."""
        if column.null_count:
            row = lo + column.is_null().to_numpy(zero_copy_only=False).argmax()
            raise DataError(f"{self.where(row, self._label)} is missing: every row needs a label")
        encoded = column.dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.intp)


class _Csv(_Table):
    """Text with a separator (comma, tab or semicolon, whichever its first line has most of), gzip or not."""

    float_dtype = np.dtype(np.float32)

    def __init__(self, path: Path, label: str | None, header: Header) -> None:
        self._arrow = _pyarrow()
        with _reading(path), _open(path) as stream:
            line, second = stream.readline(_CSV_LINE_BYTES), stream.readline(_CSV_LINE_BYTES)
            self._packed = isinstance(stream, gzip.GzipFile)
        self._block_bytes = max(_CSV_BLOCK_BYTES, 4 * len(line), 4 * len(second))  # a line must fit into a block
        self._separator = max(",\t;", key=lambda separator: line.count(separator.encode()))
        self.path = path
        with _reading(path):
            width = len(self._stream(None).schema.names)
            first = next(iter(self._stream(width)), None)
        if first is None or not first.num_rows:
            raise DataError(f"{path}: has no rows")
        cells = [first.column(column)[0].as_py().strip() for column in range(width)]
        self._header = header == "yes" or (header == "auto" and self._looks_like_header(cells, label))
        super().__init__(path, cells if self._header else None, width, label)
        self._guessed = header == "auto"
        self._fractional = [False] * width  # columns that were seen to hold more than integers

    @staticmethod
    def _looks_like_header(cells: list[str], label: str | None) -> bool:
        if label is None or not _is_integer(label):
            return True  # a name can only be found in a header
        position = int(label) % len(cells)
        return any(not _is_number(cell) for column, cell in enumerate(cells) if cell and column != position)

    def _stream(self, width: int | None) -> Any:
        """Open the file for reading as text columns called f0, f1, …; types are Arrow's guess without `width`."""
        csv, text = self._arrow.csv, self._arrow.string()
        return csv.open_csv(
            self._arrow.input_stream(os.fspath(self.path), compression="gzip" if self._packed else None),
            csv.ReadOptions(autogenerate_column_names=True, block_size=self._block_bytes, use_threads=False),
            csv.ParseOptions(delimiter=self._separator),
            csv.ConvertOptions(column_types={f"f{i}": text for i in range(width or 0)}, strings_can_be_null=False),
        )

    def pieces(self) -> Iterator[Piece]:
        trim = self._arrow.compute.utf8_trim_whitespace
        lo = alike = 0
        first: Label = ""
        with _reading(self.path):
            stream = self._stream(self.features + 1)
        skip = 1 if self._header else 0
        while True:
            with _reading(self.path):
                batch = next(stream, None)
            if batch is None:
                break
            batch = batch.slice(skip)
            skip = 0
            if not batch.num_rows:
                continue
            columns = [self._numbers(trim(batch.column(column)), column, lo) for column in self._features]
            X = np.empty((batch.num_rows, self.features), np.result_type(*{values.dtype for values in columns}))
            for position, values in enumerate(columns):
                X[:, position] = values
            labels, codes = self._encoded(trim(batch.column(self._label)), lo)
            if "" in labels:
                row = lo + int(np.argmax(codes == labels.index("")))
                raise DataError(f"{self.where(row, self._label)} is empty: every row needs a label")
            if lo == 0:
                first = labels[codes[0]]
            if first in labels:
                alike += int((codes == labels.index(first)).sum())
            yield Piece(X, labels, codes)
            lo += batch.num_rows
        if self._guessed and not self._header and alike == 1 and not _is_number(str(first)):
            raise DataError(
                f"{self.path}: no other row has the first one's label {first!r}; is the first line a header? "
                "say --header yes or --header no"
            )

    def _numbers(self, cells: Any, column: int, lo: int) -> NDArray[Any]:
        """Return a column of text as int64, or as float64 from the first piece on that holds more than integers."""
        arrow = self._arrow
        if not self._fractional[column]:
            try:
                return cells.cast(arrow.int64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
            except arrow.ArrowInvalid:
                self._fractional[column] = True
        try:
            return cells.cast(arrow.float64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
        except arrow.ArrowInvalid:
            for row, cell in enumerate(cells):
                try:
                    cell.cast(arrow.float64())
                except arrow.ArrowInvalid:
                    raise self._no_number(cell.as_py(), lo + row, column) from None
            raise

    def _no_number(self, cell: str, row: int, column: int) -> DataError:
        found = f"{cell[:40]!r}, which is text" if cell.upper() not in _MISSING else f"{cell!r}, a missing value"
        return DataError(f"{self.where(row, column)} is {found}: every feature must be a number")


_MISSING = {"", "?", "NA", "N/A", "NULL", "NONE", "-"}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Parquet(_Table):
    """Columns of numbers and one of labels: text, whole numbers or categories."""

    def __init__(self, path: Path, label: str | None) -> None:
        self._arrow = arrow = _pyarrow()
        with _reading(path):
            file = arrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        self._rows = file.metadata.num_rows
        super().__init__(path, list(schema.names), len(schema.names), label)
        types = arrow.types
        self._dtypes: list[np.dtype[Any]] = []
        for column in self._features:
            kind = schema.field(column).type
            if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
                raise DataError(f"{path}: column {column} ({schema.names[column]!r}) is {kind}: must be numbers")
            self._dtypes.append(np.dtype(np.uint8 if types.is_boolean(kind) else kind.to_pandas_dtype()))
        floats = {dtype for dtype in self._dtypes if dtype.kind == "f"}
        self.float_dtype = np.result_type(*floats) if floats else np.dtype(np.float32)
        self._piece_dtype = np.result_type(*set(self._dtypes))

    def pieces(self) -> Iterator[Piece]:
        lo = 0
        with _reading(self.path):
            file = self._arrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20)
            batches = file.iter_batches(_rows_at_once(8 * (self.features + 1)))
        while True:
            with _reading(self.path):
                batch = next(batches, None)
            if batch is None:
                break
            X = np.empty((batch.num_rows, self.features), self._piece_dtype)
            for position, column in enumerate(self._features):
                values = batch.column(column)
                if values.null_count:
                    row = lo + values.is_null().to_numpy(zero_copy_only=False).argmax()
                    raise DataError(f"{self.where(row, column)} is missing: every feature must be a number")
                X[:, position] = values.to_numpy(zero_copy_only=False)
            labels = batch.column(self._label)
            if self._arrow.types.is_dictionary(labels.type):
                labels = labels.dictionary_decode()
            yield Piece(X, *self._labels(labels, lo))
            lo += batch.num_rows

    def _labels(self, column: Any, lo: int) -> tuple[Sequence[Label], NDArray[np.intp]]:
        labels, codes = self._encoded(column, lo)
        if all(isinstance(label, str) for label in labels):
            return labels, codes
        values = np.array(labels)
        if values.dtype.kind not in "biuf":
            raise DataError(f"{self.path}: the label column is {column.type}: must be text or whole numbers")
        return _distinct(values[codes], self.name, lo)


# --- Arrays: NPY, NPZ, IDX --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Array:
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

    def rows(self, size: int) -> Iterator[NDArray[Any]]:
        """Read `size` rows at a time, each flattened: (k, values per row), native byte order."""
        total, width = self.shape[0], math.prod(self.shape[1:])
        with _reading(self.path), self.open() as stream:
            stream.seek(self.start)
            scattered = self._scattered(stream) if self.by_column else None
            for lo in range(0, total, size):
                count = min(size, total - lo)
                if scattered is None:
                    rows = np.empty((count, width), self.dtype)
                    _read_into(stream, rows.reshape(-1))
                else:
                    rows = np.ascontiguousarray(scattered[lo : lo + count]).reshape(count, width)
                native = rows.astype(self.dtype.newbyteorder("="), copy=False)
                yield native.view(np.uint8) if native.dtype == np.bool_ else native

    def _scattered(self, stream: Stream) -> NDArray[Any]:
        """Map a column-ordered array where it is a plain file; a packed one can only be read whole."""
        if not isinstance(stream, gzip.GzipFile | zipfile.ZipExtFile):
            return np.memmap(self.path, self.dtype, "r", self.start, self.shape, "F")
        values = np.empty(self.shape, self.dtype, "F")
        _read_into(stream, values.reshape(-1, order="F"))
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


def _size(path: Path) -> int:
    """Return how many bytes `_open` can give at most: gzip tells how many they are at their end alone."""
    with _open(path) as stream:
        return path.stat().st_size * (DEFLATE_RATIO if isinstance(stream, gzip.GzipFile) else 1)


_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def _idx(path: Path) -> _Array:
    """Describe an array in the IDX format of MNIST (its web page): 0, 0, type, rank, then big-endian sizes."""
    with _reading(path), _open(path) as stream:
        _, _, kind, rank = stream.read(4)
        sizes = stream.read(4 * rank)
        if len(sizes) < 4 * rank:
            raise EOFError("it is cut short")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    return _Array(path, str(path), shape, np.dtype(_IDX_DTYPES[kind]), 4 + 4 * rank, lambda: _open(path), _size(path))


def _npy(path: Path) -> _Array:
    """Describe an array in a file of NumPy's format."""
    return _npy_array(path, str(path), lambda: _open(path), _size(path))


def _npy_array(path: Path, name: str, opener: Callable[[], Stream], size: int) -> _Array:
    """Describe an array in NumPy's format (numpy.lib.format), in a file of its own or inside an NPZ."""
    with _reading(path), opener() as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"NPY version {version} is not one for plain numbers")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read_header(stream)
        start = stream.tell()
    if dtype.kind not in "biufUS" or dtype.names:
        raise DataError(f"{name}: is {dtype}: must be integers, floats or, for labels, text")
    return _Array(path, name, shape, dtype, start, opener, size, by_column and len(shape) > 1)


def _pair(paths: Sequence[Path], kinds: Sequence[str]) -> Source:
    """Return examples and labels as one source, whichever comes first."""
    arrays = [_idx(path) if kind == "IDX" else _npy(path) for path, kind in zip(paths, kinds, strict=True)]
    X, y = sorted(arrays, key=lambda array: -math.prod(array.shape[1:]))
    return _Arrays(X, y)


def _npz_splits(path: Path, x_name: str, y_name: str) -> dict[str, Source]:
    """Find examples and labels in an NPZ: by the names given, or by split as Keras's and MedMNIST's files have them."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def array(member: str) -> _Array:
        info = members[member]
        size = info.file_size
        if info.compress_type == zipfile.ZIP_DEFLATED:
            size = min(size, info.compress_size * DEFLATE_RATIO)
        return _npy_array(path, f"{path}: {member!r}", lambda: zipfile.ZipFile(path).open(info), size)

    if x_name in members and y_name in members:
        return {"train": _Arrays(array(x_name), array(y_name))}
    splits: dict[str, Source] = {}
    for split, alias in (("train", "train"), ("valid", "valid"), ("valid", "val"), ("test", "test")):
        for x, y in (
            (f"x_{alias}", f"y_{alias}"),
            (f"X_{alias}", f"y_{alias}"),
            (f"{alias}_images", f"{alias}_labels"),
        ):
            if x in members and y in members:
                splits[split] = _Arrays(array(x), array(y))
    if "train" not in splits:
        found = ", ".join(repr(name) for name in list(members)[:10]) or "no arrays"
        raise DataError(f"{path}: has no {x_name!r} and {y_name!r}; found {found}; --x_name and --y_name choose others")
    return splits


class _Arrays:
    """X and y in arrays; or one 2-D array with the label as one of its columns."""

    columns: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    weighted = False

    def __init__(self, X: _Array, y: _Array | None, label: str = "") -> None:
        self.name = str(X.path)
        self._X, self._y = X, y
        if len(X.shape) < 2 or X.dtype.kind not in "biuf" or not math.prod(X.shape):
            raise DataError(f"{X.name}: is {X.dtype} {X.shape}: X must be numbers, (examples, features)")
        self._width = math.prod(X.shape[1:])
        self._label = -1
        if y is None:
            if not _is_integer(label):
                raise ConfigError(f"--label {label!r}: an array's columns have no names; give an index")
            self._label = _column(label, self._width, X.path)
            if self._width < 2:
                raise DataError(f"{X.name}: has one column; expected features and a label")
        elif y.shape[:1] != X.shape[:1] or math.prod(y.shape[1:]) != 1:
            raise DataError(f"{y.name}: has shape {y.shape}: labels must be ({X.shape[0]},), one per row of {X.name}")
        self.features = self._width - (y is None)
        self.float_dtype = X.dtype.newbyteorder("=") if X.dtype.kind == "f" else np.dtype(np.float32)
        if self.float_dtype.itemsize > 8:
            raise DataError(f"{X.name}: is {X.dtype}: must be at most 64 bits wide")

    def pieces(self) -> Iterator[Piece]:
        size = _rows_at_once(self._width * self._X.dtype.itemsize)
        lo = 0
        labels = None if self._y is None else self._y.rows(size)
        for X in self._X.rows(size):
            y = X[:, self._label] if labels is None else next(labels)[:, 0]
            yield Piece(X if labels is not None else np.delete(X, self._label, axis=1), *_distinct(y, self.name, lo))
            lo += len(X)


def _distinct(y: NDArray[Any], name: str, lo: int) -> tuple[Sequence[Label], NDArray[np.intp]]:
    """Return the distinct labels of `y`, whole numbers or text, and each row's among them."""
    if y.dtype.kind == "f":
        wrong = np.flatnonzero(~(np.isfinite(y) & (y == np.rint(y))))
        if wrong.size:
            raise DataError(f"{name}: row {lo + wrong[0]}, the label, is {y[wrong[0]]}: must be a whole number or text")
    labels, codes = np.unique(y, return_inverse=True)
    if y.dtype.kind in "US":
        names = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in labels.tolist()]
        return names, codes
    return [int(label) for label in labels.tolist()], codes


# --- HDF5 -------------------------------------------------------------------------------------------------------------


class _Hdf5:
    """One split of an HDF5 file."""

    columns: tuple[str, ...] | None = None

    def __init__(self, info: dataset.DatasetInfo, split: str) -> None:
        self.name = f"{info.path}, {split}"
        self._info, self._split = info, split
        self.features = info.features
        self.classes = info.classes
        self.weighted = info.splits[split].weighted
        dtype = np.dtype(info.splits[split].dtype)
        self.float_dtype = dtype if dtype.kind == "f" else np.dtype(np.float32)

    def pieces(self) -> Iterator[Piece]:
        with dataset.Reader(self._info, self._split) as reader:
            size = _rows_at_once(self.features * reader.dtype.itemsize)
            for lo in range(0, reader.rows, size):
                hi = min(lo + size, reader.rows)
                labels, codes = np.unique(reader.y(lo, hi), return_inverse=True)
                yield Piece(reader.X(lo, hi), labels.tolist(), codes, reader.w(lo, hi) if self.weighted else None)
