"""What trainings take is bounded from above."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.data.opening import open_data
from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.explaining.describe import outline
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.trials import memory
from ddp_mlp.trials.groups import make_groups
from ddp_mlp.trials.plan import SearchOptions, plan_search


@pytest.mark.parametrize("batch_size", [64, "full"])
@pytest.mark.parametrize("hidden", [(8,), (512, 512), (2048, 16)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_bound_is_above_what_describe_counts(batch_size: int, hidden: tuple[int, ...], optimizer: str) -> None:
    """Gradients, optimizer and activations of one rank, counted buffer by buffer; and not ten times as much."""
    config = Config(hidden=hidden, batch_size=batch_size, optimizer=optimizer, shards=8)  # type: ignore[arg-type]
    found = outline(config, SingleProcess())
    counted = found.parameters + sum(r.gradients + r.optimizer + r.activations for r in found.ranks)
    bound = memory.training_bytes(config, found.info.features, 10, found.rows, 1)
    assert counted <= bound <= 10 * counted


def test_the_largest_trials_are_taken_together() -> None:
    """Two groups on a node: the two largest must fit; in one group, the largest alone."""
    config = Config(valid_fraction=0.2, run_dir="none")
    space = {"hidden": {"choice": [[64], [128], [256]]}}
    plan = plan_search(config, space, SearchOptions(sampler="grid"))
    data = open_data(replace(plan.base, access="memory"), SingleProcess())
    sizes = [memory.training_bytes(plan.member(t, 0), 64, 10, data.train[0].m, 1) for t in range(3)]
    assert np.all(np.diff(sizes) > 0)
    room = sizes[2] + sizes[1] - 1
    memory.check(plan, data, make_groups([range(1)], 1), [range(1)], [("a", room)])
    with pytest.raises(EnvironmentMismatch, match=r"trial 2 takes .*, the 2 largest at once"):
        memory.check(plan, data, make_groups([range(2)], 1), [range(2)], [("a", room)] * 2)


@pytest.mark.parametrize("options", [{"folds": 2}, {"members": 3}])
def test_the_largest_trial_may_be_trained_twice_at_once(options: dict[str, Any]) -> None:
    """Its folds, or the members that have its settings: two groups need room for it twice, one group for once."""
    config = Config(valid_fraction=0.0 if "folds" in options else 0.2, run_dir="none")
    space = {"hidden": {"choice": [[64], [128], [256]]}}
    plan = plan_search(config, space, SearchOptions(sampler="grid", **options))
    data = open_data(replace(plan.base, access="memory"), SingleProcess())
    largest = memory.training_bytes(plan.member(2, 0), 64, 10, data.train[0].m, 1)
    memory.check(plan, data, make_groups([range(1)], 1), [range(1)], [("a", largest)])
    memory.check(plan, data, make_groups([range(2)], 1), [range(2)], [("a", 2 * largest)] * 2)
    with pytest.raises(EnvironmentMismatch, match=r"trial 2 takes .*, the 2 largest at once"):
        memory.check(plan, data, make_groups([range(2)], 1), [range(2)], [("a", 2 * largest - 1)] * 2)
