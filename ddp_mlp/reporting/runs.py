"""What a run's folder tells: its events, put in order. Nothing here trains, and nothing is written.

A journal may be cut off at any byte, belong to a run that still goes on, or come from a stranger: it is read line by
line, and what a report needs of it is checked here, once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp import config as configuration
from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.run_dir import journal
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.storage import checkpoints
from ddp_mlp.training.phases import PHASES

START_FIELDS = {
    "config": dict,
    "data": dict,
    "fingerprint": dict,
    "versions": dict,
    "hosts": list,
    "ranks": int,
    "nodes": int,
    "shards": int,
    "parameters": int,
    "steps_per_epoch": int,
    "total_steps": int,
    "blas": str,
}


OWN = ("run_dir", "describe", "quiet", "debug")
"""Settings that change nothing in what a run finds."""


@dataclass(frozen=True)
class Pause:
    """A place where a run stopped, or went on from."""

    epoch: float
    """In epochs, with a fraction."""
    label: str


@dataclass(frozen=True)
class RunLog:
    """The journal of one run."""

    folder: Path
    name: str
    events: list[Event]

    @property
    def starts(self) -> list[Event]:
        """The start events: the first, and one per resume."""
        return self.of("start")

    @property
    def start(self) -> Event:
        """The latest start event."""
        return self.starts[-1]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the latest start."""
        config: dict[str, Any] = self.start["config"]
        return config

    @property
    def final(self) -> Event | None:
        """The final event, once the run has ended."""
        last = self.events[-1]
        return last if last["event"] == "final" else None

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best monitored figure, once the run has ended and if there was one."""
        found = self.final.get("best_epoch") if self.final else None
        return found if isinstance(found, int) else None

    @property
    def sha256(self) -> str:
        """The hash of the kept parameters, once the run has ended; else empty."""
        return str(self.final.get("parameters_sha256", "")) if self.final else ""

    @property
    def chosen(self) -> list[str]:
        """The settings that the user chose and that are not the default."""
        told = self.start.get("chosen")
        if isinstance(told, list):
            return [name for name in map(str, told) if name in self.config]
        defaults = configuration.to_dict(configuration.Config())
        settled = {name for name, value in defaults.items() if value == "auto"} | {"run_dir"}
        return [name for name, value in self.config.items() if name not in settled and value != defaults.get(name)]

    @property
    def state(self) -> str:
        """How the run stands, in words."""
        last = self.events[-1]
        if last["event"] == "final":
            return f"finished ({last.get('ended', 'ended')})"
        words = {"interrupted": "stopped by", "failed": "failed:"}.get(last["event"])
        return f"{words} {last.get('reason', '?')}" if words else "running, or killed"

    def of(self, kind: str) -> list[Event]:
        """Return the events of a kind, in order."""
        return [event for event in self.events if event["event"] == kind]

    def series(self, kind: str, field: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (epochs, values) of a field of a kind's events; both empty where it is absent."""
        found = [(event["step"], event[field]) for event in self.of(kind) if _is_number(event.get(field))]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.array(steps, float) / self.start["steps_per_epoch"], np.array(values, float)

    def pauses(self) -> list[Pause]:
        """Return where the run was interrupted or went on: after an end by max_steps, say, or having been killed."""
        found = []
        for before, event in zip(self.events[:-1], self.events[1:], strict=True):
            epoch = event["step"] / self.start["steps_per_epoch"]
            if event["event"] == "interrupted":
                found.append(Pause(epoch, str(event.get("reason", "stopped"))))
            elif event["event"] == "start" and before["event"] != "interrupted":
                ended = before.get("ended", "an end") if before["event"] == "final" else None
                found.append(Pause(epoch, "resumed" if ended is None else f"went on after {ended}"))
        return found

    def phase_seconds(self) -> dict[str, float]:
        """Return the seconds of rank 0 in each phase of its steps; empty where they are not told."""
        steps = self.of("step")
        return {
            phase: sum(step[f"seconds_{phase}"] for step in steps if _is_number(step.get(f"seconds_{phase}")))
            for phase in PHASES
            if any(_is_number(step.get(f"seconds_{phase}")) for step in steps)
        }

    def crowded_times(self) -> float | None:
        """Return what it cost since the latest start that ranks shared cores, as they tell it; the epochs' median."""
        told = [event["crowded_times"] for event in self._since_start() if _is_number(event.get("crowded_times"))]
        return float(np.median(told)) if told else None

    def _since_start(self) -> list[Event]:
        """Return the events after the latest start."""
        since = len(self.events) - next(i for i, event in enumerate(self.events[::-1]) if event["event"] == "start")
        return self.events[since:]

    def waiting_by_rank(self) -> list[float]:
        """Return the seconds each rank of the latest start has waited since then; empty where they are not told."""
        told = [event["waiting_by_rank"] for event in self._since_start() if "waiting_by_rank" in event]
        size = self.start["ranks"]
        fitting = [row for row in told if isinstance(row, list) and len(row) == size and all(map(_is_number, row))]
        return [float(seconds) for seconds in np.sum(fitting, axis=0)] if fitting else []


def read(folder: Path, name: str | None = None) -> RunLog:
    """Return what a run's folder tells, or the file of a model that was saved.

    Raises StorageError (cannot be read) or DataError (is no journal, or a checkpoint without one).
    """
    path = folder if folder.is_file() else folder / journal.JOURNAL
    try:
        text = _kept_with_a_model(path) if folder.is_file() else path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; name the run_dir of a run") from error
    try:
        events, _ = journal.parse(text)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if not events or events[0].get("event") != "start":
        raise DataError(f"{path}: does not begin with a start event: not a journal of this program, or not begun yet")
    for event in events:
        if event.get("event") == "start":
            _check_start(event, path)
    return RunLog(folder, name or folder.resolve().name, [event for event in events if "event" in event])


def _kept_with_a_model(path: Path) -> bytes:
    """Return the journal that `Model.save` has put into a checkpoint. Raises DataError, StorageError."""
    events = checkpoints.load(path).progress.get("events")
    if not events:
        raise DataError(f"{path}: tells nothing of its training: name the run_dir of a run, whose journal does")
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def read_all(folders: Sequence[Path]) -> list[RunLog]:
    """Return what several folders tell, each under a name of its own."""
    names = [folder.resolve().name for folder in folders]
    return [
        read(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def seeds(runs: Sequence[RunLog]) -> list[list[RunLog]]:
    """Return the groups of runs that differ by their seed alone, and how they were spread over ranks; one of a seed."""
    groups: dict[str, list[RunLog]] = {}
    for run in runs:
        own = {name: value for name, value in run.config.items() if name not in (*OWN, "seed")}
        groups.setdefault(json.dumps([own, run.start["fingerprint"]], sort_keys=True, default=str), []).append(run)
    of_seeds = [list({run.config.get("seed"): run for run in group[::-1]}.values())[::-1] for group in groups.values()]
    return [group for group in of_seeds if len(group) > 1]


def differing(runs: Sequence[RunLog]) -> dict[str, list[Any]]:
    """Return the settings that differ between the runs, P and the BLAS kernel among them, with each run's value."""
    settings: list[Mapping[str, Any]] = [
        {**run.config, "ranks": run.start["ranks"], "nodes": run.start["nodes"], "blas": run.start["blas"]}
        for run in runs
    ]
    names = list(dict.fromkeys(name for values in settings for name in values if name not in OWN))
    rows = {name: [values.get(name) for values in settings] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _check_start(event: Event, path: Path) -> None:
    for field, kind in START_FIELDS.items():
        if not isinstance(event.get(field), kind):
            raise DataError(f"{path}: a start event has no {field}: written by another version of this program")
    rows, config = event["data"].get("rows"), event["config"]
    counted = isinstance(rows, dict) and all(isinstance(count, int) for count in rows.values())
    if not counted or event["steps_per_epoch"] < 1 or not isinstance(config.get("hidden"), list):
        raise DataError(f"{path}: a start event is not of this program")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
