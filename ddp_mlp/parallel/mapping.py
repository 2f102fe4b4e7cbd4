"""Memory that the processes of one node share: a file without a name, in /dev/shm or where else there is room.

Invariants:
- bytes are reserved before they are mapped, each rank's own by itself: too little room is an error, and not a bus error
  at some later write, and on a machine with several memories a rank's bytes lie near it;
- once all have opened the file its name is removed, so that nothing stays behind, however the job ends.

All of it is local; `MPIRanks.share` has the ranks of a node do it together.
"""

import errno
import mmap
import os
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PREFIX = "ddp_mlp-"
PIECE = bytes(1 << 20)


def make(folder: Path, size: int) -> Path:
    """Make a file of so many bytes, not yet reserved, that no other user can read. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=PREFIX, dir=folder)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)
    return Path(name)


def join(path: Path, sizes: Sequence[int], rank: int) -> list[NDArray[np.uint8]]:
    """Reserve the rank's bytes of the file that `make` made, and return all ranks' bytes, which are zero.

    They stay mapped for as long as an array of them lives. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _reserve(descriptor, sum(sizes[:rank]), sizes[rank])
        whole = np.frombuffer(mmap.mmap(descriptor, sum(sizes)), np.uint8)
    finally:
        os.close(descriptor)
    ends = list(accumulate(sizes))
    return [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _reserve(descriptor: int, start: int, count: int) -> None:
    if count and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, count)
        return
    for position in range(start, start + count, len(PIECE)):  # macOS
        piece = PIECE[: start + count - position]
        if os.pwrite(descriptor, piece, position) != len(piece):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
