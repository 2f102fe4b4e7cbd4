"""The checkpoints of a running job, written by rank 0 in the background.

A snapshot is taken between two steps; from then on training goes on while rank 0 builds the file's image and writes it.
At most one write is under way; the next snapshot waits for it, and so does the end.

Invariant: a checkpoint is written after the best one that its progress knows of, which waits in memory for it.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ddp_mlp.errors import StorageError
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.checkpoint import Checkpoint

Arrays = dict[str, NDArray[Any]]
"""{"W1": (n_1, n_0), "b1": (n_1,), …}."""


class Snapshot(NamedTuple):
    """A run after a step: parameters and optimizer state are copies as whole arrays, in rank 0's memory alone."""

    parameters: Arrays
    optimizer: dict[str, Arrays]
    """Of each slot."""
    step: int
    epoch: int
    progress: dict[str, Any]
    """What else the run wants back, as JSON can hold it."""


class State(NamedTuple):
    """What a run begins with where it does not draw its parameters: {"W1": …}, as in a checkpoint."""

    parameters: Mapping[str, NDArray[Any]]
    optimizer: Mapping[str, Mapping[str, NDArray[Any]]] | None
    """None is the optimizer's own beginning."""


GO_ON = "run the same command again to go on"


class BackgroundWriter:
    """Runs one write at a time in a thread, on rank 0; an error in it surfaces at the next `start` or `wait`. Local."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], Any]) -> None:
        """Wait for the write under way, then start this one. Raises the former's error, or RuntimeError: no thread."""
        self.wait()

        def run() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        thread.start()
        self._thread = thread

    @property
    def failed(self) -> bool:
        """Whether a write has failed and nobody has heard of it yet."""
        return self._error is not None

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the write under way, for so long at most; raise its error, once."""
        if self._thread is not None:
            self._thread.join(seconds)
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


class Saving:
    """The checkpoints of a run, written in the background by rank 0; what goes wrong is raised, or counted. Local."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        go_on: bool,
        saved: Callable[[int], Any],
        warn: Callable[[str], Any],
        begun_from: tuple[int, Path] | None,
        again: str = GO_ON,
    ) -> None:
        """With `go_on`, storage errors are counted, and told to `warn`; `saved` is told each step that is on the disk.

        `begun_from` is the step and the file of the checkpoint that the run goes on from, `again` the words for what to
        do that it goes on once more.
        """
        self._folder, self._keep, self._go_on, self._saved, self._warn = folder, keep, go_on, saved, warn
        self._writer = BackgroundWriter()
        self._newest, self._again = begun_from, again
        self._errors = 0
        self._best: Checkpoint | None = None

    @property
    def failed(self) -> bool:
        """Whether a write has failed and `write` or `wait` will raise its error."""
        return self._writer.failed

    def keep_best(self, checkpoint: Checkpoint) -> None:
        """Keep the best one so far in memory, until the next checkpoint is written."""
        self._best = checkpoint

    def write(self, checkpoint: Checkpoint, before: Callable[[], Any]) -> None:
        """Start to write a checkpoint, after calling `before` and writing the best one, if there is a new one.

        Raises the StorageError of the write before this one.
        """
        self._writer.wait()
        best = self._best  # the training goes on meanwhile, and may find a better one

        def write_this() -> None:
            self._newest = checkpoint.step, checkpoints.save(self._folder, checkpoint, self._keep)
            self._saved(checkpoint.step)

        def write() -> None:
            for part in (before, partial(self._write_best, best), write_this):
                try:
                    part()
                except StorageError as error:
                    self.trouble(error)

        try:
            self._writer.start(write)
        except RuntimeError as error:  # "can't start new thread": a limit of processes or of memory
            why = f"{error}; {self._what_is_saved()}"
            self.trouble(StorageError(f"step {checkpoint.step}: its checkpoint cannot be written: {why}"))

    def _write_best(self, best: Checkpoint | None) -> None:
        """Write the best one, if there is a new one; where that fails, it stays in memory. Raises StorageError."""
        if best is None:
            return
        try:
            checkpoints.save_best(self._folder, best)
        except StorageError as error:
            raise StorageError(f"{error}; {self._what_is_saved()}") from error
        if self._best is best:
            self._best = None

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the write under way, for so long at most. Raises its StorageError."""
        self._writer.wait(seconds)

    def trouble(self, error: StorageError) -> None:
        """Raise the error, or, where the run is to go on in spite of it, count it and warn."""
        if not self._go_on:
            raise error
        self._errors += 1
        self._warn(f"{error}; going on without it ({self._errors} so far)")

    def make_sure(self, step: int) -> None:
        """Wait for the write under way. Raises StorageError unless the checkpoint of this step is on the disk then.

        The best one, where it could not be written before, is tried once more.
        """
        self.wait()
        try:
            self._write_best(self._best)
        except StorageError as error:
            self.trouble(error)
        if self._newest is None or self._newest[0] != step:
            raise StorageError(f"step {step}: its checkpoint could not be written; {self.what_is_saved()}")
        if not self._newest[1].exists():
            raise StorageError(f"step {step}: {self._what_is_saved()}")

    def what_is_saved(self) -> str:
        """Write the best one, if memory holds it; say what a next start would go on from. Local."""
        with contextlib.suppress(StorageError):
            self.wait()
        with contextlib.suppress(StorageError):
            self._write_best(self._best)
        return self._what_is_saved()

    def _what_is_saved(self) -> str:
        if self._newest is None:
            return "no checkpoint is saved"
        if not self._newest[1].exists():
            return f"{self._newest[1]} was saved, and is gone"
        return f"{self._newest[1]} is saved: {self._again}"
