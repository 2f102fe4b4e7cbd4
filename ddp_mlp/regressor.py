"""scikit-learn's interface to numbers: a regressor of one or several targets, alone or under mpirun.

As `estimator.MLPClassifier`: every rank calls `fit` with the same data and gets the model that a single process would.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from ddp_mlp.data.targets import targets_of
from ddp_mlp.errors import ConfigError
from ddp_mlp.estimator_config import in_scikit_learns_words
from ddp_mlp.estimator_fitting import (
    DTYPES,
    Perceptron,
    check_unchanged,
    dense,
    loss_configuration,
    spread_of,
    trains_in_parts,
)
from ddp_mlp.nn.targets import OWN_FUNCTIONS, Targets
from ddp_mlp.run_dir.saving import State
from ddp_mlp.units import counted


class MLPRegressor(RegressorMixin, Perceptron):  # type: ignore[misc] # scikit-learn ships no annotations
    """A multi-layer perceptron for numbers, as a scikit-learn regressor.

    Parameters as in `MLPClassifier`, but for label_smoothing and class_weight. As in `ddp_mlp.Config`: loss
    ("squared_error", "poisson", "huber", "absolute_error", "quantile"), huber_delta, quantiles, output_activation,
    standardize_targets; target_weight has one weight for each column of y.

    Targets are standardized with mean and scale of y (but for "poisson"), which is undone in `predict`. For
    loss = "quantile" `predict` returns the level nearest to ½, and `predict_quantiles` all of them; schedule="cosine"
    covers best, since a constant rate keeps the levels moving.

    Attributes after fitting: as `MLPClassifier`, without classes_; out_activation_ is f_L.

    >>> from sklearn.datasets import make_friedman1
    >>> from ddp_mlp import MLPRegressor
    >>> X, y = make_friedman1(500, noise=0, random_state=0)
    >>> regressor = MLPRegressor((64,), activation="tanh", learning_rate_init=0.01, random_state=0)
    >>> regressor.fit(X, y).score(X, y) > 0.95
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        loss: str = "squared_error",
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
        clip_norm: float | None = None,
        standardize: bool | str = True,
        standardize_targets: bool = True,
        output_activation: str = "identity",
        huber_delta: float = 1.0,
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        target_weight: Sequence[float] | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.loss = loss
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
        self.clip_norm = clip_norm
        self.standardize = standardize
        self.standardize_targets = standardize_targets
        self.output_activation = output_activation
        self.huber_delta = huber_delta
        self.quantiles = quantiles
        self.target_weight = target_weight

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X (m, n_0) and y (m,) or (m, n_T), from where the last fit ended if warm_start. Collective.

        Raises ValueError for data or parameters that cannot be used, KeyboardInterrupt after a signal.
        """
        again = self.warm_start and hasattr(self, "_parameters")
        rows, numbers, weights = self._checked(X, y, sample_weight, reset=not again)
        single = np.asarray(y).ndim == 1
        fitted = self._gone_on(numbers, "warm_start") if again else self._begun(single, rows, numbers, weights)
        fitted["n_iter_"] = 0
        state = State(self._parameters, None) if again else None
        self._warn_where_not_converged(self._train(fitted, rows, numbers, weights, self.max_iter, (0, 0), state, None))
        return self

    @available_if(trains_in_parts)  # type: ignore[untyped-decorator] # scikit-learn ships no annotations
    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train for one epoch on more rows; the first ones decide how all are standardized. Collective.

        The optimizer goes on where it was. There is no early stopping, and the learning rate is learning_rate_init.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        again = hasattr(self, "_parameters")
        rows, numbers, weights = self._checked(X, y, sample_weight, reset=not again)
        single = np.asarray(y).ndim == 1
        fitted = self._gone_on(numbers, "partial_fit") if again else self._begun(single, rows, numbers, weights)
        fitted.setdefault("n_iter_", 0)
        state = State(self._parameters, self._optimizer) if again else None
        self._train(fitted, rows, numbers, weights, None, (fitted["n_iter_"], fitted["_steps"]), state, None)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the numbers (m,) or (m, n_T) for X (m, n_0); of quantiles the level nearest to one half."""
        found = self.predict_quantiles(X)
        levels = self._own_targets.quantiles
        nearest = min(range(len(levels)), key=lambda j: abs(levels[j] - 0.5)) if levels else 0
        values: NDArray[np.float64] = found[:, :, nearest]
        return values[:, 0] if self._single else values

    def predict_quantiles(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the numbers (m, n_T, Q) at all levels for X (m, n_0); Q is 1 without quantiles."""
        check_is_fitted(self)
        found = self._in_blocks(X, self.model_.network.predictions)
        return found.reshape(len(found), self._own_targets.count, -1)

    # ---- the parts of the above --------------------------------------------------------------------------------------

    @property
    def _own_targets(self) -> Targets:
        """The numbers, and the map into their units."""
        return self._targets  # type: ignore[no-any-return]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _checked(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, reset: bool
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64] | None]:
        """Return the rows that weigh something, their numbers (m, n_T) and weights. Raises ValueError."""
        rows, numbers = validate_data(
            self, X, y, reset=reset, dtype=DTYPES, order="C", accept_sparse="csr", multi_output=True, y_numeric=True
        )
        numbers = np.asarray(numbers, np.float64).reshape(len(numbers), -1)
        if self.loss == "poisson" and (numbers < 0).any():
            raise ValueError(f"y has {numbers.min():g}: counts and rates for loss = 'poisson' are at least 0")
        return self._weighted(dense(rows), numbers, sample_weight)

    def _begun(
        self, single: bool, rows: NDArray[Any], numbers: NDArray[np.float64], weights: NDArray[np.float64] | None
    ) -> dict[str, Any]:
        """Return the attributes of an estimator that has learnt nothing."""
        n = numbers.shape[1]
        names = ("y",) if n == 1 else tuple(f"y{k}" for k in range(n))
        try:
            config = loss_configuration(self)
            spread = spread_of(numbers, weights, "y")
            targets = targets_of(config, config.loss, names, spread.mean, spread.scale)
        except ConfigError as error:
            raise ValueError(in_scikit_learns_words(str(error))) from error
        outputs = {"n_outputs_": targets.outputs, "_single": single, "_weight": weight_of_each(self.target_weight, n)}
        return {**self._nothing_learnt(rows, weights, targets), **outputs, "out_activation_": out_activation_of(self)}

    def _gone_on(self, numbers: NDArray[np.float64], how: str) -> dict[str, Any]:
        """Return the attributes to go on from, with target_weight as it is now.

        Raises ValueError where y has another number of targets, or the parameters ask for other outputs.
        """
        kept, n = self._targets, numbers.shape[1]
        if n != kept.count:
            raise ValueError(f"{how}: y has {n} targets, the first call had {kept.count}")
        levels = tuple(map(float, self.quantiles)) if self.loss == "quantile" else ()
        for name, now, before in (
            ("loss", self.loss, kept.loss),
            ("quantiles", levels, kept.quantiles),
            ("output_activation", out_activation_of(self), self.out_activation_),
        ):
            check_unchanged(how, name, now, before)
        return self._kept(how) | {"_weight": weight_of_each(self.target_weight, n)}


def out_activation_of(regressor: MLPRegressor) -> str:
    """Return f_L, as a regressor's parameters have it."""
    return OWN_FUNCTIONS.get(regressor.loss, regressor.output_activation)


def weight_of_each(asked: Sequence[float] | None, n: int) -> tuple[float, ...] | None:
    """Return target_weight (n,) as numbers, or None. Raises ValueError."""
    if asked is None:
        return None
    try:
        weight = np.asarray(asked, np.float64)
    except (TypeError, ValueError):
        weight = np.zeros(0)
    if weight.shape != (n,) or not np.isfinite(weight).all() or weight.min() < 0 or not weight.any():
        raise ValueError(
            f"target_weight = {asked}: must be {counted(n, 'weight')}, all finite, none negative, one above 0"
        )
    return tuple(weight.tolist())
