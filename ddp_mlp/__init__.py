"""Data-parallel training of multi-layer perceptrons over MPI, with the same bits on any number of ranks.

    ddp_mlp.train(ddp_mlp.Config(...), comm=None)    train, and return the final event
    ddp_mlp.search(ddp_mlp.Config(...), space, ...)  train many, and return the best
    ddp_mlp.load(path)                               the model of a checkpoint or a run's folder
    ddp_mlp.load_ensemble(path)                      the members of a search as one model
    ddp_mlp.MLPClassifier(...), MLPRegressor(...)    scikit-learn's interface

Importing this starts neither MPI nor threads, and loads nothing: each name is imported when it is first used.
"""

import signal
import sys

if starts_a_command := sys.argv[:1] == ["-m"]:  # Ctrl-C is no traceback from the first line on, and soon one line
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from importlib import import_module  # the handler comes before what takes time
from typing import TYPE_CHECKING, Any

if starts_a_command:
    from ddp_mlp.parallel.signals import end_at_once

    end_at_once(saves=any(word in ("ddp_mlp.train", "ddp_mlp.search") for word in sys.orig_argv[1:3]))

if TYPE_CHECKING:
    from ddp_mlp.config import Config
    from ddp_mlp.estimator import MLPClassifier
    from ddp_mlp.model import EnsembleModel, Model, load, load_ensemble
    from ddp_mlp.regressor import MLPRegressor
    from ddp_mlp.search import SearchModule
    from ddp_mlp.train import TrainModule

    search: SearchModule
    train: TrainModule

__version__ = "0.2.0"
__all__ = ["Config", "EnsembleModel", "MLPClassifier", "MLPRegressor", "Model", "__version__"]
__all__ += ["load", "load_ensemble", "search", "train"]

_HOMES = {"Config": "config", "MLPClassifier": "estimator", "MLPRegressor": "regressor"}
_HOMES |= dict.fromkeys(("EnsembleModel", "Model", "load", "load_ensemble"), "model")


def __getattr__(name: str) -> Any:
    if name in ("search", "train"):
        return import_module(f"ddp_mlp.{name}")  # a module that can be called
    if name in _HOMES:
        return getattr(import_module(f"ddp_mlp.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ddp_mlp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
