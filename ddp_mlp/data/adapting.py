"""Rows that are open, seen by another configuration: nothing is looked at again, and no row is copied.

For runs that share their rows, and differ in how these are mapped: `standardize`, `dtype`, and all that says what a
target is taken for. Of rows that are streamed, each run has a ring of its own.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.batches import Source
from ddp_mlp.data.memory import MemorySource
from ddp_mlp.data.opening import Data, Rows, mode_of, settle_targets
from ddp_mlp.data.stream import FileSource, StreamSource
from ddp_mlp.data.targets import PIECE_ROWS, check_keys, standardization_of_targets
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.reader import Reader

ADAPTED = (
    *("standardize", "dtype", "loss", "standardize_targets", "output_activation", "quantiles"),
    *("target_weight", "class_weight", "label_smoothing"),
)
"""Keys that decide how rows are seen, or that may not fit how they are."""


def adapted(data: Data, config: Config) -> Data:
    """Return the same rows, mapped as another configuration has it; class weights are left to the caller. Local.

    The data are from a file; a ring to train from is left as it is, for `ring` to make another. Raises ConfigError or
    DataError where the configuration does not fit them.
    """
    assert data.basis is not None, "from a file"
    loss = data.targets.loss if config.loss == "auto" else config.loss
    if (loss == "cross_entropy") != bool(data.classes):
        read, other = ("classes", "numbers") if data.classes else ("numbers", "classes")
        raise ConfigError(f"loss = {loss}: is for {other}, but the rows of {data.info.path} were opened as {read}")
    check_keys(config, loss)
    mode = mode_of(config.standardize, data.info)
    settled = settle_targets(config, mode, loss, data.info, data.classes, data.basis)
    dtype = _working(config)

    def mapped(part: tuple[Source, Rows] | None) -> tuple[Source, Rows] | None:
        if part is None:
            return None
        source, rows = part
        assert isinstance(source, MemorySource | FileSource), "a ring is not evaluated"
        return source.mapped(dtype, *settled.maps), rows

    train, train_rows = data.train
    return data._replace(
        standardization=settled.maps[0],
        train=(train.mapped(dtype, *settled.maps) if isinstance(train, MemorySource) else train, train_rows),
        valid=mapped(data.valid),
        test=mapped(data.test),
        targets=settled.targets,
        factor=settled.factor,
        weight=settled.weight,
        standardize=mode,
    )


def ring(data: Data, config: Config, rows: NDArray[np.int64] | int, communicator: Communicator) -> StreamSource:
    """Return a ring for the rows of train that are wanted, of data that are adapted already. Collective."""
    assert isinstance(config.batch_size, int), "checked by whoever streams"
    numbers = standardization_of_targets(data.targets) if data.targets.count else None
    return StreamSource(
        data.info,
        "train",
        rows,
        communicator,
        _working(config),
        data.standardization,
        numbers,
        batch_size=config.batch_size,
        block_rows=config.block_rows,
    )


def file_source(data: Data, config: Config, split: str) -> FileSource:
    """Return a split's rows as they are asked for, of data that are adapted already. Local."""
    numbers = standardization_of_targets(data.targets) if data.targets.count else None
    return FileSource(data.info, split, _working(config), data.standardization, numbers)


def check_values(data: Data, loss: str) -> None:
    """Raise DataError where a split has targets that a loss cannot take: they were opened for another one. Local."""
    if loss not in ("poisson", "binary_cross_entropy"):
        return
    for split, lo, y in _targets(data):
        wrong, must = (y < 0, "at least 0") if loss == "poisson" else (~np.isnan(y) & (y != 0) & (y != 1), "0 or 1")
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            found = f"row {lo + row}, column {column} of {data.info.y_name!r} is {y[row, column]:g}"
            raise DataError(f"{data.info.path}: {split}: {found}: must be {must} for loss = {loss}")


def _targets(data: Data) -> Iterator[tuple[str, int, NDArray[Any]]]:
    """Yield all targets piece by piece, with the split and the number of the first row."""
    for split, structure in data.info.splits.items():
        with Reader(data.info, split) as reader:
            for lo in range(0, structure.rows, PIECE_ROWS):
                yield split, lo, reader.y(lo, min(lo + PIECE_ROWS, structure.rows))


def _working(config: Config) -> np.dtype[Any]:
    return arithmetics.called(config.arithmetic).working(np.dtype(config.dtype))
