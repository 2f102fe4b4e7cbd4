"""The course of a search: whatever the order in which trainings end, and wherever it is cut, the rows are the same."""

import json
import math
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ddp_mlp.trials import table
from ddp_mlp.trials.course import Course, Outcome, Unit
from ddp_mlp.trials.rungs import Rung, rungs
from ddp_mlp.trials.table import Row


def outcome_of(unit: Unit, failing: set[int]) -> Outcome:
    """Return what a training gives: a function of its unit, with many ties, and some trials that fail at some rung."""
    draw = random.Random(repr(unit))
    if unit.trial in failing and unit.rung == unit.trial % 3:
        return Outcome(None, f"trial {unit.trial} failed in fold {unit.fold}", 1, 1, None, 0.0, "", {})
    return Outcome(float(draw.randrange(4)), None, unit.rung + 1, unit.rung + 1, f"hash {unit}", 0.0, "", {})


def run(course: Course, order: random.Random, groups: int, failing: set[int], stop_after: int | None = None) -> None:
    """Let `groups` groups take trainings, which end in a random order."""
    going: list[Unit] = []
    done = 0
    while not course.is_complete and (stop_after is None or done < stop_after):
        while len(going) < groups and (unit := course.take()) is not None:
            going.append(unit)
        unit = going.pop(order.randrange(len(going)))
        course.record(unit, outcome_of(unit, failing))
        done += 1


def made(trials: int, stages: list[Rung], folds: int, largest: bool, rows: dict[int, Row] | None = None) -> Course:
    """Return a course whose trials differ in their seeds."""
    return Course([{"seed": trial} for trial in range(trials)], stages, folds, largest, rows)


@settings(deadline=None)
@given(
    trials=st.integers(3, 30),
    halving=st.sampled_from([None, 2, 3]),
    folds=st.integers(1, 3),
    largest=st.booleans(),
    failing=st.sets(st.integers(0, 29), max_size=4),
    groups=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_order_groups_and_kills_decide_nothing(
    trials: int, halving: int | None, folds: int, largest: bool, failing: set[int], groups: int, seed: int
) -> None:
    """One group in order, several in any order, and one that is cut again and again and made anew from its rows."""
    stages = rungs(trials, 9, halving)
    one, many = made(trials, stages, folds, largest), made(trials, stages, folds, largest)
    run(one, random.Random(0), 1, failing)
    order = random.Random(seed)
    run(many, order, groups, failing)
    assert many.rows == one.rows
    assert (many.best, many.order()) == (one.best, one.order())

    cut = made(trials, stages, folds, largest)
    while not cut.is_complete:
        run(cut, order, order.randrange(1, 9), failing, stop_after=order.randrange(1, 20))
        rows = {row["trial"]: row for row in json.loads(json.dumps(cut.rows)) if row["rungs"]}
        cut = made(trials, stages, folds, largest, rows)
    assert cut.rows == one.rows


def test_halving_by_hand() -> None:
    """Four trials, scores 3, 1, 1, 0 and the largest is best: 0 and 1 go on; then the second rung decides."""
    course = made(4, [Rung(1, 4), Rung(2, 2)], 1, True)
    for trial, score in enumerate([3.0, 1.0, 1.0, 0.0]):
        assert course.take() == Unit(0, trial, 0)
        course.record(Unit(0, trial, 0), Outcome(score, None, 1, 5, "x", 0.0, "", {}))
    assert [row["state"] for row in course.rows] == ["open", "open", "stopped", "stopped"]
    assert course.open_trials == [0, 1]
    for trial, score in ((1, 2.0), (0, 1.5)):
        course.record(Unit(1, trial, 0), Outcome(score, None, 2, 10, "y", 0.0, "", {}))
    assert course.is_complete
    assert course.best == 1
    assert course.order() == [1, 0, 2, 3]
    assert course.rows[1]["score"] == 2.0


def test_a_score_is_the_mean_of_the_folds() -> None:
    """Added exactly, so that no order shows; a trial whose one fold fails has failed."""
    course = made(2, [Rung(0, 2)], 3, False)
    scores = [0.1, 0.2, 0.7]
    for fold in (2, 0, 1):
        course.record(Unit(0, 0, fold), Outcome(scores[fold], None, 1, 1, "x", 0.0, "", {}))
        failed = "the loss is nan" if fold == 1 else None
        course.record(Unit(0, 1, fold), Outcome(None if failed else 0.0, failed, 1, 1, "x", 0.0, "", {}))
    assert course.rows[0]["score"] == math.fsum(scores) / 3
    assert (course.rows[1]["state"], course.rows[1]["reason"]) == ("failed", "the loss is nan")
    assert course.best == 0


def test_all_trials_may_fail() -> None:
    """Then the search ends where that shows, without a best one."""
    course = made(3, [Rung(1, 3), Rung(3, 1)], 1, False)
    run(course, random.Random(0), 1, failing=set())
    assert course.best is not None
    course = made(3, [Rung(1, 3), Rung(3, 1)], 1, False)
    while (unit := course.take()) is not None:
        course.record(unit, Outcome(None, "no", 0, 0, None, 0.0, "", {}))
    assert course.is_complete
    assert course.best is None


def test_a_trial_that_fails_later_is_not_the_best() -> None:
    """The best two of the first rung fail in the second: the best is the next of the first, and it has a score."""
    course = made(4, [Rung(1, 4), Rung(2, 2)], 1, False)
    for trial in range(4):
        course.record(Unit(0, trial, 0), Outcome(float(trial), None, 1, 1, "x", 0.0, "", {}))
    for trial in range(2):
        course.record(Unit(1, trial, 0), Outcome(None, "the loss is nan", 0, 0, None, 0.0, "", {}))
        assert course.rows[course.order()[0]]["score"] is not None
    assert course.is_complete
    assert [row["state"] for row in course.rows] == ["failed", "failed", "stopped", "stopped"]
    assert course.order() == [2, 3]


def test_a_score_beyond_every_float_is_a_failure(tmp_path: Path) -> None:
    """Folds whose sum no float64 holds have no mean: the trial has failed, and its line can be read again."""
    course = made(2, [Rung(1, 2)], 2, largest=False)
    for unit in (Unit(0, 0, 0), Unit(0, 0, 1), Unit(0, 1, 0), Unit(0, 1, 1)):
        course.record(unit, Outcome(1.5e308 if unit.trial == 0 else 2.0, None, 1, 1, "hash", 0.0, "", {}))
    assert (course.rows[0]["state"], course.rows[0]["reason"]) == ("failed", "the mean score of its folds is inf")
    assert course.best == 1
    table.write(tmp_path / table.TABLE, course.rows)
    assert list(table.read(tmp_path / table.TABLE).values()) == course.rows
