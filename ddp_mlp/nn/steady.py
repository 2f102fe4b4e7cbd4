"""NumPy's exp, log1p and tanh where they give a number the same bits wherever it lies in an array, else our own.

A SIMD loop may treat the rest of an array, or an unaligned one, in another way than its body. An example's bits would
then depend on where its shard lies, and on what is computed with it. Whether that is so is seen at the first use:
numbers of all magnitudes are computed alone, in arrays of every length up to a few vectors, and at every offset.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import elementary
from ddp_mlp.nn.functions import PORTABLE, Elementwise, Functions, native_sum

Array: TypeAlias = NDArray[Any]

LONGEST = 67
"""Elements: more than four vectors of the widest registers, and no multiple of any."""


@cache
def steady(name: str, dtype: np.dtype[Any]) -> Elementwise:
    """Return the function called `name`, such as "exp" or "tanh", whose bits do not depend on an element's place."""
    native: Elementwise = getattr(np, name)
    own: Elementwise = getattr(PORTABLE, name)
    return native if keeps_bits(native, dtype) else own


def keeps_bits(function: Callable[..., Any], dtype: np.dtype[Any]) -> bool:
    """Tell whether function(x, out=…) gives every element the bits that it has alone, in 5,000 arrays."""
    random = np.random.default_rng(0)
    bits = np.dtype(f"u{dtype.itemsize}")
    for magnitude in np.geomspace(1e-6, 80, 12):
        x = random.uniform(magnitude / 1000, magnitude, LONGEST + 16).astype(dtype)
        for signed in (x,) if function in (np.log, np.log1p) else (x, -x):
            alone, out = np.empty_like(signed), np.empty_like(signed)
            for i in range(len(x)):
                function(signed[i : i + 1], out=alone[i : i + 1])
            for start in range(16):
                for size in (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, LONGEST):
                    part = slice(start, start + size)
                    function(signed[part], out=out[part])
                    if not np.array_equal(out[part].view(bits), alone[part].view(bits)):
                        return False
    return True


# erf(x) ≈ x P(x²) / Q(x²) for |x| ≤ 3.92, where float32's erf becomes 1; 2.1e-9 of the exact quotient
ERF_P = (
    1.1283791693641723,
    0.1852054303595799,
    0.05431696186233624,
    0.0038496705878739686,
    0.0003795998808392734,
    4.684482974438496e-06,
    -1.3200854679212827e-08,
)
ERF_Q = (
    1.0,
    0.4974674527424265,
    0.1139591143012264,
    0.015462176974783158,
    0.0013075698687829952,
    6.310780872124628e-05,
)
ERF_ONE = 3.92


def erf(x: Array, out: Array) -> Array:
    """Set out (n,) to erf of x: of float64 within 1 ulp, of float32 within 4e-7, by + − × ÷ alone."""
    if x.dtype == np.float64:
        return elementary.erf(x, out=out)
    clipped, square, denominator = np.empty((3, len(x)), x.dtype)
    np.clip(x, -ERF_ONE, ERF_ONE, out=clipped)
    np.multiply(clipped, clipped, out=square)
    _polynomial(ERF_Q, square, denominator)
    _polynomial(ERF_P, square, out)
    np.multiply(out, clipped, out=out)
    return np.divide(out, denominator, out=out)


def _polynomial(coefficients: tuple[float, ...], x: Array, out: Array) -> None:
    """Set out = c₀ + c₁ x + c₂ x² + …, by Horner's rule."""
    out[...] = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        np.multiply(out, x, out=out)
        np.add(out, x.dtype.type(coefficient), out=out)


def _by_dtype(name: str) -> Elementwise:
    def function(x: Array, out: Array) -> Array:
        return steady(name, x.dtype)(x, out=out)

    return function


STEADY = Functions(
    exp=_by_dtype("exp"),
    expm1=_by_dtype("expm1"),
    log=_by_dtype("log"),
    log1p=_by_dtype("log1p"),
    tanh=_by_dtype("tanh"),
    erf=erf,
    sum=native_sum,
)
"""NumPy's functions, or our own, whichever give an element the same bits wherever it lies."""
