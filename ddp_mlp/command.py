"""What a command does around its work: flags, BLAS threads before NumPy, MPI after the flags, one line, one exit code.

Nothing here is imported before it is needed: `--help` and a wrong flag start neither MPI nor NumPy.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ddp_mlp import __version__, streams
from ddp_mlp.config.values import expand
from ddp_mlp.errors import ConfigError, Interrupted, ProgramError, StorageError, unfit
from ddp_mlp.parallel.fitness import HEAD_START_SECONDS
from ddp_mlp.stopping import Session, Stopped, ignore_signals, session

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


OF_A_RUN = ("checkpoints", "metrics.jsonl", "search.jsonl", "trials.jsonl", "config.yaml")
"""What a run's folder is read for."""


def keep_what_is_read(written: Mapping[str, Path | None], *read: Path | None) -> None:
    """Raise ConfigError where a file to be written, by the name of its flag, is one that is read.

    This is the one rule for all commands: any other file that is there is replaced, when the new one is whole.
    """
    for name, path in written.items():
        for source in read:
            if path is None or source is None:
                continue
            out, found = path.resolve(), source.resolve()
            inside = out.relative_to(found).parts[:1] if out.is_relative_to(found) else None
            if inside is not None and (not inside or inside[0] in OF_A_RUN):
                raise ConfigError(f"{name} {path}: is read from, and must not be overwritten: choose another file")


def on_all_ranks(
    parser: Parser,
    work: "Callable[[argparse.Namespace, Communicator], int | None]",
    argv: Sequence[str] | None = None,
    check: Check | None = None,
    connect: "Callable[[], Communicator] | None" = None,
) -> NoReturn:
    """Read the flags, start MPI where it is (by `connect`), call work(asked, communicator), and exit.

    The exit code is that of an error, else what `work` returned, the same on every rank; None is 0. A result on stdout
    that somebody wants and does not get, as on a full disk, is an error.
    """
    with session() as ours:
        try:
            asked = _read(parser, argv, check)
        except ProgramError as error:
            exit_before_mpi(error)

        def work_and_look(communicator: "Communicator") -> int | None:
            exit_code = work(asked, communicator)
            communicator.on_rank_0(_check_result)
            return exit_code

        start(work_and_look, ours, getattr(asked, "threads", 1), asked.debug, connect)


def alone(
    parser: Parser,
    work: Callable[[argparse.Namespace], Any],
    argv: Sequence[str] | None = None,
    check: Check | None = None,
) -> int:
    """Read the flags, call work(asked) in this process, and return the exit code."""
    debug = False
    with session():
        try:
            asked = _read(parser, argv, check)
            debug = asked.debug
            work(asked)
            _check_result()
        except ProgramError as error:
            if debug:
                raise
            return _say(error)
        except (MemoryError, ImportError, RuntimeError, OSError) as error:
            found = unfit(error)
            if debug or found is None:
                raise
            return _say(found)
    return 0


def _say(error: ProgramError) -> int:
    _print_error(error)
    return error.exit_code


def _print_error(error: Exception) -> None:
    from ddp_mlp.parallel.terminal import painted, terminal_of

    print(f"{painted(terminal_of(2), 'error:', 'red')} {error}", file=sys.stderr, flush=True)


def _check_result() -> None:
    sys.stdout.flush()
    lost = streams.result_lost()
    if lost is not None:
        raise StorageError(f"standard output: cannot be written ({lost.strerror}); send it somewhere else")


def _read(parser: Parser, argv: Sequence[str] | None, check: Check | None) -> argparse.Namespace:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    asked = parser.parse_intermixed_args(argv)  # flags may stand before, between and after file names
    for name, value in vars(asked).items():  # a shell leaves --out=~/a.h5 as it is
        if isinstance(value, Path):
            setattr(asked, name, Path(expand(name, str(value))))
    if check is not None:
        check(asked)
    return asked


def start(
    work: "Callable[[Communicator], int | None]",
    ours: Session,
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
        limit = mpi.START_SECONDS if ours.patience is None else ours.patience
        communicator = mpi.connect(patience=limit) if connect is None else connect()
    except ProgramError as error:
        exit_before_mpi(error)
    ours.abort = communicator.abort
    try:
        try:
            exit_code = work(communicator)
        except Interrupted as error:  # of a run that verify, say, makes for itself: nobody goes on with it
            if ours.saves or error.signal is None:
                raise
            raise Stopped(error.signal) from error
        except ProgramError:
            raise
        except (MemoryError, ImportError, RuntimeError, OSError) as error:
            raise unfit(error) or error from error
    except Stopped:
        raise
    except ProgramError as error:
        if error.found_by is None or debug:
            end_on_exception(communicator, debug)
        ignore_signals()
        if communicator.rank == error.found_by:
            _print_error(error)
        # The line is out before the launcher hears of the exit code; a rank that never comes holds nobody up.
        communicator.leave(error.exit_code, BARRIER_SECONDS)
    except BaseException:
        end_on_exception(communicator)
    ignore_signals()
    communicator.leave(exit_code or 0, ours.patience)


@cache
def everyone() -> "Communicator":
    """Return all ranks, connected once: MPI has only so many communicators to give."""
    from ddp_mlp.parallel.mpi import connect

    return connect()


def exit_before_mpi(error: Exception) -> NoReturn:
    """Exit with an error that this process has met before all ranks are connected, and end the job. Local.

    If all processes have met it, the first one reports it, and a launcher ends the job at the first exit it hears of;
    the others let that one be first, and speak where it has met nothing. Once MPI has started, all have met it.
    """
    from ddp_mlp.parallel.launcher import ends_at_first_exit, launched_rank
    from ddp_mlp.parallel.leaving import end_job

    ignore_signals()
    before_mpi = "mpi4py.MPI" not in sys.modules
    if launched_rank() != 0:
        time.sleep(HEAD_START_SECONDS)
    if launched_rank() == 0 or (before_mpi and ends_at_first_exit()):
        _print_error(error)
    exit_code = error.exit_code if isinstance(error, ProgramError) else 1
    if before_mpi:
        end_job(exit_code)
    sys.exit(exit_code)
