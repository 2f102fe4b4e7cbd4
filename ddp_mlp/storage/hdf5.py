"""HDF5 files that others have made: opened, walked through, and refused where they are more than plain numbers.

Kept here:
- What leads out of the file (external and soft links, external storage, virtual data sets), what needs a filter plugin,
  and what declares more rows than the file can hold is refused before memory is allocated for it.
- Files are opened read-only and without locks, and whatever HDF5 raises becomes one line that names the file.
- While a file is waited for, other threads run: those that hear signals, and that see that nothing goes on.
"""

import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, StorageError, unfit

# Filters that come with every HDF5 library, and h5py's own LZF; any other needs a plugin.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_SZIP: "szip",
    h5py.h5z.FILTER_NBIT: "nbit",
    h5py.h5z.FILTER_SCALEOFFSET: "scaleoffset",
    h5py.h5z.FILTER_LZF: "lzf",
}
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
CHUNK_BYTES_AT_MOST = 1 << 30  # a filtered chunk is unpacked whole, whatever part of it is asked for
DEFLATE_RATIO = 1032  # the most that DEFLATE can shrink anything (zlib's technical notes)
_HARMLESS_BYTES = 64 << 20  # below this, how well a data set is compressed is nobody's danger


def size_and_mtime(path: str) -> tuple[int, int]:
    """Return the bytes of a regular file and its time of change (ns); StorageError where there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path}: is not a regular file: name an HDF5 file")
    return status.st_size, status.st_mtime_ns


class OpenFile(io.RawIOBase):
    """A file that HDF5 reads from. HDF5's own reads hold Python's lock, so that nothing else runs until they are over.

    So a file server that answers nothing would let nobody hear of a signal.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._position, self.size = 0, os.fstat(self._descriptor).st_size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set where the next bytes are read from; return it, counted from the beginning."""
        self._position = offset + (
            0 if whence == os.SEEK_SET else self.size if whence == os.SEEK_END else self._position
        )
        return self._position

    def readinto(self, out: Any) -> int:
        """Fill `out`, with zeros behind the end of the file, as HDF5's own driver does."""
        wanted = len(out)
        if (done := os.preadv(self._descriptor, [out], self._position)) < wanted:
            left = memoryview(out)[done:]
            while left and (read := os.preadv(self._descriptor, [left], self._position + wanted - len(left))):
                left = left[read:]
            if left:
                np.frombuffer(left, np.uint8)[:] = 0
        return wanted

    def bytes_at(self, begin: int, end: int) -> bytes:
        """Return bytes [begin, end), fewer where the file ends before."""
        return os.pread(self._descriptor, end - begin, begin)

    def close(self) -> None:
        """Close the file; once is enough."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def is_hdf5(self) -> bool:
        """Tell whether HDF5 begins where its specification lets it begin: at byte 0, 512, 1024, 2048 and so on."""
        places = [0, *(512 << power for power in range(self.size.bit_length()))]
        return any(os.pread(self._descriptor, len(_SIGNATURE), at) == _SIGNATURE for at in places if at < self.size)


def _opened(path: str) -> OpenFile:
    try:
        return OpenFile(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def open_hdf5(path: str) -> h5py.File:
    """Open `path` with HDF5, read-only and without locks."""
    return open_with_source(path)[0]


def open_with_source(path: str) -> tuple[h5py.File, OpenFile]:
    """Open `path` with HDF5, read-only and without locks; return what HDF5 reads from, too."""
    opened = _opened(path)
    with named_failures(path, "is damaged"):
        if not opened.is_hdf5():
            raise DataError(f"{path}: is not an HDF5 file; `python -m ddp_mlp.convert` makes one from other formats")
        try:
            return h5py.File(opened, "r"), opened
        except OSError as error:
            if "truncated" in str(error):
                raise DataError(f"{path}: is cut short ({one_line(error)}); copy it or make it again") from error
            raise


@contextmanager
def named_failures(path: str, what: str) -> Iterator[None]:
    """Turn what h5py raises into one line that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        if (found := unfit(error)) is not None:
            raise found from error
        # HDF5 puts the operating system's error number into its text; without one, the bytes themselves are wrong.
        if getattr(error, "errno", None) or "errno = " in str(error):
            raise StorageError(f"{path}: cannot be read, HDF5 says: {one_line(error)}") from error
        raise DataError(f"{path}: {what}, HDF5 says: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Return what `error` says as one line of printable text."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def follow(group: h5py.Group, name: str, path: str) -> Any:
    """Return the object called `name` (with "/": a path) in `group`, or None; refuse a link that leads elsewhere."""
    place = group
    for part in [part for part in name.split("/") if part]:
        link = part.encode()
        if not isinstance(place, h5py.Group) or not place.id.links.exists(link):
            return None
        if place.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            raise DataError(
                f"{path}: {name!r} is a soft or external link: the data must be in the file itself (h5repack, h5copy)"
            )
        place = place[part]
    return place


def members(group: h5py.Group) -> str:
    """Return the names of what a group holds, the first ten, for a message."""
    names = [repr(name) for name in islice(group, 11)]
    return ", ".join([*names[:10], "…"][: len(names)]) if names else "nothing"


def check_plain(array: h5py.Dataset, where: str, is_label: bool = False, text: bool = False) -> None:
    """Refuse what is not plain numbers kept inside the file; `text` may be there too, where that is asked for."""
    kind = array.id.get_type().get_class()
    plain = kind in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) or (kind == h5py.h5t.ENUM and array.dtype == np.bool_)
    if not plain and not (text and kind == h5py.h5t.STRING):
        names = {
            h5py.h5t.STRING: "text",
            h5py.h5t.COMPOUND: "a compound type",
            h5py.h5t.VLEN: "of variable length",
            h5py.h5t.REFERENCE: "references",
            h5py.h5t.ENUM: "an enumeration",
        }
        remedy = "; `python -m ddp_mlp.convert` numbers labels of text" if is_label and kind == h5py.h5t.STRING else ""
        raise DataError(f"{where} is {names.get(kind, 'of an unknown type')}: must be integers or floats{remedy}")
    if plain and array.dtype.itemsize > 8:
        raise DataError(f"{where} is {array.dtype}: must be at most 64 bits wide")
    properties = array.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise DataError(f"{where} is a virtual data set: the data must be in the file itself (h5repack)")
    if properties.get_external_count():
        raise DataError(f"{where} is kept in another file (external storage): it must be in the file itself (h5repack)")
    for position in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(position)
        if code not in _FILTERS or not h5py.h5z.filter_avail(code):
            label = _FILTERS.get(code) or name.decode(errors="replace") or "unnamed"
            raise DataError(f"{where} needs the HDF5 filter {code} ({label!r}), not built in: h5repack it to gzip")


def check_extent(array: h5py.Dataset, where: str) -> None:
    """Refuse a data set whose declared shape is more than its part of the file can hold."""
    declared = math.prod(array.shape) * array.dtype.itemsize
    stored = array.id.get_storage_size()
    properties = array.id.get_create_plist()
    refusal = DataError(f"{where} declares {declared} bytes but the file holds {stored}: it was not written to the end")
    if properties.get_layout() != h5py.h5d.CHUNKED:
        offset = array.id.get_offset()  # None: compact, inside the header, or never written
        beyond = offset is not None and offset + declared > array.file.id.get_filesize()
        if stored < declared or beyond:
            raise refusal
        return
    chunk = properties.get_chunk()
    chunks = math.prod(-(-extent // size) for extent, size in zip(array.shape, chunk, strict=True))
    if array.id.get_num_chunks() < chunks:
        raise refusal
    filters = [properties.get_filter(position)[0] for position in range(properties.get_nfilters())]
    if filters and math.prod(chunk) * array.dtype.itemsize > CHUNK_BYTES_AT_MOST:
        raise DataError(f"{where} is packed in chunks of {chunk}: a chunk must be at most 1 GiB (h5repack)")
    ratio = DEFLATE_RATIO if filters else 1
    if declared > max(_HARMLESS_BYTES if filters else 0, ratio * stored):
        raise refusal


def is_hdf5(path: str | Path) -> bool:
    """Tell whether a file is HDF5, with a user block before it or not; StorageError where it cannot be read."""
    with _opened(os.fspath(path)) as opened, named_failures(os.fspath(path), "cannot be read"):
        return opened.is_hdf5()


def fixed_length(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return UTF-8 strings of one length: no variable-length heap, and any HDF5 reader shows them."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))
