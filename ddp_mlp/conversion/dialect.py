"""How a text table is written: its separator, decimal sign, encoding, missing values and header line.

Invariants:
- what is not given is found from the first lines, and said (`Dialect.found`); what could be read in two ways is refused
  with the flag that settles it.
"""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ddp_mlp.conversion.source import Stream, open_stream, reading
from ddp_mlp.errors import ConfigError, DataError

Header: TypeAlias = Literal["auto", "yes", "no"]

MISSING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "?")
"""Cells that are missing values, where nothing else is said."""
MAX_COLUMNS = 100_000
"""Of a text table, if nothing else is said: Arrow ends the program where memory for columns gives out."""
SAMPLE_BYTES = 1 << 20
SAMPLE_LINES = 50
LONGEST_LINE = 64 << 20
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", " ": "spaces"}
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_COMMA_NUMBER = re.compile(r"\s*[-+]?\d*,\d+\s*")


@dataclass(frozen=True)
class Asked:
    """What was said about a text table; None where nothing was."""

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] | None = None
    header: Header = "auto"
    max_columns: int = MAX_COLUMNS


@dataclass(frozen=True)
class Dialect:
    """How one text table is written."""

    separator: str
    """One character; a space stands for any run of spaces and tabs."""
    decimal: str
    encoding: str
    missing: tuple[str, ...]
    names: tuple[str, ...] | None
    """Of the columns; None where there is no header line."""
    width: int
    """The number of columns."""
    skipped_lines: int
    """Lines of the file before the first row."""
    packed: bool
    """Whether gzip packed the file."""
    line_bytes: int
    """Of the longest line that was looked at."""
    quoted_newlines: bool
    """Whether a quotation mark was seen: then a cell may hold a line break."""
    found: tuple[str, ...]
    """What was found out and is worth saying."""


def dialect_of(path: Path, asked: Asked, label: str | None) -> Dialect:
    """Return how the text table at `path` is written. `label`, where it is an index, is a column that may be text.

    Raises ConfigError for what can be read in two ways, DataError or StorageError for a file that cannot be used.
    """
    found: list[str] = []
    with reading(path), open_stream(path) as stream:
        packed = isinstance(stream, gzip.GzipFile)
        start = _whole_lines(stream)
    encoding = asked.encoding or _encoding_of(path, start, found)
    text = _decoded(path, start, encoding)
    lines = [line for line in text.splitlines() if line.strip()][:SAMPLE_LINES]
    if not lines:
        raise DataError(f"{path}: has no rows")
    _check_first_line(path, lines)
    separator = asked.separator or _separator_of(lines)
    if asked.separator is None and separator != ",":
        found.append(f"separated by {NAMES[separator]}")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator == " ")
    cells = _cells(rows, separator)
    first, skipped = cells[0], _lines_before(text, separator)
    if len(first) > asked.max_columns:
        raise DataError(f"{path}: has {len(first)} columns: --max_columns {len(first)} takes them, if memory allows")
    decimal = asked.decimal or _decimal_of(cells, separator)
    if asked.decimal is None and decimal == ",":
        found.append("decimal comma")
    header = _has_header(path, asked.header, first, label)
    return Dialect(
        separator=separator,
        decimal=decimal,
        encoding=encoding,
        missing=MISSING if asked.missing is None else asked.missing,
        names=tuple(cell.strip() for cell in first) if header else None,
        width=len(first),
        skipped_lines=skipped if header else 0,
        packed=packed,
        line_bytes=max(len(line.encode(encoding, "replace")) for line in lines),
        quoted_newlines='"' in text,
        found=tuple(found),
    )


def _check_first_line(path: Path, lines: list[str]) -> None:
    """Raise DataError for a first line that is neither names nor a row."""
    if told := re.fullmatch(r'"?sep=(.)"?', lines[0].strip()):
        raise DataError(f"{path}: its first line is Excel's {told[0]}: take it out, and give --sep '{told[1]}'")
    following = [line for line in lines if not line.startswith("#")]
    if lines[0].startswith("#") and following and _separator_of(lines) != _separator_of(following):
        raise DataError(f"{path}: begins with lines that # makes comments: take them out")


def _whole_lines(stream: Stream) -> bytes:
    """Return the first lines of a file: at least SAMPLE_BYTES of them, or all there are."""
    start = stream.read(SAMPLE_BYTES)
    return start + stream.readline(LONGEST_LINE) if len(start) == SAMPLE_BYTES else start


def _encoding_of(path: Path, start: bytes, found: list[str]) -> str:
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    for mark, name in marks.items():
        if start.startswith(mark):
            found.append(f"encoded in {name.removesuffix('-sig')}, as its first bytes say")
            return name
    return "utf-8"


def _decoded(path: Path, start: bytes, encoding: str) -> str:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError as error:
        line = start.count(b"\n", 0, error.start) + 1
        remedy = "save it in utf-8, or tell convert how it is, such as --encoding latin-1 or cp1252"
        raise DataError(f"{path}: line {line} is not {encoding}: {remedy}") from error
    except LookupError as error:
        raise ConfigError(f"--encoding {encoding}: is no encoding that Python knows") from error


def _separator_of(lines: list[str]) -> str:
    """Return the character that stands equally often, outside of quotes, in all lines; the first of those it can be."""
    bare = [re.sub(r'"[^"]*"', "", line) for line in lines]
    counts = {mark: [line.count(mark) for line in bare] for mark in "\t;|,"}
    for mark, found in counts.items():
        if found[0] and min(found) == max(found):
            return mark
    best = max(counts, key=lambda mark: counts[mark][0])
    if counts[best][0]:
        return best
    widths = {len(line.split()) for line in bare}
    return " " if widths != {1} and len(widths) == 1 else ","


def _cells(rows: Iterator[list[str]], separator: str) -> list[list[str]]:
    found = []
    for row in rows:
        if separator == " ":
            row = " ".join(row).split()
        if row:
            found.append(row)
        if len(found) == SAMPLE_LINES:
            break
    return found


def _lines_before(text: str, separator: str) -> int:
    """Return how many lines of the file end with its first row, empty ones and line breaks in quotes included."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    next(row for row in rows if any(cell.strip() for cell in row) or len(row) > 1)
    return rows.line_num


def _decimal_of(cells: list[list[str]], separator: str) -> str:
    """Return a comma where cells are numbers with one and none has a point."""
    if separator == ",":
        return "."
    every = [cell for row in cells[1:] or cells for cell in row]
    commas = sum(_COMMA_NUMBER.fullmatch(cell) is not None for cell in every)
    points = sum("." in cell and _NUMBER.fullmatch(cell) is not None for cell in every)
    return "," if commas and not points else "."


def _has_header(path: Path, header: Header, cells: list[str], label: str | None) -> bool:
    if header != "auto":
        return header == "yes"
    if label is not None and not is_index(label):
        return True  # a name can only be found in a header
    position = int(label) % len(cells) if label is not None else len(cells)
    others = [cell.strip() for column, cell in enumerate(cells) if column != position]
    if any(cell and _NUMBER.fullmatch(cell.replace(",", ".")) is None and cell not in MISSING for cell in others):
        return True
    numbers = [str(number) for number in range(len(cells) + 1)]
    if len(others) > 1 and others in (numbers[: len(others)], numbers[1 : len(others) + 1]):
        raise ConfigError(
            f"{path}: is its first line ({', '.join(others[:4])}, …) names or numbers? say --header yes or --header no"
        )
    return False


def is_index(text: str) -> bool:
    """Tell whether a text is a whole number, such as a column's index."""
    return text.removeprefix("-").isdecimal()
