"""Tests of the plan: who computes which rows, and in which order sums are formed."""

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.summing.tree import (
    Subtree,
    additions,
    automatic_shards,
    children,
    complete_subtrees,
    cut,
    rows,
    turns,
)

shard_counts = st.integers(1, 64)
rank_counts = st.integers(1, 100)
row_counts = st.integers(0, 300)


def sum_by_definition(values: list[float | None], lo: int, hi: int) -> float | None:
    """Add float32 values as the definition of the tree says, absent ones passing their sibling through."""
    if hi - lo == 1:
        return values[lo]
    mid = (lo + hi) // 2
    left, right = sum_by_definition(values, lo, mid), sum_by_definition(values, mid, hi)
    if left is None or right is None:
        return right if left is None else left
    return float(np.float32(left) + np.float32(right))


@given(shard_counts, row_counts)
def test_every_row_is_in_one_shard(K: int, m: int) -> None:
    """The shards, one after the other, are the rows of the batch."""
    assert [row for i in range(K) for row in rows((i, i + 1), m, K)] == list(range(m))


@given(shard_counts, rank_counts)
def test_every_shard_is_on_one_rank(K: int, P: int) -> None:
    """The ranks' shards, one after the other, are all shards, and ranks differ by at most one."""
    owned = [hi - lo for lo, hi in pairwise(cut(K, P))]
    assert sum(owned) == K
    assert max(owned) - min(owned) <= 1


@given(shard_counts, rank_counts)
def test_complete_subtrees_cover_the_shards_of_each_rank(K: int, P: int) -> None:
    """What a rank adds up on its own is exactly its shards, in order."""
    for lo, hi in pairwise(cut(K, P)):
        assert [i for a, b in complete_subtrees(lo, hi, K) for i in range(a, b)] == list(range(lo, hi))


@given(shard_counts, rank_counts, row_counts.filter(bool), st.integers(0, 2**32 - 1))
def test_partials_combine_to_the_bits_of_one_process(K: int, P: int, m: int, seed: int) -> None:
    """Turns, then additions between ranks, give the sum that the tree's definition gives, for every P."""
    random = np.random.default_rng(seed)
    drawn = (random.standard_normal(K) * 10.0 ** random.integers(-6, 6, K)).astype(np.float32)
    values = [float(drawn[i]) if rows((i, i + 1), m, K) else None for i in range(K)]
    terms = [subtree for lo, hi in pairwise(cut(K, P)) for subtree in complete_subtrees(lo, hi, K)]
    registers = []
    for subtree in terms:
        waiting = [np.float32(math.nan)] * 8
        for turn in turns(subtree, m, K):
            waiting[turn.height] = drawn[turn.shard]
            for height in range(turn.height, turn.height - turn.folds, -1):
                waiting[height - 1] += waiting[height]
        registers.append(waiting[0])
    plan = additions((0, K), terms, m, K)
    for left, right in plan.pairs:
        registers[left] += registers[right]
    assert plan.result is not None
    assert float(registers[plan.result]) == sum_by_definition(values, 0, K)


@given(shard_counts, row_counts)
def test_sums_wait_no_higher_than_the_tree(K: int, m: int) -> None:
    """Adding up shards needs as many sums at hand as the tree is high, not as many as there are shards."""
    assert all(turn.height <= math.ceil(math.log2(K)) for turn in turns((0, K), m, K))


def test_a_sum_of_nothing_has_no_result() -> None:
    """A subtree without rows has no sum, rather than a zero that would be added."""
    assert additions((0, 4), [(0, 2), (2, 4)], m=0, K=4).result is None
    assert turns((0, 4), m=0, K=4) == ()


@given(shard_counts, row_counts.filter(bool), st.integers(0, 40))
def test_shards_taken_together_are_the_largest_subtrees_that_fit(K: int, m: int, together: int) -> None:
    """Each is a shard or has at most that many rows, and its parent has more; in order, they have all rows."""
    parts = [turn.subtree for turn in turns((0, K), m, K, together)]
    assert [row for part in parts for row in rows(part, m, K)] == list(range(m))
    subtrees: list[Subtree] = [(0, K)]
    parents: dict[Subtree, Subtree] = {}
    for subtree in subtrees:
        if subtree[1] - subtree[0] > 1:
            parents |= dict.fromkeys(children(subtree), subtree)
            subtrees += children(subtree)
    for part in parts:
        assert part[1] - part[0] == 1 or len(rows(part, m, K)) <= together
        assert part == (0, K) or len(rows(parents[part], m, K)) > together


def test_children_split_in_the_middle() -> None:
    """An odd number of shards gives the right child one more."""
    assert children((2, 7)) == ((2, 4), (4, 7))


def test_automatic_shards() -> None:
    """K is 8, or the power of two that gives every rank a shard."""
    assert [automatic_shards(P) for P in (1, 4, 8, 9, 16, 17, 100_000)] == [8, 8, 8, 16, 16, 32, 131_072]


def test_a_plan_for_100_000_ranks_is_arithmetic() -> None:
    """The largest job's plan is made in one process, quickly, and covers all shards."""
    K = automatic_shards(100_000)
    owned = cut(K, 100_000)
    assert owned[-1] == K
    assert complete_subtrees(101_943, 101_945, K) == [(101_943, 101_944), (101_944, 101_945)]
    assert complete_subtrees(101_944, 101_946, K) == [(101_944, 101_946)]
