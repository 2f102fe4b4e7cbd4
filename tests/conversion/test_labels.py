"""A label is its text, whatever kind of file it comes from."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp import convert

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = 40


def converted(source: Path, *flags: str) -> tuple[list[str], list[int]]:
    """Return the names of classes, and the class of every row, of what a file becomes."""
    out = source.with_suffix(".h5")
    assert convert.main([str(source), *flags, str(out)]) == 0
    with h5py.File(out) as file:
        return [name.decode() for name in file.attrs.get("classes", [])], file["train/y"][:].tolist()


def test_a_label_is_its_text(tmp_path: Path) -> None:
    """02139 and 2139 are two classes, 1e5 is a name, -1 is a class, and spaces around a label are no part of it."""
    labels = ["02139", "2139", "1e5", "-1"]
    rows = [f"{i * 0.37:.2f},{labels[i % 4]}{' ' * (i % 3)}" for i in range(ROWS)]
    (tmp_path / "zip.csv").write_text("\n".join(["x,zip", *rows]) + "\n")
    assert converted(tmp_path / "zip.csv", "--label", "zip") == (["-1", "02139", "1e5", "2139"], [1, 3, 2, 0] * 10)


def test_whole_numbers_keep_their_order(tmp_path: Path) -> None:
    """-1, 2 and 10 are sorted as numbers; 0, 1, 2 need no names."""
    for name, labels, classes in (("far", [10, -1, 2], ["-1", "2", "10"]), ("near", [2, 0, 1], [])):
        rows = [f"{i * 0.37:.2f},{labels[i % 3]}" for i in range(ROWS)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y", *rows]) + "\n")
        found = converted(tmp_path / f"{name}.csv", "--label", "y")
        assert found == (classes, [[2, 0, 1][i % 3] for i in range(ROWS)])


def table(labels: Any, path: Path) -> Path:
    """Write a Parquet file of a feature and labels."""
    parquet.write_table(arrow.table({"x": np.arange(ROWS) * 0.37, "y": labels}), path)
    return path


LABELS = {
    "dictionary": (arrow.array(["a", "b"] * 20).dictionary_encode(), ["a", "b"]),
    "large text": (arrow.array(["a", "b"] * 20, arrow.large_string()), ["a", "b"]),
    "a view of text": (arrow.array(["a", "b"] * 20, arrow.string_view()), ["a", "b"]),
    "bytes": (arrow.array([b"a", b"b"] * 20), ["a", "b"]),
    "bool": (arrow.array([False, True] * 20), ["false", "true"]),
    "floats that are whole": (arrow.array([2.0, 1e15] * 20), ["2", "1000000000000000"]),
    "float16": (arrow.array(np.array([3, 4] * 20, np.float16)), ["3", "4"]),
    "whole decimals": (arrow.array([Decimal("1.00"), Decimal("2.00")] * 20), ["1", "2"]),
    "decimals beyond float64": (
        arrow.array([Decimal(12345678901234567890), Decimal(12345678901234567891)] * 20, arrow.decimal128(20, 0)),
        ["12345678901234567890", "12345678901234567891"],
    ),
    "uint64": (arrow.array([2**63, 2**63 + 1] * 20, arrow.uint64()), [str(2**63), str(2**63 + 1)]),
    "dates": (arrow.array([date(2020, 1, 1), date(2020, 1, 2)] * 20), ["2020-01-01", "2020-01-02"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_type_of_parquet(kind: str, tmp_path: Path) -> None:
    """Two labels that differ are two classes; whole numbers are written as they usually are."""
    labels, classes = LABELS[kind]
    assert converted(table(labels, tmp_path / "a.parquet"), "--label", "y") == (classes, [0, 1] * 20)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (arrow.array([np.nan if i == 3 else float(i % 2) for i in range(ROWS)]), "missing in 1 row (row 3)"),
        (arrow.array([None if i == 3 else "ab"[i % 2] for i in range(ROWS)]), "missing in 1 row (row 3)"),
        (arrow.nulls(ROWS), "missing in 40 rows (row 0)"),
        (arrow.array([[i % 2] for i in range(ROWS)]), "'y' is list<element: int64>, and cannot be read as text"),
        (arrow.array([0.5, 1.5] * 20), "the label '0.5' is not a whole number: numbers to be met are --target"),
    ],
)
def test_what_is_no_label_is_refused(
    labels: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing label is no class of its own, NaN neither; each in one line."""
    assert convert.main([str(table(labels, tmp_path / "a.parquet")), "--label", "y", str(tmp_path / "a.h5")]) == 65
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
