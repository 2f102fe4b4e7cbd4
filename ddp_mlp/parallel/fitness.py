"""Whether a process can be a command at all: one line and 78, from its first import on, where it lacks something.

Some libraries crash, or end the process in words of their own, where they get no memory; so `ulimit -v` is looked at
before they are loaded.
"""

import os
import resource
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

from ddp_mlp.errors import EnvironmentMismatch, unfit
from ddp_mlp.parallel.launcher import launched_rank
from ddp_mlp.parallel.leaving import leave_without_mpi
from ddp_mlp.units import byte_size

HEAD_START_SECONDS = 2.0
"""By how much the process that reports an error found before MPI starts may be later than the others."""
LEAST_ADDRESS_SPACE = 300 << 20
"""Bytes with which Python, NumPy, BLAS and HDF5 begin to train."""
M_ARENA_MAX = -8
"""mallopt's parameter (malloc.h of the GNU C library)."""
NEEDS_LITTLE = {"-h", "--help", "--version"}


def end_where_unfit() -> None:
    """Let what the machine lacks end this process in one line, now or later. Where `--debug` asks, as Python does."""
    sys.excepthook = _say_what_is_unfit
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY:
        return
    if allowed < LEAST_ADDRESS_SPACE and not NEEDS_LITTLE & set(sys.argv[1:] or sys.orig_argv):
        _end(
            EnvironmentMismatch(
                f"ulimit -v leaves {byte_size(allowed)} of address space: Python and its libraries alone need "
                f"{byte_size(LEAST_ADDRESS_SPACE)}: raise it"
            )
        )
    import ctypes

    with suppress(OSError, AttributeError):  # another C library: what follows is the GNU one's
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)  # else each thread sets 64 MiB of addresses aside


def _say_what_is_unfit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End with 78 and one line, which the first rank says, where the machine is not fit; else as Python does."""
    found = None if "--debug" in sys.argv else unfit(error)
    if found is None:
        sys.__excepthook__(kind, error, trace)
    else:
        _end(found)


def _end(found: EnvironmentMismatch) -> NoReturn:
    if launched_rank() != 0:
        time.sleep(HEAD_START_SECONDS)
    with suppress(OSError):
        os.write(2, f"error: {found}\n".encode())
    leave_without_mpi(found.exit_code)
