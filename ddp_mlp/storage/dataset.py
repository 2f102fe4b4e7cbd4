"""Data-set files in HDF5: what is in them, one or several that count as one; no row is read here.

A file has the groups `train` and, if wanted, `valid` and `test`, each with `X` (m, n_0) of a real numeric type, `y` and
perhaps `w` (m,), sample weights. `y` is (m,) of whole numbers, whose classes the root attribute `classes` may name, or
(m,) or (m, n_T) of any numbers, which the root attribute `targets` may name.
Other names for X and y are looked up inside each split's group; where one of the two begins with "/", both (and w) are
looked up from the root, and the file is one `train` split. Rows and columns are counted from 0.

Kept here:
- A file is judged by its structure before memory is allocated for its rows: see `hdf5.py`.
- What is found of a file says its size and time of change, so that whoever reads it notices when it becomes another.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ddp_mlp.errors import DataError
from ddp_mlp.storage.attributes import read_attribute
from ddp_mlp.storage.hdf5 import check_extent, check_plain, follow, members, named_failures, open_hdf5, size_and_mtime
from ddp_mlp.storage.patterns import files_of
from ddp_mlp.storage.variables import Variable, describe_variable, joined_dtype, split_names
from ddp_mlp.storage.variables import feature_names as variable_names

SPLITS = ("train", "valid", "test")


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
    y: Variable | None = None
    """The targets, where there are any that are numbers."""
    w: Variable | None = None


@dataclass(frozen=True)
class SplitInfo:
    """One split: its number of rows, the dtype name of X (native byte order; bool counts as uint8), weights, labels."""

    rows: int
    dtype: str
    weighted: bool
    labelled: bool = True
    columns: int = 0
    """Of y: 0 where it is (rows,)."""
    odd: str = ""
    """What y is, where `convert` alone reads it: text, or a row (1, rows)."""
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


def inspect(
    data: str | Path | Sequence[Path],
    x_name: str = "X",
    y_name: str = "y",
    for_training: bool = True,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    any_labels: bool = False,
) -> DatasetInfo:
    """Return the structure of a data set; no row is read. Local: no MPI.

    `data` is a file, a pattern such as "train/*.h5": files that count as one, in the order of their names; or files in
    the order that is given. `valid` and `test` are splits that are files of their own: their group of that name counts,
    else train. Where it is not `for_training`, labels may be missing, and so may train if there is another split. With
    `any_labels` they may be text or lie in a row, as `Reader.any_y` reads them.
    Raises StorageError when a file is missing or cannot be read, DataError for everything that is wrong inside.
    """
    paths = files_of(data) if isinstance(data, str | Path) else [os.fspath(path) for path in data]
    info = _joined([inspect_file(path, x_name, y_name, for_training, any_labels) for path in paths])
    for split, pattern in (("valid", valid), ("test", test)):
        if pattern is None:
            continue
        if split in info.splits:
            raise DataError(f"{info.path}: has a split {split} of its own: leave {split}_data out, or name other data")
        apart = [inspect_file(path, x_name, y_name, False) for path in files_of(pattern)]
        together = _joined([_as_split(one, split) for one in apart])
        _check_alike(replace(info, splits={split: next(iter(info.splits.values()))}), together)
        info = replace(info, splits={**info.splits, **together.splits})
    return replace(info, splits={split: info.splits[split] for split in SPLITS if split in info.splits})


def _as_split(info: DatasetInfo, split: str) -> DatasetInfo:
    """Return a file of which its group of that name counts, else train."""
    structure = info.splits.get(split) or info.splits.get("train")
    if structure is None:
        raise DataError(f"{info.path}: has {', '.join(info.splits)}: expected {split}, or train, for {split}_data")
    return replace(info, splits={split: structure})


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


def _joined(infos: Sequence[DatasetInfo]) -> DatasetInfo:
    """Return files as one data set; DataError names the first that does not fit."""
    first = infos[0]
    for info in infos[1:]:
        _check_alike(first, info)
        _check_targets_alike(first, info)
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
        ("classes", info.classes, first.classes),
        ("targets", info.targets, first.targets),
    ):
        if theirs != ours:
            raise DataError(f"{info.path}: has {_short(theirs)} {what}, but {first.path} {_short(ours)}")
    if info.names != first.names:
        called, there = (_short(names) if names else "no names" for names in (info.names, first.names))
        raise DataError(f"{info.path}: its features are called {called}, but those of {first.path} {there}")
    for split, structure in info.splits.items():
        other = first.splits[split]
        kinds, others = ([(v.tail, v.dtype) for v in one.parts[0].variables] for one in (structure, other))
        if bool(structure.odd) != bool(other.odd):
            raise DataError(
                f"{info.path}: labels of {split} are {structure.odd or 'numbers'}, those of {first.path} "
                f"{other.odd or 'numbers'}"
            )
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


def _check_targets_alike(first: DatasetInfo, info: DatasetInfo) -> None:
    """Raise DataError unless one type holds the targets of both: whole numbers of any size, or floats."""
    for split, structure in info.splits.items():
        ours, theirs = first.splits[split].parts[0].y, structure.parts[0].y
        if ours and theirs:
            kinds = [np.dtype(name).kind == "f" for name in (ours.dtype, theirs.dtype, joined_dtype([ours, theirs]))]
            if len(set(kinds)) > 1:
                raise DataError(
                    f"{info.path}: {info.y_name!r} of {split} is {theirs.dtype}, but that of {first.path} {ours.dtype}"
                )


def _kinds(structure: SplitInfo) -> str:
    return ", ".join(f"{v.name} (m, {', '.join(map(str, v.tail))}) {v.dtype}" for v in structure.parts[0].variables)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(repr, value[:5])) + (", …" if len(value) > 5 else "")
    return "no names of" if value is None else str(value)


def inspect_file(
    path: str | Path, x_name: str = "X", y_name: str = "y", for_training: bool = True, any_labels: bool = False
) -> DatasetInfo:
    """Return the structure of one data-set file; no row is read. Local: no MPI.

    Where it is not `for_training`, labels may be missing, and so may train if there is another split; with `any_labels`
    they may be text or lie in a row.
    Raises StorageError when the file is missing or cannot be read, DataError for everything that is wrong inside it.
    """
    path = os.fspath(path)
    size_mtime = size_and_mtime(path)
    with open_hdf5(path) as file, named_failures(path, "is damaged"):
        groups = _split_groups(file, path, x_name, y_name, for_training)
        splits: dict[str, SplitInfo] = {}
        features: dict[str, int] = {}
        for split, group in groups.items():
            found, part = _inspect_split(group, path, split, x_name, y_name, for_training, any_labels)
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


def _from_root(x_name: str, y_name: str) -> bool:
    return x_name.startswith("/") or y_name.startswith("/")


def _split_groups(file: h5py.File, path: str, x_name: str, y_name: str, for_training: bool) -> dict[str, h5py.Group]:
    if _from_root(x_name, y_name):
        return {"train": file}
    groups: dict[str, h5py.Group] = {}
    for split in SPLITS:
        group = follow(file, split, path)
        if group is not None and not isinstance(group, h5py.Group):
            raise DataError(f"{path}: {split} is not a group: expected a group that holds {x_name!r} and {y_name!r}")
        if group is not None:
            groups[split] = group
    if "train" not in groups and (for_training or not groups):
        raise DataError(
            f"{path}: has no group train; found {members(file)}; "
            f'for X and y outside of such a group give their paths: --x_name "/…" --y_name "/…"'
        )
    return groups


def _inspect_split(
    group: h5py.Group, path: str, split: str, x_name: str, y_name: str, needs_labels: bool, any_labels: bool
) -> tuple[SplitInfo, FilePart]:
    """Return the split's description, and where its rows are in this file."""
    x_names = split_names(x_name)
    places = [name.strip("/") for name in (*x_names, y_name)]
    for name in places:
        if places.count(name) > 1:
            raise DataError(f"{path}: {name!r} is named twice: for features, and for features or labels again")
    weighted = "w" not in places  # else it is features, such as a vertical wind
    arrays: dict[str, h5py.Dataset] = {}
    for name in (*x_names, y_name, *(["w"] if weighted else [])):
        array = follow(group, name, path)
        if array is None and (name in x_names or (name == y_name and needs_labels)):
            raise DataError(
                f"{path}: {split} has no {name!r}; found {members(group)}; --x_name and --y_name choose other names"
            )
        if array is not None:
            where = f"{path}: {name!r} of {split}"
            if not isinstance(array, h5py.Dataset):
                raise DataError(f"{where} is not a data set")
            check_plain(array, where, name == y_name, text=any_labels and name == y_name)
            arrays[name] = array
    rows = _rows_of(arrays, x_names, path, split)
    for name, array in arrays.items():
        fits = array.shape == (rows,) or (name == y_name and array.ndim == 2 and array.shape[0] == rows)
        fits |= any_labels and name == y_name and array.shape == (1, rows)
        if name not in x_names and not (fits and math.prod(array.shape)):
            raise DataError(_wrong_shape(arrays, x_names, name, f"{path}: {name!r} of {split}", rows, name == y_name))
    for array in arrays.values():  # allocated whole by whoever reads the split
        check_extent(array, f"{path}: {array.name!r}")
    numeric = {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}
    described = {name: describe_variable(name, numeric[name], f"{path}: {name!r} of {split}") for name in numeric}
    variables = tuple(described[name] for name in x_names)
    columns, odd = _form_of(arrays[y_name], rows) if y_name in arrays else (0, "")
    weighted &= "w" in arrays
    structure = SplitInfo(rows, joined_dtype(variables), weighted, y_name in arrays, columns, odd)
    others = described.get(y_name), described["w"] if weighted else None
    return structure, FilePart(path, (0, 0), group.name or "/", rows, variables, *others)


def _form_of(y: h5py.Dataset, rows: int) -> tuple[int, str]:
    """Return the columns of y, 0 where it has none, and what is odd about it."""
    if y.dtype.kind not in "biuf":
        return 0, "text"
    if y.shape == (1, rows) and rows > 1:
        return 0, f"a row (1, {rows})"
    return (int(y.shape[1]), "") if y.ndim == 2 else (0, "")


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
    remedy = "; `python -m ddp_mlp.convert` makes that of it" if size == rows and is_target else ""
    remedy = "; w is the weights of rows: call other data otherwise" if name == "w" else remedy
    return f"{found}: must be {must}, one per row of {x_names[0]!r}{remedy}"


def _feature_names(file: h5py.File, path: str, width: int) -> tuple[str, ...] | None:
    if "features" not in file.attrs:
        return None
    values = read_attribute(file, path, "features")
    if values.shape != (width,) or values.dtype.kind not in "SOU":
        raise DataError(f"{path}: attribute features is {values.dtype} {values.shape}: must be {width} names")
    names = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values.tolist()]
    _check_twice(names, path, "features")
    return tuple(names)


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
    _check_twice(names, path, attribute)
    return tuple(names)


def _check_twice(names: Sequence[str], path: str, attribute: str) -> None:
    for name, following in pairwise(sorted(names)):
        if name == following:
            raise DataError(f"{path}: attribute {attribute} names {name!r} twice")
