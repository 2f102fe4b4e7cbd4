"""Every loss, activation, metric and option of targets: the same bits on any P, in memory and streamed, interrupted.

A chain of runs goes from one number of ranks to the next, from memory to the stream and back, and stops in the middle
of epochs; what it ends with is held against runs that nobody has disturbed: parameters, and the last event's figures.
"""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp.inference.metrics import DIRECTIONS
from ddp_mlp.nn.activations import ACTIVATIONS
from ddp_mlp.nn.targets import LOSSES
from tests.conftest import Program

PROGRAM = Path(__file__).parents[1] / "programs" / "train_many.py"
# 203 rows in batches of 50, the last of 3; 8 shards of 6 or 7 rows, some of the last batch's empty.
COMMON: dict[str, Any] = {"hidden": [9, 6], "batch_size": 50, "epochs": 2, "learning_rate": 0.01}
COMMON |= {"shuffle": "blocks", "block_rows": 16}
TOGETHER: dict[str, Any] = {
    "activation": "gelu,tanh",
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_steps": 3,
    "l2": 1e-3,
    "clip_norm": 0.5,
    "dropout": 0.25,
    "chunk_rows": 5,
    "patience": 2,
    "restore_best": True,
    "data": "gaps",
    "missing_targets": True,
    "target_weight": {"T": 2.0, "p": 0.5},
}
DATA = {"cross_entropy": "classes", "binary_cross_entropy": "labels", "poisson": "counts"}
"""By loss; numbers for the others."""
WATCHED = {
    "cross_entropy": ("balanced_accuracy", "macro_f1", "roc_auc", "average_precision", "accuracy", "loss"),
    "binary_cross_entropy": ("accuracy", "macro_f1", "roc_auc", "average_precision"),
    "squared_error": ("rmse", "mae", "r2", "r2:p"),
    "poisson": ("deviance",),
    "quantile": ("coverage_error",),
}
BEST: dict[str, Any] = {"patience": 1, "restore_best": True, "learning_rate": 0.3, "epochs": 3, "activation": "tanh"}
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"loss {loss}": {"loss": loss} for loss in LOSSES},
    **{f"activation {name}": {"loss": "squared_error", "activation": name} for name in ACTIVATIONS if name != "relu"},
    **{
        f"{loss}, watching {name}": {**BEST, "loss": loss, "monitor": f"valid_{name}", "dtype": dtype}
        for loss, names in WATCHED.items()
        for name, dtype in zip(names, ("float64", "float32") * 3, strict=False)
    },
    "an activation each": {"loss": "huber", "activation": "silu,elu", "huber_delta": 0.3},
    "softplus outputs": {"loss": "squared_error", "output_activation": "softplus"},
    "an output function each": {"loss": "absolute_error", "output_activation": "relu,identity"},
    "two levels": {"loss": "quantile", "quantiles": [0.3, 0.9], "activation": "leaky_relu"},
    "raw targets": {"loss": "squared_error", "standardize_targets": False, "learning_rate": 1e-4},
    "missing targets": {"loss": "squared_error", "data": "gaps", "missing_targets": True},
    "weights of targets": {"loss": "squared_error", "target_weight": {"p": 3.0}},
    "held out": {"loss": "squared_error", "data": "train only", "valid_fraction": 0.2, "patience": 3},
    **{f"{loss}, all together": {**TOGETHER, "loss": loss} for loss in ("squared_error", "huber", "absolute_error")},
    "quantile, all together": {**TOGETHER, "loss": "quantile", "monitor": "valid_coverage_error"},
    "portable, classes": {"loss": "cross_entropy", "arithmetic": "portable", "activation": "tanh,silu"},
    "portable, counts": {"loss": "poisson", "arithmetic": "portable", "activation": "gelu,softplus"},
    "portable, all together": {**TOGETHER, "loss": "quantile", "arithmetic": "portable"},
}
RANKS = tuple(map(int, os.environ.get("DDP_MLP_RANKS", "1,3").split(",")))
"""DDP_MLP_RANKS=1,2,3,4 asks for more."""
STOPS = dict(zip(RANKS[:-1], (2, 4, 7), strict=False))
"""P ranks take over the chain of runs and stop it after so many steps; the last ones finish it."""
ACCESS = dict(zip(RANKS, ("memory", "stream") * 2, strict=False))


def write(folder: Path) -> dict[str, Path]:
    """Write data sets of every kind of target, weighted, and return their paths by name."""
    random = np.random.default_rng(3)
    X = random.standard_normal((264, 7)).astype(np.float32)
    clean = np.c_[100 + 5 * X[:, 0] * X[:, 1], np.abs(X[:, 2])]
    gaps = clean.copy()
    gaps[::7, 1] = gaps[3::11, 0] = np.nan
    y: dict[str, Any] = {
        "numbers": clean,
        "gaps": gaps,
        "train only": clean,
        "labels": (X[:, [0, 3]] + X[:, [1, 2]] > [0.5, 1.5]).astype(np.float64),
        "counts": random.poisson(np.exp(X[:, :2])).astype(np.float64),
        "classes": np.argmax(X[:, :4] + random.standard_normal((264, 4)), axis=1),
    }
    for name, values in y.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            if name != "classes":
                file.attrs["targets"] = ["T", "p"]
            for split, part in {"train": slice(0, 203), "valid": slice(203, 264)}.items():
                if split == "valid" and name == "train only":
                    continue
                file[f"{split}/X"], file[f"{split}/y"] = X[part], values[part]
                file[f"{split}/w"] = np.linspace(0.2, 2, len(X))[part]
    return {name: folder / f"{name}.h5" for name in y}


def ending(folder: Path) -> dict[str, Any]:
    """Return what the last event of a run says of its end, without times and what differs by right."""
    final = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: final[name] for name in final if name.startswith(("valid", "train", "parameters", "epoch", "ended"))}


@pytest.fixture(scope="module")
def found(mpirun: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Train every option on each number of ranks, and in a chain from one to the next; what they end with, by run.

    The three ranks take themselves for two nodes, of two and one.
    """
    folder = tmp_path_factory.mktemp("targets")
    data = write(folder)
    endings: dict[str, dict[str, Any]] = {}
    for P in RANKS:
        runs = {}
        for name, option in OPTIONS.items():
            keys: dict[str, Any] = {**COMMON, "data": DATA.get(option["loss"], "numbers"), **option}
            keys |= {"data": str(data[keys["data"]]), "access": ACCESS[P]}
            runs[f"on {P}/{name}"] = keys
            runs[f"chain/{name}"] = {**keys, "max_steps": STOPS.get(P)}
        env = {"DDP_MLP_NODE_SIZE": "2"} if P == 3 else {}
        outcome = mpirun(P, PROGRAM, folder, json.dumps(runs), env=env, timeout=400)
        assert outcome.returncode == 0, outcome.stderr
        endings |= {f"{P}/{name}": ending(folder / name) for name in runs}
    return endings


def test_every_metric_and_loss_is_among_them() -> None:
    """Nothing is left out when one is added."""
    assert {option["loss"] for option in OPTIONS.values()} == set(LOSSES)
    assert {name.split(":")[0] for names in WATCHED.values() for name in names} == set(DIRECTIONS)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", OPTIONS)
def test_any_number_of_ranks_and_access_gives_the_same_bits(found: dict[str, dict[str, Any]], name: str) -> None:
    """From memory, and streamed: one hash, and the same figures to the last digit."""
    ends = [found[f"{P}/on {P}/{name}"] for P in ACCESS]
    assert ends == [ends[0]] * len(RANKS)
    assert any(key.startswith("valid_") for key in ends[0])


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", OPTIONS)
def test_interruptions_in_mid_epoch_leave_the_bits(found: dict[str, dict[str, Any]], name: str) -> None:
    """Stopped on 1 rank, resumed on others, it is the uninterrupted run."""
    whole = found[f"1/on 1/{name}"]
    assert found[f"{RANKS[-1]}/chain/{name}"] == whole
    if whole["ended"] == "epochs":
        assert found[f"1/chain/{name}"] != whole, "the chain must have stopped on the way"


@pytest.mark.timeout(1500)
def test_every_option_has_an_effect(found: dict[str, dict[str, Any]]) -> None:
    """No two runs end with the same parameters, but for those that only watch another figure."""
    names: dict[str, list[str]] = {}
    for name in OPTIONS:
        if "watching" not in name:
            names.setdefault(found[f"1/on 1/{name}"]["parameters_sha256"], []).append(name)
    assert [same for same in names.values() if len(same) > 1] == []
