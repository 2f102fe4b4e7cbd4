"""Networks that answer together on numbers and labels, against plain NumPy; the same bytes on any number of ranks."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import ddp_mlp
from ddp_mlp.inference.ensemble import Ensemble
from ddp_mlp.inference.ensemble_numbers import NORMAL, EnsembleNumberScores, predict_together
from ddp_mlp.inference.network import Network
from ddp_mlp.nn.targets import Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage.dataset import inspect
from tests.conftest import Program
from tests.simulated_mpi import World

KINDS = ["squared_error", "softplus", "relu", "poisson", "huber", "absolute_error", "quantile", "binary_cross_entropy"]
ROWS = 700
LEVELS = (0.1, 0.5, 0.9)


def ensemble_of(kind: str, members: int = 4) -> Ensemble:
    """Return networks with random parameters, for two numbers or labels; the second output is constrained."""
    random = np.random.default_rng(3)
    loss = "squared_error" if kind in ("softplus", "relu") else kind
    scaled = loss not in ("poisson", "binary_cross_entropy")
    mean, scale = (0.0, 0.0), (2.0, 0.5) if scaled else (1.0, 1.0)
    if kind == "squared_error":
        mean = (10.0, -3.0)
    targets = Targets(loss, (), ("flux", "rate"), mean, scale, LEVELS if loss == "quantile" else ())
    networks = []
    for _ in range(members):
        parameters = {}
        for l, (n_prev, n) in enumerate(pairwise((5, 9, targets.outputs)), start=1):
            parameters[f"W{l}"] = (random.normal(size=(n, n_prev)) / np.sqrt(n_prev)).astype(np.float32)
            parameters[f"b{l}"] = (0.3 * random.normal(size=n)).astype(np.float32)
        standardization = {"mean": np.full(5, 0.25), "scale": np.full(5, 1.5)}
        constraint = "identity" if kind == loss else f"identity,{kind}"
        networks.append(Network(parameters, (), standardization, targets, "tanh", constraint))
    return Ensemble(networks)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return a loss, or an output activation of squared errors."""
    return str(request.param)


@pytest.fixture
def data(kind: str, tmp_path: Path) -> Path:
    """Write rows with weights, whose second number is sometimes missing."""
    random = np.random.default_rng(4)
    X = random.normal(size=(ROWS, 5))
    Y = np.stack([one.predictions(X) for one in ensemble_of(kind).networks]).mean(axis=0)
    y = Y.reshape(ROWS, 2, -1)[:, :, Y.shape[1] // 4] + 0.4 * random.normal(size=(ROWS, 2))
    if kind == "poisson":
        y = random.poisson(np.exp(random.normal(size=(ROWS, 2)))).astype(float)
    if kind == "binary_cross_entropy":
        y = (random.uniform(size=(ROWS, 2)) < Y).astype(float)
    y[::7, 1] = np.nan
    with h5py.File(tmp_path / "numbers.h5", "w") as file:
        file.create_dataset("test/X", data=X)
        file.create_dataset("test/y", data=y)
        file.create_dataset("test/w", data=random.uniform(0.5, 2, ROWS))
        file.attrs["targets"] = ["flux", "rate"]
    return tmp_path / "numbers.h5"


def rows_of(data: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return X, y and w."""
    with h5py.File(data) as file:
        return file["test/X"][:], file["test/y"][:], file["test/w"][:]


def loss_of(kind: str, mean: NDArray[Any], y: NDArray[Any], targets: Targets) -> NDArray[Any]:
    """Return the loss of each number (m, n_T) of the mean answer (m, n_T, Q), as the derivation has it."""
    scale = np.array(targets.scale)
    e = mean[:, :, 0] - y
    if kind == "poisson":
        return np.asarray(mean[:, :, 0] - y * np.log(mean[:, :, 0]))
    if kind == "binary_cross_entropy":
        return np.asarray(-y * np.log(mean[:, :, 0]) - (1 - y) * np.log1p(-mean[:, :, 0]))
    r = np.abs(e) / scale
    if kind == "absolute_error":
        return np.asarray(r)
    if kind == "huber":
        return np.asarray(np.where(r <= 1, r * r / 2, r - 0.5))
    if kind == "quantile":
        u = (y[:, :, None] - mean) / scale[:, None]
        return np.asarray(np.maximum(np.array(LEVELS) * u, (np.array(LEVELS) - 1) * u).sum(axis=2))
    return np.asarray(r * r / 2)


def test_scores_against_plain_numpy(kind: str, data: Path, tmp_path: Path) -> None:
    """Loss and figures of the mean and of each member, and how many rows lie within the spread."""
    ensemble = ensemble_of(kind)
    X, y, w = rows_of(data)
    scores = predict_together(ensemble, inspect(data, for_training=False), "test", SingleProcess(), tmp_path / "out.h5")
    assert scores is not None
    each = np.stack([network.predictions(X) for network in ensemble.networks])
    mean, deviation = (found.reshape(ROWS, 2, -1) for found in (each.mean(axis=0), each.std(axis=0)))
    losses, seen = loss_of(kind, mean, y, ensemble.targets), ~np.isnan(y)
    expected = sum(np.average(losses[seen[:, k], k], weights=w[seen[:, k]]) for k in (0, 1))
    assert scores.together.loss == pytest.approx(expected, rel=1e-5)
    point = mean.shape[2] // 2
    for one, answer in [(scores.together, mean), *zip(scores.members, each, strict=True)]:
        value = answer.reshape(ROWS, 2, -1)[:, :, point]
        for k, name in enumerate(("flux", "rate")):
            here = seen[:, k]
            if kind == "binary_cross_entropy":
                right = (value[here, k] > 0.5) == (y[here, k] == 1)
                assert one.of_each[name]["accuracy"] == pytest.approx(right.mean())
            else:
                rmse = np.sqrt(np.average((value[here, k] - y[here, k]) ** 2, weights=w[here]))
                assert one.of_each[name]["rmse"] == pytest.approx(rmse, rel=1e-5)
    if isinstance(scores.calibration, dict):
        for k, (name, found) in enumerate(scores.calibration.items()):
            assert name == ("flux", "rate")[k]
            here = seen[:, k]
            off = np.abs(y[here, k] - mean[here, k, point]) / deviation[here, k, point]
            within = {f"{share:g}": float(np.mean(off <= width)) for share, width in NORMAL.items()}
            assert found.coverage == pytest.approx(within)
            assert found.spread == pytest.approx(
                np.sqrt(np.average(deviation[here, k, point] ** 2, weights=w[here])), rel=1e-5
            )
            gaps = [abs(within[f"{share:g}"] - share) for share in NORMAL]
            assert found.expected_error == pytest.approx(np.mean(gaps))
    else:
        p, so = mean[:, :, 0][seen], y[seen]
        bins = np.minimum((p * 10).astype(int), 9)
        assert scores.calibration.rows == [int((bins == i).sum()) for i in range(10)]
        gap = sum(abs(p[bins == i].sum() - so[bins == i].sum()) for i in range(10))
        assert scores.calibration.expected_error == pytest.approx(gap / len(p), rel=1e-5)


def test_the_file_has_mean_deviation_and_quantiles(kind: str, data: Path, tmp_path: Path) -> None:
    """Of the members' answers, by NumPy's own functions; CSV has the same numbers."""
    ensemble, info = ensemble_of(kind), inspect(data, for_training=False)
    for name in ("out.h5", "out.csv"):
        predict_together(ensemble, info, "test", SingleProcess(), tmp_path / name)
    each = np.stack([network.predictions(rows_of(data)[0]) for network in ensemble.networks])
    with h5py.File(tmp_path / "out.h5") as file:
        mean = file["probability" if kind == "binary_cross_entropy" else "value"][:]
        deviation, quantiles = file["deviation"][:], file["quantile"][:]
        assert file["quantile"].attrs["levels"].tolist() == [0.05, 0.5, 0.95]
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, each.std(axis=0), rtol=1e-4, atol=1e-7)
    expected = np.moveaxis(np.quantile(each, [0.05, 0.5, 0.95], axis=0), 0, -1)
    np.testing.assert_allclose(quantiles, expected, rtol=1e-6)
    head, first = (tmp_path / "out.csv").read_text().splitlines()[:2]
    names = ensemble.targets.output_names
    levels = [f"{name} at {level}" for name in names for level in (0.05, 0.5, 0.95)]
    assert head.split(",") == [*names, *(f"{name} deviation" for name in names), *levels]
    numbers = np.array(first.split(","), np.float64)
    np.testing.assert_array_equal(numbers, np.concatenate([mean[0], deviation[0], quantiles[0].reshape(-1)]))


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_decide_nothing(kind: str, data: Path, tmp_path: Path, size: int) -> None:
    """File and scores have the bytes of one process."""
    ensemble, info = ensemble_of(kind), inspect(data, for_training=False)
    alone = predict_together(ensemble, info, "test", SingleProcess(), tmp_path / "alone.h5")

    def program(communicator: Communicator) -> EnsembleNumberScores | None:
        return predict_together(ensemble, info, "test", communicator, tmp_path / "many.h5")

    assert World(size, seed=size).run(program) == [alone] * size
    assert (tmp_path / "many.h5").read_bytes() == (tmp_path / "alone.h5").read_bytes()


def test_a_spread_that_tells_all_covers_as_it_should() -> None:
    """Members that differ from the truth as the truth does from their mean."""
    random, members, rows = np.random.default_rng(1), 200, 4000
    ensemble = ensemble_of("squared_error", members)
    answer = ensemble.together(random.normal(size=(members, rows, 2)))
    y = random.normal(size=(rows, 2))
    for share, width in NORMAL.items():
        within = np.abs(y - answer.mean) <= width * answer.deviation
        assert within.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / y.size) + 0.005)


def test_predict_and_python_take_a_search_for_numbers(run_python: Program, tmp_path: Path) -> None:
    """From a search with members: lines, JSON, the file; a graph whose outputs are Python's."""
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 3))
    y = X @ [1.0, 2.0, -1.0] + 0.1 * random.normal(size=200)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for split, part in (("train", slice(0, 150)), ("test", slice(150, 200))):
            file.create_dataset(f"{split}/X", data=X[part])
            file.create_dataset(f"{split}/y", data=y[part])
    run_dir = tmp_path / "run"
    config = ddp_mlp.Config(data=str(tmp_path / "data.h5"), epochs=20, run_dir=str(run_dir), quiet=True, shards=2)
    ddp_mlp.search(config, {"hidden": {"choice": [[8]]}}, trials=1, folds=2, members=3)
    arguments = (run_dir, tmp_path / "data.h5", "-o", tmp_path / "out.h5", "--scores", tmp_path / "s.json")
    outcome = run_python("-m", "ddp_mlp.predict", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert "3 members" in outcome.stderr
    assert "calibration: the share of rows" in outcome.stdout
    scores = json.loads((tmp_path / "s.json").read_text())
    assert len(scores["members"]) == 3
    assert scores["targets"] == ["y"]
    assert set(scores["calibration"]["y"]["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}
    model = ddp_mlp.load_ensemble(run_dir)
    mean = model.predict(X[150:])
    assert mean.shape == (50,)
    assert scores["of_each"]["y"]["rmse"] == pytest.approx(np.sqrt(np.mean((mean - y[150:]) ** 2)), rel=1e-9)
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["value"][:, 0], mean)
        np.testing.assert_array_equal(file["deviation"][:], model.spread(X[150:]))
    onnxruntime = pytest.importorskip("onnxruntime")
    assert run_python("-m", "ddp_mlp.export", run_dir, tmp_path / "all.onnx").returncode == 0
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["prediction", "deviation"], {"X": X[150:].astype(np.float32)})
    np.testing.assert_allclose(found[0][:, 0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], model.spread(X[150:]), rtol=1e-3, atol=1e-5)
