"""Tests of scripts/tools/storage_faults.py: a short form of it finds nothing, and it finds what is planted."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Program

SCRIPT = ROOT / "scripts" / "tools" / "storage_faults.py"
PLANTED = "import os\nos.ftruncate = lambda *arguments: None\n"
"""As sitecustomize.py: a line of which half was written stays in the journal."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux's /proc and a C compiler"
)


@pytest.mark.timeout(150)
def test_a_few_faults_of_every_kind(run_python: Program) -> None:
    """Journal and checkpoints stay whole, and the run goes on to its bits (long form: `--faults 2000`)."""
    done = run_python(SCRIPT, "--faults", "8", "--seed", "5", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(": 0 failures")


@pytest.mark.timeout(150)
def test_a_journal_that_keeps_half_a_line_is_found(run_python: Program, tmp_path: Path) -> None:
    """Where nothing is cut off after a write that was cut short, a case says so."""
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run_python(SCRIPT, "--faults", "7", "--seed", "5", timeout=120, env={"PYTHONPATH": path})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the journal " in done.stdout
