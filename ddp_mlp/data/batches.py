"""Which rows make up each batch, and how they get from memory into a group's buffers.

Invariants:
- the order of an epoch is a function of (seed, epoch) and of how `shuffle` is set: not of P, nor of how rows are read;
- the batches of an epoch cover every row once; the last one is as short as it must be, and is used;
- X keeps the file's dtype in memory, one copy per node; it becomes the run's dtype on its way into the buffer.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, by_all_ranks
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, Reader, Survey, merge_surveys, survey_block, survey_blocks
from ddp_mlp.summing.tree import cut

WINDOW = 16
"""Blocks whose rows are mixed with one another under shuffle = blocks."""


class Batch(NamedTuple):
    """The rows of one step, over all ranks."""

    epoch: int
    step: int
    """Counted from 1, over the whole run."""
    rows: NDArray[np.int64]
    """(m,): row numbers, as the source that the batch is gathered from counts them, in the order of the batch."""


def epoch_order(m: int, seed: int, epoch: int, shuffle: str, block_rows: int) -> NDArray[np.int64]:
    """Return the order (m,) in which an epoch takes the rows [0, m).

    "rows": any order. "blocks": blocks of block_rows consecutive rows in any order, then rows mixed within each window
    of WINDOW blocks, so that a window's rows come from a few contiguous places. "none": as they are.
    """
    if shuffle == "none":
        return np.arange(m)
    if shuffle == "rows":
        return generator(seed, Purpose.ORDER, epoch).permutation(m)
    return np.concatenate([window.rows() for window in windows(m, seed, epoch, shuffle, block_rows)])


@dataclass(frozen=True)
class Window:
    """Some blocks of rows that an epoch takes one after the other, their rows mixed or as they are."""

    blocks: list[range]
    draw: tuple[int, int, int] | None
    """(seed, epoch, number) of the draw that mixes the rows; None for rows as they are."""

    @property
    def size(self) -> int:
        """The number of rows."""
        return sum(map(len, self.blocks))

    def positions(self) -> NDArray[np.int64]:
        """Return the order (size,) in which the rows are taken, counted through the blocks."""
        if self.draw is None:
            return np.arange(self.size)
        seed, epoch, number = self.draw
        return generator(seed, Purpose.ORDER, epoch, number).permutation(self.size)

    def rows(self) -> NDArray[np.int64]:
        """Return the row numbers (size,) in the order in which they are taken."""
        return np.concatenate([np.arange(block.start, block.stop) for block in self.blocks])[self.positions()]


def windows(m: int, seed: int, epoch: int, shuffle: str, block_rows: int) -> Iterator[Window]:
    """Yield the windows of WINDOW blocks (fewer in the last) that make up an epoch of m rows; not for "rows"."""
    count = math.ceil(m / block_rows)
    mixed = shuffle == "blocks"
    order = generator(seed, Purpose.ORDER, epoch).permutation(count) if mixed else np.arange(count)
    for number, start in enumerate(range(0, count, WINDOW), start=1):
        starts = (int(i) * block_rows for i in order[start : start + WINDOW])
        blocks = [range(lo, min(lo + block_rows, m)) for lo in starts]
        yield Window(blocks, (seed, epoch, number) if mixed else None)


def stratified(y: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (the rows that stay, the rows set apart), both ascending: `fraction` of every class is set apart."""
    apart = np.zeros(len(y), bool)
    for label in range(int(y.max()) + 1):
        members = np.flatnonzero(y == label)
        drawn = generator(seed, Purpose.SPLIT, label).permutation(members)
        apart[drawn[: round(fraction * len(members))]] = True
    return np.flatnonzero(~apart), np.flatnonzero(apart)


class HeldOut(NamedTuple):
    """A split's rows in two parts; the row numbers are ascending, one copy per node."""

    stay: NDArray[np.int64]
    apart: NDArray[np.int64]
    class_counts: NDArray[np.int64]
    """(classes,): of the rows that stay."""


def hold_out(info: DatasetInfo, fraction: float, seed: int, classes: int, communicator: Communicator) -> HeldOut:
    """Set `fraction` of every class of train apart, as `stratified` does. Collective.

    Raises DataError or StorageError on all ranks.
    """
    parts: list[NDArray[np.int64]] = []
    with communicator.in_agreement():
        if communicator.local_rank == 0:
            with Reader(info, "train") as reader:
                y = reader.y(0, reader.rows)
            stay, apart = stratified(y, fraction, seed)
            parts = [stay, apart, np.bincount(y[stay], minlength=classes)]
    counts = communicator.broadcast(parts[-1] if parts else None)
    shared: list[NDArray[np.int64]] = []
    for i in range(2):
        array = communicator.share_one(len(parts[i]) if parts else 0, np.dtype(np.int64))
        if parts:
            array[...] = parts[i]
        shared.append(array)
    communicator.node_barrier()
    return HeldOut(shared[0], shared[1], counts)  # type: ignore[arg-type] # rank 0 leads its node


def survey(
    info: DatasetInfo, split: str, classes: int | None, communicator: Communicator, progress: bool = False
) -> Survey:
    """Check every row of a split, and return its statistics and fingerprint: the same for every P. Collective.

    Each rank surveys its share of the blocks; with `progress`, rank 0 shows how far it is where stderr is a terminal.
    Raises DataError on all ranks for a row that cannot be used.
    """
    from tqdm import tqdm

    blocks = survey_blocks(info.splits[split].rows)
    share = cut(len(blocks), communicator.size)
    mine = blocks[share[communicator.rank] : share[communicator.rank + 1]]
    shown = None if progress and communicator.rank == 0 else True
    found = []
    with communicator.in_agreement(), Reader(info, split) as reader:
        for lo, hi in tqdm(mine, desc=f"checking {split}", leave=False, delay=1, disable=shown):
            found.append(survey_block(reader, lo, hi, classes))
    everything = [block for part in communicator.allgather(found) for block in part]
    return communicator.on_rank_0(merge_surveys, everything)


@dataclass(frozen=True)
class Standardization:
    """The map x ↦ (x − mean) / scale of every feature; both (n_0,) float64. Identity where `used` is false."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    used: bool = True


class Source(Protocol):
    """Where examples come from."""

    m: int
    """How many there are."""

    def gather(self, rows: NDArray[np.int64], group: Group) -> None:
        """Put the rows (m,) and their labels and weights into the group's buffers, standardized. Local."""


class MemorySource:
    """Rows in memory, ready to be computed with: those of a split, or any arrays. Local.

    X (m, n_0) is C-contiguous, of any real dtype; y (m,) int64; w (m,) float64, or None where every example weighs 1.
    The arrays are kept, not copied. `dtype` is that of the groups the rows go to.
    """

    def __init__(
        self,
        X: NDArray[Any],
        y: NDArray[np.int64],
        w: NDArray[np.float64] | None,
        dtype: np.dtype[Any],
        standardization: Standardization,
    ) -> None:
        self.X, self.y, self.w = X, y, w
        self.m = len(X)
        self._dtype = dtype
        # Subtracting in the wider of the two dtypes keeps large offsets exact, such as 64-bit time stamps.
        wide = np.result_type(X.dtype, dtype)
        self._standardize = standardization.used
        self._mean, self._scale = standardization.mean.astype(wide), standardization.scale.astype(dtype)
        self._raw: dict[int, NDArray[Any]] = {}
        self._class_weight: NDArray[np.float64] | None = None

    def weighted_by_class(self, class_weight: NDArray[np.float64]) -> Self:
        """Return a view of this source in which an example weighs class_weight[y] (classes,) times its own w. Local."""
        weighted = copy.copy(self)
        weighted._class_weight = class_weight
        return weighted

    def gather(self, rows: NDArray[np.int64], group: Group) -> None:
        """Put the rows (m,) and their labels and weights into the group's buffers, standardized. Local."""
        X = group.A[0].whole.T  # (m, n_0), C-ordered
        straight = self.X.dtype == X.dtype
        raw = X if straight else self._raw_buffer(X)
        self.X.take(rows, axis=0, out=raw, mode="clip")
        if self._standardize:
            np.subtract(raw, self._mean, out=X, casting="same_kind")
            np.divide(X, self._scale, out=X)
        elif not straight:
            X[...] = raw
        self.y.take(rows, out=group.y, mode="clip")
        if self.w is not None or self._class_weight is not None:
            if group.w is None:
                group.w = np.empty(group.m, self._dtype)
            group.w[...] = 1 if self.w is None else self.w[rows]
            if self._class_weight is not None:
                group.w *= self._class_weight[group.y]
        else:
            group.w = None

    def _raw_buffer(self, X: NDArray[Any]) -> NDArray[Any]:
        m = len(X)
        if m not in self._raw:
            self._raw[m] = np.empty(X.shape, self.X.dtype)
        return self._raw[m]


def load_split(
    info: DatasetInfo, split: str, communicator: Communicator, dtype: np.dtype[Any], standardization: Standardization
) -> MemorySource:
    """Read a split into memory, one copy per node, each rank its share of the rows. Collective.

    Raises DataError or StorageError on all ranks.
    """
    m, n = info.splits[split].rows, info.features
    X = communicator.share_one(m * n, np.dtype(info.splits[split].dtype)).reshape(m, n)
    y: NDArray[np.int64] = communicator.share_one(m, np.dtype(np.int64))
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
    return MemorySource(X, y, w, dtype, standardization)


Take = Callable[[int], NDArray[np.int64]]
"""Returns so many of an epoch's next rows, as the source counts them. Collective."""


class Batches(ABC):
    """The batches of a run, epoch after epoch, from any step on."""

    def __init__(self, m: int, batch_size: int, earlier: tuple[int, int]) -> None:
        """`earlier` are the epochs and steps that went before, with other rows: numbers go on from there."""
        if m == 0:
            raise by_all_ranks(DataError("no rows are left to train on: lower valid_fraction"))
        self.m = m
        self.batch_size = min(batch_size, m)
        self.steps_per_epoch = math.ceil(m / self.batch_size)
        self._earlier_epochs, self._earlier_steps = earlier

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 0) but the first `done`. Collective: every rank iterates."""
        with self._order(self._earlier_epochs + epoch, done * self.batch_size) as take:
            for i in range(done, self.steps_per_epoch):
                rows = take(min(self.batch_size, self.m - i * self.batch_size))
                yield Batch(epoch, self._earlier_steps + epoch * self.steps_per_epoch + i + 1, rows)

    @abstractmethod
    def _order(self, epoch: int, start: int) -> AbstractContextManager[Take]:
        """Take rows in the order of an epoch, from its row number `start` on. Collective."""

    def close(self) -> None:  # noqa: B027 # not abstract: rows in memory leave nothing to stop
        """Stop what reads ahead, if anything does. Local."""


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
        earlier: tuple[int, int] = (0, 0),
    ) -> None:
        """`rows` are the row numbers to train on, or how many there are if that is all of them."""
        super().__init__(rows if isinstance(rows, int) else len(rows), batch_size, earlier)
        self._communicator = communicator
        self._subset = None if isinstance(rows, int) else rows
        self._shuffling = (seed, shuffle, block_rows)
        self._shared = communicator.share_one(self.m, np.dtype(np.int64))

    @contextmanager
    def _order(self, epoch: int, start: int) -> Iterator[Take]:
        self._communicator.node_barrier()  # nobody still reads the last epoch's order
        if self._communicator.local_rank == 0:
            seed, shuffle, block_rows = self._shuffling
            order = epoch_order(self.m, seed, epoch, shuffle, block_rows)
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
