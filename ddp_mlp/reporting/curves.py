"""The training curves: panels above one axis of epochs, for the loss, a score, and what steers the steps.

Invariants:
- lines of runs that are the same remain visible: the later a run, the thinner its line, and it lies on top;
- single steps are shown, faintly and with their name, where there are at least STEPS_PER_EPOCH of them in an epoch, or
  where there is nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ddp_mlp.reporting.charts import Chart, Palette, dress, run_handles, short
from ddp_mlp.reporting.runs import RunLog

POINTS = 400
"""Points a line is drawn with at most: means over equal parts of the run, with a band from least to largest."""
STEPS_PER_EPOCH = 2.0
LINES: Any = ("-", (0, (4, 1.6)))
"""Of train, and of valid."""
TALL, LOW = 2.1, 1.25
"""Inches of a panel."""
WIDE, NARROW = 10.4, 3.9
"""Inches of the whole, for a desk and for a telephone."""
SCORES = (("accuracy", "Accuracy"), ("r2", "R²"))

Values = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    run: int
    style: int
    """0 for train and what has no split, 1 for valid."""
    label: str
    values: Values
    """Epochs, and the values there."""
    faint: bool = False
    """Single steps behind the lines of epochs."""


@dataclass(frozen=True)
class CurvePanel:
    """What is drawn above one stretch of the axis."""

    title: str
    lines: tuple[Curve, ...]
    tall: bool
    from_zero: bool = False


def training_charts(runs: Sequence[RunLog]) -> list[Chart]:
    """Return the training curves for a wide and for a narrow screen; nothing where the journals hold none."""
    panels = _panels(runs)
    if not panels:
        return []
    words = " ".join(_words(runs, panel) for panel in panels)
    paused = [f"{run.name} {pause.label} at epoch {pause.epoch:.1f}" for run in runs for pause in run.pauses()]
    best = [f"{run.name} epoch {run.best_epoch}" for run in runs if run.best_epoch is not None]
    words += f" Best: {', '.join(best)}." if best else ""
    words += f" Marked: {', '.join(paused)}." if paused else ""
    heights = tuple(TALL if panel.tall else LOW for panel in panels)

    def draw(axes: Sequence[Axes], palette: Palette, columns: int) -> None:
        for panel, part in zip(panels, axes, strict=True):
            _draw_panel(part, panel, runs, palette)
        axes[-1].set_xlabel("epoch")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        _mark_pauses(axes, runs, palette)
        _mark_best(axes[0], runs, palette)
        _legend(axes[0], panels, runs, palette, columns)

    return [
        Chart(
            "Training",
            words,
            partial(draw, columns=columns),
            (width, sum(heights) + 0.75),
            stack=heights,
            headroom=34.0,
        )
        for width, columns in ((WIDE, 3), (NARROW, 2))
    ]


def loss_words(runs: Sequence[RunLog]) -> str:
    """Return the name of the loss, with what it is weighted by."""
    found = []
    for run in runs:
        config = run.config
        found += ["class"] if config.get("class_weight") else []
        found += ["target"] if config.get("target_weight") else []
        found += ["row"] if run.start["data"].get("weighted") else []
    smoothed = any(run.config.get("label_smoothing") for run in runs)
    kinds = [f"weighted by {' and '.join(dict.fromkeys(found))}"] if found else []
    kinds += ["of train with smoothed labels"] if smoothed else []
    return f"Loss, {'; '.join(kinds)}" if kinds else "Loss"


def _panels(runs: Sequence[RunLog]) -> list[CurvePanel]:
    score = next(
        (score for score in SCORES if any(len(run.series("epoch", f"valid_{score[0]}")[1]) for run in runs)), SCORES[0]
    )
    found = [
        CurvePanel(loss_words(runs), _of_epochs(runs, "loss", "loss"), tall=True),
        CurvePanel(score[1], _of_epochs(runs, score[0], "accuracy" if score[0] == "accuracy" else ""), tall=True),
        CurvePanel("Learning rate", _of_steps(runs, "learning_rate"), tall=False, from_zero=True),
        CurvePanel("Gradient norm", _of_steps(runs, "gradient_norm"), tall=False),
    ]
    return [panel for panel in found if panel.lines]


def _of_epochs(runs: Sequence[RunLog], figure: str, field: str) -> tuple[Curve, ...]:
    """Return the lines of a figure by epoch, and of a field of steps behind those of a single run."""
    lines = [
        Curve(number, style, split, values)
        for number, run in enumerate(runs)
        for style, split in enumerate(("train", "valid"))
        if len((values := run.series("epoch", f"{split}_{figure}"))[1])
    ]
    if not field or (lines and len(runs) > 1):
        return tuple(lines)
    behind = []
    for number, run in enumerate(runs):
        steps = run.series("step", field)
        epochs = len(run.of("epoch"))
        if len(steps[1]) and (not lines or len(steps[1]) >= STEPS_PER_EPOCH * epochs):
            every = run.config.get("log_every", 0)
            behind.append(Curve(number, 0, f"train, means of {every} steps", steps, faint=bool(lines)))
    return (*behind, *lines)


def _of_steps(runs: Sequence[RunLog], field: str) -> tuple[Curve, ...]:
    """Return the lines of a field of steps; none where it never changes, which the settings say as well."""
    found = [Curve(number, 0, "", run.series("step", field)) for number, run in enumerate(runs)]
    found = [line for line in found if len(line.values[1]) > 1]
    return tuple(found) if any(line.values[1].min() < line.values[1].max() for line in found) else ()


def _words(runs: Sequence[RunLog], panel: CurvePanel) -> str:
    told = []
    for line in panel.lines:
        epochs, values = line.values
        lowest = int(np.argmin(values))
        name = " ".join(word for word in (runs[line.run].name if len(runs) > 1 else "", line.label) if word)
        told.append(
            f"{name} from {values[0]:.4g} to {values[-1]:.4g}, largest {values.max():.4g}, "
            f"least {values[lowest]:.4g} at epoch {epochs[lowest]:.1f}".strip()
        )
    return f"{panel.title} over epochs: {'; '.join(told)}."


def _draw_panel(axes: Axes, panel: CurvePanel, runs: Sequence[RunLog], palette: Palette) -> None:
    several = len(runs) > 1
    for line in panel.lines:
        colour = palette.run(line.run if several else line.style)
        width = 1.5 + 2.6 * (len(runs) - 1 - line.run) / len(runs) if several else 1.7
        style: Any = {"linestyle": LINES[line.style], "linewidth": width, "zorder": 2 + line.run / 100}
        if line.faint:
            style = {"linewidth": 0.8, "alpha": 0.45, "zorder": 1.5}
        _draw_line(axes, line.values, colour, style)
    values = [line.values[1] for line in panel.lines]
    lowest, highest = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    if lowest > 0 and highest > 30 * lowest and not panel.from_zero:
        axes.set_yscale("log")
    elif panel.from_zero:
        axes.set_ylim(0, 1.05 * highest or 1)
    axes.set_title(panel.title, loc="left", fontsize=9.5, pad=4, color=palette.ink)
    dress(axes, palette)


def _draw_line(axes: Axes, points: Values, colour: str, style: Any) -> None:
    epochs, values = points
    if len(values) > POINTS:
        parts = np.array_split(np.arange(len(values)), POINTS)
        low, high = ([f(values[part]) for part in parts] for f in (np.min, np.max))
        epochs, values = (np.array([array[part].mean() for part in parts]) for array in (epochs, values))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(epochs, values, color=colour, marker="o" if len(values) == 1 else None, **style)


def _legend(axes: Axes, panels: Sequence[CurvePanel], runs: Sequence[RunLog], palette: Palette, columns: int) -> None:
    """Name the lines once for all panels, above the first, in so many columns."""
    several = len(runs) > 1
    lines = [line for panel in panels for line in panel.lines if line.label]
    kinds = dict.fromkeys((line.faint, line.style, line.label) for line in lines)
    handles = [
        Line2D(
            [],
            [],
            color=palette.ink if several else palette.run(style),
            linestyle=LINES[style],
            linewidth=0.8 if faint else 1.7,
            alpha=0.6 if faint else 1.0,
            label=label,
        )
        for faint, style, label in sorted(kinds)
    ]
    handles = [*run_handles(runs, palette), *handles] if several else handles
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.13), "borderaxespad": 0.0, "ncols": columns}
    axes.legend(handles=handles, labelcolor=palette.ink, **place)


def _mark_best(axes: Axes, runs: Sequence[RunLog], palette: Palette) -> None:
    """Put a point on each run's loss at its best epoch, and say which one it is where there is one run."""
    for number, run in enumerate(runs):
        if run.best_epoch is None:
            continue
        epochs, values = run.series("epoch", "valid_loss")
        here = np.flatnonzero(np.isclose(epochs, run.best_epoch))
        if not len(here):
            continue
        x, y = epochs[here[0]], values[here[0]]
        colour = palette.run(number if len(runs) > 1 else 1)
        axes.plot([x], [y], "o", color=colour, markersize=6, zorder=4)
        if len(runs) == 1:
            place: Any = {"textcoords": "offset points", "xytext": (0, 8), "ha": "center" if x > 0 else "left"}
            right = x > 0.8 * axes.get_xlim()[1]
            place |= {"ha": "right"} if right else {}
            axes.annotate(f"best: epoch {run.best_epoch}", (x, y), color=palette.ink, fontsize=8.5, **place)


def _mark_pauses(parts: Sequence[Axes], runs: Sequence[RunLog], palette: Palette) -> None:
    """Draw a dotted line through all panels where a run stopped; name it on the first where there is one run."""
    lowest, highest = parts[0].get_xlim()
    for number, run in enumerate(runs):
        colour = palette.run(number) if len(runs) > 1 else palette.ink
        before, level = -math.inf, 0
        for pause in run.pauses():
            for axes in parts:
                axes.axvline(pause.epoch, color=colour, linestyle=":", linewidth=1.1)
            if len(runs) > 1:
                continue
            close = pause.epoch - before < 0.06 * (highest - lowest)
            before, level = pause.epoch, (level + 1) % 3 if close else 0
            place: Any = {"xytext": (2, 3), "textcoords": "offset points", "rotation": 90, "va": "bottom"}
            where = (pause.epoch, 0.3 * level)
            parts[0].annotate(
                short(pause.label, 20), where, xycoords=("data", "axes fraction"), color=colour, fontsize=7, **place
            )
