"""What several tests compare with: sums by definition, losses by formula, data of known kind, moments of failure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.storage.writer import DatasetWriter
from ddp_mlp.summing.tree import rows

Parameters = Mapping[str, NDArray[Any]]


# In the order in which replacing a file, and then removing another, comes by them.
FAILPOINTS = (
    *("open", "opened", "write", "written", "fsync", "fsynced", "close", "closed", "rename", "renamed"),
    *("fsync_folder", "fsynced_folder", "unlink", "unlinked"),
)

HALF_WRITTEN = "write:short,written"


def shard_sums(K: int, length: int, dtype: Any) -> NDArray[Any]:
    """Return a made-up gradient sum of every shard, (K, length), with magnitudes that make rounding visible."""
    random = np.random.default_rng(7)
    return (random.standard_normal((K, length)) * 10.0 ** random.integers(-4, 4, (K, 1))).astype(dtype)


def tree_sum(values: NDArray[Any], m: int, lo: int, hi: int) -> NDArray[Any] | None:
    """Add the shards' vectors as the definition of the tree says, in one process."""
    K = len(values)
    if hi - lo == 1:
        return values[lo] if rows((lo, hi), m, K) else None
    mid = (lo + hi) // 2
    left, right = tree_sum(values, m, lo, mid), tree_sum(values, m, mid, hi)
    if left is None or right is None:
        return right if left is None else left
    total: NDArray[Any] = np.add(left, right)
    return total


def write_data(
    path: Path,
    rows: Mapping[str, int],
    *,
    features: int = 7,
    classes: int = 5,
    weighted: bool = False,
    dtype: str = "float32",
) -> Path:
    """Write a data set at random whose classes differ in their means; the last class is among its labels."""
    random = np.random.default_rng(11)
    centres = random.standard_normal((classes, features))
    names = [str(label) for label in range(classes)] if classes > min(rows.values()) else None  # some have no row
    with DatasetWriter(path, rows, features, np.dtype(dtype), classes, weighted, names) as writer:
        for split, m in rows.items():
            y = random.integers(0, classes, m)
            y[0] = classes - 1
            X = (centres[y] + random.standard_normal((m, features))).astype(dtype)
            writer.append(split, X, y, random.uniform(0.2, 2, m) if weighted else None)
    return path


def masks_of(step: int, m: int, K: int, widths: list[int], rate: float) -> dict[int, NDArray[np.float64]]:
    """Return the dropout factors (n_l, m) of each hidden layer, 0 or 1 / (1 − rate): of (seed, step, shard, layer)."""
    masks = {l: np.empty((n, m)) for l, n in enumerate(widths, start=1)}
    for shard in range(K):
        lo, hi = m * shard // K, m * (shard + 1) // K
        for l, n in enumerate(widths, start=1):
            drawn = generator(0, Purpose.DROPOUT, step, shard, l).random((hi - lo, n), np.float32).T
            masks[l][:, lo:hi] = np.where(drawn < rate, 0, 1 / (1 - rate))
    return masks


def plain_loss(
    theta: Parameters,
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    weight: NDArray[np.float64],
    masks: Mapping[int, NDArray[np.float64]] | None = None,
    smoothing: float = 0.0,
) -> float:
    """Return Σ weight_i · −Σ_k Y_ki log A_ki / Σ weight_i, the derivation's formulas in one process; X is (m, n_0)."""
    A, L = X.T, len(theta) // 2
    for l in range(1, L + 1):
        z = theta[f"W{l}"] @ A + theta[f"b{l}"][:, None]
        if l < L:
            A = np.maximum(z, 0) * (1 if masks is None else masks[l])
    n = len(z)
    Y = (1 - smoothing) * np.eye(n)[y].T + smoothing / n
    log_A = z - np.log(np.sum(np.exp(z), axis=0))
    return float(np.sum(weight * -np.sum(Y * log_A, axis=0)) / np.sum(weight))
