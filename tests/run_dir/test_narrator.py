"""Tests of the journal's events in words."""

from typing import Any

from ddp_mlp.run_dir.journal import make_event
from ddp_mlp.run_dir.narrator import Narrator, duration, epochs_between, result, result_on_screen
from tests.events import START


def test_narrator() -> None:
    """Events come out as plain lines; the time left follows from the pace since the last start."""
    narrator = Narrator()
    lines = narrator.lines(START)
    assert lines[0] == "data      data/digits.h5: 1,437 train, 360 test; 64 features, 10 classes"
    assert "64-128-64-10" in lines[1]
    step = make_event("step", 90, 7, 30.0, loss=0.25, accuracy=0.875, examples_per_second=1234.5)
    assert narrator.lines(step) == ["step  90/360  loss 0.2500  accuracy 0.8750  0:01:30 left  1,234 examples/s"]
    narrator.lines({**START, "step": 90, "seconds": 30.0, "resumed_from": "step-00000090.h5"})
    step = make_event("step", 100, 8, 40.0, loss=0.25, accuracy=0.875, examples_per_second=1234.5)
    assert "0:04:20 left" in narrator.lines(step, saved=1_234_567)[0]
    assert narrator.lines({"event": "of a later version"}) == []


def test_duration() -> None:
    """Times read as hours, minutes and seconds."""
    assert [duration(s) for s in (0, 59.6, 3600 * 27 + 61)] == ["0:00:00", "0:01:00", "27:01:01"]


def epoch(number: int, seconds: float, **figures: float | str) -> dict[str, Any]:
    """Return the end of an epoch."""
    return make_event("epoch", 12 * number, number, seconds, examples_per_second=1e5, **figures)


def test_many_epochs_are_thinned() -> None:
    """Of 1,000 fast epochs the first, every 50th and so the last are told; of slow ones, one after each half minute."""
    narrator = Narrator()
    start = {**START, "config": {**START["config"], "epochs": 1000}}
    narrator.lines(start)
    told = [n for n in range(1, 1001) if narrator.lines(epoch(n, n / 100, train_loss=0.5))]
    assert told == [1, *range(50, 1001, 50)]
    narrator.lines(start)
    assert [n for n in range(1, 5) if narrator.lines(epoch(n, 100.0 * n, train_loss=0.5))] == [1, 2, 3, 4]
    assert [epochs_between(n) for n in (1, 40, 41, 80, 81, 200, 201, 400, 401)] == [1, 1, 2, 2, 5, 5, 10, 10, 20]


def test_lines_fit_80_columns() -> None:
    """Whatever the figures, no line but one of a long path has more than 80 characters; the first matter most."""
    narrator = Narrator()
    crowd = {"host": "node-0123", "ranks": 64, "threads": 128, "cores": 48}
    data = {**START["data"], "notes": ["a note " * 30], "targets": [f"target {k}" for k in range(9)]}
    access = {"kind": "memory", "node_bytes": 2**40, "free_bytes": 2**41}
    data = {**data, "access": access}
    config = {**START["config"], "epochs": 100_000, "access": "auto"}
    lines = narrator.lines({**START, "crowded": crowd, "data": data, "config": config, "total_steps": 10**9})
    words = " ".join(" ".join(lines).split())
    assert "64 ranks with 2 threads each share 48 cores of node-0123: fewer ranks end with the same bits" in words
    figures = {f"{split}_{name}": 123.456 for split in ("train", "valid") for name in ("loss", "accuracy", "rmse")}
    lines += narrator.lines(epoch(100_000, 1.0, **figures))
    lines += narrator.lines(
        make_event("step", 999_999_999, 7, 3e6, loss=1e9, accuracy=0.5, examples_per_second=1e8), saved=999_999_000
    )
    assert max(map(len, lines)) <= 80
    assert "valid 123.4560" in lines[-2]
    assert "left" in lines[-1]


def test_what_sharing_cores_costs_is_told_once() -> None:
    """The hint at the start says what to do; what it costs comes behind the first epoch that was measured."""
    crowd = {"host": "one", "ranks": 16, "threads": 16, "cores": 1.5}
    hint = "16 ranks share 1.5 cores of one: fewer ranks"

    def hinted(**changes: Any) -> str:
        lines = Narrator().lines({**START, "crowded": crowd, "shards": 16, **changes})
        return next(line for line in " ".join(" ".join(lines).split()).split("          ") if hint in line)

    assert f"{hint} and --shards 16 end with the same bits, mostly sooner" in hinted()
    assert f"{hint} end with the same bits, mostly sooner" in hinted(shards=8)
    assert f"{hint} end mostly sooner" in hinted(config={**START["config"], "reduction": "allreduce"})
    assert f"{hint} end with the same bits" in hinted(config={**START["config"], "arithmetic": "portable"})
    narrator = Narrator()
    narrator.lines({**START, "crowded": crowd})
    told = [narrator.lines(epoch(n, float(n), train_loss=0.5, crowded_times=2.3456)) for n in (1, 2)]
    assert told[0][1:] == ["cores     shared: a step took 2.35 times the processor time of its busiest rank"]
    assert len(told[1]) == 1
    narrator.lines(START)
    assert len(narrator.lines(epoch(1, 1.0, train_loss=0.5))) == 1


def test_figures_that_are_tiny_or_not_a_number() -> None:
    """Four places where they say something, four digits where not; the journal's text for NaN is read."""
    narrator = Narrator()
    narrator.lines(START)
    [line] = narrator.lines(epoch(30, 1.0, train_loss=1.23456e-7, valid_loss="nan", valid_rmse=250000.25, valid_r2=0.0))
    assert "loss 1.235e-07, valid nan" in line
    assert "valid RMSE 2.5e+05  valid R² 0.0000" in line


def test_result_for_scripts_and_for_people() -> None:
    """Scripts get one line with the whole hash, people 16 digits of it in lines that fit."""
    figures = {f"{split}_{name}": 0.5 for split in ("valid", "test") for name in ("loss", "accuracy")}
    final = make_event("final", 360, 30, 12.0, parameters_sha256="0123456789abcdef" * 4, **figures)
    words = "valid loss 0.5000, valid accuracy 0.5000, test loss 0.5000, test accuracy 0.5000, 12.0 s"
    assert result(final) == f"{words}, parameters_sha256 {'0123456789abcdef' * 4}"
    lines = result_on_screen(final)
    assert " ".join(lines) == f"{words}, parameters_sha256 0123456789abcdef…"
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
