"""What a command does around its work: flags, BLAS threads before NumPy, MPI after the flags, one line, one exit code.

Nothing here is imported before it is needed: `--help` and a wrong flag start neither MPI nor NumPy.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from ddp_mlp import __version__
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


class Parser(argparse.ArgumentParser):
    """argparse's parser for a command, whose errors are a ConfigError of one line."""

    def __init__(self, command: str, description: str, **options: Any) -> None:
        super().__init__(f"python -m ddp_mlp.{command}", description=description, allow_abbrev=False, **options)
        self.add_argument("--version", action="version", version=__version__)

    def error(self, message: str) -> NoReturn:
        """Raise the error instead of printing the usage."""
        raise ConfigError(f"{message}; see --help")


Check = Callable[[argparse.Namespace], None]
"""Looks at what was asked before anything is started; raises a ProgramError."""


def on_all_ranks(
    parser: Parser,
    work: "Callable[[argparse.Namespace, Communicator], int | None]",
    argv: Sequence[str] | None = None,
    check: Check | None = None,
    connect: "Callable[[], Communicator] | None" = None,
) -> NoReturn:
    """Read the flags, start MPI where it is (by `connect`), call work(asked, communicator), and exit.

    The exit code is that of an error, else what `work` returned, the same on every rank; None is 0.
    """
    try:
        asked = _read(parser, argv, check)
    except ProgramError as error:
        exit_before_mpi(error)
    start(lambda communicator: work(asked, communicator), getattr(asked, "threads", 1), asked.debug, connect)


def alone(
    parser: Parser,
    work: Callable[[argparse.Namespace], Any],
    argv: Sequence[str] | None = None,
    check: Check | None = None,
) -> int:
    """Read the flags, call work(asked) in this process, and return the exit code."""
    debug = False
    try:
        asked = _read(parser, argv, check)
        debug = asked.debug
        work(asked)
        sys.stdout.flush()
    except ProgramError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT  # what a shell reports for Ctrl-C
    except BrokenPipeError:  # whoever read along has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _read(parser: Parser, argv: Sequence[str] | None, check: Check | None) -> argparse.Namespace:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    asked = parser.parse_intermixed_args(argv)  # flags may stand before, between and after file names
    if check is not None:
        check(asked)
    return asked


def start(
    work: "Callable[[Communicator], int | None]",
    threads: int = 1,
    debug: bool = False,
    connect: "Callable[[], Communicator] | None" = None,
) -> NoReturn:
    """Start MPI where it is (by `connect`), call work(communicator), and exit, on every rank with the same code.

    The code is that of an error, else what `work` returned; None is 0. An error that all ranks know of is one line
    from the rank that found it; one that a rank meets alone ends the job.
    """
    for name in THREAD_VARIABLES:  # BLAS reads them when NumPy is loaded, which is below
        os.environ[name] = str(threads)

    from ddp_mlp.parallel import mpi
    from ddp_mlp.parallel.communicator import end_on_exception

    try:
        communicator = (connect or mpi.connect)()
    except ProgramError as error:
        exit_before_mpi(error)
    try:
        exit_code = work(communicator)
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
    communicator.leave(exit_code or 0)


@cache
def everyone() -> "Communicator":
    """Return all ranks, connected once: MPI has only so many communicators to give."""
    from ddp_mlp.parallel.mpi import connect

    return connect()


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
