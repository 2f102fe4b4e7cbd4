"""Labels of arrays as people write them: every form gives the class numbers of the plain one, and is said."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp import convert
from ddp_mlp.config import Config
from ddp_mlp.data.opening import open_data
from ddp_mlp.data.targets import settle
from ddp_mlp.errors import ConfigError
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import inspect

ROWS = 60
RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((ROWS, 4)).astype("f4")
LABELS = RANDOM.integers(0, 3, ROWS)
NAMES = np.array(["ab", "b,c", "ü"])


def write(path: Path, y: NDArray[Any], split: str = "train", **attributes: Any) -> Path:
    """Write X and y in one split; text as h5py writes it."""
    with h5py.File(path, "a") as file:
        file[f"{split}/X"] = X
        file.create_dataset(f"{split}/y", data=y, dtype=h5py.string_dtype() if y.dtype == object else None)
        file.attrs.update(attributes)
    return path


def converted(*flags: Any) -> int:
    """Run the command."""
    return convert.main([str(flag) for flag in flags])


FORMS: dict[str, tuple[NDArray[Any], list[str] | None, str]] = {
    "a column": (LABELS[:, None], None, ""),
    "a row": (LABELS[None], None, "is a row (1, 60)"),
    "floats": (LABELS.astype("f8"), None, ""),
    "one-hot": (np.eye(3, dtype="i1")[LABELS], None, "one-hot labels"),
    "one-hot floats": (np.eye(3)[LABELS], None, "one-hot labels"),
    "text": (NAMES[LABELS].astype(object), sorted(NAMES), "is text"),
    "text in a row": (NAMES[LABELS].astype(object)[None], sorted(NAMES), "is text"),
    "text of one length": (np.char.encode(NAMES, "utf-8")[LABELS], sorted(NAMES), "is text"),
    "far apart": (np.array([0, 17, 4000])[LABELS], ["0", "17", "4000"], ""),
    "below zero": (LABELS - 1, ["-1", "0", "1"], ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_hdf5_labels_of_every_form(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new file has class numbers and names; what was odd is said; --inspect counts the same rows in both files."""
    y, names, said = FORMS[form]
    source, out = write(tmp_path / "a.h5", y), tmp_path / "b.h5"
    assert converted(source, out) == 0
    told = capsys.readouterr().out
    assert said in told
    with h5py.File(out) as file:
        assert np.array_equal(file["train/y"], LABELS)
        assert np.array_equal(file["train/X"], X)
        assert [name.decode() for name in file.attrs.get("classes", [])] == (names or [])
    counts = np.bincount(LABELS)
    for path in (source, out):
        assert converted("--inspect", path) == 0
        told = capsys.readouterr().out
        shown = ", ".join(f"{name} {count}" for name, count in zip(names or "012", counts, strict=True))
        assert f"3 classes: {shown}" in told


def test_bools_are_two_classes(tmp_path: Path) -> None:
    """False is 0 and True is 1."""
    assert converted(write(tmp_path / "a.h5", LABELS > 0), tmp_path / "b.h5") == 0
    with h5py.File(tmp_path / "b.h5") as file:
        assert np.array_equal(file["train/y"], LABELS > 0)


def test_text_labels_are_found_among_the_classes_of_the_file(tmp_path: Path) -> None:
    """By name: a class without rows keeps its place."""
    classes = ["ü", "none", "ab", "b,c"]
    source = write(tmp_path / "a.h5", NAMES[LABELS].astype(object), classes=classes)
    assert converted(source, tmp_path / "b.h5") == 0
    with h5py.File(tmp_path / "b.h5") as file:
        assert [classes[label] for label in file["train/y"]] == NAMES[LABELS].tolist()


@pytest.mark.parametrize(
    ("y", "flags", "names"),
    [
        (X[:, 0] * 3, [], ["y"]),
        (X[:, :2] * 3, [], ["y0", "y1"]),
        (X[:, :2] * 3, ["--target", "lift,drag"], ["lift", "drag"]),
        (LABELS, ["--target", "count"], ["count"]),
        (np.eye(3)[LABELS], ["--target", "a,b,c"], ["a", "b", "c"]),
        (np.stack([LABELS > 0, LABELS > 1], axis=1).astype("u1"), [], ["y0", "y1"]),
    ],
)
def test_numbers_stay_numbers(y: NDArray[Any], flags: list[str], names: list[str], tmp_path: Path) -> None:
    """Fractions, several columns, or what --target says: from HDF5 and from NPY alike."""
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    for number, sources in enumerate(([write(tmp_path / "a.h5", y)], [tmp_path / "X.npy", tmp_path / "y.npy"])):
        assert converted(*sources, tmp_path / f"{number}.h5", *flags) == 0
        with h5py.File(tmp_path / f"{number}.h5") as file:
            assert np.array_equal(file["train/y"], y.reshape(ROWS, -1).astype("f8"))
            assert [name.decode() for name in file.attrs["targets"]] == names


@pytest.mark.parametrize(
    ("y", "flags", "code", "said"),
    [
        (np.where(np.arange(ROWS) == 7, 0.5, LABELS), [], 65, "row 7, the label, is 0.5"),
        (np.arange(ROWS), [], 65, "60 different labels in 60 rows: numbers to be met are --target"),
        (NAMES[LABELS].astype(object), ["--target", "a"], 2, "'y' is text, which is labels"),
        (X[:, :2], ["--target", "a"], 2, "--target a: .*'y' has 2 columns"),
        (np.zeros(7), [], 65, r"has shape \(7,\): must be \(60,\)"),
    ],
)
def test_what_could_be_either_is_refused(
    y: NDArray[Any], flags: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the flag that settles it, in one line; no file is made."""
    import re

    assert converted(write(tmp_path / "a.h5", y), tmp_path / "b.h5", *flags) == code
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "b.h5").exists()


def test_one_row_that_is_not_one_hot_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Among 300 that are."""
    y = np.eye(3)[np.arange(300) % 3]
    y[211] = 0
    np.save(tmp_path / "X.npy", np.zeros((300, 2)) + np.arange(2))
    np.save(tmp_path / "y.npy", y)
    assert converted(tmp_path / "X.npy", tmp_path / "y.npy", tmp_path / "b.h5") == 65
    assert "row 211 of the labels is not one-hot" in capsys.readouterr().err


def test_splits_that_do_not_go_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Test without labels beside train with them would be filled with zeros; test alone has no train."""
    source = write(tmp_path / "a.h5", LABELS)
    with h5py.File(source, "a") as file:
        file["test/X"] = X
    assert converted(source, tmp_path / "b.h5") == 65
    assert "test: has no labels, and" in capsys.readouterr().err
    assert converted(write(tmp_path / "c.h5", LABELS, "test"), tmp_path / "b.h5") == 65
    assert "and no train" in capsys.readouterr().err


def test_which_array_is_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one with one column; where both have several, the name says it, and without one it is asked for."""
    y = np.eye(6)[LABELS]
    for name, array in (("a", X), ("b", y), ("y", y), ("ytrain", y), ("train-labels", y)):
        np.save(tmp_path / f"{name}.npy", array)
    assert converted(tmp_path / "a.npy", tmp_path / "b.npy", tmp_path / "out.h5") == 2
    assert "which are the labels?" in capsys.readouterr().err
    for first, second in (("a", "y"), ("y", "a"), ("ytrain", "a"), ("train-labels", "a")):
        assert converted(tmp_path / f"{first}.npy", tmp_path / f"{second}.npy", tmp_path / f"{first}.h5") == 0
        with h5py.File(tmp_path / f"{first}.h5") as file:
            assert np.array_equal(file["train/X"], X)
            assert np.array_equal(file["train/y"], LABELS)


def test_which_of_two_columns_is_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their names, else by their dimensions: in the other order, X was taken for the labels in silence."""
    column = np.arange(20.0)[:, None] + 0.5
    np.save(tmp_path / "a.npy", column)
    np.save(tmp_path / "y.npy", np.arange(20)[:, None] % 2)
    np.save(tmp_path / "flat.npy", np.arange(20) % 2)
    np.save(tmp_path / "b.npy", np.arange(20)[:, None] % 2)
    for names in (("a", "y"), ("y", "a"), ("flat", "a"), ("a", "flat")):
        assert converted(*(tmp_path / f"{name}.npy" for name in names), tmp_path / "out.h5") == 0
        with h5py.File(tmp_path / "out.h5") as file:
            assert np.array_equal(file["train/X"], column)
    assert converted(tmp_path / "b.npy", tmp_path / "a.npy", tmp_path / "out.h5") == 2
    assert "which are the labels?" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(4, 1), (4, 5), (4, 4, 2), (4, 2, 4)])
def test_splits_of_other_features_are_refused(
    shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One feature was repeated for all that train had; others were a traceback."""
    train = (6, 4, 2) if len(shape) > 2 else (6, 4)
    arrays: dict[str, Any] = {
        "x_train": np.ones(train),
        "y_train": [0, 1] * 3,
        "x_test": np.ones(shape),
        "y_test": [0, 1] * 2,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    code = converted(tmp_path / "a.npz", tmp_path / "out.h5")
    if shape[1:] == train[1:]:
        assert code == 0
    else:
        assert code == 65
        found, wanted = (" x ".join(map(str, of[1:])) for of in (shape, train))
        assert f"a.npz: 'x_test': has {found} features, and " in (error := capsys.readouterr().err)
        assert f"a.npz: 'x_train' {wanted}" in error


def test_whole_numbers_beside_floats_stay_apart(tmp_path: Path) -> None:
    """A split of float32 does not round another of large whole numbers."""
    large = 2**40 + np.arange(12).reshape(6, 2)
    arrays: dict[str, Any] = {
        "X_train": large,
        "y_train": [0, 1] * 3,
        "X_test": np.ones((4, 2), "f4"),
        "y_test": [0, 1] * 2,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert converted(tmp_path / "a.npz", tmp_path / "out.h5") == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["train/X"], large)


def test_several_files_are_converted_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a pattern, which is in the order of names, or one after the other; --inspect reads them too."""
    for number, name in enumerate("bca"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["train/X"], file["train/y"] = X + number, NAMES[(LABELS + number) % 3].astype(object)
    assert converted(tmp_path / "[abc].h5", tmp_path / "sorted.h5", "--test", 30) == 0
    assert converted(*(tmp_path / f"{name}.h5" for name in "bca"), tmp_path / "given.h5") == 0
    with h5py.File(tmp_path / "sorted.h5") as file:
        assert np.array_equal(np.concatenate([file["train/X"], file["test/X"]]), np.concatenate([X + 2, X, X + 1]))
    with h5py.File(tmp_path / "given.h5") as file:
        assert np.array_equal(file["train/X"], np.concatenate([X, X + 1, X + 2]))
        assert file.attrs["sources"].tolist() == [b"b.h5", b"c.h5", b"a.h5"]
    capsys.readouterr()
    assert converted("--inspect", tmp_path / "[abc].h5") == 0
    assert "X (180, 4) float32, y is text" in capsys.readouterr().out


def test_a_user_block_before_the_file(tmp_path: Path) -> None:
    """HDF5 all the same, for convert and --inspect as for train."""
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["train/X"], file["train/y"] = X, LABELS
    assert converted(tmp_path / "a.h5", tmp_path / "b.h5") == 0
    assert converted("--inspect", tmp_path / "a.h5") == 0


@pytest.mark.parametrize(("y", "said"), [(np.eye(3)[LABELS], "one-hot"), (LABELS - 1, "-1, 0, 1")])
def test_train_asks_where_y_could_be_either(y: NDArray[Any], said: str, tmp_path: Path) -> None:
    """One-hot labels, and few whole numbers below zero: they were taken for numbers in silence."""
    info = inspect(write(tmp_path / "a.h5", y))
    with pytest.raises(ConfigError, match=f"is {said}: .*convert. makes class numbers of labels"):
        settle(Config(data=str(info.path)), info)
    assert settle(Config(data=str(info.path), loss="squared_error"), info)[0] == "squared_error"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([b"caf\xe9", b"caf\xe8", b"x"], r"the label b'caf\xe8' is not utf-8: decode it, and save text"),
        (["a", "", "b"], "row 1, the label, is empty: take it out"),
    ],
)
def test_labels_of_text_that_are_none(
    labels: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two names in Latin-1 became one class, and one that is not there was a class of its own."""
    np.save(tmp_path / "X.npy", np.ones((6, 2)))
    np.save(tmp_path / "y.npy", np.array(labels * 2))
    assert convert.main([str(tmp_path / name) for name in ("X.npy", "y.npy", "a.h5")]) == 65
    assert said in capsys.readouterr().err


def test_arrays_that_take_no_part_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights in an NPZ were left out in silence."""
    y = np.arange(6) % 2
    forms: list[dict[str, Any]] = [
        {"X": np.ones((6, 2)), "y": y},
        {"x_train": np.ones((6, 2)), "y_train": y, "Y_val": y},
    ]
    for arrays in forms:
        np.savez(tmp_path / "a.npz", w=np.ones(6), **arrays)
        assert convert.main([str(tmp_path / "a.npz"), str(tmp_path / "a.h5")]) == 0
        others = sorted(set(arrays) - {"X", "y", "x_train", "y_train"})
        assert f"a.npz: takes no part: 'w'{', '.join(['', *map(repr, others)])}\n" in capsys.readouterr().out
    np.savez(tmp_path / "a.npz", X=np.ones((6, 2)), y=y)
    assert convert.main([str(tmp_path / "a.npz"), str(tmp_path / "a.h5")]) == 0
    assert "takes no part" not in capsys.readouterr().out


def test_groups_that_are_nearly_splits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of "val" were left out in silence, by convert and by training."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for split in ("train", "val", "Test", "vals", "notes"):
            file[f"{split}/X"], file[f"{split}/y"] = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    said = f"{path}: takes no part: 'Test', 'val': splits are called train, valid, test"
    assert convert.main([str(path), str(tmp_path / "b.h5")]) == 0
    assert said in capsys.readouterr().out
    data = open_data(Config(data=str(path), run_dir=str(tmp_path / "run")), SingleProcess())
    assert said in data.notes
    assert convert.main(["--inspect", str(path)]) == 0
    assert said in capsys.readouterr().out
    data = open_data(Config(data=str(tmp_path / "b.h5"), run_dir=str(tmp_path / "run")), SingleProcess())
    assert not [note for note in data.notes if "takes no part" in note]
