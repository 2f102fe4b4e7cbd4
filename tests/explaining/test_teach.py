"""Tests of the lesson: its numbers are those of the formulas, on one process and on several ranks."""

import re

import numpy as np
import pytest

from ddp_mlp.explaining import teach
from ddp_mlp.nn import reference
from tests.conftest import Program
from tests.reference import loss_and_gradient

M = 5
BOUNDS = (0, 1, 3, 5)
"""The rows of 3 ranks."""


def matrices(text: str) -> dict[str, list[float]]:
    """Return all numbers behind each name in a part of the lesson, row by row."""
    found: dict[str, list[float]] = {}
    names: dict[int, str] = {}
    for line in text.splitlines():
        if re.search(r"\w+ = \[", line):
            names = {match.end() - 1: match[1] for match in re.finditer(r"(\w+) = \[", line)}
        for column, name in names.items():
            if len(line) > column and line[column] == "[":
                found.setdefault(name, []).extend(map(float, line[column + 1 :].split("]")[0].split()))
    return found


def assert_gradient(part: str, expected: dict[str, np.ndarray]) -> None:
    """Assert that a part of the lesson shows a gradient, to the four decimals printed."""
    found = matrices(part)
    for l in (1, 2):
        for name in ("W", "b"):
            np.testing.assert_allclose(found[f"d{name}{l}"], expected[f"{name}{l}"].ravel(), atol=5.1e-5)


@pytest.mark.parametrize("loss", [loss for loss in reference.LOSS if loss != "cross_entropy"])
def test_the_lesson_of_another_loss(run_python: Program, loss: str) -> None:
    """Its sum and its mean are those of the reference."""
    outcome = run_python("-m", "ddp_mlp.train", "--teach", "--loss", loss)
    assert outcome.returncode == 0, outcome.stderr
    _, rest = outcome.stdout.split("\nTHE SUM")
    total, mean, _ = re.split(r"\nTHE ONE DIVISION|\nA MEAN OF", rest)
    W = {l: teach.PARAMETERS[f"W{l}"] for l in (1, 2)}
    b = {l: teach.PARAMETERS[f"b{l}"][:, None] for l in (1, 2)}
    Y = teach.example_targets(loss, range(M))
    expected, dW, db = reference.loss_and_gradient(W, b, teach.INPUTS.T, Y, loss=loss)
    gradient = {name: array for l in (1, 2) for name, array in ((f"W{l}", dW[l]), (f"b{l}", db[l]))}
    assert_gradient(total, {name: M * array for name, array in gradient.items()})
    assert_gradient(mean, gradient)
    assert f"mean loss, {expected:.4f}" in mean


def test_the_lesson_s_numbers_are_those_of_the_formulas(run_python: Program) -> None:
    """Local sums, their sum, the mean and the mean of means are what plain NumPy gives."""
    outcome = run_python("-m", "ddp_mlp.train", "--teach")
    assert outcome.returncode == 0, outcome.stderr
    opening, *ranks, rest = re.split(r"\nRANK |\n(?=THE SUM)", outcome.stdout)
    total, mean, wrong = re.split(r"\nTHE ONE DIVISION|\nA MEAN OF", rest)
    for name, values in teach.PARAMETERS.items():
        assert matrices(opening)[name] == values.ravel().tolist()

    X, y = teach.INPUTS, teach.LABELS
    means = []
    for rank, part in enumerate(ranks):
        rows = slice(BOUNDS[rank], BOUNDS[rank + 1])
        m_local = rows.stop - rows.start
        loss, gradient = loss_and_gradient(teach.PARAMETERS, X[rows], y[rows])
        assert_gradient(part, {name: m_local * array for name, array in gradient.items()})
        assert matrices(part)["X"] == X[rows].T.ravel().tolist()
        assert f"m_local = {m_local} " in part
        assert f"{m_local * loss:.4f}" in part
        means.append(gradient)
    loss, gradient = loss_and_gradient(teach.PARAMETERS, X, y)
    assert_gradient(total, {name: M * array for name, array in gradient.items()})
    assert_gradient(mean, gradient)
    assert f"mean loss, {loss:.4f}" in mean
    of_means = {name: np.mean([part[name] for part in means], axis=0) for name in gradient}
    assert_gradient(wrong, of_means)
    error = np.sqrt(sum(np.sum((of_means[name] - gradient[name]) ** 2) for name in gradient))
    length = np.sqrt(sum(np.sum(array**2) for array in gradient.values()))
    assert f"off by {error / length:.0%}" in wrong


def test_ranks_teach_what_one_process_plays(run_python: Program, mpirun: Program) -> None:
    """On 3 ranks the lesson is the same, but for the line that says there is one process."""
    alone = run_python("-m", "ddp_mlp.train", "--teach").stdout.splitlines()
    together = mpirun(3, "-m", "ddp_mlp.train", "--teach").stdout.splitlines()
    assert together == [alone[0], *alone[2:]]


def test_many_ranks_are_not_all_shown(mpirun: Program) -> None:
    """On 6 ranks four are spelled out; sums and counts are over all."""
    outcome = mpirun(6, "-m", "ddp_mlp.train", "--teach")
    assert outcome.stdout.count("\nRANK ") == 4
    assert "… and so on, to rank 5" in outcome.stdout
    assert "m = 1 + 2 + 2 + 2 + 2 + 2 = 11" in outcome.stdout
