"""Tests of the sums over a group's shards: the definition's tree, shard by shard, is the oracle."""

import numpy as np
import pytest

from ddp_mlp.nn import backprop
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.summing import proven
from ddp_mlp.summing.tree import turns
from ddp_mlp.summing.within import GradientSum, Scratch
from tests.oracles import tree_sum


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("K", "m"), [(8, 64), (8, 75), (8, 5), (5, 33), (1, 9), (2, 2)])
@pytest.mark.parametrize("widths", [(20, 12, 4), (300, 260, 4)])
@pytest.mark.parametrize("prove", [False, True])
def test_the_sum_is_that_of_the_tree(widths: tuple[int, ...], K: int, m: int, dtype: str, prove: bool) -> None:
    """Small layers all at once, large ones shard by shard, added by BLAS or not: dW and db of every layer, twice."""
    kind, random = np.dtype(dtype), np.random.default_rng(3)
    of_shards = turns((0, K), m, K)
    group = Group(widths, [m * (turn.shard + 1) // K - m * turn.shard // K for turn in of_shards], kind)
    if prove:
        group.take(proven.shortcuts(group))
    layout = Layout(widths)
    total = GradientSum(layout, np.full(layout.length, np.nan, kind), Scratch())
    for l in (2, 1, 2, 1):
        dz, A_prev = group.dz[l], group.A[l - 1]
        dz.whole[...], A_prev.whole[...] = (random.standard_normal(a.whole.shape) for a in (dz, A_prev))
        n_prev, n = widths[l - 1], widths[l]
        dW, db = np.zeros((K, n_prev, n), kind).mT, np.zeros((K, 1, n), kind).mT  # of every shard
        for turn, dz_i, A_i in zip(of_shards, dz.shards, A_prev.shards, strict=True):
            backprop.weight_gradient(dz_i, A_i, dW[turn.shard])
            backprop.bias_gradient(dz_i, db[turn.shard])
        total.add_up(l, dz, A_prev, of_shards, group.shortcuts[l])
        for found, products in ((total.dW[l], dW), (total.db[l], db)):
            expected = tree_sum(products, m, 0, K)
            assert expected is not None
            assert found.tobytes() == expected.tobytes()
