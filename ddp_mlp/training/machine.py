"""The machine of a run: the same software, kernels and bits on every rank, and arithmetic as the program needs it.

Every call is collective. What one rank finds wrong ends all.
"""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import ddp_mlp
from ddp_mlp.config import Config
from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.nn import blas, kernels, products
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import PORTABLE, VERSION
from ddp_mlp.nn.lines import Limbs, Lines, sample
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.portable import Pass, RoundedWeights
from ddp_mlp.nn.threads import blas_threads, controller
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import cores, host_name, processor_quota
from ddp_mlp.storage.library import H5PY

PROBED = ((256, 784, 128, 21, 22), (512, 128, 128, 23, 23), (1024, 16, 16, 24, 24), (16, 1024, 16, 21, 22))
"""Shapes and bits of products at the bound, (n, k, m, a, b), that show a BLAS that is not plain."""


class Machine(NamedTuple):
    """What the ranks run on: under native arithmetic, the same software and kernels everywhere."""

    versions: dict[str, str]
    kernel: str
    """The BLAS libraries, their versions and the kernels they chose for this processor."""
    hosts: list[str]
    """Of each rank."""
    arithmetic: dict[str, str]
    """By name, what decides the bits: `kernels.names` and a fingerprint."""
    crowd: dict[str, Any] | None = None
    """Where threads share cores: `host`, `ranks`, `threads`, `cores` of the host where they share most."""


@contextmanager
def settled(config: Config, communicator: Communicator) -> Iterator[Machine]:
    """Fix threads and floating-point warnings, see that all ranks agree, and give shared memory back. Collective."""
    with ExitStack() as stack:
        stack.enter_context(communicator)
        with communicator.in_agreement():
            stack.enter_context(blas.used(config.blas))
        stack.enter_context(blas_threads(config.threads))
        # Overflow and NaN warn nobody: the loss is watched instead.
        stack.enter_context(np.errstate(over="ignore", invalid="ignore", divide="ignore"))
        if config.arithmetic == "portable":
            yield agree_on_arithmetic(communicator, config.threads)
        else:
            yield agree_on_machine(config.threads, communicator, config.dtype)


def agree_on_machine(threads: int, communicator: Communicator, dtype: str = "float32") -> Machine:
    """Check that every rank computes with the same libraries, kernels and bits. Raises EnvironmentMismatch.

    A fingerprint of functions, sums and products shows differences that names and versions do not.
    """
    versions, kernel = _versions(communicator), _kernel()
    loaded = [entry for entry in controller().info() if entry["user_api"] == "blas"]
    found_threads = sorted({entry["num_threads"] for entry in loaded} - {threads})
    arithmetic = _arithmetic(dtype)
    with communicator.in_agreement():
        if found_threads:
            raise EnvironmentMismatch(
                f"threads = {threads}, but BLAS uses {found_threads[0]}: it does not let itself be set; "
                f"set OPENBLAS_NUM_THREADS={threads} before the start"
            )
    hosts = _agree({**versions, **arithmetic}, communicator)
    return Machine(versions, kernel, hosts, arithmetic, _crowd(threads, communicator))


def agree_on_kernels(dtype: str, communicator: Communicator) -> None:
    """Check that every rank computes with the same kernels and bits. Raises EnvironmentMismatch."""
    if communicator.size > 1:
        _agree(_arithmetic(dtype), communicator)


def _arithmetic(dtype: str) -> dict[str, str]:
    """Return what decides the bits of this process, by name."""
    return {**kernels.names(), f"fingerprint of {dtype}": kernels.fingerprint(np.dtype(dtype))}


def agree_on_products(
    widths: tuple[int, ...], sizes: tuple[int, ...], dtype: np.dtype[Any], communicator: Communicator
) -> None:
    """Check that products in the shapes of a run have the same bits on every rank. Raises EnvironmentMismatch."""
    if communicator.size > 1:
        _agree({"fingerprint of products": kernels.products_fingerprint(widths, sizes, dtype)}, communicator)


def _agree(mine: Mapping[str, str], communicator: Communicator) -> list[str]:
    """Raise EnvironmentMismatch on all ranks where a value differs from another rank's; return the ranks' hosts."""
    everyone = communicator.allgather((mine, host_name()))
    with communicator.in_agreement():
        for rank, (theirs, their_host) in enumerate(everyone):
            for name, value in mine.items():
                if theirs[name] != value:
                    raise EnvironmentMismatch(
                        f"{name} is {value} on rank {communicator.rank} ({host_name()}) but {theirs[name]} on rank "
                        f"{rank} ({their_host}): every rank must run the same software on the same kind of processor"
                    )
    return [their_host for _, their_host in everyone]


def agree_on_arithmetic(communicator: Communicator, threads: int = 1) -> Machine:
    """Check that every rank's portable arithmetic is the same; processors, BLAS and versions may differ.

    Raises EnvironmentMismatch, also where this process rounds otherwise than IEEE 754 has it by default, or where
    BLAS's products of whole numbers are not exact. A canary of one step shows what versions do not.
    """
    arithmetic = {"arithmetic": f"portable {VERSION}"}
    versions, kernel = {**_versions(communicator), **arithmetic}, _kernel()
    with communicator.in_agreement():
        _probe()
    mine = {"ddp_mlp": versions["ddp_mlp"], **arithmetic, "canary": _portable_canary()}
    everyone = communicator.allgather((mine, kernel, host_name()))
    with communicator.in_agreement():
        for rank, (theirs, _, their_host) in enumerate(everyone):
            for name, value in mine.items():
                if theirs[name] != value:
                    raise EnvironmentMismatch(
                        f"{name} is {value} on rank {communicator.rank} ({host_name()}) but {theirs[name]} on rank "
                        f"{rank} ({their_host}): arithmetic = portable needs the same program everywhere"
                    )
    kernels = list(dict.fromkeys(their_kernel for _, their_kernel, _ in everyone))
    hosts = [their_host for _, _, their_host in everyone]
    return Machine(versions, " and ".join(kernels), hosts, arithmetic, _crowd(threads, communicator))


def _crowd(threads: int, communicator: Communicator) -> dict[str, Any] | None:
    """Return the host where most threads share a core, and how many of each; None where no host has too few."""
    places = communicator.allgather((host_name(), cores(), _quota()))
    found: list[dict[str, Any]] = []
    for host in dict.fromkeys(host for host, _, _ in places):
        members = [(theirs, quota) for their_host, theirs, quota in places if their_host == host]
        room = min(len(frozenset().union(*(theirs for theirs, _ in members))), *(quota for _, quota in members))
        wanted = threads * len(members)
        if wanted > room:
            found.append({"host": host, "ranks": len(members), "threads": wanted, "cores": room})
    return max(found, key=lambda crowd: crowd["threads"] / crowd["cores"], default=None)


@cache
def _quota() -> float:
    """Return what control groups leave to this process, as it was when first asked: files to be read, for each call."""
    return processor_quota()


@cache
def _probe() -> None:
    """Look at this process's rounding and products, once."""
    products.probe(PROBED)


def _versions(communicator: Communicator) -> dict[str, str]:
    return {
        "ddp_mlp": ddp_mlp.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": H5PY,
        "mpi": communicator.library,
    }


def _kernel() -> str:
    """Return the BLAS libraries that are loaded, the one that computes products first."""
    used = blas.in_use()
    loaded = [used, *(library for library in blas.libraries() if library.name != used.name)]
    return "; ".join(f"{library.name} {library.architecture}" for library in loaded)


def _portable_canary() -> str:
    """Return a hash of the gradient sums of one portable pass through a small network."""
    network = Architecture(Layout((19, 23, 11))).portable
    layout = network.layout
    flat, gradient = np.zeros(layout.length, np.float32), np.zeros(layout.length)
    layout.initialize(flat, seed=0, arithmetic=PORTABLE)
    W, b = layout.views(flat)
    weights, lines = RoundedWeights(layout.widths), Lines(layout.widths)
    weights.look(W)
    weights.set(W)
    group = network.group([37], np.dtype(np.float64))
    group.A[0].whole[...] = (np.arange(19 * 37) % 101 - 50.0).reshape(19, 37) / 64
    group.y[...] = np.arange(37) % 11
    way = Pass(group, weights, lines)
    way.forward(b)
    network.output.gradient(group)
    way.backward(sample(0, 37, 37))
    lines.end()
    limbs = Limbs(lines, 37)
    way.weight_gradient(limbs, *layout.views(gradient), np.zeros(limbs.length))
    return hashlib.sha256(gradient.astype("<f8").tobytes()).hexdigest()[:16]
