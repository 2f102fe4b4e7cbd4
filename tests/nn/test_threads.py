"""The number of BLAS threads: what a block asked for, in every thread of the process, and afterwards what it was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from ddp_mlp.nn.threads import blas_threads


def numbers() -> set[int]:
    """Return the number of threads of every BLAS library."""
    return {entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"}


def test_blocks_may_overlap_in_any_order() -> None:
    """The last one to leave, whichever it is, puts the number back."""
    inside, leave = threading.Barrier(3), threading.Event()

    def first() -> set[int]:
        with blas_threads(1):
            inside.wait(10)
            leave.wait(10)
            return numbers()

    def second() -> set[int]:
        with blas_threads(1):
            inside.wait(10)
            return numbers()

    with threadpool_limits(2, "blas"):
        with ThreadPoolExecutor(2) as pool:
            slow, fast = pool.submit(first), pool.submit(second)
            inside.wait(10)
            assert fast.result(10) == {1}
            assert numbers() == {1}
            leave.set()
            assert slow.result(10) == {1}
        assert numbers() == {2}


def test_another_number_waits_for_its_turn() -> None:
    """Two blocks that ask for different numbers are never inside together."""
    found = []

    def ask(count: int) -> None:
        for _ in range(20):
            with blas_threads(count):
                found.append((count, numbers()))

    with threadpool_limits(2, "blas"):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, [1, 2, 1, 2]))
        assert numbers() == {2}
    assert {(1, 1), (2, 2)} == {(count, *seen) for count, seen in found}


def test_an_error_leaves_the_number_as_it_was() -> None:
    """A block that fails is left like any other."""
    with threadpool_limits(2, "blas"):
        with pytest.raises(ZeroDivisionError), blas_threads(1):
            1 / 0  # noqa: B018
        assert numbers() == {2}
