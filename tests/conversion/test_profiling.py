"""What the columns of a table are: the figures of pandas, however many rows are read at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.conversion.dialect import Asked
from ddp_mlp.conversion.profiling import Profile, profile
from ddp_mlp.conversion.tables import CsvTable

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

ROWS = 400


def frame() -> Any:
    """Return columns of every kind, with gaps in some of them."""
    random = np.random.default_rng(3)
    table = {
        "whole": random.integers(-9, 9, ROWS),
        "id": random.permutation(ROWS) + 7,
        "float": random.standard_normal(ROWS),
        "seconds": 1.7e9 + np.arange(ROWS) / 8,
        "gaps": np.where(random.random(ROWS) < 0.2, np.nan, random.integers(0, 5, ROWS)),
        "late": np.where(np.arange(ROWS) == ROWS - 1, np.nan, random.standard_normal(ROWS)),
        "text": random.choice(["a", "b"], ROWS),
        "key": [f"k{i}" for i in range(ROWS)],
        "flag": random.random(ROWS) < 0.5,
        "label": random.choice(["x", "y", "02"], ROWS),
    }
    return pd.DataFrame(table)


@pytest.fixture(params=["whole", "in blocks"])
def found(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Return the profile of the table, read whole and a few rows at a time."""
    import pyarrow

    if request.param == "in blocks":
        monkeypatch.setattr("ddp_mlp.conversion.tables.BLOCK_BYTES", 2000)
        monkeypatch.setattr("ddp_mlp.conversion.tables.WHOLE_BYTES", 0)
    frame().to_csv(tmp_path / "a.csv", index=False)
    table = CsvTable(tmp_path / "a.csv", Asked(), None)
    label = table.names.index("label")
    return profile(table, list(range(label)), label, {label: pyarrow.string()})


def test_columns_are_what_pandas_says(found: Profile) -> None:
    """Kinds, rows, ranges, gaps with the row of the first, labels."""
    known = frame()
    assert found.rows == ROWS
    names = list(known)
    kinds = {names[column]: kind for column, kind in found.kinds.items()}
    assert kinds == dict.fromkeys(names[:6], "number") | {"text": "text", "key": "text", "flag": "boolean"}
    for column, name in enumerate(names[:6]):
        assert (found.lowest[column], found.highest[column]) == (known[name].min(), known[name].max())
    gaps = {names[column]: where for column, where in found.missing.items()}
    assert gaps == {
        name: (int(known[name].isna().sum()), int(known[name].isna().idxmax())) for name in ("gaps", "late")
    }
    assert found.labels == known["label"].value_counts().to_dict()


def test_ids_and_what_float32_would_merge(found: Profile) -> None:
    """A column with another whole number or text in every row; seconds since 1970, which float32 cannot tell apart."""
    known = frame()
    names = list(known)
    assert {names[column] for column in found.ids} == {"id", "key"}
    merged = {name for name in names[:6] if known[name].astype("f4").nunique() < 0.99 * known[name].nunique()}
    assert {names[column] for column in found.merged} == merged == {"seconds"}


def test_lines_that_are_long_are_read_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow takes its time for each column of each block: one of three rows would take ten times as long."""
    monkeypatch.setattr("ddp_mlp.conversion.tables.BLOCK_BYTES", 100)
    monkeypatch.setattr("ddp_mlp.conversion.tables.WHOLE_BYTES", 0)
    X = np.random.default_rng(0).integers(0, 9, (100, 50))
    np.savetxt(tmp_path / "wide.csv", X, "%d", ",")
    batches = list(CsvTable(tmp_path / "wide.csv", Asked(header="no"), None).batches({}))
    assert min(batch.num_rows for batch in batches[:-1]) >= 31  # 32 lines, and the ends of lines
    assert np.array_equal(np.concatenate([np.stack(batch.to_pandas().to_numpy()) for batch in batches]), X)
