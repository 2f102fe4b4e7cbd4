"""scikit-learn's interface: an estimator for pipelines, grid searches and cross-validation, alone or under mpirun.

Under mpirun every rank calls `fit` with the same data and gets the same model, the one a single process would get.
Parameters have scikit-learn's names where they mean what they mean in `sklearn.neural_network.MLPClassifier`, and this
program's names elsewhere.
"""

import functools
import hashlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(f'ddp_mlp.MLPClassifier needs scikit-learn: pip install "ddp_mlp[sklearn]" ({error})') from error

from ddp_mlp.data.opening import data_of_arrays, standardization_of
from ddp_mlp.errors import ConfigError, DataError, TrainingFailed
from ddp_mlp.estimator_config import configuration, in_scikit_learns_words
from ddp_mlp.model import Model
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import free_memory
from ddp_mlp.parallel.launcher import launched_size
from ddp_mlp.parallel.mpi import connect
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.run_dir.saving import State
from ddp_mlp.training.in_memory import train_in_memory
from ddp_mlp.units import byte_size

DTYPES = [np.float64, np.float32]
DENSE_ROWS = 1024
"""Rows of a sparse matrix that are made dense at once to be classified."""
_HIDDEN = {"_parameters", "_optimizer", "_steps", "_dtype", "_standardization"}


class MLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn ships no annotations
    """A multi-layer perceptron with ReLU layers and a softmax output, as a scikit-learn classifier.

    Parameters as in `sklearn.neural_network.MLPClassifier`: hidden_layer_sizes, batch_size, learning_rate_init,
    max_iter (epochs), shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping,
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change; solver too, where "adamw" and "rmsprop" come instead
    of "lbfgs". alpha is divided by the batch size, as there; None, the default, leaves it to l2. learning_rate is
    "constant" there; for another course of it there is schedule.

    Parameters as in `ddp_mlp.Config`: l2, weight_decay, schedule, dropout, label_smoothing, clip_norm, standardize,
    arithmetic. class_weight is scikit-learn's: a dict of labels, or "balanced".

    Computes in float32 where X is float32 or arithmetic is "portable", else in float64. A sparse X is made dense, in
    `fit` as a whole. A sample weight counts as that many rows would; rows of weight 0 are left out. `partial_fit` keeps
    the standardization of the first rows it sees. A `fit` that fails leaves what was fitted before; one that Ctrl-C
    ends keeps what it has learnt.

    Attributes after fitting: classes_, n_features_in_, feature_names_in_, n_iter_, t_ (rows seen), loss_,
    loss_curve_ (mean training loss of each epoch), best_loss_ or, with early_stopping, validation_scores_ and
    best_validation_score_ (the others are None),
    coefs_, intercepts_, n_layers_, n_outputs_, out_activation_, and model_, the `ddp_mlp.Model`.

    >>> from sklearn.datasets import load_iris
    >>> from ddp_mlp import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier((16,), learning_rate_init=0.01, max_iter=500, tol=1e-3, random_state=0)
    >>> classifier.fit(X, y).score(X, y) > 0.95
    True
    >>> classifier.predict_proba(X[:2]).shape
    (2, 3)
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        solver: str = "adam",
        alpha: float | None = None,
        l2: float = 0.0,
        weight_decay: float | None = None,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        schedule: str = "constant",
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        standardize: bool = True,
        arithmetic: str = "native",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.solver = solver
        self.alpha = alpha
        self.l2 = l2
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.schedule = schedule
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.class_weight = class_weight
        self.standardize = standardize
        self.arithmetic = arithmetic

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X (m, n_0) and labels y (m,), from where the last fit ended if warm_start. Collective under MPI.

        Raises ValueError for data or parameters that cannot be used, KeyboardInterrupt after a signal.
        """
        again = self.warm_start and hasattr(self, "_parameters")
        rows, labels, weights = self._checked(X, y, sample_weight, reset=not again)
        if again and not np.array_equal(np.unique(labels), self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {np.unique(labels)}"
            )
        fitted = self._kept() if again else self._begun(np.unique(labels), rows, weights)
        fitted["n_iter_"] = 0
        state = State(self._parameters, None) if again else None
        ended = self._train(fitted, rows, labels, weights, self.max_iter, (0, 0), state)
        if ended == "epochs":
            warnings.warn(
                f"max_iter = {self.max_iter}: training has not converged after this many epochs; raise max_iter, or "
                "tol",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on more rows; `classes` lists all labels, and is needed in the first call. Collective.

        The optimizer goes on where it was. There is no early stopping, and the learning rate is learning_rate_init.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        again = hasattr(self, "_parameters")
        rows, labels, weights = self._checked(X, y, sample_weight, reset=not again)
        if not again:
            if classes is None:
                raise ValueError("classes: must be given in the first call of partial_fit")
            fitted = self._begun(unique_labels(classes), rows, weights)
            fitted["n_iter_"] = 0
        else:
            fitted = self._kept()
            if classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
                raise ValueError(f"classes: must be those of the first call, {self.classes_}")
        if unknown := sorted(set(np.unique(labels).tolist()) - set(fitted["classes_"].tolist())):
            raise ValueError(f"y has {unknown[0]!r}: the classes are {fitted['classes_']}")
        state = State(self._parameters, self._optimizer) if again else None
        self._train(fitted, rows, labels, weights, None, (fitted["n_iter_"], fitted["_steps"]), state)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities (m, n_L) of the classes, in the order of classes_, for X (m, n_0)."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=DTYPES, order="C", accept_sparse="csr")
        if not issparse(rows):
            return self.model_.predict_proba(rows)
        model, blocks = self.model_, range(0, rows.shape[0], DENSE_ROWS)
        return np.concatenate([model.predict_proba(rows[lo : lo + DENSE_ROWS].toarray()) for lo in blocks])

    def predict_log_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the logarithms (m, n_L) of the probabilities."""
        with np.errstate(divide="ignore"):
            logarithms: NDArray[Any] = arithmetics.called(self._arithmetic).functions.log(self.predict_proba(X))
        return logarithms

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label (m,) of the most probable class of each row of X (m, n_0)."""
        chosen = np.argmax(self.predict_proba(X), axis=1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels

    @property
    def _arithmetic(self) -> str:
        """The parameter; pickles of version 0.1 have none."""
        return getattr(self, "arithmetic", "native")

    @property
    def model_(self) -> Model:
        """The trained network; its classes are the labels as text."""
        used = {"mean": self._standardization.mean, "scale": self._standardization.scale}
        names = tuple(map(str, self.classes_))
        standardization = used if self._standardization.used else None
        return Model(self._parameters, names, standardization, arithmetic=self._arithmetic)

    @property
    def coefs_(self) -> list[NDArray[Any]]:
        """The weights of each layer (n_{l-1}, n_l), scikit-learn's order."""
        return [array.T for name, array in self._parameters.items() if name.startswith("W")]

    @property
    def intercepts_(self) -> list[NDArray[Any]]:
        """The biases of each layer (n_l,)."""
        return [array for name, array in self._parameters.items() if name.startswith("b")]

    # ---- the parts of the above --------------------------------------------------------------------------------------

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled; parameters that an earlier version did not have get their defaults."""
        defaults = {name: parameter.default for name, parameter in signature(type(self)).parameters.items()}
        super().__setstate__({**defaults, **state})

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_parameters")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _checked(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, reset: bool
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
        """Return the rows that weigh something, their labels and weights. Raises ValueError."""
        rows, labels = validate_data(self, X, y, reset=reset, dtype=DTYPES, order="C", accept_sparse="csr")
        rows = _dense(rows)
        labels = column_or_1d(labels, warn=True)
        check_classification_targets(labels)
        if sample_weight is None:
            return rows, labels, None
        weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        counts = weights > 0
        if not counts.any():
            raise ValueError("sample_weight: every weight is 0, at least one example must count")
        return np.ascontiguousarray(rows[counts]), labels[counts], weights[counts]

    def _begun(self, classes: NDArray[Any], rows: NDArray[Any], weights: NDArray[np.float64] | None) -> dict[str, Any]:
        """Return the attributes of an estimator that has learnt nothing, with classes and standardization."""
        if len(classes) < 2:
            raise ValueError(f"y has one class, {classes[0]!r}: there is nothing to learn from fewer than two classes")
        if self._arithmetic not in ("native", "portable"):
            raise ValueError(f"arithmetic = {self._arithmetic!r}: must be native or portable")
        if self.standardize:
            standardization = standardization_of(rows, weights, arithmetics.called(self._arithmetic))
        else:
            standardization = Standardization(np.zeros(rows.shape[1]), np.ones(rows.shape[1]), used=False)
        return {
            "classes_": classes,
            "n_outputs_": len(classes),
            "out_activation_": "softmax",
            "loss_curve_": [],
            "best_loss_": None,
            "validation_scores_": None,
            "best_validation_score_": None,
            "t_": 0,
            "_steps": 0,
            "_dtype": rows.dtype,
            "_standardization": standardization,
        }

    def _kept(self) -> dict[str, Any]:
        """Return the attributes of what was fitted before, to go on from."""
        return {name: value for name, value in vars(self).items() if name.endswith("_") or name in _HIDDEN}

    def _train(
        self,
        fitted: dict[str, Any],
        rows: NDArray[Any],
        labels: NDArray[Any],
        weights: NDArray[np.float64] | None,
        epochs: int | None,
        earlier: tuple[int, int],
        state: State | None,
    ) -> str:
        """Train for at most this many epochs, or for one of partial_fit's where None; take over what came of it.

        Return why it ended. Whatever is raised leaves the estimator as it was, but for KeyboardInterrupt after a step.
        """
        ranks = all_ranks()
        classes = fitted["classes_"]
        y = np.searchsorted(classes, labels).astype(np.int64)
        _check_agreement(ranks, self.get_params(deep=False), rows, y, weights)
        try:
            config = configuration(self, epochs, fitted["_dtype"], len(rows), ranks)
            per_class = None
            if self.class_weight is not None:
                per_class = compute_class_weight(self.class_weight, classes=classes, y=labels)
            names = tuple(map(str, classes))
            data = data_of_arrays(rows, y, weights, names, fitted["_standardization"], config, per_class)
            trained = train_in_memory(config, data, ranks, state, earlier)
        except (ConfigError, DataError, TrainingFailed) as error:
            raise ValueError(in_scikit_learns_words(str(error))) from error

        m = len(rows) if data.train[1] is None else len(data.train[1])
        last = trained.events[-1]
        curve = [event for event in trained.events if event["event"] == "epoch"]
        losses = fitted["loss_curve_"] + [event["train_loss"] for event in curve]
        fitted |= {
            "_parameters": trained.state.parameters,
            "_optimizer": trained.state.optimizer,
            "_steps": fitted["_steps"] + last["step"],
            "n_iter_": fitted["n_iter_"] + last["epoch"],
            "n_layers_": len(config.hidden) + 2,
            "t_": fitted["t_"] + last["epoch"] * m,
            "loss_curve_": losses,
        }
        if losses:
            fitted["loss_"] = losses[-1]
        if config.valid_fraction:
            scores = (fitted.get("validation_scores_") or []) + [event["valid_accuracy"] for event in curve]
            fitted |= {"best_loss_": None, "validation_scores_": scores}
            fitted["best_validation_score_"] = max(scores, default=None)
        else:
            fitted |= {"validation_scores_": None, "best_validation_score_": None}
            fitted["best_loss_"] = min(losses, default=None)
        self.__dict__.update(fitted)
        if trained.stopped is not None:  # not to be taken for one more fit that failed
            raise KeyboardInterrupt(f"{trained.stopped}; the estimator keeps what it has learnt") from trained.stopped
        return str(last["ended"])


def _dense(X: Any) -> NDArray[Any]:
    """Return X as rows in memory; a sparse one is held against what there is. Raises ValueError."""
    if not issparse(X):
        return X  # type: ignore[no-any-return]
    needed, free = X.shape[0] * X.shape[1] * X.dtype.itemsize, free_memory(shared=False)
    if needed > free:
        raise ValueError(
            f"X: {X.shape[0]:,} sparse rows of {X.shape[1]:,} features are {byte_size(needed)} when they are dense, "
            f"and {byte_size(free)} are free: keep fewer features, train with partial_fit on parts, or stream a file"
        )
    return np.ascontiguousarray(X.toarray())


@functools.cache
def all_ranks() -> Communicator:
    """Return the ranks that fit together: those of mpirun, or this process. Collective under MPI, the first time.

    MPI is started only where a launcher has started several processes, or where the caller has started it.
    """
    return connect() if launched_size()[0] > 1 or "mpi4py.MPI" in sys.modules else SingleProcess()


def _check_agreement(
    ranks: Communicator,
    parameters: dict[str, Any],
    rows: NDArray[Any],
    y: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
) -> None:
    """Raise ValueError on all ranks where one was given other data or parameters. Collective."""
    if ranks.size == 1:
        return
    digest = hashlib.sha256(repr((rows.shape, rows.dtype, sorted(parameters.items()))).encode())
    for array in (rows, y, weights):
        digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    everyone = ranks.allgather(digest.hexdigest())
    for rank, theirs in enumerate(everyone):
        if theirs != everyone[0]:
            raise ValueError(
                f"rank {rank} was given other data or parameters than rank 0: every rank must call fit with the same; "
                "give functions that draw at random, such as train_test_split, a random_state"
            )
