"""The map of the inputs that makes features alike: x ↦ (x − mean) / scale."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.nn.buffers import CACHED


@dataclass(frozen=True)
class Standardization:
    """The map x ↦ (x − mean) / scale of every feature; both (n_0,) float64. Identity where `used` is false."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    used: bool = True

    def applied_to(self, raw_dtype: np.dtype[Any], dtype: np.dtype[Any]) -> "Standardization":
        """Return it as rows of one dtype on their way into another are trained on: the mean is rounded as theirs is.

        What is stored is then what was applied, and whoever subtracts it in float64 gets training's numbers: where two
        numbers of float32 are subtracted, rounding by way of float64 changes nothing (Figueroa, "When is double
        rounding innocuous?", SIGNUM Newsletter 30, 1995).
        """
        rounded = self.mean.astype(np.result_type(raw_dtype, dtype)).astype(np.float64)
        return replace(self, mean=rounded) if self.used else self


def one_for_all(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> Standardization:
    """Return one mean and scale for all features, from those (n_0,) of each over as many rows.

    By the law of total variance; the scale is 1 where everything is constant. Raises DataError where float64 does not
    hold the variance.
    """
    try:
        together = math.fsum(mean) / len(mean)
        with np.errstate(over="ignore"):
            spread = math.fsum(variance + np.square(mean - together)) / len(mean)
    except OverflowError:
        spread = math.inf
    if not math.isfinite(spread):
        raise DataError("X is too large for one standard deviation of all features; rescale the data")
    scale = math.sqrt(spread)
    n = len(mean)
    constant = scale <= 4 * np.finfo(np.float64).eps * abs(together)
    return Standardization(np.full(n, together), np.full(n, 1.0 if constant else scale))


class Standardizer:
    """A standardization made ready for rows of one dtype on their way into another.

    The subtraction is in the wider of the two, which keeps large offsets exact, such as 64-bit time stamps; and in
    float64 where the mean is known better than that: that of a network which was trained on wider rows.
    """

    def __init__(self, standardization: Standardization, raw_dtype: np.dtype[Any], dtype: np.dtype[Any]) -> None:
        self._used = standardization.used
        rows = max(1, CACHED // len(standardization.mean))

        def laid(of_features: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
            """Repeat numbers (n_0,) for some rows: NumPy repeats them anew, and slowly, for each operation."""
            return np.repeat(of_features.astype(dtype)[None], rows, axis=0)

        wider = np.result_type(raw_dtype, dtype)
        is_held = np.array_equal(standardization.mean.astype(wider), standardization.mean)
        self._mean = laid(standardization.mean, wider if is_held else np.dtype(np.float64))
        self._scale = laid(standardization.scale, dtype)

    def apply(self, raw: NDArray[Any], X: NDArray[Any]) -> None:
        """Map rows raw (m, n_0) into X (m, n_0), which may be the same array where both dtypes are the same."""
        if not self._used:
            if X is not raw:
                X[...] = raw
            return
        rows = len(self._mean)
        for lo in range(0, len(X), rows):
            given, found = raw[lo : lo + rows], X[lo : lo + rows]
            mean, scale = self._mean[: len(found)], self._scale[: len(found)]
            if mean.dtype == found.dtype and X is not raw:
                np.copyto(found, given)
                given = found
            np.subtract(given, mean, out=found, casting="same_kind")
            np.divide(found, scale, out=found)
