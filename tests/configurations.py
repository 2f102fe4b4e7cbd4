"""Configurations to test with: valid ones, drawn, and how one is refused."""

from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError

# texts that YAML, unquoted, takes for something else
TRAPS = [
    "1e3",
    "null",
    "true",
    "no",
    "12",
    "0x1F",
    "1:30",
    "2024-01-01",
    "~",
    "# x",
    "a: b",
    "-",
    "==",
    "\x85",
    "\u2028",
]
texts = st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
positive = st.floats(1e-300, 1e300)
intervals = st.integers(1, 10**9) | st.builds(
    "{} {}".format, st.integers(1, 10**9), st.sampled_from(["epochs", "second"])
)
configs = st.builds(
    Config,
    x_name=texts,
    y_name=texts,
    hidden=st.lists(st.integers(1, 4096), max_size=4).map(tuple),
    batch_size=st.just("full") | st.integers(1, 2**40),
    shards=st.just("auto") | st.integers(1, 1024),
    learning_rate=positive,
    max_seconds=st.none() | positive,
    seed=st.integers(0, 2**63 - 1),
    standardize=st.booleans(),
    class_weight=st.none() | st.just("balanced") | st.dictionaries(texts, positive, max_size=3),
    checkpoint_every=intervals,
    optimizer=st.sampled_from(["sgd", "adamw"]),
)


def failure(action: Callable[[], object]) -> str:
    """Return the message with which the action fails, after checking that it is one line with exit code 2."""
    with pytest.raises(ConfigError) as caught:
        action()
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message
    assert "\n" not in message
    return message
