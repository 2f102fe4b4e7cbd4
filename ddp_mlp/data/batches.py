"""What training sees of its data: a source of examples, and batches of its rows.

Invariants:
- the batches of an epoch cover every row once; the last one is as short as it must be, and is used;
- how rows are read shows in nothing: every source gives the same bits for the same rows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, by_all_ranks
from ddp_mlp.nn.buffers import Group


class Batch(NamedTuple):
    """The rows of one step, over all ranks."""

    epoch: int
    step: int
    """Counted from 1, over the whole run."""
    rows: NDArray[np.int64]
    """(m,): row numbers, as the source that the batch is gathered from counts them, in the order of the batch."""


class Source(Protocol):
    """Where examples come from."""

    m: int
    """How many there are."""

    def gather(self, rows: NDArray[np.int64], group: Group) -> None:
        """Put the rows (m,) and their labels and weights into the group's buffers, standardized. Local."""
        ...


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
