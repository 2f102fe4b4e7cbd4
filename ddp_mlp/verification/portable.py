"""A few short runs in portable arithmetic, and their hashes: the same for everybody.

What is trained on comes from Philox's words and integer arithmetic alone. Between them the runs use every optimizer,
schedule, loss, activation and option. The table is part of the program: whatever changes one of its hashes changes
`arithmetic.VERSION`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.randomness import Purpose, words
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.training.in_memory import train_in_memory
from ddp_mlp.verification.examples import data_of_examples

ROWS, FEATURES, CLASSES = 403, 12, 5
COMMON: Mapping[str, Any] = {
    "arithmetic": "portable",
    "hidden": (33, 17),
    "batch_size": 100,
    "epochs": 3,
    "quiet": True,
    "log_every": 0,
}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "adam": {},
    "softmax regression": {
        "hidden": (),
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "schedule": "step",
        "decay_every": 1,
    },
    "momentum, exponential": {"optimizer": "momentum", "learning_rate": 0.03, "schedule": "exponential"},
    "nesterov, full batch in pieces": {"optimizer": "nesterov", "batch_size": "full", "chunk_rows": 128},
    "rmsprop, weighted": {"optimizer": "rmsprop", "learning_rate": 0.001, "warmup_steps": 5},
    "every option": {
        "optimizer": "adamw",
        "schedule": "cosine",
        "l2": 1e-3,
        "clip_norm": 0.5,
        "dropout": 0.25,
        "label_smoothing": 0.1,
        "valid_fraction": 0.2,
        "patience": 2,
        "restore_best": True,
    },
    "binary_cross_entropy": {"loss": "binary_cross_entropy", "activation": "elu,sigmoid", "monitor": "valid_roc_auc"},
    "squared_error": {"loss": "squared_error", "activation": "tanh", "output_activation": "relu,identity"},
    "poisson, weighted": {
        "loss": "poisson",
        "activation": "gelu,softplus",
        "valid_fraction": 0.2,
        "restore_best": True,
    },
    "absolute_error": {"loss": "absolute_error", "activation": "identity,leaky_relu"},
    "quantile": {"loss": "quantile", "activation": "silu,relu", "quantiles": (0.25, 0.75)},
    "every option of numbers, weighted": {
        "loss": "huber",
        "huber_delta": 0.5,
        "activation": "gelu,silu",
        "output_activation": "softplus,identity",
        "target_weight": {"a": 2.0, "b": 0.5},
        "missing_targets": True,
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "schedule": "plateau",
        "plateau_patience": 1,
        "warmup_steps": 3,
        "l2": 1e-3,
        "clip_norm": 0.5,
        "dropout": 0.25,
        "chunk_rows": 40,
        "shuffle": "blocks",
        "block_rows": 16,
        "valid_fraction": 0.2,
        "monitor": "valid_rmse:b",
        "patience": 2,
        "restore_best": True,
    },
}
"""By name, what differs from the defaults and from `COMMON`."""

EXPECTED: Mapping[str, str] = {
    "adam": "77006b8eb691caae3329126ab190e51a17d7bdf1c765292387232c81f08e7394",
    "softmax regression": "e5e84ae256dac4ec5990fc757cd1021d445cf094ef8a0d0b0c02b6a55a6aa891",
    "momentum, exponential": "972798e11bc7d222ece2fb87429fe17e331edfec6f2575e46fbe46fb95426eb8",
    "nesterov, full batch in pieces": "400c14e4c080131dbd1af6585470c0eab56dcb9e558d37b1d9d5d54348c0bab5",
    "rmsprop, weighted": "9703efcc3bf4d475f067ce54866dc6bc0fd5dfc0a4e4e3b180a0ce912c3345c3",
    "every option": "fd1695336533bfc63e5e872ba3597e19e4f67baef710297ce8358438271994fa",
    "binary_cross_entropy": "37a3fe153aeb807a03b26020151a04e84f0e4f4104ae3de9bb684358bc317161",
    "squared_error": "4f48e102feed2da2ca14211e1d4577cffb87064bb653e948f633f47e3cf6acdf",
    "poisson, weighted": "1495a9395259052b512225c679e1ec160c02ef4acd38978b9fd030ab23eab7c2",
    "absolute_error": "6be141450d9a536c79218752bcb812b6065f6b7899d75e79a8ac22e35b9ad6fe",
    "quantile": "c2f7796d8a8babb792fed3b08e95e531a3b07b81b0eae7071891dd0d8662b2e1",
    "every option of numbers, weighted": "e06167d50a38ebb8a6d78ea6909ea639b9781cb26896c4fbd9c7fdc6613f96d4",
}
"""`parameters_sha256` of every run."""


def examples() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Return X (ROWS, FEATURES), y (ROWS,) and weights (ROWS,): a label is the largest feature's, one in ten not."""
    drawn = words(0, Purpose.CANARY, 7, count=ROWS * (FEATURES + 1)).reshape(ROWS, -1)
    X = ((drawn[:, :FEATURES] >> np.uint64(44)).astype(np.float32) - np.float32(2.0**19)) / np.float32(2.0**16)
    y = X[:, :CLASSES].argmax(axis=1).astype(np.int64)
    last = drawn[:, -1]
    y[::10] = (last[::10] % np.uint64(CLASSES)).astype(np.int64)
    return X, y, (last >> np.uint64(60)).astype(np.float64) + 0.5


def numbers() -> NDArray[np.float64]:
    """Return two whole numbers from 0 on for each of the examples, (ROWS, 2)."""
    X, y, _ = examples()
    return np.stack([np.abs(np.rint(X[:, 5] + X[:, 6])), y], axis=1).astype(np.float64)


def data_for(config: Config, weighted: bool) -> Data:
    """Return the examples as a run with this loss takes them: classes, yes and no of two labels, or two numbers."""
    X, y, w = examples()
    return data_of_examples(config, X, y, numbers(), w if weighted else None, yes_above=2, arithmetic=PORTABLE)


def portable_hashes(communicator: Communicator) -> dict[str, str]:
    """Return the `parameters_sha256` of every run, by name: the same everywhere. Collective."""
    hashes = {}
    for name, keys in RUNS.items():
        config = Config(**{**COMMON, **keys})
        final = train_in_memory(config, data_for(config, "weighted" in name), communicator).final
        hashes[name] = str(final["parameters_sha256"])
    return hashes
