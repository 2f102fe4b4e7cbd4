"""Tests of a pass's memory: where it lies and how much it is."""

import tracemalloc

import numpy as np
import pytest

from ddp_mlp.nn.buffers import Group, aligned_empty

F64 = np.dtype(np.float64)


def test_aligned_empty_starts_on_a_cache_line() -> None:
    """Buffers start on 64-byte boundaries whatever their size."""
    for count in (1, 3, 1000):
        assert aligned_empty(count, F64).ctypes.data % 64 == 0


@pytest.mark.parametrize("sizes", [(300,), (40, 40, 39), (20, 20)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nbytes_is_what_a_group_takes(sizes: tuple[int, ...], dtype: type) -> None:
    """The figure is what NumPy has asked the system for, but for padding and the views themselves."""
    tracemalloc.start()
    group = Group((50, 70, 30, 7), sizes, np.dtype(dtype))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert group.nbytes <= taken <= group.nbytes + 20_000


def test_parts_share_the_memory_of_the_whole() -> None:
    """What is written through a stack is seen in its shards and in the whole, examples in order."""
    group = Group((2, 3), (2, 2, 1), F64)
    pairs, single = group.A[1].stacks
    pairs[...] = np.arange(12).reshape(2, 3, 2)
    single[...] = 100
    assert group.A[1].whole.T.tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11], [100, 100, 100]]
    assert [A_i.shape for A_i in group.A[1].shards] == [(3, 2), (3, 2), (3, 1)]
    assert group.A[1].shards[1].tolist() == [[6, 7], [8, 9], [10, 11]]
