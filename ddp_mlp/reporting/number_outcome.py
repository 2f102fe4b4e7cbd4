"""How a run's kept model does on test data whose targets are numbers, or several labels: what pictures are made of.

Invariants:
- figures, and counts of scores, are over all rows of the split, as `predict` tells them;
- points are those of at most POINTS rows, spread evenly over the split, in the targets' own units.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.survey import survey
from ddp_mlp.errors import ProgramError, StorageError
from ddp_mlp.inference.metrics import RANKED_CLASSES, ScoreRanks
from ddp_mlp.inference.network import Network
from ddp_mlp.inference.numbers import NumberScores, columns_of, predict_numbers
from ddp_mlp.nn.targets import Targets
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.reporting.outcome import rows_at_once
from ddp_mlp.reporting.runs import RunLog
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.dataset import DatasetInfo, arranged, inspect
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import NumberRule

POINTS = 5000


class NumberOutcome(NamedTuple):
    """What the kept model says about the test data."""

    targets: Targets
    scores: NumberScores
    true: NDArray[np.float64]
    """(points, n_T); NaN where one was not observed."""
    predicted: NDArray[np.float64]
    """(points, n_L): numbers, of quantiles one per level, or probabilities of labels."""
    ranks: ScoreRanks | None
    """Of labels, over all rows: how many that are so, and how many others, have each score."""
    step: int
    """Of the checkpoint."""
    parameters_sha256: str

    def point(self, target: int) -> NDArray[np.float64]:
        """Return the predictions (points,) of a target; of quantiles those at the level nearest to one half."""
        levels = self.targets.quantiles
        nearest = min(range(len(levels)), key=lambda j: abs(levels[j] - 0.5)) if levels else 0
        values: NDArray[np.float64] = self.predicted[:, target * (len(levels) or 1) + nearest]
        return values


def number_outcome_on_test(run: RunLog, data: Path | None) -> NumberOutcome | str:
    """Return what the run's kept model says about the test data, or why that cannot be known.

    `data` takes the place of the file that the run names.
    """
    try:
        found, config = checkpoints.find(run.folder), run.config
        kept = Network.of(found)
        path, names = data or str(config.get("data")), (str(config.get("x_name")), str(config.get("y_name")))
        tested = config.get("test_data")
        info = inspect(path, *names, True, None, None if data or tested is None else str(tested))
        info = replace(info, numbers=kept.targets.count)
        if "test" not in info.splits:
            return f"{info.path} has no test split"
        rule = NumberRule(missing=bool(config.get("missing_targets")))
        if survey(info, "test", None, SingleProcess(), rule=rule).fingerprint != found.data.get("test"):
            return f"the test split of {info.path} is not what the run has been tested with"
        scores = predict_numbers(kept, info, "test", SingleProcess())
        assert scores is not None, "a split of a run has targets"
        info, _ = arranged(info, kept.feature_names)
        return NumberOutcome(kept.targets, scores, *_points(kept, info), found.step, found.parameters_sha256)
    except StorageError as error:
        return f"{error}; --data says where the data file is now"
    except ProgramError as error:
        return str(error)


def _points(kept: Network, info: DatasetInfo) -> tuple[NDArray[np.float64], NDArray[np.float64], ScoreRanks | None]:
    """Return true and predicted values of some rows, and of labels the counts of all rows' scores."""
    rows, n = info.splits["test"].rows, kept.targets.count
    stride = -(-rows // POINTS)
    order = columns_of(info, "test", kept.targets.names)
    ranked = kept.targets.probabilities and n <= RANKED_CLASSES
    ranks = ScoreRanks(n) if ranked else None
    true, predicted = [], []
    piece = rows_at_once(info)
    with Reader(info, "test") as reader:
        for lo in range(0, rows, piece):
            X, Y = reader.X(lo, min(lo + piece, rows)), reader.y(lo, min(lo + piece, rows))[:, order]
            shown = np.arange(-lo % stride, len(X), stride)
            if ranks is None:
                X, Y, shown = np.ascontiguousarray(X[shown]), Y[shown], np.arange(len(shown))
            A = kept.predictions(X)
            if ranks is not None:
                ranks.add(A, Y == 1, observed=~np.isnan(Y))
            true.append(Y[shown].astype(np.float64))
            predicted.append(A[shown])
    return np.concatenate(true), np.concatenate(predicted), ranks
