"""What is known of a batch's lines: exponents as frexp has them, samples that no cut changes, rows that spread."""

from itertools import pairwise

import numpy as np
import pytest

from ddp_mlp.nn import lines as of_batch
from ddp_mlp.nn.lines import RESERVE, Limbs, Lines, sample
from ddp_mlp.nn.products import NOT_FINITE, NOTHING, ROUNDING, UNIT_LIMIT, units


def test_samples_are_those_of_the_batch_for_any_cut() -> None:
    """The sums of exponents, by frexp, of every so-manieth example, and how many are not zero."""
    random = np.random.default_rng(0)
    X = random.standard_normal((5, 203)) * 10.0 ** random.integers(-20, 20, (5, 203))
    X[random.random(X.shape) < 0.4] = 0
    dz = random.standard_normal((3, 203))
    tables = []
    for cuts in ([0, 203], [0, 1, 7, 90, 203]):
        lines = Lines((5, 3))
        for lo, hi in pairwise(cuts):
            arrays = [np.asfortranarray(X[:, lo:hi]), np.asfortranarray(dz[:, lo:hi])]
            lines.sample(lines.samples(arrays, sample(lo, hi - lo, 203)))
        tables.append(lines.table[1:].copy())
    assert np.array_equal(tables[0], tables[1])
    seen = np.concatenate([X, dz])[:, :: 203 // of_batch.SAMPLED]
    e = np.where(seen == 0, 0, np.frexp(seen)[1])
    assert np.array_equal(tables[0][0, :8], e.sum(axis=1))
    assert np.array_equal(tables[0][1, :8], (seen != 0).sum(axis=1))
    assert not tables[0][:, 8:].any()


@pytest.mark.parametrize("value", [np.finfo(float).max, np.finfo(float).tiny])
def test_the_sums_of_the_largest_and_the_smallest_exponents(value: float) -> None:
    """Of as many samples as there can be."""
    m = 2 * of_batch.SAMPLED - 1
    lines, x = Lines((3, 2)), np.asfortranarray(np.full((3, m), -value))
    lines.sample(lines.samples([x, x[:2]], sample(0, m, m)))
    assert (lines.table[1, :5] == m * np.frexp(value)[1]).all()
    assert (lines.table[2, :5] == m).all()


def test_constants_are_those_of_units_at_every_exponent() -> None:
    """From lines of zeros and subnormals over both limits of a unit to infinity, where rounding must give NaN."""
    lines, bits = Lines((2000, 2000)), (23, 21)
    e = np.arange(-1100, 1025)
    some = np.concatenate([[NOTHING], e[:: len(e) // 1990], [NOT_FINITE]]).astype(np.int32)
    edges = np.array([-UNIT_LIMIT + b + d for b in bits for d in (-1, 0, 1)] + [UNIT_LIMIT, UNIT_LIMIT + 1], np.int32)
    given = np.resize(np.concatenate([edges, some]), 2000)
    for line in (lines.A[0], lines.dz[1]):
        line.exponent[...] = given
    with np.errstate(over="ignore"):
        lines.settle(bits)
    for line, of_line in ((lines.A[0], bits[1]), (lines.dz[1], bits[0])):
        expected = units(given, of_line) * ROUNDING
        usable = ~np.isnan(expected)
        assert 0 < usable.sum() < len(usable)
        assert np.array_equal(line.constant[usable], expected[usable])
        assert np.isinf(line.constant[~usable]).all()  # (x + c) − c is NaN


def test_a_mean_exponent_decides_what_spreads() -> None:
    """Rounded down, less than `RESERVE` bits above the last one that is kept; for any table, and by whole division."""
    random, lines, bits = np.random.default_rng(1), Lines((500, 500)), (23, 21)
    count = random.integers(0, 128, 1002)
    lines.table[:] = random.integers(-60, 60, 1002), random.integers(-60, 60, 1002) * count, count
    lines.table[1] += random.integers(-2, 3, 1002) * (count > 0)
    lines.table[0, ::50], lines.table[0, 1::50] = NOTHING, NOT_FINITE
    kept = np.where(np.arange(1002) < 500, bits[1], bits[0]) - RESERVE
    exponent, usual, _ = lines.table
    expected = (count > 0) & (exponent < NOT_FINITE) & (exponent - usual // np.maximum(count, 1) > kept)
    assert 100 < expected.sum() < 900
    assert np.array_equal(lines.spread(bits), expected)


def test_what_second_limbs_add_can_be_wiped_out() -> None:
    """All of it, so that the same memory serves the next batch; and it was not zero before."""
    m = 512
    A, dz, lines = np.ones((4, m), order="F"), np.ones((3, m), order="F"), Lines((4, 3))
    A[2, 5] = dz[1, 7] = 2.0**30
    for line, x in ((lines.A[0], A), (lines.dz[1], dz)):
        line.high[...] = x.max(axis=1)
    lines.sample(lines.samples([A, dz], sample(0, m, m)))
    lines.end()
    found, dW, db = Limbs(lines, m), {1: np.zeros((3, 4))}, {1: np.zeros((3, 1))}
    found.spread_out(np.ones(found.length), dW, db)
    assert np.count_nonzero(dW[1]) == 4 + 3 - 1
    assert np.count_nonzero(db[1]) == 1
    found.wipe_out(dW, db)
    assert not dW[1].any()
    assert not db[1].any()


@pytest.mark.parametrize(("ratio", "limbs"), [(1.0, 0), (2.0**4, 0), (2.0**12, 2), (2.0**30, 2)])
def test_a_row_that_spreads_has_a_second_limb(ratio: float, limbs: int) -> None:
    """One value far above the others: its row of dz and its row of A, and no other."""
    m = 512
    A, dz, lines = np.ones((4, m), order="F"), np.ones((3, m), order="F"), Lines((4, 3))
    A[2, 5] = dz[1, 7] = ratio
    for line, x in ((lines.A[0], A), (lines.dz[1], dz)):
        line.high[...] = x.max(axis=1)
    lines.sample(lines.samples([A, dz], sample(0, m, m)))
    lines.end()
    found = Limbs(lines, m)
    assert found.rows == limbs
    assert (found.dz[1].tolist(), found.A[0].tolist()) == (([1], [2]) if limbs else ([], []))
    assert found.length == (1 * 4 + 3 * 1 + 1 * 1 + 1 if limbs else 0)
