"""The committed digits file is what its script writes and what its README says."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import ROOT, Program

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn bundles the digits")


def test_script_writes_the_committed_bytes(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """Running the script again, elsewhere and later, gives the committed file byte for byte."""
    again = tmp_path / "again.h5"
    made = run_python(ROOT / "scripts" / "tools" / "make_digits.py", again, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert again.read_bytes() == digits.read_bytes()


def test_readme_states_the_hash_of_the_file(digits: Path) -> None:
    """The SHA-256 in data/README.md is that of the file beside it."""
    assert hashlib.sha256(digits.read_bytes()).hexdigest() in (digits.parent / "README.md").read_text(encoding="utf-8")


def test_every_source_example_is_there_once(digits: Path) -> None:
    """Train and test together hold each image of scikit-learn's digits once, with its label."""
    X_source, y_source = datasets.load_digits(return_X_y=True)
    with h5py.File(digits) as file:
        X = np.concatenate([file["train/X"][:], file["test/X"][:]])
        y = np.concatenate([file["train/y"][:], file["test/y"][:]])
    assert sorted(map(tuple, np.column_stack([X, y]))) == sorted(map(tuple, np.column_stack([X_source, y_source])))


def test_file_has_the_documented_layout(digits: Path) -> None:
    """Shapes, types, contiguous storage and class names are those of data/README.md."""
    with h5py.File(digits) as file:
        assert sorted(file) == ["test", "train"]
        assert file.attrs["classes"].dtype == np.dtype("S1")
        assert file.attrs["classes"].tolist() == [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"]
        for split, m in (("train", 1437), ("test", 360)):
            for name, shape in (("X", (m, 64)), ("y", (m,))):
                dataset = file[split][name]
                assert (dataset.shape, dataset.dtype, dataset.chunks) == (shape, np.dtype(np.uint8), None)


def test_split_is_stratified(digits: Path) -> None:
    """Each digit's share of the test part is its share of the whole, to one example."""
    with h5py.File(digits) as file:
        train, test = (np.bincount(file[split]["y"][:], minlength=10) for split in ("train", "test"))
    assert np.all(np.abs(test - (train + test) * 360 / 1797) < 1)
