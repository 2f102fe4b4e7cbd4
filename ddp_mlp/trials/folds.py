"""Cross-validation: which fold every row of train belongs to, a function of (labels, folds, seed).

Stratified: the rows of a class are dealt out one by one, in a random order, and the next class goes on where the last
one stopped. So a class's counts differ by at most one between folds, and so do the folds' sizes. The order is that of
Philox's own words: no library's shuffle decides it.
"""

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError
from ddp_mlp.nn.randomness import Purpose, words
from ddp_mlp.units import counted

MOST_FOLDS = 1 << 15
"""A fold's number is an int16."""


def fold_of_rows(
    y: NDArray[np.int64] | None, m: int, folds: int, seed: int, names: tuple[str, ...]
) -> NDArray[np.int16]:
    """Return the fold (m,), from 0, in which each row is held out; `y` (m,) are class numbers, None is no classes.

    `names` are the classes'. Raises ConfigError where there are more folds than rows, or rows of a class that occurs.
    """
    if m < folds:
        raise ConfigError(f"folds = {folds}: train has {counted(m, 'row')}: ask for fewer folds")
    found = np.zeros(m, np.int16)
    dealt = 0
    for label in range(1 if y is None else int(y.max()) + 1):
        rows = np.arange(m) if y is None else np.flatnonzero(y == label)
        if 0 < len(rows) < folds:
            few = f"class {names[label]!r} has {counted(len(rows), 'row')} in train"
            raise ConfigError(f"folds = {folds}: {few}: ask for fewer folds, or leave the class out")
        order = np.argsort(words(seed, Purpose.FOLDS, label, count=len(rows)), kind="stable")
        found[rows[order]] = (dealt + np.arange(len(rows))) % folds
        dealt += len(rows)
    return found
