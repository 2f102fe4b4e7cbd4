"""Tests of the terminal that people look at: this process's own, or the launcher's."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest

from ddp_mlp.parallel.terminal import Terminal, painted, terminal_of
from tests.conftest import MPIRUN, ROOT

TOLD = """
import sys
from ddp_mlp.parallel.terminal import terminal_of
print(terminal_of(1), terminal_of(2), file=open(sys.argv[1], "w"))
"""


def seen(command: list[str], folder: Path, redirected: int | None, environment: Mapping[str, str]) -> str:
    """Return what a program finds whose descriptors 1 and 2 are a terminal of 100 columns, but for one."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with (folder / "other").open("w") as other:
        streams = [other if number == redirected else theirs for number in (1, 2)]
        subprocess.run(
            [*command, sys.executable, "-c", TOLD, str(folder / "found")],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            timeout=50,
            check=True,
            env={**{name: v for name, v in os.environ.items() if name != "NO_COLOR"}, "TERM": "xterm", **environment},
        )
    os.close(theirs)
    os.close(ours)
    return (folder / "found").read_text().strip()


SEEN = "Terminal(columns=100, colours=True)"


@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize(("redirected", "found"), [(None, f"{SEEN} {SEEN}"), (1, f"None {SEEN}"), (2, f"{SEEN} None")])
def test_each_stream_has_its_own_terminal(launched: bool, redirected: int | None, found: str, tmp_path: Path) -> None:
    """A terminal is found behind each stream, also through mpirun, and not where that stream goes to a file."""
    if launched and not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python")
    command = [str(MPIRUN), "-n", "1"] if launched else []
    assert seen(command, tmp_path, redirected, {}) == found


def test_no_colours_where_none_are_wanted(tmp_path: Path) -> None:
    """NO_COLOR, if it is not empty, and a terminal that has none leave the text alone."""
    plain = SEEN.replace("True", "False")
    assert seen([], tmp_path, None, {"NO_COLOR": "1"}) == f"{plain} {plain}"
    assert seen([], tmp_path, None, {"TERM": "dumb"}) == f"{plain} {plain}"
    assert seen([], tmp_path, None, {"NO_COLOR": ""}) == f"{SEEN} {SEEN}"
    assert painted(Terminal(80, True), "word", "red") == "\x1b[1;31mword\x1b[0m"
    assert painted(Terminal(80, False), "word", "red") == painted(None, "word", "red") == "word"


def test_launcher_elsewhere(tmp_path: Path) -> None:
    """Where the launcher is on another host, or a name with brackets stands above, there is no terminal."""
    (tmp_path / str(os.getpid())).mkdir()
    (tmp_path / str(os.getpid()) / "stat").write_text(f"{os.getpid()} (py) thon (x)) S 7 1 1")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (mpi) S 0 1 1")
    assert terminal_of(2, {"PMI_RANK": "0", "TERM": "xterm"}, tmp_path) is None
