"""Make a data-set file from CSV, TSV, Parquet, NPY, NPZ, IDX or HDF5 files, or show what is in one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.conversion.columns import CATEGORIES_AT_MOST, Roles, impute_method
from ddp_mlp.conversion.conversion import Conversion, convert
from ddp_mlp.conversion.dialect import MAX_COLUMNS, Asked
from ddp_mlp.conversion.inspection import contents
from ddp_mlp.conversion.splitting import parse_part
from ddp_mlp.errors import ConfigError, printable
from ddp_mlp.storage.dataset import inspect
from ddp_mlp.storage.patterns import files_of

SEPARATORS = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|"}


def _parser() -> Parser:
    parser = Parser(
        "convert",
        "Make a data-set file for ddp_mlp.train out of SOURCE…: one CSV, TSV, Parquet, NPY or NPZ file; HDF5 or "
        "netCDF-4 files, which count as one; two files that are examples and labels (NPY, IDX), or train and test "
        "(CSV, Parquet); or four, examples and labels of train and of test, as MNIST has them. CSV, NPY and IDX may be "
        "packed with gzip. Rows and columns count from 0.",
        usage="%(prog)s [options] SOURCE… OUT.h5\n       %(prog)s --inspect FILE.h5…",
        epilog="Columns of a table are named, or numbered from 0 (-1 is the last). What was done to a table is kept in "
        "OUT.h5, and predict does it to raw tables. Exit codes: 0 done, 2 usage, 65 bad data, 74 cannot read or write.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="SOURCE… OUT.h5", help="the sources, then the new file")
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
        help="of X; auto: the smallest integer type for whole numbers, else the source's own, float32 for CSV, float64 "
        "where float32 would make equal what is not",
    )
    parser.add_argument("--x_name", help='X in an NPZ or HDF5 file (X); "/a/b": from an HDF5 file\'s root')
    parser.add_argument("--y_name", help="the labels there (y)")
    parser.add_argument("--overwrite", action="store_true", help="as without: OUT.h5 is replaced if it is there")
    parser.add_argument("--inspect", action="store_true", help="print shapes, types, class counts and ranges of a file")
    _add_column_flags(parser)
    _add_text_flags(parser)
    return parser


def _add_column_flags(parser: Parser) -> None:
    columns = parser.add_argument_group("columns of a table")
    columns.add_argument("--label", metavar="NAME", help="the label; without it and --target, rows have none")
    columns.add_argument(
        "--target", metavar="NAMES", help="numbers to be met instead of a label, such as A,B; of arrays and HDF5: y's"
    )
    columns.add_argument("--weight", metavar="NAME", help="the weight of each row")
    columns.add_argument("--drop", metavar="NAMES", help="columns to leave out")
    columns.add_argument("--keep", metavar="NAMES", help="columns that look like IDs and are features all the same")
    columns.add_argument("--onehot", metavar="NAMES|auto", help="categories: 0 or 1 for each; auto: all text")
    columns.add_argument(
        "--categories",
        type=int,
        default=CATEGORIES_AT_MOST,
        metavar="N",
        help=f"features of --onehot for a column at most; the rarest share the last, other ({CATEGORIES_AT_MOST})",
    )
    columns.add_argument(
        "--date",
        action="append",
        default=[],
        metavar="NAMES|NAME=FORMAT",
        help="dates, which become days since 1970-01-01; FORMAT is strptime's, such as %%d.%%m.%%Y",
    )
    columns.add_argument("--impute", metavar="HOW", help="for missing values: mean or median of train, or constant=V")
    columns.add_argument("--missing_indicator", action="store_true", help="a feature that tells what was missing, too")


def _add_text_flags(parser: Parser) -> None:
    text = parser.add_argument_group("how a text table is written; found out where nothing is said")
    text.add_argument("--header", choices=("auto", "yes", "no"), default="auto", help="is the first line names")
    text.add_argument("--sep", metavar="CHARACTER", help="between columns: a character, tab, or space for any number")
    text.add_argument("--decimal", choices=(".", ","), help="the decimal sign")
    text.add_argument("--encoding", metavar="NAME", help="such as latin-1 or cp1252 (utf-8)")
    text.add_argument(
        "--max_columns", type=int, default=MAX_COLUMNS, metavar="N", help=f"the most that are taken ({MAX_COLUMNS})"
    )
    text.add_argument(
        "--missing", action="append", metavar="TEXT", help="a cell that is a missing value; may be given twice"
    )


def _run(asked: argparse.Namespace) -> None:
    if asked.inspect:
        paths = [Path(path) for named in asked.paths for path in files_of(named)]
        info = inspect(paths, asked.x_name or "X", asked.y_name or "y", for_training=False, any_labels=True)
        for line in contents(info):
            print(line)
        return
    *sources, out = asked.paths
    if not sources:
        raise ConfigError("expected SOURCE… OUT.h5, found one path; --inspect shows what is in a file")
    if not 0 <= asked.seed < 1 << 64:
        raise ConfigError(f"--seed {asked.seed}: must be from 0 to 2^64 - 1")
    conversion = Conversion(
        sources=tuple(sources),
        out=out,
        roles=_roles(asked),
        text=_text(asked),
        valid=parse_part("--valid", asked.valid),
        test=parse_part("--test", asked.test),
        order=asked.order,
        seed=asked.seed,
        dtype=asked.dtype,
        x_name=asked.x_name,
        y_name=asked.y_name,
    )
    info, told = convert(conversion)
    for line in told:
        print(printable(line))
    rows = ", ".join(f"{split} {structure.rows}" for split, structure in info.splits.items())
    print(f"{out}: {rows} rows; {info.features} features, {next(iter(info.splits.values())).dtype}")


def _roles(asked: argparse.Namespace) -> Roles:
    def names(text: str | None) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()

    dates: list[tuple[str, str | None]] = []
    for text in asked.date:
        name, _, form = text.partition("=")
        dates += [(name, form)] if form else [(each, None) for each in names(text)]
    if asked.label is not None and asked.target is not None:
        raise ConfigError("--label and --target: rows have a label or targets, not both")
    if asked.missing_indicator and asked.impute is None:
        raise ConfigError("--missing_indicator: needs --impute, which says what takes the place of a missing value")
    if asked.categories < 2:
        raise ConfigError(f"--categories {asked.categories}: must be at least 2")
    if asked.impute is not None:
        impute_method(asked.impute)
    return Roles(
        label=asked.label,
        targets=names(asked.target),
        weight=asked.weight,
        drop=names(asked.drop),
        keep=names(asked.keep),
        onehot=names(asked.onehot) or None,
        dates=tuple(dates),
        impute=asked.impute,
        missing_indicator=asked.missing_indicator,
        categories=asked.categories,
    )


def _text(asked: argparse.Namespace) -> Asked:
    separator = None if asked.sep is None else SEPARATORS.get(asked.sep, asked.sep)
    if separator is not None and len(separator) != 1:
        raise ConfigError(f"--sep {asked.sep}: must be one character, or tab, space, comma, semicolon, pipe")
    missing = None if asked.missing is None else tuple(asked.missing)
    if asked.max_columns < 1:
        raise ConfigError(f"--max_columns {asked.max_columns}: must be at least 1")
    return Asked(separator, asked.decimal, asked.encoding, missing, asked.header, asked.max_columns)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.alone(_parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
