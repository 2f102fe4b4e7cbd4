"""Several files as one, splits in files of their own, several arrays side by side, packed as netCDF has it."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.storage.dataset import arranged, inspect
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import merge_surveys, survey_block, survey_blocks
from tests.conftest import Program

with pytest.MonkeyPatch.context() as _environment:
    _environment.setenv("HDF5_PLUGIN_PATH", "")  # else its plugins are there for every HDF5 library of the process
    netcdf = pytest.importorskip("netCDF4")

FILES, ROWS = 40, 6


def packed(number: int) -> tuple[NDArray[np.int16], NDArray[np.int16], float, float]:
    """Return T (6, 3), q (6, 2, 2) as int16, and the scale and offset that T is packed with in this file."""
    random = np.random.default_rng(number)
    T = random.integers(-3000, 3000, (ROWS, 3)).astype(np.int16)
    q = random.integers(0, 500, (ROWS, 2, 2)).astype(np.int16)
    return T, q, 0.01, 280.0 + number % 3


def labels(number: int) -> NDArray[np.int64]:
    """Return y (6,)."""
    return (np.arange(ROWS) + number) % 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 40 netCDF-4 files, and one HDF5 file of what is in them."""
    place = tmp_path_factory.mktemp("many")
    X = []
    for number in range(FILES):
        T, q, scale, offset = packed(number)
        with netcdf.Dataset(place / f"day-{number:03d}.nc", "w") as file:
            group = file.createGroup("train")
            for name, size in (("row", None), ("level", 3), ("a", 2), ("b", 2)):
                group.createDimension(name, size)
            variable = group.createVariable("T", "i2", ("row", "level"), zlib=True)
            variable.set_auto_maskandscale(False)
            variable.scale_factor, variable.add_offset = np.float32(scale), np.float32(offset)
            variable[:] = T
            variable = group.createVariable("q", "i2", ("row", "a", "b"))
            variable.set_auto_maskandscale(False)
            variable.scale_factor = np.float32(0.001)
            variable[:] = q
            group.createVariable("y", "i8", ("row",))[:] = labels(number)
        unpacked_T = (T.astype(np.float64) * np.float64(np.float32(scale)) + np.float64(np.float32(offset))).astype(
            "f4"
        )
        unpacked_q = (q.reshape(ROWS, 4).astype(np.float64) * np.float64(np.float32(0.001))).astype("f4")
        X.append(np.concatenate([unpacked_T, unpacked_q], axis=1))
    with h5py.File(place / "one.h5", "w") as file:
        file["train/X"] = np.concatenate(X)
        file["train/y"] = np.concatenate([labels(number) for number in range(FILES)])
    return place


def rows_of(info: Any, split: str = "train") -> NDArray[Any]:
    """Return X of a split, read in stretches that cross files."""
    with Reader(info, split) as reader:
        return np.concatenate([reader.X(lo, min(lo + 17, reader.rows)) for lo in range(0, reader.rows, 17)])


def fingerprint(info: Any) -> str:
    """Return the fingerprint of train."""
    with Reader(info, "train") as reader:
        blocks = survey_blocks(reader.rows)
        return merge_surveys([survey_block(reader, lo, hi, 3) for lo, hi in blocks]).fingerprint


def test_many_files_are_one(folder: Path) -> None:
    """The rows have the bits of one file that holds them unpacked, and so has the fingerprint."""
    many, one = inspect(f"{folder}/day-*.nc", "T,q"), inspect(folder / "one.h5")
    assert (many.features, many.splits["train"].rows) == (7, FILES * ROWS)
    assert many.names == ("T[0]", "T[1]", "T[2]", "q[0,0]", "q[0,1]", "q[1,0]", "q[1,1]")
    assert rows_of(many).tobytes() == rows_of(one).tobytes()
    assert fingerprint(many) == fingerprint(one)
    with netcdf.Dataset(folder / "day-007.nc") as file:  # the library's own unpacking, to its rounding in float32
        np.testing.assert_allclose(rows_of(many)[7 * ROWS : 8 * ROWS, :3], file["train/T"][:], rtol=1e-6)


@pytest.mark.parametrize("access", ["memory", "stream"])
@pytest.mark.parametrize("P", [1, 2, 3])
def test_many_files_train_to_the_bits_of_one(
    folder: Path, access: str, P: int, run_python: Program, mpirun: Program, tmp_path: Path
) -> None:
    """Any number of ranks, in memory and streamed."""
    flags: list[Any] = ["-m", "ddp_mlp.train", "--epochs", "2", "--hidden", "8", "--quiet", "--access", access]
    flags += ["--shuffle", "blocks", "--block_rows", "64", "--valid_fraction", "0.1"]
    known = run_python(*flags, "--data", folder / "one.h5", "--run_dir", tmp_path / "one")
    flags += ["--data", f"{folder}/day-*.nc", "--x_name", "T,q", "--run_dir", tmp_path / "many"]
    outcome = run_python(*flags) if P == 1 else mpirun(P, *flags)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.split("parameters_sha256 ")[1] == known.stdout.split("parameters_sha256 ")[1]


def test_a_missing_value_is_nan_where_it_can_be(tmp_path: Path) -> None:
    """_FillValue of packed numbers and of floats is NaN; of whole numbers it is refused, with its row."""
    for name, kind, scale in (("packed", "i2", 0.5), ("floats", "f4", None), ("whole", "i2", None)):
        with netcdf.Dataset(tmp_path / f"{name}.nc", "w") as file:
            file.createDimension("row", 4)
            file.createDimension("x", 2)
            variable = file.createVariable("X", kind, ("row", "x"), fill_value=-99)
            variable.set_auto_maskandscale(False)
            if scale:
                variable.scale_factor = scale
            variable[:] = [[1, 2], [3, -99], [4, 5], [6, 7]]
            file.createVariable("y", "i4", ("row",))[:] = [0, 1, 0, 1]
    found = inspect(tmp_path / "packed.nc", "/X", "/y")
    np.testing.assert_array_equal(rows_of(found), [[0.5, 1], [1.5, np.nan], [2, 2.5], [3, 3.5]])
    assert np.isnan(rows_of(inspect(tmp_path / "floats.nc", "/X", "/y"))[1, 1])
    with pytest.raises(DataError, match="row 1 is -99, its _FillValue"):
        rows_of(inspect(tmp_path / "whole.nc", "/X", "/y"))


def test_targets_and_weights_are_unpacked_as_features_are(tmp_path: Path) -> None:
    """A packed y and w are what netCDF4 makes of them, whoever reads them; a y that is not there is NaN."""
    with netcdf.Dataset(tmp_path / "y.nc", "w") as file:
        group = file.createGroup("train")
        group.createDimension("row", 5)
        group.createDimension("column", 2)
        group.createVariable("X", "f8", ("row", "column"))[:] = np.arange(10).reshape(5, 2)
        y = group.createVariable("y", "i2", ("row",), fill_value=-999)
        y.scale_factor, y.add_offset = 0.1, 20.0
        y[:] = np.ma.array([20.5, 21.0, 0.0, 19.5, 20.0], mask=np.arange(5) == 2)
        w = group.createVariable("w", "i2", ("row",))
        w.scale_factor = 0.5
        w[:] = [0.5, 1.0, 1.5, 2.0, 2.5]
    with netcdf.Dataset(tmp_path / "y.nc") as file:
        wanted = file["train/y"][:].filled(np.nan)
        weights = file["train/w"][:].filled(np.nan)
    assert np.isnan(wanted).tolist() == [False, False, True, False, False]
    with Reader(inspect(tmp_path / "y.nc"), "train") as reader:
        for found in (reader.raw_y(0, 5), reader.any_y(0, 5), np.append(reader.raw_y(0, 2), reader.any_y(2, 5))):
            assert np.array_equal(found, wanted, equal_nan=True)
        assert reader.w(1, 4).tolist() == weights[1:4].tolist()


@pytest.mark.parametrize(
    ("kind", "attributes", "there"),
    [
        ("f4", {"missing_value": np.float32(-999)}, [1, 2, -999, 4]),
        ("f8", {"missing_value": np.array([-999.0, -1.0])}, [1, -1, -999, 4]),
        ("f4", {}, [1, 2, None, 4]),
        ("i2", {"scale_factor": 0.5}, [1, 2, None, 4]),
        ("i2", {"scale_factor": 0.5, "missing_value": np.int16(7)}, [1, 2, 7, 4]),
        ("i1", {"_Unsigned": "true"}, [1, 200, 255, 4]),
        ("i2", {"_Unsigned": "true", "scale_factor": 2.0}, [1, 60000, 65530, 4]),
    ],
)
def test_what_is_missing_or_unsigned_is_as_netcdf4_reads_it(
    tmp_path: Path, kind: str, attributes: dict[str, Any], there: list[float | None]
) -> None:
    """What was never written, what missing_value names, and signs that are none, by netCDF's own library."""
    with netcdf.Dataset(tmp_path / "x.nc", "w") as file:
        group = file.createGroup("train")
        group.createDimension("row", len(there))
        variable = group.createVariable("X", kind, ("row",))
        variable.set_auto_maskandscale(False)
        variable.setncatts(attributes)
        unsigned = "_Unsigned" in attributes
        for row, value in enumerate(there):
            if value is not None:
                stored = np.array(value, f"u{kind[1]}").view(kind) if unsigned else np.array(value, kind)
                variable[row : row + 1] = stored
        group.createVariable("T", "f4", ("row",))[:] = 0
        group.createVariable("y", "i4", ("row",))[:] = [0, 1, 0, 1]
    with netcdf.Dataset(tmp_path / "x.nc") as file:
        found: Any = np.ma.asarray(file["train/X"][:])
        wanted = found.astype(np.float64).filled(np.nan)
    with Reader(inspect(tmp_path / "x.nc", "X,T"), "train") as reader:
        assert np.array_equal(reader.X(0, 4)[:, 0], wanted, equal_nan=True)


def test_whole_numbers_that_were_never_written_are_refused(tmp_path: Path) -> None:
    """A row of labels that nobody wrote is no class, and a fill value that a type cannot hold is a mistake."""
    with netcdf.Dataset(tmp_path / "y.nc", "w") as file:
        group = file.createGroup("train")
        group.createDimension("row", 4)
        group.createVariable("X", "f8", ("row",))[:] = range(4)
        group.createVariable("T", "f8", ("row",))[:] = range(4)
        group.createVariable("y", "i4", ("row",))[:3] = [0, 1, 0]
    said = "'y' of train, row 3 is -2147483647, its _FillValue"
    with Reader(inspect(tmp_path / "y.nc", "X,T"), "train") as reader, pytest.raises(DataError, match=said):
        reader.y(0, 4)
    path = write(tmp_path / "x.h5", np.zeros((4, 2), np.uint8))
    with h5py.File(path, "a") as file:
        file["train/X"].attrs["_FillValue"] = -1
    with pytest.raises(DataError, match=r"is uint8, and its attribute _FillValue -1: must be of that type"):
        inspect(path)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ("u1", "f8", "'y' of train is float64, but that of"),
        ("f4", "i8", "'y' of train is int64, but that of"),
        ("u8", "i8", "'y' of train is int64, but that of"),
        ("u1", "i4", None),
        ("f4", "f8", None),
    ],
)
def test_targets_of_several_files_have_one_type(tmp_path: Path, ours: str, theirs: str, said: str | None) -> None:
    """Those of the second are not squeezed into the type of the first: one holds both, or the file is named."""
    values = [0.0, 1.0, 2.5 if theirs == "f8" else 300.0]
    X = np.zeros((3, 2))
    write(tmp_path / "a.h5", X)
    write(tmp_path / "b.h5", X)
    for name, kind, y in (("a", ours, [0.0, 1.0, 2.0]), ("b", theirs, values)):
        with h5py.File(tmp_path / f"{name}.h5", "a") as file:
            del file["train/y"]
            file["train/y"] = np.array(y, kind)
    if said is not None:
        with pytest.raises(DataError, match=rf"b\.h5: {said} .*a\.h5"):
            inspect(str(tmp_path / "?.h5"))
        return
    with Reader(inspect(str(tmp_path / "?.h5")), "train") as reader:
        assert reader.raw_y(1, 6).tolist() == [1.0, 2.0, *values]
        assert reader.raw_y(0, 2).dtype == np.result_type(ours, theirs)


def write(path: Path, X: NDArray[Any], split: str = "train", **attributes: Any) -> Path:
    """Write one split."""
    with h5py.File(path, "w") as file:
        file[f"{split}/X"], file[f"{split}/y"] = X, np.arange(len(X)) % 2
        file.attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("X", "attributes", "said"),
    [
        (np.zeros((3, 5), "f4"), {}, "has 5 features, but .*a.h5 4"),
        (np.zeros((3, 4), "f8"), {}, "train is X .*float64, but that of .*a.h5 is X .*float32"),
        (np.zeros((3, 4), "f4"), {"classes": ["a", "b"]}, "has 'a', 'b' classes, but .*a.h5 no names of"),
        (
            np.zeros((3, 4), "f4"),
            {"features": [*"abcd"]},
            "its features are called 'a', 'b', 'c', 'd', but those of .*a.h5 no names",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, X: NDArray[Any], attributes: Any, said: str) -> None:
    """Before any row is read."""
    write(tmp_path / "a.h5", np.zeros((3, 4), "f4"))
    write(tmp_path / "b.h5", X, **attributes)
    with pytest.raises(DataError, match=f"b.h5: {said}"):
        inspect(str(tmp_path / "*.h5"))
    with pytest.raises(StorageError, match="no file has such a name"):
        inspect(str(tmp_path / "c-*.h5"))


def test_splits_in_files_of_their_own(tmp_path: Path) -> None:
    """The group of that name counts, else train; a split that is there twice is refused."""
    random = np.random.default_rng(0)
    parts = {name: random.random((k, 3)).astype("f4") for name, k in (("a", 4), ("b", 5), ("v", 3), ("t", 2))}
    write(tmp_path / "train-a.h5", parts["a"])
    write(tmp_path / "train-b.h5", parts["b"])
    write(tmp_path / "v.h5", parts["v"], "valid")
    write(tmp_path / "t.h5", parts["t"])
    info = inspect(str(tmp_path / "train-*.h5"), valid=tmp_path / "v.h5", test=tmp_path / "t.h5")
    assert {split: found.rows for split, found in info.splits.items()} == {"train": 9, "valid": 3, "test": 2}
    assert np.array_equal(rows_of(info), np.concatenate([parts["a"], parts["b"]]))
    assert np.array_equal(rows_of(info, "valid"), parts["v"])
    assert np.array_equal(rows_of(info, "test"), parts["t"])
    with h5py.File(tmp_path / "train-a.h5", "a") as file:
        file.copy("train", "test")
    with pytest.raises(DataError, match=r"v.h5: has valid: expected test, or train, for test_data"):
        inspect(tmp_path / "train-b.h5", test=tmp_path / "v.h5")
    with pytest.raises(DataError, match="has a split test of its own"):
        inspect(tmp_path / "train-a.h5", test=tmp_path / "t.h5")


def test_more_dimensions_are_flattened_in_c_order(tmp_path: Path) -> None:
    """As NPY's are, and the file says that the features are of one kind."""
    X = np.arange(5 * 2 * 3, dtype="f4").reshape(5, 2, 3)
    info = inspect(write(tmp_path / "a.h5", X))
    assert (info.features, info.feature_shape) == (6, (2, 3))
    assert np.array_equal(rows_of(info), X.reshape(5, 6))


def test_an_array_is_features_or_labels_or_weights(tmp_path: Path) -> None:
    """A vertical wind that is named as a feature does not weigh the rows too; labels among features are refused."""
    w = np.array([0.5, 1, 2, 3])
    for group in ("train/", "/"):
        path = tmp_path / f"{len(group)}.h5"
        with h5py.File(path, "w") as file:
            file[f"{group}T"], file[f"{group}w"], file[f"{group}y"] = np.arange(8.0).reshape(4, 2), w, [0, 1, 0, 1]
        root = "" if group == "train/" else "/"
        found = inspect(path, f"{root}T,{root}w", f"{root}y")
        assert not found.splits["train"].weighted
        with Reader(found, "train") as reader:
            assert reader.X(0, 4)[:, 2].tolist() == w.tolist()
            assert reader.w(0, 4).tolist() == [1, 1, 1, 1]
        with Reader(inspect(path, f"{root}T", f"{root}y"), "train") as reader:
            assert reader.w(0, 4).tolist() == w.tolist()
        for features in ("T,y", "T,T"):
            with pytest.raises(DataError, match="is named twice"):
                inspect(path, ",".join(f"{root}{name}" for name in features.split(",")), f"{root}y")
    with h5py.File(path, "a") as file:
        del file["w"]
        file["w"] = np.ones((4, 3))
    with pytest.raises(DataError, match="w is the weights of rows: call other data otherwise"):
        inspect(path, "/T", "/y")


def test_features_are_arranged_by_name(tmp_path: Path) -> None:
    """In another order, with one too many; a missing one is named."""
    X = np.arange(12, dtype="f4").reshape(3, 4)
    info = inspect(write(tmp_path / "a.h5", X, features=[*"badc"]))
    found, left_out = arranged(info, ("a", "b", "c"))
    assert np.array_equal(rows_of(found), X[:, [1, 0, 3]])
    assert left_out == ["d"]
    with pytest.raises(DataError, match="has no feature 'e', which training had"):
        arranged(info, ("a", "e"))
    assert arranged(info, None) == (info, [])


@pytest.mark.parametrize(
    ("y", "X", "said"),
    [
        (np.zeros((1, 4), int), None, "convert. makes that of it"),
        (np.array([b"a", b"b", b"a", b"b"]), None, "is text: .*convert. numbers labels of text"),
        (np.arange(7) % 2, np.zeros((4, 7)), "is X transposed, as MATLAB writes it"),
    ],
)
def test_labels_that_train_does_not_take_are_said_how(tmp_path: Path, y: Any, X: Any, said: str) -> None:
    """Columns, rows, one-hot, text, and X the wrong way round."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/X"], file["train/y"] = np.zeros((4, 3)) if X is None else X, y
    with pytest.raises(DataError, match=said):
        inspect(tmp_path / "a.h5")
