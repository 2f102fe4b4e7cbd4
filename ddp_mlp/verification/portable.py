"""A few short runs in portable arithmetic, and their hashes: the same for everybody.

What is trained on comes from Philox's words and integer arithmetic alone. Between them the runs use every optimizer,
schedule and option. The table is part of the program: whatever changes one of its hashes changes `arithmetic.VERSION`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.opening import data_of_arrays, standardization_of
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.randomness import Purpose, words
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.training.in_memory import train_in_memory

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
}
"""By name, what differs from the defaults and from `COMMON`."""

EXPECTED: Mapping[str, str] = {
    "adam": "77006b8eb691caae3329126ab190e51a17d7bdf1c765292387232c81f08e7394",
    "softmax regression": "e5e84ae256dac4ec5990fc757cd1021d445cf094ef8a0d0b0c02b6a55a6aa891",
    "momentum, exponential": "972798e11bc7d222ece2fb87429fe17e331edfec6f2575e46fbe46fb95426eb8",
    "nesterov, full batch in pieces": "400c14e4c080131dbd1af6585470c0eab56dcb9e558d37b1d9d5d54348c0bab5",
    "rmsprop, weighted": "9703efcc3bf4d475f067ce54866dc6bc0fd5dfc0a4e4e3b180a0ce912c3345c3",
    "every option": "fd1695336533bfc63e5e872ba3597e19e4f67baef710297ce8358438271994fa",
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


def portable_hashes(communicator: Communicator) -> dict[str, str]:
    """Return the `parameters_sha256` of every run, by name: the same everywhere. Collective."""
    X, y, w = examples()
    classes = tuple(str(label) for label in range(CLASSES))
    hashes = {}
    for name, keys in RUNS.items():
        weights = w if "weighted" in name else None
        standardization = standardization_of(X, weights, PORTABLE)
        config = Config(**{**COMMON, **keys})
        data = data_of_arrays(X, y, weights, classes, standardization, config)
        final = train_in_memory(config, data, communicator).final
        hashes[name] = str(final["parameters_sha256"])
    return hashes
