"""Figures of how well targets are met, besides the loss: of classes, of several labels, of numbers in their own units.

Invariants:
- counts are whole numbers, and what is not is summed block by block and joined by `totals.total`: the same for every P;
- sums over a block's rows, and logarithms, are the arithmetic's: in portable, the same bits everywhere;
- a figure that is not defined, such as the recall of a class without rows, is NaN: it is no improvement of anything;
- where there are several classes, labels or targets, a figure of all is the mean of theirs, those undefined left out.

Ranks of scores (ROC AUC, average precision) come from histograms over a probability's bits: p and p′ fall together if
their odds differ by less than 1 in 128, and below 2⁻⁶⁴ from 0 or 1. Fawcett, "An introduction to ROC analysis", Pattern
Recognition Letters 27 (2006), where scores that fall together count half.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError
from ddp_mlp.inference.scores import Confusion
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.targets import Targets
from ddp_mlp.summing.totals import total

DIRECTIONS: dict[str, Literal["min", "max"]] = {
    "loss": "min",
    "accuracy": "max",
    "balanced_accuracy": "max",
    "macro_f1": "max",
    "roc_auc": "max",
    "average_precision": "max",
    "rmse": "min",
    "mae": "min",
    "r2": "max",
    "deviance": "min",
    "coverage_error": "min",
}
"""Which way is better."""
RANKED_CLASSES = 100
"""The most classes or labels whose scores are ranked."""
_LOWEST, _HALF = (int(np.float32(p).view(np.int32)) >> 16 for p in (2.0**-64, 0.5))
BINS = 2 * (_HALF - _LOWEST) + 1

Figures = dict[str, float]


class Metrics(Protocol):
    """What is counted and summed over some blocks of rows, on one rank."""

    def add(self, values: NDArray[Any], group: Group) -> None:
        """Take a block: the outputs A (m, n_L), and the group that has its targets, weights and losses. Local."""

    def parts(self) -> Any:
        """Return what was counted and summed, to be sent to other ranks."""

    def figures(self, parts: Sequence[Any]) -> tuple[Figures, dict[str, Figures]]:
        """Return the figures of all, and those of each class, label or target, from all ranks' parts in their order."""


def metrics_of(targets: Targets, ranked: bool, arithmetic: Arithmetic = NATIVE) -> Metrics:
    """Return empty counts for a network with these targets; `ranked`: scores are ranked too."""
    ranked = ranked and targets.outputs <= RANKED_CLASSES
    if targets.classes:
        return ClassMetrics(targets.classes, ranked)
    if targets.loss == "binary_cross_entropy":
        return LabelMetrics(targets.names, ranked, arithmetic)
    return NumberMetrics(targets, arithmetic)


def figures_known(targets: Targets) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what `monitor` may watch: the figures of all, and those of one class, label or target."""
    ranks = ("roc_auc", "average_precision") if targets.outputs <= RANKED_CLASSES else ()
    if targets.classes:
        return ("loss", "accuracy", "balanced_accuracy", "macro_f1", *ranks), ranks
    if targets.loss == "binary_cross_entropy":
        return ("loss", "accuracy", "macro_f1", *ranks), ("accuracy", *ranks)
    more = {"poisson": ("deviance",), "quantile": ("coverage_error",)}.get(targets.loss, ())
    return ("loss", "rmse", "mae", "r2", *more), ("rmse", "mae", "r2", *more)


def check_monitor(monitor: str, targets: Targets) -> None:
    """Raise ConfigError where there is no such figure of these targets: it would never improve."""
    name, _, one = monitor.partition(":")
    if not name.startswith("valid_"):
        return
    names = targets.classes or targets.names
    if one and one not in names:
        known = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise ConfigError(f"monitor = {monitor}: {one!r} is none of {known}")
    known_ones = figures_known(targets)[bool(one)]
    if name.removeprefix("valid_") not in known_ones:
        choice = ", ".join(f"valid_{figure}{':' + one if one else ''}" for figure in known_ones) or "a figure of all"
        raise ConfigError(f"monitor = {monitor}: there is none for loss = {targets.loss}; choose {choice}")


class ClassMetrics:
    """One class of several."""

    def __init__(self, names: Sequence[str], ranked: bool) -> None:
        self._names = names
        self._counts = Confusion(len(names), most=0)
        self._ranks = ScoreRanks(len(names)) if ranked else None

    def add(self, values: NDArray[Any], group: Group) -> None:
        """Take a block: probabilities (m, n_L)."""
        self._counts.add(group.y, values.argmax(axis=1))
        if self._ranks is not None:
            self._ranks.add(values, group.y[:, None] == np.arange(len(self._names)))

    def parts(self) -> Any:
        """Return the counts."""
        return self._counts, self._ranks and self._ranks.counts

    def figures(self, parts: Sequence[Any]) -> tuple[Figures, dict[str, Figures]]:
        """Return accuracy, balanced accuracy, macro F1, and ROC AUC and average precision of one class against all."""
        counts = Confusion(len(self._names), most=0)
        for counted, _ in parts:
            counts.join(counted)
        recall, f1 = (_with_nan(found) for found in (counts.recall(), counts.f1()))
        found = {
            "accuracy": counts.accuracy,
            "balanced_accuracy": mean_of_defined(recall),
            "macro_f1": mean_of_defined(f1),
        }
        each = {name: {"recall": r, "f1": f} for name, r, f in zip(self._names, recall, f1, strict=True)}
        if self._ranks is not None:
            ranks = ScoreRanks.joined([counted for _, counted in parts])
            found |= _ranked(ranks, each, self._names, binary=len(self._names) == 2)
        return found, each


class LabelMetrics:
    """Several labels, each yes or no; predicted where its probability is above ½."""

    def __init__(self, names: Sequence[str], ranked: bool, arithmetic: Arithmetic) -> None:
        self._names, self._arithmetic = names, arithmetic
        self._counts = np.zeros((len(names), 2, 2), np.int64)
        """[label, is it so, is it said]: rows."""
        self._ranks = ScoreRanks(len(names)) if ranked else None
        self._losses: list[NDArray[np.float64]] = []

    def add(self, values: NDArray[Any], group: Group) -> None:
        """Take a block: probabilities (m, n_T)."""
        self._losses.append(losses_of(group, self._arithmetic))
        Y = group.Y.whole.T
        said = values > 0.5
        for so in (0, 1):
            for as_said in (0, 1):
                self._counts[:, so, as_said] += np.count_nonzero((so == Y) & (said == as_said), axis=0)
        if self._ranks is not None:
            self._ranks.add(values, Y == 1, observed=~np.isnan(Y))

    def parts(self) -> Any:
        """Return the counts, and the losses of all blocks."""
        return self._counts, self._ranks and self._ranks.counts, self._losses

    def figures(self, parts: Sequence[Any]) -> tuple[Figures, dict[str, Figures]]:
        """Return accuracy (the share of labels that are right), macro F1, ROC AUC and average precision."""
        counts = sum(counted for counted, _, _ in parts)
        each = {}
        for name, ((no, false_yes), (false_no, yes)) in zip(self._names, counts.tolist(), strict=True):
            rows = no + false_yes + false_no + yes
            each[name] = {
                "accuracy": _share(no + yes, rows),
                "f1": _share(2 * yes, 2 * yes + false_yes + false_no),
            }
        found = loss_where_missing([losses for _, _, losses in parts])
        found["accuracy"] = mean_of_defined(of["accuracy"] for of in each.values())
        found["macro_f1"] = mean_of_defined(of["f1"] for of in each.values())
        if self._ranks is not None:
            found |= _ranked(ScoreRanks.joined([counted for _, counted, _ in parts]), each, self._names, binary=False)
        return found, each


class NumberMetrics:
    """Numbers, in the targets' own units; weights enter, missing targets do not."""

    def __init__(self, targets: Targets, arithmetic: Arithmetic) -> None:
        self._targets, self._arithmetic = targets, arithmetic
        self._losses: list[NDArray[np.float64]] = []
        self._sums: list[NDArray[np.float64]] = []
        """Of each block (6, n_T): Σ of w, w |e|, w e², w (y − c), w (y − c)², and of half the deviance; c is the mean
        of train."""
        self._covered = np.zeros((2, targets.outputs), np.int64)
        """Rows at or below each quantile, and rows observed."""

    def add(self, values: NDArray[Any], group: Group) -> None:
        """Take a block: outputs (m, n_L) in the network's units."""
        self._losses.append(losses_of(group, self._arithmetic))
        targets, arithmetic, levels = self._targets, self._arithmetic, len(self._targets.quantiles) or 1
        y = np.array(targets.mean) + np.array(targets.scale) * group.Y.whole.T.astype(np.float64)
        A = targets.in_units(values).reshape(len(y), targets.count, levels)
        observed = ~np.isnan(y)
        w = np.where(observed, 1.0 if group.w is None else group.w[:, None].astype(np.float64), 0.0)
        y = np.where(observed, y, 0.0)
        point = A[:, :, nearest_to_half(targets.quantiles)]
        e, spread = point - y, y - np.array(targets.mean)
        terms = [w, w * np.abs(e), w * e * e, w * spread, w * spread * spread]
        terms.append(w * _half_deviance(targets, point, y, arithmetic))
        self._sums.append(np.array([arithmetic.sum_rows(term) for term in terms]))
        self._covered[0] += np.count_nonzero((y[:, :, None] <= A) & observed[:, :, None], axis=0).reshape(-1)
        self._covered[1] += np.repeat(np.count_nonzero(observed, axis=0), levels)

    def parts(self) -> Any:
        """Return the sums of all blocks, and the counts."""
        return self._sums, self._covered, self._losses

    def figures(self, parts: Sequence[Any]) -> tuple[Figures, dict[str, Figures]]:
        """Return RMSE, MAE, R²; for poisson the mean deviance, for quantiles how far their coverage is off."""
        targets, levels = self._targets, len(self._targets.quantiles) or 1
        blocks = np.array([block for sums, _, _ in parts for block in sums]).reshape(-1, 6, targets.count)
        covered = sum(counted for _, counted, _ in parts)
        each: dict[str, Figures] = {}
        for k, name in enumerate(targets.names):
            W, absolute, squares, first, second, deviance = (total(column) for column in blocks[:, :, k].T.tolist())
            around = second - first * first / W if W else math.nan
            each[name] = {
                "rmse": math.sqrt(squares / W) if W else math.nan,
                "mae": absolute / W if W else math.nan,
                "r2": 1 - squares / around if W and around > 0 else math.nan,
            }
            if targets.loss == "poisson":
                each[name]["deviance"] = 2 * deviance / W if W else math.nan
            for j, q in enumerate(targets.quantiles):
                below, rows = covered[:, k * levels + j].tolist()
                each[name][f"coverage at {q:g}"] = _share(below, rows)
            if targets.quantiles:
                off = [abs(each[name][f"coverage at {q:g}"] - q) for q in targets.quantiles]
                each[name]["coverage_error"] = mean_of_defined(off)
        names = [name for name in next(iter(each.values())) if name in DIRECTIONS]
        found = {name: mean_of_defined(of[name] for of in each.values()) for name in names}
        return loss_where_missing([losses for _, _, losses in parts]) | found, each


def losses_of(group: Group, arithmetic: Arithmetic) -> NDArray[np.float64]:
    """Return, of each number of a group whose losses are formed, Σ w loss and Σ w where it is observed: (3, n_T).

    The last row is Σ w of all examples.
    """
    w = np.ones(group.m) if group.w is None else group.w.astype(np.float64)
    observed = ~np.isnan(group.Y.whole)
    [numbers] = group.numbers  # a block is one shard
    losses = numbers.loss[0].astype(np.float64)
    of_each = arithmetic.sum_rows((losses * w).reshape(len(observed), -1).T)
    of_all = arithmetic.sum_rows(w[:, None])
    return np.array([of_each, arithmetic.sum_rows((observed * w).T), of_all.repeat(len(observed))])


def loss_where_missing(parts: Sequence[Sequence[NDArray[np.float64]]]) -> Figures:
    """Return the loss as the sum of every number's mean where it is observed; nothing where none is missing.

    Where none is observed, it is not defined.
    """
    columns = np.array([block for blocks in parts for block in blocks])
    sums = [[total(column) for column in row.T.tolist()] for row in columns.swapaxes(0, 1)]
    if sums[1] == sums[2]:
        return {}
    means = [loss / w for loss, w in zip(sums[0], sums[1], strict=True) if w]
    return {"loss": total(means) if means else math.nan}


class ScoreRanks:
    """How many rows of a label, and how many others, have a score in each bin. Local."""

    def __init__(self, labels: int) -> None:
        self.counts = np.zeros((labels, 2, BINS), np.int64)
        """[label, is it so, bin]: rows."""

    @classmethod
    def joined(cls, counts: Sequence[NDArray[np.int64]]) -> "ScoreRanks":
        """Return the counts of all ranks together."""
        found = cls(len(counts[0]))
        for counted in counts:
            found.counts += counted
        return found

    def add(self, scores: NDArray[Any], so: NDArray[np.bool_], observed: NDArray[np.bool_] | None = None) -> None:
        """Count scores (m, labels) of rows that are so (m, labels), or are not."""
        bins = bins_of(scores)
        for label in range(len(self.counts)):
            seen = slice(None) if observed is None else observed[:, label]
            for which in (0, 1):
                among = bins[seen, label][so[seen, label] == which]
                self.counts[label, which] += np.bincount(among, minlength=BINS)

    def roc_auc(self, label: int) -> float:
        """Return the share of pairs, one so and one not, whose scores are in that order; NaN where there are none."""
        others, so = self.counts[label]
        below = np.cumsum(others) - others
        return _share(int(np.sum(so * (2 * below + others))), 2 * int(so.sum()) * int(others.sum()))

    def average_precision(self, label: int) -> float:
        """Return Σ (recall gained) · precision over all thresholds, from the highest; NaN where no row is so."""
        others, so = self.counts[label, :, ::-1]
        found, taken = np.cumsum(so), np.cumsum(so + others)
        gained = so > 0
        if not gained.any():
            return math.nan
        return math.fsum((so[gained] * (found[gained] / taken[gained])).tolist()) / int(so.sum())


def bins_of(p: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bin of each probability, in their shape: by the bits of p below ½, of 1 − p above."""
    nearest = np.minimum(p, 1 - p).astype(np.float32)
    bits = np.maximum(nearest, np.float32(2.0**-64)).view(np.int32).astype(np.int64) >> 16
    bins: NDArray[np.int64] = np.where(p <= 0.5, bits - _LOWEST, BINS - 1 - (bits - _LOWEST))
    return bins


def probabilities_of_bins() -> NDArray[np.float64]:
    """Return a probability in the middle of each bin (BINS,)."""
    bits = (np.arange(BINS // 2 + 1, dtype=np.int32) + _LOWEST << 16) + (1 << 15)
    below = np.minimum(bits.view(np.float32).astype(np.float64), 0.5)
    return np.concatenate([below, 1 - below[-2::-1]])


def _ranked(ranks: ScoreRanks, each: dict[str, Figures], names: Sequence[str], binary: bool) -> Figures:
    """Put ROC AUC and average precision beside each label's figures, and return those of all."""
    for label, name in enumerate(names):
        each[name] |= {"roc_auc": ranks.roc_auc(label), "average_precision": ranks.average_precision(label)}
    counted = [each[names[-1]]] if binary else list(each.values())
    return {name: mean_of_defined(of[name] for of in counted) for name in ("roc_auc", "average_precision")}


def _half_deviance(
    targets: Targets, A: NDArray[np.float64], y: NDArray[np.float64], arithmetic: Arithmetic
) -> NDArray[np.float64]:
    """Return y log(y / A) − (y − A), for poisson; McCullagh and Nelder, table 2.1."""
    if targets.loss != "poisson":
        return np.zeros_like(y)
    positive = y > 0
    ratio = np.where(positive, y, 1.0) / np.where(positive, A, 1.0)
    found: NDArray[np.float64] = np.where(positive, y * arithmetic.functions.log(ratio), 0.0) - (y - A)
    return found


def nearest_to_half(quantiles: Sequence[float]) -> int:
    """Return which quantile stands for the number itself."""
    return min(range(len(quantiles)), key=lambda j: abs(quantiles[j] - 0.5)) if quantiles else 0


def _with_nan(found: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in found]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def mean_of_defined(values: Iterable[float]) -> float:
    """Return the mean of those that are defined."""
    defined = [value for value in values if not math.isnan(value)]
    return total(defined) / len(defined) if defined else math.nan
