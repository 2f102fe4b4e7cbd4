"""Which rows of train are set apart for validation: a function of labels, fraction and seed."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.randomness import Purpose
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import NumberSurvey, survey_numbers


def stratified(
    y: NDArray[Any], fraction: float, seed: int, arithmetic: Arithmetic = NATIVE
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (the rows that stay, the rows set apart), both ascending: `fraction` of every class is set apart.

    Of rows whose targets y (m, n_T) are numbers, `fraction` of all.
    """
    apart = np.zeros(len(y), bool)
    if y.ndim == 2:
        y = np.zeros(len(y), np.int64)
    for label in range(int(y.max()) + 1):
        members = np.flatnonzero(y == label)
        drawn = members[arithmetic.permutation(len(members), seed, Purpose.SPLIT, label)]
        apart[drawn[: round(fraction * len(members))]] = True
    return np.flatnonzero(~apart), np.flatnonzero(apart)


class HeldOut(NamedTuple):
    """A split's rows in two parts; the row numbers are ascending, one copy per node."""

    stay: NDArray[np.int64]
    apart: NDArray[np.int64]
    class_counts: NDArray[np.int64]
    """(classes,): of the rows that stay."""
    numbers: NumberSurvey | None
    """The targets of the rows that stay, where they are numbers."""


def hold_out(
    info: DatasetInfo,
    fraction: float,
    seed: int,
    classes: int,
    communicator: Communicator,
    arithmetic: Arithmetic = NATIVE,
) -> HeldOut:
    """Set `fraction` of every class of train apart, as `stratified` does. Collective.

    Raises DataError or StorageError on all ranks.
    """
    parts: list[Any] = []
    with communicator.in_agreement():
        if communicator.local_rank == 0:
            with Reader(info, "train") as reader:
                y, w = reader.y(0, reader.rows), reader.w(0, reader.rows)
            stay, apart = stratified(y, fraction, seed, arithmetic)
            if info.numbers:
                parts = [stay, apart, (np.zeros(0, np.int64), survey_numbers(y[stay], w[stay], arithmetic))]
            else:
                parts = [stay, apart, (np.bincount(y[stay], minlength=classes), None)]
    counts, numbers = communicator.broadcast(parts[-1] if parts else (None, None))
    shared: list[NDArray[np.int64]] = []
    for i in range(2):
        array = communicator.share_one(len(parts[i]) if parts else 0, np.dtype(np.int64))
        if parts:
            array[...] = parts[i]
        shared.append(array)
    communicator.node_barrier()
    return HeldOut(shared[0], shared[1], counts, numbers)  # type: ignore[arg-type] # rank 0 leads its node
