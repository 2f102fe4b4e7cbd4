"""Elementary functions with the same bits on every machine: exp, expm1, log, log1p, tanh, erf of float64.

NumPy's own come from SIMD libraries or from libm, and change with the processor. These are made of what IEEE 754 fixes
alone: + − × ÷, rint, frexp, ldexp, comparisons, selections.

Invariants:
- every operation is one NumPy call with one rounding, so that nothing can be contracted or reordered;
- the result of an element depends on that element alone, wherever it lies in an array;
- the error is below 1 unit in the last place of float64 (tests/nn/test_elementary.py has the figures);
- zeros keep their sign where the function is odd, infinities and subnormals have their limits, and NaN gives NaN.

The polynomials interpolate at Chebyshev points; beside each stands the largest error of its exact counterpart.
Reductions: Cody and Waite, Software Manual for the Elementary Functions, 1980; sums with their rounding errors: Dekker,
"A floating-point technique for extending the available precision", 1971.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.blocks import Block, Usual, in_blocks
from ddp_mlp.nn.formulas import BlockRoom, Formula

Constant: TypeAlias = NDArray[np.float64]
"""A number as an array without dimensions: NumPy would turn a float into one at every operation."""


def constants(*values: float) -> tuple[Constant, ...]:
    """Return numbers as NumPy takes them soonest."""
    return tuple(np.array(value) for value in values)


HALF, ONE, TWO, MINUS_ONE = constants(0.5, 1.0, 2.0, -1.0)
LN2_HIGH, LN2_LOW = constants(0.6931471805598903, 5.497923018708371e-14)  # 42 bits: k LN2_HIGH is exact; and the rest
ONE_OVER_LN2, ROUNDING = constants(1.4426950408889634, 1.5 * 2.0**52)  # x + ROUNDING is rounded to a whole number
SQRT_HALF = 0.7071067811865476
ONE_BITS, SQRT_HALF_BITS = (np.array(value).view(np.int64) for value in (1.0, SQRT_HALF))
FRACTION_BITS, EXPONENT_BITS, EXPONENT_UNIT = np.array(52), np.array(-(1 << 52)), np.array(2.0**-52)
LEAST_NORMAL, LARGEST_FINITE, ABOVE_MINUS_ONE = 2.0**-1022, 1.7976931348623157e308, 2.0**-53 - 1
LEAST_POWER, LARGEST_POWER = -708.0, 709.0  # between them eˣ and 2ᵏ are normal and finite
BEYOND = 800.0  # there eˣ is 0 or infinite

# (eʳ − 1 − r) / r² for |r| ≤ ½; 2^−57.1
EXP = constants(
    0.5,
    0.16666666666666666,
    0.04166666666666707,
    0.008333333333333361,
    0.0013888888888701576,
    0.00019841269841145012,
    2.4801587619942707e-05,
    2.7557319436150625e-06,
    2.755707468758277e-07,
    2.5051945410941873e-08,
    2.096330163323717e-09,
    1.611672695311423e-10,
)
# (2 artanh(s) / s − 2) / s² as a polynomial in s², for s ≤ (√2 − 1) / (√2 + 1); 2^−54.6
LOG = constants(
    0.6666666666666666,
    0.4000000000000094,
    0.2857142857076445,
    0.2222222240054776,
    0.181817947008978,
    0.15386290534658992,
    0.13267418596474884,
    0.1310072138350349,
)
# (tanh(x) / x − 1) / x² as a polynomial in x², for x ≤ 0.55; 2^−55.6
TANH = constants(
    -0.3333333333333333,
    0.1333333333333271,
    -0.05396825396742711,
    0.021869488493351966,
    -0.008863234390552772,
    0.0035921102829827483,
    -0.0014556610653503473,
    0.0005889322836960864,
    -0.0002346235564045879,
    8.509481082749288e-05,
    -2.059003703476761e-05,
)
# erf(x) / x − 1 as a polynomial in x², for x ≤ 0.84; 2^−56.1
ERF = constants(
    0.1283791670955126,
    -0.3761263890318375,
    0.112837916709547,
    -0.026866170645020646,
    0.005223977623956974,
    -0.0008548326905656577,
    0.000120553270506432,
    -1.4925453340176486e-05,
    1.6457733512818286e-06,
    -1.6301115555811785e-07,
    1.41933794487106e-08,
    -8.847223918560384e-10,
)
# erf(x) − ERF_BASE as a polynomial in x − ERF_MIDDLE, for 0.84 ≤ x ≤ 1.35; 2^−56.3
ERF_NEAR_ONE = constants(
    0.0030875751518100168,
    0.3411248209397411,
    -0.3731052729028545,
    0.15834765451173283,
    0.03777205074296244,
    -0.06402956855167193,
    0.013271566381910377,
    0.011097770808927172,
    -0.005878441125883415,
    -0.0007291120643696058,
    0.0012042634440512633,
    -0.00012013076910830863,
    -0.00015736104962215647,
    4.2538937930003004e-05,
)
ERF_MIDDLE, ERF_BASE = constants(1.09375, 0.875)
# erfc(x) exp(x²) as a polynomial in 1 / (2 + x) − ERFC_MIDDLE, for 1.35 ≤ x ≤ 6; 2^−55.7
ERFC = constants(
    0.19541832388061564,
    1.4348755418699914,
    3.298826320415178,
    4.808681668997735,
    2.2191437596963266,
    -5.896591140323357,
    -7.43756598294408,
    12.710504028875468,
    19.19190072658488,
    -44.87789164630255,
    -38.53123063844055,
    188.70463723323041,
    -30.596790242362584,
    -675.9560008534789,
    867.6691754761971,
)
(ERFC_MIDDLE,) = constants(0.21175373134328357)


class Section(NamedTuple):
    """A function of |x| in some part of its range."""

    above: float
    """The largest |x|."""
    formula: Formula
    most: float = np.inf
    """Beyond it the function is that of it."""


def polynomial(coefficients: tuple[Constant, ...], x: Block) -> Block:
    """Evaluate by Horner's rule, the constant first in `coefficients`."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value = (value + coefficient) * x
    return value + coefficients[0]


def add(a: Block | Constant, b: Block) -> tuple[Block, Block]:
    """Return fl(a + b) and its rounding error (Knuth's TwoSum), exact for numbers of any size."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def exp_in_parts(x: Block) -> tuple[Block, Block, Block]:
    """Return (one, tail, k) with eˣ = (one + tail) 2ᵏ to 2^−56, one near 1, |tail| ≤ 0.1; |x| at most 1,000.

    k is ROUNDING more than it says: its bits end with those of the whole number.
    """
    shifted = x * ONE_OVER_LN2 + ROUNDING
    k = shifted - ROUNDING
    near, rest = x - k * LN2_HIGH, k * LN2_LOW
    r = near - rest
    near = (near - r) - rest  # what r has not
    tail = polynomial(EXP, r) * (r * r) + (near + r * near)
    one = ONE + r
    return one, tail + ((ONE - one) + r), shifted


def exp_in_two(x: Block) -> tuple[Block, Block, Block]:
    """Return (high, low, k) with eˣ = (high + low) 2ᵏ to 2^−56, |low| ≤ half a unit of high; else as `exp_in_parts`."""
    one, tail, k = exp_in_parts(x)
    high = one + tail
    return high, (one - high) + tail, k


def two_to_the(k: Block) -> Block:
    """Return 2ᵏ, of k as `exp_in_parts` returns it; −1,022 ≤ k ≤ 1,023."""
    power: Block = ((k.view(np.int64) << FRACTION_BITS) + ONE_BITS).view(np.float64)
    return power


def split_at_sqrt_half(x: Block) -> tuple[Block, Block]:
    """Return (m, k) with x = m 2ᵏ and √½ ≤ m < √2; x above zero, finite, not subnormal."""
    bits = x.view(np.int64)
    exponent = (bits - SQRT_HALF_BITS) & EXPONENT_BITS
    return (bits - exponent).view(np.float64), exponent * EXPONENT_UNIT


def log_in_two(f: Block, k: Block, c: Block | None = None) -> Block:
    """Return log((1 + f) 2ᵏ) + c for √½ ≤ 1 + f < √2."""
    s = f / (TWO + f)
    square = s * s
    half = HALF * f * f
    rest = half - s * (half + square * polynomial(LOG, square))
    whole, low = k * LN2_HIGH, k * LN2_LOW
    high = whole + f
    return high + ((((whole - high) + f) - rest) + (low if c is None else low + c))


def exp_usual(x: Block) -> Block:
    """Return eˣ for LEAST_POWER ≤ x ≤ LARGEST_POWER."""
    one, tail, k = exp_in_parts(x)
    return (one + tail) * two_to_the(k)


def log_usual(x: Block) -> Block:
    """Return log(x) for LEAST_NORMAL ≤ x ≤ LARGEST_FINITE."""
    m, k = split_at_sqrt_half(x)
    return log_in_two(m - ONE, k)


def log1p_usual(x: Block) -> Block:
    """Return log(1 + x) for −¼ ≤ x ≤ 1: 1 + x is split with k = 0, where m − 1 and its error are x, or with k = 1."""
    total, error = add(ONE, x)
    m, k = split_at_sqrt_half(total)
    f = (m - ONE) + error * (ONE - k)
    return np.copysign(log_in_two(f, k, error / total * k), x)  # of zero too


def tanh_small(x: Block) -> Block:
    """Return tanh(x) for 0 ≤ x ≤ 0.55."""
    square = x * x
    return x + x * square * polynomial(TANH, square)


def tanh_large(x: Block) -> Block:
    """Return tanh(x) = 1 − 2 / (e²ˣ + 1) for 0.55 ≤ x ≤ 25, the denominator with its rounding error."""
    high, low, k = exp_in_two(TWO * x)
    power = two_to_the(k)
    whole_power = high * power
    whole = whole_power + ONE
    error = ((whole_power - whole) + ONE) + low * power
    fraction = TWO / whole
    result = ONE - fraction
    return result + (((ONE - result) - fraction) + fraction * (error / whole))


def erf_small(x: Block) -> Block:
    """Return erf(x) for 0 ≤ x ≤ 0.84."""
    return x + x * polynomial(ERF, x * x)


def erf_near_one(x: Block) -> Block:
    """Return erf(x) for 0.84 ≤ x ≤ 1.35."""
    return ERF_BASE + polynomial(ERF_NEAR_ONE, x - ERF_MIDDLE)


def erf_large(x: Block) -> Block:
    """Return erf(x) = 1 − erfc(x) for 1.35 ≤ x ≤ 6."""
    one, tail, k = exp_in_parts(MINUS_ONE * x * x)
    return ONE - (one + tail) * polynomial(ERFC, ONE / (TWO + x) - ERFC_MIDDLE) * two_to_the(k)


tanh_sections = Section(0.55, Formula(tanh_small)), Section(np.inf, Formula(tanh_large), most=25.0)
erf_sections = (
    Section(0.84, Formula(erf_small)),
    Section(1.35, Formula(erf_near_one)),
    Section(np.inf, Formula(erf_large), most=6.0),
)


@in_blocks(Usual(LEAST_POWER, LARGEST_POWER, Formula(exp_usual)))
def exp(x: Block, out: Block, room: BlockRoom) -> None:
    """Return eˣ, elementwise (float64)."""
    one, tail, k = exp_in_parts(np.minimum(np.maximum(x, -BEYOND), BEYOND))
    with np.errstate(all="ignore"):  # NaN stays NaN, whatever its k
        np.ldexp(one + tail, (k - ROUNDING).astype(np.int32), out)


@in_blocks()
def expm1(x: Block, out: Block, room: BlockRoom) -> None:
    """Return eˣ − 1, elementwise (float64), also where x is small."""
    inside = np.where(x == x, np.minimum(np.maximum(x, -BEYOND), BEYOND), 0.0)
    high, low, shifted = exp_in_two(inside)
    k = (shifted - ROUNDING).astype(np.int32)
    with np.errstate(all="ignore"):
        power = np.ldexp(high, k)
        total, error = add(MINUS_ONE, np.minimum(power, 2.0**1000))
        result = np.where(k > 60, power, total + (error + np.ldexp(low, np.minimum(k, 60))))
    near = np.minimum(np.maximum(inside, -0.5), 0.5)
    result = np.where(near == inside, near + near * near * polynomial(EXP, near), result)
    np.copyto(out, np.where((x == x) & (x != 0), result, x))


@in_blocks(Usual(LEAST_NORMAL, LARGEST_FINITE, Formula(log_usual)))
def log(x: Block, out: Block, room: BlockRoom) -> None:
    """Return the natural logarithm, elementwise (float64); −∞ at zero, NaN below."""
    normal = (x >= LEAST_NORMAL) & (x <= LARGEST_FINITE)
    subnormal = (x > 0) & (x < LEAST_NORMAL)
    enlarged = np.where(subnormal, x, 2.0**-54) * 2.0**54
    m, k = split_at_sqrt_half(np.where(normal, x, enlarged))
    result = log_in_two(m - 1.0, k - 54.0 * subnormal)
    limits = np.where(x == 0, -np.inf, np.where(x == np.inf, x, np.nan))
    np.copyto(out, np.where(normal | subnormal, result, limits))


@in_blocks(Usual(-0.25, 1.0, Formula(log1p_usual)))
def log1p(x: Block, out: Block, room: BlockRoom) -> None:
    """Return log(1 + x), elementwise (float64), also where x is small; −∞ at −1, NaN below."""
    inside = np.where((x >= ABOVE_MINUS_ONE) & (x <= LARGEST_FINITE), x, 0.0)
    total, error = add(ONE, inside)
    m, k = split_at_sqrt_half(total)
    split = k != 0
    result = log_in_two(np.where(split, m - 1.0, inside), k, np.where(split, error / total, 0.0))
    limits = np.where(x == -1, -np.inf, np.where(x == np.inf, x, np.nan))
    np.copyto(out, np.where(x == inside, np.copysign(result, x), limits))


def odd_in_sections(x: Block, out: Block, room: BlockRoom, sections: tuple[Section, ...]) -> None:
    """Set out to an odd function of x, each section computed where it is wanted alone."""
    size, result = room.vectors[:2]
    np.abs(x, size)
    np.copyto(result, size)  # NaN lies in no section
    below = -1.0
    for above, formula, most in sections:
        inside = size <= above
        inside &= size > below
        count = int(np.count_nonzero(inside))
        if count == len(x):
            np.minimum(size, most, out=size)
            formula(size, result, room.beside(2, count))
            break
        if count:
            (places,) = inside.nonzero()
            found = size[places]
            np.minimum(found, most, out=found)
            formula(found, found, room.beside(2, count))
            result[places] = found
        below = above
    np.copysign(result, x, out)


@in_blocks()
def tanh(x: Block, out: Block, room: BlockRoom) -> None:
    """Return the hyperbolic tangent, elementwise (float64)."""
    odd_in_sections(x, out, room, tanh_sections)


@in_blocks()
def erf(x: Block, out: Block, room: BlockRoom) -> None:
    """Return the error function, (2/√π) ∫₀ˣ exp(−t²) dt, elementwise (float64)."""
    odd_in_sections(x, out, room, erf_sections)
