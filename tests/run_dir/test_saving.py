"""Tests of run_dir/saving.py: one write at a time, errors that surface, and what is said to be saved."""

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.errors import StorageError
from ddp_mlp.run_dir.saving import BackgroundWriter, Saving
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.checkpoint import Checkpoint


def a_checkpoint(step: int) -> Checkpoint:
    """Return a small checkpoint of a step."""
    parameters = {"W1": np.full((2, 3), step, np.float32), "b1": np.zeros(2, np.float32)}
    return Checkpoint(parameters, {}, None, {}, 0, step, {}, ("a", "b"), {}, {})


class Heard(list[Any]):
    """What a Saving has told."""

    def saving(self, folder: Path, **options: Any) -> Saving:
        """Return a Saving that tells it here."""
        defaults: dict[str, Any] = {"keep": 2, "go_on": False, "begun_from": None}
        return Saving(folder, saved=self.append, warn=self.append, **{**defaults, **options})


def test_writes_do_not_overlap() -> None:
    """The next write begins when the one before has ended; starting the first does not wait for it."""
    writer, log, gate = BackgroundWriter(), [], threading.Event()

    def slow() -> None:
        gate.wait(5)
        log.append("first")

    began = time.monotonic()
    writer.start(slow)
    assert time.monotonic() - began < 1
    threading.Timer(0.1, gate.set).start()
    writer.start(lambda: log.append("second"))
    writer.wait()
    assert log == ["first", "second"]


def test_an_error_surfaces_once() -> None:
    """It is seen in `failed` first, then raised by the next call, and gone."""
    writer = BackgroundWriter()
    writer.start(lambda: 1 / 0)
    while not writer.failed:
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        writer.start(lambda: None)
    writer.wait()
    assert not writer.failed


def test_waiting_has_a_limit() -> None:
    """A write that hangs does not keep a rank that fails alone."""
    writer, gate = BackgroundWriter(), threading.Event()
    writer.start(lambda: gate.wait(5))
    began = time.monotonic()
    writer.wait(0.1)
    assert time.monotonic() - began < 2
    gate.set()


def test_what_is_saved_is_what_is_on_the_disk(tmp_path: Path) -> None:
    """Nothing before the first write has ended, then the newest file; a best one is no checkpoint to go on from."""
    heard = Heard()
    saving = heard.saving(tmp_path)
    assert saving.what_is_saved() == "no checkpoint is saved"
    saving.keep_best(a_checkpoint(3))
    assert saving.what_is_saved() == "no checkpoint is saved"
    saving.write(a_checkpoint(3), before=lambda: heard.append("journal synced"))
    assert saving.what_is_saved() == f"{tmp_path}/step-00000003.h5 is saved: run the same command again to go on"
    assert heard == ["journal synced", 3]
    saving.make_sure(3)
    with pytest.raises(
        StorageError, match=r"step 4: its checkpoint could not be written; .*step-00000003\.h5 is saved"
    ):
        saving.make_sure(4)


def test_the_best_one_is_written_before_the_next_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and the newest of them; a checkpoint that knows of it is never on the disk without it."""
    written: list[str] = []

    def noted(exact: Any, folder: Path, checkpoint: Checkpoint, *rest: int) -> Path:
        path: Path = exact(folder, checkpoint, *rest)
        written.append(f"{path.name} of step {checkpoint.step}")
        return path

    for name in ("save", "save_best"):
        monkeypatch.setattr(checkpoints, name, partial(noted, getattr(checkpoints, name)))
    saving = Heard().saving(tmp_path)
    for step in (2, 4):
        saving.keep_best(a_checkpoint(step))
    assert written == []
    for step in (5, 6):
        saving.write(a_checkpoint(step), before=lambda: None)
    saving.wait()
    assert written == ["best.h5 of step 4", "step-00000005.h5 of step 5", "step-00000006.h5 of step 6"]
    saving.keep_best(a_checkpoint(7))
    assert saving.what_is_saved().startswith(f"{tmp_path}/step-00000006.h5 is saved")
    assert written[3:] == ["best.h5 of step 7"], "a run that ends with an error leaves it"


def test_a_best_one_that_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    """With the next checkpoint, which is written anyway where the run goes on."""
    heard = Heard()
    saving = heard.saving(tmp_path, go_on=True)
    (tmp_path / "best.h5").mkdir()
    saving.keep_best(a_checkpoint(2))
    saving.write(a_checkpoint(3), before=lambda: None)
    saving.wait()
    assert heard[1:] == [3]
    assert "best.h5: cannot be written" in heard[0]
    (tmp_path / "best.h5").rmdir()
    saving.write(a_checkpoint(4), before=lambda: None)
    saving.wait()
    assert checkpoints.load(tmp_path / "best.h5").step == 2


@pytest.mark.parametrize("best", [False, True])
def test_a_failed_write_is_raised_or_counted(tmp_path: Path, best: bool) -> None:
    """A folder that is gone: an error with what is kept, or, to go on, a warning for each."""
    gone, heard = tmp_path / "gone", Heard()
    stopping = heard.saving(gone, begun_from=(7, tmp_path / "step-00000007.h5"))
    if best:
        stopping.keep_best(a_checkpoint(8))
    stopping.write(a_checkpoint(8), before=lambda: None)
    with pytest.raises(StorageError, match=r"cannot be written \(No such file"):
        stopping.wait()
    assert heard == []
    going_on = heard.saving(gone, go_on=True)
    for step in (8, 9):
        going_on.write(a_checkpoint(step), before=lambda: None)
    going_on.wait()
    assert [line.split("; ")[-1] for line in heard] == [f"going on without it ({i} so far)" for i in (1, 2)]
