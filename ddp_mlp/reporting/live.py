"""A run seen live in a terminal: how far it is, and its curves in dots (Braille signs), drawn with rich.

Invariants: nothing is wider than the terminal; where there are no colours, lines differ by their names alone.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ddp_mlp.errors import printable
from ddp_mlp.parallel.terminal import Terminal
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.run_dir.narrator import Narrator, duration, number

STYLES = {"train": "bright_blue", "valid": "bright_yellow"}
ROWS = 9
"""Lines of a curve."""
SIDE_BY_SIDE = 100
"""Columns from which two curves stand beside each other."""
LOGARITHMIC = 30.0
"""A loss that falls by more than this is shown on a logarithmic axis."""
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Of a Braille sign, by row and column (Unicode 15, chapter 21.1)."""

Points = Sequence[tuple[float, float]]


class LiveView:
    """What is known of a run, kept up to date on a terminal between `open` and `close`."""

    def __init__(self, terminal: Terminal) -> None:
        self._console = Console(width=terminal.columns, no_color=not terminal.colours, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)
        self._start: Event = {}
        self._last: Event = {}
        self._curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
        self._narrator = Narrator()
        self._head: list[str] = []
        self.said: list[str] = []
        """What is told of the last event that was no step: of the end, say."""

    def __enter__(self) -> "LiveView":
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def show(self, events: Sequence[Event]) -> None:
        """Take new events of a run, and draw. Raises KeyError, TypeError, ValueError for one that is not of a run."""
        for event in events:
            self._take(event)
        if self._start:
            self._live.update(self.picture(), refresh=True)

    def _take(self, event: Event) -> None:
        lines = self._narrator.lines(event)
        self.said = lines if event["event"] != "step" else self.said
        if event["event"] == "start":
            self._start, self._head = event, lines
            if event["step"] == 0:
                self._curves = {}
        if not self._start:
            return
        self._last = event
        epoch = event["step"] / self._start["steps_per_epoch"]
        for figure in ("loss", "accuracy", "r2"):
            for split in ("train", "valid"):
                value = event.get(f"{split}_{figure}")
                if event["event"] == "epoch" and isinstance(value, int | float) and math.isfinite(value):
                    line = self._curves.setdefault(figure, {}).setdefault(split, [])
                    while line and line[-1][0] >= epoch:  # a resume goes back
                        line.pop()
                    line.append((epoch, float(value)))

    @property
    def final(self) -> Event | None:
        """The final event, once it has come."""
        return self._last if self._last.get("event") == "final" else None

    def picture(self) -> Group:
        """Return what is drawn: what is trained, how far it is, the curves."""
        width = self._console.width
        beside = width >= SIDE_BY_SIDE and len(self._curves) > 1
        curves: Any = []
        for figure, lines in self._curves.items():
            room = (width // 2 if beside else width) - 4
            title = {"loss": "loss", "r2": "R²"}.get(figure, figure)
            drawn = Text("\n").join(curve(lines, room, ROWS, logarithmic=figure == "loss"))
            curves.append(Panel(Group(legend(lines), drawn), title=title, title_align="left", border_style="dim"))
        if beside:
            table = Table.grid(expand=True)
            for _ in curves:
                table.add_column(ratio=1)
            table.add_row(*curves)
            curves = [table]
        return Group(*(Text(printable(line), overflow="fold") for line in self._head), *curves, self._progress(width))

    def _progress(self, width: int) -> Text:
        """Return a bar of steps, with the time left."""
        start, last = self._start, self._last
        total = max(1, start["total_steps"])
        done = min(1.0, last["step"] / total)
        passed, made = last["seconds"] - start["seconds"], last["step"] - start["step"]
        left = f", {duration(passed / made * (total - last['step']))} left" if made > 0 and done < 1 else ""
        words = f" step {last['step']:,} of {total:,}{left}"
        ends = {"final": last.get("ended"), "interrupted": last.get("reason"), "failed": "failed"}
        if last["event"] in ends:
            words = f" step {last['step']:,} of {total:,}, {ends[last['event']]}"
        room = max(10, width - len(words) - 1)
        filled = round(done * room)
        return Text("━" * filled, "green") + Text("━" * (room - filled), "dim") + Text(words)


def legend(lines: Mapping[str, Points]) -> Text:
    """Return the names of lines, each with its last value."""
    found = Text()
    for name, points in lines.items():
        found += Text(f"{name} {number(points[-1][1])}  ", STYLES[name])
    return found


def curve(lines: Mapping[str, Points], columns: int, rows: int, logarithmic: bool = False) -> list[Text]:
    """Return lines of points as `rows` lines of text, an axis at the left and below; later lines lie on top."""
    values = [y for points in lines.values() for _, y in points]
    low, high = min(values), max(values)
    scale = math.log if logarithmic and low > 0 and high > LOGARITHMIC * low else float
    labels = [number(high), number(low)]
    room = max(map(len, labels))
    width = max(4, columns - room - 1)
    bottom, height = scale(low), (scale(high) - scale(low)) or 1.0
    last = max(x for points in lines.values() for x, _ in points) or 1.0
    signs, styles = [[0] * width for _ in range(rows)], [[""] * width for _ in range(rows)]
    for name, points in lines.items():
        for x, y in _joined([(x / last, (scale(y) - bottom) / height) for x, y in points], 2 * width):
            across = min(2 * width - 1, round(x * (2 * width - 1)))
            down = min(4 * rows - 1, round((1 - y) * (4 * rows - 1)))
            signs[down // 4][across // 2] |= DOTS[down % 4][across % 2]
            styles[down // 4][across // 2] = STYLES[name]
    drawn = []
    for row in range(rows):
        label = labels[0] if row == 0 else labels[1] if row == rows - 1 else ""
        line = Text(f"{label:>{room}}│", "dim")
        for sign, style in zip(signs[row], styles[row], strict=True):
            line.append(chr(0x2800 + sign) if sign else " ", style)
        drawn.append(line)
    end = f"epoch {last:g}"
    return [*drawn, Text(f"{' ' * room}└0{end:─>{width - 1}}", "dim")]


def _joined(points: Points, steps: int) -> list[tuple[float, float]]:
    """Return points between 0 and 1 with others on the straight lines between them, as dense as there are dots."""
    found = list(points[:1])
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(1, math.ceil(steps * max(x1 - x0, abs(y1 - y0))))
        found += [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(1, count + 1)]
    return found
