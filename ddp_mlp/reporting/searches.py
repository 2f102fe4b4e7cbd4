"""A search on a report's page: the best trials, score against each setting, rungs, learning curves, time.

What is told comes from rows of trials.jsonl and events of search.jsonl, which the caller reads, and from the journals
of the best trials' own folders, where they are still there.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ddp_mlp.reporting.charts import LEGEND_POINTS, Chart, Palette, dress, name_above
from ddp_mlp.reporting.markup import escaped, figures_of, section, table
from ddp_mlp.run_dir.narrator import duration
from ddp_mlp.units import counted

SHOWN = 10
"""Trials in the table, and in the chart of learning curves."""
WIDE = 20.0
"""A setting whose largest value is so many times its least is shown on a logarithmic axis."""
LABELLED = 8
"""The most different values of a setting that are named on an axis."""


@dataclass(frozen=True)
class SearchLog:
    """What is known of a search."""

    folder: Path
    monitor: str
    largest: bool
    """Whether the largest scores are the best."""
    order: Sequence[int]
    """Trials with a score, the best first."""
    rows: Mapping[int, Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]

    def best(self) -> list[Mapping[str, Any]]:
        """Return the rows of the best trials."""
        return [self.rows[trial] for trial in self.order[:SHOWN]]

    def seconds(self, trial: int) -> float:
        """Return what all of a trial's trainings took."""
        entries = self.rows[trial]["rungs"]
        return math.fsum(fold["seconds"] for entry in entries for fold in entry["folds"] if fold)


def search_page(log: SearchLog) -> str:
    """Return the section of a search, HTML."""
    charts = [chart for chart in (_rungs(log), _curves(log), _parallel(log), *_settings(log), _times(log)) if chart]
    return section("Search", _words(log) + _best(log) + figures_of(charts, "search"))


def _words(log: SearchLog) -> str:
    states = [row["state"] for row in log.rows.values()]
    starts = [event for event in log.events if event["event"] == "start"]
    last = log.events[-1] if log.events else {}
    counts = {state: states.count(state) for state in ("finished", "stopped", "failed", "open") if state in states}
    words = [f"{counted(len(states), 'trial')}: {', '.join(f'{count:,} {state}' for state, count in counts.items())}"]
    if not states:
        words = ["no training has ended yet"]
    if failed := [row for row in log.rows.values() if row["state"] == "failed"]:
        words.append(f"the first that failed is trial {failed[0]['trial']}: {failed[0].get('reason')}")
    words.append(f"judged by {log.monitor}, {'the larger' if log.largest else 'the smaller'} the better")
    if starts:
        words.append(
            f"{counted(len(starts), 'start')}, the last on "
            f"{counted(starts[-1]['ranks'], 'rank')} in {counted(starts[-1]['groups'], 'group')}"
        )
    members = len(last.get("members", ()))
    if members > 1:
        words.append(f"the network on this page is the first of its {members} members")
    if "idle_share" in last:
        words.append(f"of its {duration(last['seconds'])}, ranks were idle {100 * last['idle_share']:.1f} %")
    return f"<p>{escaped('; '.join(words))}.</p>\n"


def _best(log: SearchLog) -> str:
    if not log.order:
        return ""
    keys = sorted({key for row in log.best() for key in row["settings"]})
    rows = [
        [row["trial"], f"{row['score']:.6g}", *(_shown(row["settings"].get(key, "")) for key in keys)]
        for row in log.best()
    ]
    return table(
        ["trial", log.monitor.replace("_", " "), *keys],
        rows,
        f"The best {counted(len(rows), 'trial') if len(rows) > 1 else 'trial'}",
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- charts ----------------------------------------------------------------------------------------------------------


def _rungs(log: SearchLog) -> Chart | None:
    """Return the scores of all trials at the rungs' epochs, where there are several rungs."""
    most = max((len(row["rungs"]) for row in log.rows.values()), default=0)
    if most < 2:
        return None
    counts = [sum(len(row["rungs"]) > rung for row in log.rows.values()) for rung in range(most)]
    text = "Scores of the trials at each rung; " + ", ".join(
        f"{counted(n, 'trial')} at rung {i + 1}" for i, n in enumerate(counts)
    )

    def draw(axes: Axes, palette: Palette) -> None:
        for row in log.rows.values():
            points = [(entry["epochs"], entry["score"]) for entry in row["rungs"] if entry["score"] is not None]
            first = bool(log.order) and row["trial"] == log.order[0]
            colour, width = (palette.run(0), 2.2) if first else (palette.ink, 0.7)
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker="o",
                markersize=4 if first else 2.5,
                color=colour,
                linewidth=width,
                alpha=1 if first else 0.35,
                zorder=3 if first else 2,
            )
        axes.set_xscale("log")
        ticks = sorted({entry["epochs"] for row in log.rows.values() for entry in row["rungs"] if entry["epochs"]})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("epochs")
        axes.set_ylabel(log.monitor.replace("_", " "))
        dress(axes, palette)

    return Chart("Rungs", text, draw)


def _curves(log: SearchLog) -> Chart | None:
    """Return the monitored figure of the best trials, epoch by epoch, each the mean over its folds."""
    curves = {row["trial"]: curve for row in log.best() if len(curve := _curve(log, row["trial"]))}
    if not curves:
        return None
    text = f"{log.monitor} of the best {len(curves)} trials by epoch: " + ", ".join(
        f"trial {trial} ends at {curve[-1]:.4g}" for trial, curve in curves.items()
    )

    def draw(axes: Axes, palette: Palette) -> None:
        for place, (trial, curve) in enumerate(curves.items()):
            axes.plot(
                range(1, len(curve) + 1),
                curve,
                color=palette.run(place),
                linestyle="-" if place < len(palette.runs) else "--",
                linewidth=2.2 if place == 0 else 1.1,
                label=f"trial {trial}",
            )
        name_above(axes, palette)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(log.monitor.replace("_", " "))
        dress(axes, palette)

    return Chart("Learning curves of the best", text, draw, headroom=LEGEND_POINTS)


def _curve(log: SearchLog, trial: int) -> NDArray[np.float64]:
    """Return a trial's monitored figure by epoch, the mean over its folds; empty where its journals are not there."""
    found: list[list[float]] = []
    for path in sorted(log.folder.glob(f"trials/{trial:05d}*/metrics.jsonl")):
        try:
            events = [json.loads(line) for line in path.read_text().splitlines()]
            found.append([float(event[log.monitor]) for event in events if event["event"] == "epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            return np.zeros(0)
    length = min(map(len, found), default=0)
    return np.mean([values[:length] for values in found], axis=0) if length else np.zeros(0)


def _parallel(log: SearchLog) -> Chart | None:
    """Return every trial as a line through its settings, the best ones in front."""
    axes_of = {key: _Axis.of(key, log) for key in _keys(log)}
    if len(axes_of) < 2:
        return None
    text = f"Every trial as a line through its settings {', '.join(axes_of)}; the best of them stand out"

    def draw(axes: Axes, palette: Palette) -> None:
        best = set(log.order[:SHOWN])
        for trial in reversed(log.order):
            settings = log.rows[trial]["settings"]
            heights = [axis.height(settings.get(key)) for key, axis in axes_of.items()]
            chosen, first = trial in best, trial == log.order[0]
            axes.plot(
                range(len(heights)),
                heights,
                color=palette.run(0) if chosen else palette.ink,
                linewidth=2.4 if first else 1.0,
                alpha=1.0 if first else 0.6 if chosen else 0.15,
            )
        for place, axis in enumerate(axes_of.values()):
            axes.axvline(place, color=palette.ink, linewidth=0.6)
            for height, label in axis.labels():
                axes.text(place + 0.03, height, label, fontsize=7.5, color=palette.ink, va="center")
        axes.set_xticks(range(len(axes_of)), list(axes_of), rotation=20, ha="right")
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(axes_of) - 0.5)
        dress(axes, palette, grid=False)

    return Chart("All settings", text, draw, size=(4.4, 3.6))


def _settings(log: SearchLog) -> list[Chart]:
    """Return a chart for each setting: the score of every trial that has it."""
    return [chart for key in _keys(log) if (chart := _setting(log, key)) is not None]


def _setting(log: SearchLog, key: str) -> Chart | None:
    axis = _Axis.of(key, log)
    points = [
        (axis.height(row["settings"][key]), row["score"], len(row["rungs"]))
        for trial in log.order
        if key in (row := log.rows[trial])["settings"]
    ]
    if len(points) < 2:
        return None
    best = _shown(log.rows[log.order[0]]["settings"].get(key, "not set"))
    text = f"{log.monitor} of {len(points)} trials against {key}; the best trial has {best}"

    def draw(axes: Axes, palette: Palette) -> None:
        x, y, rungs = (np.array(values, np.float64) for values in zip(*points, strict=True))
        axes.scatter(x, y, s=14 + 12 * (rungs - 1), color=palette.run(0), alpha=0.8, linewidths=0)
        labels = axis.labels()
        turned = 20 if len(labels) > 3 and max(len(label) for _, label in labels) > 4 else 0
        axes.set_xticks(
            [height for height, _ in labels],
            [label for _, label in labels],
            rotation=turned,
            ha="right" if turned else "center",
        )
        axes.set_xlabel(key)
        axes.set_ylabel(log.monitor.replace("_", " "))
        dress(axes, palette)

    return Chart(f"Score against {key}", text, draw)


def _times(log: SearchLog) -> Chart | None:
    """Return the seconds of each trial, over all its trainings, in the order of their numbers."""
    trials = [trial for trial, row in log.rows.items() if row["rungs"]]
    if not trials:
        return None
    seconds = [log.seconds(trial) for trial in trials]
    text = f"Seconds of training of each of {len(trials)} trials: from {min(seconds):.3g} to {max(seconds):.3g}"

    def draw(axes: Axes, palette: Palette) -> None:
        axes.bar(trials, seconds, color=palette.run(2), width=0.8)
        axes.set_xlabel("trial")
        axes.set_ylabel("seconds")
        dress(axes, palette)

    return Chart("Time per trial", text, draw)


def _keys(log: SearchLog) -> list[str]:
    keys = sorted({key for row in log.rows.values() for key in row["settings"]})
    return [key for key in keys if len({str(row["settings"].get(key)) for row in log.rows.values()}) > 1]


@dataclass(frozen=True)
class _Axis:
    """Where the values of a setting stand between 0 and 1: numbers, or names in their order."""

    values: Sequence[Any]
    """The least and the largest number; or all names."""
    numeric: bool
    log: bool

    @classmethod
    def of(cls, key: str, log: SearchLog) -> "_Axis":
        found = [row["settings"][key] for row in log.rows.values() if key in row["settings"]]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in found):
            lo, hi = min(found), max(found)
            return cls((lo, hi), numeric=True, log=lo > 0 and hi / lo >= WIDE)
        names = sorted({_shown(value) for value in found}, key=lambda name: (len(name), name))
        return cls(names, numeric=False, log=False)

    def height(self, value: Any) -> float:
        """Return where a value stands; a little below all for one that is not set."""
        if value is None:
            return -0.12
        if not self.numeric:
            return self.values.index(_shown(value)) / max(1, len(self.values) - 1)
        lo, hi = (math.log(v) if self.log else v for v in self.values)
        return float(((math.log(value) if self.log else value) - lo) / (hi - lo or 1))

    def labels(self) -> list[tuple[float, str]]:
        """Return some places and what stands there."""
        if not self.numeric:
            step = max(1, -(-len(self.values) // LABELLED))
            return [(self.height_of_name(i), name) for i, name in enumerate(self.values) if i % step == 0]
        lo, hi = self.values
        middle = math.sqrt(lo * hi) if self.log else (lo + hi) / 2
        return [(0.0, f"{lo:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{hi:.3g}")]

    def height_of_name(self, place: int) -> float:
        """Return where the name of this place stands."""
        return place / max(1, len(self.values) - 1)
