"""A few short runs whose hashes are known for every kernel class: the same software must give the same bits.

The examples are integers, drawn from Philox, so that they are the same everywhere. What a run's bits depend on besides
the program is its kernel class: the builds of NumPy and BLAS, the BLAS kernel and the vector instructions NumPy uses.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data
from ddp_mlp.nn import blas, kernels
from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.training.in_memory import train_in_memory
from ddp_mlp.verification.examples import data_of_examples

ROWS, FEATURES, CLASSES = 603, 20, 5

RUNS: Mapping[str, Mapping[str, Any]] = {
    "adam": {},
    "momentum, float64": {"optimizer": "momentum", "learning_rate": 0.01, "dtype": "float64"},
    "softmax regression": {"hidden": (), "optimizer": "sgd", "learning_rate": 0.1},
    "every option": {
        "optimizer": "adamw",
        "schedule": "cosine",
        "l2": 1e-3,
        "clip_norm": 0.5,
        "dropout": 0.25,
        "label_smoothing": 0.1,
        "valid_fraction": 0.2,
    },
    "binary_cross_entropy": {"loss": "binary_cross_entropy", "activation": "elu,sigmoid"},
    "squared_error": {"loss": "squared_error", "activation": "tanh", "output_activation": "relu,identity"},
    "poisson": {"loss": "poisson", "activation": "gelu"},
    "huber": {"loss": "huber", "activation": "leaky_relu,silu", "huber_delta": 0.5},
    "absolute_error": {"loss": "absolute_error", "activation": "identity,tanh", "dtype": "float64"},
    "quantile": {"loss": "quantile", "activation": "silu,relu", "quantiles": (0.25, 0.75), "shards": 5},
}
"""By name, what differs from the defaults and from `COMMON`: one for each loss at least.

softplus is left to portable arithmetic: NumPy's log1p is libm's on some kernel classes, which do not name it.
"""
COMMON: Mapping[str, Any] = {"hidden": (33, 17), "batch_size": 100, "epochs": 3, "shards": 8, "quiet": True}
"""Batches of 100 rows in 8 shards are uneven, and an epoch's last batch has 3 rows: empty shards."""


class KernelClass(NamedTuple):
    """What the bits of a run depend on besides the program and its configuration."""

    numpy: str
    blas: str
    """Library and version."""
    architecture: str
    """The processor for which the BLAS library has chosen its kernels, such as SkylakeX."""
    simd: tuple[str, ...]
    """The vector instruction sets, beyond those it always needs, that NumPy has found; but for AVX512_ICL and the like,
    which serve sorting and half precision."""


def kernel_class() -> KernelClass:
    """Return the kernel class of this process. Local."""
    return KernelClass(np.__version__, *blas.libraries()[0], kernels.vector_instructions())


def examples() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return X (ROWS, FEATURES) and y (ROWS,): the label is the largest of the first features, but for one in ten."""
    random = generator(0, Purpose.CANARY, 1)
    X = random.integers(0, 256, (ROWS, FEATURES), np.uint8)
    y = X[:, :CLASSES].argmax(axis=1).astype(np.int64)
    y[::10] = random.integers(0, CLASSES, len(y[::10]))
    return X, y


def numbers() -> NDArray[np.float64]:
    """Return two whole numbers from 0 on for each of the examples, (ROWS, 2): of features, but for one in ten."""
    X = examples()[0].astype(np.int64)
    Y = np.stack([X[:, 0] + X[:, 1], np.abs(X[:, 2] - X[:, 3])], axis=1) // 32
    Y[::10] = X[::10, 4:6] // 16
    return Y.astype(np.float64)


def data_for(config: Config) -> Data:
    """Return the examples as a run with this loss takes them: classes, yes and no of two labels, or two numbers."""
    X, y = examples()
    return data_of_examples(config, X, y, numbers(), yes_above=6)


def golden_hashes(communicator: Communicator) -> dict[str, str]:
    """Return the `parameters_sha256` of every run, by name: the same for any number of ranks. Collective."""
    hashes = {}
    for name, keys in RUNS.items():
        config = Config(**{**COMMON, **keys})
        final = train_in_memory(config, data_for(config), communicator).final
        hashes[name] = str(final["parameters_sha256"])
    return hashes
