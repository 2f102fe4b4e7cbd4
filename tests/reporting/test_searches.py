"""A search on the report's page: what its table and charts say."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from ddp_mlp.reporting import searches
from ddp_mlp.reporting.charts import PAPER, fill
from ddp_mlp.reporting.searches import SearchLog, search_page


def row(trial: int, scores: list[float | None], **settings: Any) -> dict[str, Any]:
    """Return a trial's line, with one fold and a rung for each score."""
    rungs = [
        {"epochs": 3**i, "score": score, "folds": [{"score": score, "seconds": 1.5}]} for i, score in enumerate(scores)
    ]
    state = "failed" if scores[-1] is None else "finished" if len(scores) == 2 else "stopped"
    found = {"trial": trial, "settings": settings, "state": state, "score": scores[-1], "rungs": rungs}
    return found | ({"reason": "the loss is nan"} if state == "failed" else {})


def journal(losses: list[float]) -> str:
    """Return the journal of a trial with these losses of its epochs."""
    return "".join(f'{{"event": "epoch", "valid_loss": {loss}}}\n' for loss in losses)


@pytest.fixture
def log(tmp_path: Path) -> SearchLog:
    """Four trials on two rungs, one of which failed, and the journal of the best."""
    rows = [
        row(0, [0.9], hidden=[32], learning_rate=1e-4, optimizer="adam"),
        row(1, [0.5, 0.25], hidden=[64, 32], learning_rate=1e-2, optimizer="<b>sgd"),
        row(2, [0.7, 0.4], hidden=[64], learning_rate=1e-3, optimizer="adam"),
        row(3, [None], hidden=[64], learning_rate=1.0, optimizer="adam"),
    ]
    folder = tmp_path / "trials" / "00001"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(
        '{"event": "epoch", "valid_loss": 0.5}\n{"event": "final", "valid_loss": 0.25}\n'
    )
    events = [
        {"event": "start", "ranks": 4, "groups": 2, "idle": 0},
        {"event": "final", "seconds": 75.0, "idle_share": 0.125},
    ]
    return SearchLog(tmp_path, "valid_loss", False, [1, 2, 0], {found["trial"]: found for found in rows}, events)


def test_the_words_say_what_was_tried(log: SearchLog) -> None:
    """How many trials ended how, on how many ranks, and how long these were idle."""
    page = search_page(log)
    assert "4 trials: 2 finished, 1 stopped, 1 failed" in page
    assert "the last on 4 ranks in 2 groups" in page
    assert "of its 0:01:15, ranks were idle 12.5 %" in page


def test_the_table_has_the_best_first(log: SearchLog) -> None:
    """Trials by score, those that came further before the others; names are escaped."""
    table = search_page(log).split("</table>")[0]
    assert re.findall(r"<tr><th[^>]*>(\d)</th>", table) == ["1", "2", "0"]
    assert "64-32" in table
    assert "&lt;b&gt;sgd" in table
    assert "<b>sgd" not in table


def test_every_chart_says_what_it_shows(log: SearchLog) -> None:
    """Rungs, learning curves, all settings, one for each setting, and time."""
    page = search_page(log)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles == [
        "Rungs",
        "Learning curves of the best",
        "All settings",
        "Score against hidden",
        "Score against learning_rate",
        "Score against optimizer",
        "Time per trial",
    ]
    texts = re.findall(r'aria-label="(.*?)"', page)
    assert texts[0] == "Scores of the trials at each rung; 4 trials at rung 1, 2 trials at rung 2"
    assert texts[1] == "valid_loss of the best 1 trials by epoch: trial 1 ends at 0.5"
    assert texts[4] == "valid_loss of 3 trials against learning_rate; the best trial has 0.01"
    assert texts[6] == "Seconds of training of each of 4 trials: from 1.5 to 3"


def test_a_search_that_has_hardly_begun_has_a_page(tmp_path: Path) -> None:
    """No score, no event, one trial."""
    page = search_page(SearchLog(tmp_path, "valid_accuracy", True, [], {0: row(0, [None], seed=1)}, []))
    assert "1 trial: 1 failed; the first that failed is trial 0: the loss is nan; judged by valid_accuracy" in page
    assert "The best" not in page
    page = search_page(SearchLog(tmp_path, "valid_accuracy", True, [], {}, []))
    assert "no training has ended yet; judged by valid_accuracy, the larger the better" in page


def test_the_page_says_which_member_it_shows(log: SearchLog) -> None:
    """Where a search has several; the table is headed by how many trials it shows."""
    assert "member" not in search_page(log)
    final = {**log.events[-1], "members": [{}, {}, {}]}
    page = search_page(replace(log, events=[final], order=[1]))
    assert "the network on this page is the first of its 3 members" in page
    assert "The best trial<" in page
    assert "The best 3 trials<" in search_page(log)


def test_learning_curves_are_named_out_of_their_way(log: SearchLog) -> None:
    """Epochs are whole, and the names of the lines stand above them, never on them."""
    (log.folder / "trials" / "00001" / "metrics.jsonl").write_text(journal([0.5, 0.3, 0.25]))
    chart = searches._curves(log)
    assert chart is not None
    figure = Figure(layout="constrained")
    axes = fill(figure, chart, PAPER)
    figure.draw_without_rendering()
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
    assert [tick % 1 for tick in axes.get_xticks()] == [0] * len(axes.get_xticks())
