"""How well the labels of some rows were met: counts, the confusion matrix, and what follows from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.summing.totals import total

CONFUSION_CLASSES = 1000
"""The most classes for which a confusion matrix is kept."""


class Confusion:
    """Which classes were taken for which, counted in whole numbers: the order of counting does not matter. Local."""

    def __init__(self, n_L: int, most: int = CONFUSION_CLASSES) -> None:
        """Count pairs in a matrix too where there are at most so many classes."""
        self.support = np.zeros(n_L, np.int64)
        """(n_L,): the rows of each class."""
        self.taken = np.zeros(n_L, np.int64)
        """(n_L,): the rows taken for each class."""
        self.right = np.zeros(n_L, np.int64)
        """(n_L,): the rows of each class that were taken for it."""
        self.matrix = np.zeros((n_L, n_L), np.int64) if n_L <= most else None
        """matrix[i, j]: the rows of class i that were taken for j."""

    def add(self, y: NDArray[np.int64], taken: NDArray[np.int64]) -> None:
        """Count rows of the classes y (k,) that were taken for others (k,)."""
        n_L = len(self.support)
        self.support += np.bincount(y, minlength=n_L)
        self.taken += np.bincount(taken, minlength=n_L)
        self.right += np.bincount(y[y == taken], minlength=n_L)
        if self.matrix is not None:
            np.add.at(self.matrix, (y, taken), 1)

    def join(self, other: "Confusion") -> None:
        """Add another's counts."""
        self.support += other.support
        self.taken += other.taken
        self.right += other.right
        if self.matrix is not None and other.matrix is not None:
            self.matrix += other.matrix

    @property
    def accuracy(self) -> float:
        """The share of the rows that were taken for their class; weights do not enter."""
        return int(self.right.sum()) / int(self.support.sum())

    def precision(self) -> list[float | None]:
        """Return, per class, the share of the rows taken for it that are of it; None where there are none."""
        return _shares(self.right, self.taken)

    def recall(self) -> list[float | None]:
        """Return, per class, the share of its rows that were taken for it; None where it has none."""
        return _shares(self.right, self.support)

    def f1(self) -> list[float | None]:
        """Return, per class, the harmonic mean of precision and recall; None where it has no rows on either side."""
        return _shares(2 * self.right, self.support + self.taken)

    def most_frequent(self, count: int) -> list[tuple[int, int, int]]:
        """Return the most frequent mistakes as (class, taken for, rows), most frequent first; needs the matrix."""
        assert self.matrix is not None, "kept by whoever asks for pairs"
        wrong = self.matrix - np.diag(self.right)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [divmod(int(i), len(wrong)) for i in order]
        return [(i, k, int(wrong[i, k])) for i, k in pairs if wrong[i, k]]


def _shares(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]


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
    unseen: dict[str, int] = field(default_factory=dict)
    """The rows of classes that training never saw, by name: they are in no other figure."""


def scores_of(
    confusion: Confusion, losses: Sequence[tuple[float, float]], unseen: dict[str, int] | None = None
) -> Scores:
    """Return the scores of rows from their counts, and the sums of losses and of weights of their blocks."""
    loss_sum = total(loss for loss, _ in losses)
    weight_sum = total(weight for _, weight in losses)
    return Scores(
        rows=int(confusion.support.sum()),
        accuracy=confusion.accuracy,
        log_loss=loss_sum / weight_sum if weight_sum else math.nan,
        precision=confusion.precision(),
        recall=confusion.recall(),
        support=confusion.support.tolist(),
        confusion=None if confusion.matrix is None else confusion.matrix.tolist(),
        unseen=unseen or {},
    )
