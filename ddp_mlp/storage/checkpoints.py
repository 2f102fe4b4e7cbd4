"""The checkpoints of a run in their folder: `step-<step>.h5` and `best.h5`, written, found, and removed again.

Invariants:

- A file appears under its name only when it is whole and on the disk (`atomic.py`): a crash leaves the old or the new.
- A file's name and its content agree.

Everything here is local: the caller sees to it that one process writes.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.storage.atomic import listing, remove, write_atomically
from ddp_mlp.storage.checkpoint import Checkpoint
from ddp_mlp.storage.checkpoint_image import REMEDY, USER_BLOCK, check_user_block, decode, encode
from ddp_mlp.storage.regular import open_regular

BEST = "best.h5"

_STEP_FILE = re.compile(r"step-([0-9]{8,})\.h5")


class Newest(NamedTuple):
    """The newest checkpoint of a folder that verifies, its file, and the newer files that do not, each with why."""

    checkpoint: Checkpoint
    path: Path
    passed_over: list[tuple[Path, str]]


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint file; raises DataError when it is not intact, StorageError when unreadable."""
    try:
        with open_regular(path) as file:
            # A foreign file, perhaps a huge one, is refused by its first bytes.
            check_user_block(file.read(USER_BLOCK), os.fstat(file.fileno()).st_size, str(path))
            file.seek(0)
            found = decode(file.read(), str(path))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise StorageError(f"{path}: cannot be read (not enough memory on this machine)") from error
    name = _STEP_FILE.fullmatch(path.name)
    if name and int(name[1]) != found.step:
        raise DataError(f"{path}: holds the checkpoint of step {found.step}, not that of its name; {REMEDY}")
    return found


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `step-<step>.h5`, then remove all older ones but `keep - 1`; return the path.

    Files of later steps are left alone: after a resume from an older step they are the damaged ones that were passed
    over, and must not push out good ones. Raises StorageError, naming what is kept; the older checkpoints are intact.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: must be at least 1")
    path = folder / f"step-{checkpoint.step:08d}.h5"
    image = encode(checkpoint)
    try:
        write_atomically(path, image)
        older = [other for step, other in _step_files(folder) if step < checkpoint.step]
        for other in older[: max(0, len(older) - (keep - 1))]:
            remove(other)
    except StorageError as error:
        raise StorageError(f"{error}; {_what_is_kept(folder, checkpoint.step)}") from error
    return path


def save_best(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `best.h5`; return the path. Raises StorageError; an earlier `best.h5` is not harmed."""
    path = folder / BEST
    try:
        write_atomically(path, encode(checkpoint))
    except StorageError as error:
        raise StorageError(f"{error}; {'a whole' if path.exists() else 'no'} {BEST} is there") from error
    return path


def newest(folder: Path) -> Newest | None:
    """Return the newest checkpoint in `folder` that verifies, or None where there is no checkpoint at all.

    Raises DataError when there are checkpoints and none can be used; StorageError when neither the folder nor any of
    them can be read.
    """
    passed_over: list[tuple[Path, str]] = []
    kind: type[DataError | StorageError] = StorageError
    for _, path in reversed(_step_files(folder)):
        try:
            return Newest(load(path), path, passed_over)
        except (DataError, StorageError) as error:
            passed_over.append((path, str(error)))
            kind = DataError if isinstance(error, DataError) else kind
    if passed_over:
        raise kind(f"{folder}: none of its {len(passed_over)} checkpoints can be used; newest: {passed_over[0][1]}")
    return None


def to_go_on_from(run_dir: str | None, resume: str) -> Newest | None:
    """Return the checkpoint that a run goes on from: its folder's newest, else the one that `resume` names.

    None where the run begins. Raises as `newest` and `load` do.
    """
    found = None if run_dir is None else newest(Path(run_dir) / "checkpoints")
    if found is None and resume not in ("auto", "never"):
        return Newest(load(Path(resume)), Path(resume), [])
    return found


def find(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`: of the file, or the one that a run's folder (or its `checkpoints`) has kept.

    That is the best one where the run was to finish with it, else the newest that verifies. Raises DataError, or
    StorageError.
    """
    if not path.is_dir():
        return load(path)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, best = newest(folder), folder / BEST
    if found is None and not best.exists():
        raise DataError(f"{path}: holds no checkpoint: name a checkpoint file or a run_dir")
    wants_best = found is None or found.checkpoint.config.get("restore_best")
    return load(best) if found is None or (wants_best and best.exists()) else found.checkpoint


def last_step(folder: Path) -> int:
    """Return the step of the newest checkpoint in `folder`, by its name; 0 where there is none. Raises StorageError."""
    return max((step for step, _ in _step_files(folder)), default=0)


def _step_files(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps of the checkpoints in `folder` and their paths, oldest first."""
    matches = (_STEP_FILE.fullmatch(name) for name in listing(folder))
    return sorted((int(match[1]), folder / match[0]) for match in matches if match)


def _what_is_kept(folder: Path, latest: int) -> str:
    with contextlib.suppress(StorageError):
        if files := [path for step, path in _step_files(folder) if step <= latest]:
            return f"the newest checkpoint kept is {files[-1].name}"
    return "no checkpoint is kept there"
