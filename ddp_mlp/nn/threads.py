"""How many threads BLAS computes with: a setting of the whole process, which several of its threads may want at once.

Invariant: while a block of `blas_threads` runs, BLAS has the number that it asked for; after the last one, what it had
before the first. A block that asks for another number waits.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import threadpoolctl


@cache
def controller() -> threadpoolctl.ThreadpoolController:
    """Return the libraries with threads that this process had loaded when it was first asked; to look takes 10 ms."""
    return threadpoolctl.ThreadpoolController()


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Let BLAS compute with `count` threads in this block, in whatever thread of the process it runs."""
    with _asking:
        while _asked and _asked[0] != count:
            _asking.wait()
        if not _asked:
            _take_control()
            _before.append(controller().limit(limits=count, user_api="blas"))
        _asked.append(count)
    try:
        yield
    finally:
        with _asking:
            _asked.pop()
            if not _asked:
                _take_control()
                _before.pop().restore_original_limits()
                _asking.notify_all()


def _take_control() -> None:
    """Let this thread set the number: threadpoolctl 3.8 listens to one thread alone, the first, until it is told."""
    for library in controller().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


_asking = threading.Condition()
_asked: list[int] = []
_before: list[threadpoolctl.threadpool_limits] = []
