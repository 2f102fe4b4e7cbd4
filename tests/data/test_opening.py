"""Tests of the weights of classes and examples, and of how inputs are mapped."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from ddp_mlp.config import Config
from ddp_mlp.data.opening import class_weights, open_data
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.parallel.single import SingleProcess


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    """They are m / (n_L · count), bit for bit."""
    y = np.random.default_rng(0).choice(4, 333, p=[0.6, 0.3, 0.08, 0.02])
    found = class_weights("balanced", ("a", "b", "c", "d"), np.bincount(y))
    assert np.array_equal(found, compute_class_weight("balanced", classes=np.arange(4), y=y))


def test_class_weights_by_name() -> None:
    """A class that is not named weighs 1; a name that is no class, and weights that are all 0, are refused."""
    counts = np.array([5, 5, 0])
    assert class_weights({"b": 2.5}, ("a", "b", "c"), counts).tolist() == [1, 2.5, 1]
    with pytest.raises(ConfigError, match="'x': the classes are a, b, c"):
        class_weights({"x": 1.0}, ("a", "b", "c"), counts)
    with pytest.raises(ConfigError, match="weight 0"):
        class_weights({"a": 0.0, "b": 0.0}, ("a", "b", "c"), counts)


@pytest.mark.parametrize(("weight", "dtype"), [(1e308, "float64"), (1e38, "float32")])
def test_weights_whose_sum_overflows_are_refused(weight: float, dtype: str, tmp_path: Path) -> None:
    """Each is finite, their sum is not, in the dtype that gradients are divided in."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/X"], file["train/y"] = np.zeros((6, 2), np.float32), np.arange(6) % 3
        file["train/w"] = np.full(6, weight)
    with pytest.raises(DataError, match=f"train: sample weights add up to more than {dtype} holds"):
        open_data(Config(data=str(tmp_path / "a.h5"), dtype=dtype, quiet=True), SingleProcess())  # type: ignore[arg-type]


HALF_AN_ULP = 2.0**-24
"""Of float32, relative: the mean of small whole numbers is as they are subtracted."""


def images(path: Path, shape: tuple[int, ...] | None = (4, 4)) -> Path:
    """Write 2,800 rows of 16 pixels, of which the first is 0 but for one row in which it is 255."""
    X = np.random.default_rng(0).integers(0, 255, (2800, 16)).astype(np.uint8)
    X[:, 0] = np.where(np.arange(2800) == 7, 255, 0)
    with h5py.File(path, "w") as file:
        file["train/X"], file["train/y"] = X, np.arange(2800) % 3
        if shape is not None:
            file.attrs["feature_shape"] = shape
    return path


@pytest.mark.parametrize(
    ("asked", "shape", "mode"),
    [
        ("auto", (4, 4), "global"),
        ("auto", None, "features"),
        ("features", (4, 4), "features"),
        ("global", None, "global"),
        ("none", (4, 4), "none"),
        (True, (4, 4), "features"),
        (False, (4, 4), "none"),
    ],
)
def test_inputs_of_one_kind_have_one_scale(asked: Any, shape: Any, mode: str, tmp_path: Path) -> None:
    """One mean and deviation of all values where the file says that they are of one kind, else each feature its own."""
    config = Config(data=str(images(tmp_path / "a.h5", shape)), standardize=asked, quiet=True)
    found = open_data(config, SingleProcess())
    with h5py.File(tmp_path / "a.h5") as file:
        X = file["train/X"][:].astype(np.float64)
    assert found.standardize == mode
    if mode == "global":
        np.testing.assert_allclose(found.standardization.mean, np.full(16, X.mean()), rtol=HALF_AN_ULP)
        np.testing.assert_allclose(found.standardization.scale, np.full(16, X.std()), rtol=1e-12)
    elif mode == "features":
        np.testing.assert_allclose(found.standardization.mean, X.mean(axis=0), rtol=HALF_AN_ULP)
        np.testing.assert_allclose(found.standardization.scale, X.std(axis=0), rtol=1e-9)
    assert found.standardization.used == (mode != "none")


@pytest.mark.parametrize(("asked", "warned"), [("features", True), ("global", False), ("none", False)])
def test_a_feature_that_is_seldom_far_outside_is_told(asked: Any, warned: bool, tmp_path: Path) -> None:
    """How far (one row of 2,800: the root of 2,799 deviations), how rare, and the flag that helps."""
    config = Config(data=str(images(tmp_path / "a.h5")), standardize=asked, quiet=True)
    notes = open_data(config, SingleProcess()).notes
    told = "feature 0 is up to 53 standard deviations from its mean, in at most one row of 2,800 (1 such features)"
    assert [note.startswith(told) and "--standardize global" in note for note in notes] == [True] * warned
