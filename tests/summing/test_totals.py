"""Tests of the sum that is rounded once: exact rational arithmetic is the oracle."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.summing.totals import total

finite = st.floats(allow_nan=False, allow_infinity=False)


def rounded(values: list[float]) -> float:
    """Return the exact sum, rounded to float64 once."""
    exact = sum(map(Fraction, values), Fraction(0))
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


@given(st.lists(finite, max_size=20), st.randoms())
def test_the_sum_is_rounded_once_in_any_order(values: list[float], order: random.Random) -> None:
    """Of finite numbers, whether their sums overflow on the way or not."""
    assert total(values) == rounded(values)
    order.shuffle(values)
    assert total(values) == rounded(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.7e308, 1.7e308], math.inf),
        ([-1.7e308, -1.7e308], -math.inf),
        ([1.7e308, 1.7e308, -1.7e308], 1.7e308),
        ([1.7e308, 1.7e308, math.inf], math.inf),
        ([1.7e308, 1.7e308, -math.inf], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([1.7e308, 1.7e308, math.nan], math.nan),
        ([], 0.0),
    ],
)
def test_what_is_not_finite_is_no_exception(values: list[float], expected: float) -> None:
    """Overflow on the way, infinities that cancel and NaN are values."""
    found = total(values)
    assert found == expected or (math.isnan(found) and math.isnan(expected))
