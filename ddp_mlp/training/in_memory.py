"""A run on arrays that leaves no files: what it says and keeps is held in memory, on every rank."""

from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data
from ddp_mlp.errors import Interrupted
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.console import Console
from ddp_mlp.run_dir.journal import Event, make_event
from ddp_mlp.run_dir.narrator import epoch_figures, fit_line
from ddp_mlp.run_dir.saving import Arrays, Snapshot, State
from ddp_mlp.training.building import (
    build_batches,
    build_step,
    build_trainer,
    check_validation_data,
    start_values,
)
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.libraries import with_blas_chosen
from ddp_mlp.training.loop import train_to_end
from ddp_mlp.training.machine import settled
from ddp_mlp.training.memory import rounded_where_it_fits
from ddp_mlp.training.progress import Progress
from ddp_mlp.training.saving_rules import Never
from ddp_mlp.training.state import gather_state, initialize
from ddp_mlp.training.watchdog import Watchdog


class Trained(NamedTuple):
    """What came of a run; the same on every rank."""

    state: State
    events: list[Event]
    """Those of the journal: "epoch", "interrupted", "failed", "final"."""
    stopped: Interrupted | None
    """What ended the run before its end, such as Ctrl-C."""
    start: Event
    """What a journal would begin with."""

    @property
    def final(self) -> Event:
        """The last event of a run that came to its end. Raises what stopped it, if anything has."""
        if self.stopped is not None:
            raise self.stopped
        return self.events[-1]


def train_in_memory(
    config: Config,
    data: Data,
    communicator: Communicator,
    state: State | None = None,
    earlier: tuple[int, int] = (0, 0),
) -> Trained:
    """Train as configured on arrays that every rank has, from random parameters or from a state. Collective.

    `earlier` are the epochs and steps that the state has seen. `run_dir` and all that goes there is ignored. A signal
    ends the run after the step at hand, with what it has reached. Raises ProgramError on all ranks.
    """
    config = with_blas_chosen(config, communicator)
    outputs = Memory(config, communicator)
    progress = Progress()
    with (
        Interruption(communicator.abort, alone=communicator.size == 1) as signals,
        Watchdog(communicator, config.stall_seconds) as watchdog,
        settled(config, communicator) as machine,
    ):
        check_validation_data(config, data)
        data = rounded_where_it_fits(config, data, communicator)
        step = build_step(config, data, communicator)
        initialize(step, state is not None, state)
        with closing(build_batches(config, data, communicator, progress, earlier)) as batches:
            trainer = build_trainer(
                config, data, step, batches, outputs, progress=progress, saving=Never(), watchdog=watchdog
            )
            start = make_event("start", 0, 0, 0.0, **start_values(config, data, machine, trainer), resumed_from=None)
            stopped = None
            try:
                train_to_end(trainer, signals)
            except Interrupted as error:
                stopped = error
        parameters = step.layout.arrays(step.reduction.parameters.copy())
        return Trained(State(parameters, communicator.broadcast(gather_state(step)[1])), outputs.events, stopped, start)


class Memory:
    """The outputs of a run that leaves no files: a list of events, and the best parameters where they are wanted."""

    def __init__(self, config: Config, communicator: Communicator) -> None:
        self.events: list[Event] = []
        self._best: Arrays | None = None
        self._keeps_best, self._epochs = config.restore_best, config.epochs
        self._console = Console(config.quiet or communicator.rank != 0)

    def step(self, step: int, totals: Totals, examples: int) -> None:
        """Show nothing."""

    def event(self, event: Event, parameters: Arrays) -> None:
        """Keep the event, and tell an epoch's end."""
        self.events.append(event)
        if event["event"] == "epoch":
            self._console.say(fit_line([f"epoch {event['epoch']}/{self._epochs}", *epoch_figures(event)]))

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Keep nothing: the caller takes what there is in the end."""

    def best(self, take: Callable[[], Snapshot]) -> None:
        """Keep the parameters on rank 0, if they will be asked for."""
        if self._keeps_best:
            self._best = take().parameters or None  # empty but on rank 0

    def best_parameters(self, epoch: int) -> Arrays | None:
        """Return the best ones on rank 0, None elsewhere."""
        return self._best or None

    @property
    def failed(self) -> bool:
        """Nothing can fail."""
        return False

    def settle(self) -> str:
        """Say that nothing is kept."""
        return ""

    def kept(self) -> str:
        """Say that nothing is kept."""
        return ""

    def finished(self, step: int, best: bool) -> str | None:
        """Name no file: there is none."""
        return None
