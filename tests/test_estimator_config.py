"""What parameters of the estimators mean: how inputs are standardized."""

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.exceptions import ConvergenceWarning

from ddp_mlp import MLPClassifier

RANDOM = np.random.default_rng(2)
X = RANDOM.integers(0, 16, (90, 5)) * np.array([1.0, 1, 1, 0.01, 0])  # a feature of small numbers, and a constant one
Y = RANDOM.integers(0, 3, 90)


def fitted(standardize: Any, X: Any = X, **given: Any) -> MLPClassifier:
    """Return a classifier after one epoch."""
    classifier = MLPClassifier((4,), max_iter=1, random_state=0, standardize=standardize)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        rows = len(X)
        return classifier.fit(X, np.resize(Y, rows), **given)


def test_global_is_one_mean_and_scale_of_all_numbers() -> None:
    """NumPy's mean and deviation of the whole array; the network is the one that gets X scaled so, unstandardized."""
    ours = fitted("global")
    scaled = (X - X.mean()) / X.std()
    np.testing.assert_allclose(ours._standardization.mean, np.full(5, X.mean()), rtol=1e-14)
    np.testing.assert_allclose(ours._standardization.scale, np.full(5, X.std()), rtol=1e-14)
    np.testing.assert_allclose(
        ours.predict_proba(X), fitted("none", scaled).predict_proba(scaled), rtol=1e-9
    )  # the same sums, of numbers that differ by rounding


def test_a_weight_counts_as_so_many_rows() -> None:
    """Mean and scale of all features together, with weights as with rows that are there twice."""
    weights = np.where(np.arange(90) % 3 == 0, 2.0, 1.0)
    found = fitted("global", sample_weight=weights)._standardization
    twice = np.repeat(X, weights.astype(int), axis=0)
    np.testing.assert_allclose([found.mean[0], found.scale[0]], [twice.mean(), twice.std()], rtol=1e-12)


@pytest.mark.parametrize(("word", "before"), [("auto", True), ("features", True), ("none", False)])
def test_words_for_what_true_and_false_mean(word: str, before: bool) -> None:
    """Bit for bit the same network."""
    assert all(
        np.array_equal(ours, theirs) for ours, theirs in zip(fitted(word).coefs_, fitted(before).coefs_, strict=True)
    )


def test_another_word_is_refused() -> None:
    """With those that may be."""
    with pytest.raises(ValueError, match="standardize = 'pixels': must be True or False, or auto, features, global"):
        fitted("pixels")
