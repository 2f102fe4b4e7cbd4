"""Elementary functions against mpmath: within 1 unit in the last place, the same bits everywhere."""

import hashlib
import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import blocks, cosine, elementary

type_of_bits = np.dtype("<f8")  # bits are hashed in one order on every machine

LN_2 = 0.6931471805599453  # not libm's, which may differ
ALL = ("exp", "expm1", "log", "log1p", "tanh", "erf", "cos")

GOLDEN = {
    "exp": "4a0692ab7df7c566",
    "expm1": "42b622fc78e0a6de",
    "log": "ad9a1d1aee307055",
    "log1p": "c979f318eacb9894",
    "tanh": "775a31c8ecde9acf",
    "erf": "7faee6c2994ef582",
    "cos": "cdc094c8d29ec181",
}


def raw(count: int, key: int) -> NDArray[np.uint64]:
    """Return `count` random words that are the same on every machine."""
    return np.random.Philox(key=key).random_raw(count)


def uniform(low: float, high: float, count: int, key: int) -> NDArray[np.float64]:
    """Return numbers in [low, high), the same on every machine."""
    return low + (high - low) * (raw(count, key) >> 11).astype(np.float64) * 2.0**-53


def of_all_sizes(smallest: int, largest: int, count: int, key: int) -> NDArray[np.float64]:
    """Return positive numbers whose exponents are spread evenly over [smallest, largest)."""
    exponents = smallest + (raw(count, key + 1000) % np.uint64(largest - smallest)).astype(np.int32)
    return np.ldexp(uniform(1.0, 2.0, count, key), exponents)


def multiples(unit: float, count: int) -> NDArray[np.float64]:
    """Return the whole multiples of a number, from −count to count."""
    return np.arange(-count, count + 1, dtype=np.float64) * unit


small = of_all_sizes(-1074, 0, 600, 1)
POINTS = {
    "exp": (uniform(-745.2, 709.78, 1500, 2), uniform(-1, 1, 1500, 3), small, -small, multiples(LN_2 / 2, 700)),
    "expm1": (
        uniform(-60, 709.78, 800, 4),
        uniform(-0.8, 0.8, 2500, 5),
        small,
        -small,
        multiples(LN_2 / 2, 700),
    ),
    "log": (of_all_sizes(-1074, 1024, 1500, 6), uniform(0.4, 2.5, 2500, 7), 1 + of_all_sizes(-52, -2, 500, 8)),
    "log1p": (
        of_all_sizes(-1074, 1024, 1500, 9),
        uniform(-0.9, 2.5, 2500, 10),
        -small,
        of_all_sizes(-52, -1, 500, 11) - 1,
    ),
    "tanh": (uniform(-2, 2, 2500, 12), uniform(-24, 24, 500, 13), uniform(0.5, 0.8, 1000, 14), small, -small),
    "erf": (
        uniform(-2, 2, 2500, 15),
        uniform(-7, 7, 500, 16),
        uniform(0.8, 0.9, 1000, 17),
        uniform(1.3, 1.4, 500, 18),
        small,
        -small,
    ),
    "cos": (
        uniform(-7, 7, 2500, 19),
        uniform(-524288, 524288, 800, 20),
        of_all_sizes(19, 1024, 200, 21),
        multiples(math.pi / 2, 800),
        small,
        # of all float64, the one nearest to a multiple of π/2 (Muller, Elementary Functions, 2006)
        np.array([6381956970095103 * 2.0**797]),
    ),
}


def function(name: str) -> Callable[..., NDArray[np.float64]]:
    """Return the function of this name."""
    value: Callable[..., NDArray[np.float64]] = cosine.cos if name == "cos" else getattr(elementary, name)
    return value


def units(exact: mpmath.mpf, digits: int, smallest: int) -> mpmath.mpf:
    """Return one unit in the last place of a format with `digits` binary digits, at `exact`."""
    exponent = mpmath.frexp(exact)[1] - digits if exact != 0 else smallest
    return mpmath.mpf(2) ** max(int(exponent), smallest)


@pytest.mark.parametrize("name", ALL)
def test_within_one_unit_in_the_last_place(name: str) -> None:
    """Of float64; and of float32 where the result is rounded to that."""
    x = np.concatenate(POINTS[name])
    found = function(name)(x)
    with np.errstate(over="ignore"):
        rounded = found.astype(np.float32)
    largest = mpmath.mpf(float(np.finfo(np.float32).max))
    with mpmath.workdps(40):
        for point, value, single in zip(x.tolist(), found.tolist(), rounded.tolist(), strict=True):
            exact = getattr(mpmath, name)(mpmath.mpf(point))
            assert abs(value - exact) < units(exact, 53, -1074), f"{name}({point!r}) = {value!r}"
            if abs(exact) < largest:
                assert abs(single - exact) < units(exact, 24, -149), f"float32 {name}({point!r}) = {single!r}"


ODD = ((0.0, 0.0), (-0.0, -0.0))
INFINITE, NOT_A_NUMBER = math.inf, math.nan
SPECIAL: dict[str, tuple[tuple[float, float], ...]] = {
    "exp": ((0.0, 1), (-0.0, 1), (INFINITE, INFINITE), (-INFINITE, 0), (710, INFINITE), (-746, 0)),
    "expm1": (*ODD, (INFINITE, INFINITE), (-INFINITE, -1), (710, INFINITE), (-746, -1)),
    "log": (
        *((0.0, -INFINITE), (-0.0, -INFINITE), (1, 0.0)),
        *((INFINITE, INFINITE), (-INFINITE, NOT_A_NUMBER), (-1, NOT_A_NUMBER)),
    ),
    "log1p": (*ODD, (-1, -INFINITE), (-1.5, NOT_A_NUMBER), (INFINITE, INFINITE), (-INFINITE, NOT_A_NUMBER)),
    "tanh": (*ODD, (INFINITE, 1), (-INFINITE, -1), (5e-324, 5e-324), (-1e300, -1)),
    "erf": (*ODD, (INFINITE, 1), (-INFINITE, -1), (-1e300, -1)),
    "cos": ((0.0, 1), (-0.0, 1), (INFINITE, NOT_A_NUMBER), (-INFINITE, NOT_A_NUMBER), (5e-324, 1)),
}


@pytest.mark.parametrize("name", ALL)
def test_zeros_infinities_and_nan(name: str) -> None:
    """Limits are exact, zeros have their sign, NaN gives NaN, and nothing warns."""
    for point, expected in (*SPECIAL[name], (NOT_A_NUMBER, NOT_A_NUMBER)):
        found = float(function(name)(np.array([point]))[0])
        if math.isnan(expected):
            assert math.isnan(found), f"{name}({point})"
        else:
            assert (found, math.copysign(1, found)) == (expected, math.copysign(1, expected)), f"{name}({point})"


@pytest.mark.parametrize("name", ALL)
def test_an_element_depends_on_itself_alone(name: str) -> None:
    """The same bits in one piece, one by one, with strides, transposed, in the last elements of a block, into `out`."""
    values = np.concatenate([*POINTS[name], np.array([0.0, -0.0, np.inf, -np.inf, np.nan])])
    x = np.resize(values, 2 * blocks.BLOCK + 7)
    whole = function(name)(x).tobytes()
    alone = np.concatenate([function(name)(x[i : i + 1]) for i in range(values.size)])
    assert alone.tobytes() == whole[: alone.nbytes]
    apart = np.zeros((x.size, 3))
    apart[:, 1] = x
    assert function(name)(apart[:, 1]).tobytes() == whole
    shifted = np.empty(x.size + 1)[1:]
    shifted[:] = x
    assert function(name)(shifted).tobytes() == whole
    square = np.resize(x, (90, 91))
    assert np.ascontiguousarray(function(name)(square.T).T).tobytes() == function(name)(square).tobytes()
    for out in (np.empty(x.size), np.empty((x.size, 2))[:, 0]):
        assert function(name)(x, out=out) is out
        assert out.tobytes() == whole
    own = x.copy()
    assert function(name)(own, out=own).tobytes() == whole


def test_into_float32() -> None:
    """`out` may be float32: rounded once."""
    x = uniform(-2, 2, 100, 30)
    out = np.empty(100, np.float32)
    elementary.exp(x, out=out)
    assert out.tobytes() == elementary.exp(x).astype(np.float32).tobytes()


def test_shapes() -> None:
    """A number, nothing at all, and more than one dimension."""
    assert elementary.exp(0.0).shape == ()
    assert elementary.exp(0.0) == 1
    assert elementary.tanh(np.zeros((0, 3))).shape == (0, 3)
    assert elementary.tanh(np.zeros((2, 0, 3))).shape == (2, 0, 3)


def test_exp_is_monotonic_at_its_seams() -> None:
    """Where the range is cut, neighbours stay in order to one unit."""
    for k in range(-20, 21):
        seam = (k + 0.5) * LN_2
        x = seam + np.arange(-200, 201) * np.spacing(abs(seam))
        steps = np.diff(elementary.exp(x)) / np.spacing(elementary.exp(x)[1:])
        assert steps.min() >= -1


@pytest.mark.parametrize("name", ALL)
def test_golden_bits(name: str) -> None:
    """The bits of thousands of results are the same on every processor, with every NumPy."""
    found = function(name)(np.concatenate(POINTS[name]))
    assert hashlib.sha256(found.astype(type_of_bits).tobytes()).hexdigest()[:16] == GOLDEN[name]
