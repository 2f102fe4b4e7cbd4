"""A barrier of the ranks of a node, in the memory that they share: faster than MPI's, which has to serve all cases.

It is the dissemination barrier (Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization", International
Journal of Parallel Programming 17(1), 1988): in round k, rank r tells rank r + 2ᵏ that it has come so far, and waits to
be told by rank r − 2ᵏ. After ⌈log₂ P⌉ rounds it has heard of all.

Invariants:
- a flag is one byte, which has one writer and is read or written at once; it counts barriers modulo 256. Who waits for
  the n-th may find n + 1: the writer may be one barrier ahead, never two;
- a flag lies on a cache line of its own;
- whoever waits lets others on: after some looks, the other threads of its process and other processes, and MPI, whose
  messages may move only while somebody calls it. Python's signal handlers and the watchdog's thread run meanwhile.
"""

import os
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

LINE = 128
"""Bytes between flags: the longest cache line in use."""
LOOKS = 100
"""So many looks, 10 µs, before others are let on: as long as ranks with equal work differ."""
PATIENCE = 0.01
"""Seconds after which waiting is sleeping, a hundredth of the time waited so far at a time."""


def flag_bytes(size: int) -> int:
    """Return how many bytes each of `size` ranks gives to the others' flags."""
    return LINE * (size - 1).bit_length()


class SharedBarrier:
    """The barrier of a node's ranks. Every rank makes its own of the same memory, zeros at first. Local to make."""

    def __init__(
        self, flags: Sequence[NDArray[np.uint8]], rank: int, order: Callable[[], None], go_on: Callable[[], object]
    ) -> None:
        """Take the arrays of all local ranks, `flag_bytes` each.

        `order()` keeps what is written before it from being seen after what is written behind it, and likewise reads;
        `go_on()` lets MPI and this process's other threads go on.
        """
        size = len(flags)
        self._order, self._go_on, self._count = order, go_on, 0
        self._rounds = [
            (flags[(rank + (1 << k)) % size].data, flags[rank].data, LINE * k) for k in range((size - 1).bit_length())
        ]

    def wait(self) -> None:
        """Wait for every rank; all then see what each has written before. Collective."""
        count = self._count = (self._count + 1) & 255
        ahead = (count + 1) & 255
        for theirs, mine, place in self._rounds:
            self._order()
            theirs[place] = count
            for _ in range(LOOKS):
                if (flag := mine[place]) == count or flag == ahead:
                    break
            else:
                self._wait_long(mine, place, (count, ahead))
        self._order()

    def _wait_long(self, mine: memoryview, place: int, awaited: tuple[int, int]) -> None:
        """Wait for one of two values of a flag while others go on."""
        began = time.monotonic()
        while mine[place] not in awaited:
            self._go_on()
            os.sched_yield()
            waited = time.monotonic() - began
            if waited > PATIENCE:
                time.sleep(min(waited / 100, PATIENCE))
