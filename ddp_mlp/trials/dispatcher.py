"""Rank 0's part of a search: give each free group the next training, keep the table, tell how far it is, end it.

Invariants:
- which group trains what is decided by who is free, and nothing else is: `course` decides what is trained at all;
- one thread alone calls `handle` and `tick`: the dispatcher's own, or the only one of a single process.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddp_mlp.errors import Interrupted, ProgramError, StorageError, TrainingFailed
from ddp_mlp.run_dir.journal import JOURNAL
from ddp_mlp.run_dir.saving import GO_ON
from ddp_mlp.storage.atomic import write_atomically
from ddp_mlp.trials import files
from ddp_mlp.trials.bulletin import Bulletin
from ddp_mlp.trials.course import Course, Outcome, Unit
from ddp_mlp.trials.crew import AskedToStop, Done, End, Failed, Ready, Stop, Train, TrainingStopped
from ddp_mlp.trials.plan import MEMBER, SearchPlan
from ddp_mlp.trials.table import Table


class Dispatcher:
    """Where a search stands, and who does what. For rank 0."""

    def __init__(
        self,
        plan: SearchPlan,
        course: Course,
        groups: Sequence[Sequence[int]],
        size: int,
        send: Callable[[int, Any], None],
        again: str = GO_ON,
    ) -> None:
        """Take the ranks of each group, how many ranks there are, and send(rank, letter), which returns at once.

        `again` says what makes the search go on after a stop.
        """
        assert plan.base.run_dir is not None, "claimed"
        self.plan, self.course, self.groups, self.size, self._send = plan, course, groups, size, send
        self.run_dir = Path(plan.base.run_dir)
        self.ended, self._again = False, again
        self._table = Table(self.run_dir / "trials.jsonl")
        self._free: list[int] = []
        self._going: dict[int, Unit] = {}
        self._since: dict[int, float] = {}
        """When each group took what it trains."""
        self._members: list[Unit] | None = None
        """Those that nobody has taken yet; None before the last rung is complete."""
        self._results: dict[int, dict[str, Any]] = {}
        self._error: ProgramError | None = None
        self._rung = course.rung
        self.bulletin = Bulletin(plan, course, size)
        files.tell(self.run_dir, "start", ranks=size, groups=len(groups), idle=size - sum(map(len, groups)))
        self.bulletin.begin(len(groups), size - sum(map(len, groups)))

    # ---- what comes in -----------------------------------------------------------------------------------------------

    def handle(self, letter: Any) -> None:
        """Take a letter, and do what follows. What cannot be written ends the search as an error of a trial does."""
        try:
            self._take(letter)
        except ProgramError as error:
            self._stop(error)
        try:
            self._go_on()
        except ProgramError as error:
            self._stop(error)
            self._go_on()

    def tick(self) -> None:
        """Look at the clock: a search may have a time limit."""
        limit = self.plan.base.max_seconds
        if limit is not None and self._error is None and self.bulletin.seconds() >= limit:
            self.handle(AskedToStop(f"max_seconds = {limit:g}"))

    def _take(self, letter: Any) -> None:
        if isinstance(letter, AskedToStop):
            self._stop(Interrupted(letter.reason))
            return
        self._free.append(letter.group)
        if isinstance(letter, Ready):
            return
        assert isinstance(letter, Done | TrainingStopped | Failed), letter
        del self._going[letter.group]
        if isinstance(letter, Failed):
            raise letter.error
        if isinstance(letter, TrainingStopped):
            seconds = self.bulletin.seconds() - self._since[letter.group]
            self.bulletin.busy_seconds += seconds * len(self.groups[letter.group])
        if isinstance(letter, Done):
            self.bulletin.busy_seconds += letter.outcome.seconds * len(self.groups[letter.group])
            self._record(letter.unit, letter.outcome)

    def _record(self, unit: Unit, outcome: Outcome) -> None:
        if unit.rung == MEMBER:
            if outcome.failed is not None:
                raise TrainingFailed(f"member {unit.fold}: {outcome.failed}")
            self._results[unit.fold] = {
                "folder": str(self.plan.folder(unit)),
                "seed": self.plan.member(unit.trial, unit.fold).seed,
                "parameters_sha256": outcome.parameters_sha256,
                **outcome.figures,
            }
        else:
            self._table.append(self.course.record(unit, outcome))
            if self.course.rung != self._rung:
                self._end_rung()
        self.bulletin.progress()

    # ---- what goes out -----------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self.ended:
            return
        if self._error is None:
            while self._free and (unit := self._next()) is not None:
                group = self._free.pop(0)
                self._going[group], self._since[group] = unit, self.bulletin.seconds()
                for rank in self.groups[group]:
                    self._send(rank, Train(unit))
        if not self._going:
            self._end()

    def _next(self) -> Unit | None:
        if not self.course.is_complete:
            return self.course.take()
        if self._members is None:
            self._members = self._choose()
        return self._members.pop(0) if self._members else None

    def _stop(self, error: ProgramError) -> None:
        """End all trainings at hand, and the search with them; the first error holds, and an error before a signal."""
        if self._error is None:
            for group in self._going:
                self._send(self.groups[group][0], Stop())
        if self._error is None or (isinstance(self._error, Interrupted) and not isinstance(error, Interrupted)):
            self._error = error

    def _end(self) -> None:
        """Put all in order, and let every rank go."""
        self.ended = True
        result: dict[str, Any] | None = None
        try:
            self._table.compact(row for row in self.course.rows if row["rungs"])
            self._table.close()
            if self._error is None:
                result = self._finish()
            elif isinstance(self._error, Interrupted):
                files.tell(self.run_dir, "interrupted", reason=str(self._error), **self.bulletin.times())
                stands = f"{self.course.trials_done} of {len(self.course.rows)} trials are done"
                self._error = Interrupted(f"stopped by {self._error}; {stands}, {self.run_dir} is saved: {self._again}")
        except StorageError as error:
            self._error = error
        for rank in range(self.size):
            self._send(rank, End(result, self._error))

    # ---- rungs, and the best -----------------------------------------------------------------------------------------

    def _end_rung(self) -> None:
        """Write down what a rung has decided, and give the disk back what only the losers needed."""
        before, self._rung = self._rung, self.course.rung
        self._table.compact(row for row in self.course.rows if row["rungs"])
        going_on = self.course.open_trials
        files.tell(self.run_dir, "rung", rung=before, trials=len(self.course.scores(before)), going_on=len(going_on))
        best = self.course.best
        for row in self.course.rows:
            if row["trial"] != best and row["trial"] not in going_on:
                for fold in range(self.plan.asked.folds):
                    folder = self.plan.folder(Unit(0, row["trial"], fold)) / "checkpoints"
                    shutil.rmtree(folder, ignore_errors=True)
        self.bulletin.progress(at_once=True)

    def _choose(self) -> list[Unit]:
        """Name the best trial, and return the trainings of its members. Raises TrainingFailed where all failed."""
        best = self.course.best
        if best is None:
            first = self.course.rows[0]
            raise TrainingFailed(f"all {len(self.course.rows)} trials failed; trial 0: {first.get('reason')}")
        monitor, score = self.plan.base.monitor, self.course.rows[best]["score"]
        words = f"trial {best} of {len(self.course.rows)}, {monitor} {score:.6g}: python -m ddp_mlp.train --config"
        files.write_best(self.run_dir, self.plan.member(best, 0), words)
        if self.plan.asked.folds == 1:
            self._adopt(self.plan.folder(Unit(0, best, 0)))
        return [Unit(MEMBER, best, number) for number in range(self.plan.asked.members)]

    def _adopt(self, trial: Path) -> None:
        """Let the search's own folder go on from the best trial's: that is the first member, and it is trained."""
        own, theirs = self.run_dir / "checkpoints", trial / "checkpoints"
        if any(own.glob("step-*.h5")) or not any(theirs.glob("step-*.h5")):
            return  # where the trial's are gone, the member is trained anew: to the same bits
        try:
            write_atomically(self.run_dir / JOURNAL, (trial / JOURNAL).read_bytes())
            for path in sorted(theirs.glob("*.h5")):  # best.h5 comes first; the last step's file makes it whole
                write_atomically(own / path.name, path.read_bytes())
        except OSError as error:
            raise StorageError(f"{trial}: cannot be read ({error.strerror})") from error

    def _finish(self) -> dict[str, Any]:
        """Tell the end, and return the search's result."""
        best = self.course.best
        assert best is not None, "the members are trained"
        row = self.course.rows[best]
        members = [self._results[number] for number in sorted(self._results)]
        result = {
            "run_dir": str(self.run_dir),
            "trials": len(self.course.rows),
            "failed": sum(row["state"] == "failed" for row in self.course.rows),
            "best": best,
            "settings": row["settings"],
            "monitor": self.plan.base.monitor,
            "score": row["score"],
            "members": members,
        }
        files.tell(self.run_dir, "final", **result, **self.bulletin.times())
        self.bulletin.end(result)
        return result
