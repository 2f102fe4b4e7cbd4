"""What all ranks do together: compute, alone and at once, and sum over all of them, as a run would. Collective."""

import time

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.examination.finding import Finding
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.summing.tree import automatic_shards
from ddp_mlp.training.machine import agree_on_machine

REDUCED = (10_000, 100_000, 1_000_000, 4_000_000)
"""Parameters whose sum over all ranks is timed."""
MEASURED_SECONDS = 0.3
LINE, LINES, TRIES = 64, 2048, 101
"""Bytes of a cache line; how many are written at a time: they fit into any second cache; and how often."""


def examine_blas(threads: int, communicator: Communicator) -> Finding:
    """Check that all ranks compute with the same libraries, kernel and bits. Collective."""
    try:
        machine = agree_on_machine(threads, communicator)
    except EnvironmentMismatch as error:
        do = "give every rank the same software; OPENBLAS_CORETYPE=Haswell on all makes different processors agree"
        return Finding("blas", False, str(error).partition(": every rank must")[0], do)
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("ddp_mlp", "python", "numpy"))
    same = "" if communicator.size == 1 else ", the same on all ranks"
    return Finding("blas", True, f"{machine.kernel}; {versions}{same}", values={"kernel": machine.kernel})


def measure_products(communicator: Communicator) -> tuple[float, list[float]]:
    """Return the GFLOP/s of rank 0 while the others sleep, and of every rank while all compute. Collective."""
    gflops_of_products(0.05)  # the kernels are loaded, the processor wakes up
    communicator.barrier()
    if communicator.rank == 0:
        alone = gflops_of_products(MEASURED_SECONDS)
    else:
        alone = 0.0
        time.sleep(MEASURED_SECONDS + 0.1)
    communicator.barrier()
    return communicator.broadcast(alone), communicator.allgather(gflops_of_products(MEASURED_SECONDS))


def gflops_of_products(seconds: float) -> float:
    """Return the mean rate of W A, 512 × 784 times 784 × 256 in float32, over so many seconds. Local."""
    W, A, out = (np.ones(shape, np.float32, order="F") for shape in ((512, 784), (784, 256), (512, 256)))
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        np.matmul(W, A, out=out)
        count += 1
    return 2 * count * 512 * 784 * 256 / passed / 1e9


def measure_lines(communicator: Communicator) -> tuple[float, list[float]]:
    """Return the seconds of a barrier of the node, and of writing a cache line that another rank has read. Collective.

    Of the lines that the first rank of this node writes, with every other rank in turn, beside lines that nobody else
    has touched: what it costs where the two do not share a cache is many times what it costs where they do.
    """
    local_rank, size = communicator.local_rank, len(communicator.nodes[communicator.node])
    shared, own = communicator.share_one(LINES * LINE, np.dtype(np.uint8)), np.zeros(LINES * LINE, np.uint8)
    barriers, costs = [], []
    for _ in range(TRIES):
        began = time.perf_counter()
        for _ in range(20):
            communicator.node_barrier()
        barriers.append((time.perf_counter() - began) / 20)
    for partner in range(1, size):
        differences = []
        for _ in range(TRIES):
            if local_rank == partner:
                int(shared[::LINE].sum())
            communicator.node_barrier()
            if local_rank == 0:
                differences.append(_seconds_to_write(shared) - _seconds_to_write(own))
            communicator.node_barrier()
        costs.append(max(0.0, float(np.median(differences))) / LINES if differences else 0.0)
    communicator.close()
    return float(np.median(barriers)), costs


def _seconds_to_write(memory: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    memory[::LINE] += 1
    return time.perf_counter() - began


def measure_reduction(communicator: Communicator, room: int) -> dict[int, float]:
    """Return the median seconds of the exact sum by number of parameters, where it fits in `room` bytes. Collective."""
    K, seconds = automatic_shards(communicator.size), {}
    for count in REDUCED:
        if 4 * count * (2 * K + 1) > room:
            break
        reduction = ExactSum(communicator, count, np.dtype(np.float32), K)
        times: list[float] = []
        while communicator.broadcast(len(times) < 5 or (sum(times) < MEASURED_SECONDS and len(times) < 500)):
            communicator.barrier()
            began = time.perf_counter()
            reduction.collect(K)
            for _ in reduction.sums(K):
                pass
            reduction.publish()
            times.append(time.perf_counter() - began)
        seconds[count] = sorted(times)[len(times) // 2]
        communicator.close()
    return seconds
