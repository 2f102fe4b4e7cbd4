"""Several networks that answer together: the mean of what they say, how far they disagree, how well calibrated it is.

A mean of probabilities over networks trained from different seeds is nearer to the truth than one network's, and its
spread tells where they do not know (Lakshminarayanan, Pritzel, Blundell, "Simple and scalable predictive uncertainty
estimation using deep ensembles", NeurIPS 2017). Members are added in their order, in float64, and sums over rows are
those of fixed blocks: so everything is the same for any number of ranks.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.inference.apply import check_answers, check_features, class_numbers, piece_rows, read_rows, rounds
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.inference.network import Network
from ddp_mlp.inference.scores import Confusion, Scores, scores_of
from ddp_mlp.nn.elementary import log
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, arranged
from ddp_mlp.storage.predictions import PredictionsWriter
from ddp_mlp.storage.reader import Reader
from ddp_mlp.summing.totals import total

QUANTILES = (0.05, 0.5, 0.95)
"""Of the members' probabilities, linearly between them (Hyndman and Fan's type 7)."""
BINS = 10
"""Of confidence, equally wide."""


class Answer(NamedTuple):
    """What an ensemble says of some rows."""

    mean: NDArray[Any]
    """(k, n_L): mean probabilities, in the members' dtype; mean values in their own units, float64."""
    deviation: NDArray[Any]
    """(k, n_L): standard deviation over the members, with 1/N."""
    quantiles: NDArray[Any]
    """(k, n_L, len(QUANTILES))."""
    members: NDArray[Any]
    """(N, k, n_L): what each of them says."""


class Ensemble:
    """Networks with the same features and targets. Local, picklable, never changed."""

    def __init__(self, networks: Sequence[Network]) -> None:
        """Take at least one. Raises ValueError where they do not answer the same question."""
        self.networks = tuple(networks)
        first = self.networks[0]
        for number, network in enumerate(self.networks):
            theirs, ours = ((one.features, one.targets, one.dtype) for one in (network, first))
            if theirs != ours:
                raise ValueError(f"member {number} has other features, targets or another dtype than member 0")
            known = {network.feature_names, first.feature_names} - {None}
            if len(known) > 1:
                raise ValueError(f"member {number} has its features in another order, or others, than member 0")
        self.features, self.targets, self.classes = first.features, first.targets, first.classes
        self.dtype = first.dtype if self.targets.probabilities else np.dtype(np.float64)

    def answer(self, X: NDArray[Any]) -> Answer:
        """Return what the members say of the rows X (m, n_0), together and each."""
        return self.together(np.stack([self._of_one(network, X) for network in self.networks]))

    def together(self, members: NDArray[Any]) -> Answer:
        """Return what the members say together, of what each of them says (N, k, n_L)."""
        count = len(members)
        mean = np.zeros(members.shape[1:])
        for each in members:
            mean += each
        mean /= count
        squares = np.zeros(members.shape[1:])
        for each in members:
            squares += (each - mean) ** 2
        quantiles = np.moveaxis(np.quantile(members, QUANTILES, axis=0), 0, -1)
        deviation = np.sqrt(squares / count)
        return Answer(mean.astype(self.dtype), deviation.astype(self.dtype), quantiles.astype(self.dtype), members)

    def _of_one(self, network: Network, X: NDArray[Any]) -> NDArray[Any]:
        return network.outputs(X) if self.targets.probabilities else network.predictions(X)


@dataclass(frozen=True)
class Calibration:
    """How far the confidence of an answer is from how often it is right (Guo et al., ICML 2017)."""

    expected_error: float
    """Mean over the rows of |confidence − accuracy| of their bin."""
    rows: list[int]
    """Of each bin [i / BINS, (i + 1) / BINS) of confidence, the probability of the class that is named."""
    confidence: list[float | None]
    """Mean of each bin; None where it has no rows."""
    accuracy: list[float | None]
    """Of each bin."""


@dataclass(frozen=True)
class EnsembleScores:
    """How well an ensemble and its members met the labels of some rows."""

    together: Scores
    calibration: Calibration
    deviation: float
    """Mean over the rows of the standard deviation of the named class's probability."""
    accuracies: list[float]
    """Of each member alone."""
    log_losses: list[float]
    """Of each member alone."""


class _Sums(NamedTuple):
    """Of one block of rows."""

    losses: NDArray[np.float64]
    """(1 + N,): of the ensemble and of each member, Σ w_i loss_i."""
    weight: float
    right: NDArray[np.int64]
    """(N,): rows that each member names rightly."""
    bin_rows: NDArray[np.int64]
    """(BINS,)."""
    bin_right: NDArray[np.int64]
    """(BINS,)."""
    bin_confidence: NDArray[np.float64]
    """(BINS,): sums."""
    deviation: float
    """Sum over the rows."""


def classify_together(
    ensemble: Ensemble, info: DatasetInfo, split: str, communicator: Communicator, out: Path | None = None
) -> EnsembleScores | None:
    """Write the answers for a split's rows to `out`; return the scores where it has labels. Collective.

    Raises DataError, StorageError or ConfigError on all ranks.
    """
    info, _ = communicator.on_rank_0(arranged, info, ensemble.networks[0].feature_names)
    structure, n_L = info.splits[split], len(ensemble.classes)
    writer = None
    with communicator.in_agreement():
        check_features(ensemble.networks[0], info)
        numbers = class_numbers(info, ensemble.classes) if structure.labelled else np.arange(n_L)
        if (numbers < 0).any():
            raise DataError(f"{info.path}: has classes that training never saw: take their rows out")
        reader = Reader(info, split)
        if out is not None and communicator.rank == 0:
            writer = PredictionsWriter(out, structure.rows, ensemble.classes, ensemble.dtype, QUANTILES)
    confusion = Confusion(n_L)
    sums: list[_Sums] = []
    at_once = max(EVALUATION_ROWS, piece_rows(ensemble.networks[0]) // len(ensemble.networks))
    with reader, writer or nullcontext():
        for bounds in rounds(structure.rows, at_once // EVALUATION_ROWS * EVALUATION_ROWS, communicator.size):
            lo, hi = bounds[communicator.rank]
            with communicator.in_agreement():
                rows = read_rows(reader, lo, hi, numbers)
                with np.errstate(over="ignore", invalid="ignore"):
                    answer = ensemble.answer(rows.X)
                check_answers(reader, lo, answer.mean)
            labels: NDArray[np.int64] = np.argmax(answer.mean, axis=1)
            if structure.labelled:
                confusion.add(rows.y, labels)
                sums += _sums_of(answer, labels, rows.y, rows.w)
            if out is not None:
                sizes = [hi - lo for lo, hi in bounds]
                parts = [labels, *(part.reshape(-1) for part in answer[:3])]
                widths = [1, n_L, n_L, n_L * len(QUANTILES)]
                whole = [
                    communicator.Gather(part, [width * size for size in sizes])
                    for part, width in zip(parts, widths, strict=True)
                ]
                communicator.on_rank_0(_append, writer, whole)
        communicator.on_rank_0(lambda: None if writer is None else writer.finish())
    if not structure.labelled:
        return None
    everyone = communicator.allgather((confusion, sums))
    together = Confusion(n_L)
    for counted, _ in everyone:
        together.join(counted)
    return _scores(together, [found for _, part in everyone for found in part])


def _append(writer: PredictionsWriter, whole: Sequence[NDArray[Any]]) -> None:
    labels, mean, deviation, quantiles = whole
    n_L = len(mean) // max(1, len(labels))
    shape = (len(labels), n_L)
    writer.append(labels, mean.reshape(shape), deviation.reshape(shape), quantiles.reshape(*shape, len(QUANTILES)))


def _sums_of(
    answer: Answer, labels: NDArray[np.int64], y: NDArray[np.int64], w: NDArray[np.float64] | None
) -> list[_Sums]:
    """Return the sums of each block of EVALUATION_ROWS rows; a probability of 0 counts as the least above it."""
    rows = np.arange(len(y))
    least = np.finfo(answer.mean.dtype).tiny
    given = np.concatenate([answer.mean[None], answer.members])[:, rows, y]  # (1 + N, k)
    losses = -log(np.maximum(given, least).astype(np.float64))
    right = np.argmax(answer.members, axis=2) == y  # (N, k)
    confidence = answer.mean[rows, labels].astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    deviation = answer.deviation[rows, labels].astype(np.float64)
    weights = np.ones(len(y)) if w is None else w
    found = []
    for lo in range(0, len(y), EVALUATION_ROWS):
        part = slice(lo, lo + EVALUATION_ROWS)
        counts = np.bincount(bins[part], minlength=BINS)
        found.append(
            _Sums(
                np.array([total((weights[part] * row).tolist()) for row in losses[:, part]]),
                total(weights[part].tolist()),
                right[:, part].sum(axis=1),
                counts,
                np.bincount(bins[part][labels[part] == y[part]], minlength=BINS),
                np.array([total(confidence[part][bins[part] == i].tolist()) for i in range(BINS)]),
                total(deviation[part].tolist()),
            )
        )
    return found


def _scores(confusion: Confusion, sums: Sequence[_Sums]) -> EnsembleScores:
    m = int(confusion.support.sum())
    weight = total(block.weight for block in sums)
    rows = np.sum([block.bin_rows for block in sums], axis=0)
    right = np.sum([block.bin_right for block in sums], axis=0)
    confidence = [total(float(block.bin_confidence[i]) for block in sums) for i in range(BINS)]
    members = range(1, len(sums[0].losses))
    return EnsembleScores(
        together=scores_of(confusion, [(float(block.losses[0]), block.weight) for block in sums]),
        calibration=calibration_of(rows, right, confidence),
        deviation=total(block.deviation for block in sums) / m,
        accuracies=[sum(int(block.right[i - 1]) for block in sums) / m for i in members],
        log_losses=[total(float(block.losses[i]) for block in sums) / weight for i in members],
    )


def calibration_of(rows: NDArray[np.int64], right: NDArray[np.int64], confidence: Sequence[float]) -> Calibration:
    """Return the calibration of answers in bins: how many there are, how many are right, the sums of confidence."""
    gaps = [abs(confidence[i] - int(right[i])) for i in range(BINS)]
    count = int(rows.sum())
    return Calibration(
        expected_error=total(gaps) / count if count else math.nan,
        rows=rows.tolist(),
        confidence=[confidence[i] / int(rows[i]) if rows[i] else None for i in range(BINS)],
        accuracy=[int(right[i]) / int(rows[i]) if rows[i] else None for i in range(BINS)],
    )
