"""Tests of the journal's events in words."""

from ddp_mlp.run_dir.journal import make_event
from ddp_mlp.run_dir.narrator import Narrator, duration
from tests.events import START


def test_narrator() -> None:
    """Events come out as plain lines; the time left follows from the pace since the last start."""
    narrator = Narrator()
    lines = narrator.lines(START)
    assert lines[0] == "data      data/digits.h5: 1,437 train, 360 test; 64 features, 10 classes"
    assert "64-128-64-10" in lines[1]
    step = make_event("step", 90, 7, 30.0, loss=0.25, accuracy=0.875, examples_per_second=1234.5)
    assert narrator.lines(step) == ["step  90/360  loss 0.2500  accuracy 0.8750  1,234 examples/s  0:01:30 left"]
    narrator.lines({**START, "step": 90, "seconds": 30.0, "resumed_from": "step-00000090.h5"})
    step = make_event("step", 100, 8, 40.0, loss=0.25, accuracy=0.875, examples_per_second=1234.5)
    assert narrator.lines(step)[0].endswith("0:04:20 left")
    assert narrator.lines({"event": "of a later version"}) == []


def test_duration() -> None:
    """Times read as hours, minutes and seconds."""
    assert [duration(s) for s in (0, 59.6, 3600 * 27 + 61)] == ["0:00:00", "0:01:00", "27:01:01"]
