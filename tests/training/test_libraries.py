"""Tests of the library that computes a run's products: one on all ranks, the same after a resume, its own bits."""

import json
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError
from ddp_mlp.nn import cblas
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.training import libraries, loop
from ddp_mlp.training.libraries import with_blas_chosen
from scripts.tools import attack
from tests.conftest import Program
from tests.kernels import path_of_numpys_blas
from tests.oracles import write_data
from tests.simulated_mpi import World

KEYS: dict[str, Any] = {"hidden": (5,), "batch_size": 50, "quiet": True, "log_every": 0}


@pytest.fixture
def path() -> str:
    """Return the path of NumPy's own OpenBLAS: another library, as far as the program knows."""
    return path_of_numpys_blas()


def chosen(has_mkl: list[bool], maker: str, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> set[str]:
    """Return what `auto` becomes on ranks, each of which has MKL or has not."""
    having = iter(has_mkl)
    monkeypatch.setattr(libraries, "processor_model", lambda: f"{maker} 6 207")
    monkeypatch.setattr(cblas, "find_mkl", lambda: Path("/mkl") if next(having) else None)
    config = Config(**{"blas": "auto", **keys})
    return set(World(len(has_mkl), 3).run(lambda communicator: with_blas_chosen(config, communicator).blas))


@pytest.mark.parametrize(
    ("has_mkl", "maker", "expected"),
    [
        ([True, True, True], "GenuineIntel", "mkl"),
        ([True, False, True], "GenuineIntel", "numpy"),
        ([False], "GenuineIntel", "numpy"),
        ([True, True], "AuthenticAMD", "numpy"),
    ],
)
def test_auto_is_mkl_on_intel_where_every_rank_has_it(
    has_mkl: list[bool], maker: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on all ranks."""
    assert chosen(has_mkl, maker, monkeypatch) == {expected}


def test_portable_arithmetic_takes_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the same bits with any; another one is refused by name."""
    assert chosen([True], "GenuineIntel", monkeypatch, arithmetic="portable") == {"numpy"}
    with pytest.raises(ConfigError, match=r"^blas = mkl: arithmetic = portable takes NumPy's own"):
        Config(arithmetic="portable", blas="mkl")


def test_a_run_goes_on_with_its_own_library(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `auto`, though MKL has come or gone since; another one that is asked for is refused."""
    write_data(tmp_path / "data.h5", {"train": 200})
    keys = {**KEYS, "data": str(tmp_path / "data.h5"), "run_dir": str(tmp_path / "run")}
    loop.train(Config(**keys, epochs=1, blas=path), SingleProcess())
    with monkeypatch.context() as patch:
        assert chosen([True], "GenuineIntel", patch, run_dir=keys["run_dir"]) == {path}
    loop.train(Config(**keys, epochs=2, blas="auto"), SingleProcess())
    starts = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    starts = [event for event in starts if event["event"] == "start"]
    assert [start["config"]["blas"] for start in starts] == [path] * 2
    with pytest.raises(ConfigError, match=r"blas = numpy, but the run of .* has blas = /"):
        loop.train(Config(**keys, epochs=3), SingleProcess())


def test_what_an_earlier_version_has_stored_means_numpys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint without the key is one of NumPy's BLAS, with MKL installed too."""
    fixture = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "run"
    assert chosen([True], "GenuineIntel", monkeypatch, run_dir=str(fixture)) == {"numpy"}
    assert Config().blas == "numpy"


def test_another_librarys_bits_do_not_depend_on_ranks(path: str) -> None:
    """A short attack: its products are proven and compared like NumPy's."""
    assert attack.attack(4, range(30), 0, path) == []


def test_ranks_with_two_libraries_are_refused(mpirun: Program, path: str, tmp_path: Path) -> None:
    """One library for all, or one line and exit code 78; a rank that lacks it is enough."""
    link = tmp_path / "libblas.so"
    link.symlink_to(path)
    program = (
        "import os, sys\nfrom ddp_mlp.parallel.launcher import launched_rank\n"
        f"if launched_rank() == 1: sys.argv[sys.argv.index({str(link)!r})] = '/nowhere/libblas.so'\n"
        "from ddp_mlp.train import main\nmain()"
    )
    flags = ["--epochs", "1", "--quiet", "--run_dir", tmp_path / "run", "--blas", link]
    done = mpirun(2, "-c", program, *flags)
    assert done.returncode == 78, done.stderr
    assert "blas = /nowhere/libblas.so: cannot be loaded" in done.stderr
    hashes = {
        mpirun(P, "-m", "ddp_mlp.train", *flags[:-4], "--run_dir", tmp_path / str(P), *flags[-2:]).stdout.split()[-1]
        for P in (1, 2)
    }
    assert len(hashes) == 1
