"""stdout and stderr as a program may find them: a run ends as it would without, and a result is not lost in silence."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from ddp_mlp import streams
from ddp_mlp.streams import TextStream
from tests.conftest import MPIRUN, ROOT, Program

CONSOLES = {
    "closed": "{} >&- 2>&-",
    "broken": "{} 2>&1 | true; exit ${{PIPESTATUS[0]}}",
    "full": "{} >/dev/full 2>/dev/full",
    "ascii": "PYTHONIOENCODING=ascii LANG=C {} >out.txt 2>&1",
    "as it is": "{}",
    "first line only": "{} 2>&1 | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}",
}
"""What a shell does with a command."""


def in_shell(kind: str, command: str, folder: Path, timeout: float = 100) -> "subprocess.CompletedProcess[str]":
    """Run a command with such a console, in a folder."""
    line = CONSOLES[kind].format(command)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=timeout, cwd=folder, env=environment, check=False
    )


@pytest.fixture(scope="module")
def data(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data-set file whose classes have names of several scripts."""
    folder = tmp_path_factory.mktemp("streams")
    rows = [f"{i % 7},{i % 3},{('été', 'лето', '夏')[i % 3]}" for i in range(90)]
    (folder / "t.csv").write_text("\n".join(["a,b,y", *rows]) + "\n", encoding="utf-8")
    done = run_python("-m", "ddp_mlp.convert", folder / "t.csv", folder / "d.h5", "--label", "y", "--test", "30")
    assert done.returncode == 0, done.stderr
    return folder / "d.h5"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", CONSOLES)
def test_a_run_does_not_depend_on_its_console(kind: str, ranks: int, data: Path, tmp_path: Path) -> None:
    """Exit code 0 and a checkpoint, whatever becomes of what it says."""
    command = f"{sys.executable} -m ddp_mlp.train --data {data} --epochs 2 --hidden 4 --run_dir run"
    if ranks == 1:
        done = in_shell(kind, command, tmp_path)
    else:  # mpirun reads what the ranks say; a rank that was started by ssh or srun has a console of its own
        script = tmp_path / "rank.sh"
        script.write_text(CONSOLES[kind].format(command) + "\n")
        done = in_shell("as it is", f"{MPIRUN} -n {ranks} bash {script}", tmp_path)
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (0, False), done.stderr
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.h5"))
    if kind == "ascii":
        assert "Traceback" not in (tmp_path / "out.txt").read_text("ascii")


@pytest.fixture(scope="module")
def trained(data: Path, run_python: Program) -> Path:
    """Return the folder of a run on that data."""
    folder = data.parent / "trained"
    done = run_python("-m", "ddp_mlp.train", "--data", data, "--epochs", "2", "--hidden", "4", "--run_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


COMMANDS = {
    "predict": "predict {trained} {data}",
    "convert": "convert --inspect {data}",
    "report": "report {trained} -o r.html",
    "verify": "verify",
    "doctor": "doctor",
    "describe": "train --data {data} --describe",
    "help": "train --help",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", CONSOLES)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_ends_in_a_traceback(name: str, kind: str, data: Path, trained: Path, tmp_path: Path) -> None:
    """A reader that goes away is no error; a result that a full disk swallows is, with exit code 74."""
    command = f"{sys.executable} -m ddp_mlp.{COMMANDS[name].format(data=data, trained=trained)}"
    done = in_shell(kind, command, tmp_path)
    assert "Traceback" not in done.stdout + done.stderr
    allowed = {74} if kind == "full" and name not in ("help", "describe") else {0}
    assert done.returncode in allowed | ({78} if name == "doctor" and kind != "full" else set()), done.stderr


def test_what_is_wanted_and_lost_is_told_from_what_is_not() -> None:
    """A broken pipe, a closed descriptor and a hung-up terminal are not missed; a full disk is."""

    class Failing(io.StringIO):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def flush(self) -> None:
            raise OSError(self.number, "no")

    for number, wanted in ((errno.EPIPE, False), (errno.EIO, False), (errno.ENOSPC, True), (errno.EFBIG, True)):
        console = TextStream(Failing(number))
        print("a result", file=console)
        print("and more", file=console)
        assert console.lost is not None
        assert (console.lost.errno not in streams.UNWANTED) == wanted


def test_a_line_is_one_write() -> None:
    """Its parts wait for its end, or for a flush."""
    written: list[str] = []

    class Recording(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    console = TextStream(Recording())
    print("a", 1, "b", file=console)
    print("no end", end="", file=console)
    assert written == ["a 1 b\n"]
    console.flush()
    assert written == ["a 1 b\n", "no end"]


def test_nowhere_is_a_console_too() -> None:
    """Python's None for a closed stream takes whatever is printed."""
    console = TextStream(None)
    print("lost", file=console, flush=True)
    assert not console.isatty()
    assert streams.console(console) is console  # type: ignore[arg-type] # it is used as one
