"""Tests of the weights of classes and examples."""

from pathlib import Path

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
