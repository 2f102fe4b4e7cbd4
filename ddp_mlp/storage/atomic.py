"""Files that are whole or not there: written beside their place, brought to the disk, then renamed.

Invariants:

- At any crash a file under its name is the old one or the new one, to the last byte: the temporary file is synced
  before it gets the name, the folder after.
- A temporary file is called `.<name>.tmp-<process id>` and lies in the same folder; only a crash leaves one behind.
- Before each system call stands a failpoint with its name, behind it one with the past participle.

Everything here is local: the caller sees to it that one process writes.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from ddp_mlp.errors import ConfigError, StorageError

_TEMPORARY_FILE = re.compile(r"\..+\.tmp-[0-9]+")


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Make `path` a file with the bytes `data`, on the disk when this returns, with mode 0600 less the umask.

    At any crash `path` is what it was, or whole. Raises StorageError with no temporary file left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        _write_durably(temporary, data)
        failpoint("rename")
        os.replace(temporary, path)
        failpoint("renamed")
        _fsync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name, on the disk when this returns: for files too large for `write_atomically`.

    Raises OSError.
    """
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)
    _fsync_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder in `parent` for this block, which no other user can read; raises StorageError.

    It goes at the end with all that is in it, also where a signal ends the program while it is made or removed.
    """
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    try:
        try:
            _make_folder(folder)
            yield folder
        finally:
            with contextlib.suppress(OSError):  # of shutil, where a signal meets it between two of its lines
                shutil.rmtree(folder, ignore_errors=True)
    finally:  # the first signal may have come in the middle of that, and there is no second one
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(0o700)
    except OSError as error:
        raise StorageError(
            f"{folder.parent}: nothing can be written there ({error.strerror}); choose another folder for the result"
        ) from error


def remove(path: Path) -> None:
    """Remove the file where it is there; raises StorageError."""
    try:
        failpoint("unlink")
        path.unlink(missing_ok=True)
        failpoint("unlinked")
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed ({error.strerror or error})") from error


def sweep(folder: Path) -> list[Path]:
    """Remove the temporary files that a crash left in `folder`; return their paths.

    For the start of a run, when nothing else writes there. Raises StorageError.
    """
    leftover = [folder / name for name in listing(folder) if _TEMPORARY_FILE.fullmatch(name)]
    for path in leftover:
        remove(path)
    return leftover


def listing(folder: Path) -> list[str]:
    """Return the names in `folder`, sorted, and none where it does not exist; raises StorageError."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{folder}: cannot be listed ({error.strerror or error})") from error


def failpoint(name: str) -> bool:
    """Fail here if `DDP_MLP_FAILPOINT` says so; return whether the write that follows shall be cut short.

    The variable is a comma-separated list of `<name>:<action>`; actions are `kill` (SIGKILL), the errors of the
    operating system `EIO` and `ENOSPC`, and `short`. Raises OSError for those, ConfigError for any other action.
    """
    plan = os.environ.get("DDP_MLP_FAILPOINT")
    if plan is None:
        return False
    for entry in plan.split(","):
        planned, _, action = entry.partition(":")
        if action not in ("kill", "EIO", "ENOSPC", "short"):
            raise ConfigError(f"DDP_MLP_FAILPOINT = {plan}: {entry!r} must be <name>:kill, :EIO, :ENOSPC or :short")
        if planned != name:
            continue
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "short":
            return True
        number = getattr(errno, action)
        raise OSError(number, os.strerror(number))
    return False


def _write_durably(path: Path, data: bytes | memoryview) -> None:
    failpoint("open")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        failpoint("opened")
        rest = memoryview(data)
        while rest:
            size = (len(rest) + 1) // 2 if failpoint("write") else len(rest)
            written = os.write(descriptor, rest[:size])
            if written == 0:  # no file system should; it would go on for ever
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = rest[written:]
            failpoint("written")
        failpoint("fsync")
        os.fsync(descriptor)
        failpoint("fsynced")
        failpoint("close")
    finally:
        os.close(descriptor)
    failpoint("closed")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        failpoint("fsync_folder")
        os.fsync(descriptor)
        failpoint("fsynced_folder")
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that orders renames itself and knows no fsync of folders
            raise
    finally:
        os.close(descriptor)
