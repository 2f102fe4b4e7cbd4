"""Who computes which rows, and in which order their sums are added: integer arithmetic alone.

Invariants:
- the rows [0, m) of a batch are cut into K shards, shard i = rows [m·i//K, m·(i+1)//K): K belongs to the run;
- rank p of P owns the shards [K·p//P, K·(p+1)//P);
- a sum over shards is formed along one binary tree: sum(lo, hi) = sum(lo, mid) + sum(mid, hi), mid = (lo + hi)//2;
- a subtree without rows is absent: its sibling passes through unchanged.

Only the first line knows the batch and only the second knows P, so the additions that form a sum depend on (m, K)
alone. All who follow the tree, here and elsewhere, follow the one walk over it.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

Subtree = tuple[int, int]
"""A node of the tree, named by the shards [lo, hi) that it sums."""


def cut(n: int, parts: int) -> list[int]:
    """Return the parts + 1 bounds that cut [0, n) into contiguous parts whose lengths differ by at most one."""
    return [n * i // parts for i in range(parts + 1)]


def automatic_shards(size: int) -> int:
    """Return the K of `shards = auto` on `size` ranks: max(8, the smallest power of two >= size)."""
    return max(8, 1 << (size - 1).bit_length())


def rows(subtree: Subtree, m: int, K: int) -> range:
    """Return the rows of a batch of m rows that the shards of a subtree hold."""
    lo, hi = subtree
    return range(m * lo // K, m * hi // K)


def children(subtree: Subtree) -> tuple[Subtree, Subtree]:
    """Return the two halves of a subtree of more than one shard."""
    lo, hi = subtree
    mid = (lo + hi) // 2
    return (lo, mid), (mid, hi)


class Turn(NamedTuple):
    """Form the sum of a subtree as a whole and leave it waiting at a height; then add the topmost sums.

    Sums wait one above the other, since a right child cannot be added before its left one is complete.
    """

    subtree: Subtree
    height: int
    folds: int
    """How many times the topmost sum is added to the one below it: sum[height − 1] += sum[height], and so on."""

    @property
    def shard(self) -> int:
        """The shard, where the subtree is a single one."""
        return self.subtree[0]


@cache
def turns(subtree: Subtree, m: int, K: int, together: int = 0) -> tuple[Turn, ...]:
    """Return the turns that add up a subtree in tree order with as few sums waiting as possible.

    A turn's subtree is a shard, or the largest one that has at most `together` rows. Subtrees without rows have no
    turn. At the end the sum lies at height 0. Sums wait no higher than the tree.
    """

    def whole(subtree: Subtree) -> bool:
        return subtree[1] - subtree[0] == 1 or len(rows(subtree, m, K)) <= together

    return tuple(_walk(subtree, whole, lambda subtree: not rows(subtree, m, K)))


def complete_subtrees(lo: int, hi: int, K: int) -> list[Subtree]:
    """Return the largest subtrees of the tree over K shards that lie inside [lo, hi), in shard order.

    They are what one rank (or one node) can add up on its own; together they cover [lo, hi) exactly.
    """

    def inside(subtree: Subtree) -> bool:
        return lo <= subtree[0] and subtree[1] <= hi

    def outside(subtree: Subtree) -> bool:
        return max(lo, subtree[0]) >= min(hi, subtree[1])

    return [turn.subtree for turn in _walk((0, K), inside, outside)]


class Additions(NamedTuple):
    """How to form a sum in place from given terms: for each (left, right) in turn, term[left] += term[right]."""

    pairs: tuple[tuple[int, int], ...]
    result: int | None
    """The term that holds the sum in the end; None where there are no rows at all."""


def additions(root: Subtree, terms: Sequence[Subtree], m: int, K: int) -> Additions:
    """Return the additions that form the root's sum from its terms, in tree order, for a batch of m rows in K shards.

    The terms are subtrees at or below the root that cover it. A term without rows is neither read nor written.
    """
    number = {subtree: i for i, subtree in enumerate(terms)}
    pairs: list[tuple[int, int]] = []
    waiting: dict[int, int] = {}
    """The term that holds the sum at each height."""
    for turn in _walk(root, number.__contains__, lambda subtree: not rows(subtree, m, K)):
        waiting[turn.height] = number[turn.subtree]
        for top in range(turn.height, turn.height - turn.folds, -1):
            pairs.append((waiting[top - 1], waiting[top]))
    return Additions(tuple(pairs), waiting.get(0))


def _walk(root: Subtree, whole: Callable[[Subtree], bool], absent: Callable[[Subtree], bool]) -> list[Turn]:
    """Return the turns that form a root's sum from subtrees that are formed as a whole; absent ones are passed over."""
    found: list[Turn] = []

    def visit(subtree: Subtree, height: int) -> None:
        if whole(subtree):
            found.append(Turn(subtree, height, 0))
            return
        present = [child for child in children(subtree) if not absent(child)]
        for i, child in enumerate(present):
            visit(child, height + i)
        if len(present) == 2:
            found[-1] = found[-1]._replace(folds=found[-1].folds + 1)

    if not absent(root):
        visit(root, 0)
    return found
