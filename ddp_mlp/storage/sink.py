"""A new file as HDF5 writes it, whose first failure is kept: the library crashes at exit where one fails to close.

Invariant: to HDF5 every write succeeds; `check` raises what the first one that did not was refused with.
"""

from pathlib import Path
from typing import Any

import h5py


class Sink:
    """A file object for h5py: what comes after a failure is dropped. Local."""

    def __init__(self, path: Path) -> None:
        """Make the file anew. Raises OSError."""
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first failure, an OSError, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write the bytes where the file stands."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self._error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self._error = error
        return size

    def readinto(self, buffer: Any) -> int:
        """Read bytes from where the file stands; zeros, where it has none."""
        whole = memoryview(buffer).cast("B")
        found = self._file.readinto(whole) or 0
        whole[found:] = bytes(len(whole) - found)
        return len(whole)

    def read(self, size: int) -> bytes:
        """Return bytes from where the file stands: what h5py knows a file object by."""
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Let the file stand somewhere else."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return where the file stands."""
        return self._file.tell()

    def truncate(self, size: int) -> int:
        """Give the file its length."""
        if self._error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class NewFile:
    """A new HDF5 file in the format of 1.8, which every library of today reads, and may have long attributes. Local."""

    def __init__(self, path: Path) -> None:
        """Begin the file. Raises OSError, as all methods do."""
        self._sink = Sink(path)
        self.root = h5py.File(self._sink, "w", libver=("v108", "v108"))

    def check(self) -> None:
        """Raise the first failure there was."""
        self._sink.check()

    def close(self) -> None:
        """Write what waits, and close the file; raises the first failure there was, the first time."""
        if self.root:
            self.root.close()
            self._sink.close()
            self._sink.check()
