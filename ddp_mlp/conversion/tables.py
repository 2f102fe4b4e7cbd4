"""Tables as Arrow reads them: CSV and Parquet, batch by batch, as often as wanted, each column of one type throughout.

Invariants:
- a text file that takes at most WHOLE_BYTES is read once and kept; a larger one is read a few MiB at a time;
- rows are counted from 0; `place` says where a row is in the words of whoever opens the file: a line of a text file.
"""

import csv
import io
import os
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddp_mlp.conversion.dialect import Asked, dialect_of, records_of
from ddp_mlp.conversion.source import open_stream, reading, rows_at_once
from ddp_mlp.conversion.spaces import Squeezed
from ddp_mlp.errors import ConfigError, DataError, EnvironmentMismatch
from ddp_mlp.parallel.host import address_space_left
from ddp_mlp.storage.hdf5 import one_line
from ddp_mlp.units import byte_size

WHOLE_BYTES = 288 << 20
"""Of memory for a table that is kept."""
CELL_BYTES = 24
"""That a cell takes beside its text: its place in the text, its number, and room for the numbers of a column."""
BLOCK_BYTES = 1 << 20
"""Of a text file that is read piece by piece: Arrow reads up to 32 blocks ahead."""
GUESS_BYTES = 8 << 20
"""Of the beginning of a text file, from which the types of columns are guessed."""
BLOCK_ROWS = 32
"""At least, where that is at most WIDE_BLOCK_BYTES: Arrow takes its time for each column of a block."""
WIDE_BLOCK_BYTES = 3 << 20
QUOTE_BYTES = 16 << 20
_NUMBER = re.compile(r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE)
LEAST_ADDRESS_SPACE = 330 << 20
"""Bytes with which Arrow and its threads begin; where they get less, they end the process without a word, or wait."""


def pyarrow() -> Any:
    """Return the library. Raises ConfigError where it is not installed, EnvironmentMismatch where it has no room."""
    left = address_space_left()
    if left < LEAST_ADDRESS_SPACE and "pyarrow.parquet" not in sys.modules:
        raise EnvironmentMismatch(
            f"ulimit -v leaves {byte_size(int(left))} of address space: tables need {byte_size(LEAST_ADDRESS_SPACE)}: "
            "raise it"
        )
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError('CSV and Parquet files need pyarrow: pip install "ddp_mlp[parquet]"') from error
    return pyarrow


class ForeignTable(ABC):
    """A table: named or numbered columns, and rows in Arrow's batches."""

    path: Path
    names: tuple[str, ...]
    """Of the columns; their numbers where the file has no names."""
    named: bool
    """Whether the file names its columns."""
    typed: bool = False
    """Whether the file itself has types."""
    decimal: str = "."
    index: tuple[str, ...] = ()
    """Columns that pandas had as its index, where the file says so."""
    said: tuple[str, ...] = ()
    """What was found out about how the file is written."""

    @abstractmethod
    def batches(self, types: Mapping[int, Any]) -> Iterator[Any]:
        """Yield Arrow's record batches; a column in `types` has that type, the others the one that all of them have.

        Raises DataError where a value is not of its column's type.
        """

    @abstractmethod
    def places(self, rows: Sequence[int]) -> list[str]:
        """Return where rows are, each as words such as "line 17"."""

    def first_cells(self, form: "re.Pattern[str]", columns: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Return, of columns, the first cell of this form that the file begins with: its row, and what it says."""
        return {}


def first_not_numbers(table: ForeignTable, columns: Collection[int]) -> dict[int, tuple[int, str, int]]:
    """Return, of text columns, the first cell that is no number: its row, what it says; and how many there are."""
    arrow, found, lo = pyarrow(), dict[int, tuple[int, str, int]](), 0
    for batch in table.batches(dict.fromkeys(columns, arrow.string())):
        for column in columns:
            encoded = batch.column(column).dictionary_encode()
            texts = encoded.dictionary.to_pylist()
            wrong = [code for code, text in enumerate(texts) if not _is_number(text, table.decimal)]
            if wrong:
                is_wrong = arrow.compute.is_in(encoded.indices, value_set=arrow.array(wrong, encoded.indices.type))
                row = int(arrow.compute.index(is_wrong, arrow.scalar(True)).as_py())
                first = (lo + row, texts[encoded.indices[row].as_py()], 0)
                row, text, count = found.get(column, first)
                found[column] = row, text, count + arrow.compute.sum(is_wrong).as_py()
        lo += batch.num_rows
    return found


def text_for_numbers(table: ForeignTable, columns: Collection[int]) -> Iterator[tuple[int, str, str, int]]:
    """Yield, of columns that are to be numbers, which one, its first cell that is none, its place, and how many are.

    Arrow's own words have none of it. Nothing where the file itself says what a column holds.
    """
    found = {} if table.typed else first_not_numbers(table, columns)
    places = table.places([row for row, _, _ in found.values()])
    for (column, (_, cell, count)), place in zip(found.items(), places, strict=True):
        yield column, cell, place, count


def _is_number(text: str, decimal: str) -> bool:
    """Tell whether Arrow takes a text for a number: Python takes more, such as 1_000."""
    return _NUMBER.fullmatch(text.translate({ord("."): decimal, ord(decimal): "."}).strip(" \t")) is not None


class CsvTable(ForeignTable):
    """Text with a separator, packed with gzip or not."""

    def __init__(self, path: Path, asked: Asked, label: str | None, said: Sequence[str] = ()) -> None:
        self._arrow = pyarrow()
        self.path = path
        self.dialect = dialect_of(path, asked, label, said)
        self.said = self.dialect.found
        self.decimal = self.dialect.decimal
        self.named = self.dialect.names is not None
        self.names = self.dialect.names or tuple(map(str, range(self.dialect.width)))
        check_names(path, self.names)
        self._quoted = self._has_quotes()
        self._whole: dict[frozenset[tuple[int, Any]], Any] = {}
        self._types: dict[frozenset[tuple[int, Any]], dict[int, Any]] = {}

    def batches(self, types: Mapping[int, Any]) -> Iterator[Any]:
        key = frozenset((column, str(kind)) for column, kind in types.items())
        if self._memory() <= WHOLE_BYTES:
            if key not in self._whole:
                self._whole[key] = self._read_whole(types)
            yield from self._whole[key]
            return
        if key not in self._types:
            with reading(self.path):
                self._types[key] = {**self._surveyed(types), **types}
        yield from self._stream(self._types[key], self._block_bytes())

    def _memory(self) -> int:
        """Return about how many bytes the whole table takes."""
        dialect = self.dialect
        return self._size + CELL_BYTES * len(self.names) * (self._size // dialect.line_bytes + 1)

    def _block_bytes(self) -> int:
        """Return how many bytes of text to read at a time: more where lines are long."""
        return max(BLOCK_BYTES, min(BLOCK_ROWS * self.dialect.line_bytes, WIDE_BLOCK_BYTES))

    def places(self, rows: Sequence[int]) -> list[str]:
        """Count lines as an editor does: empty ones and those within quotes are lines too."""
        wanted, found = set(rows), dict[int, int]()
        with reading(self.path), open_stream(self.path) as stream:
            text = io.TextIOWrapper(stream, self.dialect.encoding, "replace", newline="")
            records = records_of(text, self.dialect.separator)
            number, before = -1 if self.named else 0, 0
            for record in records:
                if record:
                    if number in wanted:
                        found[number] = before + 1
                    number += 1
                before = records.line_num
                if len(found) == len(wanted):
                    break
        return [f"line {found[row]}" if row in found else f"row {row}" for row in rows]

    def _has_quotes(self) -> bool:
        self._size = marks = 0
        with reading(self.path), open_stream(self.path) as stream:
            while piece := stream.read(QUOTE_BYTES):
                self._size += len(piece)
                marks += piece.count(b'"')
        if marks % 2:
            self._check_closed()
        return marks > 0

    def _check_closed(self) -> None:
        """Raise DataError where the file ends within quotes: all lines from there on would be one cell to Arrow."""
        with reading(self.path), open_stream(self.path) as stream:
            text = io.TextIOWrapper(stream, self.dialect.encoding, "replace", newline="")
            records, begun = records_of(text, self.dialect.separator, strict=True), 1
            try:
                for _ in records:
                    begun = records.line_num + 1
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(
                        f"{self.path}: a quotation mark in line {begun} is never closed: take it out, or close it"
                    ) from error

    def _read_whole(self, types: Mapping[int, Any]) -> list[Any]:
        with reading(self.path):
            batches = list(self._opened(types, self._size + 2))
        if not sum(batch.num_rows for batch in batches):
            raise DataError(f"{self.path}: has no rows")
        return batches

    def _surveyed(self, types: Mapping[int, Any]) -> dict[int, Any]:
        """Return the type of every column: Arrow's guess from the first rows, where all other rows agree."""
        try:
            guess = self._guessed(types)
            if not any(self._arrow.types.is_null(kind) for kind in guess.values()):
                for _ in self._opened({**guess, **types}, self._block_bytes()):
                    pass
                return guess
        except (self._arrow.ArrowInvalid, ValueError):
            pass  # something else comes later: every cell is looked at
        return self._surveyed_as_text(types)

    def _guessed(self, types: Mapping[int, Any]) -> dict[int, Any]:
        """Return the type of every column as Arrow guesses it from the beginning of the file."""
        block_bytes = max(GUESS_BYTES, 4 * self.dialect.line_bytes)
        start = self._text().read(block_bytes + 2)  # more than a block, so that the line that it ends in is not read
        batch = next(self._parsed(self._arrow.BufferReader(start), types, block_bytes), None)
        return {} if batch is None else {c: batch.schema.field(c).type for c in range(len(self.names))}

    def first_cells(self, form: "re.Pattern[str]", columns: Sequence[int]) -> dict[int, tuple[int, str]]:
        found: dict[int, tuple[int, str]] = {}
        text = dict.fromkeys(range(len(self.names)), self._arrow.string())
        block_bytes = max(BLOCK_BYTES, 4 * self.dialect.line_bytes)
        with reading(self.path):
            start = self._text().read(block_bytes + 2)
            batch = next(self._parsed(self._arrow.BufferReader(start), text, block_bytes), None)
        if batch is None:
            return found
        for column in columns:
            cells = batch.column(column).to_pylist()
            row = next((row for row, cell in enumerate(cells) if cell and form.fullmatch(cell.strip())), None)
            if row is not None:
                found[column] = row, cells[row]
        return found

    def _surveyed_as_text(self, types: Mapping[int, Any]) -> dict[int, Any]:
        arrow = self._arrow
        ladder = [arrow.int64(), arrow.float64(), arrow.bool_(), arrow.timestamp("s"), arrow.string()]
        places = {column: 0 for column in range(len(self.names)) if column not in types}
        filled = set[int]()
        text = dict.fromkeys(range(len(self.names)), arrow.string())
        for batch in self._stream(text, self._block_bytes()):
            for column in places:
                cells = batch.column(column)
                if cells.null_count < len(cells):
                    filled.add(column)
                while places[column] < len(ladder) - 1 and not self._casts(cells, ladder[places[column]]):
                    places[column] += 1
        return {column: ladder[place] if column in filled else arrow.null() for column, place in places.items()}

    def _casts(self, cells: Any, kind: Any) -> bool:
        if self.decimal != "." and self._arrow.types.is_floating(kind):
            cells = self._arrow.compute.replace_substring(cells, self.decimal, ".")
        try:
            cells.cast(kind)
        except self._arrow.ArrowInvalid:
            return False
        return True

    def _stream(self, types: Mapping[int, Any], block_bytes: int) -> Iterator[Any]:
        rows = 0
        with reading(self.path):
            opened = self._opened(types, block_bytes)
        while True:
            with reading(self.path):
                batch = next(opened, None)
            if batch is None:
                break
            if batch.num_rows:
                rows += batch.num_rows
                yield batch
        if not rows:
            raise DataError(f"{self.path}: has no rows")

    def _opened(self, types: Mapping[int, Any], block_bytes: int) -> Iterator[Any]:
        """Open the file for Arrow's reader, columns called f0, f1, …."""
        return self._parsed(self._text(), types, max(block_bytes, 4 * self.dialect.line_bytes))

    def _text(self) -> Any:
        """Open the file as a stream of Arrow's, unpacked, columns that runs of spaces separate as ones with tabs."""
        arrow = self._arrow
        stream = arrow.input_stream(os.fspath(self.path), compression="gzip" if self.dialect.packed else None)
        return arrow.PythonFile(io.BufferedReader(Squeezed(stream))) if self.dialect.separator == " " else stream

    def _parsed(self, stream: Any, types: Mapping[int, Any], block_bytes: int) -> Iterator[Any]:
        """Yield the batches of a text; a line must fit into a block."""
        arrow, dialect = self._arrow, self.dialect
        missing = [*dialect.missing, *(f" {token}" for token in dialect.missing if token)]
        options = (
            arrow.csv.ReadOptions(
                column_names=[f"f{column}" for column in range(len(self.names))],
                skip_rows=dialect.skipped_lines,
                block_size=block_bytes,
                use_threads=False,
                encoding="utf-8" if dialect.encoding == "utf-8-sig" else dialect.encoding,
            ),
            arrow.csv.ParseOptions(
                delimiter="\t" if dialect.separator == " " else dialect.separator,
                newlines_in_values=self._quoted,
            ),
            arrow.csv.ConvertOptions(
                column_types={f"f{column}": kind for column, kind in types.items()},
                null_values=missing,
                strings_can_be_null=True,
                decimal_point=dialect.decimal,
            ),
        )
        try:
            yield from arrow.csv.open_csv(stream, *options)
        except arrow.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return
            raise


class ParquetTable(ForeignTable):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self._arrow = arrow = pyarrow()
        self.path = path
        with reading(path):
            self._schema = arrow.parquet.ParquetFile(path).schema_arrow
        self.names, self.named, self.typed = tuple(self._schema.names), True, True
        index = (self._schema.pandas_metadata or {}).get("index_columns", ())
        self.index = tuple(name for name in index if isinstance(name, str))
        check_names(path, self.names)

    def batches(self, types: Mapping[int, Any]) -> Iterator[Any]:
        arrow, rows = self._arrow, 0
        with reading(self.path):
            file = arrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20)
            found = file.iter_batches(rows_at_once(8 * len(self.names)))
        while True:
            with reading(self.path):
                batch = next(found, None)
            if batch is None:
                break
            rows += batch.num_rows
            if batch.num_rows:
                yield arrow.record_batch(
                    [self._cast(batch.column(i), self.names[i], types.get(i)) for i in range(len(self.names))],
                    [f"f{i}" for i in range(len(self.names))],
                )
        if not rows:
            raise DataError(f"{self.path}: has no rows")

    def places(self, rows: Sequence[int]) -> list[str]:
        return [f"row {row}" for row in rows]

    def _cast(self, cells: Any, name: str, kind: Any) -> Any:
        """Return a column in the type that is asked for, plain types instead of dictionaries and decimals."""
        arrow, types = self._arrow, self._arrow.types
        if types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        if types.is_large_string(cells.type) or types.is_string_view(cells.type):
            cells = cells.cast(arrow.string())
        if kind is not None and types.is_string(kind):
            cells = _with_whole_numbers(arrow, cells)
        elif types.is_decimal(cells.type):
            cells = cells.cast(arrow.float64())
        if kind is None or cells.type == kind:
            return cells
        if types.is_boolean(kind) and (types.is_integer(cells.type) or types.is_floating(cells.type)):
            wrong = arrow.compute.invert(arrow.compute.is_in(cells, value_set=arrow.array([0, 1, None], cells.type)))
            if arrow.compute.any(wrong).as_py():
                found = cells.filter(wrong)[0].as_py()
                raise DataError(f"{self.path}: {name!r} is {found}: must be true or false, as in training")
        try:
            return cells.cast(kind)
        except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
            wanted = "text" if types.is_string(kind) else "numbers" if types.is_floating(kind) else str(kind)
            raise DataError(
                f"{self.path}: {name!r} is {cells.type}, and cannot be read as {wanted}: {one_line(error)[:100]}"
            ) from error


def _with_whole_numbers(arrow: Any, cells: Any) -> Any:
    """Return numbers that are to be text with whole ones as they are usually written; NaN is missing."""
    types = arrow.types
    if types.is_decimal(cells.type):
        return arrow.compute.replace_substring_regex(cells.cast(arrow.string()), r"\.0+$", "")
    if not types.is_floating(cells.type):
        return cells
    compute, values = arrow.compute, cells.cast(arrow.float64())
    values = compute.if_else(compute.is_nan(values), arrow.scalar(None, arrow.float64()), values)
    is_whole = compute.and_(
        compute.equal(values, compute.round(values)), compute.less_equal(compute.abs(values), arrow.scalar(2.0**53))
    )
    whole = compute.if_else(is_whole, values, arrow.scalar(0.0)).cast(arrow.int64())
    return compute.if_else(is_whole, whole.cast(arrow.string()), values.cast(arrow.string()))


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise DataError where two columns have one name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}: two columns are called {name!r}: give each a name of its own, or say --header no")
