"""Train as `python -m ddp_mlp.train` does, but let something happen to one rank at a place before or after the steps.

Usage: at_start.py PLACE RANK EVENT FLAGS…; PLACE is connect, data, folder or leave, EVENT the name of a signal to
itself, `wait` for a minute, or `work` for five seconds, and only then go on.
"""

import os
import signal
import sys
import time
from typing import Any

from ddp_mlp.parallel import mpi
from ddp_mlp.parallel.launcher import launched_rank
from ddp_mlp.train import main
from ddp_mlp.training import loop, starting

place, rank, event = sys.argv[1], int(sys.argv[2]), sys.argv[3]
WHERE: dict[str, tuple[Any, str]] = {
    "connect": (mpi, "connect"),
    "data": (loop, "open_data"),
    "folder": (starting, "open_run"),
    "leave": (mpi.MPIRanks, "leave"),
}


def happen() -> None:
    """Do what EVENT says."""
    if event == "wait":
        time.sleep(60)
    elif event == "work":
        end = time.monotonic() + 5
        while time.monotonic() < end:
            sum(range(10_000))
    else:
        os.kill(os.getpid(), getattr(signal, event))


def hooked(owner: Any, name: str) -> None:
    """Let it happen before a function is called."""
    original = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        if launched_rank() == rank:
            happen()
        return original(*arguments, **named)

    setattr(owner, name, replaced)


hooked(*WHERE[place])
main(sys.argv[4:])
