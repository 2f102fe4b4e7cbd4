"""Random numbers as functions of what they are for, not as streams: nothing to carry along, nothing to replay.

A Philox generator is a pure function of (key, counter) (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011). The key holds the seed and the purpose; the upper words of the counter say which draw it is. The lowest word
counts within the draw.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What random numbers are drawn for; the values are part of a run's bits."""

    WEIGHTS = 1
    ORDER = 2
    DROPOUT = 3
    SPLIT = 4
    CANARY = 5
    SAMPLING = 6
    FOLDS = 7


FLOATS_PER_COUNT = 8
"""A Philox counter stands for four 64-bit words, and `random(dtype=float32)` takes half a word for a number."""


def generator(seed: int, purpose: Purpose, *indices: int, skip: int = 0) -> np.random.Generator:
    """Return the generator of one draw, such as the dropout mask of (step, shard, layer), `skip` float32 numbers on.

    At most three indices, each in [0, 2**64).
    """
    counts, floats = divmod(skip, FLOATS_PER_COUNT)
    counter = [counts, *indices, *(0,) * (3 - len(indices))]
    philox = np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=np.array(counter, np.uint64))
    random = np.random.Generator(philox)
    random.random(floats, np.float32)
    return random


def words(seed: int, purpose: Purpose, *indices: int, count: int) -> NDArray[np.uint64]:
    """Return 64-bit words (count,) of one draw as Philox gives them: NumPy promises these, and no more."""
    counter = np.array([0, *indices, *(0,) * (3 - len(indices))], np.uint64)
    philox = np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=counter)
    drawn: NDArray[np.uint64] = philox.random_raw(count)
    return drawn
