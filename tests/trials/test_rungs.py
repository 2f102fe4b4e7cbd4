"""Rungs by hand, and what holds for all of them."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.errors import ConfigError
from ddp_mlp.trials.rungs import Rung, ranked, rungs


def test_rungs_by_hand() -> None:
    """27 trials of 9 epochs, halved by 3: as in the paper's table."""
    assert rungs(27, 9, 3) == [Rung(1, 27), Rung(3, 9), Rung(9, 3)]
    assert rungs(60, 30, 3) == [Rung(2, 60), Rung(4, 20), Rung(10, 6), Rung(30, 2)]
    assert rungs(5, 30, None) == [Rung(0, 5)]


@given(st.integers(2, 5000), st.integers(2, 5000), st.integers(2, 9))
def test_rungs_descend_to_at_least_one_trial(trials: int, epochs: int, halving: int) -> None:
    """All trials at first, all epochs at last, a `halving`th of the trials each time, strictly more epochs."""
    if trials < halving:
        with pytest.raises(ConfigError, match="needs at least"):
            rungs(trials, epochs, halving)
        return
    found = rungs(trials, epochs, halving)
    assert found[0].trials == trials
    assert found[-1].epochs == epochs
    for before, after in itertools.pairwise(found):
        assert after.trials == before.trials // halving >= 1
        assert 1 <= before.epochs < after.epochs <= before.epochs * halving


@pytest.mark.parametrize(("trials", "epochs", "halving"), [(60, 1, 3), (2, 30, 3), (60, 30, 1)])
def test_nothing_to_halve_is_refused(trials: int, epochs: int, halving: int) -> None:
    """One epoch, fewer trials than a rung divides by, a divisor of 1."""
    with pytest.raises(ConfigError, match="halving = "):
        rungs(trials, epochs, halving)


@given(st.dictionaries(st.integers(0, 50), st.sampled_from([0.0, -0.0, 0.5, 1.0, math.inf, math.nan])), st.booleans())
def test_ties_go_to_the_lower_number(scores: dict[int, float], largest: bool) -> None:
    """Each neighbour in the order is better, or equal with a lower number; NaN is behind all."""
    order = ranked(scores, largest)
    assert sorted(order) == sorted(scores)
    for a, b in itertools.pairwise(order):
        x, y = scores[a], scores[b]
        if math.isnan(x):
            assert math.isnan(y)
        elif not math.isnan(y):
            assert x != y or a < b
            assert x >= y if largest else x <= y
        if math.isnan(x) and math.isnan(y):
            assert a < b
