"""The worked example of the documentation: a Fortran program that asks a trained network in a loop, under mpirun."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.conftest import run as run_program
from tests.exported import compiler

EXAMPLE = ROOT / "docs" / "examples" / "surrogate"
STEPS = "150"


@pytest.mark.timeout(240)
def test_the_rod_ends_in_the_same_state_on_any_number_of_ranks(tmp_path: Path) -> None:
    """Data, training, export, compilation and simulation, as the example's script has them."""
    mpifort, mpirun = compiler("mpifort.mpich"), compiler("mpirun.mpich")
    for path in EXAMPLE.iterdir():
        shutil.copy(path, tmp_path)
    threads = {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "MPIFORT": mpifort, "PATH": os.environ["PATH"]}
    built = run_program(["./build.sh"], 200, threads, tmp_path)
    assert built.returncode == 0, built.stderr
    r_squared = float(built.stdout.split("R² ")[1].split(",")[0])
    assert r_squared > 0.99
    states = [run_program([mpirun, "-n", n, "./flame", STEPS], 100, None, tmp_path).stdout for n in ("1", "2", "3")]
    assert states[0].startswith("burnt 2")  # the 20 cells that were ignited, and some more
    assert states[1] == states[2] == states[0]
