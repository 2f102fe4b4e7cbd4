"""From files of other formats to a data-set file.

Sources are read a few MiB at a time and several times: to count rows and labels and to learn what columns are, to fit
what is fitted to train, to find the range of the values, to write. A row's split depends on the order asked for, the
seed, the number of rows and (stratified) the labels, never on the format or on how the file was read; within a split
the rows keep the order of the source.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp import __version__
from ddp_mlp.conversion.columns import Roles
from ddp_mlp.conversion.dialect import Asked
from ddp_mlp.conversion.labels import check_classes, number_classes
from ddp_mlp.conversion.opening import open_sources
from ddp_mlp.conversion.recipe import Recipe
from ddp_mlp.conversion.scanning import scan, smallest_dtype, with_progress
from ddp_mlp.conversion.source import Counts, ForeignRows, Piece
from ddp_mlp.conversion.splitting import Membership, part_rows
from ddp_mlp.conversion.table_rows import TableRows
from ddp_mlp.errors import ConfigError, DataError, StorageError
from ddp_mlp.storage.dataset import SPLITS, DatasetInfo, inspect
from ddp_mlp.storage.hdf5 import size_and_mtime
from ddp_mlp.storage.patterns import files_of
from ddp_mlp.storage.writer import DatasetWriter

CLASSES_TOLD = 20


@dataclass(frozen=True)
class Conversion:
    """What was asked for: see the help of the flags with these names."""

    sources: tuple[Path, ...]
    out: Path
    roles: Roles = field(default_factory=Roles)
    text: Asked = field(default_factory=Asked)
    valid: int | float = 0
    test: int | float = 0
    order: str = "file"
    seed: int = 0
    dtype: str = "auto"
    x_name: str | None = None
    y_name: str | None = None


class Converted(NamedTuple):
    """What came of a conversion."""

    info: DatasetInfo
    told: list[str]
    """Lines on what was taken from the sources, and what is worth a look."""


class Labels(NamedTuple):
    """The class number of each label, the classes' names where they are not 0, 1, 2, …, and how many there are."""

    numbers: dict[str, int]
    names: tuple[str, ...] | None
    classes: int

    def of(self, piece: Piece) -> NDArray[np.intp] | None:
        """Return the class numbers (k,) of a piece's rows; None where they have no label."""
        if piece.codes is None:
            return None
        return np.array([self.numbers[label] for label in piece.labels], np.intp)[piece.codes]


def convert(asked: Conversion) -> Converted:
    """Make the data-set file `asked.out` and return its structure, and what was done.

    Raises ConfigError, DataError or StorageError; then no file has been made.
    """
    asked = replace(asked, sources=tuple(Path(path) for source in asked.sources for path in files_of(source)))
    _check_out(asked)
    sources = open_sources(asked.sources, asked.roles, asked.text, asked.x_name, asked.y_name)
    _check_splits(sources)
    _check_features(sources)
    for split, part in (("valid", asked.valid), ("test", asked.test)):
        if part and split in sources:
            raise ConfigError(f"--{split} {part}: the sources have a {split} split of their own")
    before = [size_and_mtime(str(path)) for path in asked.sources]
    counts = {split: source.count() for split, source in sources.items()}
    labels = _labels(sources, counts)
    division = _Division(asked, counts["train"], labels)
    _fit(sources, labels, division)

    limits = {split: _largest(asked.dtype, source) for split, source in sources.items()}
    scans = {split: scan(source, limits[split]) for split, source in sources.items()}
    found = list(sources.values())
    dtype = smallest_dtype(list(scans.values()), found) if asked.dtype == "auto" else np.dtype(asked.dtype)
    rows = {**{split: count.rows for split, count in counts.items()}, **division.parts}
    first = sources["train"]
    weighted = any(source.weighted for source in found)
    with DatasetWriter(
        asked.out,
        {split: rows[split] for split in SPLITS if rows.get(split)},
        first.features,
        dtype,
        labels.classes if first.labelled else None,
        weighted,
        labels.names,
        _attributes(asked, first, dtype),
        targets=first.targets,
    ) as writer:
        tally: dict[str, NDArray[np.int64]] = {}
        for split, source in sources.items():
            membership = division.membership() if split == "train" else None
            for piece in with_progress(source, "writing", counts[split].rows):
                X, y = piece.X.astype(dtype, copy=False), labels.of(piece)
                w = piece.w if piece.w is not None or not weighted else np.ones(len(X))
                met = piece.y if piece.y is not None else y
                for target, members in _targets(split, membership, y, len(X)):
                    writer.append(target, X[members], *(None if a is None else a[members] for a in (met, w)))
                    if y is not None:
                        counted = np.bincount(y[members], minlength=labels.classes)
                        tally[target] = tally.get(target, 0) + counted
        if [size_and_mtime(str(path)) for path in asked.sources] != before:
            raise DataError("a source was changed while it was read; leave it alone, and start again")
    return Converted(inspect(asked.out, for_training=False), [*_told(sources, labels, tally)])


def _check_out(asked: Conversion) -> None:
    if not asked.out.parent.is_dir():
        raise StorageError(f"{asked.out}: there is no folder {asked.out.parent}")
    if asked.out.exists() and any(path.exists() and path.samefile(asked.out) for path in asked.sources):
        raise ConfigError(f"{asked.out}: is one of the sources; give the new file another name")


def _check_splits(sources: Mapping[str, ForeignRows]) -> None:
    """Raise DataError where there is no train, or another split has no labels or targets as train has them."""
    if "train" not in sources:
        found = ", ".join(sources)
        raise DataError(
            f"{next(iter(sources.values())).name}: there is {found}, and no train, which the others go with"
        )
    first = sources["train"]
    for source in sources.values():
        for ours, theirs in ((first, source), (source, first)):
            if (ours.labelled, ours.targets) != (theirs.labelled, theirs.targets) and (ours.labelled or ours.targets):
                what = "labels" if ours.labelled else "targets"
                raise DataError(f"{theirs.name}: has no {what}, and {ours.name} has: convert one without the other")


def _check_features(sources: Mapping[str, ForeignRows]) -> None:
    """Raise DataError where a split has not as many features as train, or rows of another shape; tables tell later."""
    first = sources["train"]
    for source in sources.values():
        if not isinstance(source, TableRows) and not isinstance(first, TableRows):
            ours, theirs = (one.feature_shape or (one.features,) for one in (first, source))
            if ours != theirs:
                found = " x ".join(map(str, theirs)), " x ".join(map(str, ours))
                raise DataError(f"{source.title}: has {found[0]} features, and {first.title} {found[1]}")


def _largest(dtype: str, source: ForeignRows) -> float:
    return float(np.finfo(source.float_dtype if dtype == "auto" else np.dtype(dtype)).max)


def _labels(sources: Mapping[str, ForeignRows], counts: Mapping[str, Counts]) -> Labels:
    """Give numbers to the labels of all splits together."""
    first, together = sources["train"], dict[str, int]()
    for found in counts.values():
        for label, count in found.labels.items():
            together[label] = together.get(label, 0) + count
    if not first.labelled:
        return Labels({}, None, 0)
    if first.classes is not None:
        known = {str(number): number for number in range(len(first.classes))}
        named = {name: number for number, name in enumerate(first.classes)}
        if set(together) <= set(named) and not set(together) <= set(known):  # labels of text are names
            known = named
        for label in together:
            if label not in known:
                raise DataError(f"{first.name}: has the label {label}, but names {len(first.classes)} classes")
        return Labels(known, first.classes, len(first.classes))
    check_classes(together, first.name)
    numbers, names = number_classes(list(together), first.name)
    return Labels(numbers, names, len(numbers))


class _Division:
    """Which of train's rows go to which split; `parts` are the rows of the splits made of them."""

    def __init__(self, asked: Conversion, found: Counts, labels: Labels) -> None:
        rows = found.rows
        valid, test = part_rows("--valid", asked.valid, rows), part_rows("--test", asked.test, rows)
        if valid + test >= rows:
            raise ConfigError(f"--valid {asked.valid} --test {asked.test}: leave none of {rows} rows to train on")
        self._valid, self._test = valid, test
        self._seed = None if asked.order == "file" else asked.seed
        self._strata = np.array([rows])
        if asked.order == "stratified":
            if not labels.classes:
                raise ConfigError("--order stratified: draws from each class, and these rows have none: --order random")
            self._strata = np.zeros(labels.classes, np.int64)
            for label, count in found.labels.items():
                self._strata[labels.numbers[label]] += count
        parts = {"train": rows - valid - test, "valid": valid, "test": test}
        self.parts = {split: count for split, count in parts.items() if count} if valid or test else {}

    def membership(self) -> Membership | None:
        """Return who goes where, to be asked from the first row on; None where all stay."""
        return Membership(self._strata, self._valid, self._test, self._seed) if self.parts else None


def _fit(sources: Mapping[str, ForeignRows], labels: Labels, division: _Division) -> None:
    """Fit the columns of tables to the rows of train."""
    first = sources["train"]
    if not isinstance(first, TableRows):
        return
    membership = division.membership()

    def is_train(y: NDArray[np.intp] | None, rows: int) -> NDArray[np.bool_]:
        return np.ones(rows, bool) if membership is None else membership.next(y, rows) == SPLITS.index("train")

    first.fit(is_train, labels.numbers)
    for source in sources.values():
        if isinstance(source, TableRows) and source is not first:
            source.fit_as(first)


def _attributes(
    asked: Conversion, first: ForeignRows, dtype: np.dtype[np.generic]
) -> dict[str, str | int | Sequence[str] | Sequence[int]]:
    found: dict[str, str | int | Sequence[str] | Sequence[int]] = {
        "sources": [path.name for path in asked.sources],
        "sources_sha256": [_sha256(path) for path in asked.sources],
        "order": asked.order,
        "seed": asked.seed,
        "made_by": f"ddp_mlp {__version__}",
    }
    if first.columns:
        found["features"] = first.columns
    if first.feature_shape:
        found["feature_shape"] = first.feature_shape
    if isinstance(first, TableRows):
        found["recipe"] = replace(first.fitted(asked.text), dtype=dtype.name).to_json()
    elif first.recipe is not None:
        found["recipe"] = replace(Recipe.from_json(first.recipe, first.name), dtype=dtype.name).to_json()
    return found


def _targets(
    split: str, membership: Membership | None, y: NDArray[np.intp] | None, rows: int
) -> Iterator[tuple[str, NDArray[np.intp] | slice]]:
    """Yield each split that gets some of these rows of source `split`, with the rows it gets."""
    if split != "train" or membership is None:
        yield split, slice(None)
        return
    codes = membership.next(y, rows)
    for number in np.unique(codes):
        yield SPLITS[number], np.flatnonzero(codes == number)


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _told(sources: Mapping[str, ForeignRows], labels: Labels, tally: Mapping[str, NDArray[np.int64]]) -> Iterator[str]:
    """Yield what was taken: columns, classes with their rows in each split, and classes that a split has none of."""
    first = sources["train"]
    if isinstance(first, TableRows):
        if len(sources) > 1:
            yield ", ".join(f"{source.name} is {split}" for split, source in sources.items())
        yield from first.told()
        for source in sources.values():
            yield from source.unseen() if isinstance(source, TableRows) else ()
    else:
        yield from first.said
    if not labels.classes:
        return
    names = labels.names or tuple(map(str, range(labels.classes)))
    together = np.sum(list(tally.values()), axis=0).tolist()
    shown = [f"{name} {count:,}" for name, count in zip(names[:CLASSES_TOLD], together, strict=False)]
    more = ", …" if labels.classes > CLASSES_TOLD else ""
    yield f"{labels.classes:,} classes: {', '.join(shown)}{more}"
    for split, counted in tally.items():
        none = [name for name, count in zip(names, counted, strict=True) if not count]
        if none:
            listed = ", ".join(none[:CLASSES_TOLD]) + (", …" if len(none) > CLASSES_TOLD else "")
            yield f"warning: {split} has no row of {listed}: --order stratified draws from each class"
