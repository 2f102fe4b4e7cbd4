"""A search from beginning to end: settle machine, data, folder and groups; then every rank takes part.

All ranks go through this file together. What a trial gives is a function of (configuration, trial number, seed): never
of its group, of timing or of the number of ranks.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.data.adapting import ADAPTED, adapted, check_values
from ddp_mlp.data.opening import Data, open_data
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.inference.metrics import check_monitor
from ddp_mlp.parallel.communicator import Communicator, sharing
from ddp_mlp.run_dir.claiming import claimed, how_to_go_on
from ddp_mlp.training import interruption
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.libraries import with_blas_chosen
from ddp_mlp.training.machine import settled
from ddp_mlp.training.watchdog import Watchdog
from ddp_mlp.trials import files, memory, table
from ddp_mlp.trials.course import Course, Outcome, Unit
from ddp_mlp.trials.crew import Post, Summons, take_part
from ddp_mlp.trials.dispatcher import Dispatcher
from ddp_mlp.trials.groups import make_groups
from ddp_mlp.trials.office import Office, RankPost
from ddp_mlp.trials.plan import SearchOptions, SearchPlan, plan_search
from ddp_mlp.trials.rows import SearchRows
from ddp_mlp.trials.sampling import draw
from ddp_mlp.trials.training import train_unit


def search(
    config: Config, space: Mapping[str, Any], asked: SearchOptions, communicator: Communicator
) -> dict[str, Any]:
    """Search as asked, from the start or from where run_dir's search stands; return what `search.jsonl` ends with.

    Collective. Raises a ProgramError on all ranks, such as Interrupted after a signal or at the time limit, with all
    trainings saved; or TrainingFailed where every trial failed.
    """
    config = with_blas_chosen(config, communicator)
    plan = communicator.on_rank_0(plan_search, config, space, asked)
    groups = communicator.on_rank_0(make_groups, communicator.nodes, asked.ranks_per_trial)
    with (
        sharing(communicator, config.shared_memory == "auto") as communicator,
        settled(config, communicator) as machine,
    ):
        whole = replace(plan.base, class_weight=None)
        with Watchdog(communicator, config.stall_seconds) as watchdog:
            watchdog.at("reading data", 0)
            data = open_data(whole, communicator)
            communicator.on_rank_0(_check_scores, plan, data)
            rows = SearchRows(data, asked.folds, config.seed, communicator)
        # Until here a signal has nothing to save, and ends the command at once.
        free = memory.free_on_nodes(communicator)
        communicator.on_rank_0(memory.check, plan, data, groups, communicator.nodes, free)
        with (
            claimed(plan.base, communicator) as base,
            Interruption(communicator.abort) as signals,
            ExitStack() as stack,
        ):
            plan, course = communicator.on_rank_0(_stand, replace(plan, base=base), data)
            number = groups.of(communicator.rank)
            group = communicator.split(number)
            post: Post = RankPost(communicator)
            if communicator.rank == 0:
                office = Office(communicator)
                again = how_to_go_on(config, str(base.run_dir))
                dispatcher = Dispatcher(plan, course, groups.ranks, communicator.size, office.send, again)
                post = stack.enter_context(office.open(dispatcher))
            summons = Summons(lambda: signals.signal, interruption.name, post, interruption.SIGNALS[0])

            def train(unit: Unit) -> Outcome:
                assert group is not None, "idle ranks train nothing"
                return train_unit(plan, unit, rows, group, machine, summons)

            result = take_part(number, group is not None and group.rank == 0, post, summons, train)
            if group is not None:
                group.free()
            return result


def _stand(plan: SearchPlan, data: Data) -> tuple[SearchPlan, Course]:
    """Return the plan and where the search in its folder stands; begin it where there is none. On rank 0 alone."""
    assert plan.base.run_dir is not None, "claimed"
    run_dir = Path(plan.base.run_dir)
    before = files.stored(run_dir)
    if before is None:
        if any((run_dir / "checkpoints").iterdir()):
            raise ConfigError(f"run_dir = {run_dir}: holds a run that is no search: choose another")
        if any((run_dir / name).exists() for name in (table.TABLE, "trials", "members")):
            raise DataError(f"{run_dir}: has trials, but no {files.SEARCH}: put it back, or choose another run_dir")
        files.begin(run_dir, plan, data.fingerprint)
    else:
        if plan.base.resume == "never":
            raise ConfigError(f"resume = never, but {run_dir} has been used: choose another run_dir")
        files.agree(run_dir, before, plan, data.fingerprint)
        if files.grows(before, plan):
            earlier = draw(plan.space, plan.asked.sampler, plan.base.seed, before["trials"])
            if earlier != plan.settings[: len(earlier)]:
                words = f"trials = {plan.asked.trials}: the search in {run_dir} has {before['trials']}"
                raise ConfigError(f"{words}, and its space so few points that more change them: choose another run_dir")
            files.forget_members(run_dir)
            files.begin(run_dir, plan, data.fingerprint)
    rows = table.read(run_dir / table.TABLE)
    for trial, row in rows.items():
        is_known = 0 <= trial < len(plan.settings) and row["settings"] == plan.settings[trial]
        fits = len(row["rungs"]) <= len(plan.rungs) and all(len(e["folds"]) == plan.asked.folds for e in row["rungs"])
        if not (is_known and fits):
            raise DataError(f"{run_dir / table.TABLE}: trial {trial} is not one of this search: remove its line")
    if before is not None:
        table.write(run_dir / table.TABLE, rows.values())  # without what a crash has torn: lines are appended now
    largest = files.is_largest_best(plan.base.monitor)
    return plan, Course(plan.settings, plan.rungs, plan.asked.folds, largest, rows)


def _check_scores(plan: SearchPlan, data: Data) -> None:
    """Raise ConfigError unless every training has the figures that it is judged by."""
    monitor, folds = plan.base.monitor, plan.asked.folds
    _check_targets(plan, data)
    if folds == 1 and data.valid is None and monitor.startswith("valid"):
        raise ConfigError(
            f"monitor = {monitor}: needs validation data: a group valid in {plan.base.data}, valid_fraction, or folds"
        )
    if folds > 1 and data.valid is None and monitor != "train_loss":
        for trial in range(len(plan.settings)):
            config = plan.member(trial, 0)
            needs = {
                "patience": config.patience is not None,
                "restore_best": config.restore_best,
                "schedule = plateau": config.schedule == "plateau",
            }
            for name in (name for name, asked in needs.items() if asked):
                raise ConfigError(
                    f"{name}: in the end the best settings are trained on all of train, with no fold held out: that "
                    f"needs a group valid in {plan.base.data}, or folds = 1 with valid_fraction"
                )


def _check_targets(plan: SearchPlan, data: Data) -> None:
    """Raise ConfigError or DataError unless the rows are what every trial takes them for, and its score is a figure."""
    settled: set[str] = set()
    streamed = data.access is not None and data.access.kind == "stream"
    for trial, settings in enumerate(plan.settings):
        config = plan.member(trial, 0)
        for name, value, instead in (("shuffle", "rows", "blocks"), ("batch_size", "full", "a number")):
            if streamed and getattr(config, name) == value:
                words = f"{name} = {value}: needs all rows in memory, and they are streamed: {instead} instead"
                raise ConfigError(f"{words} (trial {trial})")
        asked = {name: value for name, value in configuration.to_dict(config).items() if name in ADAPTED}
        if (name := json.dumps(asked)) in settled:
            continue
        settled.add(name)
        try:
            targets = adapted(data, config).targets
            check_values(data, targets.loss)
            check_monitor(plan.base.monitor, targets)
        except ConfigError as error:
            words = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items() if key in ADAPTED)
            raise ConfigError(f"{error} (trial {trial} has {words})" if words else str(error)) from error
