"""The course of a search: which training comes next, and what follows from those that have ended. Pure, on rank 0.

Invariants:
- what a training gives is a function of (trial, fold, rung). So is every decision here, which is taken when a rung is
  complete and never before: the order in which trainings end, and how many go on at once, decide nothing;
- the course can be made anew from the rows at any time: a search that was killed stands where its table says.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ddp_mlp.summing.totals import total
from ddp_mlp.trials.rungs import Rung, ranked
from ddp_mlp.trials.space import Settings
from ddp_mlp.trials.table import Row


class Unit(NamedTuple):
    """One training: a trial on one fold, from where it stands to the end of a rung."""

    rung: int
    trial: int
    fold: int


class Outcome(NamedTuple):
    """What came of a training."""

    score: float | None
    """The monitored figure of the parameters that are kept; None where it failed."""
    failed: str | None
    """Why it failed, for a reason of its own."""
    epochs: int
    steps: int
    """Both counted from the trial's beginning."""
    parameters_sha256: str | None
    seconds: float
    """Of this part of the training, on its group."""
    host: str
    figures: Mapping[str, float]
    """Of the same parameters: the losses and accuracies of what is held out."""


class Course:
    """Where a search stands."""

    def __init__(
        self,
        settings: Sequence[Settings],
        rungs: Sequence[Rung],
        folds: int,
        largest: bool,
        rows: Mapping[int, Row] | None = None,
    ) -> None:
        """Begin with the trials' settings, or go on from the rows of a table; `largest` scores are the best."""
        self.rungs, self.folds, self.largest = rungs, folds, largest
        self.rows: list[Row] = [
            (rows or {}).get(trial) or {"trial": trial, "settings": found, "state": "open", "score": None, "rungs": []}
            for trial, found in enumerate(settings)
        ]
        self.rung = 0
        """The number of the rung that is not complete yet, or len(rungs)."""
        self._alive = list(range(len(settings)))
        self._waiting: list[Unit] = []
        self._begin()

    # ---- what comes next ---------------------------------------------------------------------------------------------

    def take(self) -> Unit | None:
        """Return the next training of this rung, or None where all have been taken."""
        return self._waiting.pop(0) if self._waiting else None

    @property
    def is_complete(self) -> bool:
        """Whether all rungs are."""
        return self.rung == len(self.rungs)

    @property
    def trials_done(self) -> int:
        """How many trials nothing more is trained of."""
        going_on = set(self._alive) if not self.is_complete else set()
        last = self.rung == len(self.rungs) - 1
        trained = (all(self._fold(trial, fold) for fold in range(self.folds)) for trial in going_on)
        return len(self.rows) - len(going_on) + (sum(trained) if last else 0)

    @property
    def open_trials(self) -> list[int]:
        """The trials of this rung."""
        return list(self._alive)

    # ---- what has come of it -----------------------------------------------------------------------------------------

    def record(self, unit: Unit, outcome: Outcome) -> Row:
        """Enter what came of a training, decide where that completes its rung, and return the trial's row."""
        row = self.rows[unit.trial]
        while len(row["rungs"]) <= unit.rung:
            row["rungs"].append({"epochs": None, "score": None, "folds": [None] * self.folds})
        entry = row["rungs"][unit.rung]
        entry["folds"][unit.fold] = outcome._asdict()
        if all(entry["folds"]):
            entry["epochs"] = max(fold["epochs"] for fold in entry["folds"])
            scores = [fold["score"] for fold in entry["folds"]]
            reasons = [fold["failed"] for fold in entry["folds"] if fold["failed"]]
            mean = math.nan if reasons else total(scores) / len(scores)
            if math.isfinite(mean):
                entry["score"] = row["score"] = mean
            else:  # the table is JSON, which has finite numbers alone
                reasons.append(f"the mean score of its folds is {mean}")
                row["state"], row["score"], row["reason"] = "failed", None, reasons[0]
        if self._rung_is_complete():
            self._decide()
            self._begin()
        return row

    def _begin(self) -> None:
        """Find the first rung that is not complete, and what is left to do there."""
        while not self.is_complete and self._rung_is_complete():
            self._decide()
        self._waiting = [
            Unit(self.rung, trial, fold)
            for trial in self._alive
            for fold in range(self.folds)
            if not self.is_complete and self._fold(trial, fold) is None
        ]

    def _fold(self, trial: int, fold: int) -> dict[str, Any] | None:
        entries = self.rows[trial]["rungs"]
        found: dict[str, Any] | None = entries[self.rung]["folds"][fold] if len(entries) > self.rung else None
        return found

    def _rung_is_complete(self) -> bool:
        return all(self._fold(trial, fold) is not None for trial in self._alive for fold in range(self.folds))

    def _decide(self) -> None:
        """Let the better ones of a complete rung go on to the next; end the others."""
        scores = self.scores(self.rung)
        last = self.rung == len(self.rungs) - 1
        go_on = [] if last else ranked(scores, self.largest)[: self.rungs[self.rung + 1].trials]
        for trial in scores:
            if trial not in go_on:
                self.rows[trial]["state"] = "finished" if last else "stopped"
        self._alive = sorted(go_on)
        self.rung += 1
        if not self._alive:
            self.rung = len(self.rungs)

    def scores(self, rung: int) -> dict[int, float]:
        """Return the scores of the trials that have completed a rung without failing."""
        return scores_at_rung(self.rows, rung)

    def order(self) -> list[int]:
        """Return the trials with a score, the best first: those that came further before those that did not."""
        return order_of(self.rows, self.largest)

    @property
    def best(self) -> int | None:
        """The best trial so far: of those that came furthest, the one with the best score; None before the first."""
        return next(iter(self.order()), None)


def scores_at_rung(rows: Iterable[Row], rung: int) -> dict[int, float]:
    """Return the scores of the trials that have completed a rung without failing."""
    return {
        row["trial"]: row["rungs"][rung]["score"]
        for row in rows
        if len(row["rungs"]) > rung and row["rungs"][rung]["score"] is not None
    }


def order_of(rows: Collection[Row], largest: bool) -> list[int]:
    """Return the trials with a score, the best first: those that came further before those that did not.

    A trial that failed is none of them, however good it was at an earlier rung.
    """
    rows = [row for row in rows if row["state"] != "failed"]
    found: dict[int, None] = {}
    for rung in reversed(range(max((len(row["rungs"]) for row in rows), default=0))):
        found |= dict.fromkeys(trial for trial in ranked(scores_at_rung(rows, rung), largest) if trial not in found)
    return list(found)
