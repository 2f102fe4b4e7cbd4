"""Raw tables through the recipe that training kept: the same answer, or one line; never another column in silence."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp import convert
from ddp_mlp.conversion.raw import write_raw
from ddp_mlp.errors import DataError

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

ROWS = 30


def converted(path: Path, *flags: str) -> tuple[str, Any]:
    """Convert a table, and return the recipe that is kept and X."""
    out = path.with_suffix(".h5")
    assert convert.main([str(path), str(out), *flags]) == 0
    with h5py.File(out) as file:
        return file.attrs["recipe"], file["train/X"][:]


def again(path: Path, recipe: str) -> Any:
    """Return X of a raw table."""
    out = path.with_suffix(".rows.h5")
    write_raw(path, recipe, None, out)
    with h5py.File(out) as file:
        return file["test/X"][:]


def test_columns_without_names_are_as_many_as_in_training(tmp_path: Path) -> None:
    """Else each would be taken for its neighbour: an unlabelled table may lack the label where it is the last alone."""
    values = np.random.default_rng(0).integers(0, 2, (ROWS, 5))
    lines = [",".join(map(str, row)) for row in values.tolist()]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    recipe, X = converted(tmp_path / "a.csv", "--target", "0", "--drop", "4")
    assert np.array_equal(again(tmp_path / "a.csv", recipe), X)
    for name, width in (("short", slice(1, 5)), ("shorter", slice(0, 4))):
        (tmp_path / f"{name}.csv").write_text("\n".join(",".join(map(str, row[width])) for row in values.tolist()))
        with pytest.raises(DataError, match=rf"{name}.csv: has 4 columns without names, and training's table 5"):
            again(tmp_path / f"{name}.csv", recipe)
    (tmp_path / "long.csv").write_text("\n".join(f"{n},{line}" for n, line in enumerate(lines)))
    with pytest.raises(DataError, match=r"long.csv: has 6 columns without names, and training's table 5"):
        again(tmp_path / "long.csv", recipe)
    recipe, X = converted(tmp_path / "a.csv", "--label", "-1")
    assert np.array_equal(again(tmp_path / "shorter.csv", recipe), X)


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.123456789", "%Y-%m-%d"])
def test_dates_that_convert_takes_are_taken_again(form: str, tmp_path: Path) -> None:
    """With a zone, with nanoseconds; by pandas's own reading of them."""
    times = pd.date_range("2020-01-30 06:00", periods=ROWS, freq="31h")
    data = pd.DataFrame({"d": times.strftime(form), "y": np.arange(ROWS) % 2})
    data.to_csv(tmp_path / "a.csv", index=False)
    recipe, X = converted(tmp_path / "a.csv", "--label", "y", "--date", "d")
    wanted = pd.to_datetime(data["d"], format="ISO8601", utc=True) - pd.Timestamp("1970-01-01", tz="UTC")
    np.testing.assert_allclose(X[:, 0], wanted / pd.Timedelta(days=1), rtol=0, atol=2e-11)  # microseconds in days
    assert np.array_equal(again(tmp_path / "a.csv", recipe), X)


def test_nanoseconds_of_parquet_are_no_traceback(tmp_path: Path) -> None:
    """They are finer than a recipe keeps."""
    times = pd.date_range("2020-01-30", periods=ROWS, freq="1h") + pd.Timedelta(1, "ns")
    pd.DataFrame({"d": times, "y": np.arange(ROWS) % 2}).to_parquet(tmp_path / "a.parquet")
    recipe, X = converted(tmp_path / "a.parquet", "--label", "y", "--date", "d")
    np.testing.assert_allclose(X[:, 0], 18291 + np.arange(ROWS) / 24, rtol=0, atol=1e-11)
    assert np.array_equal(again(tmp_path / "a.parquet", recipe), X)


def test_true_and_false_are_0_and_1_alone(tmp_path: Path) -> None:
    """A 7 where training had true and false is none of them."""
    pd.DataFrame({"b": np.arange(ROWS) % 2 == 0, "y": np.arange(ROWS) % 2}).to_parquet(tmp_path / "a.parquet")
    recipe, X = converted(tmp_path / "a.parquet", "--label", "y")
    pd.DataFrame({"b": X[:, 0].astype(int)}).to_parquet(tmp_path / "b.parquet")
    assert np.array_equal(again(tmp_path / "b.parquet", recipe), X)
    pd.DataFrame({"b": [0, 7, 1]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match="'b' is 7: must be true or false, as in training"):
        again(tmp_path / "c.parquet", recipe)


def test_a_comma_is_what_it_was_in_training_where_it_could_be_either(tmp_path: Path) -> None:
    """One row of "1,234" does not say whether it is 1.234; training's table did."""
    (tmp_path / "a.csv").write_text("a;y\n" + "".join(f"{n},5;{n % 2}\n" for n in range(ROWS)))
    recipe, _ = converted(tmp_path / "a.csv", "--label", "y")
    (tmp_path / "b.csv").write_text("a;y\n1,234;0\n")
    assert again(tmp_path / "b.csv", recipe).tolist() == [[np.float32(1.234)]]
    (tmp_path / "c.csv").write_text("a;more\n1,5;2.5\n")
    assert again(tmp_path / "c.csv", recipe).tolist() == [[1.5]]
    (tmp_path / "a.csv").write_text("a;y\n" + "".join(f"{n}.5;{n % 2}\n" for n in range(ROWS)))
    recipe, _ = converted(tmp_path / "a.csv", "--label", "y")
    with pytest.raises(DataError, match="'a' is '1,234' in line 2: must be a number, as in training"):
        again(tmp_path / "b.csv", recipe)


def test_a_recipe_outlives_another_conversion(tmp_path: Path) -> None:
    """HDF5 made of HDF5 still takes the raw table."""
    rows = [f"{n % 7 if n % 5 else ''};{'xyz'[n % 3]};{n % 2}" for n in range(ROWS)]
    (tmp_path / "a.csv").write_text("\n".join(["d;c;y", *rows]) + "\n")
    _, X = converted(tmp_path / "a.csv", "--label", "y", "--onehot", "c", "--impute", "mean")
    assert convert.main([str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--valid", "10", "--dtype", "float64"]) == 0
    with h5py.File(tmp_path / "b.h5") as file:
        recipe = file.attrs["recipe"]
    assert np.array_equal(again(tmp_path / "a.csv", recipe), X)
    assert again(tmp_path / "a.csv", recipe).dtype == np.float64


def test_numbers_beyond_the_type_of_training_stay_what_they_are(tmp_path: Path) -> None:
    """They became infinite, with a warning of NumPy's."""
    (tmp_path / "a.csv").write_text("a,y\n" + "".join(f"{n}.5,{n % 2}\n" for n in range(ROWS)))
    recipe, X = converted(tmp_path / "a.csv", "--label", "y")
    assert X.dtype == np.float32
    (tmp_path / "b.csv").write_text("a\n1.5\n1e39\n")
    assert again(tmp_path / "b.csv", recipe).tolist() == [[1.5], [1e39]]
    assert again(tmp_path / "a.csv", recipe).dtype == np.float32
