"""Tests of products by the C interface of a BLAS: whole numbers show them exactly, whatever the memory order."""

import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.nn import blas, cblas, kernels
from ddp_mlp.nn.buffers import Group
from ddp_mlp.summing import proven, remembered
from tests.kernels import path_of_numpys_blas

RANDOM = np.random.default_rng(0)


@pytest.fixture
def path() -> str:
    """Return the path of NumPy's own OpenBLAS: another library, as far as the program knows."""
    return path_of_numpys_blas()


def laid_out(shape: tuple[int, int], how: str, dtype: str) -> NDArray[Any]:
    """Return small whole numbers by rows, by columns, as a part of something larger, or scattered."""
    a = RANDOM.integers(-9, 9, shape).astype(dtype)
    if how == "part by columns":
        larger = np.zeros((shape[0] + 3, shape[1] + 2), dtype, order="F")
    elif how == "part by rows":
        larger = np.zeros((shape[0] + 3, shape[1] + 2), dtype)
    elif how == "scattered":
        larger = np.zeros((2 * shape[0], 2 * shape[1]), dtype)
        larger[::2, ::2] = a
        return larger[::2, ::2]
    else:
        return np.asfortranarray(a) if how == "by columns" else a
    larger[: shape[0], : shape[1]] = a
    return larger[: shape[0], : shape[1]]


ORDERS = ("by rows", "by columns", "part by rows", "part by columns")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_product_is_exact_in_every_memory_order(n: int, dtype: str) -> None:
    """Vectors, empty sums and empty results too; what was in the result counts for nothing, NaN neither."""
    library = cblas.numpys()
    for k, m in itertools.product((0, 1, 5), (0, 1, 3)):
        for orders in itertools.product((*ORDERS, "scattered"), (*ORDERS, "scattered"), ORDERS):
            A, B, out = (
                laid_out(shape, how, dtype) for shape, how in zip(((n, k), (k, m), (n, m)), orders, strict=True)
            )
            start, product = out.copy(), A.astype(np.int64) @ B.astype(np.int64)
            library.add(A, B, out)
            assert np.array_equal(out, start + product), (n, k, m, orders)
            out[...] = np.nan
            library.multiply(A, B, out)
            assert np.array_equal(out, product), (n, k, m, orders)


def test_a_stack_is_multiplied_matrix_by_matrix() -> None:
    """One matrix for all, as W has it, and one each, as dz and A have them."""
    W, A = RANDOM.integers(-9, 9, (4, 5)).astype(np.float32), RANDOM.integers(-9, 9, (3, 5, 6)).astype(np.float32)
    for left in (W, RANDOM.integers(-9, 9, (3, 4, 5)).astype(np.float32)):
        out = np.empty((3, 6, 4), np.float32).mT
        cblas.numpys().multiply(left, A, out)
        assert np.array_equal(out, left @ A)


def test_another_library_computes_all_products_of_a_block(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And NumPy's none; after it they are NumPy's again."""
    A, B, out = np.ones((2, 3)), np.ones((3, 2)), np.empty((2, 2))
    with blas.used(path):
        with monkeypatch.context() as patch:
            patch.setattr(np, "matmul", None)
            blas.multiply(A, B, out)
            assert out.tolist() == [[3, 3], [3, 3]]
            blas.add_product(A, A, out)
            assert out.tolist() == [[6, 6], [6, 6]]
        assert blas.in_use().name.startswith("openblas")
    with monkeypatch.context() as patch:
        patch.setattr(cblas.CBlas, "multiply", None)
        blas.multiply(A, B, out)
    assert out.tolist() == [[3, 3], [3, 3]]


def test_two_blocks_have_one_library(path: str) -> None:
    """Threads that want the same have it at once; one that wants another waits until they are done."""
    log: list[str] = []

    def wanting(name: str, label: str) -> None:
        with blas.used(name):
            log.append(label)
            time.sleep(0.05)
            log.append(label)

    with blas.used(path), blas.used(path):
        other = threading.Thread(target=wanting, args=(blas.NUMPYS, "numpy"))
        other.start()
        wanting(path, "the other")
        assert log == ["the other"] * 2
    other.join()
    assert log == ["the other"] * 2 + ["numpy"] * 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/nowhere", "blas = /nowhere: cannot be loaded ("),
        ("libm.so.6", "blas = libm.so.6: is no library with the C interface of BLAS, such as cblas_sgemm"),
        ("mkl", 'blas = mkl: is not installed; pip install "ddp_mlp[mkl]", or choose blas = numpy'),
    ],
)
def test_what_is_no_library_is_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line: it cannot be loaded, has no gemm, or is not there."""
    monkeypatch.setattr(cblas, "find_mkl", lambda: None)
    with pytest.raises(EnvironmentMismatch) as caught, blas.used(name):
        pass
    assert str(caught.value).startswith(said)
    with blas.used(blas.NUMPYS):
        assert blas.in_use() == blas.libraries()[0]


def test_names_fingerprints_and_proofs_are_the_librarys(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found of one library says nothing of another."""
    kind = np.dtype(np.float32)
    shapes: tuple[Any, ...] = ((20, 16, 4), (8, 8), kind)
    before = kernels.names(), kernels.fingerprint(kind), remembered.key_of(*shapes)
    proven.shortcuts(Group(*shapes))
    with blas.used(path), monkeypatch.context() as patch:
        patch.setattr(blas, "in_use", lambda: blas.Library("another 1.0", "some kernel"))
        patch.setattr(cblas.CBlas, "multiply", lambda library, A, B, out: np.copyto(out, (A @ B) * (1 + 2**-20)))
        assert kernels.names() == {**before[0], "BLAS kernel": "another 1.0 some kernel"}
        assert kernels.fingerprint(kind) != before[1]
        assert remembered.key_of(*shapes)["products"] != before[2]["products"]
        made: list[Any] = []
        patch.setattr(proven, "prove", lambda group: made.append(group) or dict.fromkeys((1, 2)))  # type: ignore[func-returns-value]
        proven.shortcuts(Group(*shapes))
        assert len(made) == 1
    assert (kernels.names(), kernels.fingerprint(kind), remembered.key_of(*shapes)) == before
