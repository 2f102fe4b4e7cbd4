"""What each column of a table is, and everything that is wrong with them, said at once.

Invariants:
- nothing is taken for a feature in silence: text, dates, numbers of rows and missing values need a flag, and whoever
  converts is told which;
- what is fitted (means, medians, categories) is fitted on the rows of train alone.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion.dialect import is_index
from ddp_mlp.conversion.profiling import Profile, label_text
from ddp_mlp.conversion.recipe import ISO_DATE, MISSING_CATEGORY, OTHER, Column, check_form, first_not_date, numbers
from ddp_mlp.conversion.tables import ForeignTable, first_not_numbers, pyarrow, text_for_numbers
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.units import byte_size

CATEGORIES_AT_MOST = 100
MEDIAN_BYTES = 256 << 20
_NAMELESS = re.compile(r"|Unnamed: [\d.]+")
_INDEX = re.compile(r"__index_level_\d+__")
"""How pandas calls an index that it writes as a column: to CSV, the first ones, and to Parquet."""


_CODE = re.compile(r"0\d+|0[xX][0-9a-fA-F]+|[1-9]\d{18,}")
"""A number that is written as none that is counted or measured is: as a post code, in hexadecimals, as a long key."""


@dataclass(frozen=True)
class Roles:
    """What was said about columns, by name or number: see the help of the flags with these names."""

    label: str | None = None
    targets: tuple[str, ...] = ()
    weight: str | None = None
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    onehot: tuple[str, ...] | None = None
    """None: no text is taken; ("auto",): every column of text is."""
    dates: tuple[tuple[str, str | None], ...] = ()
    impute: str | None = None
    """mean, median or constant=V."""
    missing_indicator: bool = False
    categories: int = CATEGORIES_AT_MOST

    @property
    def columns_said(self) -> tuple[str, ...]:
        """The names or numbers of columns that were given, the label apart."""
        onehot = () if self.onehot in (None, ("auto",)) else self.onehot or ()
        weight = () if self.weight is None else (self.weight,)
        dates = (name for name, _ in self.dates)
        return (*self.targets, *weight, *self.drop, *self.keep, *onehot, *dates)


@dataclass
class Places:
    """The numbers of the columns that have a role; `features` are all that have none."""

    label: int | None
    targets: list[int]
    weight: int | None
    features: list[int]
    onehot: set[int]
    dates: dict[int, str | None]
    keep: set[int]
    dropped: list[str]


def placed(table: ForeignTable, roles: Roles) -> Places:
    """Find the columns that roles name. Raises ConfigError, naming the flag, for one that is not there or has two."""
    taken: dict[int, str] = {}
    for form in (form for _, form in roles.dates if form is not None):
        check_form(form)

    def find(flag: str, name: str, exclusive: bool = True) -> int:
        column = _find(table, flag, name)
        if exclusive and taken.setdefault(column, flag) != flag:
            raise ConfigError(f"{flag} {name}: is also the column of {taken[column]}")
        return column

    label = None if roles.label is None else find("--label", roles.label)
    targets = [find("--target", name) for name in roles.targets]
    weight = None if roles.weight is None else find("--weight", roles.weight)
    dropped = [find("--drop", name) for name in roles.drop]
    keep = {find("--keep", name, exclusive=False) for name in roles.keep}
    apart = set(taken)
    onehot = {find("--onehot", name) for name in roles.onehot or () if name != "auto"}
    dates = {find("--date", name): form for name, form in roles.dates}
    index = [column for column in _index_of(table) if column not in {*taken, *keep}]
    features = [column for column in range(len(table.names)) if column not in {*apart, *index}]
    if not features:
        raise DataError(f"{table.path}: has no column left for features; found {_listed(table)}")
    said = [f"{table.names[column]!r} (an index, as pandas writes it; --keep takes it)" for column in index]
    left_out = [*(table.names[column] or f"column {column}" for column in dropped), *said]
    return Places(label, targets, weight, features, onehot, dates, keep, left_out)


def _index_of(table: ForeignTable) -> list[int]:
    """Return the columns that pandas has written its index to: the first ones, which have no name, or by its names."""
    leading = list(takewhile(lambda column: _NAMELESS.fullmatch(table.names[column]), range(len(table.names))))
    named = [column for column, name in enumerate(table.names) if _INDEX.fullmatch(name) or name in table.index]
    return [*leading, *named] if table.named else []


def _find(table: ForeignTable, flag: str, name: str) -> int:
    if name in table.names and (table.named or not name.startswith("-")):
        return table.names.index(name)
    if is_index(name):
        index, width = int(name), len(table.names)
        if -width <= index < width:
            return index % width
        raise ConfigError(f"{flag} {name}: {table.path} has the columns 0 to {width - 1}")
    raise ConfigError(f"{flag} {name!r}: is not one column of {table.path}, which has {_listed(table)}")


def _listed(table: ForeignTable) -> str:
    shown = ", ".join(repr(name) for name in table.names[:30]) + (", …" if len(table.names) > 30 else "")
    return shown if table.named else f"the columns 0 to {len(table.names) - 1}"


def imposed(table: ForeignTable, places: Places) -> dict[int, Any]:
    """Return the types that columns are read as, whatever Arrow would take them for."""
    arrow = pyarrow()
    text = {*places.onehot, *(column for column, form in places.dates.items() if form is not None)}
    if places.label is not None:
        text.add(places.label)
    numeric = {*places.targets, *([places.weight] if places.weight is not None else [])}
    return dict.fromkeys(sorted(text), arrow.string()) | dict.fromkeys(sorted(numeric), arrow.float64())


# --- What is wrong ----------------------------------------------------------------------------------------------------


def check(table: ForeignTable, roles: Roles, places: Places, found: Profile) -> None:
    """Raise one DataError that says everything that is wrong with a table's columns, and the flags that mend it."""
    onehot_all = roles.onehot == ("auto",)
    wrong: list[str] = []
    text = [c for c in places.features if found.kinds[c] == "text" and c not in places.onehot and c not in places.dates]
    faulty = [column for column in text if not onehot_all or column in found.ids]
    cells = first_not_numbers(table, faulty) if faulty else {}
    undated = _not_dates(table, places, found)
    numeric = [c for c in places.features if found.kinds[c] == "number" and c not in places.keep]
    codes = table.first_cells(_CODE, numeric)
    cells |= {column: (row, cell, 0) for column, (row, cell) in codes.items()}
    cells |= {column: (row, cell, 0) for column, (row, cell) in undated.items()}
    rows = {c: first for c, (_, first) in found.missing.items()}
    rows |= {c: cells[c][0] if c in cells else 0 for c in (*faulty, *undated, *codes)}
    if found.label_missing is not None and places.label is not None:
        rows[places.label] = found.label_missing[1]
    where = dict(zip(rows, table.places(list(rows.values())), strict=True)) if rows else {}
    if found.label_missing is not None and places.label is not None:
        count = found.label_missing[0]
        wrong.append(f"the label is missing in {_rows(count)} ({where[places.label]}): take them out")
    for column in places.features:
        name = _named(table, column)
        kind = found.kinds[column]
        if not table.names[column]:
            empty = " and is empty in every row" if kind == "empty" else ""
            wrong.append(f"column {column} has no name{empty}: give it one, or --drop {column}")
        elif column in undated:
            wrong.append(_date_fault(table, name, column, cells[column][1], where[column], places.dates[column]))
        elif column in faulty:
            wrong.append(_text_fault(table, name, column, cells, where[column], column in found.ids))
        elif column in codes:
            flags = f"--onehot {table.names[column]}, --drop it, or --keep it as a number"
            wrong.append(f"{name} is {cells[column][1]!r} in {where[column]}, which begins like a code: {flags}")
        elif kind == "empty":
            wrong.append(f"{name} is empty in every row: --drop {table.names[column]}")
        elif kind == "date" and column not in places.dates:
            wrong.append(f"{name} holds dates: --date {table.names[column]} makes days of them, or --drop")
        elif kind not in ("number", "boolean", "date", "text"):
            wrong.append(f"{name} is {kind}: --drop {table.names[column]}")
        elif column in places.dates and kind not in ("date", "text"):
            wrong.append(f"{name} holds no dates: leave --date {table.names[column]} out")
        elif column in found.ids and column not in places.keep and kind == "number":
            wrong.append(
                f"{name} has another whole number in every row, like an ID: --drop {table.names[column]} or --keep it"
            )
        elif column in found.rounded and column not in places.keep:
            wrong.append(
                f"{name} has whole numbers beyond 2^53, of which float64 makes equal ones: "
                f"--drop {table.names[column]}, --onehot {table.names[column]}, or --keep it"
            )
        if column in found.missing and kind != "empty" and column not in (*faulty, *undated) and roles.impute is None:
            count, _ = found.missing[column]
            wrong.append(f"{name} is missing in {_rows(count)} ({where[column]}): --impute mean, median or constant=V")
    if wrong:
        shown = "; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        unlabelled = places.label is None and not places.targets
        hint = "; neither --label nor --target is given, so every column is a feature" if unlabelled else ""
        raise DataError(f"{table.path}: {shown}{hint}")


def refuse_text(table: ForeignTable, places: Places) -> None:
    """Raise DataError for targets and weights of which a cell is no number, by name and line: Arrow has neither."""
    numeric = [*places.targets, *([places.weight] if places.weight is not None else [])]
    wrong = []
    for column, cell, place, count in text_for_numbers(table, numeric):
        if count == 1:
            remedy = "the only such value; mend it"
        elif badly_written := _badly_written(cell, table.decimal):
            remedy = badly_written
        elif column == places.weight:
            remedy = "a weight must be a number"
        else:
            remedy = f"--label {table.names[column]} where it names classes"
        wrong.append(f"{_named(table, column)} is {cell[:40]!r} in {place}, which is text: {remedy}")
    if wrong:
        raise DataError(f"{table.path}: {'; '.join(wrong)}")


def _text_fault(
    table: ForeignTable, name: str, column: int, cells: dict[int, tuple[int, str, int]], place: str, is_id: bool
) -> str:
    plain = table.names[column]
    _, cell, count = cells.get(column, (0, "", 0))
    found = f"{name} is {cell[:40]!r} in {place}, which is text"
    if count == 1:
        return f"{found}: the only such value; mend it, or --missing {cell[:40]!r} says that it is missing"
    if is_id:
        return f"{found}, another in every row: --drop {plain}"
    dates = [f"--date {plain}={form}" for form in _forms_of_date(cell)]
    if (number := _badly_written(cell, table.decimal)) and not dates:
        return f"{found}, {number}, or --onehot {plain}, or --drop {plain}"
    return f"{found}: {' or '.join([*dates, f'--onehot {plain}'])}, or --drop {plain}"


def _badly_written(cell: str, decimal: str) -> str:
    """Say what keeps a text from being a number, and what helps; nothing where it is not one to anybody."""
    other = "." if decimal == "," else ","
    if re.fullmatch(rf"[-+]?\d+{re.escape(other)}\d+", cell):
        return f"a number with {other!r}: --decimal {other}"
    thousands, plain = r"\d{1,3}([.,'\s]\d{3})+([.,]\d+)?", r"\d+([.,]\d+)?"
    before, behind = r"[$€£¥]\s?", r"\s?([%$€£¥]|[A-Z]{3})"
    forms = (f"({before})?{thousands}({behind})?", f"{before}{plain}", f"{plain}{behind}")
    if any(re.fullmatch(rf"[-+]?{form}", cell.strip()) for form in forms):
        return "a number with separated thousands or a unit: write it plainly"
    return ""


def _not_dates(table: ForeignTable, places: Places, found: Profile) -> dict[int, tuple[int, str]]:
    """Return, of the columns that --date names, the row of the first text that is no date of its form, and the text."""
    forms = {c: form or ISO_DATE for c, form in places.dates.items() if found.kinds[c] == "text"}
    wrong: dict[int, tuple[int, str]] = {}
    lo = 0
    for batch in table.batches(imposed(table, places)) if forms else ():
        for column in forms.keys() - wrong.keys():
            if first := first_not_date(batch.column(column), forms[column]):
                wrong[column] = lo + first[0], first[1]
        lo += batch.num_rows
    return wrong


def _date_fault(table: ForeignTable, name: str, column: int, cell: str, place: str, form: str | None) -> str:
    flags = [f"--date {table.names[column]}={found}" for found in _forms_of_date(cell) if found != form]
    remedy = " or ".join(flags) or f"name the form of all, --date {table.names[column]}=FORMAT, or mend it"
    return f"{name} is {cell[:40]!r} in {place}, which is no date of the form {form or ISO_DATE}: {remedy}"


def _forms_of_date(cell: str) -> list[str]:
    """Return the forms, as strptime has them, in which a text is a date with day, month and year in numbers."""
    found = re.fullmatch(r"(\d{1,2})([./-])(\d{1,2})\2\d{4}", cell)
    if found is None:
        return []
    first, sign, second = int(found[1]), found[2], int(found[3])
    forms = [("%d", "%m", first <= 31 and second <= 12), ("%m", "%d", first <= 12 and second <= 31)]
    return [sign.join((a, b, "%Y")) for a, b, fits in forms if fits and min(first, second) > 0]


def _named(table: ForeignTable, column: int) -> str:
    return f"{table.names[column]!r}" if table.named else f"column {column}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


# --- What is fitted ---------------------------------------------------------------------------------------------------


def fitted(
    table: ForeignTable,
    roles: Roles,
    places: Places,
    found: Profile,
    is_train: Callable[[Any], NDArray[np.bool_]],
) -> tuple[Column, ...]:
    """Return what the features' columns become; `is_train` says, batch by batch, which rows are train's.

    The table is read once more where something is to be fitted. Raises DataError where train has nothing to fit it on.
    """
    columns = {column: _plain(table, roles, places, found, column) for column in places.features}
    missing = {c for c in columns if c in found.missing or roles.missing_indicator}
    to_fill = {c for c in missing if c in found.missing and columns[c].kind != "category"}
    categories = {c: Counter[str]() for c in columns if columns[c].kind == "category"}
    method, constant = impute_method(roles.impute) if roles.impute is not None else ("", 0.0)
    values: dict[int, list[NDArray[Any]]] = {c: [] for c in to_fill}
    sums = dict.fromkeys(to_fill, (0.0, 0))
    if method == "median" and 8 * found.rows * len(to_fill) > MEDIAN_BYTES:
        need = byte_size(8 * found.rows * len(to_fill))
        raise DataError(f"{table.path}: --impute median of {len(to_fill)} columns takes {need}: --impute mean does not")
    if categories or (to_fill and method != "constant"):
        arrow = pyarrow()
        for batch in table.batches(imposed(table, places)):
            chosen = is_train(batch)
            for column, counted in categories.items():
                texts = label_text(arrow, batch.column(column).filter(arrow.array(chosen)))
                for entry in arrow.compute.value_counts(texts).to_pylist():
                    counted[MISSING_CATEGORY if entry["values"] is None else entry["values"]] += entry["counts"]
            for column in to_fill if method != "constant" else ():
                present = numbers(batch.column(column), columns[column])[chosen]
                present = present[~np.isnan(present)] if present.dtype.kind == "f" else present
                if method == "median":
                    values[column].append(present.astype(np.float64))
                total, count = sums[column]
                sums[column] = total + float(present.sum(dtype=np.float64)), count + len(present)
    for column in to_fill:
        if method == "constant":
            fill = constant
        elif not sums[column][1]:
            raise DataError(f"{table.path}: {_named(table, column)} is missing in every row of train: --drop it")
        elif method == "mean":
            fill = sums[column][0] / sums[column][1]
        else:
            fill = float(np.median(np.concatenate(values[column])))
        columns[column] = replace(columns[column], fill=fill, indicator=roles.missing_indicator)
    for column, counted in categories.items():
        columns[column] = _with_categories(columns[column], counted, roles.categories)
    return tuple(columns.values())


def _plain(table: ForeignTable, roles: Roles, places: Places, found: Profile, column: int) -> Column:
    name = table.names[column]
    if column in places.dates:
        return Column(name, "date", format=places.dates[column])
    kind = found.kinds[column]
    return Column(name, "category" if kind == "text" else kind)


def _with_categories(column: Column, counted: "Counter[str]", at_most: int) -> Column:
    """Keep the most frequent categories; where there are too many, all others share a feature."""
    by_count = sorted(counted, key=lambda value: (-counted[value], value))
    other = len(by_count) > at_most
    kept = sorted(by_count[: at_most - 1] if other else by_count)
    if other and OTHER in kept:
        raise DataError(f"column {column.name!r} has a category {OTHER!r} of its own: raise --categories, or rename it")
    return replace(column, categories=tuple(kept), other=other)


def impute_method(text: str) -> tuple[str, float]:
    """Read mean, median or constant=V; ConfigError otherwise."""
    if text in ("mean", "median"):
        return text, 0.0
    method, _, value = text.partition("=")
    try:
        constant = float(value)
    except ValueError:
        method, constant = "", 0.0
    if method != "constant" or not np.isfinite(constant):
        raise ConfigError(f"--impute {text}: must be mean, median, or constant=V with a number V")
    return method, constant


def told(table: ForeignTable, places: Places, found: Profile, columns: Sequence[Column]) -> Iterator[str]:
    """Yield lines on what was taken: columns and what became of each."""
    if table.said:
        yield f"{table.path.name}: {', '.join(table.said)}"
    if places.dropped:
        yield f"left out: {', '.join(places.dropped)}"
    kinds: dict[str, list[str]] = {}
    for place, column in zip(places.features, columns, strict=True):
        became = column.kind
        if column.kind == "category":
            became = f"one-hot of {len(column.categories)}{' and other' if column.other else ''}"
        if column.kind == "date":
            became = "days since 1970-01-01"
        if column.fill is not None:
            became += f", missing ones {column.fill:g}{' and told by a feature' if column.indicator else ''}"
        if place in found.lowest and found.lowest[place] == found.highest[place] and place not in found.missing:
            became += ", constant"
        kinds.setdefault(became, []).append(column.name)
    for target in places.targets:
        if target in found.missing:
            count = _rows(found.missing[target][0])
            yield f"target {table.names[target]}: missing in {count}, which missing_targets = true trains on"
    for became, names in kinds.items():
        yield f"{became}: {', '.join(names[:12])}{f', … ({len(names)})' if len(names) > 12 else ''}"
