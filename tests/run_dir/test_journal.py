"""metrics.jsonl and the console: whole lines, in words for people, and nothing that a terminal obeys."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.errors import ConfigError, StorageError
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.run_dir import journal
from ddp_mlp.run_dir.journal import Console, Journal, Narrator, Rate, make_event, parse
from tests.conftest import ROOT, Program

START: dict[str, Any] = make_event(
    "start",
    0,
    0,
    0.0,
    config={
        "run_dir": "runs/one",
        "hidden": [128, 64],
        "dtype": "float32",
        "optimizer": "adam",
        "learning_rate": 0.003,
        "schedule": "constant",
        "batch_size": 128,
        "seed": 0,
        "reduction": "exact",
        "threads": 1,
        "epochs": 30,
    },
    data={"path": "data/digits.h5", "rows": {"train": 1437, "test": 360}, "features": 64, "classes": 10},
    parameters=17226,
    steps_per_epoch=12,
    total_steps=360,
    ranks=4,
    nodes=1,
    shards=8,
    blas="openblas",
)


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    """Read a journal with the json module alone."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


# --- The file ---------------------------------------------------------------------------------------------------------


def test_a_line_per_event(tmp_path: Path) -> None:
    """Every event is one line of JSON, there as soon as `write` returns, and None is absent."""
    events = Journal(tmp_path / "metrics.jsonl")
    events.write(make_event("step", 50, 1, 1.23456, loss=0.5, gradient_norm=None))
    text = (tmp_path / "metrics.jsonl").read_bytes()
    assert text == b'{"event": "step", "step": 50, "epoch": 1, "seconds": 1.235, "loss": 0.5}\n'
    assert events.bytes == len(text)
    events.close()


def test_cut_back(tmp_path: Path) -> None:
    """A journal that is opened again keeps the bytes it is told to, and goes on from there."""
    path = tmp_path / "metrics.jsonl"
    first = Journal(path)
    first.write(make_event("step", 1, 0, 0.1))
    kept = first.bytes
    first.write(make_event("step", 2, 0, 0.2))
    first.close()
    second = Journal(path, kept)
    second.write(make_event("step", 3, 0, 0.3))
    second.close()
    assert [event["step"] for event in events_of(tmp_path)] == [1, 3]


FILL = """
import resource, sys
from pathlib import Path
from ddp_mlp.errors import StorageError
from ddp_mlp.run_dir.journal import Journal, make_event
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
events = Journal(Path(sys.argv[1]))
try:
    for step in range(1000):
        events.write(make_event("step", step, 0, 0.0))
except StorageError as error:
    print(error)
"""


def test_a_line_is_whole_or_absent(run_python: Program, tmp_path: Path) -> None:
    """Where the file can take only a part of a line, the part is taken back and the error says what to do."""
    path = tmp_path / "metrics.jsonl"
    done = run_python("-c", FILL, path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r".*metrics\.jsonl: cannot be written: .*; free some space and resume\n", done.stdout)
    text = path.read_bytes()
    line = len(text.splitlines()[-1]) + 1
    assert text.endswith(b"}\n")
    assert 1000 - line < len(text) <= 1000  # no line more would have fitted
    assert [event["step"] for event in events_of(tmp_path)] == list(range(len(text.splitlines())))


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """A journal that cannot be opened is one line that names it."""
    with pytest.raises(StorageError, match=r"nowhere/metrics\.jsonl: cannot be written: No such file"):
        Journal(tmp_path / "nowhere" / "metrics.jsonl")


def test_what_json_cannot_hold(tmp_path: Path) -> None:
    """Infinities and NaN become text, in lists and tables too; names that are no text in UTF-8 survive."""
    events = Journal(tmp_path / "metrics.jsonl")
    name = os.fsdecode(b"\xff\x1b[31m\x9b.h5")
    events.write(make_event("start", 0, 0, 0.0, data={"path": name}, waiting=[1.0, float("nan")], loss=float("inf")))
    events.close()
    text = (tmp_path / "metrics.jsonl").read_bytes()
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in text)
    (event,) = events_of(tmp_path)
    assert event["data"] == {"path": name}
    assert (event["waiting"], event["loss"]) == ([1.0, "nan"], "inf")


def test_parse_waits_for_the_end_of_a_line() -> None:
    """A line still being written is left for the next time."""
    text = b'{"event": "step", "step": 1, "seconds": 0}\n{"event": "st'
    events, taken = parse(text)
    assert [event["step"] for event in events] == [1]
    assert text[taken:] == b'{"event": "st'


@pytest.mark.parametrize("line", [b"{", b"[1]", b"null", b'{"event": "step"}', b"\xff", b"[" * 10**5])
def test_parse_refuses_junk(line: bytes) -> None:
    """What is no event is refused with the number of its line."""
    with pytest.raises(ValueError, match="line 2 is not an event"):
        parse(b'{"event": "step", "step": 1, "seconds": 0}\n' + line + b"\n")


def test_an_hour_is_linear_and_small(tmp_path: Path) -> None:
    """An hour of 2 ms steps, by a clock that is passed in, takes as many bytes in its last minute as in its first."""
    events, sizes = Journal(tmp_path / "metrics.jsonl"), [0]
    for step in range(50, 1_800_001, 50):
        norm, loss = 1 / (step + 2 / 3), 2 / (step + 1 / 3)
        fields = {"loss": loss, "accuracy": 1 - norm, "learning_rate": 3e-3, "gradient_norm": norm}
        events.write(make_event("step", step, step // 12, step * 0.002, **fields, examples_per_second=64000.1))
        if step % 30_000 == 0:
            sizes.append(events.bytes)
    events.close()
    minutes = [after - before for before, after in pairwise(sizes)]
    assert len(minutes) == 60
    assert max(minutes) < 1.15 * min(minutes)  # the numbers get longer, nothing else does
    assert sizes[-1] < 10e6
    assert len(events_of(tmp_path)) == 36_000


def test_pandas_reads_it_in_one_line(run_python: Program, tmp_path: Path) -> None:
    """`pandas.read_json(…, lines=True)` gives one row per event."""
    pandas = pytest.importorskip("pandas")
    done = run_python("-m", "ddp_mlp.train", "--epochs", "5", "--log_every", "10", "--run_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    table = pandas.read_json(tmp_path / "metrics.jsonl", lines=True)
    assert list(table.query("event == 'step'").step) == [10, 20, 30, 40, 50, 60]
    assert table.query("event == 'epoch'").train_loss.is_monotonic_decreasing


# --- A run's events ---------------------------------------------------------------------------------------------------


def test_events_of_a_run(run_python: Program, tmp_path: Path) -> None:
    """The events agree with one another and with the run: sums over steps, the clock, the hash of the result."""
    flags = ["--valid_fraction", "0.2", "--epochs", "4", "--log_every", "3", "--batch_size", "100"]
    done = run_python("-m", "ddp_mlp.train", *flags, "--run_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    start, *rest, final = events_of(tmp_path)
    assert start["event"] == "start"
    assert start["data"]["rows"] == {"train": 1150, "valid": 287, "test": 360}
    assert (start["steps_per_epoch"], start["total_steps"], start["parameters"]) == (12, 48, 17226)
    steps = [event for event in rest if event["event"] == "step"]
    epochs = [event for event in rest if event["event"] == "epoch"]
    assert [event["step"] for event in steps] == list(range(3, 49, 3))
    assert [event["step"] for event in epochs] == [12, 24, 36, 48]
    rows = [300, 300, 300, 250]  # of the intervals of an epoch
    for epoch, of_epoch in zip(epochs, [steps[i : i + 4] for i in range(0, 16, 4)], strict=True):
        for whole, part in (("train_loss", "loss"), ("train_accuracy", "accuracy")):
            mean = sum(n * event[part] for n, event in zip(rows, of_epoch, strict=True)) / 1150
            assert epoch[whole] == pytest.approx(mean, rel=1e-12)  # float64 sums in another order
    clock = [event["seconds"] for event in [start, *rest, final]]
    assert clock == sorted(clock)
    assert final["event"] == "final"
    assert (final["ended"], final["checkpoint"]) == ("epochs", "step-00000048.h5")
    assert final["best_epoch"] == 1 + min(range(4), key=lambda i: epochs[i]["valid_loss"])
    assert f"parameters_sha256 {final['parameters_sha256']}" in done.stdout


def test_interruption_and_resume(run_python: Program, tmp_path: Path) -> None:
    """The journal keeps why a run stopped, says where it went on, and has every step once."""
    command = ["-m", "ddp_mlp.train", "--log_every", "1", "--checkpoint_every", "7", "--run_dir", str(tmp_path)]
    stopped = run_python(*command, "--max_seconds", "0.05", "--epochs", "200")
    assert stopped.returncode == 75, stopped.stderr
    assert "stopped   by max_seconds = 0.05 after step" in stopped.stderr
    went_on = run_python(*command, "--epochs", "200", "--max_steps", "300")
    assert went_on.returncode == 0, went_on.stderr
    events = events_of(tmp_path)
    position = next(i for i, event in enumerate(events) if event["event"] == "interrupted")
    interrupted, restarted = events[position : position + 2]
    assert interrupted["reason"] == "max_seconds = 0.05"
    assert restarted["event"] == "start"
    assert restarted["resumed_from"] == f"step-{interrupted['step']:08d}.h5"
    assert restarted["step"] == interrupted["step"]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 301))
    clock = [event["seconds"] for event in events]
    assert clock == sorted(clock)


def test_every_field_is_documented(run_python: Program, tmp_path: Path) -> None:
    """Each field of each event of a run with everything switched on is named in the README."""
    readme = ROOT / "README.md"
    if not readme.exists() or "metrics.jsonl, field by field" not in readme.read_text():
        pytest.skip("README.md has no table of fields yet")
    flags = ["--valid_fraction", "0.2", "--log_every", "2", "--run_dir", str(tmp_path)]
    run_python("-m", "ddp_mlp.train", *flags, "--max_seconds", "0.05", "--epochs", "500")
    run_python("-m", "ddp_mlp.train", *flags, "--max_steps", "300", "--epochs", "500")
    events = events_of(tmp_path)
    assert {event["event"] for event in events} == {"start", "step", "epoch", "interrupted", "final"}
    documented = set(re.findall(r"`(\w+)`", readme.read_text()))
    assert {name for event in events for name in event} - documented == set()


# --- In words ---------------------------------------------------------------------------------------------------------


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


def test_rate_counts_from_the_last_time_asked() -> None:
    """Examples per second are those since the last question."""
    clock = iter([0.0, 2.0, 12.0])
    rate = Rate(lambda: next(clock))
    rate.count(60)
    rate.count(40)
    assert rate.take() == 50.0
    rate.count(5)
    assert rate.take() == 0.5


def test_errors_are_printable() -> None:
    """What a message quotes from the world outside is made visible: one line, no terminal commands."""
    error = ConfigError("data = \x1b[31m\r\n\u202e\udcff.h5: not there")
    assert str(error) == "data = \\x1b[31m\\r\\n\\u202e\\udcff.h5: not there"


def test_log_file(run_python: Program, tmp_path: Path) -> None:
    """Where stderr is no terminal: one plain line per interval, a block at either end; the result alone on stdout."""
    done = run_python("-m", "ddp_mlp.train", "--epochs", "5", "--log_every", "20", "--run_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("test loss ")
    words = [line.split()[0] for line in done.stderr.splitlines()]
    middle = ["epoch", "step", "epoch", "epoch", "step", "epoch", "step", "epoch"]
    assert words == ["data", "access", "network", "training", "ranks", "run", *middle, "ended", "kept", "journal"]
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def test_quiet(run_python: Program, tmp_path: Path) -> None:
    """`--quiet` leaves the result."""
    done = run_python("-m", "ddp_mlp.train", "--epochs", "1", "--quiet", "--run_dir", tmp_path)
    assert done.stderr == ""
    assert "parameters_sha256" in done.stdout


def test_names_that_command_a_terminal(run_python: Program, tmp_path: Path, digits: Path) -> None:
    """A data file and a folder whose names hold escape sequences print as text, in the log and in errors."""
    name = "\x1b]0;owned\x07\x9b31m\n.h5"
    (tmp_path / name).symlink_to(digits)
    flags = ["--epochs", "1", "--run_dir", tmp_path / "run\x1b[2J"]
    done = run_python("-m", "ddp_mlp.train", "--data", tmp_path / name, *flags)
    missing = run_python("-m", "ddp_mlp.train", "--data", tmp_path / f"missing{name}", *flags)
    assert (done.returncode, missing.returncode) == (0, 74)
    for text in (done.stdout, done.stderr, missing.stderr):
        assert text.replace("\n", "").isprintable()
    assert "\\x1b]0;owned\\x07" in done.stderr
    assert len(missing.stderr.splitlines()) == 1


def read_all(descriptor: int) -> Iterator[bytes]:
    """Read a pseudo-terminal until its other end is closed."""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # Linux says EIO at the end
            return
        if not piece:
            return
        yield piece


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal a bar shows loss, accuracy, pace, the last checkpoint and the time left; step lines are gone."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    command = [sys.executable, "-m", "ddp_mlp.train", "--epochs", "60", "--run_dir", str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        text = b"".join(read_all(ours)).decode()
        assert process.stdout is not None
        result = process.stdout.read().decode()
        assert process.wait(30) == 0
    os.close(ours)
    bar = r"%\|.*\| \d+/720  loss \d\.\d{4}  accuracy \d\.\d{3}  [\d,]+ examples/s  saved at \d+.* [\d:]+ left"
    assert re.search(bar, text)
    assert not re.search(r"^step ", text, re.MULTILINE)
    assert re.search(r"epoch 60/60 .*\r\n.*ended     by epochs: 720 steps", text, re.DOTALL)
    assert result.startswith("test loss")


def test_console_draws_no_more_than_a_person_sees(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten thousand steps in a second by the clock draw the bar about ten times."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    now = 0.0
    console = Console(quiet=False, clock=lambda: now)
    console.event(START)
    capsys.readouterr()
    for step in range(10_000):
        now += 0.0001
        console.step(step, Totals(1.0, 2.0, 1, 2), 2)
    drawn = capsys.readouterr().err.count("examples/s")
    console.close()
    assert 9 <= drawn <= 11


def test_duration() -> None:
    """Times read as hours, minutes and seconds."""
    assert [journal.duration(s) for s in (0, 59.6, 3600 * 27 + 61)] == ["0:00:00", "0:01:00", "27:01:01"]
