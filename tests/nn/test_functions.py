"""The functions of both arithmetics have one interface, and sums along a tree have one order."""

import numpy as np
import pytest

from ddp_mlp.nn.functions import NATIVE, PORTABLE, Functions, tree_sum


@pytest.mark.parametrize("functions", [NATIVE, PORTABLE])
def test_each_function_is_what_its_name_says(functions: Functions) -> None:
    """Elementwise, into `out` too, and alike in both arithmetics to a few units in the last place."""
    x = np.linspace(0.1, 3, 24).reshape(2, 3, 4)
    for name in ("exp", "expm1", "log", "log1p", "tanh"):
        out = np.empty_like(x)
        assert getattr(functions, name)(x, out=out) is out
        np.testing.assert_allclose(out, getattr(np, name)(x), rtol=1e-15)
    assert functions.erf(np.array([0.5]))[0] == pytest.approx(0.5204998778130465, rel=1e-15)
    out = np.empty((2, 1, 4))
    functions.sum(x, out=out)
    np.testing.assert_allclose(out, x.sum(axis=1, keepdims=True), rtol=1e-15)
    assert functions.sum(x).tobytes() == out.tobytes()


def test_the_tree_is_the_one_described() -> None:
    """Seven terms: the last three onto the first, four are left, and so on, in every layout."""
    terms = np.random.default_rng(0).standard_normal((1, 7, 5))
    a = [terms[0, i] for i in range(7)]
    b = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3]]
    expected = (b[0] + b[2]) + (b[1] + b[3])
    assert tree_sum(terms)[0, 0].tobytes() == expected.tobytes()
    assert tree_sum(np.asfortranarray(terms))[0, 0].tobytes() == expected.tobytes()


def test_sums_of_nothing_and_of_negative_zeros() -> None:
    """Are zero, and positive."""
    assert tree_sum(np.zeros((2, 0, 3))).tobytes() == np.zeros((2, 1, 3)).tobytes()
    assert tree_sum(np.full((1, 1, 2), -0.0)).tobytes() == np.zeros((1, 1, 2)).tobytes()
    assert tree_sum(np.full((1, 4, 2), -0.0)).tobytes() == np.zeros((1, 1, 2)).tobytes()
