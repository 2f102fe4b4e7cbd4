"""What is packed for others: a wheel and an sdist that are well formed, and a program that needs no checkout."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import ddp_mlp
from tests.conftest import ROOT, Program


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments in a folder; `path` comes before all else that can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the wheel and the sdist of this checkout, made without the network."""
    folder = tmp_path_factory.mktemp("packed")
    done = run("-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_both_are_well_formed(packed: tuple[Path, Path], tmp_path: Path) -> None:
    """Twine has nothing to say about either, its README included."""
    done = run("-m", "twine", "check", "--strict", *packed, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_they_hold_what_is_needed(packed: tuple[Path, Path]) -> None:
    """The wheel has every file of the package and the digits; the sdist has what tests and documentation need."""
    wheel = set(zipfile.ZipFile(packed[0]).namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ddp_mlp").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel if ".dist-info/" not in name} == package | {"ddp_mlp/digits.h5"}
    with tarfile.open(packed[1]) as sdist:
        files = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "constraints.txt",
        "data/digits.h5",
        "scripts/test",
        "docs/conf.py",
    }
    assert wanted | {"tests/conftest.py"} <= files


def test_what_is_installed_needs_no_checkout(packed: tuple[Path, Path], tmp_path: Path, run_python: Program) -> None:
    """The wheel alone, in another folder, trains on its digits to the parameters that the checkout trains to."""
    installed = tmp_path / "installed"
    done = run("-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, packed[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flags = ("--hidden", "16", "--epochs", "2", "--quiet")
    where = run("-c", "import ddp_mlp; print(ddp_mlp.__file__)", cwd=tmp_path, path=installed)
    assert where.stdout.startswith(str(installed))
    there = run("-m", "ddp_mlp.train", *flags, "--run_dir", "there", cwd=tmp_path, path=installed)
    here = run_python("-m", "ddp_mlp.train", *flags, "--run_dir", str(tmp_path / "here"))
    assert there.returncode == here.returncode == 0, there.stderr + here.stderr
    assert there.stdout.split("parameters_sha256")[1].split()[0] == here.stdout.split("parameters_sha256")[1].split()[0]


def test_digits_are_found_from_anywhere(tmp_path: Path) -> None:
    """From another folder, the program in this checkout takes the checkout's digits, and says so."""
    done = run("-m", "ddp_mlp.train", "--describe", cwd=tmp_path, path=ROOT)
    assert done.returncode == 0, done.stderr
    assert str(ROOT / "data" / "digits.h5") in done.stdout


def requirements() -> dict[str, str]:
    """Return what the program needs, by name, each with its lower bound, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"python": project["requires-python"].removeprefix(">=")} | dict(
        needed.split(">=") for needed in project["dependencies"]
    )


def test_the_conda_recipe_needs_the_same() -> None:
    """It has the program's version and lower bounds."""
    recipe = yaml.safe_load((ROOT / "scripts" / "packages" / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == ddp_mlp.__version__
    assert dict(needed.split(" >=") for needed in recipe["requirements"]["run"]) == requirements()


def test_the_conda_recipe_builds(tmp_path: Path) -> None:
    """rattler-build reads it; its script, as rendered, installs from the checkout; what its tests ask for is done.

    Only the environment is not conda's: solving one needs a channel.
    """
    rattler_build = pytest.importorskip("rattler_build")
    path = ROOT / "scripts" / "packages" / "conda" / "recipe.yaml"
    [variant] = rattler_build.Stage0Recipe.from_file(path).render(rattler_build.VariantConfig())
    rendered = variant.recipe.to_dict()
    assert (rendered["package"]["name"], rendered["package"]["version"]) == ("ddp_mlp", ddp_mlp.__version__)
    assert rendered["build"]["python"]["entry_points"] == ["ddp-mlp = ddp_mlp.__main__:main"]
    installed = tmp_path / "installed"
    script = rendered["build"]["script"].replace("${{ PYTHON }}", sys.executable)
    environment = {**os.environ, "PIP_TARGET": str(installed), "PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    imports, program = rendered["tests"]
    for name in imports["python"]["imports"]:
        found = run("-c", f"import {name}; print({name}.__file__)", cwd=tmp_path, path=installed)
        assert found.stdout.startswith(str(installed)), found.stderr
    word, *arguments = program["script"].split()
    assert word == "python"
    done = run(*arguments, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    assert "parameters_sha256" in done.stdout


def test_the_spack_recipe_needs_the_same() -> None:
    """It has the program's version and lower bounds; the rest is needed to build, or by a variant."""
    recipe = (ROOT / "scripts" / "packages" / "spack" / "package.py").read_text()
    compile(recipe, "package.py", "exec")
    assert re.findall(r'version\("(.+?)"\)', recipe) == [ddp_mlp.__version__]
    found = re.findall(r'depends_on\("(?:py-)?(.+?)@(.+?):", type=\("build", "run"\)\)', recipe)
    assert dict(found) == requirements()


def test_the_spack_recipe_is_well_formed() -> None:
    """Spack's directives with the arguments that they have; every condition is a variant; what it imports is there."""
    tree = ast.parse((ROOT / "scripts" / "packages" / "spack" / "package.py").read_text())
    known = {
        "license": set(),
        "version": set(),
        "variant": {"default", "description"},
        "depends_on": {"type", "when"},
    }
    [package] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert package.name == "PyDdpMlp"  # of packages/py_ddp_mlp/package.py
    variants, conditions = set(), set()
    for node in package.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = ast.unparse(node.value.func)
            given = {str(word.arg): ast.literal_eval(word.value) for word in node.value.keywords}
            assert given.keys() <= known[name]
            [first] = node.value.args
            variants |= {ast.literal_eval(first)} if name == "variant" else set()
            conditions |= {given["when"]} if "when" in given else set()
            assert {"build", "run"} >= set(np.atleast_1d(given.get("type", "build")).tolist())
        elif isinstance(node, ast.Assign):
            assert ast.unparse(node.targets[0]) == "import_modules"
            assert all(importlib.util.find_spec(name) for name in ast.literal_eval(node.value))
    assert conditions == {f"+{name}" for name in variants}


def test_the_citation_names_the_version() -> None:
    """CITATION.cff and the changelog's newest section are of this version."""
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == ddp_mlp.__version__
    [newest, *_] = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest == ddp_mlp.__version__
