"""What a space may say, what it gives, and in which words it is refused."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError, StorageError
from ddp_mlp.trials import space
from ddp_mlp.trials.sampling import draw

TABLE: dict[str, Any] = {
    "learning_rate": {"log": [1e-4, 1e-1]},
    "dropout": {"uniform": [0.0, 0.5], "points": 6},
    "batch_size": {"int": [32, 512], "log": True},
    "optimizer": {"choice": ["adam", "momentum"]},
    "momentum": {"uniform": [0.5, 0.99], "when": {"optimizer": "momentum"}},
    "hidden": {"depth": {"int": [1, 3]}, "widths": {"choice": [32, 64, 128]}},
}


def test_every_kind_gives_a_configuration() -> None:
    """Each trial's settings pass, and a key that waits for another is there where that has the value."""
    found = space.parse(TABLE, Config(epochs=7))
    for chosen in draw(found, "sobol", 0, 50):
        config = found.configure(chosen)
        assert config.epochs == 7
        assert config.learning_rate == chosen["learning_rate"]
        assert list(config.hidden) == chosen["hidden"]
        assert ("momentum" in chosen) == (chosen["optimizer"] == "momentum")


def test_the_order_of_the_lines_does_not_matter() -> None:
    """Nor does a key's place in its table."""
    turned = {key: dict(reversed(value.items())) for key, value in reversed(TABLE.items())}
    assert draw(space.parse(turned, Config()), "random", 3, 20) == draw(space.parse(TABLE, Config()), "random", 3, 20)


def test_a_condition_may_name_a_key_that_is_not_searched() -> None:
    """Then the configuration's value counts: here the key is never searched."""
    table = {"seed": {"int": [0, 9]}, "weight_decay": {"log": [1e-4, 1e-1], "when": {"optimizer": ["adamw"]}}}
    assert all("weight_decay" not in chosen for chosen in draw(space.parse(table, Config()), "sobol", 0, 5))
    assert all(
        "weight_decay" in chosen for chosen in draw(space.parse(table, Config(optimizer="adamw")), "sobol", 0, 5)
    )


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_points_are_the_product_but_for_conditions(a: int, b: int, c: int) -> None:
    """`dropout` is searched for adam alone: a + b·c… counted by hand, and no point twice."""
    table = {
        "optimizer": {"choice": ["adam", "sgd"]},
        "dropout": {"choice": [i / 10 for i in range(a)], "when": {"optimizer": ["adam"]}},
        "momentum": {"choice": [i / 10 for i in range(b)], "when": {"optimizer": ["sgd"]}},
        "seed": {"choice": list(range(c))},
    }
    points = list(space.parse(table, Config()).points())
    assert len(points) == (a + b) * c
    assert len({str(point) for point in points}) == len(points)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({}, "space: is empty"),
        ({"learning_rat": {"log": [1e-4, 1]}}, 'space: unknown key "learning_rat": did you mean learning_rate?'),
        ({"run_dir": {"choice": ["a"]}}, "space: run_dir: is the same for all trials of a search"),
        ({"data": {"choice": ["a"]}}, "space: data: is the same for all trials of a search"),
        ({"valid_fraction": {"uniform": [0.1, 0.2]}}, "as it decides which rows and targets scores are of"),
        ({"arithmetic": {"choice": ["native", "portable"]}}, "as it belongs to the machine"),
        ({"loss": {"choice": ["huber", "squared_error"]}}, "space: loss: decides what valid_loss is"),
        ({"huber_delta": {"uniform": [1, 2]}}, "space: huber_delta: decides what valid_loss is"),
        ({"shards": {"choice": [1, 2]}}, "space: shards: is the same for all trials of a search"),
        ({"learning_rate": {"log": [0, 1]}}, "space: learning_rate: log = [0, 1]: the first must be above 0"),
        ({"learning_rate": {"log": [1, 0.1]}}, "space: learning_rate: log = [1, 0.1]: the first must be less than"),
        ({"learning_rate": {"uniform": [-1, 1]}}, "space: learning_rate = -1.0: must be above 0"),
        ({"learning_rate": [1e-4, 1]}, "space: learning_rate: expected a table such as"),
        ({"learning_rate": {"log": [1e-4, 1], "uniform": [0, 1]}}, "space: learning_rate: expected one of choice"),
        ({"learning_rate": {"log": [1e-4, 1], "step": 2}}, "space: learning_rate: step does not go with log"),
        ({"learning_rate": {"log": [1e-4, 1], "points": 1}}, "space: learning_rate: points = 1: must be a whole"),
        ({"learning_rate": {"log": "x"}}, "space: learning_rate: log = x: expected two numbers"),
        ({"batch_size": {"uniform": [32, 64]}}, "space: batch_size = 32.0: "),
        ({"batch_size": {"int": [0, 64]}}, "space: batch_size = 0: must be"),
        ({"batch_size": {"int": [8, 64], "step": 0}}, "space: batch_size: step = 0: must be a whole number from 1"),
        ({"batch_size": {"int": [0.5, 64]}}, "space: batch_size: int = [0.5, 64]: expected two whole numbers"),
        ({"optimizer": {"choice": []}}, "space: optimizer: choice: expected a list of values"),
        ({"optimizer": {"choice": ["adam", "adam"]}}, "space: optimizer: choice: has a value twice"),
        ({"optimizer": {"choice": ["adam", "lion"]}}, 'space: optimizer = lion: expected "sgd"'),
        ({"hidden": {"depth": {"int": [1, 2]}}}, "space: hidden: expected depth with width"),
        ({"hidden": {"depth": {"int": [1, 2]}, "width": {"int": [0, 9]}}}, "space: hidden: width: must be whole"),
        ({"hidden": {"depth": {"uniform": [1, 2]}, "width": {"int": [1, 9]}}}, "space: hidden: depth: must be whole"),
        ({"dropout": {"depth": {"int": [1, 2]}, "width": {"int": [1, 9]}}}, "space: dropout: depth is for hidden"),
        ({"weight_decay": {"uniform": [0.1, 0.2]}}, "space: weight_decay = 0.1: needs optimizer = adamw"),
        ({"dropout": {"choice": [0.1], "when": {"optimiser": ["adam"]}}}, "when names optimiser, which is no key"),
        ({"dropout": {"choice": [0.1], "when": {"optimizer": ["lion"]}}}, "space: optimizer = lion: expected"),
        (
            {
                "dropout": {"choice": [0.1], "when": {"seed": [1]}},
                "seed": {"choice": [1], "when": {"dropout": [0.1]}},
            },
            "space: dropout, seed wait for one another",
        ),
        ({"dropout": {"choice": [0.1], "when": {"dropout": [0.1]}}}, "space: dropout: when names the key itself"),
        ({"dropout": {"choice": [0.1], "when": {"optimizer": []}}}, "space: dropout: when: expected a table such as"),
        (
            {
                "optimizer": {"choice": ["adam", "sgd"]},
                "momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": ["momentum", "nesterov"]}},
            },
            "space: momentum: is never searched, as optimizer is never momentum or nesterov",
        ),
        (
            {"seed": {"int": [1, 9], "step": 2}, "dropout": {"choice": [0.1], "when": {"seed": [4]}}},
            "space: dropout: is never searched, as seed is never 4",
        ),
        (
            {"dropout": {"uniform": [0, 0.5], "points": 3}, "l2": {"choice": [0.1], "when": {"dropout": [0.3]}}},
            "space: l2: is never searched, as dropout is never 0.3",
        ),
        (
            {
                "hidden": {"depth": {"int": [1, 2]}, "width": {"int": [8, 16]}},
                "l2": {"choice": [0.1], "when": {"hidden": [[8, 16], [4], [8, 8, 8]]}},
            },
            "space: l2: is never searched, as hidden is never [8, 16] or [4] or [8, 8, 8]",
        ),
        ({"learning_rate": {"uniform": [0.1, 0.1000001], "points": 6}}, "points = 6: in 6 digits that is 1 value"),
        ({"learning_rate": {"log": [0.1, 1], "points": 10**9}}, "points = 1000000000: must be a whole number from 2"),
        ({"learning_rate": {"uniform": [1, 10**400]}}, "expected two numbers, such as"),
        ({"hidden": {"depth": {"int": [1, 10**9]}, "width": {"int": [1, 9]}}}, "depth: must be whole numbers from 0"),
        ({3: {"choice": [1]}}, 'space: unknown key "3"'),
        (
            {"dropout": {"choice": [0.1], "when": {"quiet": [False]}}},
            "space: dropout: when names quiet, which may change when the search goes on: drop it",
        ),
    ],
)
def test_what_is_wrong_is_one_line(table: dict[str, Any], problem: str) -> None:
    """Unknown keys, keys of the search, impossible values: each by the configuration's own rule where there is one."""
    with pytest.raises(ConfigError) as caught:
        space.parse(table, Config())
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpys_numbers_are_numbers() -> None:
    """From Python; what is kept of the table is what TOML would have given."""
    table = {
        "learning_rate": {"log": np.array([1e-3, 1e-1])},
        "batch_size": {"int": (np.int64(32), 64), "step": np.int64(16)},
        "hidden": {"choice": [np.array([8]), (8, 8)]},
    }
    found = space.parse(table, Config())
    assert found.table == {
        "learning_rate": {"log": [1e-3, 1e-1]},
        "batch_size": {"int": [32, 64], "step": 16},
        "hidden": {"choice": [[8], [8, 8]]},
    }
    assert json.loads(json.dumps(found.at([0.6] * 3))) == {
        "batch_size": 48,
        "hidden": [8, 8],
        "learning_rate": 0.0158489,
    }


def test_a_wide_range_takes_no_time() -> None:
    """Its ends are checked, and not each of ten thousand million widths."""
    found = space.parse({"hidden": {"depth": {"int": [1, 3]}, "width": {"int": [1, 10**10], "log": True}}}, Config())
    assert found.at([0.5, 0.5]) == {"hidden": [100000, 100000]}


@pytest.mark.parametrize("key", ["epochs", "max_steps"])
def test_what_ends_a_trial_and_halving_exclude_one_another(key: str) -> None:
    """Without halving, it is a key like another."""
    table = {key: {"int": [1, 5]}}
    assert space.parse(table, Config())
    with pytest.raises(ConfigError, match="cannot be searched with halving"):
        space.parse(table, Config(), halving=True)


def test_every_key_is_searched_or_refused_with_a_reason() -> None:
    """What is neither of the run nor refused by name can be in a space, where the monitor is no loss."""
    searched = set()
    for field in dataclasses.fields(Config):
        value = getattr(Config(), field.name)
        value = list(value) if isinstance(value, tuple) else value
        found = parsed({field.name: {"choice": [value]}}, Config(monitor="valid_rmse"))
        if isinstance(found, space.Space):
            searched.add(field.name)
        else:
            assert re.search("is the same for all trials of a search, as it .*: set it in the configuration", found)
    assert {"standardize", "dtype", "loss", "activation", "output_activation", "quantiles", "class_weight"} <= searched
    assert {"hidden", "optimizer", "seed", "batch_size", "shuffle", "max_steps", "epochs", "patience"} <= searched
    assert not searched & set(space.REFUSED)


def test_a_file_is_toml(tmp_path: Path) -> None:
    """What is not says so with the file's name; so does a file that is not there."""
    path = tmp_path / "space.toml"
    path.write_text("learning_rate = { log = [1e-4, 1e-1] }\n")
    assert space.read(path) == {"learning_rate": {"log": [1e-4, 1e-1]}}
    path.write_text("learning_rate = {\n")
    with pytest.raises(ConfigError, match=r"space\.toml: "):
        space.read(path)
    with pytest.raises(ConfigError, match="not found"):
        space.read(tmp_path / "none.toml")
    with pytest.raises(StorageError, match="cannot be read"):
        space.read(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 600) | st.floats(-1, 2) | st.sampled_from(["adam", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choice", "log", "int", "uniform", "points", "when", "depth"]), inner)
    ),
    max_leaves=6,
)


def parsed(table: dict[str, Any], base: Config | None = None) -> space.Space | str:
    """Return the space, or the line by which it is refused."""
    try:
        return space.parse(table, base or Config())
    except ConfigError as error:
        return str(error)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["hidden", "optimizer", "dropout", "batch_size", "seed", "nope"]), json_values))
def test_any_table_is_a_space_or_one_line(table: dict[str, Any]) -> None:
    """Whatever is written there: a space whose trials are valid, or a ConfigError of one line."""
    found = parsed(table)
    if isinstance(found, str):
        assert "\n" not in found
    else:
        assert found.configure(found.at([0.999999] * found.dimensions))
