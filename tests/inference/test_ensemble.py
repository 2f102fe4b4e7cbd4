"""Networks that answer together, against plain NumPy; the same bytes on any number of ranks; one ONNX graph."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import ddp_mlp
from ddp_mlp.errors import DataError
from ddp_mlp.exporting.formats import write_together
from ddp_mlp.inference.ensemble import BINS, Ensemble, EnsembleScores, classify_together
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import inspect
from tests.conftest import Program
from tests.simulated_mpi import World


@pytest.fixture(scope="module")
def search(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search one trial, and train three members of it."""
    run_dir = tmp_path_factory.mktemp("ensemble") / "run"
    config = ddp_mlp.Config(data=str(digits), epochs=3, run_dir=str(run_dir), quiet=True, shards=2)
    ddp_mlp.search(config, {"hidden": {"choice": [[16]]}}, trials=1, folds=2, members=3)
    return run_dir


@pytest.fixture
def members(search: Path) -> list[ddp_mlp.Model]:
    """Return each member as a model of its own."""
    return [ddp_mlp.load(folder) for folder in (search, search / "members" / "1", search / "members" / "2")]


def test_members_that_name_their_features_otherwise_are_no_ensemble() -> None:
    """Each takes columns by its own names: one order for both would be wrong for one of them, without a word."""
    parameters = {"W1": np.arange(6.0).reshape(2, 3), "b1": np.zeros(2)}

    def member(names: list[str] | None) -> ddp_mlp.Model:
        return ddp_mlp.Model(parameters, ("a", "b"), inputs={} if names is None else {"features": names})

    for first, second in ((["x", "y", "z"], ["z", "y", "x"]), (["x", "y", "z"], ["x", "y", "w"])):
        with pytest.raises(ValueError, match="member 1 has its features in another order, or others"):
            Ensemble([member(first).network, member(second).network])
    assert len(Ensemble([member(["x", "y", "z"]).network, member(None).network]).networks) == 2


def test_the_answer_is_mean_deviation_and_quantiles(search: Path, members: list[ddp_mlp.Model], digits: Path) -> None:
    """Over the members, by NumPy's own functions."""
    with h5py.File(digits) as file:
        X = file["test/X"][:50]
    model = ddp_mlp.load_ensemble(search)
    each = np.stack([member.predict_proba(X) for member in members]).astype(np.float64)
    assert model.members == 3
    assert model.classes == members[0].classes
    np.testing.assert_allclose(model.predict_proba(X), each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(model.spread(X), each.std(axis=0), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(model.quantiles(X)[..., 1], np.median(each, axis=0), rtol=1e-6)
    assert np.array_equal(model.predict(X), each.mean(axis=0).astype(np.float32).argmax(axis=1))
    with pytest.raises(ValueError, match="X has shape"):
        model.predict_proba(X[:, :3])


def test_scores_against_plain_numpy(search: Path, members: list[ddp_mlp.Model], digits: Path) -> None:
    """Accuracy, log-loss and calibration of the ensemble, accuracy and log-loss of each member."""
    with h5py.File(digits) as file:
        X, y = file["test/X"][:], file["test/y"][:]
    scores = classify_together(ddp_mlp.load_ensemble(search).ensemble, inspect(digits), "test", SingleProcess())
    assert scores is not None
    each = np.stack([member.predict_proba(X) for member in members]).astype(np.float64)
    mean = each.mean(axis=0)
    rows = np.arange(len(y))
    assert scores.together.accuracy == np.mean(mean.argmax(axis=1) == y)
    assert scores.together.log_loss == pytest.approx(-np.log(mean[rows, y]).mean(), rel=1e-5)
    assert scores.accuracies == [np.mean(one.argmax(axis=1) == y) for one in each]
    assert scores.log_losses == pytest.approx([-np.log(one[rows, y]).mean() for one in each], rel=1e-5)
    confidence, right = mean.max(axis=1), mean.argmax(axis=1) == y
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(confidence[place == i].sum() - right[place == i].sum()) for i in range(BINS)]
    assert scores.calibration.expected_error == pytest.approx(sum(gaps) / len(y), rel=1e-5)
    assert scores.calibration.rows == [int((place == i).sum()) for i in range(BINS)]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_decide_nothing(search: Path, digits: Path, tmp_path: Path, size: int) -> None:
    """File and scores have the bytes of one process."""
    ensemble, info = ddp_mlp.load_ensemble(search).ensemble, inspect(digits)
    alone = classify_together(ensemble, info, "test", SingleProcess(), tmp_path / "alone.h5")

    def program(communicator: Communicator) -> EnsembleScores | None:
        return classify_together(ensemble, info, "test", communicator, tmp_path / "many.h5")

    assert World(size, seed=size).run(program) == [alone] * size
    assert (tmp_path / "many.h5").read_bytes() == (tmp_path / "alone.h5").read_bytes()


def test_predict_takes_a_search(run_python: Program, search: Path, digits: Path, tmp_path: Path) -> None:
    """All of the answer in HDF5 and CSV, the scores as lines and as JSON."""
    for name in ("out.h5", "out.csv"):
        arguments = ("-m", "ddp_mlp.predict", search, digits, "-o", tmp_path / name, "--scores", tmp_path / "s.json")
        outcome = run_python(*arguments)
        assert outcome.returncode == 0, outcome.stderr
        assert "3 members" in outcome.stderr
        assert "calibration: expected error" in outcome.stdout
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["probability"].shape == file["deviation"].shape == (360, 10)
        assert file["quantile"].shape == (360, 10, 3)
        assert file["quantile"].attrs["levels"].tolist() == [0.05, 0.5, 0.95]
        first = [*file["probability"][0], *file["deviation"][0], *file["quantile"][0].reshape(-1)]
    head, line = (tmp_path / "out.csv").read_text().splitlines()[:2]
    assert len(head.split(",")) == 1 + 10 + 10 + 30
    assert head.split(",")[11:13] == ["0 deviation", "1 deviation"]
    assert np.array_equal(np.array(line.split(",")[1:], np.float32), np.array(first, np.float32))
    scores = json.loads((tmp_path / "s.json").read_text())
    assert len(scores["accuracies"]) == 3
    assert sum(scores["calibration"]["rows"]) == 360


def test_one_graph_of_all_members(run_python: Program, search: Path, digits: Path, tmp_path: Path) -> None:
    """Onnxruntime gives mean and deviation as Python does; other formats hold one network."""
    onnxruntime = pytest.importorskip("onnxruntime")
    outcome = run_python("-m", "ddp_mlp.export", search, tmp_path / "all.onnx")
    assert outcome.returncode == 0, outcome.stderr
    with h5py.File(digits) as file:
        X = file["test/X"][:].astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx", providers=["CPUExecutionProvider"])
    label, probability, deviation = session.run(["label", "probability", "deviation"], {"X": X})
    model = ddp_mlp.load_ensemble(search)
    np.testing.assert_allclose(probability, model.predict_proba(X), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(deviation, model.spread(X), rtol=1e-3, atol=1e-5)
    assert np.array_equal(label, model.predict(X))
    told = session.get_modelmeta().custom_metadata_map
    assert told["members"] == "3"
    assert len(json.loads(told["parameters_sha256"])) == 3
    again = write_together(model.ensemble.networks, tmp_path / "again.onnx")
    assert again[0].read_bytes() == (tmp_path / "all.onnx").read_bytes()
    refused = run_python("-m", "ddp_mlp.export", search, tmp_path / "all.npz")
    assert refused.returncode == 2
    assert "3 networks together are written as .onnx alone" in refused.stderr


def test_a_member_that_is_not_trained_is_named(search: Path, tmp_path: Path) -> None:
    """A search that was stopped while it trained its members: also one that has a checkpoint, and goes on."""
    half = tmp_path / "half"
    shutil.copytree(search, half)
    assert ddp_mlp.load_ensemble(half).members == 3
    journal = half / "members" / "2" / "metrics.jsonl"
    journal.write_bytes(journal.read_bytes()[: journal.read_bytes()[:-1].rfind(b"\n") + 1])
    refused = "its search has not come to its end, {} of 3 members trained: .* name one network, such as .*checkpoints"
    with pytest.raises(DataError, match=refused.format(2)):
        ddp_mlp.load_ensemble(half)
    shutil.rmtree(half / "members" / "1")
    with pytest.raises(DataError, match=refused.format(1)):
        ddp_mlp.load_ensemble(half)
    assert ddp_mlp.load_ensemble(half / "checkpoints").members == 1
