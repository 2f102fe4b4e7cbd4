"""The splits of an HDF5 file."""

from collections.abc import Iterator

import numpy as np

from ddp_mlp.conversion.source import ForeignRows, Piece, distinct, rows_at_once
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader


class Hdf5Rows(ForeignRows):
    """One split of an HDF5 file."""

    def __init__(self, info: DatasetInfo, split: str) -> None:
        self.name = f"{info.path}, {split}"
        self._info, self._split = info, split
        self.features, self.columns, self.feature_shape = info.features, info.names, info.feature_shape
        self.classes, self.labelled = info.classes, info.splits[split].labelled
        self.weighted = info.splits[split].weighted
        dtype = np.dtype(info.splits[split].dtype)
        self.float_dtype = dtype if dtype.kind == "f" else np.dtype(np.float32)

    def pieces(self) -> Iterator[Piece]:
        with Reader(self._info, self._split) as reader:
            size = rows_at_once(self.features * reader.dtype.itemsize)
            for lo in range(0, reader.rows, size):
                hi = min(lo + size, reader.rows)
                labels, codes = distinct(reader.y(lo, hi), self.name, lo) if self.labelled else ((), None)
                yield Piece(reader.X(lo, hi), labels, codes, reader.w(lo, hi) if self.weighted else None)
