"""Tests of how rows of train are set apart."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from ddp_mlp.data.held_out import hold_out, stratified
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import inspect
from ddp_mlp.storage.writer import DatasetWriter


@given(
    y=st.lists(st.integers(0, 4), min_size=1, max_size=200).map(np.array),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 50),
)
def test_a_stratified_split_takes_its_share_of_every_class(y: NDArray[np.int64], fraction: float, seed: int) -> None:
    """The two parts are ascending and make up the whole, and each class gives the fraction, to half a row."""
    stay, apart = stratified(y, fraction, seed)
    assert sorted([*stay, *apart]) == [*range(len(y))]
    for part in (stay, apart):
        assert np.all(np.diff(part) > 0)
    for label in np.unique(y):
        assert abs(np.sum(y[apart] == label) - fraction * np.sum(y == label)) <= 0.5


def test_a_stratified_split_has_the_proportions_of_scikit_learn() -> None:
    """Class by class the counts are those of train_test_split(stratify=y), to one row."""
    y = np.random.default_rng(0).choice(5, 2000, p=[0.5, 0.3, 0.1, 0.07, 0.03])
    _, apart = stratified(y, 0.15, seed=3)
    _, theirs = train_test_split(np.arange(len(y)), test_size=0.15, stratify=y, random_state=0)
    assert np.abs(np.bincount(y[apart]) - np.bincount(y[theirs])).max() <= 1


def test_a_stratified_split_is_a_function_of_the_seed_and_draws_at_random() -> None:
    """The same seed gives the same rows, another seed others, and no stretch of the file is preferred."""
    y = np.repeat([0, 1], 5000)
    _, apart = stratified(y, 0.2, seed=1)
    assert np.array_equal(apart, stratified(y, 0.2, seed=1)[1])
    assert not np.array_equal(apart, stratified(y, 0.2, seed=2)[1])
    fifths = np.histogram(apart, bins=10, range=(0, 10_000))[0]
    assert np.all(np.abs(fifths - 200) < 60)  # binomial, σ < 13


def write(path: Path, X: NDArray[Any], y: NDArray[Any], w: NDArray[Any] | None = None) -> Path:
    """Write a data set with the one split train."""
    with DatasetWriter(path, {"train": len(X)}, X.shape[1], X.dtype, int(y.max()) + 1, w is not None) as writer:
        writer.append("train", X, y, w)
    return path


def test_holding_out_is_the_split_of_the_file_s_labels(tmp_path: Path) -> None:
    """The rows are those of `stratified`, and the counts are of the labels that stay, with classes that have none."""
    y = np.random.default_rng(1).integers(0, 3, 100)
    info = inspect(write(tmp_path / "data.h5", np.zeros((100, 2), np.float32), y))
    found = hold_out(info, 0.25, seed=4, classes=5, communicator=SingleProcess())
    stay, apart = stratified(y, 0.25, seed=4)
    assert np.array_equal(found.stay, stay)
    assert np.array_equal(found.apart, apart)
    assert found.class_counts.tolist() == [*np.bincount(y[stay]), 0, 0]
