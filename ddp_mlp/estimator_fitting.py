"""What classifier and regressor have in common: parameters in, a run in memory, the fitted attributes out."""

import functools
import hashlib
import sys
import warnings
from abc import ABC, abstractmethod
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f'ddp_mlp.MLPClassifier needs scikit-learn: pip install "ddp_mlp[sklearn]" ({error})') from error

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data, Mode, data_of_arrays, standardization_of
from ddp_mlp.data.targets import check_keys
from ddp_mlp.errors import ConfigError, DataError, EnvironmentMismatch, TrainingFailed
from ddp_mlp.estimator_config import (
    configuration,
    in_our_words,
    in_scikit_learns_words,
    loss_keys,
    standardize_mode,
)
from ddp_mlp.model import Model
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.arithmetic import Arithmetic
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.nn.targets import Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import free_memory
from ddp_mlp.parallel.launcher import launched_size
from ddp_mlp.parallel.mpi import connect
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.run_dir.saving import State
from ddp_mlp.training.in_memory import train_in_memory
from ddp_mlp.training.memory import check_in_memory
from ddp_mlp.units import byte_size

DTYPES = [np.float64, np.float32]
DENSE_ROWS = 1024
"""Rows of a sparse matrix that are made dense at once to be predicted for."""
_HIDDEN = {"_parameters", "_optimizer", "_steps", "_dtype", "_standardization", "_targets", "_single", "_weight"}
_HIDDEN |= {"_events", "_functions"}


class Perceptron(BaseEstimator, ABC):  # type: ignore[misc] # scikit-learn ships no annotations
    """The part of an estimator that does not depend on what is predicted."""

    @property
    @abstractmethod
    def _own_targets(self) -> Targets:
        """What the fitted network's outputs are."""

    @property
    def _arithmetic(self) -> str:
        """That of the fitted network."""
        return str(_functions_of(self)["arithmetic"])

    @property
    def model_(self) -> Model:
        """The trained network."""
        used = {"mean": self._standardization.mean, "scale": self._standardization.scale}
        targets = self._own_targets
        standardization = used if self._standardization.used else None
        names = getattr(self, "feature_names_in_", None)
        inputs = None if names is None else {"features": [str(name) for name in names]}
        given = self._parameters, targets.classes, standardization, targets
        model = Model(*given, **_functions_of(self), inputs=inputs)
        start, *events = getattr(self, "_events", None) or [{}]  # pickles of version 0.1 have none
        if events:
            known = {"config": start["config"], "versions": start["versions"], "events": [start, *events]}
            model.network.origin = known | {"epoch": events[-1]["epoch"], "step": events[-1]["step"]}
        return model

    def save(self, path: str | Path) -> None:
        """Write the trained network to a checkpoint file, OUT.h5, as `model_.save` does. Local."""
        check_is_fitted(self)
        self.model_.save(path)

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

    def _weighted(
        self, rows: NDArray[Any], y: NDArray[Any], sample_weight: ArrayLike | None
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
        """Return the rows that weigh something, their targets and weights. Raises ValueError."""
        if sample_weight is None:
            return rows, y, None
        weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        counts = weights > 0
        if not counts.any():
            raise ValueError("sample_weight: every weight is 0, at least one example must count")
        return np.ascontiguousarray(rows[counts]), y[counts], weights[counts]

    def _nothing_learnt(
        self, rows: NDArray[Any], weights: NDArray[np.float64] | None, targets: Targets
    ) -> dict[str, Any]:
        """Return the attributes of an estimator that has learnt nothing, with targets and standardization."""
        functions = _functions_asked(self)
        if functions["arithmetic"] not in ("native", "portable"):
            raise ValueError(f"arithmetic = {functions['arithmetic']!r}: must be native or portable")
        mode = standardize_mode(self.standardize)
        standardization = spread_of(rows, weights, "X", arithmetics.called(functions["arithmetic"]), mode)
        return {
            "loss_curve_": [],
            "best_loss_": None,
            "validation_scores_": None,
            "best_validation_score_": None,
            "t_": 0,
            "_steps": 0,
            "_dtype": rows.dtype,
            "_standardization": standardization,
            "_targets": targets,
            "_functions": functions,
        }

    def _warn_where_not_converged(self, ended: str) -> None:
        if ended == "epochs":
            warnings.warn(
                f"max_iter = {self.max_iter}: training has not converged after this many epochs; raise max_iter, or "
                "tol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _in_blocks(self, X: ArrayLike, predict: Any) -> NDArray[Any]:
        """Return what predict(rows) gives for X (m, n_0), a sparse one made dense block by block."""
        rows = validate_data(self, X, reset=False, dtype=DTYPES, order="C", accept_sparse="csr")
        if not issparse(rows):
            return predict(rows)  # type: ignore[no-any-return]
        blocks = range(0, rows.shape[0], DENSE_ROWS)
        return np.concatenate([predict(rows[lo : lo + DENSE_ROWS].toarray()) for lo in blocks])

    def _kept(self, how: str) -> dict[str, Any]:
        """Return the attributes of what was fitted before, to go on from. Raises ValueError for another network."""
        asked, fitted = _functions_asked(self), _functions_of(self)
        hidden = self.hidden_layer_sizes
        asked["hidden_layer_sizes"] = tuple(hidden) if np.iterable(hidden) else (hidden,)
        fitted["hidden_layer_sizes"] = tuple(len(bias) for bias in self.intercepts_[:-1])
        for name, before in fitted.items():
            check_unchanged(how, name, asked[name], before)
        return {name: value for name, value in vars(self).items() if name.endswith("_") or name in _HIDDEN}

    def _train(
        self,
        fitted: dict[str, Any],
        rows: NDArray[Any],
        y: NDArray[Any],
        weights: NDArray[np.float64] | None,
        epochs: int | None,
        earlier: tuple[int, int],
        state: State | None,
        class_weight: NDArray[np.float64] | None,
    ) -> str:
        """Train for at most this many epochs, or for one of partial_fit's where None; take over what came of it.

        y (m,) are class numbers, or (m, n_T) float64 numbers, as `fitted["_targets"]` says.

        Return why it ended. Whatever is raised leaves the estimator as it was, but for KeyboardInterrupt after a step.
        """
        ranks = all_ranks()
        if ranks.size > 1:
            _check_agreement(ranks, self.get_params(deep=False), rows, y, weights)
        try:
            config = configuration(self, epochs, fitted["_dtype"], len(rows), ranks)
            targets = fitted.get("_targets") or self._own_targets
            standardization = fitted["_standardization"]
            data = data_of_arrays(rows, y, weights, targets, standardization, config, class_weight)
            data = data._replace(factor=fitted.get("_weight"), weight=fitted.get("_weight"))
            if state is None:  # a network that goes on has found its room
                _check_memory(config, data, ranks)
            trained = train_in_memory(config, data, ranks, state, earlier)
        except (ConfigError, DataError, TrainingFailed) as error:
            raise ValueError(in_scikit_learns_words(str(error))) from error

        m = len(rows) if data.train[1] is None else len(data.train[1])
        last = trained.events[-1]
        curve = [event for event in trained.events if event["event"] == "epoch"]
        losses = fitted["loss_curve_"] + [event["train_loss"] for event in curve]
        fitted |= {
            "_standardization": data.standardization,
            "_parameters": trained.state.parameters,
            "_optimizer": trained.state.optimizer,
            "_steps": fitted["_steps"] + last["step"],
            "_events": [trained.start, *trained.events],
            "n_iter_": fitted["n_iter_"] + last["epoch"],
            "n_layers_": len(config.hidden) + 2,
            "t_": fitted["t_"] + last["epoch"] * m,
            "loss_curve_": losses,
        }
        if losses:
            fitted["loss_"] = losses[-1]
        if config.valid_fraction:
            scores = (fitted.get("validation_scores_") or []) + [event[config.monitor] for event in curve]
            fitted |= {"best_loss_": None, "validation_scores_": scores}
            fitted["best_validation_score_"] = max(scores, default=None)
        else:
            fitted |= {"validation_scores_": None, "best_validation_score_": None}
            fitted["best_loss_"] = min(losses, default=None)
        self.__dict__.update(fitted)
        if trained.stopped is not None:  # not to be taken for one more fit that failed
            raise KeyboardInterrupt(f"{trained.stopped}; the estimator keeps what it has learnt") from trained.stopped
        return str(last["ended"])


def spread_of(
    values: NDArray[Any],
    weights: NDArray[np.float64] | None,
    name: str,
    arithmetic: Arithmetic = arithmetics.NATIVE,
    mode: Mode = "features",
) -> Standardization:
    """Return mean and scale of each column of values (m, n), as `standardization_of`. Raises ValueError on overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = standardization_of(values, weights, arithmetic, mode)
    finite = np.isfinite(found.mean) & np.isfinite(found.scale)
    if not finite.all():
        column = int(np.argmin(finite))
        raise ValueError(f"column {column} of {name} is too large for a standard deviation: rescale it")
    return found


def loss_configuration(estimator: Any) -> Config:
    """Return a configuration with a regressor's loss alone, checked. Raises ConfigError."""
    if estimator.loss in ("auto", "cross_entropy", "binary_cross_entropy"):
        raise ConfigError(f"loss = {estimator.loss}: is not for numbers; choose squared_error, poisson, huber, …")
    config = Config(**loss_keys(estimator))
    check_keys(config, config.loss)
    return config


def trains_in_parts(estimator: Any) -> bool:
    """Tell whether there is a partial_fit: as there, not where the solver takes all rows for each step."""
    return bool(estimator.solver != "lbfgs")


_FUNCTIONS = {"activation": "relu", "output_activation": "identity", "arithmetic": "native"}
"""The parameters that say what a network computes, and what pickles of version 0.1 mean, which have none."""


def _functions_asked(estimator: Any) -> dict[str, Any]:
    """Return the functions of the network that the parameters ask for."""
    return {name: in_our_words(getattr(estimator, name, default)) for name, default in _FUNCTIONS.items()}


def _functions_of(estimator: Any) -> dict[str, Any]:
    """Return those of the fitted network, whatever parameters were set since; earlier pickles have the parameters."""
    return dict(getattr(estimator, "_functions", None) or _functions_asked(estimator))


def check_unchanged(how: str, name: str, now: Any, before: Any) -> None:
    """Raise ValueError where a network that goes on would be another one."""
    if now != before:
        raise ValueError(f"{how}: {name} is {now!r}, the first call had {before!r}: make another estimator")


def dense(X: Any) -> NDArray[Any]:
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


def _check_memory(config: Config, data: Data, ranks: Communicator) -> None:
    """Raise MemoryError on all ranks where training would take more than there is. Collective."""
    try:
        check_in_memory(config, data, ranks)
    except EnvironmentMismatch as error:
        words = str(error).replace("lower hidden, batch_size or chunk_rows", "lower hidden_layer_sizes or batch_size")
        raise MemoryError(words) from error


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
