"""A network as ONNX: onnxruntime and onnx's reference compute what the description says."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.exporting.description import ACTIVATIONS, OUTPUTS, Description, describe_network
from ddp_mlp.exporting.onnx_ensemble import onnx_ensemble
from ddp_mlp.exporting.onnx_graph import OPSET, needs_float64, onnx_graph
from ddp_mlp.inference.network import Network
from ddp_mlp.nn.activations import ACTIVATIONS as HIDDEN
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.targets import LOSSES, STANDARDIZED, Targets
from tests.exported import answers, described, difference

onnx = pytest.importorskip("onnx")
evaluator = pytest.importorskip("onnx.reference")
runtime = pytest.importorskip("onnxruntime")


def outputs(image: bytes, X: NDArray[Any]) -> tuple[NDArray[Any], dict[str, str]]:
    """Return the numbers and the metadata from onnxruntime."""
    session = runtime.InferenceSession(image)
    found = session.run([session.get_outputs()[-1].name], {"X": X})[0]
    return found, session.get_modelmeta().custom_metadata_map


def rows(network: Description, m: int = 33) -> NDArray[Any]:
    """Return rows of the network's type."""
    X = np.random.default_rng(5).normal(size=(m, network.widths[0])) * 20
    return X.astype(network.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, dtype: str) -> None:
    """Within rounding."""
    network = described(activation=activation, output="identity", dtype=dtype)
    X = rows(network)
    found, _ = outputs(onnx_graph(network), X)
    assert difference(network, found, answers(network, X.astype(np.float64))) <= 2 * network.tolerance


def test_gelu_of_every_size_in_float64() -> None:
    """The pieces of erf, which onnxruntime has not, and where they meet, are as good as math.erf; NaN stays."""
    one = {"W1": np.ones((1, 1)), "b1": np.zeros(1), "W2": np.ones((1, 1)), "b2": np.zeros(1)}
    network = described((1, 1, 1), "gelu", "identity", "float64", mean=None, scale=None, target_mean=None)
    network = replace(network, parameters=one, target_scale=None, examples=None)
    edges = np.array([0, 1e-300, 0.84, 1.35, 6, 7, 40]) * np.sqrt(2)
    size = np.concatenate([edges, np.nextafter(edges, 99), np.linspace(0, 9, 2001)])
    X = np.concatenate([size, -size])[:, None]
    found = outputs(onnx_graph(network), X)[0]
    np.testing.assert_allclose(found, answers(network, X), rtol=4e-16, atol=4e-16)
    assert np.isnan(outputs(onnx_graph(network), np.array([[np.nan]]))[0]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output(output: str, dtype: str) -> None:
    """In the user's units, for any number of rows."""
    network = described(output=output, dtype=dtype, activation="tanh")
    image = onnx_graph(network)
    for m in (1, 2, 33):
        X = rows(network, m)
        assert (
            difference(network, outputs(image, X)[0], answers(network, X.astype(np.float64))) <= 2 * network.tolerance
        )


def trained(loss: str, activation: str, output_activation: str = "identity") -> Network:
    """Return a network with this loss, of three targets in units of very different size, with drawn weights."""
    n, random = 3, np.random.default_rng(3)
    names, levels = ("T", "p", "q"), (0.1, 0.5, 0.9) if loss == "quantile" else ()
    mean, scale = ((1e5, 0.0, -2.0), (1e3, 1e-6, 1.0)) if loss in STANDARDIZED else ((0.0,) * n, (1.0,) * n)
    if output_activation != "identity":
        mean = (0.0,) * n
    targets = Targets(loss, (), names, mean, scale, levels)
    if loss == "cross_entropy":
        targets = Targets(classes=names)
    layout = Layout((6, 16, 8, targets.outputs))
    flat = np.zeros(layout.length, np.float32)
    layout.initialize(flat, 5)
    for b in layout.views(flat)[1].values():
        b[...] = random.standard_normal(b.shape) * 0.1
    inputs = {"mean": random.standard_normal(6), "scale": random.uniform(0.5, 20, 6)}
    classes = targets.classes
    return Network(layout.arrays(flat), classes, inputs, targets, activation, output_activation)


@pytest.mark.parametrize("activation", sorted(HIDDEN))
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_with_every_activation_is_what_predict_gives(loss: str, activation: str) -> None:
    """To 1e-6 of the column's largest value, at least 1; on the log scale for poisson; in the targets' own units."""
    networks = [trained(loss, activation)]
    if loss in STANDARDIZED:
        networks.append(trained(loss, activation, "softplus,relu,identity"))
    for network in networks:
        assert network.output_functions[0] != "identity" or loss in STANDARDIZED
        X = (np.random.default_rng(5).standard_normal((300, 6)) * 10).astype(np.float32)
        found = outputs(onnx_graph(describe_network(network)), X)[0].astype(np.float64)
        expected = network.predictions(X)
        if loss == "poisson":
            found, expected = np.log(found), np.log(expected)
        assert (np.abs(found - expected) <= 1e-6 * np.maximum(1, np.abs(expected).max(axis=0))).all()


def test_functions_may_differ() -> None:
    """From hidden layer to hidden layer, and from output to output."""
    network = described((3, 5, 6, 7, 4), ("tanh", "relu", "elu"), ("softplus", "identity", "relu", "identity"))
    X = rows(network)
    expected = answers(network, X.astype(np.float64))
    assert difference(network, outputs(onnx_graph(network), X)[0], expected) <= 2 * network.tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["elu", "softplus", "sigmoid", "softmax", "exp"])
def test_what_is_nearly_nothing_keeps_its_digits(name: str, dtype: str) -> None:
    """A little more than 1, less 1; and rare classes: onnxruntime's sigmoid of −20 is 0 in float32."""
    z = np.concatenate([-np.geomspace(1e-6, 80, 60), [0.0], np.geomspace(1e-6, 80, 30)]).astype(dtype)
    one = {"W1": np.array([[0.0], [1.0]], dtype), "b1": np.zeros(2, dtype)}
    plain: dict[str, Any] = {"mean": None, "scale": None, "target_mean": None, "target_scale": None}
    if name == "elu":  # of a hidden layer, whose sum is itself
        network = described((1, 2, 2), name, "identity", dtype, **plain)
        one |= {"W2": np.eye(2, dtype=dtype), "b2": np.zeros(2, dtype)}
    else:
        network = described((1, 2), "relu", name, dtype, **plain)
    network = replace(network, parameters=one)
    found, _ = outputs(onnx_graph(network), z[:, None])
    x = z.astype(np.float64)
    expected = {
        "elu": np.where(x < 0, np.expm1(x), x),
        "softplus": np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        "exp": np.exp(x),
    }.get(name, np.exp(-np.logaddexp(0, -x)))
    np.testing.assert_allclose(found[:, 1], expected, rtol=3e-6 if dtype == "float32" else 1e-14)


def test_the_graph_is_checked_and_says_what_it_is() -> None:
    """Full check with strict shape inference; one opset; batch is free; names are in the metadata."""
    network = described(output="identity")
    model = onnx.load_from_string(onnx_graph(network))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred.graph.value_info}
    assert all(shapes[name][0].dim_param == "batch" for name in ("A0", "z1", "A1", "z2", "A2", "z3"))
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["parameters_sha256"] == network.parameters_sha256
    assert tuple(json.loads(facts["features"])) == network.feature_names
    assert tuple(json.loads(facts["targets"])) == network.output_names


def test_large_offsets_are_exact() -> None:
    """Inputs that float32 holds exactly, far from zero: the mean, which it does not hold, is subtracted in float64."""
    network = described(mean=np.full(7, 2.0**23 + 0.3), scale=np.full(7, 2000.0), output="identity")
    X = (2.0**23 + np.random.default_rng(1).integers(-5000, 5000, (20, 7))).astype(np.float32)
    found, _ = outputs(onnx_graph(network), X)
    assert difference(network, found, answers(network, X.astype(np.float64))) <= network.tolerance


@pytest.mark.parametrize("alone", [True, False])
def test_unix_seconds_are_taken_as_they_are(alone: bool) -> None:
    """Seconds of one minute, which are all one number in float32: X is float64, in an ensemble too."""
    network = described(mean=np.full(7, 1.7e9), scale=np.full(7, 20.0), output="softmax")
    narrow = described(output="softmax")
    assert (needs_float64(network), needs_float64(narrow)) == (True, False)
    X = (1.7e9 + np.random.default_rng(1).integers(-30, 30, (20, 7))).astype(np.float64)
    assert np.unique(X.astype(np.float32)).size == 1
    image = onnx_graph(network) if alone else onnx_ensemble([network, network])
    session = runtime.InferenceSession(image)
    assert session.get_inputs()[0].type == "tensor(double)"
    [found] = session.run(["probability"], {"X": X})
    assert np.ptp(found, axis=0).min() > 0.01
    np.testing.assert_allclose(found, answers(network, X), rtol=0, atol=1e-5)
    onnx_ensemble([narrow, network])  # members of one type, whatever each alone would have


def test_the_same_network_has_the_same_bytes() -> None:
    """Nothing depends on time or chance."""
    assert onnx_graph(described()) == onnx_graph(described())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_of_portable_arithmetic(activation: str) -> None:
    """Their graph computes in float32, as their parameters are, and comes as near as their products' bits allow."""
    network = described(activation=activation, output="identity", exact=True)
    X = rows(network).astype(np.float32)
    model = onnx.load_from_string(onnx_graph(network))
    assert {constant.data_type for constant in model.graph.initializer if constant.name[0] in "Wb"} == {1}  # FLOAT
    found, _ = outputs(onnx_graph(network), X)
    assert difference(network, found, answers(network, X.astype(np.float64))) <= 5e-6
