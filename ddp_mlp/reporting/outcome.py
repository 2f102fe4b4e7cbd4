"""How a run's kept model does on the test data: which classes it takes for which, and where it is surest and wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp import model
from ddp_mlp.data.survey import survey
from ddp_mlp.errors import ProgramError, StorageError
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.reporting.runs import RunLog
from ddp_mlp.storage import checkpoint as checkpoints
from ddp_mlp.storage.dataset import DatasetInfo, Reader, inspect

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


class Outcome(NamedTuple):
    """What the kept model says about the test data."""

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    """(n_L, n_L): how many rows of each label (first index) were taken for each class (second)."""
    mistakes: list[Mistake]
    """The most confident ones, surest first."""
    step: int
    """Of the checkpoint."""
    parameters_sha256: str

    @property
    def accuracy(self) -> float:
        """The share of rows whose most probable class is their label."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def per_class(self) -> list[tuple[str, int, float, float, float]]:
        """Return (name, rows, precision, recall, F1) of each class; NaN where there is nothing to divide by."""
        hits = np.diag(self.confusion).astype(float)
        rows, taken = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        with np.errstate(invalid="ignore"):
            precision, recall, f1 = hits / taken, hits / rows, 2 * hits / (rows + taken)
        return [
            (name, int(rows[k]), float(precision[k]), float(recall[k]), float(f1[k]))
            for k, name in enumerate(self.classes)
        ]

    def confusions(self, count: int) -> list[tuple[str, str, int]]:
        """Return the most frequent (label, taken for, rows), most frequent first."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [(int(i) // len(wrong), int(i) % len(wrong)) for i in order]
        return [(self.classes[i], self.classes[k], int(wrong[i, k])) for i, k in pairs if wrong[i, k]]


def outcome_on_test(run: RunLog, data: Path | None, mistakes: int) -> Outcome | str:
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
        kept = model.Model(found.parameters, found.classes, found.standardization)
        confusion, wrong = _count(kept, info, mistakes)
        with Reader(info, "test") as reader:
            pictured = [Mistake(*mistake, reader.X(mistake[0], mistake[0] + 1)[0]) for mistake in wrong]
        return Outcome(found.classes, confusion, pictured, found.step, found.parameters_sha256)
    except StorageError as error:
        return f"{error}; --data says where the data file is now"
    except ProgramError as error:
        return str(error)


def _count(
    kept: model.Model, info: DatasetInfo, mistakes: int
) -> tuple[NDArray[np.int64], list[tuple[int, int, int, float]]]:
    n, rows = len(kept.classes), info.splits["test"].rows
    confusion = np.zeros((n, n), np.int64)
    wrong: list[tuple[int, int, int, float]] = []
    # whole blocks, as training evaluates them
    piece = max(1, READ_BYTES // (8 * info.features * EVALUATION_ROWS)) * EVALUATION_ROWS
    with Reader(info, "test") as reader:
        for lo in range(0, rows, piece):
            hi = min(lo + piece, rows)
            probabilities, y = kept.predict_proba(reader.X(lo, hi)), reader.y(lo, hi)
            predicted = np.argmax(probabilities, axis=1)
            np.add.at(confusion, (y, predicted), 1)
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
