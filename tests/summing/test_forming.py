"""Tests of sums in memory of one's own: the bits of the tree's definition, and nothing else written."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.nn.calls import do
from ddp_mlp.summing.forming import Blocks, forming
from ddp_mlp.summing.tree import Additions, additions, complete_subtrees, cut
from tests.oracles import shard_sums, tree_sum

LENGTH = 9


@given(st.integers(1, 40), st.integers(0, 60), st.integers(1, 12), st.integers(-1, 11))
def test_a_sum_has_the_bits_of_the_definition_and_terms_are_left_alone(K: int, m: int, P: int, own: int) -> None:
    """Whichever rank sums: with its own term as the place of the sum, or a place outside."""
    values = shard_sums(K, LENGTH, np.float32)
    terms = [subtree for lo, hi in pairwise(cut(K, P)) for subtree in complete_subtrees(lo, hi, K)]
    sums = [tree_sum(values, m, *subtree) for subtree in terms]
    memory = [np.full(LENGTH, np.nan, np.float32) if part is None else part.copy() for part in sums]
    before = [array.copy() for array in memory]
    out = memory[own] if 0 <= own < len(memory) else np.full(LENGTH, np.nan, np.float32)
    room = Blocks(LENGTH + 3, np.dtype(np.float32))
    do(forming(additions((0, K), terms, m, K), memory, out, room))
    expected = tree_sum(values, m, 0, K)
    if expected is not None:
        assert out.tobytes() == expected.tobytes()
    for array, was in zip(memory, before, strict=True):
        assert array is out or array.tobytes() == was.tobytes()


def test_sums_that_wait_take_as_many_blocks_as_the_tree_is_high() -> None:
    """64 terms need 6 blocks of scratch at most: the rest is read where it lies."""
    terms = [np.full(4, i, np.float32) for i in range(64)]
    room = Blocks(4, np.dtype(np.float32))
    out = np.empty(4, np.float32)
    do(forming(additions((0, 64), [(i, i + 1) for i in range(64)], 64, 64), terms, out, room))
    assert out.tolist() == [sum(range(64))] * 4
    assert len(room._blocks) <= 6


@pytest.mark.parametrize("there", [True, False])
def test_a_single_term_is_copied_unless_it_is_there(there: bool) -> None:
    """What is divided and clipped afterwards must not be another rank's memory."""
    term = np.ones(3)
    out = term if there else np.zeros(3)
    calls = forming(Additions((), 0), [term], out, Blocks(3, term.dtype))
    assert len(calls) == (not there)
    do(calls)
    assert out.tolist() == [1, 1, 1]
    assert forming(Additions((), None), [term], out, Blocks(3, term.dtype)) == []
