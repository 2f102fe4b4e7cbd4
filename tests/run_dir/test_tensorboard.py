"""TensorBoard event files, read back with TensorBoard's own reader."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.errors import ConfigError
from ddp_mlp.run_dir.tensorboard import BUCKETS, TensorBoard
from ddp_mlp.storage import checkpoints
from tests.conftest import Program

TRAIN = [
    "-m",
    "ddp_mlp.train",
    "--tensorboard",
    "true",
    "--log_every",
    "7",
    "--checkpoint_every",
    "5",
    "--epochs",
    "300",
]

REMEDY = "mend that, or go on with --tensorboard false"


@pytest.fixture
def reader() -> Any:
    """Return TensorBoard's reader of a folder: everything, as it would be shown."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder: Path) -> Any:
        found = accumulator.EventAccumulator(str(folder), {"scalars": 0, "tensors": 0})
        found.Reload()
        return found

    return read


def test_scalars_are_those_of_the_journal(run_python: Program, reader: Any, tmp_path: Path) -> None:
    """A run that was interrupted in mid-epoch and resumed shows each step once, with the journal's values."""
    stopped = run_python(*TRAIN, "--max_seconds", "0.05", "--run_dir", tmp_path)
    assert stopped.returncode == 75, stopped.stderr
    done = run_python(*TRAIN, "--max_steps", "240", "--run_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    board = reader(tmp_path / "tensorboard")
    shown = {
        "step": ("loss", "accuracy", "learning_rate", "gradient_norm", "examples_per_second"),
        "epoch": ("train_loss", "train_accuracy"),
        "final": ("test_loss", "test_accuracy"),
    }
    for kind, names in shown.items():
        for name in names:
            expected = [(event["step"], np.float32(event[name])) for event in events if event["event"] == kind]
            assert expected
            assert [(found.step, np.float32(found.value)) for found in board.Scalars(f"{kind}/{name}")] == expected


def test_histograms_are_those_of_the_weights(run_python: Program, reader: Any, tmp_path: Path) -> None:
    """There is a histogram of each layer's weights after an epoch, and at the end of the weights that are kept."""
    pytest.importorskip("tensorboard")
    done = run_python(*TRAIN, "--max_steps", "36", "--run_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    board = reader(tmp_path / "tensorboard")
    kept = checkpoints.load(tmp_path / "checkpoints" / "step-00000036.h5").parameters
    from tensorboard.util.tensor_util import make_ndarray

    assert set(kept) == {"W1", "b1", "W2", "b2", "W3", "b3"}
    for name, array in kept.items():
        found = board.Tensors(f"weights/{name}")
        assert found[0].step == 12
        assert found[-1].step == 36
        lower, upper, counts = make_ndarray(found[-1].tensor_proto).T
        assert len(counts) == BUCKETS
        assert counts.sum() == array.size
        np.testing.assert_allclose([lower[0], upper[-1]], [array.min(), array.max()], rtol=1e-6)
        np.testing.assert_allclose(np.cumsum(counts), [(array <= edge).sum() for edge in upper], atol=2)  # at the edges
        assert board.SummaryMetadata(f"weights/{name}").plugin_data.plugin_name == "histograms"


def test_histograms_are_a_second_apart(reader: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of epochs that last 0.3 s by the clock, every fourth has histograms, and the last weights have them anyway."""
    pytest.importorskip("tensorboard")
    now = 100.0
    monkeypatch.setattr("ddp_mlp.run_dir.tensorboard.time.monotonic", lambda: now)
    board = TensorBoard(tmp_path, 0)
    for step in range(1, 11):
        board.event({"event": "epoch", "step": step}, {"W1": np.arange(6.0)})
        now += 0.3
    for _ in range(2):
        board.event({"event": "final", "step": 10}, {"W1": np.arange(6.0)})
    monkeypatch.undo()
    board.close()
    assert [event.step for event in reader(tmp_path).Tensors("weights/W1")] == [1, 5, 9, 10]


def test_what_was_after_the_checkpoint_is_dropped(reader: Any, tmp_path: Path) -> None:
    """Where a killed run goes on from an earlier step, the later steps of the first file are not shown."""
    pytest.importorskip("tensorboard")
    for start, steps, loss in ((0, range(1, 9), 1.0), (5, range(6, 11), 2.0)):
        board = TensorBoard(tmp_path, start)
        for step in steps:
            board.event({"event": "step", "step": step, "epoch": 0, "seconds": 0.1, "loss": loss}, {})
        board.close()
    shown = [(found.step, found.value) for found in reader(tmp_path).Scalars("step/loss")]
    assert shown == [(step, 1.0 if step < 6 else 2.0) for step in range(1, 11)]


@pytest.mark.parametrize(
    "clocks", [(1000.0, 1000.5, 1000.9), (1000.0, 990.0, 980.0)], ids=["a second", "clocks behind"]
)
def test_files_are_read_in_the_order_of_the_sessions(
    reader: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clocks: tuple[float, ...]
) -> None:
    """Sessions within one second, or on nodes whose clocks are behind, are read one after the other; none is lost.

    The hosts' names and process ids count down, and what is written last before a kill may be torn.
    """
    pytest.importorskip("tensorboard")
    for session, now in enumerate(clocks):
        monkeypatch.setattr("time.time", lambda now=now: now)
        monkeypatch.setattr("socket.gethostname", lambda session=session: f"node-{9 - session}.cluster")
        monkeypatch.setattr("os.getpid", lambda session=session: 100 - session)
        board = TensorBoard(tmp_path, 4 * session)
        for step in range(4 * session + 1, 4 * session + 7):
            board.event({"event": "step", "step": step, "epoch": 0, "seconds": 0.1, "loss": float(session)}, {})
        board.close()
        if session == 0:
            (path,) = tmp_path.iterdir()
            path.write_bytes(path.read_bytes()[:-5])
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 3
    shown = [(found.step, found.value) for found in reader(tmp_path).Scalars("step/loss")]
    assert shown == [(step, min((step - 1) // 4, 2)) for step in range(1, 15)]


FILL = """
import resource, sys
from pathlib import Path
from ddp_mlp.errors import StorageError
from ddp_mlp.run_dir.tensorboard import TensorBoard
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
board = TensorBoard(Path(sys.argv[1]), 0)
try:
    for step in range(1, 1001):
        board.event({"event": "step", "step": step, "epoch": 0, "seconds": 0.1, "loss": 1.0}, {})
    board.close()
except StorageError as error:
    print(error)
"""


def test_full_disk(run_python: Program, reader: Any, tmp_path: Path) -> None:
    """What the file has no room for is one line that says what to do; what is in it stays readable."""
    done = run_python("-c", FILL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}: cannot be written: File too large; {REMEDY}\n"
    shown = [found.step for found in reader(tmp_path).Scalars("step/loss")]
    assert 0 < len(shown) < 1000
    assert shown == list(range(1, len(shown) + 1))


def test_folder_that_cannot_be_made(run_python: Program, tmp_path: Path) -> None:
    """A file in the folder's place ends the run with one line, and exit code 74."""
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").touch()
    done = run_python(*TRAIN, "--run_dir", tmp_path)
    assert done.returncode == 74, done.stderr
    assert done.stderr == f"error: {tmp_path / 'tensorboard'}: cannot be written: File exists; {REMEDY}\n"


def test_without_tensorboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the package is not installed, one line says how to get it."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ConfigError, match=r'pip install "ddp_mlp\[tensorboard\]"'):
        TensorBoard(tmp_path, 0)
