"""Make a data-set file from CSV, TSV, Parquet, NPY, NPZ, IDX or HDF5 files, or show what is in one.

Sources are read twice, a few MiB at a time: once to learn the number of rows, the labels and the range of the values,
once to write. A row's split depends on the order asked for, the seed, the number of rows and (stratified) the labels,
never on the format or on how the file was read; within a split the rows keep the order of the source.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ddp_mlp import __version__, command
from ddp_mlp.command import Parser
from ddp_mlp.conversion.sources import Header, Label, Piece, Source, open_sources
from ddp_mlp.errors import ConfigError, DataError, StorageError
from ddp_mlp.storage.dataset import SPLITS, DatasetInfo, DatasetWriter, Reader, inspect, size_and_mtime
from ddp_mlp.storage.survey import CLASSES_AT_MOST, Survey, merge_surveys, survey_block, survey_blocks

_INTEGERS = [np.dtype(name) for name in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")]


# --- What the sources hold --------------------------------------------------------------------------------------------


@dataclass
class Scan:
    """What the first reading of one source found; `labels` counts the rows of each label, in order of appearance."""

    rows: int = 0
    floats: bool = False
    minimum: int = 0
    maximum: int = 0
    labels: dict[Label, int] = field(default_factory=dict)


def scan(source: Source, largest: float) -> Scan:
    """Read `source` once; DataError for a value of X that is not finite or beyond `largest` in size."""
    found = Scan()
    for piece in _with_progress(source, "reading", None):
        if piece.X.dtype.kind == "f":
            found.floats = True
            _check_floats(source, piece.X, found.rows, largest)
        else:
            found.minimum = min(found.minimum, int(piece.X.min()))
            found.maximum = max(found.maximum, int(piece.X.max()))
        for label, count in zip(piece.labels, np.bincount(piece.codes, minlength=len(piece.labels)), strict=True):
            found.labels[label] = found.labels.get(label, 0) + int(count)
        if len(found.labels) > CLASSES_AT_MOST:
            raise DataError(f"{source.name}: has over {CLASSES_AT_MOST} different labels; is --label the right column?")
        found.rows += len(piece.X)
    if found.rows == 0:
        raise DataError(f"{source.name}: has no rows")
    return found


def _check_floats(source: Source, X: NDArray[Any], lo: int, largest: float) -> None:
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(X) <= largest)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        name = f" ({source.columns[column]!r})" if source.columns else ""
        value = X[row, column]
        remedy = "too large for float32; give --dtype float64" if np.isfinite(value) else "every feature must be finite"
        raise DataError(f"{source.name}: row {lo + row}, feature {column}{name} is {value}: {remedy}")


def smallest_dtype(scans: Sequence[Scan], sources: Sequence[Source]) -> np.dtype[Any]:
    """Return the smallest integer type that holds every value, or the sources' float type where some are fractions."""
    if any(found.floats for found in scans):
        return np.result_type(*{source.float_dtype for source in sources})
    low, high = min(found.minimum for found in scans), max(found.maximum for found in scans)
    for dtype in _INTEGERS:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    return np.dtype(np.float64)  # from below zero to beyond int64


def number_classes(labels: Sequence[Label], name: str) -> tuple[dict[Label, int], tuple[str, ...] | None]:
    """Return the class number of each label, and the classes' names; None where the labels are 0, 1, 2, … themselves.

    Numbers keep their order, text is sorted. Raises DataError for fractions, and for a single class.
    """
    texts = [label for label in labels if isinstance(label, str)]
    values: dict[Label, int] = {}
    if not texts or all(_is_number(text) for text in texts):
        for label in labels:
            value = float(label)
            if not value.is_integer():
                raise DataError(f"{name}: the label {label!r} is not a whole number: --label must name classes")
            values[label] = int(label) if not isinstance(label, str) or "." not in label else int(value)
        ordered: list[Any] = sorted(set(values.values()))
    else:
        for missing in ("?", "NA", "nan", "NaN"):
            if missing in texts and all(_is_number(text) for text in texts if text != missing):
                raise DataError(
                    f"{name}: the label is {missing!r} in some rows and a number in all others: is it missing?"
                )
        ordered = sorted(texts)
    if len(ordered) < 2:
        raise DataError(f"{name}: every label is {labels[0]!r}: expected at least two classes")
    position = {value: number for number, value in enumerate(ordered)}
    numbers = {label: position[values.get(label, label)] for label in labels}
    names = None if ordered == list(range(len(ordered))) else tuple(str(value) for value in ordered)
    return numbers, names


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


# --- Who goes where ---------------------------------------------------------------------------------------------------


def parse_part(flag: str, text: str) -> int | float:
    """Read N (rows) or a FRACTION below 1, as `--valid` and `--test` take them; ConfigError otherwise."""
    try:
        value: int | float = int(text) if text.isdecimal() else float(text)
    except ValueError:
        value = -1.0
    if not (isinstance(value, int) or 0 < value < 1):
        raise ConfigError(f"{flag} {text}: must be a number of rows, or a fraction between 0 and 1")
    return value


def _part_rows(flag: str, part: int | float, rows: int) -> int:
    count = part if isinstance(part, int) else round(part * rows)
    if part and not count:
        raise ConfigError(f"{flag} {part}: is not one row of {rows}")
    return count


def apportion(total: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Share `total` out in proportion to `counts`: quotas rounded down, and one more for the largest rests."""
    quotas = [total * int(count) for count in counts]
    whole = int(counts.sum())
    shares = np.array([quota // whole for quota in quotas], np.int64)
    remainders = np.array([quota % whole for quota in quotas])
    shares[np.argsort(-remainders, kind="stable")[: total - int(shares.sum())]] += 1
    return shares


class Membership:
    """Which split each row goes to: a number into SPLITS for every row, given out in row order.

    `strata` are row counts: of the classes for a stratified order, else one for all rows. One byte a row is kept.
    """

    def __init__(self, strata: NDArray[np.int64], valid: int, test: int, seed: int | None) -> None:
        tests = apportion(test, strata)
        valids = apportion(valid, strata - tests)
        self._codes: list[NDArray[np.uint8]] = []
        for number, (count, n_valid, n_test) in enumerate(zip(strata, valids, tests, strict=True)):
            codes = np.zeros(count, np.uint8)
            codes[count - n_test - n_valid : count - n_test] = SPLITS.index("valid")
            codes[count - n_test :] = SPLITS.index("test")
            if seed is not None:
                np.random.Generator(np.random.Philox(key=[seed, number])).shuffle(codes)
            self._codes.append(codes)
        self._given = [0] * len(strata)

    def next(self, y: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return the splits of the next rows, whose classes are `y`."""
        if len(self._codes) == 1:
            return self._take(0, len(y))
        splits = np.empty(len(y), np.uint8)
        for stratum in np.unique(y):
            members = np.flatnonzero(y == stratum)
            splits[members] = self._take(int(stratum), len(members))
        return splits

    def _take(self, stratum: int, count: int) -> NDArray[np.uint8]:
        lo = self._given[stratum]
        self._given[stratum] = lo + count
        return self._codes[stratum][lo : lo + count]


# --- The conversion ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversion:
    """What was asked for: see the help of the flags with these names."""

    sources: tuple[Path, ...]
    out: Path
    label: str | None = None
    header: Header = "auto"
    valid: int | float = 0
    test: int | float = 0
    order: str = "file"
    seed: int = 0
    dtype: str = "auto"
    x_name: str = "X"
    y_name: str = "y"
    overwrite: bool = False


def convert(asked: Conversion) -> DatasetInfo:
    """Make the data-set file `asked.out` and return its structure.

    Raises ConfigError, DataError or StorageError; then no file has been made.
    """
    _check_out(asked)
    sources = open_sources(asked.sources, asked.label, asked.header, asked.x_name, asked.y_name)
    for split, part in (("valid", asked.valid), ("test", asked.test)):
        if part and split in sources:
            raise ConfigError(f"--{split} {part}: the sources have a {split} split of their own")
    before = [size_and_mtime(str(path)) for path in asked.sources]

    limits = {split: _largest(asked.dtype, source) for split, source in sources.items()}
    scans = {split: scan(source, limits[split]) for split, source in sources.items()}
    dtype = (
        smallest_dtype(list(scans.values()), list(sources.values())) if asked.dtype == "auto" else np.dtype(asked.dtype)
    )
    first = sources["train"]
    counts: dict[Label, int] = {}
    for found in scans.values():
        for label, count in found.labels.items():
            counts[label] = counts.get(label, 0) + count
    numbers, names = _numbers_and_names(first, list(counts))
    classes = len(names) if names else max(numbers.values()) + 1

    rows = {split: found.rows for split, found in scans.items()}
    membership, parts = _divide(asked, scans["train"], numbers, classes)
    rows.update(parts)
    attributes: dict[str, str | int | Sequence[str]] = {
        "sources": [path.name for path in asked.sources],
        "sources_sha256": [_sha256(path) for path in asked.sources],
        "order": asked.order,
        "seed": asked.seed,
        "made_by": f"ddp_mlp {__version__}",
    }
    if first.columns:
        attributes["features"] = first.columns

    ordered = {split: rows[split] for split in SPLITS if rows.get(split)}
    weighted = any(source.weighted for source in sources.values())
    with DatasetWriter(asked.out, ordered, first.features, dtype, classes, weighted, names, attributes) as writer:
        for split, source in sources.items():
            for piece in _with_progress(source, "writing", scans[split].rows):
                X = piece.X.astype(dtype, copy=False)
                y = np.array([numbers[label] for label in piece.labels], np.intp)[piece.codes]
                w = piece.w if piece.w is not None or not weighted else np.ones(len(y))
                for target, members in _targets(split, membership, y):
                    writer.append(target, X[members], y[members], None if w is None else w[members])
        if [size_and_mtime(str(path)) for path in asked.sources] != before:
            raise DataError("a source was changed while it was read; leave it alone, and start again")
    return inspect(asked.out)


def _check_out(asked: Conversion) -> None:
    if not asked.out.parent.is_dir():
        raise StorageError(f"{asked.out}: there is no folder {asked.out.parent}")
    if asked.out.exists():
        if any(path.exists() and path.samefile(asked.out) for path in asked.sources):
            raise ConfigError(f"{asked.out}: is one of the sources; give the new file another name")
        if not asked.overwrite:
            raise ConfigError(f"{asked.out}: exists; give another name, or --overwrite")


def _largest(dtype: str, source: Source) -> float:
    return float(np.finfo(source.float_dtype if dtype == "auto" else np.dtype(dtype)).max)


def _numbers_and_names(source: Source, labels: list[Label]) -> tuple[dict[Label, int], tuple[str, ...] | None]:
    if source.classes is None:
        return number_classes(labels, source.name)
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < len(source.classes):
            raise DataError(f"{source.name}: has the label {label}, but names {len(source.classes)} classes")
    return {label: int(label) for label in labels}, source.classes


def _divide(
    asked: Conversion, found: Scan, numbers: Mapping[Label, int], classes: int
) -> tuple[Membership | None, dict[str, int]]:
    """Return who of train's rows goes where (None: all stay), and the rows of the splits made of them."""
    valid, test = _part_rows("--valid", asked.valid, found.rows), _part_rows("--test", asked.test, found.rows)
    if valid + test >= found.rows:
        raise ConfigError(f"--valid {asked.valid} --test {asked.test}: leave none of {found.rows} rows to train on")
    if valid == test == 0:
        return None, {}
    strata = np.array([found.rows])
    if asked.order == "stratified":
        strata = np.zeros(classes, np.int64)
        for label, count in found.labels.items():
            strata[numbers[label]] += count
    membership = Membership(strata, valid, test, None if asked.order == "file" else asked.seed)
    parts = {"train": found.rows - valid - test, "valid": valid, "test": test}
    return membership, {split: count for split, count in parts.items() if count}


def _targets(
    split: str, membership: Membership | None, y: NDArray[np.intp]
) -> Iterator[tuple[str, NDArray[np.intp] | slice]]:
    """Yield each split that gets some of these rows of source `split`, with the rows it gets."""
    if split != "train" or membership is None:
        yield split, slice(None)
        return
    codes = membership.next(y)
    for number in np.unique(codes):
        yield SPLITS[number], np.flatnonzero(codes == number)


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _with_progress(source: Source, doing: str, rows: int | None) -> Iterator[Piece]:
    """Yield the source's pieces, with a bar on stderr where that is a terminal."""
    with tqdm(total=rows, desc=doing, unit=" rows", unit_scale=True, leave=False, disable=None) as bar:
        for piece in source.pieces():
            yield piece
            bar.update(len(piece.X))


# --- Showing a file ---------------------------------------------------------------------------------------------------


def describe(info: DatasetInfo) -> Iterator[str]:
    """Read a whole data-set file, a few MiB at a time, and yield lines on what each split holds."""
    yield f"{info.path!r}: {info.size_mtime[0]} bytes, {info.features} features"
    for split, structure in info.splits.items():
        survey = _survey(info, split)
        yield f"{split}: X ({structure.rows}, {info.features}) {structure.dtype}, y ({structure.rows},)" + (
            f", w ({structure.rows},) of sum {survey.weight_sum:g}" if structure.weighted else ""
        )
        constant = int((survey.minimum == survey.maximum).sum())
        yield f"  values {survey.minimum.min():g} to {survey.maximum.max():g}, {constant} constant features"
        names = info.classes or tuple(str(number) for number in range(len(survey.class_counts)))
        shown = [f"{_printable(name)} {count}" for name, count in zip(names, survey.class_counts, strict=True)]
        yield f"  {len(names)} classes: {', '.join(shown[:40])}{', …' if len(shown) > 40 else ''}"
        yield f"  fingerprint {survey.fingerprint}"


def _survey(info: DatasetInfo, split: str) -> Survey:
    classes = None if info.classes is None else len(info.classes)
    with Reader(info, split) as reader:
        blocks = tqdm(survey_blocks(reader.rows), desc=f"reading {split}", leave=False, disable=None)
        return merge_surveys([survey_block(reader, lo, hi, classes) for lo, hi in blocks])


def _printable(text: str) -> str:
    return text if text.isprintable() and text.strip() == text != "" else repr(text)


# --- The command ------------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(
        "convert",
        "Make a data-set file for ddp_mlp.train out of SOURCE…: one CSV, TSV, Parquet, NPY, NPZ or HDF5 "
        "file; two files that are examples and labels (NPY, IDX), or train and test (CSV, Parquet); or four, examples "
        "and labels of train and of test, as MNIST has them. CSV, NPY and IDX may be packed with gzip. Rows and "
        "columns count from 0.",
        usage="%(prog)s [options] SOURCE… OUT.h5\n       %(prog)s --inspect FILE.h5",
        epilog="Exit codes: 0 done, 2 usage, 65 bad data, 74 cannot read or write.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="SOURCE… OUT.h5", help="the sources, then the new file")
    parser.add_argument("--label", metavar="NAME|INDEX", help="the label's column in a table; -1 is the last")
    parser.add_argument("--valid", default="0", metavar="N|FRACTION", help="rows of train for validation (0)")
    parser.add_argument("--test", default="0", metavar="N|FRACTION", help="rows of train for the final test (0)")
    parser.add_argument(
        "--order",
        choices=("file", "random", "stratified"),
        default="file",
        help="file: the last rows are test, those before them valid (the default); random: drawn from all rows; "
        "stratified: drawn from each class in proportion",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw, 0 or more (0)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "float64"),
        default="auto",
        help="of X; auto: the smallest integer type for whole numbers, else the source's own, float32 for CSV",
    )
    parser.add_argument("--header", choices=("auto", "yes", "no"), default="auto", help="CSV: is its first line names")
    parser.add_argument("--x_name", default="X", help='X in an NPZ or HDF5 file (X); "/a/b": from an HDF5 file\'s root')
    parser.add_argument("--y_name", default="y", help="the labels there (y)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.h5 if it exists")
    parser.add_argument("--inspect", action="store_true", help="print shapes, types, class counts and ranges of a file")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.inspect:
        if len(arguments.paths) != 1:
            raise ConfigError(f"--inspect: expected one file, found {len(arguments.paths)}")
        for line in describe(inspect(arguments.paths[0], arguments.x_name, arguments.y_name)):
            print(line)
        return
    *sources, out = arguments.paths
    if not sources:
        raise ConfigError("expected SOURCE… OUT.h5, found one path; --inspect shows what is in a file")
    if not 0 <= arguments.seed < 1 << 64:
        raise ConfigError(f"--seed {arguments.seed}: must be from 0 to 2^64 - 1")
    info = convert(
        Conversion(
            sources=tuple(sources),
            out=out,
            label=arguments.label,
            header=arguments.header,
            valid=parse_part("--valid", arguments.valid),
            test=parse_part("--test", arguments.test),
            order=arguments.order,
            seed=arguments.seed,
            dtype=arguments.dtype,
            x_name=arguments.x_name,
            y_name=arguments.y_name,
            overwrite=arguments.overwrite,
        )
    )
    rows = ", ".join(f"{split} {structure.rows}" for split, structure in info.splits.items())
    print(f"{out}: {rows} rows; {info.features} features, {info.splits['train'].dtype}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.alone(_parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
