"""The figures of a report, drawn with matplotlib; each says in words what it shows.

A chart is drawn in the colours of a `Palette`. For the page they are names that style sheets resolve (`to_svg`), so
that one drawing serves light, dark and print; for a picture file they are plain colours.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from ddp_mlp.reporting.names import legible
from ddp_mlp.reporting.runs import RunLog

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
ABOVE: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
"""A legend's place, out of the way of the data."""
LEGEND_POINTS = 44.0
SHORT_LABEL = 12
"""Characters of a label, three of which stand beside one another."""


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
    """One figure: `draw` fills an Axes, or those of a stack, in a palette's colours."""

    title: str
    text: str
    """What it shows, in words, for those who do not see it."""
    draw: Callable[[Any, Palette], Any]
    size: tuple[float, float] = SIZE
    headroom: float = 6.0
    """Points between the axes and a title, where the chart has a legend above."""
    stack: tuple[float, ...] = ()
    """Heights of panels above one axis, where there are several: `draw` then fills a list of Axes."""


def run_handles(runs: Sequence[RunLog], palette: Palette) -> list[Line2D]:
    """Return what names the runs in a legend."""
    return [
        Line2D([], [], color=palette.run(number), linewidth=3, label=short(run.name, 20))
        for number, run in enumerate(runs)
    ]


def name_above(axes: Axes, palette: Palette, handles: Sequence[Line2D] | None = None) -> None:
    """Name the lines, or handles, above the axes: three beside one another, or two where a name is long."""
    found: list[Any] = list(handles) if handles is not None else axes.get_legend_handles_labels()[0]
    longest = max((len(str(handle.get_label())) for handle in found), default=0)
    axes.legend(handles=found, labelcolor=palette.ink, **ABOVE | {"ncols": 3 if longest <= SHORT_LABEL else 2})


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


def short(name: str, length: int) -> str:
    """Return a name fit for a label: printable, of limited length, and not taken for TeX."""
    name = legible(name)
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")


def fill(figure: FigureBase, chart: Chart, palette: Palette) -> Axes:
    """Draw a chart on an empty figure, or a part of one; return its first Axes."""
    if not chart.stack:
        axes: Axes = figure.add_subplot()
        chart.draw(axes, palette)
        return axes
    parts: Any = figure.subplots(len(chart.stack), 1, sharex=True, gridspec_kw={"height_ratios": chart.stack})
    stacked: list[Axes] = list(parts) if len(chart.stack) > 1 else [parts]
    chart.draw(stacked, palette)
    return stacked[0]


def style(more: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return a context in which all is drawn in this program's style, whatever a matplotlibrc of the user's says."""
    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, **STYLE, **more}
    del settings["backend"]
    return matplotlib.rc_context(settings)


def to_svg(chart: Chart, prefix: str) -> str:
    """Return a chart as an SVG element for a page: ids begin with `prefix`, colours are the page's variables."""
    with style({"svg.hashsalt": prefix}), warnings.catch_warnings():
        # the browser shows the text, in fonts of its own
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure = Figure(figsize=chart.size, layout="constrained")
        figure.patch.set_visible(False)
        fill(figure, chart, NAMES)
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
