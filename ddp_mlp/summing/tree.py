"""Who computes which rows, and in which order their sums are added: integer arithmetic alone.

Invariants:
- the rows [0, m) of a batch are cut into K shards, shard i = rows [m·i//K, m·(i+1)//K): K belongs to the run;
- rank p of P owns the shards [K·p//P, K·(p+1)//P);
- a sum over shards is formed along one binary tree: sum(lo, hi) = sum(lo, mid) + sum(mid, hi), mid = (lo + hi)//2;
- a subtree without rows is absent: its sibling passes through unchanged.

Only the first line knows the batch and only the second knows P, so the additions that form a sum depend on (m, K)
alone.
"""

from collections.abc import Iterator, Sequence
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


def children(subtree: Subtree) -> tuple[Subtree, Subtree]:
    """Return the two halves of a subtree of more than one shard."""
    lo, hi = subtree
    mid = (lo + hi) // 2
    return (lo, mid), (mid, hi)


def complete_subtrees(lo: int, hi: int, K: int) -> list[Subtree]:
    """Return the largest subtrees of the tree over K shards that lie inside [lo, hi), in shard order.

    They are what one rank (or one node) can add up on its own; together they cover [lo, hi) exactly.
    """

    def inside(subtree: Subtree) -> Iterator[Subtree]:
        if lo <= subtree[0] and subtree[1] <= hi:
            yield subtree
        elif subtree[0] < hi and lo < subtree[1]:
            for child in children(subtree):
                yield from inside(child)

    return list(inside((0, K))) if lo < hi else []


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

    def form(subtree: Subtree) -> int | None:
        if not rows(subtree, m, K):
            return None
        if subtree in number:
            return number[subtree]
        left, right = map(form, children(subtree))
        if left is None or right is None:
            return right if left is None else left
        pairs.append((left, right))
        return left

    return Additions(result=form(root), pairs=tuple(pairs))


def rows(subtree: Subtree, m: int, K: int) -> range:
    """Return the rows of a batch of m rows that the shards of a subtree hold."""
    lo, hi = subtree
    return range(m * lo // K, m * hi // K)


class Leaf(NamedTuple):
    """One turn of adding up shards on a stack: put a shard's sum at a height, then fold the top so many times."""

    shard: int
    height: int
    folds: int
    """So many times, the topmost entry is added to the one below it: stack[height − 1] += stack[height], and so on."""


@cache
def leaves(subtree: Subtree, m: int, K: int) -> tuple[Leaf, ...]:
    """Return the turns that add up the shards of a subtree in tree order with as few sums at hand as possible.

    Empty shards have no turn. At the end the subtree's sum lies at height 0. The stack grows no higher than the tree.
    """
    turns: list[Leaf] = []

    def visit(subtree: Subtree, height: int) -> None:
        if subtree[1] - subtree[0] == 1:
            turns.append(Leaf(subtree[0], height, 0))
            return
        present = [child for child in children(subtree) if rows(child, m, K)]
        for i, child in enumerate(present):
            visit(child, height + i)
        if len(present) == 2:
            turns[-1] = turns[-1]._replace(folds=turns[-1].folds + 1)

    if rows(subtree, m, K):
        visit(subtree, 0)
    return tuple(turns)
