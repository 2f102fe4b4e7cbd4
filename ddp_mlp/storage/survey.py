"""Every row of a split looked at: checked, counted, its statistics formed, its bytes hashed; by any number of readers.

Invariants:
- every figure is formed over fixed blocks of rows, in a fixed order: it is the same whoever surveys which block.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.storage.dataset import Reader

SURVEY_BLOCK_ROWS = 8192
SURVEY_BLOCKS_AT_MOST = 1024
CLASSES_AT_MOST = 1 << 20  # a label beyond this is taken for a mistake: counting it would only fill the memory
_PIECE_ELEMENTS = 1 << 19  # of X held as float64 at a time: 4 MiB


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


def survey_blocks(rows: int) -> list[tuple[int, int]]:
    """Cut rows [0, rows) into blocks [lo, hi): 8192 rows each, more where that would be over 1024 blocks."""
    size = max(SURVEY_BLOCK_ROWS, -(-rows // SURVEY_BLOCKS_AT_MOST))
    return [(lo, min(lo + size, rows)) for lo in range(0, rows, size)]


def survey_block(reader: Reader, lo: int, hi: int, classes: int | None, arithmetic: Arithmetic = NATIVE) -> BlockSurvey:
    """Survey rows [lo, hi) in one pass of a few MiB at a time; `classes` is their number, where it is known. Local.

    Raises DataError, naming row and column, for X that is not finite, labels that are not whole numbers from 0 up to
    (not including) `classes`, and weights that are not finite or negative.
    """
    mean, M2 = np.zeros(reader.features), np.zeros(reader.features)
    minimum, maximum = np.full(reader.features, np.inf), np.full(reader.features, -np.inf)
    digest = hashlib.sha256()
    little_endian = reader.dtype.newbyteorder("<")

    rows_at_once = max(1, _PIECE_ELEMENTS // reader.features)
    for piece_lo in range(lo, hi, rows_at_once):
        piece_hi = min(piece_lo + rows_at_once, hi)
        raw = reader.X(piece_lo, piece_hi)
        digest.update(raw.astype(little_endian, copy=False).data)
        piece_minimum, piece_maximum = raw.min(axis=0), raw.max(axis=0)  # NaN and infinities come through
        if not (np.isfinite(piece_minimum).all() and np.isfinite(piece_maximum).all()):
            row, column = np.argwhere(~np.isfinite(raw))[0]
            found = f"row {piece_lo + row}, column {column} is {raw[row, column]}: must be a finite number"
            raise reader.refusal(reader.info.x_name, found)
        minimum, maximum = np.minimum(minimum, piece_minimum), np.maximum(maximum, piece_maximum)
        mean, M2 = _joined(piece_lo - lo, mean, M2, piece_hi - piece_lo, *_moments(raw, arithmetic))

    labels, weights = reader.y(lo, hi), reader.w(lo, hi)
    digest.update(labels.astype("<i8", copy=False).data)
    digest.update(weights.astype("<f8", copy=False).data)
    _check_labels(reader, labels, lo, classes)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if wrong.size:
        raise reader.refusal("w", f"row {lo + wrong[0]} is {weights[wrong[0]]}: must be finite, and at least 0")
    return BlockSurvey(
        count=hi - lo,
        mean=mean,
        M2=M2,
        minimum=minimum,
        maximum=maximum,
        class_counts=np.bincount(labels, minlength=classes or 0).astype(np.int64),
        weight_sum=math.fsum(weights),
        shape_dtype=(reader.features, reader.dtype.name),
        digest=digest.digest(),
    )


def _check_labels(reader: Reader, labels: NDArray[np.int64], lo: int, classes: int | None) -> None:
    limit = CLASSES_AT_MOST if classes is None else classes
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        found = f"row {lo + wrong[0]} is {labels[wrong[0]]}: must be a class number from 0 to {limit - 1}"
        raise reader.refusal(reader.info.y_name, found)


def _moments(raw: NDArray[Any], arithmetic: Arithmetic) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and sum of squared deviations of each column, float64.

    Two passes, and the second corrected by the rounding of the first (Chan, Golub, LeVeque 1983, eq. 1.7).
    """
    values = raw.astype(np.float64)
    count = len(values)
    with np.errstate(over="ignore", invalid="ignore"):  # `merge_surveys` refuses what overflows
        mean = arithmetic.sum_rows(values) / count
        values -= mean
        error = arithmetic.sum_rows(values)
        M2 = arithmetic.sum_rows(np.square(values, out=values)) - error * error / count
    return mean, M2


def _joined(
    count_a: int,
    mean_a: NDArray[np.float64],
    M2_a: NDArray[np.float64],
    count_b: int,
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
    weight_sum = math.fsum(block.weight_sum for block in surveys)
    if weight_sum == 0:
        raise DataError("every sample weight w is 0: at least one example must count")

    fingerprint = hashlib.sha256(repr((count, *first.shape_dtype)).encode())
    for block in surveys:
        fingerprint.update(block.digest)
    return Survey(count, mean, std, minimum, maximum, class_counts, weight_sum, fingerprint.hexdigest())
