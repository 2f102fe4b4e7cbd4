"""The live view of a run: dots where the points are, nothing wider than the terminal, and a resume goes back."""

import io
from typing import Any

import pytest

from ddp_mlp.parallel.terminal import Terminal
from ddp_mlp.run_dir.journal import make_event
from tests.events import START

pytest.importorskip("rich")

from rich.console import Console

from ddp_mlp.reporting.live import DOTS, LiveView, curve


def epoch(number: int, **figures: float | str) -> dict[str, Any]:
    """Return the end of an epoch of 12 steps, each of a second."""
    return make_event("epoch", 12 * number, number, 12.0 * number, examples_per_second=1e3, **figures)


def printed(view: LiveView, columns: int) -> list[str]:
    """Return the lines of what the view shows."""
    shown = io.StringIO()
    console = Console(file=shown, width=columns, no_color=True)
    console.print(view.picture())
    return shown.getvalue().splitlines()


def test_dots_lie_on_the_line() -> None:
    """A straight line from the lower left to the upper right sets the dots of the diagonal, and none far from it."""
    text = curve({"train": [(0, 0.0), (1, 1.0)]}, columns=7 + 4, rows=2)
    lines = [line.plain.partition("│")[2] for line in text[:2]]
    dots = set()
    for row, line in enumerate(lines):
        for column, sign in enumerate(line):
            mask = ord(sign) - 0x2800 if sign != " " else 0
            dots |= {
                (4 * row + y, 2 * column + x) for y in range(4) for x in range(2) if sign != " " and mask & DOTS[y][x]
            }
    assert dots >= {(7 - step, step) for step in range(8)}
    assert all(abs(row + column - 7) <= 1 for row, column in dots)
    assert text[0].plain.startswith("1.0000│")
    assert text[1].plain.startswith("0.0000│")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_what_is_seen_of_a_run(columns: int) -> None:
    """Head, curves with their last values, and how far the run is, fit the terminal; NaN is left out."""
    view = LiveView(Terminal(columns, colours=False))
    view.show([START, epoch(1, train_loss=2.0, train_accuracy=0.25, valid_loss="nan")])
    view.show([epoch(2, train_loss=1.0, train_accuracy=0.5, valid_loss=3.0)])
    lines = printed(view, columns)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= columns
    assert "train 1.0000  valid 3.0000" in text
    assert "epoch 2" in text
    assert "step 24 of 360, 0:05:36 left" in text
    assert view.final is None
    panels = [line for line in lines if line.startswith("╭")]
    assert len(panels) == (1 if columns == 120 else 2)


def test_a_resume_goes_back() -> None:
    """Epochs that a resumed run does again take the place of those that it lost."""
    view = LiveView(Terminal(80, colours=False))
    view.show([START, *(epoch(k, train_loss=float(k)) for k in range(1, 6))])
    view.show([{**START, "step": 24, "epoch": 2, "resumed_from": "step-00000024.h5"}, epoch(3, train_loss=7.0)])
    assert "train 7.0000" in "\n".join(printed(view, 80))
    assert "epoch 3" in "\n".join(printed(view, 80))
    view.show([make_event("final", 360, 30, 360.0, ended="epochs", checkpoint="step-00000360.h5")])
    assert view.final is not None
    assert view.said[0].startswith("ended     by epochs: 360 steps")
