"""Rows in memory that are rounded once: as a portable pass rounds them, by any ranks, or left as they are."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.data.memory import MemorySource
from ddp_mlp.data.opening import Data
from ddp_mlp.data.rounded import rounded_rows, with_rounded_rows
from ddp_mlp.nn import products
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import DatasetInfo
from tests.simulated_mpi import World

FLOAT64 = np.dtype(np.float64)
M, N, N_1 = 203, 37, 12
BITS = products.layer_bits(N, N_1).A


def source_of(kind: str, standardized: bool = True) -> MemorySource:
    """Return M rows over several magnitudes, one of zeros."""
    random = np.random.default_rng(3)
    X = random.standard_normal((M, N)) * 10.0 ** random.integers(-3, 3, (M, 1)) * 30
    X = np.clip(X, 0, 255).astype(kind) if kind == "uint8" else X.astype(kind)
    X[7] = 0
    maps = Standardization(random.standard_normal(N), random.random(N) + 0.5, standardized)
    weights = random.random(M)
    return MemorySource(X, random.integers(0, 4, M), weights, FLOAT64, maps)


def gathered(source: MemorySource, rows: NDArray[np.int64]) -> Group:
    """Return some rows in a group."""
    group = Group((N, N_1, 4), (len(rows),), FLOAT64)
    source.gather(rows, group)
    return group


def data_of(train: MemorySource, valid: MemorySource, test: MemorySource) -> Data:
    """Return a data set, of which valid and test have the same rows as train, or others."""
    info, rows = DatasetInfo("rows.h5", N, None, {}, "X", "y", (0, 0)), np.arange(3)
    maps = Standardization(np.zeros(N), np.ones(N))
    return Data(info, (), maps, {}, (train, rows), (valid, rows), (test, rows))


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", ">f4", "float16"])
def test_rows_are_those_that_a_pass_would_round(kind: str, standardized: bool) -> None:
    """Each to a unit of its own, as `products` has it; labels and weights are as they were."""
    source, rows = source_of(kind, standardized), np.array([7, 202, 0, 7, 45, 101, 102, 103])
    before = gathered(source, rows)
    expected = before.A[0].whole.copy(order="F")
    unit = products.units(products.exponents(products.largest(expected, 0)), BITS)
    products.round_to(expected, unit, expected)
    assert np.array_equal(expected, before.A[0].whole) == (not standardized and kind in ("uint8", "float16"))

    def program(communicator: Communicator) -> tuple[Any, ...]:
        X = rounded_rows(source_of(kind, standardized), BITS, communicator)
        assert X is not None
        after = gathered(source_of(kind, standardized).rounded(X), rows)
        assert after.w is not None
        return after.is_rounded, after.A[0].whole.tobytes(), after.y.tobytes(), after.w.tobytes()

    assert before.w is not None
    wanted = (True, expected.tobytes(), before.y.tobytes(), before.w.tobytes())
    assert not before.is_rounded
    assert program(SingleProcess()) == wanted
    for world in (World(2, 1, None), World(3, 1, 2)):
        assert world.run(program) == [wanted] * len(world.ranks)


@pytest.mark.parametrize("value", [1e300, 1e-60, 2.0**-140 + 2.0**-160])
def test_what_float32_does_not_hold_stays_as_it_is(value: float) -> None:
    """Too large, too small, or with bits below its least: on all ranks, whoever has the row."""
    source = source_of("float64", standardized=False)
    source.X[150, :2] = value, 0
    source.X[150, 2:] = 0

    def program(communicator: Communicator) -> bool:
        return rounded_rows(source, BITS, communicator) is None

    assert World(3, 1, None).run(program) == [True] * 3


def test_views_of_the_same_rows_share_them() -> None:
    """Train with weights of classes, and the rows of it that are held out."""
    source, other = source_of("float32"), source_of("uint8")
    parts = source.weighted_by_class(np.ones(4)), source, other
    data = with_rounded_rows(data_of(*parts), N_1, 1e9, SingleProcess())
    assert data.valid is not None
    assert data.test is not None
    train, valid, test = (part[0] for part in (data.train, data.valid, data.test))
    assert isinstance(train, MemorySource)
    assert isinstance(valid, MemorySource)
    assert isinstance(test, MemorySource)
    assert train.X is valid.X
    assert train.X is not test.X
    assert train._class_weight is not None
    assert {part.X.dtype for part in (train, valid, test)} == {np.dtype(np.float32)}


def test_little_memory_is_left_alone() -> None:
    """A quarter of what is spare: one byte less, and all stays."""
    data, wanted = data_of(source_of("uint8"), source_of("float32"), source_of("float64")), 3 * M * N * 4
    assert with_rounded_rows(data, N_1, 4 * wanted, SingleProcess()) is not data
    assert with_rounded_rows(data, N_1, 4 * wanted - 1, SingleProcess()) is data
