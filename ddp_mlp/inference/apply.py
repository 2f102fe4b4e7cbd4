"""The rows of a file, classified by all ranks together, and how well their labels were met.

Ranks take turns with pieces of the file, each a whole number of the network's blocks, and rank 0 writes them in the
order of the input. A block's numbers depend on the block alone, counts are integers, and the losses of blocks are added
by `totals.total`: so output and scores are the same for any number of ranks. Only a few pieces are in memory at a time.
"""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.inference.evaluate import EVALUATION_ROWS, loss_totals
from ddp_mlp.inference.network import Network
from ddp_mlp.inference.scores import Confusion, Scores, scores_of
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, arranged
from ddp_mlp.storage.predictions import PredictionsWriter
from ddp_mlp.storage.reader import Reader

PIECE_BYTES = 8 << 20
"""A rank holds about so many bytes of X, and of probabilities, at a time."""


class Classified(NamedTuple):
    """Some consecutive rows, classified."""

    labels: NDArray[np.int64]
    """(k,): the number of the most probable class; of equals, the first."""
    probabilities: NDArray[Any]
    """(k, n_L)."""
    losses: list[tuple[float, float]]
    """Of each block: the sum of its losses and of its weights; empty where the rows have no labels."""
    y: NDArray[np.int64]
    """(k,): the rows' own class numbers, -1 for a class that training never saw; zeros where they have none."""
    unseen: NDArray[np.int64]
    """Per class of the file: its rows, where training never saw it."""


def classify(
    network: Network, info: DatasetInfo, split: str, communicator: Communicator, out: Path | None = None
) -> Scores | None:
    """Write labels and probabilities of a split's rows to `out`; return the scores where it has labels. Collective.

    Features are taken in the order of training by their names, where both sides have names. Raises DataError,
    StorageError or ConfigError on all ranks.
    """
    info, _ = communicator.on_rank_0(arranged, info, network.feature_names)
    structure, n_L = info.splits[split], len(network.classes)
    writer = None
    with communicator.in_agreement():
        check_features(network, info)
        numbers = class_numbers(info, network.classes) if structure.labelled else np.arange(n_L)
        reader = Reader(info, split)
        if out is not None and communicator.rank == 0:
            writer = PredictionsWriter(out, structure.rows, network.classes, network.dtype)

    confusion, unseen = Confusion(n_L), np.zeros(len(numbers), np.int64)
    losses: list[tuple[float, float]] = []
    with reader, writer or nullcontext():
        for bounds in rounds(structure.rows, piece_rows(network), communicator.size):
            with communicator.in_agreement():
                piece = _classify_rows(network, reader, *bounds[communicator.rank], numbers)
            if structure.labelled:
                seen = piece.y >= 0
                confusion.add(piece.y[seen], piece.labels[seen])
                unseen += piece.unseen
                losses += piece.losses
            if out is not None:
                sizes = [hi - lo for lo, hi in bounds]
                labels = communicator.Gather(piece.labels, sizes)
                probabilities = communicator.Gather(piece.probabilities.reshape(-1), [n_L * size for size in sizes])
                communicator.on_rank_0(_append, writer, labels, probabilities)
        communicator.on_rank_0(_finish, writer)
    if not structure.labelled:
        return None
    everyone = communicator.allgather((confusion, unseen, losses))
    together = Confusion(n_L)
    for counted, _, _ in everyone:
        together.join(counted)
    total = np.sum([counts for _, counts, _ in everyone], axis=0).tolist()
    strangers = {name: count for name, count in zip(info.classes or (), total, strict=False) if count}
    return scores_of(together, [sums for _, _, found in everyone for sums in found], strangers)


def check_features(network: Network, info: DatasetInfo) -> None:
    """Raise DataError where a file has another number of features than the network takes."""
    if info.features != network.features:
        raise DataError(f"{info.path}: has {info.features} features, but the network takes {network.features}")


def class_numbers(info: DatasetInfo, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the network's number of each class of a file (classes,), by name, -1 for one that training never saw.

    A file that names no classes has 0, 1, …: the network's own numbers where it has no such names itself. Raises
    DataError where both could be meant.
    """
    if info.classes is None:
        values = [float(name) if re.fullmatch(r"-?\d+(\.\d+)?", name) else None for name in classes]
        if values != list(range(len(classes))) and any(value is not None for value in values):
            raise DataError(
                f"{info.path}: names no classes, and the network's are {_listed(classes)}: is label 0 the first of "
                "them, or called 0? name them in the root attribute classes"
            )
        return np.arange(len(classes))
    places = {name: number for number, name in enumerate(classes)}
    numbers = np.array([places.get(name, -1) for name in info.classes])
    if (numbers < 0).all():
        theirs = _listed(info.classes)
        raise DataError(f"{info.path}: has the classes {theirs}, but the network knows {_listed(classes)}")
    return numbers


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def rounds(m: int, piece_rows: int, size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield, round by round, the bounds [lo, hi) of each rank's piece of the rows [0, m)."""
    for start in range(0, m, piece_rows * size):
        bounds = [min(start + piece_rows * p, m) for p in range(size + 1)]
        yield list(pairwise(bounds))


def piece_rows(network: Network) -> int:
    """Return how many rows a piece has: what a rank takes at a time, a whole number of blocks."""
    row_bytes = network.dtype.itemsize * max(network.features, network.targets.outputs)
    return EVALUATION_ROWS * max(1, PIECE_BYTES // (EVALUATION_ROWS * row_bytes))


class RowsRead(NamedTuple):
    """Some consecutive rows of a file, checked."""

    X: NDArray[Any]
    """(k, n_0), as in the file."""
    y: NDArray[np.int64]
    """(k,): the network's class numbers, -1 for a class that training never saw; zeros where rows have no labels."""
    w: NDArray[np.float64] | None
    """(k,)."""
    unseen: NDArray[np.int64]
    """Per class of the file: its rows, where training never saw it."""


def finite_rows(reader: Reader, lo: int, hi: int) -> NDArray[Any]:
    """Return the rows [lo, hi) of X, (hi − lo, n_0), as in the file; DataError where a number is not finite."""
    X = reader.X(lo, hi)
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        found = f"row {lo + row}, column {column} is {X[row, column]}: must be a finite number"
        raise reader.refusal(reader.info.x_name, found)
    return X


def read_rows(reader: Reader, lo: int, hi: int, numbers: NDArray[np.int64]) -> RowsRead:
    """Return the rows [lo, hi), their labels mapped by `numbers`. Local. Raises DataError for what cannot be used."""
    structure = reader.info.splits[reader.split]
    X = finite_rows(reader, lo, hi)
    y, unseen = np.zeros(hi - lo, np.int64), np.zeros(len(numbers), np.int64)
    if structure.labelled:
        given = reader.y(lo, hi)
        wrong = np.flatnonzero((given < 0) | (given >= len(numbers)))
        if wrong.size:
            found = f"row {lo + wrong[0]} is {given[wrong[0]]}: must be a class number from 0 to {len(numbers) - 1}"
            raise reader.refusal(reader.info.y_name, found)
        y = numbers[given]
        unseen = np.bincount(given[y < 0], minlength=len(numbers))
    w = reader.w(lo, hi) if structure.weighted else None
    if unseen.any():  # such a row has predictions, and no score
        w = np.ones(hi - lo) if w is None else w
        w[y < 0] = 0
    return RowsRead(X, y, w, unseen)


def _classify_rows(network: Network, reader: Reader, lo: int, hi: int, numbers: NDArray[np.int64]) -> Classified:
    structure = reader.info.splits[reader.split]
    X, y, w, unseen = read_rows(reader, lo, hi, numbers)
    probabilities = np.empty((hi - lo, len(network.classes)), network.dtype)
    losses, output = [], network.architecture.scoring
    with np.errstate(over="ignore", invalid="ignore"):
        for block, group in network.forward(network.source(X, np.maximum(y, 0), w)):
            if structure.labelled:
                losses.append(loss_totals(output, group, network.arithmetic, probabilities[block])[:2])
            else:
                output.values(group, probabilities[block])
    check_answers(reader, lo, probabilities)
    return Classified(np.argmax(probabilities, axis=1), probabilities, losses, y, unseen)


def check_answers(reader: Reader, lo: int, answers: NDArray[Any]) -> None:
    """Raise DataError where the answer to a row from `lo` on, (k, n_L), is no number: its features are too large."""
    if (row := first_not_finite(answers)) is not None:
        words = f"row {lo + row}: the answer is no number: its features are too large"
        raise reader.refusal(reader.info.x_name, words)


def first_not_finite(answers: NDArray[Any]) -> int | None:
    """Return the first row of answers (k, n_L) that has one which is no finite number; None where all are."""
    finite = np.isfinite(answers).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))


def _append(writer: PredictionsWriter, labels: NDArray[np.int64], probabilities: NDArray[Any]) -> None:
    writer.append(labels, probabilities.reshape(len(labels), -1))


def _finish(writer: PredictionsWriter | None) -> None:
    if writer is not None:
        writer.finish()
