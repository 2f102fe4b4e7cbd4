"""Tests of the console: lines and a bar for people, and nothing that a terminal obeys."""

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddp_mlp.errors import ConfigError
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.run_dir.console import Console, Rate
from tests.conftest import ROOT, Program
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
    words = [line.split()[0] for line in done.stderr.splitlines()]
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


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal a bar shows loss, accuracy, pace, the last checkpoint and the time left; step lines are gone."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    command = [sys.executable, "-m", "ddp_mlp.train", "--epochs", "60", "--checkpoint_every", "1 epoch"]
    command += ["--run_dir", str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        text = b"".join(read_all(ours)).decode()
        assert process.stdout is not None
        result = process.stdout.read().decode()
        assert process.wait(30) == 0
    os.close(ours)
    bar = r"%\|.*\| \d+/720  loss \d\.\d{4}  accuracy \d\.\d{3}  [\d,]+ examples/s  saved at \d+.* [\d:]+ left"
    assert re.search(bar, text)
    assert not re.search(r"^step ", text, re.MULTILINE)
    assert re.search(r"epoch 60/60 .*\r\n.*ended     by epochs: 720 steps", text, re.DOTALL)
    assert result.startswith("test loss")


def test_console_draws_no_more_than_a_person_sees(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten thousand steps in a second by the clock draw the bar about ten times."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    now = 0.0
    console = Console(quiet=False, clock=lambda: now)
    console.event(START)
    capsys.readouterr()
    for step in range(10_000):
        now += 0.0001
        console.step(step, Totals(1.0, 2.0, 1, 2), 2)
    drawn = capsys.readouterr().err.count("examples/s")
    console.close()
    assert 9 <= drawn <= 11
