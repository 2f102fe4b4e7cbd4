"""Tests of training/trainer.py: a trainer knows no files; whatever implements its outputs hears and keeps."""

from collections.abc import Callable
from contextlib import closing
from signal import SIGINT, SIGTERM
from typing import Any

import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data, data_of_arrays, standardization_of
from ddp_mlp.errors import Interrupted, StorageError, TrainingFailed
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.run_dir.saving import Arrays, Snapshot
from ddp_mlp.training.building import build_batches, build_step, build_trainer
from ddp_mlp.training.in_memory import train_in_memory
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.loop import train_to_end
from ddp_mlp.training.progress import Progress
from ddp_mlp.training.saving_rules import EverySteps
from ddp_mlp.training.state import initialize
from ddp_mlp.training.watchdog import Watchdog

KEYS: dict[str, Any] = {"hidden": (5,), "batch_size": 20, "epochs": 2, "shards": 8, "quiet": True, "stall_seconds": 0}
"""60 rows, 30 % of each class held out: 3 steps an epoch."""


class Notebook:
    """Outputs that note what they are told, in order; `fail` makes the next thing to keep fail."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[Event] = []
        self.snapshots: dict[int, Snapshot] = {}
        self.failed = False

    def step(self, step: int, totals: Totals, examples: int) -> None:
        """Note it."""
        self.notes.append(f"step {step}")

    def event(self, event: Event, parameters: Arrays) -> None:
        """Note and keep it."""
        self.notes.append(event["event"])
        self.events.append(event)

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Keep a snapshot."""
        snapshot = take()
        self.snapshots[snapshot.step] = snapshot
        self.notes.append(f"save {snapshot.step}")

    def best(self, take: Callable[[], Snapshot]) -> None:
        """Keep the parameters."""
        self._best = take().parameters
        self.notes.append("best")

    def best_parameters(self, epoch: int) -> Arrays | None:
        """Give them back."""
        self.notes.append(f"restore epoch {epoch}")
        return self._best

    def settle(self) -> str:
        """Fail, or say what is kept."""
        if self.failed:
            raise StorageError("no more paper")
        return "it stands in the notebook"

    def kept(self) -> str:
        """Say what is kept."""
        return "it stands in the notebook"

    def finished(self, step: int, best: bool) -> str | None:
        """Name a page."""
        self.notes.append(f"finished {step}")
        return "page 1"


def data_of(config: Config) -> Data:
    """Return 60 rows of two classes, every third held out."""
    random = np.random.default_rng(3)
    X = random.standard_normal((60, 4)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    return data_of_arrays(X, y, None, ("a", "b"), standardization_of(X, None), config)


def train(outputs: Notebook, signals: Interruption | None = None, spoil: bool = False, **keys: Any) -> dict[str, Any]:
    """Train with these outputs, and return the final event; with `spoil`, from parameters that are not finite."""
    config, ranks = Config(**{**KEYS, "valid_fraction": 0.3, **keys}), SingleProcess()
    data, progress = data_of(config), Progress()
    step = build_step(config, data, ranks)
    initialize(step, False, None)
    if spoil:
        step.reduction.parameters[...] = np.inf
    with (
        np.errstate(all="ignore"),
        Watchdog(ranks, 0) as watchdog,
        closing(build_batches(config, data, ranks, progress)) as batches,
    ):
        trainer = build_trainer(
            config, data, step, batches, outputs, progress=progress, saving=EverySteps(4), watchdog=watchdog
        )
        return train_to_end(trainer, signals or Interruption())


def test_outputs_hear_everything_in_order() -> None:
    """Steps, logged steps, epochs, checkpoints by the rule and at the end, the best, and the end."""
    notebook = Notebook()
    final = train(notebook, log_every=2, restore_best=True, learning_rate=1e-3)
    restored = f"restore epoch {notebook.events[-1]['best_epoch']}"
    assert [note for note in notebook.notes if note != "best"] == [
        *("step 1", "step", "step 2", "step 3", "epoch"),
        *("step", "step 4", "save 4", "step 5", "step", "step 6", "epoch"),
        *("save 6", "finished 6", restored, "final"),
    ]
    assert final["ended"] == "epochs"
    assert notebook.events[-1]["checkpoint"] == "page 1"
    assert sorted(notebook.snapshots) == [4, 6]


def test_what_outputs_say_is_kept_stands_in_the_errors() -> None:
    """An interruption, and a loss that is not finite, end with the outputs' own words."""
    signals = Interruption()
    signals.signal = SIGTERM
    notebook = Notebook()
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM after step 1; it stands in the notebook$"):
        train(notebook, signals)
    assert list(notebook.snapshots) == [1]
    with pytest.raises(TrainingFailed, match=r"^step 1: the loss is nan, .*; it stands in the notebook$"):
        train(Notebook(), spoil=True)


def test_outputs_that_fail_end_the_run() -> None:
    """What could not be kept is raised after the next step."""
    notebook = Notebook()
    notebook.failed = True
    with pytest.raises(StorageError, match="no more paper"):
        train(notebook)
    assert notebook.notes == ["step 1"]


def test_a_run_in_memory_speaks_of_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its final event nor its errors name a checkpoint."""
    config = Config(**{**KEYS, "valid_fraction": 0.3, "restore_best": True})
    events = train_in_memory(config, data_of(config), SingleProcess()).events
    assert [event["event"] for event in events if event["event"] != "step"] == ["epoch"] * 2 + ["final"]
    assert "checkpoint" not in events[-1]

    enter = Interruption.__enter__

    def signalled(signals: Interruption) -> Interruption:
        enter(signals).signal = SIGINT
        return signals

    monkeypatch.setattr(Interruption, "__enter__", signalled)
    assert str(train_in_memory(config, data_of(config), SingleProcess()).stopped) == "stopped by SIGINT after step 1"
