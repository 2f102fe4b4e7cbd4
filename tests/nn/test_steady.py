"""Tests of the functions whose bits do not depend on an element's place."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import steady
from ddp_mlp.nn.functions import PORTABLE
from ddp_mlp.nn.steady import STEADY

NAMES = ("exp", "expm1", "log", "log1p", "tanh", "erf")
FUNCTIONS = {name: getattr(math, name) for name in NAMES}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_an_element_s_bits_do_not_depend_on_its_place(name: str, dtype: type) -> None:
    """Numbers that the proof has not seen have the same bits alone, in pieces, and among a thousand."""
    x = np.abs(np.random.default_rng(7).standard_normal(1000) * 3).astype(dtype) + dtype(1e-3)
    function = getattr(STEADY, name)
    whole, alone, pieces = (np.empty_like(x) for _ in range(3))
    function(x, out=whole)
    for i in range(1000):
        function(x[i : i + 1], out=alone[i : i + 1])
    for lo in range(0, 1000, 13):
        function(x[lo : lo + 13], out=pieces[lo : lo + 13])
    assert whole.tobytes() == alone.tobytes() == pieces.tobytes()
    exact = np.array([FUNCTIONS[name](v) for v in x.tolist()])
    np.testing.assert_allclose(whole, exact, rtol=1e-6 if dtype == np.float32 else 1e-14)
    function(x, out=x)
    assert x.tobytes() == whole.tobytes(), "in place too"


def test_a_function_whose_tail_differs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last elements of an array, beyond whole vectors, get other bits, our own function is taken."""
    native = np.tanh

    def tanh(x: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        native(x, out=out)
        tail = len(x) // 16 * 16
        out[tail:] = np.nextafter(out[tail:], 2)
        return out

    dtype = np.dtype(np.float32)
    steady.steady.cache_clear()
    monkeypatch.setattr(np, "tanh", tanh)
    chosen = steady.steady("tanh", dtype)
    monkeypatch.undo()
    steady.steady.cache_clear()
    assert chosen is PORTABLE.tanh


def test_an_offset_that_differs_shows() -> None:
    """Where an element's bits depend on its address, that is seen too."""

    def shifted(x: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        np.exp(x, out=out)
        if x.ctypes.data % 64 == 4 and len(x) > 1:
            out[0] = np.nextafter(out[0], 9)
        return out

    assert not steady.keeps_bits(shifted, np.dtype(np.float32))


def test_erf_of_float32_is_within_2e_7() -> None:
    """The whole range, against the C library's erf, exact limits, and nothing in between that is none."""
    x = np.linspace(-6, 6, 100_001).astype(np.float32)
    out = np.empty_like(x)
    STEADY.erf(x, out=out)
    exact = np.array([math.erf(v) for v in x.tolist()])
    assert np.abs(out - exact).max() <= 2e-7
    assert np.abs(out).max() <= 1
    far = np.array([4.5, 100.0, 3e19, np.inf, np.nan], np.float32)
    both = np.concatenate([far, -far])
    with np.errstate(over="ignore"):
        found = STEADY.erf(both, out=np.empty_like(both))
    np.testing.assert_array_equal(found, [1, 1, 1, 1, np.nan, -1, -1, -1, -1, np.nan])
