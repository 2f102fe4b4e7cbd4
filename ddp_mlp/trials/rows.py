"""The rows of a search: opened once, one copy per node for all groups; each training takes its part of them.

Where they are too many for memory, or are to be streamed, each training reads its part from the file.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.adapting import adapted, file_source, ring
from ddp_mlp.data.memory import MemorySource
from ddp_mlp.data.opening import Data, class_weights
from ddp_mlp.errors import ConfigError, by_all_ranks
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.reader import Reader
from ddp_mlp.trials.course import Unit
from ddp_mlp.trials.folds import fold_of_rows
from ddp_mlp.trials.plan import MEMBER

Ascending = NDArray[np.int64]


class Fold(NamedTuple):
    """What one fold trains on and what it holds out: row numbers, one copy per node."""

    train: Ascending
    held_out: Ascending


class SearchRows:
    """The data of a search. Collective to make."""

    def __init__(self, data: Data, folds: int, seed: int, communicator: Communicator) -> None:
        """Take data that all ranks have opened, without class weights. Raises ConfigError on all ranks."""
        source, rows = data.train
        self.data = data
        self._rows = source.m if rows is None else len(rows)
        self._folds: list[Fold] = []
        if folds > 1:
            if data.valid is not None and rows is not None:
                raise by_all_ranks(ConfigError(f"folds = {folds}: every row is held out once: drop valid_fraction"))
            with communicator.in_agreement():
                y = self._labels() if data.classes else None
                number = fold_of_rows(y, source.m, folds, seed, data.classes)
            for fold in range(folds):
                parts = (np.flatnonzero(number != fold), np.flatnonzero(number == fold))
                self._folds.append(Fold(*(_one_per_node(part, communicator) for part in parts)))

    def rows(self, unit: Unit) -> int:
        """Return how many rows a training takes."""
        return len(self._folds[unit.fold].train) if self._folds and unit.rung != MEMBER else self._rows

    def of(self, unit: Unit, config: Config, group: Communicator) -> Data:
        """Return the data of a training, as it maps them: a fold or all of train; the test data for members alone.

        Collective over the group.
        """
        data = adapted(self.data, config)
        source, train = data.train
        held_out: Ascending | None = None
        if unit.rung != MEMBER:
            data = data._replace(test=None)
            if self._folds:
                train, held_out = self._folds[unit.fold]
        valid = data.valid
        if isinstance(source, MemorySource):
            valid = valid if held_out is None else (source, held_out)
        else:
            source = ring(data, config, source.m if train is None else train, group)
            valid = valid if held_out is None else (file_source(data, config, "train"), held_out)
        if config.class_weight is not None:
            y = self._labels()
            counts = np.bincount(y if train is None else y[train], minlength=len(data.classes))
            source = source.weighted_by_class(class_weights(config.class_weight, data.classes, counts))
        return data._replace(train=(source, train), valid=valid)

    def _labels(self) -> NDArray[np.int64]:
        """Return the class numbers (m,) of train. Local."""
        source = self.data.train[0]
        if isinstance(source, MemorySource):
            return source.y
        with Reader(self.data.info, "train") as reader:
            return reader.y(0, reader.rows)


def _one_per_node(rows: Ascending, communicator: Communicator) -> Ascending:
    """Return the rows in memory that the node shares. Collective."""
    shared: Ascending = communicator.share_one(len(rows), rows.dtype)
    if communicator.local_rank == 0:
        shared[...] = rows
    communicator.node_barrier()
    return shared
