"""Random networks, exported, compiled and compared with predict: every activation, loss and output in turn.

Usage: python scripts/tools/many_exports.py [--networks 1000] [--first 0] [--seed 0] [--compilers gcc,clang,gfortran]

Each network is compiled by one of the compilers, in turn, optimized for this processor. Its outputs for 40 rows, all
together and one by one, must be predict's to 1e-6 · max(1, the largest value of the output).
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp.exporting.formats import write  # noqa: E402 # from this checkout, installed or not
from ddp_mlp.inference.network import Network  # noqa: E402
from ddp_mlp.nn.activations import ACTIVATIONS  # noqa: E402
from ddp_mlp.nn.targets import LOSSES, STANDARDIZED, Targets  # noqa: E402

ALLOWED = 1e-6
ROWS = 40
FLAGS = {
    "gcc": ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"],
    "clang": ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"],
    "gfortran": ["-std=f2008", "-Wall", "-Werror"],
}


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", type=int, default=1000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="the number of the first network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compilers", default="gcc,clang,gfortran")
    arguments = parser.parse_args()
    compilers = arguments.compilers.split(",")
    worst, failed = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.first, arguments.first + arguments.networks):
            random = np.random.default_rng([arguments.seed, number])
            network = random_network(random, number)
            compiler = compilers[number % len(compilers)]
            part = difference(network, compiler, Path(folder) / str(number), random)
            worst = max(worst, part)
            if not part <= ALLOWED:
                failed += 1
                words = network.targets.loss, network.architecture.activation, network.output_activation
                print(f"{number}: {compiler}, {network.layout.widths}, {', '.join(words)}: {part:.2g}", flush=True)
            if (number + 1) % 100 == 0:
                print(f"{number + 1} networks, largest difference {worst:.2g}, {failed} above {ALLOWED}", flush=True)
    return 1 if failed else 0


def random_network(random: np.random.Generator, number: int) -> Network:
    """Return a network with 0 to 3 hidden layers of up to 64, in units of its own."""
    loss = LOSSES[number % len(LOSSES)]
    hidden = random.integers(1, 65, number % 4)
    activation = ",".join(list(ACTIVATIONS)[(number // 7 + l) % len(ACTIVATIONS)] for l in range(len(hidden))) or "relu"
    outputs = int(random.integers(1, 8))
    names = tuple(f"y{k}" for k in range(outputs))
    output_activation = "identity"
    if loss == "cross_entropy":
        targets = Targets(classes=tuple(f"class {k}" for k in range(outputs + 1)))
    elif loss in STANDARDIZED:
        output_activation = ("identity", "softplus", "relu")[number % 3]
        shift = random.normal(size=outputs) if output_activation == "identity" else np.zeros(outputs)
        scale = tuple(random.uniform(0.1, 1, outputs).tolist())
        quantiles = (0.1, 0.9) if loss == "quantile" else ()
        targets = Targets(loss, names=names, mean=tuple(shift.tolist()), scale=scale, quantiles=quantiles)
    else:
        targets = Targets(loss, names=names, mean=(0.0,) * outputs, scale=(1.0,) * outputs)
    widths = [int(random.integers(1, 65)), *hidden.tolist(), targets.outputs]
    parameters = {}
    for l, (n_prev, n) in enumerate(pairwise(widths), start=1):
        parameters[f"W{l}"] = (random.normal(size=(n, n_prev)) / np.sqrt(n_prev)).astype(np.float32)
        parameters[f"b{l}"] = (0.1 * random.normal(size=n)).astype(np.float32)
    n = widths[0]
    standardization = {"mean": 10 * random.normal(size=n), "scale": random.uniform(0.5, 20, n)}
    used = standardization if number % 5 else None
    return Network(parameters, targets.classes, used, targets, activation, output_activation)


def difference(network: Network, compiler: str, folder: Path, random: np.random.Generator) -> float:
    """Return the largest difference of the compiled export to predict, as a part of max(1, the column's largest)."""
    folder.mkdir()
    fortran = compiler == "gfortran"
    source = folder / ("model.f90" if fortran else "model.c")
    write(network, source)
    command = [compiler, *FLAGS[compiler], "-O3", "-march=native", "-shared", "-fPIC", "-o", "model.so", source.name]
    built = subprocess.run([*command, *([] if fortran else ["-lm"])], cwd=folder, check=False, timeout=300)
    if built.returncode != 0:
        return float("inf")
    library = ctypes.CDLL(str(folder / "model.so"))
    start = "__model_MOD_" if fortran else "model_"
    standardization = network.standardization
    X = standardization.mean + standardization.scale * random.normal(size=(ROWS, network.features))
    Y = network.predictions(X)
    found = np.empty((2, *Y.shape))
    rows: Any = ctypes.byref(ctypes.c_int(ROWS)) if fortran else ctypes.c_size_t(ROWS)
    library[f"{start}predict_many"](rows, pointer(X), pointer(found[0]))
    for x, y in zip(X, found[1], strict=True):
        library[f"{start}predict_one"](pointer(x), pointer(y))
    size = np.maximum(1, np.abs(Y).max(axis=0))
    return float(np.max(np.abs(found - Y) / size)) if np.isfinite(found).all() else float("inf")


def pointer(array: NDArray[np.float64]) -> ctypes.c_void_p:
    """Return the address of an array's numbers, which lie side by side."""
    return array.ctypes.data_as(ctypes.c_void_p)


if __name__ == "__main__":
    sys.exit(main())
