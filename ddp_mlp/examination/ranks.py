"""What all ranks do together: compute, alone and at once, and sum over all of them, as a run would. Collective."""

import time

import numpy as np

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.examination.finding import Finding
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.summing.tree import automatic_shards
from ddp_mlp.training.machine import agree_on_machine

REDUCED = (10_000, 100_000, 1_000_000, 4_000_000)
"""Parameters whose sum over all ranks is timed."""
MEASURED_SECONDS = 0.3


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
