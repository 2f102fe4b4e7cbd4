"""The values: numbers and lists become the type of their key, and distances are read with their units."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.config import Config, Interval, parse_interval
from tests.configurations import failure


def test_values_are_cast() -> None:
    """Lists and whole numbers become the type of their key, so that equal configurations compare equal."""
    config = Config(hidden=[8, 4], learning_rate=1, class_weight={"a": 2})  # type: ignore[arg-type] # the cast under test
    assert config == Config(hidden=(8, 4), learning_rate=1.0, class_weight={"a": 2.0})
    assert isinstance(config.hidden, tuple)
    assert isinstance(config.learning_rate, float)


@given(
    st.integers(1, 10**12),
    st.sampled_from(["step", "epoch", "second"]),
    st.booleans(),
    st.sampled_from(["", " ", "  "]),
)
def test_interval_with_unit(count: int, unit: str, plural: bool, space: str) -> None:
    """A count with a unit, singular or plural, is read as that many of them."""
    assert parse_interval(f"{count}{space}{unit}{'s' * plural}") == Interval(count, f"{unit}s")  # type: ignore[arg-type] # built


@given(st.integers(1, 10**12))
def test_interval_without_unit(count: int) -> None:
    """A bare count is steps, as a number or as text."""
    assert parse_interval(count) == parse_interval(str(count)) == Interval(count, "steps")


@given(
    st.integers(max_value=0) | st.text(max_size=12) | st.sampled_from(["0 epochs", "1 day", "1.5 epochs", "-1 epoch"])
)
def test_interval_junk(value: int | str) -> None:
    """Anything else is refused, and what is accepted has a positive count."""
    if re.fullmatch(r"\s*0*[1-9][0-9]*\s*((step|epoch|second)s?)?\s*", str(value), re.ASCII):
        assert parse_interval(value).count > 0
    else:
        assert failure(lambda: parse_interval(value)).startswith("checkpoint_every = ")
