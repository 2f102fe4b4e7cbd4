"""best.toml is read back as it was, and a stored search is told from another one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.trials import files, log
from ddp_mlp.trials.plan import SearchOptions, SearchPlan, plan_search

SPACE: dict[str, Any] = {"learning_rate": {"log": [1e-4, 1e-1]}}


@settings(deadline=None, max_examples=50)
@given(
    rate=st.floats(1e-12, 1e3),
    hidden=st.lists(st.integers(1, 4096), max_size=4),
    weight=st.none() | st.just("balanced") | st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0, 1e6)),
    patience=st.none() | st.integers(1, 99),
)
def test_the_best_configuration_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rate: float, hidden: list[int], weight: Any, patience: int | None
) -> None:
    """Every key, whatever stands in the names of classes."""
    folder = tmp_path_factory.mktemp("best")
    config = Config(
        learning_rate=rate, hidden=tuple(hidden), class_weight=weight, patience=patience, restore_best=True, shards=8
    )
    files.write_best(folder, replace(config, run_dir="elsewhere", quiet=True), "trial 0 of 1")
    assert configuration.parse(["--config", str(folder / files.BEST_SETTINGS)]) == config


def plan_of(run_dir: Path, asked: SearchOptions | None = None, **changes: Any) -> SearchPlan:
    """Return the plan of a small search."""
    config = Config(run_dir=str(run_dir), **{"valid_fraction": 0.2, **changes})
    return plan_search(config, SPACE, asked or SearchOptions(trials=4))


def test_a_search_goes_on_only_as_it_was(tmp_path: Path) -> None:
    """What decides results may not change; more trials, ranks, limits and the data file's place may."""
    files.begin(tmp_path, plan_of(tmp_path), {"train": "a"})
    before = files.stored(tmp_path)
    assert before is not None
    for plan in (
        plan_of(tmp_path, SearchOptions(trials=4, ranks_per_trial=3)),
        plan_of(tmp_path, SearchOptions(trials=5)),
        plan_of(tmp_path, max_seconds=3.0, keep=7, data="elsewhere.h5", quiet=True, shards=8),
    ):
        files.agree(tmp_path, before, plan, {"train": "a"})
    for plan, problem in (
        (plan_of(tmp_path, SearchOptions(trials=3)), "trials = 3, but the search in"),
        (plan_of(tmp_path, SearchOptions(trials=4, sampler="random")), "sampler = random, but"),
        (plan_of(tmp_path, SearchOptions(trials=4, members=2)), "members = 2, but"),
        (plan_of(tmp_path, seed=3), "seed = 3, but"),
        (plan_of(tmp_path, restore_best=True), "restore_best = True, but"),
        (plan_of(tmp_path, shards=16), "shards = 16, but"),
        (plan_of(tmp_path, standardize="none"), "standardize = none, but"),
        (plan_of(tmp_path, momentum=0.5, resume_override=True), "momentum = 0.5, but"),
        (plan_of(tmp_path, learning_rate=0.5, resume_override=True), "learning_rate = 0.5, but"),
    ):
        with pytest.raises(ConfigError, match=problem):
            files.agree(tmp_path, before, plan, {"train": "a"})
    with pytest.raises(DataError, match="its train is not what the search"):
        files.agree(tmp_path, before, plan_of(tmp_path), {"train": "b"})
    other = {**before, "space": {"seed": {"int": [0, 1]}}}
    with pytest.raises(ConfigError, match="space: is not that of the search"):
        files.agree(tmp_path, other, plan_of(tmp_path), {"train": "a"})
    newer = {**before, "config": {**before["config"], "later": 1}}
    with pytest.raises(DataError, match=r'search\.json: unknown key "later".*: another version'):
        files.agree(tmp_path, newer, plan_of(tmp_path), {"train": "a"})


def test_what_a_search_was_told_is_not_left_to_it_later(tmp_path: Path) -> None:
    """Its next trials would choose for themselves: "auto" is another answer than "none", which the first ones had."""
    files.begin(tmp_path, plan_of(tmp_path, standardize="none"), {"train": "a"})
    before = files.stored(tmp_path)
    assert before is not None
    with pytest.raises(ConfigError, match=r"standardize = auto, but the search in .* has standardize = none"):
        files.agree(tmp_path, before, plan_of(tmp_path), {"train": "a"})
    files.agree(tmp_path, before, plan_of(tmp_path, standardize=False), {"train": "a"})  # its older word


def test_a_newer_or_foreign_file_is_named(tmp_path: Path) -> None:
    """None is no search; anything else says which format it has."""
    assert files.stored(tmp_path) is None
    contents: list[Any] = [{"format": "ddp_mlp search 2"}, [], {"format": files.FORMAT, "folds": 1, "members": "2"}]
    for content in contents:
        (tmp_path / files.SEARCH).write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"search\.json: (is not a whole search's|format)"):
            files.stored(tmp_path)
    files.begin(tmp_path, plan_of(tmp_path), {"train": "a"})
    whole = json.loads((tmp_path / files.SEARCH).read_text())
    assert files.stored(tmp_path) == whole
    for name in whole:
        for damaged in ({key: value for key, value in whole.items() if key != name}, {**whole, name: [1]}):
            (tmp_path / files.SEARCH).write_text(json.dumps(damaged))
            with pytest.raises(DataError, match=r"search\.json: (is not a whole search's|format)"):
                files.stored(tmp_path)
    (tmp_path / files.SEARCH).write_bytes(b"{")
    with pytest.raises(DataError, match=r"search\.json: is not a search's"):
        files.stored(tmp_path)


def test_an_event_is_an_object(tmp_path: Path) -> None:
    """In a search's events: the report names the file."""
    files.begin(tmp_path, plan_of(tmp_path), {"train": "a"})
    files.tell(tmp_path, "start", ranks=1, groups=1, idle=0)
    found = log.read(tmp_path)
    assert found is not None
    assert [event["event"] for event in found.events] == ["start"]
    (tmp_path / files.SEARCH_EVENTS).write_text("[1]\n")
    with pytest.raises(DataError, match=r"search\.jsonl: is not a search's"):
        log.read(tmp_path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"trials": "2"}, "trials = 2: expected an integer"),
        ({"trials": 2.5}, r"trials = 2\.5: expected an integer"),
        ({"trials": True}, "trials = true: expected an integer"),
        ({"trials": 10**9}, "trials = 1000000000: must be at least 1 and at most 100000"),
        ({"halving": 1}, "halving = 1: must be at least 2"),
        ({"folds": 2.5}, r"folds = 2\.5: expected an integer"),
        ({"members": None}, "members = null: expected an integer"),
        ({"members": 10**9}, "members = 1000000000: must be at least 1 and at most 100000"),
        ({"folds": 2**15 + 1}, "folds = 32769: must be at least 1 and at most 32768"),
        ({"ranks_per_trial": 0}, "ranks_per_trial = 0: must be at least 1"),
        ({"sampler": ["grid"]}, r"sampler = \['grid'\]: expected \"sobol\""),
    ],
)
def test_what_is_asked_has_the_type_of_a_key(options: dict[str, Any], problem: str) -> None:
    """Checked as a configuration's keys are; NumPy's whole numbers become Python's, which JSON takes."""
    with pytest.raises(ConfigError, match=problem):
        SearchOptions(**options)
    three: Any = np.int64(3)
    assert type(SearchOptions(trials=three).trials) is int
