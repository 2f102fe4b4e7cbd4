"""Tests of training/interruption.py: signals noted, copies, the second one, in the main thread and in MPI."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.training import interruption
from ddp_mlp.training.interruption import SIGNALS, Interruption
from tests.conftest import MPIRUN, ROOT

AT_STEP = Path(__file__).parents[1] / "programs" / "at_step.py"

STUCK = """
import os, signal, sys, threading, time
from ddp_mlp.parallel.mpi import connect
from ddp_mlp.training import interruption
communicator = connect()
interruption.ECHO_SECONDS = 0.5

def knock():
    for _ in range(2):
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

with interruption.Interruption(communicator.abort):
    if communicator.rank == 1:
        time.sleep(40)
    threading.Thread(target=knock, daemon=True).start()
    communicator.barrier()  # for ever
"""


def wait_for(condition: Any, seconds: float = 5) -> None:
    """Wait until the condition holds, for so long at most."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number: int, alone: bool) -> None:
    """Nothing ends; the number is there for whoever asks, and a copy that comes at once changes nothing."""
    ended: list[int] = []
    with Interruption(ended.append, alone) as signals:
        assert signals.signal == 0
        os.kill(os.getpid(), number)
        wait_for(lambda: signals.signal == number)
        os.kill(os.getpid(), number)
        time.sleep(0.1)
    assert ended == []


@pytest.mark.parametrize("alone", [False, True])
def test_the_second_signal_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], alone: bool
) -> None:
    """Later than an echo would come, any of the signals ends all, with a shell's exit code and how to go on."""
    monkeypatch.setattr(interruption, "ECHO_SECONDS", 0.05)
    ended: list[int] = []
    with Interruption(ended.append, alone) as signals:
        signals.again = "run it with --run_dir runs/a"
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: signals.signal)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: ended)
    assert ended == [128 + signal.SIGTERM]
    assert capfd.readouterr().err.endswith("; run it with --run_dir runs/a\n")
    assert signals.signal == signal.SIGUSR1


@pytest.mark.parametrize("alone", [False, True])
def test_handlers_are_put_back(alone: bool) -> None:
    """After `with`, signals do what they did before, and nothing is left open."""
    before = [signal.getsignal(number) for number in SIGNALS]
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with Interruption(alone=alone):
        assert threading.active_count() == threads + (not alone)
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_another_thread_may_train() -> None:
    """Where signals cannot be caught, entering does nothing."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def enter() -> None:
        with Interruption():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_second_signal_ends_a_rank_that_is_stuck_in_mpi(mpirun: Any) -> None:
    """While one rank sleeps and the other waits for it in a barrier, two signals to the latter end both."""
    done = mpirun(2, "-c", STUCK, timeout=30)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.count("error: stopped by SIGTERM, the second signal") == 1


@pytest.mark.parametrize("stopped", [0, 1])
def test_two_signals_to_mpirun_end_a_job_of_which_one_rank_is_stopped(stopped: int, tmp_path: Path) -> None:
    """143, within a few seconds, and one line that says so: from rank 0, or from another where that is stopped."""
    if not MPIRUN.exists() or MPIRUN.with_name("ompi_info").exists():
        pytest.skip("MPICH's mpirun passes SIGTERM on")
    flags = ["--epochs", "30", "--hidden", "8", "--quiet", "--run_dir", str(tmp_path)]
    command: list[str | Path] = [MPIRUN, "-n", "3", sys.executable, AT_STEP, "20", str(stopped), "SIGSTOP", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as job:
        try:
            wait_for((tmp_path / "config.yaml").exists, 30)
            time.sleep(1)
            for _ in range(2):
                job.send_signal(signal.SIGTERM)
                time.sleep(1.5)
            _, stderr = job.communicate(timeout=20)
        finally:
            job.kill()
    assert job.returncode == 128 + signal.SIGTERM, stderr
    assert stderr.count("error: ") == stderr.count("error: stopped by SIGTERM, the second signal, at once") == 1
