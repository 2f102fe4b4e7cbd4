"""Tests of run_dir/saving.py: one write at a time, errors that surface, and what is said to be saved."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.errors import StorageError
from ddp_mlp.run_dir.saving import BackgroundWriter, Saving
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
    saving.write(a_checkpoint(3), best=True, before=lambda: None)
    assert saving.what_is_saved() == "no checkpoint is saved"
    saving.write(a_checkpoint(3), best=False, before=lambda: heard.append("journal synced"))
    assert saving.what_is_saved() == f"{tmp_path}/step-00000003.h5 is saved: run the same command again to go on"
    assert heard == ["journal synced", 3]
    saving.make_sure(3)
    with pytest.raises(
        StorageError, match=r"step 4: its checkpoint could not be written; .*step-00000003\.h5 is saved"
    ):
        saving.make_sure(4)


@pytest.mark.parametrize("best", [False, True])
def test_a_failed_write_is_raised_or_counted(tmp_path: Path, best: bool) -> None:
    """A folder that is gone: an error with what is kept, or, to go on, a warning for each."""
    gone, heard = tmp_path / "gone", Heard()
    stopping = heard.saving(gone, begun_from=(7, tmp_path / "step-00000007.h5"))
    stopping.write(a_checkpoint(8), best, before=lambda: None)
    with pytest.raises(StorageError, match=r"cannot be written \(No such file"):
        stopping.wait()
    assert heard == []
    going_on = heard.saving(gone, go_on=True)
    for step in (8, 9):
        going_on.write(a_checkpoint(step), best, before=lambda: None)
    going_on.wait()
    assert [line.split("; ")[-1] for line in heard] == [f"going on without it ({i} so far)" for i in (1, 2)]
