"""Rows that stay in the file: read ahead, window by window, to train on; as they are asked for, to evaluate on.

Invariants:
- the order is that of `order.windows`, and a row is turned into numbers by `MemorySource`: no bit depends on whether
  rows are streamed;
- a node holds `ring_slots` windows of `train`, however large the file is; every rank of it reads its share of a window;
- a slot of the ring is written to only after every rank has been through its last batch;
- what goes wrong in a thread that reads is raised on all ranks, where they next take rows.
"""

import copy
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.batches import Batches, Source, Take
from ddp_mlp.data.memory import MemorySource, share_targets
from ddp_mlp.data.order import WINDOW, Window, windows
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader
from ddp_mlp.summing.tree import cut

PIECE_BYTES = 4 << 20
"""So many bytes of X are read at a time where not all rows of a stretch are wanted."""


def ring_slots(m: int, batch_size: int, block_rows: int) -> int:
    """Return how many windows are held: those that one batch of m rows may touch, and at least two.

    Two windows follow one another in any batch of two rows. A window is a full one but for the last of an epoch, and
    for the one that has the file's last block, which is less than block_rows short.
    """
    slots = 2 + (batch_size + block_rows) // (WINDOW * block_rows)
    return min(slots, -(-m // (WINDOW * block_rows)))


def ring_rows(m: int, batch_size: int, block_rows: int) -> int:
    """Return how many rows a node holds while it streams m rows."""
    return ring_slots(m, batch_size, block_rows) * min(m, WINDOW * block_rows)


def read_rows(
    reader: Reader, rows: NDArray[np.int64], X: NDArray[Any], y: NDArray[Any], w: NDArray[np.float64] | None
) -> None:
    """Read ascending row numbers (k,) into X (k, n_0), y (k,) or (k, n_T), and w (k,). Local.

    Raises DataError or StorageError.
    """
    most = max(1, PIECE_BYTES // (reader.features * reader.dtype.itemsize))
    start = 0
    while start < len(rows):
        lo = int(rows[start])
        straight = int(rows[-1]) - lo == len(rows) - 1 - start
        stop = len(rows) if straight else int(np.searchsorted(rows, lo + most))
        hi = int(rows[stop - 1]) + 1
        part = slice(start, stop)
        if hi - lo == stop - start:
            reader.X(lo, hi, X[part])
            y[part] = reader.y(lo, hi)
        else:
            X[part] = reader.X(lo, hi)[rows[part] - lo]
            y[part] = reader.y(lo, hi)[rows[part] - lo]
        if w is not None:
            w[part] = reader.w(lo, hi)[rows[part] - lo]
        start = stop


class FileSource(Source):
    """The examples of a split, read from the file whenever they are asked for, in ascending order. Local."""

    def __init__(
        self,
        info: DatasetInfo,
        split: str,
        dtype: np.dtype[Any],
        standardization: Standardization,
        targets: Standardization | None = None,
    ) -> None:
        self.m = info.splits[split].rows
        self._info, self._split = info, split
        self._dtype, self._maps = dtype, (standardization, targets)
        self._reader: Reader | None = None
        self._held: dict[int, MemorySource] = {}

    def mapped(
        self, dtype: np.dtype[Any], standardization: Standardization, targets: Standardization | None = None
    ) -> Self:
        """Return the same rows for groups of another dtype, with other maps. Local."""
        return type(self)(self._info, self._split, dtype, standardization, targets)

    def gather(self, rows: NDArray[np.int64], group: Group) -> None:
        """Put rows (m,), ascending, and their labels and weights into the group's buffers, standardized.

        Raises DataError or StorageError.
        """
        if self._reader is None:
            self._reader = Reader(self._info, self._split)
        m = len(rows)
        if m not in self._held:
            X = np.empty((m, self._info.features), self._info.splits[self._split].dtype)
            w = np.empty(m) if self._info.splits[self._split].weighted else None
            y = np.empty(self._info.target_shape(m), self._info.target_dtype)
            self._held[m] = MemorySource(X, y, w, self._dtype, *self._maps)
        held = self._held[m]
        read_rows(self._reader, rows, held.X, held.y, held.w)
        held.gather(np.arange(m), group)


class StreamSource(Source):
    """A ring of windows of a split, one copy per node; row numbers are places in the ring. Collective to make.

    `rows` are the row numbers of the split that are wanted, or how many it has if that is all of them.
    """

    def __init__(
        self,
        info: DatasetInfo,
        split: str,
        rows: NDArray[np.int64] | int,
        communicator: Communicator,
        dtype: np.dtype[Any],
        standardization: Standardization,
        targets: Standardization | None = None,
        *,
        batch_size: int,
        block_rows: int,
    ) -> None:
        wanted = rows if isinstance(rows, int) else len(rows)
        held, n = ring_rows(wanted, batch_size, block_rows), info.features
        X = communicator.share_one(held * n, np.dtype(info.splits[split].dtype)).reshape(held, n)
        y = share_targets(info, held, communicator)
        w = communicator.share_one(held, np.dtype(np.float64)) if info.splits[split].weighted else None
        self.m = info.splits[split].rows
        self.info, self.split = info, split
        self.ring = MemorySource(X, y, w, dtype, standardization, targets)
        """(held, n_0) rows, in slots of a window each."""

    def gather(self, rows: NDArray[np.int64], group: Group) -> None:
        """Put the rows at these places (m,) of the ring into the group's buffers, standardized. Local."""
        self.ring.gather(rows, group)

    def weighted_by_class(self, class_weight: NDArray[np.float64]) -> Self:
        """Return a view of the same ring whose examples weigh class_weight[y] (classes,) times their own w. Local."""
        weighted = copy.copy(self)
        weighted.ring = self.ring.weighted_by_class(class_weight)
        return weighted


class StreamBatches(Batches):
    """Batches of rows that a thread of every rank reads ahead into a StreamSource. Collective to make."""

    def __init__(
        self,
        communicator: Communicator,
        source: StreamSource,
        rows: NDArray[np.int64] | int,
        *,
        batch_size: int,
        seed: int,
        shuffle: str,
        block_rows: int,
        arithmetic: Arithmetic = NATIVE,
        earlier: tuple[int, int] = (0, 0),
    ) -> None:
        """`rows`, `batch_size` and `block_rows` as for the source."""
        super().__init__(rows if isinstance(rows, int) else len(rows), batch_size, earlier)
        self._communicator, self._source = communicator, source
        self._subset = None if isinstance(rows, int) else rows
        self._shuffling = (seed, shuffle, block_rows, arithmetic)
        self._slots = ring_slots(self.m, self.batch_size, block_rows)
        self._slot_rows = min(self.m, WINDOW * block_rows)
        self._ahead: ReadAhead | None = None

    def close(self) -> None:
        """Stop reading ahead; the ring may be given back then. Local."""
        if self._ahead is not None:
            self._ahead.close()

    @contextmanager
    def _order(self, epoch: int, start: int) -> Iterator[Take]:
        first, skipped = 0, start
        for window in self._windows(epoch):
            if skipped < window.size:
                break
            skipped -= window.size
            first += 1
        self._communicator.node_barrier()  # nobody still gathers from the ring
        self._ahead = ReadAhead(self._source, self._shares(epoch, first), self._slots)
        try:
            yield self._take(islice(self._windows(epoch), first, None), skipped)
        finally:
            self.close()

    def _take(self, coming: Iterator[Window], skipped: int) -> Take:
        """Return the function that takes rows from the windows to come, but the first `skipped`."""
        ahead, communicator = self._ahead, self._communicator
        assert ahead is not None, "made by the caller"
        left = np.empty(0, np.int64)
        used_up, number = 0, 0

        def next_window() -> NDArray[np.int64]:
            nonlocal number
            with communicator.in_agreement():
                ahead.wait()
            communicator.node_barrier()  # what the node's other ranks have read is there to see
            places = number % self._slots * self._slot_rows + next(coming).positions()
            number += 1
            return places[skipped:] if number == 1 else places

        def take(count: int) -> NDArray[np.int64]:
            nonlocal left, used_up
            if used_up:
                communicator.node_barrier()  # every rank of the node has been through the batch that used them up
                ahead.release(used_up)
                used_up = 0
            taken: list[NDArray[np.int64]] = []
            while count:
                left = left if len(left) else next_window()
                part, left = left[:count], left[count:]
                taken.append(part)
                count -= len(part)
                used_up += len(left) == 0
            return taken[0] if len(taken) == 1 else np.concatenate(taken)

        return take

    def _windows(self, epoch: int) -> Iterator[Window]:
        seed, shuffle, block_rows, arithmetic = self._shuffling
        return windows(self.m, seed, epoch, shuffle, block_rows, arithmetic)

    def _shares(self, epoch: int, first: int) -> Iterator[list[tuple[int, NDArray[np.int64]]]]:
        """Yield, window by window, the blocks that this rank reads: place in the ring, and rows of the split."""
        here = self._communicator.nodes[self._communicator.node]
        for number, window in enumerate(islice(self._windows(epoch), first, None)):
            bounds = cut(len(window.blocks), len(here))
            lo, hi = list(pairwise(bounds))[self._communicator.local_rank]
            place = number % self._slots * self._slot_rows + sum(map(len, window.blocks[:lo]))
            share = []
            for block in window.blocks[lo:hi]:
                numbers = np.arange(block.start, block.stop)
                share.append((place, numbers if self._subset is None else self._subset[numbers]))
                place += len(block)
            yield share


class ReadAhead:
    """A thread that reads this rank's share of windows into a ring, as slots become free. Local."""

    def __init__(self, source: StreamSource, shares: Iterator[list[tuple[int, NDArray[np.int64]]]], slots: int) -> None:
        self._source, self._shares = source, shares
        self._free = threading.Semaphore(slots)
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the share of the next window has been read; raise what went wrong with it."""
        error = self._done.get()
        if error is not None:
            raise error

    def release(self, slots: int) -> None:
        """Let the thread overwrite the oldest slots."""
        self._free.release(slots)

    def close(self) -> None:
        """End the thread, after the block that it reads."""
        self._closed.set()
        self._free.release()
        self._thread.join()

    def _read(self) -> None:
        source, ring = self._source, self._source.ring
        try:
            with Reader(source.info, source.split) as reader:
                for share in self._shares:
                    self._free.acquire()
                    for place, rows in share:
                        if self._closed.is_set():
                            return
                        held = slice(place, place + len(rows))
                        w = None if ring.w is None else ring.w[held]
                        read_rows(reader, rows, ring.X[held], ring.y[held], w)
                    if self._closed.is_set():
                        return
                    self._done.put(None)
        except BaseException as error:  # whoever waits raises it
            self._done.put(error)
