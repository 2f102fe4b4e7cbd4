"""Random numbers as functions of what they are for, not as streams: nothing to carry along, nothing to replay.

A Philox generator is a pure function of (key, counter) (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011). The key holds the seed and the purpose; the upper words of the counter say which draw it is. The lowest word
counts within the draw.

What `numpy.random.Generator` makes of a Philox generator is as good as NumPy's version and libm: it serves the native
arithmetic. The portable one takes Philox's words alone, which its definition fixes.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import cosine, elementary


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
TWO_PI = 6.283185307179586
WORDS_PER_COUNT = 4
"""64-bit words."""


def generator(seed: int, purpose: Purpose, *indices: int, skip: int = 0) -> np.random.Generator:
    """Return the generator of one draw, such as the dropout mask of (step, shard, layer), `skip` float32 numbers on.

    At most three indices, each in [0, 2**64).
    """
    counts, floats = divmod(skip, FLOATS_PER_COUNT)
    random = np.random.Generator(_philox(seed, purpose, counts, *indices))
    random.random(floats, np.float32)
    return random


def permutation(count: int, seed: int, purpose: Purpose, *indices: int) -> NDArray[np.int64]:
    """Return the numbers [0, count) in NumPy's order of this draw."""
    return generator(seed, purpose, *indices).permutation(count)


def normal(shape: tuple[int, ...], seed: int, purpose: Purpose, *indices: int) -> NDArray[np.float64]:
    """Return NumPy's standard normal numbers of this draw, float64."""
    return generator(seed, purpose, *indices).standard_normal(shape)


# ---- from Philox's words alone --------------------------------------------------------------------------------------


def words(seed: int, purpose: Purpose, *indices: int, count: int, skip: int = 0) -> NDArray[np.uint64]:
    """Return 64-bit words (count,) of one draw as Philox gives them, WORDS_PER_COUNT · skip words on."""
    drawn: NDArray[np.uint64] = _philox(seed, purpose, skip, *indices).random_raw(count)
    return drawn


def portable_permutation(count: int, seed: int, purpose: Purpose, *indices: int) -> NDArray[np.int64]:
    """Return the numbers [0, count) in the order of their words; of equal words, the first number comes first."""
    return np.argsort(words(seed, purpose, *indices, count=count), kind="stable")


def portable_normal(shape: tuple[int, ...], seed: int, purpose: Purpose, *indices: int) -> NDArray[np.float64]:
    """Return standard normal numbers, float64, two words each, by Box and Muller's method.

    √(−2 log u) cos(2π v), with u in (0, 1] and v in [0, 1) of 53 bits. Box and Muller, "A note on the generation of
    random normal deviates", Ann. Math. Statist. 29 (1958).
    """
    count = int(np.prod(shape, dtype=np.int64))
    drawn = words(seed, purpose, *indices, count=2 * count) >> np.uint64(11)
    u, v = (drawn.astype(np.float64) * 2.0**-53).reshape(2, count)
    radius = np.sqrt(-2.0 * elementary.log(1.0 - u))
    drawn_normal: NDArray[np.float64] = radius * cosine.cos(TWO_PI * v)
    return drawn_normal.reshape(shape)


def kept(rows: range, n: int, share: float, seed: int, purpose: Purpose, *indices: int) -> NDArray[np.bool_]:
    """Return which of a draw's values are not dropped: (rows, n), each dropped with probability `share`.

    Half a word decides on a value. A row begins with a counter of its own, so that rows can be drawn from any on.
    """
    counts = -(-n // (2 * WORDS_PER_COUNT))
    drawn = words(seed, purpose, *indices, count=len(rows) * counts * WORDS_PER_COUNT, skip=rows.start * counts)
    halves = drawn.astype("<u8", copy=False).view("<u4").reshape(len(rows), -1)[:, :n]
    return halves >= np.uint64(share * 2.0**32)


def _philox(seed: int, purpose: Purpose, skip: int, *indices: int) -> np.random.Philox:
    counter = [skip, *indices, *(0,) * (3 - len(indices))]
    return np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=np.array(counter, np.uint64))
