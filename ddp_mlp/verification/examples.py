"""The examples of golden runs as a run takes them: which of them is trained on follows from its loss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data, data_of_arrays, standardization_of
from ddp_mlp.data.targets import targets_of
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.targets import Targets


def data_of_examples(
    config: Config,
    X: NDArray[Any],
    y: NDArray[np.int64],
    Y: NDArray[np.float64],
    w: NDArray[np.float64] | None = None,
    yes_above: float = 0,
    arithmetic: Arithmetic = NATIVE,
) -> Data:
    """Return X (m, n_0) with what this loss is of: the classes y (m,), the numbers Y (m, 2), or which are `yes_above`.

    With `missing_targets`, every seventh of the second number is not observed. `w` (m,) are weights.
    """
    if config.loss in ("auto", "cross_entropy"):
        names = tuple(str(label) for label in range(int(y.max()) + 1))
        return data_of_arrays(X, y, w, Targets(classes=names), standardization_of(X, w, arithmetic), config)
    values = (yes_above < Y).astype(np.float64) if config.loss == "binary_cross_entropy" else Y.copy()
    spread = standardization_of(values, w, arithmetic)
    targets = targets_of(config, config.loss, ("a", "b"), spread.mean, spread.scale)
    if config.missing_targets:
        values[::7, 1] = np.nan
    return data_of_arrays(X, values, w, targets, standardization_of(X, w, arithmetic), config)
