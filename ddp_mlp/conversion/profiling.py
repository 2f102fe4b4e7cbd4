"""What the columns of a table are: a first reading of all rows, in which numbers are looked at many columns at a time.

Invariants:
- a column has one kind throughout: number, boolean, date, text, empty, or Arrow's name for what cannot be used;
- NaN in a column of floats is a missing value.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion.tables import ForeignTable, pyarrow

SAMPLE_VALUES = 1 << 22
"""At most this many values are held to see whether a column tells rows apart."""
ROWS_OF_AN_ID = 20
"""Columns of fewer rows may well have a different value in each."""
_COLUMNS_AT_ONCE = 256
_VALUES_JUDGED = 1 << 19
"""Sorted at a time."""


@dataclass
class Profile:
    """What a first reading of the features' columns found."""

    rows: int = 0
    kinds: dict[int, str] = field(default_factory=dict)
    missing: dict[int, tuple[int, int]] = field(default_factory=dict)
    """How many values are missing, and the row of the first."""
    lowest: dict[int, float] = field(default_factory=dict)
    highest: dict[int, float] = field(default_factory=dict)
    ids: set[int] = field(default_factory=set)
    """Columns whose values all differ."""
    rounded: set[int] = field(default_factory=set)
    """Columns of whole numbers of which float64 would make equal what is not."""
    merged: set[int] = field(default_factory=set)
    """Columns of which float32 would make equal what is not."""
    floats: dict[int, np.dtype[Any]] = field(default_factory=dict)
    """The type of the columns of floats, where the file has types."""
    labels: dict[str, int] = field(default_factory=dict)
    label_missing: tuple[int, int] | None = None


def profile(
    table: ForeignTable,
    features: Sequence[int],
    label: int | None,
    types: Mapping[int, Any],
    targets: Sequence[int] = (),
) -> Profile:
    """Read a table once, columns in `types` as these, and return what the columns of features, and the label, are.

    Of targets, which are numbers, it says where they are missing.

    Raises DataError for a cell that is not of its type.
    """
    arrow, found = pyarrow(), Profile()
    sampled = max(1000, SAMPLE_VALUES // len(table.names))
    samples: dict[int, list[NDArray[Any]]] = {}
    texts: dict[int, Counter[str]] = {}
    labels: Counter[str] = Counter()
    for batch in table.batches(types):
        if not found.kinds:
            found.kinds = {column: _kind(arrow, batch.schema.field(column).type) for column in features}
            if table.typed:
                found.floats = _floats(arrow, {column: batch.schema.field(column).type for column in features})
        wanted = min(batch.num_rows, max(0, sampled - found.rows))
        numeric = [column for column in features if found.kinds[column] == "number"]
        for columns, values in _side_by_side(batch, numeric):
            _look_at_numbers(found, columns, values)
            if wanted:
                for column, one in zip(columns, values, strict=True):
                    samples.setdefault(column, []).append(one[:wanted])
        for column in features:
            if found.kinds[column] != "number":
                cells = batch.column(column)
                if found.kinds[column] == "text":
                    cells = label_text(arrow, cells)
                if cells.null_count:
                    first = int(arrow.compute.index(cells.is_null(), arrow.scalar(True)).as_py())
                    _add_missing(found, column, cells.null_count, first)
                if found.kinds[column] == "text" and wanted:
                    texts.setdefault(column, Counter()).update(cells[:wanted].drop_null().to_pylist())
        for column in targets:
            missing = np.isnan(np.asarray(batch.column(column).to_numpy(zero_copy_only=False), np.float64))
            if missing.any():
                _add_missing(found, column, int(missing.sum()), int(np.argmax(missing)))
        if label is not None:
            _count_labels(arrow, batch.column(label), found, labels)
        found.rows += batch.num_rows
    found.labels = dict(labels)
    looked_at = min(found.rows, sampled)
    _judge_numbers(found, samples, looked_at)
    found.ids |= {column for column, counted in texts.items() if len(counted) == counted.total() >= ROWS_OF_AN_ID}
    return found


def _floats(arrow: Any, types: Mapping[int, Any]) -> dict[int, np.dtype[Any]]:
    return {column: np.dtype(kind.to_pandas_dtype()) for column, kind in types.items() if arrow.types.is_floating(kind)}


def _side_by_side(batch: Any, columns: Sequence[int]) -> Iterator[tuple[Sequence[int], NDArray[Any]]]:
    """Yield columns of one type, as numbers with NaN for what is missing: their places, and values (columns, rows)."""
    groups: dict[np.dtype[Any], list[int]] = {}
    arrays = {column: batch.column(column).to_numpy(zero_copy_only=False) for column in columns}
    for column, values in arrays.items():
        groups.setdefault(values.dtype, []).append(column)
    for together in groups.values():
        for lo in range(0, len(together), _COLUMNS_AT_ONCE):
            some = together[lo : lo + _COLUMNS_AT_ONCE]
            yield some, np.stack([arrays[column] for column in some])


def _look_at_numbers(found: Profile, columns: Sequence[int], values: NDArray[Any]) -> None:
    """Note range and gaps of columns, of which `values` (columns, rows) are the next rows."""
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    counts = missing.sum(axis=1)
    lowest, highest = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    for place, column in enumerate(columns):
        if counts[place]:
            _add_missing(found, column, int(counts[place]), int(np.argmax(missing[place])))
        if counts[place] < values.shape[1]:
            found.lowest[column] = min(found.lowest.get(column, np.inf), lowest[place])
            found.highest[column] = max(found.highest.get(column, -np.inf), highest[place])


def _add_missing(found: Profile, column: int, count: int, first: int) -> None:
    """Note that so many values are missing, the first in this row of the batch."""
    before, row = found.missing.get(column, (0, found.rows + first))
    found.missing[column] = before + count, row


def _judge_numbers(found: Profile, samples: Mapping[int, list[NDArray[Any]]], looked_at: int) -> None:
    """Say which columns have another whole number in every row, and which float32 would merge."""
    groups: dict[np.dtype[Any], list[int]] = {}
    for column, parts in samples.items():
        groups.setdefault(np.result_type(*parts), []).append(column)
    at_once = max(1, _VALUES_JUDGED // max(1, looked_at))
    for dtype, together in groups.items():
        for lo in range(0, len(together), at_once):
            columns = together[lo : lo + at_once]
            ordered = np.stack([np.concatenate(samples[column], dtype=dtype) for column in columns])
            ordered.sort(axis=1)  # NaN comes last
            different = _different(ordered)
            with np.errstate(over="ignore"):
                in_float32 = _different(ordered.astype(np.float32))
            there = np.full(len(columns), looked_at)
            is_whole = np.ones(len(columns), bool)
            if dtype.kind == "f":  # with missing values, whole numbers are floats
                there -= np.isnan(ordered).sum(axis=1)
                is_whole = (np.isnan(ordered) | (np.rint(ordered) == ordered)).all(axis=1)
            is_id = is_whole & (different == there) & (there >= ROWS_OF_AN_ID)
            found.ids |= {column for column, so in zip(columns, is_id, strict=True) if so}
            for column, kept, all_of_them in zip(columns, in_float32.tolist(), different.tolist(), strict=True):
                if kept < 0.99 * all_of_them:
                    found.merged.add(column)
            if dtype.kind in "iu":
                in_float64 = _different(ordered.astype(np.float64))
                found.rounded |= {c for c, so in zip(columns, in_float64 < different, strict=True) if so}


def _different(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many different numbers, NaN apart, each row (columns, rows) of ordered numbers has."""
    first = ~np.isnan(ordered[:, 0]) if ordered.dtype.kind == "f" else np.ones(len(ordered), bool)
    steps = ordered[:, 1:] != ordered[:, :-1]
    if ordered.dtype.kind == "f":
        steps &= ~np.isnan(ordered[:, 1:])
    return np.asarray(first + steps.sum(axis=1), np.int64)


def _kind(arrow: Any, kind: Any) -> str:
    types = arrow.types
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_temporal(kind) and not types.is_time(kind) and not types.is_duration(kind):
        return "date"
    if types.is_string(kind):
        return "text"
    return "empty" if types.is_null(kind) else str(kind)


def _count_labels(arrow: Any, cells: Any, found: Profile, labels: "Counter[str]") -> None:
    for entry in arrow.compute.value_counts(label_text(arrow, cells)).to_pylist():
        if entry["values"] is None:
            missing = arrow.compute.index(label_text(arrow, cells).is_null(), arrow.scalar(True)).as_py()
            count, first = found.label_missing or (0, found.rows + missing)
            found.label_missing = count + entry["counts"], first
        else:
            labels[entry["values"]] += entry["counts"]


def label_text(arrow: Any, cells: Any) -> Any:
    """Return labels or categories without the spaces around them; one that is empty is missing."""
    trimmed = arrow.compute.utf8_trim_whitespace(cells)
    empty = arrow.scalar("")  # made here: where memory is out, a plain "" is a TypeError of `equal`
    return arrow.compute.if_else(arrow.compute.equal(trimmed, empty), arrow.scalar(None, arrow.string()), trimmed)
