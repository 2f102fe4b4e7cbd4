"""Launchers that match the MPI library, launchers that do not, and what all ranks learn from rank 0 at the start."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Program, run
from tests.launchers import NAMES, launcher

TRAIN = ("-m", "ddp_mlp.train", "--epochs", "1", "--quiet")
ROOT_AND_MANY = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe")
NOTE_OPENINGS = """
import sys
from ddp_mlp.parallel.launcher import launched_rank

def note(event, arguments):
    if event == "open" and arguments[0] == {config!r}:
        with open({trace!r}, "a") as trace:
            print(launched_rank(), file=trace)

sys.addaudithook(note)
"""
"""As sitecustomize.py: tells which ranks open a file."""

STUCK = """
import ctypes, sys, time
from types import SimpleNamespace
from ddp_mlp.parallel import mpi

mpi.FINALIZE_SECONDS = 1
communicator = mpi.connect()
if communicator.rank == 1:
    ctypes.CDLL = lambda path: SimpleNamespace(MPI_Finalize=lambda: time.sleep(1000))
communicator.leave(int(sys.argv[1]))
"""
"""Rank 1 never ends MPI, and rank 0 waits for it."""


def final_hash(run_dir: Path) -> str:
    """Return the hash of a finished run's parameters."""
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    return str(last["parameters_sha256"])


@pytest.mark.parametrize("name", NAMES)
def test_every_mpi_library_gives_the_bits_of_one_process(name: str, run_python: Program, tmp_path: Path) -> None:
    """Wheels and Debian's packages, each with its own mpirun, on three ranks."""
    mpi = launcher(name, tmp_path)
    together = run(
        [mpi.mpirun, "-n", "3", sys.executable, *TRAIN, "--run_dir", tmp_path / "together"], 50, mpi.settings, None
    )
    assert together.returncode == 0, together.stderr
    alone = run_python(*TRAIN, "--run_dir", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    assert final_hash(tmp_path / "together") == final_hash(tmp_path / "alone")


@pytest.mark.parametrize(
    ("name", "library"),
    [(name, library) for name in NAMES for library in NAMES if name.split("-")[0] != library.split("-")[0]],
)
def test_a_launcher_of_another_library_is_refused(name: str, library: str, tmp_path: Path) -> None:
    """Worlds of one process each, which nothing else would notice: exit code 78, one line, nothing written."""
    mpirun, settings = launcher(name, tmp_path).mpirun, launcher(library, tmp_path).settings
    for setting in ROOT_AND_MANY:
        settings = {setting: "1", **settings}
    done = run([mpirun, "-n", "2", sys.executable, *TRAIN, "--run_dir", tmp_path / "run"], 50, settings, None)
    assert done.returncode == 78, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "the launcher does not match the MPI library" in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", [0, 75])
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mpich")])
def test_ranks_that_wait_for_ever_at_the_end_of_mpi_leave(name: str, code: int, tmp_path: Path) -> None:
    """With the exit code that all agree on. Open MPI's ranks leave too, but its launcher may crash over that."""
    mpi = launcher(name, tmp_path)
    done = run([mpi.mpirun, "-n", "2", sys.executable, "-c", STUCK, str(code)], 50, mpi.settings, None)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_world_of_one_where_several_were_started_is_refused(
    variable: str, run_python: Program, tmp_path: Path
) -> None:
    """Whichever launcher says that it has started four: no process trains alone."""
    done = run_python(*TRAIN, "--run_dir", tmp_path / "run", env={variable: "4"})
    assert done.returncode == 78, done.stderr
    assert f"{variable} = 4" in done.stderr


def test_a_configuration_file_is_read_by_rank_0_alone(mpirun: Program, tmp_path: Path) -> None:
    """Three ranks open it once between them, and all work by it."""
    config, trace = tmp_path / "run.yaml", tmp_path / "opened"
    config.write_text("epochs: 1\nthreads: 2\nquiet: true\n")
    (tmp_path / "sitecustomize.py").write_text(NOTE_OPENINGS.format(config=str(config), trace=str(trace)))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = mpirun(3, "-m", "ddp_mlp.train", "--config", config, "--run_dir", tmp_path / "run", env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert set(trace.read_text().split()) == {"0"}


@pytest.mark.parametrize("flags", [("--config", "missing.yaml"), ("--config=missing.yaml",), ("--epochs", "x")])
def test_a_wrong_configuration_ends_all_ranks(flags: tuple[str, ...], mpirun: Program, tmp_path: Path) -> None:
    """Exit code 2 and one line, also where rank 0 alone has seen what is wrong."""
    done = mpirun(3, "-m", "ddp_mlp.train", *flags, timeout=30, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1, done.stderr
