"""How the columns of a table become features: fitted on train's rows, stored, and done again to a raw table later.

    number      as it is; a missing value becomes `fill`
    boolean     0 or 1
    date        days since 1970-01-01, with fractions
    category    a 0 or 1 for each of `categories`, and one for all others where train had more than were kept

Invariants:
- a recipe says everything: it turns the same cell into the same numbers whenever and wherever it is applied;
- features come in the order of the columns, the indicator of a column's missing values behind its values.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion.profiling import label_text
from ddp_mlp.conversion.tables import pyarrow
from ddp_mlp.errors import ConfigError, DataError

OTHER = "other"
MISSING_CATEGORY = "missing"
ISO_DATE = "%Y-%m-%d"
DAY = 86_400_000_000
"""Microseconds."""
_SIGNS = "YymbBhdejDFHIMpSTRzaAnt%"
"""Of strptime's, those by which a date is told."""


@dataclass(frozen=True)
class Column:
    """What one column of a table becomes."""

    name: str
    kind: str
    """number, boolean, date or category."""
    format: str | None = None
    """Of a date that is not written as ISO 8601 has it: strptime's."""
    categories: tuple[str, ...] = ()
    other: bool = False
    """Whether categories that are not named share a feature; else they have none."""
    fill: float | None = None
    """Takes the place of a missing number."""
    indicator: bool = False
    """Whether a further feature tells that the value was missing."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that the column becomes."""
        if self.kind == "category":
            return tuple(f"{self.name}={value}" for value in (*self.categories, *([OTHER] * self.other)))
        return (self.name, *([f"{self.name} is missing"] * self.indicator))

    @property
    def plain(self) -> bool:
        """Whether its cells are its one feature as they are."""
        return self.kind == "number" and self.fill is None and not self.indicator

    @property
    def form(self) -> str:
        """The form of a date that is text."""
        return self.format or ISO_DATE

    def arrow_type(self) -> Any:
        """Return the type that Arrow reads the column as, where it is text: any number is a float64."""
        arrow = pyarrow()
        if self.kind == "category" or self.format is not None:
            return arrow.string()
        return {"number": arrow.float64(), "boolean": arrow.bool_(), "date": arrow.timestamp("us")}[self.kind]

    def values(self, cells: Any) -> list[NDArray[Any]]:
        """Return the features of a column's cells (k,): arrays (k,), integers where the cells are."""
        if self.kind == "category":
            return self._one_hot(cells)
        values = numbers(cells, self)
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        if missing.any() and self.fill is not None:
            values = np.where(missing, self.fill, values)
        return [values, missing.astype(np.uint8)] if self.indicator else [values]

    def _one_hot(self, cells: Any) -> list[NDArray[Any]]:
        codes = category_codes(cells, self.categories)
        found = [(codes == number).astype(np.uint8) for number in range(len(self.categories))]
        return [*found, (codes < 0).astype(np.uint8)] if self.other else found

    def unseen(self, cells: Any) -> int:
        """Return how many cells are categories that train had not, and that no feature stands for."""
        if self.kind != "category" or self.other:
            return 0
        return int((category_codes(cells, self.categories) < 0).sum())


def numbers(cells: Any, column: Column) -> NDArray[Any]:
    """Return a column of numbers, booleans or dates (k,): integers where all are, else float64 with NaN for missing."""
    arrow = pyarrow()
    if column.kind == "date":
        if arrow.types.is_string(cells.type):
            cells = arrow.compute.strptime(cells, format=column.form, unit="us")
        days = cells.cast(arrow.timestamp("us"), safe=False).cast(arrow.int64())  # what is less than 1 us is cut off
        return np.asarray(days.to_numpy(zero_copy_only=False) / DAY)
    values = cells.to_numpy(zero_copy_only=False)
    if values.dtype == object:  # booleans of which some are missing
        values = np.array([np.nan if value is None else float(value) for value in values.tolist()])
    return np.asarray(values.view(np.uint8) if values.dtype == np.bool_ else values)


def first_not_date(cells: Any, form: str) -> tuple[int, str] | None:
    """Return the row of the first text that is no date of this form, and the text; None where all are, or missing."""
    arrow = pyarrow()
    compute = arrow.compute
    parsed = compute.strptime(cells, format=form, unit="us", error_is_null=True)
    wrong = compute.and_(parsed.is_null(), cells.is_valid())
    # Arrow makes 1 March of "30.02.", and of "20-02-28" the year 20.
    doubtful = compute.or_(compute.less_equal(compute.day(parsed), 3), compute.less(compute.year(parsed), 1000))
    texts = cells.filter(doubtful).unique().to_pylist()
    if none := [text for text in texts if not _is_date(text, form)]:
        wrong = compute.or_(wrong, compute.is_in(cells, value_set=arrow.array(none, arrow.string())))
    row = int(compute.index(wrong, arrow.scalar(True)).as_py())
    return None if row < 0 else (row, cells[row].as_py())


def _is_date(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def check_form(form: str) -> None:
    """Raise ConfigError for a form of dates that leaves out the year, or whose signs Arrow does not go by."""
    signs = set(re.findall(r"%(.)", form))
    if unknown := sorted(sign for sign in signs if sign not in _SIGNS):
        raise ConfigError(
            f"--date …={form}: %{unknown[0]} is not taken: year, month, day and time are, as %Y-%m-%d %H:%M"
        )
    if not signs & set("YyDF") or (signs & set("de") and not signs & set("mbBh")):
        raise ConfigError(f"--date …={form}: must have a year, and a month where it has a day, as %d.%m.%Y has")


def category_codes(cells: Any, categories: tuple[str, ...]) -> NDArray[np.int64]:
    """Return each cell's place among the categories (k,), -1 where it is none of them; what is missing has a name."""
    arrow = pyarrow()
    filled = arrow.compute.fill_null(label_text(arrow, cells), MISSING_CATEGORY)
    found = arrow.compute.index_in(filled, value_set=arrow.array(categories, arrow.string()))
    return np.asarray(arrow.compute.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)


@dataclass(frozen=True)
class Recipe:
    """What a table becomes: its columns in order, and how its text is written."""

    columns: tuple[Column, ...]
    named: bool
    """Whether columns are found by name; else by their number in the table."""
    label: str | None = None
    targets: tuple[str, ...] = ()
    weight: str | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] | None = None
    dtype: str | None = None
    """The type of X in the file that was made."""
    width: int | None = None
    """How many columns the table had."""
    found_decimal: str | None = None
    """The decimal sign that was given or found."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of all features."""
        return tuple(name for column in self.columns for name in column.features)

    def to_json(self) -> str:
        """Return the recipe as text."""
        plain = {**vars(self), "columns": [vars(column) for column in self.columns]}  # `asdict` takes long for many
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, name: str) -> "Recipe":
        """Read what `to_json` wrote; DataError, beginning with `name`, for anything else."""
        try:
            plain: Mapping[str, Any] = json.loads(text)
            columns = tuple(
                Column(**{**column, "categories": tuple(column["categories"])}) for column in plain["columns"]
            )
            missing = plain["missing"]
            return cls(
                **{
                    **plain,
                    "columns": columns,
                    "targets": tuple(plain["targets"]),
                    "missing": None if missing is None else tuple(missing),
                }
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{name}: its recipe for tables cannot be read: {error}") from error
