"""Tests of the promise: one `parameters_sha256` for every number of ranks, node size and dtype, on real data."""

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Program

PROGRAM = Path(__file__).parents[1] / "programs" / "train_many.py"

# Batches of 100 in 8 or 7 shards are uneven, and the last batch of an epoch has 37 rows.
RUNS: dict[str, dict[str, Any]] = {
    f"{dtype}-{optimizer}-{'x'.join(map(str, hidden)) or 'none'}-{shards}": {
        "dtype": dtype,
        "optimizer": optimizer,
        "hidden": hidden,
        "shards": shards,
        "batch_size": 100,
        "epochs": 3,
        "learning_rate": 1e-3 if optimizer == "adam" else 0.01,
    }
    for dtype, optimizer, hidden, shards in itertools.product(
        ("float32", "float64"), ("adam", "momentum"), ([33, 17], []), (8, 7)
    )
}


def hashes(outcome: Any) -> dict[str, str]:
    """Return what the program printed, or fail with what it said."""
    assert outcome.returncode == 0, outcome.stderr
    found: dict[str, str] = json.loads(outcome.stdout)
    return found


def with_data(runs: dict[str, dict[str, Any]], data: Path) -> str:
    """Return the runs as the program's argument."""
    return json.dumps({name: {**keys, "data": str(data)} for name, keys in runs.items()})


@pytest.fixture(scope="module")
def alone(run_python: Program, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of one process that finds no MPI library."""
    blocked = "import runpy, sys; sys.modules['mpi4py'] = None; sys.argv = sys.argv[1:]; "
    folder = tmp_path_factory.mktemp("alone")
    code = blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"
    return hashes(run_python("-c", code, str(PROGRAM), str(folder), with_data(RUNS, digits)))


@pytest.mark.parametrize(
    ("P", "node_size"), [(1, None), (2, None), (3, None), (4, None), (3, 1), (3, 2)], ids=lambda v: str(v)
)
def test_any_number_of_ranks_gives_the_same_bits(
    P: int, node_size: int | None, alone: dict[str, str], mpirun: Program, digits: Path, tmp_path: Path
) -> None:
    """Both dtypes, two optimizers, with and without hidden layers, even and odd K: one hash each."""
    env = {} if node_size is None else {"DDP_MLP_NODE_SIZE": str(node_size)}
    assert hashes(mpirun(P, str(PROGRAM), str(tmp_path), with_data(RUNS, digits), env=env)) == alone


@pytest.mark.parametrize("kernel", ["Nehalem", "Sandybridge", "Haswell", "SkylakeX"])
def test_every_kernel_keeps_the_promise(
    kernel: str, run_python: Program, mpirun: Program, digits: Path, tmp_path: Path
) -> None:
    """Whichever of OpenBLAS's kernels this processor can run: products are fused in other shapes on each."""
    env = {"OPENBLAS_CORETYPE": kernel}
    arguments = str(tmp_path), with_data(RUNS, digits)
    alone = run_python(str(PROGRAM), *arguments, env=env)
    if alone.returncode == -signal.SIGILL:  # OpenBLAS takes the name on trust; any other failure is one
        pytest.skip(f"{kernel}: this processor lacks its instructions")
    assert hashes(mpirun(3, str(PROGRAM), str(tmp_path / "3"), arguments[1], env=env)) == hashes(alone)


def test_more_ranks_than_shards_give_the_same_bits(
    alone: dict[str, str], mpirun: Program, digits: Path, tmp_path: Path
) -> None:
    """Ranks without a shard still take part."""
    runs = {"idle": {**RUNS["float32-adam-33x17-8"], "shards": 3}}
    found = [hashes(mpirun(P, str(PROGRAM), str(tmp_path / str(P)), with_data(runs, digits))) for P in (1, 5)]
    assert found[0] == found[1]


def test_allreduce_does_not_promise_bits(mpirun: Program, digits: Path, tmp_path: Path) -> None:
    """The negative control: the plain sum gives different hashes, so that equal ones above mean something."""
    runs = {"plain": {**RUNS["float32-adam-33x17-8"], "shards": "auto", "reduction": "allreduce"}}
    found = {
        hashes(mpirun(P, str(PROGRAM), str(tmp_path / str(P)), with_data(runs, digits)))["plain"] for P in (1, 2, 3)
    }
    assert len(found) >= 2
