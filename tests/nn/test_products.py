"""Products whose sums are exact: the bits of every operand, at the bound, and what the start refuses."""

import platform
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.nn import products
from ddp_mlp.nn.calls import do
from ddp_mlp.nn.products import Bits, exponents, gradient_bits, largest, layer_bits, round_to, units

SHAPES = [
    (1, 1),
    (3, 2),
    (16, 2048),
    (2048, 16),
    (784, 512),
    (512, 784),
    (301, 257),
    (7, 1000),
    (1024, 1025),
    (4096, 3),
]
"""(n_prev, n): narrow to wide, and wide to narrow."""
EXAMPLES = [1, 2, 3, 64, 203, 512, 4096]


def at_bound(rows: int, columns: int, bits: int, seed: int) -> NDArray[np.int64]:
    """Return numbers at ±2^bits or just below, random signs but for the first row, where all are positive and odd."""
    random = np.random.default_rng(seed)
    values = (1 << bits) - random.integers(0, 4, (rows, columns))
    values[0] |= 1
    values[0] = np.minimum(values[0], (1 << bits) - 1)
    signs = random.choice([-1, 1], (rows, columns))
    signs[0] = 1
    signed: NDArray[np.int64] = values * signs
    return signed


def is_exact(M: NDArray[np.int64], A: NDArray[np.int64]) -> bool:
    """Compare a float64 product, in both memory orders, with whole numbers."""
    expected = M @ A
    for order in ("C", "F"):
        found = np.empty(expected.shape, order=order)
        products.multiply(M.astype(np.float64, order=order), A.astype(np.float64, order=order), found)
        if not np.array_equal(found, expected.astype(np.float64)):
            return False
    return True


@pytest.mark.parametrize(("n_prev", "n"), SHAPES)
def test_both_sums_of_one_w_are_exact_at_the_bound(n_prev: int, n: int) -> None:
    """W at full size serves z = W A_prev and dA = Wᵀ dz."""
    bits = layer_bits(n_prev, n)
    W = at_bound(n, n_prev, bits.W, 1)
    W[:, 0] = np.abs(W[:, 0])
    assert is_exact(W, at_bound(5, n_prev, bits.A, 2).T)
    assert is_exact(W.T, at_bound(5, n, bits.dz, 3).T)


@pytest.mark.parametrize("m", EXAMPLES)
def test_the_gradients_sum_is_exact_at_the_bound(m: int) -> None:
    """Over all examples; and of two shares' sums, whichever rows each has."""
    dz_bits, A_bits = gradient_bits(m)
    dz, A = at_bound(9, m, dz_bits, 4), at_bound(11, m, A_bits, 5)
    assert is_exact(dz, A.T)
    cut = m // 3
    parts = [dz[:, s].astype(float) @ A[:, s].T.astype(float) for s in (slice(0, cut), slice(cut, m))]
    assert np.array_equal(parts[0] + parts[1], (dz @ A.T).astype(float))


def test_two_bits_more_are_too_many() -> None:
    """The bound that a prototype broke: one W, 16 to 2048, with the bits of the forward sum alone, shows here."""
    W = at_bound(2048, 16, 24, 1)
    W[:, 0] = np.abs(W[:, 0])
    assert is_exact(W, at_bound(5, 16, 24, 2).T)
    assert not is_exact(W.T, at_bound(5, 2048, 24, 3).T)


def test_bits_keep_to_the_bound_and_use_it() -> None:
    """Of 784 inputs, 21 and 22 bits; never more than 24; a sum of one term has all 24."""
    assert layer_bits(784, 512) == Bits(W=21, A=22, dz=23)
    assert layer_bits(1, 1) == Bits(24, 24, 24)
    for n_prev in (1, 2, 3, 16, 17, 784, 2048, 100_000, 1 << 21, 1 << 23):
        for n in (1, 10, 512, 2048, 1 << 20):
            bits = layer_bits(n_prev, n)
            longest = min(n_prev, products.LONGEST)
            assert longest * 2 ** (bits.W + bits.A) <= 2**53
            assert n * 2 ** (bits.W + bits.dz) <= 2**53
            assert 8 <= min(bits) <= max(bits) <= 24
    for m in (1, 2, 100, 4096, 1 << 21):
        assert m * 2 ** sum(gradient_bits(m)) <= 2**53


def test_rounding_is_to_the_nearest_whole_multiple() -> None:
    """Against rint, of all magnitudes; of two as near the even one; and no zero is negative."""
    random = np.random.default_rng(0)
    x = random.standard_normal((50, 40)) * 10.0 ** random.integers(-30, 30, (50, 1))
    unit = units(exponents(largest(x, 1)), 20)
    found = np.empty_like(x)
    round_to(x, unit, found)
    assert found.tobytes() == (np.rint(x / unit) * unit + 0.0).tobytes()
    assert np.abs(found / unit).max() <= 2**20
    assert np.abs(x - found).max(axis=1, keepdims=True).max() <= unit.max() / 2
    halves = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -0.25, 0.0, -0.0]])
    round_to(halves, np.ones((1, 1)), halves)
    assert halves.tobytes() == np.array([[0.0, 2, 2, 0.0, -2, 0.0, 0.0, 0.0]]).tobytes()


def test_lines_of_zeros_subnormals_and_what_is_not_finite() -> None:
    """Zeros stay, what is far too small is lost, infinity and NaN give NaN, and one line does not touch another."""
    x = np.array([[0.0, 0.0], [5e-324, -5e-324], [1.0, np.inf], [np.nan, 1.0], [1e300, 1.0], [1.0, 0.75]])
    e = exponents(largest(x, 1))
    assert e[:, 0].tolist() == [products.NOTHING, products.NOTHING, products.NOT_FINITE, products.NOT_FINITE, 997, 1]
    found = np.empty_like(x)
    with np.errstate(invalid="ignore"):
        round_to(x, units(e, 20), found)
    assert found[:2].tobytes() == np.zeros((2, 2)).tobytes()
    assert np.isnan(found[2:5]).all()
    assert found[5].tolist() == [1.0, 0.75]


def test_exponents_are_those_of_frexp() -> None:
    """Of every power of two that is normal, of what is just below and just above it, and of what bounds them."""
    powers = np.ldexp(1.0, np.arange(-1022, 1024))
    x = np.concatenate([np.nextafter(powers[1:], 0), powers, np.nextafter(powers, np.inf)])
    assert np.array_equal(exponents(x), np.frexp(x)[1])
    assert exponents(np.array([0.0, -0.0, np.nextafter(powers[0], 0)])).tolist() == [products.NOTHING] * 3
    assert exponents(np.array([np.inf, np.nan, -np.nan])).tolist() == [products.NOT_FINITE] * 3


def test_a_share_of_zeros_does_not_decide() -> None:
    """The exponent of nothing loses against any other: the maximum over shares is that of the rest."""
    tiny = exponents(np.array([1e-30]))
    assert np.maximum(tiny, exponents(np.zeros(1))) == tiny


@pytest.mark.parametrize(
    ("n", "k", "m"),
    [(1, 1, 1), (70, 1, 200), (1, 300, 129), (26, 512, 250), (256, 128, 100), (33, 7, 130), (513, 800, 5)],
)
def test_products_of_every_shape(n: int, k: int, m: int) -> None:
    """Sums of one term, a few examples at a time and all at once: exact, and no zero is negative."""
    bits = layer_bits(k, n)
    assert is_exact(at_bound(n, k, bits.W, 6), at_bound(m, k, bits.A, 7).T)
    out = np.full((m, n), np.nan).T
    products.multiply(np.full((n, k), -1.0), np.zeros((k, m)), out)
    assert not out.any()
    assert not np.signbit(out).any()
    W, A = at_bound(n, k, bits.W, 6), at_bound(m, k, bits.A, 7)
    found = np.full((m, n), np.nan).T
    do(
        products.multiplying_examples(
            np.asfortranarray(W, dtype=np.float64), np.asfortranarray(A, dtype=np.float64), found
        )
    )
    assert np.array_equal(found, (W @ A.T).astype(np.float64))


def test_small_products_are_small() -> None:
    """As many vectors at a time as make one small product, all where they are few or the matrix is large."""
    assert [products.at_a_time(size, 256) for size in (128 * 64, 512 * 26, 30_000, 62_500, 62_501, 0)] == [
        *(112, 64, 32, 16, 256, 256)
    ]
    assert products.at_a_time(100, 0) == 1


@pytest.mark.parametrize("m", [1, 7, 512, 4096])
def test_a_sum_over_examples_is_exact_at_the_bound(m: int) -> None:
    """Of every row; of no row at all."""
    x = at_bound(9, m, gradient_bits(m)[0], 8)
    x[0] = np.abs(x[0])
    found, ones = np.full((9, 1), np.nan), np.ones((1, m + 3))
    do(products.summing_examples(np.asfortranarray(x, dtype=np.float64), ones, found))
    assert found[:, 0].tolist() == [float(sum(row)) for row in x.tolist()]
    do(products.summing_examples(np.zeros((0, m)), ones, np.zeros((0, 1))))


def test_long_sums_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is exact, and pieces are added in their order."""
    monkeypatch.setattr(products, "LONGEST", 8)
    random = np.random.default_rng(1)
    M, A = random.standard_normal((3, 20)), random.standard_normal((20, 2))
    found = np.empty((3, 2))
    products.multiply(M, A, found)
    assert found.tobytes() == (M[:, :8] @ A[:8] + M[:, 8:16] @ A[8:16] + M[:, 16:] @ A[16:]).tobytes()


# ---- what the start refuses ------------------------------------------------------------------------------------------


def shapes() -> Iterator[tuple[int, int, int, int, int]]:
    """Yield some shapes with their bits."""
    for n_prev, n in SHAPES:
        bits = layer_bits(n_prev, n)
        yield n, n_prev, 12, bits.W, bits.A
        yield n_prev, n, 12, bits.W, bits.dz


def test_the_probe_takes_this_blas() -> None:
    """For all shapes of the list."""
    products.probe(shapes())


def off_by_one(M: NDArray[np.float64], A: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Be wrong by one unit in one place."""
    np.matmul(M, A, out=out)
    out[-1, -1] += 1


def strassen(M: NDArray[np.float64], A: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Multiply by one round of Strassen's method, which adds operands before it multiplies."""
    n, k, m = (size + size % 2 for size in (M.shape[0], *A.shape))
    X, Y = np.zeros((n, k)), np.zeros((k, m))
    X[: len(M), : M.shape[1]], Y[: len(A), : A.shape[1]] = M, A
    a, b, c, d = X[: n // 2, : k // 2], X[: n // 2, k // 2 :], X[n // 2 :, : k // 2], X[n // 2 :, k // 2 :]
    e, f, g, h = Y[: k // 2, : m // 2], Y[: k // 2, m // 2 :], Y[k // 2 :, : m // 2], Y[k // 2 :, m // 2 :]
    p1, p2, p3, p4 = a @ (f - h), (a + b) @ h, (c + d) @ e, d @ (g - e)
    p5, p6, p7 = (a + d) @ (e + h), (b - d) @ (g + h), (a - c) @ (e + f)
    whole = np.block([[p5 + p4 - p2 + p6, p1 + p2], [p3 + p4, p1 + p5 - p3 - p7]])
    out[...] = whole[: out.shape[0], : out.shape[1]]


def in_float32_twice(M: NDArray[np.float64], A: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Emulate float64 by two float32 numbers each, as libraries for other hardware do, but for the last product."""
    high = M.astype(np.float32).astype(np.float64)
    out[...] = high @ A.astype(np.float32).astype(np.float64) + (M - high) @ A
    out[...] = out.astype(np.float32)


@pytest.mark.parametrize("product", [off_by_one, strassen, in_float32_twice])
def test_a_product_that_is_not_exact_is_refused(product: object) -> None:
    """Wherever one number is off: planted."""
    with pytest.raises(EnvironmentMismatch, match="not exact for whole numbers"):
        products.probe(shapes(), product)


ROUNDING_MODE = """
import ctypes, sys
libm = ctypes.CDLL("libm.so.6")
assert libm.fesetround(int(sys.argv[1])) == 0
from ddp_mlp.nn import products
products.check_rounding()
"""

FLUSH_TO_ZERO = """
import ctypes
import numpy
from ddp_mlp.nn import products
libm = ctypes.CDLL("libm.so.6")
environment = (ctypes.c_uint32 * 8)()  # fenv_t of x86-64: the last word is MXCSR
libm.fegetenv(environment)
environment[7] |= 0x8040  # flush results to zero, take subnormal operands for zero
libm.fesetenv(environment)
products.check_rounding()
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of rounding modes are x86's")
@pytest.mark.parametrize(
    ("program", "argument", "found"),
    [(ROUNDING_MODE, str(mode), "round to nearest") for mode in (0x400, 0x800, 0xC00)]
    + [(FLUSH_TO_ZERO, "", "flushes")],
)
def test_other_rounding_is_refused(program: str, argument: str, found: str) -> None:
    """Downward, upward, towards zero, and flushing to zero: set for real, in a process of their own."""
    ended = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert found in ended.stderr
    assert "EnvironmentMismatch" in ended.stderr


def test_the_default_rounding_is_accepted() -> None:
    """Nearest, and subnormal numbers kept."""
    products.check_rounding()
