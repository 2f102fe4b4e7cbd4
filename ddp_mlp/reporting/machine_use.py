"""How the machine was used: where the time of a step went, how fast examples went, and which rank waited for others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ddp_mlp.reporting.charts import ABOVE, LEGEND_POINTS, Chart, Palette, dress, name_above, run_handles, short
from ddp_mlp.reporting.runs import RunLog


def machine_charts(runs: Sequence[RunLog]) -> list[Chart]:
    """Return the charts that the journals have figures for."""
    return [chart for chart in (_phases(runs), _rate(runs), _waiting(runs)) if chart is not None]


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
        axes.set_yticks(range(len(told)), [short(run.name, 14) for run, _ in told] if len(told) > 1 else [""])
        axes.set_ylim(len(told) - 0.5 + 0.4, -0.5 - 0.4)  # the first run on top
        axes.set_xlabel("% of rank 0's time")
        axes.set_xlim(0, 100)
        axes.legend(labelcolor=palette.ink, **ABOVE | {"ncols": 4, "handlelength": 1.2, "columnspacing": 1.2})
        dress(axes, palette, grid=False)

    text = f"Share of rank 0's time per phase. {'; '.join(words)}."
    height = 1.5 + 0.3 * len(told)
    return Chart("Time per phase", text, draw, (4.4, height), headroom=LEGEND_POINTS)


def _rate(runs: Sequence[RunLog]) -> Chart | None:
    """Return the chart of examples per second, epoch by epoch."""
    told = [(number, run, *run.series("epoch", "examples_per_second")) for number, run in enumerate(runs)]
    told = [line for line in told if len(line[3]) > 1]
    if not told:
        return None
    words = [f"{run.name} {np.median(rates):,.0f} in the middle" for _, run, _, rates in told]

    def draw(axes: Axes, palette: Palette) -> None:
        for number, _, epochs, rates in told:
            axes.plot(epochs, rates, color=palette.run(number), linewidth=1.4)
        axes.set_ylim(0, 1.05 * max(float(rates.max()) for *_, rates in told))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        if len(runs) > 1:
            name_above(axes, palette, run_handles(runs, palette))
        dress(axes, palette)

    text = f"Examples per second in each epoch: {'; '.join(words)}."
    return Chart("Examples per second", text, draw, headroom=LEGEND_POINTS if len(runs) > 1 else 6.0)


def _waiting(runs: Sequence[RunLog]) -> Chart | None:
    """Return the chart of how long each rank has waited for the others, of runs that have others."""
    told = [(number, run, run.waiting_by_rank()) for number, run in enumerate(runs) if run.start["ranks"] > 1]
    told = [line for line in told if line[2]]
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
        most = max(len(waited) for *_, waited in told)
        axes.set_xlim(-0.6, most - 0.4)
        step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, most) if most <= 12 * step)
        axes.set_xticks(range(0, most, step))
        axes.set_xlabel("rank")
        axes.set_ylabel("seconds")
        if len(runs) > 1:
            name_above(axes, palette, run_handles(runs, palette))
        dress(axes, palette)

    text = f"Seconds that each rank waited for the others. {'; '.join(words)}."
    headroom: Any = LEGEND_POINTS if len(runs) > 1 else 6.0
    return Chart("Who waited", text, draw, (4.4, 2.2), headroom=headroom)
