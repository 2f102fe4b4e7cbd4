"""How a command ends at a signal while it has nothing to save: one line, the right exit code, within two seconds.

A training run hears signals by itself once it can save (`training/interruption.py`); before that, and in every other
command, the first signal ends the program: by an exception where Python runs, so that files half written are removed,
and by a thread where it does not, as in a library's long call or while other ranks are waited for.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ddp_mlp import streams
from ddp_mlp.errors import Interrupted
from ddp_mlp.parallel import signals
from ddp_mlp.parallel.launcher import launched_size
from ddp_mlp.parallel.leaving import leave_without_mpi

GRACE_SECONDS = 1.4
"""How long Python may take to hear of a signal and to tidy up."""


class Stopped(BaseException):
    """A signal has come, and nothing is to be saved; no library takes this for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(signals.name(number))
        self.number = number


class Session:
    """One command in this process: what its printing and a signal do. Entered once, by `session`."""

    def __init__(self, saves: bool) -> None:
        self.saves = saves
        self._told = threading.Lock()
        self._ending = threading.Event()
        self._stopped = False
        self.patience: float | None = None
        """Seconds that ranks wait for one another while MPI starts and ends; 0: for ever; None: its default, and 0."""
        self.abort: Callable[[int], Any] = leave_without_mpi
        """Ends all ranks with an exit code; that of the communicator, once there is one."""

    def exit_code(self, number: int) -> int:
        """Return what a signal ends the command with: as a shell has it, or 75 where the same command goes on."""
        return Interrupted.exit_code if self.saves else 128 + number

    def tell(self, number: int) -> None:
        """Say why all ends. Rank 0 is first: the others end with it, unless it knows of nothing."""
        if not self._told.acquire(blocking=False):
            time.sleep(60)  # another thread tells, and ends all
            return
        if not signals.is_to_tell(number):
            return
        rest = ": there was nothing to save yet; the same command starts again" if self.saves else ""
        print(f"error: stopped by {signals.name(number)}{rest}", file=sys.stderr, flush=True)

    def note(self, number: int, frame: Any) -> None:
        """Leave whatever Python is doing, at the first signal. In the main thread."""
        if not self._stopped:
            self._stopped = True
            raise Stopped(number)

    def hear(self, number: int) -> None:
        """End all, unless the main thread does so by then. In another thread."""
        if not self._ending.wait(GRACE_SECONDS - (signals.TURN_SECONDS if launched_size()[0] > 1 else 0)):
            self.tell(number)
            self.abort(self.exit_code(number))

    def end(self, stopped: Stopped) -> NoReturn:
        """Say why, and end all ranks."""
        self._ending.set()
        self.tell(stopped.number)
        code = self.exit_code(stopped.number)
        if launched_size()[0] > 1:
            self.abort(code)
        sys.exit(code)


@contextmanager
def session(saves: bool = False) -> Iterator[Session]:
    """Let printing never fail, and signals end the command, in this block; where one ends it, so does the process.

    `saves`: whether the command is one that goes on where it was when it is given again.
    """
    ours = Session(saves)
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda found: None if found.exc_type is Stopped else unraisable(found)
    try:
        with streams.guarded(), signals.heard(ours.note, ours.hear):
            try:
                yield ours
            except Stopped as stopped:
                ours.end(stopped)
    except Stopped as stopped:  # while the above was being set up
        ours.end(stopped)
    finally:
        sys.unraisablehook = unraisable
        if signals.program:  # it is over, and has its exit code
            ignore_signals()


def ignore_signals() -> None:
    """Ignore what asks a command to stop: this process is about to exit, with a code of its own."""
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
