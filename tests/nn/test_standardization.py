"""The map of the inputs."""

import numpy as np
import pytest

from ddp_mlp.errors import DataError
from ddp_mlp.nn.standardization import Standardization, Standardizer, one_for_all


def test_a_standardizer_maps_rows_in_place_and_into_another_dtype() -> None:
    """(x - mean) / scale, worked out by hand."""
    found = Standardization(np.array([1.0, 10.0]), np.array([2.0, 4.0]))
    X = np.array([[3, 6], [1, 18]])
    out = np.empty((2, 2), np.float32)
    Standardizer(found, X.dtype, out.dtype).apply(X, out)
    assert out.tolist() == [[1.0, -1.0], [0.0, 2.0]]
    same = X.astype(np.float64)
    Standardizer(found, same.dtype, same.dtype).apply(same, same)
    assert same.tolist() == out.tolist()


@pytest.mark.parametrize(
    ("mean", "variance"),
    [
        ([1.5e308, 1.5e308], [0.0, 0.0]),  # the sum of means overflows
        ([1e200, 0.0], [0.0, 0.0]),  # the square of a deviation
        ([0.0, 0.0], [1.5e308, 1.5e308]),  # the sum of variances
    ],
)
def test_one_scale_that_no_float64_holds_is_refused(mean: list[float], variance: list[float]) -> None:
    """Numbers that are fine each may be too large together; no OverflowError is seen, no features that are all 0."""
    with pytest.raises(
        DataError, match=r"^X is too large for one standard deviation of all features; rescale the data$"
    ):
        one_for_all(np.array(mean), np.array(variance))


OFFSETS = np.array([0.1, 300.3, 101_325.7, 1e6 + 0.3])
"""Means that float32 does not hold."""


@pytest.mark.parametrize("raw", ["float32", "int16", "float64"])
def test_what_is_stored_is_what_is_applied(raw: str) -> None:
    """Training's rows have the bits they always had, and a subtraction in float64 of what is stored gives the same."""
    dtype = np.dtype(np.float32)
    found = Standardization(OFFSETS, np.full(4, 2.0)).applied_to(np.dtype(raw), dtype)
    rows = (np.random.default_rng(0).normal(0, 2, (500, 4)) + np.minimum(OFFSETS, 3e4)).astype(raw)
    X = np.empty(rows.shape, dtype)
    Standardizer(found, rows.dtype, dtype).apply(rows, X)
    wide = np.result_type(raw, dtype)
    direct = ((rows.astype(wide) - OFFSETS.astype(wide)).astype(dtype) / dtype.type(2)).astype(dtype)
    exported = (rows.astype(np.float64) - found.mean).astype(dtype) / dtype.type(2)
    assert X.tobytes() == direct.tobytes() == exported.tobytes()


def test_narrow_rows_meet_the_mean_of_the_wide_ones_that_were_trained_on() -> None:
    """Their mean is not rounded to float32: at 10⁹ that would be off by up to 32."""
    found = Standardization(np.array([1e9 + 17.0]), np.array([100.0])).applied_to(
        np.dtype(np.float64), np.dtype(np.float32)
    )
    rows = np.array([[1e9 + 64]], np.float32)
    X = np.empty((1, 1), np.float32)
    Standardizer(found, rows.dtype, X.dtype).apply(rows, X)
    assert X[0, 0] == np.float32(np.float32(47) / np.float32(100))
