"""Columns that are no features are not taken for features in silence, and what is wrong is said at once."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp import convert

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

ROWS = 40


def frame() -> Any:
    """Return two features and a label."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "a": np.round(random.standard_normal(ROWS), 3),
            "b": random.integers(0, 9, ROWS),
            "y": np.where(np.arange(ROWS) % 2, "yes", "no"),
        }
    )


def run(*arguments: Any) -> int:
    """Run the command inside this process and return its exit code."""
    return convert.main([str(argument) for argument in arguments])


def features(path: Path) -> list[str]:
    """Return the names of the features of a data-set file."""
    with h5py.File(path) as file:
        return [name.decode() for name in file.attrs["features"]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_index_that_pandas_writes_is_left_out(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In CSV it has no name, in Parquet one of its own; --keep takes it all the same."""
    data, path = frame().set_index(np.arange(ROWS) * 7 % 97), tmp_path / f"a.{suffix}"
    if suffix == "csv":
        data.to_csv(path)
    else:
        data.to_parquet(path)
    assert run(path, tmp_path / "a.h5", "--label", "y") == 0
    assert features(tmp_path / "a.h5") == ["a", "b"]
    assert "an index, as pandas writes it; --keep takes it" in capsys.readouterr().out
    index = "" if suffix == "csv" else "__index_level_0__"
    if index:
        assert run(path, tmp_path / "b.h5", "--label", "y", "--keep", index) == 0
        assert features(tmp_path / "b.h5") == ["a", "b", index]


@pytest.mark.parametrize("values", [np.arange(ROWS) + 5000, [f"N{i}" for i in range(ROWS)]])
def test_an_id_is_no_feature(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole numbers or texts that all differ are refused, naming the flags; numbers are kept where that is asked."""
    frame().assign(id=values).to_csv(tmp_path / "a.csv", index=False)
    flags = (tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y")
    assert run(*flags, "--onehot", "auto") == 65
    assert "--drop id" in capsys.readouterr().err
    assert run(*flags, "--drop", "id") == 0
    assert features(tmp_path / "a.h5") == ["a", "b"]
    if isinstance(values, np.ndarray):
        assert run(*flags, "--keep", "id") == 0
        assert features(tmp_path / "a.h5") == ["a", "b", "id"]


def test_a_constant_column_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says nothing, and that is said."""
    frame().assign(c=7).to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 0
    assert "number, constant: c" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("a.npz", ("--label", "species"), "--label species: is for tables and a single NPY, and the source is NPZ"),
        ("a.npz", ("--drop", "a"), "--drop: is for tables (CSV, Parquet), and the source is NPZ"),
        ("a.hdf5", ("--label", "3"), "--label 3: is for tables and a single NPY, and the source is HDF5"),
        ("a.hdf5", ("--sep", ";"), "--sep: is for text tables, and the source is HDF5"),
        ("a.csv", ("--label", "y", "--x_name", "X"), "--x_name X: is for NPZ and HDF5 files, and the source is CSV"),
    ],
)
def test_a_flag_that_does_not_apply_is_refused(
    name: str, flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never ignored: exit code 2 and no file."""
    X, y = np.arange(ROWS * 2.0).reshape(ROWS, 2), np.arange(ROWS) % 2
    np.savez(tmp_path / "a.npz", X=X, y=y)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train/X"], file["train/y"] = X, y
    frame().to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / name, tmp_path / "out.h5", *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()


def test_all_that_is_wrong_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every column, its first bad cell, the line that an editor shows, and the flag that mends it."""
    rows = [f'{i},{i / 7:.3f},"no\nte",{i % 2}' for i in range(30)]
    rows[4] = '4,,"no\nte",1'
    rows[6] = '6,oops,"no\nte",0'
    (tmp_path / "a.csv").write_text("\n".join(["id,a,note,y", *rows]) + "\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 65
    error = capsys.readouterr().err
    assert "'id' has another whole number in every row, like an ID: --drop id or --keep it" in error
    assert "'a' is 'oops' in line 14, which is text: the only such value; mend it, or --missing 'oops'" in error
    assert "'note' is 'no\\nte' in line 2, which is text: --onehot note, or --drop note" in error


@pytest.mark.parametrize(("weight", "said"), [("", "missing in line 5"), ("-1", "-1 in line 5"), ("inf", "inf in")])
def test_a_weight_that_is_none_is_refused(
    weight: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its line, before a file is made of it."""
    weights = np.where(np.arange(ROWS) == 3, weight, "0.5")
    frame().assign(w=weights).to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--weight", "w") == 65
    assert f"the weight is {said}" in capsys.readouterr().err
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(("step", "dtype"), [(1, np.float64), (1 << 10, np.float32)])
def test_numbers_that_float32_would_merge_are_kept(step: int, dtype: Any, tmp_path: Path) -> None:
    """Unix seconds are float64 in the file, each its own; what float32 holds is float32."""
    seconds = 1_700_000_000 // step * step + np.random.default_rng(1).permutation(ROWS // 2).repeat(2) * step
    frame().assign(t=seconds, b=np.arange(ROWS) / 8).to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--drop", "a") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train/X"].dtype == dtype
        assert file["train/X"][:, 1].tolist() == seconds.tolist()
