"""Tests of run_dir/lock.py: who may have a run's folder, with real processes and real locks."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddp_mlp.errors import RunInUse, StorageError
from ddp_mlp.run_dir import lock
from ddp_mlp.run_dir.lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from ddp_mlp.run_dir.lock import Lock
Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""
SOMEWHERE = {"host": "another-host", "pid": 4711, "started": "1", "job": "815", "since": "2026-01-01T00:00:00Z"}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for tenths of seconds where a run waits for seconds."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.3)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock on tmp_path."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "SLURM_JOB_ID": "42"}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a file system that has no flock, as Lustre without its mount option."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """The refusal names host, process and job, and has the exit code that means: run me again later."""
    with pytest.raises(RunInUse, match=f"{socket.gethostname()}, process {holder.pid}, job 42, since 20") as caught:
        Lock(tmp_path)
    assert caught.value.exit_code == 75


def test_a_killed_holder_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """After SIGKILL the folder is free at once, although the file still names the dead one."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == holder.pid
    Lock(tmp_path).release()


def test_released_means_free_and_empty(tmp_path: Path) -> None:
    """After `with`, the file stays, for nobody, and the next one can have it."""
    with Lock(tmp_path):
        assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
    assert (tmp_path / lock.LOCK).read_bytes() == b""
    assert (tmp_path / lock.LOCK).stat().st_mode & 0o777 == 0o600
    Lock(tmp_path).release()


@pytest.mark.parametrize("flock", [True, False])
def test_a_holder_elsewhere_that_beats_is_alive(tmp_path: Path, flock: bool, request: pytest.FixtureRequest) -> None:
    """A file that another host touches is in use, even where this host's flock is granted."""
    if not flock:
        request.getfixturevalue("no_flock")
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps(SOMEWHERE))
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RunInUse, match="another-host, process 4711, job 815"):
            Lock(tmp_path)
    finally:
        done.set()
        thread.join()


def test_a_holder_elsewhere_that_does_not_beat_is_dead(tmp_path: Path) -> None:
    """A file that stands still while it is looked at belongs to nobody, whatever any clock says."""
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps(SOMEWHERE))
    os.utime(path, (time.time() + 9999, time.time() + 9999))
    Lock(tmp_path).release()


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_process_decides(tmp_path: Path) -> None:
    """On the same host a holder is alive exactly if its process is, and has not been replaced by one of its number."""
    held = Lock(tmp_path)
    with pytest.raises(RunInUse, match=f"process {os.getpid()}"):
        Lock(tmp_path)
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": "1"}))
    Lock(tmp_path).release()
    held.release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 100, b'{"host": null}'])
def test_a_torn_line_is_nobodys(tmp_path: Path, content: bytes) -> None:
    """What a crash of the machine leaves in the file keeps nobody out."""
    (tmp_path / lock.LOCK).write_bytes(content)
    Lock(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    """A link in the file's place is not followed."""
    (tmp_path / lock.LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="lock: cannot be written"):
        Lock(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_beating_holder_keeps_its_file_young(tmp_path: Path) -> None:
    """While the lock is held the file's time of modification moves."""
    with Lock(tmp_path):
        first = (tmp_path / lock.LOCK).stat().st_mtime_ns
        time.sleep(0.35)
        assert (tmp_path / lock.LOCK).stat().st_mtime_ns > first


def test_a_lock_that_nobody_can_read_is_nobody_s(tmp_path: Path) -> None:
    """Four thousand brackets are too deep for the JSON module, and no holder."""
    (tmp_path / "lock").write_text("[" * 4000)
    with Lock(tmp_path):
        pass


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_that_is_deleted_or_replaced_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """While it is held: another run could not see it any more."""
    monkeypatch.setattr("ddp_mlp.run_dir.lock.BEAT_SECONDS", 0.05)
    said: list[str] = []
    with Lock(tmp_path, said.append):
        time.sleep(0.2)
        assert said == []
        (tmp_path / "lock").unlink()
        if replaced:
            (tmp_path / "lock").touch()
        time.sleep(0.5)
    assert said == [f"{tmp_path}/lock: was deleted or replaced: another run may now write here, too"]
