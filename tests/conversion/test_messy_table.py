"""A table as people have them, from CSV to predictions on a raw one: against pandas and scikit-learn."""

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp import convert
from ddp_mlp.model import load
from tests.conftest import Program

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

ROWS = 30_000
RAW_ROWS = 500
FLAGS = (
    *("--label", "outcome", "--weight", "w", "--drop", "id", "--onehot", "ward,insurance", "--categories", "6"),
    *(
        "--date",
        "admitted=%d.%m.%Y",
        "--impute",
        "median",
        "--missing_indicator",
        "--test",
        "0.2",
        "--order",
        "stratified",
    ),
)


def messy(rows: int, seed: int) -> Any:
    """Return a table of numbers, two of them with gaps, two categories, a date, an ID, rare classes and weights."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 95, rows).astype(float)
    dose = np.round(random.gamma(2, 30, rows), 2)
    signal = dose / 60 + (age > 60) + random.standard_normal(rows) * 0.3
    frame = pd.DataFrame(
        {
            "id": np.arange(rows) + 100_000,
            "age": age,
            "dose": dose,
            "ward": random.choice(
                ["A1", "A2", "B7", "C", "ICU", "west", "x;y", "z"],
                rows,
                p=[0.4, 0.2, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01],
            ),
            "insurance": random.choice(["AOK", "TK", 'say "Ah"'], rows),
            "admitted": pd.to_datetime("2015-01-01") + pd.to_timedelta(random.integers(0, 3000, rows), "D"),
            "w": np.round(random.uniform(0.5, 2, rows), 3),
            "outcome": np.where(signal > 3.2, "rare", np.where(signal > 1.5, "02", "2")),
        }
    )
    frame.loc[random.random(rows) < 0.05, "age"] = np.nan
    frame.loc[random.random(rows) < 0.1, "dose"] = np.nan
    return frame


def write(frame: Any, path: Path) -> Path:
    """Write semicolons, decimal commas, German dates, and NA for what is missing."""
    frame.to_csv(
        path, sep=";", decimal=",", index=False, na_rep="NA", date_format="%d.%m.%Y", quoting=csv.QUOTE_MINIMAL
    )
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run_python: Program) -> Path:
    """Convert and train: two of the three commands."""
    folder = tmp_path_factory.mktemp("messy")
    write(messy(ROWS, 0), folder / "table.csv")
    assert convert.main([str(folder / "table.csv"), *FLAGS, str(folder / "table.h5")]) == 0
    flags = ("--data", folder / "table.h5", "--epochs", "2", "--hidden", "16", "--run_dir", folder / "run", "--quiet")
    outcome = run_python("-m", "ddp_mlp.train", *flags)
    assert outcome.returncode == 0, outcome.stderr
    return folder


def transformer(train: Any) -> Any:
    """Return scikit-learn's way to the same features, fitted on train's rows."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    days = FunctionTransformer(lambda frame: frame.apply(lambda c: (c - pd.Timestamp(0)) / pd.Timedelta(days=1)))
    return ColumnTransformer(
        [
            ("age", SimpleImputer(strategy="median", add_indicator=True), ["age"]),
            ("dose", SimpleImputer(strategy="median", add_indicator=True), ["dose"]),
            (
                "ward",
                OneHotEncoder(max_categories=6, handle_unknown="infrequent_if_exist", sparse_output=False),
                ["ward"],
            ),
            ("insurance", make_pipeline(OneHotEncoder(handle_unknown="ignore", sparse_output=False)), ["insurance"]),
            ("admitted", days, ["admitted"]),
        ]
    ).fit(train)


def test_three_commands_equal_pandas_and_scikit_learn(made: Path, run_python: Program) -> None:
    """The features of both splits, and the predictions on a raw table without labels, to 1e-6."""
    frame = messy(ROWS, 0)
    with h5py.File(made / "table.h5") as file:
        assert file.attrs["classes"].tolist() == [b"02", b"2", b"rare"]
        X = {split: file[f"{split}/X"][:] for split in ("train", "test")}
        y = {split: file[f"{split}/y"][:] for split in ("train", "test")}
        w = {split: file[f"{split}/w"][:] for split in ("train", "test")}
        assert [name.decode() for name in file.attrs["features"]][:5] == [
            "age",
            "age is missing",
            "dose",
            "dose is missing",
            "ward=A1",
        ]
    numbers = frame["outcome"].map({"02": 0, "2": 1, "rare": 2}).to_numpy()
    test = np.zeros(ROWS, bool)  # rows keep their order: merge the two splits by label and weight
    cursor = {"train": 0, "test": 0}
    weight, dose = frame["w"].to_numpy(), frame["dose"].to_numpy()
    days = ((frame["admitted"] - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy()
    for i in range(ROWS):
        for split in ("test", "train"):
            k = cursor[split]
            if k == len(y[split]) or (y[split][k], w[split][k], X[split][k, -1]) != (numbers[i], weight[i], days[i]):
                continue
            if np.isnan(dose[i]) or abs(X[split][k, 2] - dose[i]) < 1e-9:
                test[i] = split == "test"
                cursor[split] += 1
                break
        else:
            raise AssertionError(f"row {i} is in neither split")
    fitted = transformer(frame[~test])
    for split, rows in (("train", frame[~test]), ("test", frame[test])):
        np.testing.assert_allclose(X[split], fitted.transform(rows), rtol=1e-6, atol=1e-6)

    raw = messy(RAW_ROWS, 1).drop(columns=["outcome", "w"])
    raw.loc[0, "ward"] = "never seen"
    raw = raw[["insurance", "dose", "admitted", "ward", "age", "id"]]
    write(raw, made / "raw.csv")
    outcome = run_python("-m", "ddp_mlp.predict", made / "run", made / "raw.csv", "-o", made / "out.h5")
    assert outcome.returncode == 0, outcome.stderr
    with h5py.File(made / "out.h5") as file:
        found = file["probability"][:]
    expected = load(made / "run").predict_proba(fitted.transform(raw))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert "takes no part: id" in outcome.stderr
    assert not [path for path in made.iterdir() if path.name.startswith(".predict")]


def test_a_raw_table_with_labels_is_scored(made: Path, run_python: Program) -> None:
    """Labels are matched by name; one that training never saw is told with its count."""
    raw = messy(RAW_ROWS, 2)
    raw.loc[:6, "outcome"] = "new"
    write(raw, made / "labelled.csv")
    outcome = run_python("-m", "ddp_mlp.predict", made / "run", made / "labelled.csv")
    assert outcome.returncode == 0, outcome.stderr
    assert f"rows {RAW_ROWS - 7:,}, accuracy" in outcome.stdout
    assert "classes that training never saw, in no figure: new 7" in outcome.stdout
    frame = raw[raw["outcome"] != "new"]
    predicted = np.array(["02", "2", "rare"])[load(made / "run").predict(transformer(messy(ROWS, 0)).transform(frame))]
    accuracy = float(np.mean(predicted == frame["outcome"]))
    assert f"accuracy {accuracy:.4f}" in outcome.stdout
