"""The update of a slice that is longer than one block: means are those of all blocks, kept or not."""

import numpy as np
import pytest

from ddp_mlp.nn import optimizers
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.summing.between import BLOCK
from ddp_mlp.training.portable_step import portable_sum
from ddp_mlp.training.update import Regularization, Update

LAYOUT = Layout((BLOCK // 2, 5, 3))


@pytest.mark.parametrize(("clip_norm", "measured"), [(None, False), (None, True), (0.5, True)])
def test_every_block_has_its_own_mean(clip_norm: float | None, measured: bool) -> None:
    """Divided in float64, rounded once; scaled where the norm is above clip_norm."""
    communicator, m = SingleProcess(), 7.0
    reduction = portable_sum(communicator, LAYOUT.length)
    assert LAYOUT.length > 2 * BLOCK
    sums = np.random.default_rng(0).standard_normal(LAYOUT.length)
    optimizer, rules = optimizers.create("sgd"), Regularization(clip_norm=clip_norm)
    update = Update(communicator, LAYOUT, reduction, optimizer, rules, np.dtype(np.float32), PORTABLE)
    for _ in range(2):  # memory that is kept is used again
        reduction.partials[0][...] = sums
        reduction.parameters[...] = 0
        gradient, norm = update.clipped(update.mean_gradient(reduction.sums(7), m), measured)
        for block in gradient:
            update.apply(block, 1, 1.0)
        expected = (sums / m).astype(np.float32)
        if measured:
            assert norm == pytest.approx(float(np.linalg.norm(expected)), rel=1e-6)
        if clip_norm is not None and norm is not None:
            expected = expected * np.float32(clip_norm / (norm + 1e-6))
        assert np.array_equal(reduction.parameters, -expected)
