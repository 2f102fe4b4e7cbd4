"""A run in a folder, started or taken up again: its trainer, with all that it needs open until it ends."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ddp_mlp.config import Config, changed
from ddp_mlp.data.opening import Data
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.folder import RunFolder, what_checkpoints_share
from ddp_mlp.run_dir.resuming import open_run
from ddp_mlp.run_dir.saving import GO_ON
from ddp_mlp.storage import surveyed
from ddp_mlp.training.building import (
    build_batches,
    build_step,
    build_trainer,
    check_validation_data,
    start_values,
)
from ddp_mlp.training.machine import Machine
from ddp_mlp.training.memory import rounded_where_it_fits
from ddp_mlp.training.progress import Progress, why_ended
from ddp_mlp.training.saving_rules import saving_rule
from ddp_mlp.training.state import initialize
from ddp_mlp.training.trainer import Trainer
from ddp_mlp.training.watchdog import Watchdog


@contextmanager
def started(
    config: Config,
    data: Data,
    machine: Machine,
    communicator: Communicator,
    watchdog: Watchdog,
    aside: bool = False,
    again: str = GO_ON,
) -> Iterator[Trainer]:
    """Start the run in a claimed folder, or go on with it; yield its trainer. Collective.

    `aside`: it is one of many, and says nothing on the console but warnings. `again`: what makes it go on after a stop.
    """
    chosen = changed(config)  # before the program settles what is left to it
    start, state = open_run(config, data, machine.arithmetic, communicator)
    config = start.config
    check_validation_data(config, data)
    if data.record is not None and not aside:
        communicator.on_rank_0(surveyed.save, start.run_dir / surveyed.SURVEY, data.record)
    with communicator.in_agreement():
        progress = Progress() if start.progress is None else Progress.from_dict(start.progress)
    is_complete = start.progress is not None and why_ended(config, progress) is not None
    if not (aside or is_complete):  # trials have the memory of their data in common
        data = rounded_where_it_fits(config, data, communicator)
    batches, step = build_batches(config, data, communicator, progress), build_step(config, data, communicator)
    initialize(step, start.is_given_a_state, state)
    kernels: dict[str, Any] = {"kernels": list(start.kernels)} if start.kernels else {}
    versions = {**machine.versions, **machine.arithmetic, **kernels}
    like = what_checkpoints_share(config, data, versions, progress.step, progress.epoch)
    with RunFolder(communicator, start, like, is_complete, aside, again) as outputs, closing(batches):
        trainer = build_trainer(
            config,
            data,
            step,
            batches,
            outputs,
            progress=progress,
            saving=saving_rule(config.checkpoint_every),
            watchdog=watchdog,
            resumed=start.resumed_from is not None and not Path(start.resumed_from).is_absolute(),
            kernels=start.kernels,
        )
        if not is_complete:
            trainer.tell(
                "start",
                **start_values(config, data, machine, trainer),
                chosen=chosen,
                resumed_from=start.resumed_from,
                **kernels,
            )
        if machine.crowd is not None:
            step.phases.count_processor()
        yield trainer
