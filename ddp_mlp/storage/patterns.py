"""Which files a path or a pattern names."""

import glob
import os
from pathlib import Path

from ddp_mlp.errors import StorageError

DIGITS = "data/digits.h5"
"""The default data set: a file of the checkout; where there is none of this name, the copy that is installed."""


def files_of(pattern: str | Path) -> list[str]:
    """Return the files that a path or a pattern names, ordered by name. StorageError where there is none."""
    text = os.fspath(pattern)
    if text == DIGITS and not os.path.exists(text):
        return [os.fspath(_installed_digits())]
    if os.path.exists(text) or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise StorageError(f"{text}: no file has such a name")
    return found


def _installed_digits() -> Path:
    """Return the digits that come with the program: in its package, or in the checkout that it is run from."""
    package = Path(__file__).resolve().parents[1]
    found = package / "digits.h5"
    return found if found.exists() else package.parent / DIGITS
