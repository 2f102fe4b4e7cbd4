"""The global sum of the ranks' partials, and who updates which slice of the parameters.

`ExactSum` adds the partials of all ranks along the fixed tree of `tree.py`, slice by slice, so that the result has the
same bits for every number of ranks, and for every MPI library and network. `PlainSum` leaves the sum to one
MPI_Allreduce: equal to rounding.

Invariants:
- within a node the partials lie in shared memory; a rank reads them all, and forms sums in its own (`forming.py`).
  Between nodes only slices travel, among the ranks of a column, as `plan.py` says;
- a step uses either sum in the same way, and every call is collective:

      write partials, tallies  →  collect(m)  →  sums(m): update one's own slice, block by block  →  publish()
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.calls import Calls, do
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.forming import Blocks, forming
from ddp_mlp.summing.plan import QUANTUM, make_plan
from ddp_mlp.summing.tallies import Collected, Tallies
from ddp_mlp.summing.tree import Additions, additions, rows

BLOCK = 64 * QUANTUM
"""Elements: a slice is summed and updated in blocks that stay in cache."""

Block = tuple[int, int, NDArray[Any]]
"""(lo, hi, gradient): the elements [lo, hi) of the flat vector and their global gradient sum (hi − lo,)."""


class ExactSum:
    """The sum over K shards with bits that depend on nothing but the shards' own sums. Collective to make."""

    def __init__(
        self,
        communicator: Communicator,
        length: int,
        dtype: np.dtype[Any],
        K: int,
        halving: bool = True,
        sum_dtype: np.dtype[Any] | None = None,
    ) -> None:
        """`dtype` is that of the parameters, and of partials and sums too unless `sum_dtype` says otherwise."""
        sum_dtype = sum_dtype or dtype
        self.communicator, self.length, self.K = communicator, length, K
        nodes, node, local_rank = communicator.nodes, communicator.node, communicator.local_rank
        self.plan = plan = make_plan(K, length, nodes, halving)

        self.subtrees = plan.of_rank[communicator.rank]
        """The subtrees whose partials this rank writes."""
        self.parameters = communicator.share_one(length, dtype)
        """The flat parameter vector (length,), one copy per node; each rank writes its own slice of it."""
        shared = communicator.share(len(self.subtrees) * length, sum_dtype)
        local = [array.reshape(-1, length) for array in shared]
        self.partials = local[local_rank]
        """This rank's partials (len(subtrees), length): gradient sums, written anew each step."""
        self.tallies = Tallies(communicator, K)
        self.slices = plan.slices()
        """The slice of every rank: what it updates, and keeps optimizer state for."""
        self.slice = self.slices[communicator.rank]

        self._local = [row for array in local for row in array]
        self._own = self.partials[0] if self.subtrees else np.empty(length, sum_dtype)
        """(length,): where this rank forms sums over its slice or its range, which nobody else reads there."""
        self._local_terms = [subtree for p in nodes[node] for subtree in plan.of_rank[p]]
        self._all_terms = [subtree for subtrees in plan.of_node for subtree in subtrees]
        self._room = Blocks(BLOCK, sum_dtype)
        self._within_node: dict[int, Calls] = {}
        self._overall: dict[int, list[tuple[Block, Calls]]] = {}
        """Both by the rows of a batch, or K where there are more."""
        travels = len(nodes) > 1 and local_rank < len(plan.columns)
        self._range = plan.columns[local_rank] if travels else None
        """The bounds of the slices of this rank's column; None where it has nothing to do with other nodes."""
        self._send = self._receive = np.zeros(0, sum_dtype)
        if plan.halving and self._range is not None:
            self._swaps = plan.swaps(node, local_rank)
            self._receive = np.zeros(max(swap.kept.stop - swap.kept.start for swap in self._swaps), sum_dtype)
        elif self._range is not None:
            self._sent, self._received = plan.sent(node, local_rank), plan.received(node, local_rank)
            self._send, self._receive = np.zeros(sum(self._sent), sum_dtype), np.zeros(sum(self._received), sum_dtype)

    def collect(self, m: int) -> Collected:
        """Wait for all ranks' partials and tallies of a batch of m rows; return all tallies. Collective.

        Between nodes, sum within the node, and exchange slices or add up by halving.
        """
        tallies = self.tallies.collect()
        if self._range is not None:
            if (key := min(m, self.K)) not in self._within_node:
                self._within_node[key] = self._summing_within_node(key)
            do(self._within_node[key])
            if self.plan.halving:
                self._halve(self._own, m)
            else:
                self.communicator.Exchange(self._send, self._sent, self._receive, self._received)
        return tallies

    def _halve(self, held: NDArray[Any], m: int) -> None:
        """Add up with one sibling after the other, in tree order, in place; half of the range is left each time."""
        for swap in self._swaps:
            kept = held[swap.kept]
            received = self._receive[: len(kept)]
            self.communicator.Swap(swap.partner, held[swap.given], received)
            if not rows(swap.theirs, m, self.K):
                continue
            if not rows(swap.mine, m, self.K):
                kept[...] = received
            elif swap.mine < swap.theirs:
                np.add(kept, received, out=kept)
            else:
                np.add(received, kept, out=kept)

    def sums(self, m: int) -> Iterator[Block]:
        """Yield this rank's slice of the global gradient sum, block by block; the arrays may be overwritten. Local."""
        if (key := min(m, self.K)) not in self._overall:
            self._overall[key] = self._summing_overall(key)
        for block, calls in self._overall[key]:
            do(calls)
            yield block

    def _summing_within_node(self, m: int) -> Calls:
        """Return what sums up the node's partials in the column's range: to be halved, or to be sent slice by slice."""
        assert self._range is not None, "asked where sums travel"
        node = self.communicator.node
        parts = [additions(subtree, self._local_terms, m, self.K) for subtree in self.plan.of_node[node]]
        calls: Calls = []
        position = 0
        for start, stop in pairwise(self._range):
            for part in parts:
                out = self._own[start:stop] if self.plan.halving else self._send[position : position + stop - start]
                position += stop - start
                for lo, hi in _blocks(start, stop):
                    calls += forming(part, _cut(self._local, lo, hi), out[lo - start : hi - start], self._room)
        return calls

    def _summing_overall(self, m: int) -> list[tuple[Block, Calls]]:
        """Return the blocks of this rank's slice, and what forms the global sum of each."""
        own, origin = self.slice, 0
        if self.plan.halving:  # the sum is there
            order, terms = Additions((), 0), [self._own]
        elif len(self.communicator.nodes) > 1:
            order = additions((0, self.K), self._all_terms, m, self.K)
            terms, origin = list(self._receive.reshape(-1, max(1, own.stop - own.start))), own.start
        else:
            order, terms = additions((0, self.K), self._local_terms, m, self.K), self._local
        blocks = [(lo, hi, self._own[lo:hi]) for lo, hi in _blocks(own.start, own.stop)]
        return [
            ((lo, hi, out), forming(order, _cut(terms, lo - origin, hi - origin), out, self._room))
            for lo, hi, out in blocks
        ]

    def publish(self) -> None:
        """Let every rank see the parameters that all have updated. Collective."""
        if self.plan.halving and self._range is not None:
            for swap in reversed(self._swaps):
                self.communicator.Swap(swap.partner, self.parameters[swap.kept], self.parameters[swap.given])
        elif self._range is not None:
            self.communicator.Complete(self.parameters, self._range)
        self.communicator.node_barrier()


class PlainSum:
    """The sum by one MPI_Allreduce; every rank keeps and updates all parameters. Collective to make.

    A rank's share of the batch is one shard, K = P. The bits depend on P and on the MPI library.
    """

    def __init__(self, communicator: Communicator, length: int, dtype: np.dtype[Any]) -> None:
        self.communicator, self.length, self.K = communicator, length, communicator.size
        self.subtrees = [(communicator.rank, communicator.rank + 1)]
        self.parameters = np.zeros(length, dtype)
        self.partials = np.zeros((1, length), dtype)
        self.tallies = Tallies(communicator, self.K)
        self.slices = [slice(0, length if p == 0 else 0) for p in range(communicator.size)]
        self.slice = slice(0, length)

    def collect(self, m: int) -> Collected:
        """Sum the partials over all ranks (zeros where a rank has no rows); return all tallies. Collective."""
        tallies = self.tallies.collect()
        self.communicator.Allreduce(self.partials[0])
        return tallies

    def sums(self, m: int) -> Iterator[Block]:
        """Yield the global gradient sum, block by block. Local."""
        for lo, hi in _blocks(0, self.length):
            yield lo, hi, self.partials[0, lo:hi]

    def publish(self) -> None:
        """Keep the ranks in step: nobody writes the next tallies while one still reads these. Collective."""
        self.communicator.node_barrier()


Reduction = ExactSum | PlainSum


def _cut(terms: Sequence[NDArray[Any]], lo: int, hi: int) -> list[NDArray[Any]]:
    return [term[lo:hi] for term in terms]


def _blocks(lo: int, hi: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK, hi)) for start in range(lo, hi, BLOCK))
