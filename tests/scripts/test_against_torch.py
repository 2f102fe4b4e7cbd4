"""Tests of the comparison with PyTorch: a short form of it finds nothing, and it finds what is planted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ddp_mlp.nn import activations, optimizers
from ddp_mlp.nn.parameters import Layout
from scripts.tools import against_torch

pytest.importorskip("torch")


def decayed_biases(patch: pytest.MonkeyPatch) -> None:
    """L2 and decay take biases for weights."""
    patch.setattr(Layout, "weights_mask", lambda layout, dtype: np.ones(layout.length, dtype))


def clipped_to_the_limit(patch: pytest.MonkeyPatch) -> None:
    """Clipping divides by the norm alone, and not by the norm and 1e-6."""
    patch.setattr(optimizers, "clip_scale", lambda norm, clip_norm: min(1.0, clip_norm / norm))


def a_steeper_leak(patch: pytest.MonkeyPatch) -> None:
    """Lean in the eighth digit of the slope of leaky_relu."""
    patch.setattr(activations, "LEAK", 0.01 + 1e-10)


def test_a_short_comparison_finds_nothing() -> None:
    """Three runs of every loss, with every optimizer and schedule among them."""
    runs = [against_torch.draw(1, number) for number in range(21)]
    assert {run.keys["optimizer"] for run in runs} == {"sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"}
    assert {run.keys["schedule"] for run in runs} == {"constant", "cosine", "step", "exponential"}
    assert against_torch.compare(1, range(21)) == []


@pytest.mark.parametrize(
    ("plant", "concerns"),
    [
        (decayed_biases, lambda keys: keys["l2"] > 0),
        (clipped_to_the_limit, lambda keys: keys["clip_norm"] and keys["optimizer"] in ("sgd", "momentum", "nesterov")),
        (a_steeper_leak, lambda keys: "leaky_relu" in keys["activation"]),
    ],
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    concerns: Callable[[dict[str, Any]], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that a tolerance of six digits would not see, in one of the runs that it concerns."""
    plant(monkeypatch)
    numbers = [number for number in range(200) if concerns(against_torch.draw(1, number).keys)][:6]
    assert against_torch.compare(1, numbers)
