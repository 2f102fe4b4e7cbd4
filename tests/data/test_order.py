"""Tests of the order of an epoch, and of how rows are set apart."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.data.order import WINDOW, epoch_order, windows

SHUFFLES = ("rows", "blocks", "none")
sizes = st.integers(1, 700)


# ---- order -----------------------------------------------------------------------------------------------------------


@given(m=sizes, seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 9), block_rows=st.integers(1, 50))
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_an_epoch_takes_every_row_once(shuffle: str, m: int, seed: int, epoch: int, block_rows: int) -> None:
    """However rows are shuffled, the order is a permutation."""
    assert np.array_equal(np.sort(epoch_order(m, seed, epoch, shuffle, block_rows)), np.arange(m))


@pytest.mark.parametrize("shuffle", ["rows", "blocks"])
def test_the_order_is_a_function_of_seed_and_epoch(shuffle: str) -> None:
    """Asked again it is the same; another seed or epoch has another; what was drawn before does not matter."""
    first = epoch_order(500, 1, 2, shuffle, 8)
    others = [
        epoch_order(500, 1, 3, shuffle, 8),
        epoch_order(500, 2, 2, shuffle, 8),
        epoch_order(500, 2, 1, shuffle, 8),
    ]
    assert np.array_equal(first, epoch_order(500, 1, 2, shuffle, 8))
    assert not any(np.array_equal(first, other) for other in others)


def test_no_shuffle_is_the_order_of_the_file() -> None:
    """Rows come as they are, whatever seed and epoch."""
    assert epoch_order(9, 5, 7, "none", 2).tolist() == [*range(9)]


@given(m=sizes, seed=st.integers(0, 99), epoch=st.integers(0, 5), block_rows=st.integers(1, 20))
def test_a_window_is_made_of_whole_blocks(m: int, seed: int, epoch: int, block_rows: int) -> None:
    """Cut where the windows end, the order holds up to WINDOW whole blocks in each part, and each block in one part."""
    order = epoch_order(m, seed, epoch, "blocks", block_rows)
    ends = np.cumsum([0, *(window.size for window in windows(m, seed, epoch, "blocks", block_rows))])
    assert ends[-1] == m
    seen: set[int] = set()
    for lo, hi in pairwise(ends):
        numbers, counts = np.unique(order[lo:hi] // block_rows, return_counts=True)
        assert len(numbers) <= WINDOW
        assert len(numbers) == WINDOW or hi == m
        assert not seen & set(numbers.tolist())
        seen |= set(numbers.tolist())
        assert counts.tolist() == [min(block_rows, m - int(i) * block_rows) for i in numbers]


def test_blocks_and_the_rows_of_a_window_are_mixed() -> None:
    """Far-off blocks come early, and neighbours in the order are seldom neighbours in the file."""
    order = epoch_order(100_000, 0, 0, "blocks", 100)
    window = order[: WINDOW * 100]
    assert np.ptp(window) > 50_000
    assert np.mean(np.abs(np.diff(window)) == 1) < 0.01
    assert len({int(row) // 100 for row in window[:100]}) == WINDOW  # each hundredth has rows of every block
