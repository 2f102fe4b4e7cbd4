"""The house keeps its own rules: imports go down, and what is forbidden is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the program and of its contract."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "ddp_mlp", folder / "ddp_mlp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Hold the imports of what is in the folder against its contract."""
    return subprocess.run([LINT_IMPORTS, "--no-cache"], capture_output=True, text=True, timeout=50, cwd=folder)


def test_imports_keep_the_contract(copy: Path) -> None:
    """What stands keeps the contract."""
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "planted", "found"),
    [
        ("nn/parameters.py", "import ddp_mlp.summing.tree", "ddp_mlp.nn.parameters -> ddp_mlp.summing.tree"),
        ("summing/plan.py", "import ddp_mlp.data.access", "ddp_mlp.summing.plan -> ddp_mlp.data.access"),
        ("storage/atomic.py", "import ddp_mlp.run_dir.lock", "ddp_mlp.storage.atomic -> ddp_mlp.run_dir.lock"),
        ("export.py", "def f():\n    import ddp_mlp.report", "ddp_mlp.export -> ddp_mlp.report"),
        ("nn/schedules.py", "from ddp_mlp.config import Config", "ddp_mlp.nn.schedules -> ddp_mlp.config"),
        ("summing/tree.py", "import mpi4py", "ddp_mlp.summing.tree -> mpi4py"),
        ("data/access.py", "import h5py", "ddp_mlp.data.access -> h5py"),
    ],
)
def test_a_planted_import_is_found(copy: Path, module: str, planted: str, found: str) -> None:
    """An import that goes up, sideways, or to a library that is not this room's, breaks the contract by name."""
    path = copy / "ddp_mlp" / module
    before = path.read_text()
    path.write_text(f"{before}\n{planted}\n")
    try:
        result = lint(copy)
    finally:
        path.write_text(before)
    assert result.returncode == 1
    assert found in result.stdout


def test_a_new_room_needs_a_floor(copy: Path) -> None:
    """A module that the contract does not know breaks it."""
    path = copy / "ddp_mlp" / "attic.py"
    path.touch()
    try:
        result = lint(copy)
    finally:
        path.unlink()
    assert result.returncode == 1
    assert "attic" in result.stdout
