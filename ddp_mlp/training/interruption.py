"""Signals and time limits: both ask a run to stop after the step at hand, with a checkpoint.

`parallel/signals.py` has the signals. The first signal is only noted; the note travels with the next step's tallies, so
that all ranks stop after the same step even if one alone was signalled. A second signal ends all ranks at once, also
where they are stuck in MPI.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from ddp_mlp.parallel.launcher import launched_rank
from ddp_mlp.parallel.signals import SIGNALS as SIGNALS
from ddp_mlp.parallel.signals import heard, noted
from ddp_mlp.parallel.signals import name as name
from ddp_mlp.run_dir.saving import GO_ON

ECHO_SECONDS = 1.0
"""Signals so close together are one: schedulers signal the ranks and their launcher, and the launcher passes it on."""
TURN_SECONDS, LAST_TURN_SECONDS = 0.6, 3.0
"""How long each rank leaves the word to those before it, whose first abort ends all; and the longest that any does."""


class Signals(Protocol):
    """What a run asks, at each step, whether it is to stop. Local."""

    @property
    def signal(self) -> int:
        """The number of the signal to stop at, or 0."""


class Interruption:
    """Hears the signals while it is entered, on this rank; a context manager. Local: no MPI.

    Signals can be caught in the main thread only; elsewhere entering does nothing.
    """

    def __init__(self, end_now: Callable[[int], Any] = os._exit, alone: bool = False) -> None:
        """`end_now(exit_code)` is called at the second signal: in another thread, unless this process is `alone`.

        Then it never waits in MPI, and Python's own handlers are soon enough; to start a thread takes longer than a
        step of a small network.
        """
        self.signal = 0
        """The number of the first signal caught; 0 before."""
        self.again = GO_ON
        """What makes the run go on."""
        self._end_now = end_now
        self._first: float | None = None
        self._hearing = noted(self._hear) if alone else heard(self._note, self._hear)

    def __enter__(self) -> Self:
        self._hearing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hearing.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal between two lines of the program: at once, where the thread may have to wait for its turn."""
        self.signal = self.signal or number

    def _hear(self, number: int, frame: FrameType | None = None) -> None:
        """Note the first signal, and end all at one that is no echo of it."""
        now = time.monotonic()
        if self._first is None:
            self._first, self.signal = now, self.signal or number
        elif now - self._first > ECHO_SECONDS:
            tell_of_second(number, self.again)
            self._end_now(128 + number)


def tell_of_second(number: int, again: str) -> None:
    """Say why all ends at once: rank 0 or, where that does not run, another one. Local."""
    time.sleep(min(TURN_SECONDS * launched_rank(), LAST_TURN_SECONDS))
    after = f"what was done since the last checkpoint is lost; {again}"
    with suppress(OSError):  # not by print: the main thread may be in it
        os.write(2, f"error: stopped by {name(number)}, the second signal, at once: {after}\n".encode())
