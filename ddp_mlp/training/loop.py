"""One run, from data set to checkpoint: settle machine, data and folder, then batch → step → journal → checkpoint.

All ranks go through this file together. Whatever a rank decides here, it decides from values that all ranks have, so
that all take the same turn; rank 0 alone writes files and talks.
"""

from typing import Any

from ddp_mlp.config import Config
from ddp_mlp.data.opening import open_data
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.claiming import claimed
from ddp_mlp.run_dir.resuming import open_run
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.machine import settled
from ddp_mlp.training.run import Run


def train(config: Config, communicator: Communicator) -> dict[str, Any]:
    """Train as configured, from the start or from run_dir's newest checkpoint; return the final event, with `run_dir`.

    Collective. Raises a ProgramError on all ranks, such as Interrupted after a signal or at the time limit, with a
    checkpoint saved, or TrainingFailed when the loss is no longer finite.
    """
    with Interruption(communicator.abort) as signals, settled(config, communicator) as machine:
        data = open_data(config, communicator)
        with claimed(config, communicator) as config:
            start, state = open_run(config, data, communicator)
            with Run(start, state, data, machine, communicator) as run:
                return {**complete(run, signals), "run_dir": config.run_dir}


def complete(run: Run, signals: Interruption) -> dict[str, Any]:
    """Do what is left of a run, unless a signal stops it, and return the final event. Collective."""
    while not run.ended:
        for batch in run.batches.epoch(run.progress.epoch, run.steps_into_epoch):
            result = run.step(batch, run.learning_rate(), run.words_to_all(signals), run.next_is_logged)
            run.count(result)
            if run.epoch_is_complete:
                run.end_epoch()
            run.stop_if_asked(result)
            run.save_if_due(result)
            if run.ended:
                break
    return run.finish()
