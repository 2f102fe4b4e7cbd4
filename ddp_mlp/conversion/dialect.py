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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ddp_mlp.conversion.source import Stream, open_stream, reading
from ddp_mlp.conversion.spaces import squeezed
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
_THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2},\d{3}\s*")
"""A number with a comma that may separate thousands as well."""


@dataclass(frozen=True)
class Asked:
    """What was said about a text table; None where nothing was."""

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] | None = None
    header: Header = "auto"
    max_columns: int = MAX_COLUMNS
    usual_decimal: str | None = None
    """The sign to take where there are both, or where a comma could separate thousands; None: that is refused."""


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


def dialect_of(path: Path, asked: Asked, label: str | None, said: Sequence[str] = ()) -> Dialect:
    """Return how the text table at `path` is written. `label`, where it is an index, is a column that may be text.

    `said` are the other columns that were named or numbered: a name can only be found in a header.
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
    separator = asked.separator or _separator_of(lines, text)
    if asked.separator is None and separator != ",":
        found.append(f"separated by {NAMES[separator]}")
    if separator == " ":
        _check_single_bytes(path, encoding)
    cells = _cells(text, separator)
    first, skipped = cells[0], _lines_before(text, separator)
    if len(first) > asked.max_columns:
        raise DataError(f"{path}: has {len(first)} columns: --max_columns {len(first)} takes them, if memory allows")
    decimal = asked.decimal or _decimal_of(path, cells, separator, asked.usual_decimal)
    if asked.decimal is None and decimal == ",":
        found.append("decimal comma")
    missing = MISSING if asked.missing is None else asked.missing
    header = _has_header(path, asked.header, cells, label, said, missing)
    return Dialect(
        separator=separator,
        decimal=decimal,
        encoding=encoding,
        missing=missing,
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
    if lines[0].startswith("#") and following and _separator_of(lines, "") != _separator_of(following, ""):
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
        "".encode(encoding)  # refuses what is no encoding of text, such as hex
        return codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeError as error:  # UTF-16 without its mark has no place
        line = start.count(b"\n", 0, getattr(error, "start", 0)) + 1
        remedy = "save it in utf-8, or tell convert how it is, such as --encoding latin-1 or cp1252"
        raise DataError(f"{path}: line {line} is not {encoding}: {remedy}") from error
    except LookupError as error:
        raise ConfigError(f"--encoding {encoding}: is no encoding of text that Python knows") from error


def _separator_of(lines: list[str], text: str) -> str:
    """Return the character that stands equally often, outside of quotes, in all lines; the first of those it can be.

    Where none does, cells of `text` may hold line breaks within quotes.
    """
    bare = [re.sub(r'"[^"]*"', "", line) for line in lines]
    joined = re.sub(r'"[^"]*"', "q", text).splitlines()
    for some in (bare, [line for line in joined if line.strip()][:SAMPLE_LINES]):
        for mark in "\t;|,":
            found = [line.count(mark) for line in some]
            if found and found[0] and min(found) == max(found):
                return mark
    counts = {mark: [line.count(mark) for line in bare] for mark in "\t;|,"}
    best = max(counts, key=lambda mark: counts[mark][0])
    if counts[best][0]:
        return best
    widths = {len(re.sub(r'"[^"]*"', "q", line).split()) for line in lines}
    return " " if widths != {1} and len(widths) == 1 else ","


def records_of(text: Iterable[str], separator: str, strict: bool = False) -> Any:
    """Return a reader of records, whose cells may be as long as a line may be."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    return csv.reader(text, delimiter=separator, strict=strict)


def _check_single_bytes(path: Path, encoding: str) -> None:
    """Raise DataError where a space is more than a byte: runs of them are found as bytes."""
    if len("  ".encode(encoding)) > len(" ".encode(encoding)) + 1:
        raise DataError(f"{path}: is separated by spaces, and encoded in {encoding}: save it in utf-8")


def _cells(text: str, separator: str) -> list[list[str]]:
    """Return the first records that are not empty."""
    if separator == " ":
        text, separator = squeezed(text.encode()).decode(), "\t"
    found = []
    for row in records_of(io.StringIO(text, newline=""), separator):
        if row:
            found.append(row)
        if len(found) == SAMPLE_LINES:
            break
    return found


def _lines_before(text: str, separator: str) -> int:
    """Return how many lines of the file end with its first row, empty ones and line breaks in quotes included."""
    rows = records_of(io.StringIO(text, newline=""), separator)
    next(row for row in rows if any(cell.strip() for cell in row) or len(row) > 1)
    return int(rows.line_num)


def _decimal_of(path: Path, cells: list[list[str]], separator: str, usual: str | None) -> str:
    """Return a comma where cells are numbers with one and none has a point."""
    if separator == ",":
        return "."
    every = [cell for row in cells[1:] or cells for cell in row]
    commas = [cell for cell in every if _COMMA_NUMBER.fullmatch(cell)]
    points = sum("." in cell and _NUMBER.fullmatch(cell) is not None for cell in every)
    if not commas or points:
        return (usual if commas else None) or "."  # both: text takes part, or separated thousands
    if all(_THOUSANDS.fullmatch(cell) for cell in commas):
        if usual is None:
            raise ConfigError(
                f"{path}: is {commas[0].strip()} a number with a decimal comma, or are thousands separated by it? say "
                "--decimal , for the first, and for the other write numbers plainly"
            )
        return usual
    return ","


def _has_header(
    path: Path, header: Header, cells: list[list[str]], label: str | None, said: Sequence[str], missing: Sequence[str]
) -> bool:
    if header != "auto":
        return header == "yes"
    if any(not is_index(name) for name in (*said, *([] if label is None else [label]))):
        return True  # a name can only be found in a header
    first, *following = cells
    position = int(label) % len(first) if label is not None else len(first)
    others = [(column, cell.strip()) for column, cell in enumerate(first) if column != position]
    numbers = [cell for _, cell in others if _NUMBER.fullmatch(cell.replace(",", "."))]
    texts = [(column, cell) for column, cell in others if cell not in missing and cell not in (*numbers, "")]
    listed = f"{', '.join(cell for _, cell in others[:4])}{', …' if len(others) > 4 else ''}"
    remedy = "say --header yes or --header no"
    if texts and numbers:
        raise ConfigError(f"{path}: is its first line ({listed}) names, or a row of text and numbers? {remedy}")
    for column, cell in texts:
        if any(len(row) > column and row[column].strip() == cell for row in following):
            raise ConfigError(f"{path}: is its first line ({listed}) names? {cell!r} comes again below it: {remedy}")
    if texts:
        return True
    every = [cell.strip() for cell in first]
    counted = every if is_index(every[position % len(first)]) else [cell for _, cell in others]
    counted = counted[1:] if counted[:1] == [""] else counted  # above an index, as pandas writes it
    if len(counted) > 1 and all(map(is_index, counted)) and _are_a_count([int(cell) for cell in counted]):
        raise ConfigError(f"{path}: is its first line ({listed}) names or numbers? {remedy}")
    return False


def _are_a_count(whole: list[int]) -> bool:
    """Tell whether numbers are 0, 1, 2, … or 1, 2, 3, …, or four and more that follow one another, such as years."""
    start, count = whole[0], len(whole)
    return whole == [*range(start, start + count)] and (start in (0, 1) or count >= 4)


def is_index(text: str) -> bool:
    """Tell whether a text is a whole number, such as a column's index."""
    return text.removeprefix("-").isdecimal()
