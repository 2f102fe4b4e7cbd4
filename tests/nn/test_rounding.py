"""Rounding block by block: the bits of `products.units` and `round_to`, for every kind of number, in any block."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import rounding
from ddp_mlp.nn.products import ROUNDING, exponents, largest, round_to, units
from ddp_mlp.nn.rounding import Room

Array = NDArray[Any]
ODD = (0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 2.0**-420, 2.0**-400, 2.0**399, 2.0**400, -1e300, np.inf, np.nan)
"""Zeros, subnormals, what is at and beyond the limit of units, and what is not finite."""


def numbers(n: int, m: int, odd: bool) -> Array:
    """Return (n, m), Fortran-ordered: examples of sizes over 60 decades, and a few of odd ones alone."""
    random = np.random.default_rng(n * m)
    x = random.standard_normal((m, n)) * 10.0 ** random.integers(-30, 30, (m, 1))
    if odd:
        x[::3] = random.choice(ODD, (len(x[::3]), n))
        x[1::7] = 0
    return x.T


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 50), (64, 300), (700, 61), (20_000, 3)])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("bits", [8, 21, 24])
def test_examples_are_rounded_as_lines_are(n: int, m: int, odd: bool, bits: int) -> None:
    """Each to a unit of its own; with signs and without."""
    for signed in (True, False):
        x = numbers(n, m, odd) if signed else np.asfortranarray(np.abs(numbers(n, m, odd)))
        expected = np.empty_like(x)
        with np.errstate(all="ignore"):
            round_to(x, units(exponents(largest(x, 0)), bits), expected)
            for block in Room([n], m).blocks(x):
                block.round_examples(bits, signed)
        assert one_nan(x).tobytes("F") == one_nan(expected).tobytes("F")


def one_nan(x: Array) -> Array:
    """Return x with every NaN the same: its sign says nothing."""
    return np.where(np.isnan(x), np.nan, x)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 50), (64, 300), (10, 256), (191, 88), (700, 61)])
def test_rows_are_noted_and_rounded(n: int, m: int) -> None:
    """The largest magnitude of every row over all blocks; and units of their own."""
    x = numbers(n, m, odd=False)
    room, high = Room([n, 5], m), np.zeros(n)
    blocks = room.blocks(x)
    for block in blocks:
        block.note(high, signed=True)
    assert high.tobytes() == np.abs(x).max(axis=1).tobytes()
    unit = units(exponents(high), 20)
    expected = np.empty_like(x)
    round_to(x, unit[:, None], expected)
    room.lay(unit * ROUNDING)
    for block in blocks:
        block.round_rows()
    assert x.tobytes("F") == expected.tobytes("F")


@pytest.mark.parametrize("keep_scale", [1.0, 1 / 0.75])
def test_the_way_back_through_relu(keep_scale: float) -> None:
    """It is dA ⊙ [A > 0] · keep_scale, to the bit, signs of zeros too; from the least unit to numbers that overflow."""
    n, m = 40, 900
    random = np.random.default_rng(3)
    dA = numbers(n, m, odd=False)
    A = np.asfortranarray(random.choice([0.0, 0.0, 2.0**-400, 3e-90, 1.0, 7e250, np.inf], (n, m)))
    expected = dA * (A > 0) * keep_scale
    room = Room([n], m)
    for block, of_A in zip(room.blocks(dA), room.blocks(A), strict=True):
        block.through_relu(of_A.flat, keep_scale)
    assert np.any(expected != 0)
    assert dA.tobytes("F") == expected.tobytes("F")


def test_blocks_cover_all_examples_and_stay_small() -> None:
    """One after the other; as many examples as stay in cache, one where an example alone is larger."""
    for n, m in ((7, 9000), (rounding.BLOCK, 3), (2 * rounding.BLOCK, 3)):
        blocks = Room([n], m).blocks(np.zeros((m, n)).T)
        assert [i for block in blocks for i in range(m)[block.examples]] == list(range(m))
        assert all(block.flat.size <= max(n, rounding.BLOCK) for block in blocks)
