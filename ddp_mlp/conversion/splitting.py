"""Which split each row goes to: a function of the order asked for, the seed, the rows and (stratified) the labels."""

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError
from ddp_mlp.storage.dataset import SPLITS


def parse_part(flag: str, text: str) -> int | float:
    """Read N (rows) or a FRACTION below 1, as `--valid` and `--test` take them; ConfigError otherwise."""
    try:
        value: int | float = int(text) if text.isdecimal() else float(text)
    except ValueError:
        value = -1.0
    if not (isinstance(value, int) or 0 < value < 1):
        raise ConfigError(f"{flag} {text}: must be a number of rows, or a fraction between 0 and 1")
    return value


def part_rows(flag: str, part: int | float, rows: int) -> int:
    """Return how many of `rows` a part is; ConfigError where a fraction is not one row."""
    count = part if isinstance(part, int) else round(part * rows)
    if part and not count:
        raise ConfigError(f"{flag} {part}: is not one row of {rows}")
    return count


def apportion(total: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Share `total` out in proportion to `counts`: quotas rounded down, and one more for the largest rests."""
    quotas = [total * int(count) for count in counts]
    whole = int(counts.sum())
    shares = np.array([quota // whole for quota in quotas], np.int64)
    remainders = np.array([quota % whole for quota in quotas])
    shares[np.argsort(-remainders, kind="stable")[: total - int(shares.sum())]] += 1
    return shares


class Membership:
    """Which split each row goes to: a number into SPLITS for every row, given out in row order.

    `strata` are row counts: of the classes for a stratified order, else one for all rows. One byte a row is kept.
    """

    def __init__(self, strata: NDArray[np.int64], valid: int, test: int, seed: int | None) -> None:
        tests = apportion(test, strata)
        valids = apportion(valid, strata - tests)
        self._codes: list[NDArray[np.uint8]] = []
        for number, (count, n_valid, n_test) in enumerate(zip(strata, valids, tests, strict=True)):
            codes = np.zeros(count, np.uint8)
            codes[count - n_test - n_valid : count - n_test] = SPLITS.index("valid")
            codes[count - n_test :] = SPLITS.index("test")
            if seed is not None:
                np.random.Generator(np.random.Philox(key=[seed, number])).shuffle(codes)
            self._codes.append(codes)
        self._given = [0] * len(strata)

    def next(self, y: NDArray[np.intp] | None, rows: int) -> NDArray[np.uint8]:
        """Return the splits of the next rows, whose classes are y (rows,); they matter for a stratified order alone."""
        if len(self._codes) == 1:
            return self._take(0, rows)
        assert y is not None, "stratified by class"
        splits = np.empty(rows, np.uint8)
        for stratum in np.unique(y):
            members = np.flatnonzero(y == stratum)
            splits[members] = self._take(int(stratum), len(members))
        return splits

    def _take(self, stratum: int, count: int) -> NDArray[np.uint8]:
        lo = self._given[stratum]
        self._given[stratum] = lo + count
        return self._codes[stratum][lo : lo + count]
