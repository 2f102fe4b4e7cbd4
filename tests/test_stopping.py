"""Signals to a command at any instant: one line, the documented code, no traceback, within two seconds."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import LAUNCHER_PREFIXES, MPIRUN, ROOT, Program, end

INSTANTS = int(os.environ.get("DDP_MLP_INSTANTS", "4"))
"""Random instants for each command and signal."""
HONOURED_SECONDS = 4.0
"""Two, and as much again for a machine on which everything else runs too."""


def ready(pid: int) -> bool:
    """Tell whether a process has handlers of its own: Python's start is not the program's."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def listening(run_dir: Path) -> list[int]:
    """Return the processes of a run, without its launcher, that have handlers of their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_text().split("\0")
            if words[0] == sys.executable and str(run_dir) in words and ready(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def holds_open(pid: int, path: Path) -> bool:
    """Tell whether a process has a file open."""
    with suppress(OSError):
        return str(path) in {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return False


def started(*command: str | Path) -> "subprocess.Popen[str]":
    """Start a command without any launcher's variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def stopped(process: "subprocess.Popen[str]", number: int, instant: float) -> tuple[int, str, float]:
    """Send a signal that many seconds after the handlers are there; return exit code, stderr, and how long it took."""
    try:
        while process.poll() is None and not ready(process.pid):
            time.sleep(0.001)
        with suppress(subprocess.TimeoutExpired):
            process.wait(instant)
        process.send_signal(number)
        began = time.monotonic()
        _, stderr = process.communicate(timeout=30)
        return process.returncode, stderr, time.monotonic() - began
    finally:
        end(process)


@pytest.fixture(scope="module")
def run_dir(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("stopping") / "run"
    done = run_python("-m", "ddp_mlp.train", "--epochs", "1", "--run_dir", folder, "--quiet", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def commands(run_dir: Path, tmp_path: Path) -> dict[str, list[str | Path]]:
    """Return arguments of each command that take some seconds, if they are not stopped."""
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["a,b,y", *(f"{i % 1000},{i * i % 997},{i % 3}" for i in range(100_000))]) + "\n")
    digits = ROOT / "data" / "digits.h5"
    return {
        "predict": [run_dir, digits, "-o", tmp_path / "out.csv"],
        "convert": [table, tmp_path / "out.h5", "--label", "y", "--overwrite"],
        "export": [run_dir, tmp_path / "out.npz"],
        "verify": ["--certificate", tmp_path / "certificate.json"],
        "doctor": ["--run_dir", tmp_path / "none"],
        "report": [run_dir, "-o", tmp_path / "report.html", "--data", digits],
    }


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("name", ["predict", "convert", "export", "verify", "doctor", "report"])
def test_a_command_ends_at_any_instant(
    name: str, number: signal.Signals, commands: dict[str, list[str | Path]], tmp_path: Path
) -> None:
    """128 + the signal's number and one line, unless it was over before; what was begun is not left half done."""
    before = {path.name for path in tmp_path.iterdir()}
    drawn = random.Random(f"{name} {number}")
    for _ in range(INSTANTS):
        process = started(sys.executable, "-m", f"ddp_mlp.{name}", *commands[name])
        code, stderr, seconds = stopped(process, number, drawn.uniform(0, 1.5))
        assert "Traceback" not in stderr, stderr
        assert seconds < HONOURED_SECONDS or code != 128 + number
        if code == 128 + number:
            assert stderr.endswith(f"error: stopped by {number.name}\n")
            left = {path.name for path in tmp_path.iterdir()} - before - {"out.npz", "out.csv", "out.h5", "report.html"}
            assert left <= {"certificate.json"}, left
        else:
            assert code in (0, 78 if name == "doctor" else 0), (code, stderr)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["whole", "stopped"])
def test_a_signal_in_a_run_that_verify_makes_ends_verify(name: str, tmp_path: Path) -> None:
    """It is verify's signal: nobody is told to go on with a run whose folder is gone."""
    process = started(sys.executable, "-m", "ddp_mlp.verify", "--certificate", tmp_path / "certificate.json")
    while process.poll() is None and not list(tmp_path.glob(f".verify-*/{name}/metrics.jsonl")):
        time.sleep(0.0005)
    code, stderr, _ = stopped(process, signal.SIGHUP, 0)
    assert (code, stderr) == (128 + signal.SIGHUP, "error: stopped by SIGHUP\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(240)
@pytest.mark.parametrize("ranks", [1, 2])
def test_training_ends_at_any_instant_and_goes_on(ranks: int, tmp_path: Path) -> None:
    """75, before the first step as well as after it, and the same command goes on, in the end to the same bits."""
    drawn = random.Random(ranks)
    launcher: list[str | Path] = [] if ranks == 1 else [MPIRUN, "-n", str(ranks)]
    flags: list[str | Path] = [
        "--data",
        ROOT / "data" / "digits.h5",
        "--quiet",
        "--run_dir",
        tmp_path / "run",
        "--epochs",
        str(1000 * INSTANTS),
    ]
    command = [*launcher, sys.executable, "-m", "ddp_mlp.train", *flags]
    codes = []
    for _ in range(INSTANTS):
        process = started(*command)
        while process.poll() is None and len(listening(tmp_path / "run")) < ranks:
            time.sleep(0.001)  # mpirun has handlers of its own at once, its ranks somewhat later
        code, stderr, seconds = stopped(process, signal.SIGINT, drawn.uniform(0, 2.5))
        codes.append(code)
        assert "Traceback" not in stderr, stderr
        assert code == 75, stderr
        assert seconds < HONOURED_SECONDS + 4 * (ranks > 1)  # MPICH's mpirun takes its time
        if "after step" in stderr:
            assert any((tmp_path / "run" / "checkpoints").iterdir())
    finished = subprocess.run(
        [sys.executable, "-m", "ddp_mlp.train", *flags[:-1], "40"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert finished.returncode == 0, finished.stderr


BEFORE_MPI = """
import os, sys, time
from ddp_mlp.stopping import session
with session(saves=True):
    open(os.path.join(sys.argv[1], os.environ["PMI_RANK"]), "w").close()
    time.sleep(60)
"""
"""A command before it starts MPI: it says that it listens, and waits."""


@pytest.mark.timeout(60)
def test_ranks_that_have_no_mpi_yet_say_it_once(tmp_path: Path) -> None:
    """One line, and 75 from mpirun: the first rank to leave ends the job with its own code."""
    if MPIRUN.with_name("ompi_info").exists():
        pytest.skip("only MPICH's mpirun passes the signal on")
    process = started(MPIRUN, "-n", "4", sys.executable, "-c", BEFORE_MPI, tmp_path)
    while process.poll() is None and len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.01)
    code, stderr, seconds = stopped(process, signal.SIGINT, 0.1)
    assert code == 75
    assert stderr == "error: stopped by SIGINT: there was nothing to save yet; the same command starts again\n"
    assert seconds < HONOURED_SECONDS


@pytest.mark.timeout(120)
def test_a_signal_while_data_are_read_is_honoured(tmp_path: Path) -> None:
    """Within two seconds, though checking takes far longer."""
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("train")
        X = np.random.default_rng(0).standard_normal((5_000, 300)).astype(np.float32)
        rows = group.create_dataset("X", (200_000, 300), np.float32, chunks=(5_000, 300))
        for lo in range(0, len(rows), len(X)):
            rows[lo : lo + len(X)] = X
        group["y"] = np.arange(len(rows)) % 2
    process = started(sys.executable, "-m", "ddp_mlp.train", "--data", path, "--run_dir", tmp_path / "run")
    while process.poll() is None and not holds_open(process.pid, path):
        time.sleep(0.01)
    code, stderr, seconds = stopped(process, signal.SIGTERM, 0.1)
    assert code == 75, stderr
    assert re.search(r"error: stopped by SIGTERM: there was nothing to save yet", stderr)
    assert seconds < HONOURED_SECONDS


def test_a_run_without_a_terminal_ignores_the_hang_up(tmp_path: Path) -> None:
    """What nohup has ignored stays ignored: such a run goes on."""
    flags = ["--data", str(ROOT / "data" / "digits.h5"), "--epochs", "30", "--run_dir", str(tmp_path / "run")]
    process = started("nohup", sys.executable, "-m", "ddp_mlp.train", *flags)
    code, stderr, _ = stopped(process, signal.SIGHUP, 1.0)
    assert code == 0, stderr


@pytest.fixture
def hung_up() -> Callable[..., tuple[int, str]]:
    """Start a command on a terminal of its own that hangs up; return its exit code, and what it had said."""

    def start(*command: str | Path, seconds: float = 1.5) -> tuple[int, str]:
        pid, terminal = os.forkpty()
        if pid == 0:
            os.chdir(ROOT)
            os.execv(str(command[0]), [str(word) for word in command])
        os.set_blocking(terminal, False)
        while not ready(pid) and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        said, until = b"", time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(OSError):  # nothing said yet, or it is over
                said += os.read(terminal, 65536)
            time.sleep(0.01)
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), said.decode(errors="replace")

    return start


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["predict", "convert", "export", "verify", "doctor", "report"])
def test_a_terminal_that_hangs_up_ends_a_command(
    name: str, commands: dict[str, list[str | Path]], hung_up: Callable[..., tuple[int, str]]
) -> None:
    """128 + SIGHUP's number, or what it ends with where it was over before; no traceback."""
    for seconds in (0.0, 0.2, 0.9):
        code, said = hung_up(sys.executable, "-m", f"ddp_mlp.{name}", *commands[name], seconds=seconds)
        assert code in (0, 128 + signal.SIGHUP, 78 if name == "doctor" else 0), said
        assert "Traceback" not in said


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_terminal_that_hangs_up_stops_a_run_with_a_checkpoint(
    ranks: int, hung_up: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """As SIGTERM does: 75, and the same command goes on; no write to the terminal ends it otherwise.

    mpirun does not pass this signal on: it goes, its ranks with it, and what was saved before stays.
    """
    run_dir = tmp_path / "run"
    launcher: list[str | Path] = [] if ranks == 1 else [MPIRUN, "-n", str(ranks)]
    flags = ["--epochs", "100000", "--run_dir", run_dir, "--checkpoint_every", "5 steps"]
    code, said = hung_up(*launcher, sys.executable, "-m", "ddp_mlp.train", *flags, seconds=5.0)
    assert code == (75 if ranks == 1 else -signal.SIGHUP), said
    assert "Traceback" not in said
    assert list((run_dir / "checkpoints").glob("step-*.h5"))
