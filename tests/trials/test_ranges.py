"""Every range maps [0, 1) onto its values, and only onto them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp_mlp.trials.ranges import Choice, Range, Real, Whole, Widths

UNIT = st.floats(0, 1, exclude_max=True)


@st.composite
def wholes(draw: st.DrawFn) -> Whole:
    """Draw a range of whole numbers."""
    lo = draw(st.integers(1, 50))
    hi = lo + draw(st.integers(1, 100))
    return Whole(lo, hi, draw(st.integers(1, hi - lo)), draw(st.booleans()))


@given(wholes(), UNIT)
def test_whole_numbers_are_in_the_list(found: Whole, u: float) -> None:
    """With and without logarithm and step."""
    assert found.value([u]) in list(found.every())


@settings(max_examples=20, deadline=None)  # 2,000 draws each
@given(wholes())
def test_whole_numbers_all_occur_and_the_extremes_are_the_ends(found: Whole) -> None:
    """A fine sweep of [0, 1) meets every value, in ascending order."""
    met = [found.value([i / 2000]) for i in range(2000)]
    assert met == sorted(met)
    assert set(met) == set(found.every())
    assert list(found.extremes()) == [min(met), max(met)]


@given(st.floats(1e-8, 1), st.floats(1.01, 1e6), st.booleans(), st.sampled_from([None, 2, 7]), UNIT)
def test_real_numbers_lie_between_the_ends(lo: float, ratio: float, log: bool, points: int | None, u: float) -> None:
    """With points, only those occur, and both ends are among them."""
    found = Real(lo, lo * ratio, log, points)
    value = found.value([u])
    assert lo <= value <= lo * ratio
    every = found.every()
    if points is None:
        assert every is None
    else:
        values = list(every or ())
        assert value in values
        assert len(values) == points
        assert math.isclose(values[0], lo, rel_tol=1e-5)
        assert math.isclose(values[-1], lo * ratio, rel_tol=1e-5)


def test_a_logarithm_halves_in_the_geometric_mean() -> None:
    """The middle of [1e-4, 1e-2] is 1e-3; without log it is 0.00505."""
    assert Real(1e-4, 1e-2, log=True).value([0.5]) == 1e-3
    assert Real(1e-4, 1e-2).value([0.5]) == 0.00505


def test_real_numbers_have_six_digits() -> None:
    """A last bit of exp would not show."""
    assert Real(0.0, 1.0).value([1 / 3]) == 0.333333


@pytest.mark.parametrize(("each", "dimensions", "count"), [(False, 2, 1 + 2 + 2), (True, 3, 1 + 2 + 4)])
def test_widths_by_depth(each: bool, dimensions: int, count: int) -> None:
    """One width for all layers, or each its own: all lists once, no layers at all among them."""
    found = Widths(Whole(0, 2), Choice((8, 16)), each, deepest=2)
    every = list(found.every() or ())
    assert found.dimensions == dimensions
    assert len(every) == count
    assert [] in every
    met = {tuple(found.value([a / 8, b / 8, c / 8][:dimensions])) for a in range(8) for b in range(8) for c in range(8)}
    assert met == {tuple(widths) for widths in every}
    assert {len(widths) for widths in found.extremes()} == {0, 2}


@pytest.mark.parametrize("found", [Choice((1, 2, 3)), Whole(1, 3), Real(1, 3, points=3)])
def test_values_are_as_likely_as_one_another(found: Range) -> None:
    """A third of [0, 1) each."""
    values = [found.value([i / 999]) for i in range(999)]
    assert [values.count(value) for value in (1, 2, 3)] == [333, 333, 333]
