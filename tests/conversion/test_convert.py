"""Conversion: each format gives the rows it holds, each fault one line and an exit code, and memory stays bounded."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp import convert
from ddp_mlp.conversion.splitting import apportion, parse_part
from ddp_mlp.errors import ConfigError, DataError, StorageError
from ddp_mlp.storage import dataset, survey
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.writer import DatasetWriter

ROWS = 30
LETTERS = Path(__file__).parents[3] / "shared" / "data" / "letter-recognition.csv"


def example(dtype: str = "uint8") -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return X (30, 4) from 0 to 199 and y (30,) of three classes, the same at every call."""
    random = np.random.default_rng(5)
    return random.integers(0, 200, (ROWS, 4)).astype(dtype), np.arange(ROWS) % 3


def rows_of(path: Path) -> dict[str, tuple[NDArray[Any], NDArray[np.int64]]]:
    """Return X and y of every split, through the reader that training uses, after a survey that must pass."""
    info = dataset.inspect(path)
    found = {}
    for split, structure in info.splits.items():
        with Reader(info, split) as reader:
            blocks = survey.survey_blocks(structure.rows)
            survey.merge_surveys([survey.survey_block(reader, lo, hi, None) for lo, hi in blocks])
            found[split] = reader.X(0, structure.rows), reader.y(0, structure.rows)
    return found


def write_csv(path: Path, lines: list[str]) -> Path:
    """Write lines of text."""
    path.write_text("".join(line + "\n" for line in lines))
    return path


def run(*arguments: Any) -> int:
    """Run the command inside this process and return its exit code."""
    return convert.main([str(argument) for argument in arguments])


def idx(array: NDArray[Any]) -> bytes:
    """Encode an array as IDX, from the format's own description."""
    codes = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
    header = bytes([0, 0, codes[array.dtype.name], array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


# --- Formats ---


def test_csv_with_a_header_and_text_labels(tmp_path: Path) -> None:
    """Columns go to X in order, labels to sorted classes, integers to the smallest type; the last rows are test."""
    pytest.importorskip("pyarrow")
    source = write_csv(tmp_path / "a.csv", ["a,kind,b", "1,dog,300", "2,cat,-1", '3,"é, x",5', "4,dog,6"])
    assert run(source, tmp_path / "a.h5", "--label", "kind", "--test", 1, "--valid", 1) == 0
    info = dataset.inspect(tmp_path / "a.h5")
    assert info.classes == ("cat", "dog", "é, x")
    assert info.splits["train"].dtype == "int16"
    splits = rows_of(tmp_path / "a.h5")
    assert {split: X.tolist() for split, (X, _) in splits.items()} == {
        "train": [[1, 300], [2, -1]],
        "valid": [[3, 5]],
        "test": [[4, 6]],
    }
    assert {split: y.tolist() for split, (_, y) in splits.items()} == {"train": [1, 0], "valid": [2], "test": [1]}
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train/X"].chunks is None
        assert file.attrs["features"].tolist() == [b"a", b"b"]
        assert file.attrs["sources"].tolist() == [b"a.csv"]
        assert file.attrs["sources_sha256"].tolist() == [hashlib.sha256(source.read_bytes()).hexdigest().encode()]
        assert file.attrs["classes"].dtype.kind == "S"


@pytest.mark.parametrize(("name", "separator", "packed"), [("a.tsv", "\t", False), ("a.csv.gz", ";", True)])
def test_csv_without_a_header(tmp_path: Path, name: str, separator: str, packed: bool) -> None:
    """The separator is found, gzip unpacked, spaces ignored, and the last column is the label -1."""
    pytest.importorskip("pyarrow")
    text = "".join(f"{separator} ".join([str(i), str(i / 4), str(i % 3)]) + "\n" for i in range(9)).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
    assert run(tmp_path / name, tmp_path / "a.h5", "--label", "-1") == 0
    X, y = rows_of(tmp_path / "a.h5")["train"]
    assert X.dtype == np.float32
    assert np.array_equal(X, [[i, i / 4] for i in range(9)])
    assert np.array_equal(y, np.arange(9) % 3)
    assert dataset.inspect(tmp_path / "a.h5").classes is None


def test_csv_of_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are the same when the file is read in many small blocks, and a fraction far down makes its column float."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("ddp_mlp.conversion.tables.BLOCK_BYTES", 100)
    monkeypatch.setattr("ddp_mlp.conversion.tables.WHOLE_BYTES", 0)
    values = [[i % 7, i % 2, i] for i in range(200)]
    lines = [f"{a},{b},{c}" for a, b, c in values] + ["0.5,1,7"]
    flags = ("--label", "1", "--header", "no", "--dtype", "float64")
    assert run(write_csv(tmp_path / "a.csv", lines), tmp_path / "a.h5", *flags) == 0
    X, y = rows_of(tmp_path / "a.h5")["train"]
    assert np.array_equal(X, [[a, c] for a, _, c in values] + [[0.5, 7]])
    assert np.array_equal(y, [b for _, b, _ in values] + [1])


def test_csv_faults_are_named_in_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file of many blocks, one header line is left out, and rows are counted from the first block on."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("ddp_mlp.conversion.tables.BLOCK_BYTES", 100)
    monkeypatch.setattr("ddp_mlp.conversion.tables.WHOLE_BYTES", 0)
    good = ["a,b,y", *[f"{i},{i},{i % 2}" for i in range(200)]]
    assert run(write_csv(tmp_path / "a.csv", good), tmp_path / "a.h5", "--label", "y", "--keep", "a,b") == 0
    assert np.array_equal(rows_of(tmp_path / "a.h5")["train"][0], [[i, i] for i in range(200)])
    write_csv(tmp_path / "b.csv", [line.replace("150,150", "150,x") for line in good])
    with pytest.raises(DataError, match=r"'b' is 'x' in line 152, which is text: the only such value"):
        convert.main([str(tmp_path / "b.csv"), str(tmp_path / "b.h5"), "--label", "y", "--debug"])


@pytest.mark.skipif(not LETTERS.exists(), reason="letter-recognition.csv is not beside this checkout")
def test_the_letters(tmp_path: Path) -> None:
    """The UCI file's usual split comes out as NumPy reads it from the text."""
    pytest.importorskip("pyarrow")
    assert run(LETTERS, tmp_path / "l.h5", "--label", "Letter", "--test", 4000) == 0
    expected = np.loadtxt(LETTERS, dtype=int, delimiter=",", skiprows=1, converters={0: lambda text: ord(text) - 65})
    splits = rows_of(tmp_path / "l.h5")
    assert splits["train"][0].dtype == np.uint8
    for split, part in (("train", expected[:16000]), ("test", expected[16000:])):
        assert np.array_equal(splits[split][0], part[:, 1:])
        assert np.array_equal(splits[split][1], part[:, 0])
    assert run(LETTERS, tmp_path / "m.h5", "--label", 0, "--test", 4000) == 2  # whether line 1 is data is a question


def test_two_tables_are_train_and_test(tmp_path: Path) -> None:
    """Tables named for their split are put in their place, and share one numbering of classes."""
    pytest.importorskip("pyarrow")
    write_csv(tmp_path / "a_test.csv", ["x,y", "1,c", "2,a"])
    write_csv(tmp_path / "a_train.csv", ["x,y", "3,b", "4,c"])
    assert run(tmp_path / "a_test.csv", tmp_path / "a_train.csv", tmp_path / "a.h5", "--label", "y") == 0
    splits = rows_of(tmp_path / "a.h5")
    assert (splits["train"][1].tolist(), splits["test"][1].tolist()) == ([1, 2], [2, 0])


def test_parquet(tmp_path: Path) -> None:
    """Columns of different types and a dictionary-encoded label come out as they went in."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    X, y = example()
    names = np.array(["x", "y", "z"])[y]
    columns = {
        "a": arrow.array(X[:, 0].astype("int64")),
        "label": arrow.array(names).dictionary_encode(),
        "b": arrow.array(X[:, 1].astype("float32") / 2),
        "c": arrow.array(X[:, 2] > 100),
    }
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet", row_group_size=7)
    assert run(tmp_path / "a.parquet", tmp_path / "a.h5", "--label", "label") == 0
    found_X, found_y = rows_of(tmp_path / "a.h5")["train"]
    assert found_X.dtype == np.float32
    assert np.array_equal(found_X, np.stack([X[:, 0], X[:, 1] / 2, X[:, 2] > 100], axis=1))
    assert np.array_equal(found_y, y)
    assert dataset.inspect(tmp_path / "a.h5").classes == ("x", "y", "z")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64", ">i4", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_pairs(tmp_path: Path, dtype: str, order: Any) -> None:
    """Images are flattened, integers shrunk to what holds them, floats kept; in row or column order."""
    X, y = example(dtype)
    np.save(tmp_path / "X.npy", X.reshape(ROWS, 2, 2).copy(order=order))
    np.save(tmp_path / "y.npy", y.astype(np.float32))
    assert run(tmp_path / "X.npy", tmp_path / "y.npy", tmp_path / "a.h5") == 0
    found_X, found_y = rows_of(tmp_path / "a.h5")["train"]
    assert found_X.dtype == np.dtype(dtype if "float" in dtype else np.uint8)
    assert np.array_equal(found_X, X)
    assert np.array_equal(found_y, y)


def test_one_npy_with_its_label_in_a_column(tmp_path: Path) -> None:
    """The label's column is taken out of X."""
    X, y = example("float32")
    np.save(tmp_path / "a.npy", np.insert(X, 2, y, axis=1))
    assert run(tmp_path / "a.npy", tmp_path / "a.h5", "--label", 2) == 0
    found_X, found_y = rows_of(tmp_path / "a.h5")["train"]
    assert np.array_equal(found_X, X)
    assert np.array_equal(found_y, y)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_splits_and_text_labels(tmp_path: Path, save: Any) -> None:
    """Keras's names are known; text labels become classes; a column-ordered member is read too."""
    X, y = example()
    names = np.array(["b", "a", "c"])[y]
    save(tmp_path / "a.npz", x_train=X[:20], y_train=names[:20], x_test=np.asfortranarray(X[20:]), y_test=names[20:])
    assert run(tmp_path / "a.npz", tmp_path / "a.h5", "--valid", 5) == 0
    splits = rows_of(tmp_path / "a.h5")
    assert dataset.inspect(tmp_path / "a.h5").classes == ("a", "b", "c")
    expected = np.array([1, 0, 2])[y]
    for split, part in (("train", slice(0, 15)), ("valid", slice(15, 20)), ("test", slice(20, 30))):
        assert np.array_equal(splits[split][0], X[part])
        assert np.array_equal(splits[split][1], expected[part])


def test_npz_by_name(tmp_path: Path) -> None:
    """Arrays called otherwise are found by --x_name and --y_name."""
    X, y = example()
    np.savez(tmp_path / "a.npz", data=X, target=y)
    assert run(tmp_path / "a.npz", tmp_path / "a.h5") == 65
    assert run(tmp_path / "a.npz", tmp_path / "a.h5", "--x_name", "data", "--y_name", "target") == 0
    assert np.array_equal(rows_of(tmp_path / "a.h5")["train"][0], X)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_in_the_order_a_shell_lists_mnist(tmp_path: Path, packed: bool) -> None:
    """Test files that come first are still test."""
    X, y = example()
    sources = []
    for split, part in (("t10k", slice(20, 30)), ("train", slice(0, 20))):
        for what, array in (("images-idx3", X.reshape(ROWS, 2, 2)[part]), ("labels-idx1", y.astype(np.uint8)[part])):
            path = tmp_path / f"{split}-{what}-ubyte"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
            sources.append(path)
    assert run(*sources, tmp_path / "a.h5") == 0
    splits = rows_of(tmp_path / "a.h5")
    assert splits["train"][0].dtype == np.uint8
    for split, part in (("train", slice(0, 20)), ("test", slice(20, 30))):
        assert np.array_equal(splits[split][0], X[part])
        assert np.array_equal(splits[split][1], y[part])


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_idx_of_other_types(tmp_path: Path, dtype: str) -> None:
    """Big-endian numbers come out in their own type, integers in the smallest that holds them."""
    X, y = example(dtype)
    (tmp_path / "X").write_bytes(idx(X - X.dtype.type(100)))
    (tmp_path / "y").write_bytes(idx(y.astype(np.int32)))
    assert run(tmp_path / "y", tmp_path / "X", tmp_path / "a.h5") == 0
    found, _ = rows_of(tmp_path / "a.h5")["train"]
    assert found.dtype == np.dtype("int8" if dtype == "int16" else dtype)
    assert np.array_equal(found, X - X.dtype.type(100))


def test_hdf5_with_other_names(tmp_path: Path) -> None:
    """Flat arrays are found from the root, with their weights and class names."""
    X, y = example("float64")
    w = np.linspace(0.5, 2, ROWS)
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["features"], file["labels"], file["w"] = X, y, w
        file.attrs["classes"] = ["c", "b", "a"]
    flags = ("--x_name", "/features", "--y_name", "/labels", "--test", "0.2", "--order", "random")
    assert run(tmp_path / "a.hdf", tmp_path / "a.h5", *flags) == 0
    info = dataset.inspect(tmp_path / "a.h5")
    assert info.classes == ("c", "b", "a")
    found = []
    for split, rows in (("train", 24), ("test", 6)):
        with Reader(info, split) as reader:
            found += list(zip(reader.X(0, rows).tolist(), reader.y(0, rows), reader.w(0, rows), strict=True))
    assert sorted(found) == sorted(zip(X.tolist(), y, w, strict=True))


def test_labels_that_are_not_0_1_2_keep_their_names(tmp_path: Path) -> None:
    """Labels with gaps or below zero are numbered in order, and named."""
    X, y = example()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.array([-1, 5, 10])[y])
    assert run(tmp_path / "X.npy", tmp_path / "y.npy", tmp_path / "a.h5") == 0
    assert dataset.inspect(tmp_path / "a.h5").classes == ("-1", "5", "10")
    assert np.array_equal(rows_of(tmp_path / "a.h5")["train"][1], y)


def test_many_class_names_fit(tmp_path: Path) -> None:
    """More than 64 KiB of class names, beyond what an attribute of HDF5's first format holds."""
    names = [f"class number {number:08d}" for number in range(10_000)]
    np.savez(tmp_path / "a.npz", X=np.zeros((20_000, 1)), y=np.array(names * 2))
    assert run(tmp_path / "a.npz", tmp_path / "a.h5") == 0
    assert dataset.inspect(tmp_path / "a.h5").classes == tuple(names)
    assert np.array_equal(rows_of(tmp_path / "a.h5")["train"][1], np.tile(np.arange(10_000), 2))


# --- Who goes where ---


@pytest.mark.parametrize("order", ["random", "stratified"])
def test_drawn_splits_are_a_partition_by_the_seed(tmp_path: Path, order: str) -> None:
    """Every row is in one split, in file order; the seed decides, how the file is read does not."""
    X = np.arange(1000, dtype=np.uint16)[:, None]
    y = np.repeat([0, 1, 2], [700, 200, 100])
    np.savez(tmp_path / "a.npz", X=X, y=y)
    np.savez(tmp_path / "b.npz", X=X.astype(np.float64), y=y.astype("U1"))

    def drawn(source: str, seed: int) -> dict[str, tuple[NDArray[Any], NDArray[np.int64]]]:
        flags = ("--order", order, "--valid", 100, "--test", "0.25", "--seed", seed, "--overwrite")
        assert run(tmp_path / source, tmp_path / "o.h5", *flags) == 0
        return rows_of(tmp_path / "o.h5")

    first, again, other = drawn("a.npz", 1), drawn("b.npz", 1), drawn("a.npz", 2)
    assert {split: len(found) for split, (_, found) in first.items()} == {"train": 650, "valid": 100, "test": 250}
    for split, (found_X, found_y) in first.items():
        assert np.array_equal(found_X, again[split][0])
        assert (np.diff(found_X[:, 0].astype(int)) > 0).all()
        assert np.array_equal(found_y, y[found_X[:, 0]])
    assert np.array_equal(np.sort(np.concatenate([found for found, _ in first.values()]), axis=0), X)
    assert not np.array_equal(first["test"][0], other["test"][0])
    if order == "stratified":
        assert np.bincount(first["test"][1]).tolist() == [175, 50, 25]
        assert np.bincount(first["valid"][1]).tolist() == [70, 20, 10]


def test_apportion_gives_whole_rows_that_add_up() -> None:
    """Hare's quotas by hand: 10 seats over 5, 3 and 1 are 5.56, 3.33 and 1.11."""
    assert apportion(10, np.array([50, 30, 10])).tolist() == [6, 3, 1]
    assert apportion(1, np.array([1, 1, 1])).tolist() == [1, 0, 0]
    assert apportion(0, np.array([3, 0])).tolist() == [0, 0]


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("4000", 4000), ("0.25", 0.25)])
def test_parts_are_rows_or_fractions(text: str, value: float) -> None:
    """Whole numbers are rows, the rest fractions."""
    assert parse_part("--test", text) == value


@pytest.mark.parametrize("text", ["-1", "1.5", "1.0", "half", "nan", "20%"])
def test_other_parts_are_refused(text: str) -> None:
    """What is neither is a ConfigError that repeats it."""
    with pytest.raises(ConfigError, match=r"--test .*: must be a number of rows, or a fraction"):
        parse_part("--test", text)


# --- Refusals ---


@pytest.mark.parametrize(
    ("lines", "flags", "code", "said"),
    [
        (["a,b,y", "1,2,p", "3,,q"], ["--label", "y"], 65, "'b' is missing in 1 row (line 3): --impute mean"),
        (["a,b,y", "1,2,p", "?,4,q"], ["--label", "y"], 65, "'a' is missing in 1 row (line 3): --impute mean"),
        (["a,b,y", "1,2,p", "3,red,q"], ["--label", "y"], 65, "'b' is 'red' in line 3, which is text: the only"),
        (
            ["b,y", "3.12.2025,p", "28.01.2025,q"],
            ["--label", "y"],
            65,
            "--date b=%d.%m.%Y or --date b=%m.%d.%Y or --onehot b",
        ),
        (
            ["b,y", "28/1/2025,p", "3/4/2025,q"],
            ["--label", "y"],
            65,
            "text: --date b=%d/%m/%Y or --onehot b, or --drop b",
        ),
        (
            ["b,y", "1-28-2025,p", "3-4-2025,q"],
            ["--label", "y"],
            65,
            "text: --date b=%m-%d-%Y or --onehot b, or --drop b",
        ),
        (["b,y", "28.13.2025,p", "3.0.2025,q"], ["--label", "y"], 65, "text: --onehot b, or --drop b"),
        (["a,b,y", "1,2,p", "3,\x1b[2Jx,q"], ["--label", "y"], 65, r"is '\x1b[2Jx' in line 3, which is text"),
        (["a,b,y", "1,2,p", "3,nan,q"], ["--label", "y"], 65, "'b' is missing in 1 row (line 3)"),
        (["a,b,y", "1,2,p", "3,1e40,q"], ["--label", "y"], 65, "too large for float32; give --dtype float64"),
        (["a,b,y", "1,2,p", "3,4,"], ["--label", "y"], 65, "the label is missing in 1 row (line 3)"),
        (["a,b,y", "1,2,1", "3,4,NA"], ["--label", "y"], 65, "the label is missing in 1 row (line 3)"),
        (["a,b,y", "1,2,1.5", "3,4,2"], ["--label", "y"], 65, "the label '1.5' is not a whole number"),
        (["a,b,y", "1,2,p", "3,4,p"], ["--label", "y"], 65, "expected at least two classes"),
        (["a,b,y", "1,2,p", "3,4"], ["--label", "y"], 65, "Expected 3 columns, got 2"),
        (["a,b,y"], ["--label", "y"], 65, "has no rows"),
        (["y", "1", "2"], ["--label", "y"], 65, "has no column left for features"),
        (["0,1,y", "1,2,4", "3,4,5"], ["--label", "-1"], 2, "say --header yes or --header no"),
        (["a,b,y", "1,2,p", "3,4,q"], [], 65, "neither --label nor --target is given"),
        (["a,b,y", "1,2,p", "3,4,q"], ["--label", "z"], 2, "--label 'z': is not one column"),
        (["a,b,y", "1,2,p", "3,4,q"], ["--label", "3"], 2, "--label 3: "),
        (["a,b,y", "1,2,p", "3,4,q"], ["--label", "y", "--test", "2"], 2, "leave none of 2 rows to train on"),
        (["a,b,y", "1,2,p", "3,4,q"], ["--label", "y", "--test", "0.1"], 2, "--test 0.1: is not one row of 2"),
    ],
)
def test_a_broken_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], flags: list[str], code: int, said: str
) -> None:
    """Each fault is one printable line on stderr and its exit code, and leaves no file."""
    pytest.importorskip("pyarrow")
    source = write_csv(tmp_path / "a.csv", lines)
    assert run(source, tmp_path / "a.h5", *flags) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.removesuffix("\n").isprintable()
    assert os.listdir(tmp_path) == ["a.csv"]


def broken_sources(folder: Path) -> dict[str, tuple[list[Path], int, str]]:
    """Write files that cannot be used; return by name the sources, the exit code and what is said."""
    X, y = example()
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y)
    np.save(folder / "short.npy", y[:-1])
    np.save(folder / "halves.npy", np.where(np.arange(ROWS) == 0, 0.5, y))
    np.save(folder / "nan.npy", np.where(np.arange(ROWS)[:, None] == 7, np.nan, X))
    np.save(folder / "objects.npy", np.array([{}] * ROWS), allow_pickle=True)
    np.save(folder / "complex.npy", X.astype(complex))
    (folder / "cut.npy").write_bytes((folder / "X.npy").read_bytes()[:-1])
    (folder / "cut.gz").write_bytes(gzip.compress(idx(X))[:-20])
    (folder / "few.idx").write_bytes(idx(X)[:-1])
    (folder / "labels.idx").write_bytes(idx(y.astype(np.uint8)))
    (folder / "zeros").write_bytes(bytes(1000))
    (folder / "empty").write_bytes(b"")
    (folder / "cut.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "huge.idx").write_bytes(b"\0\0\x0e\x02" + b"\xff" * 8 + bytes(100))
    (folder / "huge.idx.gz").write_bytes(gzip.compress((folder / "huge.idx").read_bytes()))
    return {
        "lengths": ([folder / "X.npy", folder / "short.npy"], 65, "labels must be (30,), one per row"),
        "fraction": ([folder / "X.npy", folder / "halves.npy"], 65, "row 0, the label, is 0.5"),
        "nan": ([folder / "nan.npy", folder / "y.npy"], 65, "row 7, feature 0 is nan: every feature must be finite"),
        "objects": ([folder / "objects.npy", folder / "y.npy"], 65, "must be integers, floats or, for labels, text"),
        "complex": ([folder / "complex.npy", folder / "y.npy"], 65, "must be integers, floats or, for labels, text"),
        "cut NPY": ([folder / "cut.npy", folder / "y.npy"], 65, "is cut short"),
        "cut gzip": ([folder / "cut.gz", folder / "labels.idx"], 65, "cut.gz: cannot be read"),
        "cut IDX": (
            [folder / "few.idx", folder / "labels.idx"],
            65,
            "is cut short: it declares 132 bytes and has at most 131",
        ),
        "huge IDX": ([folder / "huge.idx", folder / "labels.idx"], 65, "is cut short"),
        "huge IDX gzip": ([folder / "huge.idx.gz", folder / "labels.idx"], 65, "is cut short"),
        "cut NPZ": ([folder / "cut.npz"], 65, "cannot be read"),
        "zeros": ([folder / "zeros"], 65, "is no CSV"),
        "empty": ([folder / "empty"], 65, "is no CSV"),
        "missing": ([folder / "none.csv"], 74, "No such file"),
        "folder": ([folder], 74, "is not a regular file"),
        "mixed": ([folder / "X.npy", folder / "cut.npz"], 2, "2 sources (NPY and NPZ)"),
        "three": ([folder / "X.npy"] * 3, 2, "3 sources (NPY)"),
        "no sources": ([], 2, "expected SOURCE… OUT.h5, found one path"),
        "no folder": ([folder / "X.npy", folder / "y.npy", folder / "none" / "a.h5"], 74, "there is no folder"),
    }


@pytest.mark.parametrize(
    "name",
    [
        *[
            "lengths",
            "fraction",
            "nan",
            "objects",
            "complex",
            "cut NPY",
            "cut gzip",
            "cut IDX",
            "huge IDX",
            "huge IDX gzip",
            "cut NPZ",
        ],
        *["zeros", "empty", "missing", "folder", "mixed", "three", "no sources", "no folder"],
    ],
)
def test_broken_sources_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Each fault is one printable line on stderr and its exit code, and leaves no file."""
    sources, code, said = broken_sources(tmp_path)[name]
    before = sorted(os.listdir(tmp_path))
    paths = sources if name == "no folder" else [*sources, tmp_path / "out.h5"]
    assert run(*paths) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.removesuffix("\n").isprintable()
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("kind", ["npz", "npy", "idx.gz"])
def test_any_damaged_byte_is_converted_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Damage anywhere ends in a file or in one printable line, never in a traceback."""
    X, y = example()
    np.savez_compressed(tmp_path / "good.npz", X=X, y=y)
    np.save(tmp_path / "good.npy", X)
    (tmp_path / "good.idx.gz").write_bytes(gzip.compress(idx(X)))
    np.save(tmp_path / "y.npy", y)
    good = (tmp_path / f"good.{kind}").read_bytes()
    sources = [tmp_path / "bad"] if kind == "npz" else [tmp_path / "bad", tmp_path / "y.npy"]
    random = np.random.default_rng(2)
    codes = []
    for position in random.integers(0, len(good), 100):
        damaged = bytearray(good)
        damaged[position] ^= int(random.integers(1, 256))
        (tmp_path / "bad").write_bytes(damaged)
        codes.append(run(*sources, tmp_path / "out.h5", "--overwrite"))
        assert capsys.readouterr().err.replace("\n", "").isprintable()
    assert set(codes) <= {0, 2, 65}
    assert codes.count(65) > 10


def test_an_existing_file_is_kept_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """It is replaced as other commands replace theirs, never where it is read; a failure midway leaves the old file."""
    X, y = example("float32")
    np.savez(tmp_path / "a.npz", X=X, y=y)
    assert run(tmp_path / "a.npz", tmp_path / "a.h5") == 0
    old = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_text("an older file")
    assert run(tmp_path / "a.npz", tmp_path / "a.h5") == 0
    assert (tmp_path / "a.h5").read_bytes() == old
    assert run(tmp_path / "a.npz", tmp_path / "a.npz", "--overwrite") == 2
    np.savez(tmp_path / "bad.npz", X=X, y=y[:-1])
    assert run(tmp_path / "bad.npz", tmp_path / "a.h5", "--overwrite") == 65
    info = dataset.inspect(tmp_path / "a.h5")
    writer = DatasetWriter(tmp_path / "a.h5", {"train": 5}, 4, np.dtype("f4"), 3)
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    assert len(os.listdir(tmp_path)) == 3
    writer = DatasetWriter(tmp_path / "a.h5", {"train": 5}, 4, np.dtype("f4"), 3)
    with pytest.raises(ValueError, match="wrote"), writer:
        writer.append("train", X[:2], y[:2])
    dataset.check_unchanged(info)
    assert (tmp_path / "a.h5").read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.npz", "bad.npz"]


def test_a_file_the_disk_cannot_hold_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    """The need is compared with the room on the disk."""
    with pytest.raises(StorageError, match=r"needs .* TiB, and its folder's disk has"):
        DatasetWriter(tmp_path / "a.h5", {"train": 10**15}, 100, np.dtype("f8"), 3)
    assert not os.listdir(tmp_path)


def test_a_missing_pyarrow_is_a_line_that_says_what_to_install(tmp_path: Path) -> None:
    """Exit code 2 and the extra's name, in a Python that cannot import pyarrow."""
    source = write_csv(tmp_path / "a.csv", ["a,y", "1,p", "2,q"])
    code = "import sys; sys.modules['pyarrow'] = None; from ddp_mlp.convert import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "a.h5"), "--label", "y"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr == 'error: CSV and Parquet files need pyarrow: pip install "ddp_mlp[parquet]"\n'


def test_inspect_shows_what_is_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shapes, types, ranges and class counts; a class name with an escape sequence is harmless."""
    X, y = example()
    np.savez(tmp_path / "a.npz", X=X, y=np.array(["a", "b\x1b[2J", "c"])[y])
    assert run(tmp_path / "a.npz", tmp_path / "a.h5", "--test", 3) == 0
    assert run("--inspect", tmp_path / "a.h5") == 0
    shown = capsys.readouterr().out
    assert "train: X (27, 4) uint8, y (27,)" in shown
    assert f"values {X[:27].min()} to {X[:27].max()}" in shown
    assert r"3 classes: a 9, 'b\x1b[2J' 9, c 9" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    assert run("--inspect", tmp_path / "a.npz") == 65


def test_unknown_flags_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors are exit code 2 and a line that points to --help."""
    assert run("a.npz", "b.h5", "--lable", "y") == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --lable y; see --help\n"


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Converting 128 MiB takes less than 64 MiB beyond what an empty conversion takes."""
    rows = 1 << 18
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (rows, 128))
    X[::1000] = 1
    del X
    np.save(tmp_path / "y.npy", np.arange(rows) % 10)
    np.savez(tmp_path / "small.npz", X=np.ones((4, 2)), y=np.array([0, 1, 0, 1]))
    code = (
        "import resource, sys; from ddp_mlp.convert import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(*arguments: Any) -> int:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    base = peak(tmp_path / "small.npz", tmp_path / "small.h5")
    flags = ("--order", "stratified", "--test", "0.2")
    assert peak(tmp_path / "X.npy", tmp_path / "y.npy", tmp_path / "a.h5", *flags) < base + (64 << 10)


def damaged_ends() -> dict[str, bytes]:
    """Return IDX and NPY files that are whole but for what comes behind their last value."""
    X, _ = example()
    npy, stored = io.BytesIO(), io.BytesIO()
    np.save(npy, X)
    with gzip.GzipFile(fileobj=stored, mode="wb", compresslevel=0) as file:
        file.write(idx(X))  # level 0: the bytes as they are, and only the trailer knows their checksum
    pixel = bytearray(stored.getvalue())
    pixel[pixel.index(idx(X)[4:12]) + 60] ^= 4
    wrong_length = bytearray(gzip.compress(idx(X)))
    wrong_length[-1] ^= 1
    return {
        "a pixel under a stored block": bytes(pixel),
        "a length that is wrong": bytes(wrong_length),
        "no trailer": gzip.compress(idx(X))[:-8],
        "a second member": gzip.compress(idx(X)) + gzip.compress(b"more"),
        "bytes behind an IDX": idx(X) + b"x",
        "bytes behind an NPY": npy.getvalue() + b"x",
        "bytes behind a packed NPY": gzip.compress(npy.getvalue() + b"x"),
    }


@pytest.mark.parametrize("name", damaged_ends())
def test_an_end_that_is_not_the_values_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checksum and length of gzip are compared, and nothing may follow: exit 65, no file."""
    _, y = example()
    (tmp_path / "X").write_bytes(damaged_ends()[name])
    (tmp_path / "y").write_bytes(idx(y.astype(np.uint8)))
    assert run(tmp_path / "X", tmp_path / "y", tmp_path / "a.h5") == 65
    (line,) = capsys.readouterr().err.splitlines()
    assert "X: cannot be read: " in line
    assert sorted(os.listdir(tmp_path)) == ["X", "y"]


def test_more_columns_than_memory_is_for_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of a million columns is counted, and not given to Arrow."""
    path = tmp_path / "wide.csv"
    path.write_text("\n".join([",".join(["1"] * 1_000_000)] * 2))
    assert run(path, tmp_path / "a.h5") == 65
    assert "has 1000000 columns: --max_columns 1000000 takes them" in capsys.readouterr().err
    path.write_text("a,b,c\n1,2,3\n4,5,6\n")
    assert run(path, tmp_path / "a.h5", "--max_columns", 2) == 65
    assert run(path, tmp_path / "a.h5", "--max_columns", 3) == 0


def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One to which nobody writes."""
    os.mkfifo(tmp_path / "pipe.csv")
    assert run(tmp_path / "pipe.csv", tmp_path / "a.h5") == 74
    assert "is not a regular file" in capsys.readouterr().err


def test_infinity_is_none_where_float64_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The largest number of float64 is infinity to float32, and every infinity was as large as that."""
    X = np.ones((4, 2), np.float32)
    np.save(tmp_path / "y.npy", [0, 1, 0, 1])
    for value, code in ((np.finfo(np.float32).max, 0), (np.inf, 65)):
        X[2, 1] = value
        np.save(tmp_path / "X.npy", X)
        flags = (tmp_path / "X.npy", tmp_path / "y.npy", tmp_path / "a.h5", "--dtype", "float64")
        assert convert.main([str(flag) for flag in flags]) == code
    assert "row 2, feature 1 is inf: every feature must be finite" in capsys.readouterr().err
