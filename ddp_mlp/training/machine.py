"""The machine of a run: the same software, kernels and bits on every rank, and arithmetic as the program needs it.

Every call is collective. What one rank finds wrong ends all.
"""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np

import ddp_mlp
from ddp_mlp.config import Config
from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.nn import backprop, blas
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.threads import blas_threads, controller
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import host_name
from ddp_mlp.storage.library import H5PY


class Machine(NamedTuple):
    """What the ranks run on: the same software and the same BLAS kernel everywhere."""

    versions: dict[str, str]
    kernel: str
    """The BLAS library, its version and the kernel it chose for this processor."""
    hosts: list[str]
    """Of each rank."""

    @property
    def checkpoint_versions(self) -> dict[str, str]:
        """What a checkpoint says of the machine that computed it."""
        return {**self.versions, "BLAS kernel": self.kernel}


@contextmanager
def settled(config: Config, communicator: Communicator) -> Iterator[Machine]:
    """Fix threads and floating-point warnings, see that all ranks agree, and give shared memory back. Collective."""
    with ExitStack() as stack:
        stack.enter_context(communicator)
        stack.enter_context(blas_threads(config.threads))
        # Overflow and NaN warn nobody: the loss is watched instead.
        stack.enter_context(np.errstate(over="ignore", invalid="ignore", divide="ignore"))
        yield agree_on_machine(config.threads, communicator)


def agree_on_machine(threads: int, communicator: Communicator) -> Machine:
    """Check that every rank computes with the same libraries, kernel and bits. Raises EnvironmentMismatch.

    A canary, one small forward and backward pass, shows differences that names and versions do not.
    """
    versions = {
        "ddp_mlp": ddp_mlp.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": H5PY,
        "mpi": communicator.library,
    }
    kernel = "; ".join(f"{library.name} {library.architecture}" for library in blas.libraries())
    loaded = [entry for entry in controller().info() if entry["user_api"] == "blas"]
    found_threads = sorted({entry["num_threads"] for entry in loaded} - {threads})
    mine = {**versions, "BLAS kernel": kernel, "canary": _canary()}
    everyone = communicator.allgather((mine, host_name()))
    with communicator.in_agreement():
        if found_threads:
            raise EnvironmentMismatch(
                f"threads = {threads}, but BLAS uses {found_threads[0]}: it does not let itself be set; "
                f"set OPENBLAS_NUM_THREADS={threads} before the start"
            )
        for rank, (theirs, their_host) in enumerate(everyone):
            for name, value in mine.items():
                if theirs[name] != value:
                    raise EnvironmentMismatch(
                        f"{name} is {value} on rank {communicator.rank} ({host_name()}) but {theirs[name]} on rank "
                        f"{rank} ({their_host}): every rank must run the same software on the same kind of processor"
                    )
    return Machine(versions, kernel, [their_host for _, their_host in everyone])


def _canary() -> str:
    """Return a hash of the gradient sums of one pass through a small network."""
    layout = Layout((19, 23, 11))
    flat, gradient = np.zeros((2, layout.length), np.float32)
    layout.initialize(flat, seed=0)
    W, b = layout.views(flat)
    dW, db = layout.views(gradient)
    group = Group(layout.widths, (37,), flat.dtype)
    group.A[0].whole[...] = np.sin(np.arange(19 * 37, dtype=np.float32)).reshape(19, 37)
    group.y[...] = np.arange(37) % 11
    backprop.gradient_sum(W, b, group, SoftmaxCrossEntropy(), dW, db)
    return hashlib.sha256(gradient.tobytes()).hexdigest()[:16]
