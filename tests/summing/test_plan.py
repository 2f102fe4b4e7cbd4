"""Tests of the plan of an exact sum: played for all its ranks in one process, without MPI."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.summing.plan import QUANTUM, Plan, make_plan
from ddp_mlp.summing.tallies import rows_by_node
from ddp_mlp.summing.tree import automatic_shards

Term = tuple["Term", "Term"] | int
"""A sum as it was formed: the shard, or what was added to what."""

node_sizes = st.lists(st.integers(1, 5), min_size=1, max_size=12)


def nodes_of(sizes: Sequence[int]) -> list[range]:
    """Return the ranks of nodes of the given sizes."""
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [range(lo, hi) for lo, hi in pairwise(bounds)]


def by_definition(lo: int, hi: int) -> Term:
    """Return the sum over the shards [lo, hi) as the definition of the tree forms it."""
    if hi - lo == 1:
        return lo
    mid = (lo + hi) // 2
    return by_definition(lo, mid), by_definition(mid, hi)


def halve(plan: Plan, column: int) -> list[list[Term | None]]:
    """Play a column's rounds of halving on lists with one term per quantum; return what every node ends with."""
    quanta = -(-plan.length // QUANTUM)
    held: list[list[Term | None]] = [[by_definition(*subtrees[0])] * quanta for subtrees in plan.of_node]
    rounds = zip(*(plan.swaps(node, column) for node in range(len(plan.nodes))), strict=True)
    for swaps in rounds:
        after: list[list[Term | None]] = [[None] * quanta for _ in plan.nodes]
        for node, swap in enumerate(swaps):
            assert swaps[swap.partner].partner == node
            assert swaps[swap.partner].given == swap.kept
            for q in range(swap.kept.start // QUANTUM, -(-swap.kept.stop // QUANTUM)):
                mine, theirs = held[node][q], held[swap.partner][q]
                assert mine is not None
                assert theirs is not None
                after[node][q] = (mine, theirs) if swap.mine < swap.theirs else (theirs, mine)
        held = after
    return held


@given(node_sizes, st.integers(1, 70), st.integers(1, 40 * QUANTUM), st.booleans())
def test_slices_share_out_the_vector(sizes: list[int], K: int, length: int, halving: bool) -> None:
    """Every element has one rank that updates it, whatever the form, and slices begin on quanta."""
    plan = make_plan(K, length, nodes_of(sizes), halving)
    slices = sorted((part.start, part.stop) for part in plan.slices() if part.stop > part.start)
    assert [0, *(hi for _, hi in slices)] == [*(lo for lo, _ in slices), length]
    assert all(lo % QUANTUM == 0 for lo, _ in slices)


@given(node_sizes, st.integers(1, 70), st.integers(1, 40 * QUANTUM))
def test_what_one_rank_sends_another_receives(sizes: list[int], K: int, length: int) -> None:
    """In the flat form the parts of each pair of nodes match."""
    plan = make_plan(K, length, nodes_of(sizes), halving=False)
    for column in range(len(plan.columns)):
        sent = [plan.sent(node, column) for node in range(len(sizes))]
        assert [list(parts) for parts in zip(*sent, strict=True)] == [
            plan.received(node, column) for node in range(len(sizes))
        ]


@pytest.mark.parametrize(
    ("sizes", "K"), [([1] * 2, 8), ([1] * 16, 16), ([3] * 8, 32), ([2] * 4, 12), ([128] * 8, 1024), ([1, 1], 6)]
)
def test_halving_forms_the_sums_of_the_tree(sizes: list[int], K: int) -> None:
    """After log2 N rounds every node holds its slice of the sum, added in tree order."""
    plan = make_plan(K, 50 * QUANTUM, nodes_of(sizes))
    assert plan.halving
    slices = plan.slices()
    for column in (0, len(plan.columns) - 1):
        for node, held in enumerate(halve(plan, column)):
            part = slices[plan.nodes[node].start + column]
            assert {q for q, term in enumerate(held) if term is not None} == set(
                range(part.start // QUANTUM, part.stop // QUANTUM)
            )
            assert all(term is None or term == by_definition(0, K) for term in held)


@pytest.mark.parametrize(
    ("sizes", "K"),
    [([1] * 12, 16), ([2, 1, 1, 1, 1, 1, 1, 1], 16), ([1] * 16, 8), ([1] * 8, 13), ([3] * 48, automatic_shards(144))],
)
def test_nodes_that_are_no_siblings_keep_the_flat_form(sizes: list[int], K: int) -> None:
    """Where pairs of nodes would add what the tree does not add, each node sends to each."""
    assert not make_plan(K, 50 * QUANTUM, nodes_of(sizes)).halving


@pytest.mark.parametrize("N", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("per_node", [1, 3, 128])
def test_a_power_of_two_of_equal_nodes_halves(N: int, per_node: int) -> None:
    """So it is with `shards = auto` for any number of ranks on a node; one node has nobody to halve with."""
    plan = make_plan(automatic_shards(N * per_node), 50 * QUANTUM, nodes_of([per_node] * N))
    assert plan.halving == (N > 1)


def test_tallies_have_a_row_per_shard_and_one_per_rank() -> None:
    """Ranks 0 and 1 have 2 and 3 of 8 shards and a row each, rank 2 the rest."""
    assert rows_by_node(8, [range(2), range(2, 3)]) == [0, 7, 11]
