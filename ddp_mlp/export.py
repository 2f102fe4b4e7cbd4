"""Write a trained network for other programs: `python -m ddp_mlp.export CHECKPOINT OUT.onnx|.safetensors|.npz`.

    OUT.onnx           X (batch, n_0) → label (batch,) int64 and probability (batch, n_L), with standardization and
                       softmax in the graph; metadata: classes (JSON), parameters_sha256
    OUT.safetensors    0.weight, 0.bias, 2.weight, …: a state_dict of torch.nn.Sequential(Linear, ReLU, Linear, …)
                       for inputs (X − mean) / scale; mean and scale; metadata: classes (JSON)
    OUT.npz            W1, b1, W2, …, mean, scale, classes

The same network gives the same bytes. `ddp_mlp.train --init_from` takes the latter two as a beginning.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddp_mlp import __version__, command
from ddp_mlp.command import Parser
from ddp_mlp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ddp_mlp.model import Model

OPSET = 17
"""Of ONNX: from 2022, so that runtimes of today and of some years ago take the graph."""
IR_VERSION = 8
"""The file format that came with that opset."""
LARGEST_ONNX = 2**31 - 1
"""Bytes: a protobuf message cannot be larger."""


def export(model: "Model", path: Path) -> None:
    """Write the model to `path` in the format that its suffix names; atomically. Local.

    Raises ConfigError for an unknown suffix or a library that is not installed, DataError for a network too large for
    the format, StorageError where it cannot be written.
    """
    from ddp_mlp.storage import weights
    from ddp_mlp.storage.atomic import write_atomically

    if path.suffix == ".onnx":
        write_atomically(path, onnx_graph(model))
        return
    used = model.standardization.used
    standardization = {"mean": model.standardization.mean, "scale": model.standardization.scale} if used else None
    found = weights.Weights(model.parameters, standardization, model.classes)
    if path.suffix == ".safetensors":
        weights.write_safetensors(path, found)
    elif path.suffix == ".npz":
        weights.write_npz(path, found)
    else:
        raise ConfigError(f"{path}: must end in .onnx, .safetensors or .npz, which is the format to write")


def onnx_graph(model: "Model") -> bytes:
    """Return the model as the bytes of an ONNX file that onnx's checker accepts. Raises ConfigError, DataError."""
    import numpy as np

    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise ConfigError('export to .onnx needs onnx: pip install "ddp_mlp[onnx]"') from error

    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[model.dtype.name]
    constants = {name: np.ascontiguousarray(array) for name, array in model.parameters.items()}
    nodes, A_prev = [], "X"
    if model.standardization.used:
        constants["mean"] = model.standardization.mean.astype(model.dtype)
        constants["scale"] = model.standardization.scale.astype(model.dtype)
        nodes += [helper.make_node("Sub", ["X", "mean"], ["centred"])]
        nodes += [helper.make_node("Div", ["centred", "scale"], ["A0"])]
        A_prev = "A0"
    L = model.layout.L
    for l in range(1, L + 1):
        nodes += [helper.make_node("Gemm", [A_prev, f"W{l}", f"b{l}"], [f"z{l}"], transB=1)]
        if l < L:
            nodes += [helper.make_node("Relu", [f"z{l}"], [f"A{l}"])]
        A_prev = f"A{l}"
    nodes += [helper.make_node("Softmax", [f"z{L}"], ["probability"], axis=-1)]
    nodes += [helper.make_node("ArgMax", ["probability"], ["label"], axis=1, keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "ddp_mlp",
        [helper.make_tensor_value_info("X", kind, ["batch", model.features])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probability", kind, ["batch", len(model.classes)]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    found = helper.make_model(
        graph,
        producer_name="ddp_mlp",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    facts = {"classes": json.dumps(model.classes), "parameters_sha256": model.parameters_sha256}
    helper.set_model_props(found, facts)
    if found.ByteSize() > LARGEST_ONNX:
        raise DataError(f"the network has {found.ByteSize()} bytes, ONNX holds {LARGEST_ONNX}: export to .safetensors")
    checker.check_model(found, full_check=True)
    image: bytes = found.SerializeToString(deterministic=True)
    return image


def _parser() -> Parser:
    text = "Write a trained network as ONNX (standardization and softmax included), safetensors or NPZ."
    parser = Parser("export", text)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint file, or a run's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="OUT.onnx, OUT.safetensors or OUT.npz")
    return parser


def _run(asked: argparse.Namespace) -> None:
    from ddp_mlp.model import load

    model = load(asked.checkpoint)
    export(model, asked.out)
    print(f"{asked.out}: {'-'.join(map(str, model.layout.widths))}, {model.layout.count:,} parameters", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.alone(_parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
