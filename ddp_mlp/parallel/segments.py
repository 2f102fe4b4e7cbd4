"""What killed jobs have left in shared memory: files of this user that no process has mapped any more.

MPICH gives each job a segment of about 1 MiB a rank, and removes it at the job's end alone. All of it is local.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ddp_mlp.parallel import host
from ddp_mlp.parallel.mapping import PREFIX

OF_JOBS = re.compile(rf"mpich_shm_[0-9a-f]+_[0-9]+|mpich_shar_tmp\w{{6}}|{PREFIX}\w{{8}}")
"""Names of what MPICH, and this program, make there."""
OLD_SECONDS = 60.0
"""A job that is just starting has not mapped everything; one in another container is out of sight until it has."""


def dead(folder: Path = host.SHARED_MEMORY, processes: Path = Path("/proc")) -> list[tuple[Path, int]]:
    """Return what this user's jobs have left, and its bytes: named as theirs is, old, and mapped by no process.

    To remove one that a job out of sight has mapped does no harm: who has it keeps it.
    """
    found = {status.st_ino: (path, status.st_size) for path, status, age in _own(folder) if age > OLD_SECONDS}
    if not found:
        return []
    for process in processes.glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            for line in host.text_of(process / "maps").splitlines():
                if str(folder) in line:
                    found.pop(int(line.split()[4]), None)
    return sorted(found.values())


def remove_dead() -> None:
    """Remove what `dead` finds; another start may be doing the same."""
    for path, _ in dead():
        with suppress(OSError):
            path.unlink()


def any_young(folder: Path = host.SHARED_MEMORY) -> bool:
    """Tell whether a job of this user may be starting here."""
    return any(age <= OLD_SECONDS for _, _, age in _own(folder))


def _own(folder: Path) -> Iterator[tuple[Path, os.stat_result, float]]:
    """Yield each file of this user that is named as a job's, its status, and its age in seconds."""
    names = [path for path in folder.iterdir() if OF_JOBS.fullmatch(path.name)] if folder.is_dir() else []
    for path in names:
        with suppress(OSError):  # gone meanwhile
            status = path.lstat()
            if status.st_uid == os.geteuid():
                yield path, status, time.time() - status.st_mtime
