"""Tests of what y is taken for: classes as version 0.1 has them, numbers, or a question back."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data, open_data
from ddp_mlp.data.targets import settle
from ddp_mlp.errors import ConfigError, DataError, ProgramError
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import inspect


def write(path: Path, y: Any, w: Any = None, valid_y: Any = None, **attributes: list[str]) -> Path:
    """Write a data set with these targets and two features."""
    with h5py.File(path, "w") as file:
        for split, targets in (("train", y), ("valid", valid_y)):
            if targets is not None:
                file[f"{split}/X"] = np.arange(2.0 * len(targets)).reshape(-1, 2)
                file[f"{split}/y"] = targets
        if w is not None:
            file["train/w"] = w
        for name, value in attributes.items():
            file.attrs[name] = value
    return path


def opened(path: Path, **keys: Any) -> Data:
    """Return the data of a run, opened by one process."""
    return open_data(Config(data=str(path), quiet=True, **keys), SingleProcess())


@pytest.mark.parametrize(
    ("y", "attributes", "expected"),
    [
        (np.arange(60) % 3, {}, "cross_entropy"),
        ((np.arange(60) % 3).astype(np.float32), {}, "cross_entropy"),
        (np.arange(20), {}, "cross_entropy"),  # few enough to be classes, one row each
        (np.arange(60) % 30, {"classes": [str(i) for i in range(30)]}, "cross_entropy"),
        (np.arange(60) / 2, {}, "squared_error"),
        (np.arange(60) - 30, {}, "squared_error"),
        (np.arange(60) * 2**20, {}, "squared_error"),
        (np.zeros((60, 3)), {}, "squared_error"),
        (np.arange(60) % 3, {"targets": ["t"]}, "squared_error"),
    ],
)
def test_what_auto_stands_for(tmp_path: Path, y: NDArray[Any], attributes: dict[str, list[str]], expected: str) -> None:
    """Whole numbers from 0 on are classes, stored as integers or floats; anything else is numbers."""
    info = inspect(write(tmp_path / "d.h5", y, **attributes))
    assert settle(Config(), info)[0] == expected


def test_whole_numbers_with_about_one_value_per_row_are_asked_back(tmp_path: Path) -> None:
    """Both spellings are named."""
    info = inspect(write(tmp_path / "d.h5", np.arange(60.0)))
    with pytest.raises(
        ConfigError, match=r"60 different whole numbers in 60 rows: set loss = cross_entropy .* squared"
    ):
        settle(Config(), info)
    assert settle(Config(loss="cross_entropy"), info)[0] == "cross_entropy"
    assert settle(Config(loss="huber"), info)[1].numbers == 1


BAD: dict[str, tuple[Any, dict[str, Any], type[ProgramError], str]] = {
    "NaN": ([0.5, np.nan], {}, DataError, "row 1 is nan: must be a finite number; missing_targets = true takes NaN"),
    "Inf": ([[0.5, 1], [np.inf, 1]], {"missing_targets": True}, DataError, "row 1, column 0 is inf"),
    "negative count": ([1.0, -2], {"loss": "poisson"}, DataError, "row 1 is -2: must be at least 0"),
    "labels": ([[0, 1], [1, 2]], {"loss": "binary_cross_entropy"}, DataError, "row 1, column 1 is 2: must be 0 or 1"),
    "columns": ([[0, 1], [1, 2]], {"loss": "cross_entropy"}, ConfigError, "has 2 columns: choose a loss for numbers"),
    "smoothing": ([0.5, 1], {"label_smoothing": 0.1}, ConfigError, "is for classes, but loss = squared_error"),
    "class_weight": ([0.5, 1], {"class_weight": "balanced"}, ConfigError, "is for classes, but loss"),
    "output": ([1.0, 2], {"loss": "poisson", "output_activation": "relu"}, ConfigError, "but loss = poisson"),
    "two for three": (np.ones((2, 3)), {"output_activation": "relu,relu"}, ConfigError, "one for each of 3 targets"),
    "weight": ([0.5, 1], {"target_weight": {"z": 1}}, ConfigError, "names 'z': the targets are y"),
    "no weight": ([0.5, 1], {"target_weight": {"y": 0}}, ConfigError, "every target the weight 0"),
    "never": ([[0.5, np.nan]] * 2, {"missing_targets": True}, DataError, "'y1' is never observed in train"),
    "missing classes": ([0, 1], {"missing_targets": True}, ConfigError, "is for numbers, but loss = cross_entropy"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, name: str) -> None:
    """One line says what was found and what is expected."""
    y, keys, kind, message = BAD[name]
    with pytest.raises(kind) as refusal:
        opened(write(tmp_path / "d.h5", np.array(y)), **keys)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_targets_of_another_number_in_valid_are_refused(tmp_path: Path) -> None:
    """Every split has as many targets as train."""
    path = write(tmp_path / "d.h5", np.ones((4, 2)) / 2, valid_y=np.ones((4, 3)) / 2)
    with pytest.raises(DataError, match="train has 2, valid has 3 targets"):
        opened(path)


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """The attribute has a name for each column, and classes and numbers do not go together."""
    with pytest.raises(DataError, match="attribute targets has 1 names, but 'y' has 2 columns"):
        opened(write(tmp_path / "d.h5", np.ones((4, 2)), targets=["a"]))
    path = write(tmp_path / "e.h5", np.arange(4) % 2, classes=["a", "b"])
    with pytest.raises(ConfigError, match="names classes: choose loss = cross_entropy"):
        opened(path, loss="squared_error")


def test_mean_and_scale_are_those_of_what_was_observed(tmp_path: Path) -> None:
    """NaN is left out, a constant target has scale 1 and is said, and gathered targets are standardized."""
    y = np.array([[1.0, 7, np.nan], [2, 7, 4], [6, 7, 8]])
    data = opened(write(tmp_path / "d.h5", y, targets=["a", "b", "c"]), missing_targets=True)
    assert data.targets.names == ("a", "b", "c")
    np.testing.assert_allclose(data.targets.mean, [3, 7, 6], rtol=1e-15)
    np.testing.assert_allclose(np.array(data.targets.scale), np.array([np.std([1, 2, 6]), 1.0, 2.0]), rtol=1e-15)
    assert data.factor == (1, 1, 1.5)
    assert "constant in train: b" in data.notes
    plain = opened(tmp_path / "d.h5", missing_targets=True, standardize_targets=False)
    assert (plain.targets.mean, plain.targets.scale) == ((0, 0, 0), (1, 1, 1))
    shifted = opened(tmp_path / "d.h5", missing_targets=True, output_activation="identity,identity,softplus")
    assert shifted.targets.mean[2] == 0
    assert shifted.targets.scale[2] == 2


def test_an_output_s_factor_has_the_rows_weights(tmp_path: Path) -> None:
    """Σw over Σw where it is observed, times the target's weight."""
    y = np.array([[1.0, np.nan], [2, 3], [6, 5]])
    data = opened(write(tmp_path / "d.h5", y, w=[2.0, 1, 1]), missing_targets=True, target_weight={"y0": 3})
    assert data.factor == (3, 2)
    assert data.weight == (3, 1)


def test_streamed_targets_are_those_in_memory(tmp_path: Path) -> None:
    """The same numbers reach the group, whichever way the rows come."""
    y = np.random.default_rng(0).standard_normal((500, 2)) * [1, 1e3] + [0, 1e5]
    path = write(tmp_path / "d.h5", y)
    memory = opened(path, access="memory")
    from ddp_mlp.data.stream import FileSource
    from ddp_mlp.nn.architecture import create

    info = memory.info
    from ddp_mlp.data.targets import standardization_of_targets

    maps = memory.standardization, standardization_of_targets(memory.targets)
    stream = FileSource(info, "train", np.dtype(np.float32), *maps)
    rows = np.arange(100, 150)
    found = []
    for source in (memory.train[0], stream):
        group = create(2, (), memory.targets).group((50,), np.dtype(np.float32))
        source.gather(rows, group)
        found.append(group.Y.whole.tobytes())
    assert found[0] == found[1]
