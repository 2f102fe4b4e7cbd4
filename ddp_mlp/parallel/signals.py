"""The signals that ask a program to stop, and how it hears of them even while an MPI library lets nobody run.

Python's own handlers wait until a call returns, so a thread hears of signals through a pipe that the interpreter writes
to at once (`signal.set_wakeup_fd`). SIGHUP stays ignored where nohup has it so. All of it is local, and does something
in the main thread alone: elsewhere signals cannot be caught.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ddp_mlp.errors import Interrupted
from ddp_mlp.parallel.fitness import end_where_unfit
from ddp_mlp.parallel.launcher import ends_at_first_exit, launched_by_open_mpi, launched_rank, launched_size
from ddp_mlp.parallel.leaving import leave_without_mpi

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Of schedulers (TERM, USR1, USR2), people (INT), a terminal that hangs up (HUP), a limit on processor time (XCPU)."""
LATE_SECONDS = 0.2
"""After this long, twice, a signal that the main thread has not taken is taken for it."""
GRACE_SECONDS = 0.5
"""How long Python may take to hear of a signal while a program begins."""
TURN_SECONDS = 1.0
"""How long the ranks wait for rank 0 to say it; it ends them, where it was told as well."""
_hearers: list[Callable[[int], Any]] = []
"""Who hears of signals, the innermost last."""
program = False
"""Whether this process is one of the commands, from its beginning to its end."""


@contextmanager
def noted(note: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Call note(number, frame) as Python's handler in this block: between two of its lines, so not while MPI waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, note) for number in _wanted()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def heard(note: Callable[[int, FrameType | None], Any], hear: Callable[[int], Any]) -> Iterator[None]:
    """Call note(number, frame) as Python's handler, and hear(number) in another thread, at once, in this block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = _listener(reading, hear)
    _hearers.append(hear)
    try:
        with noted(note):
            thread.start()
            yield
    finally:
        _hearers.remove(hear)
        signal.set_wakeup_fd(wakeup_before)
        os.close(writing)
        if thread.ident is None:  # no more threads are to be had
            os.close(reading)
        else:
            thread.join()


def _listener(reading: int, hear: Callable[[int], Any]) -> threading.Thread:
    """Return a thread, not started, that calls hear(number) for each wanted signal that comes out of a pipe."""
    wanted = _wanted()

    def listen() -> None:
        late: set[int] = set()
        with suppress(AttributeError):  # a system that lacks this
            signal.pthread_sigmask(signal.SIG_BLOCK, wanted)  # so that `sigpending` tells of them
        told = select.poll()
        told.register(reading, select.POLLIN)
        while True:
            if told.poll(1000 * LATE_SECONDS):
                found = os.read(reading, 1)
                if not found:
                    break
                if found[0] in wanted:
                    hear(found[0])
            elif _hearers[-1:] == [hear]:  # and not one within it
                waiting = _waiting(wanted)
                for number in waiting & late:
                    if signal.sigtimedwait([number], 0) is not None:  # the main thread has not taken it meanwhile
                        hear(number)
                late = waiting
        os.close(reading)

    return threading.Thread(target=listen, name="signals", daemon=True)


def _waiting(wanted: Collection[int]) -> set[int]:
    """Return the signals that this process has got and no thread takes. In a thread that blocks them.

    The kernel gives them to the main thread, and while that waits for a file server, nothing but SIGKILL wakes it: then
    Python never hears of them.
    """
    if not hasattr(signal, "sigtimedwait"):
        return set()
    return {int(number) for number in signal.sigpending()} & {*wanted}


def name(number: int) -> str:
    """Return a signal's name, such as SIGTERM."""
    return signal.Signals(number).name


def is_to_tell(number: int) -> bool:
    """Wait for this rank's turn to say that a signal ends all; return whether it is to say so. Local.

    Rank 0 is first, and the others end with it, unless it knows of nothing or hears of it late.
    """
    if launched_rank() == 0 or launched_size()[0] == 1:
        return True
    time.sleep(TURN_SECONDS)
    # Open MPI's mpirun passes this signal on when another rank has ended, which has said why.
    return not (number == signal.SIGTERM and launched_by_open_mpi())


def end_at_once(saves: bool) -> None:
    """End this process at a signal, while it is not yet what it is to be: with one line, and without a traceback.

    `saves`: whether the command is one that goes on where it was when it is given again; then the exit code is 75. So
    does a machine that is not fit, with 78 (`fitness.py`).
    """
    global program
    program = True

    def end(number: int, frame: FrameType | None) -> None:
        code = Interrupted.exit_code if saves else 128 + number
        if is_to_tell(number) and (launched_rank() == 0 or ends_at_first_exit()):
            with suppress(OSError):
                os.write(2, f"error: stopped by {name(number)}\n".encode())
        leave_without_mpi(code)

    def hear(number: int) -> None:  # also while Python waits for a file that it imports
        time.sleep(GRACE_SECONDS)
        end(number, None)

    for number in _wanted():
        signal.signal(number, end)
    with suppress(RuntimeError, OSError):  # no more threads or files are to be had
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        _listener(reading, hear).start()
        _hearers.append(hear)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    end_where_unfit()


def _wanted() -> list[signal.Signals]:
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
