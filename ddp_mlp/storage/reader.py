"""The rows of a data set, read when they are asked for.

Kept here: every reader opens its files for itself, read-only and without locks, and notices when one of them changes.
"""

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, ProgramError
from ddp_mlp.storage.chunks import SMALL_CHUNK_BYTES, SmallChunks, small_chunks
from ddp_mlp.storage.dataset import DatasetInfo, check_part_unchanged, check_unchanged
from ddp_mlp.storage.hdf5 import CHUNK_BYTES_AT_MOST, OpenFile, named_failures, open_with_source
from ddp_mlp.storage.variables import Variable, joined_dtype

OPEN_FILES = 128  # of a data set of many, each with a cache of its own
CHUNKS_AT_ONCE = 256  # HDF5 takes longer for each chunk, the more of them it is asked for together


class Reader:
    """The rows of one split, read from the file when asked for; a context manager. Local: no MPI.

    Every method raises DataError when the file is damaged or no longer the one that was inspected, StorageError when
    the system cannot read it.
    """

    def __init__(self, info: DatasetInfo, split: str) -> None:
        check_unchanged(info)
        self.info = info
        self.split = split
        self.rows = info.splits[split].rows
        self.features = info.features
        self.dtype = np.dtype(info.splits[split].dtype)
        self._parts = info.splits[split].parts
        self._ends = np.cumsum([part.rows for part in self._parts])
        self._files: dict[int, tuple[h5py.File, OpenFile]] = {}
        self._arrays: dict[tuple[int, str], h5py.Dataset] = {}
        self._small: dict[tuple[int, str], SmallChunks | None] = {}
        structure = info.splits[split]
        self._labelled, self._weighted = structure.labelled, structure.weighted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the reader cannot be used afterwards."""
        for file, source in self._files.values():
            file.close()
            source.close()

    def X(self, lo: int, hi: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return rows [lo, hi) of X, (hi - lo, features) in the file's dtype; in `out` (C-contiguous) when given."""
        if out is None:
            out = np.empty((hi - lo, self.features), self.dtype)
        order = self.info.order
        whole = out if order is None else np.empty((hi - lo, self.info.features_in_file), self.dtype)
        for number, a, b, rows in self._stretches(lo, hi):
            self._read_features(number, a, b, whole[rows])
        if order is not None:
            np.take(whole, order, axis=1, out=out)
        return out

    def _read_features(self, number: int, lo: int, hi: int, out: NDArray[Any]) -> None:
        """Read rows [lo, hi) of one file into `out` (hi - lo, features of the file)."""
        part = self._parts[number]
        first = part.variables[0]
        if len(part.variables) == 1 and first.plain and first.dtype == out.dtype.name and out.flags.c_contiguous:
            self._read_array(number, first.name, lo, hi, out.reshape(hi - lo, *first.tail))
            return
        column = 0
        for variable in part.variables:
            self._read_variable(number, variable, lo, hi, out[:, column : column + variable.width])
            column += variable.width

    def _read_variable(self, number: int, variable: Variable, lo: int, hi: int, out: NDArray[Any]) -> None:
        """Read rows [lo, hi) of an array of one file, unpacked, into `out` (hi - lo, width)."""
        raw = np.empty((hi - lo, *variable.tail), variable.stored)
        self._read_array(number, variable.name, lo, hi, raw)
        where = f"{self._parts[number].path}: {variable.name!r} of {self.split}"
        variable.unpack(raw.reshape(hi - lo, variable.width), out, where, lo)

    def y(self, lo: int, hi: int) -> NDArray[Any]:
        """Return targets [lo, hi): numbers (hi - lo, n_T) float64 where the file is so read, else class numbers.

        Those are (hi - lo,) int64; DataError where one is not a whole number.
        """
        raw = self.raw_y(lo, hi)
        if self.info.numbers:
            return raw.reshape(hi - lo, math.prod(raw.shape[1:])).astype(np.float64)
        if raw.ndim == 2 and raw.shape[1] != 1:
            raise self.refusal(self.info.y_name, f"has {raw.shape[1]} columns: a class number is one per row")
        raw = raw.reshape(-1)
        labels: NDArray[np.int64]
        with np.errstate(invalid="ignore"):
            labels = raw.astype(np.int64)
        wrong = np.flatnonzero(labels != raw)  # fractions, NaN, and what int64 cannot hold
        if wrong.size:
            raise self.refusal(self.info.y_name, f"row {lo + wrong[0]} is {raw[wrong[0]]}: must be a whole number")
        return labels

    def raw_y(self, lo: int, hi: int) -> NDArray[Any]:
        """Return targets [lo, hi) before they are taken for anything, (hi - lo,) or (hi - lo, columns)."""
        described = [part.y for part in self._parts if part.y is not None]
        if not self._labelled or len(described) < len(self._parts):
            raise self.refusal(self.info.y_name, "is not there")
        raw = np.empty((hi - lo, *described[0].tail), joined_dtype(described))
        for number, a, b, rows in self._stretches(lo, hi):
            self._read_variable(number, described[number], a, b, raw[rows].reshape(b - a, described[number].width))
        return raw

    def any_y(self, lo: int, hi: int) -> NDArray[Any]:
        """Return targets [lo, hi) whatever they are: numbers or texts (hi - lo,), numbers (hi - lo, columns)."""
        found = []
        for number, a, b, _ in self._stretches(lo, hi):
            array = self._array(number, self.info.y_name)
            part = self._parts[number]
            with named_failures(part.path, f"rows [{a}, {b}) of {array.name!r} cannot be read"):
                source = array.asstr("utf-8") if h5py.check_string_dtype(array.dtype) else array
                lying = array.ndim == 2 and array.shape[0] == 1 != part.rows
                values = np.asarray(source[0, a:b] if lying else source[a:b])
            if part.y is not None and not part.y.plain:
                packed = values.astype(part.y.stored).reshape(b - a, -1)
                values = np.empty(values.shape, part.y.dtype)
                where = f"{part.path}: {self.info.y_name!r} of {self.split}"
                part.y.unpack(packed, values.reshape(packed.shape), where, a)
            found.append(values)
            check_part_unchanged(part)
        return np.concatenate(found)

    def w(self, lo: int, hi: int) -> NDArray[np.float64]:
        """Return sample weights [lo, hi), (hi - lo,) float64; ones where the split has none.

        Raises DataError for one that is not finite, or negative.
        """
        weights = np.ones(hi - lo)
        for number, a, b, rows in self._stretches(lo, hi) if self._weighted else ():
            described = self._parts[number].w
            if described is None or described.plain:
                self._read_array(number, "w", a, b, weights[rows])
            else:
                self._read_variable(number, described, a, b, weights[rows].reshape(b - a, 1))
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if wrong.size:
            raise self.refusal("w", f"row {lo + wrong[0]} is {weights[wrong[0]]}: must be finite, and at least 0")
        return weights

    def _stretches(self, lo: int, hi: int) -> Iterator[tuple[int, int, int, slice]]:
        """Yield where rows [lo, hi) are: the number of a file, its rows [a, b), and their place among those wanted."""
        if not 0 <= lo <= hi <= self.rows:
            raise IndexError(f"rows [{lo}, {hi}) of {self.rows}")
        number = int(np.searchsorted(self._ends, lo, side="right"))
        while lo < hi:
            start = int(self._ends[number]) - self._parts[number].rows
            stop = min(hi, int(self._ends[number]))
            done = hi - lo
            yield number, lo - start, stop - start, slice(-done, (stop - hi) or None)
            lo, number = stop, number + 1

    def _read_array(self, number: int, name: str, lo: int, hi: int, out: NDArray[Any]) -> None:
        part = self._parts[number]
        source = self._array(number, name)
        if source.dtype.kind == "b" and out.dtype == np.uint8:
            out = out.view(np.bool_)
        try:
            with named_failures(part.path, f"rows [{lo}, {hi}) of {source.name!r} cannot be read"):
                start = end = lo
                small = self._small[number, name]
                if small is not None and out.dtype == source.dtype.newbyteorder("="):
                    start, end = small.read(lo, hi, out)
                for a, b in (*_pieces(source, lo, start), *_pieces(source, end, hi)):
                    source.read_direct(out[a - lo : b - lo], np.s_[a:b])
        except ProgramError:
            check_part_unchanged(part)  # the better reason, if it is one
            raise
        check_part_unchanged(part)

    def _array(self, number: int, name: str) -> h5py.Dataset:
        """Return an array of a file, which is opened where it is not."""
        part = self._parts[number]
        if (number, name) not in self._arrays:
            if number not in self._files:
                self._make_room()
                try:
                    self._files[number] = open_with_source(part.path)
                except DataError:
                    check_part_unchanged(part)  # between the first look and this one
                    raise
            file, source = self._files[number]
            with named_failures(part.path, "is damaged"):
                array = _with_chunk_cache(file[part.group][name])
                self._small[number, name] = small_chunks(array, source)
            self._arrays[number, name] = array
        return self._arrays[number, name]

    def _make_room(self) -> None:
        """Close the file that has been open longest where there are too many."""
        if len(self._files) >= OPEN_FILES:
            oldest = next(iter(self._files))
            for opened in self._files.pop(oldest):
                opened.close()
            self._arrays = {key: array for key, array in self._arrays.items() if key[0] != oldest}
            self._small = {key: small for key, small in self._small.items() if key[0] != oldest}

    def refusal(self, name: str, what: str) -> DataError:
        """Return the error that says `what` is wrong in the array `name` of this split."""
        return DataError(f"{self.info.path}: {name!r} of {self.split}, {what}")


def _chunks_across(array: h5py.Dataset) -> int:
    """Return how many chunks a row of a chunked array lies in."""
    return math.prod(-(-extent // size) for extent, size in zip(array.shape[1:], array.chunks[1:], strict=True))


def _pieces(array: h5py.Dataset, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """Cut rows [lo, hi), where they lie in many chunks, into pieces that are whole chunks of a few hundred."""
    step = max(1, hi)
    if array.chunks:
        step = max(1, CHUNKS_AT_ONCE // _chunks_across(array)) * array.chunks[0]
    while lo < hi:
        end = min(hi, (lo // step + 1) * step)
        yield lo, end
        lo = end


def _with_chunk_cache(array: h5py.Dataset) -> h5py.Dataset:
    """Reopen `array` with a cache for one row of chunks, so that reading on does not unpack a chunk twice."""
    if not array.chunks:
        return array
    row_of_chunks = math.prod(array.chunks) * array.dtype.itemsize * _chunks_across(array)
    if row_of_chunks <= SMALL_CHUNK_BYTES:  # HDF5's own cache, of 1 MiB, has room for enough of them
        return array
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(12_421, min(max(row_of_chunks, 8 << 20), CHUNK_BYTES_AT_MOST), 1.0)
    return h5py.Dataset(h5py.h5d.open(array.file.id, array.name.encode(), access))
