"""Signals and time limits: both ask a run to stop after the step at hand, with a checkpoint.

Schedulers announce the end of a job with SIGTERM or SIGUSR1, people with SIGINT (Ctrl-C). The first signal is only
noted; the note travels with the next step's tallies, so that all ranks stop after the same step even if one alone was
signalled.
A second signal ends all ranks at once, also where they are stuck in MPI: Python's own handlers wait until such a call
returns, so a thread hears of signals through a pipe that the interpreter writes to at once (`signal.set_wakeup_fd`).
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ECHO_SECONDS = 1.0
"""Signals so close together are one: schedulers signal the ranks and their launcher, and the launcher passes it on."""


class Signals(Protocol):
    """What a run asks, at each step, whether it is to stop. Local."""

    @property
    def signal(self) -> int:
        """The number of the signal to stop at, or 0."""


class Interruption:
    """Hears the signals while it is entered, on this rank; a context manager. Local: no MPI.

    Signals can be caught in the main thread only; elsewhere entering does nothing.
    """

    def __init__(self, end_now: Callable[[int], Any] = os._exit) -> None:
        """`end_now(exit_code)` is called at the second signal, in another thread."""
        self.signal = 0
        """The number of the first signal caught; 0 before."""
        self._end_now = end_now
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
            self._thread = threading.Thread(target=self._listen, args=self._pipe[:1], name="signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._pipe[1])
            self._thread.join()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal between two lines of the program: at once, where the thread may have to wait for its turn."""
        self.signal = self.signal or number

    def _listen(self, pipe: int) -> None:
        """Read signal numbers until the other end is closed."""
        first: float | None = None
        while heard := os.read(pipe, 1):
            number, now = heard[0], time.monotonic()
            if number not in SIGNALS:
                continue
            if first is None:
                first, self.signal = now, self.signal or number
            elif now - first > ECHO_SECONDS:
                self._end_now(128 + number)
        os.close(pipe)


def name(number: int) -> str:
    """Return a signal's name, such as SIGTERM."""
    return signal.Signals(number).name
