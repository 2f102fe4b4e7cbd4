"""Several networks that answer together on numbers, or on several labels: their mean and spread, and how good they are.

As `ensemble` does for classes. The mean counts as the answer of one network would: with the loss that its members were
trained with, and the same figures. How well its spread tells its errors is in a `SpreadCalibration` of numbers, and in
bins of labels' probabilities. Everything is the same for any number of ranks.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.memory import MemorySource
from ddp_mlp.data.targets import standardization_of_targets
from ddp_mlp.inference.apply import check_answers, piece_rows, rounds
from ddp_mlp.inference.ensemble import BINS, QUANTILES, Answer, Calibration, Ensemble, calibration_of
from ddp_mlp.inference.evaluate import EVALUATION_ROWS, blocks
from ddp_mlp.inference.metrics import nearest_to_half
from ddp_mlp.inference.numbers import NumberRows, NumberScores, NumberTally, open_numbers, predict_rows, read_numbers
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.elementary import expm1, log, log1p
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.predictions import PredictionsWriter
from ddp_mlp.summing.totals import total

NORMAL = {0.5: 0.6744897501960817, 0.8: 1.2815515655446004, 0.9: 1.6448536269514722, 0.95: 1.959963984540054}
"""Of a normal distribution, the share that lies within so many standard deviations of its mean."""


@dataclass(frozen=True)
class SpreadCalibration:
    """How well the members' spread tells the error of their mean, of one target (Kuleshov et al., ICML 2018)."""

    spread: float
    """Root mean square of the standard deviation over members; of a spread that tells all, the RMSE."""
    coverage: dict[str, float]
    """The share of rows within the interval that a normal distribution gives each share of `NORMAL`."""
    expected_error: float
    """Mean over the intervals of |share that lies within − share that should|."""


@dataclass(frozen=True)
class EnsembleNumberScores:
    """How well an ensemble and its members met the targets of some rows."""

    together: NumberScores
    members: list[NumberScores]
    """Of each member alone."""
    calibration: dict[str, SpreadCalibration] | Calibration
    """Of numbers, by target; or of labels: confidence is the mean probability, accuracy the share that is so."""


def predict_together(
    ensemble: Ensemble, info: DatasetInfo, split: str, communicator: Communicator, out: Path | None = None
) -> EnsembleNumberScores | None:
    """Write the answers for a split's rows to `out`; return the scores where it has targets. Collective.

    Raises DataError, StorageError or ConfigError on all ranks.
    """
    first, targets = ensemble.networks[0], ensemble.targets
    reader, order, writer = open_numbers(first, info, split, communicator, out, ensemble.dtype, QUANTILES)
    structure, n_L = reader.info.splits[split], targets.outputs
    tally = Tally(ensemble) if structure.labelled else None
    at_once = max(EVALUATION_ROWS, piece_rows(first) // len(ensemble.networks))
    with reader, writer or nullcontext():
        for bounds in rounds(structure.rows, at_once // EVALUATION_ROWS * EVALUATION_ROWS, communicator.size):
            with communicator.in_agreement():
                rows = read_numbers(reader, *bounds[communicator.rank], order, targets.loss)
                each = []
                for number, network in enumerate(ensemble.networks):
                    each.append(predict_rows(network, rows, None if tally is None else tally.members[number]))
                with np.errstate(over="ignore", invalid="ignore"):
                    answer = ensemble.together(np.stack(each))
                check_answers(reader, bounds[communicator.rank][0], answer.mean)
                if tally is not None:
                    tally.add(answer, rows)
            if out is not None:
                sizes = [hi - lo for lo, hi in bounds]
                widths = [n_L, n_L, n_L * len(QUANTILES)]
                parts = zip(answer[:3], widths, strict=True)
                whole = [communicator.Gather(part.reshape(-1), [n * size for size in sizes]) for part, n in parts]
                communicator.on_rank_0(_append, writer, whole, n_L)
        communicator.on_rank_0(lambda: None if writer is None else writer.finish())
    return None if tally is None else tally.scores(structure.rows, communicator)


def _append(writer: PredictionsWriter | None, whole: Sequence[NDArray[Any]], n_L: int) -> None:
    assert writer is not None, "rank 0 has opened it"
    mean, deviation, quantiles = whole
    writer.append(mean.reshape(-1, n_L), deviation.reshape(-1, n_L), quantiles.reshape(-1, n_L, len(QUANTILES)))


class Tally:
    """What is counted and summed over some rows: of each member, of their mean, and of its spread. Local."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble, n_T = ensemble, ensemble.targets.count
        self.members = [NumberTally(network) for network in ensemble.networks]
        self._together = NumberTally(ensemble.networks[0])
        self._within = np.zeros((len(NORMAL) + 1, n_T), np.int64)
        """Rows within each interval, and rows observed."""
        self._squares: list[NDArray[np.float64]] = []
        """Of each block (2, n_T): Σ w deviation², and Σ w, where a target is observed."""
        self._bins = np.zeros((2, BINS), np.int64)
        """Labels in each bin of their probability, and those of them that are so."""
        self._confidence: list[NDArray[np.float64]] = []
        """Of each block (BINS,): Σ probability."""

    def add(self, answer: Answer, rows: NumberRows) -> None:
        """Take rows (k), and what is said of them together."""
        first, targets = self._ensemble.networks[0], self._ensemble.targets
        maps = first.standardization, standardization_of_targets(targets)
        source = MemorySource(*rows, np.dtype(np.float64), *maps)
        for block in blocks(len(rows.X)):
            numbers, part = np.arange(block.start, block.stop), slice(block.start, block.stop)
            group = Group(
                (first.features, targets.outputs), (len(block),), np.dtype(np.float64), (), targets.count, False
            )
            source.gather(numbers, group)
            group.A[1].whole.T[...] = self._z(answer.mean[part].astype(np.float64))
            values = np.empty((len(block), targets.outputs))
            first.architecture.scoring.values(group, values)
            self._together.add(values, group)
            w = np.ones(len(block)) if rows.w is None else rows.w[part]
            if targets.probabilities:
                self._add_labels(answer.mean[part].astype(np.float64), rows.y[part])
            else:
                self._add_numbers(answer, rows.y[part], w, part)

    def _z(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the z (k, n_L) of which the output layer makes this mean: so it has a loss, as a network has."""
        network, least = self._ensemble.networks[0], np.finfo(np.float64).tiny
        targets, repeat = network.targets, len(network.targets.quantiles) or 1
        shift, scale = (np.repeat(np.array(each), repeat) for each in (targets.mean, targets.scale))
        A: NDArray[np.float64] = (mean - shift) / scale
        for name in set(network.output_functions):
            which = [function == name for function in network.output_functions]
            a = A[:, which]
            if name == "exp":
                A[:, which] = log(np.maximum(a, least))
            elif name == "sigmoid":
                A[:, which] = log(np.maximum(a, least)) - log1p(-np.minimum(a, 1 - 2.0**-53))
            elif name == "softplus":
                A[:, which] = a + log(-expm1(-np.maximum(a, least)))
        return A  # identity, and ReLU of what is not negative, are their own inverses

    def _add_numbers(self, answer: Answer, y: NDArray[np.float64], w: NDArray[np.float64], part: slice) -> None:
        """Count the rows of a block that lie within each interval about the mean."""
        targets = self._ensemble.targets
        shape, point = (len(y), targets.count, -1), nearest_to_half(targets.quantiles)
        mean, deviation = (each[part].reshape(shape)[:, :, point] for each in answer[:2])
        observed = ~np.isnan(y)
        off = np.where(observed, np.abs(y - mean), np.inf)
        for i, width in enumerate(NORMAL.values()):
            self._within[i] += np.count_nonzero(off <= width * deviation, axis=0)
        self._within[-1] += np.count_nonzero(observed, axis=0)
        weights = np.where(observed, w[:, None], 0.0)
        terms = [weights * deviation * deviation, weights]
        self._squares.append(np.array([[total(column) for column in term.T.tolist()] for term in terms]))

    def _add_labels(self, p: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """Count the labels of a block in bins of their probability."""
        observed = ~np.isnan(y)
        p, so = p[observed], y[observed] == 1
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        self._bins[0] += np.bincount(bins, minlength=BINS)
        self._bins[1] += np.bincount(bins[so], minlength=BINS)
        self._confidence.append(np.array([total(p[bins == i].tolist()) for i in range(BINS)]))

    def scores(self, rows: int, communicator: Communicator) -> EnsembleNumberScores:
        """Return the scores of so many rows, those of all ranks. Collective."""
        members = [tally.scores(rows, communicator) for tally in self.members]
        together = self._together.scores(rows, communicator)
        everyone = communicator.allgather((self._within, self._squares, self._bins, self._confidence))
        if self._ensemble.targets.probabilities:
            counted = np.sum([bins for _, _, bins, _ in everyone], axis=0)
            sums = [block for *_, blocks in everyone for block in blocks]
            confidence = [total(float(block[i]) for block in sums) for i in range(BINS)]
            return EnsembleNumberScores(together, members, calibration_of(counted[0], counted[1], confidence))
        within = np.sum([part for part, *_ in everyone], axis=0)
        squares = [block for _, blocks, _, _ in everyone for block in blocks]
        names = self._ensemble.targets.names
        intervals = {name: _interval(within[:, k], [block[:, k] for block in squares]) for k, name in enumerate(names)}
        return EnsembleNumberScores(together, members, intervals)


def _interval(within: NDArray[np.int64], squares: Sequence[NDArray[np.float64]]) -> SpreadCalibration:
    """Return the calibration of one target, from rows within (len(NORMAL) + 1,), and sums (2,) of blocks."""
    rows = int(within[-1])
    square, weight = (total(float(block[i]) for block in squares) for i in (0, 1))
    coverage = {f"{share:g}": int(count) / rows for share, count in zip(NORMAL, within, strict=False)} if rows else {}
    gaps = [abs(coverage[f"{share:g}"] - share) for share in NORMAL] if rows else []
    return SpreadCalibration(
        spread=float(np.sqrt(square / weight)) if weight else float("nan"),
        coverage=coverage,
        expected_error=total(gaps) / len(gaps) if gaps else float("nan"),
    )
