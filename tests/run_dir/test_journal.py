"""Tests of metrics.jsonl: whole lines, cut back to where a run goes on, and every field documented."""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.errors import StorageError
from ddp_mlp.run_dir import schema
from ddp_mlp.run_dir.journal import Journal, make_event, parse
from tests.conftest import ROOT, Program


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    """Read a journal with the json module alone."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


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


def test_what_is_cut_leaves_the_history_of_starts(tmp_path: Path) -> None:
    """Starts and ends behind the kept bytes stay, in order, and how far the run had come is known; steps go."""
    path = tmp_path / "metrics.jsonl"
    first = Journal(path)
    first.write(make_event("start", 0, 0, 0.0))
    first.write(make_event("step", 40, 0, 0.1))
    kept = first.bytes
    for event in ("start", "step", "epoch", "interrupted", "start", "final", "step"):
        first.write(make_event(event, 55, 1, 0.2))
    first.close()
    torn = path.read_bytes() + b'{"event": "start", "step": 7'
    path.write_bytes(torn)
    second = Journal(path, kept)
    assert second.cut_step == 55
    assert second.bytes == path.stat().st_size
    second.write(make_event("start", 40, 0, 0.2))
    second.close()
    told = [event["event"] for event in events_of(tmp_path)]
    assert told == ["start", "step", "start", "interrupted", "start", "final", "start"]
    path.write_bytes(torn)
    third = Journal(path, kept, keep_history=False)
    third.close()
    assert path.read_bytes() == torn[:kept]


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


FULL_AND_FREED = """
import json, os, sys
from pathlib import Path
from ddp_mlp.errors import StorageError
from ddp_mlp.run_dir.journal import Journal, make_event
folder = Path(sys.argv[1])
ballast = folder / "ballast"
ballast.write_bytes(bytes(60_000))
journal, written = Journal(folder / "metrics.jsonl"), []
for step in range(1300):
    if step == 900:
        ballast.unlink()
    try:
        journal.write(make_event("step", step, 0, 0.0, note="x" * (step % 97)))
        written.append(step)
    except StorageError:
        pass
text = (folder / "metrics.jsonl").read_bytes()
assert [json.loads(line)["step"] for line in text.splitlines()] == written, "whole lines alone, and no hole"
assert (len(text), len(written) + journal.lost) == (journal.bytes, 1300)
assert 0 < journal.lost < 900 and written[-1] == 1299, (journal.lost, written[-1])
"""


def test_a_disk_that_fills_and_is_freed_leaves_whole_lines(tmp_path: Path) -> None:
    """On a small tmpfs: what did not fit is absent and counted, what came after follows."""
    mount = f'mount -t tmpfs -o size=128k tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    command = ["unshare", "-m", "sh", "-c", mount, FULL_AND_FREED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    if "permitted" in done.stderr or "denied" in done.stderr:
        pytest.skip("only root may mount a tmpfs")
    assert done.returncode == 0, done.stderr


def test_a_journal_that_is_deleted_or_replaced_is_written_anew(tmp_path: Path) -> None:
    """Once it is said; all lines, from before and after, are in the new file."""
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    journal = Journal(path)
    for step, fault in enumerate([None, "deleted", None, "replaced", "folder", None]):
        if fault == "deleted":
            path.unlink()
        elif fault == "replaced":
            (tmp_path / "other").write_text("not ours\n")
            (tmp_path / "other").replace(path)
        elif fault == "folder":
            path.parent.rename(tmp_path / "elsewhere")
        said = pytest.raises(StorageError, match="was deleted or replaced") if fault else nullcontext()
        with said:
            journal.write(make_event("step", step, 0, 0.0))
        journal.sync()
        assert [event["step"] for event in events_of(path.parent)] == list(range(step + 1))
    assert journal.lost == 0
    assert path.stat().st_size == journal.bytes


def test_a_journal_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """What it leads to is left alone."""
    (tmp_path / "precious").write_text("data")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match="it is a symbolic link: remove it"):
        Journal(tmp_path / "metrics.jsonl")
    assert (tmp_path / "precious").read_text() == "data"


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
    """Each field of each event of a run is in the schema, from which the documentation is made."""
    flags = ["--valid_fraction", "0.2", "--log_every", "2", "--run_dir", str(tmp_path)]
    run_python("-m", "ddp_mlp.train", *flags, "--max_seconds", "0.05", "--epochs", "500")
    run_python("-m", "ddp_mlp.train", *flags, "--max_steps", "300", "--epochs", "500")
    events = events_of(tmp_path)
    assert {event["event"] for event in events} == {"start", "step", "epoch", "interrupted", "final"}
    for event in events:
        assert event.keys() <= schema.fields(event["event"]).keys()
