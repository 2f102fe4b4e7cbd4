"""What scikit-learn's users write, in the words of a run's configuration, and its messages in theirs."""

import re
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from ddp_mlp.config import Config, standardize_word
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.tree import automatic_shards

RENAMED = {
    "hidden": "hidden_layer_sizes",
    "epochs": "max_iter",
    "optimizer": "solver",
    "learning_rate": "learning_rate_init",
    "beta1": "beta_1",
    "beta2": "beta_2",
    "seed": "random_state",
    "valid_fraction": "validation_fraction",
    "patience": "n_iter_no_change",
    "min_delta": "tol",
}
"""The estimator's names of keys that have another."""


def configuration(estimator: Any, epochs: int | None, dtype: np.dtype[Any], m: int, ranks: Communicator) -> Config:
    """Return the configuration of a run of that many epochs, or of partial_fit where None, on m rows. Collective.

    Raises ConfigError or ValueError.
    """
    _refuse_what_is_named_otherwise(estimator)
    hidden = estimator.hidden_layer_sizes
    batch_size = 200 if estimator.batch_size == "auto" else estimator.batch_size
    l2 = estimator.l2
    if estimator.alpha is not None:
        l2 = estimator.alpha / (m if batch_size == "full" else min(batch_size, m))
    if isinstance(estimator.random_state, int | np.integer):
        seed = int(estimator.random_state)
    else:
        seed = int(check_random_state(estimator.random_state).randint(2**31 - 1))
    stochastic: Any = "sgd" if estimator.momentum == 0 else "nesterov" if estimator.nesterovs_momentum else "momentum"
    portable = getattr(estimator, "arithmetic", "native") == "portable"  # pickles of version 0.1 have none
    stops = epochs is not None and estimator.n_iter_no_change < np.inf
    patience = int(estimator.n_iter_no_change) + 1 if stops else None  # scikit-learn stops after more than these
    schedule: Any = "constant" if epochs is None else estimator.schedule
    course: dict[str, Any] = {}
    if patience is not None and _is_adaptive(estimator):
        schedule, course = "plateau", {"decay": 1 / 5, "plateau_patience": patience}
        patience *= 1 + _divisions(estimator.learning_rate_init)
    return Config(
        hidden=tuple(hidden) if np.iterable(hidden) else (hidden,),
        activation=in_our_words(estimator.activation),
        **loss_keys(estimator),
        dtype="float32" if dtype == np.float32 or portable else "float64",
        arithmetic="portable" if portable else "native",
        epochs=1 if epochs is None else epochs,
        batch_size=batch_size,
        optimizer=stochastic if estimator.solver == "sgd" else estimator.solver,
        learning_rate=estimator.learning_rate_init,
        schedule=schedule,
        **course,
        momentum=estimator.momentum,
        beta1=estimator.beta_1,
        beta2=estimator.beta_2,
        epsilon=estimator.epsilon,
        seed=ranks.broadcast(seed),
        shuffle="rows" if estimator.shuffle else "none",
        l2=l2,
        weight_decay=estimator.weight_decay,
        clip_norm=estimator.clip_norm,
        dropout=estimator.dropout,
        label_smoothing=getattr(estimator, "label_smoothing", 0.0),
        valid_fraction=estimator.validation_fraction if estimator.early_stopping and epochs is not None else 0.0,
        patience=patience,
        min_delta=estimator.tol,
        monitor=_monitored(estimator) if estimator.early_stopping and epochs is not None else "train_loss",
        restore_best=bool(estimator.early_stopping) and epochs is not None,
        shards="auto" if portable else automatic_shards(ranks.size),
        log_every=0,
        quiet=not estimator.verbose,
        stall_seconds=0.0,
    )


def _is_adaptive(estimator: Any) -> bool:
    """Tell whether the rate is divided by 5 where training stands still: as there, a matter of sgd alone."""
    return bool(estimator.solver == "sgd" and estimator.learning_rate == "adaptive")


def _divisions(rate: float) -> int:
    """Return how often scikit-learn's adaptive rate is divided by 5, which ends at 1e-6."""
    count = 0
    while rate > 1e-6:
        rate, count = rate / 5, count + 1
    return count


def in_our_words(activation: str) -> str:
    """Return the name of an activation, of which scikit-learn calls one otherwise."""
    return "sigmoid" if activation == "logistic" else activation


def standardize_mode(asked: Any) -> Literal["features", "global", "none"]:
    """Return how inputs are standardized; auto is features: rows of arrays have no shape. Raises ValueError."""
    if asked not in (True, False, "auto", "features", "global", "none"):
        raise ValueError(f"standardize = {asked!r}: must be True or False, or auto, features, global or none")
    word = standardize_word(asked)
    return "features" if word == "auto" else word


def loss_keys(estimator: Any) -> dict[str, Any]:
    """Return the keys of a regressor's loss; none for a classifier, whose loss follows from its labels."""
    if not hasattr(estimator, "loss"):
        return {}
    keys = {name: getattr(estimator, name) for name in ("loss", "output_activation", "huber_delta")}
    keys["quantiles"] = tuple(estimator.quantiles) if np.iterable(estimator.quantiles) else estimator.quantiles
    keys["standardize_targets"] = estimator.standardize_targets
    return keys


def _monitored(estimator: Any) -> str:
    """Return what early stopping watches, as scikit-learn does: R² of numbers, accuracy of classes."""
    return "valid_r2" if hasattr(estimator, "loss") else "valid_accuracy"


def _refuse_what_is_named_otherwise(estimator: Any) -> None:
    """Raise ValueError for what scikit-learn's users may ask for, with what does the same here."""
    max_iter, alpha, l2 = estimator.max_iter, estimator.alpha, estimator.l2
    if estimator.solver == "lbfgs":
        raise ValueError(
            "solver = 'lbfgs': here all train in batches; solver='adam' with batch_size='full' takes all rows for each "
            "step, as 'lbfgs' does"
        )
    if estimator.learning_rate == "invscaling" and estimator.solver == "sgd":
        raise ValueError(
            "learning_rate = 'invscaling': here the rate falls by schedule='exponential', 'step' or 'cosine', with any "
            "solver"
        )
    if estimator.learning_rate not in ("constant", "adaptive", "invscaling"):
        raise ValueError(
            f"learning_rate = {estimator.learning_rate!r}: expected 'constant' or 'adaptive'; learning_rate_init is "
            "the rate"
        )
    if _is_adaptive(estimator) and estimator.schedule != "constant":
        raise ValueError(f"learning_rate = 'adaptive': is a schedule of its own; schedule is {estimator.schedule!r}")
    if isinstance(max_iter, int | np.integer) and max_iter < 1:
        raise ValueError(f"max_iter = {max_iter}: must be at least 1")
    if alpha is not None and l2:
        raise ValueError(f"alpha = {alpha}: is l2 times the batch size; give one of the two, l2 is {l2}")
    if alpha is not None and not alpha >= 0:
        raise ValueError(f"alpha = {alpha}: must be at least 0")


def in_scikit_learns_words(message: str) -> str:
    """Return a message of the configuration with the estimator's names for its keys."""
    for key, name in RENAMED.items():
        is_a_word_too = key in ("hidden", "epochs", "optimizer", "seed", "patience")
        message = re.sub(rf"(?<![\w.]){key}(?= = |:)" if is_a_word_too else rf"(?<![\w.]){key}(?!\w)", name, message)
    return message
