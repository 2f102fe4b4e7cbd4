"""What a command does around its work on all ranks: BLAS threads before NumPy, MPI after the flags, one exit code.

Nothing here is imported before it is needed: `--help` and a wrong flag start neither MPI nor NumPy.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ddp_mlp.errors import ConfigError, ProgramError

if TYPE_CHECKING:
    from ddp_mlp.parallel.communicator import Communicator

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

BARRIER_SECONDS = 5.0
"""How long ranks that all know of an error wait for one another before they end the job."""

HEAD_START_SECONDS = 2.0
"""By how much the process that reports an error found before MPI starts may be later than the others."""


def on_all_ranks(work: "Callable[[Communicator], Any]", threads: int = 1, debug: bool = False) -> NoReturn:
    """Start MPI where it is, call work(communicator), and exit, on every rank with the same code.

    An error that all ranks know of is one line from the rank that found it; one that a rank meets alone ends the job.
    """
    for name in THREAD_VARIABLES:  # BLAS reads them when NumPy is loaded, which is below
        os.environ[name] = str(threads)

    from ddp_mlp.parallel.communicator import end_on_exception
    from ddp_mlp.parallel.mpi import connect

    try:
        communicator = connect()
    except ProgramError as error:
        exit_before_mpi(error)
    try:
        work(communicator)
    except ProgramError as error:
        if error.found_by is None or debug:
            end_on_exception(communicator, debug)
        ignore_signals()
        if communicator.rank == error.found_by:
            print(f"error: {error}", file=sys.stderr, flush=True)
        # The line is out before the launcher hears of the exit code; a rank that never comes holds nobody up.
        communicator.leave(error.exit_code, BARRIER_SECONDS)
    except BaseException:
        end_on_exception(communicator)
    ignore_signals()
    communicator.leave(0)


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are a ConfigError of one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the error instead of printing the usage."""
        raise ConfigError(f"{message}; see --help")


def ignore_signals() -> None:
    """Ignore what asks a run to stop: this process is about to exit, with a code of its own."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def exit_before_mpi(error: Exception) -> NoReturn:
    """Exit with an error that every process of the job has met by itself; the first one reports it.

    A launcher ends the job at the first exit it hears of, so the others let that one be first.
    """
    from ddp_mlp.parallel.launcher import launched_rank

    if launched_rank() == 0:
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        time.sleep(HEAD_START_SECONDS)
    sys.exit(error.exit_code if isinstance(error, ProgramError) else 1)
