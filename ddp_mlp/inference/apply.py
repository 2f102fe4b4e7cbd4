"""The rows of a file, classified by all ranks together, and how well their labels were met.

Ranks take turns with slabs of rows, each a whole number of the model's blocks, and rank 0 writes them in the order of
the input. A block's numbers depend on the block alone, counts are integers, and the losses of blocks are added by
`math.fsum`: so output and scores are the same for any number of ranks. Only a few slabs are in memory at a time.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.memory import MemorySource
from ddp_mlp.errors import DataError
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.model import Model
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, Reader
from ddp_mlp.storage.predictions import PredictionsWriter

SLAB_BYTES = 8 << 20
"""A rank holds about so many bytes of X, and of probabilities, at a time."""
CONFUSION_CLASSES = 1000
"""The most classes for which a confusion matrix is kept."""


@dataclass(frozen=True)
class Scores:
    """How well the labels of some rows were met."""

    rows: int
    accuracy: float
    """Share of the rows with the right label; weights do not enter."""
    log_loss: float
    """Mean over the rows, weighted where they have weights: training's loss."""
    precision: list[float | None]
    """Per class: the share of the rows so labelled that are of the class; None where no row is so labelled."""
    recall: list[float | None]
    """Per class: the share of its rows that are so labelled; None where it has no rows."""
    support: list[int]
    """Per class: its rows."""
    confusion: list[list[int]] | None
    """confusion[i][j]: the rows of class i that are labelled j; None beyond CONFUSION_CLASSES classes."""


class Slab(NamedTuple):
    """Some consecutive rows, classified."""

    labels: NDArray[np.int64]
    """(k,): the number of the most probable class; of equals, the first."""
    probabilities: NDArray[Any]
    """(k, n_L)."""
    losses: list[tuple[float, float]]
    """Of each block: the sum of its losses and of its weights; empty where the rows have no labels."""
    y: NDArray[np.int64]
    """(k,): the rows' own class numbers; zeros where they have none."""


def classify(
    model: Model, info: DatasetInfo, split: str, communicator: Communicator, out: Path | None = None
) -> Scores | None:
    """Write labels and probabilities of a split's rows to `out`; return the scores where it has labels. Collective.

    Raises DataError, StorageError or ConfigError on all ranks.
    """
    structure, n_L = info.splits[split], len(model.classes)
    writer = None
    with communicator.in_agreement():
        if info.features != model.features:
            raise DataError(f"{info.path}: has {info.features} features, but the network takes {model.features}")
        numbers = class_numbers(info, model.classes)
        reader = Reader(info, split)
        if out is not None and communicator.rank == 0:
            writer = PredictionsWriter(out, structure.rows, model.classes, model.dtype)

    tally = _Tally(n_L)
    with reader, writer or nullcontext():
        for bounds in _rounds(structure.rows, _slab_rows(model), communicator.size):
            with communicator.in_agreement():
                slab = _classify_slab(model, reader, *bounds[communicator.rank], numbers)
            if structure.labelled:
                tally.add(slab)
            if out is not None:
                sizes = [hi - lo for lo, hi in bounds]
                labels = communicator.Gather(slab.labels, sizes)
                probabilities = communicator.Gather(slab.probabilities.reshape(-1), [n_L * size for size in sizes])
                communicator.on_rank_0(_append, writer, labels, probabilities)
        communicator.on_rank_0(_finish, writer)
    return tally.scores(communicator) if structure.labelled else None


def class_numbers(info: DatasetInfo, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the model's number of each class of a file, by name where the file names them. Raises DataError."""
    names = info.classes or classes
    for name in names:
        if name not in classes:
            raise DataError(f"{info.path}: has the class {name!r}, but the network knows {', '.join(classes)}")
    return np.array([classes.index(name) for name in names])


def _rounds(m: int, slab_rows: int, size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield, round by round, the bounds [lo, hi) of each rank's slab of the rows [0, m)."""
    for start in range(0, m, slab_rows * size):
        bounds = [min(start + slab_rows * p, m) for p in range(size + 1)]
        yield list(pairwise(bounds))


def _slab_rows(model: Model) -> int:
    row_bytes = model.dtype.itemsize * max(model.features, len(model.classes))
    return EVALUATION_ROWS * max(1, SLAB_BYTES // (EVALUATION_ROWS * row_bytes))


def _classify_slab(model: Model, reader: Reader, lo: int, hi: int, numbers: NDArray[np.int64]) -> Slab:
    structure = reader.info.splits[reader.split]
    X = reader.X(lo, hi)
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        found = f"row {lo + row}, column {column} is {X[row, column]}: must be a finite number"
        raise reader.refusal(reader.info.x_name, found)
    y = np.zeros(hi - lo, np.int64)
    if structure.labelled:
        given = reader.y(lo, hi)
        wrong = np.flatnonzero((given < 0) | (given >= len(numbers)))
        if wrong.size:
            found = f"row {lo + wrong[0]} is {given[wrong[0]]}: must be a class number from 0 to {len(numbers) - 1}"
            raise reader.refusal(reader.info.y_name, found)
        y = numbers[given]
    w = reader.w(lo, hi) if structure.weighted else None

    probabilities = np.empty((hi - lo, len(model.classes)), model.dtype)
    losses, output = [], SoftmaxCrossEntropy()
    for block, group in model.forward(MemorySource(X, y, w, model.dtype, model.standardization)):
        output.values(group, probabilities[block])
        if structure.labelled:
            [(loss_sum, _)] = output.gradient(group)
            losses.append((loss_sum, group.m if group.w is None else float(np.sum(group.w, dtype=np.float64))))
    return Slab(np.argmax(probabilities, axis=1), probabilities, losses, y)


def _append(writer: PredictionsWriter, labels: NDArray[np.int64], probabilities: NDArray[Any]) -> None:
    writer.append(labels, probabilities.reshape(len(labels), -1))


def _finish(writer: PredictionsWriter | None) -> None:
    if writer is not None:
        writer.finish()


class _Tally:
    """Counts and losses of the rows that this rank has classified."""

    def __init__(self, n_L: int) -> None:
        self._losses: list[tuple[float, float]] = []
        self._counts = np.zeros((3, n_L), np.int64)
        """Per class: the rows of it, the rows labelled so, and the rows that are both."""
        self._confusion = np.zeros((n_L, n_L) if n_L <= CONFUSION_CLASSES else (0, 0), np.int64)

    def add(self, slab: Slab) -> None:
        """Count a slab. Local."""
        n_L = self._counts.shape[1]
        self._losses += slab.losses
        for row, which in enumerate((slab.y, slab.labels, slab.y[slab.y == slab.labels])):
            self._counts[row] += np.bincount(which, minlength=n_L)
        if self._confusion.size:
            np.add.at(self._confusion, (slab.y, slab.labels), 1)

    def scores(self, communicator: Communicator) -> Scores:
        """Return the scores over the rows of all ranks. Collective."""
        everyone = communicator.allgather((self._losses, self._counts, self._confusion))
        loss_sum = math.fsum(loss for losses, _, _ in everyone for loss, _ in losses)
        weight_sum = math.fsum(weight for losses, _, _ in everyone for _, weight in losses)
        support, labelled, right = np.sum([counts for _, counts, _ in everyone], axis=0).tolist()
        confusion = np.sum([confusion for _, _, confusion in everyone], axis=0)
        return Scores(
            rows=sum(support),
            accuracy=sum(right) / sum(support),
            log_loss=loss_sum / weight_sum if weight_sum else math.nan,
            precision=[r / n if n else None for r, n in zip(right, labelled, strict=True)],
            recall=[r / n if n else None for r, n in zip(right, support, strict=True)],
            support=support,
            confusion=confusion.tolist() if confusion.size else None,
        )
