"""Speed of an exported network beside onnxruntime and this program's own predict: one core, in turn, in one process.

Usage: python scripts/benchmarks/exported.py [--rounds 15] [--cc gcc] [NETWORK …], such as 64-128-64-10.

A time is the least of all rounds, in seconds of the processor, so that other programs on the machine count less. `C` is
called from a loop in C; `C from Python` and both others from Python. onnxruntime takes the same rows as float32, into
and out of memory that is bound once.
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp.exporting.description import describe_network  # noqa: E402 # from this checkout, installed or not
from ddp_mlp.exporting.formats import write  # noqa: E402
from ddp_mlp.exporting.onnx_graph import onnx_graph  # noqa: E402
from ddp_mlp.inference.network import Network  # noqa: E402
from ddp_mlp.nn.parameters import Layout  # noqa: E402

NETWORKS = ["64-128-64-10", "784-512-512-10"]
BATCHES = (1, 64, 4096)
SECONDS = 0.05
"""A round of one program takes about this long."""

LOOP = """
#include "model.h"
void repeat(size_t times, size_t rows, const double *x, double *y)
{
    for (; times > 0; times--) {
        if (rows == 1) {
            model_predict_one(x, y);
        } else {
            model_predict_many(rows, x, y);
        }
    }
}
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument("--cc", default="gcc", help="the C compiler")
    arguments = parser.parse_args()
    print(f"{'µs a call':>24} {'C':>10} {'C from Python':>14} {'onnxruntime':>12} {'predict':>10} {'ort / C':>8}")
    for name in arguments.networks:
        widths = tuple(map(int, name.split("-")))
        with tempfile.TemporaryDirectory() as folder:
            programs = Programs(network(widths), Path(folder), arguments.cc)
            for rows in BATCHES:
                best = least(programs.calls(rows), arguments.rounds)
                c, called, onnxruntime, predict = (1e6 * seconds for seconds in best)
                ratio = onnxruntime / min(c, called)
                print(
                    f"{name:>16} @ {rows:5} {c:10.2f} {called:14.2f} {onnxruntime:12.2f} {predict:10.2f} {ratio:8.2f}"
                )


def network(widths: tuple[int, ...]) -> Network:
    """Return a classifier with random weights and standardized inputs."""
    layout, random = Layout(widths), np.random.default_rng(0)
    flat = np.zeros(layout.length, np.float32)
    layout.initialize(flat, seed=1)
    standardization = {"mean": random.normal(size=widths[0]), "scale": random.uniform(0.5, 2, widths[0])}
    return Network(layout.arrays(flat), tuple(map(str, range(widths[-1]))), standardization)


class Programs:
    """One network in C, onnxruntime and this program, each on one thread."""

    def __init__(self, network: Network, folder: Path, cc: str) -> None:
        """Export, compile and load."""
        import onnxruntime

        self._network = network
        write(network, folder / "model.c")
        (folder / "loop.c").write_text(LOOP)
        command = [cc, "-O3", "-march=native", "-shared", "-fPIC", "-o", "model.so", "model.c", "loop.c", "-lm"]
        subprocess.run(command, cwd=folder, check=True, timeout=300)
        self._library = ctypes.CDLL(str(folder / "model.so"))
        weights = folder / "model.bin"
        if weights.exists() and self._library.model_load(str(weights).encode()) != 0:
            raise SystemExit(f"{weights}: cannot be used")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(onnx_graph(describe_network(network)), options)

    def calls(self, rows: int) -> list[tuple[Callable[[int], Any], int]]:
        """Return, for each program, a function that calls it a number of times, and a first guess of that number."""
        X = np.random.default_rng(1).normal(size=(rows, self._network.features))
        narrow = X.astype(np.float32)
        Y = np.empty((rows, self._network.layout.widths[-1]))
        x, y = X.ctypes.data_as(ctypes.c_void_p), Y.ctypes.data_as(ctypes.c_void_p)
        one, many, size = self._library.model_predict_one, self._library.model_predict_many, ctypes.c_size_t(rows)
        binding = self._session.io_binding()
        binding.bind_cpu_input("X", narrow)
        binding.bind_output("probability")

        def in_c(times: int) -> None:
            self._library.repeat(ctypes.c_size_t(times), size, x, y)

        def called(times: int) -> None:
            for _ in range(times):
                one(x, y) if rows == 1 else many(size, x, y)

        def onnxruntime(times: int) -> None:
            for _ in range(times):
                self._session.run_with_iobinding(binding)

        def predict(times: int) -> None:
            for _ in range(times):
                self._network.outputs(X)

        return [(call, 1) for call in (in_c, called, onnxruntime, predict)]


def least(calls: list[tuple[Callable[[int], Any], int]], rounds: int) -> list[float]:
    """Return the least seconds of one call of each program, over rounds in which each has its turn."""
    times = [times for _, times in calls]
    best = [float("inf")] * len(calls)
    for _ in range(rounds + 1):
        for k, (call, _) in enumerate(calls):
            start = time.thread_time()
            call(times[k])
            seconds = (time.thread_time() - start) / times[k]
            best[k] = min(best[k], seconds)
            times[k] = max(1, round(SECONDS / best[k]))
    return best


if __name__ == "__main__":
    main()
