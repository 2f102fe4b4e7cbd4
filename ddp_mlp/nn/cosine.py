"""The cosine with the same bits on every machine, of angles of any size.

As in nn/elementary.py, every operation is one NumPy call with one rounding, and polynomials interpolate at Chebyshev
points. An angle is brought to |r| ≤ π/4 by multiples of π/2 in parts, and a very large one in whole numbers.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.blocks import Block, in_blocks
from ddp_mlp.nn.elementary import add, constants, polynomial
from ddp_mlp.nn.formulas import BlockRoom

# 33 bits each
HALF_PI = constants(1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21, 8.4784276603689e-32)
TWO_OVER_PI = 0.6366197723675814
NEAR = 2.0**19  # up to here whole multiples of the parts of HALF_PI are exact
# (cos(r) − 1 + r²/2) / r⁴ and (sin(r) / r − 1) / r² as polynomials in r², for |r| ≤ π/4; 2^−58.6, 2^−54.7
COS = constants(
    0.041666666666666664,
    -0.0013888888888887322,
    2.4801587298651292e-05,
    -2.755731721268659e-07,
    2.0876134024090145e-09,
    -1.1381754653662937e-11,
)
SIN = constants(
    -0.16666666666666666,
    0.008333333333330827,
    -0.0001984126983657571,
    2.755731600817155e-06,
    -2.5051112272573243e-08,
    1.5916726193889336e-10,
)


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


@in_blocks()
def cos(x: Block, out: Block, room: BlockRoom) -> None:
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
    np.copyto(out, np.where(finite, np.where((quadrant == 1) | (quadrant == 2), -result, result), np.nan))
