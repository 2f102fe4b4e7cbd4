"""Tests of streaming: rows read ahead are the rows in memory, bit for bit, and what goes wrong ends every rank."""

import json
import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

import ddp_mlp
from ddp_mlp.data import stream
from ddp_mlp.data.held_out import stratified
from ddp_mlp.data.memory import MemoryBatches, MemorySource, load_split
from ddp_mlp.data.opening import make_batches
from ddp_mlp.data.order import windows
from ddp_mlp.data.stream import FileSource, StreamSource, read_rows, ring_rows, ring_slots
from ddp_mlp.errors import DataError
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.dataset import DatasetInfo, inspect
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.writer import DatasetWriter
from tests.conftest import Program
from tests.simulated_mpi import Rank, World

F32 = np.dtype(np.float32)
FEATURES, CLASSES = 5, 4
PROGRAM = Path(__file__).parents[1] / "programs" / "train_many.py"
TRAIN = ["-m", "ddp_mlp.train", "--quiet"]


def write(path: Path, rows: dict[str, int], dtype: str = "uint8", weighted: bool = True) -> DatasetInfo:
    """Write a data set at random, of few distinct classes, and return its structure."""
    random = np.random.default_rng(3)
    with DatasetWriter(path, rows, FEATURES, np.dtype(dtype), CLASSES, weighted) as writer:
        for split, m in rows.items():
            y = random.choice(CLASSES, m, p=[0.4, 0.3, 0.2, 0.1])
            X = (random.random((m, FEATURES)) * 200 + 10 * y[:, None]).astype(dtype)
            writer.append(split, X, y, random.uniform(0.2, 2, m) if weighted else None)
    return inspect(path)


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """Return the structure of a file of 1000 weighted rows."""
    return write(tmp_path_factory.mktemp("data") / "data.h5", {"train": 1000})


def standardization(info: DatasetInfo) -> Standardization:
    """Return some map of the features."""
    return Standardization(np.linspace(90, 110, info.features), np.linspace(40, 60, info.features))


def in_memory(info: DatasetInfo) -> MemorySource:
    """Return the split train as it is held in memory by one process."""
    return load_split(info, "train", SingleProcess(), F32, standardization(info))


def streamed(
    info: DatasetInfo, rows: NDArray[np.int64] | int, batch_size: int, block_rows: int, communicator: Communicator
) -> StreamSource:
    """Return the split train as a stream."""
    maps = standardization(info), None
    return StreamSource(info, "train", rows, communicator, F32, *maps, batch_size=batch_size, block_rows=block_rows)


def gathered(source: Any, rows: NDArray[np.int64]) -> tuple[bytes, list[int], bytes]:
    """Return the bytes of X, the labels and the bytes of w of some rows."""
    group = Group((FEATURES, CLASSES), (len(rows),), F32)
    source.gather(rows, group)
    return group.A[0].whole.tobytes(), group.y.tolist(), b"" if group.w is None else group.w.tobytes()


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece_rows", [1, 7, 10_000])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.02])
def test_any_ascending_rows_are_read(
    info: DatasetInfo, piece_rows: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stretches without gaps, with few and with wide ones are what indexing the whole array gives."""
    monkeypatch.setattr(stream, "PIECE_BYTES", piece_rows * FEATURES)
    rows = np.flatnonzero(np.random.default_rng(0).random(1000) < share)
    X, y, w = np.empty((len(rows), FEATURES), np.uint8), np.empty(len(rows), np.int64), np.empty(len(rows))
    with Reader(info, "train") as reader:
        read_rows(reader, rows, X, y, w)
        assert np.array_equal(X, reader.X(0, 1000)[rows])
        assert np.array_equal(y, reader.y(0, 1000)[rows])
        assert np.array_equal(w, reader.w(0, 1000)[rows])


def test_rows_of_a_file_have_the_bits_of_rows_in_memory(info: DatasetInfo) -> None:
    """Blocks of an evaluation, of all rows and of some, come out as they do from memory."""
    memory, file = in_memory(info), FileSource(info, "train", F32, standardization(info))
    assert file.m == 1000
    for rows in (np.arange(0, 256), np.arange(768, 1000), np.arange(3, 999, 31), np.array([999])):
        assert gathered(file, rows) == gathered(memory, rows)


# ---- the ring --------------------------------------------------------------------------------------------------------


@given(
    m=st.integers(1, 3000),
    batch_size=st.integers(1, 3000),
    block_rows=st.integers(1, 80),
    epoch=st.integers(0, 3),
    shuffle=st.sampled_from(["blocks", "none"]),
)
def test_the_ring_holds_every_window_that_a_batch_touches(
    m: int, batch_size: int, block_rows: int, epoch: int, shuffle: str
) -> None:
    """Wherever the short block lies, the windows of one batch are no more than the slots, and fit into them."""
    parts = [window.size for window in windows(m, 0, epoch, shuffle, block_rows)]
    ends, slots = np.cumsum(parts), ring_slots(m, batch_size, block_rows)
    assert max(parts) * slots <= ring_rows(m, batch_size, block_rows)
    for lo in range(0, m, batch_size):
        last = min(lo + batch_size, m) - 1
        first_window, last_window = np.searchsorted(ends, [lo, last], side="right")
        assert last_window - first_window < slots


def test_the_ring_does_not_grow_with_the_file() -> None:
    """Of a million or a thousand million rows, a node holds two windows."""
    assert ring_rows(10**6, 512, 1024) == ring_rows(10**9, 512, 1024) == 2 * 16 * 1024


@given(
    m=st.integers(1, 1000),
    batch_size=st.integers(1, 300),
    block_rows=st.integers(1, 30),
    shuffle=st.sampled_from(["blocks", "none"]),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_streamed_batches_are_those_in_memory(
    info: DatasetInfo, m: int, batch_size: int, block_rows: int, shuffle: str, data: st.DataObject
) -> None:
    """Any number of rows in batches and blocks of any size, entered anywhere: the same bits, step by step."""
    rows = np.flatnonzero(np.random.default_rng(m).permutation(1000) < m)
    order: dict[str, Any] = {"batch_size": batch_size, "seed": 5, "shuffle": shuffle, "block_rows": block_rows}
    memory = MemoryBatches(SingleProcess(), rows, **order)
    done = data.draw(st.integers(0, memory.steps_per_epoch - 1))
    source = streamed(info, rows, batch_size, block_rows, SingleProcess())
    batches = make_batches(SingleProcess(), source, rows, **order)
    held = in_memory(info)
    for epoch in (2, 3):
        for expected, found in zip(memory.epoch(epoch, done), batches.epoch(epoch, done), strict=True):
            assert (found.epoch, found.step) == (expected.epoch, expected.step)
            assert gathered(source, found.rows) == gathered(held, expected.rows)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("P", "node_size"), [(3, None), (4, 2), (20, None)])
def test_no_rank_overwrites_what_another_still_reads(
    info: DatasetInfo, P: int, node_size: int | None, seed: int
) -> None:
    """Ranks that share a ring and run ahead of one another as far as they can gather what is in memory."""
    order: dict[str, Any] = {"batch_size": 48, "seed": seed, "shuffle": "blocks", "block_rows": 2}
    held = in_memory(info)
    expected = [gathered(held, batch.rows) for batch in MemoryBatches(SingleProcess(), 1000, **order).epoch(0)]

    def program(communicator: Communicator) -> bool:
        assert isinstance(communicator, Rank)
        source = streamed(info, 1000, 48, 2, communicator)
        found = []
        for batch in make_batches(communicator, source, 1000, **order).epoch(0):
            communicator.pause()
            time.sleep(0.0002)  # the threads that read ahead are real ones: let them write what they may
            found.append(gathered(source, batch.rows))
        return found == expected

    assert all(World(P, seed, node_size).run(program))


def test_slots_are_written_to_only_when_they_are_free(info: DatasetInfo) -> None:
    """A thread that has all the time it wants does not touch the windows of the batch at hand."""
    order: dict[str, Any] = {"batch_size": 40, "seed": 0, "shuffle": "blocks", "block_rows": 3}
    source, held = streamed(info, 1000, 40, 3, SingleProcess()), in_memory(info)
    memory = MemoryBatches(SingleProcess(), 1000, **order)
    for expected, batch in zip(
        memory.epoch(0), make_batches(SingleProcess(), source, 1000, **order).epoch(0), strict=True
    ):
        time.sleep(0.01)
        assert gathered(source, batch.rows) == gathered(held, expected.rows)


def readers_alive() -> int:
    """Return how many threads read ahead."""
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


def test_leaving_an_epoch_ends_its_thread(info: DatasetInfo) -> None:
    """At the end, at a break and on an error in a step, no thread is left that writes to the ring."""
    source = streamed(info, 1000, 10, 1, SingleProcess())
    batches = make_batches(SingleProcess(), source, 1000, batch_size=10, seed=0, shuffle="blocks", block_rows=1)
    for batch in batches.epoch(0):
        assert readers_alive() == 1
        if batch.step == 3:
            break
    assert readers_alive() == 0

    def fail() -> None:
        for _ in batches.epoch(1):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert readers_alive() == 0
    batches.close()


@pytest.mark.timeout(20)
def test_ranks_without_a_share_leave_as_well(info: DatasetInfo) -> None:
    """Of 20 ranks four have no block of a window to read; a break in the middle of an epoch ends their threads too."""

    def program(communicator: Communicator) -> None:
        source = streamed(info, 1000, 10, 1, communicator)
        order: dict[str, Any] = {"batch_size": 10, "seed": 0, "shuffle": "blocks", "block_rows": 1}
        for batch in make_batches(communicator, source, 1000, **order).epoch(0):
            if batch.step == 5:
                break

    World(20, seed=0).run(program)
    assert readers_alive() == 0


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def touched(path: Path) -> None:
    """Give a file another time of change."""
    os.utime(path)


def cut_short(path: Path) -> None:
    """Cut a file in the middle of its rows."""
    os.truncate(path, path.stat().st_size // 2)


def replaced(path: Path) -> None:
    """Put another file in its place, as an editor or rsync does."""
    other = path.with_name("other.h5")
    other.write_bytes(path.read_bytes())
    other.replace(path)


CHANGES: list[Callable[[Path], None]] = [touched, cut_short, replaced]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_file_is_raised_where_rows_are_taken(change: Callable[[Path], None], tmp_path: Path) -> None:
    """The thread's error comes out of the epoch, marked as known to all ranks, and the thread is gone."""
    found = write(tmp_path / "data.h5", {"train": 1000})
    source = streamed(found, 1000, 10, 1, SingleProcess())
    batches = make_batches(SingleProcess(), source, 1000, batch_size=10, seed=0, shuffle="blocks", block_rows=1)
    coming = batches.epoch(0)
    next(coming)
    change(tmp_path / "data.h5")
    with pytest.raises(DataError, match="was changed while it was in use") as raised:
        list(coming)
    assert raised.value.found_by == 0
    assert readers_alive() == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_during_a_run_ends_all_ranks(
    change: Callable[[Path], None], mpirun: Program, tmp_path: Path
) -> None:
    """Exit code 65 and one line, whichever ranks' threads meet it; nobody waits for ever."""
    path = tmp_path / "data.h5"
    write(path, {"train": 3000, "valid": 300})
    journal = tmp_path / "run" / "metrics.jsonl"

    def change_when_it_trains() -> None:
        while not (journal.exists() and '"step"' in journal.read_text()):
            time.sleep(0.02)
        change(path)

    changer = threading.Thread(target=change_when_it_trains, daemon=True)
    changer.start()
    flags = ["--access", "stream", "--shuffle", "blocks", "--block_rows", "8", "--batch_size", "8", "--log_every", "5"]
    options = ["--data", path, "--run_dir", tmp_path / "run", "--epochs", "100000", "--hidden", "4"]
    outcome = mpirun(3, *TRAIN, *flags, *options, timeout=50)
    changer.join()
    assert outcome.returncode == 65, outcome.stderr
    lines = outcome.stderr.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1, outcome.stderr
    assert "was changed while it was in use" in outcome.stderr
    assert "Traceback" not in outcome.stderr


# ---- whole runs ------------------------------------------------------------------------------------------------------

# 1,003 rows (or what valid_fraction leaves of them) in blocks of 8: windows of 128 rows, batches of 100 across them.
COMMON = {"hidden": [9], "batch_size": 100, "shuffle": "blocks", "block_rows": 8, "epochs": 2}
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "large batches": {"batch_size": 300},
    "held out": {"valid_fraction": 0.2, "class_weight": "balanced", "restore_best": True},
    "in order": {"shuffle": "none", "dropout": 0.2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a weighted file with train and test."""
    path = tmp_path_factory.mktemp("data") / "data.h5"
    write(path, {"train": 1003, "test": 411})
    return path


def runs(data: Path, access: str) -> str:
    """Return all runs with one access, as the program's argument."""
    common = {**COMMON, "data": str(data), "access": access}
    return json.dumps({name: {**common, **keys} for name, keys in RUNS.items()})


@pytest.fixture(scope="module")
def from_memory(run_python: Program, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the hash of every run of one process that holds its data in memory."""
    outcome = run_python(PROGRAM, tmp_path_factory.mktemp("memory"), runs(data, "memory"))
    assert outcome.returncode == 0, outcome.stderr
    found: dict[str, str] = json.loads(outcome.stdout)
    return found


@pytest.mark.parametrize(("P", "node_size"), [(1, None), (2, None), (3, 2), (4, None)])
def test_stream_and_memory_give_the_same_bits_for_any_number_of_ranks(
    P: int, node_size: int | None, from_memory: dict[str, str], mpirun: Program, data: Path, tmp_path: Path
) -> None:
    """With weights, held-out rows, class weights, large batches and dropout: one hash each."""
    env = {} if node_size is None else {"DDP_MLP_NODE_SIZE": str(node_size)}
    outcome = mpirun(P, PROGRAM, tmp_path, runs(data, "stream"), env=env)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout) == from_memory


def test_a_streamed_run_goes_on_in_the_middle_of_an_epoch(
    from_memory: dict[str, str], run_python: Program, data: Path, tmp_path: Path
) -> None:
    """Stopped after 7 of 11 steps per epoch and continued, memory and stream in turn, it ends with the same bits."""
    for access, steps in (("stream", 7), ("memory", 13), ("stream", 10**6)):
        keys = {**COMMON, "data": str(data), "access": access, "max_steps": steps, "checkpoint_every": 1}
        outcome = run_python(PROGRAM, tmp_path, json.dumps({"run": keys}))
        assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["run"] == from_memory["plain"]


def normalized(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return float32 probabilities as scikit-learn wants them: their sums are 1 in float64."""
    wide = probabilities.astype(np.float64)
    return np.asarray(wide / wide.sum(axis=1, keepdims=True), np.float64)


def test_figures_are_the_same_for_any_number_of_ranks_and_those_of_scikit_learn(
    mpirun: Program, data: Path, tmp_path: Path
) -> None:
    """Standardization, balanced weights, and evaluation of held-out and test rows: equal bits, and within 1e-6."""
    common = ["--data", data, "--hidden", "9", "--epochs", "2", "--shuffle", "blocks", "--block_rows", "8"]
    options = ["--valid_fraction", "0.2", "--class_weight", "balanced", "--batch_size", "100"]
    finals, maps = [], []
    for P, access in ((1, "memory"), (2, "stream"), (3, "memory"), (4, "stream")):
        folder = tmp_path / str(P)
        outcome = mpirun(P, *TRAIN, *common, *options, "--access", access, "--run_dir", folder)
        assert outcome.returncode == 0, outcome.stderr
        finals.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]))
        found = checkpoints.find(folder).standardization
        assert found is not None
        maps.append((found["mean"].tobytes(), found["scale"].tobytes()))
    names = ("parameters_sha256", "valid_loss", "valid_accuracy", "test_loss", "test_accuracy")
    assert all([final[name] for name in names] == [finals[0][name] for name in names] for final in finals)
    assert maps == maps[:1] * 4

    model, file = ddp_mlp.load(tmp_path / "1"), inspect(data)
    with Reader(file, "train") as train, Reader(file, "test") as test:
        X, y, w = train.X(0, 1003), train.y(0, 1003), train.w(0, 1003)
        scaler = StandardScaler().fit(X)
        assert model.standardization.mean == pytest.approx(scaler.mean_, rel=1e-6)
        assert model.standardization.scale == pytest.approx(scaler.scale_, rel=1e-6)
        _, apart = stratified(y, 0.2, 0)
        loss = log_loss(y[apart], normalized(model.predict_proba(X[apart])), sample_weight=w[apart])
        assert finals[0]["valid_loss"] == pytest.approx(loss, rel=1e-6)
        probabilities, labels = model.predict_proba(test.X(0, 411)), test.y(0, 411)
        loss = log_loss(labels, normalized(probabilities), sample_weight=test.w(0, 411))
        assert finals[0]["test_loss"] == pytest.approx(loss, rel=1e-6)
        assert finals[0]["test_accuracy"] == np.mean(probabilities.argmax(axis=1) == labels)


def test_balanced_weights_are_of_the_rows_trained_on(mpirun: Program, data: Path, tmp_path: Path) -> None:
    """Balanced weights are scikit-learn's for what valid_fraction leaves: given by name they train the same bits."""
    with Reader(inspect(data), "train") as train:
        y = train.y(0, 1003)
    stay, _ = stratified(y, 0.2, 0)
    weights = compute_class_weight("balanced", classes=np.arange(CLASSES), y=y[stay])
    keys = {**COMMON, "data": str(data), "valid_fraction": 0.2, "access": "stream"}
    by_name = {str(label): float(weight) for label, weight in enumerate(weights)}
    asked = {"balanced": {**keys, "class_weight": "balanced"}, "by name": {**keys, "class_weight": by_name}}
    outcome = mpirun(2, PROGRAM, tmp_path, json.dumps(asked))
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["balanced"] == found["by name"]


def test_ring_slots_are_needed(info: DatasetInfo) -> None:
    """Planted fault: with a slot that is free one window too early, rows of another window are gathered."""
    order: dict[str, Any] = {"batch_size": 40, "seed": 0, "shuffle": "blocks", "block_rows": 3}
    source, held = streamed(info, 1000, 40, 3, SingleProcess()), in_memory(info)
    batches = make_batches(SingleProcess(), source, 1000, **order)
    same = []
    for expected, batch in zip(MemoryBatches(SingleProcess(), 1000, **order).epoch(0), batches.epoch(0), strict=True):
        if batch.step == 1:
            batches._ahead.release(1)  # type: ignore[attr-defined] # the fault
        time.sleep(0.01)
        same.append(gathered(source, batch.rows) == gathered(held, expected.rows))
    assert not all(same)


def test_windows_follow_one_another_without_gaps() -> None:
    """The windows of an epoch in file order are consecutive stretches."""
    parts = [window.rows() for window in windows(100, 0, 0, "none", 2)]
    assert [(int(a[-1]) + 1, int(b[0])) for a, b in pairwise(parts)] == [(32, 32), (64, 64), (96, 96)]
