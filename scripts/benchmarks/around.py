"""What happens before and after the steps, beside peers: start, data check, tables, predictions.

    python scripts/benchmarks/around.py predict      rows/s beside onnxruntime, scikit-learn and PyTorch, on one thread
    python scripts/benchmarks/around.py data         seconds of the check of a file beside plain reading and SHA-256
    python scripts/benchmarks/around.py table        seconds of `convert` of a CSV file beside pyarrow and pandas
    python scripts/benchmarks/around.py start        seconds from the command to the first step, alone and on 4 ranks

Contenders take turns, in an order that is turned around each time, so that a drift of the machine's speed meets all of
them; ratios are formed within a turn, and told as their median and quartiles. Peers that are not there are left out.
`saving.py` has the cost of checkpoints, `searching.py` that of trials, `whole.py` that of the ends of epochs.
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import h5py  # noqa: E402
import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp import MLPClassifier  # noqa: E402
from ddp_mlp.config import Config  # noqa: E402
from ddp_mlp.data.opening import open_data  # noqa: E402
from ddp_mlp.exporting import formats  # noqa: E402
from ddp_mlp.parallel.single import SingleProcess  # noqa: E402
from ddp_mlp.storage.writer import DatasetWriter  # noqa: E402

OURS = "this program"
ROWS = 4_096
NETWORKS = {"784-512-512-10": (784, (512, 512), 10), "64-128-64-10": (64, (128, 64), 10)}
"""Features, hidden widths and classes by name."""
Task = Callable[[], object]


def take_turns(tasks: dict[str, Task], turns: int) -> dict[str, list[float]]:
    """Return the seconds of every task, one figure a turn, after one that does not count."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(turns):
        for name in tasks if turn % 2 == 0 else reversed(tasks):
            began = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def tell(title: str, seconds: dict[str, list[float]], amount: float, unit: str) -> None:
    """Print medians, the amount per second, and the others' time over that of this program."""
    print(f"\n{title}\n{'':30}{'ms':>12}{unit:>14}    time / {OURS}'s (quartiles)")
    for name, taken in seconds.items():
        ratios = [other / own for other, own in zip(taken, seconds[OURS], strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        median = statistics.median(taken)
        print(f"{name:30}{1e3 * median:12.2f}{amount / median:14,.0f}    {middle:6.2f}  ({low:.2f} to {high:.2f})")
    sys.stdout.flush()


def installed(module: str) -> bool:
    """Return whether a peer is there."""
    return importlib.util.find_spec(module) is not None


# ---- predictions -----------------------------------------------------------------------------------------------------


def predictors(features: int, hidden: Sequence[int], classes: int, X: Any, folder: Path) -> dict[str, Task]:
    """Return what gives probabilities of the rows X, by name: one network's, whose answers must be equal."""
    y = np.arange(len(X)) % classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not to converge
        ours = MLPClassifier(hidden, max_iter=1, batch_size=256, random_state=0).fit(X, y)
    tasks: dict[str, Callable[[], Any]] = {OURS: lambda: ours.model_.predict_proba(X)}
    weights = [
        (np.array(W, np.float64), np.array(b, np.float64)) for W, b in zip(ours.coefs_, ours.intercepts_, strict=True)
    ]
    inputs = ours.model_.standardization  # which peers have in their first layer
    first = weights[0][0] / inputs.scale[:, None]
    weights[0] = first, weights[0][1] - inputs.mean @ first
    if installed("onnxruntime") and installed("onnx"):
        import onnxruntime

        formats.write(ours.model_.network, folder / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
        entry = session.get_inputs()[0].name
        names = [output.name for output in session.get_outputs() if "float" in output.type]
        tasks["onnxruntime"] = lambda: session.run(names[-1:], {entry: X})[0]
    if installed("sklearn"):
        from sklearn.neural_network import MLPClassifier as Peer

        peer = Peer(hidden, batch_size=classes)
        peer.partial_fit(X[:classes], y[:classes], classes=np.arange(classes))
        peer.coefs_ = [W.astype(np.float32) for W, _ in weights]
        peer.intercepts_ = [b.astype(np.float32) for _, b in weights]
        tasks["scikit-learn"] = lambda: peer.predict_proba(X)
    if installed("torch"):
        import torch

        torch.set_num_threads(1)
        layers: list[Any] = []
        for W, b in weights:
            layers += [torch.nn.Linear(*W.shape), torch.nn.ReLU()]
            with torch.no_grad():
                layers[-2].weight.copy_(torch.from_numpy(np.ascontiguousarray(W.T)))
                layers[-2].bias.copy_(torch.from_numpy(b))
        network = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1))

        def by_torch() -> Any:
            with torch.inference_mode():
                return network(torch.from_numpy(X)).numpy()

        tasks["PyTorch"] = by_torch
    expected = tasks[OURS]()
    for name, task in tasks.items():
        if not np.allclose(task(), expected, atol=1e-4):
            raise SystemExit(f"{name} does not give the same probabilities")
    return tasks


def predict(turns: int, folder: Path, rows: int) -> None:
    """Compare predictions of both networks."""
    for name, (features, hidden, classes) in NETWORKS.items():
        X = np.random.default_rng(0).standard_normal((rows, features), np.float32)
        tasks = predictors(features, hidden, classes, X, folder)
        tell(f"{name}, {rows:,} rows, one thread", take_turns(tasks, turns), rows, "rows/s")


# ---- data ------------------------------------------------------------------------------------------------------------


def data(turns: int, folder: Path, rows: int) -> None:
    """Compare the check and load of a file of 784 features in float32 with plain reading, and with that and SHA-256."""
    path, piece = folder / "data.h5", 4_096
    with DatasetWriter(path, {"train": rows}, 784, np.dtype(np.float32), 10) as writer:
        random = np.random.default_rng(0)
        for lo in range(0, rows, piece):
            count = min(piece, rows - lo)
            writer.append("train", random.standard_normal((count, 784), np.float32), random.integers(0, 10, count))

    def read(hashed: bool) -> None:
        digest = hashlib.sha256()
        with h5py.File(path) as file:
            X, room = file["train/X"], np.empty((piece, 784), np.float32)
            for lo in range(0, rows, piece):
                some = room[: min(piece, rows - lo)]
                X.read_direct(some, np.s_[lo : lo + len(some)])
                if hashed:
                    digest.update(some.data)

    tasks: dict[str, Task] = {
        OURS: lambda: open_data(Config(data=str(path)), SingleProcess()),
        "h5py": lambda: read(False),
        "h5py and SHA-256": lambda: read(True),
    }
    tell(f"check and load of {path.stat().st_size / 1e9:.2f} GB", take_turns(tasks, turns), rows * 784 * 4, "bytes/s")


def table(turns: int, folder: Path, rows: int) -> None:
    """Compare `convert` of a CSV file of 20 columns with what peers take to read it, each a program of its own."""
    path = folder / "table.csv"
    X = np.random.default_rng(0).standard_normal((rows, 20))
    with path.open("w") as file:
        file.write(",".join([*(f"x{i}" for i in range(20)), "label"]) + "\n")
        file.writelines(",".join(f"{v:.6g}" for v in row) + f",{i % 3}\n" for i, row in enumerate(X.tolist()))
    convert = ["-m", "ddp_mlp.convert", str(path), str(folder / "table.h5"), "--label", "label"]
    peers = {"pyarrow": "from pyarrow.csv import read_csv", "pandas": "from pandas import read_csv"}
    commands = {OURS: convert} | {
        name: ["-c", f"{read}; read_csv({str(path)!r})"] for name, read in peers.items() if installed(name)
    }
    tasks: dict[str, Task] = {
        name: lambda arguments=arguments: run([sys.executable, *arguments])  # type: ignore[misc]
        for name, arguments in commands.items()
    }
    tell(f"CSV of {path.stat().st_size / 1e6:.0f} MB, whole commands", take_turns(tasks, turns), rows, "rows/s")


def run(command: Sequence[str]) -> None:
    """Run a command in this checkout to its end."""
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)


# ---- the start -------------------------------------------------------------------------------------------------------


def start(turns: int, folder: Path, ranks: Sequence[int]) -> None:
    """Tell how long it takes from the command to the first step, with a proof kept and without, by number of ranks."""
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    numbers = itertools.count()
    print(f"\nfrom the command to the end of the first step\n{'':30}{'s':>12}    (quartiles)")
    for size, kept in itertools.product(ranks, (True, False)):
        environment = {**os.environ, "DDP_MLP_CACHE": str(folder / "cache") if kept else ""}
        taken = []
        for _ in range(turns + 1):
            run_dir = folder / f"run-{next(numbers)}"
            command = [*([mpirun, "-n", str(size)] if size > 1 else []), sys.executable, "-m", "ddp_mlp.train"]
            command += ["--run_dir", str(run_dir), "--epochs", "1", "--log_every", "1", "--quiet"]
            taken.append(seconds_to_first_step(command, environment, run_dir / "metrics.jsonl"))
        low, middle, high = np.quantile(taken[1:], [0.25, 0.5, 0.75])
        name = f"{size} rank{'s' * (size > 1)}, {'proof kept' if kept else 'proof made'}"
        print(f"{name:30}{middle:12.2f}    ({low:.2f} to {high:.2f})", flush=True)


def seconds_to_first_step(command: Sequence[str], environment: dict[str, str], journal: Path) -> float:
    """Run a command, and return how long it took until the journal had a step."""
    quiet = subprocess.DEVNULL
    began, found = time.perf_counter(), None
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        while found is None and process.poll() is None and time.perf_counter() - began < 120:
            if journal.exists() and '"event": "step"' in journal.read_text():
                found = time.perf_counter() - began
            time.sleep(0.005)
        process.wait(timeout=120)
    finally:
        process.kill()
    if found is None or process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}, or too fast to be seen")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", choices=["predict", "data", "table", "start"], help="(default all)")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--rows", type=int, help="of the data set (650,000: 2 GB), the table (200,000), predict (4,096)"
    )
    asked = parser.parse_args(argv)
    variables = {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}
    if variables:
        print(f"set: {json.dumps(variables)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what in asked.what or ["predict", "data", "table", "start"]:
            if what == "predict":
                predict(asked.turns, folder, asked.rows or ROWS)
            elif what == "data":
                data(asked.turns, folder, asked.rows or 650_000)
            elif what == "table":
                table(asked.turns, folder, asked.rows or 200_000)
            else:
                start(asked.turns, folder, (1, 4))
    return 0


if __name__ == "__main__":
    sys.exit(main())
