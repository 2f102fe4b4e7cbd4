"""Limits on how long a process waits for others where no watchdog looks: while MPI starts, and while the job ends.

Ticks are counted and not the clock, so that a job that was suspended as a whole, and goes on, is left alone. All local.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ddp_mlp.parallel.launcher import PARENT

LONGEST_TICK = 0.5
"""Seconds between two looks, at most."""
ORPHAN_SECONDS = 3.0
"""For how long what started this process must be gone before that counts."""


@contextmanager
def limited(seconds: float | None, end: Callable[[str], Any], with_parent: bool = False) -> Iterator[None]:
    """Call end(reason), in another thread, if the block takes longer than `seconds`; None or 0 is no limit.

    `with_parent`: also where what started this process is gone, which then cannot help others to find it.
    """
    if not seconds and not with_parent:
        yield
        return
    over = threading.Event()
    tick = min(LONGEST_TICK, seconds / 5) if seconds else LONGEST_TICK

    def watch() -> None:
        waited = alone = 0.0
        while not over.wait(tick):
            waited += tick
            alone = alone + tick if os.getppid() != PARENT else 0.0
            orphan = with_parent and alone >= ORPHAN_SECONDS
            if orphan or (seconds and waited >= seconds):
                end("what started it is gone" if orphan else f"not for {seconds:g} s")
                break

    thread = threading.Thread(target=watch, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
