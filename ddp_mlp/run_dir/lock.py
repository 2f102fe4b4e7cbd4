"""One run_dir, one run: a lock that rank 0 holds while the run lasts, and that says who holds it.

- RUN_DIR/lock holds one line of JSON: host, process, job, since when. Empty, or without a file, nobody holds it.
- The operating system's lock on that file (flock) decides where it can: it ends with its holder, however that died.
- Not every network file system passes flock on to other hosts. A holder there is known by its heartbeat: it touches the
  file every few seconds. One whose file stands still is dead. Clocks of different hosts are never compared.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ddp_mlp.errors import RunInUse, StorageError

LOCK = "lock"
BEAT_SECONDS = 2.0
"""How often a holder touches the file."""
LOOK_SECONDS = 7.0
"""How long a file that another host has left is watched for a beat."""
WAIT_SECONDS = 5.0
"""How long a holder on this host is waited for: one that has just been killed may take a moment to be gone."""
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


class Lock:
    """The lock on a folder, held from its making until `release`; a context manager. Local: for rank 0."""

    def __init__(self, folder: Path, warn: Callable[[str], Any] = print) -> None:
        """Take the lock. Raises RunInUse, naming the holder, or StorageError.

        `warn` is told, from another thread, where the file is deleted or replaced while the lock is held.
        """
        self._path, self._warn = folder / LOCK, warn
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written ({error.strerror})") from error
        try:
            decided = self._flock()
            holder = self._holder()
            if holder and not (decided and holder["host"] == socket.gethostname()) and self._is_alive(holder):
                raise _in_use(folder, holder)
            self._sign()
        except OSError as error:
            os.close(self._file)
            raise StorageError(f"{self._path}: cannot be locked ({error.strerror})") from error
        except BaseException:
            os.close(self._file)
            raise
        self._released = threading.Event()
        self._beat = threading.Thread(target=self._keep_beating, name="lock", daemon=True)
        self._beat.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let others have the folder. The file stays, empty: removing it could take it from under a new holder."""
        self._released.set()
        self._beat.join()
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
        with contextlib.suppress(OSError):  # it is closed all the same
            os.close(self._file)

    def _flock(self) -> bool:
        """Take the operating system's lock; return False where this file system has none. Raises RunInUse."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno in NO_FLOCK:
                    return False
                if not isinstance(error, BlockingIOError):
                    raise
            if time.monotonic() > deadline:
                raise _in_use(self._path.parent, self._holder() or _unknown())
            time.sleep(0.1)

    def _holder(self) -> dict[str, Any] | None:
        """Return who has signed the file last, None where nobody has or a crash has cut the line."""
        try:
            found = json.loads(os.pread(self._file, 4096, 0))
            return {**_unknown(), **found} if found.get("host") else None
        except (ValueError, AttributeError, TypeError, RecursionError):
            return None

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        """Tell whether the process that signed still runs: by its number on this host, by its beat on another."""
        if holder["host"] == socket.gethostname():
            return holder["started"] is not None and _started(holder["pid"]) == str(holder["started"])
        first, deadline = self._modified(), time.monotonic() + LOOK_SECONDS
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 4)
            if self._modified() != first:
                return True
        return False

    def _modified(self) -> int:
        """Return the file's time of modification in ns; opened anew, since NFS asks its server then only."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)

    def _sign(self) -> None:
        job = next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), None)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps({**mine, "job": job, "since": since}).encode() + b"\n", 0)

    def _keep_beating(self) -> None:
        is_there = True
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a file system in trouble; saving will say so
                os.utime(self._file)
                if is_there and not is_still_at(self._path, self._file):
                    is_there = False
                    self._warn(f"{self._path}: was deleted or replaced: another run may now write here, too")


def is_still_at(path: Path, descriptor: int) -> bool:
    """Tell whether a path still names the file that is open: it may have been deleted or replaced. Raises OSError."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _in_use(folder: Path, holder: dict[str, Any]) -> RunInUse:
    job = f", job {holder['job']}" if holder["job"] else ""
    return RunInUse(
        f"run_dir = {folder}: in use by the run on {holder['host']}, process {holder['pid']}{job}, "
        f"since {holder['since']}: wait until it ends, or choose another run_dir"
    )


def _unknown() -> dict[str, Any]:
    return {"host": "an unknown host", "pid": "?", "started": None, "job": None, "since": "?"}


def _started(pid: int) -> str | None:
    """Return when a process of this host began, in the kernel's ticks; None where there is no such process."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, IndexError):
        return None
