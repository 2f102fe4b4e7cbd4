"""How a run's kept model does on the test data: which classes it takes for which, and where it is surest and wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.survey import survey
from ddp_mlp.errors import ProgramError, StorageError
from ddp_mlp.inference.apply import class_numbers
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.inference.metrics import RANKED_CLASSES, ScoreRanks
from ddp_mlp.inference.network import Network
from ddp_mlp.inference.scores import Confusion
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.reporting.runs import RunLog
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.dataset import DatasetInfo, arranged, inspect
from ddp_mlp.storage.reader import Reader

READ_BYTES = 64 << 20
SMALLEST_IMAGE = 64
"""Features: a smaller square, such as 4 × 4, is more likely to be 16 measurements."""


class Mistake(NamedTuple):
    """A row of the test data that the model takes for another class."""

    row: int
    label: int
    predicted: int
    probability: float
    """That the model gives to `predicted`."""
    features: NDArray[Any]
    """(n_0,), as they are in the file."""


class ClassOutcome(NamedTuple):
    """What the kept model says about the test data."""

    classes: tuple[str, ...]
    counted: Confusion
    mistakes: list[Mistake]
    """The most confident ones, surest first."""
    step: int
    """Of the checkpoint."""
    parameters_sha256: str
    ranks: ScoreRanks | None = None
    """How many rows of each class, and how many others, have each probability of it."""

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(n_L, n_L): how many rows of each label (first index) were taken for each class (second)."""
        assert self.counted.matrix is not None, "kept for any number of classes"
        return self.counted.matrix

    @property
    def accuracy(self) -> float:
        """The share of rows whose most probable class is their label."""
        return self.counted.accuracy

    def per_class(self) -> list[tuple[str, int, float | None, float | None, float | None]]:
        """Return (name, rows, precision, recall, F1) of each class; None where there is nothing to divide by."""
        counted = self.counted
        scores = (counted.support.tolist(), counted.precision(), counted.recall(), counted.f1())
        return list(zip(self.classes, *scores, strict=True))

    def matrix_in_words(self, name: str) -> str:
        """Return what the confusion matrix of the run called `name` shows, for those who cannot see it."""
        worst = ", ".join(f"{label} as {taken} {count}" for label, taken, count in self.confusions(5))
        return (
            f"Confusion matrix of {name} on {self.confusion.sum():,} test rows and {len(self.classes)} classes; "
            f"{self.accuracy:.2%} lie on the diagonal. "
            + (f"Most often predicted: {worst}." if worst else "No mistakes.")
        )

    def confusions(self, count: int) -> list[tuple[str, str, int]]:
        """Return the most frequent (label, taken for, rows), most frequent first."""
        return [(self.classes[i], self.classes[k], rows) for i, k, rows in self.counted.most_frequent(count)]


def outcome_on_test(run: RunLog, data: Path | None, mistakes: int) -> ClassOutcome | str:
    """Return what the run's kept model says about the test data, or why that cannot be known.

    `data` takes the place of the file that the run names. `mistakes` is how many are kept.
    """
    try:
        found = checkpoints.find(run.folder)
        config = run.config
        info = inspect(data or str(config.get("data")), str(config.get("x_name")), str(config.get("y_name")))
        if "test" not in info.splits:
            return f"{info.path} has no test split"
        if survey(info, "test", len(found.classes), SingleProcess()).fingerprint != found.data.get("test"):
            return f"the test split of {info.path} is not what the run has been tested with"
        kept = Network.of(found)
        info, _ = arranged(info, kept.feature_names)
        numbers = class_numbers(info, kept.classes)
        ranks = ScoreRanks(len(kept.classes)) if len(kept.classes) <= RANKED_CLASSES else None
        confusion, wrong = _count(kept, info, numbers, mistakes, ranks)
        with Reader(info, "test") as reader:
            pictured = [Mistake(*mistake, reader.X(mistake[0], mistake[0] + 1)[0]) for mistake in wrong]
        return ClassOutcome(found.classes, confusion, pictured, found.step, found.parameters_sha256, ranks)
    except StorageError as error:
        return f"{error}; --data says where the data file is now"
    except ProgramError as error:
        return str(error)


def rows_at_once(info: DatasetInfo) -> int:
    """Return how many rows are read at a time: whole blocks, as training evaluates them."""
    return max(1, READ_BYTES // (8 * info.features * EVALUATION_ROWS)) * EVALUATION_ROWS


def _count(
    kept: Network, info: DatasetInfo, numbers: NDArray[np.int64], mistakes: int, ranks: ScoreRanks | None
) -> tuple[Confusion, list[tuple[int, int, int, float]]]:
    n, rows = len(kept.classes), info.splits["test"].rows
    confusion = Confusion(n, most=n)
    wrong: list[tuple[int, int, int, float]] = []
    piece = rows_at_once(info)
    with Reader(info, "test") as reader:
        for lo in range(0, rows, piece):
            hi = min(lo + piece, rows)
            probabilities, y = kept.outputs(reader.X(lo, hi)), numbers[reader.y(lo, hi)]
            predicted = np.argmax(probabilities, axis=1)
            confusion.add(y, predicted)
            if ranks is not None:
                ranks.add(probabilities, y[:, None] == np.arange(n))
            for i in np.flatnonzero(predicted != y):
                wrong.append((lo + int(i), int(y[i]), int(predicted[i]), float(probabilities[i, predicted[i]])))
            wrong = sorted(wrong, key=lambda mistake: (-mistake[3], mistake[0]))[:mistakes]
    return confusion, wrong


def image_shape(features: int, asked: str) -> tuple[int, ...] | None:
    """Return the shape in which features are an image, or None where they are not.

    `asked` is "auto" (a square, or a square of three colours, of at least SMALLEST_IMAGE features a colour), "none", or
    such as 28x28, 32x32x3 or 3x32x32. Raises ValueError where the features do not fit.
    """
    if asked == "none":
        return None
    if asked != "auto":
        shape = tuple(int(extent) for extent in asked.split("x"))
        drawable = min(shape) > 0 and (len(shape) == 2 or (len(shape) == 3 and 3 in (shape[0], shape[2])))
        if not drawable or int(np.prod(shape)) != features:
            raise ValueError(f"image = {asked}: must be height x width (x 3) of {features} features")
        return shape
    for colours in (1, 3):
        side = round((features / colours) ** 0.5)
        if side * side * colours == features and side * side >= SMALLEST_IMAGE:
            return (side, side) if colours == 1 else (side, side, 3)
    return None


def picture(features: NDArray[Any], shape: Sequence[int]) -> NDArray[np.float64]:
    """Return features (n_0,) as (height, width) or (height, width, 3), from 0 for the least to 1 for the largest."""
    values: NDArray[np.float64] = features.astype(np.float64)
    low, high = values.min(), values.max()
    values -= low
    values /= high - low if high > low else 1
    if len(shape) == 3 and shape[2] != 3:  # colour by colour
        return np.moveaxis(values.reshape(shape), 0, 2)
    return values.reshape(shape)
