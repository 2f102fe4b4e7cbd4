"""Which ranks train together."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.errors import ConfigError
from ddp_mlp.trials.groups import make_groups


def nodes_of(sizes: list[int]) -> list[range]:
    """Return the ranks of nodes of these sizes."""
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [range(lo, hi) for lo, hi in itertools.pairwise(starts)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12))
def test_every_rank_is_in_one_group_or_idle(sizes: list[int], each: int) -> None:
    """Groups have the size asked for, fewer ranks are idle than make a group, and nodes give all they can."""
    if sum(sizes) < each:
        with pytest.raises(ConfigError, match=f"ranks_per_trial = {each}: there (is|are) {sum(sizes)} ranks?:"):
            make_groups(nodes_of(sizes), each)
        return
    groups = make_groups(nodes_of(sizes), each)
    assert sorted([rank for ranks in groups.ranks for rank in ranks] + groups.idle) == list(range(sum(sizes)))
    assert {len(ranks) for ranks in groups.ranks} == {each}
    assert len(groups.idle) == sum(sizes) % each
    within = sum(any(set(ranks) <= set(node) for node in nodes_of(sizes)) for ranks in groups.ranks)
    assert within >= sum(size // each for size in sizes)
    for rank in range(sum(sizes)):
        number = groups.of(rank)
        assert rank in (groups.idle if number is None else groups.ranks[number])


def test_what_is_left_over_makes_groups_across_nodes() -> None:
    """Two nodes of three ranks, groups of two: one in each, and one of both nodes' last ranks."""
    assert make_groups(nodes_of([3, 3]), 2).ranks == [[0, 1], [2, 5], [3, 4]]


def test_less_than_one_rank_is_refused() -> None:
    """Zero ranks train nothing."""
    with pytest.raises(ConfigError, match="must be at least 1"):
        make_groups(nodes_of([2]), 0)
