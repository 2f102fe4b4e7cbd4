"""Tests of the lessons: each runs from top to bottom alone and on 4 ranks, and its solutions are graded as right."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT, Program

RUN = ROOT / "docs" / "lessons" / "run.py"
SOLUTIONS = ROOT / "docs" / "lessons" / "instructors.md"
LESSONS = [1, 2, 3, 4, 5, 6]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("lesson", LESSONS)
def test_solutions_are_right(run_python: Program, lesson: int) -> None:
    """The instructor's answers are those whose hashes the lesson knows."""
    done = run_python(RUN, str(lesson), "--with", SOLUTIONS, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right" in done.stdout


@pytest.mark.timeout(180)
@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson_runs_on_ranks(mpirun: Callable[..., Any], lesson: int) -> None:
    """A lesson without its answers runs on 4 ranks, and says that its exercises are not done."""
    done = mpirun(4, str(RUN), str(lesson), timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not done yet" in done.stdout


def test_a_wrong_answer_is_not_right(run_python: Program) -> None:
    """The grader tells a wrong answer from a right one."""
    code = "import sys; sys.path.insert(0, 'docs/lessons'); from grading import check; print(check('5.3', 'a'))"
    done = run_python("-c", code, cwd=ROOT)
    assert done.stdout.splitlines() == ["5.3: not right yet", "False"]
