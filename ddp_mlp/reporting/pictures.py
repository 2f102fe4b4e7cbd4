"""A report as one picture: all charts below a few lines of text, in fonts that have the letters or as numbers."""

import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from ddp_mlp.reporting.charts import PAPER, Chart, Palette, dress, fill, short, style
from ddp_mlp.reporting.matrix import LABELLED, RIGHT, WRONG, opacity, shares_of
from ddp_mlp.reporting.outcome import ClassOutcome, picture
from ddp_mlp.reporting.runs import RunLog

NUMBERED = 12
SPELLED = 17
"""The most characters of a label with letters as numbers: two letters, and that there are more."""


def confusion_chart(run: RunLog, outcome: ClassOutcome, title: str = "Confusion matrix") -> Chart:
    """Return the chart of which classes the model predicts for which."""
    n, text = len(outcome.classes), outcome.matrix_in_words(run.name)

    def draw(axes: Axes, palette: Palette) -> None:
        wrong = ~np.eye(n, dtype=bool)
        colours = np.zeros((n, n, 4))
        colours[..., :3] = to_rgba(RIGHT)[:3]
        colours[wrong, :3] = to_rgba(WRONG)[:3]
        colours[..., 3] = opacity(shares_of(outcome.confusion), wrong)
        axes.imshow(colours, interpolation="nearest")
        if n <= NUMBERED:
            for i, k in zip(*np.nonzero(outcome.confusion), strict=True):
                axes.text(k, i, str(outcome.confusion[i, k]), ha="center", va="center", fontsize=7.5, color=palette.ink)
        if n <= LABELLED:
            names = [short(name, 12) for name in outcome.classes]
            upright = n > NUMBERED or max(map(len, names)) > 2
            points = 7.5 if n <= NUMBERED else 6
            axes.set_xticks(range(n), names, fontsize=points, rotation=90 if upright else 0)
            axes.set_yticks(range(n), names, fontsize=points)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        dress(axes, palette, grid=False)

    return Chart(title, text, draw, (4.4, 4.1))


def mistakes_chart(run: RunLog, outcome: ClassOutcome, shape: Sequence[int], columns: int = 6, rows: int = 2) -> Chart:
    """Return the chart of the most confident mistakes, drawn as pictures."""
    shown = outcome.mistakes[: columns * rows]
    names = outcome.classes
    words = [f"row {m.row}: {names[m.label]} predicted {names[m.predicted]} ({m.probability:.3f})" for m in shown]

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


def to_png(charts: Sequence[Chart], title: str, lines: Sequence[str]) -> bytes:
    """Return all charts as one PNG file, below a title and a few lines of text."""
    columns = 2 if len(charts) > 1 else 1
    rows = max(1, math.ceil(len(charts) / columns))
    head = 0.45 + 0.2 * len(lines)
    heights = [max(_height(chart) for chart in charts[row * columns : (row + 1) * columns]) for row in range(rows)]
    families, missing = fonts_for("".join([title, *lines, *_texts(charts)]))
    with style({"font.family": families}):
        figure = Figure(figsize=(6.4 * columns, head + sum(heights)), layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(2, 1, height_ratios=[head, sum(heights)])
        top, below = parts
        top.text(0.02, 0.95, short(title, 100), va="top", fontsize=13, color=PAPER.ink)
        top.text(0.02, 0.55, "\n".join(short(line, 150) for line in lines), va="top", fontsize=9, color=PAPER.ink)
        places = np.ravel(below.subfigures(rows, columns, squeeze=False, height_ratios=heights))
        for place, chart in zip(places, charts, strict=False):
            axes = fill(place, chart, PAPER)
            if not chart.stack:
                axes.set_title(short(chart.title, 50), loc="left", color=PAPER.ink, pad=chart.headroom)
        if missing:
            _spell(figure, missing)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _height(chart: Chart) -> float:
    """Return the inches of a chart that is 6.4 wide."""
    return chart.size[1] if chart.stack else 3.6


def _texts(charts: Sequence[Chart]) -> list[str]:
    """Return what charts write: they are drawn for it."""
    found = [chart.title for chart in charts]
    for chart in charts:
        figure = Figure()
        fill(figure, chart, PAPER)
        found += [text.get_text() for text in figure.findobj(Text)]
        found += [label.get_text() for axis in figure.findobj(Axis) for label in axis.get_ticklabels()]
    return found


def fonts_for(text: str) -> tuple[list[str], frozenset[str]]:
    """Return the families of this machine for the text, the usual one first, and the letters that none has."""
    families = ["DejaVu Sans"]
    missing = {letter for letter in text if letter.isprintable() and ord(letter) not in _letters(families[0])}
    for family in _families():
        have = {letter for letter in missing if ord(letter) in _letters(family)}
        if have:
            families.append(family)
            missing -= have
    return families, frozenset(missing)


def spelled(text: str, missing: frozenset[str]) -> str:
    """Return a text in which letters that have no glyph stand as their numbers, such as <U+72AC>."""
    return "".join(f"<U+{ord(letter):04X}>" if letter in missing else letter for letter in text)


def _spell(figure: Figure, missing: frozenset[str]) -> None:
    """Put numbers in the place of letters without a glyph, in all that the figure says."""
    for axis in figure.findobj(Axis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if missing & set("".join(labels)):
            axis.set_ticks(axis.get_ticklocs(), [_cut(spelled(label, missing)) for label in labels])
    for found in figure.findobj(Text):
        found.set_text(spelled(found.get_text(), missing))


def _cut(label: str) -> str:
    return label if len(label) <= SPELLED else label[: SPELLED - 1] + "…"


@cache
def _files() -> dict[str, str]:
    """Return the file of each family that has upright letters of normal weight and width; others warn when used."""
    return {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if (entry.style, entry.weight, entry.stretch) == ("normal", 400, "normal")
        and not entry.name.startswith("Last Resort")  # has a box for every letter
    }


def _families() -> tuple[str, ...]:
    return tuple(sorted(_files()))


@cache
def _letters(family: str) -> frozenset[int]:
    """Return the code points that a family has glyphs for; none where its file cannot be read."""
    try:
        return frozenset(font_manager.get_font(_files()[family]).get_charmap())
    except (KeyError, OSError, RuntimeError):
        return frozenset()
