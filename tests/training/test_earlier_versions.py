"""What earlier versions have left, a run in mid-epoch and a pickled estimator, goes on to the bits they would give.

The files of tests/fixtures/VERSION were written by that version, and so were the hashes, which it reached itself on
each kernel class; they are never made anew.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Program
from tests.kernels import skip_unless_kernel

FIXTURES = Path(__file__).parents[1] / "fixtures"
KNOWN: dict[str, Any] = json.loads((FIXTURES / "0.1.0" / "resumed.json").read_text())
FLAGS = [word for name, value in KNOWN["flags"].items() for word in (f"--{name}", value)]
ESTIMATOR = """
import pickle, sys, warnings
import numpy as np
warnings.simplefilter("ignore")  # another scikit-learn than the one it was pickled with
with open(sys.argv[1] + "/estimator.pickle", "rb") as file:
    estimator = pickle.load(file)
known = np.load(sys.argv[1] + "/estimator.npz")
np.testing.assert_allclose(estimator.predict_proba(known["X"]), known["proba"], rtol=1e-5)
estimator.partial_fit(known["X"][:30], known["y"][:30])
print(estimator.model_.parameters_sha256)
"""
by_kernel = pytest.mark.parametrize(
    "known", KNOWN["resumed"], ids=lambda known: "-".join([known["kernel"]["architecture"], *known["kernel"]["simd"]])
)


def resumed(run: Program, folder: Path, digits: Path, *arguments: Any, **options: Any) -> str:
    """Finish a copy of the run, which stands at step 21 of 48, and return its parameters_sha256."""
    shutil.copytree(FIXTURES / "0.1.0" / "run", folder)
    flags = [*FLAGS, "--data", digits, "--run_dir", folder]
    flags += ["--resume_override", "true"]  # the checkpoint is of one kernel, and goes on with any
    outcome = run(*arguments, "-m", "ddp_mlp.train", *flags, **options)
    assert outcome.returncode == 0, outcome.stderr
    assert "resumed from step-00000021.h5" in outcome.stderr
    return outcome.stdout.split("parameters_sha256 ")[1].strip()


@by_kernel
def test_a_run_of_0_1_goes_on_to_its_bits(known: Any, run_python: Program, digits: Path, tmp_path: Path) -> None:
    """With every option that a run of the digits can have, on each kernel class that this processor can be."""
    env = skip_unless_kernel(known["kernel"], run_python)
    assert resumed(run_python, tmp_path / "run", digits, env=env) == known["run"]
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(5, 49, 5))


@pytest.mark.parametrize("P", [2, 3])
def test_a_run_of_0_1_goes_on_with_ranks(
    P: int, mpirun: Program, run_python: Program, digits: Path, tmp_path: Path
) -> None:
    """Two and three ranks reach the hash of one process."""
    alone = resumed(run_python, tmp_path / "alone", digits)
    assert resumed(mpirun, tmp_path / "run", digits, P) == alone


@by_kernel
def test_an_estimator_of_0_1_goes_on_to_its_bits(known: Any, run_python: Program) -> None:
    """It unpickles, predicts what it did, and one more epoch gives the same parameters."""
    pytest.importorskip("sklearn")
    env = skip_unless_kernel(known["kernel"], run_python)
    outcome = run_python("-c", ESTIMATOR, FIXTURES / "0.1.0", env=env)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip() == known["estimator"]
