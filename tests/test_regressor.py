"""Tests of the regressor, and of the classifier of several labels: scikit-learn's own checks, units, and the chain."""

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, make_friedman1, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, PoissonRegressor
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor as Theirs
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ddp_mlp import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")


@parametrize_with_checks([MLPRegressor()])  # type: ignore[untyped-decorator]
def test_scikit_learn_s_checks(estimator: Any, check: Any) -> None:
    """All of check_estimator."""
    check(estimator)


def test_predictions_are_in_the_units_of_y() -> None:
    """A shifted and scaled target gives shifted and scaled predictions; one column is 1-D, several are 2-D."""
    X, y = make_friedman1(400, noise=0, random_state=0)
    settings: dict[str, Any] = {"hidden_layer_sizes": (32,), "activation": "tanh", "learning_rate_init": 0.02}
    settings |= {"max_iter": 60, "random_state": 0}
    plain = MLPRegressor(**settings).fit(X, y)
    both = MLPRegressor(**settings).fit(X, np.c_[y, 1e6 + 1e3 * y])
    assert plain.predict(X).shape == (400,)
    assert both.predict(X).shape == (400, 2)
    assert plain.score(X, y) > 0.9
    found = both.predict(X)
    assert np.abs((found[:, 1] - 1e6) / 1e3 - found[:, 0]).std() < 1
    assert both.model_.loss == "squared_error"
    assert pickle.loads(pickle.dumps(both)).predict(X).tobytes() == found.tobytes()


@pytest.mark.parametrize("changed", [{"activation": "tanh"}, {"output_activation": "softplus"}, {"loss": "huber"}])
def test_what_is_set_after_a_fit_is_of_the_next(changed: dict[str, Any]) -> None:
    """The fitted network answers as it did, and does not go on as another one."""
    X, y = make_friedman1(60, noise=0, random_state=0)
    fitted = MLPRegressor((4,), max_iter=3, random_state=0).fit(X, y)
    before = fitted.predict(X)
    fitted.set_params(**changed)
    np.testing.assert_array_equal(fitted.predict(X), before)
    with pytest.raises(ValueError, match="make another estimator"):
        fitted.partial_fit(X, y)


def test_friedman_is_learnt() -> None:
    """Friedman's first function without noise, 10,000 rows of which 2,000 are not seen, with the defaults."""
    X, y = make_friedman1(10_000, noise=0, random_state=0)
    found = MLPRegressor(max_iter=20, learning_rate_init=3e-3, random_state=0).fit(X[:8000], y[:8000])
    assert found.score(X[8000:], y[8000:]) >= 0.97


def test_the_first_guess_is_near_the_mean() -> None:
    """Before anything is learnt, predictions are within a deviation of the mean, at any width and depth."""
    X, y = make_friedman1(400, noise=0, random_state=0)
    for hidden in ((), (20,), (500,), (100, 100, 100)):
        found = MLPRegressor(hidden, learning_rate_init=1e-12, max_iter=1, random_state=0).fit(X, y)
        assert np.abs(found.predict(X) - y.mean()).max() < y.std(), hidden


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_diabetes_is_learnt_as_scikit_learn_learns_it(activation: str) -> None:
    """Same network, optimizer, rate, batches, epochs and penalty: five-fold R², paired, is no worse by its error.

    Both have standardized features and targets; folds and starts are drawn from the same seeds.
    """
    X, y = load_diabetes(return_X_y=True)
    settings: dict[str, Any] = {"hidden_layer_sizes": (100,), "activation": activation, "max_iter": 60}
    settings |= {"alpha": 1e-4, "tol": 0, "n_iter_no_change": 1000}
    difference = []
    for seed in range(2):
        for train, test in KFold(5, shuffle=True, random_state=seed).split(X):
            theirs = TransformedTargetRegressor(Theirs(random_state=seed, **settings), transformer=StandardScaler())
            scores = [
                model.fit(X[train], y[train]).score(X[test], y[test])
                for model in (MLPRegressor(random_state=seed, **settings), make_pipeline(StandardScaler(), theirs))
            ]
            difference.append(scores[0] - scores[1])
    assert np.mean(difference) >= -np.std(difference, ddof=1) / np.sqrt(len(difference))


def test_without_hidden_layers_it_is_least_squares() -> None:
    """A full-batch descent to the end finds scikit-learn's linear regression, with sample weights."""
    random = np.random.default_rng(0)
    X = random.standard_normal((80, 3))
    y, w = X @ [1.0, -2, 3] + 5 + random.standard_normal(80), random.random(80) + 0.1
    settings: dict[str, Any] = {"batch_size": "full", "solver": "sgd", "learning_rate_init": 0.2, "tol": 0}
    found = MLPRegressor((), max_iter=400, n_iter_no_change=np.inf, **settings).fit(X, y, w)
    expected = LinearRegression().fit(X, y, w)
    np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=1e-6)


def test_poisson_is_scikit_learn_s() -> None:
    """Without hidden layers and penalty the rates are those of PoissonRegressor, to 1e-4."""
    random = np.random.default_rng(0)
    X = random.standard_normal((300, 3))
    y = random.poisson(np.exp(X @ [0.5, -0.3, 0.2] + 0.4)).astype(float)
    settings: dict[str, Any] = {"batch_size": "full", "solver": "sgd", "learning_rate_init": 0.05, "tol": 0}
    found = MLPRegressor((), loss="poisson", max_iter=4000, n_iter_no_change=np.inf, **settings).fit(X, y)
    expected = PoissonRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=1e-4)
    with pytest.raises(ValueError, match="y has -1: counts and rates"):
        found.fit(X, np.r_[-1, y[1:]])


def test_quantiles() -> None:
    """Each level covers its share of 10,000 rows that it has not seen to 0.02; predict returns the median.

    With a rate that falls: a constant one leaves the levels to move by a few hundredths from step to step.
    """
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, (20_000, 3))
    spread = 0.3 + np.abs(X[:, 2])
    y = 3 * X[:, 0] + np.sin(4 * X[:, 1]) + spread * random.standard_normal(20_000)
    levels = (0.1, 0.5, 0.9)
    settings: dict[str, Any] = {"loss": "quantile", "quantiles": levels, "schedule": "cosine", "random_state": 0}
    found = MLPRegressor((32,), max_iter=20, tol=0, learning_rate_init=0.01, **settings).fit(X[10_000:], y[10_000:])
    at = found.predict_quantiles(X[:10_000])
    assert at.shape == (10_000, 1, 3)
    assert (y[:10_000, None] <= at[:, 0]).mean(axis=0) == pytest.approx(levels, abs=0.02)
    assert np.corrcoef(at[:, 0, 2] - at[:, 0, 0], spread[:10_000])[0, 1] > 0.9
    assert found.predict(X[:10_000]).tolist() == at[:, 0, 1].tolist()


def test_non_negative_outputs_and_weights_of_targets() -> None:
    """A softplus output is never below 0; a target of weight 0 is not learnt."""
    random = np.random.default_rng(0)
    X = random.standard_normal((500, 2))
    y = np.c_[np.maximum(X[:, 0], 0), np.abs(X[:, 1])]
    found = MLPRegressor((32,), output_activation="softplus", learning_rate_init=0.02, max_iter=60, random_state=0).fit(
        X, y
    )
    assert found.predict(10 * X).min() >= 0
    assert found.score(X, y) > 0.9
    one = MLPRegressor((32,), target_weight=(1, 0), max_iter=60, random_state=0).fit(X, y)
    assert one.score(X, y) < 0.6
    several: list[Any] = [(1,), (1, -2), (1, np.nan), (1, np.inf), (0, 0), 2, {"y0": 1}]
    for wrong in several:
        with pytest.raises(ValueError, match="must be 2 weights"):
            MLPRegressor(target_weight=wrong).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"quantiles": 0.5, "loss": "quantile"}, "quantiles = 0.5: expected a list of numbers"),
        ({"loss": "poisson", "output_activation": "relu"}, "output_activation: is for squared_error"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: dict[str, Any], said: str) -> None:
    """One line, before anything is trained."""
    X, y = make_friedman1(50, noise=0, random_state=0)
    with pytest.raises(ValueError, match=said):
        MLPRegressor(**parameters).fit(X, y)


@pytest.mark.parametrize("which", ["X", "y"])
def test_numbers_too_large_for_a_standard_deviation_are_refused(which: str) -> None:
    """As files of such numbers are; they would be scaled by infinity."""
    X, y = make_friedman1(50, noise=0, random_state=0)
    X, y = (X * 1e300, y) if which == "X" else (X, y * 1e300)
    with pytest.raises(ValueError, match=f"column 0 of {which} is too large for a standard deviation"):
        MLPRegressor().fit(X, y)


@pytest.mark.parametrize(
    ("first", "then", "name"),
    [
        ({}, {"loss": "poisson"}, "loss"),
        ({"loss": "quantile"}, {"quantiles": (0.2, 0.5, 0.9)}, "quantiles"),
        ({}, {"output_activation": "softplus"}, "output_activation"),
    ],
)
def test_what_is_fitted_goes_on_with_its_own_outputs(first: dict[str, Any], then: dict[str, Any], name: str) -> None:
    """Another loss, other levels or another output function of an estimator that goes on are refused."""
    X, y = make_friedman1(60, noise=0, random_state=0)
    found = MLPRegressor((4,), max_iter=2, warm_start=True, random_state=0, **first).fit(X, y).set_params(**then)
    before = found.coefs_[0].copy()
    for go_on in (found.fit, found.partial_fit):
        with pytest.raises(ValueError, match=f"{name} is .*, the first call had"):
            go_on(X, y)
    np.testing.assert_array_equal(found.coefs_[0], before)


def test_target_weight_may_change_when_an_estimator_goes_on() -> None:
    """The weights of the call count, not those of the first: a target of weight 0 sends nothing back."""
    X, y = make_friedman1(60, noise=0, random_state=0)
    found = MLPRegressor((4,), max_iter=2, warm_start=True, random_state=0, target_weight=(1, 0))
    found.fit(X, np.c_[y, y]).set_params(target_weight=(0, 1))
    before = found.coefs_[-1].copy()
    found.fit(X, np.c_[y, y])
    moved = np.abs(found.coefs_[-1] - before).max(axis=0)
    assert moved[0] == 0 < moved[1]


def test_early_stopping_watches_r2() -> None:
    """As scikit-learn's regressor does."""
    X, y = make_friedman1(300, noise=0.5, random_state=0)
    found = MLPRegressor((32,), early_stopping=True, max_iter=40, random_state=0).fit(X, y)
    assert found.best_validation_score_ == max(found.validation_scores_)
    assert found.best_loss_ is None


def test_partial_fit_goes_on() -> None:
    """Twenty calls learn; another number of targets is refused."""
    X, y = make_friedman1(300, noise=0, random_state=0)
    found = MLPRegressor((32,), learning_rate_init=0.01, random_state=0)
    for _ in range(20):
        found.partial_fit(X, y)
    assert found.score(X, y) > 0.8
    with pytest.raises(ValueError, match="2 targets, the first call had 1"):
        found.partial_fit(X, np.c_[y, y])


def test_several_labels() -> None:
    """An indicator matrix in, one out; probabilities of every label; another loss than one class's."""
    X, Y = make_multilabel_classification(400, n_labels=2, random_state=0)
    found = MLPClassifier((32,), learning_rate_init=0.01, max_iter=60, random_state=0).fit(X, Y)
    assert found.predict(X).shape == Y.shape
    assert np.mean(found.predict(X) == Y) > 0.85
    assert found.predict_proba(X).shape == Y.shape
    assert found.out_activation_ == "logistic"
    assert found.model_.loss == "binary_cross_entropy"
    for parameters in ({"class_weight": "balanced"}, {"label_smoothing": 0.1}):
        with pytest.raises(ValueError, match="several labels"):
            MLPClassifier(**parameters).fit(X, Y)
    for low, high in ((-1, 1), (0, 2)):
        with pytest.raises(ValueError, match=f"y has {low}, {high}: several labels are an indicator matrix of 0 and 1"):
            MLPClassifier().fit(X, np.where(Y, high, low))
