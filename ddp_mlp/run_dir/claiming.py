"""The folder of a run, made and kept from other runs. Rank 0 alone looks at it; every call is collective."""

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from ddp_mlp.config import Config
from ddp_mlp.errors import StorageError, printable
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.lock import Lock
from ddp_mlp.run_dir.saving import GO_ON


@contextmanager
def claimed(config: Config, communicator: Communicator) -> Iterator[Config]:
    """Make the run's folder and keep other runs out of it while entered; yield the configuration with its run_dir.

    Where the run is `private`, what this process makes meanwhile is for its user alone. Collective. Raises
    StorageError, or RunInUse where another run has the folder, on all ranks.
    """
    umask = os.umask(0o077) if config.private else None
    try:
        with _folder(config, communicator) as named:
            yield named
    finally:
        if umask is not None:
            os.umask(umask)


@contextmanager
def _folder(config: Config, communicator: Communicator) -> Iterator[Config]:
    run_dir = communicator.on_rank_0(_make_folder, config)
    held: list[Lock] = []
    communicator.on_rank_0(lambda: held.append(Lock(run_dir, _warn)))
    try:
        yield replace(config, run_dir=str(run_dir))
    finally:
        for lock in held:
            lock.release()


def how_to_go_on(asked: Config, run_dir: str) -> str:
    """Say what makes a run go on after a stop: the same command, with what its first start had chosen or was told."""
    flags = [] if asked.run_dir is not None else [f"--run_dir {shlex.quote(run_dir)}"]
    if asked.resume != "auto":
        flags.append("--resume auto")
    return GO_ON.replace("again", " ".join(["again with", *flags])) if flags else GO_ON


def _warn(line: str) -> None:
    print(f"warning: {printable(line)}", file=sys.stderr, flush=True)


def _make_folder(config: Config) -> Path:
    run_dir = Path(config.run_dir or f"runs/{Path(config.data).stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    try:
        if config.run_dir is None:
            run_dir = _new_folder(run_dir)
        folder = run_dir / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"run_dir = {run_dir}: cannot be made ({error.strerror}); choose another") from error
    if not os.access(run_dir, os.W_OK) or not os.access(folder, os.W_OK):
        raise StorageError(f"run_dir = {run_dir}: cannot be written; choose another, or change its permissions")
    return run_dir


def _new_folder(wanted: Path) -> Path:
    """Make a folder of this name or, where another start had the same second, with a number after it; return it."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("there is always a next number")
