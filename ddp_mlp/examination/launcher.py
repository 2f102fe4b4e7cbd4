"""Launcher and MPI library: judged before MPI starts, since the wrong pair, or too little room, may end the process."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.examination.finding import Finding
from ddp_mlp.examination.judging import SHARED_MEMORY_AT_LEAST
from ddp_mlp.parallel import segments
from ddp_mlp.parallel.host import shared_memory
from ddp_mlp.parallel.launcher import launched_rank, launched_size
from ddp_mlp.units import byte_size, counted

if TYPE_CHECKING:
    from ddp_mlp.parallel.communicator import Communicator

DEADLINE_SECONDS = 60.0
SILENT_SECONDS = 10.0
"""A process that leaves the word to another waits this long: Open MPI ends the job when the first one exits."""


class Meeting:
    """The start of MPI where that is safe, and what is to be said of it; called once, and collective."""

    finding: Finding
    """Whether launcher and library belong together, once it has been called."""
    left: Sequence[tuple[str, int]] = ()
    """Names and bytes of what killed jobs have left in shared memory; a start removes it."""

    def __call__(self) -> "Communicator":
        """Return all ranks, or this process alone where they cannot meet; then rank 0 alone goes on from here."""
        self._timer = _watch(os._exit)
        self.left = [(path.name, size) for path, size in segments.dead()]
        communicator, self.finding = _connect()
        if not self.finding.fine and launched_rank() != 0:
            time.sleep(SILENT_SECONDS)  # one process speaks for those that do not find one another
            sys.exit(EnvironmentMismatch.exit_code)
        return communicator

    def over(self) -> None:
        """End the watch: all ranks have answered."""
        self._timer.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _connect() -> tuple["Communicator", Finding]:
    from ddp_mlp.parallel import mpi
    from ddp_mlp.parallel.single import SingleProcess

    launched, name = launched_size()
    room = shared_memory().free
    values: dict[str, Any] = {"launcher": name or "", "launched": launched}
    if launched > 1 and room < SHARED_MEMORY_AT_LEAST:
        small = f"{byte_size(room)} in /dev/shm may kill it with a bus error"
        found = f"{name} = {launched}, but MPI was not started: {small}"
        return SingleProcess(), Finding("launcher", False, found, "see the line /dev/shm", values)
    try:
        communicator = mpi.connect()
    except EnvironmentMismatch as error:
        found, _, do = str(error).partition("): ")
        return SingleProcess(), Finding("launcher", False, found + ")", do, values)
    library = " ".join(communicator.library.split())
    if communicator.size == 1:
        found = f"none ({name} = 1)" if name else "none: one process; start it under mpirun or srun to examine a job"
    else:
        found = f"{name} = {launched} and a world of {counted(communicator.size, 'rank')}, {library}"
    return communicator, Finding("launcher", True, found, values=values | {"library": library})


def _watch(abort: Callable[[int], Any]) -> threading.Timer:
    """End the examination if ranks never find one another: `abort(exit_code)`, or SIGALRM while MPI lets nobody run."""

    def end() -> None:
        do = "check the network between the hosts, and that all of them start the same program"
        print(f"error: no answer from all ranks within {DEADLINE_SECONDS:g} s: {do}", file=sys.stderr, flush=True)
        abort(EnvironmentMismatch.exit_code)

    timer = threading.Timer(DEADLINE_SECONDS, end)
    timer.daemon = True
    timer.start()
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS + 1)
    return timer
