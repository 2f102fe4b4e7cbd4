"""A trial's settings are a function of seed and number; finite spaces give each point once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError
from ddp_mlp.trials import sampling
from ddp_mlp.trials.space import parse

WIDE: dict[str, Any] = {"learning_rate": {"log": [1e-4, 1e-1]}, "hidden": {"choice": [[64], [64, 32]]}}
NARROW: dict[str, Any] = {"dropout": {"choice": [0.0, 0.1, 0.2]}, "hidden": {"choice": [[64], [64, 32]]}}


@pytest.mark.parametrize("sampler", ["sobol", "random"])
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), trials=st.integers(1, 20))
def test_a_trial_does_not_depend_on_how_many_there_are(sampler: sampling.Sampler, seed: int, trials: int) -> None:
    """The first trials of a longer search are those of a shorter one."""
    for table in (WIDE, NARROW):
        space = parse(table, Config())
        count = min(trials, 6) if table is NARROW else trials
        longer = sampling.draw(space, sampler, seed, 6 if table is NARROW else 25)
        assert sampling.draw(space, sampler, seed, count) == longer[:count]


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_a_finite_space_gives_each_point_once(sampler: sampling.Sampler) -> None:
    """As many trials as points: all of them."""
    space = parse(NARROW, Config())
    found = sampling.draw(space, sampler, 5, 6)
    assert sorted(map(str, found)) == sorted(map(str, space.points()))


def test_a_rare_point_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """When draws hardly ever give something new, the rest comes in the order of the grid."""
    monkeypatch.setattr(sampling, "DRAWS_PER_POINT", 0)
    space = parse(NARROW, Config())
    assert sampling.draw(space, "random", 0, 6) == list(space.points())


def test_a_grid_is_all_points() -> None:
    """In order, the last key's values fastest."""
    found = sampling.draw(parse(NARROW, Config()), "grid", 0, None)
    assert [(s["dropout"], s["hidden"]) for s in found] == [(d, h) for d in (0.0, 0.1, 0.2) for h in ([64], [64, 32])]


def test_random_draws_are_pinned() -> None:
    """A search that goes on with another version of NumPy must find the same trials."""
    assert sampling.draw(parse(WIDE, Config()), "random", 1, 2) == PINNED


PINNED = [{"hidden": [64, 32], "learning_rate": 0.0100289}, {"hidden": [64], "learning_rate": 0.000248673}]


@pytest.mark.parametrize("sampler", ["sobol", "random"])
def test_samplers_fill_the_range(sampler: sampling.Sampler) -> None:
    """Of 256 draws of a number in [0, 1), a quarter lies in each quarter: exactly for Sobol, roughly for random."""
    values = [sampling.coordinates(sampler, 0, i, 3)[2] for i in range(256)]
    counts = [sum(int(4 * value) == quarter for value in values) for quarter in range(4)]
    slack = 0 if sampler == "sobol" else 28  # four standard deviations of a binomial count
    assert all(abs(count - 64) <= slack for count in counts)


@pytest.mark.parametrize(
    ("table", "sampler", "trials", "problem"),
    [
        (NARROW, "sobol", 7, "trials = 7: the space has 6 points"),
        (NARROW, "random", 7, "trials = 7: the space has 6 points"),
        (NARROW, "grid", 7, "trials = 7: the space has 6 points"),
        (WIDE, "grid", 7, "learning_rate: a grid needs points"),
        (NARROW, "sobol", None, "trials: must be given for sampler = sobol"),
        (
            {"hidden": {"depth": {"int": [1, 80]}, "widths": {"int": [1, 900]}}},
            "sobol",
            3,
            "sampler = sobol: the space has 81 dimensions, at most 64: take random",
        ),
        (
            {"min_learning_rate": {"log": [1e-6, 1e-3]}, "learning_rate": {"choice": [1e-2, 1e-5]}},
            "sobol",
            50,
            "must be at most learning_rate, which is 1e-05 (trial ",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    table: dict[str, Any], sampler: sampling.Sampler, trials: int | None, problem: str
) -> None:
    """Too few points, no grid, and single trials that the configuration refuses."""
    with pytest.raises(ConfigError) as caught:
        sampling.draw(parse(table, Config()), sampler, 0, trials)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slip_of_the_pen_is_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid without end is refused at once, and can be cut short."""
    space = parse({"seed": {"int": [0, 10**12]}}, Config())
    monkeypatch.setattr(sampling, "MOST_TRIALS", 50)
    with pytest.raises(ConfigError, match="a grid of more than 50 points: say with trials how many of them"):
        sampling.draw(space, "grid", 0, None)
    assert len(sampling.draw(space, "grid", 0, 3)) == 3
