"""A checkpoint: the state of a run between two steps, and what of it must fit together.

Invariants:

- The figure by which two runs are compared, `parameters_sha256`, is one of the parameters alone.
- What does not fit together is refused alike when it is written and when it is read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import architecture, arithmetic
from ddp_mlp.nn.parameters import parameters_sha256
from ddp_mlp.nn.targets import Targets

NAME = re.compile("[A-Za-z][A-Za-z0-9_]{,31}")
NAMES = "names must be a letter and at most 31 letters, digits and underscores"

FUNCTIONS = {"activation": "relu", "output_activation": "identity", "arithmetic": "native"}
"""What a configuration says of a network beyond its arrays, and what it means by saying nothing: version 0.1's."""
MOST = float(np.finfo(np.float64).max)
"""Of a number in a configuration: a whole number in JSON may be larger than any float."""

Array = NDArray[np.floating[Any]]


class InvalidError(ValueError):
    """What is wrong with the content, without the name of the file."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after `step` steps; all that a resumed run or a prediction needs.

    The dictionaries `config`, `progress`, `data` and `versions` hold JSON values with text as keys (a tuple comes back
    as a list). Floats survive exactly, among them the ones that are not finite (written as `NaN`, `Infinity`).
    """

    parameters: dict[str, Array]
    """`W1` (n_1, n_0), `b1` (n_1,), `W2` (n_2, n_1), …: float32 or float64, one dtype for all, in any memory order."""
    optimizer: dict[str, dict[str, Array]]
    """Slots such as `m` and `v`, each with the names, shapes and dtype of `parameters`; `{}` for plain SGD."""
    standardization: dict[str, Array] | None
    """`mean` and `scale`, float64 (n_0,), or None where the data are used as they are."""
    config: dict[str, Any]
    """The resolved configuration."""
    epoch: int
    """Finished epochs."""
    step: int
    """Finished steps since the run began."""
    progress: dict[str, Any]
    """What else the training loop wants back: sums of the epoch so far, best score, the run's clock."""
    classes: tuple[str, ...]
    """Names of the n_L classes, in the order of the outputs."""
    data: dict[str, Any]
    """Fingerprint of the data set."""
    versions: dict[str, Any]
    """Versions of the libraries that computed this state."""
    targets: dict[str, Any] | None = None
    """The numbers that the outputs are, as `nn.targets.Targets` has them; None for classes."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """What is known of the inputs beyond numbers, JSON: `features`, their n_0 names; `feature_shape`; `recipe`."""

    @property
    def format_version(self) -> int:
        """The oldest format in which it can be understood."""
        new = self.targets is not None or self.inputs or self.config.get("activation", "relu") != "relu"
        return 2 if new else 1

    @property
    def parameters_sha256(self) -> str:
        """SHA-256 (hex) of W1, b1, W2, b2, … in C order: the figure by which two runs are compared."""
        return sha256_in_order(self.parameters)


def check(checkpoint: Checkpoint) -> None:
    """Raise InvalidError where arrays do not fit together or are not finite (the optimizer's may be)."""
    check_arrays(checkpoint.parameters, checkpoint.optimizer, checkpoint.standardization)
    check_outputs(checkpoint.parameters, checkpoint.classes, checkpoint.targets)
    check_config(checkpoint)
    check_finite(checkpoint)
    if min(checkpoint.epoch, checkpoint.step) < 0:
        raise InvalidError(f"epoch {checkpoint.epoch}, step {checkpoint.step}: must not be negative")


def parameter_names(layers: int) -> list[str]:
    """Return W1, b1, W2, b2, …: the names of the parameters of so many layers, in order."""
    return [f"{letter}{layer}" for layer in range(1, layers + 1) for letter in "Wb"]


def sha256_in_order(parameters: Mapping[str, Array]) -> str:
    """Return the SHA-256 (hex) of W1, b1, W2, b2, … in C order."""
    return parameters_sha256(parameters[name] for name in parameter_names(len(parameters) // 2))


def check_arrays(
    parameters: Mapping[str, Array],
    optimizer: Mapping[str, Mapping[str, Array]],
    standardization: Mapping[str, Array] | None,
) -> None:
    """Raise InvalidError unless the shapes and dtypes are those of one network, its optimizer and its data."""
    names = parameter_names(max(1, len(parameters) // 2))
    if set(parameters) != set(names):
        raise InvalidError(f"parameters are {sorted(parameters)}, must be W1, b1, W2, b2, … without a gap")
    dtype = parameters["W1"].dtype
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise InvalidError(f"W1 is {dtype}, must be float32 or float64")
    inputs = parameters["W1"].shape[-1:]
    widths = inputs
    for W, b in zip(names[::2], names[1::2], strict=True):
        _check_array(b, parameters[b], parameters[b].shape[:1], dtype)
        _check_array(W, parameters[W], parameters[b].shape + widths, dtype)
        widths = parameters[b].shape
    for slot, arrays in optimizer.items():
        if not NAME.fullmatch(slot):
            raise InvalidError(f"optimizer slot {slot!a}: {NAMES}")
        if set(arrays) != set(names):
            raise InvalidError(f"optimizer slot {slot} holds {sorted(arrays)}, must hold {names}")
        for name in names:
            _check_array(f"{slot}/{name}", arrays[name], parameters[name].shape, dtype)
    if standardization is not None:
        if set(standardization) != {"mean", "scale"}:
            raise InvalidError(f"standardization holds {sorted(standardization)}, must hold mean and scale")
        for name, array in standardization.items():
            _check_array(name, array, inputs, np.dtype(np.float64))


def check_outputs(
    parameters: Mapping[str, Array], classes: tuple[str, ...], kept_targets: Mapping[str, Any] | None
) -> None:
    """Raise InvalidError unless there are as many classes, or numbers, as outputs."""
    outputs = len(parameters[f"b{len(parameters) // 2}"])
    if kept_targets is None:
        if len(classes) != outputs:
            raise InvalidError(f"{len(classes)} classes for {outputs} outputs")
        return
    try:
        targets = Targets.from_dict(kept_targets)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidError(f"attribute targets is not what it must be: {error}") from error
    if targets.outputs != outputs or classes:
        raise InvalidError(f"{targets.outputs} numbers and {len(classes)} classes for {outputs} outputs")


def check_config(checkpoint: Checkpoint) -> None:
    """Raise InvalidError unless the configuration names what such a network has.

    That is: functions and an arithmetic, and of the loss of numbers, numbers.
    """
    _check_functions(checkpoint)
    _check_scoring(checkpoint)


def _check_functions(checkpoint: Checkpoint) -> None:
    named = {name: checkpoint.config.get(name, default) for name, default in FUNCTIONS.items()}
    if odd := [name for name, value in named.items() if not isinstance(value, str)]:
        raise InvalidError(f"config: {odd[0]} must be a text")
    if not isinstance(checkpoint.config.get("standardize", True), bool | str):
        raise InvalidError("config: standardize must be a text, true or false")
    widths = [len(checkpoint.parameters[f"b{layer}"]) for layer in range(1, len(checkpoint.parameters) // 2)]
    try:
        arithmetic.called(named["arithmetic"])
        functions = {name: named[name] for name in ("activation", "output_activation")}
        architecture.create(1, widths, Targets.from_dict(checkpoint.targets, checkpoint.classes), **functions)
    except (KeyError, ValueError) as error:
        raise InvalidError(
            f"config: no such network has {' '.join(', '.join(named.values()).split())}"[:200]
        ) from error


def _check_scoring(checkpoint: Checkpoint) -> None:
    weights = checkpoint.config.get("target_weight")
    if not isinstance(weights, dict | None):
        raise InvalidError("config: target_weight must be by name")
    for name, value in [("huber_delta", checkpoint.config.get("huber_delta", 1.0)), *(weights or {}).items()]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
            raise InvalidError(f"config: {name} must be a number from 0 to {MOST:g}"[:200])


def check_finite(checkpoint: Checkpoint) -> None:
    """Raise InvalidError unless all parameters, and all of the standardization, are finite."""
    for name, array in (checkpoint.parameters | (checkpoint.standardization or {})).items():
        if not np.isfinite(array).all():
            raise InvalidError(f"{name} holds numbers that are not finite")


def _check_array(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if array.shape != shape:
        raise InvalidError(f"{name} has shape {array.shape}, must have {shape} to fit its neighbours")
    if not all(shape or (0,)):
        raise InvalidError(f"{name} has shape {shape}, must be at least 1 in each direction")
    if array.dtype != dtype:
        raise InvalidError(f"{name} is {array.dtype}, must be {dtype}")
