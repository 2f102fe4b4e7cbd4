"""The numbers, or the yes and no of several labels, that a network predicts for a file's rows, by all ranks together.

As `apply` does for classes: slabs of whole blocks in turn, written by rank 0 in the order of the input. What is written
is in the targets' own units. The output and the figures are the same for any number of ranks.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.inference.apply import check_features, finite_rows, rounds, slab_rows
from ddp_mlp.inference.evaluate import ForwardPass, Totals, forward_blocks
from ddp_mlp.inference.metrics import Figures, Metrics, metrics_of
from ddp_mlp.inference.network import Network
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, arranged
from ddp_mlp.storage.predictions import PredictionsWriter
from ddp_mlp.storage.reader import Reader
from ddp_mlp.summing.totals import total


@dataclass(frozen=True)
class NumberScores:
    """How well the targets of some rows were met."""

    rows: int
    loss: float
    """Mean over the rows, weighted where they have weights: training's loss."""
    figures: Figures
    """Such as RMSE and R², over all targets."""
    of_each: dict[str, Figures]
    """The same of each target by its name, in its own units."""


def predict_numbers(
    network: Network, info: DatasetInfo, split: str, communicator: Communicator, out: Path | None = None
) -> NumberScores | None:
    """Write the predictions for a split's rows to `out`; return the scores where it has targets. Collective.

    Raises DataError, StorageError or ConfigError on all ranks.
    """
    info, _ = communicator.on_rank_0(arranged, info, network.feature_names)
    structure, targets = info.splits[split], network.targets
    writer = None
    with communicator.in_agreement():
        check_features(network, info)
        order = columns_of(info, split, targets.names)
        reader = Reader(replace(info, numbers=targets.count), split)
        if out is not None and communicator.rank == 0:
            writer = PredictionsWriter(out, structure.rows, targets.output_names, network.dtype, loss=targets.loss)

    metrics = metrics_of(targets, ranked=True, arithmetic=network.arithmetic)
    losses: list[Totals] = []
    with reader, writer or nullcontext():
        for bounds in rounds(structure.rows, slab_rows(network), communicator.size):
            with communicator.in_agreement():
                found = _predict_slab(network, reader, *bounds[communicator.rank], order, metrics, losses)
            if out is not None:
                sizes = [targets.outputs * (hi - lo) for lo, hi in bounds]
                gathered = communicator.Gather(found.reshape(-1), sizes)
                communicator.on_rank_0(_append, writer, gathered, targets.outputs)
        communicator.on_rank_0(_finish, writer)
    if not structure.labelled:
        return None
    everyone = communicator.allgather((metrics.parts(), losses))
    figures, of_each = metrics.figures([parts for parts, _ in everyone])
    sums = [totals for _, part in everyone for totals in part]
    weight = total(totals.weight_sum for totals in sums)
    loss = total(totals.loss_sum for totals in sums) / weight if weight else 0.0
    return NumberScores(structure.rows, figures.pop("loss", loss), figures, of_each)


def columns_of(info: DatasetInfo, split: str, names: tuple[str, ...]) -> list[int]:
    """Return which column of y is each target, by name where the file has names. Raises DataError."""
    columns = info.splits[split].columns or 1
    if info.splits[split].labelled and columns != len(names):
        raise DataError(f"{info.path}: {info.y_name!r} has {columns} columns, but the network has {len(names)} targets")
    if info.targets is None:
        return list(range(len(names)))
    for name in names:
        if name not in info.targets:
            raise DataError(f"{info.path}: has no target {name!r}, which the network predicts")
    return [info.targets.index(name) for name in names]


def _predict_slab(
    network: Network, reader: Reader, lo: int, hi: int, order: list[int], metrics: Metrics, losses: list[Totals]
) -> NDArray[np.float64]:
    """Return the predictions (hi − lo, n_L) for some rows; count them where they have targets."""
    structure = reader.info.splits[reader.split]
    X = finite_rows(reader, lo, hi)
    y = reader.y(lo, hi)[:, order] if structure.labelled else np.zeros((hi - lo, len(order)))
    if np.isinf(y).any():
        row, column = np.argwhere(np.isinf(y))[0]
        raise reader.refusal(reader.info.y_name, f"row {lo + row}, column {order[column]} is not finite")
    w = reader.w(lo, hi) if structure.weighted else None
    forward = ForwardPass(network.architecture, network.flat)
    A = np.empty((hi - lo, network.targets.outputs), network.dtype)
    for block, group in forward_blocks(forward, network.source(X, y, w)):
        A[block] = forward.values(group)
        if structure.labelled:
            losses.append(forward.loss(group))
            metrics.add(A[block], group)
    return A.astype(np.float64) if network.targets.probabilities else network.targets.in_units(A)


def _append(writer: PredictionsWriter, found: NDArray[np.float64], outputs: int) -> None:
    writer.append(found.reshape(-1, outputs))


def _finish(writer: PredictionsWriter | None) -> None:
    if writer is not None:
        writer.finish()
