"""A way into the program for faults: what a mistake in a rank's own sum would do."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ddp_mlp.data.batches import Batch
from ddp_mlp.training.step import Part, TrainingStep


def after_own_sum(patch: pytest.MonkeyPatch, change: Callable[[TrainingStep, Batch, Any, Any], object]) -> None:
    """Call change(step, batch, subtree, flat) whenever a rank has formed one of its partials."""
    exact = TrainingStep.parts

    def faulty(step: TrainingStep, batch: Batch) -> Iterator[Part]:
        yield from exact(step, batch)
        for subtree, flat in zip(step.reduction.subtrees, step.reduction.partials, strict=True):
            change(step, batch, subtree, flat)

    patch.setattr(TrainingStep, "parts", faulty)
