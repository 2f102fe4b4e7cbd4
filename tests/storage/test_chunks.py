"""Small chunks read past HDF5: the same bits as by HDF5, and its complaints; fewer reads of the file."""

import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, ProgramError
from ddp_mlp.storage import reader as readers
from ddp_mlp.storage.chunks import SMALL_CHUNK_BYTES, small_chunks
from ddp_mlp.storage.dataset import inspect
from ddp_mlp.storage.hdf5 import OpenFile, open_with_source
from ddp_mlp.storage.reader import Reader

ROWS, FEATURES = 300, 5
FILTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gzip": {"compression": "gzip"},
    "shuffle": {"shuffle": True},
    "shuffle, gzip": {"compression": "gzip", "shuffle": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "lzf": {"compression": "lzf"},
    "checksum": {"compression": "gzip", "fletcher32": True},
    "offset": {"scaleoffset": 0, "dtype": "i4"},
    "half a row": {"chunks": (1, 3)},
    "large": {"chunks": (SMALL_CHUNK_BYTES // 8, FEATURES), "maxshape": (None, FEATURES)},
    "not chunked": {"chunks": None},
    "bool": {"dtype": "?"},
}


def values(rows: int, tail: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Return numbers of any bits, and rows that pack well beside rows that do not."""
    random, size = np.random.default_rng(seed), rows * int(np.prod(tail)) * np.dtype(dtype).itemsize
    found = np.frombuffer(random.bytes(size), dtype).reshape(rows, *tail).copy()
    found[::3] = 1
    return found


def make(path: Path, X: NDArray[Any], chunks: tuple[int, ...], **options: Any) -> None:
    """Write X and labels."""
    with h5py.File(path, "w") as file:
        file.create_dataset("train/X", data=X, chunks=chunks, **options)
        file["train/y"] = np.arange(len(X)) % 3


def bits_of(values: NDArray[Any]) -> bytes:
    """Return what tells two NaN apart, too."""
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def read(path: Path, lo: int, hi: int, dtype: str) -> tuple[NDArray[Any], tuple[int, int]]:
    """Return rows [lo, hi) and which of them were read past HDF5; the others are zeros."""
    file, source = open_with_source(str(path))
    with file, source:
        small = small_chunks(file["train/X"], source)
        assert small is not None
        whole = np.zeros(file["train/X"].shape, np.dtype(dtype).newbyteorder("="))
        small.read(0, len(whole), whole)  # now it knows the places of all chunks
        out = np.zeros_like(whole[lo:hi])
        done = small.read(lo, hi, out)
    return out, done


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    tail=st.lists(st.integers(1, 5), max_size=2).map(tuple),
    dtype=st.sampled_from(["u1", "<i2", ">i4", "<i8", "<f2", "<f4", ">f4", "<f8", ">f8"]),
    deep=st.integers(1, 7),
    wide=st.integers(0, 2),
    filters=st.sampled_from(sorted(FILTERS)),
    between=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    skipped=st.sets(st.integers(0, 39), max_size=3),
    unwritten=st.sets(st.integers(0, 39), max_size=2),
)
def test_bits_are_those_of_hdf5(
    rows: int,
    tail: tuple[int, ...],
    dtype: str,
    deep: int,
    wide: int,
    filters: str,
    between: tuple[int, int],
    skipped: set[int],
    unwritten: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any shape, chunk, type, filter, and chunks that a filter was left out of, or that were never written."""
    path = tmp_path_factory.mktemp("chunks") / "a.h5"
    X, chunk = values(rows, tail, dtype), (deep, *(extent + wide for extent in tail))
    room = {"maxshape": (None, *(None for _ in tail))}
    with h5py.File(path, "w") as file:
        array = file.create_dataset("train/X", X.shape, dtype, chunks=chunk, fillvalue=7, **room, **FILTERS[filters])
        for number, lo in enumerate(range(0, rows, deep)):
            if number in skipped:  # what the file has then is these bytes as they are
                padded = np.ones(chunk, dtype)
                part = X[lo : lo + deep]
                padded[tuple(np.s_[:extent] for extent in part.shape)] = part
                all_left_out = (1 << len(array._filters)) - 1
                array.id.write_direct_chunk((lo, *(0 for _ in tail)), padded.tobytes(), all_left_out)
            elif number not in unwritten:
                array[lo : lo + deep] = X[lo : lo + deep]
    lo, hi = sorted(min(place, rows) for place in between)
    out, (a, b) = read(path, lo, hi, dtype)
    with h5py.File(path) as file:
        expected = file["train/X"][lo:hi]
    assert lo <= a <= b <= hi
    assert bits_of(out[a - lo : b - lo]) == bits_of(expected[a - lo : b - lo])
    if not skipped and not unwritten:  # all whole chunks
        assert max(b - a, 0) == max((hi if hi == rows else hi // deep * deep) - -(-lo // deep) * deep, 0)


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f8"])
@pytest.mark.parametrize("filters", FILTERS)
def test_rows_are_read_at_once(dtype: str, filters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One-row chunks: not a read of the file for each; wherever a reading begins and ends, the rows of the array."""
    X = values(ROWS, (FEATURES,), dtype)
    X = X if X.dtype.kind == "u" else np.nan_to_num(X)
    make(tmp_path / "a.h5", X, (1, FEATURES), **FILTERS[filters])
    reads: list[int] = []
    for name in ("readinto", "bytes_at"):
        monkeypatch.setattr(OpenFile, name, counted(getattr(OpenFile, name), reads))
    with Reader(inspect(tmp_path / "a.h5"), "train") as reader:
        before = len(reads)
        assert bits_of(reader.X(0, ROWS)) == bits_of(X)
        assert len(reads) - before < ROWS // 4
        for lo, hi in ((0, 1), (17, 203), (299, 300), (4, 4)):
            assert bits_of(reader.X(lo, hi)) == bits_of(X[lo:hi])


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    """Return `function`, with a note of each call."""

    def noted(*arguments: Any) -> Any:
        calls.append(1)
        return function(*arguments)

    return noted


def test_a_few_rows_of_many_do_not_read_the_index(tmp_path: Path) -> None:
    """A rank that reads a small share does not look up every chunk; one that reads on does."""
    X = values(ROWS, (FEATURES,), "u1")
    make(tmp_path / "a.h5", X, (1, FEATURES), compression="gzip")
    file, source = open_with_source(str(tmp_path / "a.h5"))
    with file, source:
        small = small_chunks(file["train/X"], source)
        assert small is not None
        out = np.zeros((10, FEATURES), "u1")
        assert [small.read(lo, lo + 10, out) for lo in (0, 10)] == [(0, 0), (10, 20)]
    assert bits_of(out) == bits_of(X[10:20])


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_what_else_there_is_is_left_to_hdf5(options: dict[str, Any], tmp_path: Path) -> None:
    """Other filters, layouts and types."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train/X", **{"shape": (9, FEATURES), "dtype": "f8", "chunks": (1, FEATURES), **options})
    file, source = open_with_source(str(tmp_path / "a.h5"))
    with file, source:
        assert small_chunks(file["train/X"], source) is None


def test_a_user_block_is_left_to_hdf5(tmp_path: Path) -> None:
    """Where a chunk is then, HDF5's versions count differently."""
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file.create_dataset("train/X", data=np.ones((9, 2)), chunks=(1, 2))
    file, source = open_with_source(str(tmp_path / "a.h5"))
    with file, source:
        assert small_chunks(file["train/X"], source) is None


DAMAGES: dict[str, tuple[bytes, int]] = {
    "no gzip": (b"not gzip at all", 0),
    "cut short": (zlib.compress(bytes(range(FEATURES * 4)))[:-6], 0),
    "checksum": (zlib.compress(bytes(range(FEATURES * 4)))[:-1] + b"?", 0),
    "bits of no filter": (bytes(FEATURES * 4), 6),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_chunk_is_told_as_by_hdf5(
    damage: tuple[bytes, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same line, whoever reads; and the rows around it are there."""
    X = np.random.default_rng(1).standard_normal((ROWS, FEATURES)).astype("f4")
    make(tmp_path / "a.h5", X, (1, FEATURES), compression="gzip")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["train/X"].id.write_direct_chunk((200, 0), *damage)
    answers: list[str] = []
    for past in (True, False):
        if not past:
            monkeypatch.setattr(readers, "small_chunks", lambda array, source: None)
        with Reader(inspect(tmp_path / "a.h5"), "train") as reader:
            assert bits_of(reader.X(0, 200)) == bits_of(X[:200])
            assert bits_of(reader.X(201, ROWS)) == bits_of(X[201:])
            with pytest.raises(DataError, match=r"rows \[150, 250\) of '/train/X' cannot be read") as raised:
                reader.X(150, 250)
            answers.append(str(raised.value))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("stored", "mask", "found"),
    [
        (zlib.compress(bytes(19)), 0, 19),
        (zlib.compress(bytes(21)), 0, 21),
        (bytes(3), 1, 3),
    ],
)
def test_a_chunk_of_another_size_is_refused(stored: bytes, mask: int, found: int, tmp_path: Path) -> None:
    """HDF5 fills up what is missing with whatever is in memory."""
    make(tmp_path / "a.h5", np.ones((ROWS, FEATURES), "f4"), (1, FEATURES), compression="gzip")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["train/X"].id.write_direct_chunk((200, 0), stored, mask)
    with Reader(inspect(tmp_path / "a.h5"), "train") as reader:
        reader.X(0, 200)
        with pytest.raises(DataError, match=f"a.h5: '/train/X', row 200 on, unpacks to {found} bytes: must be 20"):
            reader.X(150, 250)


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    """Chunks beyond the end are noticed as a change."""
    X = np.random.default_rng(1).standard_normal((ROWS, FEATURES))
    make(tmp_path / "a.h5", X, (1, FEATURES))
    with Reader(inspect(tmp_path / "a.h5"), "train") as reader:
        reader.X(0, 100)
        with (tmp_path / "a.h5").open("r+b") as file:
            file.truncate(file.seek(0, 2) - 5000)
        with pytest.raises(ProgramError, match="was changed while it was in use"):
            reader.X(100, ROWS)


def test_chunks_in_any_order_of_the_file(tmp_path: Path) -> None:
    """Written backwards, and with other things between: more than one read brings them."""
    X = np.random.default_rng(1).standard_normal((400, 512))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/y"] = np.zeros(400, "i1")
        array = file.create_dataset("train/X", X.shape, "f8", chunks=(8, 512), compression="gzip")
        for number, (lo, hi) in enumerate(reversed(list(pairwise(range(0, 401, 8))))):
            array[lo:hi] = X[lo:hi]
            if number % 10 == 0:
                file[f"other/{number}"] = np.zeros(1 << 18)
    with Reader(inspect(tmp_path / "a.h5"), "train") as reader:
        assert bits_of(reader.X(0, 400)) == bits_of(X)
