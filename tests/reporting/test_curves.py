"""Training curves and the use of the machine: which lines there are, how they are drawn, what their words say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.run_dir.journal import make_event
from tests.events import START

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from ddp_mlp.reporting import charts, figures
from ddp_mlp.reporting.curves import loss_words, training_charts
from ddp_mlp.reporting.machine_use import machine_charts
from ddp_mlp.reporting.runs import RunLog, seeds


def run_of(name: str = "one", epochs: int = 4, steps: int = 1, ranks: int = 1, **changes: Any) -> RunLog:
    """Return a run of `epochs` epochs of 12 steps, with so many step events in each."""
    start = {
        **START,
        "fingerprint": {},
        "ranks": ranks,
        "config": {**START["config"], "log_every": 12 // steps, **changes},
    }
    events: list[dict[str, Any]] = [start]
    for epoch in range(1, epochs + 1):
        for k in range(1, steps + 1):
            step = 12 * (epoch - 1) + 12 * k // steps
            events.append(
                make_event("step", step, epoch - 1, step, loss=1 / step, learning_rate=0.1, gradient_norm=step)
            )
        valid = {"valid_loss": 2 / epoch, "valid_accuracy": 0.5}
        waited = {"waiting_by_rank": [float(rank) for rank in range(ranks)]}
        rates = {"examples_per_second": 100.0 * epoch}
        events.append(
            make_event("epoch", 12 * epoch, epoch, 12 * epoch, train_loss=1 / epoch, **valid, **waited, **rates)
        )
    final = {"ended": "epochs", "best_epoch": 3, "valid_accuracy": 0.5, "parameters_sha256": "ab" * 32}
    events.append(make_event("final", 12 * epochs, epochs, 12 * epochs, **final))
    return RunLog(Path(name), name, events)


def drawn(chart: charts.Chart) -> Any:
    """Draw a chart and return its Axes."""
    figure = Figure(figsize=chart.size)
    charts.fill(figure, chart, charts.PAPER)
    return figure.axes


def test_panels_share_an_axis_and_say_what_is_best() -> None:
    """Loss, accuracy and gradient norm stand above one axis of epochs; a learning rate that never changes does not."""
    wide, narrow = training_charts([run_of()])
    assert wide.size[0] > 2 * narrow.size[0]
    axes = drawn(wide)
    assert [part.get_title(loc="left") for part in axes] == ["Loss", "Accuracy", "Gradient norm"]
    assert len({part.get_xlim() for part in axes}) == 1
    assert [text.get_text() for text in axes[0].texts] == ["best: epoch 3"]
    point = axes[0].lines[-1]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (3, 2 / 3)
    assert "Best: one epoch 3." in wide.text
    assert "train from 1 to 0.25" in wide.text


@pytest.mark.parametrize(("steps", "shown"), [(1, False), (3, True)])
def test_single_steps_where_there_are_enough(steps: int, shown: bool) -> None:
    """Step losses lie faintly behind the epochs', with their name, where there are at least two in an epoch."""
    axes = drawn(training_charts([run_of(steps=steps)])[0])
    faint = [line for line in axes[0].lines if line.get_alpha() == 0.45]
    assert bool(faint) is shown
    names = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert ("train, means of 4 steps" in names) is shown


def test_runs_that_are_the_same_remain_visible() -> None:
    """Of three runs with one curve, each later one is thinner and lies on top."""
    axes = drawn(training_charts([run_of(name) for name in "abc"])[0])
    lines = [line for line in axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] - widths[1] > 0.8
    assert widths[1] - widths[2] > 0.8
    orders = [line.get_zorder() for line in lines]
    assert orders == sorted(orders)
    assert len(set(orders)) == 3


def test_weighted_loss_says_so() -> None:
    """What weighs the loss is in its name."""
    assert loss_words([run_of()]) == "Loss"
    assert loss_words([run_of(class_weight="balanced"), run_of()]) == "Loss, weighted by class"
    weighted = run_of(label_smoothing=0.1)
    weighted.start["data"] = {**weighted.start["data"], "weighted": True}
    assert loss_words([weighted]) == "Loss, weighted by row; of train with smoothed labels"


def test_who_waited_only_where_there_are_others() -> None:
    """One rank has no chart of waiting; four have one bar each at whole numbers."""
    assert [chart.title for chart in machine_charts([run_of()])] == ["Examples per second"]
    rate, waiting = machine_charts([run_of(ranks=4)])
    assert (rate.title, waiting.title) == ("Examples per second", "Who waited")
    [axes] = drawn(waiting)
    assert [bar.get_height() for bar in axes.patches] == [0, 4, 8, 12]
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]


def test_spread_over_seeds() -> None:
    """Runs that differ by their seed alone are one group, with mean and deviation by hand."""
    runs = [run_of("a", seed=0), run_of("b", seed=1), run_of("c", seed=2, hidden=[3])]
    for run, accuracy in zip(runs, (0.90, 0.94, 0.5), strict=True):
        assert run.final is not None
        run.final["valid_accuracy"] = accuracy
    assert [[run.name for run in group] for group in seeds([*runs, run_of("b again", seed=1)])] == [["a", "b"]]
    assert "92.00 ± 2.83 %" in figures.spread(runs)
    assert figures.spread(runs[1:]) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3.46, "3.5 seconds"),
        (0.042, "0.042 seconds"),
        (61, "1 minute 1 second"),
        (3600, "1 hour"),
        (200_000, "2 days 7 hours"),
        (59.7, "1 minute"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    """A time has two units at most."""
    assert figures.duration_in_words(seconds) == words


def test_cards_begin_with_the_result() -> None:
    """The most telling figure comes first; rows, best epoch and time are told in words."""
    page = figures.cards(run_of(ranks=4))
    assert (
        page.index("50.00%") < page.index("1,437 rows") < page.index("epoch 3") < page.index("of training on 4 ranks")
    )
    assert "validation accuracy" in page


def test_cards_of_a_run_that_has_hardly_begun() -> None:
    """Where something is held out it is said that no epoch has ended; one of a thing is one thing."""
    data: dict[str, Any] = {"rows": {"train": 7, "valid": 2}, "features": 1, "targets": ["y"]}
    run = run_of()
    begun = replace(run, events=[{**run.start, "data": data}])
    page = figures.cards(begun)
    assert "no epoch has ended" in page
    assert "1 feature, 1 target<" in page
    del data["rows"]["valid"]
    assert "nothing held out" in figures.cards(begun)
