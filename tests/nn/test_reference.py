"""Tests of the maths that is written for reading: against central differences, and by hand."""

from itertools import pairwise

import numpy as np
import pytest

from ddp_mlp.nn import reference


@pytest.mark.parametrize("widths", [(5, 4), (5, 7, 4), (5, 7, 6, 3)])
def test_gradient_is_that_of_central_differences(widths: tuple[int, ...]) -> None:
    """Every parameter's derivative of the mean loss agrees to 1e-8, in float64."""
    random, m, step = np.random.default_rng(0), 9, 1e-5
    W = {l: random.standard_normal((n, n_prev)) for l, (n_prev, n) in enumerate(pairwise(widths), 1)}
    b = {l: random.standard_normal((n, 1)) for l, n in enumerate(widths[1:], 1)}
    X, Y = random.standard_normal((widths[0], m)), np.eye(widths[-1])[random.integers(0, widths[-1], m)].T
    _, dW, db = reference.loss_and_gradient(W, b, X, Y)
    for l in W:
        for parameter, gradient in ((W[l], dW[l]), (b[l], db[l])):
            for i in np.ndindex(*parameter.shape):
                kept = parameter[i]
                parameter[i] = kept + step
                above = reference.loss_and_gradient(W, b, X, Y)[0]
                parameter[i] = kept - step
                below = reference.loss_and_gradient(W, b, X, Y)[0]
                parameter[i] = kept
                # Central differences are off by step², times a third derivative of a few.
                assert gradient[i] == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_softmax_by_hand() -> None:
    """Columns add up to one; outputs that differ by log 3 give 1/4 and 3/4, however large they are."""
    z = np.array([[0.0, 1e6], [np.log(3), 1e6]])
    np.testing.assert_allclose(reference.softmax(z), [[0.25, 0.5], [0.75, 0.5]], rtol=1e-15)
