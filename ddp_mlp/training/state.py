"""A run's parameters and optimizer state as whole arrays: gathered from all ranks, given back to them, compared."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.run_dir.saving import Arrays, State
from ddp_mlp.training.step import Step


def gather_state(step: Step) -> tuple[Arrays, dict[str, Arrays]]:
    """Return copies of the parameters and of the optimizer's slots in rank 0's memory, none elsewhere. Collective."""
    reduction, layout, communicator = step.reduction, step.layout, step.communicator
    slices = reduction.slices
    counts = [part.stop - part.start for part in slices]
    parameters: Arrays = {}
    optimizer: dict[str, Arrays] = {}
    if communicator.rank == 0:
        parameters = layout.arrays(reduction.parameters.copy())
    for slot, array in step.state.items():
        gathered = communicator.Gather(array[: counts[communicator.rank]], counts)
        if gathered is None:
            continue
        flat, position = np.empty(layout.length, array.dtype), 0
        for part, count in zip(slices, counts, strict=True):
            flat[part] = gathered[position : position + count]
            position += count
        optimizer[slot] = layout.arrays(flat)
    return parameters, optimizer


def initialize(step: Step, given: bool, state: State | None) -> None:
    """Give all ranks the state that rank 0 has, if one is given, else parameters drawn at random. Collective."""
    if given:
        restore(step, *(state or (None, None)))
        return
    first = np.zeros(step.layout.length, step.dtype)
    step.layout.initialize(first, step.seed, step.architecture.starts, step.arithmetic)
    own = step.reduction.slice
    step.reduction.parameters[own] = first[own]
    step.reduction.publish()


def restore(
    step: Step,
    parameters: Mapping[str, NDArray[Any]] | None,
    optimizer: Mapping[str, Mapping[str, NDArray[Any]]] | None,
) -> None:
    """Give all ranks the parameters and the optimizer state (or None) that rank 0 has. Collective; None elsewhere."""
    reduction, layout, communicator = step.reduction, step.layout, step.communicator

    def whole(arrays: Mapping[str, NDArray[Any]] | None) -> NDArray[Any]:
        flat = np.zeros(layout.length, step.dtype)
        if arrays is not None:
            layout.fill(flat, arrays)
        return communicator.broadcast(flat)

    flat = whole(parameters)
    reduction.parameters[reduction.slice] = flat[reduction.slice]
    reduction.publish()
    if communicator.broadcast(optimizer is not None):
        for slot, array in step.state.items():
            array[...] = whole(None if optimizer is None else optimizer[slot])[reduction.slice]


def checksum(array: NDArray[Any]) -> int:
    """Return CRC-32 of the array's bytes, by which the ranks compare their copies. Local."""
    return zlib.crc32(array.data)
