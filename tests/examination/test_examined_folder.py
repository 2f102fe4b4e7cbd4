"""The folder of a run: what is slow or cannot be locked is found."""

import os
import time
from pathlib import Path

import pytest

from ddp_mlp.examination import folder


def test_slow_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An fsync that takes its time is found."""
    monkeypatch.setattr(folder, "FSYNC_AT_MOST", 0.02)
    fsync = os.fsync

    def late(descriptor: int) -> None:
        time.sleep(0.03)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", late)
    slow = {finding.check: finding for finding in folder.examine_folder(tmp_path)}["fsync"]
    assert not slow.fine
    assert slow.values["seconds"] >= 0.03


def test_locks(tmp_path: Path) -> None:
    """A file can be locked; a descriptor that is none cannot."""
    with (tmp_path / "file").open("w") as file:
        assert folder.locks(file.fileno())
        descriptor = file.fileno()
    assert not folder.locks(descriptor)
