"""A trained network in a file of its own: what every command takes, and what it says of itself."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ddp_mlp
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.export import export
from ddp_mlp.nn.targets import Targets
from ddp_mlp.reporting.runs import read
from ddp_mlp.storage import checkpoints
from tests.conftest import Program


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Train on the digits, with validation; return the folder, and the final event."""
    folder = tmp_path_factory.mktemp("keeping") / "run"
    config = ddp_mlp.Config(
        data=str(digits),
        epochs=3,
        valid_fraction=0.2,
        hidden=(16, 8),
        activation="tanh",
        checkpoint_every="1 epoch",
        run_dir=str(folder),
        quiet=True,
        shards=2,
    )
    return folder, dict(ddp_mlp.train(config))


def events_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind in a run's journal."""
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == kind]


def test_a_model_says_what_it_is(run: tuple[Path, dict[str, Any]]) -> None:
    """Names, loss, activation, and the figures of the epoch that it is of: the last one's, and an earlier one's."""
    folder, final = run
    model = ddp_mlp.load(folder)
    assert model.classes == tuple("0123456789")
    assert (model.loss, model.activation, model.target_names) == ("cross_entropy", "tanh", ())
    for name in ("valid_loss", "valid_accuracy", "test_accuracy"):
        assert model.metrics[name] == final[name]
    earlier = sorted((folder / "checkpoints").glob("step-*.h5"))[0]
    first = events_of(folder, "epoch")[0]
    found = ddp_mlp.load(earlier).metrics
    assert found["valid_loss"] == first["valid_loss"] != final["valid_loss"]
    assert "test_accuracy" not in found


def test_what_is_saved_is_the_same_network(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """All that can be asked is the same, once and again: the same bytes."""
    model = ddp_mlp.load(run[0])
    model.save(tmp_path / "model.h5")
    again = ddp_mlp.load(tmp_path / "model.h5")
    again.save(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "model.h5").read_bytes()
    X = np.random.default_rng(0).normal(size=(9, 64))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    for name in ("parameters_sha256", "classes", "loss", "activation", "feature_names", "metrics", "dtype"):
        assert getattr(again, name) == getattr(model, name)
    kept, ours = checkpoints.load(tmp_path / "model.h5"), checkpoints.find(run[0])
    assert (kept.config, kept.step, kept.epoch, kept.data) == (ours.config, ours.step, ours.epoch, ours.data)


def test_every_command_takes_it(
    run_python: Program, run: tuple[Path, dict[str, Any]], digits: Path, tmp_path: Path
) -> None:
    """predict, export, report and --init_from give what the run itself gives."""
    saved, model = tmp_path / "model.h5", ddp_mlp.load(run[0])
    model.save(saved)
    usual: dict[str, Any] = {
        "data": str(digits),
        "epochs": 1,
        "hidden": (16, 8),
        "activation": "tanh",
        "shards": 2,
        "quiet": True,
    }
    flags = [text for name, value in usual.items() for text in (f"--{name}", str(value).strip("()").replace(" ", ""))]
    for arguments in (
        ("predict", saved, digits, "-o", tmp_path / "out.h5"),
        ("export", saved, tmp_path / "saved.npz"),
        ("report", saved, "-o", tmp_path / "page.html", "--data", digits),
        ("train", *flags, "--init_from", saved, "--run_dir", tmp_path / "run"),
    ):
        outcome = run_python("-m", f"ddp_mlp.{arguments[0]}", *arguments[1:])
        assert outcome.returncode == 0, outcome.stderr
    with h5py.File(digits) as data, h5py.File(tmp_path / "out.h5") as out:
        np.testing.assert_array_equal(out["probability"][:], model.predict_proba(data["test/X"][:]))
    export(model, tmp_path / "run.npz")
    assert (tmp_path / "saved.npz").read_bytes() == (tmp_path / "run.npz").read_bytes()
    final = ddp_mlp.train(ddp_mlp.Config(**usual, init_from=str(run[0]), run_dir=str(tmp_path / "other")))
    assert ddp_mlp.load(tmp_path / "run").parameters_sha256 == final["parameters_sha256"]
    page = (tmp_path / "page.html").read_text()
    assert f"{100 * run[1]['test_accuracy']:.2f}%" in page
    assert "config.yaml" not in page


def test_a_checkpoint_of_a_run_tells_nothing_alone(run: tuple[Path, dict[str, Any]]) -> None:
    """Its report is that of its folder, where the journal is."""
    with pytest.raises(DataError, match="name the run_dir of a run"):
        read(next((run[0] / "checkpoints").glob("step-*.h5")))


@pytest.mark.parametrize("kind", ["classes", "numbers", "quantiles", "labels"])
def test_a_network_of_arrays(kind: str, tmp_path: Path) -> None:
    """Whatever its outputs are; names of features and outputs, and functions, come back. It has no metrics."""
    names = ("a", "b")
    targets = {
        "classes": Targets(classes=names),
        "numbers": Targets("squared_error", (), names, (1.0, 2.0), (3.0, 4.0)),
        "quantiles": Targets("quantile", (), names, (1.0, 2.0), (3.0, 4.0), (0.1, 0.9)),
        "labels": Targets("binary_cross_entropy", (), names, (0.0, 0.0), (1.0, 1.0)),
    }[kind]
    random = np.random.default_rng(0)
    parameters = {"W1": random.normal(size=(5, 3)), "b1": random.normal(size=5)}
    parameters |= {"W2": random.normal(size=(targets.outputs, 5)), "b2": random.normal(size=targets.outputs)}
    maps = {"mean": np.arange(3.0), "scale": np.arange(1.0, 4.0)}
    inputs = {"features": ["x", "y", "z"]}
    output = "softplus" if kind == "numbers" else "identity"
    model = ddp_mlp.Model(parameters, targets.classes, maps, targets, "gelu", output, inputs=inputs)
    model.save(tmp_path / "model.h5")
    found = ddp_mlp.load(tmp_path / "model.h5")
    X = random.normal(size=(7, 3))
    np.testing.assert_array_equal(found.predict(X), model.predict(X))
    assert (found.targets, found.activation, found.output_activation) == (targets, "gelu", output)
    assert found.feature_names == ("x", "y", "z")
    assert found.metrics == {}
    with pytest.raises(ConfigError, match=r"must end in \.h5"):
        model.save(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="a run's own checkpoints"):
        model.save(tmp_path / "step-00000007.h5")
    parameters["b1"][2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        ddp_mlp.Model(parameters, targets.classes, maps, targets).save(tmp_path / "nan.h5")


def test_a_stranger_may_have_written_the_events(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """What is no event is none."""
    network = ddp_mlp.load(run[0]).network
    network.origin = {**network.origin, "events": [1, {"event": 2, "step": "x"}, {"step": 1}, [], None]}
    ddp_mlp.Model.of(network).save(tmp_path / "odd.h5")
    assert ddp_mlp.load(tmp_path / "odd.h5").metrics == {}


def test_estimators_are_saved_as_models(run_python: Program, tmp_path: Path) -> None:
    """Features by the names of the table, the same answers, and the figures of the fit, which the report shows."""
    pandas = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    table = pandas.DataFrame(random.normal(size=(120, 2)), columns=["length", "width"])
    y = table["length"] - 2 * table["width"]
    labels = np.where(y > 0, "big", "small")
    for name, estimator, target in (
        ("classes", ddp_mlp.MLPClassifier((8,), max_iter=5, early_stopping=True, random_state=0), labels),
        ("numbers", ddp_mlp.MLPRegressor((8,), max_iter=5, activation="tanh", random_state=0), y),
    ):
        with pytest.warns(UserWarning, match="max_iter"):
            estimator.fit(table, target)
        path = tmp_path / f"{name}.h5"
        estimator.save(path)
        model = ddp_mlp.load(path)
        assert model.feature_names == ("length", "width")
        expected = estimator.predict(table)
        found = model.predict(table.to_numpy())
        np.testing.assert_array_equal(np.array(model.classes)[found] if model.classes else found, expected)
        assert model.metrics["train_loss"] == estimator.loss_curve_[-1]
        outcome = run_python("-m", "ddp_mlp.report", path, "-o", tmp_path / "page.html")
        assert outcome.returncode == 0, outcome.stderr
        with h5py.File(tmp_path / "table.h5", "w") as file:
            file.create_dataset("test/X", data=table.to_numpy())
        outcome = run_python("-m", "ddp_mlp.predict", path, tmp_path / "table.h5", "-o", tmp_path / "out.csv")
        assert outcome.returncode == 0, outcome.stderr
    assert model.activation == "tanh"
    assert model.loss == "squared_error"
