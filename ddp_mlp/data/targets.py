"""What the rows of a data set are to be mapped to: settled from the configuration and from what y holds.

Invariants:
- what version 0.1 takes for classes stays classes: whole numbers from 0 on, one per row, stored as integers or floats;
- nothing is guessed in silence: a case that could be either is refused, naming both spellings;
- mean and scale of numbers are those of train's rows where they are observed, as a survey has them.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.nn.targets import STANDARDIZED, Targets
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import CLASSES_AT_MOST, NumberRule, NumberSurvey

PIECE_ROWS = 1 << 20
"""Rows of y that are looked at together."""
FEW_CLASSES = 20
"""Up to this many different whole numbers are classes, however few rows there are."""
ODD_SHARE = 0.1
"""Up to this share of rows that are no class numbers, among few classes, are mistakes; beyond it they are numbers."""
ROWS_PER_CLASS = 2.5
"""With fewer rows per different whole number, on average, it is doubtful whether they are classes."""


def settle(config: Config, info: DatasetInfo) -> tuple[str, DatasetInfo]:
    """Return the loss of a run, and the file's structure with how its targets are to be read. Local; reads y of train.

    Raises ConfigError where the loss does not fit the file, or is auto and could be either.
    """
    columns = info.splits["train"].columns
    loss = _automatic(info) if config.loss == "auto" else config.loss
    if loss == "cross_entropy" and info.targets is not None:
        raise ConfigError(f"loss = {loss}, but {info.path} names targets, which are numbers: choose a loss for numbers")
    if loss != "cross_entropy" and info.classes is not None:
        raise ConfigError(f"loss = {loss}, but {info.path} names classes: choose loss = cross_entropy, or auto")
    if loss == "cross_entropy" and columns > 1:
        raise ConfigError(
            f"loss = {loss}, but {info.y_name!r} of {info.path} has {columns} columns: choose a loss for numbers, "
            "or binary_cross_entropy for several labels"
        )
    check_keys(config, loss)
    return loss, info if loss == "cross_entropy" else replace(info, numbers=columns or 1)


def check_keys(config: Config, loss: str) -> None:
    """Raise ConfigError for a key that means nothing with this loss."""
    classes, numbers = loss == "cross_entropy", f"is for numbers, but loss = {loss}"
    unfit = {
        "class_weight": (config.class_weight is not None and not classes, f"is for classes, but loss = {loss}"),
        "label_smoothing": (config.label_smoothing > 0 and not classes, f"is for classes, but loss = {loss}"),
        "target_weight": (config.target_weight is not None and classes, numbers),
        "missing_targets": (config.missing_targets and classes, numbers),
        "output_activation": (
            config.output_activation != "identity" and loss not in STANDARDIZED,
            f"is for {', '.join(STANDARDIZED)}, but loss = {loss}",
        ),
    }
    for name, (wrong, why) in unfit.items():
        if wrong:
            raise ConfigError(f"{name}: {why}")


def _automatic(info: DatasetInfo) -> str:
    """Return the loss that `auto` stands for."""
    if info.classes is not None:
        return "cross_entropy"
    if info.targets is not None:
        return "squared_error"
    _refuse_classes_in_disguise(info)
    if info.splits["train"].columns > 1:
        return "squared_error"
    different: set[int] = set()
    odd: list[str] = []
    with Reader(info, "train") as reader:
        for lo in range(0, reader.rows, PIECE_ROWS):
            raw = reader.raw_y(lo, min(lo + PIECE_ROWS, reader.rows)).reshape(-1)
            is_class = (raw == np.rint(raw)) & (raw >= 0) & (raw < CLASSES_AT_MOST)
            odd += [f"row {lo + row} is {raw[row]}" for row in np.flatnonzero(~is_class).tolist()]
            if len(odd) > ODD_SHARE * reader.rows:
                return "squared_error"
            different.update(np.unique(raw[is_class]).astype(np.int64).tolist())
    if odd and len(different) > FEW_CLASSES:
        return "squared_error"
    if odd:
        raise DataError(
            f"{info.path}: {info.y_name!r} of train has class numbers, but {odd[0]}: mend it, or set "
            "loss = squared_error if they are numbers"
        )
    if len(different) > FEW_CLASSES and reader.rows < ROWS_PER_CLASS * len(different):
        raise ConfigError(
            f"loss = auto: {info.y_name!r} of {info.path} has {len(different)} different whole numbers in "
            f"{reader.rows} rows: set loss = cross_entropy if they are classes, squared_error if they are numbers"
        )
    return "cross_entropy"


def _refuse_classes_in_disguise(info: DatasetInfo) -> None:
    """Raise ConfigError for one-hot labels, and for few whole numbers, some below 0: they may be classes."""
    several = info.splits["train"].columns > 1
    different: set[float] = set()
    with Reader(info, "train") as reader:
        for lo in range(0, reader.rows, PIECE_ROWS):
            raw = reader.raw_y(lo, min(lo + PIECE_ROWS, reader.rows))
            if several and not (((raw == 0) | (raw == 1)).all() and (np.count_nonzero(raw, axis=1) == 1).all()):
                return
            different.update(np.unique(raw)[: FEW_CLASSES + 1].tolist())
            if not several and (len(different) > FEW_CLASSES or any(value != np.rint(value) for value in different)):
                return
    if not several and min(different) >= 0:
        return
    found = "one-hot" if several else ", ".join(f"{value:g}" for value in sorted(different))
    raise ConfigError(
        f"loss = auto: {info.y_name!r} of {info.path} is {found}: `python -m ddp_mlp.convert` makes class numbers of "
        "labels; set loss = squared_error if they are numbers"
    )


def rule_of(loss: str, missing: bool) -> NumberRule:
    """Return what numbers may be with this loss, where some may be missing or none."""
    return NumberRule(missing, loss == "poisson", loss == "binary_cross_entropy")


def names_of(info: DatasetInfo) -> tuple[str, ...]:
    """Return the names of a file's numbers: its own, or that of the data set, with numbers where there are several."""
    if info.targets is not None:
        return info.targets
    name = info.y_name.rsplit("/", 1)[-1]
    return (name,) if info.numbers == 1 else tuple(f"{name}{i}" for i in range(info.numbers))


def targets_of(
    config: Config,
    loss: str,
    names: tuple[str, ...],
    found_mean: NDArray[np.float64],
    found_scale: NDArray[np.float64],
) -> Targets:
    """Return the numbers that are to be predicted, with the map into their units; mean and scale (n_T,) of train."""
    n = len(names)
    mean, scale = np.zeros(n), np.ones(n)
    if loss in STANDARDIZED and config.standardize_targets:
        scale = found_scale
        constraints = config.output_activation.replace(" ", "").split(",")
        shifted = np.array([name == "identity" for name in constraints * (n if len(constraints) == 1 else 1)])
        if len(shifted) != n:
            raise ConfigError(
                f"output_activation = {config.output_activation}: must be one for all, or one for each of {n} targets"
            )
        mean = np.where(shifted, found_mean, 0.0)
    quantiles = config.quantiles if loss == "quantile" else ()
    return Targets(loss, (), names, tuple(mean.tolist()), tuple(scale.tolist()), quantiles)


def standardization_of_targets(targets: Targets) -> Standardization:
    """Return the map of the numbers into the network's units."""
    mean, scale = np.array(targets.mean), np.array(targets.scale)
    return Standardization(mean, scale, used=bool(np.any(mean != 0) or np.any(scale != 1)))


def factors(
    asked: Mapping[str, float] | None, names: tuple[str, ...], weight_sum: float, found: NumberSurvey
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return the weight of each number, and that times Σw / Σw[observed]; None where all are 1.

    `found` is of the rows that are trained on, whose weights add up to weight_sum. Raises ConfigError or DataError.
    """
    for name in asked or ():
        if name not in names:
            known = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise ConfigError(f"target_weight names {name!r}: the targets are {known}")
    weights = np.array([(asked or {}).get(name, 1.0) for name in names])
    if not weights.any():
        raise ConfigError("target_weight gives every target the weight 0: at least one must count")
    for k in np.flatnonzero(found.weight <= 0):
        raise DataError(f"target {names[k]!r} is never observed in train: leave it out")
    both = weights, weights * (weight_sum / found.weight)
    plain, factor = (None if np.all(each == 1) else tuple(each.tolist()) for each in both)
    return plain, factor


def notes(loss: str, asked: str, names: tuple[str, ...], constant: NDArray[np.bool_]) -> list[str]:
    """Return what a user should hear about the targets."""
    said = []
    if asked == "auto":
        said.append(f"targets are numbers: loss = {loss}")
    if constant.any():
        which = ", ".join(names[k] for k in np.flatnonzero(constant)[:20])
        said.append(f"constant in train: {which}")
    return said
