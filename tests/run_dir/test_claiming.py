"""The folder of a run: its own where none is named, and the words for how to go on in it."""

import shlex
import time
from pathlib import Path

import pytest

from ddp_mlp.config import Config
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.run_dir.claiming import claimed, how_to_go_on
from tests.conftest import ROOT, Program


def test_two_starts_in_one_second_have_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one's name goes on with a number."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101T000000Z")
    with claimed(Config(), SingleProcess()) as first, claimed(Config(), SingleProcess()) as second:
        assert first.run_dir == "runs/digits-20260101T000000Z"
        assert second.run_dir == "runs/digits-20260101T000000Z-2"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Config(run_dir="a"), "run the same command again to go on"),
        (Config(), "run the same command again with --run_dir 'runs/a b' to go on"),
        (Config(run_dir="a", resume="never"), "run the same command again with --resume auto to go on"),
    ],
)
def test_the_words_say_what_is_needed(asked: Config, words: str) -> None:
    """What the first start chose by itself, the second must be told."""
    assert how_to_go_on(asked, "runs/a b") == words


def test_the_command_that_is_named_goes_on(run_python: Program, tmp_path: Path) -> None:
    """With the default folder: the flags of the last line continue that very run."""
    command = ["-m", "ddp_mlp.train", "--data", str(ROOT / "data" / "digits.h5"), "--quiet"]
    stopped = run_python(*command, "--max_seconds", "1e-9", cwd=tmp_path)
    assert stopped.returncode == 75
    flags = stopped.stderr.partition("run the same command again with ")[2].partition(" to go on")[0]
    done = run_python(*command, "--epochs", "1", *shlex.split(flags), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_files_follow_the_umask_or_are_private(run_python: Program, tmp_path: Path) -> None:
    """Everything that a run writes can be read by others under umask 022, and by nobody else with --private."""
    command = ["-m", "ddp_mlp.train", "--data", str(ROOT / "data" / "digits.h5"), "--epochs", "1", "--quiet"]
    (tmp_path / "space.toml").write_text("l2 = { choice = [0.0, 0.01] }\n")
    search = ["--space", tmp_path / "space.toml", "--sampler", "grid", "--valid_fraction", "0.2"]
    for verb, asked in (("train", []), ("search", search)):
        code = f"import os, sys; os.umask(0o022); from ddp_mlp.{verb} import main; main(sys.argv[1:])"
        for flags, mode in (([], 0o644), (["--private"], 0o600)):
            folder = tmp_path / verb / str(mode)
            done = run_python("-c", code, *command[2:], "--run_dir", folder, *asked, *flags)
            assert done.returncode == 0, done.stderr
            files = [path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name]
            assert len(files) >= 3
            assert {path.stat().st_mode & 0o777 for path in files} == {mode}
