"""Tests of storage/predictions.py: names that a spreadsheet would run."""

import csv
from pathlib import Path

import numpy as np
import pytest

from ddp_mlp.storage.predictions import PredictionsWriter


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+1+cmd", "'+1+cmd"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("-1", "-1"),
        ("+3.5e2", "+3.5e2"),
        ("cat", "cat"),
    ],
)
def test_a_name_that_would_run_as_a_formula_does_not(name: str, shown: str, tmp_path: Path) -> None:
    """In the header and as a label; numbers stay as they are."""
    path = tmp_path / "out.csv"
    with PredictionsWriter(path, 1, (name, "b"), np.dtype(np.float32)) as writer:
        writer.append(np.array([0]), np.array([[1.0, 0.0]], np.float32))
        writer.finish()
    with path.open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["label", shown, "b"]
    assert row[0] == shown
