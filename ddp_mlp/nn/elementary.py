"""Elementary functions with the same bits on every machine: exp, expm1, log, log1p, tanh, erf, cos of float64.

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
from functools import cache, wraps
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Block = NDArray[np.float64]

BLOCK = 4096  # elements at a time: a dozen temporaries stay in the second cache

LN2_HIGH, LN2_LOW = 0.6931471805598903, 5.497923018708371e-14  # 42 bits, so that k LN2_HIGH is exact, and the rest
ONE_OVER_LN2 = 1.4426950408889634
SQRT_HALF = 0.7071067811865476
HALF_PI = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21, 8.4784276603689e-32)  # 33 bits each
TWO_OVER_PI = 0.6366197723675814
NEAR = 2.0**19  # up to here whole multiples of the parts of HALF_PI are exact

# (eʳ − 1 − r) / r² for |r| ≤ ½; 2^−57.1
EXP = (
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
LOG = (
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
TANH = (
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
ERF = (
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
ERF_NEAR_ONE = (
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
ERF_MIDDLE, ERF_BASE = 1.09375, 0.875
# erfc(x) exp(x²) as a polynomial in 1 / (2 + x) − ERFC_MIDDLE, for 1.35 ≤ x ≤ 6; 2^−55.7
ERFC = (
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
ERFC_MIDDLE = 0.21175373134328357
# (cos(r) − 1 + r²/2) / r⁴ and (sin(r) / r − 1) / r² as polynomials in r², for |r| ≤ π/4; 2^−58.6, 2^−54.7
COS = (
    0.041666666666666664,
    -0.0013888888888887322,
    2.4801587298651292e-05,
    -2.755731721268659e-07,
    2.0876134024090145e-09,
    -1.1381754653662937e-11,
)
SIN = (
    -0.16666666666666666,
    0.008333333333330827,
    -0.0001984126983657571,
    2.755731600817155e-06,
    -2.5051112272573243e-08,
    1.5916726193889336e-10,
)


def in_blocks(function: Callable[[Block], Block]) -> Callable[..., NDArray[np.float64]]:
    """Let a function of one contiguous block serve arrays of any shape, layout and size, and `out` too."""

    @wraps(function)
    def whole(x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[np.float64]:
        values = np.asarray(x, np.float64)
        result = np.empty(values.shape) if out is None else out
        flat = np.ascontiguousarray(values).reshape(-1)
        direct = result.dtype == np.float64 and result.flags.c_contiguous
        target = result.reshape(-1) if direct else np.empty(flat.size)
        with np.errstate(all="ignore"):
            for start in range(0, flat.size, BLOCK):
                target[start : start + BLOCK] = function(flat[start : start + BLOCK])
            if not direct:
                result[...] = target.reshape(result.shape)
        return result

    return whole


def polynomial(coefficients: tuple[float, ...], x: Block) -> Block:
    """Evaluate by Horner's rule, the constant first in `coefficients`."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value += coefficient
        value *= x
    value += coefficients[0]
    return value


def add(a: Block | float, b: Block) -> tuple[Block, Block]:
    """Return fl(a + b) and its rounding error (Knuth's TwoSum), exact for numbers of any size."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def exp_in_two(x: Block) -> tuple[Block, Block, NDArray[np.int32]]:
    """Return (high, low, k) with eˣ = (high + low) 2ᵏ to 2^−56, |low| ≤ half a unit of high; |x| at most 1,000."""
    k = x * ONE_OVER_LN2
    np.rint(k, out=k)
    near, rest = x - k * LN2_HIGH, k * LN2_LOW
    r = near - rest
    near -= r
    near -= rest  # what r has not
    tail = polynomial(EXP, r)
    tail *= r * r
    tail += near + r * near
    one = 1.0 + r
    tail += (1.0 - one) + r
    high = one + tail
    one -= high
    one += tail
    return high, one, k.astype(np.int32)


def log_in_two(f: Block, c: Block | float, k: NDArray[np.int32]) -> Block:
    """Return log((1 + f) 2ᵏ) + c for √½ ≤ 1 + f < √2."""
    s = f / (2.0 + f)
    square = s * s
    half = 0.5 * f * f
    rest = half - s * (half + square * polynomial(LOG, square))
    whole = k * LN2_HIGH
    high = whole + f
    return high + ((((whole - high) + f) - rest) + (k * LN2_LOW + c))


def split_at_sqrt_half(x: Block) -> tuple[Block, NDArray[np.int32]]:
    """Return (m, k) with x = m 2ᵏ and √½ ≤ m < √2; x finite and above zero."""
    m, k = np.frexp(x)
    below = m < SQRT_HALF
    return np.where(below, 2.0 * m, m), k - below.astype(np.int32)


@in_blocks
def exp(x: Block) -> Block:
    """Return eˣ, elementwise (float64)."""
    inside = np.maximum(x, -800.0)
    np.minimum(inside, 800.0, out=inside)
    high, low, k = exp_in_two(inside)  # NaN stays NaN, whatever its k
    high += low
    result: Block = np.ldexp(high, k, out=high)
    return result


@in_blocks
def expm1(x: Block) -> Block:
    """Return eˣ − 1, elementwise (float64), also where x is small."""
    inside = np.where(x == x, np.minimum(np.maximum(x, -800.0), 800.0), 0.0)
    high, low, k = exp_in_two(inside)
    power = np.ldexp(high, k)
    total, error = add(-1.0, np.minimum(power, 2.0**1000))
    result = np.where(k > 60, power, total + (error + np.ldexp(low, np.minimum(k, 60))))
    near = np.minimum(np.maximum(inside, -0.5), 0.5)
    result = np.where(near == inside, near + near * near * polynomial(EXP, near), result)
    return np.where((x == x) & (x != 0), result, x)


@in_blocks
def log(x: Block) -> Block:
    """Return the natural logarithm, elementwise (float64); −∞ at zero, NaN below."""
    usable = (x > 0) & (x < np.inf)
    all_usable = usable.all()
    m, k = split_at_sqrt_half(x if all_usable else np.where(usable, x, 1.0))
    result = log_in_two(m - 1.0, 0.0, k)
    if all_usable:
        return result
    return np.where(usable, result, np.where(x == 0, -np.inf, np.where(x == np.inf, x, np.nan)))


@in_blocks
def log1p(x: Block) -> Block:
    """Return log(1 + x), elementwise (float64), also where x is small; −∞ at −1, NaN below."""
    usable = (x > -1) & (x < np.inf)
    inside = np.where(usable, x, 0.0)
    total, error = add(1.0, inside)
    m, k = split_at_sqrt_half(total)
    f = np.where(k == 0, inside, m - 1.0)
    result = log_in_two(f, np.where(k == 0, 0.0, error / total), k)
    result = np.where(usable, result, np.where(x == -1, -np.inf, np.where(x == np.inf, x, np.nan)))
    return np.where(x == 0, x, result)


def odd_in_pieces(x: Block, pieces: tuple[tuple[float, Callable[[Block], Block]], ...]) -> Block:
    """Evaluate an odd function of x, each piece, (upper bound of |x|, function of |x|), where it is wanted alone."""
    size = np.abs(x)
    below, result = -1.0, size.copy()  # NaN lies in no piece
    for above, function in pieces:
        inside = (size > below) & (size <= above)
        if inside.all():
            result = function(size)
        elif inside.any():
            result[inside] = function(size[inside])
        below = above
    return np.copysign(result, x)


def tanh_small(x: Block) -> Block:
    """Return tanh(x) for 0 ≤ x ≤ 0.55."""
    square = x * x
    return x + x * square * polynomial(TANH, square)


def tanh_large(x: Block) -> Block:
    """Return tanh(x) = 1 − 2 / (e²ˣ + 1) for x ≥ 0.55, the denominator with its rounding error."""
    high, low, k = exp_in_two(np.minimum(2.0 * x, 50.0))
    power = np.ldexp(high, k)
    whole = power + 1.0
    error = ((power - whole) + 1.0) + np.ldexp(low, k)
    fraction = 2.0 / whole
    result = 1.0 - fraction
    return result + (((1.0 - result) - fraction) + fraction * (error / whole))


@in_blocks
def tanh(x: Block) -> Block:
    """Return the hyperbolic tangent, elementwise (float64)."""
    return odd_in_pieces(x, ((0.55, tanh_small), (np.inf, tanh_large)))


def erf_small(x: Block) -> Block:
    """Return erf(x) for 0 ≤ x ≤ 0.84."""
    return x + x * polynomial(ERF, x * x)


def erf_near_one(x: Block) -> Block:
    """Return erf(x) for 0.84 ≤ x ≤ 1.35."""
    return ERF_BASE + polynomial(ERF_NEAR_ONE, x - ERF_MIDDLE)


def erf_large(x: Block) -> Block:
    """Return erf(x) = 1 − erfc(x) for x ≥ 1.35."""
    x = np.minimum(x, 6.0)
    high, _, k = exp_in_two(-x * x)
    return 1.0 - np.ldexp(high * polynomial(ERFC, 1.0 / (2.0 + x) - ERFC_MIDDLE), k)


@in_blocks
def erf(x: Block) -> Block:
    """Return the error function, (2/√π) ∫₀ˣ exp(−t²) dt, elementwise (float64)."""
    return odd_in_pieces(x, ((0.84, erf_small), (1.35, erf_near_one), (np.inf, erf_large)))


@cache
def half_pi(bits: int) -> int:
    """Return π/2 in units of 2^−bits, by Machin's formula in whole numbers."""
    guarded = bits + 32

    def arctangent(inverse: int) -> int:
        term, total, divisor, sign = (1 << guarded) // inverse, 0, 1, 1
        while term:
            total += sign * (term // divisor)
            term, divisor, sign = term // inverse**2, divisor + 2, -sign
        return total

    return (8 * arctangent(5) - 2 * arctangent(239)) >> 32


def reduce_far(x: float) -> tuple[float, float, int]:
    """Return (high, low, quadrant) of one finite number of any size, in whole numbers."""
    bits = 1300  # 1,024 for the largest x, the rest for the remainder
    numerator, denominator = x.as_integer_ratio()
    scaled, quarter = (numerator << bits) // denominator, half_pi(bits)
    quadrant = (2 * scaled + quarter) // (2 * quarter)
    remainder = scaled - quadrant * quarter
    high = remainder / (1 << bits)
    numerator, denominator = high.as_integer_ratio()
    return high, (remainder - (numerator << bits) // denominator) / (1 << bits), quadrant % 4


def reduce_near(x: Block) -> tuple[Block, Block, NDArray[np.int64]]:
    """Return (high, low, quadrant) with x = high + low + quadrant π/2, |high| about π/4 at most; |x| ≤ NEAR."""
    n = np.rint(x * TWO_OVER_PI)
    high, first = add(x - n * HALF_PI[0], -n * HALF_PI[1])
    high, second = add(high, -n * HALF_PI[2])
    low = (first + second) - n * HALF_PI[3]
    total = high + low
    return total, (high - total) + low, n.astype(np.int64) & 3


@in_blocks
def cos(x: Block) -> Block:
    """Return the cosine, elementwise (float64), of angles of any size."""
    finite = (x == x) & (np.abs(x) < np.inf)
    far = finite & (np.abs(x) > NEAR)
    high, low, quadrant = reduce_near(np.where(finite & ~far, x, 0.0))
    for i in np.flatnonzero(far):
        high[i], low[i], quadrant[i] = reduce_far(float(x[i]))
    square = high * high
    half = 0.5 * square
    one = 1.0 - half
    even = one + (((1.0 - one) - half) + (square * square * polynomial(COS, square) - high * low))
    odd = high + (high * square * polynomial(SIN, square) + low * one)
    result = np.where(quadrant & 1, odd, even)
    return np.where(finite, np.where((quadrant == 1) | (quadrant == 2), -result, result), np.nan)
