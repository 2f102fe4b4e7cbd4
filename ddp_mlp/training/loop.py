"""One run on one screen: settle machine, data and folder, then batch → step → outputs; and a step as it is derived.

All ranks go through this file together. Whatever a rank decides here, it decides from values that all ranks have, so
that all take the same turn; rank 0 alone writes files and talks.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ddp_mlp.config import Config
from ddp_mlp.data.batches import Batch
from ddp_mlp.data.opening import open_data
from ddp_mlp.errors import ProgramError, TrainingFailed
from ddp_mlp.parallel.communicator import Communicator, sharing
from ddp_mlp.run_dir.claiming import claimed, how_to_go_on
from ddp_mlp.summing.tallies import RankSignal
from ddp_mlp.training.interruption import Interruption, Signals
from ddp_mlp.training.libraries import with_blas_chosen
from ddp_mlp.training.machine import settled
from ddp_mlp.training.memory import check_opened
from ddp_mlp.training.phases import write_traces
from ddp_mlp.training.starting import started
from ddp_mlp.training.step import Step, StepResult
from ddp_mlp.training.trainer import Trainer
from ddp_mlp.training.watchdog import Watchdog

NO_SIGNAL = RankSignal()


def train(config: Config, communicator: Communicator) -> dict[str, Any]:
    """Train as configured, from the start or from run_dir's newest checkpoint; return the final event, with `run_dir`.

    Collective. Raises a ProgramError on all ranks, such as Interrupted after a signal or at the time limit, with a
    checkpoint saved, or TrainingFailed when the loss is no longer finite.
    """
    config = with_blas_chosen(config, communicator)
    with (
        sharing(communicator, config.shared_memory == "auto") as ranks,
        Watchdog(ranks, config.stall_seconds) as watchdog,
        settled(config, ranks) as machine,
    ):
        watchdog.at("reading data", 0)
        fits = partial(check_opened, config, ranks)
        data = open_data(config, ranks, fits)  # until here a signal has nothing to save, and ends the command at once
        watchdog.at("start", 0)
        with claimed(config, ranks) as named, Interruption(ranks.abort) as signals:
            again = watchdog.again = signals.again = how_to_go_on(config, str(named.run_dir))
            with started(named, data, machine, ranks, watchdog, again=again) as trainer:
                return {**train_to_end(trainer, signals), "run_dir": named.run_dir}


def train_to_end(trainer: Trainer, signals: Signals) -> dict[str, Any]:
    """Do what is left of a run, unless a signal stops it, and return the final event. Collective.

    What is no longer finite is told as an event, and raised.
    """
    try:
        return _through_all_steps(trainer, signals)
    except TrainingFailed as error:  # which all ranks have met
        with suppress(ProgramError):
            trainer.tell("failed", reason=str(error))
        raise


def _through_all_steps(trainer: Trainer, signals: Signals) -> dict[str, Any]:
    while not trainer.ended:
        for batch in trainer.batches.epoch(trainer.progress.epoch, trainer.steps_into_epoch):
            words = trainer.words_to_all(signals)
            result = take_step(trainer.step, batch, trainer.learning_rate(), words, trainer.next_is_logged)
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


def take_step(
    step: Step,
    batch: Batch,
    learning_rate: float,
    signal: RankSignal | Sequence[float] = NO_SIGNAL,
    measure_norm: bool = False,
) -> StepResult:
    """Train on one batch, all ranks together, as the derivation has it. Collective.

    `signal` is passed on to all ranks. A loss that is not finite changes no parameter.
    """
    m = len(batch.rows)  #                                       the global m: of the batch over all ranks
    step.begin(signal)
    for part in step.parts(batch):  #                            this rank's shards: sums over its own examples
        step.forward(part)  #                                    z = W A_prev + b, A = f(z)
        step.loss(part)  #                                       Σ loss, dz = A − Y
        step.backward(part)  #                                   dW = dz A_prevᵀ, db = Σ dz; dz = (Wᵀ dz) ⊙ f′(z)
    totals, signals = step.totals(m)  #                          Σ over all ranks: losses, weights
    norm = None
    if math.isfinite(totals.loss_sum):
        sums = step.sums(m)  #                                   Σ over all ranks: dW, db, in this rank's slice
        gradient = step.update.mean_gradient(sums, totals.weight_sum)  # ÷ the global m, or Σ w
        gradient, norm = step.update.clipped(gradient, measure_norm)
        for block in gradient:
            step.apply(block, batch.step, learning_rate)  #      W, b: each slice by one rank
    step.publish()
    return StepResult(totals, norm, learning_rate, signals)
