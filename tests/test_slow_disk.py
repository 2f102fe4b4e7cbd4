"""A file system that is slow, or answers nothing: the same bits, lines and codes as with one that is fast.

It is a real one (`programs/slow_disk.py`), of the program itself too; where none can be mounted, these are skipped.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ddp_mlp.parallel.launcher import launched_rank, launched_size
from tests.conftest import LAUNCHER_PREFIXES, MPIRUN, ROOT, end

PROGRAM = ROOT / "tests" / "programs" / "slow_disk.py"
HONOURED_SECONDS = 4.0
"""Two, and as much again for a machine on which everything else runs too."""
TRAIN = ["-m", "ddp_mlp.train", "--epochs", "2", "--hidden", "8", "--quiet", "--run_dir", "run"]

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Copy the program and the digits; yield what shows them on a slow disk: of seconds, and names that never come."""
    source, mounted = tmp_path / "source", tmp_path / "mounted"
    source.mkdir()
    mounted.mkdir()
    shutil.copytree(ROOT / "ddp_mlp", source / "ddp_mlp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "data" / "digits.h5", source / "digits.h5")
    shutil.copy(ROOT / "data" / "digits.h5", source / "gone.h5")
    servers = []

    def mount(seconds: float, *dead: str) -> Path:
        words: list[str | Path] = [sys.executable, PROGRAM, source, mounted, str(seconds), *dead]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        servers.append(server)
        if server.stdout is None or server.stdout.readline() != "mounted\n":
            pytest.skip("no file system can be mounted here")
        return mounted

    yield mount
    for server in servers:
        server.kill()
        server.communicate()
        subprocess.run(["umount", "-l", mounted], capture_output=True, check=False)


def started(mounted: Path, *words: str | Path, ranks: int = 1) -> "subprocess.Popen[str]":
    """Start Python with the program of the slow disk, in the folder above it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)}
    environment |= {"PYTHONPATH": str(mounted), "PYTHONDONTWRITEBYTECODE": "1"}
    launcher: list[str | Path] = [] if ranks == 1 else [MPIRUN, "-n", str(ranks)]
    return subprocess.Popen(
        [*launcher, sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=mounted.parent,
        start_new_session=True,
    )


def finished(process: "subprocess.Popen[str]", timeout: float = 40) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr; end what does not end."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
        return process.returncode, stdout, stderr
    finally:
        end(process)


def waits_for_the_disk(session: int) -> bool:
    """Tell whether a process that such a command has started waits for an answer that does not come."""
    for path in Path("/proc").glob("[0-9]*/wchan"):
        with suppress(OSError):
            if path.read_text() == "request_wait_answer" and int(path.parent.name) in _family(session):
                return True
    return False


def _parent(folder: Path) -> int:
    return int((folder / "stat").read_text().rpartition(")")[2].split()[1])


def environment_of(process: int) -> dict[str, str]:
    """Return the environment that a process was started with."""
    words = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def _family(top: int) -> set[int]:
    """Return a process and what it has started, mpirun's proxy and its ranks too."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = _parent(folder)
    found = {top}
    for _ in range(4):
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def _stop_rank_0(session: int) -> None:
    for process in _family(session):
        with suppress(OSError):
            if launched_size(environment_of(process))[0] == 2 and launched_rank(environment_of(process)) == 0:
                os.kill(process, signal.SIGSTOP)


def stopped(
    process: "subprocess.Popen[str]", number: int, before: Callable[[int], None] = lambda session: None
) -> tuple[int, str, float]:
    """Send a signal once the disk is waited for, for half a second; return exit code, stderr, and how long it took."""
    still, until = 0, time.monotonic() + 30
    while process.poll() is None and still < 10 and time.monotonic() < until:
        time.sleep(0.05)
        still = still + 1 if waits_for_the_disk(process.pid) else 0
    assert still == 10, "nothing waits for the disk"
    before(process.pid)
    began = time.monotonic()
    process.send_signal(number)
    code, _, stderr = finished(process)
    return code, stderr, time.monotonic() - began


def space(folder: Path) -> list[str]:
    """Write what a search draws from, and return the flags that say so."""
    (folder / "space.toml").write_text("learning_rate = { choice = [0.1, 0.2] }\n")
    return ["--space", "space.toml", "--trials", "2"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_slow_disk_changes_nothing(ranks: int, mount: Mount) -> None:
    """The program's files and its data come late, one by one: the same hash as from a fast disk."""
    done = finished(started(mount(0.002), *TRAIN, "--data", ROOT / "data" / "digits.h5", ranks=1))
    assert done[0] == 0, done[2]
    slow = finished(started(mount(0.002), *TRAIN[:-1], "slow", "--data", "mounted/digits.h5", ranks=ranks))
    assert slow[0] == 0, slow[2]
    assert re.findall("parameters_sha256 (.*)", slow[1]) == re.findall("parameters_sha256 (.*)", done[1]) != []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("ranks", [1, 2])
def test_data_that_never_come_keep_no_signal_waiting(ranks: int, number: signal.Signals, mount: Mount) -> None:
    """One line and 75, though the kernel wakes the waiting thread for nothing but the process's end."""
    process = started(mount(0, "gone.h5"), *TRAIN, "--data", "mounted/gone.h5", ranks=ranks)
    code, stderr, seconds = stopped(process, number)
    assert code == 75, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert lines == [
        f"error: stopped by {number.name}: there was nothing to save yet; the same command starts again"
    ], stderr
    assert seconds < HONOURED_SECONDS


@pytest.mark.parametrize(("name", "ranks"), [("train", 1), ("train", 2), ("search", 1)])
def test_data_that_never_come_are_seen_by_the_watchdog(name: str, ranks: int, mount: Mount) -> None:
    """Without any signal: the line that says where, and 75."""
    process = started(mount(0, "gone.h5"), *TRAIN, "--data", "mounted/gone.h5", "--stall_seconds", "2", ranks=ranks)
    code, _, stderr = finished(process)
    assert code == 75, stderr
    assert re.search(r"^error: rank \d on .*: no progress for \d+ s in step 0, reading data", stderr, re.MULTILINE)


@pytest.mark.parametrize("name", ["predict", "convert", "report", "search"])
def test_no_command_is_kept_waiting(name: str, mount: Mount) -> None:
    """The code of a command that a signal ends: 128 and its number, or 75 where it goes on."""
    mounted = mount(0, "gone.h5")
    if name in ("predict", "report"):
        assert finished(started(mounted, *TRAIN, "--data", "mounted/digits.h5"))[0] == 0
    words = {
        "predict": ["run", "mounted/gone.h5"],
        "convert": ["mounted/gone.h5", "out.h5"],
        "report": ["run", "--data", "mounted/gone.h5"],
        "search": ["--data", "mounted/gone.h5", "--run_dir", "run", *space(mounted.parent)],
    }[name]
    code, stderr, seconds = stopped(started(mounted, "-m", f"ddp_mlp.{name}", *words), signal.SIGTERM)
    assert code == (75 if name == "search" else 128 + signal.SIGTERM), stderr
    assert [line[:27] for line in stderr.splitlines()] == ["error: stopped by SIGTERM" + ": "[: 2 * (code == 75)]], (
        stderr
    )
    assert seconds < HONOURED_SECONDS


@pytest.mark.parametrize("ranks", [1, 2])
def test_imports_that_never_come_keep_no_signal_waiting(ranks: int, mount: Mount) -> None:
    """The same line while Python reads the program itself."""
    process = started(mount(0, "train.py"), *TRAIN, "--data", "mounted/digits.h5", ranks=ranks)
    code, stderr, seconds = stopped(process, signal.SIGTERM)
    assert (code, stderr) == (75, "error: stopped by SIGTERM\n")
    assert seconds < HONOURED_SECONDS


def test_a_rank_0_that_hears_nothing_leaves_the_word_to_another(mount: Mount) -> None:
    """It is stopped, so it says nothing, and the line comes none the less."""
    process = started(mount(0, "train.py"), *TRAIN, "--data", "mounted/digits.h5", ranks=2)
    code, stderr, seconds = stopped(process, signal.SIGTERM, _stop_rank_0)
    assert (code, stderr) == (75, "error: stopped by SIGTERM\n")
    assert seconds < HONOURED_SECONDS
