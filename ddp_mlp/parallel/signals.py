"""The signals that ask a program to stop, and how it hears of them even while an MPI library lets nobody run.

Python's own handlers wait until a call returns, so a thread hears of signals through a pipe that the interpreter writes
to at once (`signal.set_wakeup_fd`). SIGHUP stays ignored where nohup has it so. All of it is local, and does something
in the main thread alone: elsewhere signals cannot be caught.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ddp_mlp.errors import Interrupted
from ddp_mlp.parallel.fitness import end_where_unfit
from ddp_mlp.parallel.launcher import launched_rank

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Of schedulers (TERM, USR1, USR2), people (INT), a terminal that hangs up (HUP), a limit on processor time (XCPU)."""
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
    wanted = _wanted()

    def listen() -> None:
        while found := os.read(reading, 1):
            if found[0] in wanted:
                hear(found[0])
        os.close(reading)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    try:
        with noted(note):
            thread.start()
            yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        os.close(writing)
        if thread.ident is None:  # no more threads are to be had
            os.close(reading)
        else:
            thread.join()


def name(number: int) -> str:
    """Return a signal's name, such as SIGTERM."""
    return signal.Signals(number).name


def end_at_once(saves: bool) -> None:
    """End this process at a signal, while it is not yet what it is to be: with one line, and without a traceback.

    `saves`: whether the command is one that goes on where it was when it is given again; then the exit code is 75. So
    does a machine that is not fit, with 78 (`fitness.py`).
    """
    global program
    program = True

    def end(number: int, frame: FrameType | None) -> None:
        code = Interrupted.exit_code if saves else 128 + number
        if launched_rank() == 0:
            with suppress(OSError):
                os.write(2, f"error: stopped by {name(number)}\n".encode())
        os._exit(code)

    for number in _wanted():
        signal.signal(number, end)
    end_where_unfit()


def _wanted() -> list[signal.Signals]:
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
