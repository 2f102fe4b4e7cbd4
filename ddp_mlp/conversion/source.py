"""What every format looks like to `convert`: one split's rows in pieces, read in file order.

Invariants:
- a source is read a few MiB at a time, as often as wanted, and gives the same pieces every time;
- values are handed on as the file has them; what is no number, or not there, is refused with its row and column.
  Rows and columns are counted from 0, without a header line.
"""

import errno
import gzip
import struct
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.storage.hdf5 import DEFLATE_RATIO, one_line
from ddp_mlp.storage.regular import open_regular
from ddp_mlp.storage.survey import CLASSES_AT_MOST

_PIECE_BYTES = 8 << 20

Stream: TypeAlias = IO[bytes] | gzip.GzipFile


@dataclass(frozen=True)
class Piece:
    """Consecutive rows: X (k, features); the label of each as `labels[codes]`, codes (k,), or targets y (k, n_L).

    A label is its text: "02139" and "2139" are two. Rows may have neither; w (k,) are weights.
    """

    X: NDArray[Any]
    labels: Sequence[str] = ()
    codes: NDArray[np.intp] | None = None
    w: NDArray[np.float64] | None = None
    y: NDArray[np.float64] | None = None


class Counts(NamedTuple):
    """How many rows a source has, and how many of each label."""

    rows: int
    labels: dict[str, int]


class ForeignRows(ABC):
    """One split's rows in somebody's format."""

    name: str
    features: int
    float_dtype: np.dtype[Any]
    """What X needs where it is not whole numbers."""
    columns: tuple[str, ...] | None = None
    """The names of the features, where the file has them."""
    classes: tuple[str, ...] | None = None
    """Those of the labels 0, 1, …, where the file has them."""
    feature_shape: tuple[int, ...] | None = None
    """Of the features of a row, where they are one kind: an image, a field."""
    recipe: str | None = None
    """How a raw table becomes these features (JSON), where they were made of one."""
    targets: tuple[str, ...] = ()
    """The names of the targets, where rows have numbers instead of a label."""
    labelled: bool = True
    weighted: bool = False
    said: tuple[str, ...] = ()
    """What was found out about the file and is worth saying."""

    @property
    def title(self) -> str:
        """What to call it beside other splits of the same file."""
        return self.name

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """Read the rows from the first to the last; DataError where they cannot be used."""

    def place(self, row: int) -> str:
        """Say where a row is."""
        return f"row {row}"

    def count(self) -> Counts:
        """Read the rows once and count them, and their labels."""
        rows, labels = 0, dict[str, int]()
        for piece in self.pieces():
            rows += len(piece.X)
            add_labels(labels, piece, self.name)
        return Counts(rows, labels)


def add_labels(labels: dict[str, int], piece: Piece, name: str) -> None:
    """Count a piece's labels. Raises DataError where there are too many for classes."""
    if piece.codes is None:
        return
    for label, count in zip(piece.labels, np.bincount(piece.codes, minlength=len(piece.labels)), strict=True):
        labels[label] = labels.get(label, 0) + int(count)
    if len(labels) > CLASSES_AT_MOST:
        raise DataError(f"{name}: has over {CLASSES_AT_MOST} different labels; is --label the right column?")


def rows_at_once(row_bytes: int) -> int:
    """Return how many rows of so many bytes are read at a time."""
    return max(1, _PIECE_BYTES // row_bytes)


def open_stream(path: Path) -> Stream:
    """Open a file for reading, unpacked where gzip packed it."""
    file = open_regular(path)
    if file.read(2) == b"\x1f\x8b":
        file.close()
        return gzip.open(path)
    file.seek(0)
    return file


# What the libraries raise for damaged files, beside OSError; pyarrow's errors and most of NumPy's are ValueErrors.
DAMAGE = (
    ValueError,
    EOFError,
    RuntimeError,  # an encrypted archive
    struct.error,
    tokenize.TokenError,  # an NPY header
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the readers of a format raise into one line that names the file."""
    try:
        yield
    except (OSError, *DAMAGE) as error:
        number = getattr(error, "errno", None)
        kind = StorageError if number and number != errno.EINVAL else DataError  # EINVAL: a seek to nowhere
        raise kind(f"{path}: cannot be read: {one_line(error)[:300]}") from error


def unpacked_size(path: Path) -> int:
    """Return how many bytes `open_stream` can give at most: gzip tells how many they are at their end alone."""
    with open_stream(path) as stream:
        return path.stat().st_size * (DEFLATE_RATIO if isinstance(stream, gzip.GzipFile) else 1)


def distinct(y: NDArray[Any], name: str, lo: int) -> tuple[Sequence[str], NDArray[np.intp]]:
    """Return the distinct labels of `y` as texts, and each row's among them. A float must be a whole number."""
    if y.dtype.kind == "f":
        wrong = np.flatnonzero(~(np.isfinite(y) & (y == np.rint(y))))
        if wrong.size:
            found = f"row {lo + wrong[0]}, the label, is {y[wrong[0]]}"
            raise DataError(f"{name}: {found}: must be a whole number or text; numbers to be met are --target")
    labels, codes = np.unique(y, return_inverse=True)
    if y.dtype.kind in "USO":
        names = [_text_of(label, name) for label in labels.tolist()]
        if "" in names:
            raise DataError(
                f"{name}: row {lo + int(np.argmax(codes == names.index('')))}, the label, is empty: take it out"
            )
        return names, codes
    return [str(int(label)) for label in labels.tolist()], codes


def _text_of(label: bytes | str, name: str) -> str:
    """Return a label of text. Raises DataError for bytes that are none: two of them could become one."""
    if isinstance(label, str):
        return label
    try:
        return label.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: the label {label!r} is not utf-8: decode it, and save text") from error
