"""A network of numbers answers for a file's rows: the same bytes and figures for any number of ranks, and pickled."""

import copy
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp import load
from tests.checks.runs import train
from tests.conftest import Program


def trained(folder: Path, loss: str) -> tuple[Path, Path]:
    """Return a data set of three targets, and the folder of a short run on it."""
    random = np.random.default_rng(0)
    X = random.standard_normal((900, 4))
    Y = np.c_[X[:, 0] * X[:, 1], 1e5 + 100 * X[:, 2], random.standard_normal(900)]
    if loss == "binary_cross_entropy":
        Y = (np.median(Y, axis=0) < Y).astype(np.float64)
    else:
        Y = np.abs(Y) % 7 if loss == "poisson" else Y
        Y[::5, 1] = np.nan
    data = folder / "data.h5"
    with h5py.File(data, "w") as file:
        file.attrs["targets"] = ["T", "p", "q"]
        for split, part in {"train": slice(0, 300), "test": slice(300, 900)}.items():
            file[f"{split}/X"], file[f"{split}/y"] = X[part], Y[part]
    keys: dict[str, Any] = {} if loss == "binary_cross_entropy" else {"missing_targets": True}
    train(data, folder / "run", hidden=(8,), epochs=2, loss=loss, activation="gelu", **keys)
    return data, folder / "run"


@pytest.mark.parametrize("loss", ["squared_error", "quantile", "binary_cross_entropy"])
def test_any_number_of_ranks_writes_the_same(loss: str, tmp_path: Path, mpirun: Program) -> None:
    """600 rows are two blocks and a rest: of 5 ranks two have no rows. What is written is what the model answers."""
    data, run_dir = trained(tmp_path, loss)
    found = set()
    for ranks in (1, 2, 5):
        out = tmp_path / f"{ranks}.h5"
        outcome = mpirun(ranks, "-m", "ddp_mlp.predict", run_dir, data, "-o", out)
        assert outcome.returncode == 0, outcome.stderr
        found.add((out.read_bytes(), outcome.stdout))
    assert len(found) == 1
    with h5py.File(data) as file, h5py.File(tmp_path / "1.h5") as written:
        X = file["test/X"][:]
        name = "probability" if loss == "binary_cross_entropy" else "value"
        np.testing.assert_array_equal(written[name][:], load(run_dir).network.predictions(X))


@pytest.mark.parametrize("loss", ["squared_error", "quantile", "binary_cross_entropy"])
def test_a_model_is_copied_and_pickled(loss: str, tmp_path: Path) -> None:
    """Ranks send it to one another: what comes out gives the same bits."""
    _, run_dir = trained(tmp_path, loss)
    model, X = load(run_dir), np.random.default_rng(1).standard_normal((10, 4))
    expected = model.network.predictions(X)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other.network.predictions(X).tobytes() == expected.tobytes()
        assert other.network.architecture.activation == "gelu"


@pytest.mark.parametrize(
    ("loss", "value", "said"),
    [
        ("squared_error", np.inf, "is inf: must be a finite number"),
        ("poisson", -1, "is -1: must be at least 0"),
        ("binary_cross_entropy", 2, "is 2: must be 0 or 1"),
    ],
)
def test_targets_that_the_loss_cannot_take_are_refused(
    loss: str, value: float, said: str, tmp_path: Path, mpirun: Program
) -> None:
    """Whichever rank meets them, beside others that may be missing; no scores are made up of them."""
    data, run_dir = trained(tmp_path, loss)
    with h5py.File(data, "a") as file:
        del file.attrs["targets"]
        file.attrs["targets"] = ["q", "p", "T"]  # the columns that are told are the file's
        file["test/y"][590, 2] = value
    outcome = mpirun(2, "-m", "ddp_mlp.predict", run_dir, data, "-o", tmp_path / "out.h5")
    assert outcome.returncode == 65
    assert f"'y' of test, row 590, column 2 {said}" in outcome.stderr
    assert not (tmp_path / "out.h5").exists()
