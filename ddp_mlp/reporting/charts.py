"""The figures of a report, drawn with matplotlib; each says in words what it shows.

A chart is drawn in the colours of a `Palette`. For the page they are names that style sheets resolve (`to_svg`), so
that one drawing serves light, dark and print; for a picture file they are plain colours.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ddp_mlp.errors import printable
from ddp_mlp.reporting.outcome import Outcome, picture
from ddp_mlp.reporting.runs import RunLog

POINTS = 400
"""Points a line is drawn with at most: means over equal parts of the run, with a band from least to largest."""
LABELLED_CLASSES = 40
NUMBERED_CLASSES = 12
SIZE = (4.4, 2.75)
"""Inches of a chart; text is sized so that it can be read when a telephone shows the chart at this width."""
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
LINES: Any = ("-", "--")
ABOVE: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
"""A legend's place, out of the way of the data."""
LEGEND_POINTS = 36.0
RIGHT, WRONG = "#3f82e0", "#e0662a"
"""Shades of the confusion matrix, seen through on light and on dark."""


@dataclass(frozen=True)
class Palette:
    """The colours of a chart."""

    ink: str
    faint: str
    runs: tuple[str, ...]
    """One per run, and for the parts of a whole; used again from the start where there are more."""

    def run(self, index: int) -> str:
        """Return the colour of a run."""
        return self.runs[index % len(self.runs)]


PAPER = Palette("#1d2430", "#c9ced6", ("#1f5fbf", "#b3470e", "#1b7a43", "#8a3a9c", "#8a6a00", "#0d7480"))
NAMES = Palette("#000001", "#000002", tuple(f"#0000{16 + i:02x}" for i in range(len(PAPER.runs))))
"""Colours that stand for the page's own: `to_svg` puts its variables in their place."""
VARIABLES = {
    NAMES.ink: "--ink",
    NAMES.faint: "--faint",
    **{colour: f"--run-{i}" for i, colour in enumerate(NAMES.runs)},
}


@dataclass(frozen=True)
class Chart:
    """One figure: `draw` fills an Axes in a palette's colours."""

    title: str
    text: str
    """What it shows, in words, for those who do not see it."""
    draw: Callable[[Axes, Palette], Any]
    size: tuple[float, float] = SIZE
    headroom: float = 6.0
    """Points between the axes and a title, where the chart has a legend above."""


def charts_of(runs: Sequence[RunLog]) -> list[Chart]:
    """Return the charts of what the runs' journals hold."""
    found = [
        _lines(runs, "Loss", [("epoch", "train_loss", "train"), ("epoch", "valid_loss", "valid")], "step", "loss"),
        _lines(
            runs,
            "Accuracy",
            [("epoch", "train_accuracy", "train"), ("epoch", "valid_accuracy", "valid")],
            "step",
            "accuracy",
        ),
        _lines(runs, "R²", [("epoch", "valid_r2", "valid")]),
        _lines(runs, "Learning rate", [("step", "learning_rate", "")], from_zero=True),
        _lines(runs, "Gradient norm", [("step", "gradient_norm", "")]),
        _lines(runs, "Examples per second", [("step", "examples_per_second", "")], from_zero=True),
        _phases(runs),
        _waiting(runs),
    ]
    return [chart for chart in found if chart is not None]


def confusion_chart(run: RunLog, outcome: Outcome, title: str = "Confusion matrix") -> Chart:
    """Return the chart of which classes the model takes for which."""
    n = len(outcome.classes)
    worst = ", ".join(f"{label} for {taken} {count}" for label, taken, count in outcome.confusions(5))
    text = (
        f"Confusion matrix of {run.name} on {outcome.confusion.sum():,} test rows and {n} classes; "
        f"{outcome.accuracy:.2%} lie on the diagonal. " + (f"Most often taken: {worst}." if worst else "No mistakes.")
    )

    def draw(axes: Axes, palette: Palette) -> None:
        rows = outcome.confusion.sum(axis=1, keepdims=True)
        share = outcome.confusion / np.maximum(rows, 1)
        colours = np.zeros((n, n, 4))
        colours[..., :3] = to_rgba(RIGHT)[:3]
        wrong = ~np.eye(n, dtype=bool)
        colours[wrong, :3] = to_rgba(WRONG)[:3]
        # mistakes are rare: their colour grows with the root of their share
        colours[..., 3] = np.where(wrong, np.where(share > 0, 0.22 + 0.43 * np.sqrt(share), 0), 0.55 * share)
        axes.imshow(colours, interpolation="nearest")
        if n <= NUMBERED_CLASSES:
            for i, k in zip(*np.nonzero(outcome.confusion), strict=True):
                axes.text(k, i, str(outcome.confusion[i, k]), ha="center", va="center", fontsize=7.5, color=palette.ink)
        if n <= LABELLED_CLASSES:
            names = [short(name, 12) for name in outcome.classes]
            upright = n > NUMBERED_CLASSES or max(map(len, names)) > 2
            points = 7.5 if n <= NUMBERED_CLASSES else 6
            axes.set_xticks(range(n), names, fontsize=points, rotation=90 if upright else 0)
            axes.set_yticks(range(n), names, fontsize=points)
        axes.set_xlabel("taken for")
        axes.set_ylabel("label")
        dress(axes, palette, grid=False)

    return Chart(title, text, draw, (4.4, 4.1))


def mistakes_chart(run: RunLog, outcome: Outcome, shape: Sequence[int], columns: int = 6, rows: int = 2) -> Chart:
    """Return the chart of the most confident mistakes, drawn as pictures."""
    shown = outcome.mistakes[: columns * rows]
    names = outcome.classes
    words = [f"row {m.row}: {names[m.label]} taken for {names[m.predicted]} ({m.probability:.3f})" for m in shown]

    def draw(axes: Axes, palette: Palette) -> None:
        height, width = picture(shown[0].features, shape).shape[:2]
        cell = 1.45 * height / width
        for i, mistake in enumerate(shown):
            x, y = 1.25 * (i % columns), -cell * (i // columns)
            drawn = picture(mistake.features, shape)
            axes.imshow(drawn, cmap="gray", extent=(x, x + 1, y, y + height / width), interpolation="nearest")
            words = (
                f"{short(names[mistake.label], 9)} → {short(names[mistake.predicted], 9)}\n{mistake.probability:.3f}"
            )
            axes.text(x + 0.5, y - 0.05, words, ha="center", va="top", fontsize=7, color=palette.ink)
        axes.set_xlim(-0.1, 1.25 * columns)
        axes.set_ylim(-cell * (rows - 1) - 0.5 * cell, height / width + 0.1)
        axes.set_axis_off()

    return Chart("Most confident mistakes", f"Test rows of {run.name}, label and answer: {'; '.join(words)}.", draw)


def _lines(
    runs: Sequence[RunLog],
    title: str,
    fields: Sequence[tuple[str, str, str]],
    background_kind: str | None = None,
    background_field: str = "",
    from_zero: bool = False,
) -> Chart | None:
    """Return the chart of (kind, field, label) lines of all runs over epochs; None where no run has any.

    Where one run is shown, another field may lie faintly behind the lines. Where the epochs are few or absent, it
    is all there is.
    """
    told: list[str] = []
    series = []
    for number, run in enumerate(runs):
        for style, (kind, field, label) in enumerate(fields):
            epochs, values = run.series(kind, field)
            if len(values):
                series.append((number, style, label, epochs, values))
                told.append(_told(run.name if len(runs) > 1 else "", label, epochs, values))
    behind = []
    if background_kind is not None and (len(runs) == 1 or not series):
        behind = [(number, *run.series(background_kind, background_field)) for number, run in enumerate(runs)]
        behind = [(number, epochs, values) for number, epochs, values in behind if len(values)]
        if not series:
            told += [_told(runs[number].name, "per interval", epochs, values) for number, epochs, values in behind]
    if not series and not behind:
        return None
    paused = [f"{run.name} {pause.label} at epoch {pause.epoch:.1f}" for run in runs for pause in run.pauses()]
    text = f"{title} over epochs: {'; '.join(told)}." + (f" Marked: {', '.join(paused)}." if paused else "")

    def draw(axes: Axes, palette: Palette) -> None:
        several = len(runs) > 1
        for number, epochs, values in behind:
            _line(axes, epochs, values, palette.run(number), linewidth=0.8, alpha=0.45 if series else 1.0)
        for number, style, _, epochs, values in series:
            _line(axes, epochs, values, palette.run(number if several else style), linestyle=LINES[style])
        lowest, highest = _extent([line[-1] for line in series] + [line[-1] for line in behind])
        if lowest > 0 and highest > 30 * lowest and not from_zero:
            axes.set_yscale("log")
        elif from_zero:
            axes.set_ylim(0, 1.05 * highest or 1)
            if highest >= 1000:
                axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _mark_pauses(axes, runs, palette)
        labels = [label for *_, label in fields if label and any(line[2] == label for line in series)]
        handles = [
            Line2D([], [], color=palette.ink if several else palette.run(style), linestyle=LINES[style], label=label)
            for style, label in enumerate(labels)
        ]
        if several:
            handles = [*_run_handles(runs, palette), *handles]
        if handles:
            axes.legend(handles=handles, labelcolor=palette.ink, **(ABOVE if several else {}))
        dress(axes, palette)

    return Chart(title, text, draw, headroom=LEGEND_POINTS if len(runs) > 1 else 6.0)


def _phases(runs: Sequence[RunLog]) -> Chart | None:
    """Return the chart of where rank 0's time went, as shares of its steps."""
    told = [(run, run.phase_seconds()) for run in runs]
    told = [(run, seconds) for run, seconds in told if sum(seconds.values()) > 0]
    if not told:
        return None
    words = [
        f"{run.name}: " + ", ".join(f"{name} {value / sum(seconds.values()):.0%}" for name, value in seconds.items())
        for run, seconds in told
    ]

    def draw(axes: Axes, palette: Palette) -> None:
        names = list(told[0][1])
        for row, (_, seconds) in enumerate(told):
            left, total = 0.0, sum(seconds.values())
            for i, name in enumerate(names):
                share = 100 * seconds.get(name, 0.0) / total
                colour = palette.faint if name == "between" else palette.run(i)
                axes.barh(row, share, left=left, height=0.6, color=colour, label=name if row == 0 else None)
                left += share
        axes.set_yticks(range(len(told)), [short(run.name, 14) for run, _ in told])
        axes.set_ylim(len(told) - 0.5 + 0.4, -0.5 - 0.4)  # the first run on top
        axes.set_xlabel("% of rank 0's step")
        axes.set_xlim(0, 100)
        axes.legend(labelcolor=palette.ink, **ABOVE | {"ncols": 4})
        dress(axes, palette, grid=False)

    return Chart(
        "Time per phase", f"Share of rank 0's time per phase. {'; '.join(words)}.", draw, headroom=LEGEND_POINTS
    )


def _waiting(runs: Sequence[RunLog]) -> Chart | None:
    """Return the chart of how long each rank has waited for the others."""
    told = [(number, run, waited) for number, run in enumerate(runs) if (waited := run.waiting_by_rank())]
    if not told:
        return None
    words = [
        f"{run.name}: least rank {int(np.argmin(waited))} with {min(waited):.2f} s, "
        f"most rank {int(np.argmax(waited))} with {max(waited):.2f} s"
        for _, run, waited in told
    ]

    def draw(axes: Axes, palette: Palette) -> None:
        width = 0.8 / len(told)
        for place, (number, _, waited) in enumerate(told):
            ranks = np.arange(len(waited)) + (place - (len(told) - 1) / 2) * width
            axes.bar(ranks, waited, width * 0.9, color=palette.run(number))
        axes.set_xlabel("rank")
        axes.set_ylabel("s")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(runs) > 1:
            axes.legend(handles=_run_handles(runs, palette), labelcolor=palette.ink, **ABOVE)
        dress(axes, palette)

    return Chart(
        "Who waited",
        f"Seconds that each rank waited for the others. {'; '.join(words)}.",
        draw,
        headroom=LEGEND_POINTS if len(runs) > 1 else 6.0,
    )


def _told(name: str, label: str, epochs: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    lowest = int(np.argmin(values))
    return (
        f"{name} {label} from {values[0]:.4g} to {values[-1]:.4g}, largest {values.max():.4g}, "
        f"least {values[lowest]:.4g} at epoch {epochs[lowest]:.1f}"
    ).strip()


def _line(axes: Axes, epochs: NDArray[np.float64], values: NDArray[np.float64], colour: str, **style: Any) -> None:
    if len(values) > POINTS:
        parts = np.array_split(np.arange(len(values)), POINTS)
        low, high = ([f(values[part]) for part in parts] for f in (np.min, np.max))
        epochs, values = (np.array([array[part].mean() for part in parts]) for array in (epochs, values))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(epochs, values, color=colour, marker="o" if len(values) == 1 else None, **style)


def _run_handles(runs: Sequence[RunLog], palette: Palette) -> list[Line2D]:
    return [
        Line2D([], [], color=palette.run(number), linewidth=3, label=short(run.name, 20))
        for number, run in enumerate(runs)
    ]


def _mark_pauses(axes: Axes, runs: Sequence[RunLog], palette: Palette) -> None:
    lowest, highest = axes.get_xlim()
    for number, run in enumerate(runs):
        colour = palette.run(number) if len(runs) > 1 else palette.ink
        before, level = -math.inf, 0
        for pause in run.pauses():
            axes.axvline(pause.epoch, color=colour, linestyle=":", linewidth=1.1)
            if len(runs) == 1:
                close = pause.epoch - before < 0.06 * (highest - lowest)
                before, level = pause.epoch, (level + 1) % 3 if close else 0
                label = short(pause.label, 20)
                place: Any = {"xytext": (2, 3), "textcoords": "offset points", "rotation": 90, "va": "bottom"}
                axes.annotate(
                    label,
                    (pause.epoch, 0.3 * level),
                    xycoords=("data", "axes fraction"),
                    color=colour,
                    fontsize=7,
                    **place,
                )


def dress(axes: Axes, palette: Palette, grid: bool = True) -> None:
    """Put everything but the data into the palette's colours."""
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(palette.faint)
    axes.tick_params(colors=palette.ink, which="both", color=palette.faint)
    for label in (
        axes.xaxis.label,
        axes.yaxis.label,
        axes.title,
        axes.xaxis.get_offset_text(),
        axes.yaxis.get_offset_text(),
    ):
        label.set_color(palette.ink)
    if grid:
        axes.grid(axis="y", color=palette.faint, linewidth=0.6)
        axes.set_axisbelow(True)


def _extent(arrays: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    return min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)


def short(name: str, length: int) -> str:
    """Return a name fit for a label: printable, of limited length, and not taken for TeX."""
    name = printable(name).replace("$", r"\$")
    return name if len(name) <= length else name[: length - 1] + "…"


def to_svg(chart: Chart, prefix: str) -> str:
    """Return a chart as an SVG element for a page: ids begin with `prefix`, colours are the page's variables."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": prefix}):
        figure = Figure(figsize=chart.size, layout="constrained")
        figure.patch.set_visible(False)
        chart.draw(figure.add_subplot(), NAMES)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    return re.sub("|".join(VARIABLES), lambda found: f"var({VARIABLES[found[0]]})", svg)


def to_png(runs: Sequence[RunLog], charts: Sequence[Chart], title: str, lines: Sequence[str]) -> bytes:
    """Return all charts as one PNG file, below a title and a few lines of text."""
    columns = 2 if len(charts) > 1 else 1
    rows = max(1, math.ceil(len(charts) / columns))
    head = 0.45 + 0.2 * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4 * columns, head + 3.6 * rows), layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(2, 1, height_ratios=[head, 3.6 * rows])
        top, below = parts
        top.text(0.02, 0.95, short(title, 100), va="top", fontsize=13, color=PAPER.ink)
        top.text(0.02, 0.55, "\n".join(short(line, 150) for line in lines), va="top", fontsize=9, color=PAPER.ink)
        for axes, chart in zip(np.ravel(below.subplots(rows, columns, squeeze=False)), charts, strict=False):
            chart.draw(axes, PAPER)
            axes.set_title(short(chart.title, 50), loc="left", color=PAPER.ink, pad=chart.headroom)
        for axes in below.axes[len(charts) :]:
            axes.remove()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
