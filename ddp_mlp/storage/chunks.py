"""Rows that lie in many small chunks, read past HDF5, to which finding a chunk is dearer than unpacking it.

Kept here:
- What is read is what HDF5 reads, bit for bit. Whatever is unusual is left to HDF5, which has the right answer or the
  right complaint: other filters or types, a chunk that was never written, or one that does not unpack. A chunk that
  unpacks to another size is refused: HDF5 fills it up with what happens to be in memory.
- Memory beside the rows: 12 bytes for each of at most 1,048,576 chunks, and a few MiB.
"""

import zlib
from array import array as flat
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.storage.hdf5 import OpenFile

SMALL_CHUNK_BYTES = 64 << 10
_CHUNKS_AT_MOST = 1 << 20  # looked up within a second, in which no signal is obeyed
_PIECE_BYTES = 1 << 20  # unpacked at a time
_WAIT = 16  # the index is read once a 16th of the chunks were read without it: not for a few rows of many
_FILTERS: tuple[list[int], ...] = (
    [],
    [h5py.h5z.FILTER_SHUFFLE],
    [h5py.h5z.FILTER_DEFLATE],
    [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE],
)


class SmallChunks:
    """The chunks of an array (m, …), each of which holds whole rows. Local."""

    def __init__(self, array: h5py.Dataset, source: OpenFile) -> None:
        self._array, self._source = array, source
        self._filters = _filters_of(array)
        self.rows = int(array.chunks[0])
        """In a chunk; the last may be filled in part."""
        self._shape = tuple(map(int, array.chunks))
        self._bytes = int(np.prod(self._shape)) * array.dtype.itemsize
        self._count = -(-len(array) // self.rows)
        self._passed = 0
        self._places: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None

    def read(self, lo: int, hi: int, out: NDArray[Any]) -> tuple[int, int]:
        """Read whole chunks of rows [lo, hi) into `out` (hi - lo, …), of the array's type in native byte order.

        Return the rows [a, b) that are read; HDF5 must read the others.
        """
        first, last = -(-lo // self.rows), self._count if hi == len(self._array) else hi // self.rows
        if self._places is None and first < last:
            self._passed += last - first
            if self._passed * _WAIT < self._count:
                return lo, lo
            self._places = self._look_up()
        step = max(1, _PIECE_BYTES // self._bytes)
        end = first
        for number in range(first, last, step):
            end = min(last, number + step)
            if (values := self._unpacked(number, end)) is None:
                end = number
                break
            a, b = number * self.rows - lo, min(end * self.rows, hi) - lo
            whole = values.reshape((end - number) * self.rows, *self._shape[1:])
            out[a:b] = whole[tuple(np.s_[:extent] for extent in (b - a, *self._array.shape[1:]))]
        return (first * self.rows, min(end * self.rows, hi)) if first < end else (lo, lo)

    def _look_up(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return where each chunk begins in the file, and its bytes there, negative where gzip was left out.

        Both are 0 for a chunk that HDF5 must read.
        """
        places, sizes = flat("q", bytes(8 * self._count)), flat("i", bytes(4 * self._count))
        rows, count, known = self.rows, self._count, {0: 1}
        if h5py.h5z.FILTER_DEFLATE in self._filters:
            known[1 << self._filters.index(h5py.h5z.FILTER_DEFLATE)] = -1
        largest = self._bytes + (self._bytes >> 6) + 64  # gzip adds a few bytes to what cannot be packed

        def note(chunk: Any) -> bool | None:
            number, beyond = divmod(chunk.chunk_offset[0], rows)
            if beyond or number >= count or places[number]:
                return True  # not one chunk for each place: none can be trusted
            sign = known.get(chunk.filter_mask, 0)
            places[number], sizes[number] = chunk.byte_offset, sign * chunk.size if chunk.size <= largest else 0
            return None

        try:
            strange = self._array.id.chunk_iter(note)
        except (OSError, RuntimeError, ValueError, OverflowError):
            strange = True
        if strange:
            places, sizes = flat("q", bytes(8 * count)), flat("i", bytes(4 * count))
        return np.frombuffer(places, np.int64), np.frombuffer(sizes, np.int32)

    def _unpacked(self, first: int, last: int) -> NDArray[Any] | None:
        """Return the values of chunks [first, last), in order; None where HDF5 must read them."""
        assert self._places is not None
        places, sizes = self._places[0][first:last], self._places[1][first:last]
        pieces = self._stored(places, np.abs(sizes)) if sizes.all() else None
        if pieces is None:
            return None
        if h5py.h5z.FILTER_DEFLATE in self._filters:
            try:
                pieces = [
                    zlib.decompress(piece, bufsize=self._bytes) if size > 0 else piece
                    for piece, size in zip(pieces, sizes.tolist(), strict=True)
                ]
            except zlib.error:
                return None
        if set(map(len, pieces)) != {self._bytes}:
            self._refuse_size(first, [len(piece) for piece in pieces])
        values = np.frombuffer(b"".join(pieces), np.uint8)
        if h5py.h5z.FILTER_SHUFFLE in self._filters:  # all first bytes of a chunk's numbers, all second ones, …
            planes = values.reshape(len(pieces), self._array.dtype.itemsize, -1)
            values = np.ascontiguousarray(planes.transpose(0, 2, 1)).reshape(-1)
        typed: NDArray[Any] = values.view(self._array.dtype)
        return typed

    def _refuse_size(self, first: int, sizes: Sequence[int]) -> None:
        """Raise DataError for chunks from `first` on, one of which is too short or too long; HDF5 would make it up."""
        number, found = next((n, size) for n, size in enumerate(sizes, first) if size != self._bytes)
        raise DataError(
            f"{self._source.path}: {self._array.name!r}, row {number * self.rows} on, unpacks to {found} bytes: "
            f"must be {self._bytes}; the file is damaged, copy it or make it again"
        )

    def _stored(self, places: NDArray[np.int64], sizes: NDArray[np.int32]) -> list[Any] | None:
        """Return the bytes of chunks as they are in the file, read at once where they lie together."""
        begin, end = int(places.min()), int((places + sizes).max())
        ends = (places + sizes).tolist()
        try:
            if end - begin > 2 * _PIECE_BYTES:
                return [self._source.bytes_at(a, b) for a, b in zip(places.tolist(), ends, strict=True)]
            whole = memoryview(self._source.bytes_at(begin, end))
        except (OSError, ValueError, OverflowError):  # HDF5 says it better
            return None
        return [whole[a - begin : b - begin] for a, b in zip(places.tolist(), ends, strict=True)]


def small_chunks(array: h5py.Dataset, source: OpenFile) -> SmallChunks | None:
    """Return the small chunks of an array of the file `source`; None where HDF5 must read it."""
    if not array.chunks or any(size < extent for size, extent in zip(array.chunks[1:], array.shape[1:], strict=True)):
        return None
    small = np.prod(array.chunks) * array.dtype.itemsize <= SMALL_CHUNK_BYTES
    few = -(-len(array) // array.chunks[0]) <= _CHUNKS_AT_MOST
    as_stored = array.dtype.kind in "iuf" and array.id.get_type().equal(h5py.h5t.py_create(array.dtype))
    if not (small and few and as_stored and _filters_of(array) in _FILTERS) or array.file.userblock_size:
        return None
    return SmallChunks(array, source)


def _filters_of(array: h5py.Dataset) -> list[int]:
    properties = array.id.get_create_plist()
    return [properties.get_filter(position)[0] for position in range(properties.get_nfilters())]
