"""What a trained network is, for exports: every loss and activation that one can be trained with."""

from pathlib import Path

import numpy as np
import pytest

from ddp_mlp.errors import DataError
from ddp_mlp.exporting.description import describe_network, example_rows
from ddp_mlp.inference.network import Network
from ddp_mlp.nn.targets import LOSSES, Targets
from tests.exported import Compiled, answers, difference


def network(loss: str, activation: str = "tanh,relu", output_activation: str = "identity") -> Network:
    """Return a network with random parameters and targets in units of their own."""
    rng = np.random.default_rng(3)
    names, quantiles = ("temperature", "pressure"), (0.1, 0.5, 0.9) if loss == "quantile" else ()
    if loss == "cross_entropy":
        targets = Targets(classes=("a", "b", "c"))
    elif loss in ("binary_cross_entropy", "poisson"):
        targets = Targets(loss, names=names, mean=(0.0, 0.0), scale=(1.0, 1.0))
    else:
        mean = (0.0, 0.0) if output_activation != "identity" else (290.0, 1e5)
        targets = Targets(loss, names=names, mean=mean, scale=(12.5, 2e3), quantiles=quantiles)
    widths = (5, 12, 9, targets.outputs)
    parameters = {}
    for l in (1, 2, 3):
        parameters[f"W{l}"] = (rng.normal(size=(widths[l], widths[l - 1])) / np.sqrt(widths[l - 1])).astype(np.float32)
        parameters[f"b{l}"] = rng.normal(size=widths[l]).astype(np.float32)
    standardization = {"mean": 10 * rng.normal(size=5), "scale": rng.uniform(0.5, 20, 5)}
    return Network(parameters, targets.classes, standardization, targets, activation, output_activation)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str, tmp_path: Path) -> None:
    """The description, the code made of it, and predict give the same, in the targets' own units."""
    trained = network(loss)
    described = describe_network(trained)
    assert described.activations == ("tanh", "relu")
    assert described.output_names == trained.targets.output_names
    assert described.classes == (loss == "cross_entropy")
    X = np.random.default_rng(4).normal(size=(40, 5)) * 20
    predicted = trained.predictions(X)
    assert difference(described, answers(described, X), predicted) <= described.tolerance
    assert (
        difference(described, Compiled(described, tmp_path, "c", "gcc", "-O2").many(X), predicted)
        <= described.tolerance
    )


@pytest.mark.parametrize("names", ["softplus", "relu", "softplus,identity"])
def test_outputs_that_are_never_negative(names: str, tmp_path: Path) -> None:
    """An output activation, of all numbers or of each its own."""
    trained = network("squared_error", output_activation=names)
    described = describe_network(trained)
    assert described.outputs == (("softplus", "identity") if "," in names else (names, names))
    X = np.random.default_rng(4).normal(size=(40, 5)) * 20
    found = Compiled(described, tmp_path, "c", "gcc", "-O2").many(X)
    assert difference(described, found, trained.predictions(X)) <= described.tolerance
    assert (found[:, 0] >= 0).all()


def counted(size: float, scale: float = 1.0) -> Network:
    """Return a network for counts whose logarithm is `size` times an input that is at least 0."""
    targets = Targets("poisson", names=("n",), mean=(0.0,), scale=(1.0,))
    parameters = {"W1": np.ones((1, 1)), "b1": np.zeros(1), "W2": np.full((1, 1), size), "b2": np.zeros(1)}
    standardization = {"mean": np.zeros(1), "scale": np.full(1, scale)}
    parameters = {name: array.astype(np.float32) for name, array in parameters.items()}
    return Network(parameters, (), standardization, targets)


def test_rows_without_a_finite_answer_are_no_examples(tmp_path: Path) -> None:
    """Where exp overflows float32 there is nothing to compare with: what is written compiles."""
    described = describe_network(counted(70.0))
    assert described.examples is not None
    X, Y = described.examples
    assert 3 <= len(X) < len(example_rows(np.zeros(1), np.ones(1), 1))
    assert np.isfinite(Y).all()
    Compiled(described, tmp_path, "c", "gcc", "-O0")


@pytest.mark.parametrize(("size", "scale"), [(1.0, 1e39), (1.0, 1e-50), (np.nan, 1.0)])
def test_a_network_without_finite_answers_is_refused(size: float, scale: float) -> None:
    """In words: no constant of C or Fortran is infinite."""
    with pytest.raises(DataError, match="too large or too small for float32"):
        describe_network(counted(size, scale))


def test_the_size_of_exp_grows_with_its_logarithm() -> None:
    """What rounding changes of z, a part of z, is z times that part of exp(z)."""
    described = describe_network(counted(1.0))
    np.testing.assert_allclose(described.sizes(np.array([[1.0], [np.exp(20.0)]])), 20 * np.exp(20.0))
    assert described.sizes(np.array([[0.5]])).tolist() == [1.0]


def test_what_changes_nothing_is_left_out() -> None:
    """No map of inputs or outputs where there is none."""
    described = describe_network(network("poisson"))
    assert described.target_mean is None
    assert described.target_scale is None
    trained = network("cross_entropy")
    raw = describe_network(Network(trained.parameters, trained.classes))
    assert raw.mean is None
    assert raw.scale is None


def test_examples_are_predicts_answers() -> None:
    """Few rows for many features, and always the same ones, within ±√3 standard deviations."""
    trained = network("huber")
    X, Y = describe_network(trained).examples or (np.empty(0), np.empty(0))
    np.testing.assert_array_equal(Y, trained.predictions(X))
    mean, scale = trained.standardization.mean, trained.standardization.scale
    assert np.abs((X - mean) / scale).max() <= np.sqrt(3) + 1e-12
    assert len(X) == 16
    assert len(example_rows(None, None, 10_000)) == 3
