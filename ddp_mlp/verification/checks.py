"""Checks of the program's promises on the ranks at hand: each returns what it found, against which bound.

The yardsticks are independent of what they measure: differences of the loss for the gradient, the definition of the
tree for the sum, one process for many, and the uninterrupted run for one that was stopped.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.batches import Batch, Source
from ddp_mlp.nn import backprop
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.optimizers import Array, Optimizer
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.summing.tree import Subtree, automatic_shards, children, rows
from ddp_mlp.training import loop
from ddp_mlp.training.step import TrainingStep
from ddp_mlp.training.update import Regularization
from ddp_mlp.units import counted

DIFFERENCE = 1e-6
"""Half the distance over which the loss is differenced: its error is about DIFFERENCE² + 1e-16 / DIFFERENCE."""
DIRECTIONS = 16
ERROR_AT_MOST = 1e-6
"""Of a directional derivative, relative to the gradient's norm; units that change sign on the way add to it."""
STEPS, STOP = 20, 7
"""Steps of the runs that are compared, and after how many one of them is stopped."""


class Check(NamedTuple):
    """One line of the certificate."""

    what: str
    figure: str
    bound: str
    passed: bool


def _take_gradient(theta: Array, gradient: Array, state: object, step: int, rate: float, scratch: Array) -> None:
    theta[...] = gradient


GRADIENT = Optimizer("gradient", _take_gradient)
"""Puts the mean gradient in the parameters' place, so that a step shows it as it comes out of the global sum."""


def _step(
    communicator: Communicator,
    network: Architecture,
    source: Source,
    optimizer: Optimizer,
    dtype: np.dtype[np.floating],
) -> TrainingStep:
    reduction = ExactSum(communicator, network.layout.length, dtype, automatic_shards(communicator.size))
    return TrainingStep(
        communicator,
        network,
        reduction,
        source,
        optimizer,
        Regularization(),
        dtype=dtype,
        seed=0,
        chunk_rows=4096,
    )


def _place(step: TrainingStep, flat: NDArray[np.floating]) -> None:
    """Give all ranks the parameters (length,). Collective."""
    own = step.reduction.slice
    step.communicator.node_barrier()  # nobody still reads what the last step has left
    step.reduction.parameters[own] = flat[own]
    step.reduction.publish()


def _start(layout: Layout, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Return parameters whose biases are not zero."""
    flat = np.zeros(layout.length, dtype)
    layout.initialize(flat, seed=0)
    for l, b in layout.views(flat)[1].items():
        b[...] = 0.1 * l
    return flat


def gradient(source: Source, network: Architecture, m: int, communicator: Communicator) -> Check:
    """Compare the gradient that all ranks form together with central differences of their loss. Collective.

    In float64, over the first m rows, along random directions. `source` fills float64 groups.
    """
    f64, layout = np.dtype(np.float64), network.layout
    theta = _start(layout, f64)
    batch = Batch(0, 1, np.arange(m))
    directions = generator(0, Purpose.CANARY, 2).standard_normal((DIRECTIONS, layout.length))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)  # in the gaps between W and b nothing moves
    with communicator:
        step = _step(communicator, network, source, GRADIENT, f64)

        def loss(flat: NDArray[np.floating]) -> float:
            _place(step, flat)
            return loop.take_step(step, batch, 0.0).totals.loss_mean

        loss(theta)
        found = step.reduction.parameters.copy()
        errors = [
            (loss(theta + DIFFERENCE * d) - loss(theta - DIFFERENCE * d)) / (2 * DIFFERENCE) - found @ d
            for d in directions
        ]
    error = max(map(abs, errors)) / float(np.linalg.norm(found))
    what = f"gradient of {network.output.loss} against central differences, {DIRECTIONS} directions"
    return Check(what, f"{error:.1e}", f"at most {ERROR_AT_MOST:.0e}", bool(error <= ERROR_AT_MOST))


def exact_sum(source: Source, network: Architecture, sizes: list[int], communicator: Communicator) -> Check:
    """Compare the ranks' mean gradients with the tree by its definition, formed in one process, to the bit. Collective.

    In float32, over the first rows, as many as `sizes` says. `source` fills float32 groups.
    """
    f32, layout = np.dtype(np.float32), network.layout
    theta = _start(layout, f32)
    different = 0
    with communicator:
        step = _step(communicator, network, source, GRADIENT, f32)
        for number, m in enumerate(sizes, start=1):
            _place(step, theta)
            loop.take_step(step, Batch(0, number, np.arange(m)), 0.0)
            found = step.reduction.parameters.copy()
            if communicator.rank == 0:
                expected = _sum_by_definition(source, network, theta, m, step.reduction.K, (0, step.reduction.K))
                assert expected is not None, "a batch has rows"
                np.divide(expected, f32.type(m), out=expected)
                different += int(np.count_nonzero(found.view(np.uint32) != expected.view(np.uint32)))
        different = communicator.broadcast(different)
    ranks = counted(communicator.size, "rank")
    what = f"sum of {counted(step.reduction.K, 'shard')} on {ranks} against its definition in one process"
    compared = layout.length * len(sizes)
    return Check(what, f"{different} of {compared:,} numbers differ", "none", different == 0)


def _sum_by_definition(
    source: Source, network: Architecture, theta: NDArray[np.floating], m: int, K: int, subtree: Subtree
) -> NDArray[np.float32] | None:
    """Return the gradient sum (length,) of a subtree: a shard's own, or its two halves' added; None without rows."""
    span = rows(subtree, m, K)
    if not span:
        return None
    if subtree[1] - subtree[0] > 1:
        left, right = (_sum_by_definition(source, network, theta, m, K, child) for child in children(subtree))
        return right if left is None else left if right is None else np.add(left, right)
    layout = network.layout
    W, b = layout.views(theta)
    flat = np.zeros(layout.length, np.float32)
    dW, db = layout.views(flat)
    group = network.group((len(span),), flat.dtype)
    source.gather(np.arange(span.start, span.stop), group)
    backprop.gradient_sum(W, b, group, network.output, dW, db)
    return flat


def training(config: Config, folder: Path, communicator: Communicator) -> Iterator[Check]:
    """Train the same run in several ways and compare the parameters it ends with, to the bit. Collective.

    `config` names the data; `folder`, which all ranks see, takes the runs' own folders.
    """
    P = communicator.size
    ranks = counted(P, "rank")
    base = replace(config, max_steps=STEPS, shards=automatic_shards(P))

    def trained(name: str, alone: bool = False, max_steps: int = STEPS) -> str:
        chosen = replace(base, run_dir=str(folder / name), max_steps=max_steps)
        if alone:
            return communicator.on_rank_0(_train, chosen, SingleProcess())
        return _train(chosen, communicator)

    def same(what: str, found: str) -> Check:
        return Check(what, found[:16], whole[:16], found == whole)

    whole = trained("whole")  # parameters_sha256, which each rank forms from its own node's copy
    copies = set(communicator.allgather(whole))
    yield Check(f"parameters on {ranks} after {STEPS} steps", counted(len(copies), "version"), "1", len(copies) == 1)
    for repeat in (2, 3):
        yield same(f"training on {ranks}, repeated ({repeat} of 3)", trained(f"repeat {repeat}"))
    trained("stopped", max_steps=STOP)
    yield same(f"stopped after step {STOP}, resumed on {ranks}", trained("stopped"))
    if P > 1:
        yield same(f"training on {ranks} against one process", trained("alone", alone=True))
        trained("moved", max_steps=STOP)
        yield same(f"stopped after step {STOP} on {ranks}, resumed by one process", trained("moved", alone=True))
        trained("joined", alone=True, max_steps=STOP)
        yield same(f"stopped after step {STOP} in one process, resumed on {ranks}", trained("joined"))


def _train(config: Config, communicator: Communicator) -> str:
    with contextlib.redirect_stdout(io.StringIO()) if communicator.rank == 0 else contextlib.nullcontext():
        return str(loop.train(config, communicator)["parameters_sha256"])
