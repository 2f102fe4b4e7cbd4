"""`import ddp_mlp`: nothing is started, every name is there, in any order; and the examples of the docstrings run."""

import doctest
import importlib
import pickle
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import ddp_mlp
from ddp_mlp.__main__ import VERBS
from ddp_mlp.errors import ConfigError, DataError, StorageError
from tests.conftest import ROOT, Program

PACKAGE = Path(ddp_mlp.__file__).parent


@pytest.fixture(scope="module")
def run_dir(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run, trained from Python."""
    folder = tmp_path_factory.mktemp("run")
    config = ddp_mlp.Config(data=str(digits), hidden=(16,), epochs=2, run_dir=str(folder), quiet=True)
    assert ddp_mlp.train(config)["ended"] == "epochs"
    return folder


def test_importing_starts_nothing(run_python: Program) -> None:
    """Neither MPI nor NumPy nor a thread, in a few milliseconds; a name that is not there is an AttributeError."""
    program = """
import sys, threading, time
before, began = set(sys.modules), time.perf_counter()
import ddp_mlp
seconds = time.perf_counter() - began
heavy = {"numpy", "mpi4py", "h5py", "yaml", "sklearn", "threadpoolctl"} & set(sys.modules)
print(heavy, threading.active_count(), len({name for name in sys.modules if name.startswith("ddp_mlp")}))
dir(ddp_mlp)
assert not hasattr(ddp_mlp, "nothing") and "numpy" not in sys.modules
assert seconds < 0.5, seconds
"""
    outcome = run_python("-c", program)
    assert outcome.stdout == "set() 1 1\n", outcome.stderr


@pytest.mark.parametrize(
    "lines",
    [
        "import ddp_mlp; ddp_mlp.train",
        "import ddp_mlp; import ddp_mlp.train",
        "import ddp_mlp.train; import ddp_mlp",
        "from ddp_mlp import train; import ddp_mlp; assert train is ddp_mlp.train",
        "from ddp_mlp.train import train; import ddp_mlp; assert train is not ddp_mlp.train",
        "import ddp_mlp; f = ddp_mlp.train; import ddp_mlp.train; assert f is ddp_mlp.train",
    ],
)
def test_train_is_a_function_in_any_order_of_imports(lines: str, run_python: Program, digits: Path) -> None:
    """It is called, and is the module of the command all the same."""
    call = (
        f"import tempfile; folder = tempfile.TemporaryDirectory(); "
        f"c = ddp_mlp.Config(data={str(digits)!r}, hidden=(), epochs=0, run_dir=folder.name, quiet=True); "
        "print(ddp_mlp.train(c)['event'], callable(ddp_mlp.train.main))"
    )
    outcome = run_python("-c", f"{lines}; {call}")
    assert outcome.stdout.endswith("final True\n"), outcome.stderr


@pytest.mark.parametrize("name", ["ddp_mlp.train", "ddp_mlp.search", "ddp_mlp.model", "ddp_mlp.estimator"])
def test_the_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand in the docstrings, from the checkout's folder."""
    if name == "ddp_mlp.estimator":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 2
    assert failed == 0


def test_training_from_python_is_the_command(run_dir: Path, run_python: Program, digits: Path, tmp_path: Path) -> None:
    """The same bits, the same journal; a finished run is not trained again."""
    flags = ("--data", digits, "--hidden", "16", "--epochs", "2", "--quiet", "--run_dir", tmp_path / "run")
    outcome = run_python("-m", "ddp_mlp.train", *flags)
    assert outcome.returncode == 0, outcome.stderr
    assert ddp_mlp.load(tmp_path / "run").parameters_sha256 == ddp_mlp.load(run_dir).parameters_sha256
    config = ddp_mlp.Config(data=str(digits), hidden=(16,), epochs=2, run_dir=str(run_dir), quiet=True)
    began = time.monotonic()
    final = ddp_mlp.train(config)
    assert final["parameters_sha256"] == ddp_mlp.load(run_dir).parameters_sha256
    assert (final["run_dir"], final["step"]) == (str(run_dir), 24)
    assert time.monotonic() - began < 30


def test_errors_come_as_exceptions(digits: Path, tmp_path: Path) -> None:
    """Of the program's own family, with the line that the command would print."""
    with pytest.raises(ConfigError, match="epochs = -1"):
        ddp_mlp.Config(epochs=-1)
    with pytest.raises(StorageError, match=r"none\.h5"):
        ddp_mlp.train(ddp_mlp.Config(data="none.h5", run_dir=str(tmp_path / "run")))
    with pytest.raises(StorageError, match=r"none\.h5"):
        ddp_mlp.load("none.h5")
    with pytest.raises(DataError, match="holds no checkpoint"):
        ddp_mlp.load(tmp_path)


def test_part_of_the_ranks_can_train(mpirun: Program, digits: Path, tmp_path: Path) -> None:
    """`comm` may be any intracommunicator: two of three ranks train together, the third by itself, to the same bits."""
    program = f"""
from mpi4py import MPI
import ddp_mlp
world = MPI.COMM_WORLD
comm = world.Split(world.rank == 2)
folder = {str(tmp_path)!r} + ("/alone" if world.rank == 2 else "/pair")
config = ddp_mlp.Config(data={str(digits)!r}, hidden=(8,), epochs=1, quiet=True, run_dir=folder)
found = world.allgather(ddp_mlp.train(config, comm)["parameters_sha256"])
assert len(set(found)) == 1, found
"""
    outcome = mpirun(3, "-c", program)
    assert outcome.returncode == 0, outcome.stderr


def test_a_model_takes_any_real_rows(run_dir: Path, digits: Path) -> None:
    """Lists, integers, slices, one row; the bits do not depend on how the rows lie in memory."""
    model = ddp_mlp.load(run_dir)
    with h5py.File(digits) as file:
        X = np.asarray(file["test/X"][:], np.float32)
    expected = model.predict_proba(X)
    np.testing.assert_array_equal(model.predict_proba(np.asfortranarray(X)), expected, strict=True)
    np.testing.assert_array_equal(model.predict_proba(np.repeat(X, 2, axis=0)[::2]), expected, strict=True)
    np.testing.assert_allclose(model.predict_proba(X[5:6].tolist()), expected[5:6], atol=1e-6)  # another GEMM shape
    assert model.predict_proba(X[:0]).shape == (0, 10)
    np.testing.assert_array_equal(model.predict(X), expected.argmax(axis=1))
    with pytest.raises(ValueError, match=r"X has shape \(3, 2\): must be \(rows, 64\)"):
        model.predict(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"X\[1, 0\] is nan"):
        model.predict(np.array([[0.0] * 64, [np.nan] * 64]))
    with pytest.raises(ValueError, match="must be real numbers"):
        model.predict(np.full((1, 64), "a"))


def test_parameters_cannot_be_changed(run_dir: Path) -> None:
    """They are views of one read-only vector."""
    with pytest.raises(ValueError, match="read-only"):
        ddp_mlp.load(run_dir).parameters["W1"][0, 0] = 1


def test_load_takes_what_the_run_has_kept(digits: Path, tmp_path: Path) -> None:
    """The best checkpoint where the run finishes with it, else the newest; or the very file."""
    common = {"data": str(digits), "hidden": (8,), "epochs": 5, "quiet": True, "valid_fraction": 0.2}
    rate = {"learning_rate": 0.3, "monitor": "valid_accuracy"}  # so large that the last epoch is not the best
    config = ddp_mlp.Config(run_dir=str(tmp_path / "best"), restore_best=True, **common, **rate)  # type: ignore[arg-type]
    final = ddp_mlp.train(config)
    assert ddp_mlp.load(tmp_path / "best").parameters_sha256 == final["parameters_sha256"]
    newest = max((tmp_path / "best" / "checkpoints").glob("step-*.h5"))
    assert ddp_mlp.load(newest).parameters_sha256 != final["parameters_sha256"]
    assert ddp_mlp.load(tmp_path / "best" / "checkpoints").parameters_sha256 == final["parameters_sha256"]


def test_one_command_has_them_all(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """`ddp-mlp VERB` is `python -m ddp_mlp.VERB`, exit code included; no command is missing from its list."""
    modules = PACKAGE.glob("[a-z]*.py")
    commands = {path.stem for path in modules if '\nif __name__ == "__main__":\n' in path.read_text("utf-8")}
    assert commands <= set(VERBS)
    listing = run_python("-m", "ddp_mlp")
    assert all(f"\n  {verb}" in listing.stdout for verb in commands)
    for verb in ("train", "predict"):
        assert (
            run_python("-m", "ddp_mlp", verb, "--help").stdout == run_python("-m", f"ddp_mlp.{verb}", "--help").stdout
        )
    assert run_python("-m", "ddp_mlp", "train", "--epochs", "x").returncode == 2
    assert run_python("-m", "ddp_mlp", "frain").returncode == 2
    assert run_python("-m", "ddp_mlp", "--version").stdout == f"{ddp_mlp.__version__}\n"


def test_annotations_are_shipped() -> None:
    """py.typed lies beside the code."""
    assert (PACKAGE / "py.typed").exists()


def test_a_model_pickled_by_version_0_1_is_read() -> None:
    """It kept its attributes in one object; the figures are those that version gave."""
    model = pickle.loads((ROOT / "tests" / "fixtures" / "0.1.0" / "model.pickle").read_bytes())
    assert model.parameters_sha256 == "1e11e41586251cd862bc5405d9b70c0c4d64c964e763b77f9cccf73fcdbf2241"
    known = [[0.08224113, 0.67579824, 0.24196063], [0.1019989, 0.897805, 0.00019614]]
    np.testing.assert_allclose(model.predict_proba(np.arange(8.0).reshape(2, 4)), known, rtol=1e-5)  # float32
    assert pickle.loads(pickle.dumps(model)).classes == ("a", "b", "c")
