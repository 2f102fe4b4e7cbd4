"""The numbers, or the yes and no of several labels, that a network predicts for a file's rows, by all ranks together.

As `apply` does for classes: pieces of whole blocks in turn, written by rank 0 in the order of the input. What is
written is in the targets' own units. The output and the figures are the same for any number of ranks.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.targets import rule_of
from ddp_mlp.errors import DataError
from ddp_mlp.inference.apply import check_answers, check_features, finite_rows, piece_rows, rounds
from ddp_mlp.inference.evaluate import ForwardPass, Totals, forward_blocks, loss_totals
from ddp_mlp.inference.metrics import Figures, metrics_of
from ddp_mlp.inference.network import Network
from ddp_mlp.nn.buffers import Group
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, arranged
from ddp_mlp.storage.predictions import PredictionsWriter
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import check_numbers
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


class NumberTally:
    """What is counted and summed over some rows of a network, or of several together, on one rank."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._metrics = metrics_of(network.targets, ranked=True, arithmetic=network.arithmetic)
        self._losses: list[Totals] = []

    def add(self, values: NDArray[Any], group: Group) -> None:
        """Take a block: the outputs A (m, n_L) in the network's units, and the group with its z."""
        self._losses.append(loss_totals(self._network.architecture.scoring, group, self._network.arithmetic))
        self._metrics.add(values, group)

    def scores(self, rows: int, communicator: Communicator) -> NumberScores:
        """Return the scores of so many rows, those of all ranks. Collective."""
        everyone = communicator.allgather((self._metrics.parts(), self._losses))
        figures, of_each = self._metrics.figures([parts for parts, _ in everyone])
        sums = [totals for _, part in everyone for totals in part]
        weight = total(totals.weight_sum for totals in sums)
        loss = total(totals.loss_sum for totals in sums) / weight if weight else 0.0
        return NumberScores(rows, figures.pop("loss", loss), figures, of_each)


class NumberRows(NamedTuple):
    """Some consecutive rows of a file, checked."""

    X: NDArray[Any]
    """(k, n_0), as in the file."""
    y: NDArray[np.float64]
    """(k, n_T), in the order of the network, NaN where one was not observed; zeros where rows have no targets."""
    w: NDArray[np.float64] | None
    """(k,)."""


def predict_numbers(
    network: Network, info: DatasetInfo, split: str, communicator: Communicator, out: Path | None = None
) -> NumberScores | None:
    """Write the predictions for a split's rows to `out`; return the scores where it has targets. Collective.

    Raises DataError, StorageError or ConfigError on all ranks.
    """
    reader, order, writer = open_numbers(network, info, split, communicator, out, network.dtype)
    structure, targets = reader.info.splits[split], network.targets
    tally = NumberTally(network) if structure.labelled else None
    with reader, writer or nullcontext():
        for bounds in rounds(structure.rows, piece_rows(network), communicator.size):
            with communicator.in_agreement():
                rows = read_numbers(reader, *bounds[communicator.rank], order, targets.loss)
                found = predict_rows(network, rows, tally)
                check_answers(reader, bounds[communicator.rank][0], found)
            if out is not None:
                sizes = [targets.outputs * (hi - lo) for lo, hi in bounds]
                gathered = communicator.Gather(found.reshape(-1), sizes)
                communicator.on_rank_0(_append, writer, gathered, targets.outputs)
        communicator.on_rank_0(lambda: None if writer is None else writer.finish())
    return None if tally is None else tally.scores(structure.rows, communicator)


def open_numbers(
    network: Network,
    info: DatasetInfo,
    split: str,
    communicator: Communicator,
    out: Path | None,
    dtype: np.dtype[Any],
    levels: Sequence[float] = (),
) -> tuple[Reader, list[int], PredictionsWriter | None]:
    """Return a reader of a split's rows, its columns in the order of the targets, and rank 0's writer to `out`.

    `levels` are the quantiles that are written besides. Collective. Raises DataError, StorageError or ConfigError on
    all ranks.
    """
    info, _ = communicator.on_rank_0(arranged, info, network.feature_names)
    targets, writer = network.targets, None
    with communicator.in_agreement():
        check_features(network, info)
        order = columns_of(info, split, targets.names)
        reader = Reader(replace(info, numbers=targets.count), split)
        if out is not None and communicator.rank == 0:
            rows, names = info.splits[split].rows, targets.output_names
            writer = PredictionsWriter(out, rows, names, dtype, levels, targets.loss)
    return reader, order, writer


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


def read_numbers(reader: Reader, lo: int, hi: int, order: list[int], loss: str) -> NumberRows:
    """Return the rows [lo, hi), the targets in this order of columns; some may be missing. Local.

    Raises DataError for what is no number, or none that the loss can take.
    """
    structure = reader.info.splits[reader.split]
    X = finite_rows(reader, lo, hi)
    y = np.zeros((hi - lo, len(order)))
    if structure.labelled:
        y = reader.y(lo, hi)
        check_numbers(reader, y, lo, rule_of(loss, missing=True))
        y = y[:, order]
    return NumberRows(X, y, reader.w(lo, hi) if structure.weighted else None)


def predict_rows(network: Network, rows: NumberRows, tally: NumberTally | None) -> NDArray[np.float64]:
    """Return the predictions (k, n_L) for some rows, in the targets' units; count them where there is a tally. Local.

    BLAS must have one thread.
    """
    forward = ForwardPass(network.architecture, network.flat, network.arithmetic)
    A = np.empty((len(rows.X), network.targets.outputs), network.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for block, group in forward_blocks(forward, network.source(*rows)):
            A[block] = values = forward.values(group)
            if tally is not None:
                tally.add(values, group)
    return A.astype(np.float64) if network.targets.probabilities else network.targets.in_units(A)


def _append(writer: PredictionsWriter | None, found: NDArray[np.float64], outputs: int) -> None:
    assert writer is not None, "rank 0 has opened it"
    writer.append(found.reshape(-1, outputs))
