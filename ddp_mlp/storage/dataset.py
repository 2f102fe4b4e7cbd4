"""Data-set files in HDF5: their structure, and their rows read and written.

A file has the groups `train` and, if wanted, `valid` and `test`, each with `X` (m, n_0) of a real numeric type, `y` and
perhaps `w` (m,), sample weights. `y` is (m,) of whole numbers, whose classes the root attribute `classes` may name, or
(m,) or (m, n_T) of any numbers, which the root attribute `targets` may name.
Other names for X and y are looked up inside each split's group; where one of the two begins with "/", both (and w) are
looked up from the root, and the file is one `train` split. Rows and columns are counted from 0.

Kept here:
- A file is judged by its structure before memory is allocated for its rows. What leads out of the file (external and
  soft links, external storage, virtual data sets), what needs a filter plugin, and what declares more rows than the
  file can hold is refused.
- Every reader opens the file for itself, read-only and without locks, and notices when the file changes.
- A file that is written here appears under its name when it is whole and on the disk, or not at all.
"""

import glob
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, ProgramError, StorageError
from ddp_mlp.storage.atomic import put_in_place
from ddp_mlp.storage.attributes import read_attribute
from ddp_mlp.storage.variables import Variable, describe_variable, joined_dtype, names_of
from ddp_mlp.storage.variables import feature_names as variable_names
from ddp_mlp.units import byte_size

SPLITS = ("train", "valid", "test")

# Filters that come with every HDF5 library, and h5py's own LZF; any other needs a plugin.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_SZIP: "szip",
    h5py.h5z.FILTER_NBIT: "nbit",
    h5py.h5z.FILTER_SCALEOFFSET: "scaleoffset",
    h5py.h5z.FILTER_LZF: "lzf",
}
OPEN_FILES = 128  # of a data set of many, each with a cache of its own
_CHUNK_BYTES_AT_MOST = 1 << 30  # a filtered chunk is unpacked whole, whatever part of it is asked for
DEFLATE_RATIO = 1032  # the most that DEFLATE can shrink anything (zlib's technical notes)
_HARMLESS_BYTES = 64 << 20  # below this, how well a data set is compressed is nobody's danger


@dataclass(frozen=True)
class FilePart:
    """The rows of a split that one file has."""

    path: str
    size_mtime: tuple[int, int]
    """(bytes, nanoseconds since 1970), by which a change is noticed."""
    group: str
    """The path of the group that holds the split; "/" for the root."""
    rows: int
    variables: tuple[Variable, ...]


@dataclass(frozen=True)
class SplitInfo:
    """One split: its number of rows, the dtype name of X (native byte order; bool counts as uint8), weights, labels."""

    rows: int
    dtype: str
    weighted: bool
    labelled: bool = True
    columns: int = 0
    """Of y: 0 where it is (rows,)."""
    parts: "tuple[FilePart, ...]" = field(default=(), compare=False)
    """Where the rows are, in their order."""


@dataclass(frozen=True)
class DatasetInfo:
    """The structure of a data-set file, as `inspect` found it; small, and picklable.

    `splits` holds those of train, valid and test that the file has, in this order. `classes` are the class names and
    `targets` those of numbers, or None where the file names none. `size_mtime` is (bytes, nanoseconds since 1970) of
    all files together.
    """

    path: str
    features: int
    classes: tuple[str, ...] | None
    splits: dict[str, SplitInfo]
    x_name: str
    y_name: str
    size_mtime: tuple[int, int]
    names: tuple[str, ...] | None = None
    """Of the features; None where the file names none."""
    feature_shape: tuple[int, ...] | None = None
    """Of the features of a row, where they are of one kind: an image, a field."""
    recipe: str | None = None
    """How a raw table becomes these features (JSON), where they were made of one."""
    order: tuple[int, ...] | None = None
    """Which of the file's features are read, in this order; None: all as they are."""
    targets: tuple[str, ...] | None = None
    numbers: int = 0
    """How many numbers a row's target is read as; 0 where it is read as a class number."""

    @property
    def target_dtype(self) -> np.dtype[Any]:
        """That of y as it is read: int64 for class numbers, float64 for numbers."""
        return np.dtype(np.float64 if self.numbers else np.int64)

    def target_shape(self, rows: int) -> tuple[int, ...]:
        """Return the shape of y as it is read: (rows,) for class numbers, (rows, numbers) for numbers."""
        return (rows, self.numbers) if self.numbers else (rows,)

    @property
    def features_in_file(self) -> int:
        """How many features a row has in the file."""
        for structure in self.splits.values():
            if structure.parts:
                return sum(variable.width for variable in structure.parts[0].variables)
        return self.features


# --- Structure ------------------------------------------------------------------------------------------------------


def inspect(
    data: str | Path,
    x_name: str = "X",
    y_name: str = "y",
    for_training: bool = True,
    valid: str | Path | None = None,
    test: str | Path | None = None,
) -> DatasetInfo:
    """Return the structure of a data set; no row is read. Local: no MPI.

    `data` is a file, or a pattern such as "train/*.h5": files that count as one, in the order of their names. `valid`
    and `test` are the same for splits that are files of their own: their group of that name counts, else train.
    Where it is not `for_training`, labels may be missing, and so may train if there is another split.
    Raises StorageError when a file is missing or cannot be read, DataError for everything that is wrong inside.
    """
    info = _joined([inspect_file(path, x_name, y_name, for_training) for path in files_of(data)])
    for split, pattern in (("valid", valid), ("test", test)):
        if pattern is None:
            continue
        if split in info.splits:
            raise DataError(f"{info.path}: has a split {split} of its own: leave {split}_data out, or name other data")
        apart = [inspect_file(path, x_name, y_name, False) for path in files_of(pattern)]
        found = [replace(one, splits={split: one.splits.get(split) or one.splits["train"]}) for one in apart]
        together = _joined(found)
        _check_alike(replace(info, splits={split: next(iter(info.splits.values()))}), together)
        info = replace(info, splits={**info.splits, **together.splits})
    return replace(info, splits={split: info.splits[split] for split in SPLITS if split in info.splits})


def arranged(info: DatasetInfo, names: Sequence[str] | None) -> tuple[DatasetInfo, list[str]]:
    """Return a data set whose features are read in the order of `names`, and the names of those left out.

    Where either side has no names, features are taken as they come. Raises DataError for names that are not there.
    """
    if names is None or info.names is None or info.names == tuple(names):
        return info, []
    missing = [name for name in names if name not in info.names]
    if missing:
        found = _short(info.names)
        raise DataError(f"{info.path}: has no feature {_short(tuple(missing))}, which training had; found {found}")
    places = {name: place for place, name in enumerate(info.names)}
    order = tuple(places[name] for name in names)
    left_out = [name for name in info.names if name not in set(names)]
    return replace(info, features=len(order), names=tuple(names), order=order), left_out


def files_of(pattern: str | Path) -> list[str]:
    """Return the files that a path or a pattern names, ordered by name. StorageError where there is none."""
    text = os.fspath(pattern)
    if os.path.exists(text) or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise StorageError(f"{text}: no file has such a name")
    return found


def _joined(infos: Sequence[DatasetInfo]) -> DatasetInfo:
    """Return files as one data set; DataError names the first that does not fit."""
    first = infos[0]
    for info in infos[1:]:
        _check_alike(first, info)
    if len(infos) == 1:
        return first
    splits: dict[str, SplitInfo] = {}
    for split, structure in first.splits.items():
        parts = tuple(part for info in infos for part in info.splits[split].parts)
        splits[split] = replace(structure, rows=sum(part.rows for part in parts), parts=parts)
    size = sum(info.size_mtime[0] for info in infos), max(info.size_mtime[1] for info in infos)
    return replace(first, path=f"{first.path} and {len(infos) - 1} more", splits=splits, size_mtime=size)


def _check_alike(first: DatasetInfo, info: DatasetInfo) -> None:
    """Raise DataError unless the second has the splits, features, types and classes of the first."""
    if list(info.splits) != list(first.splits):
        raise DataError(f"{info.path}: has {', '.join(info.splits)}, but {first.path} {', '.join(first.splits)}")
    for what, theirs, ours in (
        ("features", info.features, first.features),
        ("features called", info.names, first.names),
        ("classes", info.classes, first.classes),
        ("targets", info.targets, first.targets),
    ):
        if theirs != ours:
            raise DataError(f"{info.path}: has {_short(theirs)} {what}, but {first.path} {_short(ours)}")
    for split, structure in info.splits.items():
        other = first.splits[split]
        kinds, others = ([(v.tail, v.dtype) for v in one.parts[0].variables] for one in (structure, other))
        if structure.columns != other.columns:
            raise DataError(
                f"{info.path}: {split} has {structure.columns or 1} targets, that of {first.path} {other.columns or 1}"
            )
        if kinds != others:
            raise DataError(f"{info.path}: {split} is {_kinds(structure)}, but that of {first.path} is {_kinds(other)}")
        for name in ("weighted", "labelled"):
            if getattr(structure, name) != getattr(other, name):
                found = "is" if getattr(structure, name) else "is not"
                raise DataError(f"{info.path}: {split} {found} {name}, unlike that of {first.path}")


def _kinds(structure: SplitInfo) -> str:
    return ", ".join(f"{v.name} (m, {', '.join(map(str, v.tail))}) {v.dtype}" for v in structure.parts[0].variables)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(repr, value[:5])) + (", …" if len(value) > 5 else "")
    return "no names of" if value is None else str(value)


def inspect_file(path: str | Path, x_name: str = "X", y_name: str = "y", for_training: bool = True) -> DatasetInfo:
    """Return the structure of one data-set file; no row is read. Local: no MPI.

    Where it is not `for_training`, labels may be missing, and so may train if there is another split.
    Raises StorageError when the file is missing or cannot be read, DataError for everything that is wrong inside it.
    """
    path = os.fspath(path)
    size_mtime = size_and_mtime(path)
    with _open(path) as file, _named_failures(path, "is damaged"):
        groups = _split_groups(file, path, x_name, y_name, for_training)
        splits: dict[str, SplitInfo] = {}
        features: dict[str, int] = {}
        for split, group in groups.items():
            found, part = _inspect_split(group, path, split, x_name, y_name, for_training)
            splits[split] = replace(found, parts=(replace(part, size_mtime=size_mtime),))
            features[split] = sum(variable.width for variable in part.variables)
        if len(set(features.values())) > 1:
            counts = ", ".join(f"{split} has {n}" for split, n in features.items())
            raise DataError(f"{path}: {counts} features: every split must have as many as train")
        width = next(iter(features.values()))
        columns = {split: found.columns for split, found in splits.items() if found.labelled}
        if len({n or 1 for n in columns.values()}) > 1:
            counts = ", ".join(f"{split} has {n or 1}" for split, n in columns.items())
            raise DataError(f"{path}: {counts} targets: every split must have as many as train")
        classes, targets = _names(file, path, "classes"), _names(file, path, "targets")
        if targets is not None and columns and len(targets) != (next(iter(columns.values())) or 1):
            count = next(iter(columns.values())) or 1
            raise DataError(f"{path}: attribute targets has {len(targets)} names, but {y_name!r} has {count} columns")
        variables = next(iter(splits.values())).parts[0].variables
        names, shape, recipe = _feature_names(file, path, width), _feature_shape(file, path, width), _recipe(file, path)
        if len(variables) > 1:
            names = names or variable_names(variables)
        elif len(variables[0].tail) > 1:
            shape = shape or variables[0].tail
    info = DatasetInfo(path, width, classes, splits, x_name, y_name, size_mtime)
    return replace(info, names=names, feature_shape=shape, recipe=recipe, targets=targets)


def check_unchanged(info: DatasetInfo) -> None:
    """Raise DataError when the file is no longer the one that was inspected (size or time of change). Local."""
    for structure in info.splits.values():
        for part in structure.parts:
            check_part_unchanged(part)


def check_part_unchanged(part: FilePart) -> None:
    """Raise DataError when a file is no longer the one that was inspected. Local."""
    if size_and_mtime(part.path) != part.size_mtime:
        raise DataError(f"{part.path}: was changed while it was in use; leave it alone during a run, and start again")


def size_and_mtime(path: str) -> tuple[int, int]:
    """Return the bytes of a regular file and its time of change (ns); StorageError where there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path}: is not a regular file: name an HDF5 file")
    return status.st_size, status.st_mtime_ns


def _open(path: str) -> h5py.File:
    """Open `path` with HDF5, read-only and without locks."""
    try:
        with open(path, "rb"):  # Python's own message for a file that cannot be read is the better one
            pass
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    with _named_failures(path, "is damaged"):
        if not h5py.is_hdf5(path):
            raise DataError(f"{path}: is not an HDF5 file; `python -m ddp_mlp.convert` makes one from other formats")
        try:
            return h5py.File(path, "r", locking=False)
        except OSError as error:
            if "truncated" in str(error):
                raise DataError(f"{path}: is cut short ({one_line(error)}); copy it or make it again") from error
            raise


@contextmanager
def _named_failures(path: str, what: str) -> Iterator[None]:
    """Turn what h5py raises into one line that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        # HDF5 puts the operating system's error number into its text; without one, the bytes themselves are wrong.
        kind = StorageError if getattr(error, "errno", None) or "errno = " in str(error) else DataError
        raise kind(f"{path}: {what}, HDF5 says: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Return what `error` says as one line of printable text."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _from_root(x_name: str, y_name: str) -> bool:
    return x_name.startswith("/") or y_name.startswith("/")


def _split_groups(file: h5py.File, path: str, x_name: str, y_name: str, for_training: bool) -> dict[str, h5py.Group]:
    if _from_root(x_name, y_name):
        return {"train": file}
    groups: dict[str, h5py.Group] = {}
    for split in SPLITS:
        group = _follow(file, split, path)
        if group is not None and not isinstance(group, h5py.Group):
            raise DataError(f"{path}: {split} is not a group: expected a group that holds {x_name!r} and {y_name!r}")
        if group is not None:
            groups[split] = group
    if "train" not in groups and (for_training or not groups):
        raise DataError(
            f"{path}: has no group train; found {_members(file)}; "
            f'for X and y outside of such a group give their paths: --x_name "/…" --y_name "/…"'
        )
    return groups


def _follow(group: h5py.Group, name: str, path: str) -> Any:
    """Return the object called `name` (with "/": a path) in `group`, or None; refuse a link that leads elsewhere."""
    place = group
    for part in [part for part in name.split("/") if part]:
        link = part.encode()
        if not isinstance(place, h5py.Group) or not place.id.links.exists(link):
            return None
        if place.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            raise DataError(
                f"{path}: {name!r} is a soft or external link: the data must be in the file itself (h5repack, h5copy)"
            )
        place = place[part]
    return place


def _members(group: h5py.Group) -> str:
    names = [repr(name) for name in islice(group, 11)]
    return ", ".join([*names[:10], "…"][: len(names)]) if names else "nothing"


def _inspect_split(
    group: h5py.Group, path: str, split: str, x_name: str, y_name: str, needs_labels: bool
) -> tuple[SplitInfo, FilePart]:
    """Return the split's description, and where its rows are in this file."""
    x_names = names_of(x_name)
    arrays: dict[str, h5py.Dataset] = {}
    for name in (*x_names, y_name, "w"):
        array = _follow(group, name, path)
        if array is None and (name in x_names or (name == y_name and needs_labels)):
            raise DataError(
                f"{path}: {split} has no {name!r}; found {_members(group)}; --x_name and --y_name choose other names"
            )
        if array is not None:
            where = f"{path}: {name!r} of {split}"
            if not isinstance(array, h5py.Dataset):
                raise DataError(f"{where} is not a data set")
            _check_storage(array, where, is_label=name == y_name)
            arrays[name] = array
    rows = _rows_of(arrays, x_names, path, split)
    for name, array in arrays.items():
        fits = array.shape == (rows,) or (name == y_name and array.ndim == 2 and array.shape[0] == rows)
        if name not in x_names and not (fits and math.prod(array.shape)):
            raise DataError(_wrong_shape(arrays, x_names, name, f"{path}: {name!r} of {split}", rows, name == y_name))
    for array in arrays.values():  # allocated whole by whoever reads the split
        _check_extent(array, f"{path}: {array.name!r}")
    variables = tuple(describe_variable(name, arrays[name], f"{path}: {name!r} of {split}") for name in x_names)
    columns = arrays[y_name].shape[1] if y_name in arrays and arrays[y_name].ndim == 2 else 0
    structure = SplitInfo(rows, joined_dtype(variables), "w" in arrays, y_name in arrays, columns)
    return structure, FilePart(path, (0, 0), group.name or "/", rows, variables)


def _rows_of(arrays: Mapping[str, h5py.Dataset], x_names: Sequence[str], path: str, split: str) -> int:
    """Return how many rows the features have; DataError where they are none, or not as many in every array."""
    for name in x_names:
        X = arrays[name]
        if X.ndim < 1 or (X.ndim < 2 and len(x_names) == 1):
            raise DataError(f"{path}: {name!r} of {split} has shape {X.shape}: must be 2-D, (examples, features)")
        if not math.prod(X.shape):
            raise DataError(f"{path}: {name!r} of {split} has shape {X.shape}: must hold examples and features")
        if X.shape[0] != arrays[x_names[0]].shape[0]:
            raise DataError(
                f"{path}: {name!r} of {split} has {X.shape[0]} rows, but {x_names[0]!r} {arrays[x_names[0]].shape[0]}"
            )
    return int(arrays[x_names[0]].shape[0])


def _wrong_shape(
    arrays: Mapping[str, h5py.Dataset], x_names: Sequence[str], name: str, where: str, rows: int, is_target: bool
) -> str:
    """Say what is wrong with labels or weights that are not one per row, and what helps."""
    array, X = arrays[name], arrays[x_names[0]]
    must = f"({rows},){f' or ({rows}, targets)' if is_target else ''}"
    found = f"{where} has shape {array.shape}"
    size = math.prod(array.shape)
    if len(x_names) == 1 and size == X.shape[-1] != rows:
        return f"{found}, and {x_names[0]!r} {X.shape}: is X transposed, as MATLAB writes it? write X.T"
    remedy = "; `python -m ddp_mlp.convert` makes that of it" if size == rows else ""
    return f"{found}: must be {must}, one per row of {x_names[0]!r}{remedy}"


def _check_storage(array: h5py.Dataset, where: str, is_label: bool = False) -> None:
    """Refuse what is not plain numbers kept inside the file."""
    kind = array.id.get_type().get_class()
    if kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and not (kind == h5py.h5t.ENUM and array.dtype == np.bool_):
        names = {
            h5py.h5t.STRING: "text",
            h5py.h5t.COMPOUND: "a compound type",
            h5py.h5t.VLEN: "of variable length",
            h5py.h5t.REFERENCE: "references",
            h5py.h5t.ENUM: "an enumeration",
        }
        remedy = "; `python -m ddp_mlp.convert` numbers labels of text" if is_label and kind == h5py.h5t.STRING else ""
        raise DataError(f"{where} is {names.get(kind, 'of an unknown type')}: must be integers or floats{remedy}")
    if array.dtype.itemsize > 8:
        raise DataError(f"{where} is {array.dtype}: must be at most 64 bits wide")
    properties = array.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise DataError(f"{where} is a virtual data set: the data must be in the file itself (h5repack)")
    if properties.get_external_count():
        raise DataError(f"{where} is kept in another file (external storage): it must be in the file itself (h5repack)")
    for position in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(position)
        if code not in _FILTERS or not h5py.h5z.filter_avail(code):
            label = _FILTERS.get(code) or name.decode(errors="replace") or "unnamed"
            raise DataError(f"{where} needs the HDF5 filter {code} ({label!r}), not built in: h5repack it to gzip")


def _check_extent(array: h5py.Dataset, where: str) -> None:
    """Refuse a data set whose declared shape is more than its part of the file can hold."""
    declared = math.prod(array.shape) * array.dtype.itemsize
    stored = array.id.get_storage_size()
    properties = array.id.get_create_plist()
    refusal = DataError(f"{where} declares {declared} bytes but the file holds {stored}: it was not written to the end")
    if properties.get_layout() != h5py.h5d.CHUNKED:
        offset = array.id.get_offset()  # None: compact, inside the header, or never written
        beyond = offset is not None and offset + declared > os.stat(array.file.filename).st_size
        if stored < declared or beyond:
            raise refusal
        return
    chunk = properties.get_chunk()
    chunks = math.prod(-(-extent // size) for extent, size in zip(array.shape, chunk, strict=True))
    if array.id.get_num_chunks() < chunks:
        raise refusal
    filters = [properties.get_filter(position)[0] for position in range(properties.get_nfilters())]
    if filters and math.prod(chunk) * array.dtype.itemsize > _CHUNK_BYTES_AT_MOST:
        raise DataError(f"{where} is packed in chunks of {chunk}: a chunk must be at most 1 GiB (h5repack)")
    ratio = DEFLATE_RATIO if filters else 1
    if declared > max(_HARMLESS_BYTES if filters else 0, ratio * stored):
        raise refusal


def is_hdf5(path: str | Path) -> bool:
    """Tell whether a file is HDF5, with a user block before it or not; StorageError where it cannot be read."""
    with _named_failures(os.fspath(path), "cannot be read"):
        return bool(h5py.is_hdf5(path))


def _feature_names(file: h5py.File, path: str, width: int) -> tuple[str, ...] | None:
    if "features" not in file.attrs:
        return None
    values = read_attribute(file, path, "features")
    if values.shape != (width,) or values.dtype.kind not in "SOU":
        raise DataError(f"{path}: attribute features is {values.dtype} {values.shape}: must be {width} names")
    names = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values.tolist()]
    return tuple(names) if len(set(names)) == width else None  # a name that two features have finds neither


def _feature_shape(file: h5py.File, path: str, width: int) -> tuple[int, ...] | None:
    if "feature_shape" not in file.attrs:
        return None
    values = read_attribute(file, path, "feature_shape")
    if values.ndim != 1 or values.dtype.kind not in "iu" or math.prod(values.tolist()) != width:
        raise DataError(f"{path}: attribute feature_shape is {values.tolist()}: must make up {width} features")
    return tuple(values.tolist())


def _recipe(file: h5py.File, path: str) -> str | None:
    if "recipe" not in file.attrs:
        return None
    value = read_attribute(file, path, "recipe").item()
    return value.decode() if isinstance(value, bytes) else str(value)


def _names(file: h5py.File, path: str, attribute: str) -> tuple[str, ...] | None:
    """Return the names in a root attribute, or None where there is none."""
    if attribute not in file.attrs:
        return None
    values = read_attribute(file, path, attribute)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "SOUiu":
        raise DataError(f"{path}: attribute {attribute} is {values.dtype} {values.shape}: must be a list of names")
    names = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values.tolist()]
    for name, following in pairwise(sorted(names)):
        if name == following:
            raise DataError(f"{path}: attribute {attribute} names {name!r} twice")
    return tuple(names)


# --- Rows -----------------------------------------------------------------------------------------------------------


class Reader:
    """The rows of one split, read from the file when asked for; a context manager. Local: no MPI.

    Every method raises DataError when the file is damaged or no longer the one that was inspected, StorageError when
    the system cannot read it.
    """

    def __init__(self, info: DatasetInfo, split: str) -> None:
        check_unchanged(info)
        self.info = info
        self.split = split
        self.rows = info.splits[split].rows
        self.features = info.features
        self.dtype = np.dtype(info.splits[split].dtype)
        self._parts = info.splits[split].parts
        self._ends = np.cumsum([part.rows for part in self._parts])
        self._files: dict[int, h5py.File] = {}
        self._arrays: dict[tuple[int, str], h5py.Dataset] = {}
        structure = info.splits[split]
        self._y_type = self._type_of(info.y_name) if structure.labelled else None
        self._weighted = structure.weighted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the reader cannot be used afterwards."""
        for file in self._files.values():
            file.close()

    def X(self, lo: int, hi: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return rows [lo, hi) of X, (hi - lo, features) in the file's dtype; in `out` (C-contiguous) when given."""
        if out is None:
            out = np.empty((hi - lo, self.features), self.dtype)
        order = self.info.order
        whole = out if order is None else np.empty((hi - lo, self.info.features_in_file), self.dtype)
        for number, a, b, rows in self._stretches(lo, hi):
            self._read_features(number, a, b, whole[rows])
        if order is not None:
            np.take(whole, order, axis=1, out=out)
        return out

    def _read_features(self, number: int, lo: int, hi: int, out: NDArray[Any]) -> None:
        """Read rows [lo, hi) of one file into `out` (hi - lo, features of the file)."""
        part = self._parts[number]
        first = part.variables[0]
        if len(part.variables) == 1 and first.plain and first.dtype == out.dtype.name and out.flags.c_contiguous:
            self._read_array(number, first.name, lo, hi, out.reshape(hi - lo, *first.tail))
            return
        column = 0
        for variable in part.variables:
            raw = np.empty((hi - lo, *variable.tail), variable.stored)
            self._read_array(number, variable.name, lo, hi, raw)
            place = out[:, column : column + variable.width]
            where = f"{part.path}: {variable.name!r} of {self.split}"
            variable.unpack(raw.reshape(hi - lo, variable.width), place, where, lo)
            column += variable.width

    def y(self, lo: int, hi: int) -> NDArray[Any]:
        """Return targets [lo, hi): numbers (hi - lo, n_T) float64 where the file is so read, else class numbers.

        Those are (hi - lo,) int64; DataError where one is not a whole number.
        """
        raw = self.raw_y(lo, hi)
        if self.info.numbers:
            return raw.reshape(hi - lo, -1).astype(np.float64)
        if raw.ndim == 2 and raw.shape[1] != 1:
            raise self.refusal(self.info.y_name, f"has {raw.shape[1]} columns: a class number is one per row")
        raw = raw.reshape(-1)
        labels: NDArray[np.int64]
        with np.errstate(invalid="ignore"):
            labels = raw.astype(np.int64)
        wrong = np.flatnonzero(labels != raw)  # fractions, NaN, and what int64 cannot hold
        if wrong.size:
            raise self.refusal(self.info.y_name, f"row {lo + wrong[0]} is {raw[wrong[0]]}: must be a whole number")
        return labels

    def raw_y(self, lo: int, hi: int) -> NDArray[Any]:
        """Return targets [lo, hi) as they are in the file, (hi - lo,) or (hi - lo, columns)."""
        if self._y_type is None:
            raise self.refusal(self.info.y_name, "is not there")
        dtype, tail = self._y_type
        raw = np.empty((hi - lo, *tail), dtype)
        self._read(self.info.y_name, lo, hi, raw)
        return raw

    def w(self, lo: int, hi: int) -> NDArray[np.float64]:
        """Return sample weights [lo, hi), (hi - lo,) float64; ones where the split has none."""
        weights = np.ones(hi - lo)
        if self._weighted:
            self._read("w", lo, hi, weights)
        return weights

    def _read(self, name: str, lo: int, hi: int, out: NDArray[Any]) -> None:
        """Read rows [lo, hi) of an array that every file has into `out` (hi - lo, …)."""
        for number, a, b, rows in self._stretches(lo, hi):
            self._read_array(number, name, a, b, out[rows])

    def _stretches(self, lo: int, hi: int) -> Iterator[tuple[int, int, int, slice]]:
        """Yield where rows [lo, hi) are: the number of a file, its rows [a, b), and their place among those wanted."""
        if not 0 <= lo <= hi <= self.rows:
            raise IndexError(f"rows [{lo}, {hi}) of {self.rows}")
        number = int(np.searchsorted(self._ends, lo, side="right"))
        while lo < hi:
            start = int(self._ends[number]) - self._parts[number].rows
            stop = min(hi, int(self._ends[number]))
            done = hi - lo
            yield number, lo - start, stop - start, slice(-done, (stop - hi) or None)
            lo, number = stop, number + 1

    def _read_array(self, number: int, name: str, lo: int, hi: int, out: NDArray[Any]) -> None:
        part = self._parts[number]
        source = self._array(number, name)
        if source.dtype.kind == "b" and out.dtype == np.uint8:
            out = out.view(np.bool_)
        try:
            with _named_failures(part.path, f"rows [{lo}, {hi}) of {source.name!r} cannot be read"):
                source.read_direct(out, np.s_[lo:hi])
        except ProgramError:
            check_part_unchanged(part)  # the better reason, if it is one
            raise
        check_part_unchanged(part)

    def _array(self, number: int, name: str) -> h5py.Dataset:
        """Return an array of a file, which is opened where it is not."""
        part = self._parts[number]
        if (number, name) not in self._arrays:
            if number not in self._files:
                self._make_room()
                try:
                    self._files[number] = _open(part.path)
                except DataError:
                    check_part_unchanged(part)  # between the first look and this one
                    raise
            with _named_failures(part.path, "is damaged"):
                self._arrays[number, name] = _with_chunk_cache(self._files[number][part.group][name])
        return self._arrays[number, name]

    def _type_of(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Return the type of an array, native byte order, and the shape of a row."""
        array = self._array(0, name)
        return array.dtype.newbyteorder("="), tuple(array.shape[1:])

    def _make_room(self) -> None:
        """Close the file that has been open longest where there are too many."""
        if len(self._files) >= OPEN_FILES:
            oldest = next(iter(self._files))
            self._files.pop(oldest).close()
            self._arrays = {key: array for key, array in self._arrays.items() if key[0] != oldest}

    def refusal(self, name: str, what: str) -> DataError:
        """Return the error that says `what` is wrong in the array `name` of this split."""
        return DataError(f"{self.info.path}: {name!r} of {self.split}, {what}")


def _with_chunk_cache(array: h5py.Dataset) -> h5py.Dataset:
    """Reopen `array` with a cache for one row of chunks, so that reading on does not unpack a chunk twice."""
    if not array.chunks:
        return array
    across = math.prod(-(-extent // size) for extent, size in zip(array.shape[1:], array.chunks[1:], strict=True))
    row_of_chunks = math.prod(array.chunks) * array.dtype.itemsize * across
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(12_421, min(max(row_of_chunks, 8 << 20), _CHUNK_BYTES_AT_MOST), 1.0)
    return h5py.Dataset(h5py.h5d.open(array.file.id, array.name.encode(), access))


class DatasetWriter:
    """A new data-set file, filled split by split in row order; a context manager. Local: no MPI.

    X is (rows, features) in `dtype`, y (rows,) the smallest unsigned integer for `classes` classes, or where there are
    `targets` (rows, targets) float64, w float64 where `weighted`; all contiguous. `names` become the root attribute
    `classes`, `targets` the root attribute of that name, `attributes` further ones (texts, integers, lists of texts).
    The file appears under `path` when the `with` block ends without an error, whole and on the disk, in place of what
    was there; otherwise nothing stays behind.

    Raises StorageError when the disk cannot hold or take it.
    """

    def __init__(
        self,
        path: str | Path,
        rows: Mapping[str, int],
        features: int,
        dtype: np.dtype[Any],
        classes: int | None,
        weighted: bool = False,
        names: Sequence[str] | None = None,
        attributes: Mapping[str, str | int | Sequence[str] | Sequence[int]] | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(f".{self.path.name}.tmp-{os.getpid()}")
        self._rows = dict(rows)
        self._written = dict.fromkeys(rows, 0)
        labelled = bool(targets) or classes is not None
        target_dtype = np.dtype(np.float64) if targets or classes is None else np.min_scalar_type(classes - 1)
        target_shape = (len(targets),) if targets else ()
        target_bytes = target_dtype.itemsize * math.prod(target_shape) * labelled
        needed = sum(rows.values()) * (features * dtype.itemsize + target_bytes + 8 * weighted)
        with self._failures():
            free = shutil.disk_usage(self.path.parent).free
            if needed > free:
                raise StorageError(
                    f"{self.path}: needs {byte_size(needed)}, and its folder's disk has {byte_size(free)} left"
                )
            # The format of HDF5 1.8: its attributes may be longer than 64 KiB, and every library of today reads it.
            self._file = h5py.File(self._part, "w", libver=("v108", "v108"))
        with self._failures(), self._or_nothing():
            for split, count in rows.items():
                self._file.create_dataset(f"{split}/X", (count, features), dtype)
                if labelled:
                    self._file.create_dataset(f"{split}/y", (count, *target_shape), target_dtype)
                if weighted:
                    self._file.create_dataset(f"{split}/w", (count,), np.float64)
            if names is not None:
                self._file.attrs["classes"] = fixed_length(names)
            if targets:
                self._file.attrs["targets"] = fixed_length(targets)
            for name, value in (attributes or {}).items():
                self._file.attrs[name] = _attribute(value)

    def append(self, split: str, X: NDArray[Any], y: NDArray[Any] | None, w: NDArray[Any] | None = None) -> None:
        """Write the next rows of `split`: X (k, features), y (k,) or (k, targets) and, in a weighted file, w (k,)."""
        lo = self._written[split]
        hi = lo + len(X)
        if hi > self._rows[split]:
            raise IndexError(f"{split} was to have {self._rows[split]} rows")
        if lo < hi:
            with self._failures():
                for name, values in (("X", X), ("y", y), ("w", w)):
                    if values is not None:
                        self._file[split][name][lo:hi] = values
        self._written[split] = hi

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._failures(), self._or_nothing():
            self._file.close()
            if error is None:
                if self._written != self._rows:
                    raise ValueError(f"wrote {self._written} of {self._rows} rows")
                put_in_place(self._part, self.path)
        if error is not None:
            self._part.unlink(missing_ok=True)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py raises RuntimeError for a disk that is full at the end
            raise StorageError(f"{self.path}: cannot be written: {one_line(error)}") from error

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Leave no file behind when the block fails."""
        try:
            yield
        except BaseException:
            self._file.close()
            self._part.unlink(missing_ok=True)
            raise


def _attribute(value: str | int | Sequence[str] | Sequence[int]) -> Any:
    if isinstance(value, int | str):
        return value
    if all(isinstance(entry, int) for entry in value):
        return np.array(value, np.int64)
    return fixed_length([str(entry) for entry in value])


def fixed_length(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return UTF-8 strings of one length: no variable-length heap, and any HDF5 reader shows them."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))
