"""What happens before and after the steps, beside peers: start, data check, tables, predictions.

    python scripts/benchmarks/around.py predict      rows/s beside onnxruntime, scikit-learn and PyTorch, on one thread
    python scripts/benchmarks/around.py data         seconds of the check of a file beside plain reading and SHA-256
    python scripts/benchmarks/around.py resume       seconds to a resume's first step on a large file and on a small one
    python scripts/benchmarks/around.py table        seconds of `convert` of a CSV file beside pyarrow and pandas
    python scripts/benchmarks/around.py start        seconds from the command to the first step, alone and on 4 ranks
    python scripts/benchmarks/around.py proof        the same of 784-2048-2048-10: with nothing to prove, and proof kept
    python scripts/benchmarks/around.py partial_fit  seconds of a call beside scikit-learn

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import h5py  # noqa: E402
import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# what follows is imported from this checkout, and after the number of threads is settled
from ddp_mlp import MLPClassifier  # noqa: E402
from ddp_mlp.config import Config  # noqa: E402
from ddp_mlp.data.opening import open_data  # noqa: E402
from ddp_mlp.exporting import formats  # noqa: E402
from ddp_mlp.parallel.mpi import connect  # noqa: E402
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


def write(path: Path, rows: int) -> Path:
    """Write a data set of 784 features in float32 and 10 classes, to the disk: nothing is left to be written later."""
    piece = 4_096
    with DatasetWriter(path, {"train": rows}, 784, np.dtype(np.float32), 10) as writer:
        random = np.random.default_rng(0)
        for lo in range(0, rows, piece):
            count = min(piece, rows - lo)
            writer.append("train", random.standard_normal((count, 784), np.float32), random.integers(0, 10, count))
    os.sync()
    return path


def data(turns: int, folder: Path, rows: int) -> None:
    """Compare the check of a file, by one rank and by two, with plain reading, and with that and SHA-256.

    The check alone is that of a run that streams; one that holds its data in memory reads them once more.
    """
    path, piece = write(folder / "data.h5", rows), 4_096

    def read(hashed: bool) -> None:
        digest = hashlib.sha256()
        with h5py.File(path) as file:
            X, room = file["train/X"], np.empty((piece, 784), np.float32)
            for lo in range(0, rows, piece):
                some = room[: min(piece, rows - lo)]
                X.read_direct(some, np.s_[lo : lo + len(some)])
                if hashed:
                    digest.update(some.data)

    with two_ranks(path) as by_two:
        tasks: dict[str, Task] = {
            OURS: lambda: open_data(Config(data=str(path), access="stream", shuffle="blocks"), SingleProcess()),
            "the same, 2 ranks": by_two,
            "check and load": lambda: open_data(Config(data=str(path)), SingleProcess()),
            "h5py": lambda: read(False),
            "h5py and SHA-256": lambda: read(True),
        }
        seconds = take_turns(tasks, turns)
    tell(f"check of {path.stat().st_size / 1e9:.2f} GB", seconds, rows * 784 * 4, "bytes/s")
    for name in (OURS, "the same, 2 ranks"):
        pairs = zip(seconds[name], seconds["h5py and SHA-256"], strict=True)
        low, middle, high = np.quantile([own / plain for own, plain in pairs], [0.25, 0.5, 0.75])
        print(f"{name}: {middle:.2f} ({low:.2f} to {high:.2f}) times h5py and SHA-256", flush=True)


@contextmanager
def two_ranks(path: Path) -> Iterator[Task]:
    """Start two ranks that check and load a file whenever asked, and sleep meanwhile; let them go at the end."""
    command = [
        str(Path(sys.executable).with_name("mpirun")),
        "-n",
        "2",
        sys.executable,
        __file__,
        "--ranked",
        str(path),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        send, receive = process.stdin, process.stdout

        def ask() -> None:
            print("again", file=send, flush=True)
            if receive.readline() != "done\n":
                raise SystemExit("two ranks cannot load the data")

        try:
            yield ask
        finally:
            send.close()


def ranked(path: str) -> None:
    """Check a file whenever rank 0 reads a line, until there is none. Collective."""
    with connect() as communicator:
        while True:
            if communicator.rank == 0:
                more = bool(sys.stdin.readline())
                for rank in range(1, communicator.size):
                    communicator.post(more, rank)
            else:  # asleep: a rank that waits in MPI takes a core from the others' turns
                while (letter := communicator.collect()) is None:
                    time.sleep(0.0005)
                more = letter[1]
            if not more:
                return
            open_data(Config(data=path, access="stream", shuffle="blocks"), communicator)
            communicator.barrier()
            if communicator.rank == 0:
                print("done", flush=True)


def resume(turns: int, folder: Path, rows: int) -> None:
    """Tell how long a resume takes from the command to its first step, on a large file and on one of 2,048 rows.

    Beside a program that only reads the large file into memory: on a virtual machine, memory that is touched for the
    first time may take longer than all else.
    """
    sizes = {"small file": 2_048, "large file": rows}
    runs = {name: (write(folder / f"{count}.h5", count), folder / f"run-{count}") for name, count in sizes.items()}
    steps = dict.fromkeys(runs, 0)

    def go_on(name: str) -> float:
        path, run_dir = runs[name]
        steps[name] += 2
        command = [sys.executable, "-m", "ddp_mlp.train", "--data", str(path), "--run_dir", str(run_dir), "--quiet"]
        command += ["--epochs", "1000", "--max_steps", str(steps[name]), "--log_every", "1"]
        return seconds_to_first_step(command, dict(os.environ), run_dir / "metrics.jsonl", steps[name] - 1)

    def read(name: str) -> float:
        began = time.perf_counter()
        run([sys.executable, "-c", f"import h5py; h5py.File({str(runs[name][0])!r})['train/X'][()]"])
        return time.perf_counter() - began

    for name in runs:
        go_on(name)  # from the start
        go_on(name)
    found: dict[str, list[float]] = {name: [] for name in runs}
    more: dict[str, list[float]] = {"a resume": [], "a program that reads it": []}
    for turn in range(turns):
        both = list(runs) if turn % 2 == 0 else list(reversed(runs))
        resumed, read_in = ({name: work(name) for name in both} for work in (go_on, read))
        for name in runs:
            found[name].append(resumed[name])
        for title, taken_in in zip(more, (resumed, read_in), strict=True):
            more[title].append(taken_in["large file"] - taken_in["small file"])
    print("\nfrom the command of a resume to the end of its first step, seconds (quartiles)")
    longer = ((f"the large file: {title}", taken) for title, taken in more.items())
    for title, taken in (*found.items(), *longer):
        low, middle, high = np.quantile(taken, [0.25, 0.5, 0.75])
        print(f"{title:40}{middle:12.2f}    ({low:.2f} to {high:.2f})", flush=True)


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


def start(turns: int, folder: Path, rows: int, ranks: Sequence[int] = (1, 4)) -> None:
    """Tell how long it takes from the command to the first step, with a proof kept and without, by number of ranks.

    Of the digits that come with the program, whatever `rows` says.
    """
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


def proof(turns: int, folder: Path, rows: int) -> None:
    """Tell what a start of 784-2048-2048-10 takes: with one shard, where nothing is proven, and proof kept of eight."""
    path = write(folder / "proof.h5", rows)
    environment = {**os.environ, "DDP_MLP_CACHE": str(folder / "proofs")}
    numbers = itertools.count()

    def begin(shards: int) -> float:
        run_dir = folder / f"proof-{next(numbers)}"
        command = [sys.executable, "-m", "ddp_mlp.train", "--data", str(path), "--run_dir", str(run_dir), "--quiet"]
        command += ["--hidden", "2048,2048", "--batch_size", "512", "--max_steps", "2", "--log_every", "1"]
        command += ["--shards", str(shards)]
        return seconds_to_first_step(command, environment, run_dir / "metrics.jsonl")

    first = begin(8)
    begin(1)
    print(f"\nfrom the command to the first step of 784-2048-2048-10, seconds (quartiles); the proof made: {first:.2f}")
    found: dict[int, list[float]] = {1: [], 8: []}
    for turn in range(turns):
        for shards in found if turn % 2 == 0 else reversed(found):
            found[shards].append(begin(shards))
    more = [kept - none for none, kept in zip(found[1], found[8], strict=True)]
    for title, taken in (
        ("K = 1, nothing to prove", found[1]),
        ("K = 8, proof kept", found[8]),
        ("the difference", more),
    ):
        low, middle, high = np.quantile(taken, [0.25, 0.5, 0.75])
        print(f"{title:30}{middle:12.2f}    ({low:.2f} to {high:.2f})", flush=True)


def partial_fit(turns: int, folder: Path, rows: int) -> None:
    """Compare calls of partial_fit with scikit-learn's: 64-100-10, batches of 32 rows."""
    from sklearn.neural_network import MLPClassifier as Peer

    random = np.random.default_rng(0)
    X, y = random.standard_normal((rows, 32, 64)), random.integers(0, 10, (rows, 32))
    classes = np.arange(10)

    def calls(model: Any) -> Task:
        def call() -> None:
            for X_i, y_i in zip(X, y, strict=True):
                model.partial_fit(X_i, y_i, classes=classes)

        return call

    tasks = {OURS: calls(MLPClassifier((100,), batch_size=32)), "scikit-learn": calls(Peer((100,), batch_size=32))}
    tell(f"partial_fit, {rows} calls with 32 rows", take_turns(tasks, turns), rows, "calls/s")


def seconds_to_first_step(command: Sequence[str], environment: dict[str, str], journal: Path, step: int = 1) -> float:
    """Run a command, and return how long it took until the journal had this step."""
    quiet, event = subprocess.DEVNULL, f'"event": "step", "step": {step},'
    began, found = time.perf_counter(), None
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        while found is None and process.poll() is None and time.perf_counter() - began < 120:
            if journal.exists() and event in journal.read_text():
                found = time.perf_counter() - began
            time.sleep(0.005)
        process.wait(timeout=120)
    finally:
        process.kill()
    if found is None or process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}, or too fast to be seen")
    return found


WORK: dict[str, tuple[Callable[[int, Path, int], None], int]] = {
    "predict": (predict, ROWS),
    "data": (data, 650_000),
    "resume": (resume, 650_000),
    "table": (table, 200_000),
    "start": (start, 0),
    "proof": (proof, 2_048),
    "partial_fit": (partial_fit, 50),
}
"""What is measured by name, and with how many rows (of `partial_fit`, calls); 650,000 are 2 GB."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    if sys.argv[1:2] == ["--ranked"]:  # by `two_ranks`
        ranked(sys.argv[2])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", choices=list(WORK), help="(default all)")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rows", type=int, help="of the data set, the table, predictions; calls of partial_fit")
    asked = parser.parse_args(argv)
    variables = {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}
    if variables:
        print(f"set: {json.dumps(variables)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what in asked.what or list(WORK):
            work, rows = WORK[what]
            work(asked.turns, folder, asked.rows or rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
