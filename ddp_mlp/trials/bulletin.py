"""What a search tells people while it goes on: how far it is, the best so far, how much time is left. For rank 0."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from ddp_mlp.errors import printable
from ddp_mlp.parallel.terminal import terminal_of
from ddp_mlp.run_dir.narrator import duration, listed, short_hash, wrapped
from ddp_mlp.trials import files
from ddp_mlp.trials.course import Course
from ddp_mlp.trials.plan import SearchPlan
from ddp_mlp.units import counted

TELL_SECONDS = 2.0
"""The least time between two lines on how far the search is."""


class Bulletin:
    """Lines on stderr, unless quiet, and the result on stdout; and the clock of this start."""

    def __init__(self, plan: SearchPlan, course: Course, size: int) -> None:
        self._plan, self._course, self._size = plan, course, size
        self._began = time.monotonic()
        self.busy_seconds = 0.0
        """What all ranks together have trained."""
        self._next_tell = 0.0
        self._work_at_start = self._work_done()

    def seconds(self) -> float:
        """Return the seconds since this start."""
        return time.monotonic() - self._began

    def times(self) -> dict[str, float]:
        """Return the seconds of this start, and which share of them ranks had nothing to do."""
        seconds = self.seconds()
        idle = max(0.0, 1 - self.busy_seconds / (seconds * self._size))
        return {"seconds": round(seconds, 3), "idle_share": round(idle, 4)}

    def begin(self, groups: int, idle: int) -> None:
        """Say what is about to be searched, and which ranks have nothing to do."""
        plan, course = self._plan, self._course
        asked, keys = plan.asked, ", ".join(parameter.key for parameter in plan.space.parameters)
        folds = f", {asked.folds} folds" if asked.folds > 1 else ""
        self._say(
            f"search    {counted(len(course.rows), 'trial')}{folds} ({asked.sampler}) of {keys}; seed {plan.base.seed}"
        )
        if len(plan.rungs) > 1:
            self._say("rungs     " + ", ".join(f"{rung.trials:,} × {rung.epochs:,} epochs" for rung in plan.rungs))
        sums = "portable arithmetic" if plan.base.arithmetic == "portable" else f"K = {plan.base.shards} shards"
        self._say(f"ranks     {counted(groups, 'group')} of {asked.ranks_per_trial}, {sums}")
        if idle:
            self._say(
                f"          {counted(idle, 'rank')} left over and idle: ranks_per_trial does not divide the ranks"
            )
        most = max(rung.trials for rung in plan.rungs) * asked.folds
        if groups > most:
            self._say(
                f"          {counted(groups - most, 'group')} too many: at a time there are {counted(most, 'training')}"
            )
        if course.trials_done:
            self._say(f"          goes on: {counted(course.trials_done, 'trial')} done")

    def progress(self, at_once: bool = False) -> None:
        """Say how far the search is, unless that was said a moment ago."""
        now = time.monotonic()
        if self._plan.base.quiet or (now < self._next_tell and not at_once):
            return
        self._next_tell = now + TELL_SECONDS
        done, total = self._work_done(), self._work_total()
        left = self.seconds() / max(1, done - self._work_at_start) * max(0, total - done)
        rungs, best = len(self._plan.rungs), self._course.best
        words = [f"{100 * done // max(1, total):>3} %"]
        if rungs > 1:
            words.append(f"rung {min(self._course.rung + 1, rungs)}/{rungs}")
        words.append(f"{self._course.trials_done:,}/{len(self._course.rows):,} trials done")
        if best is not None:
            words.append(f"best {self._plan.base.monitor} {self._course.rows[best]['score']:.6g} (trial {best})")
        self._say("  ".join([*words, f"{duration(left)} left"]))

    def end(self, result: Mapping[str, Any]) -> None:
        """Say what came of the search; its result goes to stdout."""
        times, members, best = self.times(), result["members"], result["best"]
        settings = ", ".join(f"{key} = {value}" for key, value in result["settings"].items())
        self._say(f"best      trial {best}: {settings}")
        counts = f"{counted(result['trials'], 'trial')}, {result['failed']:,} failed, {duration(times['seconds'])}"
        self._say(f"ended     {counts}; ranks idle {100 * times['idle_share']:.1f} % of the time")
        self._say(f"kept      {result['run_dir']}/{files.BEST_SETTINGS}, {result['run_dir']}/checkpoints")
        figures = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in members[0].items() if "test_" in name]
        score = f"{result['monitor'].replace('_', ' ')} {result['score']:.6g}"
        words, sha256 = [f"trial {best}", score, *figures], members[0]["parameters_sha256"]
        screen = terminal_of(1)
        whole = ", ".join([*words, f"parameters_sha256 {sha256}"])
        for line in [whole] if screen is None else listed([*words, short_hash(sha256)], screen.columns):
            print(printable(line), flush=True)

    def _work_done(self) -> int:
        """Return the epochs that the table's trainings have trained; trainings, where their epochs are their own."""
        entries = [(rung, entry) for row in self._course.rows for rung, entry in enumerate(row["rungs"])]
        return sum(self._work(rung) * sum(map(bool, entry["folds"])) for rung, entry in entries)

    def _work_total(self) -> int:
        return sum(
            self._work(number) * rung.trials * self._plan.asked.folds for number, rung in enumerate(self._plan.rungs)
        )

    def _work(self, rung: int) -> int:
        rungs = self._plan.rungs
        return max(1, rungs[rung].epochs - (rungs[rung - 1].epochs if rung else 0))

    def _say(self, line: str) -> None:
        if not self._plan.base.quiet:
            for part in wrapped(line):
                print(part, file=sys.stderr, flush=True)
