"""The ways a run can end early, each with the exit code it gives to every rank.

An error of this family carries one line for the user: what was found, what was expected, what to do.
Any other exception is a bug, and ends the job with its traceback and exit code 1.
"""

import errno
from typing import Any


def printable(text: str) -> str:
    """Return the text with control characters, which may come from file names and data, made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class ProgramError(Exception):
    """A failure the user can act on; its message is the one line that is printed."""

    exit_code = 1
    found_by: int | None = None
    """The rank that met the error, once all ranks know of it (see `Communicator.in_agreement`)."""

    def __str__(self) -> str:
        return printable(super().__str__())


class TrainingFailed(ProgramError):
    """Training itself went wrong: a loss that is not finite, ranks that no longer agree (exit code 1)."""


class Diverged(TrainingFailed):
    """A loss, a gradient or a parameter is no longer finite: the configuration's doing, not the machine's."""

    def __init__(self, message: str, problem: str) -> None:
        """`problem` says what was not finite and when, and nothing of what is saved."""
        super().__init__(message)
        self.problem = problem

    def __reduce__(self) -> tuple[type["Diverged"], tuple[str, str], dict[str, Any]]:
        return type(self), (str(self), self.problem), self.__dict__


class ConfigError(ProgramError):
    """Unknown or impossible flags or configuration (exit code 2)."""

    exit_code = 2


class DataError(ProgramError):
    """A data file or checkpoint that cannot be used (exit code 65, EX_DATAERR of sysexits.h)."""

    exit_code = 65


class StorageError(ProgramError):
    """A file or folder that cannot be read or written (exit code 74, EX_IOERR)."""

    exit_code = 74


class Interrupted(ProgramError):
    """Stopped before the end: the same command goes on from what is saved (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75
    signal: int | None = None
    """The number of the signal that did it."""


class RunInUse(ProgramError):
    """Another run has this run_dir; perhaps a little later it has not (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75


class EnvironmentMismatch(ProgramError):
    """Launcher, MPI library or ranks disagree; memory, threads or a library are missing (exit code 78, EX_CONFIG)."""

    exit_code = 78


def by_all_ranks(error: ProgramError) -> ProgramError:
    """Mark an error that every rank raises at the same place, from values that all of them have; rank 0 reports it."""
    error.found_by = 0
    return error


def unfit(error: BaseException) -> EnvironmentMismatch | None:
    """Return in one line what an exception of Python says of the machine; None where it is about something else.

    Memory, threads or file descriptors that are not to be had, a library that cannot be loaded.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1].removeprefix("Original error was: ") if lines else ""  # NumPy's is last of many
    if isinstance(error, MemoryError):
        said = said or "no more is to be had"
        return EnvironmentMismatch(
            f"out of memory: {said}; --describe shows what a run needs, ulimit -v what it may have"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in said:
        return EnvironmentMismatch("no thread can be started: raise ulimit -u, ulimit -v, or the job's limits")
    if isinstance(error, ImportError) and not str(error.name).startswith("ddp_mlp"):
        return EnvironmentMismatch(
            f"a library cannot be loaded ({said}): install what is missing; if it is there, raise ulimit -v or -n"
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return EnvironmentMismatch(f"{error.filename or 'files'}: too many are open: raise ulimit -n")
    return None
