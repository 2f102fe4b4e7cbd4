"""Every row of a split looked at: checked, counted, its statistics formed, its bytes hashed; by any number of readers.

Invariants:
- every figure is formed over fixed blocks of rows, in a fixed order: it is the same whoever surveys which block.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.storage.reader import Reader
from ddp_mlp.summing.totals import total

SURVEY_BLOCK_ROWS = 8192
SURVEY_BLOCKS_AT_MOST = 1024
CLASSES_AT_MOST = 1 << 20  # a label beyond this is taken for a mistake: counting it would only fill the memory
_PIECE_ELEMENTS = 1 << 19  # of X held as float64 at a time: 4 MiB


@dataclass(frozen=True)
class NumberRule:
    """What numbers may be, as targets of a loss."""

    missing: bool = False
    """NaN is a number that was not observed."""
    at_least_0: bool = False
    """Counts and rates, for poisson."""
    yes_or_no: bool = False
    """0 and 1, for binary_cross_entropy."""


@dataclass(frozen=True)
class NumberSurvey:
    """What the targets of some rows hold where they are numbers; all (n_T,), over the rows where one is observed.

    `count` int64, the others float64: `mean`, `M2` (sum of squared deviations), `minimum`, `maximum`, and the sum of
    the rows' weights.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    M2: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    weight: NDArray[np.float64]

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether a number has no spread, or one that rounding alone can make."""
        spread = np.sqrt(np.maximum(self.M2, 0) / np.maximum(self.count, 1))
        found: NDArray[np.bool_] = spread <= 4 * np.finfo(np.float64).eps * np.abs(self.mean)
        np.logical_or(found, self.minimum == self.maximum, out=found)
        return found

    @property
    def scale(self) -> NDArray[np.float64]:
        """The standard deviation of the population, 1 for a constant number."""
        return np.where(self.constant, 1.0, np.sqrt(np.maximum(self.M2, 0) / np.maximum(self.count, 1)))


@dataclass(frozen=True)
class BlockSurvey:
    """What one block of rows holds; picklable.

    `mean`, `M2` (sum of squared deviations from the mean), `minimum`, `maximum` are (features,) float64;
    `class_counts` is (classes,) int64, or as long as the largest label asks for; `weight_sum` is the sum of w, or of
    ones; `digest` is SHA-256 over the block's bytes.
    """

    count: int
    mean: NDArray[np.float64]
    M2: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    class_counts: NDArray[np.int64]
    weight_sum: float
    shape_dtype: tuple[int, str]
    digest: bytes
    numbers: NumberSurvey | None = None
    """Of targets that are numbers."""


@dataclass(frozen=True)
class Survey:
    """What a whole split holds; `mean`, `std`, `minimum`, `maximum` are (features,) float64.

    `std` is the population's, and 1 for a constant feature, so that (X - mean) / std is always defined.
    `fingerprint` is SHA-256 (hexadecimal) over shape, dtype and every byte of X, y and w.
    """

    count: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    class_counts: NDArray[np.int64]
    weight_sum: float
    fingerprint: str
    variance: NDArray[np.float64]
    """(features,), 0 for a constant feature."""
    numbers: NumberSurvey | None = None
    """Of targets that are numbers."""
    blocks: tuple[str, ...] = ()
    """SHA-256 (hexadecimal) of each block."""


def survey_blocks(rows: int) -> list[tuple[int, int]]:
    """Cut rows [0, rows) into blocks [lo, hi): 8192 rows each, more where that would be over 1024 blocks."""
    size = max(SURVEY_BLOCK_ROWS, -(-rows // SURVEY_BLOCKS_AT_MOST))
    return [(lo, min(lo + size, rows)) for lo in range(0, rows, size)]


def survey_block(
    reader: Reader,
    lo: int,
    hi: int,
    classes: int | None,
    rule: NumberRule | None = None,
    arithmetic: Arithmetic = NATIVE,
) -> BlockSurvey:
    """Survey rows [lo, hi) in one pass of a few MiB at a time; `classes` is their number, where it is known. Local.

    Raises DataError, naming row and column, for X that is not finite, labels that are not whole numbers from 0 up to
    (not including) `classes`, or numbers against the rule, and weights that are not finite or negative.
    """
    digest = hashlib.sha256()
    features = _survey_features(reader, lo, hi, digest, arithmetic)
    labelled = reader.info.splits[reader.split].labelled
    targets: NDArray[Any] = reader.y(lo, hi) if labelled else np.zeros(0, np.int64)
    weights = reader.w(lo, hi)
    digest.update(targets.astype(targets.dtype.newbyteorder("<"), copy=False).data)
    digest.update(weights.astype("<f8", copy=False).data)
    if reader.info.numbers and labelled:
        check_numbers(reader, targets, lo, rule or NumberRule())
    else:
        _check_labels(reader, targets, lo, classes)
    return BlockSurvey(
        count=hi - lo,
        **features,
        class_counts=_class_counts(reader, targets, classes),
        weight_sum=total(weights.tolist()),
        shape_dtype=(reader.features, reader.dtype.name),
        digest=digest.digest(),
        numbers=survey_numbers(targets, weights, arithmetic) if reader.info.numbers and labelled else None,
    )


def _survey_features(
    reader: Reader, lo: int, hi: int, digest: "hashlib._Hash", arithmetic: Arithmetic
) -> dict[str, NDArray[np.float64]]:
    """Return `mean`, `M2`, `minimum` and `maximum` of each feature; add the bytes of all rows to `digest`.

    A piece is hashed in a thread while its figures are formed and the next one is read.
    """
    mean, M2 = np.zeros(reader.features), np.zeros(reader.features)
    minimum, maximum = np.full(reader.features, np.inf), np.full(reader.features, -np.inf)
    little_endian = reader.dtype.newbyteorder("<")
    rows_at_once = min(hi - lo, max(1, _PIECE_ELEMENTS // reader.features))
    room = np.empty((2, rows_at_once, reader.features), reader.dtype)
    values = np.empty((rows_at_once, reader.features))
    hashed: list[Future[None]] = []
    with ThreadPoolExecutor(1, "hashing") as thread:
        for number, piece_lo in enumerate(range(lo, hi, rows_at_once)):
            count = min(rows_at_once, hi - piece_lo)
            if number >= len(room):
                hashed[number - len(room)].result()  # what its room had before
            raw = reader.X(piece_lo, piece_lo + count, room[number % len(room), :count])
            hashed.append(thread.submit(digest.update, raw.astype(little_endian, copy=False).data))
            piece_minimum, piece_maximum = raw.min(axis=0), raw.max(axis=0)  # NaN and infinities come through
            if not (np.isfinite(piece_minimum).all() and np.isfinite(piece_maximum).all()):
                row, column = np.argwhere(~np.isfinite(raw))[0]
                found = f"row {piece_lo + row}, column {column} is {raw[row, column]}: must be a finite number"
                raise reader.refusal(reader.info.x_name, found)
            minimum, maximum = np.minimum(minimum, piece_minimum), np.maximum(maximum, piece_maximum)
            mean, M2 = _joined(piece_lo - lo, mean, M2, count, *_moments(raw, values[:count], arithmetic))
    return {"mean": mean, "M2": M2, "minimum": minimum, "maximum": maximum}


def survey_numbers(Y: NDArray[np.float64], w: NDArray[np.float64], arithmetic: Arithmetic = NATIVE) -> NumberSurvey:
    """Survey targets (k, n_T) that are numbers, NaN where one is not observed, with the rows' weights (k,). Local."""
    total = arithmetic.sum_rows
    observed = ~np.isnan(Y)
    count = observed.sum(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = total(np.where(observed, Y, 0)) / np.maximum(count, 1)
        deviation = np.where(observed, Y - mean, 0)
        error = total(deviation)
        M2 = total(np.square(deviation)) - error * error / np.maximum(count, 1)
    return NumberSurvey(
        count=count.astype(np.int64),
        mean=mean,
        M2=M2,
        minimum=np.where(observed, Y, np.inf).min(axis=0),
        maximum=np.where(observed, Y, -np.inf).max(axis=0),
        weight=total(np.where(observed, w[:, None], 0)),
    )


def check_numbers(reader: Reader, Y: NDArray[np.float64], lo: int, rule: NumberRule) -> None:
    """Raise DataError, naming row and column, for the first target (k, n_T) that breaks the rule."""
    missing = np.isnan(Y)
    wrong = np.isinf(Y)
    must = "a finite number"
    if rule.missing:
        must += ", or NaN where it was not observed"
    else:
        wrong |= missing
        must += "; missing_targets = true takes NaN for a number that was not observed" if missing.any() else ""
    if not wrong.any() and rule.at_least_0:
        wrong, must = Y < 0, "at least 0, as counts and rates for loss = poisson are"
    if not wrong.any() and rule.yes_or_no:
        wrong, must = ~missing & (Y != 0) & (Y != 1), "0 or 1 for loss = binary_cross_entropy"
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f"row {lo + row}, column {column}" if Y.shape[1] > 1 else f"row {lo + row}"
        raise reader.refusal(reader.info.y_name, f"{where} is {Y[row, column]:g}: must be {must}")


def _class_counts(reader: Reader, targets: NDArray[Any], classes: int | None) -> NDArray[np.int64]:
    if reader.info.numbers:
        return np.zeros(0, np.int64)
    return np.bincount(targets, minlength=classes or 0).astype(np.int64)


def _check_labels(reader: Reader, labels: NDArray[np.int64], lo: int, classes: int | None) -> None:
    limit = CLASSES_AT_MOST if classes is None else classes
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        found = f"row {lo + wrong[0]} is {labels[wrong[0]]}: must be a class number from 0 to {limit - 1}"
        raise reader.refusal(reader.info.y_name, found)


def _moments(
    raw: NDArray[Any], values: NDArray[np.float64], arithmetic: Arithmetic
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and sum of squared deviations of each column, float64; `values` is room of raw's shape.

    Two passes, and the second corrected by the rounding of the first (Chan, Golub, LeVeque 1983, eq. 1.7).
    """
    np.copyto(values, raw)
    count = len(values)
    with np.errstate(over="ignore", invalid="ignore"):  # `merge_surveys` refuses what overflows
        mean = arithmetic.sum_rows(values) / count
        values -= mean
        error = arithmetic.sum_rows(values)
        M2 = arithmetic.sum_rows(np.square(values, out=values)) - error * error / count
    return mean, M2


def _joined(
    count_a: int | NDArray[np.int64],
    mean_a: NDArray[np.float64],
    M2_a: NDArray[np.float64],
    count_b: int | NDArray[np.int64],
    mean_b: NDArray[np.float64],
    M2_b: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and M2 of two sets of rows together (Chan, Golub, LeVeque 1983, eq. 2.1)."""
    count = count_a + count_b
    with np.errstate(over="ignore", invalid="ignore"):
        delta = mean_b - mean_a
        return mean_a + delta * (count_b / count), M2_a + M2_b + delta * delta * (count_a * (count_b / count))


def merge_surveys(surveys: Sequence[BlockSurvey]) -> Survey:
    """Put the surveys of all of a split's blocks, in block order, together. Local, and the same on every rank.

    Raises DataError when every weight is 0, or a feature's values are too large for a standard deviation in float64.
    """
    first = surveys[0]
    count, mean, M2 = first.count, first.mean, first.M2
    for block in surveys[1:]:
        mean, M2 = _joined(count, mean, M2, block.count, block.mean, block.M2)
        count += block.count
    minimum = np.min([block.minimum for block in surveys], axis=0)
    maximum = np.max([block.maximum for block in surveys], axis=0)

    too_large = np.flatnonzero(~np.isfinite(M2))
    if too_large.size:
        column = too_large[0]
        found = f"values from {minimum[column]:g} to {maximum[column]:g}"
        raise DataError(f"column {column} of X has {found}: too large for a standard deviation; rescale the data")
    std = np.sqrt(np.maximum(M2, 0) / count)
    # A spread that rounding alone can make is none: dividing by it would blow rounding up into a feature.
    constant = (minimum == maximum) | (std <= 4 * np.finfo(np.float64).eps * np.abs(mean))
    mean, std = np.where(minimum == maximum, minimum, mean), np.where(constant, 1.0, std)

    class_counts = np.zeros(max(len(block.class_counts) for block in surveys), np.int64)
    for block in surveys:
        class_counts[: len(block.class_counts)] += block.class_counts
    weight_sum = total(block.weight_sum for block in surveys)
    if weight_sum == 0:
        raise DataError("every sample weight w is 0: at least one example must count")

    numbers = merge_numbers([block.numbers for block in surveys if block.numbers is not None])
    fingerprint = hashlib.sha256(repr((count, *first.shape_dtype)).encode())
    for block in surveys:
        fingerprint.update(block.digest)
    variance, digest = np.where(constant, 0.0, np.maximum(M2, 0) / count), fingerprint.hexdigest()
    digests = tuple(block.digest.hex() for block in surveys)
    return Survey(count, mean, std, minimum, maximum, class_counts, weight_sum, digest, variance, numbers, digests)


def merge_numbers(surveys: Sequence[NumberSurvey]) -> NumberSurvey | None:
    """Put the surveys of blocks, in their order, together; None where there are none. Raises DataError on overflow."""
    if not surveys:
        return None
    count, mean, M2 = surveys[0].count, surveys[0].mean, surveys[0].M2
    for block in surveys[1:]:
        joined = _joined(count, mean, M2, np.maximum(block.count, 1), block.mean, block.M2)
        present = block.count > 0
        mean, M2 = np.where(present, joined[0], mean), np.where(present, joined[1], M2)
        count = count + block.count
    if not np.isfinite(M2).all():
        column = int(np.flatnonzero(~np.isfinite(M2))[0])
        raise DataError(f"column {column} of y is too large for a standard deviation; rescale the data")
    minimum = np.min([block.minimum for block in surveys], axis=0)
    maximum = np.max([block.maximum for block in surveys], axis=0)
    weight = np.array([total(each) for each in zip(*(block.weight for block in surveys), strict=True)])
    return NumberSurvey(count, np.where(minimum == maximum, minimum, mean), M2, minimum, maximum, weight)
