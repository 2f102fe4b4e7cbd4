"""Predictions in a file, HDF5 or CSV, written row by row in the order of the input.

The file appears under its name when it is whole and on the disk, or not at all. Its bytes are a function of the
predictions alone, however many rows are appended at a time.

    OUT.h5     label (m,) class numbers, probability (m, n_L); root attribute classes, their names
    OUT.csv    label,<class>,<class>,…: the name of the class, and each class's probability in digits that are exact

Of numbers, in their own units:

    OUT.h5     value (m, n_L) float64; root attribute targets, the names of the outputs
    OUT.csv    <target>,<target>,…

Of labels, each yes or no: OUT.h5 has label (m, n_L) of 0 and 1 and probability (m, n_L), OUT.csv probabilities.

An ensemble's file has in addition, of the members' probabilities or numbers, standard deviation and some quantiles:

    OUT.h5     deviation (m, n_L), quantile (m, n_L, Q); attribute levels of the latter
    OUT.csv    <class> deviation,…, then <class> at <level>,… for each class and level
"""

import csv
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError, StorageError
from ddp_mlp.storage.atomic import put_in_place
from ddp_mlp.storage.hdf5 import fixed_length, one_line
from ddp_mlp.storage.sink import NewFile


class PredictionsWriter:
    """A new file of predictions, there when `finish` returns; a context manager. Local; methods raise StorageError."""

    def __init__(
        self,
        path: Path,
        rows: int,
        classes: Sequence[str],
        dtype: np.dtype[Any],
        levels: Sequence[float] = (),
        loss: str = "cross_entropy",
    ) -> None:
        """Begin the file; its suffix, .h5 or .csv, is its format. Raises ConfigError for any other.

        `levels` are those of an ensemble's quantiles; none for one network. `loss` says whether the outputs of the
        names `classes` are classes, labels or numbers.
        """
        self._path = path
        self._part = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        try:
            if path.suffix in (".h5", ".hdf5"):
                self._format: _HDF5 | _CSV | _HDF5Numbers | _CSVNumbers
                if loss == "cross_entropy":
                    self._format = _HDF5(self._part, rows, classes, dtype, levels)
                else:
                    self._format = _HDF5Numbers(self._part, rows, classes, dtype, loss, levels)
            elif path.suffix == ".csv":
                is_class = loss == "cross_entropy"
                self._format = (
                    _CSV(self._part, classes, dtype, levels) if is_class else _CSVNumbers(self._part, classes, levels)
                )
            else:
                raise ConfigError(f"{path}: must end in .h5 or .csv, which is the format to write")
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise self._refusal(error) from error

    def append(self, *found: NDArray[Any]) -> None:
        """Write the next rows: class numbers (k,) and probabilities (k, n_L).

        Of numbers, and of labels' probabilities, these alone: (k, n_L). Of an ensemble also the standard deviations
        (k, n_L) and the quantiles (k, n_L, Q).
        """
        try:
            self._format.append(*found)
        except (OSError, RuntimeError) as error:
            raise self._refusal(error) from error

    def finish(self) -> None:
        """Give the file its name, now that all rows are there."""
        try:
            self._format.close()
            put_in_place(self._part, self._path)
        except (OSError, RuntimeError) as error:
            raise self._refusal(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind of a file that was not finished."""
        with suppress(OSError, RuntimeError):
            self._format.close()
        self._part.unlink(missing_ok=True)

    def _refusal(self, error: Exception) -> StorageError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        return StorageError(f"{self._path}: cannot be written: {reason}")


class _HDF5Numbers:
    def __init__(
        self,
        path: Path,
        rows: int,
        names: Sequence[str],
        dtype: np.dtype[Any],
        loss: str,
        levels: Sequence[float],
    ) -> None:
        shape = rows, len(names)
        self._file = NewFile(path)
        root = self._file.root
        root.attrs["targets"] = fixed_length(names)
        kinds: dict[str, np.dtype[Any]] = {"value": np.dtype(np.float64)}
        if loss == "binary_cross_entropy":
            kinds = {"label": np.dtype(np.uint8), "probability": dtype}
        self._arrays = {name: root.create_dataset(name, shape, kind) for name, kind in kinds.items()}
        self._spread = _spread(root, shape, list(kinds.values())[-1], levels)
        self._written = 0

    def append(self, found: NDArray[Any], *spread: NDArray[Any]) -> None:
        rows = slice(self._written, self._written + len(found))
        for name, array in self._arrays.items():
            array[rows] = found > 0.5 if name == "label" else found
        for dataset, part in zip(self._spread, spread, strict=True):
            dataset[rows] = part
        self._written = rows.stop
        self._file.check()

    def close(self) -> None:
        self._file.close()


def _spread(
    file: h5py.File, shape: tuple[int, int], dtype: np.dtype[Any], levels: Sequence[float]
) -> list[h5py.Dataset]:
    """Return the data sets of an ensemble's deviation and quantiles; none for one network."""
    if not levels:
        return []
    found = [file.create_dataset("deviation", shape, dtype)]
    found.append(file.create_dataset("quantile", (*shape, len(levels)), dtype))
    found[1].attrs["levels"] = np.array(levels)
    return found


def _spread_names(names: Sequence[str], levels: Sequence[float]) -> list[str]:
    """Return the columns of an ensemble's deviation and quantiles; none for one network."""
    deviations = [f"{name} deviation" for name in names] if levels else []
    return deviations + [f"{name} at {level:g}" for name in names for level in levels]


class _CSVNumbers:
    def __init__(self, path: Path, names: Sequence[str], levels: Sequence[float]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        columns = [_harmless(name) for name in (*names, *_spread_names(names, levels))]
        csv.writer(self._file, lineterminator="\n").writerow(columns)
        self._row = ",".join(["%.17g"] * len(columns))  # as many digits as give every number back

    def append(self, found: NDArray[Any], *spread: NDArray[Any]) -> None:
        numbers = np.concatenate([found, *(part.reshape(len(found), -1) for part in spread)], axis=1)
        self._file.writelines(f"{self._row % tuple(row)}\n" for row in numbers.tolist())

    def close(self) -> None:
        self._file.close()


class _HDF5:
    def __init__(
        self, path: Path, rows: int, classes: Sequence[str], dtype: np.dtype[Any], levels: Sequence[float]
    ) -> None:
        self._file = NewFile(path)
        root = self._file.root
        root.attrs["classes"] = fixed_length(classes)
        self._label = root.create_dataset("label", (rows,), np.min_scalar_type(len(classes) - 1))
        self._probability = root.create_dataset("probability", (rows, len(classes)), dtype)
        self._spread = _spread(root, (rows, len(classes)), dtype, levels)
        self._written = 0

    def append(self, labels: NDArray[np.int64], probabilities: NDArray[Any], *spread: NDArray[Any]) -> None:
        rows = slice(self._written, self._written + len(labels))
        self._label[rows] = labels
        self._probability[rows] = probabilities
        for dataset, part in zip(self._spread, spread, strict=True):
            dataset[rows] = part
        self._written = rows.stop
        self._file.check()

    def close(self) -> None:
        self._file.close()


class _CSV:
    def __init__(self, path: Path, classes: Sequence[str], dtype: np.dtype[Any], levels: Sequence[float]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        spread = _spread_names(classes, levels)
        names = [_harmless(name) for name in (*classes, *spread)]
        csv.writer(self._file, lineterminator="\n").writerow(["label", *names])
        self._names = [_quoted(_harmless(name)) for name in classes]
        digits = {4: 9, 8: 17}[dtype.itemsize]  # so many give every number of the type back (IEEE 754, §5.12.2)
        self._row = ",".join([f"%.{digits}g"] * (len(classes) + len(spread)))

    def append(self, labels: NDArray[np.int64], probabilities: NDArray[Any], *spread: NDArray[Any]) -> None:
        numbers = np.concatenate([probabilities, *(part.reshape(len(labels), -1) for part in spread)], axis=1)
        rows = zip(labels.tolist(), numbers.tolist(), strict=True)
        self._file.writelines(f"{self._names[label]},{self._row % tuple(row)}\n" for label, row in rows)

    def close(self) -> None:
        self._file.close()


def _harmless(name: str) -> str:
    """Return a class's name with a ' before it where a spreadsheet would run it as a formula."""
    runs = name[:1] in ("=", "@", "\t", "\r") or (name[:1] in ("+", "-") and not _is_number(name))
    return f"'{name}" if runs else name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _quoted(name: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([name, ""])
    return line.getvalue()[:-1]
