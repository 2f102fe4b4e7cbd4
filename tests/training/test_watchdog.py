"""Tests of training/watchdog.py: jobs in which one rank stops, spins or is suspended, on real ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
AT_STEP = Path(__file__).parents[1] / "programs" / "at_step.py"
SHORT = ("--epochs", "3", "--hidden", "8", "--stall_seconds", "2", "--quiet")

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


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_rank_ends_the_job(mpirun: Any, tmp_path: Path, rank: int) -> None:
    """After SIGSTOP of one rank, all end with 75 within stall_seconds + 5 s; the line says which, in which step."""
    began = time.monotonic()
    done = mpirun(4, AT_STEP, "20", str(rank), "SIGSTOP", *SHORT, "--run_dir", tmp_path / "run", timeout=50)
    seconds = time.monotonic() - began
    assert done.returncode == 75, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "no progress for 2 s in step 2" in lines[0]
    assert f"rank {rank} (process " in lines[0]
    assert "in step 20, training" in lines[0]
    assert lines[0].count("does not run") == 1
    assert seconds < 40
    time.sleep(0.2)
    assert living(tmp_path) == []


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
