"""The keys: what they hold, what a stored configuration gives back, and what a resumed run may change."""

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp_mlp.config import Config, changed, first_difference, from_dict, to_dict
from ddp_mlp.errors import ConfigError
from tests.configurations import configs, failure

NAMES = [field.name for field in dataclasses.fields(Config)]


@given(configs)
def test_dict_reads_back_through_json(config: Config) -> None:
    """What `to_dict` gives survives JSON and builds an equal configuration."""
    assert from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False))) == config


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*NAMES, "bogus"]), junk, min_size=1, max_size=2))
def test_junk_is_refused_or_valid(values: dict[str, Any]) -> None:
    """Any JSON gives either a configuration that reads back, or one line with a key of it."""
    try:
        config = from_dict(values)
    except ConfigError:
        message = failure(lambda: from_dict(values))
        assert any(name in message for name in values)
    else:
        assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("values", [None, [], "epochs", 5])
def test_from_dict_wants_a_table(values: Any) -> None:
    """A stored configuration that is no table is refused."""
    assert "expected a table" in failure(lambda: from_dict(values))


def other(name: str) -> Config:
    """Return the default configuration with another value for one key."""
    default = getattr(Config(), name)
    choices: list[Any] = [not default] if isinstance(default, bool) else [4, 0.0005, "x", (5,)]
    choices += [
        "stream",
        "none",
        "float64",
        "sgd",
        "step",
        "valid_accuracy",
        "never",
        "continue",
        "allreduce",
        "balanced",
        "tanh",
        "softplus",
        "huber",
        (0.25,),
        {"a": 2.0},
        "portable",
        "full",
        "mkl",
        "off",
    ]
    for value in choices:
        try:
            changed = (
                from_dict({"optimizer": "adamw"} | {name: value})
                if name == "weight_decay"
                else from_dict({name: value})
            )
        except ConfigError:
            continue
        if getattr(changed, name) != default:
            return changed
    raise AssertionError(name)


# written out from what each key does, not read off the code: these leave the bits of the run as they are
FREE = {
    *("data", "valid_data", "test_data"),
    *("access", "check", "run_dir", "describe", "teach", "quiet", "debug", "trace", "private", "tensorboard"),
    *("epochs", "max_steps", "max_seconds", "patience", "restore_best", "stall_seconds", "shared_memory"),
    *("checkpoint_every", "keep", "resume", "resume_override", "on_save_error", "log_every"),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_resumed_run_may_change(name: str) -> None:
    """A changed key is reported exactly when it decides the bits of the run."""
    asked = other(name)
    stored = dataclasses.replace(Config(), optimizer=asked.optimizer) if name == "weight_decay" else Config()
    found = first_difference(stored, asked)
    assert found == (None if name in FREE else (name, getattr(stored, name), getattr(asked, name)))


def test_learning_rate_needs_the_override() -> None:
    """Only `resume_override` lets a resumed run change the learning rate, and it frees nothing else."""
    assert first_difference(Config(), Config(learning_rate=0.1)) == ("learning_rate", 3e-3, 0.1)
    assert first_difference(Config(), Config(learning_rate=0.1, resume_override=True)) is None
    assert first_difference(Config(), Config(seed=1, resume_override=True)) == ("seed", 0, 1)


def test_auto_takes_the_stored_shards() -> None:
    """Asking for automatic shards agrees with any stored number; another number does not."""
    assert first_difference(Config(shards=16), Config()) is None
    assert first_difference(Config(shards=16), Config(shards=8)) == ("shards", 16, 8)


def test_threads_are_free_where_they_decide_no_bits() -> None:
    """Under portable arithmetic a resumed run may use another number of threads; the arithmetic itself stays."""
    portable = Config(arithmetic="portable")
    assert first_difference(portable, Config(arithmetic="portable", threads=4)) is None
    assert first_difference(Config(), Config(threads=4)) == ("threads", 1, 4)
    assert first_difference(portable, Config(threads=4)) == ("arithmetic", "portable", "native")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [("dtype", "float64", "float32"), ("shards", 8, "has none"), ("reduction", "allreduce", "sums of its own")],
)
def test_portable_refuses_what_it_does_not_have(key: str, value: Any, why: str) -> None:
    """float64, shards and a reduction are refused where they are given, in one line that says why."""
    message = failure(lambda: from_dict({"arithmetic": "portable", key: value}))
    assert message.startswith(f"{key} = {value}: ")
    assert "arithmetic = portable" in message
    assert why in message


def test_docstring_documents_every_key_once() -> None:
    """The docstring has one line for each key, in the order of the fields of its theme, and none for anything else."""
    assert Config.__doc__ is not None
    documented = re.findall(r"^ {6}(\w+): \S", Config.__doc__, re.MULTILINE)
    assert sorted(documented) == sorted(NAMES)


def test_changed_keys() -> None:
    """What differs from the default is named, a folder apart; nothing that the program itself chooses."""
    assert changed(Config()) == []
    assert changed(Config(run_dir="somewhere", epochs=Config().epochs, shards=16, hidden=(3,))) == ["hidden", "shards"]
