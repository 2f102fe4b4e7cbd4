"""The state of a run between its steps, and what is done there: count, log, evaluate, save, stop."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from ddp_mlp import config as configuration
from ddp_mlp.config import parse_interval
from ddp_mlp.data.batches import Source
from ddp_mlp.data.opening import Data, Rows, make_batches
from ddp_mlp.errors import ConfigError, DataError, Interrupted, StorageError, TrainingFailed, by_all_ranks
from ddp_mlp.inference.evaluate import ForwardPass, Totals, evaluate
from ddp_mlp.nn import optimizers, schedules
from ddp_mlp.nn.parameters import Layout, parameters_sha256
from ddp_mlp.nn.schedules import observe
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import host_name
from ddp_mlp.run_dir import journal, tensorboard
from ddp_mlp.run_dir.journal import Console, Journal, Rate
from ddp_mlp.run_dir.resuming import Start
from ddp_mlp.run_dir.saving import Saving, Snapshot, State, checksum, restore
from ddp_mlp.run_dir.tensorboard import TensorBoard
from ddp_mlp.storage import checkpoint as checkpoints
from ddp_mlp.storage.atomic import write_atomically
from ddp_mlp.storage.checkpoint import Checkpoint
from ddp_mlp.summing.between import ExactSum, PlainSum
from ddp_mlp.training import interruption, phases
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.machine import Machine
from ddp_mlp.training.progress import Progress
from ddp_mlp.training.step import Regularization, StepResult, TrainingStep
from ddp_mlp.training.watchdog import Watchdog

SIGNAL, STOP, SAVE = range(3)
"""A rank's words, that go with a step's tallies: a signal's number; a reason to stop, as below; is a save due."""
TIME_IS_UP, SAVING_FAILED = 1, 2

GOODBYE_SECONDS = 3.0
"""How long a rank that fails alone waits for the write under way before it ends the job."""


class Run:
    """A run that has started or resumed; a context manager. All of it is collective, unless it says local."""

    def __init__(
        self, start: Start, state: State | None, data: Data, machine: Machine, communicator: Communicator
    ) -> None:
        self.config = config = start.config
        self.communicator, self.data, self.machine = communicator, data, machine
        self._check_what_needs_validation_data()
        self.run_dir, self.folder = start.run_dir, start.run_dir / "checkpoints"
        self.progress = Progress()
        if start.progress is not None:
            with communicator.in_agreement():
                self.progress = Progress.from_dict(start.progress)

        self.layout = Layout((data.info.features, *config.hidden, len(data.classes)))
        self.dtype = np.dtype(config.dtype)
        source, rows = data.train
        self.batches = make_batches(
            communicator,
            source,
            source.m if rows is None else rows,
            batch_size=source.m if config.batch_size == "full" else config.batch_size,
            seed=config.seed,
            shuffle=config.shuffle,
            block_rows=config.block_rows,
            earlier=start.earlier,
        )
        if not 0 <= self.steps_into_epoch < self.batches.steps_per_epoch:
            cursor = f"step {self.progress.step} is not in epoch {self.progress.epoch + 1}"
            raise by_all_ranks(DataError(f"the checkpoint's progress is not that of this run: {cursor}"))
        if config.reduction == "exact":
            assert isinstance(config.shards, int), "resolved by open_run"
            reduction: ExactSum | PlainSum = ExactSum(communicator, self.layout.length, self.dtype, config.shards)
        else:
            reduction = PlainSum(communicator, self.layout.length, self.dtype)
        coefficients = {name: getattr(config, name) for name in ("momentum", "beta1", "beta2", "alpha", "epsilon")}
        optimizer = optimizers.create(config.optimizer, **coefficients)
        decay = optimizer.default_weight_decay if config.weight_decay is None else config.weight_decay
        self.step = TrainingStep(
            communicator,
            self.layout,
            reduction,
            source,
            optimizer,
            Regularization(config.l2, decay, config.clip_norm, config.dropout, config.label_smoothing),
            dtype=self.dtype,
            seed=config.seed,
            chunk_rows=config.chunk_rows,
            trace=config.trace is not None,
        )
        self._schedule = schedules.create(
            config.schedule,
            learning_rate=config.learning_rate,
            min_learning_rate=config.min_learning_rate,
            decay=config.decay,
            decay_every=config.decay_every,
            warmup_steps=config.warmup_steps,
        )
        self._total_steps = max(1, config.epochs * self.batches.steps_per_epoch)
        if start.is_given_a_state:
            restore(self.step, *(state or (None, None)))
        else:
            self._initialize()
        self.complete = start.progress is not None and self.ended is not None
        """Whether there is nothing left to do for this start."""

        self._began = self._last_save = time.monotonic()
        self._earlier_seconds = self.progress.seconds
        self._interval = parse_interval(config.checkpoint_every)
        self._forward = ForwardPass(self.layout, self.step.reduction.parameters)
        self._snapshot_step = -1 if start.resumed_from is None else self.progress.step
        self._events: Journal | None = None
        self._board: TensorBoard | None = None
        self._step_rate, self._epoch_rate = Rate(), Rate()
        self.console = Console(config.quiet or communicator.rank != 0)
        self._saving = Saving(
            self.folder,
            keep=config.keep,
            go_on=config.on_save_error == "continue",
            saved=self.console.saved,
            warn=self.console.warn,
            begun_from=None if start.resumed_from is None else (self.progress.step, self.folder / start.resumed_from),
        )
        self.watchdog = Watchdog(communicator, config.stall_seconds)
        for warning in start.warnings:
            if communicator.rank == 0:
                self.console.warn(warning)
        communicator.on_rank_0(self._begin, start.resumed_from)

    def __enter__(self) -> Self:
        self.watchdog.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Local: end the watch, wait for the write under way, close the journal.

        Who leaves in order has waited before. A rank that fails alone does not wait for long, nor lets a second error
        hide the first.
        """
        self.batches.close()
        self.watchdog.__exit__(kind, error, trace)
        with suppress(StorageError):
            self._saving.wait(GOODBYE_SECONDS)
        self.console.close()
        if self._board is not None:
            with suppress(StorageError):
                self._board.close()
        if self._events is not None:
            self._events.close()

    # ---- where the run stands; local, and the same on every rank -----------------------------------------------------

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
        if self.config.patience is not None and self.progress.stopping.ran_out:
            return "patience"
        if self.config.max_steps is not None and self.progress.step >= self.config.max_steps:
            return "max_steps"
        return "epochs" if self.progress.epoch >= self.config.epochs else None

    @property
    def next_is_logged(self) -> bool:
        """Whether the coming step ends with a step event."""
        return self.config.log_every > 0 and (self.progress.step + 1) % self.config.log_every == 0

    def learning_rate(self) -> float:
        """Return the learning rate of the coming step."""
        return self._schedule(
            self.progress.step + 1,
            self._total_steps,
            self.progress.epoch,
            self.batches.steps_per_epoch,
            self.progress.plateau,
        )

    def seconds(self) -> float:
        """Return the run's clock on this rank, in seconds over all its starts."""
        return self._earlier_seconds + time.monotonic() - self._began

    def words_to_all(self, signals: Interruption) -> Sequence[float]:
        """Return what this rank has to tell all ranks with the coming step; rank 0's clock is the one that counts."""
        self.watchdog.at("training", self.progress.step + 1)
        words = [0.0, 0.0, 0.0]
        words[SIGNAL] = signals.signal
        if self.communicator.rank == 0:
            now, limit = time.monotonic(), self.config.max_seconds
            time_is_up = limit is not None and now - self._began >= limit
            words[STOP] = SAVING_FAILED if self._saving.failed else TIME_IS_UP if time_is_up else 0
            words[SAVE] = self._interval.unit == "seconds" and now - self._last_save >= self._interval.count
        return words

    # ---- after a step ------------------------------------------------------------------------------------------------

    def count(self, result: StepResult) -> None:
        """Count a step, and log it where it is due. Raises TrainingFailed where its loss is not finite."""
        progress, totals = self.progress, result.totals
        progress.step += 1
        if not math.isfinite(totals.loss_sum):
            layer = self.step.first_layer_not_finite()
            self._fail(f"the loss is {totals.loss_sum}, from layer {layer} on: lower learning_rate or set clip_norm")
        if result.gradient_norm is not None and not math.isfinite(result.gradient_norm):
            self._fail(f"the gradient's norm is {result.gradient_norm}: lower learning_rate")
        progress.epoch_totals = progress.epoch_totals.plus(totals)
        progress.logged_totals = progress.logged_totals.plus(totals)
        self._step_rate.count(totals.examples)
        self._epoch_rate.count(totals.examples)
        if self.config.log_every and progress.step % self.config.log_every == 0:
            self._record(
                "step",
                loss=progress.logged_totals.loss_mean,
                accuracy=progress.logged_totals.accuracy,
                learning_rate=result.learning_rate,
                gradient_norm=result.gradient_norm,
                examples_per_second=self._step_rate.take(),
                **{f"seconds_{phase}": round(s, 6) for phase, s in self.step.phases.lap("step").items()},
            )
            progress.logged_totals = Totals()
            self._compare_parameters()
        self.console.step(progress.step, progress.epoch_totals, totals.examples)

    def end_epoch(self) -> None:
        """Evaluate, log, and let the watches on the validation data see the result; keep the best parameters."""
        progress, config = self.progress, self.config
        self.watchdog.at("evaluation", progress.step)
        trained, progress.epoch_totals = progress.epoch_totals, Totals()
        progress.epoch += 1
        values: dict[str, float] = {"train_loss": trained.loss_mean, "train_accuracy": trained.accuracy}
        if self.data.valid is not None:
            valid = self._evaluate(*self.data.valid)
            values |= {"valid_loss": valid.loss_mean, "valid_accuracy": valid.accuracy}
        if config.monitor in values:
            watched = values[config.monitor]
            mode: Any = "max" if config.monitor == "valid_accuracy" else "min"
            progress.stopping = observe(
                progress.stopping, watched, patience=config.patience, min_delta=config.min_delta, mode=mode
            )
            progress.plateau = observe(
                progress.plateau, watched, patience=config.plateau_patience, min_delta=config.min_delta, mode=mode
            )
            progress.best = observe(progress.best, watched, patience=None, mode=mode)
        waited = self.communicator.allgather(round(self.step.phases.lap("epoch")["waiting"], 6))
        self._record("epoch", **values, examples_per_second=self._epoch_rate.take(), waiting_by_rank=waited)
        if progress.best.epochs and progress.best.best_epoch == progress.best.epochs:
            self._save(best=True)

    def save_if_due(self, result: StepResult) -> None:
        """Save a checkpoint where the interval asks for one."""
        count, unit = self._interval.count, self._interval.unit
        due = {
            "steps": self.progress.step % count == 0,
            "epochs": self.steps_into_epoch == 0 and self.progress.epoch % count == 0,
            "seconds": bool(result.signals[:, SAVE].any()),
        }
        if due[unit]:
            self._save()

    def stop_if_asked(self, result: StepResult) -> None:
        """Save and raise Interrupted after a signal to any rank, or at the time limit, unless the run has ended anyway.

        Raises the StorageError of a checkpoint that could not be written.
        """
        stop = int(result.signals[0, STOP])
        if stop == SAVING_FAILED:
            self.communicator.on_rank_0(self._saving.wait)
        caught = [int(number) for number in result.signals[:, SIGNAL] if number]
        if self.ended or not (caught or stop == TIME_IS_UP):
            return
        reason = interruption.name(caught[0]) if caught else f"max_seconds = {self.config.max_seconds:g}"
        self._record("interrupted", reason=reason)
        self._save()
        saved = self.communicator.on_rank_0(self._wait_for_what_is_saved)
        raise by_all_ranks(Interrupted(f"stopped by {reason} after step {self.progress.step}; {saved}"))

    def finish(self) -> dict[str, Any]:
        """Save the last checkpoint, evaluate the parameters that are kept, and return the final event."""
        if not self.complete:
            self._save_last()
        self.watchdog.at("final evaluation", self.progress.step)
        if self.config.restore_best and self.progress.best.best_epoch:
            self._restore_best()
        self._write_trace()
        values: dict[str, Any] = {"ended": self.ended}
        for split, part in self._held_out():
            totals = self._evaluate(*part)
            values |= {f"{split}_loss": totals.loss_mean, f"{split}_accuracy": totals.accuracy}
        values["parameters_sha256"] = parameters_sha256(self.layout.arrays(self.step.reduction.parameters).values())
        best = self.config.restore_best and self.progress.best.best_epoch
        self._record(
            "final",
            **values,
            best_epoch=self.progress.best.best_epoch or None,
            checkpoint=checkpoints.BEST if best else f"step-{self.progress.step:08d}.h5",
        )
        return {"event": "final", "step": self.progress.step, "epoch": self.progress.epoch, **values}

    # ---- the parts of the above --------------------------------------------------------------------------------------

    def _check_what_needs_validation_data(self) -> None:
        config = self.config
        needs = {
            "patience": config.patience is not None,
            "schedule = plateau": config.schedule == "plateau",
            "restore_best": config.restore_best,
        }
        for name, asked in needs.items():
            if asked and self.data.valid is None and config.monitor != "train_loss":
                raise by_all_ranks(
                    ConfigError(f"{name}: needs validation data: a group valid in {config.data}, or valid_fraction")
                )

    def _initialize(self) -> None:
        first = np.zeros(self.layout.length, self.dtype)
        self.layout.initialize(first, self.config.seed)
        own = self.step.reduction.slice
        self.step.reduction.parameters[own] = first[own]
        self.step.reduction.publish()

    def _evaluate(self, source: Source, rows: Rows) -> Totals:
        return evaluate(self.communicator, self._forward, source, rows)

    def _wait_for_what_is_saved(self) -> str:
        self._saving.wait()
        return self._saving.what_is_saved()

    def _fail(self, problem: str) -> NoReturn:
        """Raise TrainingFailed on all ranks, which have all met the problem after the same step."""
        saved = self._saving.what_is_saved()
        raise by_all_ranks(TrainingFailed(f"step {self.progress.step}: {problem}; {saved}"))

    def _record(self, event: str, **values: Any) -> None:
        """Put an event into the journal and on the console."""
        self.communicator.on_rank_0(self._write_event, event, values)

    def _write_event(self, event: str, values: dict[str, Any]) -> None:
        assert self._events is not None, "opened on rank 0"
        found = journal.make_event(event, self.progress.step, self.progress.epoch, self.seconds(), **values)
        try:
            self._events.write(found)
            if self._board is not None:
                self._board.event(found)
                if event in ("epoch", "final"):
                    arrays = self.layout.arrays(self.step.reduction.parameters)
                    self._board.weights(found["step"], arrays, last=event == "final")
        except StorageError as error:
            self._saving.trouble(StorageError(f"{error}; {self._saving.what_is_saved()}"))
        self.progress.journal_bytes = self._events.bytes
        if self.complete:
            self.console.result(journal.result(found))  # all that came before it has been told
        else:
            self.console.event(found)

    def _write_trace(self) -> None:
        """Have rank 0 write what all ranks did when, where asked for."""
        if self.config.trace is not None and self.step.phases.trace is not None:
            self.communicator.barrier()
            traces, now = zip(*self.communicator.allgather((self.step.phases.trace, time.perf_counter())), strict=True)
            self.communicator.on_rank_0(phases.write_trace, Path(self.config.trace), traces, now)

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

    def _save(self, best: bool = False) -> None:
        """Take a snapshot and have rank 0 write it in the background, once per step."""
        if not best and self._snapshot_step == self.progress.step:
            return
        self.watchdog.at("saving", self.progress.step)
        self._compare_parameters()
        self.progress.seconds = self.seconds()
        snapshot = Snapshot(self.step)
        self.communicator.on_rank_0(self._write, snapshot, best)
        self._last_save = time.monotonic()
        if not best:
            self._snapshot_step = self.progress.step

    def _save_last(self) -> None:
        """Save, and see to it that it is done. Raises StorageError."""
        self._save()
        self.communicator.on_rank_0(self._saving.make_sure, self.progress.step)

    def _write(self, snapshot: Snapshot, best: bool) -> None:
        """Check a snapshot and start to write it. On rank 0 alone."""
        progress, standardization = self.progress, self.data.standardization
        for name, array in snapshot.parameters.items():
            if not np.isfinite(array).all():
                self._fail(f"{name} of layer {name[1:]} is not finite: lower learning_rate or set clip_norm")
        checkpoint = Checkpoint(
            parameters=snapshot.parameters,
            optimizer=snapshot.optimizer,
            standardization={"mean": standardization.mean, "scale": standardization.scale}
            if standardization.used
            else None,
            config=configuration.to_dict(self.config),
            epoch=progress.epoch,
            step=progress.step,
            progress=asdict(progress),
            classes=self.data.classes,
            data=self.data.fingerprint,
            versions={**self.machine.versions, "BLAS kernel": self.machine.kernel},
        )

        assert self._events is not None, "opened on rank 0"
        self._saving.write(checkpoint, best, before=self._events.sync)

    def _restore_best(self) -> None:
        def load() -> None:
            found = checkpoints.load(self.folder / checkpoints.BEST)
            if found.epoch != self.progress.best.best_epoch:
                raise DataError(
                    f"{self.folder / checkpoints.BEST}: is of epoch {found.epoch}, but epoch "
                    f"{self.progress.best.best_epoch} was the best; {self._saving.what_is_saved()} without restore_best"
                )
            best.append(found)

        best: list[Checkpoint] = []
        self.communicator.on_rank_0(load)
        restore(self.step, best[0].parameters if best else None, None)

    def _begin(self, resumed_from: str | None) -> None:
        """Open the journal, and say what is about to be trained. On rank 0 alone."""
        config, data, communicator = self.config, self.data, self.communicator
        self._events = Journal(self.run_dir / journal.FILE, self.progress.journal_bytes)
        if self.complete:
            self.console.say(f"{self.run_dir} is complete: {self.progress.step} steps, {self.progress.epoch} epochs")
            return
        if config.tensorboard:
            self._board = TensorBoard(self.run_dir / tensorboard.FOLDER, self.progress.step)
        write_atomically(self.run_dir / "config.yaml", configuration.dump(config).encode())
        rows = {"train": self.batches.m}
        rows |= {name: part[0].m if part[1] is None else len(part[1]) for name, part in self._held_out()}
        values = {
            "time": journal.utc_now(),
            "config": configuration.to_dict(config),
            "data": {
                "path": data.info.path,
                "rows": rows,
                "features": data.info.features,
                "classes": len(data.classes),
                **({} if data.access is None else {"access": data.access._asdict()}),
            },
            "fingerprint": data.fingerprint,
            "parameters": self.layout.count,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "total_steps": min(self._total_steps, self.config.max_steps or self._total_steps),
            "ranks": communicator.size,
            "nodes": len(communicator.nodes),
            "shards": self.step.reduction.K,
            "hosts": sorted(set(self.machine.hosts)),
            "versions": self.machine.versions,
            "blas": self.machine.kernel,
            "resumed_from": resumed_from,
        }
        self._write_event("start", values)

    def _held_out(self) -> list[tuple[str, tuple[Source, Rows]]]:
        return [
            (name, part) for name, part in (("valid", self.data.valid), ("test", self.data.test)) if part is not None
        ]
