"""A run on arrays that leaves no files: what the loop needs of data and folder, held in memory on every rank."""

from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.journal import Event, make_event
from ddp_mlp.run_dir.resuming import Start
from ddp_mlp.run_dir.saving import Snapshot, State
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.loop import complete
from ddp_mlp.training.machine import Machine, settled
from ddp_mlp.training.run import Run


class Trained(NamedTuple):
    """What came of a run; the same on every rank."""

    state: State
    events: list[Event]
    """Those of the journal: "epoch", "interrupted", "final"."""


def train_in_memory(
    config: Config,
    data: Data,
    communicator: Communicator,
    state: State | None = None,
    earlier: tuple[int, int] = (0, 0),
) -> Trained:
    """Train as configured on arrays that every rank has, from random parameters or from a state. Collective.

    `earlier` are the epochs and steps that the state has seen. `run_dir` and all that goes there is ignored. Raises
    ProgramError on all ranks.
    """
    with (
        Interruption(communicator.abort) as signals,
        settled(config, communicator) as machine,
        RunInMemory(config, data, machine, communicator, state, earlier) as run,
    ):
        complete(run, signals)
        snapshot = Snapshot(run.step)
        parameters = run.layout.arrays(run.step.reduction.parameters.copy())
        return Trained(State(parameters, communicator.broadcast(snapshot.optimizer)), run.events)


class RunInMemory(Run):
    """A run whose journal is a list and whose best parameters are a copy, on every rank."""

    def __init__(
        self,
        config: Config,
        data: Data,
        machine: Machine,
        communicator: Communicator,
        state: State | None,
        earlier: tuple[int, int],
    ) -> None:
        self.events: list[Event] = []
        self._best: NDArray[Any] | None = None
        start = Start(config, Path(), None, None, [], state is not None, earlier)
        super().__init__(start, state, data, machine, communicator)

    def _begin(self, resumed_from: str | None) -> None:
        """Begin nothing: there is no folder."""

    def _record(self, event: str, **values: Any) -> None:
        found = make_event(event, self.progress.step, self.progress.epoch, self.seconds(), **values)
        self.events.append(found)
        if event == "epoch":
            names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
            figures = [f"{name.replace('_', ' ')} {found[name]:.4f}" for name in names if name in found]
            self.console.say("  ".join([f"epoch {found['epoch']}/{self.config.epochs}", *figures]))

    def _save(self, best: bool = False) -> None:
        if best and self.config.restore_best:
            self._best = self.step.reduction.parameters.copy()

    def _save_last(self) -> None:
        """Leave it to the caller to take what there is."""

    def _restore_best(self) -> None:
        assert self._best is not None, "kept at the best epoch"
        own = self.step.reduction.slice
        self.step.reduction.parameters[own] = self._best[own]
        self.step.reduction.publish()
