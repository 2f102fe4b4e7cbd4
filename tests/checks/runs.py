"""What is asked of whole runs, with or without a fault in the program."""

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.errors import Interrupted
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage import checkpoints
from ddp_mlp.training import loop
from tests.oracles import Parameters, masks_of, plain_loss, write_data


def train(data: Path, run_dir: Path, **keys: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train in this process; return the final event and all events."""
    final = loop.train(Config(data=str(data), run_dir=str(run_dir), quiet=True, **keys), SingleProcess())
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return final, events


def parameters_after(run_dir: Path, step: int) -> Parameters:
    """Return {"W1": …, "b1": …, …} of the checkpoint of a step."""
    return checkpoints.load(run_dir / "checkpoints" / f"step-{step:08d}.h5").parameters


def gradient_is_the_central_difference_of_the_loss(tmp_path: Path, chunk_rows: int, clip_norm: float | None) -> None:
    """L2, dropout, label smoothing, class and sample weights: relative error at most 1e-7, in steps 2 and 3.

    The second and third batch of 29 rows in 8 shards, at parameters that training has reached; a step of plain gradient
    descent is its gradient. Differences over h = 1e-5 err by 1e-10 of the third derivative and by 1e-11 in rounding.
    """
    path = write_data(tmp_path / "data.h5", {"train": 100}, features=6, classes=4, weighted=True, dtype="float64")
    keys: dict[str, Any] = {"l2": 0.05, "dropout": 0.3, "label_smoothing": 0.2, "class_weight": {"1": 2.5, "3": 0.5}}
    shape: dict[str, Any] = {"batch_size": 29, "shards": 8, "shuffle": "none", "standardize": False, "dtype": "float64"}
    course: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.5, "log_every": 1, "checkpoint_every": 1}
    hidden = (7, 5)
    run_dir = tmp_path / "run"
    _, events = train(
        path, run_dir, hidden=hidden, max_steps=3, chunk_rows=chunk_rows, clip_norm=clip_norm, **keys, **shape, **course
    )
    with h5py.File(path) as file:
        X_all, y_all, w_all = (file["train"][name][:] for name in ("X", "y", "w"))

    for step in (2, 3):
        rows = slice(29 * (step - 1), 29 * step)
        X, y = X_all[rows], y_all[rows].astype(np.int64)
        weight = w_all[rows] * np.array([1, 2.5, 1, 0.5])[y]
        masks = masks_of(step, 29, 8, list(hidden), 0.3)
        before, after = parameters_after(run_dir, step - 1), parameters_after(run_dir, step)

        def loss(
            theta: Parameters, X: Any = X, y: Any = y, weight: Any = weight, masks: Any = masks
        ) -> tuple[float, float]:
            squares = sum(float(np.sum(theta[name] ** 2)) for name in theta if name.startswith("W"))
            return plain_loss(theta, X, y, weight, masks, 0.2), 0.05 / 2 * squares

        theta = {name: array.copy() for name, array in before.items()}
        expected = {name: np.empty_like(array) for name, array in theta.items()}
        h = 1e-5
        for name, array in theta.items():
            for place in np.ndindex(array.shape):
                kept = array[place]
                array[place] = kept + h
                above = sum(loss(theta))
                array[place] = kept - h
                expected[name][place] = (above - sum(loss(theta))) / (2 * h)
                array[place] = kept
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in expected.values()))
        clipping = 1.0 if clip_norm is None else clip_norm / (norm + 1e-6)
        assert clipping <= 1, "the gradient must be long enough to be clipped"
        error = math.sqrt(
            sum(float(np.sum(((before[k] - after[k]) / 0.5 / clipping - expected[k]) ** 2)) for k in expected)
        )
        assert error <= 1e-7 * norm

        event = next(event for event in events if event["event"] == "step" and event["step"] == step)
        assert event["loss"] == pytest.approx(loss(before)[0], rel=1e-12)
        assert event["gradient_norm"] == pytest.approx(norm, rel=1e-7)


def decoupled_decay_shrinks_weights_alone(tmp_path: Path) -> None:
    """One step of AdamW with decay λ is one without it, less η λ W; biases keep their bits."""
    path = write_data(tmp_path / "data.h5", {"train": 100}, dtype="float64")
    settings: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.1, "dtype": "float64", "hidden": (6,)}
    train(path, tmp_path / "start", weight_decay=0.0, max_steps=1, **settings)  # biases begin as zeros, and leave them
    settings["init_from"] = str(tmp_path / "start" / "checkpoints" / "step-00000001.h5")
    theta = {"start": parameters_after(tmp_path / "start", 1)}
    for name, decay in (("plain", 0.0), ("decayed", 0.5)):
        train(path, tmp_path / name, weight_decay=decay, max_steps=1, **settings)
        theta[name] = parameters_after(tmp_path / name, 1)
    for name, start in theta["start"].items():
        assert start.any()
        plain, decayed = theta["plain"][name], theta["decayed"][name]
        if name.startswith("W"):
            np.testing.assert_allclose(plain - decayed, 0.1 * 0.5 * start, rtol=1e-9, atol=1e-15)
        else:
            assert plain.tobytes() == decayed.tobytes()


def patience_ends_a_run_and_restore_best_keeps_its_best(tmp_path: Path) -> None:
    """At a rate that is too high the run ends early, with the parameters and the loss of its best epoch."""
    path = write_data(tmp_path / "data.h5", {"train": 60, "valid": 200})
    keys: dict[str, Any] = {"learning_rate": 0.1, "patience": 3, "epochs": 100, "hidden": (20,), "batch_size": 20}
    keys |= {"checkpoint_every": "1 epoch"}
    kept, events = train(path, tmp_path / "kept", restore_best=True, **keys)
    last, _ = train(path, tmp_path / "last", **keys)
    losses = [event["valid_loss"] for event in events if event["event"] == "epoch"]
    assert kept["ended"] == last["ended"] == "patience"
    assert len(losses) == losses.index(min(losses)) + 1 + 3 < 100
    assert kept["valid_loss"] == min(losses)
    assert last["valid_loss"] == losses[-1] > min(losses)
    best = checkpoints.load(tmp_path / "kept" / "checkpoints" / "best.h5")
    assert best.epoch == losses.index(min(losses)) + 1


def time_limit_saves_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """max_seconds stops with a checkpoint, as a signal does; the run that is continued ends with the same bits."""
    path = write_data(tmp_path / "data.h5", {"train": 100})
    keys: dict[str, Any] = {"epochs": 4, "batch_size": 30, "hidden": (3,), "dropout": 0.2, "shuffle": "blocks"}
    whole, _ = train(path, tmp_path / "whole", **keys)
    with pytest.raises(Interrupted, match="stopped by max_seconds = 1e-09 after step 1"):
        train(path, tmp_path / "parts", max_seconds=1e-9, **keys)
    parts, _ = train(path, tmp_path / "parts", **keys)
    assert parts["parameters_sha256"] == whole["parameters_sha256"]
