"""Tests of rows in memory: how they become numbers in a buffer, and batches."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ddp_mlp.data.memory import MemoryBatches, MemorySource, load_split
from ddp_mlp.data.order import epoch_order
from ddp_mlp.errors import DataError
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import inspect

SHUFFLES = ("rows", "blocks", "none")
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


# ---- from rows to numbers --------------------------------------------------------------------------------------------

KINDS = ["uint8", "int8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64"]


def examples(kind: str, m: int = 40, n: int = 6) -> NDArray[Any]:
    """Return X (m, n) over the range of a dtype, far from zero where it is wide."""
    random = np.random.default_rng(0)
    if kind.startswith("float"):
        return (random.standard_normal((m, n)) * 7 + 100).astype(kind)
    limits = np.iinfo(kind)
    if limits.bits == 64:  # time stamps in nanoseconds
        return (1_700_000_000_000_000_000 + random.integers(0, 10**15, (m, n))).astype(kind)
    return random.integers(limits.min, limits.max, (m, n), dtype=kind, endpoint=True)


def standardization_of(X: NDArray[Any]) -> Standardization:
    """Return the column means and standard deviations, in long double on their way."""
    wide = X.astype(np.longdouble)
    return Standardization(wide.mean(axis=0).astype(np.float64), wide.std(axis=0).astype(np.float64))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_standardized_to_the_precision_of_the_run(kind: str, dtype: np.dtype[Any]) -> None:
    """(x − mean) / scale in long double, to a few roundings: large offsets, as of time stamps, are not lost."""
    X, rows = examples(kind), np.array([3, 39, 0, 17, 3])
    standardization = standardization_of(X)
    group = Group((6, 4), (5,), dtype)
    MemorySource(X, np.zeros(40, np.int64), None, dtype, standardization).gather(rows, group)
    wide = X[rows].astype(np.longdouble)
    expected = (wide - standardization.mean) / standardization.scale
    found = group.A[0].whole.T
    assert found.dtype == dtype
    # a rounding of x itself (to float64, where it is a wide integer), one of the difference, one of scale and quotient
    of_x = np.finfo(np.result_type(X.dtype, dtype)).eps * np.abs(wide) / standardization.scale
    assert np.all(np.abs(found - expected) <= 2 * np.finfo(dtype).eps * np.abs(expected) + of_x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_s_bits_do_not_depend_on_its_company(kind: str) -> None:
    """Rows gathered together and one by one are the same bytes."""
    X = examples(kind)
    source = MemorySource(X, np.arange(40), None, F32, standardization_of(X))
    group, single = Group((6, 4), (40,), F32), Group((6, 4), (1,), F32)
    rows = np.random.default_rng(1).permutation(40)
    source.gather(rows, group)
    for i, row in enumerate(rows):
        source.gather(np.array([row]), single)
        assert single.A[0].whole.T.tobytes() == group.A[0].whole.T[i : i + 1].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_without_standardization_rows_are_only_cast(kind: str) -> None:
    """What comes out is the file's numbers in the run's dtype."""
    X, rows = examples(kind), np.array([5, 2, 2])
    off = Standardization(np.ones(6), np.full(6, 2.0), used=False)
    group = Group((6, 4), (3,), F32)
    MemorySource(X, np.arange(40), None, F32, off).gather(rows, group)
    assert np.array_equal(group.A[0].whole.T, X[rows].astype(np.float32))
    assert group.y.tolist() == [5, 2, 2]


def test_sample_and_class_weights_are_multiplied() -> None:
    """An example weighs its w times the weight of its class; without both the group has no weights at all."""
    X, y, w = np.zeros((4, 2)), np.array([0, 1, 2, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    plain = Standardization(np.zeros(2), np.ones(2))
    rows, per_class = np.array([3, 0, 2]), np.array([0.5, 10.0, 0.0])
    group = Group((2, 3), (3,), F64)

    def weights_of(source: MemorySource) -> list[float] | None:
        source.gather(rows, group)
        return None if group.w is None else group.w.tolist()

    weighted, unweighted = MemorySource(X, y, w, F64, plain), MemorySource(X, y, None, F64, plain)
    assert weights_of(weighted.weighted_by_class(per_class)) == [40.0, 0.5, 0.0]
    assert weights_of(unweighted.weighted_by_class(per_class)) == [10.0, 0.5, 0.0]
    assert weights_of(weighted) == [4.0, 1.0, 3.0]
    assert weights_of(unweighted) is None


@pytest.mark.parametrize("kind", ["uint8", "float32", ">f8", "bool"])
def test_a_split_in_memory_is_the_file_s(tmp_path: Path, kind: str) -> None:
    """X keeps its dtype (bool as uint8), y and w are as they are in the file."""
    random = np.random.default_rng(0)
    X = (random.random((30, 4)) * 2).astype(kind)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["train/X"], file["train/y"], file["train/w"] = X, np.arange(30) % 3, np.arange(30.0)
    plain = Standardization(np.zeros(4), np.ones(4))
    source = load_split(inspect(tmp_path / "data.h5"), "train", SingleProcess(), F32, plain)
    assert source.X.dtype == (np.uint8 if kind == "bool" else np.dtype(kind).newbyteorder("="))
    assert np.array_equal(source.X, X.astype(source.X.dtype))
    assert source.y.tolist() == [i % 3 for i in range(30)]
    assert source.w is not None
    assert source.w.tolist() == [*range(30)]


# ---- batches ---------------------------------------------------------------------------------------------------------


def batches_of(rows: NDArray[np.int64] | int, batch_size: int, **settings: Any) -> MemoryBatches:
    """Return batches on one process."""
    order = {"seed": 0, "shuffle": "rows", "block_rows": 4, **settings}
    return MemoryBatches(SingleProcess(), rows, batch_size=batch_size, **order)


@given(m=st.integers(1, 100), batch_size=st.integers(1, 120), epoch=st.integers(0, 3))
@settings(max_examples=50)
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_batches_are_the_epoch_s_order_cut_up(shuffle: str, m: int, batch_size: int, epoch: int) -> None:
    """All are of the batch size but the last, which is used as short as it is."""
    batches = batches_of(m, batch_size, shuffle=shuffle)
    found = [batch.rows.copy() for batch in batches.epoch(epoch)]
    assert np.array_equal(np.concatenate(found), epoch_order(m, 0, epoch, shuffle, 4))
    assert len(found) == batches.steps_per_epoch
    assert {len(rows) for rows in found[:-1]} <= {min(batch_size, m)}
    assert 1 <= len(found[-1]) <= batch_size


def test_steps_are_counted_through_and_an_epoch_is_entered_anywhere() -> None:
    """What is left of an epoch after `done` steps is the end of the whole epoch, with the same numbers."""
    batches = batches_of(25, 4, earlier=(3, 100))
    whole = [(batch.epoch, batch.step, batch.rows.tolist()) for batch in batches.epoch(2)]
    rest = [(batch.epoch, batch.step, batch.rows.tolist()) for batch in batches.epoch(2, done=5)]
    assert [step for _, step, _ in whole] == [115, 116, 117, 118, 119, 120, 121]
    assert {epoch for epoch, _, _ in whole} == {2}
    assert rest == whole[5:]
    assert np.array_equal(np.concatenate([rows for *_, rows in whole]), epoch_order(25, 0, 5, "rows", 4))


def test_batches_of_some_rows_take_only_those() -> None:
    """With row numbers given, the epoch's order counts through them."""
    rows = np.array([2, 3, 5, 7, 11, 13])
    found = np.concatenate([batch.rows.copy() for batch in batches_of(rows, 4).epoch(1)])
    assert np.array_equal(found, rows[epoch_order(6, 0, 1, "rows", 4)])


def test_nothing_to_train_on_is_refused() -> None:
    """No row is left: an error that names the key."""
    with pytest.raises(DataError, match="lower valid_fraction"):
        batches_of(np.array([], np.int64), 4)
