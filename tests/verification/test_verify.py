"""Tests of the certificate, of what it catches, and of the golden hashes."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.errors import ProgramError
from ddp_mlp.nn.blas import libraries
from ddp_mlp.nn.targets import LOSSES
from ddp_mlp.nn.threads import controller
from ddp_mlp.training.step import TrainingStep
from ddp_mlp.verification.golden import RUNS
from ddp_mlp.verify import verify
from tests.checks.faults import after_own_sum
from tests.conftest import ROOT, Program
from tests.kernels import skip_unless_kernel
from tests.simulated_mpi import World

GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.json"))
PROGRAM = ROOT / "tests" / "programs" / "golden.py"


def certificate_of(folder: Path) -> dict[str, Any]:
    """Return the certificate in a folder; nothing else is left there."""
    assert [entry.name for entry in folder.iterdir()] == ["certificate.json"]
    found: dict[str, Any] = json.loads((folder / "certificate.json").read_text())
    return found


@pytest.mark.timeout(150)
def test_one_process_and_several_get_their_certificate(run_python: Program, mpirun: Program, tmp_path: Path) -> None:
    """All checks pass in less than a minute, alone and on 3 ranks of 2 nodes, with the same golden hashes."""
    golden = set()
    for P in (1, 3):
        folder = tmp_path / str(P)
        folder.mkdir()
        if P == 1:
            outcome = run_python("-m", "ddp_mlp.verify", cwd=folder)
        else:
            outcome = mpirun(P, "-m", "ddp_mlp.verify", cwd=folder, env={"DDP_MLP_NODE_SIZE": "2"})
        assert outcome.returncode == 0, outcome.stderr
        found = certificate_of(folder)
        assert found["passed"]
        assert found["ranks"] == P
        assert len(found["checks"]) == (12 if P == 1 else 15)  # seven losses, each its gradient
        assert found["not_checked"]
        assert set(found["versions"]) == {"ddp_mlp", "python", "numpy", "h5py", "mpi"}
        for check in found["checks"]:
            assert f"pass  {check['what']} " in outcome.stdout
        golden.add(json.dumps(found["golden"]))
    assert len(golden) == 1


def test_a_file_of_the_user_s_is_checked(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """A given file takes the place of the made-up examples; one that is not there ends with exit code 74 or 65."""
    outcome = run_python("-m", "ddp_mlp.verify", str(digits), cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert certificate_of(tmp_path)["data"] == str(digits)
    outcome = run_python("-m", "ddp_mlp.verify", "nowhere.h5", cwd=tmp_path)
    assert outcome.returncode in (65, 74)
    assert outcome.stderr.count("\n") == 1
    assert "nowhere.h5" in outcome.stderr


def certify(world: World, folder: Path) -> None:
    """Make the certificate on a world's ranks."""
    arguments = argparse.Namespace(
        data=None, x_name="X", y_name="y", certificate=folder / "certificate.json", portable=False
    )
    world.run(lambda communicator: verify(arguments, communicator))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
def test_no_schedule_of_the_ranks_disturbs_the_checks(seed: int, tmp_path: Path) -> None:
    """The checks share memory with what they check: whoever runs ahead, they pass."""
    drawn = random.Random(seed)
    certify(World(drawn.randint(2, 4), seed, drawn.choice([None, 1, 2])), tmp_path)
    assert certificate_of(tmp_path)["passed"]


def one_bit(step: TrainingStep, batch: Any, subtree: Any, flat: Any) -> None:
    """Change the last bit of a number on rank 1."""
    if step.communicator.rank == 1:
        flat[3] = np.nextafter(flat[3], flat.dtype.type(np.inf))


def twice(step: TrainingStep, batch: Any, subtree: Any, flat: Any) -> None:
    """Double one shard's sum on every number of ranks."""
    if subtree[0] == 0:
        flat *= 2


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("change", "failed"),
    [(one_bit, ["sum of 8 shards on 2 ranks"]), (twice, ["gradient", "sum of 8"])],
)
def test_a_fault_fails_the_certificate(
    change: Any, failed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong bit on one rank, a wrong gradient on all: the lines that see it say FAIL, and the exit code is 1."""
    after_own_sum(monkeypatch, change)
    with pytest.raises(ProgramError, match=r"failed: .*; send ") as caught:
        certify(World(2, 1), tmp_path)
    assert caught.value.exit_code == 1
    found = certificate_of(tmp_path)
    assert not found["passed"]
    wrong = [check["what"] for check in found["checks"] if not check["passed"]]
    for words in failed:
        assert any(what.startswith(words) for what in wrong), wrong
    assert capsys.readouterr().out.count("FAIL") == len(wrong)


def test_a_blas_library_that_threadpoolctl_overlooks_is_named_as_numpy_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with Apple's Accelerate, Netlib's, and MKL without libmkl_rt: there is a certificate all the same."""
    known = libraries()[0].name
    monkeypatch.setattr(controller(), "info", list)
    certify(World(1, 1), tmp_path)
    kernel = certificate_of(tmp_path)["kernel"]
    assert known in kernel["blas"]  # scipy-openblas 0.3.31, say, is what it calls openblas 0.3.31
    assert kernel["architecture"] == "unknown"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_runs_have_the_known_bits(path: Path, run_python: Program) -> None:
    """On the kernel class of each golden file, as far as this processor can run it, the hashes are the file's."""
    known = json.loads(path.read_text())
    outcome = run_python(PROGRAM, env=skip_unless_kernel(known["kernel"], run_python))
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["golden"] == known["golden"]


def test_golden_files_hold_every_run() -> None:
    """Each file names its kernel class and has all runs, of all losses; classes differ, and so do bits somewhere."""
    assert {keys.get("loss", "cross_entropy") for keys in RUNS.values()} == set(LOSSES)
    files = [json.loads(path.read_text()) for path in GOLDEN]
    assert all(set(file["golden"]) == set(RUNS) for file in files)
    assert len({json.dumps(file["kernel"]) for file in files}) == len(files) >= 3
    assert len({json.dumps(file["golden"]) for file in files}) > 1
