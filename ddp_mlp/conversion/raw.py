"""Raw tables, with labels or without, made into rows for a trained network by the recipe that it has kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion.arrays import ArrayRows, npy
from ddp_mlp.conversion.dialect import Asked, Header
from ddp_mlp.conversion.labels import number_classes
from ddp_mlp.conversion.opening import kind_of, open_table
from ddp_mlp.conversion.profiling import label_text
from ddp_mlp.conversion.recipe import Column, Recipe, first_not_date
from ddp_mlp.conversion.source import Piece
from ddp_mlp.conversion.table_rows import features_of, weights_of
from ddp_mlp.conversion.tables import pyarrow, text_for_numbers
from ddp_mlp.errors import DataError
from ddp_mlp.storage.writer import DatasetWriter

SPLIT = "test"
"""The split that raw rows become."""


@dataclass
class _Found:
    """What a first reading of raw rows found."""

    rows: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    fits: bool = True
    """Whether the values fit the type that the features had in training's file."""
    unseen: dict[str, int] = field(default_factory=dict)


def is_raw(path: Path) -> bool:
    """Tell whether a file is a table or an array, and no HDF5 file. Raises DataError, StorageError."""
    return kind_of(path) != "HDF5"


def write_raw(path: Path, recipe_text: str | None, names: Sequence[str] | None, out: Path) -> list[str]:
    """Write the rows of a CSV, Parquet or NPY file to a data-set file `out`; return lines on what is worth saying.

    The recipe is the network's; one that was not trained on a table takes columns by the names of its features.
    Raises DataError or StorageError; then there is no file.
    """
    kind = kind_of(path)
    if kind == "NPY":
        _write_array(path, names, out)
        return []
    if kind not in ("CSV", "Parquet"):
        raise DataError(f"{path}: is {kind}: `python -m ddp_mlp.convert` makes a data-set file of it")
    if recipe_text is not None:
        recipe = Recipe.from_json(recipe_text, "the checkpoint")
    elif names is not None:
        recipe = Recipe(tuple(Column(name, "number") for name in names), named=True)
    else:
        raise DataError(f"{path}: the network was not trained on a table, and knows no names: convert the file first")
    return _write_table(_RawTable(path, kind, recipe), out)


def _write_array(path: Path, names: Sequence[str] | None, out: Path) -> None:
    source = ArrayRows(npy(path), None)
    rows = source.count().rows
    dtype = next(iter(source.pieces())).X.dtype
    if names is not None and len(names) != source.features:
        raise DataError(f"{path}: has {source.features} features, but the network takes {len(names)}")
    known = {} if names is None else {"features": names}
    with DatasetWriter(out, {SPLIT: rows}, source.features, dtype, None, attributes=known) as writer:
        for piece in source.pieces():
            writer.append(SPLIT, piece.X, None)


def _write_table(table: "_RawTable", out: Path) -> list[str]:
    recipe, found = table.recipe, table.survey()
    dtype = np.dtype(recipe.dtype if found.fits and recipe.dtype else np.float64)
    numbers: dict[str, int] = {}
    classes: tuple[str, ...] | None = None
    if found.labels:
        numbers, classes = number_classes(list(found.labels), str(table.path), least=1)
        classes = classes or tuple(numbers)
    with DatasetWriter(
        out,
        {SPLIT: found.rows},
        len(recipe.features),
        dtype,
        len(classes) if classes else None,
        table.weight is not None,
        classes,
        {"features": recipe.features} if recipe.named else {},
        targets=recipe.targets if table.targets else None,
    ) as writer:
        for piece in table.pieces():
            y: NDArray[Any] | None = piece.y
            if piece.codes is not None:
                y = np.array([numbers[label] for label in piece.labels], np.intp)[piece.codes]
            writer.append(SPLIT, piece.X.astype(dtype), y, piece.w)
    said = [f"{table.path}: takes no part: {', '.join(table.additional)}"] if table.additional else []
    return said + [
        f"{table.path}: {name!r} has {count:,} values that training never saw" for name, count in found.unseen.items()
    ]


class _RawTable:
    """A raw table whose columns are found by a recipe."""

    def __init__(self, path: Path, kind: str, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe
        header: Header = "yes" if recipe.named else "no"
        asked = Asked(recipe.separator, recipe.decimal, recipe.encoding, recipe.missing, header)
        asked = replace(asked, usual_decimal=recipe.found_decimal or ".")
        self._table = open_table(path, kind, None, asked)
        if not recipe.named:
            self._check_width(len(self._table.names))
        missing = [column.name for column in recipe.columns if column.name not in self._table.names]
        if missing:
            raise DataError(f"{path}: has no column {', '.join(map(repr, missing))}, which training had")
        self._features = [self._table.names.index(column.name) for column in recipe.columns]
        self.label, self.weight = self._place(recipe.label), self._place(recipe.weight)
        targets = [self._place(name) for name in recipe.targets]
        self.targets = [] if None in targets else [place for place in targets if place is not None]
        used = {*self._features, self.label, self.weight, *self.targets}
        self.additional = [name for place, name in enumerate(self._table.names) if place not in used]
        self._types = self._column_types()

    def _check_width(self, found: int) -> None:
        """Raise DataError where columns without names are not as many as training's, targets at the end apart."""
        recipe, width = self.recipe, self.recipe.width
        behind = {*recipe.targets, *([] if recipe.label is None else [recipe.label])}
        may_lack = found < (width or 0) and {str(place) for place in range(found, width or 0)} == behind
        if width is not None and found != width and not may_lack:
            raise DataError(
                f"{self.path}: has {found} columns without names, and training's table {width}: columns are taken by "
                "their number, so give all of them, or those before the label where it is the last"
            )

    def _place(self, name: str | None) -> int | None:
        return self._table.names.index(name) if name in self._table.names else None

    def _column_types(self) -> dict[int, Any]:
        arrow, columns = pyarrow(), self.recipe.columns
        named = zip(self._features, columns, strict=True)
        own = self._table.typed  # nothing is asked of what takes no part
        # Dates are what the file says, or what convert would have taken them for: with a zone, or as text.
        types = {
            place: column.arrow_type()
            for place, column in named
            if column.kind != "date" or (column.format and not own)
        }
        types |= {place: arrow.float64() for place in (*self.targets, self.weight) if place is not None}
        if self.label is not None:
            types[self.label] = arrow.string()
        used = {*types, *self._features}
        others = (place for place in range(len(self._table.names)) if place not in used)
        return types if own else types | dict.fromkeys(others, arrow.string())

    def survey(self) -> _Found:
        """Read the rows once: count them, and see whether their values can be used."""
        try:
            return self._surveyed()
        except DataError:
            self._refuse_text()
            raise

    def _surveyed(self) -> _Found:
        found = _Found()
        kept = np.dtype(self.recipe.dtype or np.float64)
        for batch in self._table.batches(self._types):
            for column, place in zip(self.recipe.columns, self._features, strict=True):
                self._check_dates(column, batch.column(place), found.rows)
                unseen = column.unseen(batch.column(place))
                if unseen:
                    found.unseen[column.name] = found.unseen.get(column.name, 0) + unseen
            piece = self._piece(batch, found.rows)
            self._check(piece.X, found.rows)
            found.fits = found.fits and _fits(piece.X, kept)
            for label in piece.labels:
                found.labels.setdefault(label, len(found.labels))
            found.rows += batch.num_rows
        return found

    def _refuse_text(self) -> None:
        """Raise DataError for a number's cell that is none, by name and line: Arrow has neither."""
        names = {
            place: c.name for place, c in zip(self._features, self.recipe.columns, strict=True) if c.kind == "number"
        }
        names |= {place: self._table.names[place] for place in (*self.targets, self.weight) if place is not None}
        for column, cell, place, _ in text_for_numbers(self._table, names):
            raise DataError(
                f"{self.path}: {names[column]!r} is {cell[:40]!r} in {place}: must be a number, as in training"
            )

    def pieces(self) -> Iterator[Piece]:
        """Yield the rows."""
        lo = 0
        for batch in self._table.batches(self._types):
            yield self._piece(batch, lo)
            lo += batch.num_rows

    def _piece(self, batch: Any, lo: int) -> Piece:
        labels, codes = self._labels(batch)
        y = None
        if self.targets:
            columns = [batch.column(place).to_numpy(zero_copy_only=False) for place in self.targets]
            y = np.stack(columns, axis=1).astype(np.float64)
        w = None if self.weight is None else weights_of(batch.column(self.weight), self._table, lo)
        return Piece(features_of(batch, self.recipe.columns, self._features), labels, codes, w, y)

    def _labels(self, batch: Any) -> tuple[Sequence[str], NDArray[np.intp] | None]:
        if self.label is None:
            return [], None
        encoded = label_text(pyarrow(), batch.column(self.label)).dictionary_encode()
        if encoded.null_count:
            raise DataError(f"{self.path}: {self.recipe.label!r} is missing in some rows: fill it, or leave it out")
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.intp)

    def _check_dates(self, column: Column, cells: Any, lo: int) -> None:
        if column.kind != "date":
            return
        types = pyarrow().types
        is_text = types.is_string(cells.type)
        if not is_text and not any(test(cells.type) for test in (types.is_timestamp, types.is_date, types.is_null)):
            raise DataError(f"{self.path}: {column.name!r} is {cells.type}: must hold dates, as in training")
        if wrong := first_not_date(cells, column.form) if is_text else None:
            [place] = self._table.places([lo + wrong[0]])
            found = f"{column.name!r} is {wrong[1][:40]!r} in {place}"
            raise DataError(f"{self.path}: {found}: must be a date of the form {column.form}, as in training")

    def _check(self, X: NDArray[Any], lo: int) -> None:
        if X.dtype.kind != "f" or np.isfinite(X).all():
            return
        row, feature = np.argwhere(~np.isfinite(X))[0]
        [place] = self._table.places([lo + int(row)])
        name = self.recipe.features[feature]
        raise DataError(
            f"{self.path}: {name!r} is missing or not finite in {place}, and training had no such rows: fill it, "
            "or convert training's table with --impute"
        )


def _fits(X: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Tell whether values are of a type's range, and whole where it is one of integers."""
    if dtype.kind == "f":
        return bool((np.abs(X) <= float(np.finfo(dtype).max)).all()) if X.dtype.itemsize > dtype.itemsize else True
    limits = np.iinfo(dtype)
    return bool(((limits.min <= X) & (limits.max >= X) & (np.rint(X) == X)).all())
