"""Write `data/digits.h5`, the data set a new user trains on first, from scikit-learn's bundled digits.

The file's bytes are a function of this script alone: a fixed split, no timestamps, one HDF5 format.
"""

import argparse
from pathlib import Path

import h5py
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TEST_EXAMPLES = 360
SPLIT_SEED = 0
DATA_FILE = Path(__file__).resolve().parents[2] / "data" / "digits.h5"


def write_digits(path: Path) -> None:
    """Write groups `train` and `test`, each `X` (m, 64) uint8 in 0..16 and `y` (m,) uint8, to the file `path`."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X.astype(np.uint8), y.astype(np.uint8), test_size=TEST_EXAMPLES, stratify=y, random_state=SPLIT_SEED
    )
    # The earliest format stores no times in groups, and every HDF5 reader opens it.
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        # Fixed-length strings, because variable-length ones are an object type that some readers lack.
        file.attrs["classes"] = np.array([str(digit) for digit in range(10)], dtype="S1")
        for split, X_split, y_split in (("train", X_train, y_train), ("test", X_test, y_test)):
            group = file.create_group(split)
            group.create_dataset("X", data=X_split, track_times=False)
            group.create_dataset("y", data=y_split, track_times=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the digits data set as an HDF5 file.")
    parser.add_argument("output", nargs="?", type=Path, default=DATA_FILE, help="default: %(default)s")
    write_digits(parser.parse_args().output)
