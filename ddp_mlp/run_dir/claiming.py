"""The folder of a run, made and kept from other runs. Rank 0 alone looks at it; every call is collective."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ddp_mlp.config import Config
from ddp_mlp.errors import StorageError, printable
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.lock import Lock


@contextmanager
def claimed(config: Config, communicator: Communicator) -> Iterator[Config]:
    """Make the run's folder and keep other runs out of it while entered; yield the configuration with its run_dir.

    Collective. Raises StorageError, or RunInUse where another run has the folder, on all ranks.
    """
    run_dir = communicator.on_rank_0(_make_folder, config)
    held: list[Lock] = []
    communicator.on_rank_0(lambda: held.append(Lock(run_dir, _warn)))
    try:
        yield replace(config, run_dir=str(run_dir))
    finally:
        for lock in held:
            lock.release()


def _warn(line: str) -> None:
    print(f"warning: {printable(line)}", file=sys.stderr, flush=True)


def _make_folder(config: Config) -> Path:
    run_dir = Path(config.run_dir or f"runs/{Path(config.data).stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    folder = run_dir / "checkpoints"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"run_dir = {run_dir}: cannot be made ({error.strerror}); choose another") from error
    if not os.access(run_dir, os.W_OK) or not os.access(folder, os.W_OK):
        raise StorageError(f"run_dir = {run_dir}: cannot be written; choose another, or change its permissions")
    return run_dir
