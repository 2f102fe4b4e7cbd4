"""Pictures of how well targets are met: numbers against the truth, their errors, calibration, rare classes.

Each is a `Chart`, drawn from an outcome on the test data. Where there are many targets, those that are met worst are
shown, since they are what a reader must know of.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ddp_mlp.inference.metrics import ScoreRanks, probabilities_of_bins
from ddp_mlp.reporting.charts import LEGEND_POINTS, Chart, Palette, dress, name_above, short
from ddp_mlp.reporting.names import followed
from ddp_mlp.reporting.number_outcome import NumberOutcome

DRAWN = 400
"""Points of a scatter plot at most."""
TARGETS, BARS = 6, 30
"""The most targets that have a picture or a line of their own, and a bar."""
PARTS = 10
"""Of predictions in ascending order, each with its mean; of probabilities, bins of equal width."""
RESIDUALS = np.linspace(-4, 4, 41)
"""Bounds of the bins of errors, in units of a target's RMSE."""
NAME = 18
"""Characters of a name in a legend or on an axis."""


def charts_of_numbers(outcome: NumberOutcome) -> list[Chart]:
    """Return all pictures of an outcome: of numbers, of quantiles, or of several labels."""
    if outcome.targets.probabilities:
        return [*charts_of_scores(outcome.targets.names, outcome.ranks), error_chart(outcome)]
    charts = [predicted_chart(outcome, k) for k in worst(outcome)[:TARGETS]]
    last = [coverage_chart(outcome) if outcome.targets.quantiles else calibration_chart(outcome)]
    last += [error_chart(outcome)] if outcome.targets.count > 1 else []
    return [*charts, residual_chart(outcome), *last]


def charts_of_scores(names: Sequence[str], ranks: ScoreRanks | None) -> list[Chart]:
    """Return the pictures of the probabilities of classes or labels; none where they were too many to be counted."""
    return [] if ranks is None else [precision_recall_chart(names, ranks), reliability_chart(ranks)]


def worst(outcome: NumberOutcome) -> list[int]:
    """Return the targets, those with the least R² first, or of labels the least F1; undefined ones come last."""
    figure = "f1" if outcome.targets.probabilities else "r2"
    met = [outcome.scores.of_each[name][figure] for name in outcome.targets.names]
    return sorted(range(len(met)), key=lambda k: math.inf if math.isnan(met[k]) else met[k])


def predicted_chart(outcome: NumberOutcome, k: int) -> Chart:
    """Return target k's predictions against the truth, a point for a row; perfect ones lie on the line."""
    name, figures = outcome.targets.names[k], outcome.scores.of_each[outcome.targets.names[k]]
    true, predicted = _observed(outcome, k)
    chosen = np.arange(0, len(true), -(-len(true) // DRAWN) or 1)
    text = (
        f"Predicted against true values of {name}: R² {figures['r2']:.4f}, RMSE {figures['rmse']:.4g}, "
        f"MAE {figures['mae']:.4g} over {outcome.scores.rows:,} test rows; {len(chosen)} rows are drawn."
    )

    def draw(axes: Axes, palette: Palette) -> None:
        ends = _ends(true, predicted)
        axes.plot(ends, ends, color=palette.faint, linewidth=1.2)
        axes.plot(true[chosen], predicted[chosen], ".", color=palette.run(0), markersize=3.5, alpha=0.6)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        dress(axes, palette)

    return Chart(f"Predicted and true: {name}, R² {figures['r2']:.3f}", text, draw)


def residual_chart(outcome: NumberOutcome) -> Chart:
    """Return how errors are distributed, each target's in units of its own RMSE, beside a normal distribution."""
    shares, words = [], []
    for k in worst(outcome)[:TARGETS]:
        true, predicted = _observed(outcome, k)
        rmse = float(np.sqrt(np.mean((predicted - true) ** 2))) if len(true) else 0.0
        errors = np.clip((predicted - true) / (rmse or 1.0), RESIDUALS[0], RESIDUALS[-1])
        shares.append((outcome.targets.names[k], np.histogram(errors, RESIDUALS)[0] / max(1, len(errors))))
        if len(errors):
            words.append(f"{outcome.targets.names[k]}: {np.mean(abs(errors) > 2):.1%} beyond 2 RMSE")

    def draw(axes: Axes, palette: Palette) -> None:
        middle = (RESIDUALS[:-1] + RESIDUALS[1:]) / 2
        normal = np.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi) * (RESIDUALS[1] - RESIDUALS[0])
        axes.plot(middle, 100 * normal, "--", color=palette.ink, linewidth=1.0, label="normal")
        for i, (name, share) in enumerate(shares):
            axes.stairs(100 * share, RESIDUALS, color=palette.run(i), label=short(name, NAME))
        axes.set_xlabel("(predicted − true) / RMSE")
        axes.set_ylabel("% of rows")
        name_above(axes, palette)
        dress(axes, palette)

    text = f"Distribution of errors, in units of each target's RMSE. {'; '.join(words)}; 4.6% if they were normal."
    return Chart("Residuals", text, draw, headroom=LEGEND_POINTS)


def error_chart(outcome: NumberOutcome) -> Chart:
    """Return a bar for each target: the share of its spread that is not explained; of labels 1 − F1."""
    labels = outcome.targets.probabilities
    order, each = worst(outcome)[:BARS], [outcome.scores.of_each[name] for name in outcome.targets.names]
    errors = [1 - each[k]["f1"] if labels else math.sqrt(max(0.0, 1 - each[k]["r2"])) for k in order]
    names = [outcome.targets.names[k] for k in order]
    what = "1 − F1" if labels else "RMSE / deviation of the true values"
    told = ", ".join(
        f"{name} {'undefined' if math.isnan(e) else f'{e:.3g}'}" for name, e in zip(names, errors, strict=True)
    )

    def draw(axes: Axes, palette: Palette) -> None:
        axes.barh(range(len(order)), np.nan_to_num(errors), height=0.7, color=palette.run(0))
        axes.set_yticks(range(len(order)), [short(name, NAME) for name in names], fontsize=7.5 if len(order) > 8 else 9)
        axes.set_ylim(len(order) - 0.5, -0.5)  # the worst on top
        axes.set_xlabel(what)
        dress(axes, palette, grid=False)

    title = f"Error per {'label' if labels else 'target'}"
    return Chart(title, f"{what}, the worst first: {told}.", draw, (4.4, max(2.0, 0.8 + 0.19 * len(order))))


def calibration_chart(outcome: NumberOutcome) -> Chart:
    """Return the mean truth of rows whose predictions are alike, against the mean of these: on the line if unbiased."""
    lines, words = [], []
    for k in worst(outcome)[:TARGETS]:
        true, predicted = _observed(outcome, k)
        if len(true) < PARTS:
            continue
        centre, spread = float(np.mean(true)), float(np.std(true)) or 1.0
        parts = np.array_split(np.argsort(predicted, kind="stable"), PARTS)
        said, so = (np.array([(v[part].mean() - centre) / spread for part in parts]) for v in (predicted, true))
        lines.append((outcome.targets.names[k], said, so))
        words.append(f"{outcome.targets.names[k]} at most {abs(so - said).max():.3g}")

    def draw(axes: Axes, palette: Palette) -> None:
        ends = _ends(*(values for _, *both in lines for values in both)) if lines else [0, 1]
        axes.plot(ends, ends, color=palette.faint, linewidth=1.2)
        for i, (name, said, so) in enumerate(lines):
            axes.plot(said, so, "o-", color=palette.run(i), markersize=3, linewidth=1.0, label=short(name, NAME))
        axes.set_xlabel("mean predicted, standardized")
        axes.set_ylabel("mean true")
        if lines:
            name_above(axes, palette)
        dress(axes, palette)

    text = "Mean truth of tenths of the rows in the order of their predictions; largest difference, in deviations: "
    return Chart("Calibration", f"{text}{'; '.join(words)}.", draw, headroom=LEGEND_POINTS)


def coverage_chart(outcome: NumberOutcome) -> Chart:
    """Return the share of rows at or below each predicted quantile, against its level."""
    levels, each = outcome.targets.quantiles, outcome.scores.of_each
    order = [outcome.targets.names[k] for k in worst(outcome)[:TARGETS]]
    found = {name: [each[name][f"coverage at {q:g}"] for q in levels] for name in order}
    told = "; ".join(
        f"{name} " + ", ".join(f"{at:.3f} at {q:g}" for q, at in zip(levels, shares, strict=True))
        for name, shares in found.items()
    )

    def draw(axes: Axes, palette: Palette) -> None:
        axes.plot([0, 1], [0, 1], color=palette.faint, linewidth=1.2)
        for i, (name, shares) in enumerate(found.items()):
            axes.plot(levels, shares, "o-", color=palette.run(i), markersize=4, linewidth=1.0, label=short(name, NAME))
        axes.set_xlabel("level")
        axes.set_ylabel("share of rows below")
        name_above(axes, palette)
        dress(axes, palette)

    return Chart("Calibration", f"Share of rows at or below each quantile: {told}.", draw, headroom=LEGEND_POINTS)


def reliability_chart(ranks: ScoreRanks) -> Chart:
    """Return how often what is given a probability is so: of all classes or labels together, each against the rest."""
    others, so = ranks.counts.sum(axis=0)
    probability, rows = probabilities_of_bins(), others + so
    of = np.minimum((probability * PARTS).astype(int), PARTS - 1)
    sums = [np.bincount(of, values, PARTS) for values in (rows, rows * probability, so)]
    some = sums[0] > 0
    said, share = (values[some] / sums[0][some] for values in sums[1:])
    error = float(np.sum(sums[0][some] * abs(said - share)) / max(1, rows.sum()))

    def draw(axes: Axes, palette: Palette) -> None:
        axes.plot([0, 1], [0, 1], color=palette.faint, linewidth=1.2)
        axes.plot(said, share, "o-", color=palette.run(0), markersize=4, linewidth=1.0)
        axes.set_xlabel("probability given")
        axes.set_ylabel("share that is so")
        dress(axes, palette)

    text = f"How often what is given a probability is so, in {PARTS} bins; expected calibration error {error:.4f}."
    return Chart("Calibration", text, draw)


def precision_recall_chart(names: Sequence[str], ranks: ScoreRanks) -> Chart:
    """Return precision against recall over all thresholds, for the classes or labels that are rarest."""
    rows = ranks.counts.sum(axis=2)
    order = [k for k in np.argsort(rows[:, 1], kind="stable").tolist() if rows[k, 1]][:TARGETS]
    precision = {k: ranks.average_precision(k) for k in order}
    told = "; ".join(
        f"{names[k]}: {rows[k, 1]:,} of {rows[k].sum():,} rows, average precision {precision[k]:.4f}" for k in order
    )

    def draw(axes: Axes, palette: Palette) -> None:
        for i, k in enumerate(order):
            points = list(_precision_recall(ranks.counts[k]))
            label = f"{followed(short(names[k], NAME))}, {precision[k]:.2f}"
            axes.step(*zip(*points, strict=True), where="pre", color=palette.run(i), linewidth=1.2, label=label)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        if order:
            name_above(axes, palette)
        dress(axes, palette)

    return Chart("Precision and recall, the rarest", f"Precision and recall. {told}.", draw, headroom=LEGEND_POINTS)


def _precision_recall(counts: NDArray[np.int64]) -> Iterator[tuple[float, float]]:
    """Yield (recall, precision) at each threshold that gains rows, from the highest on; counts (2, bins)."""
    others, so = counts[:, ::-1]
    found, taken = np.cumsum(so), np.cumsum(so + others)
    gains = np.flatnonzero(so)
    yield 0.0, float(found[gains[0]] / taken[gains[0]])
    for i in gains.tolist():
        yield float(found[i] / found[-1]), float(found[i] / taken[i])


def _observed(outcome: NumberOutcome, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the true and predicted values of target k, of the points where it was observed."""
    seen = ~np.isnan(outcome.true[:, k])
    return outcome.true[seen, k], outcome.point(k)[seen]


def _ends(*arrays: NDArray[np.float64]) -> list[float]:
    """Return the least and the largest of some values; 0 and 1 where there are none."""
    values = np.concatenate(arrays)
    return [float(values.min()), float(values.max())] if len(values) else [0.0, 1.0]
