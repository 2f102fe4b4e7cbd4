"""One training of a search: an ordinary run in a folder of its own, by the ranks of a group.

Collective over the group. A run that has begun goes on from its checkpoint, whichever ranks began it.
"""

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddp_mlp.config import Config
from ddp_mlp.errors import DataError, Diverged, StorageError, by_all_ranks
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import host_name
from ddp_mlp.run_dir.journal import JOURNAL
from ddp_mlp.storage import checkpoints
from ddp_mlp.training.interruption import Signals
from ddp_mlp.training.loop import train_to_end
from ddp_mlp.training.machine import Machine
from ddp_mlp.training.starting import started
from ddp_mlp.training.trainer import watched_value
from ddp_mlp.training.watchdog import Watchdog
from ddp_mlp.trials.course import Outcome, Unit
from ddp_mlp.trials.plan import MEMBER, SearchPlan
from ddp_mlp.trials.rows import SearchRows
from ddp_mlp.units import counted


def train_unit(
    plan: SearchPlan, unit: Unit, rows: SearchRows, group: Communicator, machine: Machine, signals: Signals
) -> Outcome:
    """Train, or go on training, and return what came of it. A loss that is not finite is an outcome, too.

    Raises Interrupted, with a checkpoint saved, and any other ProgramError, on all ranks of the group.
    """
    began = time.perf_counter()
    config = plan.config(unit, rows.rows(unit))
    group.on_rank_0(_make_folder, config, unit)
    final: dict[str, Any] = {}
    failed, score = None, None
    try:
        with Watchdog(group, config.stall_seconds) as watchdog, group:
            data = rows.of(unit, config, group)
            with started(config, data, machine, group, watchdog, aside=True) as trainer:
                final = train_to_end(trainer, signals)
            _check_end(config, final)
            score = watched_value(config.monitor, final)
            if score is None and unit.rung != MEMBER:
                score = group.on_rank_0(_monitored, config)
        if score is not None and not math.isfinite(score):
            failed, score = f"{config.monitor} is {score} in the end", None
    except Diverged as error:
        failed = error.problem
    return Outcome(
        score=score,
        failed=failed,
        epochs=final.get("epoch", 0),
        steps=final.get("step", 0),
        parameters_sha256=final.get("parameters_sha256"),
        figures={name: value for name, value in final.items() if _is_figure(name, value)},
        seconds=round(time.perf_counter() - began, 3),
        host=host_name(),
    )


def _check_end(config: Config, final: Mapping[str, Any]) -> None:
    """Raise DataError where a training has gone on beyond its end, which another command can make it do. Local."""
    if final["epoch"] > config.epochs or final["step"] > (config.max_steps or math.inf):
        many = counted(final["epoch"], "epoch")
        words = f"{config.run_dir}: has been trained on, to {many} and {counted(final['step'], 'step')}"
        raise by_all_ranks(DataError(f"{words}, outside of the search: remove its checkpoints, it is trained again"))


def _is_figure(name: str, value: Any) -> bool:
    """Tell whether this is a figure of what is held out, and a finite one: the table is JSON."""
    return name.startswith(("valid_", "test_")) and isinstance(value, int | float) and math.isfinite(value)


def _make_folder(config: Config, unit: Unit) -> None:
    """Make a training's folder; where it is beyond this rung, as the table has lost a line, it begins anew."""
    folder = Path(config.run_dir or "") / "checkpoints"
    is_beyond = config.max_steps is not None and checkpoints.last_step(folder) > config.max_steps
    try:
        if is_beyond and unit.rung != MEMBER:
            shutil.rmtree(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error


def _monitored(config: Config) -> float:
    """Return a figure that the end of a run does not tell, such as the training loss, of the epoch that is kept."""
    path = Path(config.run_dir or "") / JOURNAL
    try:
        events = [json.loads(line) for line in path.read_bytes().splitlines()]
        values = [float(event[config.monitor]) for event in events if event["event"] == "epoch"]
        return min(values) if config.restore_best else values[-1]
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, IndexError, TypeError):
        raise DataError(f"{path}: has no {config.monitor}: remove {config.run_dir}, it is trained again") from None
