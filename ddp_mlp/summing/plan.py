"""What every rank of an exact sum holds, sends, receives and updates: integer arithmetic, the same on all ranks.

Invariants:
- the ranks with the same local rank c, one on each of N nodes, are column c; every node has a rank in every column, and
  ranks beyond the smallest node's are in none;
- the flat vector is cut into one range per column, and that into N slices, all on multiples of QUANTUM elements; a rank
  updates one slice;
- between nodes a column adds up its own range. *Halving*, wherever the nodes are siblings: two siblings in the tree of
  `tree.py` share out the range they hold, each adds its half, and the sums so formed are siblings again: log₂ N
  messages. It is Rabenseifner's reduce-scatter (Thakur, Rabenseifner, Gropp, "Optimization of collective communication
  operations in MPICH", IJHPCA 19(1), 2005) with the pairs in tree order. *Flat*, otherwise: each node sends each other
  node that one's slice of all its partials, N − 1 messages;
- which of the two depends on K and the nodes alone, and no bit of the sum depends on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ddp_mlp.summing.tree import Subtree, children, complete_subtrees, cut

QUANTUM = 1024
"""Elements: slices begin and end on multiples of it, so that sums over quanta do not depend on the slices."""


@dataclass(frozen=True)
class Swap:
    """One round of halving: a node and its partner hold sums over the same range, and each goes on with half of it."""

    partner: int
    """The other node."""
    kept: slice
    """The elements this node goes on with: it receives the partner's sum of them, as long as these."""
    given: slice
    """The elements the partner goes on with: it is sent this node's sum of them."""
    mine: Subtree
    """What this node's sum is over, and is to be added to."""
    theirs: Subtree
    """What the partner's sum is over: the sibling of `mine`."""


@dataclass(frozen=True)
class Plan:
    """Who does what in the sum of vectors of `length` elements over K shards; `make_plan` makes it."""

    K: int
    length: int
    nodes: Sequence[range]
    """The ranks of every node."""
    of_rank: list[list[Subtree]]
    """The subtrees whose partials a rank writes, for every rank."""
    of_node: list[list[Subtree]]
    """The subtrees that a node can add up on its own, for every node."""
    columns: list[list[int]]
    """The N + 1 bounds of the slices of every column's range."""
    halving: bool
    """Whether sums between nodes are formed by halving; otherwise flat."""

    def slices(self) -> list[slice]:
        """Return the slice of every rank: what it updates, and keeps optimizer state for; empty outside columns."""
        return [
            self.slice_of(i, local_rank) if local_rank < len(self.columns) else slice(0, 0)
            for i, ranks in enumerate(self.nodes)
            for local_rank in range(len(ranks))
        ]

    def sent(self, node: int, column: int) -> list[int]:
        """Return how many elements this rank sends to each node in the flat form; its own node's stay with it."""
        return [len(self.of_node[node]) * (hi - lo) for lo, hi in pairwise(self.columns[column])]

    def received(self, node: int, column: int) -> list[int]:
        """Return how many elements this rank receives from each node in the flat form; its own node's were with it."""
        own = self.slice_of(node, column)
        return [len(subtrees) * (own.stop - own.start) for subtrees in self.of_node]

    def swaps(self, node: int, column: int) -> list[Swap]:
        """Return this rank's rounds of halving, in order; taken backwards, they share out what it has updated."""
        bounds, swaps = self.columns[column], []
        lo, hi = 0, len(self.nodes)
        for distance in _powers_of_two_below(len(self.nodes)):
            mid = (lo + hi) // 2
            right = bool(node & distance)
            halves = slice(bounds[lo], bounds[mid]), slice(bounds[mid], bounds[hi])
            mine = self._over(node // distance * distance, distance)
            theirs = self._over((node ^ distance) // distance * distance, distance)
            swaps.append(Swap(node ^ distance, halves[right], halves[not right], mine, theirs))
            lo, hi = (mid, hi) if right else (lo, mid)
        return swaps

    def slice_of(self, node: int, column: int) -> slice:
        """Return the slice of the rank of a column on a node."""
        if self.halving:
            return self.swaps(node, column)[-1].kept
        return slice(*self.columns[column][node : node + 2])

    def _over(self, first: int, count: int) -> Subtree:
        """Return the subtree that `count` nodes, from the first on, sum together where halving is possible."""
        return self.of_node[first][0][0], self.of_node[first + count - 1][-1][1]


def make_plan(K: int, length: int, nodes: Sequence[range], halving: bool = True) -> Plan:
    """Return the plan of a sum over K shards on these nodes; without `halving`, flat even between siblings."""
    size, columns = nodes[-1].stop, min(len(ranks) for ranks in nodes)
    owned = cut(K, size)
    of_node = [complete_subtrees(owned[ranks.start], owned[ranks.stop], K) for ranks in nodes]
    return Plan(
        K=K,
        length=length,
        nodes=nodes,
        of_rank=[complete_subtrees(lo, hi, K) for lo, hi in pairwise(owned)],
        of_node=of_node,
        columns=[
            [min(length, QUANTUM * (lo + q)) for q in cut(hi - lo, len(nodes))]
            for lo, hi in pairwise(cut(-(-length // QUANTUM), columns))
        ],
        halving=halving and len(nodes) > 1 and nodes_are_siblings(of_node, K),
    )


def nodes_are_siblings(of_node: list[list[Subtree]], K: int) -> bool:
    """Tell whether the nodes' subtrees are all those at one depth of the tree: pairs of them are siblings, and so on.

    So it is wherever there are 2ᵈ nodes with equally many ranks and 2ᵈ divides K.
    """
    level: list[Subtree] = [(0, K)]
    while len(level) < len(of_node) and all(hi - lo > 1 for lo, hi in level):
        level = [child for subtree in level for child in children(subtree)]
    return of_node == [[subtree] for subtree in level]


def _powers_of_two_below(n: int) -> list[int]:
    return [1 << bit for bit in range((n - 1).bit_length())]
