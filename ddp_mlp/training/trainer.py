"""A run between its steps: what it counts, tells, watches and asks to be kept, and why it ends. It knows no files.

Whatever a rank decides here, it decides from values that all ranks have, so that all take the same turn.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np

from ddp_mlp.config import Config
from ddp_mlp.data.batches import Batches, Source
from ddp_mlp.data.opening import Rows
from ddp_mlp.errors import Diverged, Interrupted, TrainingFailed, by_all_ranks
from ddp_mlp.inference.evaluate import ForwardPass, Totals, evaluate
from ddp_mlp.inference.metrics import DIRECTIONS, metrics_of
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.parameters import parameters_sha256
from ddp_mlp.nn.schedules import Schedule, observe
from ddp_mlp.nn.targets import Targets
from ddp_mlp.parallel.host import host_name
from ddp_mlp.run_dir.console import Rate
from ddp_mlp.run_dir.journal import make_event
from ddp_mlp.run_dir.saving import Snapshot
from ddp_mlp.summing.tallies import RankSignal
from ddp_mlp.training import interruption
from ddp_mlp.training.interruption import Signals
from ddp_mlp.training.outputs import Outputs
from ddp_mlp.training.progress import Progress, why_ended
from ddp_mlp.training.saving_rules import Moment, SavingRule
from ddp_mlp.training.state import checksum, gather_state, restore
from ddp_mlp.training.step import Step, StepResult
from ddp_mlp.training.watchdog import Watchdog

TIME_IS_UP, SAVING_FAILED = 1, 2
"""Reasons to stop, in a `RankSignal`."""


class Trainer:
    """A run that has started or resumed. All of it is collective, unless it says local."""

    def __init__(
        self,
        step: Step,
        batches: Batches,
        schedule: Schedule,
        outputs: Outputs,
        *,
        config: Config,
        progress: Progress,
        held_out: Mapping[str, tuple[Source, Rows]],
        saving: SavingRule,
        watchdog: Watchdog,
        resumed: bool,
        targets: Targets,
        kernels: Sequence[str] = (),
    ) -> None:
        """`progress` is that of the step's parameters; `held_out` are the splits "valid" and "test" that there are.

        `resumed` tells whether the outputs keep this state already; `kernels` are those that have computed the run,
        where they are several.
        """
        self.step, self.batches, self.outputs, self.config, self.progress = step, batches, outputs, config, progress
        self.communicator, self.watchdog = step.communicator, watchdog
        self._schedule, self._saving, self._held_out = schedule, saving, held_out
        self._targets, self._tells_accuracy = targets, bool(targets.classes)
        arithmetic = arithmetics.called(config.arithmetic)
        self._forward = ForwardPass(step.architecture, step.reduction.parameters, arithmetic)
        self._parameters = step.layout.arrays(step.reduction.parameters)
        self._began = self._last_save = time.monotonic()
        self._earlier_seconds = progress.seconds
        self._saved_step = progress.step if resumed else -1
        self._kernels: dict[str, Any] = {"kernels": list(kernels)} if kernels else {}
        self._step_rate, self._epoch_rate = Rate(), Rate()

    # ---- where the run stands; local, and the same on every rank -----------------------------------------------------

    @property
    def total_steps(self) -> int:
        """The steps of all epochs."""
        return max(1, self.config.epochs * self.batches.steps_per_epoch)

    @property
    def steps_into_epoch(self) -> int:
        """How many steps of the present epoch are done."""
        return self.progress.step - self.progress.epoch * self.batches.steps_per_epoch

    @property
    def epoch_is_complete(self) -> bool:
        """Whether the last step was its epoch's last."""
        return self.steps_into_epoch == self.batches.steps_per_epoch

    @property
    def ended(self) -> str | None:
        """Why there are no more steps to do, or None."""
        return why_ended(self.config, self.progress)

    @property
    def next_is_logged(self) -> bool:
        """Whether the coming step ends with a step event."""
        return self.config.log_every > 0 and (self.progress.step + 1) % self.config.log_every == 0

    def learning_rate(self) -> float:
        """Return the learning rate of the coming step."""
        progress, steps = self.progress, self.batches.steps_per_epoch
        return self._schedule(progress.step + 1, self.total_steps, progress.epoch, steps, progress.plateau)

    def seconds(self) -> float:
        """Return the run's clock on this rank, in seconds over all its starts."""
        return self._earlier_seconds + time.monotonic() - self._began

    def words_to_all(self, signals: Signals) -> RankSignal:
        """Return what this rank has to tell all ranks with the coming step; rank 0's clock is the one that counts."""
        self.watchdog.at("training", self.progress.step + 1)
        if self.communicator.rank != 0:
            return RankSignal(signals.signal)
        now, limit = time.monotonic(), self.config.max_seconds
        time_is_up = limit is not None and now - self._began >= limit
        stop = SAVING_FAILED if self.outputs.failed else TIME_IS_UP if time_is_up else 0
        return RankSignal(signals.signal, stop, now - self._last_save)

    # ---- after a step ------------------------------------------------------------------------------------------------

    def count(self, result: StepResult) -> None:
        """Count a step, and log it where it is due. Raises Diverged where its loss is not finite."""
        progress, totals = self.progress, result.totals
        progress.step += 1
        if not math.isfinite(totals.loss_sum):
            layer = self.step.first_layer_not_finite()
            self._diverge(f"the loss is {totals.loss_sum}, from layer {layer} on: lower learning_rate or set clip_norm")
        if result.gradient_norm is not None and not math.isfinite(result.gradient_norm):
            self._diverge(f"the gradient's norm is {result.gradient_norm}: lower learning_rate")
        progress.epoch_totals = progress.epoch_totals.plus(totals)
        progress.logged_totals = progress.logged_totals.plus(totals)
        self._step_rate.count(totals.examples)
        self._epoch_rate.count(totals.examples)
        if self.config.log_every and progress.step % self.config.log_every == 0:
            self.tell(
                "step",
                loss=progress.logged_totals.loss_mean,
                **({"accuracy": progress.logged_totals.accuracy} if self._tells_accuracy else {}),
                learning_rate=result.learning_rate,
                gradient_norm=result.gradient_norm,
                examples_per_second=self._step_rate.take(),
                **self.step.figures(),
                **{f"seconds_{phase}": round(s, 6) for phase, s in self.step.phases.lap("step").items()},
            )
            progress.logged_totals = Totals()
            self._compare_parameters()
        self.outputs.step(progress.step, progress.epoch_totals, totals.examples)

    def end_epoch(self) -> None:
        """Evaluate, tell, and let the watches see the result; have the parameters kept where they are the best."""
        progress = self.progress
        self.watchdog.at("evaluation", progress.step)
        trained, progress.epoch_totals = progress.epoch_totals, Totals()
        progress.epoch += 1
        values: dict[str, Any] = {"train_loss": trained.loss_mean}
        if self._tells_accuracy:
            values["train_accuracy"] = trained.accuracy
        if "valid" in self._held_out:
            values |= self._evaluated("valid")
        self._watch(values)
        values.pop("valid_targets", None)
        is_best = progress.best.epochs > 0 and progress.best.best_epoch == progress.best.epochs
        if is_best and self.config.restore_best:
            values["parameters_sha256"] = parameters_sha256(self._parameters.values())
        values |= self._times()
        self.tell("epoch", **values, examples_per_second=self._epoch_rate.take())
        if is_best:
            self.outputs.best(self._snapshot)

    def save_if_due(self, result: StepResult) -> None:
        """Have a checkpoint kept where the rule asks for one."""
        since_save = RankSignal(*result.signals[0]).since_save
        if self._saving.is_due(Moment(self.progress.step, self.progress.epoch, self.steps_into_epoch == 0, since_save)):
            self._save()

    def stop_if_asked(self, result: StepResult) -> None:
        """Save and raise Interrupted after a signal to any rank, or at the time limit, unless the run has ended anyway.

        Raises what has gone wrong with a checkpoint.
        """
        told = [RankSignal(*row) for row in result.signals.tolist()]
        stop = told[0].stop
        if stop == SAVING_FAILED:
            self.outputs.settle()
        caught = [int(rank.signal) for rank in told if rank.signal]
        if self.ended or not (caught or stop == TIME_IS_UP):
            return
        reason = interruption.name(caught[0]) if caught else f"max_seconds = {self.config.max_seconds:g}"
        self.tell("interrupted", reason=reason)
        self._save()
        kept = self.outputs.settle()
        error = Interrupted(_joined(f"stopped by {reason} after step {self.progress.step}", kept))
        error.signal = caught[0] if caught else None
        raise by_all_ranks(error)

    def finish(self) -> dict[str, Any]:
        """Have the last step kept, evaluate the parameters that count, and return the final event."""
        best_epoch = self.progress.best.best_epoch if self.config.restore_best else 0
        self._save()
        holds_result = self.outputs.finished(self.progress.step, best=bool(best_epoch))
        self.watchdog.at("final evaluation", self.progress.step)
        if best_epoch:
            restore(self.step, self.outputs.best_parameters(best_epoch), None)
        values: dict[str, Any] = {"ended": self.ended}
        for split in self._held_out:
            values |= self._evaluated(split, last=True)
        values["parameters_sha256"] = parameters_sha256(self._parameters.values())
        values |= self._kernels
        self.tell("final", **values, best_epoch=self.progress.best.best_epoch or None, checkpoint=holds_result)
        return {"event": "final", "step": self.progress.step, "epoch": self.progress.epoch, **values}

    def tell(self, event: str, **values: Any) -> None:
        """Tell an event to the outputs, with where the run stands."""
        self.outputs.event(
            make_event(event, self.progress.step, self.progress.epoch, self.seconds(), **values), self._parameters
        )

    # ---- the parts of the above --------------------------------------------------------------------------------------

    def _evaluated(self, split: str, last: bool = False) -> dict[str, Any]:
        """Return a split's figures; scores are ranked where that is watched, and at the `last` time."""
        watched = self.config.monitor.split(":")[0].removeprefix("valid_")
        ranked = last or watched in ("roc_auc", "average_precision")
        metrics = metrics_of(self._targets, ranked, self.step.arithmetic)
        totals = evaluate(self.communicator, self._forward, *self._held_out[split], metrics)
        figures, of_each = metrics.figures(self.communicator.allgather(metrics.parts()))
        found = {"loss": totals.loss_mean} | figures
        return {**{f"{split}_{name}": value for name, value in found.items()}, f"{split}_targets": of_each}

    def _times(self) -> dict[str, Any]:
        """Return how long each rank has waited in the epoch and, where cores are shared, what that costs. Collective.

        That is measured: the time of the epoch's steps over the processor time of the rank that computed longest.
        """
        phases = self.step.phases
        computed, lap = phases.computed(), phases.lap("epoch")
        in_steps = sum(lap.values()) - lap["between"]
        everyone = self.communicator.allgather((round(lap["waiting"], 6), in_steps, computed))
        found: dict[str, Any] = {"waiting_by_rank": [waited for waited, _, _ in everyone]}
        counted = [theirs for _, _, theirs in everyone if theirs is not None]  # by every rank, or by none
        if counted:
            found["crowded_times"] = round(max(whole for _, whole, _ in everyone) / max(*counted, 1e-9), 3)
        return found

    def _watch(self, values: Mapping[str, float]) -> None:
        """Let early stopping, the plateau schedule and the search for the best epoch see an epoch's values."""
        config, progress = self.config, self.progress
        watched = watched_value(config.monitor, values)
        if watched is None:
            return
        mode: Any = DIRECTIONS[config.monitor.split(":")[0].split("_", 1)[1]]
        least: dict[str, Any] = {"min_delta": config.min_delta, "mode": mode}
        progress.stopping = observe(progress.stopping, watched, patience=config.patience, **least)
        progress.plateau = observe(progress.plateau, watched, patience=config.plateau_patience, **least)
        progress.best = observe(progress.best, watched, patience=None, mode=mode)

    def _save(self) -> None:
        """Have this step kept, once."""
        if self._saved_step != self.progress.step:
            self.outputs.save(self._snapshot)
            self._last_save, self._saved_step = time.monotonic(), self.progress.step

    def _snapshot(self) -> Snapshot:
        """Gather what a run can go on from, after seeing that the ranks agree and that all of it is finite."""
        self.watchdog.at("saving", self.progress.step)
        self._compare_parameters()
        self.progress.seconds = self.seconds()
        parameters, optimizer = gather_state(self.step)

        def check() -> None:
            for name, array in parameters.items():
                if not np.isfinite(array).all():
                    problem = f"{name} of layer {name[1:]} is not finite: lower learning_rate or set clip_norm"
                    raise self._divergence(problem)

        self.communicator.on_rank_0(check)
        return Snapshot(parameters, optimizer, self.progress.step, self.progress.epoch, asdict(self.progress))

    def _compare_parameters(self) -> None:
        """Raise TrainingFailed where a copy of the parameters, a rank's or a node's, is not that of rank 0."""
        ranks = range(self.communicator.size)
        copies = ranks if self.config.reduction == "allreduce" else [node.start for node in self.communicator.nodes]
        if len(copies) == 1:
            return
        own = checksum(self.step.reduction.parameters) if self.communicator.rank in copies else None
        everyone = self.communicator.allgather((own, host_name()))
        for rank in copies:
            if everyone[rank][0] != everyone[0][0]:
                self._fail(
                    f"the parameters of rank {rank} ({everyone[rank][1]}) are not those of rank 0 ({everyone[0][1]}): "
                    "check that machine's memory"
                )

    def _divergence(self, problem: str) -> Diverged:
        """Return the error for a number that is not finite, with what is kept. Local."""
        found = f"step {self.progress.step}: {problem}"
        return Diverged(_joined(found, self.outputs.kept()), found)

    def _diverge(self, problem: str) -> NoReturn:
        """Raise Diverged on all ranks, which have all met the number after the same step."""
        raise by_all_ranks(self._divergence(problem))

    def _fail(self, problem: str) -> NoReturn:
        """Raise TrainingFailed on all ranks, which have all met the problem after the same step."""
        raise by_all_ranks(TrainingFailed(_joined(f"step {self.progress.step}: {problem}", self.outputs.kept())))


def watched_value(monitor: str, values: Mapping[str, Any]) -> float | None:
    """Return the value that `monitor` names, such as "valid_rmse" or "valid_rmse:T", or None where there is none."""
    name, _, target = monitor.partition(":")
    if not target:
        return values.get(name)
    split, _, figure = name.partition("_")
    found: float | None = values.get(f"{split}_targets", {}).get(target, {}).get(figure)
    return found


def _joined(*parts: str) -> str:
    """Return the parts that say something as one line."""
    return "; ".join(part for part in parts if part)
