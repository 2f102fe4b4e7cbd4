"""Which formats the given files have, and which splits they hold together."""

import codecs
import math
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ddp_mlp.conversion.arrays import ArrayRows, npy, npz_splits
from ddp_mlp.conversion.columns import Roles
from ddp_mlp.conversion.dialect import Asked
from ddp_mlp.conversion.hdf5 import hdf5_splits
from ddp_mlp.conversion.idx import IDX_DTYPES, idx
from ddp_mlp.conversion.source import DAMAGE, ForeignRows, open_stream, reading
from ddp_mlp.conversion.table_rows import TableRows
from ddp_mlp.conversion.tables import CsvTable, ForeignTable, ParquetTable
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.storage import dataset, hdf5
from ddp_mlp.storage.hdf5 import size_and_mtime

_LABELS = re.compile(r"y(\b|_|\d|train|valid|test)|.*(label|target)", re.IGNORECASE)
"""Names of files of labels."""


_OTHERS = {
    **{b"CDF" + version: "a netCDF file of before version 4: `nccopy -k nc4`" for version in (b"\1", b"\2", b"\5")},
    b"MATLAB 5.0": "a MATLAB file of before version 7.3: save it with -v7.3, or its matrices as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save its sheet as CSV",
    b"ARROW1": "an Arrow or Feather file: write the table as Parquet",
    b"BZh": "packed by bzip2: unpack it",
    b"\xfd7zXZ": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it",
}
"""How other programs' files begin, and what helps."""


def open_sources(
    paths: Sequence[Path], roles: Roles, asked: Asked, x_name: str | None, y_name: str | None
) -> dict[str, ForeignRows]:
    """Return the splits that the files at `paths` hold: `train`, and those that are kept apart by their author.

    One file may be a table (CSV, Parquet, a 2-D NPY), an NPZ or an HDF5 file. Two are examples and labels (NPY, IDX),
    or the tables of train and test; four are examples and labels of train and of test. HDF5 files are one data set.
    Raises ConfigError when the files do not go together, or for what was said and does not apply to them; StorageError
    and DataError for a file that cannot be used.
    """
    kinds = [kind_of(path, asked.encoding) for path in paths]
    _check_applies(kinds, roles, asked, x_name, y_name)
    mixed = " and ".join(sorted(set(kinds)))
    match kinds:
        case ["HDF5", *_] if set(kinds) == {"HDF5"}:
            info = dataset.inspect(paths, x_name or "X", y_name or "y", for_training=False, any_labels=True)
            return dict(hdf5_splits(info, roles.targets))
        case ["NPZ"]:
            return npz_splits(paths[0], x_name or "X", y_name or "y", roles.targets)
        case ["NPY"]:
            return {"train": ArrayRows(npy(paths[0]), None, roles.label)}
        case ["CSV"] | ["CSV", "CSV"]:
            return _tables(paths, kinds, roles, asked)
        case ["Parquet"] | ["Parquet", "Parquet"]:
            return _tables(paths, kinds, roles, asked)
        case ["NPY" | "IDX", "NPY" | "IDX"]:
            return {"train": _pair(paths, kinds, roles.targets)}
        case ["NPY" | "IDX", "NPY" | "IDX", "NPY" | "IDX", "NPY" | "IDX"]:
            pairs = _train_first([paths[:2], paths[2:]])
            return {
                split: _pair(pair, [kind_of(path) for path in pair], roles.targets)
                for split, pair in zip(("train", "test"), pairs, strict=True)
            }
    raise ConfigError(
        f"{len(paths)} sources ({mixed}): expected one table, NPZ or HDF5 file; examples and labels (NPY, IDX); "
        "or these for train and for test"
    )


def kind_of(path: Path, encoding: str | None = None) -> str:
    """Tell a file's format by its first bytes, unpacked where gzip packed them; `encoding` says that it is text."""
    size_and_mtime(os.fspath(path))
    with reading(path), open_stream(path) as stream:
        start = stream.read(4096)
    if start.startswith(b"\x89HDF\r\n\x1a\n") or hdf5.is_hdf5(path):
        return "HDF5"
    if start.startswith(b"\x93NUMPY"):
        return "NPY"
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if start.startswith(b"PAR1"):
        return "Parquet"
    if len(start) >= 4 and start[:2] == b"\0\0" and start[2] in IDX_DTYPES and start[3] > 0:
        return "IDX"
    for mark, what in _OTHERS.items():
        if start.startswith(mark):
            raise DataError(f"{path}: is {what}")
    if start and encoding is not None:
        return "CSV"
    if not start or (b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))):
        hint, halves = "", {"utf-16-le": (start[1::2], start[0::2]), "utf-16-be": (start[0::2], start[1::2])}
        for name, (zeros, others) in halves.items():
            if 2 * zeros.count(0) > len(zeros) and not others.count(0):
                hint = f"; if it is text, --encoding {name}"
        raise DataError(f"{path}: is no CSV, Parquet, NPY, NPZ, IDX or HDF5 file{hint}")
    return "CSV"


def _kind_of_archive(path: Path) -> str:
    """Tell NPZ from the other files that are ZIP archives; those are refused by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, *DAMAGE):
        return "NPZ"  # whoever reads it says what is wrong
    if "[Content_Types].xml" in names:
        raise DataError(f"{path}: is an Excel workbook: save its sheet as CSV")
    if names and not any(name.endswith(".npy") for name in names):
        raise DataError(f"{path}: is a ZIP archive of {', '.join(names[:3])}: unpack it, and name what is in it")
    return "NPZ"


def _check_applies(kinds: Sequence[str], roles: Roles, asked: Asked, x_name: str | None, y_name: str | None) -> None:
    """Raise ConfigError for what was said of the columns of tables, or of names, where the files have none."""
    kind = " and ".join(sorted(set(kinds)))
    tables, plain = set(kinds) <= {"CSV", "Parquet"}, Roles(label=roles.label)
    said = {
        "--weight": roles.weight,
        "--drop": roles.drop,
        "--keep": roles.keep,
        "--onehot": roles.onehot,
        "--date": roles.dates,
        "--impute": roles.impute,
        "--missing_indicator": roles.missing_indicator,
        "--categories": roles.categories != plain.categories,
    }
    if roles.targets and list(kinds) == ["NPY"]:
        raise ConfigError("--target: a single NPY has no names: save the targets as an array of their own")
    for flag, value in said.items():
        if value and not tables:
            raise ConfigError(f"{flag}: is for tables (CSV, Parquet), and the source is {kind}")
    if roles.label is not None and not tables and list(kinds) != ["NPY"]:
        raise ConfigError(f"--label {roles.label}: is for tables and a single NPY, and the source is {kind}: --y_name")
    text: dict[str, object] = {"--sep": asked.separator, "--decimal": asked.decimal, "--encoding": asked.encoding}
    text |= {"--missing": asked.missing, "--header": None if asked.header == "auto" else asked.header}
    for flag, given in text.items():
        if given is not None and set(kinds) != {"CSV"}:
            raise ConfigError(f"{flag}: is for text tables, and the source is {kind}")
    for flag, given in (("--x_name", x_name), ("--y_name", y_name)):
        if given is not None and kind not in ("HDF5", "NPZ"):
            raise ConfigError(f"{flag} {given}: is for NPZ and HDF5 files, and the source is {kind}")


def _train_first(groups: list[Sequence[Path]]) -> list[Sequence[Path]]:
    """Put the files called "train" before those that are not: a shell's `*` lists MNIST's test files first."""
    named = [all("train" in path.name.lower() for path in group) for group in groups]
    return groups[::-1] if named == [False, True] else groups


def _tables(paths: Sequence[Path], kinds: Sequence[str], roles: Roles, asked: Asked) -> dict[str, ForeignRows]:
    in_order = [path for [path] in _train_first([[path] for path in paths])]
    tables = [open_table(path, kinds[0], roles.label, asked, roles.columns_said) for path in in_order]
    return dict(zip(("train", "test"), (TableRows(table, roles) for table in tables), strict=False))


def open_table(path: Path, kind: str, label: str | None, asked: Asked, said: Sequence[str] = ()) -> ForeignTable:
    """Return the table in a CSV or Parquet file.

    `label`, if it is an index, is a column that may be text; `said` are the other columns that were named or numbered.
    """
    return CsvTable(path, asked, label, said) if kind == "CSV" else ParquetTable(path)


def _pair(paths: Sequence[Path], kinds: Sequence[str], targets: tuple[str, ...]) -> ForeignRows:
    """Return examples and labels as one source, whichever comes first."""
    arrays = [idx(path) if kind == "IDX" else npy(path) for path, kind in zip(paths, kinds, strict=True)]
    are_labels = [_LABELS.match(path.name) is not None for path in paths]
    widths = [math.prod(array.shape[1:]) for array in arrays]
    single = [len(array.shape) == 1 for array in arrays]
    if min(widths) > 1 or (max(widths) == 1 and single[0] == single[1]):
        if sum(are_labels) != 1:
            listed = " and ".join(f"{array.name} {array.shape}" for array in arrays)
            raise ConfigError(
                f"{listed}: which are the labels? call that file y.npy, or let its name have labels in it"
            )
        X, y = sorted(arrays, key=lambda array: are_labels[arrays.index(array)])
    else:
        X, y = sorted(arrays, key=lambda array: (math.prod(array.shape[1:]), len(array.shape)), reverse=True)
    return ArrayRows(X, y, targets=targets)
