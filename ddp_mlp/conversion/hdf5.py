"""The splits of HDF5 files, with labels as people write them: numbers, text, one-hot, in a row or a column."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion.array_targets import ArrayTargets, targets_in
from ddp_mlp.conversion.source import ForeignRows, Piece, rows_at_once
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.groups import nearly_splits
from ddp_mlp.storage.reader import Reader

Y_ROWS = 1 << 16
"""Rows of y that are looked at together."""


def hdf5_splits(info: DatasetInfo, targets: tuple[str, ...] = ()) -> "dict[str, Hdf5Rows]":
    """Return the splits of a data set, whose y is in all of them what it is in the first that has one.

    `targets` are the names of numbers, of --target. Raises ConfigError or DataError for y that could be several things.
    """
    how = None
    labelled = next((split for split, found in info.splits.items() if found.labelled), None)
    if labelled is not None:
        own = info.y_name.rpartition("/")[2]
        given = targets or info.targets or ()
        how = targets_in(info.path, own, y_pieces(info, labelled), given, info.classes is not None)
    found = {split: Hdf5Rows(info, split, how) for split in info.splits}
    next(iter(found.values())).said += tuple(nearly_splits(info))
    return found


def y_pieces(info: DatasetInfo, split: str) -> Iterator[NDArray[Any]]:
    """Yield all of y, whatever it is, some rows at a time."""
    with Reader(info, split) as reader:
        for lo in range(0, reader.rows, Y_ROWS):
            yield reader.any_y(lo, min(lo + Y_ROWS, reader.rows))


class Hdf5Rows(ForeignRows):
    """One split of HDF5 files; `how` tells what y is."""

    def __init__(self, info: DatasetInfo, split: str, how: ArrayTargets | None) -> None:
        self.name = f"{info.path}, {split}"
        self._info, self._split, self.how = info, split, how if info.splits[split].labelled else None
        self.features, self.columns, self.feature_shape = info.features, info.names, info.feature_shape
        self.classes, self.recipe = info.classes, info.recipe
        self.labelled = self.how is not None and self.how.kind != "numbers"
        if self.how is not None:
            self.targets, self.said = self.how.names, self.how.said
            if info.splits[split].odd:
                self.said += (f"{info.path}: {info.y_name!r} is {info.splits[split].odd}",)
        self.weighted = info.splits[split].weighted
        dtype = np.dtype(info.splits[split].dtype)
        self.float_dtype = dtype if dtype.kind == "f" else np.dtype(np.float32)

    def pieces(self) -> Iterator[Piece]:
        with Reader(self._info, self._split) as reader:
            size = rows_at_once(self.features * reader.dtype.itemsize)
            for lo in range(0, reader.rows, size):
                hi = min(lo + size, reader.rows)
                X, w = reader.X(lo, hi), reader.w(lo, hi) if self.weighted else None
                if self.how is None:
                    yield Piece(X, w=w)
                else:
                    yield self.how.piece(X, reader.any_y(lo, hi), w, self.name, lo)
