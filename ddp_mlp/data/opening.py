"""The data of a run, opened: checked, standardized, and split into what is trained on and what is held out.

From a file, collectively, or from arrays in memory, on each rank for itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.data.access import Access, choose_access
from ddp_mlp.data.batches import Batches, Source
from ddp_mlp.data.held_out import hold_out, stratified
from ddp_mlp.data.memory import MemoryBatches, MemorySource, load_split
from ddp_mlp.data.stream import FileSource, StreamBatches, StreamSource
from ddp_mlp.data.survey import look_over
from ddp_mlp.data.targets import (
    factors,
    names_of,
    notes,
    rule_of,
    settle,
    standardization_of_targets,
    targets_of,
)
from ddp_mlp.errors import ConfigError, DataError, by_all_ranks
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.arithmetic import Arithmetic
from ddp_mlp.nn.standardization import Standardization, one_for_all
from ddp_mlp.nn.targets import Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage import checkpoints, weights
from ddp_mlp.storage.dataset import DatasetInfo, SplitInfo, inspect
from ddp_mlp.storage.groups import nearly_splits
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import NumberSurvey, Survey
from ddp_mlp.storage.surveyed import Record
from ddp_mlp.storage.weights import StoredNetwork
from ddp_mlp.summing.totals import total

Mode: TypeAlias = Literal["features", "global", "none"]
"""How inputs are standardized."""
FEW_CLASSES = 20
"""Up to this many, classes without rows are no sign that labels are not class numbers."""
FAR_OUTSIDE = 50
"""Standard deviations that a feature may be from its mean before there is a warning."""
Rows = NDArray[np.int64] | None
"""Row numbers of a source; None is all of them."""


class Basis(NamedTuple):
    """What maps and targets are settled from: the statistics of train."""

    found: Survey
    """Of all rows of train."""
    numbers: NumberSurvey | None
    """Of the targets of the rows that are trained on, where they are numbers."""
    weight_sum: float
    """Of the weights of the rows that are trained on."""


class Data(NamedTuple):
    """The checked data set of a run, ready for use."""

    info: DatasetInfo
    classes: tuple[str, ...]
    standardization: Standardization
    fingerprint: dict[str, str]
    """Of each split: SHA-256 over shape, dtype and content."""
    train: tuple[MemorySource | StreamSource, Rows]
    valid: tuple[Source, Rows] | None
    test: tuple[Source, Rows] | None
    access: Access | None = None
    """How the rows are got at, where they come from a file."""
    targets: Targets = Targets()
    """What rows are mapped to."""
    factor: tuple[float, ...] | None = None
    """(n_T,): what the loss of each number is multiplied by in training; None is 1 for all."""
    weight: tuple[float, ...] | None = None
    """(n_T,): the same in evaluation."""
    notes: tuple[str, ...] = ()
    """What a user should hear about the data."""
    standardize: Mode = "features"
    """features, global or none."""
    check: str = ""
    """How the rows of a file were checked, as `LookedOver` has it."""
    record: Record | None = None
    """What a later start may rely on."""
    basis: Basis | None = None
    """Where the rows come from a file."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What is known of the inputs beyond numbers, as a checkpoint keeps it: their names, shape, recipe."""
        info = self.info
        known = {"features": info.names, "feature_shape": info.feature_shape, "recipe": info.recipe}
        return {
            name: value if isinstance(value, str) else list(value) for name, value in known.items() if value is not None
        }


class Opened(NamedTuple):
    """What is known of a data set before its rows are loaded."""

    info: DatasetInfo
    access: Access
    targets: Targets
    rows: int
    """To train on."""


def open_data(config: Config, communicator: Communicator, check: Callable[[Opened], None] | None = None) -> Data:
    """Inspect, check and load the data set. Collective. Raises DataError, StorageError or ConfigError on all ranks.

    `check` may raise another error, on all ranks, before rows are loaded.
    """
    info = communicator.on_rank_0(
        inspect, config.data, config.x_name, config.y_name, True, config.valid_data, config.test_data
    )
    access = choose_access(config, info, communicator)
    loss, info = communicator.on_rank_0(settle, config, info)
    arithmetic = arithmetics.called(config.arithmetic)
    looked_over = look_over(config, info, rule_of(loss, config.missing_targets), communicator)
    surveys, found = looked_over.surveys, looked_over.surveys["train"]
    for split, survey in surveys.items():
        _check_weights(survey.weight_sum, f"{config.data}: {split}", config)
    names = info.classes or tuple(str(label) for label in range(len(found.class_counts)))
    _check_gaps(info, found.class_counts)
    if len(names) < 2 and not info.numbers:
        raise by_all_ranks(DataError(f"{config.data}: all labels are of one class: there is nothing to learn"))

    mode, nearly = communicator.on_rank_0(lambda: (_standardize_mode(config, info), nearly_splits(info)))
    train_rows, valid_rows, counts, numbers = None, None, found.class_counts, found.numbers
    if "valid" not in info.splits and config.valid_fraction:
        fraction = config.valid_fraction
        asked = fraction, config.seed, len(names)
        train_rows, valid_rows, counts, numbers = hold_out(info, *asked, communicator, arithmetic)
        if len(valid_rows) == 0:
            raise by_all_ranks(ConfigError(f"valid_fraction = {fraction}: leaves no rows to validate on"))
    whole = numbers is found.numbers
    basis = Basis(found, numbers, found.weight_sum if whole else communicator.on_rank_0(_weight_sum, info, config))
    settled = communicator.on_rank_0(settle_targets, config, mode, loss, info, names, basis)
    targets, maps = settled.targets, settled.maps
    rows = found.count if train_rows is None else train_rows
    if check is not None:
        check(Opened(info, access, targets, found.count if train_rows is None else len(train_rows)))
    train, held_out = _sources(config, info, access, communicator, maps, rows, arithmetic)
    valid: tuple[Source, Rows] | None = (held_out["valid"], None) if "valid" in info.splits else None
    if valid_rows is not None:
        valid = (train if access.kind == "memory" else held_out["train"]), valid_rows
    if config.class_weight is not None:
        train = train.weighted_by_class(class_weights(config.class_weight, names, counts))
    return Data(
        info=info,
        classes=targets.classes,
        standardization=maps[0],
        fingerprint={split: found.fingerprint for split, found in surveys.items()},
        train=(train, train_rows),
        valid=valid,
        test=(held_out["test"], None) if "test" in info.splits else None,
        access=access,
        targets=targets,
        factor=settled.factor,
        weight=settled.weight,
        standardize=mode,
        check=looked_over.check,
        record=looked_over.record,
        basis=basis,
        notes=(*nearly, *settled.notes, *_missing_classes(names, counts, surveys), *_far_outside(mode, found, info)),
    )


def _sources(
    config: Config,
    info: DatasetInfo,
    access: Access,
    communicator: Communicator,
    maps: tuple[Standardization, Standardization | None],
    train_rows: NDArray[np.int64] | int,
    arithmetic: Arithmetic,
) -> tuple[MemorySource | StreamSource, dict[str, Source]]:
    """Return the source of the rows to train on, and those of the splits to evaluate on. Collective."""
    dtype = arithmetic.working(np.dtype(config.dtype))
    if access.kind == "memory":
        train, *others = (load_split(info, split, communicator, dtype, *maps) for split in info.splits)
        return train, dict(zip(list(info.splits)[1:], others, strict=True))
    assert isinstance(config.batch_size, int), "checked by choose_access"
    batch_size, block_rows = config.batch_size, config.block_rows
    ring = StreamSource(
        info, "train", train_rows, communicator, dtype, *maps, batch_size=batch_size, block_rows=block_rows
    )
    return ring, {split: FileSource(info, split, dtype, *maps) for split in info.splits}


def _check_gaps(info: DatasetInfo, counts: NDArray[np.int64]) -> None:
    """Raise DataError where labels without names are so far apart that most classes would have no row."""
    there = np.flatnonzero(counts)
    if info.classes is None and len(counts) > FEW_CLASSES and 2 * len(there) < len(counts):
        listed = ", ".join(map(str, there[:4])) + (", …" if len(there) > 4 else "")
        raise by_all_ranks(
            DataError(
                f"{info.path}: labels are {listed}: would be {len(counts):,} classes, {len(there):,} with rows; "
                "`python -m ddp_mlp.convert` numbers them"
            )
        )


class Settled(NamedTuple):
    """What is settled of a run's targets and maps on rank 0."""

    targets: Targets
    maps: tuple[Standardization, Standardization | None]
    """Of the features, and of targets that are numbers."""
    factor: tuple[float, ...] | None = None
    weight: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


def settle_targets(
    config: Config, mode: Mode, loss: str, info: DatasetInfo, classes: tuple[str, ...], basis: Basis
) -> Settled:
    """Return what rows are mapped to. Local. Raises ConfigError or DataError."""
    found, numbers = basis.found, basis.numbers
    standardization = standardization_by(mode, found)
    given: StoredNetwork | None = None
    if config.init_from is not None:  # weights are worth nothing without the maps that they were trained with
        given = _given_with_init_from(config, info, classes)
        if given.standardization is not None:
            standardization = Standardization(given.standardization["mean"], given.standardization["scale"])
    working = arithmetics.called(config.arithmetic).working(np.dtype(config.dtype))
    standardization = standardization.applied_to(np.dtype(info.splits["train"].dtype), working)
    if found.numbers is None or numbers is None:
        return Settled(Targets(classes=classes), (standardization, None))
    targets = targets_of(config, loss, names_of(info), found.numbers.mean, found.numbers.scale)
    if given is not None and given.targets is not None and given.targets.count == targets.count:
        targets = replace(targets, mean=given.targets.mean, scale=given.targets.scale)
    weight, factor = factors(config.target_weight, targets.names, basis.weight_sum, numbers)
    said = notes(loss, config.loss, targets.names, found.numbers.constant)
    return Settled(targets, (standardization, standardization_of_targets(targets)), factor, weight, tuple(said))


def _weight_sum(info: DatasetInfo, config: Config) -> float:
    """Return the sum of the weights of the rows of train that are trained on."""
    with Reader(info, "train") as reader:
        y, w = reader.y(0, reader.rows), reader.w(0, reader.rows)
    return total(w[stratified(y, config.valid_fraction, config.seed)[0]].tolist())


def _given_with_init_from(config: Config, info: DatasetInfo, classes: tuple[str, ...]) -> StoredNetwork:
    """Return what came with init_from: a run that goes on has it, and needs the file no more."""
    begun = checkpoints.to_go_on_from(config.run_dir, config.resume)
    if begun is not None:
        source, found = str(begun.path), weights.of_checkpoint(begun.checkpoint)
    else:
        source, found = f"init_from = {config.init_from}", given_weights(config, classes or None, info)
    if found.standardization is not None and len(found.standardization["mean"]) != info.features:
        taken = len(found.standardization["mean"])
        raise ConfigError(f"{source}: takes {taken} features, but the data have {info.features}")
    return found


def standardization_by(mode: Mode, found: Survey) -> Standardization:
    """Return the map of the inputs, by the statistics of train: features, global or none."""
    if mode == "global":
        return one_for_all(found.mean, found.variance)
    return Standardization(found.mean, found.std, mode == "features")


def _standardize_mode(config: Config, info: DatasetInfo) -> Mode:
    """Return how inputs are mapped: as a run that goes on has them, else as `standardize` says, or as the data are."""
    asked = config.standardize
    begun = checkpoints.to_go_on_from(config.run_dir, config.resume) if asked == "auto" else None
    return mode_of(asked if begun is None else begun.checkpoint.config.get("standardize", True), info)


def mode_of(asked: str | bool, info: DatasetInfo) -> Mode:
    """Return how inputs are mapped: as `standardize` says, or as the data are."""
    word = configuration.standardize_word(asked)
    return word if word != "auto" else "global" if info.feature_shape else "features"


def _far_outside(mode: Mode, found: Survey, info: DatasetInfo) -> Iterator[str]:
    """Warn of a feature that is seldom far outside, of which its own deviation makes something very large.

    Cantelli's inequality: at most 1 / (1 + d²) of all rows are d deviations above the mean.
    """
    if mode != "features":
        return
    deviations = np.maximum(found.maximum - found.mean, found.mean - found.minimum) / found.std
    deviations[found.variance == 0] = 0
    far = np.flatnonzero(deviations > FAR_OUTSIDE)
    if far.size:
        worst = int(np.argmax(deviations))
        name = f"feature {worst}" + (f" ({info.names[worst]!r})" if info.names else "")
        how = f"{deviations[worst]:.0f} standard deviations from its mean"
        share = f"at most one row of {1 + round(deviations[worst] ** 2):,}"
        remedy = "where features are of one kind, such as pixels, --standardize global helps"
        yield f"{name} is up to {how}, in {share} ({far.size:,} such features): {remedy}"


def _missing_classes(names: tuple[str, ...], counts: NDArray[np.int64], surveys: Mapping[str, Survey]) -> Iterator[str]:
    """Warn of classes that have no row to train on, or none in another split."""
    for split, counted in {**{split: found.class_counts for split, found in surveys.items()}, "train": counts}.items():
        none = [name for name, count in zip(names, counted, strict=False) if not count]
        if none and (split == "train" or len(none) < len(names)):
            listed = ", ".join(none[:10]) + (", …" if len(none) > 10 else "")
            yield f"{split} has no row of {len(none)} of {len(names)} classes: {listed}"


def given_weights(config: Config, classes: tuple[str, ...] | None, info: DatasetInfo) -> StoredNetwork:
    """Return the network of init_from, its classes or targets, and features, in the order of the data, by name. Local.

    Raises ConfigError, DataError or StorageError.
    """
    assert config.init_from is not None, "asked by the caller"
    found = weights.read(config.init_from)
    targets = names_of(info) if info.numbers else ()
    return weights.arranged(found, classes, info.names, targets, f"init_from = {config.init_from}")


def class_weights(
    asked: Mapping[str, float] | str, names: tuple[str, ...], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the weight of each class (n_L,): the asked ones, 1 where none is, or "balanced", m / (n_L · count).

    King and Zeng, "Logistic regression in rare events data", 2001, as scikit-learn has it. Raises ConfigError.
    """
    if isinstance(asked, str):
        weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
    else:
        for name in asked:
            if name not in names:
                known = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
                raise by_all_ranks(ConfigError(f"class_weight names {name!r}: the classes are {known}"))
        weights = np.array([asked.get(name, 1.0) for name in names])
    if not np.any(weights[counts > 0] > 0):
        raise by_all_ranks(ConfigError("class_weight gives every example the weight 0: at least one class must count"))
    return np.asarray(weights, np.float64)


def _check_weights(weight_sum: float, where: str, config: Config) -> None:
    """Raise DataError on all ranks where gradients are to be divided by a sum of weights that their dtype has not."""
    if weight_sum > float(np.finfo(config.dtype).max):
        raise by_all_ranks(
            DataError(f"{where}: sample weights add up to more than {config.dtype} holds: divide them by a constant")
        )


def data_of_arrays(
    X: NDArray[Any],
    y: NDArray[Any],
    w: NDArray[np.float64] | None,
    targets: Targets | tuple[str, ...],
    standardization: Standardization,
    config: Config,
    class_weight: NDArray[np.float64] | None = None,
) -> Data:
    """Return a run's data from X (m, n_0), C-contiguous, targets y, and weights w (m,) or None. Local.

    y (m,) are class numbers, where `targets` are classes or their names; else y (m, n_T) float64 numbers in their own
    units. `config.valid_fraction` of every class is held out for validation; `class_weight` (n_L,) counts in training
    alone. Raises ConfigError where that leaves no rows on one side.
    """
    m, features = X.shape
    if w is not None:
        _check_weights(total(w.tolist()), "arrays in memory", config)
    targets = targets if isinstance(targets, Targets) else Targets(classes=targets)
    numbers = standardization_of_targets(targets) if targets.count else None
    arithmetic = arithmetics.called(config.arithmetic)
    working = arithmetic.working(np.dtype(config.dtype))
    standardization = standardization.applied_to(X.dtype, working)
    source = MemorySource(X, y, w, working, standardization, numbers)
    train, train_rows, valid = source, None, None
    if config.valid_fraction:
        train_rows, valid_rows = stratified(y, config.valid_fraction, config.seed, arithmetic)
        if len(valid_rows) == 0 or len(train_rows) == 0:
            fraction = f"valid_fraction = {config.valid_fraction}"
            raise by_all_ranks(
                ConfigError(f"{fraction}: leaves {len(train_rows)} rows to train and {len(valid_rows)} to validate on")
            )
        valid = source, valid_rows
    if class_weight is not None:
        train = source.weighted_by_class(class_weight)
    splits = {"train": SplitInfo(m, X.dtype.name, w is not None, columns=targets.count)}
    info = DatasetInfo("arrays in memory", features, targets.classes or None, splits, "X", "y", (X.nbytes, 0))
    info = replace(info, targets=targets.names or None, numbers=targets.count)
    return Data(info, targets.classes, standardization, {}, (train, train_rows), valid, None, targets=targets)


def standardization_of(
    X: NDArray[Any], w: NDArray[np.float64] | None, arithmetic: Arithmetic = arithmetics.NATIVE, mode: Mode = "features"
) -> Standardization:
    """Return the weighted mean and standard deviation of each feature of X (m, n_0), scale 1 for a constant one. Local.

    A weight counts as so many rows would. In `mode` global all features have one mean and scale; none changes nothing.
    """
    if mode == "none":
        return Standardization(np.zeros(X.shape[1]), np.ones(X.shape[1]), used=False)
    values = X.astype(np.float64)
    mean = _average(values, w, arithmetic)
    values -= mean
    scale = np.sqrt(_average(np.square(values, out=values), w, arithmetic))
    constant = (X.min(axis=0) == X.max(axis=0)) | (scale <= 4 * np.finfo(np.float64).eps * np.abs(mean))
    if mode == "global":
        return one_for_all(mean, np.where(constant, 0.0, np.square(scale)))
    return Standardization(mean, np.where(constant, 1.0, scale))


def _average(values: NDArray[np.float64], w: NDArray[np.float64] | None, arithmetic: Arithmetic) -> NDArray[np.float64]:
    """Return the weighted mean of each column of values (m, n_0)."""
    if not arithmetic.is_portable:
        return np.average(values, axis=0, weights=w)
    if w is None:
        return arithmetic.sum_rows(values) / len(values)
    return arithmetic.sum_rows(values * w[:, None]) / arithmetic.sum_rows(w[:, None])


def make_batches(communicator: Communicator, source: Source, rows: NDArray[np.int64] | int, **settings: Any) -> Batches:
    """Return the batches of a source's `rows`, read in the way the source asks for. Collective."""
    if isinstance(source, StreamSource):
        return StreamBatches(communicator, source, rows, **settings)
    return MemoryBatches(communicator, rows, **settings)
