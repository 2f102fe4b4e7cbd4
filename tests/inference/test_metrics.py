"""Tests of the figures, against scikit-learn's on the same values, cut into blocks and spread over ranks."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.config.keys import METRICS
from ddp_mlp.errors import ConfigError
from ddp_mlp.inference.metrics import (
    BINS,
    DIRECTIONS,
    Figures,
    ScoreRanks,
    bins_of,
    check_monitor,
    figures_known,
    loss_where_missing,
    mean_of_defined,
    metrics_of,
)
from ddp_mlp.nn import architecture
from ddp_mlp.nn.targets import LOSSES, Targets

metrics = pytest.importorskip("sklearn.metrics")
F64 = np.dtype(np.float64)


def figures_of(
    targets: Targets, z: NDArray[Any], y: NDArray[Any], w: NDArray[Any] | None = None, ranks: int = 3
) -> tuple[Figures, dict[str, Figures]]:
    """Return the figures of outputs z (m, n_L) and targets y, in blocks of 50 rows that ranks have in turn."""
    network = architecture.create(1, (), targets)
    counts = [metrics_of(targets, ranked=True) for _ in range(ranks)]
    for i, lo in enumerate(range(0, len(z), 50)):
        rows = slice(lo, lo + 50)
        group = network.group((len(z[rows]),), F64, training=False)
        group.A[1].whole[...] = z[rows].T
        if targets.count:
            group.Y.whole[...] = (y[rows].T - np.array(targets.mean)[:, None]) / np.array(targets.scale)[:, None]
        else:
            group.y[...] = y[rows]
        group.w = None if w is None else w[rows]
        values = np.empty((group.m, targets.outputs))
        network.scoring.values(group, values)
        network.scoring.gradient(group)
        counts[i % ranks].add(values, group)
    return counts[0].figures([each.parts() for each in counts])


def test_every_figure_has_a_direction_and_can_be_watched() -> None:
    """The names that the configuration takes are those that are computed."""
    assert set(METRICS) == set(DIRECTIONS)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_can_be_watched_is_what_is_computed(loss: str) -> None:
    """Of all and of each; another loss's figure, or a name that is not there, is refused with those there are."""
    names = ("a", "b")
    targets = Targets(loss, (), names, (0.0, 0.0), (1.0, 1.0), (0.5,) if loss == "quantile" else ())
    y: NDArray[Any] = np.array([[0.0, 1], [1, 0], [1, 1]])
    if loss == "cross_entropy":
        targets, y = Targets(classes=names), np.array([0, 1, 1])
    found, of_each = figures_of(targets, np.arange(6.0).reshape(3, 2), y)
    of_all, of_one = figures_known(targets)
    assert set(of_all) == {"loss", *found} & set(DIRECTIONS)
    assert set(of_one) == set(of_each["a"]) & set(DIRECTIONS)
    for name in DIRECTIONS:
        for monitor, known in ((f"valid_{name}", of_all), (f"valid_{name}:b", of_one)):
            if name in known:
                check_monitor(monitor, targets)
            else:
                with pytest.raises(ConfigError, match=f"{monitor}: there is none for loss = {loss}; choose valid_"):
                    check_monitor(monitor, targets)
    with pytest.raises(ConfigError, match="'c' is none of a, b"):
        check_monitor("valid_rmse:c", targets)
    check_monitor("train_loss", targets)


@pytest.mark.parametrize("n", [2, 5])
def test_classes(n: int) -> None:
    """Accuracy, balanced accuracy, macro F1 to rounding; ROC AUC and average precision within the bins' resolution."""
    random = np.random.default_rng(0)
    y = random.choice(n, 733, p=np.arange(1, n + 1) / np.arange(1, n + 1).sum())
    z = random.standard_normal((733, n)) + 1.5 * np.eye(n)[y]
    found, of_each = figures_of(Targets(classes=tuple(map(str, range(n)))), z, y)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    said = p.argmax(axis=1)
    assert found["accuracy"] == metrics.accuracy_score(y, said)
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, said), rel=1e-14)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(y, said, average="macro"), rel=1e-14)
    each = [metrics.roc_auc_score(y == k, p[:, k]) for k in range(n)]
    precision = [metrics.average_precision_score(y == k, p[:, k]) for k in range(n)]
    assert found["roc_auc"] == pytest.approx(each[1] if n == 2 else np.mean(each), abs=2e-3)
    assert found["average_precision"] == pytest.approx(precision[1] if n == 2 else np.mean(precision), abs=5e-3)
    assert of_each["1"]["roc_auc"] == pytest.approx(each[1], abs=2e-3)


def test_thirteen_frauds_among_thirty_thousand_rows_are_seen() -> None:
    """Accuracy is blind to a model that finds none of them; the others are not."""
    y = np.zeros(30_000, np.int64)
    y[:13] = 1
    z = np.zeros((30_000, 2))
    z[:, 0] = 5
    found, _ = figures_of(Targets(classes=("fair", "fraud")), z, y)
    assert found["accuracy"] > 0.999
    assert found["balanced_accuracy"] == 0.5
    assert found["macro_f1"] < 0.51
    assert found["roc_auc"] == 0.5
    assert found["average_precision"] == pytest.approx(13 / 30_000)


def test_labels() -> None:
    """Each label's accuracy, F1, ROC AUC and average precision, and their means."""
    random = np.random.default_rng(1)
    Y = (random.random((412, 3)) < [0.5, 0.1, 0.8]).astype(float)
    z = random.standard_normal((412, 3)) * 2 + 2 * Y - 1
    found, of_each = figures_of(Targets("binary_cross_entropy", (), ("a", "b", "c"), (0, 0, 0), (1, 1, 1)), z, Y)
    said = z > 0
    for k, name in enumerate("abc"):
        assert of_each[name]["accuracy"] == np.mean(said[:, k] == Y[:, k])
        assert of_each[name]["f1"] == pytest.approx(metrics.f1_score(Y[:, k], said[:, k]), rel=1e-14)
        assert of_each[name]["roc_auc"] == pytest.approx(metrics.roc_auc_score(Y[:, k], z[:, k]), abs=2e-3)
        expected = metrics.average_precision_score(Y[:, k], z[:, k])
        assert of_each[name]["average_precision"] == pytest.approx(expected, abs=5e-3)
    assert found["accuracy"] == pytest.approx(np.mean(said == Y), rel=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_in_their_own_units(weighted: bool) -> None:
    """RMSE, MAE and R² of each target, with weights; the figures of all are the means of theirs."""
    random = np.random.default_rng(2)
    y = random.standard_normal((301, 2)) * [3, 1e4] + [5, -1e6]
    targets = Targets("squared_error", (), ("T", "p"), (4.0, -1e6), (2.0, 1.3e4))
    z = (y - targets.mean) / targets.scale + random.standard_normal((301, 2))
    w = random.random(301) + 0.1 if weighted else None
    found, of_each = figures_of(targets, z, y, w)
    value = targets.mean + np.array(targets.scale) * z
    for k, name in enumerate(targets.names):
        t, v = y[:, k], value[:, k]
        assert of_each[name]["rmse"] == pytest.approx(metrics.root_mean_squared_error(t, v, sample_weight=w), rel=1e-9)
        assert of_each[name]["mae"] == pytest.approx(metrics.mean_absolute_error(t, v, sample_weight=w), rel=1e-9)
        assert of_each[name]["r2"] == pytest.approx(metrics.r2_score(t, v, sample_weight=w), rel=1e-9)
    assert found["r2"] == pytest.approx(metrics.r2_score(y, value, sample_weight=w), rel=1e-9)


def test_missing_numbers_count_for_nothing() -> None:
    """Figures are those of the rows where a target is observed, and the loss is the sum of their means."""
    random = np.random.default_rng(3)
    y, z = random.standard_normal((120, 2)), random.standard_normal((120, 2))
    y[::3, 0] = np.nan
    found, of_each = figures_of(Targets("squared_error", (), ("a", "b"), (0, 0), (1, 1)), z, y)
    seen = ~np.isnan(y[:, 0])
    assert of_each["a"]["rmse"] == pytest.approx(metrics.root_mean_squared_error(y[seen, 0], z[seen, 0]), rel=1e-12)
    assert found["loss"] == pytest.approx(np.nanmean((z - y) ** 2 / 2, axis=0).sum(), rel=1e-12)
    nothing, _ = figures_of(Targets("squared_error", (), ("a", "b"), (0, 0), (1, 1)), z, y * np.nan)
    assert math.isnan(nothing["loss"])  # and not 0, the best that there is


def test_poisson_deviance() -> None:
    """The mean deviance, where a count may be 0."""
    random = np.random.default_rng(4)
    y, z = random.poisson(1.5, (200, 1)).astype(float), random.standard_normal((200, 1))
    found, _ = figures_of(Targets("poisson", (), ("n",), (0,), (1,)), z, y)
    assert found["deviance"] == pytest.approx(metrics.mean_poisson_deviance(y[:, 0], np.exp(z[:, 0])), rel=1e-12)


def test_coverage_of_quantiles() -> None:
    """The share of rows at or below each quantile, and how far that is off on average."""
    y = np.arange(100.0)[:, None]
    z = np.tile([9.5, 49.0, 98.0], (100, 1))
    found, of_each = figures_of(Targets("quantile", (), ("t",), (0,), (1,), (0.1, 0.5, 0.9)), z, y)
    assert [of_each["t"][f"coverage at {q}"] for q in (0.1, 0.5, 0.9)] == [0.1, 0.5, 0.99]
    assert found["coverage_error"] == pytest.approx(0.03)
    assert found["mae"] == pytest.approx(np.abs(y - 49).mean())


def test_what_is_not_defined_is_nan() -> None:
    """A label that is never so has no ROC AUC, a number without spread no R²."""
    found, _ = figures_of(Targets(classes=("a", "b")), np.zeros((4, 2)), np.zeros(4, np.int64))
    assert math.isnan(found["roc_auc"])
    found, _ = figures_of(Targets("squared_error", (), ("a",), (0,), (1,)), np.zeros((4, 1)), np.ones((4, 1)))
    assert math.isnan(found["r2"])


def test_bins_keep_the_order_of_probabilities() -> None:
    """From 0 to 1 they ascend, symmetrically; odds that differ by 1 in 64 are told apart."""
    p = np.sort(np.r_[0, 1, 0.5, 10.0 ** -np.arange(1, 19), 1 - 10.0 ** -np.arange(1, 8), np.linspace(0, 1, 1001)])
    bins = bins_of(p)
    assert (np.diff(bins) >= 0).all()
    assert (bins[0], bins[-1]) == (0, BINS - 1)
    odds = np.geomspace(1e-9, 1e6, 500)
    assert (bins_of(odds * (1 + 1 / 64) / (1 + odds * (1 + 1 / 64))) > bins_of(odds / (1 + odds))).all()


def test_ranks_of_many_rows_do_not_overflow() -> None:
    """Counts of a billion rows on either side give their exact share."""
    ranks = ScoreRanks(1)
    ranks.counts[0, :, 10] = 10**9
    assert ranks.roc_auc(0) == 0.5


def test_figures_beyond_every_float_are_infinite() -> None:
    """Two targets with losses, and two with deviances, whose sum no float64 holds: infinity, and no exception."""
    huge = np.array([[1.5e308, 1.5e308], [1.0, 1.0], [1.0, 2.0]])
    assert loss_where_missing([[huge]]) == {"loss": math.inf}
    assert mean_of_defined([1.5e308, 1.5e308, math.nan]) == math.inf
