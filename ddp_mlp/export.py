"""Write a trained network for other programs: `python -m ddp_mlp.export CHECKPOINT OUT [OUT …]`.

    OUT.c              one file of C99 without dependencies, and OUT.h
    OUT.f90            one file of Fortran 2008 without dependencies, and OUT_selftest.f90, a program that tests it
    OUT.onnx           X (batch, n_0) → label (batch,) int64 and probability (batch, n_L), with standardization and
                       softmax in the graph; metadata: names (JSON), parameters_sha256
    OUT.safetensors    0.weight, 0.bias, 2.weight, …: a state_dict of torch.nn.Sequential(Linear, ReLU, Linear, …)
                       for inputs (X − mean) / scale; mean and scale; metadata: classes (JSON)
    OUT.npz            W1, b1, W2, …, mean, scale, classes

The members of a search (`--members`) become one ONNX graph of their mean and standard deviation.

The same network gives the same bytes. `ddp_mlp.train --init_from` takes the latter two as a beginning. Beside C and
Fortran stands OUT.bin where the weights are too many for a source.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.units import counted

if TYPE_CHECKING:
    from ddp_mlp.model import Model


def export(model: "Model", path: Path) -> list[Path]:
    """Write the model to `path` in the format that its suffix names; atomically. Return the files written. Local.

    Raises ConfigError for an unknown suffix or a library that is not installed, DataError for a network too large for
    the format, StorageError where a file cannot be written.
    """
    from ddp_mlp.exporting.formats import write

    return write(model.network, path)


def _parser() -> Parser:
    text = "Write a trained network as C, Fortran or ONNX (standardization and outputs included), safetensors or NPZ."
    parser = Parser("export", text)
    what = "a checkpoint file, or the folder of a run or a search"
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=what)
    outs = "OUT.c, OUT.f90, OUT.onnx, OUT.safetensors or OUT.npz: one, or several"
    parser.add_argument("out", type=Path, metavar="OUT", nargs="+", help=outs)
    return parser


def _run(asked: argparse.Namespace) -> None:
    from ddp_mlp.exporting.formats import write_together
    from ddp_mlp.model import load, load_ensemble
    from ddp_mlp.trials.files import trained_members

    if len(trained_members(asked.checkpoint)) > 1:
        networks = load_ensemble(asked.checkpoint).ensemble.networks
        for out in asked.out:
            (written,) = write_together(networks, out)
            print(f"{written}: {counted(len(networks), 'member')}, their mean and deviation", file=sys.stderr)
        return
    model = load(asked.checkpoint)
    what = f"{'-'.join(map(str, model.layout.widths))}, {model.layout.count:,} parameters"
    for out in asked.out:
        written, *beside = export(model, out)
        print(f"{written}: {what}", file=sys.stderr)
        for path in beside:
            read = ": weights, read once by load and checked" if path.suffix == ".bin" else ""
            print(f"{path}: beside it{read}", file=sys.stderr)


def _check(asked: argparse.Namespace) -> None:
    from ddp_mlp.errors import ConfigError
    from ddp_mlp.exporting.formats import files_of

    sources: dict[Path, Path] = {}
    for out in asked.out:
        for path in files_of(out):
            command.keep_what_is_read({"OUT": path}, asked.checkpoint)
            first = sources.setdefault(path, out)
            if first != out and path.suffix != ".bin":  # which has the same weights for both
                raise ConfigError(f"OUT {out}: writes {path}, as {first} does: give one of them another name")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.alone(_parser(), _run, argv, _check)


if __name__ == "__main__":
    sys.exit(main())
