"""Tests of the fuzzer: it judges right, hears what it must, and a few seconds of it find nothing."""

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Program

SCRIPT = ROOT / "scripts" / "tools" / "fuzz.py"

HOSTILE = """
import runpy, sys, tempfile
from pathlib import Path
fuzz = runpy.run_path({script!r}, run_name="fuzz")
import h5py

def linked(arguments):
    h5py.File(arguments[0])["x"][()]

def crash(arguments):
    import os
    os.abort()

def hungry(arguments):
    bytearray(3 << 30)

def curious(arguments):
    open({elsewhere!r}).read()

with tempfile.TemporaryDirectory() as name:
    seeds = fuzz["make_seeds"](Path(name))
    watch = fuzz["Watch"](seeds.baits)
    path = Path(name) / "case" / "x.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink(str(seeds.baits / "bait.h5"), "/train/X")
    for command in (linked, crash, hungry, curious):
        code, stderr = fuzz["run_case"](fuzz["Case"](command, [str(path)]), path.parent, 2048)
        print(fuzz["judged"](code, stderr, watch.heard()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="inotify and /proc are Linux's")
def test_what_must_be_found_is_found(run_python: Program, tmp_path: Path) -> None:
    """An external link followed by HDF5, a crash, too much memory and a file opened elsewhere are findings."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("secret")
    outcome = run_python("-c", HOSTILE.format(script=str(SCRIPT), elsewhere=str(elsewhere)))
    assert outcome.stdout.splitlines() == [
        "opened a file elsewhere",
        "killed by SIGABRT",
        "traceback: MemoryError",
        "opened a file elsewhere",
    ], outcome.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="inotify and /proc are Linux's")
def test_a_few_seconds_find_nothing(run_python: Program, tmp_path: Path) -> None:
    """All inputs are refused or used, in one line, with the program's own exit codes."""
    outcome = run_python(SCRIPT, "--seconds", "12", "--seed", "11", cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert all(f"{kind}: " in outcome.stdout for kind in ("data", "checkpoint", "config", "convert", "weights"))
