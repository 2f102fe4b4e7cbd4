"""Elementary functions of blocks have the bits of the same formulas, one number at a time, in Python's own floats."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import blocks, elementary
from ddp_mlp.nn.functions import prepared


def constant(name: str) -> float:
    """Return a number of the module's."""
    return float(getattr(elementary, name))


def polynomial(name: str, x: float) -> float:
    """Evaluate by Horner's rule, from the last coefficient."""
    *lower, value = map(float, getattr(elementary, name))
    for coefficient in reversed(lower):
        value = value * x + coefficient
    return value


def scaled(x: float, k: int) -> float:
    """Return x 2ᵏ, infinite where that is too large."""
    try:
        return math.ldexp(x, k)
    except OverflowError:
        return math.copysign(math.inf, x)


def exp_in_two(x: float) -> tuple[float, float, int]:
    """Return (high, low, k) with eˣ = (high + low) 2ᵏ; |x| ≤ 1,000."""
    k = round(x * constant("ONE_OVER_LN2"))  # to even, of two that are as near
    near, rest = x - k * constant("LN2_HIGH"), k * constant("LN2_LOW")
    r = near - rest
    tail = polynomial("EXP", r) * (r * r)
    tail += ((near - r) - rest) + r * ((near - r) - rest)
    one = 1.0 + r
    tail += (1.0 - one) + r
    high = one + tail
    return high, (one - high) + tail, k


def exp(x: float) -> float:
    """Return eˣ."""
    if math.isnan(x):
        return x
    high, low, k = exp_in_two(min(max(x, -800.0), 800.0))
    return scaled(high + low, k)


def expm1(x: float) -> float:
    """Return eˣ − 1."""
    if math.isnan(x) or x == 0:
        return x
    inside = min(max(x, -800.0), 800.0)
    if abs(inside) <= 0.5:
        return inside + inside * inside * polynomial("EXP", inside)
    high, low, k = exp_in_two(inside)
    power = scaled(high, k)
    if k > 60:
        return power
    total = -1.0 + power
    part = total - -1.0
    return total + (((-1.0 - (total - part)) + (power - part)) + scaled(low, k))


def log_of(f: float, c: float, k: int) -> float:
    """Return log((1 + f) 2ᵏ) + c."""
    s = f / (2.0 + f)
    square, half = s * s, 0.5 * f * f
    rest = half - s * (half + square * polynomial("LOG", square))
    whole = k * constant("LN2_HIGH")
    high = whole + f
    return high + ((((whole - high) + f) - rest) + (k * constant("LN2_LOW") + c))


def split(x: float) -> tuple[float, int]:
    """Return (m, k) with x = m 2ᵏ and √½ ≤ m < √2."""
    m, k = math.frexp(x)
    return (2.0 * m, k - 1) if m < constant("SQRT_HALF") else (m, k)


def log(x: float) -> float:
    """Return the natural logarithm."""
    if not x > 0 or x == math.inf:
        return -math.inf if x == 0 else x if x == math.inf else math.nan
    m, k = split(x)
    return log_of(m - 1.0, 0.0, k)


def log1p(x: float) -> float:
    """Return log(1 + x)."""
    if not x > -1 or x == math.inf:
        return -math.inf if x == -1 else x if x == math.inf else math.nan
    if x == 0:
        return x
    total = 1.0 + x
    part = total - 1.0
    m, k = split(total)
    if k == 0:
        return log_of(x, 0.0, 0)
    return log_of(m - 1.0, ((1.0 - (total - part)) + (x - part)) / total, k)


def odd(function: Callable[[float], float]) -> Callable[[float], float]:
    """Let a function of |x| serve x."""
    return lambda x: x if math.isnan(x) else math.copysign(function(abs(x)), x)


def tanh(x: float) -> float:
    """Return tanh x for x ≥ 0."""
    if x <= 0.55:
        return x + x * (x * x) * polynomial("TANH", x * x)
    high, low, k = exp_in_two(min(2.0 * x, 50.0))
    power = math.ldexp(high, k)
    whole = power + 1.0
    error = ((power - whole) + 1.0) + math.ldexp(low, k)
    fraction = 2.0 / whole
    result = 1.0 - fraction
    return result + (((1.0 - result) - fraction) + fraction * (error / whole))


def erf(x: float) -> float:
    """Return erf x for x ≥ 0."""
    if x <= 0.84:
        return x + x * polynomial("ERF", x * x)
    if x <= 1.35:
        return constant("ERF_BASE") + polynomial("ERF_NEAR_ONE", x - constant("ERF_MIDDLE"))
    x = min(x, 6.0)
    high, _, k = exp_in_two(-x * x)
    return 1.0 - math.ldexp(high * polynomial("ERFC", 1.0 / (2.0 + x) - constant("ERFC_MIDDLE")), k)


PLAIN = {"exp": exp, "expm1": expm1, "log": log, "log1p": log1p, "tanh": odd(tanh), "erf": odd(erf)}

random = np.random.default_rng(3)


def around(*points: float) -> NDArray[np.float64]:
    """Return what lies nearest to these numbers, on both sides."""
    bits = np.array(points).view(np.int64)[:, None] + np.arange(-20, 21)
    return bits.reshape(-1).view(np.float64)


def of_every_exponent() -> NDArray[np.float64]:
    """Return numbers of both signs of every exponent, subnormal ones too."""
    bits = (np.arange(0, 2047).repeat(4) << 52) | random.integers(0, 1 << 52, 4 * 2047)
    found: NDArray[np.float64] = bits.view(np.float64)
    return np.concatenate([found, -found])


LN_2 = 0.6931471805599453
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1.7976931348623157e308, 2.0**-1022])
HALVES = (np.arange(-1100, 1100) + 0.5) * LN_2
"""Where k changes; some quotients by log 2 are a half, and k is the even one."""
POWERS = 2.0 ** np.arange(-1000, 1000, 37)
SEAMS = {
    "exp": [around(-708.0, -708.9, 709, -745.133, 709.782, -800, 800), around(*HALVES[::20])],
    "expm1": [around(-0.5, 0.5, -708, 709, 709.782, 60 * LN_2, 61 * LN_2), around(*HALVES[::20])],
    "log": [around(2.0**-1022, *(math.sqrt(0.5) * POWERS), *POWERS)],
    "log1p": [around(-1 + 2.0**-53, -0.3, -0.25, 1.0, 0.41421356237309515, 1e-300, 2.0**53, 2.0**60)],
    "tanh": [around(0.55, 22.0, 25.0, 50.0), around(*HALVES[1100:1172] / 2)],
    "erf": [around(0.84, 1.35, 5.9, 6.0, 26.0)],
}
WIDTHS = {"exp": 760.0, "expm1": 760.0, "log": 3.0, "log1p": 3.0, "tanh": 30.0, "erf": 7.0}


def points(name: str) -> NDArray[np.float64]:
    """Return numbers of all ranges of a function."""
    width = WIDTHS[name]
    usual = [random.uniform(low, high, n) for low, high, n in ((-width, width, 3000), (-2, 2, 3000), (0, 1, 500))]
    usual = [x * random.uniform(0.5, 1, len(x)) for x in usual]  # of all bits: a draw's last ones are zeros
    return np.concatenate([SPECIAL, *usual, of_every_exponent(), *SEAMS[name]])


def same(found: NDArray[np.float64], x: NDArray[np.float64], name: str) -> bool:
    """Tell whether a function has found the bits of the plain formulas."""
    expected = np.array([PLAIN[name](value) for value in x.tolist()])
    number = ~np.isnan(expected)
    bits = found.view(np.int64) == expected.view(np.int64)
    return bool(bits[number].all() and np.isnan(found[~number]).all())


@pytest.mark.parametrize("name", PLAIN)
def test_the_bits_are_those_of_the_plain_formulas(name: str) -> None:
    """In blocks that have numbers of all ranges, and one by one: a block of usual numbers takes a shorter way."""
    function = getattr(elementary, name)
    x = points(name)
    assert len(x) > 2 * blocks.BLOCK
    assert same(function(x), x, name)
    alone = np.concatenate([SPECIAL, *SEAMS[name], x[: len(SPECIAL) + 1500]])
    assert same(np.concatenate([function(alone[i : i + 1]) for i in range(len(alone))]), alone, name)


@pytest.mark.parametrize("name", PLAIN)
def test_one_bit_that_is_another_is_seen(name: str) -> None:
    """What compares bits can fail."""
    x = np.array([0.3, 0.9, 1.7])
    found = getattr(elementary, name)(x)
    assert same(found, x, name)
    found.view(np.int64)[1] += 1
    assert not same(found, x, name)


@pytest.mark.parametrize("name", ["exp", "log", "tanh"])
@pytest.mark.parametrize("shape", [(1, 10, 7), (3, 1), (0,), (2, blocks.BLOCK)])
def test_a_prepared_call_has_the_bits_of_the_function(name: str, shape: tuple[int, ...]) -> None:
    """Again and again, of usual numbers and of others, in place and into another array."""
    function, x = getattr(elementary, name), np.empty(shape)
    out = np.empty(shape)
    apart, in_place = prepared(function, x, out), prepared(function, x, x)
    for high in (5.0, 2000.0, np.inf, 5.0, np.nan, 1e-310):
        x[...] = random.uniform(1e-3, 3, shape)
        x.reshape(-1)[-1:] = high
        expected = function(x).tobytes()
        apart()
        assert out.tobytes() == expected
        in_place()
        assert x.tobytes() == expected


@pytest.mark.parametrize("function", [elementary.exp, elementary.log])
def test_arrays_of_other_types_and_layouts_are_prepared_too(function: blocks.BlockFunction) -> None:
    """They are served as the function serves them."""
    x = random.uniform(0.1, 3, (6, 4))
    for array in (x.astype(np.float32), x.T, x[:, ::2]):
        out = np.empty_like(array)
        prepared(function, array, out)()
        assert out.tobytes() == function(array).astype(array.dtype).tobytes()


def test_what_numpy_has_is_prepared_too() -> None:
    """Native functions are called as they are."""
    x = np.array([1.0, 2.0])
    prepared(np.exp, x, x)()
    assert x.tolist() == np.exp([1.0, 2.0]).tolist()
