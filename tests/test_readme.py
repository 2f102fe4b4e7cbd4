"""Tests of the README: its commands work as written, its flags exist, the lines of code it quotes are there."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddp_mlp.config import Config
from tests.conftest import MPIRUN, ROOT, run

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


def section(title: str) -> str:
    """Return the text under a heading, up to the next one of its rank."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_tour_works_as_written(tmp_path: Path) -> None:
    """The tour's commands run in order, and the two hashes it promises to be equal are."""
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python")
    (tmp_path / "data").symlink_to(ROOT / "data")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    hashes = []
    for block in re.findall(r"```sh\n(.*?)```", section("A 30-second tour"), re.DOTALL)[1:]:
        for line in block.splitlines():
            outcome = run(["bash", "-c", line], 60, {"PATH": path}, tmp_path)
            assert outcome.returncode == 0, outcome.stderr
            hashes += re.findall(r"parameters_sha256 (\w+)", outcome.stdout)
    assert len(hashes) == 3
    assert hashes[0] != hashes[1] == hashes[2]


def test_every_quoted_line_of_code_is_there() -> None:
    """The table of formulas names lines that exist in the files it names."""
    rows = re.findall(
        r"^\| .* \| `(.*?)` \| `(.*?)` \|$", section("The derivation, and the lines that compute it"), re.M
    )
    assert len(rows) >= 11
    for code, file in rows:
        assert code in (ROOT / "ddp_mlp" / file).read_text(), code


def test_every_training_flag_exists() -> None:
    """No command in the README uses a flag that the program does not have."""
    keys = {field.name for field in dataclasses.fields(Config)} | {"config", "help", "print_config"}
    for line in COMMANDS:
        if "ddp_mlp.train" in line:
            assert set(re.findall(r" --(\w+)", line)) <= keys, line


def test_every_command_answers_to_help() -> None:
    """Each `python -m ddp_mlp.NAME` in the README is a command with every flag the README gives it."""
    for name in sorted(set(re.findall(r"-m (ddp_mlp\.\w+)", "\n".join(COMMANDS)))):
        shown = subprocess.run([sys.executable, "-m", name, "--help"], capture_output=True, text=True, timeout=60)
        assert shown.returncode == 0, (name, shown.stderr)
        flags = {flag for line in COMMANDS if name in line for flag in re.findall(r" (--\w+)", line)}
        assert not {flag for flag in flags if flag not in shown.stdout}, name
