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
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state, compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(f'ddp_mlp.MLPClassifier needs scikit-learn: pip install "ddp_mlp[sklearn]" ({error})') from error

from ddp_mlp.config import Config
from ddp_mlp.data.opening import data_of_arrays, standardization_of
from ddp_mlp.errors import ConfigError, DataError, Interrupted
from ddp_mlp.model import Model
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.launcher import launched_size
from ddp_mlp.parallel.mpi import connect
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.run_dir.saving import State
from ddp_mlp.summing.tree import automatic_shards
from ddp_mlp.training.in_memory import train_in_memory


class MLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn ships no annotations
    """A multi-layer perceptron with ReLU layers and a softmax output, as a scikit-learn classifier.

    Parameters as in `sklearn.neural_network.MLPClassifier`: hidden_layer_sizes, batch_size, learning_rate_init,
    max_iter (epochs), shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping,
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change; solver too, where "adamw" and "rmsprop" come instead
    of "lbfgs".

    Parameters as in `ddp_mlp.Config`: l2 (not scikit-learn's alpha, which is divided by the batch size), weight_decay,
    schedule, dropout, label_smoothing, clip_norm, standardize. class_weight is scikit-learn's: a dict of labels, or
    "balanced".

    Computes in float32 where X is float32, else in float64. A sample weight counts as so many rows would; rows of
    weight 0 are left out. `partial_fit` keeps the standardization of the first rows it sees.

    Attributes after fitting: classes_, n_features_in_, feature_names_in_, n_iter_, t_ (rows seen), loss_, best_loss_,
    loss_curve_ (mean training loss of each epoch), validation_scores_ and best_validation_score_ (with early_stopping),
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
        l2: float = 0.0,
        weight_decay: float | None = None,
        batch_size: int | str = "auto",
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
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.solver = solver
        self.l2 = l2
        self.weight_decay = weight_decay
        self.batch_size = batch_size
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

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X (m, n_0) and labels y (m,), from where the last fit ended if warm_start. Collective under MPI.

        Raises ValueError for data or parameters that cannot be used, KeyboardInterrupt after a signal.
        """
        again = self.warm_start and hasattr(self, "classes_")
        rows, labels, weights = self._checked(X, y, sample_weight, reset=not again)
        if again and not np.array_equal(np.unique(labels), self.classes_):
            raise ValueError(f"warm_start: y has the classes {np.unique(labels)}, the first fit had {self.classes_}")
        if not again:
            self._begin(np.unique(labels), rows, weights)
        self.n_iter_ = 0
        self._train(rows, labels, weights, self.max_iter, (0, 0), State(self._parameters, None) if again else None)
        if self._ended == "epochs" and self.n_iter_no_change < np.inf:
            warnings.warn(
                f"max_iter = {self.max_iter}: training has not converged after so many epochs; raise max_iter, or tol",
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
        again = hasattr(self, "classes_")
        rows, labels, weights = self._checked(X, y, sample_weight, reset=not again)
        if not again:
            if classes is None:
                raise ValueError("classes: must be given in the first call of partial_fit")
            self._begin(unique_labels(classes), rows, weights)
            self.n_iter_ = 0
        elif classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            raise ValueError(f"classes: must be those of the first call, {self.classes_}")
        if unknown := sorted(set(np.unique(labels).tolist()) - set(self.classes_.tolist())):
            raise ValueError(f"y has {unknown[0]!r}: the classes are {self.classes_}")
        state = State(self._parameters, self._optimizer) if hasattr(self, "_parameters") else None
        self._train(rows, labels, weights, None, (self.n_iter_, self._steps), state)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities (m, n_L) of the classes, in the order of classes_, for X (m, n_0)."""
        check_is_fitted(self)
        return self.model_.predict_proba(self._rows(X, reset=False))

    def predict_log_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the logarithms (m, n_L) of the probabilities."""
        with np.errstate(divide="ignore"):
            logarithms: NDArray[Any] = np.log(self.predict_proba(X))
        return logarithms

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label (m,) of the most probable class of each row of X (m, n_0)."""
        chosen = np.argmax(self.predict_proba(X), axis=1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels

    @property
    def model_(self) -> Model:
        """The trained network; its classes are the labels as text."""
        used = {"mean": self._standardization.mean, "scale": self._standardization.scale}
        names = tuple(map(str, self.classes_))
        return Model(self._parameters, names, used if self._standardization.used else None)

    @property
    def coefs_(self) -> list[NDArray[Any]]:
        """The weights of each layer (n_{l-1}, n_l), scikit-learn's order."""
        return [array.T for name, array in self._parameters.items() if name.startswith("W")]

    @property
    def intercepts_(self) -> list[NDArray[Any]]:
        """The biases of each layer (n_l,)."""
        return [array for name, array in self._parameters.items() if name.startswith("b")]

    # ---- the parts of the above --------------------------------------------------------------------------------------

    def _rows(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        rows: NDArray[Any] = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], order="C")
        return rows

    def _checked(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, reset: bool
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
        """Return the rows that weigh something, their labels and weights. Raises ValueError."""
        rows, labels = validate_data(self, X, y, reset=reset, dtype=[np.float64, np.float32], order="C")
        labels = column_or_1d(labels, warn=True)
        check_classification_targets(labels)
        if sample_weight is None:
            return rows, labels, None
        weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        counts = weights > 0
        if not counts.any():
            raise ValueError("sample_weight: every weight is 0, at least one example must count")
        return np.ascontiguousarray(rows[counts]), labels[counts], weights[counts]

    def _begin(self, classes: NDArray[Any], rows: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        """Forget what was learnt, and take over classes and standardization."""
        if len(classes) < 2:
            raise ValueError(f"y has one class, {classes[0]!r}: there is nothing to learn from fewer than two classes")
        for name in ("_parameters", "_optimizer"):
            self.__dict__.pop(name, None)
        self.classes_ = classes
        self.n_outputs_ = len(classes)
        self.out_activation_ = "softmax"
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.t_ = self._steps = 0
        self._dtype = rows.dtype
        if self.standardize:
            self._standardization = standardization_of(rows, weights)
        else:
            self._standardization = Standardization(np.zeros(rows.shape[1]), np.ones(rows.shape[1]), used=False)

    def _train(
        self,
        rows: NDArray[Any],
        labels: NDArray[Any],
        weights: NDArray[np.float64] | None,
        epochs: int | None,
        earlier: tuple[int, int],
        state: State | None,
    ) -> None:
        """Train for so many epochs at most, or for one of partial_fit's where None, and keep what came of it."""
        ranks = all_ranks()
        y = np.searchsorted(self.classes_, labels).astype(np.int64)
        _check_agreement(ranks, self.get_params(deep=False), rows, y, weights)
        try:
            config = self._config(ranks, epochs)
            per_class = None
            if self.class_weight is not None:
                per_class = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
            names = tuple(map(str, self.classes_))
            data = data_of_arrays(rows, y, weights, names, self._standardization, config, per_class)
            trained = train_in_memory(config, data, ranks, state, earlier)
        except (ConfigError, DataError) as error:
            raise ValueError(str(error)) from error
        except Interrupted as error:
            raise KeyboardInterrupt(str(error)) from error  # not to be taken for one more fit that failed

        self._parameters, self._optimizer = trained.state
        events = [event for event in trained.events if event["event"] == "epoch"]
        final = trained.events[-1]
        self._ended = final["ended"]
        self._steps += final["step"]
        self.n_iter_ += final["epoch"]
        self.n_layers_ = len(config.hidden) + 2
        self.t_ += final["epoch"] * (len(rows) if data.train[1] is None else len(data.train[1]))
        self.loss_curve_ += [event["train_loss"] for event in events]
        self.loss_ = self.loss_curve_[-1]
        self.best_loss_ = min(self.loss_curve_)
        if config.valid_fraction and self.validation_scores_ is not None:
            self.validation_scores_ += [event["valid_accuracy"] for event in events]
            self.best_validation_score_ = max(self.validation_scores_)

    def _config(self, ranks: Communicator, epochs: int | None) -> Config:
        """Return the configuration of a run of so many epochs, or of partial_fit where None. Raises ConfigError."""
        hidden = self.hidden_layer_sizes
        if isinstance(self.random_state, int | np.integer):
            seed = int(self.random_state)
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        stochastic = "sgd" if self.momentum == 0 else "nesterov" if self.nesterovs_momentum else "momentum"
        stops = epochs is not None and self.n_iter_no_change < np.inf
        return Config(
            hidden=tuple(hidden) if np.iterable(hidden) else (hidden,),
            dtype="float32" if self._dtype == np.float32 else "float64",
            epochs=1 if epochs is None else epochs,
            batch_size=200 if self.batch_size == "auto" else self.batch_size,  # type: ignore[arg-type] # checked there
            optimizer=stochastic if self.solver == "sgd" else self.solver,  # type: ignore[arg-type] # checked there
            learning_rate=self.learning_rate_init,
            schedule="constant" if epochs is None else self.schedule,  # type: ignore[arg-type] # checked there
            momentum=self.momentum,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            seed=ranks.broadcast(seed),
            shuffle="rows" if self.shuffle else "none",
            l2=self.l2,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            dropout=self.dropout,
            label_smoothing=self.label_smoothing,
            valid_fraction=self.validation_fraction if self.early_stopping and epochs is not None else 0.0,
            patience=int(self.n_iter_no_change) + 1 if stops else None,  # scikit-learn stops when more than so many
            min_delta=self.tol,
            monitor="valid_accuracy" if self.early_stopping and epochs is not None else "train_loss",
            restore_best=bool(self.early_stopping) and epochs is not None,
            shards=automatic_shards(ranks.size),
            log_every=0,
            quiet=not self.verbose,
            stall_seconds=0.0,
        )


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
