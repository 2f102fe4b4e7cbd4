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
