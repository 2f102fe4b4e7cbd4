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

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.blocks import Block, Room, in_blocks

Constant: TypeAlias = NDArray[np.float64]
"""A number as an array without dimensions: NumPy would turn a float into one at every operation."""

EXP_ROOM = 5
"""Vectors that eˣ takes of the room."""


def constants(*values: float) -> tuple[Constant, ...]:
    """Return numbers as NumPy takes them soonest."""
    return tuple(np.array(value) for value in values)


HALF, ONE, TWO = constants(0.5, 1.0, 2.0)
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


def polynomial(coefficients: tuple[Constant, ...], x: Block, out: Block) -> None:
    """Set out, which is not x, by Horner's rule, the constant first in `coefficients`."""
    np.multiply(x, coefficients[-1], out)
    for coefficient in coefficients[-2:0:-1]:
        out += coefficient
        out *= x
    out += coefficients[0]


def add(a: Block | float, b: Block) -> tuple[Block, Block]:
    """Return fl(a + b) and its rounding error (Knuth's TwoSum), exact for numbers of any size."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def within(x: Block, low: float, high: float) -> bool:
    """Tell whether low ≤ x ≤ high for all; not where one is NaN."""
    return bool(np.minimum.reduce(x) >= low and np.maximum.reduce(x) <= high)


def exp_in_parts(x: Block, room: Room) -> tuple[Block, Block, Block]:
    """Return (one, tail, k) with eˣ = (one + tail) 2ᵏ to 2^−56, one near 1, |tail| ≤ 0.1; |x| at most 1,000.

    k is ROUNDING more than it says. All lie in the first vectors of the room, of EXP_ROOM.
    """
    shifted, near, rest, r, tail = room[:EXP_ROOM]
    np.multiply(x, ONE_OVER_LN2, shifted)
    shifted += ROUNDING
    k = np.subtract(shifted, ROUNDING, r)
    np.multiply(k, LN2_HIGH, near)
    np.subtract(x, near, near)
    np.multiply(k, LN2_LOW, rest)
    np.subtract(near, rest, r)
    near -= r
    near -= rest  # what r has not

    polynomial(EXP, r, tail)
    np.multiply(r, r, rest)
    tail *= rest
    np.multiply(r, near, rest)
    near += rest
    tail += near  #                 eʳ − 1 − r, at r with what it has not

    one = np.add(r, ONE, near)
    np.subtract(ONE, one, rest)
    rest += r
    tail += rest
    return one, tail, shifted


def exp_in_two(x: Block, room: Room) -> tuple[Block, Block, Block]:
    """Return (high, low, k) with eˣ = (high + low) 2ᵏ to 2^−56, |low| ≤ half a unit of high; else as `exp_in_parts`."""
    low, tail, k = exp_in_parts(x, room)
    high = np.add(low, tail, room[2])
    low -= high
    low += tail
    return high, low, k


def two_to_the(k: Block) -> Block:
    """Turn k, as `exp_in_parts` returns it, into 2ᵏ; −1,022 ≤ k ≤ 1,023."""
    bits = k.view(np.int64)
    bits <<= FRACTION_BITS
    bits += ONE_BITS
    return k


def split_at_sqrt_half(x: Block, m: Block, k: Block) -> None:
    """Set m and k so that x = m 2ᵏ and √½ ≤ m < √2; x above zero, finite, not subnormal."""
    bits, exponent = x.view(np.int64), k.view(np.int64)
    np.subtract(bits, SQRT_HALF_BITS, exponent)
    exponent &= EXPONENT_BITS
    np.subtract(bits, exponent, m.view(np.int64))
    np.copyto(k, exponent)
    k *= EXPONENT_UNIT


def log_in_two(f: Block, k: Block, out: Block, room: Room, c: Block | None = None) -> None:
    """Set out to log((1 + f) 2ᵏ) + c for √½ ≤ 1 + f < √2; k becomes another."""
    s, square, half, rest, high = room[:5]
    np.add(f, TWO, s)
    np.divide(f, s, s)
    np.multiply(s, s, square)
    np.multiply(f, HALF, half)
    half *= f
    polynomial(LOG, square, rest)
    rest *= square
    rest += half
    rest *= s
    np.subtract(half, rest, rest)
    whole = np.multiply(k, LN2_HIGH, s)
    np.add(whole, f, high)
    whole -= high
    whole += f
    whole -= rest
    k *= LN2_LOW
    if c is not None:
        k += c
    whole += k
    np.add(high, whole, out)


@in_blocks
def exp(x: Block, out: Block, room: Room) -> None:
    """Return eˣ, elementwise (float64)."""
    if within(x, LEAST_POWER, LARGEST_POWER):
        one, tail, k = exp_in_parts(x, room)
        one += tail
        np.multiply(one, two_to_the(k), out)
        return
    inside = np.minimum(np.maximum(x, -BEYOND), BEYOND)
    one, tail, k = exp_in_parts(inside, room)
    with np.errstate(all="ignore"):  # NaN stays NaN, whatever its k
        np.ldexp(one + tail, (k - ROUNDING).astype(np.int32), out)


@in_blocks
def expm1(x: Block, out: Block, room: Room) -> None:
    """Return eˣ − 1, elementwise (float64), also where x is small."""
    inside = np.where(x == x, np.minimum(np.maximum(x, -BEYOND), BEYOND), 0.0)
    high, low, shifted = exp_in_two(inside, room)
    k = (shifted - ROUNDING).astype(np.int32)
    with np.errstate(all="ignore"):
        power = np.ldexp(high, k)
        total, error = add(-1.0, np.minimum(power, 2.0**1000))
        result = np.where(k > 60, power, total + (error + np.ldexp(low, np.minimum(k, 60))))
    near, of_near = np.minimum(np.maximum(inside, -0.5), 0.5), room[0]
    polynomial(EXP, near, of_near)
    result = np.where(near == inside, near + near * near * of_near, result)
    np.copyto(out, np.where((x == x) & (x != 0), result, x))


@in_blocks
def log(x: Block, out: Block, room: Room) -> None:
    """Return the natural logarithm, elementwise (float64); −∞ at zero, NaN below."""
    m, k, *more = room
    if within(x, LEAST_NORMAL, LARGEST_FINITE):
        split_at_sqrt_half(x, m, k)
        m -= ONE
        log_in_two(m, k, out, more)
        return
    normal = (x >= LEAST_NORMAL) & (x <= LARGEST_FINITE)
    subnormal = (x > 0) & (x < LEAST_NORMAL)
    enlarged = np.where(subnormal, x, 2.0**-54) * 2.0**54
    split_at_sqrt_half(np.where(normal, x, enlarged), m, k)
    m -= ONE
    k -= 54.0 * subnormal
    result = more[-1]
    log_in_two(m, k, result, more)
    limits = np.where(x == 0, -np.inf, np.where(x == np.inf, x, np.nan))
    np.copyto(out, np.where(normal | subnormal, result, limits))


@in_blocks
def log1p(x: Block, out: Block, room: Room) -> None:
    """Return log(1 + x), elementwise (float64), also where x is small; −∞ at −1, NaN below."""
    m, k, total, part, error, *more = room
    all_usable = within(x, ABOVE_MINUS_ONE, LARGEST_FINITE)
    inside = x if all_usable else np.where((x >= ABOVE_MINUS_ONE) & (x <= LARGEST_FINITE), x, 0.0)
    np.add(inside, ONE, total)
    np.subtract(total, ONE, part)
    np.subtract(total, part, error)
    np.subtract(ONE, error, error)
    np.subtract(inside, part, part)
    error += part
    error /= total  #                 what 1 + x has lost in total, beside it

    split_at_sqrt_half(total, m, k)
    m -= ONE
    is_split = k != 0
    error *= is_split
    log_in_two(np.where(is_split, m, inside), k, m, more, error)
    if all_usable:
        np.copysign(m, x, out)  # of zero too
        return
    limits = np.where(x == -1, -np.inf, np.where(x == np.inf, x, np.nan))
    np.copyto(out, np.where(x == inside, np.copysign(m, x), limits))


Piece: TypeAlias = tuple[float, Callable[[Block, Block, Room], None]]
"""The largest |x| of a piece, and the function of |x| there."""


def odd_in_pieces(x: Block, out: Block, room: Room, pieces: tuple[Piece, ...]) -> None:
    """Set out to an odd function of x, each piece computed where it is wanted alone."""
    size, result, *more = room
    np.abs(x, size)
    np.copyto(result, size)  # NaN lies in no piece
    below = -1.0
    for above, function in pieces:
        inside = size <= above
        inside &= size > below
        count = np.count_nonzero(inside)
        if count == len(x):
            function(size, result, more)
        elif count:
            (places,) = inside.nonzero()
            found, *rest = (vector[:count] for vector in more)
            function(size[places], found, rest)
            result[places] = found
        below = above
    np.copysign(result, x, out)


def tanh_small(x: Block, out: Block, room: Room) -> None:
    """Set out to tanh(x) for 0 ≤ x ≤ 0.55."""
    square, series = room[:2]
    np.multiply(x, x, square)
    polynomial(TANH, square, series)
    square *= x
    square *= series
    np.add(x, square, out)


def tanh_large(x: Block, out: Block, room: Room) -> None:
    """Set out to tanh(x) = 1 − 2 / (e²ˣ + 1) for x ≥ 0.55, the denominator with its rounding error."""
    twice = room[EXP_ROOM]
    np.minimum(x, 25.0, out=twice)
    twice *= TWO
    power, low, k = exp_in_two(twice, room)
    two_to_the(k)
    power *= k
    low *= k
    whole, fraction = twice, k
    np.add(power, ONE, whole)
    error = power
    error -= whole
    error += ONE
    error += low
    np.divide(TWO, whole, fraction)
    error /= whole
    error *= fraction
    np.subtract(ONE, fraction, out)
    np.subtract(ONE, out, whole)
    whole -= fraction
    whole += error
    out += whole


@in_blocks
def tanh(x: Block, out: Block, room: Room) -> None:
    """Return the hyperbolic tangent, elementwise (float64)."""
    odd_in_pieces(x, out, room, ((0.55, tanh_small), (np.inf, tanh_large)))


def erf_small(x: Block, out: Block, room: Room) -> None:
    """Set out to erf(x) for 0 ≤ x ≤ 0.84."""
    square, series = room[:2]
    np.multiply(x, x, square)
    polynomial(ERF, square, series)
    series *= x
    np.add(x, series, out)


def erf_near_one(x: Block, out: Block, room: Room) -> None:
    """Set out to erf(x) for 0.84 ≤ x ≤ 1.35."""
    from_middle, series = room[:2]
    np.subtract(x, ERF_MIDDLE, from_middle)
    polynomial(ERF_NEAR_ONE, from_middle, series)
    np.add(series, ERF_BASE, out)


def erf_large(x: Block, out: Block, room: Room) -> None:
    """Set out to erf(x) = 1 − erfc(x) for x ≥ 1.35."""
    inside, t = room[EXP_ROOM : EXP_ROOM + 2]
    np.minimum(x, 6.0, out=inside)
    np.multiply(inside, inside, t)
    np.negative(t, t)
    power, _, k = exp_in_two(t, room)
    inside += TWO
    np.divide(ONE, inside, t)
    t -= ERFC_MIDDLE
    polynomial(ERFC, t, inside)
    power *= inside
    power *= two_to_the(k)
    np.subtract(ONE, power, out)


@in_blocks
def erf(x: Block, out: Block, room: Room) -> None:
    """Return the error function, (2/√π) ∫₀ˣ exp(−t²) dt, elementwise (float64)."""
    odd_in_pieces(x, out, room, ((0.84, erf_small), (1.35, erf_near_one), (np.inf, erf_large)))
