"""Tests of the proofs that are kept on disk: taken where all is as it was, made again where anything is not."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.nn.buffers import Group, Shortcuts
from ddp_mlp.summing import proven, remembered
from tests.conftest import Program

F32 = np.dtype(np.float32)
SHAPES: tuple[Any, ...] = ((20, 16, 4), (8, 8), F32)
PROOF = {1: Shortcuts(z_at_once=True, dW_added=True), 2: Shortcuts(dA_turned=True)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of proofs, which is not there yet."""
    monkeypatch.setenv("DDP_MLP_CACHE", str(tmp_path))
    return tmp_path / "proofs"


def proofs_made(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Return a list of the groups that something will be proven for, in a process that has proven nothing."""
    made: list[Group] = []
    prove = proven.prove

    def noted(group: Group) -> remembered.Proof:
        made.append(group)
        return prove(group)

    monkeypatch.setattr(proven, "_KEPT", {})
    monkeypatch.setattr(proven, "prove", noted)
    return made


def test_the_second_process_proves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the first one's proof; other shapes are proven for themselves."""
    made = proofs_made(monkeypatch)
    first = proven.shortcuts(Group(*SHAPES))
    monkeypatch.setattr(proven, "_KEPT", {})
    assert proven.shortcuts(Group(*SHAPES)) == first
    assert len(made) == 1
    proven.shortcuts(Group(SHAPES[0], (8, 8, 8), F32))
    proven.shortcuts(Group(SHAPES[0], (8, 8), np.dtype(np.float64)))
    assert len(made) == 3
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BLAS kernel", "openblas 0.0 Another"),
        ("numpy", "1.0"),
        ("vector instructions", "none"),
        ("libm", "another"),
        ("processor", "another"),
        ("environment", "OPENBLAS_L2_SIZE=1"),
        ("code", "0"),
        ("functions", "0"),
        ("products", "0"),
        ("shapes", "1-1 in 1 float32"),
    ],
)
def test_a_proof_of_anything_else_is_none(folder: Path, name: str, value: str) -> None:
    """Whatever it depends on, one difference is enough."""
    key = remembered.key_of(*SHAPES)
    assert name in key
    remembered.remember(key, PROOF)
    assert remembered.recall(key) == PROOF
    assert remembered.recall({**key, name: value}) is None
    assert set(key) == {entry for entry, _ in _KEYS}, "a new part of the key needs a line here"


_KEYS = test_a_proof_of_anything_else_is_none.pytestmark[0].args[1]  # type: ignore[attr-defined]


def test_the_environment_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS takes the size of its blocks from a variable too."""
    before = remembered.key_of(*SHAPES)
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "123")
    assert remembered.key_of(*SHAPES) == {
        **before,
        "environment": f"{before['environment']} OPENBLAS_L2_SIZE=123".strip(),
    }


def another_result(path: Path) -> None:
    """Allow a product more, and leave the hash as it is."""
    kept = json.loads(path.read_text())
    kept["layers"][1][0] = True
    path.write_text(json.dumps(kept))


def writable_by_others(path: Path) -> None:
    """Let the group write."""
    path.chmod(0o660)


def a_folder(path: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        another_result,
        writable_by_others,
        a_folder,
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:-9]),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("[1, 2]"),
        lambda path: path.write_bytes(b"\xff\xfe{}"),
        lambda path: path.unlink(),
    ],
)
def test_a_spoilt_proof_is_none(folder: Path, spoil: Callable[[Path], Any]) -> None:
    """Neither an error nor believed; and another one takes its place, where there is one."""
    key = remembered.key_of(*SHAPES)
    remembered.remember(key, PROOF)
    [path] = folder.iterdir()
    assert path.stat().st_mode & 0o077 == 0
    spoil(path)
    assert remembered.recall(key) is None
    remembered.remember(key, PROOF)
    assert path.is_dir() or remembered.recall(key) == PROOF
    assert [entry for entry in folder.iterdir() if entry != path] == []


def test_every_byte_of_a_proof_counts(folder: Path) -> None:
    """Damage anywhere is found: what is read is what was written, or nothing."""
    key = remembered.key_of(*SHAPES)
    remembered.remember(key, PROOF)
    [path] = folder.iterdir()
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert remembered.recall(key) in (None, PROOF)


def test_nothing_is_kept_where_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be, no folder at all, a home that is not there."""
    (tmp_path / "file").write_text("")
    key = remembered.key_of(*SHAPES)
    for asked in (str(tmp_path / "file"), "", "/proc/nothing"):
        monkeypatch.setenv("DDP_MLP_CACHE", asked)
        remembered.remember(key, PROOF)
        assert remembered.recall(key) is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/elsewhere"}, "/elsewhere/ddp_mlp/proofs"),
        ({"HOME": "/home/she"}, "/home/she/.cache/ddp_mlp/proofs"),
        ({"DDP_MLP_CACHE": "/given", "XDG_CACHE_HOME": "/elsewhere"}, "/given/proofs"),
        ({"XDG_CACHE_HOME": "relative"}, None),
    ],
)
def test_the_folder_is_the_users_cache(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the XDG base directory specification has it, where nothing else is said; relative paths count for nothing."""
    for name in ("XDG_CACHE_HOME", "DDP_MLP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert remembered.cache_folder() == (None if expected is None else Path(expected))


def test_the_oldest_go_where_there_are_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them, before a new one is written."""
    monkeypatch.setattr(remembered, "MOST", 5)
    for number in range(7):
        remembered.remember({"number": str(number)}, PROOF)
        for path in folder.iterdir():
            if path.stat().st_mtime > 1e6:
                os.utime(path, (number, number))
    assert len(list(folder.iterdir())) == 4
    assert [remembered.recall({"number": str(number)}) for number in range(7)] == [None] * 3 + [PROOF] * 4


def test_two_programs_share_what_the_first_has_proven(folder: Path, run_python: Program) -> None:
    """The same bits from a command that proves and from one that recalls."""
    command = [
        "-m",
        "ddp_mlp.train",
        "--hidden",
        "300,300",
        "--epochs",
        "1",
        "--max_steps",
        "3",
        "--quiet",
        "--run_dir",
    ]
    first = run_python(*command, folder.parent / "a", env={"DDP_MLP_CACHE": str(folder.parent)})
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = run_python(*command, folder.parent / "b", env={"DDP_MLP_CACHE": str(folder.parent)})
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept != {}
    assert first.stdout.split()[-1] == second.stdout.split()[-1]
