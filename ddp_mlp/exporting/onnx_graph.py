"""A network as an ONNX graph: rows in the user's units in, outputs in the user's units out, any number of rows.

Invariants:
- the mean is subtracted in float64, so that a large offset costs no digits that the inputs have, and inputs that
  float32 does not hold, far from zero for their deviation, are taken as float64;
- the graph is made of operators of opset 17 that the checker accepts with types and shapes all inferred.
"""

import json
from collections.abc import Sequence
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from ddp_mlp import __version__
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.exporting.description import Description
from ddp_mlp.nn import elementary
from ddp_mlp.nn.activations import LEAK

OPSET = 17
"""Of ONNX: from 2022, so that runtimes of today and of some years ago take the graph."""
IR_VERSION = 8
"""The file format that came with that opset."""
LARGEST = 2**31 - 1
"""Bytes: a protobuf message cannot be larger."""

OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "exp": "Exp"}
"""Of functions that ONNX has, for both types."""
UNRESOLVED = 1e-3
"""Of a deviation: where float32 rounds inputs more coarsely than this, X is float64."""


def needs_float64(network: Description) -> bool:
    """Tell whether float32 holds inputs less well than to a thousandth of their deviation, such as Unix seconds."""
    if network.mean is None:
        return False
    scale = 1.0 if network.scale is None else network.scale
    return bool((np.abs(network.mean) * np.finfo(np.float32).eps > UNRESOLVED * scale).any())


def onnx_graph(network: Description, float64_input: bool | None = None) -> bytes:
    """Return the network as the bytes of an ONNX file that onnx's checker accepts. Raises ConfigError, DataError.

    Its input X is of the network's type, or float64: `float64_input`, else as the network needs it.
    """
    try:
        from onnx import checker, helper
    except ImportError as error:
        raise ConfigError('export to .onnx needs onnx: pip install "ddp_mlp[onnx]"') from error

    graph = _Graph(network.parameters["W1"].dtype, needs_float64(network) if float64_input is None else float64_input)
    outputs = _build(graph, network)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "ddp_mlp", [graph.input(network.widths[0])], outputs, graph.constants),
        producer_name="ddp_mlp",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, facts(network))
    if model.ByteSize() > LARGEST:
        raise DataError(f"the network has {model.ByteSize()} bytes, ONNX holds {LARGEST}: export to .safetensors")
    checker.check_model(model, full_check=True)
    image: bytes = model.SerializeToString(deterministic=True)
    return image


def facts(network: Description) -> dict[str, str]:
    """Return what the metadata of a file say: names as JSON, and the hash of the parameters."""
    found = {"parameters_sha256": network.parameters_sha256}
    if network.output_names is not None:
        found["classes" if network.classes else "targets"] = json.dumps(network.output_names)
    if network.feature_names is not None:
        found["features"] = json.dumps(network.feature_names)
    return found


def _build(graph: "_Graph", network: Description) -> list[Any]:
    """Add the network's nodes to the graph and return its outputs."""
    from onnx import TensorProto, helper

    A, L = graph.standardized("X", network), len(network.layers)
    for l, (W, b) in enumerate(network.layers, start=1):
        names = [A, graph.constant(f"W{l}", W), graph.constant(f"b{l}", b)]
        A = graph.node("Gemm", names, f"z{l}", transB=1)
        if l < L:
            A = graph.function(network.activations[l - 1], A, f"A{l}")
    n, kind = network.widths[-1], graph.kind
    if network.softmax:
        graph.node("Softmax", [A], "probability", axis=-1)
        graph.node("ArgMax", ["probability"], "label", axis=1, keepdims=0)
        label = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])
        return [label, helper.make_tensor_value_info("probability", kind, ["batch", n])]
    name = "probability" if set(network.outputs) == {"sigmoid"} else "prediction"
    if network.target_mean is None and network.target_scale is None:
        graph.outputs(network.outputs, A, name)
    else:
        A = graph.cast(graph.outputs(network.outputs, A, f"A{L}"), TensorProto.DOUBLE, "wide")
        if network.target_scale is not None:
            last = network.target_mean is None
            scale = graph.constant("target_scale", network.target_scale)
            A = graph.node("Mul", [A, scale], name if last else "scaled")
        if network.target_mean is not None:
            graph.node("Add", [A, graph.constant("target_mean", network.target_mean)], name)
        kind = TensorProto.DOUBLE
    return [helper.make_tensor_value_info(name, kind, ["batch", n])]


class _Graph:
    """The nodes and constants of a graph whose layers are computed in one type."""

    def __init__(self, dtype: np.dtype[Any], float64_input: bool) -> None:
        from onnx import TensorProto

        self.dtype = dtype
        self.kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[dtype.name]
        self.input_kind = TensorProto.DOUBLE if float64_input else self.kind
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def input(self, n: int) -> Any:
        """Return the declaration of X (batch, n)."""
        from onnx import helper

        return helper.make_tensor_value_info("X", self.input_kind, ["batch", n])

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node and return the name of what it computes."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant, once, and return its name."""
        from onnx import numpy_helper

        if name not in {constant.name for constant in self.constants}:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        """Add a number of the layers' type, once, and return its name."""
        return self.constant(f"number {value!r}", np.array(value, self.dtype))

    def cast(self, x: str, kind: int, output: str) -> str:
        """Return x in another type, or as it is where it has that type."""
        from onnx import TensorProto

        if kind == TensorProto.DOUBLE and self.kind == kind:
            return x
        return self.node("Cast", [x], output, to=kind)

    def standardized(self, x: str, network: Description) -> str:
        """Add (x − mean) / scale."""
        from onnx import TensorProto

        if network.mean is None:
            if self.input_kind != self.kind:
                x = self.node("Cast", [x], "X_narrow", to=self.kind)
        else:
            wide = x if self.input_kind == TensorProto.DOUBLE else self.cast(x, TensorProto.DOUBLE, "X_wide")
            x = self.node("Sub", [wide, self.constant("mean", network.mean)], "centred")
            if self.kind != TensorProto.DOUBLE:
                x = self.node("Cast", [x], "centred_narrow", to=self.kind)
        if network.scale is not None:
            x = self.node("Div", [x, self.constant("scale", network.scale.astype(self.dtype))], "A0")
        return x

    def outputs(self, names: Sequence[str], z: str, output: str) -> str:
        """Add the functions of the output layer, each chosen for its own outputs."""
        kinds = list(dict.fromkeys(names))
        if len(kinds) == 1:
            return self.output(kinds[0], z, output)
        A = self.output(kinds[0], z, f"{output}_{kinds[0]}")
        for name in kinds[1:]:
            chosen = self.constant(f"{name} outputs", np.array([one == name for one in names]))
            B = self.output(name, z, f"{output}_{name}")
            A = self.node("Where", [chosen, B, A], output if name == kinds[-1] else f"{output}_with_{name}")
        return A

    def output(self, name: str, z: str, output: str) -> str:
        """Add f_L(z), elementwise.

        A sigmoid is spelled out: that of onnxruntime gives 0 for probabilities below 1e-8, where float32 holds 1e-38.
        """
        if name != "sigmoid":
            return self.function(name, z, output)
        exp = self.node("Exp", [self.node("Neg", [z], f"{output}_minus")], f"{output}_exp")
        total = self.node("Add", [exp, self.number(1)], f"{output}_sum")
        return self.node("Div", [self.number(1), total], output)

    def erf(self, x: str, output: str) -> str:
        """Add the error function, elementwise.

        In float64, for which onnxruntime has none, by the polynomials of nn/elementary.py.
        """
        if self.dtype == np.float32:
            return self.node("Erf", [x], output)
        size = self.node("Abs", [x], f"{output}_size")
        square = self.node("Mul", [size, size], f"{output}_square")
        small = self.node("Mul", [size, self.polynomial(elementary.ERF, square, f"{output}_small")], f"{output}_more")
        small = self.node("Add", [size, small], f"{output}_to_0.84")
        middle = self.node("Sub", [size, self.number(float(elementary.ERF_MIDDLE))], f"{output}_from_middle")
        middle = self.polynomial(elementary.ERF_NEAR_ONE, middle, f"{output}_middle")
        middle = self.node("Add", [middle, self.number(float(elementary.ERF_BASE))], f"{output}_to_1.35")
        near = self.node("Min", [size, self.number(6)], f"{output}_near")
        minus = self.node("Neg", [self.node("Mul", [near, near], f"{output}_near_square")], f"{output}_minus")
        t = self.node("Add", [near, self.number(2)], f"{output}_near_and_2")
        t = self.node("Div", [self.number(1), t], f"{output}_inverse")
        t = self.node("Sub", [t, self.number(float(elementary.ERFC_MIDDLE))], f"{output}_t")
        tail = [self.node("Exp", [minus], f"{output}_exp"), self.polynomial(elementary.ERFC, t, f"{output}_large")]
        large = self.node("Sub", [self.number(1), self.node("Mul", tail, f"{output}_tail")], f"{output}_from_1.35")
        beyond = self.node("LessOrEqual", [size, self.number(1.35)], f"{output}_is_middle")
        beyond = self.node("Where", [beyond, middle, large], f"{output}_from_0.84")
        inside = self.node("LessOrEqual", [size, self.number(0.84)], f"{output}_is_small")
        inside = self.node("Where", [inside, small, beyond], f"{output}_of_size")
        return self.node("Mul", [self.node("Sign", [x], f"{output}_sign"), inside], output)

    def polynomial(self, coefficients: Sequence[SupportsFloat], x: str, output: str) -> str:
        """Add c[0] + x (c[1] + x (c[2] + …)), elementwise."""
        *lower, value = map(self.number, map(float, coefficients))
        for power, c in reversed(list(enumerate(lower))):
            value = self.node("Mul", [value, x], f"{output}_times_{power}")
            value = self.node("Add", [value, c], f"{output}_plus_{power}")
        return value

    def function(self, name: str, z: str, output: str) -> str:
        """Add f(z), elementwise.

        Elu and Softplus are spelled out, since onnxruntime has them for float32 alone (as it has Erf), and so is
        LeakyRelu, whose slope is a float32 in ONNX.
        """
        if name in OPERATORS:
            return self.node(OPERATORS[name], [z], output)
        if name == "identity":
            return self.node("Identity", [z], output)
        if name == "leaky_relu":
            return self.node("Max", [z, self.node("Mul", [z, self.number(LEAK)], f"{output}_low")], output)
        if name == "silu":
            return self.node("Mul", [z, self.node("Sigmoid", [z], f"{output}_gate")], output)
        if name == "gelu":
            erf = self.erf(self.node("Mul", [z, self.number(0.5**0.5)], f"{output}_x"), f"{output}_erf")
            half = self.node("Mul", [z, self.number(0.5)], f"{output}_half")
            return self.node("Mul", [half, self.node("Add", [erf, self.number(1)], f"{output}_gate")], output)
        if name == "elu":  # max(z, 0) + 2t / (1 − t), t = tanh(min(z, 0) / 2): exp − 1 has no digits left near 0
            half = self.node(
                "Mul", [self.node("Min", [z, self.number(0)], f"{output}_min"), self.number(0.5)], f"{output}_half"
            )
            t = self.node("Tanh", [half], f"{output}_tanh")
            parts = [
                self.node("Add", [t, t], f"{output}_twice"),
                self.node("Sub", [self.number(1), t], f"{output}_rest"),
            ]
            below = self.node("Div", parts, f"{output}_below")
            return self.node("Add", [self.node("Relu", [z], f"{output}_above"), below], output)
        assert name == "softplus", name  # max(z, 0) + log(1 + e), e = exp(−|z|)
        minus = self.node("Neg", [self.node("Abs", [z], f"{output}_abs")], f"{output}_minus")
        tail = self.log_1_plus(self.node("Exp", [minus], f"{output}_exp"), f"{output}_tail")
        return self.node("Add", [self.node("Relu", [z], f"{output}_above"), tail], output)

    def log_1_plus(self, e: str, output: str) -> str:
        """Add log(1 + e), elementwise, 0 ≤ e ≤ 1, with the digits that e has.

        The logarithm of the rounded sum u = 1 + e differs from the one wanted as u − 1 differs from e (Goldberg, "What
        every computer scientist should know about floating-point arithmetic", ACM Computing Surveys 1991, theorem 4).
        """
        u = self.node("Add", [e, self.number(1)], f"{output}_sum")
        more = self.node("Sub", [u, self.number(1)], f"{output}_more")
        least = self.number(float(np.finfo(self.dtype).eps))  # the smallest that `more` is, unless it is 0
        ratio = self.node("Div", [e, self.node("Max", [more, least], f"{output}_some")], f"{output}_ratio")
        exact = self.node("Mul", [self.node("Log", [u], f"{output}_log"), ratio], f"{output}_exact")
        return self.node("Where", [self.node("Greater", [more, self.number(0)], f"{output}_is_more"), exact, e], output)
