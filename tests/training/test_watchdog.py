"""Tests of training/watchdog.py: jobs in which one rank stops, spins or is suspended, on real ranks."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.training.watchdog import Watchdog
from tests.conftest import MPIRUN

ROOT = Path(__file__).parents[2]
AT_STEP = Path(__file__).parents[1] / "programs" / "at_step.py"
AT_START = AT_STEP.with_name("at_start.py")
SHORT = ("--epochs", "3", "--hidden", "8", "--stall_seconds", "2", "--quiet")
SECONDS = "[2-7]"
"""What a line may say after a stall of two: it comes within five more."""

SLOW = """
import time
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.training.watchdog import Watchdog
with Watchdog(SingleProcess(), stall_seconds=4):
    print("watched", flush=True)
    time.sleep(1)
    time.sleep(1)
print("over", flush=True)
"""


def living(run_dir: Path) -> list[str]:
    """Return the command lines of the processes that work on a run; one that is dead has none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text().replace("\0", " ")
        except OSError:
            continue
        if str(run_dir) in line:
            found.append(line)
    return found


def test_the_line_says_what_goes_on() -> None:
    """The command with the folder that the run has chosen by itself, once it has."""
    watchdog = Watchdog(SingleProcess(), 2)
    assert "; run the same command again to go on from the last checkpoint (" in watchdog.report(2)
    watchdog.again = "run the same command again with --run_dir runs/a to go on"
    assert "; run the same command again with --run_dir runs/a to go on from the last" in watchdog.report(2)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_rank_ends_the_job(mpirun: Any, tmp_path: Path, rank: int) -> None:
    """After SIGSTOP of one rank, all end with 75 within stall_seconds + 5 s; the line says which, in which step."""
    began = time.monotonic()
    done = mpirun(4, AT_STEP, "20", str(rank), "SIGSTOP", *SHORT, "--run_dir", tmp_path / "run", timeout=50)
    seconds = time.monotonic() - began
    assert done.returncode == 75, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert re.search(f"no progress for {SECONDS} s in step 2", lines[0])
    assert f"rank {rank} (process " in lines[0]
    assert "in step 20, training" in lines[0]
    assert lines[0].count("does not run") == 1
    assert seconds < 40
    time.sleep(0.2)
    assert living(tmp_path) == []


@pytest.mark.parametrize(
    ("place", "rank", "event", "found"),
    [
        ("connect", 1, "SIGSTOP", rf"MPI has not started \(not for {SECONDS} s\)"),
        ("data", 0, "SIGSTOP", f"was last seen {SECONDS} s ago in step 0, reading data and does not run"),
        ("folder", 1, "SIGSTOP", f"was last seen {SECONDS} s ago in step 0, start and does not run"),
        ("folder", 0, "wait", rf"no progress for {SECONDS} s in step 0, start \(started, training/starting.py:"),
        ("leave", 1, "SIGSTOP", "all is done, but another rank has not come to the end"),
    ],
)
def test_something_watches_from_the_start_to_the_last_line(
    place: str, rank: int, event: str, found: str, mpirun: Any, tmp_path: Path
) -> None:
    """A rank that stops, or waits for what never comes, before MPI, the data, the folder, after all: one line, 75."""
    began = time.monotonic()
    done = mpirun(3, AT_START, place, str(rank), event, *SHORT, "--run_dir", tmp_path / "run", timeout=50)
    assert done.returncode == 75, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert re.search(found, lines[0])
    assert time.monotonic() - began < 40
    time.sleep(0.2)
    assert living(tmp_path) == []


def test_a_start_that_takes_longer_goes_on_while_a_rank_works(mpirun: Any, tmp_path: Path) -> None:
    """One rank computes for five seconds before its data are open; nobody is ended after two."""
    done = mpirun(2, AT_START, "data", "0", "work", *SHORT, "--run_dir", tmp_path / "run", timeout=50)
    assert done.returncode == 0, done.stderr


def test_ranks_whose_launcher_is_gone_do_not_wait_for_mpi(tmp_path: Path) -> None:
    """With mpirun's proxy killed while one rank has not come yet, those that wait for it in MPI end by themselves."""
    if not MPIRUN.exists() or MPIRUN.with_name("ompi_info").exists():
        pytest.skip("MPICH's mpirun has a proxy")
    flags = [*SHORT, "--stall_seconds", "60", "--run_dir", str(tmp_path)]
    command: list[str | Path] = [MPIRUN, "-n", "3", sys.executable, AT_START, "connect", "1", "wait", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as job:
        try:
            deadline = time.monotonic() + 40
            while not all(threads >= 3 for threads in ranks(tmp_path, 0, 2)) and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1)  # what hears signals, and what watches the start: they are in MPI
            children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
            while any(ranks(tmp_path, 0, 2)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not any(ranks(tmp_path, 0, 2))
        finally:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    if str(tmp_path) in path.read_text():
                        os.kill(int(path.parent.name), signal.SIGKILL)


def ranks(run_dir: Path, *wanted: int) -> list[int]:
    """Return how many threads each of these ranks of a run has; 0 where it does not live."""
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, StopIteration):
            if str(run_dir) in (process / "cmdline").read_text():
                variables = (process / "environ").read_text().split("\0")
                rank = next(int(v.partition("=")[2]) for v in variables if v.startswith("PMI_RANK="))
                found[rank] = len(list((process / "task").iterdir()))
    return [found.get(rank, 0) for rank in wanted]


def test_a_spinning_rank_is_named_with_its_line(mpirun: Any, tmp_path: Path) -> None:
    """A rank that computes for ever, while the others wait for it in MPI, is the suspect."""
    done = mpirun(3, AT_STEP, "20", "1", "spin", *SHORT, "--run_dir", tmp_path / "run", timeout=50)
    assert done.returncode == 75, done.stderr
    assert "; rank 1 (process " in done.stderr
    assert "does not run" not in done.stderr
    assert "rank 2 (process" not in done.stderr


def test_what_was_saved_before_a_stall_is_gone_on_from(mpirun: Any, tmp_path: Path) -> None:
    """The next start ends with the bits of a run that never stalled."""
    flags = (*SHORT, "--run_dir", tmp_path / "run")
    assert mpirun(2, AT_STEP, "20", "1", "SIGSTOP", *flags, timeout=50).returncode == 75
    resumed = mpirun(2, "-m", "ddp_mlp.train", *flags)
    whole = mpirun(3, "-m", "ddp_mlp.train", *SHORT, "--run_dir", tmp_path / "whole")
    assert resumed.returncode == whole.returncode == 0
    assert resumed.stdout.split()[-1] == whole.stdout.split()[-1]


def test_a_job_that_was_suspended_goes_on() -> None:
    """A process that was stopped as a whole for longer than stall_seconds has not stalled."""
    command, environment = [sys.executable, "-c", SLOW], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "watched\n"
            process.send_signal(signal.SIGSTOP)
            time.sleep(5)
            process.send_signal(signal.SIGCONT)
            assert process.communicate(timeout=30)[0] == "over\n"
        finally:
            process.kill()
    assert process.returncode == 0
