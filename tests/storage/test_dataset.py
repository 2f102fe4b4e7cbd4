"""Data-set files: what is accepted, what is refused and how it is said, and the survey against scikit-learn."""

import os
import pickle
import statistics
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.storage.dataset import DatasetInfo, SplitInfo, check_unchanged, inspect
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import BlockSurvey, Survey, merge_surveys, survey_block, survey_blocks

ROWS, FEATURES, CLASSES = 20, 3, 4


def example(rows: int = ROWS, features: int = FEATURES) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return X and y that are the same at every call."""
    random = np.random.default_rng(7)
    X = random.normal(5.0, 2.0, (rows, features)).astype(np.float32)
    return X, np.arange(rows) % CLASSES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a good file with `train` and `test`."""
    path = tmp_path / "data.h5"
    X, y = example()
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/X"] = X
            file[f"{split}/y"] = y
        file.attrs["classes"] = np.array([b"a", b"b", "é".encode(), b"d"])
    return path


def survey(info: DatasetInfo, split: str = "train", classes: int | None = None) -> Survey:
    """Survey a whole split with one reader."""
    with Reader(info, split) as reader:
        return merge_surveys([survey_block(reader, lo, hi, classes) for lo, hi in survey_blocks(reader.rows)])


# --- Structure ---


def test_inspect_tells_the_structure(path: Path) -> None:
    """Splits, features, classes and the file's size are told, and survive pickling."""
    info = inspect(path)
    assert info.features == FEATURES
    assert info.classes == ("a", "b", "é", "d")
    assert info.splits == {"train": SplitInfo(ROWS, "float32", False), "test": SplitInfo(ROWS, "float32", False)}
    assert info.size_mtime == (path.stat().st_size, path.stat().st_mtime_ns)
    assert pickle.loads(pickle.dumps(info)) == info


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint64", "float16", "float32", "float64", ">f4", "bool"])
def test_every_real_dtype_is_read_as_it_is(tmp_path: Path, dtype: str) -> None:
    """X comes back in the file's dtype, native byte order; bool as uint8."""
    X = (example()[0] > 5).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/X"] = X
        file["train/y"] = np.zeros(ROWS, np.uint8)
    info = inspect(tmp_path / "a.h5")
    expected = "uint8" if dtype == "bool" else np.dtype(dtype).newbyteorder("=").name
    assert info.splits["train"].dtype == expected
    with Reader(info, "train") as reader:
        rows = reader.X(2, 7)
    assert rows.dtype == np.dtype(expected)
    assert np.array_equal(rows, X[2:7])


@pytest.mark.parametrize(
    "options", [{"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"chunks": (6, 2)}]
)
def test_chunked_and_packed_files_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    """Built-in filters and chunks that do not divide the shape give the rows that were written."""
    X, y = example()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train/X", data=X, **options)
        file["train/y"] = y
    with Reader(inspect(tmp_path / "a.h5"), "train") as reader:
        assert np.array_equal(reader.X(5, 17), X[5:17])


def test_names_inside_the_groups_and_from_the_root(tmp_path: Path) -> None:
    """`x_name` is looked up in each split; with a leading slash, from the root, as one split train."""
    X, y = example()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/deep/features"], file["train/labels"] = X, y
        file["flat/images"], file["target"], file["w"] = X, y, np.full(ROWS, 0.5)
    inside = inspect(tmp_path / "a.h5", "deep/features", "labels")
    assert inside.splits == {"train": SplitInfo(ROWS, "float32", False)}
    flat = inspect(tmp_path / "a.h5", "/flat/images", "/target")
    assert flat.splits == {"train": SplitInfo(ROWS, "float32", True)}
    for info in (inside, flat):
        with Reader(info, "train") as reader:
            assert np.array_equal(reader.X(0, ROWS), X)
            assert np.array_equal(reader.y(0, ROWS), y)


Plant = Callable[[h5py.File], None]


def drop(*names: str) -> Plant:
    """Plant the absence of `names`."""

    def plant(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return plant


def put(name: str, value: Any) -> Plant:
    """Plant `value` in the place of `name`."""

    def plant(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return plant


def put_group(file: h5py.File) -> None:
    """Put a group where X belongs."""
    del file["train/X"]
    file.create_group("train/X")


def put_text(file: h5py.File) -> None:
    """Put strings of variable length where y belongs."""
    del file["train/y"]
    file.create_dataset("train/y", data=["a"] * ROWS, dtype=h5py.string_dtype())


def put_unwritten_contiguous(file: h5py.File) -> None:
    """Declare 8 PB of which nothing was written."""
    del file["train/X"], file["train/y"]
    file.create_dataset("train/X", (10**12, 1000), "f8")
    file.create_dataset("train/y", (10**12,), "u1")


def put_unwritten_chunks(file: h5py.File) -> None:
    """Declare 8 TB of which one chunk was written."""
    del file["train/X"], file["train/y"]
    X = file.create_dataset("train/X", (10**9, 1000), "f8", chunks=(1000, 1000), compression="gzip")
    X[:2] = 1
    file.create_dataset("train/y", (10**9,), "u1", chunks=(1000,))


def put_missing_chunk(file: h5py.File) -> None:
    """Grow X and y by rows that nobody writes."""
    del file["train/X"], file["train/y"]
    X, y = example()
    file.create_dataset("train/X", data=X, chunks=(ROWS, FEATURES), maxshape=(None, FEATURES)).resize(ROWS + 1, axis=0)
    file["train/y"] = np.append(y, 0)


def put_bomb(file: h5py.File) -> None:
    """Write two chunks of 200 MB each as 36 bytes: gzip of gzip."""
    del file["train/X"], file["train/y"]
    shape, chunk = (50_000, 1000), (25_000, 1000)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(chunk)
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple(shape)
    X = h5py.Dataset(h5py.h5d.create(file["train"].id, b"X", h5py.h5t.NATIVE_DOUBLE, space, properties))
    for lo in (0, 25_000):
        X.id.write_direct_chunk((lo, 0), b"x" * 36)
    file["train/y"] = np.zeros(shape[0], np.uint8)


def put_plugin_filter(file: h5py.File) -> None:
    """Declare the filter of Blosc, which is not built in."""
    del file["train/X"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((ROWS, FEATURES))
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    space = h5py.h5s.create_simple((ROWS, FEATURES))
    h5py.h5d.create(file["train"].id, b"X", h5py.h5t.NATIVE_FLOAT, space, properties)


def put_virtual(file: h5py.File) -> None:
    """Put a virtual data set, its source missing, where X belongs."""
    del file["train/X"]
    layout = h5py.VirtualLayout((ROWS, FEATURES), "f4")
    layout[:] = h5py.VirtualSource("/etc/elsewhere.h5", "X", (ROWS, FEATURES))
    file.create_virtual_dataset("train/X", layout)


def put_external_storage(file: h5py.File) -> None:
    """Let X be the bytes of another file."""
    del file["train/X"]
    file.create_dataset("train/X", (ROWS, FEATURES), "u1", external=[("/etc/passwd", 0, ROWS * FEATURES)])


def put_classes(value: Any, attribute: str = "classes") -> Plant:
    """Plant `value` as the class names, or as those of features."""

    def plant(file: h5py.File) -> None:
        file.attrs[attribute] = value

    return plant


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (drop("train"), "no group train; found 'test'"),
        (put("train", np.zeros(3)), "train is not a group"),
        (drop("train/X"), "train has no 'X'; found 'y'"),
        (drop("train/y"), "train has no 'y'; found 'X'"),
        (drop("test/y"), "test has no 'y'"),
        (put("train/X", np.zeros(ROWS)), "must be 2-D"),
        (put("train/X", np.zeros((ROWS, 2, 2))), "train has 4, test has 3 features"),
        (put("train/X", h5py.Empty("f4")), "2-D"),
        (put_group, "not a data set"),
        (put("train/X", np.zeros((ROWS, FEATURES), np.complex128)), "compound"),
        (put("train/X", np.zeros((ROWS, FEATURES), "S3")), "is text"),
        (put("train/X", np.zeros((ROWS, FEATURES), np.longdouble)), "at most 64 bits"),
        (put("train/X", np.zeros((ROWS + 1, FEATURES))), f"has shape ({ROWS},): must be ({ROWS + 1},)"),
        (put("train/y", np.zeros((ROWS, 2), int)), "train has 2, test has 1 targets"),
        (put("train/w", np.zeros(ROWS - 1)), f"'w' of train has shape ({ROWS - 1},): must be ({ROWS},)"),
        (put("train/w", np.zeros(ROWS, "S1")), "'w' of train is text"),
        (put_text, "'y' of train is text"),
        (put("train/X", np.zeros((0, FEATURES))), "must hold examples and features"),
        (put("train/X", np.zeros((ROWS, 0))), "must hold examples and features"),
        (put("test/X", np.zeros((ROWS, FEATURES + 1))), "train has 3, test has 4 features"),
        (put("train/X", h5py.SoftLink("/test/X")), "soft or external link"),
        (put("train/X", h5py.ExternalLink("/etc/elsewhere.h5", "X")), "soft or external link"),
        (put("train", h5py.ExternalLink("/etc/elsewhere.h5", "train")), "soft or external link"),
        (put_virtual, "virtual data set"),
        (put_external_storage, "external storage"),
        (put_plugin_filter, "needs the HDF5 filter 32001"),
        (put_unwritten_contiguous, "not written to the end"),
        (put_unwritten_chunks, "not written to the end"),
        (put_missing_chunk, "not written to the end"),
        (put_bomb, "not written to the end"),
        (put_classes(3.0), "must be a list of names"),
        (put_classes(np.array([], "S1")), "must be a list of names"),
        (put_classes(np.array([b"a", b"a"])), "names 'a' twice"),
        (put_classes(np.array([b"a", b"b", b"a"]), "features"), "attribute features names 'a' twice"),
    ],
)
def test_a_broken_file_is_refused_by_its_structure(path: Path, plant: Plant, said: str) -> None:
    """Each fault is a DataError of one printable line that names the file and the fault."""
    with h5py.File(path, "a") as file:
        plant(file)
    with pytest.raises(DataError) as caught:
        inspect(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert message.isprintable()


def test_a_name_from_the_file_is_printed_harmlessly(path: Path) -> None:
    """A member's name with terminal escapes comes out as printable text."""
    with h5py.File(path, "a") as file:
        del file["train/X"]
        file["train/\x1b[2Jevil\n"] = 1
    with pytest.raises(DataError) as caught:
        inspect(path)
    assert "evil" in str(caught.value)
    assert str(caught.value).isprintable()


def test_missing_folder_and_pipe_are_storage_errors(tmp_path: Path) -> None:
    """What cannot be read as a file at all is a StorageError, and a pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path, said in [(tmp_path / "none.h5", "No such file"), (tmp_path, "regular"), (tmp_path / "pipe", "regular")]:
        with pytest.raises(StorageError, match=said):
            inspect(path)


def test_text_and_empty_files_are_told_apart(tmp_path: Path) -> None:
    """A file that is not HDF5 is told the way to make one."""
    for content in (b"", b"1,2,3\n" * 100):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"is not an HDF5 file.*ddp_mlp\.convert"):
            inspect(tmp_path / "a.csv")


@pytest.mark.parametrize("lost", [1, 100, 2000])
def test_a_truncated_file_is_refused(path: Path, lost: int) -> None:
    """Bytes missing at the end are noticed before a row is read."""
    os.truncate(path, path.stat().st_size - lost)
    with pytest.raises(DataError, match="cut short"):
        inspect(path)


def test_rows_beyond_the_end_of_the_file_are_refused(path: Path) -> None:
    """An address that puts rows behind the end of the file is noticed: by HDF5 2, or else by `inspect`."""
    with h5py.File(path) as file:
        address, size = file["train/X"].id.get_offset(), ROWS * FEATURES * 4
    good = path.read_bytes()
    layout = struct.pack("<QQ", address, size)  # as the layout message has it
    assert good.count(layout) == 1
    path.write_bytes(good.replace(layout, struct.pack("<QQ", len(good) - 8, size)))
    with pytest.raises(DataError, match=r"declares 240 bytes|file corruption"):
        inspect(path)


def test_a_user_block_does_not_disturb(path: Path, tmp_path: Path) -> None:
    """Offsets are right where the HDF5 part does not begin at byte 0."""
    shifted = tmp_path / "block.h5"
    X, y = example()
    with h5py.File(shifted, "w", userblock_size=512) as file:
        file["train/X"], file["train/y"] = X, y
    with Reader(inspect(shifted), "train") as reader:
        assert np.array_equal(reader.X(0, ROWS), X)


def test_any_flipped_byte_gives_an_answer_or_a_program_error(path: Path, tmp_path: Path) -> None:
    """Damage in the structure ends in DataError, StorageError or in rows, never in another exception."""
    good = path.read_bytes()
    bad = tmp_path / "bad.h5"
    refused = 0
    for position in np.random.default_rng(1).integers(0, len(good), 150):
        damaged = bytearray(good)
        damaged[position] ^= 0xFF
        bad.write_bytes(damaged)
        try:
            survey(inspect(bad))
        except (DataError, StorageError):
            refused += 1
    assert refused > 10


# --- Rows ---


def test_rows_go_straight_into_out(path: Path) -> None:
    """`out` is filled and returned; nothing else of it is touched."""
    X, _ = example()
    buffer = np.full((10, FEATURES), -1, np.float32)
    with Reader(inspect(path), "test") as reader:
        assert np.shares_memory(reader.X(4, 9, out=buffer[2:7]), buffer)
        assert np.array_equal(buffer[2:7], X[4:9])
        assert (buffer[[0, 1, 7, 8, 9]] == -1).all()
        assert reader.X(4, 4).shape == (0, FEATURES)
        with pytest.raises(IndexError):
            reader.X(0, ROWS + 1)


@pytest.mark.parametrize("chunks", [(1, 6), (1, 2), (3, 6), (7, 1), (700, 6)])
def test_rows_of_many_small_chunks(chunks: tuple[int, int], tmp_path: Path) -> None:
    """Whatever chunks they lie in, and wherever a reading begins and ends: the rows of the array."""
    X = np.random.default_rng(3).standard_normal((900, 6))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train/X", data=X, chunks=chunks, compression="gzip")
        file["train/y"] = np.arange(900) % 3
    with Reader(inspect(tmp_path / "a.h5"), "train") as reader:
        for lo, hi in ((0, 900), (0, 256), (255, 257), (511, 900), (300, 300), (899, 900)):
            np.testing.assert_array_equal(reader.X(lo, hi), X[lo:hi], strict=True)


def test_weights_default_to_ones(path: Path) -> None:
    """`w` is float64 whatever the file holds, and ones without weights."""
    with h5py.File(path, "a") as file:
        file["test/w"] = np.arange(ROWS, dtype=np.uint8)
    info = inspect(path)
    assert (info.splits["train"].weighted, info.splits["test"].weighted) == (False, True)
    with Reader(info, "train") as reader:
        assert np.array_equal(reader.w(3, 5), np.ones(2))
    with Reader(info, "test") as reader:
        assert np.array_equal(reader.w(3, 5), np.array([3.0, 4.0]))


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_weights_that_are_none_are_named(path: Path, wrong: float) -> None:
    """Whoever reads them: scores by weights of -1 would be as if there were none."""
    with h5py.File(path, "a") as file:
        file["train/w"] = np.where(np.arange(ROWS) == 7, wrong, 1.0)
    with Reader(inspect(path), "train") as reader:
        assert reader.w(0, 7).sum() == 7
        with pytest.raises(DataError, match=f"'w' of train, row 7 is {wrong}: must be finite, and at least 0"):
            reader.w(5, ROWS)


def test_weights_in_a_column_are_told_what_they_must_be(path: Path) -> None:
    """`convert` reads no other form of them, and is no remedy."""
    with h5py.File(path, "a") as file:
        file["train/w"] = np.ones((ROWS, 1))
    with pytest.raises(
        DataError, match=r"'w' of train has shape \(20, 1\): must be \(20,\), one per row of 'X'; w is the weights"
    ):
        inspect(path)


def test_whole_float_labels_are_read(path: Path) -> None:
    """Labels stored as floats are accepted when they are whole numbers."""
    _, y = example()
    with h5py.File(path, "a") as file:
        put("train/y", y.astype(">f8"))(file)
    with Reader(inspect(path), "train") as reader:
        labels = reader.y(0, ROWS)
    assert labels.dtype == np.int64
    assert np.array_equal(labels, y)


@pytest.mark.parametrize("wrong", [0.5, np.nan, 1e300, np.uint64(2**63)])
def test_labels_that_are_no_whole_numbers_are_named(path: Path, wrong: Any) -> None:
    """A fraction, NaN or too large label is refused with its row."""
    y = np.zeros(ROWS, np.asarray(wrong).dtype)
    y[6] = wrong
    with h5py.File(path, "a") as file:
        put("train/y", y)(file)
    with Reader(inspect(path), "train") as reader, pytest.raises(DataError, match=r"row 6 is .*whole number"):
        reader.y(2, 9)


def test_a_change_of_the_file_is_noticed(path: Path) -> None:
    """A file that is touched, or replaced, is refused by open readers and new ones."""
    info = inspect(path)
    with Reader(info, "train") as reader:
        reader.X(0, 1)
        os.utime(path, ns=(0, info.size_mtime[1] + 1))
        with pytest.raises(DataError, match="was changed"):
            reader.X(0, 1)
    with pytest.raises(DataError, match="was changed"):
        Reader(info, "train")
    os.remove(path)
    with pytest.raises(StorageError, match="No such file"):
        check_unchanged(info)


def test_a_damaged_chunk_is_told_with_its_rows(path: Path) -> None:
    """Rows that do not unpack are a DataError, not an OSError."""
    with h5py.File(path, "a") as file:
        del file["train/X"]
        X = file.create_dataset("train/X", (ROWS, FEATURES), "f4", chunks=(10, FEATURES), compression="gzip")
        X[:] = example()[0]
        X.id.write_direct_chunk((10, 0), b"not gzip at all")
    with Reader(inspect(path), "train") as reader:
        reader.X(0, 10)
        with pytest.raises(DataError, match=r"rows \[9, 12\) of '/train/X' cannot be read"):
            reader.X(9, 12)


# --- Survey ---


def test_survey_blocks_cover_the_rows() -> None:
    """Blocks are contiguous, of 8192 rows, and at most 1024 however many rows there are."""
    assert survey_blocks(8193) == [(0, 8192), (8192, 8193)]
    for rows in (1, 8192, 8192 * 1024, 8192 * 1024 + 1, 10**10 + 7):
        blocks = survey_blocks(rows)
        assert len(blocks) <= 1024
        assert [lo for lo, _ in blocks] == [0, *[hi for _, hi in blocks[:-1]]]
        assert blocks[-1][1] == rows


@pytest.mark.parametrize(("offset", "features"), [(0.0, 3), (1e6, 2), (3.0, 700)])
def test_survey_agrees_with_scikit_learn(tmp_path: Path, offset: float, features: int) -> None:
    """Mean and standard deviation are StandardScaler's, over several blocks and pieces."""
    random = np.random.default_rng(3)
    X = random.normal(offset, 1.0, (20_000, features))
    X[:, 0] = 0.1
    w = random.random(len(X))
    y = random.integers(0, CLASSES, len(X))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/X"], file["train/y"], file["train/w"] = X, y, w
    found = survey(inspect(tmp_path / "a.h5"))
    scaler = StandardScaler().fit(X)
    # float64 sums of 20,000 values around 1e6 keep some 10 digits of a deviation of 1: 1e-6 leaves room
    np.testing.assert_allclose(found.mean, scaler.mean_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, scaler.scale_, rtol=1e-6)
    assert found.std[0] == 1.0
    assert found.mean[0] == 0.1
    assert np.array_equal(found.minimum, X.min(axis=0))
    assert np.array_equal(found.maximum, X.max(axis=0))
    assert np.array_equal(found.class_counts, np.bincount(y))
    assert found.weight_sum == pytest.approx(w.sum(), rel=1e-12)
    assert found.count == len(X)


def test_a_spread_is_exact_far_from_zero(tmp_path: Path) -> None:
    """Around 1e12, where the mean itself is rounded, the deviation agrees with exact rational arithmetic."""
    X = np.random.default_rng(4).normal(1e12, 1e-2, (8192, 1))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/X"], file["train/y"] = X, np.zeros(len(X), np.uint8)
    exact = statistics.pstdev(X[:, 0].tolist())
    np.testing.assert_allclose(survey(inspect(tmp_path / "a.h5")).std, exact, rtol=1e-6)


def test_a_survey_is_the_same_whoever_surveys_which_block(tmp_path: Path) -> None:
    """Blocks surveyed by separate readers, and pickled, merge to the same bits."""
    X, y = example(30_000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/X"], file["train/y"] = X, y
    info = inspect(tmp_path / "a.h5")
    alone = survey(info, classes=CLASSES)
    blocks: dict[tuple[int, int], BlockSurvey] = {}
    for rank in range(3):
        with Reader(info, "train") as reader:
            for lo, hi in survey_blocks(len(X))[rank::3]:
                blocks[lo, hi] = pickle.loads(pickle.dumps(survey_block(reader, lo, hi, CLASSES)))
    shared = merge_surveys([blocks[lo, hi] for lo, hi in sorted(blocks)])
    assert alone.mean.tobytes() == shared.mean.tobytes()
    assert alone.std.tobytes() == shared.std.tobytes()
    assert alone.fingerprint == shared.fingerprint


def test_the_fingerprint_is_of_the_rows_not_of_the_file(path: Path, tmp_path: Path) -> None:
    """Packing the same rows differently keeps the fingerprint; one changed label, value or dtype changes it."""
    X, y = example()

    def fingerprint(X: NDArray[Any], y: NDArray[Any], **options: Any) -> str:
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file.create_dataset("train/X", data=X, **options)
            file["train/y"] = y
        return survey(inspect(tmp_path / "b.h5")).fingerprint

    same = survey(inspect(path)).fingerprint
    assert fingerprint(X, y.astype(np.uint8), compression="gzip") == same
    other_y, other_X = y.copy(), X.copy()
    other_y[3] = 2
    other_X[ROWS - 1, 0] = np.nextafter(X[ROWS - 1, 0], np.float32(9))
    assert len({same, fingerprint(X, other_y), fingerprint(other_X, y), fingerprint(X.astype("f8"), y)}) == 4
    assert fingerprint(X.reshape(ROWS // 2, 2 * FEATURES), y[: ROWS // 2]) != same


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(path: Path, wrong: float) -> None:
    """The row, the column and the value are said."""
    with h5py.File(path, "a") as file:
        file["train/X"][13, 2] = wrong
    with pytest.raises(DataError, match=f"row 13, column 2 is {wrong}"):
        survey(inspect(path))


@pytest.mark.parametrize(("label", "classes"), [(-1, None), (4, 4), (2**40, None)])
def test_labels_out_of_range_are_named(path: Path, label: int, classes: int | None) -> None:
    """Negative labels, labels beyond the classes, and labels that would ask for endless memory are refused."""
    with h5py.File(path, "a") as file:
        file["train/y"][5] = label
    with pytest.raises(DataError, match=f"'y' of train, row 5 is {label}: must be a class number from 0 to"):
        survey(inspect(path), classes=classes)


@pytest.mark.parametrize("weight", [-0.5, np.nan, np.inf])
def test_weights_out_of_range_are_named(path: Path, weight: float) -> None:
    """Negative and non-finite weights are refused with their row."""
    w = np.ones(ROWS)
    w[9] = weight
    with h5py.File(path, "a") as file:
        file["train/w"] = w
    with pytest.raises(DataError, match=f"'w' of train, row 9 is {weight}"):
        survey(inspect(path))


def test_weights_that_are_all_zero_are_refused(path: Path) -> None:
    """A split in which no example counts has no mean loss."""
    with h5py.File(path, "a") as file:
        file["train/w"] = np.zeros(ROWS)
    with pytest.raises(DataError, match="every sample weight"):
        survey(inspect(path))


def test_a_spread_beyond_float64_is_refused(path: Path) -> None:
    """Finite values whose squares overflow are named by their column, without a warning."""
    X = np.ones((ROWS, FEATURES))
    X[3, 1] = 1e300
    with h5py.File(path, "a") as file:
        put("train/X", X)(file)
    with pytest.raises(DataError, match=r"column 1 of X has values from 1 to 1e\+300"):
        survey(inspect(path))
