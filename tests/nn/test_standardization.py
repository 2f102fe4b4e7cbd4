"""The map of the inputs."""

import numpy as np

from ddp_mlp.nn.standardization import Standardization, Standardizer


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
