"""The few figures that every step exchanges besides gradients: of each shard's loss, and of each rank's wish to stop.

Invariants:
- a row has three float64 numbers, whether it is a shard's or a rank's;
- the rows of rank p, its shards' first and its own last, follow those of rank p − 1 in one array per node; where all
  ranks share memory, so that nothing is sent, they start on a cache line of their own, which one rank alone writes;
- sums over rows are formed with `totals.total`, whose result does not depend on the order.

A rank writes its rows number by number, through memoryviews: those cost a third of what an array's numbers do.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.tree import cut


class ShardTally(NamedTuple):
    """Sums over one shard's examples."""

    loss_sum: float
    weight_sum: float
    correct: float


class RankSignal(NamedTuple):
    """What one rank tells all others with a step; what the numbers mean is the training's affair."""

    signal: float = 0.0
    """The number of an operating system's signal that it has caught."""
    stop: float = 0.0
    """A reason to stop."""
    since_save: float = 0.0
    """Seconds since the last checkpoint."""


WIDTH = len(ShardTally._fields)
"""Numbers of a row."""
assert len(RankSignal._fields) == WIDTH
APART = 8
"""Rows that take a whole number of cache lines: ranks' rows start on multiples of so many."""


class Collected(NamedTuple):
    """What all ranks know after a step's exchange."""

    shards: NDArray[np.float64]
    """(K, WIDTH): rows of `ShardTally`."""
    signals: NDArray[np.float64]
    """(P, WIDTH): rows of `RankSignal`."""


def rows_by_node(K: int, nodes: Sequence[range]) -> list[int]:
    """Return the N + 1 bounds that cut the K + P rows by node."""
    owned = cut(K, nodes[-1].stop)
    return [owned[p] + p for p in [*(ranks.start for ranks in nodes), nodes[-1].stop]]


class Tallies:
    """The rows of all ranks, of which this one writes its own. Collective to make."""

    def __init__(self, communicator: Communicator, K: int) -> None:
        owned = cut(K, communicator.size)
        rank, together = communicator.rank, APART if len(communicator.nodes) == 1 else 1
        counts = [-(-(hi - lo + 1) // together) * together for lo, hi in pairwise(owned)]
        starts = [0, *accumulate(counts)]
        """Of the ranks' rows."""
        self._communicator, self._K = communicator, K
        self._flat = communicator.share_one(starts[-1] * WIDTH, np.dtype(np.float64))
        self._bounds = [WIDTH * row for row in rows_by_node(K, communicator.nodes)]
        self._rows = self._flat.reshape(-1, WIDTH)
        shards = range(owned[rank], owned[rank + 1])
        rows = self._rows[starts[rank] : starts[rank] + len(shards) + 1]
        own = rows.reshape(-1).data.cast("B").cast("d")
        self.of_shard = {shard: own[WIDTH * i : WIDTH * (i + 1)] for i, shard in enumerate(shards)}
        """This rank's shards' rows (WIDTH,), by shard."""
        self._own, self._of_rank = own, own[WIDTH * len(shards) :]
        self._nothing = array("d", bytes(own.nbytes))
        shard_rows = [
            start + i for start, (lo, hi) in zip(starts, pairwise(owned), strict=False) for i in range(hi - lo)
        ]
        rank_rows = [start + hi - lo for start, (lo, hi) in zip(starts, pairwise(owned), strict=False)]
        self._order = np.array(shard_rows + rank_rows)

    def start(self, signal: RankSignal | Sequence[float]) -> None:
        """Set this rank's shards' rows to zero, and its own to its signal; all are to be added to. Local."""
        self._own[:] = self._nothing
        self._of_rank[: len(signal)] = array("d", signal)

    def add(self, shard: int, loss_sum: float, weight_sum: float, correct: int) -> None:
        """Add to the tally of a shard of this rank. Local."""
        tally = self.of_shard[shard]
        tally[0] += loss_sum
        tally[1] += weight_sum
        tally[2] += correct

    def collect(self) -> Collected:
        """Wait for all ranks; return their rows by shard and by rank. Collective."""
        self._communicator.node_barrier()
        if len(self._communicator.nodes) > 1:
            if self._communicator.local_rank == 0:
                self._communicator.Complete(self._flat, self._bounds)
            self._communicator.node_barrier()
        rows: NDArray[Any] = self._rows.take(self._order, axis=0)
        return Collected(rows[: self._K], rows[self._K :])
