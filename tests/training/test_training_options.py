"""Every training option: the same bits for any P and through interruptions, and its effect against plain formulas."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp.errors import ConfigError
from ddp_mlp.storage.writer import DatasetWriter
from tests.checks import runs
from tests.checks.runs import parameters_after, train
from tests.conftest import Program
from tests.oracles import plain_loss, write_data

PROGRAM = Path(__file__).parents[1] / "programs" / "train_many.py"


# ---- one hash for any number of ranks, and through interruptions -----------------------------------------------------

# 203 rows in batches of 50, the last of 3; 8 shards of 6 or 7 rows, some of the last batch's empty.
COMMON: dict[str, Any] = {"data": "plain", "hidden": [9, 6], "batch_size": 50, "epochs": 2, "learning_rate": 0.01}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "momentum", "momentum": 0.8},
    "nesterov": {"optimizer": "nesterov"},
    "rmsprop": {"optimizer": "rmsprop"},
    "rmsprop, its coefficients": {"optimizer": "rmsprop", "alpha": 0.9, "epsilon": 0.01},
    "adam, its coefficients": {"beta1": 0.8, "beta2": 0.95, "epsilon": 0.01},
    "adamw": {"optimizer": "adamw"},
    "adamw, its decay": {"optimizer": "adamw", "weight_decay": 0.5},
    "warm-up": {"warmup_steps": 7},
    "cosine": {"schedule": "cosine", "min_learning_rate": 1e-4},
    "cosine after warm-up": {"schedule": "cosine", "warmup_steps": 3},
    "step": {"schedule": "step", "decay_every": 1},
    "exponential": {"schedule": "exponential", "decay": 0.8},
    "plateau": {"schedule": "plateau", "plateau_patience": 1, "min_delta": 10.0, "epochs": 3},
    "l2": {"l2": 0.01},
    "clip_norm": {"clip_norm": 0.3, "optimizer": "momentum"},
    "dropout": {"dropout": 0.4},
    "label_smoothing": {"label_smoothing": 0.1},
    "class_weight": {"class_weight": {"1": 3.0, "4": 0.0}},
    "class_weight, balanced": {"class_weight": "balanced"},
    "sample weights": {"data": "weighted"},
    "patience": {"patience": 2, "min_delta": 10.0, "epochs": 4},
    "restore_best": {"restore_best": True, "learning_rate": 0.5},
    "restore_best by accuracy": {"restore_best": True, "monitor": "valid_accuracy", "learning_rate": 0.4},
    "valid_fraction": {"data": "train only", "valid_fraction": 0.2, "patience": 3},
    "standardize": {"standardize": False},
    "chunk_rows": {"chunk_rows": 4},
    "chunk_rows with dropout": {"chunk_rows": 4, "dropout": 0.3},
    "full batch": {"batch_size": "full", "epochs": 10},
    "full batch in chunks": {"batch_size": "full", "epochs": 10, "chunk_rows": 11},
    "shards": {"shards": 5},
    "blocks of rows": {"shuffle": "blocks", "block_rows": 16},
    "file order": {"shuffle": "none"},
    "softmax regression": {"hidden": []},
    "one-wide layers": {"hidden": [1, 3, 1], "batch_size": 11, "epochs": 1},
    "float64": {"dtype": "float64"},
    "one-wide, float64": {"hidden": [2, 1], "batch_size": 3, "epochs": 1, "dtype": "float64"},
    "2 classes": {"data": "two classes"},
    "10,000 classes": {"data": "many classes", "hidden": [1], "loss": "cross_entropy"},
    "all together": {
        "data": "weighted",
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup_steps": 4,
        "min_learning_rate": 1e-4,
        "l2": 1e-3,
        "clip_norm": 0.5,
        "dropout": 0.25,
        "label_smoothing": 0.1,
        "class_weight": "balanced",
        "chunk_rows": 5,
        "patience": 2,
        "min_delta": 1e-3,
        "monitor": "valid_accuracy",
        "restore_best": True,
        "shuffle": "blocks",
        "block_rows": 10,
    },
}
STOPS = {1: 2, 2: 4, 3: 7}
"""P ranks take over the chain of runs and stop it after so many steps; 4 ranks finish it."""


@pytest.fixture(scope="module")
def found(mpirun: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    """Train every option with 1, 2, 3 and 4 ranks, and in a chain from one to the next; hashes by P and name.

    The three ranks take themselves for two nodes, of two and one.
    """
    folder = tmp_path_factory.mktemp("options")
    split = {"train": 203, "valid": 61}
    data = {
        "plain": write_data(folder / "plain.h5", split),
        "weighted": write_data(folder / "weighted.h5", split, weighted=True),
        "train only": write_data(folder / "train.h5", {"train": 251}),
        "two classes": write_data(folder / "two.h5", split, classes=2),
        "many classes": write_data(folder / "many.h5", split, classes=10_000),
    }
    hashes = {}
    for P in (1, 2, 3, 4):
        runs = {}
        for name, option in OPTIONS.items():
            keys = {**COMMON, **option}
            keys["data"] = str(data[keys["data"]])
            runs[f"on {P}/{name}"] = keys
            runs[f"chain/{name}"] = {**keys, "max_steps": STOPS.get(P)}
        env = {"DDP_MLP_NODE_SIZE": "2"} if P == 3 else {}
        outcome = mpirun(P, PROGRAM, folder, json.dumps(runs), env=env, timeout=400)
        assert outcome.returncode == 0, outcome.stderr
        hashes[P] = json.loads(outcome.stdout)
    return hashes


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", OPTIONS)
def test_any_number_of_ranks_gives_the_same_bits(found: dict[int, dict[str, str]], name: str) -> None:
    """1, 2, 3 and 4 ranks end with one parameters_sha256."""
    assert len({found[P][f"on {P}/{name}"] for P in found}) == 1


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", OPTIONS)
def test_interruptions_in_mid_epoch_leave_the_bits(found: dict[int, dict[str, str]], name: str) -> None:
    """A run stopped on 1 rank, resumed and stopped on 2, then 3, then finished on 4 is the uninterrupted run."""
    assert found[4][f"chain/{name}"] == found[1][f"on 1/{name}"]
    assert found[1][f"chain/{name}"] != found[1][f"on 1/{name}"], "the chain must have stopped on the way"


@pytest.mark.timeout(1500)
def test_every_option_has_an_effect(found: dict[int, dict[str, str]]) -> None:
    """No two of the runs end with the same parameters: an option that is not wired would repeat another run."""
    names: dict[str, list[str]] = {}
    for name in OPTIONS:
        names.setdefault(found[1][f"on 1/{name}"], []).append(name)
    assert [same for same in names.values() if len(same) > 1] == []


# ---- what the options do, against formulas ---------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk_rows", "clip_norm"), [(4096, None), (2, None), (4096, 0.25)])
def test_gradient_is_the_central_difference_of_the_loss(
    tmp_path: Path, chunk_rows: int, clip_norm: float | None
) -> None:
    """L2, dropout, label smoothing, class and sample weights: relative error at most 1e-7, in steps 2 and 3."""
    runs.gradient_is_the_central_difference_of_the_loss(tmp_path, chunk_rows, clip_norm)


def test_evaluation_is_plain_weighted_cross_entropy(tmp_path: Path) -> None:
    """Validation loss knows sample weights, but no dropout, smoothing, class weights or L2."""
    path = write_data(tmp_path / "data.h5", {"train": 100, "valid": 300}, weighted=True, dtype="float64")
    keys: dict[str, Any] = {"l2": 0.05, "dropout": 0.3, "label_smoothing": 0.2, "class_weight": "balanced"}
    final, events = train(path, tmp_path / "run", epochs=2, dtype="float64", standardize=False, hidden=(6,), **keys)
    with h5py.File(path) as file:
        X, y, w = (file["valid"][name][:] for name in ("X", "y", "w"))
    theta = parameters_after(tmp_path / "run", final["step"])
    assert final["valid_loss"] == pytest.approx(plain_loss(theta, X, y.astype(np.int64), w), rel=1e-12)
    assert events[-2]["event"] == "epoch"
    assert events[-2]["valid_loss"] == final["valid_loss"]


def test_decoupled_decay_shrinks_weights_alone(tmp_path: Path) -> None:
    """One step of AdamW with decay λ is one without it, less η λ W; biases keep their bits."""
    runs.decoupled_decay_shrinks_weights_alone(tmp_path)


def test_adamw_decays_by_default(tmp_path: Path) -> None:
    """Left unset, weight_decay is 0.01 for adamw, as PyTorch has it, and nothing for adam."""
    path = write_data(tmp_path / "data.h5", {"train": 100})

    def run(name: str, **keys: Any) -> str:
        final, _ = train(path, tmp_path / name, hidden=(6,), epochs=1, **keys)
        return str(final["parameters_sha256"])

    unset = run("unset", optimizer="adamw")
    assert unset == run("0.01", optimizer="adamw", weight_decay=0.01)
    assert unset != run("adam") == run("0", optimizer="adamw", weight_decay=0.0)


def test_learning_rates_are_logged_as_they_were_used(tmp_path: Path) -> None:
    """Warm-up to the full rate in 4 steps, then half a cosine over the 8 that are left, whatever max_steps says."""
    path = write_data(tmp_path / "data.h5", {"train": 100})
    keys: dict[str, Any] = {"schedule": "cosine", "learning_rate": 0.2, "min_learning_rate": 0.02, "warmup_steps": 4}
    _, events = train(path, tmp_path / "run", epochs=3, batch_size=25, max_steps=11, log_every=1, hidden=(3,), **keys)
    rates = [event["learning_rate"] for event in events if event["event"] == "step"]
    after = [0.02 + 0.09 * (1 + math.cos(math.pi * done / 8)) for done in range(7)]
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2, *after], rel=1e-14)


def test_plateau_lowers_the_rate_when_validation_stalls(tmp_path: Path) -> None:
    """With a first epoch that nothing beats and plateau_patience = 2, the rate halves after epochs 3 and 5."""
    path = write_data(tmp_path / "data.h5", {"train": 100, "valid": 50})
    keys: dict[str, Any] = {"schedule": "plateau", "plateau_patience": 2, "min_delta": 10.0, "learning_rate": 0.1}
    _, events = train(path, tmp_path / "run", epochs=6, batch_size="full", log_every=1, hidden=(3,), **keys)
    assert [event["learning_rate"] for event in events if event["event"] == "step"] == [0.1] * 3 + [0.05] * 2 + [0.025]


def test_patience_ends_a_run_and_restore_best_keeps_its_best(tmp_path: Path) -> None:
    """At a rate that is too high the run ends early, with the parameters and the loss of its best epoch."""
    runs.patience_ends_a_run_and_restore_best_keeps_its_best(tmp_path)


def test_time_limit_saves_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """max_seconds stops with a checkpoint, as a signal does; the run that is continued ends with the same bits."""
    runs.time_limit_saves_and_the_next_start_goes_on(tmp_path)


def test_labels_of_any_integer_type(tmp_path: Path) -> None:
    """Signed, unsigned, narrow, wide, big-endian and bool labels train the same network."""
    random = np.random.default_rng(5)
    X, y = random.standard_normal((90, 4)), random.integers(0, 2, 90)
    found = set()
    for number, kind in enumerate(["i1", "u1", "<i2", ">i2", "<u4", ">i8", "<i8", ">u8", "?"]):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["train/X"], file["train/y"] = X, y.astype(kind)
        found.add(train(path, tmp_path / f"run {number}", epochs=1, hidden=(3,))[0]["parameters_sha256"])
    assert len(found) == 1


def test_examples_without_weight_train_nothing(tmp_path: Path) -> None:
    """A batch whose examples all weigh 0 has the gradient 0 and the loss 0; the run goes on."""
    random = np.random.default_rng(5)
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["train/X"], file["train/y"] = random.standard_normal((40, 4)), random.integers(0, 2, 40)
        file["train/w"] = np.repeat([0.0, 1.0], 20)
    keys: dict[str, Any] = {"shuffle": "none", "batch_size": 20, "hidden": (3,), "optimizer": "sgd"}
    _, events = train(path, tmp_path / "run", max_steps=2, log_every=1, checkpoint_every=1, **keys)
    train(path, tmp_path / "start", max_steps=0, **keys)
    start, first, second = (
        parameters_after(tmp_path / folder, step) for folder, step in (("start", 0), ("run", 1), ("run", 2))
    )
    assert all(start[name].tobytes() == first[name].tobytes() for name in start)
    assert any(first[name].tobytes() != second[name].tobytes() for name in first)
    assert [event["loss"] > 0 for event in events if event["event"] == "step"] == [False, True]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"class_weight": {"5": 1.0}}, r"class_weight names '5': the classes are 0, 1, 2, 3, 4"),
        ({"class_weight": dict.fromkeys("01234", 0.0)}, "class_weight gives every example the weight 0"),
        ({"patience": 3}, "patience: needs validation data"),
        ({"schedule": "plateau"}, "schedule = plateau: needs validation data"),
        ({"restore_best": True}, "restore_best: needs validation data"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    """One line says what is missing."""
    with pytest.raises(ConfigError, match=message):
        train(write_data(tmp_path / "data.h5", {"train": 100}), tmp_path / "run", **keys)


@pytest.mark.timeout(240)
def test_a_full_batch_needs_the_memory_of_one_chunk(tmp_path: Path) -> None:
    """A step on 1,000,000 × 32 rows at once takes less than 200 MB beside the data and the order of its rows."""
    m = 1_000_000
    random = np.random.default_rng(0)
    path = tmp_path / "data.h5"
    with DatasetWriter(path, {"train": m}, 32, np.dtype(np.uint8), 10) as writer:
        writer.append("train", random.integers(0, 256, (m, 32), np.uint8), random.integers(0, 10, m))
    tracemalloc.start()  # it sees NumPy's memory, touched or not
    final, _ = train(path, tmp_path / "run", batch_size="full", max_steps=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert final["step"] == 1
    data = m * (32 * 1 + 8)
    order = 2 * m * 8  # kept, and made anew at the start of an epoch
    assert peak - data - order < 200e6
