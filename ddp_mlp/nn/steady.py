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
    """Tell whether function(x, out=…) gives every element the bits that it has alone, in 1,200 arrays."""
    random = np.random.default_rng(0)
    bits = np.dtype(f"u{dtype.itemsize}")
    for number, magnitude in enumerate(np.geomspace(1e-6, 80, 12)):
        x = random.uniform(magnitude / 1000, magnitude, LONGEST + 16).astype(dtype)
        for signed in (x,) if function in (np.log, np.log1p) else (x, -x):
            alone, out = np.empty_like(signed), np.empty_like(signed)
            for i in range(len(x)):
                function(signed[i : i + 1], out=alone[i : i + 1])
            for start in range(number % 4, 16, 4):  # every offset with three magnitudes
                for size in (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, LONGEST):
                    part = slice(start, start + size)
                    function(signed[part], out=out[part])
                    if not np.array_equal(out[part].view(bits), alone[part].view(bits)):
                        return False
    return True


# erf(x) ≈ tanh(x q(x²)), q a polynomial: to 5.8e-8 for |x| ≤ 3.95, and beyond x q(x²) grows, so that tanh is soon 1
ERF = (
    1.1283797054677445,
    0.10276548147273813,
    -0.00018438373369711325,
    -0.0006257195317788055,
    8.971256935718530e-05,
    -5.985687396552041e-06,
    1.5896001947635918e-07,
)


def erf(x: Array, out: Array) -> Array:
    """Set out (n,) to erf of x: of float64 within 1 ulp, of float32 within 2e-7, in few passes."""
    if x.dtype == np.float64:
        return elementary.erf(x, out=out)
    square = np.multiply(x, x)
    q = np.multiply(square, x.dtype.type(ERF[-1]))  # beside x, which may be out
    for coefficient in ERF[-2:0:-1]:  # Horner's rule
        np.add(q, x.dtype.type(coefficient), out=q)
        np.multiply(q, square, out=q)
    np.add(q, x.dtype.type(ERF[0]), out=q)
    np.multiply(q, x, out=out)
    return steady("tanh", x.dtype)(out, out=out)


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
