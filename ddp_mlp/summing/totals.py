"""The sum of a few float64 numbers, rounded once: whatever their order, and whoever has which."""

import math
from collections.abc import Iterable
from fractions import Fraction


def total(values: Iterable[float]) -> float:
    """Return Σ values, correctly rounded; infinite or NaN where the sum is, never an exception.

    It is `math.fsum` (Shewchuk, "Adaptive precision floating-point arithmetic", 1997), which raises where finite sums
    overflow on the way, and where infinities cancel.
    """
    numbers = list(values)
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):
        special = [x for x in numbers if not math.isfinite(x)]
        if special:
            return sum(special)
        exact = sum(map(Fraction, numbers))
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf
