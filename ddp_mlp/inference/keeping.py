"""A trained network as a checkpoint like a run's own, and what is known of its training.

What a network was made of is its `origin`, of JSON values: `config`, `epoch`, `step`, `data` and `versions` as in a
checkpoint, and `events`, those of its journal up to then. A network that somebody has built of arrays has none of them.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ddp_mlp import __version__
from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.inference.network import Network
from ddp_mlp.nn.parameters import parameters_sha256
from ddp_mlp.storage.atomic import write_atomically
from ddp_mlp.storage.checkpoint import Checkpoint
from ddp_mlp.storage.checkpoint_image import encode

SPLITS = ("train_", "valid_", "test_")


def checkpoint_of(network: Network) -> Checkpoint:
    """Return a network as a checkpoint, to predict with, to export, and for init_from; no run goes on from it."""
    origin, targets, used = network.origin, network.targets, network.standardization.used
    known = Config(
        hidden=network.layout.widths[1:-1],
        activation=network.architecture.activation,
        output_activation=network.output_activation,
        loss=targets.loss,  # type: ignore[arg-type] # one of the losses
        quantiles=targets.quantiles or Config().quantiles,
        dtype=network.dtype.name,  # type: ignore[arg-type] # one of two
        arithmetic="portable" if network.arithmetic.is_portable else "native",
        standardize="features" if used else "none",
    )
    maps: dict[str, NDArray[Any]] = {
        "mean": network.standardization.mean,
        "scale": network.standardization.scale,
    }
    return Checkpoint(
        parameters=dict(network.parameters),
        optimizer={},
        standardization=maps if used else None,
        config={**configuration.to_dict(known), **origin.get("config", {})},
        epoch=origin.get("epoch", 0),
        step=origin.get("step", 0),
        progress={"events": list(origin.get("events", []))},
        classes=network.classes,
        data=dict(origin.get("data", {})),
        versions=dict(origin.get("versions", {"ddp_mlp": __version__})),
        targets=targets.to_dict(),
        inputs=network.inputs,
    )


def save(network: Network, path: Path) -> None:
    """Write a network to one file, whole or not at all. Local; several ranks may write the same.

    Raises ConfigError for a name that does not fit, DataError for parameters that are not finite, StorageError.
    """
    if path.suffix != ".h5":
        raise ConfigError(f"{path}: must end in .h5: a checkpoint is an HDF5 file")
    if re.fullmatch(r"step-[0-9]{8,}\.h5", path.name):
        raise ConfigError(f"{path}: is the name of a run's own checkpoints: choose another")
    try:
        image = encode(checkpoint_of(network))
    except ValueError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
    write_atomically(path, image)


def figures(network: Network) -> dict[str, float]:
    """Return what is known of how good a network is: the figures of its epoch, and those of the end where it is it."""
    events: Iterable[Mapping[str, Any]] = network.origin.get("events", [])
    found: dict[str, float] = {}
    for event in events:
        at_end = event["event"] == "final" and event.get("parameters_sha256") == parameters_sha256(
            network.parameters.values()
        )
        if at_end or (event["event"] == "epoch" and event["step"] == network.origin.get("step")):
            found |= {name: value for name, value in event.items() if name.startswith(SPLITS) and _is_number(value)}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
