"""The data of a run, opened: checked, standardized, and split into what is trained on and what is held out.

From a file, collectively, or from arrays in memory, on each rank for itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.access import Access, choose_access
from ddp_mlp.data.batches import Batches, Source
from ddp_mlp.data.held_out import hold_out, stratified
from ddp_mlp.data.memory import MemoryBatches, MemorySource, load_split
from ddp_mlp.data.stream import FileSource, StreamBatches, StreamSource
from ddp_mlp.data.survey import survey
from ddp_mlp.errors import ConfigError, DataError, by_all_ranks
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.arithmetic import Arithmetic
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage import checkpoint as checkpoints
from ddp_mlp.storage import weights
from ddp_mlp.storage.dataset import DatasetInfo, SplitInfo, inspect

Rows = NDArray[np.int64] | None
"""Row numbers of a source; None is all of them."""


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


def open_data(config: Config, communicator: Communicator) -> Data:
    """Inspect, check and load the data set. Raises DataError, StorageError or ConfigError on all ranks."""
    info = communicator.on_rank_0(inspect, config.data, config.x_name, config.y_name)
    access = choose_access(config, info, communicator)
    arithmetic = arithmetics.called(config.arithmetic)
    surveys = {}
    classes = None if info.classes is None else len(info.classes)
    for split in info.splits:  # train first: where the file names no classes, the labels of train do
        surveys[split] = survey(info, split, classes, communicator, not config.quiet, arithmetic)
        classes = len(surveys[split].class_counts)
    names = info.classes or tuple(str(label) for label in range(len(surveys["train"].class_counts)))
    if len(names) < 2:
        raise by_all_ranks(DataError(f"{config.data}: all labels are of one class: there is nothing to learn"))

    found = surveys["train"]
    standardization = Standardization(found.mean, found.std, config.standardize)
    if config.init_from is not None:  # weights are worth nothing without the map of the inputs they were trained with
        given = communicator.on_rank_0(_given_standardization, config, info.features)
        standardization = given or standardization
    dtype = arithmetic.working(np.dtype(config.dtype))
    train_rows, valid_rows, counts = None, None, found.class_counts
    if "valid" not in info.splits and config.valid_fraction:
        train_rows, valid_rows, counts = hold_out(
            info, config.valid_fraction, config.seed, len(names), communicator, arithmetic
        )
        if len(valid_rows) == 0:
            raise by_all_ranks(ConfigError(f"valid_fraction = {config.valid_fraction}: leaves no rows to validate on"))

    train: MemorySource | StreamSource
    held_out: dict[str, Source]
    if access.kind == "memory":
        train, *others = (load_split(info, split, communicator, dtype, standardization) for split in info.splits)
        held_out = dict(zip(list(info.splits)[1:], others, strict=True))
    else:
        assert isinstance(config.batch_size, int), "checked by choose_access"
        train = StreamSource(
            info,
            "train",
            found.count if train_rows is None else train_rows,
            communicator,
            dtype,
            standardization,
            batch_size=config.batch_size,
            block_rows=config.block_rows,
        )
        held_out = {split: FileSource(info, split, dtype, standardization) for split in info.splits}
    valid: tuple[Source, Rows] | None = None
    if "valid" in info.splits:
        valid = held_out["valid"], None
    elif valid_rows is not None:
        valid = (train if access.kind == "memory" else held_out["train"]), valid_rows
    if config.class_weight is not None:
        train = train.weighted_by_class(class_weights(config.class_weight, names, counts))
    return Data(
        info=info,
        classes=names,
        standardization=standardization,
        fingerprint={split: found.fingerprint for split, found in surveys.items()},
        train=(train, train_rows),
        valid=valid,
        test=(held_out["test"], None) if "test" in info.splits else None,
        access=access,
    )


def _given_standardization(config: Config, features: int) -> Standardization | None:
    """Return what came with init_from, if anything: a run that goes on has it, and needs the file no more."""
    assert config.init_from is not None, "asked by the caller"
    newest = None if config.run_dir is None else checkpoints.newest(Path(config.run_dir) / "checkpoints")
    if newest is not None:
        source, found = str(newest.path), newest.checkpoint.standardization
    elif config.resume not in ("auto", "never"):
        source, found = config.resume, checkpoints.load(Path(config.resume)).standardization
    else:
        source, found = f"init_from = {config.init_from}", weights.read(config.init_from).standardization
    if found is None:
        return None
    mean, scale = (np.asarray(found[name], np.float64) for name in ("mean", "scale"))
    if len(mean) != features:
        raise ConfigError(f"{source}: takes {len(mean)} features, but the data have {features}")
    return Standardization(mean, scale)


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


def data_of_arrays(
    X: NDArray[Any],
    y: NDArray[np.int64],
    w: NDArray[np.float64] | None,
    classes: tuple[str, ...],
    standardization: Standardization,
    config: Config,
    class_weight: NDArray[np.float64] | None = None,
) -> Data:
    """Return a run's data from X (m, n_0), C-contiguous, class numbers y (m,), and weights w (m,) or None. Local.

    `config.valid_fraction` of every class is held out for validation; `class_weight` (n_L,) counts in training alone.
    Raises ConfigError where that leaves no rows on one side.
    """
    m, features = X.shape
    arithmetic = arithmetics.called(config.arithmetic)
    source = MemorySource(X, y, w, arithmetic.working(np.dtype(config.dtype)), standardization)
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
    splits = {"train": SplitInfo(m, X.dtype.name, w is not None)}
    info = DatasetInfo("arrays in memory", features, classes, splits, "X", "y", (X.nbytes, 0))
    return Data(info, classes, standardization, {}, (train, train_rows), valid, None)


def standardization_of(
    X: NDArray[Any], w: NDArray[np.float64] | None, arithmetic: Arithmetic = arithmetics.NATIVE
) -> Standardization:
    """Return the weighted mean and standard deviation of each feature of X (m, n_0), scale 1 for a constant one. Local.

    A weight counts as so many rows would.
    """
    values = X.astype(np.float64)
    mean = _average(values, w, arithmetic)
    values -= mean
    scale = np.sqrt(_average(np.square(values, out=values), w, arithmetic))
    constant = (X.min(axis=0) == X.max(axis=0)) | (scale <= 4 * np.finfo(np.float64).eps * np.abs(mean))
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
