"""Pictures of numbers and labels: what they say and draw is what the test data say, by scikit-learn's figures."""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from matplotlib.figure import Figure
from sklearn import metrics

from ddp_mlp import load
from ddp_mlp.inference.metrics import BINS, ScoreRanks, bins_of, probabilities_of_bins
from ddp_mlp.reporting import runs, target_charts
from ddp_mlp.reporting.charts import PAPER, Chart
from ddp_mlp.reporting.number_outcome import NumberOutcome, number_outcome_on_test
from tests.checks.runs import train
from tests.conftest import Program

NAMES = ["T <b>", "noise", "constant"]


def data_of(path: Path, Y: NDArray[Any], names: list[str] | None = None) -> Path:
    """Write X and targets that follow from it; the last third is the test split."""
    X = np.random.default_rng(0).standard_normal((900, 4))
    with h5py.File(path, "w") as file:
        if names:
            file.attrs["targets"] = names
        for split, part in {"train": slice(0, 500), "valid": slice(500, 600), "test": slice(600, 900)}.items():
            file[f"{split}/X"], file[f"{split}/y"] = X[part], Y[part]
    return path


def numbers() -> NDArray[np.float64]:
    """Return three targets: one that can be learnt, with missing values, noise, and a constant."""
    X, noise = np.random.default_rng(0).standard_normal((900, 4)), np.random.default_rng(1).standard_normal(900)
    Y = np.c_[300 + 10 * X[:, 0] * X[:, 1], noise, np.full(900, 7.0)]
    Y[::7, 0] = np.nan
    return np.asarray(Y)


def trained(folder: Path, Y: NDArray[Any], names: list[str] | None = None, **keys: Any) -> NumberOutcome:
    """Train on targets and return what the run says about the test data."""
    train(data_of(folder / "data.h5", Y, names), folder / "run", hidden=(16,), epochs=5, **keys)
    found = number_outcome_on_test(runs.read(folder / "run"), None)
    assert not isinstance(found, str), found
    return found


def drawn(chart: Chart) -> Any:
    """Return the axes with the chart on it."""
    axes = Figure().add_subplot()
    chart.draw(axes, PAPER)
    return axes


def test_numbers(tmp_path: Path) -> None:
    """Points are the file's targets and `predict`'s values; R² is scikit-learn's; a constant's is not defined."""
    found = trained(tmp_path, numbers(), NAMES, loss="squared_error", missing_targets=True)
    X = np.random.default_rng(0).standard_normal((900, 4))
    np.testing.assert_array_equal(found.true, numbers()[600:])
    values = load(tmp_path / "run").predict(X[600:])
    np.testing.assert_allclose(found.predicted, values, rtol=1e-6)
    seen = ~np.isnan(found.true[:, 0])
    r2 = metrics.r2_score(found.true[seen, 0], values[seen, 0])
    charts = target_charts.charts_of_numbers(found)
    titles = [chart.title.split(":")[0] for chart in charts]
    assert titles == ["Predicted and true"] * 3 + ["Residuals", "Calibration", "Error per target"]
    learnt = charts[1]  # noise is met worst, and what is undefined comes last
    assert f"R² {r2:.4f}" in learnt.text
    [_, points] = drawn(learnt).lines
    np.testing.assert_allclose(points.get_xydata(), np.c_[found.true[seen, 0], values[seen, 0]], rtol=1e-6)
    widths = [bar.get_width() for bar in drawn(charts[-1]).patches]
    assert widths[1] == pytest.approx(np.sqrt(1 - r2), rel=1e-6)
    assert all(sum(stairs.get_data().values) == pytest.approx(100) for stairs in drawn(charts[3]).patches)


def test_quantiles(tmp_path: Path) -> None:
    """The curve has, at each level, the share of the rows that lie at or below the prediction."""
    found = trained(tmp_path, numbers()[:, 1:2], loss="quantile", quantiles=(0.2, 0.5, 0.8))
    [coverage] = [chart for chart in target_charts.charts_of_numbers(found) if chart.title == "Calibration"]
    curve = drawn(coverage).lines[1].get_xydata()
    below = (found.true <= found.predicted).mean(axis=0)
    np.testing.assert_allclose(curve, np.c_[[0.2, 0.5, 0.8], below], rtol=1e-12)


def test_labels(tmp_path: Path) -> None:
    """Several labels: precision and recall of each, calibration, and an error for each."""
    Y = (numbers()[:, [1, 1]] > [0.0, 2.0]).astype(np.float64)
    found = trained(tmp_path, Y, ["often", "rare"], loss="binary_cross_entropy")
    charts = target_charts.charts_of_numbers(found)
    assert [chart.title for chart in charts] == ["Precision and recall, the rarest", "Calibration", "Error per label"]
    assert charts[0].text.startswith(f"Precision and recall. rare: {int(Y[600:, 1].sum())} of 300 rows")


def test_precision_and_recall_are_scikit_learn_s() -> None:
    """Every point of the curve, for 13 rare rows among 3,000."""
    random = np.random.default_rng(0)
    so = np.arange(3000) < 13
    scores = np.clip(random.uniform(0, 0.5, 3000) + 0.3 * so, 0, 1)
    scores = probabilities_of_bins()[bins_of(scores)]  # scores that fall together do so for both
    ranks = ScoreRanks(1)
    ranks.add(scores[:, None], so[:, None])
    chart = target_charts.precision_recall_chart(["fraud"], ranks)
    assert "fraud: 13 of 3,000 rows" in chart.text
    precision, recall, _ = metrics.precision_recall_curve(so, scores)
    curve = drawn(chart).lines[0].get_xydata()
    theirs = {(r, p) for r, p in zip(recall.tolist(), precision.tolist(), strict=True) if r > 0}
    assert {tuple(point) for point in curve[1:].tolist()} <= theirs
    assert len(curve) == 14


def test_reliability_is_that_of_the_scores() -> None:
    """Scores that are right as often as they say lie on the line; the middle of a bin is in it."""
    middle = probabilities_of_bins()
    apart = 1 - middle > 2.0**-40  # nearer to 1, float64 has no number for every bin
    assert bins_of(middle)[apart].tolist() == np.arange(BINS)[apart].tolist()
    random = np.random.default_rng(0)
    scores = random.uniform(0, 1, 200_000)
    ranks = ScoreRanks(1)
    ranks.add(scores[:, None], (random.uniform(0, 1, 200_000) < scores)[:, None])
    chart = target_charts.reliability_chart(ranks)
    curve = drawn(chart).lines[1].get_xydata()
    np.testing.assert_allclose(curve[:, 0], np.arange(0.05, 1, 0.1), atol=0.005)
    np.testing.assert_allclose(curve[:, 1], curve[:, 0], atol=0.015)  # 3 standard errors of 20,000 rows
    [error] = re.findall(r"error (0\.\d+)", chart.text)
    assert float(error) < 0.01


def test_the_page_shows_them(tmp_path: Path, run_python: Program) -> None:
    """A page and a picture of a run on numbers: figures of each target, names as text; other data are refused."""
    trained(tmp_path, numbers(), NAMES, loss="squared_error", missing_targets=True)
    for name in ("report.html", "report.png"):
        done = run_python("-m", "ddp_mlp.report", tmp_path / "run", "-o", tmp_path / name)
        assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert "T &lt;b&gt;" in page
    assert "T <b>" not in page
    assert page.count("Predicted against true values of") == 3
    assert "Each target, in its own units, on the test data, the lowest R² first" in page
    rmse = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["test_rmse"]
    assert f"RMSE {rmse:.4f} of a target&#x27;s scale" in page
    other = data_of(tmp_path / "other.h5", numbers() + 1, NAMES)
    done = run_python("-m", "ddp_mlp.report", tmp_path / "run", "-o", tmp_path / "b.html", "--data", other)
    assert done.returncode == 0
    assert "is not what the run has been tested with" in (tmp_path / "b.html").read_text()
