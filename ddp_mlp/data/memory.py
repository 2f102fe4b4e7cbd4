"""Rows that are all in memory, one copy per node.

Invariants:
- X keeps the file's dtype in memory; it becomes the run's dtype on its way into the buffer.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.batches import Batches, Source, Take
from ddp_mlp.data.order import epoch_order
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.buffers import CACHED, Group
from ddp_mlp.nn.standardization import Standardization, Standardizer
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader
from ddp_mlp.summing.tree import cut


class MemorySource(Source):
    """Rows in memory, ready to be computed with: those of a split, or any arrays. Local.

    X (m, n_0) is C-contiguous, of any real dtype; y (m,) int64 has class numbers, or y (m, n_T) float64 numbers, which
    `targets` maps; w (m,) float64, or None where every example weighs 1. The arrays are kept, not copied. `dtype` is
    that of the groups the rows go to.
    """

    def __init__(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        w: NDArray[np.float64] | None,
        dtype: np.dtype[Any],
        standardization: Standardization,
        targets: Standardization | None = None,
    ) -> None:
        self.X, self.y, self.w = X, y, w
        self.m = len(X)
        self._dtype = dtype
        self._standardization, self._is_rounded = standardization, False
        self._standardizer = Standardizer(standardization, X.dtype, dtype)
        self._targets = None if targets is None else Standardizer(targets, y.dtype, dtype)
        self._raw: NDArray[Any] | None = None
        self._class_weight: NDArray[np.float64] | None = None

    def weighted_by_class(self, class_weight: NDArray[np.float64]) -> Self:
        """Return a view of this source in which an example weighs class_weight[y] (classes,) times its own w. Local."""
        weighted = copy.copy(self)
        weighted._class_weight = class_weight
        return weighted

    def rounded(self, X: NDArray[np.float32]) -> Self:
        """Return this source with its inputs X (m, n_0) standardized and rounded as a portable pass has them. Local."""
        identity = replace(self._standardization, used=False)
        rounded = copy.copy(self)
        rounded.X, rounded._raw, rounded._is_rounded = X, None, True
        rounded._standardizer = Standardizer(identity, X.dtype, self._dtype)
        return rounded

    def mapped(
        self, dtype: np.dtype[Any], standardization: Standardization, targets: Standardization | None = None
    ) -> Self:
        """Return a view of this source's rows for groups of another dtype, with other maps. Local."""
        return type(self)(self.X, self.y, self.w, dtype, standardization, targets)

    def gather(self, rows: NDArray[np.int64], group: Group) -> None:
        """Put the rows (m,) and their labels and weights into the group's buffers, standardized. Local."""
        self.inputs(rows, group.A[0].whole.T)
        group.is_rounded = self._is_rounded
        if self.y.ndim == 1:
            self.y.take(rows, out=group.y, mode="clip")
        elif self._targets is None:
            group.Y.whole.T[...] = self.y[rows]
        else:
            self._targets.apply(self.y[rows], group.Y.whole.T)
        if self.w is not None or self._class_weight is not None:
            if group.w is None:
                group.w = np.empty(group.m, self._dtype)
            group.w[...] = 1 if self.w is None else self.w[rows]
            if self._class_weight is not None:
                group.w *= self._class_weight[group.y]
        else:
            group.w = None

    def inputs(self, rows: NDArray[np.int64], X: NDArray[Any]) -> None:
        """Put the rows' inputs, standardized, into X (m, n_0), C-ordered and of the groups' dtype. Local."""
        if self.X.dtype == X.dtype:
            self._map(rows, X, X)
            return
        raw = self._raw_rows(X.shape[1])  # through a few rows at a time, which stay in cache
        for lo in range(0, len(X), len(raw)):
            some = X[lo : lo + len(raw)]
            self._map(rows[lo : lo + len(raw)], raw[: len(some)], some)

    def _map(self, rows: NDArray[np.int64], raw: NDArray[Any], X: NDArray[Any]) -> None:
        """Put rows (m,) into raw (m, n_0), and their standardized values into X (m, n_0), which may be the same."""
        self.X.take(rows, axis=0, out=raw, mode="clip")
        self._standardizer.apply(raw, X)

    def _raw_rows(self, n: int) -> NDArray[Any]:
        """Return room for some rows (k, n) as they are stored."""
        if self._raw is None:
            self._raw = np.empty((max(1, CACHED // n), n), self.X.dtype)
        return self._raw


def load_split(
    info: DatasetInfo,
    split: str,
    communicator: Communicator,
    dtype: np.dtype[Any],
    standardization: Standardization,
    targets: Standardization | None = None,
) -> MemorySource:
    """Read a split into memory, one copy per node, each rank its share of the rows. Collective.

    Raises DataError or StorageError on all ranks.
    """
    m, n = info.splits[split].rows, info.features
    X = communicator.share_one(m * n, np.dtype(info.splits[split].dtype)).reshape(m, n)
    y = share_targets(info, m, communicator)
    w = communicator.share_one(m, np.dtype(np.float64)) if info.splits[split].weighted else None
    here = communicator.nodes[communicator.node]
    lo, hi = list(pairwise(cut(m, len(here))))[communicator.local_rank]
    with communicator.in_agreement(), Reader(info, split) as reader:
        for start, stop in _pieces(lo, hi, X.itemsize * n):
            reader.X(start, stop, X[start:stop])
        y[lo:hi] = reader.y(lo, hi)
        if w is not None:
            w[lo:hi] = reader.w(lo, hi)
    communicator.node_barrier()
    return MemorySource(X, y, w, dtype, standardization, targets)


def share_targets(info: DatasetInfo, rows: int, communicator: Communicator) -> NDArray[Any]:
    """Return room for the targets of so many rows as they are read, one copy per node. Collective."""
    shape = info.target_shape(rows)
    shared: NDArray[Any] = communicator.share_one(math.prod(shape), info.target_dtype)
    return shared.reshape(shape)


class MemoryBatches(Batches):
    """Batches of rows that are all in memory. Collective to make."""

    def __init__(
        self,
        communicator: Communicator,
        rows: NDArray[np.int64] | int,
        *,
        batch_size: int,
        seed: int,
        shuffle: str,
        block_rows: int,
        arithmetic: Arithmetic = NATIVE,
        earlier: tuple[int, int] = (0, 0),
    ) -> None:
        """`rows` are the row numbers to train on, or how many there are if that is all of them."""
        super().__init__(rows if isinstance(rows, int) else len(rows), batch_size, earlier)
        self._communicator = communicator
        self._subset = None if isinstance(rows, int) else rows
        self._shuffling = (seed, shuffle, block_rows, arithmetic)
        self._shared = communicator.share_one(self.m, np.dtype(np.int64))

    @contextmanager
    def _order(self, epoch: int, start: int) -> Iterator[Take]:
        self._communicator.node_barrier()  # nobody still reads the last epoch's order
        if self._communicator.local_rank == 0:
            seed, shuffle, block_rows, arithmetic = self._shuffling
            order = epoch_order(self.m, seed, epoch, shuffle, block_rows, arithmetic)
            self._shared[...] = order if self._subset is None else self._subset[order]
        self._communicator.node_barrier()

        def take(count: int) -> NDArray[np.int64]:
            nonlocal start
            start += count
            return self._shared[start - count : start]

        yield take


def _pieces(lo: int, hi: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut [lo, hi) into reads of at most 64 MiB."""
    step = max(1, (64 << 20) // row_bytes)
    return ((start, min(start + step, hi)) for start in range(lo, hi, step))
