"""The signals that ask a program to stop, and how it hears of them even while an MPI library lets nobody run.

Python's own handlers wait until a call returns, so a thread hears of signals through a pipe that the interpreter writes
to at once (`signal.set_wakeup_fd`). SIGHUP stays ignored where nohup has it so. All of it is local, and does something
in the main thread alone: elsewhere signals cannot be caught.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from ddp_mlp.errors import Interrupted, unfit
from ddp_mlp.parallel.launcher import launched_rank

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Of schedulers (TERM, USR1, USR2), people (INT), a terminal that hangs up (HUP), a limit on processor time (XCPU)."""
HEAD_START_SECONDS = 2.0
"""By how much the process that reports an error found before MPI starts may be later than the others."""
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
        thread.join()


def name(number: int) -> str:
    """Return a signal's name, such as SIGTERM."""
    return signal.Signals(number).name


def end_at_once(saves: bool) -> None:
    """End this process at a signal, while it is not yet what it is to be: with one line, and without a traceback.

    `saves`: whether the command is one that goes on where it was when it is given again; then the exit code is 75. So
    does a library that cannot be loaded, or memory for it that is not to be had, at any time, with 78.
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
    sys.excepthook = _say_what_is_unfit


def _say_what_is_unfit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End with 78 and one line, which the first rank says, where the machine is not fit; else as Python does."""
    found = None if "--debug" in sys.argv else unfit(error)
    if found is None:
        sys.__excepthook__(kind, error, trace)
        return
    if launched_rank() != 0:
        time.sleep(HEAD_START_SECONDS)
    with suppress(OSError):
        os.write(2, f"error: {found}\n".encode())
    os._exit(found.exit_code)


def _wanted() -> list[signal.Signals]:
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
