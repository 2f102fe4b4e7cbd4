"""Several networks as one ONNX graph: each member's own graph, and their mean and standard deviation behind them.

    X (batch, n_0)  →  label (batch,), probability (batch, n_L), deviation (batch, n_L)    for classes
                       prediction or probability, and deviation                            for numbers

The mean is taken in float64, in the order of the members, as `inference/ensemble.py` does.
"""

import json
from collections.abc import Sequence
from typing import Any

from ddp_mlp import __version__
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.exporting.description import Description
from ddp_mlp.exporting.onnx_graph import IR_VERSION, LARGEST, OPSET, facts, needs_float64, onnx_graph


def onnx_ensemble(members: Sequence[Description]) -> bytes:
    """Return the members as the bytes of one ONNX file. Raises ConfigError, DataError."""
    try:
        import onnx
        from onnx import checker, compose, helper
    except ImportError as error:
        raise ConfigError('export to .onnx needs onnx: pip install "ddp_mlp[onnx]"') from error

    nodes: list[Any] = []
    constants: list[Any] = []
    float64_input = any(map(needs_float64, members))
    for number, member in enumerate(members):
        own = onnx.load_model_from_string(onnx_graph(member, float64_input))
        found = compose.add_prefix(own, f"member{number}_", rename_inputs=False).graph
        nodes += found.node
        constants += found.initializer
    behind, outputs = _together(len(members), list(own.graph.output))
    graph = helper.make_graph([*nodes, *behind], "ddp_mlp", list(own.graph.input), outputs, constants)
    model = helper.make_model(
        graph,
        producer_name="ddp_mlp",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    hashes = [member.parameters_sha256 for member in members]
    told = {**facts(members[0]), "members": str(len(members)), "parameters_sha256": json.dumps(hashes)}
    helper.set_model_props(model, told)
    if model.ByteSize() > LARGEST:
        raise DataError(f"the networks have {model.ByteSize()} bytes, ONNX holds {LARGEST}: export them one by one")
    checker.check_model(model, full_check=True)
    image: bytes = model.SerializeToString(deterministic=True)
    return image


def _together(count: int, one: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the nodes of mean and deviation, and all outputs; `one` are the declarations of one member's outputs."""
    from onnx import TensorProto, helper

    *label, values = one
    name, kind = values.name, values.type.tensor_type.elem_type
    n = values.type.tensor_type.shape.dim[1].dim_value
    nodes = []
    wide = [f"wide{number}" for number in range(count)]
    for number, each in enumerate(wide):
        nodes.append(helper.make_node("Cast", [f"member{number}_{name}"], [each], to=TensorProto.DOUBLE))
    nodes += _mean(wide, "mean_wide")
    for number, each in enumerate(wide):
        nodes.append(helper.make_node("Sub", [each, "mean_wide"], [f"off{number}"]))
        nodes.append(helper.make_node("Mul", [f"off{number}", f"off{number}"], [f"square{number}"]))
    nodes += _mean([f"square{number}" for number in range(count)], "variance")
    nodes.append(helper.make_node("Sqrt", ["variance"], ["deviation_wide"]))
    nodes.append(helper.make_node("Cast", ["mean_wide"], [name], to=kind))
    nodes.append(helper.make_node("Cast", ["deviation_wide"], ["deviation"], to=kind))
    outputs = [helper.make_tensor_value_info(each, kind, ["batch", n]) for each in (name, "deviation")]
    if label:
        nodes.append(helper.make_node("ArgMax", [name], ["label"], axis=1, keepdims=0))
        outputs.insert(0, label[0])
    return nodes, outputs


def _mean(names: Sequence[str], output: str) -> list[Any]:
    """Return the nodes of a mean, added in order: onnxruntime has Mean for float32 alone."""
    from onnx import TensorProto, helper

    nodes, total = [], names[0]
    for number, name in enumerate(names[1:], start=1):
        nodes.append(helper.make_node("Add", [total, name], [f"{output}_sum{number}"]))
        total = f"{output}_sum{number}"
    count = helper.make_tensor(f"{output}_count", TensorProto.DOUBLE, [], [float(len(names))])
    nodes.append(helper.make_node("Constant", [], [f"{output}_count"], value=count))
    return [*nodes, helper.make_node("Div", [total, f"{output}_count"], [output])]
