"""Tests of the barrier in shared memory: processes that note what they have come to, and see what the others have."""

import mmap
import multiprocessing
import random
import time
from typing import Any

import numpy as np
import pytest

from ddp_mlp.parallel.barrier import SharedBarrier, flag_bytes

SIZES = [1, 2, 3, 5, 8]


def nothing() -> None:
    """Stand in for a fence: on x86 the processor keeps the order, elsewhere a call of a function is all there is."""


def meet(rank: int, size: int, memory: mmap.mmap, rounds: int, found: Any, cut: bool) -> None:
    """Come to the barrier `rounds` times, each time with the number of it noted, and tell whether all had come."""
    whole = np.frombuffer(memory, np.uint8)
    each = flag_bytes(size)
    flags = [whole[each * i : each * (i + 1)] for i in range(size)]
    came = whole[each * size : each * size + 8 * size].view(np.int64)
    barrier = SharedBarrier(flags, rank, nothing, nothing)
    if cut:
        barrier._rounds.pop()
    draw = random.Random(rank)
    good = True
    for number in range(1, rounds + 1):
        if draw.random() < 0.02:
            time.sleep(draw.random() * 0.004)
        came[rank] = number
        barrier.wait()
        good &= bool((came >= number).all() and (came <= number + 1).all())
    found.put((rank, good))


def all_met(size: int, rounds: int, cut: bool = False, patience: float = 50.0) -> list[tuple[int, bool]]:
    """Return what each rank has seen that has come to the end."""
    context = multiprocessing.get_context("fork")
    memory, found = mmap.mmap(-1, flag_bytes(size) * size + 8 * size), context.SimpleQueue()
    processes = [context.Process(target=meet, args=(r, size, memory, rounds, found, cut)) for r in range(size)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + patience
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return sorted(found.get() for process in processes if process.exitcode == 0)


@pytest.mark.parametrize("size", SIZES)
def test_nobody_leaves_before_all_have_come(size: int) -> None:
    """More often than a flag can count, more ranks than cores, some late: nobody is ahead, and nobody hangs."""
    assert all_met(size, 600) == [(rank, True) for rank in range(size)]


def test_a_missing_round_is_seen() -> None:
    """Planted: without its last round, ranks of the barrier leave before all have come, or never."""
    assert all_met(3, 600, cut=True, patience=3.0) != [(rank, True) for rank in range(3)]


def test_others_go_on_while_a_rank_waits() -> None:
    """A rank that waits for long lets MPI and other threads go on, and then sleeps."""
    flags = [np.zeros(flag_bytes(2), np.uint8) for _ in range(2)]
    calls = 0

    def go_on() -> None:
        nonlocal calls
        calls += 1
        if time.monotonic() - began > 0.1:
            flags[0][0] = 1  # rank 1 has come

    began, worked = time.monotonic(), time.process_time()
    SharedBarrier(flags, 0, nothing, go_on).wait()
    assert calls > 10
    assert flags[1][0] == 1, "rank 1 has been told"
    assert time.process_time() - worked < time.monotonic() - began


def test_flags_lie_on_lines_of_their_own() -> None:
    """⌈log₂ P⌉ flags for each rank; none where there is nobody else."""
    assert [flag_bytes(size) // 128 for size in (1, 2, 3, 4, 5, 64, 65)] == [0, 1, 2, 2, 3, 6, 7]
