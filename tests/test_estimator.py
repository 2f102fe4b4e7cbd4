"""`ddp_mlp.MLPClassifier`: scikit-learn's own checks, its tools, and the same model on any number of ranks."""

import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.conftest import Program

pytest.importorskip("sklearn", minversion="1.6")

from concurrent.futures import ThreadPoolExecutor

from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

import ddp_mlp
import ddp_mlp.estimator
import ddp_mlp.estimator_fitting
from ddp_mlp import MLPClassifier, load


@pytest.fixture(autouse=True)
def short_fits() -> Iterator[None]:
    """Let fits end before they have converged, as most here do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    """Return X (150, 4) and y (150,)."""
    X, y = load_iris(return_X_y=True)
    return X, y


def small(**parameters: Any) -> MLPClassifier:
    """Return a classifier that is trained in a moment."""
    classifier = MLPClassifier((8,), max_iter=10, random_state=0)
    classifier.set_params(**parameters)
    return classifier


def parameters_of(classifier: MLPClassifier) -> str:
    """Return the hash of a fitted classifier's parameters."""
    return classifier.model_.parameters_sha256


@pytest.mark.timeout(300)
def test_check_estimator_passes_as_a_whole() -> None:
    """All of scikit-learn's checks, with no expected failure; skipped are only those that need other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(MLPClassifier(), on_skip=None)
    assert len(results) > 50
    skipped = [str(result["exception"]) for result in results if result["status"] == "skipped"]
    assert all("SCIPY_ARRAY_API" in why or "decision_function" in why for why in skipped)
    assert {result["status"] for result in results} <= {"passed", "skipped"}


@pytest.mark.parametrize(("load", "folds"), [(load_wine, 5), (load_breast_cancer, 5)])
def test_cross_validated_accuracy_is_scikit_learns(load: Any, folds: int) -> None:
    """Same network, optimizer, epochs and folds; at most half a point below, and a standard error for the few rows."""
    X, y = load(return_X_y=True)
    splits = StratifiedKFold(folds, shuffle=True, random_state=1)
    network: dict[str, Any] = {
        "hidden_layer_sizes": (50,),
        "max_iter": 60,
        "learning_rate_init": 0.01,
        "random_state": 1,
    }
    ours = cross_val_score(MLPClassifier(**network), X, y, cv=splits).mean()
    theirs = cross_val_score(make_pipeline(StandardScaler(), TheirClassifier(**network)), X, y, cv=splits).mean()
    assert ours >= theirs - 0.005 - np.sqrt(theirs * (1 - theirs) / len(y))


def test_a_grid_search_finds_the_better_network() -> None:
    """Hidden sizes and learning rates on digits: a rate of 1e-6 learns nothing, and is not chosen."""
    X, y = load_digits(return_X_y=True)
    grid = {"mlp__hidden_layer_sizes": [(16,), (32, 16)], "mlp__learning_rate_init": [1e-6, 0.02]}
    pipeline = make_pipeline(StandardScaler(), small(max_iter=15, batch_size=50))
    pipeline.steps[1] = ("mlp", pipeline.steps[1][1])
    search = GridSearchCV(pipeline, grid, cv=2).fit(X[:600], y[:600])
    assert search.best_params_["mlp__learning_rate_init"] == 0.02
    assert search.best_score_ > 0.8


def test_clone_and_pickle(iris: tuple[Any, Any]) -> None:
    """A clone has the parameters and no fit; a pickled classifier predicts as before, and goes on training the same."""
    fitted = small().fit(*iris)
    assert clone(fitted).get_params() == fitted.get_params()
    assert not hasattr(clone(fitted), "classes_")
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(iris[0]), fitted.predict_proba(iris[0]), strict=True)
    assert parameters_of(copy.partial_fit(*iris)) == parameters_of(fitted.partial_fit(*iris))


@pytest.mark.timeout(180)
def test_the_same_model_on_any_number_of_ranks(mpirun: Program, run_python: Program) -> None:
    """Every rank fits, again and again: early stopping, weights, partial_fit; one hash, and no window is left."""
    program = """
import warnings; warnings.simplefilter("ignore")
import numpy as np
from sklearn.datasets import load_iris
from ddp_mlp import MLPClassifier
from ddp_mlp.estimator_fitting import all_ranks
X, y = load_iris(return_X_y=True)
c = MLPClassifier((8,), max_iter=4, random_state=0, early_stopping=True, batch_size=32)
c.fit(X, y, sample_weight=np.arange(150.0)).set_params(early_stopping=False).partial_fit(X[:20], y[:20])
ranks = all_ranks()
found = ranks.allgather((len(getattr(ranks, "_windows", [])), c.model_.parameters_sha256, c.score(X, y)))
if ranks.rank == 0:
    print(ranks.size, set(found))
"""
    alone = run_python("-c", program)
    assert alone.stdout.startswith("1 {(0, "), alone.stderr
    together = mpirun(3, "-c", program, timeout=120)
    assert together.stdout == "3" + alone.stdout[1:], together.stderr


@pytest.mark.timeout(120)
def test_ranks_with_other_data_are_refused(mpirun: Program) -> None:
    """A random split without a seed differs from rank to rank: every rank says so, none hangs."""
    program = """
import numpy as np
from ddp_mlp import MLPClassifier
from mpi4py import MPI
X = np.random.default_rng(MPI.COMM_WORLD.rank // 2).normal(size=(20, 3))
try:
    MLPClassifier(max_iter=1).fit(X, np.arange(20) % 2)
except ValueError as error:
    found = MPI.COMM_WORLD.allgather(str(error))
    if MPI.COMM_WORLD.rank == 0:
        print(len(found), set(found))
"""
    outcome = mpirun(3, "-c", program)
    assert outcome.stdout.startswith("3 {'rank 2 was given other data or parameters than rank 0"), outcome.stderr


@pytest.mark.timeout(120)
def test_random_state_none_draws_once_for_all_ranks(mpirun: Program) -> None:
    """The seed is rank 0's, and another one each time."""
    program = """
import warnings; warnings.simplefilter("ignore")
from mpi4py import MPI
from sklearn.datasets import load_iris
from ddp_mlp import MLPClassifier
first, second = (MLPClassifier((4,), max_iter=1).fit(*load_iris(return_X_y=True)).model_ for _ in "ab")
found = MPI.COMM_WORLD.allgather((first.parameters_sha256, second.parameters_sha256))
if MPI.COMM_WORLD.rank == 0:
    print(found[0] == found[1], found[0][0] != found[0][1])
"""
    assert mpirun(2, "-c", program).stdout == "True True\n"


def test_loss_curve_and_counts(iris: tuple[Any, Any]) -> None:
    """One loss per epoch, falling; rows seen; scikit-learn's shapes."""
    fitted = small(max_iter=20).fit(*iris)
    assert len(fitted.loss_curve_) == fitted.n_iter_ == 20
    assert fitted.loss_curve_[-1] == fitted.loss_ < fitted.loss_curve_[0]
    assert (fitted.t_, fitted.n_layers_, fitted.n_outputs_) == (3000, 3, 3)
    assert [W.shape for W in fitted.coefs_] == [(4, 8), (8, 3)]
    assert [b.shape for b in fitted.intercepts_] == [(8,), (3,)]
    hidden = np.maximum(StandardScaler().fit_transform(iris[0]) @ fitted.coefs_[0] + fitted.intercepts_[0], 0)
    z = hidden @ fitted.coefs_[1] + fitted.intercepts_[1]
    np.testing.assert_array_equal(fitted.predict(iris[0]), z.argmax(axis=1))


def test_early_stopping_keeps_the_best_epoch(iris: tuple[Any, Any]) -> None:
    """It stops when more than n_iter_no_change epochs bring nothing, and restores the best on held-out rows."""
    fitted = small(max_iter=300, early_stopping=True, n_iter_no_change=5, learning_rate_init=0.05).fit(*iris)
    scores = fitted.validation_scores_
    assert scores is not None
    assert len(scores) == fitted.n_iter_ < 300
    assert fitted.best_validation_score_ == max(scores)
    until_best = small(
        max_iter=scores.index(max(scores)) + 1, early_stopping=True, n_iter_no_change=np.inf, learning_rate_init=0.05
    ).fit(*iris)
    assert parameters_of(fitted) == parameters_of(until_best)


def test_training_stops_where_the_loss_does(iris: tuple[Any, Any]) -> None:
    """Without early_stopping the training loss is watched: a tol that nothing meets ends after n_iter_no_change + 2."""
    assert small(max_iter=50, tol=10.0, n_iter_no_change=3).fit(*iris).n_iter_ == 5
    theirs = TheirClassifier((8,), max_iter=50, tol=10.0, n_iter_no_change=3, random_state=0).fit(*iris)
    assert theirs.n_iter_ == 5
    with pytest.warns(ConvergenceWarning, match="has not converged"):
        small().fit(*iris)


def test_warm_start_goes_on_where_it_was(iris: tuple[Any, Any]) -> None:
    """The second fit begins with the first one's parameters; without warm_start it begins anew."""
    warm = small(warm_start=True).fit(*iris)
    first = warm.loss_
    assert warm.fit(*iris).loss_curve_[10] < first + 0.05
    assert len(warm.loss_curve_) == 20
    cold = small().fit(*iris)
    assert parameters_of(cold.fit(*iris)) == parameters_of(small().fit(*iris)) != parameters_of(warm)
    with pytest.raises(ValueError, match="has the same classes"):
        warm.fit(iris[0][:100], iris[1][:100])


@pytest.mark.parametrize("changed", [{"activation": "tanh"}, {"arithmetic": "portable"}, {"hidden_layer_sizes": (3,)}])
def test_what_is_set_after_a_fit_is_of_the_next(changed: dict[str, Any], iris: tuple[Any, Any], tmp_path: Any) -> None:
    """The fitted network answers as it did, in a file too; it does not go on as another one, and a new fit has it."""
    fitted = small().fit(*iris)
    before, probabilities, (name,) = fitted.predict_log_proba(iris[0]), fitted.predict_proba(iris[0]), changed
    fitted.set_params(**changed)
    np.testing.assert_array_equal(fitted.predict_log_proba(iris[0]), before)
    fitted.save(tmp_path / "model.h5")
    np.testing.assert_array_equal(load(tmp_path / "model.h5").predict_proba(iris[0]), probabilities)
    with pytest.raises(ValueError, match=f"partial_fit: {name} is .*: make another estimator"):
        fitted.partial_fit(*iris)
    with pytest.raises(ValueError, match=f"warm_start: {name} is .*: make another estimator"):
        fitted.set_params(warm_start=True).fit(*iris)
    again = fitted.set_params(warm_start=False).fit(*iris)
    assert parameters_of(again) == parameters_of(small(**changed).fit(*iris))


def test_labels_of_another_kind_do_not_go_on(iris: tuple[Any, Any]) -> None:
    """Several labels and one class of two have the same classes, 0 and 1, and are other networks."""
    X, one, several = iris[0], (iris[1] > 0).astype(int), np.eye(3, dtype=int)[iris[1]][:, :2]
    for first, then in ((one, several), (several, one)):
        fitted = small(warm_start=True).fit(X, first)
        before = parameters_of(fitted)
        with pytest.raises(ValueError, match="warm_start: what y has is"):
            fitted.fit(X, then)
        with pytest.raises(ValueError, match="partial_fit: what y has is"):
            fitted.partial_fit(X, then)
        assert parameters_of(fitted) == before


def test_partial_fit_in_order_is_fit(iris: tuple[Any, Any]) -> None:
    """Epoch by epoch, optimizer state and step numbers go on: the bits of one fit of so many epochs."""
    whole = small(max_iter=6, batch_size=32, solver="adam").fit(*iris)
    parts = small(batch_size=32)
    for _ in range(6):
        parts.partial_fit(*iris, classes=[0, 1, 2])
    assert parameters_of(parts) == parameters_of(whole)
    assert parts.n_iter_ == 6
    np.testing.assert_array_equal(parts.loss_curve_, whole.loss_curve_)


def test_partial_fit_wants_all_classes_first(iris: tuple[Any, Any]) -> None:
    """Not given, changed, or one that was not named: ValueError."""
    with pytest.raises(ValueError, match="first call"):
        small().partial_fit(*iris)
    begun = small().partial_fit(iris[0][:60], iris[1][:60], classes=[0, 1, 2])
    assert begun.predict_proba(iris[0]).shape == (150, 3)
    with pytest.raises(ValueError, match="those of the first call"):
        begun.partial_fit(*iris, classes=[0, 1])
    with pytest.raises(ValueError, match="y has 3"):
        begun.partial_fit(iris[0], iris[1] + 1)


def test_a_weight_counts_as_so_many_rows(iris: tuple[Any, Any]) -> None:
    """Standardization included; rows of weight 0 are not there."""
    weights = np.random.default_rng(0).integers(0, 3, 150)
    full = {"batch_size": 1000, "max_iter": 30}
    weighted = small(**full).fit(*iris, sample_weight=weights)
    repeated = small(**full).fit(iris[0].repeat(weights, axis=0), iris[1].repeat(weights))
    # The sums have other terms in another order: rounding apart, times 30 steps of Adam.
    np.testing.assert_allclose(weighted.predict_proba(iris[0]), repeated.predict_proba(iris[0]), rtol=1e-9)
    unweighted = small(**full).fit(*iris)
    assert np.abs(unweighted.predict_proba(iris[0]) - weighted.predict_proba(iris[0])).max() > 1e-3


def test_class_weight_shifts_the_decision(iris: tuple[Any, Any]) -> None:
    """A class that weighs a thousand times more is predicted nearly always; "balanced" is scikit-learn's."""
    heavy = small(class_weight={1: 1000.0}, max_iter=40, learning_rate_init=0.02).fit(*iris)
    assert np.mean(heavy.predict(iris[0]) == 1) > 0.8
    X, y = iris[0][:110], iris[1][:110]  # 50, 50 and 10
    by_name = small(class_weight="balanced").fit(X, y)
    by_hand = small(class_weight={0: 110 / 150, 1: 110 / 150, 2: 110 / 30}).fit(X, y)
    assert parameters_of(by_name) == parameters_of(by_hand)


def test_labels_may_be_text(iris: tuple[Any, Any]) -> None:
    """They come back from predict; the model has them as names."""
    names = np.array(["setosa", "versicolor", "virginica"])
    fitted = small(max_iter=40, learning_rate_init=0.05).fit(iris[0], names[iris[1]])
    assert fitted.score(iris[0], names[iris[1]]) > 0.9
    assert fitted.model_.classes == ("setosa", "versicolor", "virginica")


@pytest.mark.parametrize(("dtype", "computed"), [("float32", "float32"), ("float64", "float64"), ("uint8", "float64")])
def test_the_dtype_is_that_of_X(dtype: str, computed: str, iris: tuple[Any, Any]) -> None:
    """As in scikit-learn."""
    fitted = small().fit(iris[0].astype(dtype), iris[1])
    assert fitted.predict_proba(iris[0].astype(dtype)).dtype == computed
    assert fitted.coefs_[0].dtype == computed


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_solver_learns(solver: str, iris: tuple[Any, Any]) -> None:
    """Above 0.9 on iris in 100 epochs."""
    fitted = small(solver=solver, learning_rate_init=0.05, max_iter=100, batch_size=50).fit(*iris)
    assert fitted.score(*iris) > 0.9


def test_sgd_follows_scikit_learn_step_by_step(iris: tuple[Any, Any]) -> None:
    """The same start, full batches: Nesterov, heavy-ball and plain descent move the weights as scikit-learn's do."""
    X = StandardScaler().fit_transform(iris[0])
    for settings in ({}, {"nesterovs_momentum": False}, {"momentum": 0.0}):
        common = {"solver": "sgd", "learning_rate_init": 0.1, "batch_size": 150, "max_iter": 1, **settings}
        theirs = TheirClassifier((8,), alpha=0.0, shuffle=False, warm_start=True, **common).fit(X, iris[1])
        ours = small(standardize=False, shuffle=False, warm_start=True, **common).fit(X, iris[1])
        start = {"W1": theirs.coefs_[0].T, "b1": theirs.intercepts_[0], "W2": theirs.coefs_[1].T}
        ours._parameters = {**start, "b2": theirs.intercepts_[1]}
        for classifier in (ours, theirs):
            classifier.set_params(max_iter=20, n_iter_no_change=50).fit(X, iris[1])
        for mine, yours in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
            np.testing.assert_allclose(mine, yours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"learning_rate_init": -1.0}, "^learning_rate_init = -1.0: must be above 0"),
        ({"solver": "adagrad"}, "^solver = adagrad: expected"),
        ({"hidden_layer_sizes": (0,)}, r"^hidden_layer_sizes = \[0\]: "),
        ({"beta_1": 1.0}, "^beta_1 = 1.0: "),
        ({"weight_decay": 0.1}, "^weight_decay = 0.1: needs solver = adamw"),
        ({"max_iter": 0}, "^max_iter = 0: must be at least 1"),
        ({"learning_rate": "invscaling", "solver": "sgd"}, "schedule='exponential'"),
        ({"learning_rate": "falling"}, "expected 'constant' or 'adaptive'"),
        ({"learning_rate": "adaptive", "solver": "sgd", "schedule": "step"}, "is a schedule of its own"),
        ({"solver": "lbfgs"}, "batch_size='full'"),
        ({"alpha": 1e-4, "l2": 0.1}, "give one of the two"),
        ({"alpha": -1.0}, "^alpha = -1.0: must be at least 0"),
        ({"early_stopping": True, "validation_fraction": 1.0}, "^validation_fraction = 1.0: "),
        ({"early_stopping": True, "validation_fraction": 0.001}, "leaves 150 rows to train and 0"),
    ],
)
def test_parameters_that_cannot_be_are_value_errors(
    parameters: dict[str, Any], words: str, iris: tuple[Any, Any]
) -> None:
    """The message names what the user wrote; what was fitted before stays, and what was not is not fitted."""
    with pytest.raises(ValueError, match=words):
        (new := small(**parameters)).fit(*iris)
    with pytest.raises(NotFittedError):
        new.predict(iris[0])
    fitted = small().fit(*iris)
    before = parameters_of(fitted), fitted.loss_curve_
    with pytest.raises(ValueError, match=words):
        fitted.set_params(**parameters).fit(*iris)
    assert (parameters_of(fitted), fitted.loss_curve_) == before


def test_loss_that_is_not_finite_is_a_value_error(iris: tuple[Any, Any]) -> None:
    """Nothing is kept of a fit that went wrong."""
    wild = small(solver="sgd", learning_rate_init=1e30, momentum=0)
    with pytest.raises(ValueError, match="lower learning_rate_init or"):
        wild.fit(*iris)
    with pytest.raises(NotFittedError):
        wild.predict_proba(iris[0])


@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_adaptive_rate_is_scikit_learns(early_stopping: bool, iris: tuple[Any, Any]) -> None:
    """Where no epoch counts as progress, both divide the rate as often, and end after the same number of epochs."""
    common: dict[str, Any] = {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 1e-3,
        "tol": 1e9,
        "random_state": 0,
    }
    common |= {"n_iter_no_change": 3, "max_iter": 500, "early_stopping": early_stopping}
    theirs = TheirClassifier((4,), **common).fit(*iris)
    ours = MLPClassifier((4,), **common).fit(*iris)
    assert ours.n_iter_ == theirs.n_iter_ < 500
    assert theirs._optimizer.learning_rate == pytest.approx(1e-3 / 5**5)
    fixed = MLPClassifier((4,), **common | {"solver": "adam"}).fit(*iris)  # a matter of sgd alone, as there
    assert fixed.n_iter_ == TheirClassifier((4,), **common | {"solver": "adam"}).fit(*iris).n_iter_


def test_what_scikit_learn_has_chosen_is_taken(iris: tuple[Any, Any]) -> None:
    """All parameters of an estimator of theirs make one of ours, which trains; without lbfgs, or partial_fit there."""
    chosen = TheirClassifier((4,), max_iter=200, tol=1e9, random_state=0).get_params()
    assert MLPClassifier(**chosen).fit(*iris).n_iter_ == TheirClassifier(**chosen).fit(*iris).n_iter_
    assert hasattr(MLPClassifier(), "partial_fit")
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")


def test_alpha_is_scikit_learns(iris: tuple[Any, Any]) -> None:
    """The same as l2 where that is divided by the batch size; the latter is at most the number of rows."""
    assert parameters_of(small(alpha=3.0).fit(*iris)) == parameters_of(small(l2=3.0 / 150).fit(*iris))
    batches = {"batch_size": 30}
    assert parameters_of(small(alpha=3.0, **batches).fit(*iris)) == parameters_of(small(l2=0.1, **batches).fit(*iris))


@pytest.mark.parametrize("container", [csr_array, csr_matrix, csc_array, coo_array])
def test_sparse_rows_are_rows(container: Any, iris: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the format, fit, partial_fit and predict give the bits of the dense rows."""
    monkeypatch.setattr(ddp_mlp.estimator_fitting, "DENSE_ROWS", 64)
    X = np.where(iris[0] > 3, iris[0], 0)
    sparse = container(X)
    dense, other = small().fit(X, iris[1]), small().fit(sparse, iris[1])
    assert parameters_of(dense) == parameters_of(other)
    np.testing.assert_allclose(other.predict_proba(sparse), dense.predict_proba(X), rtol=1e-12)  # other GEMM shapes
    assert parameters_of(other.partial_fit(sparse, iris[1])) == parameters_of(dense.partial_fit(X, iris[1]))


def test_encoders_that_give_sparse_rows_come_first() -> None:
    """OneHotEncoder and TF-IDF, as they are, in a pipeline."""
    texts = np.array(["red big", "blue small", "red small", "blue big"] * 10)
    y = [text.split()[0] for text in texts]
    words = make_pipeline(TfidfVectorizer(), small(learning_rate_init=0.1)).fit(texts, y)
    assert words.score(texts, y) == 1
    table = np.array([text.split() for text in texts])
    assert make_pipeline(OneHotEncoder(), small(learning_rate_init=0.1)).fit(table, y).score(table, y) == 1


def test_sparse_rows_that_would_not_fit_are_refused(iris: tuple[Any, Any]) -> None:
    """The size of what they would be when dense is said, before it is taken."""
    with pytest.raises(ValueError, match=r"10,000,000 features are .* TiB when they are dense, and .* are free"):
        small().fit(csr_array((1_000_000, 10_000_000)), np.arange(1_000_000) % 2)


def test_fits_in_several_threads_at_once(iris: tuple[Any, Any]) -> None:
    """All get the bits that one alone gets, and BLAS has its threads back afterwards."""
    X, y = load_digits(return_X_y=True)

    def fit(seed: int) -> str:
        return parameters_of(MLPClassifier((64,), max_iter=8, random_state=seed).fit(X, y))

    def blas_threads() -> list[int]:
        return [entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"]

    with threadpool_limits(2, "blas"):
        before = blas_threads()
        expected = [fit(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(fit, range(4))) == expected
        assert blas_threads() == before


def test_ctrl_c_ends_a_search(iris: tuple[Any, Any]) -> None:
    """A signal is a KeyboardInterrupt, which a grid search does not take for a fit that failed."""
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    before = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt, match="SIGINT"):
        GridSearchCV(small(max_iter=10**6, tol=0.0, n_iter_no_change=np.inf), {"l2": [0, 1]}, cv=2).fit(*iris)
    assert time.monotonic() - before < 20


def test_ctrl_c_keeps_what_a_fit_has_learnt(iris: tuple[Any, Any]) -> None:
    """A first fit that is interrupted is fitted as far as it came, and can go on; nobody meets half a state."""
    long = small(max_iter=10**6, tol=0.0, n_iter_no_change=np.inf)
    threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt, match="the estimator keeps what it has learnt"):
        long.fit(*iris)
    assert long.n_iter_ == len(long.loss_curve_) > 10
    assert long.score(*iris) > 0.5  # a third of the rows is of each class
    assert long.partial_fit(*iris).n_iter_ == len(long.loss_curve_)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_figures_that_do_not_apply_are_none(early_stopping: bool, iris: tuple[Any, Any]) -> None:
    """As in scikit-learn: best_loss_ without early stopping, the validation scores with it."""
    fitted = small(early_stopping=early_stopping).fit(*iris)
    theirs = TheirClassifier((8,), max_iter=10, random_state=0, early_stopping=early_stopping).fit(*iris)
    for name in ("best_loss_", "validation_scores_", "best_validation_score_"):
        assert (getattr(fitted, name) is None) == (getattr(theirs, name) is None), name
    if early_stopping:
        with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
            fitted.partial_fit(*iris)


def test_libraries_are_looked_for_once(iris: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """partial_fit after partial_fit asks the system for no library again."""
    classifier = small().partial_fit(*iris, classes=[0, 1, 2])

    def look_again(*_: Any, **__: Any) -> None:
        raise AssertionError("the libraries were looked for again")

    monkeypatch.setattr(ThreadpoolController, "_load_libraries", look_again)
    classifier.partial_fit(*iris).predict(iris[0])


def test_nothing_is_written_or_printed(
    iris: tuple[Any, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A fit leaves no file; verbose gives one line per epoch on stderr."""
    monkeypatch.chdir(tmp_path)
    small().fit(*iris)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    small(verbose=True).fit(*iris)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == [f"epoch {i}/10" for i in range(1, 11)]
    losses = [float(line.split("loss ")[1].split()[0]) for line in err.splitlines()]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_the_model_is_exported(iris: tuple[Any, Any], tmp_path: Any) -> None:
    """`model_` goes where a model from a checkpoint goes."""
    from ddp_mlp.export import export
    from ddp_mlp.storage import weights

    fitted = small().fit(*iris)
    export(fitted.model_, tmp_path / "iris.npz")
    found = weights.read(tmp_path / "iris.npz")
    assert found.classes == ("0", "1", "2")
    again = ddp_mlp.Model(found.parameters, found.classes, found.standardization)
    np.testing.assert_array_equal(again.predict_proba(iris[0]), fitted.predict_proba(iris[0]), strict=True)
