"""Tests of the clock of a step's phases."""

import json
from pathlib import Path

import pytest

from ddp_mlp.errors import StorageError
from ddp_mlp.training import phases
from ddp_mlp.training.phases import Phases, write_trace


def test_every_moment_belongs_to_one_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases follow one another without gaps; laps of different names do not disturb one another."""
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(phases, "perf_counter", lambda: next(times))
    clock = Phases()
    clock.enter("gather")
    clock.enter("forward")
    first = clock.lap("a")
    assert {name: value for name, value in first.items() if value} == {"between": 1, "gather": 2, "forward": 3}
    clock.enter("between")
    second = clock.lap("a")
    assert {name: value for name, value in second.items() if value} == {"forward": 4, "between": 5}


def test_processor_time_is_that_of_phases_that_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted once it is asked for, without waiting and what lies between steps, anew after each question."""
    times = iter([0.0, 5.0, 7.0, 7.5, 17.0, 18.0, 20.0])
    monkeypatch.setattr(phases, "thread_time", lambda: next(times))
    clock = Phases()
    clock.enter("forward")
    assert clock.computed() is None
    clock.enter("between")
    clock.count_processor()  # 0
    clock.enter("forward")  # 5
    clock.enter("update")  # 7: 2 of forward
    clock.enter("waiting")  # 7.5: 0.5 of update
    clock.enter("sum")  # 17
    assert clock.computed() == 2 + 0.5 + 1  # 18: 1 of sum
    assert clock.computed() == 2.0  # 20: 2 of sum


def test_a_trace_is_a_chrome_trace_of_all_ranks(tmp_path: Path) -> None:
    """Each rank's clock is shifted by its own zero; times are microseconds from the first phase on."""
    rank_0 = [("between", 0.0, 1.0), ("gather", 1.0, 2.0)]
    rank_1 = [("gather", 101.5, 103.0)]
    write_trace(tmp_path / "trace.json", [rank_0, rank_1], zero=[10.0, 110.0])
    events = [e for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["tid"], e["ts"], e["dur"]) for e in events] == [
        ("gather", 0, 0.0, 1e6),
        ("gather", 1, 0.5e6, 1.5e6),
    ]


def test_a_trace_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The path and the remedy are named."""
    with pytest.raises(StorageError, match=r"trace = .*cannot be written.*choose another"):
        write_trace(tmp_path / "no" / "trace.json", [], [])
