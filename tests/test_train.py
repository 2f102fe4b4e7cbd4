"""Tests of the command line: what a user types, what comes back, and that bad input ends every rank with one line."""

import json
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.conftest import Program

SHORT = ["--epochs", "2", "--hidden", "[16]"]
TRAIN = ["-m", "ddp_mlp.train"]


def events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's journal."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_does_and_ends_with_the_result(mpirun: Program, digits: Path, tmp_path: Path) -> None:
    """Start block and epochs go to stderr, the result to stdout, each once, from rank 0."""
    outcome = mpirun(2, *TRAIN, "--data", digits, "--run_dir", tmp_path / "run", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    (result,) = outcome.stdout.splitlines()
    assert "test accuracy" in result
    final = events(tmp_path / "run")[-1]
    assert final["event"] == "final"
    assert final["parameters_sha256"] in result
    for word in ("64-16-10", "1,210 parameters", "P = 2", "K = 8", "exact", "openblas", "1 thread"):
        assert outcome.stderr.count(word) >= 1, word
    assert outcome.stderr.count("epoch 2/2") == 1


def test_a_run_leaves_configuration_journal_and_checkpoints(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """What a run writes is where the documentation says, and plain h5py opens the checkpoint."""
    run_dir = tmp_path / "run"
    outcome = run_python(*TRAIN, "--data", digits, "--run_dir", run_dir, *SHORT, "--quiet", "true")
    assert outcome.returncode == 0, outcome.stderr
    assert [event["event"] for event in events(run_dir)] == ["start", "epoch", "epoch", "final"]
    newest = sorted((run_dir / "checkpoints").iterdir())[-1]
    with h5py.File(newest) as file:
        assert file["parameters/W1"].shape == (16, 64)
        assert file["parameters/b2"].shape == (10,)
        assert file.attrs["parameters_sha256"].decode() == events(run_dir)[-1]["parameters_sha256"]
    again = run_python(*TRAIN, "--config", run_dir / "config.yaml", "--run_dir", tmp_path / "again")
    assert events(tmp_path / "again")[-1]["parameters_sha256"] == events(run_dir)[-1]["parameters_sha256"], again.stderr


def test_full_batch_descent_lowers_the_loss_at_every_step(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """50 steps of plain gradient descent on all examples, at learning rate 0.1, go down each time."""
    flags = [
        "--batch_size",
        "full",
        "--optimizer",
        "sgd",
        "--learning_rate",
        "0.1",
        "--epochs",
        "50",
        "--log_every",
        "1",
    ]
    outcome = run_python(*TRAIN, "--data", digits, "--run_dir", tmp_path / "run", *flags)
    assert outcome.returncode == 0, outcome.stderr
    losses = [event["loss"] for event in events(tmp_path / "run") if event["event"] == "step"]
    assert len(losses) == 50
    assert all(later < earlier for earlier, later in pairwise(losses))


# ---- bad input: one line, the right exit code on every rank, nothing half-written ------------------------------------


def make_data(path: Path, change: Callable[[h5py.File], None]) -> Path:
    """Write a small data set with one thing changed."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["train/X"] = random.standard_normal((20, 3))
        file["train/y"] = np.arange(20) % 2
        file["test/X"] = random.standard_normal((4, 3))
        file["test/y"] = np.arange(4) % 2
        change(file)
    return path


def replaced(name: str, value: Any) -> Callable[[h5py.File], None]:
    """Return the change that puts other values in an array's place, or none."""

    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def with_one(name: str, index: Any, value: float) -> Callable[[h5py.File], None]:
    """Return the change of one element."""

    def change(file: h5py.File) -> None:
        values = file[name][()].astype(np.float64)
        values[index] = value
        replaced(name, values)(file)

    return change


BAD_DATA = {
    "no X": (replaced("train/X", None), 65, "no 'X'"),
    "no y": (replaced("train/y", None), 65, "no 'y'"),
    "lengths differ": (replaced("train/y", np.zeros(19, int)), 65, "(20,)"),
    "negative label": (with_one("train/y", 7, -1), 2, "is -1, 0, 1: `python -m ddp_mlp.convert` makes class numbers"),
    "fractional label": (with_one("train/y", 3, 0.5), 65, "row 3"),
    "label beyond the classes": (with_one("test/y", 2, 9), 65, "row 2"),
    "NaN": (with_one("train/X", (19, 2), np.nan), 65, "row 19, column 2"),
    "Inf": (with_one("test/X", (1, 0), np.inf), 65, "row 1, column 0"),
    "no examples": (replaced("train/X", np.zeros((0, 3))), 65, "(0, 3)"),
    "one class": (replaced("train/y", np.zeros(20, int)), 65, "class"),
}


def assert_one_line(outcome: Any, code: int, words: str) -> None:
    """Assert the exit code, and that stderr is a single line of ours that holds the words."""
    assert outcome.returncode == code, outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.stderr
    assert words in lines[0]
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_ends_all_ranks_with_one_line(case: str, mpirun: Program, tmp_path: Path) -> None:
    """Whichever rank meets the bad row: exit code 65, one line, and no run folder."""
    change, code, words = BAD_DATA[case]
    data = make_data(tmp_path / "data.h5", change)
    outcome = mpirun(3, *TRAIN, "--data", data, "--run_dir", tmp_path / "run", timeout=30)
    assert_one_line(outcome, code, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--data", "missing.h5"], 74, "missing.h5"),
        (["--data", "text.h5"], 65, "not an HDF5 file"),
        (["--batch_size", "0"], 2, "batch_size = 0"),
        (["--batchsize", "5"], 2, "batch_size"),
        (["--config", "nowhere.toml"], 2, "nowhere.toml"),
        (["--optimizer", "lion"], 2, "optimizer"),
        (["--run_dir", "/proc/no"], 74, "run_dir = /proc/no"),
        (["--patience", "3"], 2, "validation"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else None,
)
def test_bad_flags_end_all_ranks_with_one_line(
    flags: list[str], code: int, words: str, mpirun: Program, digits: Path, tmp_path: Path
) -> None:
    """Every rank ends with the same code, and one of them says why."""
    (tmp_path / "text.h5").write_text("not a data set")
    data = [] if "--data" in flags else ["--data", str(digits)]
    assert_one_line(mpirun(2, *TRAIN, *data, *flags, cwd=tmp_path, timeout=30), code, words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """The run ends before training, with exit code 74."""
    (tmp_path / "run").mkdir(mode=0o500)
    assert_one_line(run_python(*TRAIN, "--data", digits, "--run_dir", tmp_path / "run"), 74, "cannot be written")


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_worlds_of_one_under_a_launcher_of_many_are_refused(name: str, run_python: Program, digits: Path) -> None:
    """A launcher that does not match the MPI library would start independent runs: exit code 78."""
    assert_one_line(run_python(*TRAIN, "--data", digits, env={name: "4"}), 78, f"{name} = 4")


@pytest.mark.parametrize("rank", [0, 2])
def test_an_exception_on_one_rank_ends_the_job(rank: int, mpirun: Program, digits: Path, tmp_path: Path) -> None:
    """A bug on any rank ends all within 5 seconds, with that rank's traceback and exit code 1."""
    bug = f"""
import sys
from ddp_mlp.training.step import TrainingStep
from ddp_mlp import train

original = TrainingStep.parts

def faulty(self, batch):
    if batch.step == 3 and self.communicator.rank == {rank}:
        import time
        open({str(tmp_path / "raised")!r}, "w").write(str(time.time()))
        raise ZeroDivisionError("planted")
    return original(self, batch)

TrainingStep.parts = faulty
train.main(["--data", {str(digits)!r}, "--run_dir", {str(tmp_path / "run")!r}, "--epochs", "500"])
"""
    outcome = mpirun(3, "-c", bug, timeout=30)
    assert time.time() - float((tmp_path / "raised").read_text()) < 5
    assert outcome.returncode == 1
    assert f"rank {rank}" in outcome.stderr
    assert outcome.stderr.count("ZeroDivisionError: planted") == 1
    assert "Traceback" in outcome.stderr


def test_help_and_configuration_errors_never_start_mpi(run_python: Program) -> None:
    """Both are answered before mpi4py is imported."""
    code = "import sys, ddp_mlp.train as t\ntry: t.main([{}])\nexcept SystemExit: print('mpi4py' in sys.modules)"
    assert run_python("-c", code.format("'--help'")).stdout.endswith("False\n")
    assert run_python("-c", code.format("'--epochs', 'x'")).stdout.endswith("False\n")
