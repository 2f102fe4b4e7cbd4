"""What the y of arrays is: labels, as numbers, text or one-hot; or numbers to be met.

Invariants:
- y is looked at whole before anything is made of it, and what is not labels one per row is said;
- what could be either is refused, naming the flag that settles it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion.source import Piece, distinct
from ddp_mlp.errors import ConfigError, DataError

Kind: TypeAlias = Literal["labels", "one-hot", "numbers"]

ODD_SHARE = 0.1
"""Up to this share of rows that are no class numbers are mistakes among labels; beyond it y is numbers."""
NOT_ONE_HOT_SHARE = 0.01
"""Up to this share of rows with none or several ones are mistakes among one-hot labels."""


@dataclass(frozen=True)
class ArrayTargets:
    """How y (m,) or (m, columns) is read."""

    kind: Kind
    names: tuple[str, ...] = ()
    """Of numbers."""
    said: tuple[str, ...] = ()
    """What was found out and is worth saying."""

    def piece(self, X: NDArray[Any], y: NDArray[Any], w: NDArray[np.float64] | None, name: str, lo: int) -> Piece:
        """Return rows X (k, n_0) from row `lo` on with what y (k,) or (k, columns) is. Raises DataError."""
        if self.kind == "numbers":
            numbers = y.reshape(len(X), -1).astype(np.float64)
            if np.isinf(numbers).any():
                row, column = np.argwhere(np.isinf(numbers))[0]
                found = f"row {lo + row}, the target {self.names[column]!r}, is {numbers[row, column]:g}"
                raise DataError(f"{name}: {found}: must be finite")
            return Piece(X, w=w, y=numbers)
        if self.kind == "one-hot":
            y = one_hot_labels(y, name, lo)
        labels, codes = distinct(y.reshape(-1), name, lo)
        return Piece(X, labels, codes.reshape(-1), w)


def targets_in(
    name: str, called: str, pieces: Iterator[NDArray[Any]], asked: tuple[str, ...], are_classes: bool = False
) -> ArrayTargets:
    """Return what y is; `pieces` are all its rows, `called` its own name, `asked` the names of --target.

    `are_classes` says that the file names classes. Raises ConfigError or DataError for what could be either.
    """
    rows = columns = not_one_hot = odd = 0
    yes_or_no, is_text = True, False
    for y in pieces:
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        columns = y.shape[1] if y.ndim == 2 else 0
        if y.dtype.kind not in "biuf":
            is_text = True
        elif columns:
            yes_or_no &= bool(((y == 0) | (y == 1)).all())
            not_one_hot += int((y.sum(axis=1) != 1).sum())
        elif y.dtype.kind == "f":
            odd += int((~(np.isfinite(y) & (y == np.rint(y)))).sum())
        rows += len(y)
    if is_text and columns:
        raise DataError(f"{name}: {called!r} is text of {columns} columns: labels must be one per row")
    if is_text and asked:
        raise ConfigError(f"--target {','.join(asked)}: {name}: {called!r} is text, which is labels")
    if asked or (columns and not (yes_or_no and not_one_hot <= NOT_ONE_HOT_SHARE * rows)):
        return _numbers(name, called, columns, asked)
    if columns:
        return ArrayTargets("one-hot", said=(f"{name}: one-hot labels: class numbers 0 to {columns - 1}",))
    if odd > ODD_SHARE * rows and not are_classes:
        return _numbers(name, called, columns, asked)
    return ArrayTargets("labels")


def _numbers(name: str, called: str, columns: int, asked: tuple[str, ...]) -> ArrayTargets:
    names = asked or ((called,) if not columns else tuple(f"{called}{i}" for i in range(columns)))
    if len(names) != (columns or 1):
        raise ConfigError(
            f"--target {','.join(asked)}: {name}: {called!r} has {columns or 1} columns, not {len(names)}"
        )
    return ArrayTargets("numbers", names, (f"{name}: {called!r} is numbers: targets {', '.join(names[:20])}",))


def one_hot_labels(y: NDArray[Any], name: str, lo: int) -> NDArray[np.intp]:
    """Return the class of each row (k,) of one-hot labels (k, n_L). Raises DataError for a row that is none."""
    wrong = np.flatnonzero(((y != 0) & (y != 1)).any(axis=1) | (y.sum(axis=1) != 1))
    if wrong.size:
        raise DataError(
            f"{name}: row {lo + wrong[0]} of the labels is not one-hot: must have a single 1, else 0; several labels "
            "or numbers are --target"
        )
    return np.asarray(np.argmax(y, axis=1), np.intp)
