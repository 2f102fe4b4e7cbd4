"""One run, from data set to checkpoint: settle machine, data and folder, then batch → step → outputs.

All ranks go through this file together. Whatever a rank decides here, it decides from values that all ranks have, so
that all take the same turn; rank 0 alone writes files and talks.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data, open_data
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.claiming import claimed
from ddp_mlp.run_dir.folder import RunFolder, what_checkpoints_share
from ddp_mlp.run_dir.resuming import open_run
from ddp_mlp.training.building import (
    build_batches,
    build_schedule,
    build_step,
    check_validation_data,
    held_out,
    start_values,
)
from ddp_mlp.training.interruption import Interruption, Signals
from ddp_mlp.training.machine import Machine, settled
from ddp_mlp.training.phases import write_traces
from ddp_mlp.training.progress import Progress, why_ended
from ddp_mlp.training.saving_rules import saving_rule
from ddp_mlp.training.state import begin
from ddp_mlp.training.trainer import Trainer
from ddp_mlp.training.watchdog import Watchdog


def train(config: Config, communicator: Communicator) -> dict[str, Any]:
    """Train as configured, from the start or from run_dir's newest checkpoint; return the final event, with `run_dir`.

    Collective. Raises a ProgramError on all ranks, such as Interrupted after a signal or at the time limit, with a
    checkpoint saved, or TrainingFailed when the loss is no longer finite.
    """
    with Interruption(communicator.abort) as signals, settled(config, communicator) as machine:
        data = open_data(config, communicator)
        with claimed(config, communicator) as config, started(config, data, machine, communicator) as trainer:
            return {**complete(trainer, signals), "run_dir": config.run_dir}


def complete(trainer: Trainer, signals: Signals) -> dict[str, Any]:
    """Do what is left of a run, unless a signal stops it, and return the final event. Collective."""
    while not trainer.ended:
        for batch in trainer.batches.epoch(trainer.progress.epoch, trainer.steps_into_epoch):
            words = trainer.words_to_all(signals)
            result = trainer.step(batch, trainer.learning_rate(), words, trainer.next_is_logged)
            trainer.count(result)
            if trainer.epoch_is_complete:
                trainer.end_epoch()
            trainer.stop_if_asked(result)
            trainer.save_if_due(result)
            if trainer.ended:
                break
    if trainer.config.trace is not None:
        write_traces(trainer.config.trace, trainer.step.phases, trainer.communicator)
    return trainer.finish()


@contextmanager
def started(
    config: Config, data: Data, machine: Machine, communicator: Communicator, aside: bool = False
) -> Iterator[Trainer]:
    """Start the run in a claimed folder, or go on with it; yield its trainer. Collective.

    `aside`: it is one of many, and says nothing on the console but warnings.
    """
    start, state = open_run(config, data, communicator)
    config = start.config
    check_validation_data(config, data)
    with communicator.in_agreement():
        progress = Progress() if start.progress is None else Progress.from_dict(start.progress)
    complete = start.progress is not None and why_ended(config, progress) is not None
    batches, step = build_batches(config, data, communicator, progress), build_step(config, data, communicator)
    begin(step, start.is_given_a_state, state)
    like = what_checkpoints_share(config, data, machine.checkpoint_versions, progress.step, progress.epoch)
    with (
        RunFolder(communicator, start, like, complete, aside) as outputs,
        Watchdog(communicator, config.stall_seconds) as watchdog,
        closing(batches),
    ):
        trainer = Trainer(
            step,
            batches,
            build_schedule(config),
            outputs,
            config=config,
            progress=progress,
            held_out=held_out(data),
            saving=saving_rule(config.checkpoint_every),
            watchdog=watchdog,
            resumed=start.resumed_from is not None,
        )
        if not complete:
            trainer.tell("start", **start_values(config, data, machine, trainer), resumed_from=start.resumed_from)
        yield trainer
