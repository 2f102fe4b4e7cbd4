"""scikit-learn's interface: an estimator for pipelines, grid searches and cross-validation, alone or under mpirun.

Under mpirun every rank calls `fit` with the same data and gets the same model, the one a single process would get.
Parameters have scikit-learn's names where they mean what they mean in `sklearn.neural_network.MLPClassifier`, and this
program's names elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ddp_mlp.estimator_fitting import DTYPES, Perceptron, check_unchanged, dense, trains_in_parts
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.targets import Targets
from ddp_mlp.run_dir.saving import State


class MLPClassifier(ClassifierMixin, Perceptron):  # type: ignore[misc] # scikit-learn ships no annotations
    """A multi-layer perceptron with a softmax output, as a scikit-learn classifier; with several labels, sigmoids.

    Parameters as in `sklearn.neural_network.MLPClassifier`: hidden_layer_sizes, activation, batch_size,
    learning_rate_init, max_iter (epochs), shuffle, random_state, tol, verbose, warm_start, momentum,
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change; solver too,
    where "adamw" and "rmsprop" come instead of "lbfgs". alpha is divided by the batch size, as there; None, the
    default, leaves it to l2. With solver="sgd", learning_rate="adaptive" divides the rate by 5 after n_iter_no_change
    epochs without progress, as there; for another course of the rate there is schedule. power_t and max_fun are taken
    and have no effect: there they have one with "invscaling" and "lbfgs" alone, which are refused.

    Parameters as in `ddp_mlp.Config`: l2, weight_decay, schedule, dropout, label_smoothing, clip_norm, standardize,
    arithmetic. class_weight is scikit-learn's: a dict of labels, or "balanced". activation may be any of this program's
    too. standardize is True (each feature), False, or "features", "global" (one mean and scale for all, as for pixels),
    "none", or "auto", which is "features" here.

    Where y (m, n) is an indicator matrix of several labels, `predict` returns such a matrix and `predict_proba` the
    probability of each label.

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
        activation: str = "relu",
        solver: str = "adam",
        alpha: float | None = None,
        l2: float = 0.0,
        weight_decay: float | None = None,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
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
        max_fun: int = 15000,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        standardize: bool | str = True,
        arithmetic: str = "native",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.l2 = l2
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
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
        self.max_fun = max_fun
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.class_weight = class_weight
        self.standardize = standardize
        self.arithmetic = arithmetic

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X (m, n_0) and labels y (m,), from where the last fit ended if warm_start. Collective under MPI.

        y may be an indicator matrix (m, n) of several labels. Raises ValueError for data or parameters that cannot be
        used, KeyboardInterrupt after a signal.
        """
        again = self.warm_start and hasattr(self, "_parameters")
        rows, labels, weights = self._checked(X, y, sample_weight, reset=not again)
        classes = np.arange(labels.shape[1]) if labels.ndim == 2 else np.unique(labels)
        if again:
            self._check_kind(labels, "warm_start")
        if again and not np.array_equal(classes, self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {classes}"
            )
        fitted = self._kept("warm_start") if again else self._begun(classes, labels.ndim == 2, rows, weights)
        fitted["n_iter_"] = 0
        state = State(self._parameters, None) if again else None
        self._warn_where_not_converged(self._learn(fitted, rows, labels, weights, self.max_iter, (0, 0), state))
        return self

    @available_if(trains_in_parts)  # type: ignore[untyped-decorator] # scikit-learn ships no annotations
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
            fitted = self._begun(unique_labels(classes), labels.ndim == 2, rows, weights)
            fitted["n_iter_"] = 0
        else:
            self._check_kind(labels, "partial_fit")
            fitted = self._kept("partial_fit")
            same = classes is None or np.array_equal(classes, self.classes_)  # as they mostly are
            if not same and not np.array_equal(unique_labels(classes), self.classes_):
                raise ValueError(f"classes: must be those of the first call, {self.classes_}")
        if labels.ndim == 2 and labels.shape[1] != len(fitted["classes_"]):
            raise ValueError(f"y has {labels.shape[1]} labels: the classes are {fitted['classes_']}")
        if labels.ndim == 1 and (unknown := sorted(set(np.unique(labels).tolist()) - set(fitted["classes_"].tolist()))):
            raise ValueError(f"y has {unknown[0]!r}: the classes are {fitted['classes_']}")
        state = State(self._parameters, self._optimizer) if again else None
        self._learn(fitted, rows, labels, weights, None, (fitted["n_iter_"], fitted["_steps"]), state)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities (m, n_L) of the classes, in the order of classes_, for X (m, n_0)."""
        check_is_fitted(self)
        return self._in_blocks(X, self.model_.predict_proba)

    def predict_log_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the logarithms (m, n_L) of the probabilities."""
        with np.errstate(divide="ignore"):
            logarithms: NDArray[Any] = arithmetics.called(self._arithmetic).functions.log(self.predict_proba(X))
        return logarithms

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label (m,) of the most probable class of each row of X (m, n_0), or an indicator matrix."""
        probabilities = self.predict_proba(X)
        if self._own_targets.names:
            return (probabilities > 0.5).astype(np.int64)
        labels: NDArray[Any] = self.classes_[np.argmax(probabilities, axis=1)]
        return labels

    # ---- the parts of the above --------------------------------------------------------------------------------------

    @property
    def _own_targets(self) -> Targets:
        """The classes as text, or the labels; version 0.1 kept the former in classes_ alone."""
        names = Targets(classes=tuple(map(str, self.classes_)))
        return getattr(self, "_targets", names)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _checked(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, reset: bool
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
        """Return the rows that weigh something, their labels (m,) or (m, n), and weights. Raises ValueError."""
        kind = type_of_target(y)
        several = kind == "multilabel-indicator"
        rows, labels = validate_data(
            self, X, y, reset=reset, dtype=DTYPES, order="C", accept_sparse="csr", multi_output=several
        )
        labels = dense(labels) if several else column_or_1d(labels, warn=True)
        if several and not np.isin(labels, (0, 1)).all():
            found = ", ".join(map(str, np.unique(labels).tolist()))
            raise ValueError(f"y has {found}: several labels are an indicator matrix of 0 and 1")
        if kind not in ("binary", "multiclass", "multilabel-indicator"):
            check_classification_targets(labels)
        return self._weighted(dense(rows), labels, sample_weight)

    def _check_kind(self, labels: NDArray[Any], how: str) -> None:
        """Raise ValueError where y has several labels and had one class of several before, or the other way round."""
        kinds = ("one class of several", "several labels")
        check_unchanged(how, "what y has", kinds[labels.ndim - 1], kinds[bool(self._own_targets.names)])

    def _begun(
        self, classes: NDArray[Any], several: bool, rows: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> dict[str, Any]:
        """Return the attributes of an estimator that has learnt nothing."""
        names, n = tuple(map(str, classes)), len(classes)
        if n < 2 and not several:
            raise ValueError(
                f"y has one class, {classes[:1].tolist()[0]!r}: there is nothing to learn from fewer than two classes"
            )
        targets = Targets(classes=names)
        if several:
            targets = Targets("binary_cross_entropy", (), names, (0.0,) * n, (1.0,) * n)
        outputs = {"n_outputs_": n, "out_activation_": "logistic" if several else "softmax"}
        return {**self._nothing_learnt(rows, weights, targets), "classes_": classes, **outputs}

    def _learn(
        self,
        fitted: dict[str, Any],
        rows: NDArray[Any],
        labels: NDArray[Any],
        weights: NDArray[np.float64] | None,
        epochs: int | None,
        earlier: tuple[int, int],
        state: State | None,
    ) -> str:
        """Train on labels; return why training ended."""
        classes, per_class = fitted["classes_"], None
        if labels.ndim == 2:
            if self.class_weight is not None:
                raise ValueError("class_weight: is for one class of several, but y has several labels")
            if self.label_smoothing:
                raise ValueError("label_smoothing: is for one class of several, but y has several labels")
            y: NDArray[Any] = labels.astype(np.float64)
        else:
            if self.class_weight is not None:
                per_class = compute_class_weight(self.class_weight, classes=classes, y=labels)
            y = np.searchsorted(classes, labels).astype(np.int64)
        return self._train(fitted, rows, y, weights, epochs, earlier, state, per_class)
