"""The house keeps its own rules: imports go down, and what is forbidden is noticed."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
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


def modules(*folders: str) -> dict[str, ast.Module]:
    """Return every module of the folders, by its path, as Python reads it."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8"))
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of all that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_test_imports_another() -> None:
    """What tests share is in modules that are no tests."""
    found = {
        path: name
        for path, tree in modules("tests").items()
        for name in imported(tree)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    }
    assert found == {}


# What is larger than it should be, and why; what has become small enough is to be struck out.
LARGER = {
    ("ddp_mlp/config/keys.py", "Config"): "every key of a run with its meaning, in one place",
    ("ddp_mlp/estimator.py", "MLPClassifier"): "scikit-learn wants each parameter by name, three times",
    ("ddp_mlp/estimator.py", "__init__"): "scikit-learn wants each parameter by name, three times",
    ("ddp_mlp/exporting/c_code.py", "_Values"): "what fills one template, value by value",
    ("ddp_mlp/regressor.py", "__init__"): "scikit-learn wants each parameter by name, three times",
    ("ddp_mlp/training/portable_step.py", "PortableStep"): "a step, and what ranks exchange between its pieces",
    ("ddp_mlp/training/trainer.py", "Trainer"): "all that is decided between two steps",
}
LINES = {ast.Module: 450, ast.ClassDef: 200, ast.FunctionDef: 60, ast.AsyncFunctionDef: 60}


def too_large() -> set[tuple[str, str]]:
    """Return path and name of each file, class and function that is larger than a reader can hold."""
    found = set()
    for path, tree in modules("ddp_mlp").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module):
                name, lines = "", len((ROOT / path).read_text("utf-8").splitlines())
            elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name, lines = node.name, (node.end_lineno or 0) - node.lineno + 1
            else:
                continue
            if lines > LINES[type(node)]:
                found.add((path, name))
    return found


def test_files_classes_and_functions_are_small() -> None:
    """450, 200 and 60 lines, but for those with a reason."""
    assert too_large() == set(LARGER)


def test_no_two_classes_have_one_name() -> None:
    """A class is known by its name alone, wherever one meets it; what a module keeps to itself is its own affair."""
    homes: dict[str, list[str]] = {}
    for path, tree in modules("ddp_mlp").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(path)
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_what_is_subclassed_is_abstract() -> None:
    """A class of this program that another one extends is an interface (ABC, Protocol), or the family of errors."""
    classes = {
        node.name: [ast.unparse(base) for base in node.bases]
        for path, tree in modules("ddp_mlp").items()
        if path != "ddp_mlp/errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    extended = {base for bases in classes.values() for base in bases if base in classes}
    assert extended, "there are interfaces"
    concrete = {name for name in extended if not {"ABC", "Protocol"} & set(classes[name])}
    assert concrete == set()
