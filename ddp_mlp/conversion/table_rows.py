"""The rows of a table as `convert` takes them: its columns through a recipe, its label, targets and weights."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.conversion import columns
from ddp_mlp.conversion.columns import Roles
from ddp_mlp.conversion.dialect import Asked
from ddp_mlp.conversion.profiling import Profile, label_text, profile
from ddp_mlp.conversion.recipe import Column, Recipe
from ddp_mlp.conversion.source import Counts, ForeignRows, Piece
from ddp_mlp.conversion.tables import ForeignTable, pyarrow
from ddp_mlp.errors import DataError

IsTrain: TypeAlias = Callable[[NDArray[np.intp] | None, int], NDArray[np.bool_]]
"""Tells which of the next rows are train's, by their class numbers (k,) and how many they are."""


class TableRows(ForeignRows):
    """A table whose columns are looked at, then fitted, then read as features."""

    def __init__(self, table: ForeignTable, roles: Roles) -> None:
        self.table, self.said = table, table.said
        self._roles, self._places = roles, columns.placed(table, roles)
        self.name = str(table.path)
        self.targets = tuple(table.names[column] for column in self._places.targets)
        self.labelled, self.weighted = self._places.label is not None, self._places.weight is not None
        self._types = columns.imposed(table, self._places)
        self._profile = Profile()
        self._columns: tuple[Column, ...] = ()
        self._unseen = Counter[str]()

    def count(self) -> Counts:
        """Look at all columns; raise one DataError for all that is wrong with them."""
        places = self._places
        try:
            self._profile = profile(self.table, places.features, places.label, self._types, places.targets)
        except DataError:
            columns.refuse_text(self.table, places)
            raise
        columns.check(self.table, self._roles, self._places, self._profile)
        return Counts(self._profile.rows, self._profile.labels)

    def fit(self, is_train: IsTrain, numbers: dict[str, int]) -> None:
        """Fit the columns to the rows of train: `is_train` is asked, batch by batch, with class numbers and rows."""

        def chosen(batch: Any) -> NDArray[np.bool_]:
            labels, codes = self._labels(batch)
            y = None if codes is None else np.array([numbers[label] for label in labels], np.intp)[codes]
            return is_train(y, batch.num_rows)

        found = columns.fitted(self.table, self._roles, self._places, self._profile, chosen)
        self._take(found, self._profile)

    def fit_as(self, other: "TableRows") -> None:
        """Take the columns as they were fitted to another table. Raises DataError where they are not the same."""
        if self.table.names != other.table.names:
            raise DataError(f"{self.name}: its columns are not those of {other.name}: {self._difference(other)}")
        for column, place in zip(other._columns, self._places.features, strict=True):
            kind, theirs = self._profile.kinds[place], other._profile.kinds[place]
            if column.kind == "category":
                self._types[place] = column.arrow_type()
            elif kind != theirs:
                raise DataError(f"{self.name}: {column.name!r} is {kind}, and in {other.name} {theirs}")
            if place in self._profile.missing and column.kind != "category" and column.fill is None:
                raise DataError(f"{self.name}: {column.name!r} is missing in some rows, and in none of {other.name}")
        self._take(other._columns, other._profile)

    def _difference(self, other: "TableRows") -> str:
        """Say how the columns differ from those of another table."""
        names, theirs = self.table.names, other.table.names
        missing, more = ([repr(n) for n in a if n not in b] for a, b in ((theirs, names), (names, theirs)))
        said = [f"without {', '.join(missing[:10])}"] * bool(missing) + [f"with {', '.join(more[:10])}"] * bool(more)
        return " and ".join(said) or "they are in another order"

    def _take(self, found: tuple[Column, ...], profile: Profile) -> None:
        self._columns = found
        names = tuple(name for column in found for name in column.features)
        for name, count in Counter(names).items():
            if count > 1:
                raise DataError(f"{self.name}: two features would be called {name!r}: rename a column")
        self.features, self.columns = len(names), names if self.table.named else None
        wide = bool(profile.merged) or any(column.kind == "date" for column in found)
        floats = {dtype for place, dtype in profile.floats.items() if place in self._places.features}
        self.float_dtype = np.dtype(np.float64) if wide else np.result_type(*(floats or {np.dtype(np.float32)}))

    def fitted(self, asked: Asked) -> Recipe:
        """Return what was done to the table, to be done again."""
        names = self.table.names
        place = self._places
        return Recipe(
            self._columns,
            self.table.named,
            None if place.label is None else names[place.label],
            self.targets,
            None if place.weight is None else names[place.weight],
            asked.separator,
            asked.decimal,
            asked.encoding,
            asked.missing,
            width=len(names),
            found_decimal=self.table.decimal,
        )

    def place(self, row: int) -> str:
        return self.table.places([row])[0]

    def told(self) -> Iterator[str]:
        """Yield lines on what was taken: columns and what became of each."""
        yield from columns.told(self.table, self._places, self._profile, self._columns)

    def pieces(self) -> Iterator[Piece]:
        lo = 0
        self._unseen = Counter[str]()
        for batch in self.table.batches(self._types):
            X = features_of(batch, self._columns, self._places.features)
            self._count_unseen(X)
            labels, codes = self._labels(batch)
            yield Piece(X, labels, codes, self._weights(batch, lo), self._targets(batch, lo))
            lo += batch.num_rows

    def _count_unseen(self, X: NDArray[Any]) -> None:
        """Count the rows whose category is none of train's, and has no feature: all of its features are 0."""
        position = 0
        for column in self._columns:
            if column.kind == "category" and not column.other:
                own = X[:, position : position + len(column.features)]
                self._unseen[column.name] += int((~own.any(axis=1)).sum())
            position += len(column.features)

    def unseen(self) -> Iterator[str]:
        """Yield a line on each column of categories of which some rows, read last, have one that train has not."""
        for name, count in self._unseen.items():
            if count:
                yield f"warning: {self.name}: {name!r} has in {count:,} rows a category that train has not: all 0"

    def _labels(self, batch: Any) -> tuple[list[str], NDArray[np.intp] | None]:
        if self._places.label is None:
            return [], None
        encoded = label_text(pyarrow(), batch.column(self._places.label)).dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.intp)

    def _targets(self, batch: Any, lo: int) -> NDArray[np.float64] | None:
        if not self._places.targets:
            return None
        y = np.stack([_floats(batch.column(column)) for column in self._places.targets], axis=1)
        if np.isinf(y).any():
            row, column = np.argwhere(np.isinf(y))[0]
            name, [place] = self.targets[column], self.table.places([lo + int(row)])
            raise DataError(f"{self.name}: the target {name!r} is {y[row, column]:g} in {place}: must be finite")
        return y

    def _weights(self, batch: Any, lo: int) -> NDArray[np.float64] | None:
        if self._places.weight is None:
            return None
        return weights_of(batch.column(self._places.weight), self.table, lo)


def weights_of(cells: Any, table: ForeignTable, lo: int) -> NDArray[np.float64]:
    """Return the weights (k,) of a table's rows from `lo` on. Raises DataError for one that is none."""
    weights = _floats(cells)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if wrong.size:
        value, [place] = weights[wrong[0]], table.places([lo + int(wrong[0])])
        found = "missing" if np.isnan(value) else f"{value:g}"
        raise DataError(f"{table.path}: the weight is {found} in {place}: must be finite, and at least 0")
    return weights


def features_of(batch: Any, found: Sequence[Column], places: Sequence[int]) -> NDArray[Any]:
    """Return the features (k, n_0) of a batch's columns: whole numbers where all are."""
    values: list[NDArray[Any]] = []
    for column, place in zip(found, places, strict=True):
        cells = batch.column(place)
        values += [cells.to_numpy(zero_copy_only=False)] if column.plain else column.values(cells)
    X = np.empty((batch.num_rows, len(values)), np.result_type(*{array.dtype for array in values}))
    for position, array in enumerate(values):
        X[:, position] = array
    return X


def _floats(cells: Any) -> NDArray[np.float64]:
    return np.asarray(cells.to_numpy(zero_copy_only=False), np.float64)
