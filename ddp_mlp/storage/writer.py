"""Data-set files, written row by row.

Kept here: a file appears under its name when it is whole and on the disk, or not at all.
"""

import math
import os
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import StorageError
from ddp_mlp.storage.atomic import put_in_place
from ddp_mlp.storage.hdf5 import fixed_length, one_line
from ddp_mlp.units import byte_size


class DatasetWriter:
    """A new data-set file, filled split by split in row order; a context manager. Local: no MPI.

    X is (rows, features) in `dtype`, y (rows,) the smallest unsigned integer for `classes` classes, or where there are
    `targets` (rows, targets) float64, w float64 where `weighted`; all contiguous. `names` become the root attribute
    `classes`, `targets` the root attribute of that name, `attributes` further ones (texts, integers, lists of texts).
    The file appears under `path` when the `with` block ends without an error, whole and on the disk, in place of what
    was there; otherwise nothing stays behind.

    Raises StorageError when the disk cannot hold or take it.
    """

    def __init__(
        self,
        path: str | Path,
        rows: Mapping[str, int],
        features: int,
        dtype: np.dtype[Any],
        classes: int | None,
        weighted: bool = False,
        names: Sequence[str] | None = None,
        attributes: Mapping[str, str | int | Sequence[str] | Sequence[int]] | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(f".{self.path.name}.tmp-{os.getpid()}")
        self._rows = dict(rows)
        self._written = dict.fromkeys(rows, 0)
        labelled = bool(targets) or classes is not None
        target_dtype = np.dtype(np.float64) if targets or classes is None else np.min_scalar_type(classes - 1)
        target_shape = (len(targets),) if targets else ()
        target_bytes = target_dtype.itemsize * math.prod(target_shape) * labelled
        needed = sum(rows.values()) * (features * dtype.itemsize + target_bytes + 8 * weighted)
        with self._failures():
            free = shutil.disk_usage(self.path.parent).free
            if needed > free:
                raise StorageError(
                    f"{self.path}: needs {byte_size(needed)}, and its folder's disk has {byte_size(free)} left"
                )
            allowed, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
            if allowed != resource.RLIM_INFINITY and needed > allowed:
                raise StorageError(
                    f"{self.path}: needs {byte_size(needed)}, and ulimit -f lets a file have {byte_size(allowed)}"
                )
            # The format of HDF5 1.8: its attributes may be longer than 64 KiB, and every library of today reads it.
            self._file = h5py.File(self._part, "w", libver=("v108", "v108"))
        with self._failures(), self._or_nothing():
            for split, count in rows.items():
                self._file.create_dataset(f"{split}/X", (count, features), dtype)
                if labelled:
                    self._file.create_dataset(f"{split}/y", (count, *target_shape), target_dtype)
                if weighted:
                    self._file.create_dataset(f"{split}/w", (count,), np.float64)
            if names is not None:
                self._file.attrs["classes"] = fixed_length(names)
            if targets:
                self._file.attrs["targets"] = fixed_length(targets)
            for name, value in (attributes or {}).items():
                self._file.attrs[name] = _attribute(value)

    def append(self, split: str, X: NDArray[Any], y: NDArray[Any] | None, w: NDArray[Any] | None = None) -> None:
        """Write the next rows of `split`: X (k, features), y (k,) or (k, targets) and, in a weighted file, w (k,)."""
        lo = self._written[split]
        hi = lo + len(X)
        if hi > self._rows[split]:
            raise IndexError(f"{split} was to have {self._rows[split]} rows")
        if lo < hi:
            with self._failures():
                for name, values in (("X", X), ("y", y), ("w", w)):
                    if values is not None:
                        self._file[split][name][lo:hi] = values
        self._written[split] = hi

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._failures(), self._or_nothing():
            self._file.close()
            if error is None:
                if self._written != self._rows:
                    raise ValueError(f"wrote {self._written} of {self._rows} rows")
                put_in_place(self._part, self.path)
        if error is not None:
            self._part.unlink(missing_ok=True)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py raises RuntimeError for a disk that is full at the end
            raise StorageError(f"{self.path}: cannot be written: {one_line(error)}") from error

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Leave no file behind when the block fails."""
        try:
            yield
        except BaseException:
            self._file.close()
            self._part.unlink(missing_ok=True)
            raise


def _attribute(value: str | int | Sequence[str] | Sequence[int]) -> Any:
    if isinstance(value, int | str):
        return value
    if all(isinstance(entry, int) for entry in value):
        return np.array(value, np.int64)
    return fixed_length([str(entry) for entry in value])
