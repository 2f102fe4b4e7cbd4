"""Tests of the machine of a run: ranks that compute otherwise are refused, and so is going on with another kernel."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.nn import blas, functions, kernels
from ddp_mlp.nn.threads import blas_threads
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.training import machine
from ddp_mlp.training.machine import agree_on_machine, agree_on_products
from tests.conftest import Program
from tests.simulated_mpi import World

TRAIN = ("-m", "ddp_mlp.train", "--quiet", "--hidden", "16", "--batch_size", "200")
AS_HASWELL = "import os, sys; os.environ['OPENBLAS_CORETYPE'] = 'Haswell'; "
ONE_WITHOUT = (
    AS_HASWELL + "rank = os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')); "
    "os.environ.update({'NPY_DISABLE_CPU_FEATURES': 'AVX512_ICL X86_V4'} if rank == '1' else {}); "
    "from ddp_mlp.train import main; main(sys.argv[1:])"
)
"""Rank 1 computes exp and log without AVX-512, in the same BLAS kernel as rank 0."""


def events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the journal."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def other_kernel(run_python: Program) -> dict[str, str]:
    """Return an environment in which OpenBLAS takes another kernel than by itself; skip where it cannot."""
    found, _, here = kernels.names()["BLAS kernel"].rpartition(" ")
    other = "Nehalem" if here != "Nehalem" else "Haswell"
    environment = {"OPENBLAS_CORETYPE": other}
    ask = "from ddp_mlp.nn import kernels; print(kernels.names()['BLAS kernel'])"
    if run_python("-c", ask, env=environment).stdout.strip() != f"{found} {other}":
        pytest.skip(f"{found}: its kernel cannot be chosen")
    return environment


@pytest.mark.skipif("X86_V4" not in kernels.vector_instructions(), reason="a processor without AVX-512")
def test_a_rank_without_some_vector_instructions_is_refused(mpirun: Program, tmp_path: Path) -> None:
    """NumPy's float64 exp and log are others then, in one and the same BLAS kernel: exit 78, one line, no run."""
    flags = ("--dtype", "float64", "--epochs", "1", "--max_steps", "2", "--run_dir", tmp_path / "run")
    done = mpirun(2, "-c", ONE_WITHOUT, *TRAIN[2:], *flags)
    assert done.returncode == 78, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "vector instructions is X86_V3" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("function", ["exp", "log", "sqrt"])
def test_a_rank_whose_functions_are_others_is_refused(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value one bit off on one rank, with the same names on all, in the run's own dtype."""
    dtype = np.dtype("float64")

    def program(communicator: Communicator) -> None:
        agree_on_machine(1, communicator, "float64")

    def one_bit_off(asked: np.dtype[Any]) -> str:
        with monkeypatch.context() as patch:
            exact = getattr(functions.NATIVE, function, None) or getattr(np, function)
            off = lambda x: np.nextafter(exact(x), np.inf)  # noqa: E731
            if hasattr(functions.NATIVE, function):
                patch.setattr(functions, "NATIVE", functions.NATIVE._replace(**{function: off}))
            else:
                patch.setattr(np, function, off)
            found: str = kernels._fingerprint.__wrapped__(asked, blas.in_use())
            return found

    with blas_threads(1):
        World(2, 1).run(program)
    other = one_bit_off(dtype)
    assert other != kernels.fingerprint(dtype)
    found = iter([kernels.fingerprint(dtype), other])
    monkeypatch.setattr(kernels, "fingerprint", lambda asked: next(found))
    with blas_threads(1), pytest.raises(EnvironmentMismatch, match="fingerprint of float64 is"):
        World(2, 1).run(program)


def test_a_rank_whose_products_are_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the shapes of the run: one bit in one number of one product."""
    exact, calls = blas.multiply, 0

    def one_bit_off(A: Any, B: Any, out: Any) -> None:
        nonlocal calls
        calls += 1
        exact(A, B, out)
        if calls == 7:
            out[-1, -1] = np.nextafter(out[-1, -1], np.inf)

    def program(communicator: Communicator) -> None:
        agree_on_products((20, 16, 4), (12, 13), np.dtype("float32"), communicator)

    World(2, 1).run(program)
    monkeypatch.setattr(blas, "multiply", one_bit_off)
    with pytest.raises(EnvironmentMismatch, match="fingerprint of products is"):
        World(2, 1).run(program)


def test_a_run_does_not_go_on_with_another_kernel_in_silence(
    run_python: Program, other_kernel: dict[str, str], tmp_path: Path
) -> None:
    """It is refused with both names; with resume_override it goes on, and its journal says so once for ever."""
    run_dir = tmp_path / "run"
    flags = (*TRAIN, "--run_dir", run_dir)
    assert run_python(*flags, "--epochs", "1").returncode == 0
    refused = run_python(*flags, "--epochs", "2", env=other_kernel)
    assert refused.returncode == 78
    name = kernels.names()["BLAS kernel"]
    assert name in refused.stderr
    assert other_kernel["OPENBLAS_CORETYPE"] in refused.stderr
    assert "resume_override" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

    allowed = run_python(*flags, "--epochs", "2", "--resume_override", env=other_kernel)
    assert allowed.returncode == 0, allowed.stderr
    assert "the bits of this run are of several kernels" in allowed.stderr
    once_more = run_python(*flags, "--epochs", "3", env=other_kernel)
    assert once_more.returncode == 0, once_more.stderr
    assert [text.split(",")[0] for text in events(run_dir)[-1]["kernels"]] == [
        name,
        f"{name.rpartition(' ')[0]} {other_kernel['OPENBLAS_CORETYPE']}",
    ]


def test_the_same_kernel_goes_on_without_a_word(run_python: Program, tmp_path: Path) -> None:
    """A resumed run on the machine it began on has no kernels to tell of."""
    flags = (*TRAIN, "--run_dir", tmp_path / "run")
    assert run_python(*flags, "--epochs", "1").returncode == 0
    assert run_python(*flags, "--epochs", "2").returncode == 0
    assert not any("kernels" in event for event in events(tmp_path / "run"))


def test_a_norm_that_overflows_is_told_in_one_line(run_python: Program, tmp_path: Path) -> None:
    """Squares that are finite, but whose sum is not: the line about the gradient's norm, and no traceback."""
    flags = ("--optimizer", "sgd", "--dtype", "float64", "--learning_rate", "2.1e77", "--log_every", "1")
    done = run_python("-m", "ddp_mlp.train", "--quiet", *flags, "--max_steps", "6", "--run_dir", tmp_path / "run")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "lower learning_rate" in done.stderr
    assert os.linesep.join(done.stderr.splitlines()[1:]) == ""


@pytest.mark.parametrize(
    ("threads", "quota", "crowd"),
    [
        (1, math.inf, None),
        (1, 1.5, {"ranks": 3, "threads": 3, "cores": 1.5}),
        (2, math.inf, {"ranks": 3, "threads": 6, "cores": 3}),
    ],
)
def test_ranks_that_share_cores_are_found(
    monkeypatch: pytest.MonkeyPatch, threads: int, quota: float, crowd: dict[str, Any] | None
) -> None:
    """Threads beyond the cores that a host's ranks may use together, or beyond their quota, are told by every rank."""
    monkeypatch.setattr(machine, "host_name", lambda: "one")
    monkeypatch.setattr(machine, "cores", lambda: frozenset({4, 5, 6}))
    monkeypatch.setattr(machine, "_quota", lambda: quota)
    with blas_threads(threads):
        found = World(3, seed=0).run(lambda ranks: agree_on_machine(threads, ranks).crowd)
    assert found == [crowd and {"host": "one", **crowd}] * 3


def test_what_sharing_cores_costs_is_measured(mpirun: Program, run_python: Program, tmp_path: Path) -> None:
    """Two ranks with equal work on one core take about twice the time that one of them computes, at least."""
    pin = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code = f"{pin}from ddp_mlp.train import main; main(sys.argv[1:])"
    flags = ("--hidden", "512", "--batch_size", "512", "--epochs", "2", "--run_dir")
    shared = mpirun(2, "-c", code, *flags, tmp_path / "shared")
    alone = run_python("-c", code, *flags, tmp_path / "alone")
    assert shared.returncode == alone.returncode == 0, shared.stderr + alone.stderr
    start, *epochs = (event for event in events(tmp_path / "shared") if event["event"] in ("start", "epoch"))
    assert (start["crowded"]["ranks"], start["crowded"]["cores"]) == (2, 1)
    assert all(epoch["crowded_times"] > 1.5 for epoch in epochs)
    times = f"{epochs[0]['crowded_times']:.3g}"
    assert f"cores     shared: a step took {times} times the processor time of its busiest rank" in shared.stderr
    assert "cores     shared" not in alone.stderr
    assert not any("crowded_times" in event for event in events(tmp_path / "alone"))
