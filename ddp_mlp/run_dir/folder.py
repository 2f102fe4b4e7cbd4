"""A run's folder as the place where it says and keeps everything: journal, console, TensorBoard and checkpoints.

Every rank has one and calls it; rank 0's desk alone writes and talks. What hears of events is a list: one more
listener is one more line.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data
from ddp_mlp.errors import ConfigError, DataError, StorageError
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir import journal, tensorboard
from ddp_mlp.run_dir.console import Console
from ddp_mlp.run_dir.journal import Event, Journal
from ddp_mlp.run_dir.resuming import Start
from ddp_mlp.run_dir.saving import GO_ON, Arrays, Saving, Snapshot
from ddp_mlp.run_dir.tensorboard import TensorBoard
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.atomic import write_atomically
from ddp_mlp.storage.checkpoint import Checkpoint
from ddp_mlp.units import counted

Listener = Callable[[Event, Arrays], None]
"""Is told each event, and the parameters as they are then. May raise StorageError."""

GOODBYE_SECONDS = 3.0
"""How long a rank that fails alone waits for the write under way before it ends the job."""


class RunFolder:
    """The outputs of a run in its claimed folder; a context manager. Collective, but where it says local."""

    def __init__(
        self,
        communicator: Communicator,
        start: Start,
        like: Checkpoint,
        is_complete: bool,
        aside: bool = False,
        again: str = GO_ON,
    ) -> None:
        """Open what is written, or raise StorageError or ConfigError on all ranks.

        `like` is what all checkpoints of the run have in common, at the step from which it begins; `is_complete` tells
        that there is nothing left to do for this start but to say so; `aside` that nobody waits for its result; `again`
        what makes it go on after a stop.
        """
        self._communicator = communicator
        desks: list[Desk] = []
        communicator.on_rank_0(lambda: desks.append(Desk(start, like, is_complete, aside, again)))
        self._desk = desks[0] if desks else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Local: wait for the write under way, close all files.

        Who leaves in order has waited before. A rank that fails alone does not wait for long, nor lets a second error
        hide the first.
        """
        if self._desk is not None:
            self._desk.close()

    def step(self, step: int, totals: Totals, examples: int) -> None:
        """Show a step on the console. Local."""
        if self._desk is not None:
            self._desk.console.step(step, totals, examples)

    def event(self, event: Event, parameters: Arrays) -> None:
        """Tell rank 0's event to all that listen."""
        self._communicator.on_rank_0(lambda: self._on_desk.tell(event, parameters))

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot and have it written in the background as a checkpoint to go on from."""
        snapshot = take()
        self._communicator.on_rank_0(lambda: self._on_desk.write(snapshot))

    def best(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot and keep it as the best one: it is written with the next checkpoint."""
        snapshot = take()
        if self._desk is not None:
            self._desk.keep_best(snapshot)

    def best_parameters(self, epoch: int) -> Arrays | None:
        """Return those of the best checkpoint on rank 0, None elsewhere. Raises DataError, StorageError."""
        found: list[Arrays] = []
        self._communicator.on_rank_0(lambda: found.append(self._on_desk.best_parameters(epoch)))
        return found[0] if found else None

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written, and nobody has heard of it yet. Local."""
        return self._desk is not None and self._desk.saving.failed

    def settle(self) -> str:
        """Wait for the write under way; return in words what is saved. Raises its StorageError."""
        return self._communicator.on_rank_0(lambda: self._on_desk.settle())

    def kept(self) -> str:
        """Return in words what is saved, once the write under way is done. Local."""
        return "" if self._desk is None else self._desk.saving.what_is_saved()

    def finished(self, step: int, best: bool) -> str | None:
        """See that the last step's checkpoint is on the disk; return the name of the file that holds the result."""
        return self._communicator.on_rank_0(lambda: self._on_desk.finished(step, best))

    @property
    def _on_desk(self) -> "Desk":
        assert self._desk is not None, "asked on rank 0"
        return self._desk


class Desk:
    """Rank 0's end of a run's folder: all its files, and the console. Local."""

    def __init__(self, start: Start, like: Checkpoint, is_complete: bool, aside: bool, again: str) -> None:
        self._config, self._like = start.config, like
        config = start.config
        self.console = Console(config.quiet or aside, silent=aside)
        for warning in start.warnings:
            self.console.warn(warning)
        self._checkpoints = start.run_dir / "checkpoints"
        self.saving = Saving(
            self._checkpoints,
            keep=config.keep,
            go_on=config.on_save_error == "continue",
            saved=self.console.saved,
            warn=self.console.warn,
            begun_from=None if start.resumed_from is None else (like.step, self._checkpoints / start.resumed_from),
            again=again,
        )
        self._journal = Journal(start.run_dir / journal.JOURNAL, start.journal_bytes, keep_history=not is_complete)
        self._board: TensorBoard | None = None
        self._listeners: list[Listener] = [lambda event, _: self._journal.write(event)]
        if is_complete:
            self.console.say(
                f"{start.run_dir} is complete: {counted(like.step, 'step')}, {counted(like.epoch, 'epoch')}"
            )
            self._listeners.append(lambda event, _: self.console.result(event))  # the rest has been told
            return
        if config.tensorboard:
            self._board = TensorBoard(start.run_dir / tensorboard.FOLDER, like.step)
            self._listeners.append(self._board.event)
        self._listeners.append(lambda event, _: self.console.event(event))
        write_atomically(start.run_dir / "config.yaml", configuration.dump(config).encode())

    def tell(self, event: Event, parameters: Arrays) -> None:
        """Tell an event to all that listen. Raises StorageError, unless the run goes on in spite of it."""
        if event["event"] == "start" and self._journal.cut_step > event["step"]:
            event = {**event, "cut_step": self._journal.cut_step}
        for listener in self._listeners:
            try:
                listener(event, parameters)
            except StorageError as error:
                self.saving.trouble(StorageError(f"{error}; {self.saving.what_is_saved()}"))

    def write(self, snapshot: Snapshot) -> None:
        """Start to write a checkpoint. Raises the StorageError of the write before this one."""
        self.saving.write(self._checkpoint(snapshot), before=self._journal.sync)

    def keep_best(self, snapshot: Snapshot) -> None:
        """Keep the best one so far in memory, until the next checkpoint is written."""
        self.saving.keep_best(self._checkpoint(snapshot))

    def _checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        progress = {**snapshot.progress, "journal_bytes": self._journal.bytes}
        return replace(
            self._like,
            parameters=snapshot.parameters,
            optimizer=snapshot.optimizer,
            epoch=snapshot.epoch,
            step=snapshot.step,
            progress=progress,
        )

    def finished(self, step: int, best: bool) -> str:
        """See that the last step's checkpoint is on the disk; return the name of the file with the result."""
        self.saving.make_sure(step)
        return checkpoints.BEST if best else f"step-{step:08d}.h5"

    def best_parameters(self, epoch: int) -> Arrays:
        """Return those of best.h5. Raises DataError where it is not what this run saved after this epoch."""
        path = self._checkpoints / checkpoints.BEST
        found = checkpoints.load(path)
        if problem := self._not_of_this_run(found, epoch):
            raise DataError(f"{path}: {problem}; {self.saving.what_is_saved()} without restore_best")
        return found.parameters

    def _not_of_this_run(self, best: Checkpoint, epoch: int) -> str | None:
        """Return what shows that a checkpoint is not this run's own of an epoch, if anything does."""
        if best.epoch != epoch:
            return f"is of epoch {best.epoch}, but epoch {epoch} was the best"
        try:
            stored = configuration.from_dict(best.config)
        except ConfigError as error:
            return f"its configuration is not one of this version: {error}"
        own = replace(self._config, resume_override=True)  # an earlier start may have changed what may be changed
        if difference := configuration.first_difference(stored, own):
            name, before, now = difference
            return f"is another run's, with {name} = {before}, where this run has {name} = {now}"
        if best.data != self._like.data or best.classes != self._like.classes:
            return "is another run's, of other data"
        wanted = self._journal.hash_of_best(epoch)
        if wanted is not None and best.parameters_sha256 != wanted:
            return f"has the parameters {best.parameters_sha256[:16]}…, but {journal.JOURNAL} says {wanted[:16]}…"
        return None

    def settle(self) -> str:
        """Wait for the write under way; return in words what is saved. Raises StorageError."""
        self.saving.wait()
        return self.saving.what_is_saved()

    def close(self) -> None:
        """Wait a little for the write under way, and close all files; what fails then is not told any more."""
        with suppress(StorageError):
            self.saving.wait(GOODBYE_SECONDS)
        self.console.close()
        if self._journal.lost:
            lines = counted(self._journal.lost, "line")
            self.console.warn(f"{journal.JOURNAL} lacks {lines} that could not be written")
        if self._board is not None:
            with suppress(StorageError):
                self._board.close()
        try:
            self._journal.close()
        except StorageError as error:
            self.console.warn(f"{error}; its last lines may be lost")


def what_checkpoints_share(config: Config, data: Data, versions: dict[str, Any], step: int, epoch: int) -> Checkpoint:
    """Return a checkpoint with what stays the same in a run, at the step and epoch from which it begins."""
    given = data.standardization
    return Checkpoint(
        parameters={},
        optimizer={},
        standardization={"mean": given.mean, "scale": given.scale} if given.used else None,
        config=configuration.to_dict(config),
        epoch=epoch,
        step=step,
        progress={},
        classes=data.classes,
        targets=data.targets.to_dict(),
        data=data.fingerprint,
        versions=versions,
        inputs=data.inputs,
    )
