"""A way into the program for faults: what a mistake in a rank's own sum would do."""

from collections.abc import Callable
from typing import Any

import pytest

from ddp_mlp.data.batches import Batch
from ddp_mlp.training.step import TrainingStep


def after_own_sum(patch: pytest.MonkeyPatch, change: Callable[[TrainingStep, Batch, Any, Any], object]) -> None:
    """Call change(step, batch, subtree, flat) whenever a rank has formed one of its partials."""
    exact = TrainingStep._sum_partial

    def faulty(step: TrainingStep, batch: Batch, subtree: Any, out: Any) -> None:
        exact(step, batch, subtree, out)
        change(step, batch, subtree, out.flat)

    patch.setattr(TrainingStep, "_sum_partial", faulty)
