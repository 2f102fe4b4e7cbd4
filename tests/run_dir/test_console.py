"""Tests of the console: lines and a bar for people, and nothing that a terminal obeys."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.errors import ConfigError
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.parallel.terminal import Terminal
from ddp_mlp.run_dir.console import Console, Rate, Screens
from tests.conftest import MPIRUN, ROOT, Program
from tests.events import START


def test_rate_counts_from_the_last_time_asked() -> None:
    """Examples per second are those since the last question."""
    clock = iter([0.0, 2.0, 12.0])
    rate = Rate(lambda: next(clock))
    rate.count(60)
    rate.count(40)
    assert rate.take() == 50.0
    rate.count(5)
    assert rate.take() == 0.5


def test_errors_are_printable() -> None:
    """What a message quotes from the world outside is made visible: one line, no terminal commands."""
    error = ConfigError("data = \x1b[31m\r\n\u202e\udcff.h5: not there")
    assert str(error) == "data = \\x1b[31m\\r\\n\\u202e\\udcff.h5: not there"


def test_log_file(run_python: Program, tmp_path: Path) -> None:
    """Where stderr is no terminal: one plain line per interval, a block at either end; the result alone on stdout."""
    done = run_python("-m", "ddp_mlp.train", "--epochs", "5", "--log_every", "20", "--run_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("test loss ")
    assert re.search(r"parameters_sha256 [0-9a-f]{64}\n$", done.stdout)  # whole, for scripts
    assert all(len(line) <= 80 for line in done.stderr.splitlines() if str(tmp_path) not in line)
    words = [line.split()[0] for line in done.stderr.splitlines() if not line.startswith("  ")]
    middle = ["epoch", "step", "epoch", "epoch", "step", "epoch", "step", "epoch"]
    assert words == ["data", "access", "network", "training", "ranks", "run", *middle, "ended", "kept", "journal"]
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def test_quiet(run_python: Program, tmp_path: Path) -> None:
    """`--quiet` leaves the result."""
    done = run_python("-m", "ddp_mlp.train", "--epochs", "1", "--quiet", "--run_dir", tmp_path)
    assert done.stderr == ""
    assert "parameters_sha256" in done.stdout


def test_names_that_command_a_terminal(run_python: Program, tmp_path: Path, digits: Path) -> None:
    """A data file and a folder whose names hold escape sequences print as text, in the log and in errors."""
    name = "\x1b]0;owned\x07\x9b31m\n.h5"
    (tmp_path / name).symlink_to(digits)
    flags = ["--epochs", "1", "--run_dir", tmp_path / "run\x1b[2J"]
    done = run_python("-m", "ddp_mlp.train", "--data", tmp_path / name, *flags)
    missing = run_python("-m", "ddp_mlp.train", "--data", tmp_path / f"missing{name}", *flags)
    assert (done.returncode, missing.returncode) == (0, 74)
    for text in (done.stdout, done.stderr, missing.stderr):
        assert text.replace("\n", "").isprintable()
    assert "\\x1b]0;owned\\x07" in done.stderr
    assert len(missing.stderr.splitlines()) == 1


def read_all(descriptor: int) -> Iterator[bytes]:
    """Read a pseudo-terminal until its other end is closed."""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # Linux says EIO at the end
            return
        if not piece:
            return
        yield piece


def seen_on_a_terminal(columns: int, *command: str, **environment: str) -> str:
    """Run a program on a terminal of its own that has colours; return all it writes there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(command, cwd=ROOT, env={**inherited, "TERM": "xterm", **environment}, **streams) as process:
        os.close(theirs)
        text = b"".join(read_all(ours)).decode()
        assert process.wait(30) == 0
    os.close(ours)
    return text


COLOURS = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize("launched", [False, True])
def test_bar_on_a_terminal(tmp_path: Path, launched: bool) -> None:
    """On a terminal, behind mpirun too, a bar shows the run; step lines are gone, and the hash has 16 digits."""
    if launched and not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python")
    launcher = [str(MPIRUN), "-n", "2"] if launched else []
    train = [sys.executable, "-m", "ddp_mlp.train", "--epochs", "60", "--checkpoint_every", "1 epoch"]
    train += ["--run_dir", str(tmp_path)]
    text = seen_on_a_terminal(160, *launcher, *train)
    assert "\x1b[1mdata\x1b[0m" in text
    assert "\x1b[1mepoch\x1b[0m 60/60" in text
    plain = COLOURS.sub("", text)
    bar = r"%\|.*\| \d+/720  loss \d\.\d{4}  accuracy \d\.\d{3}  [\d,]+ examples/s  saved at \d+.* [\d:]+ left"
    assert re.search(bar, plain)
    assert not re.search(r"^step ", plain, re.MULTILINE)
    assert re.search(r"epoch 60/60 .*\r\n.*ended     by epochs: 720 steps", plain, re.DOTALL)
    hashed = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["parameters_sha256"]
    assert f"parameters_sha256 {hashed[:16]}…" in plain
    assert hashed not in plain


def test_80_columns_without_colours(tmp_path: Path) -> None:
    """All that a terminal of 80 columns sees fits into it, and NO_COLOR leaves it without colours."""
    train = ["-m", "ddp_mlp.train", "--epochs", "60", "--valid_fraction", "0.1", "--run_dir", "run"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *train, "--data", str(ROOT / "data/digits.h5")]
    text = seen_on_a_terminal(80, "env", "-C", str(tmp_path), *command, NO_COLOR="1", PYTHONPATH=path)
    assert "\x1b[1m" not in text
    lines = re.split(r"[\r\n]+|\x1b\[A", text)
    assert max(len(line) for line in lines if str(ROOT) not in line) <= 80
    assert re.search(r"epoch 60/60  loss [\d.e-]+, valid [\d.e-]+  accuracy \d\.\d{4}, valid \d\.\d{4}", text)
    assert len(re.findall(r"epoch +\d+/60", text)) == 31  # the first and every other one


def test_console_draws_no_more_than_a_person_sees(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten thousand steps in a second by the clock draw the bar about ten times."""
    now = 0.0
    console = Console(quiet=False, clock=lambda: now, look=lambda: Screens(None, Terminal(120, False)))
    console.event(START)
    capsys.readouterr()
    for step in range(10_000):
        now += 0.0001
        console.step(step, Totals(1.0, 2.0, 1, 2), 2)
    drawn = capsys.readouterr().err.count("examples/s")
    console.close()
    assert 9 <= drawn <= 11
