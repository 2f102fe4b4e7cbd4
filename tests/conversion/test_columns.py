"""Columns that are no features are not taken for features in silence, and what is wrong is said at once."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp import convert
from ddp_mlp.conversion.raw import write_raw
from ddp_mlp.conversion.recipe import Column, Recipe
from ddp_mlp.errors import DataError

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


@pytest.mark.parametrize("kind", ["whole", "floats", "text"])
def test_an_id_with_gaps_is_an_id(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing one makes floats of all others; --impute made a feature of them."""
    ids = pd.Series(np.arange(ROWS) * 7 + 1000).astype("Int64")
    ids = ids.astype(str).radd("k") if kind == "text" else ids.astype(float) if kind == "floats" else ids
    if kind != "floats":
        ids[5] = None
    frame().assign(key=ids).to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--impute", "mean", "--onehot", "auto") == 65
    said = "another in every row: --drop key" if kind == "text" else "another whole number in every row, like an ID"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["0x1F", "0x20"], "'k' is '0x1F' in line 2, which begins like a code"),
        (["17", "0x20"], "'k' is '0x20' in line 3, which begins like a code"),
        (["12345678901234567890", "5"], "'k' is '12345678901234567890' in line 2, which begins like a code"),
        ([f"{2**53 + n}" for n in range(8)], "'k' has whole numbers beyond 2^53, of which float64 makes equal ones"),
        (["1_000", "2"], "'k' is '1_000' in line 2, which is text"),
        (["\u00a05", "2"], "'k' is '\\xa05' in line 2, which is text"),
    ],
)
def test_whole_numbers_that_are_keys_are_no_features(
    cells: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hexadecimals were numbers in silence, long keys were rounded, and of some text nothing was shown."""
    frame().assign(k=[cells[n % len(cells)] for n in range(ROWS)]).to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 65
    assert said in capsys.readouterr().err


def test_two_features_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No rows could be put in order by their names."""
    frame().assign(c=["u", "v"] * (ROWS // 2), **{"c=u": 1.5}).to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--onehot", "c") == 65
    assert "two features would be called 'c=u'" in capsys.readouterr().err


@pytest.mark.parametrize("apart", [False, True])
def test_categories_that_train_has_not_are_told(
    apart: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In rows held out, or in a table of their own, they are 0 in every feature; with an "other" they are that."""
    data = frame().assign(c=["u", "v"] * (ROWS // 2))
    data.loc[ROWS - 3 :, "c"] = "w"
    if apart:
        data[: ROWS - 8].to_csv(tmp_path / "train.csv", index=False)
        data[ROWS - 8 :].to_csv(tmp_path / "test.csv", index=False)
        sources: tuple[Any, ...] = (tmp_path / "train.csv", tmp_path / "test.csv")
    else:
        data.to_csv(tmp_path / "a.csv", index=False)
        sources = (tmp_path / "a.csv", "--test", "8")
    assert run(*sources, tmp_path / "a.h5", "--label", "y", "--onehot", "c") == 0
    name = "test.csv" if apart else "a.csv"
    assert f"{name}: 'c' has in 3 rows a category that train has not: all 0" in capsys.readouterr().out
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["test/X"][:, 2:].any(axis=1).tolist() == [True] * 5 + [False] * 3
    data.loc[0, "c"] = "x"
    data.to_csv(tmp_path / "a.csv", index=False)
    flags = ("--test", "8", "--label", "y", "--onehot", "c", "--categories", "2")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", *flags) == 0
    assert "train has not" not in capsys.readouterr().out


def test_an_empty_category_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an empty label is: spaces were a category of their own."""
    frame().assign(c=["u", "  ", "v", ""] * (ROWS // 4)).to_csv(tmp_path / "a.csv", index=False)
    flags = (tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--onehot", "c")
    assert run(*flags) == 65
    assert "'c' is missing in 20 rows (line 3)" in capsys.readouterr().err
    assert run(*flags, "--impute", "mean") == 0
    assert features(tmp_path / "a.h5") == ["a", "b", "c=missing", "c=u", "c=v"]


def test_a_named_index_of_pandas_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Parquet tells which columns were the index; a flag that names one takes it."""
    data = frame().assign(g=np.arange(ROWS) % 9, t=["u", "v"] * (ROWS // 2)).set_index(["g", "t"])
    data.to_parquet(tmp_path / "a.parquet")
    assert run(tmp_path / "a.parquet", tmp_path / "a.h5", "--label", "y") == 0
    assert features(tmp_path / "a.h5") == ["a", "b"]
    assert run(tmp_path / "a.parquet", tmp_path / "a.h5", "--label", "y", "--onehot", "t", "--keep", "g") == 0
    assert features(tmp_path / "a.h5") == ["a", "b", "g", "t=u", "t=v"]


@pytest.mark.parametrize(
    ("train", "test", "flags", "said"),
    [
        (["1", "2"], ["true", "false"], (), "'c' is boolean, and in .*train.csv number"),
        (["1", "2", "X", "1"], ["1", "2"], ("--onehot", "auto"), None),
    ],
)
def test_a_test_table_of_other_kinds(
    train: list[str], test: list[str], flags: tuple[str, ...], said: str | None, tmp_path: Path, capsys: Any
) -> None:
    """Booleans were taken for numbers, and categories that look like numbers ended in a traceback."""
    for name, cells in (("train", train), ("test", test)):
        table = frame().assign(c=[cells[n % len(cells)] for n in range(ROWS)])
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    code = run(tmp_path / "train.csv", tmp_path / "test.csv", tmp_path / "a.h5", "--label", "y", *flags)
    if said is not None:
        assert code == 65
        assert re.search(said, capsys.readouterr().err)
        return
    assert code == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["test/X"][:2, 2:].tolist() == [[1, 0, 0], [0, 1, 0]]


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


@pytest.mark.parametrize(
    ("cells", "flags", "said"),
    [
        ("red blue red", "--target c", "'c' is 'red' in line 2, which is text: --label c where it names classes"),
        ("0.5 oops 2", "--target c", "'c' is 'oops' in line 3, which is text: the only such value; mend it"),
        ("$2 $5 $7", "--target c", "'c' is '$2' in line 2, which is text: a number with separated thousands or a unit"),
        ("a b c", "--target y --weight c", "'c' is 'a' in line 2, which is text: a weight must be a number"),
    ],
)
def test_text_for_a_target_or_weight_is_told_by_name_and_line(
    cells: str, flags: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of which Arrow's own words have."""
    rows = [f"{i}.5,{cell},{i}.25" for i, cell in enumerate(cells.split())]
    (tmp_path / "a.csv").write_text("\n".join(["x,c,y", *rows]) + "\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", *flags.split()) == 65
    assert said in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("cell", "flag", "said"),
    [
        ("05.10.2021", "d", "no date of the form %Y-%m-%d: --date d=%d.%m.%Y or --date d=%m.%d.%Y"),
        ("25.10.2021", "d=%m.%d.%Y", "no date of the form %m.%d.%Y: --date d=%d.%m.%Y"),
        ("soon", "d=%d.%m.%Y", "no date of the form %d.%m.%Y: name the form of all, --date d=FORMAT, or mend it"),
    ],
)
def test_a_date_of_another_form_is_told(
    cell: str, flag: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its line, and beside what else is wrong."""
    data = frame().assign(d="01.02.2021" if "=" in flag else "2021-02-01", t="x")
    data.loc[7, "d"] = cell
    data.to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--date", flag) == 65
    error = capsys.readouterr().err
    assert f"'d' is {cell!r} in line 9, which is {said}; 't' is 'x' in line 2" in error


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("1.692,48", "a number with separated thousands or a unit: write it plainly, or --onehot p, or --drop p"),
        ("$12", "a number with separated thousands or a unit"),
        ("-3 %", "a number with separated thousands or a unit"),
        ("12 EUR", "a number with separated thousands or a unit"),
        ("1,5", "a number with ',': --decimal ,, or --onehot p, or --drop p"),
        ("A12", "which is text: --onehot p, or --drop p"),
        ("28.13.2025", "which is text: --onehot p, or --drop p"),
        ("12 main street", "which is text: --onehot p, or --drop p"),
    ],
)
def test_what_keeps_a_text_from_being_a_number(
    cell: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told before it is taken for categories."""
    frame().assign(p=cell).to_csv(tmp_path / "a.csv", index=False, sep=";")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 65
    assert said in capsys.readouterr().err


def test_a_column_without_a_name_is_no_index_behind_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pandas writes its index first, of one or several columns; anything else without a name is asked about."""
    data = frame()
    data[["y", "a", "b"]].rename(columns={"a": ""}).to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 65
    assert "column 1 has no name: give it one, or --drop 1" in capsys.readouterr().err
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--drop", "1") == 0
    assert "left out: column 1\n" in capsys.readouterr().out
    assert features(tmp_path / "a.h5") == ["b"]
    (tmp_path / "c.csv").write_text("a,y,\n" + "1.5,x,\n2.5,y,\n" * 9)
    assert run(tmp_path / "c.csv", tmp_path / "c.h5", "--label", "y") == 65
    assert "column 2 has no name and is empty in every row: give it one, or --drop 2" in capsys.readouterr().err
    index = pd.DataFrame({"Unnamed: 0.1": np.arange(ROWS), "Unnamed: 0": np.arange(ROWS)})  # written and read twice
    pd.concat([index, data], axis=1).to_csv(tmp_path / "d.csv", index=False)
    assert run(tmp_path / "d.csv", tmp_path / "d.h5", "--label", "y") == 0
    assert features(tmp_path / "d.h5") == ["a", "b"]


def test_a_raw_table_with_dates_of_another_form(tmp_path: Path) -> None:
    """One line that names the form that training had."""
    recipe = Recipe((Column("d", "date", format="%d.%m.%Y"),), named=True)
    (tmp_path / "new.csv").write_text("d\n01.02.2021\n\n2021-03-01\n")
    said = r"new.csv: 'd' is '2021-03-01' in line 4: must be a date of the form %d.%m.%Y, as in training"
    with pytest.raises(DataError, match=said):
        write_raw(tmp_path / "new.csv", recipe.to_json(), None, tmp_path / "out.h5")
    (tmp_path / "new.csv").write_text("d\n01.02.2021\n")
    write_raw(tmp_path / "new.csv", recipe.to_json(), None, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["test/X"][0, 0] == (np.datetime64("2021-02-01") - np.datetime64("1970-01-01")).astype(int)


@pytest.mark.parametrize("large", [False, True])
def test_numbers_that_begin_with_0_are_codes(
    large: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Post codes: not taken for numbers in silence, and neither are they refused."""
    if large:
        monkeypatch.setattr("ddp_mlp.conversion.tables.WHOLE_BYTES", 0)
    frame().assign(zip=[f"{n % 7 * 2139:05d}" for n in range(1, ROWS + 1)], b=0.5).to_csv(
        tmp_path / "a.csv", index=False
    )
    flags = (tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y")
    assert run(*flags) == 65
    said = "'zip' is '02139' in line 2, which begins like a code: --onehot zip, --drop it, or --keep it as a number"
    assert said in capsys.readouterr().err
    assert run(*flags, "--keep", "zip") == 0
    assert features(tmp_path / "a.h5") == ["a", "b", "zip"]
    assert run(*flags, "--onehot", "zip") == 0
    assert "zip=02139" in features(tmp_path / "a.h5")
    frame().assign(t=np.arange(ROWS) % 7 / 10, n=np.arange(ROWS) % 2).to_csv(tmp_path / "b.csv", index=False)
    assert run(tmp_path / "b.csv", tmp_path / "b.h5", "--label", "y") == 0  # 0.1, 0 and 1


def test_targets_that_are_missing_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are kept, and training must be asked to take them."""
    data = frame().assign(t=np.arange(ROWS) / 7)
    data.loc[[3, 5], "t"] = np.nan
    data.drop(columns="y").to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--target", "t,b") == 0
    assert "target t: missing in 2 rows, which missing_targets = true trains on\n" in capsys.readouterr().out
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.isnan(file["train/y"][:]).sum() == 2


def test_a_test_table_of_other_columns_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which are missing, which are more, or that they are in another order."""
    data = frame()
    data.to_csv(tmp_path / "train.csv", index=False)
    for said, other in (
        ("they are in another order", data[["b", "a", "y"]]),
        ("without 'b'", data.drop(columns="b")),
        ("without 'b' and with 'B'", data.rename(columns={"b": "B"})),
    ):
        other.to_csv(tmp_path / "test.csv", index=False)
        assert run(tmp_path / "train.csv", tmp_path / "test.csv", tmp_path / "a.h5", "--label", "y") == 65
        assert f"test.csv: its columns are not those of {tmp_path}/train.csv: {said}\n" in capsys.readouterr().err


def test_a_target_that_is_infinite_is_told_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of tables, and of arrays by its row."""
    frame().assign(t=[1.5, np.inf] * (ROWS // 2)).drop(columns="y").to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--target", "t") == 65
    assert "the target 't' is inf in line 3: must be finite" in capsys.readouterr().err
    np.save(tmp_path / "X.npy", np.zeros((4, 2)))
    np.save(tmp_path / "y.npy", [1.5, 2.5, -np.inf, 3.5])
    assert run(tmp_path / "X.npy", tmp_path / "y.npy", tmp_path / "a.h5") == 65
    assert "row 2, the target 'y', is -inf: must be finite" in capsys.readouterr().err


def test_a_cell_that_is_infinite_is_told_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that an editor shows."""
    data = frame()
    data.loc[7, "a"] = np.inf
    data.to_csv(tmp_path / "a.csv", index=False)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 65
    assert "line 9, feature 0 ('a') is inf: every feature must be finite" in capsys.readouterr().err


def test_a_raw_array_of_another_width_is_named(tmp_path: Path) -> None:
    """By its own name, not by that of the file that is made of it."""
    np.save(tmp_path / "a.npy", np.zeros((20, 4)))
    with pytest.raises(DataError, match=r"/a.npy: has 4 features, but the network takes 5"):
        write_raw(tmp_path / "a.npy", None, [*"abcde"], tmp_path / "a.h5")


def test_raw_dates_of_a_file_with_types(tmp_path: Path) -> None:
    """Dates are dates, whatever form training's had; numbers are none; what takes no part may be of any type."""
    recipe = Recipe((Column("d", "date", format="%d.%m.%Y"),), named=True).to_json()
    days = pd.date_range("1970-01-03", periods=3)
    for name, values in (("times", days), ("days", days.date), ("text", days.strftime("%d.%m.%Y"))):
        pd.DataFrame({"d": values, "more": [[1]] * 3}).to_parquet(tmp_path / f"{name}.parquet")
        write_raw(tmp_path / f"{name}.parquet", recipe, None, tmp_path / f"{name}.h5")
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert file["test/X"][:, 0].tolist() == [2, 3, 4]
    pd.DataFrame({"d": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'d' is int64: must hold dates, as in training"):
        write_raw(tmp_path / "a.parquet", recipe, None, tmp_path / "a.h5")


def test_a_raw_table_with_weights_that_are_none(tmp_path: Path) -> None:
    """Scores would be of whatever they sum up to."""
    recipe = Recipe((Column("a", "number"),), named=True, label="y", weight="w").to_json()
    (tmp_path / "new.csv").write_text("a,y,w\n1,p,1\n1,q,-1\n")
    with pytest.raises(DataError, match=r"new.csv: the weight is -1 in line 3: must be finite, and at least 0"):
        write_raw(tmp_path / "new.csv", recipe, None, tmp_path / "a.h5")


def test_a_raw_table_with_text_among_numbers(tmp_path: Path) -> None:
    """Named by column and line."""
    recipe = Recipe((Column("a", "number"), Column("b", "number")), named=True, weight="w")
    (tmp_path / "new.csv").write_text("b,a,w\n1,2,1\n\n1,oops,1\n")
    with pytest.raises(DataError, match=r"new.csv: 'a' is 'oops' in line 4: must be a number, as in training"):
        write_raw(tmp_path / "new.csv", recipe.to_json(), None, tmp_path / "out.h5")
    (tmp_path / "new.csv").write_text("b,a,w\n1,2,heavy\n")
    with pytest.raises(DataError, match=r"new.csv: 'w' is 'heavy' in line 2: must be a number, as in training"):
        write_raw(tmp_path / "new.csv", recipe.to_json(), None, tmp_path / "out.h5")
    (tmp_path / "new.csv").write_text("b,a,w\n1,2,3\n1,2\n")
    with pytest.raises(DataError, match="Expected 3 columns, got 2"):
        write_raw(tmp_path / "new.csv", recipe.to_json(), None, tmp_path / "out.h5")
