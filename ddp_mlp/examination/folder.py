"""The folder of a run: written, locked and synchronized as a run would, and left as it was. All of it is local."""

import fcntl
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ddp_mlp.examination.finding import Finding
from ddp_mlp.parallel.host import text_of
from ddp_mlp.storage.library import H5PY, HDF5
from ddp_mlp.units import byte_size

FREE_AT_LEAST = 1 << 30
FSYNC_AT_MOST = 0.2
"""Seconds: a run whose checkpoint takes longer to reach the disk waits for it."""


def examine_folder(run_dir: Path) -> list[Finding]:
    """Write, lock and fsync where a run would write. Local; leaves nothing behind."""
    folder = run_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    name = f"{run_dir} (in {folder}, it is yet to be made)" if folder != run_dir else str(run_dir)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            times = []
            for _ in range(5):
                began = time.perf_counter()
                file.write(bytes(64 * 1024))
                file.flush()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
            locked = locks(file.fileno())
        status = os.statvfs(folder)
    except OSError as error:
        found = f"{name}: cannot be written ({error.strerror})"
        return [
            Finding(
                "run_dir", False, found, "choose another --run_dir, or change its permissions", {"error": error.errno}
            )
        ]
    seconds, free = sorted(times)[2], status.f_bavail * status.f_frsize
    kind = file_system(folder)
    versions = f"HDF5 {HDF5} (h5py {H5PY})"
    slow = (
        ""
        if seconds <= FSYNC_AT_MOST
        else "checkpoints wait for it: use a faster file system, or a longer checkpoint_every"
    )
    return [
        Finding("run_dir", True, f"{name}: can be written, {kind}", values={"file_system": kind}),
        Finding(
            "hdf5",
            locked,
            f"{versions}; file locks {'work' if locked else 'do not work'} on {kind}",
            ""
            if locked
            else "never start two runs in one run_dir; for other HDF5 tools set HDF5_USE_FILE_LOCKING=FALSE",
            {"hdf5": HDF5, "h5py": H5PY, "locks": locked},
        ),
        Finding("fsync", not slow, f"{1e3 * seconds:.1f} ms for 64 KiB", slow, {"seconds": seconds}),
        Finding(
            "space",
            free >= FREE_AT_LEAST,
            f"{byte_size(free)} free",
            "" if free >= FREE_AT_LEAST else "make room, or choose another --run_dir: a full disk ends a run",
            {"free": free},
        ),
    ]


def locks(descriptor: int) -> bool:
    """Tell whether a file can be locked as HDF5 locks its files."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return False
    return True


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, such as ext4 or nfs4, where the system tells."""
    best, kind = "", "unknown file system"
    with suppress(OSError):
        path = f"{folder.resolve()}/"
        for line in text_of(Path("/proc/mounts")).splitlines():
            _, mount, found, *_ = line.split()
            if path.startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
                best, kind = mount, found
    return kind
