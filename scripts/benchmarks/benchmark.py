"""Compare this program's training step with its peers, side by side in one run, and with the matrix products alone.

Every contender trains the same network from the same weights on the same data in memory: SGD with momentum 0.9,
float32, rows gathered from a shuffled epoch. First all must show the same losses for a few steps. Then they take turns,
repeat by repeat, so that a drift of the machine's speed meets all of them; figures are medians of seconds per step, and
ratios are formed within a repeat. All processes stay alive between their turns, asleep.

Peers that are not installed are left out (extra `bench`). Needs an mpirun beside this Python.
"""

import argparse
import importlib.util
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BATCHES = 8
LEARNING_RATE, MOMENTUM = 0.01, 0.9
CHECKED_STEPS = 5
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
KEPT = ExitStack()
"""What a worker has entered until its end."""


@dataclass(frozen=True)
class Shape:
    """A network and the batch it is trained with, over all ranks."""

    widths: tuple[int, ...]
    batch: int
    activation: str = "relu"
    """Of the hidden layers: relu, tanh or gelu (exact, by erf)."""

    @property
    def name(self) -> str:
        """Return for example 784-512-512-10@512."""
        return "-".join(map(str, self.widths)) + f"@{self.batch}"


SHAPES = [
    Shape((784, 512, 512, 10), 512),
    Shape((784, 512, 512, 10), 128),
    Shape((784, 2048, 2048, 10), 512),
    Shape((64, 128, 64, 10), 256),
    Shape((784, 100, 10), 200),
    Shape((784, 512, 512, 10), 2048),
]

CONTENDERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "products 1 core": ("products", 1, {}),
    "exact P=1 K=1": ("ours", 1, {"K": 1}),
    "exact P=1 K=8": ("ours", 1, {"K": 8}),
    "allreduce P=1": ("ours", 1, {"K": 0}),
    "exact P=2 K=2": ("ours", 2, {"K": 2}),
    "exact P=2 K=2 MKL": ("ours", 2, {"K": 2, "library": "mkl"}),
    "exact P=2 K=8": ("ours", 2, {"K": 8}),
    "allreduce P=2": ("ours", 2, {"K": 0}),
    "portable P=1": ("ours", 1, {"K": 1, "portable": True}),
    "portable P=2": ("ours", 2, {"K": 2, "portable": True}),
    "evaluation P=1": ("evaluation", 1, {}),
    "evaluation, portable": ("evaluation", 1, {"portable": True}),
    "2 × half batch": ("halves", 2, {}),
    "PyTorch 2 threads": ("torch", 1, {}),
    "PyTorch DDP gloo P=2": ("ddp", 2, {}),
    "JAX all cores": ("jax", 1, {}),
    "scikit-learn": ("sklearn", 1, {}),
}


# ---- the contenders: each makes step(i), which trains on batch i and returns its loss --------------------------------


def data(shape: Shape) -> tuple[Any, Any, Any]:
    """Return X (8 batches, n_0) float32, y, and the shuffled order of an epoch."""
    import numpy as np

    random = np.random.default_rng(0)
    m = BATCHES * shape.batch
    X = random.standard_normal((m, shape.widths[0]), np.float32)
    return X, random.integers(0, shape.widths[-1], m), random.permutation(m)


def weights(shape: Shape) -> dict[str, Any]:
    """Return the weights that all contenders start from."""
    import numpy as np

    from ddp_mlp.nn.parameters import Layout

    layout = Layout(shape.widths)
    flat = np.zeros(layout.length, np.float32)
    layout.initialize(flat, 0)
    return {name: np.ascontiguousarray(array) for name, array in layout.arrays(flat).items()}


Step = Callable[[int], float]
"""Train on batch i and return the mean loss over the batch."""


def products(shape: Shape) -> Step:
    """Only the matrix products of a step, in their best shapes and into their own memory."""
    import numpy as np

    random = np.random.default_rng(0)
    widths = shape.widths
    A = [random.standard_normal((shape.batch, n), np.float32) for n in widths]
    dz = [a.copy() for a in A]
    W = [random.standard_normal((a, b), np.float32) for a, b in itertools.pairwise(widths)]
    dW = [w.copy() for w in W]

    def step(i: int) -> float:
        for l in range(len(W)):
            np.matmul(A[l], W[l], out=dz[l + 1])
        for l in reversed(range(len(W))):
            np.matmul(A[l].T, dz[l + 1], out=dW[l])
            if l:
                np.matmul(dz[l + 1], W[l].T, out=dz[l])
        return float("nan")

    return step


def ours(shape: Shape, K: int, communicator: Any = None, portable: bool = False, library: str = "numpy") -> Step:
    """Make the training step of this program; K = 0 is reduction = allreduce. Portable, K counts for nothing.

    `library` computes the products, as `blas` names it.
    """
    import numpy as np

    from ddp_mlp.data.batches import Batch
    from ddp_mlp.data.memory import MemorySource
    from ddp_mlp.nn import blas, optimizers
    from ddp_mlp.nn.activations import ACTIVATIONS
    from ddp_mlp.nn.architecture import Architecture
    from ddp_mlp.nn.parameters import Layout
    from ddp_mlp.nn.standardization import Standardization
    from ddp_mlp.parallel.mpi import connect
    from ddp_mlp.summing.between import ExactSum, PlainSum
    from ddp_mlp.training.loop import take_step
    from ddp_mlp.training.portable_step import PortableStep, portable_sum
    from ddp_mlp.training.step import TrainingStep
    from ddp_mlp.training.update import Regularization

    communicator = communicator or connect()
    if library != blas.NUMPYS:
        KEPT.enter_context(blas.used(library))
    layout, dtype = Layout(shape.widths), np.dtype(np.float32)
    X, y, order = data(shape)
    identity = Standardization(np.zeros(shape.widths[0]), np.ones(shape.widths[0]), used=False)
    source = MemorySource(X, y, None, np.dtype(np.float64) if portable else dtype, identity)
    if portable:
        source = rounded(source, shape, communicator)
    network = Architecture(layout, (ACTIVATIONS[shape.activation],) * (layout.L - 1))
    momentum = optimizers.create("momentum", momentum=MOMENTUM)
    training_step: Any
    reduction: Any
    if portable:
        reduction = portable_sum(communicator, layout.length)
        parts = communicator, network, reduction, source, momentum, Regularization()
        training_step = PortableStep(*parts, seed=0, chunk_rows=4096)
    else:
        reduction = PlainSum(communicator, layout.length, dtype)
        if K:
            reduction = ExactSum(communicator, layout.length, dtype, K)
        parts = communicator, network, reduction, source, momentum, Regularization()
        training_step = TrainingStep(*parts, dtype=dtype, seed=0, chunk_rows=4096)
    first = np.zeros(layout.length, dtype)
    layout.initialize(first, 0)
    reduction.parameters[reduction.slice] = first[reduction.slice]
    reduction.publish()

    def step(i: int) -> float:
        rows = order[i % BATCHES * shape.batch : (i % BATCHES + 1) * shape.batch]
        return take_step(training_step, Batch(0, i + 1, rows), LEARNING_RATE).totals.loss_mean

    return step


def rounded(source: Any, shape: Shape, communicator: Any) -> Any:
    """Return the rows as a portable run has them in memory."""
    from ddp_mlp.data.rounded import rounded_rows
    from ddp_mlp.nn.products import layer_bits

    return source.rounded(rounded_rows(source, layer_bits(*shape.widths[:2]).A, communicator))


def evaluation(shape: Shape, portable: bool = False) -> Step:
    """Evaluate this program's network on all batches, with figures of classes: the way of `predict`, but for files."""
    import numpy as np

    from ddp_mlp.data.memory import MemorySource
    from ddp_mlp.inference.evaluate import ForwardPass, evaluate
    from ddp_mlp.inference.metrics import metrics_of
    from ddp_mlp.nn import arithmetic
    from ddp_mlp.nn.activations import ACTIVATIONS
    from ddp_mlp.nn.architecture import Architecture
    from ddp_mlp.nn.parameters import Layout
    from ddp_mlp.nn.standardization import Standardization
    from ddp_mlp.nn.targets import Targets
    from ddp_mlp.parallel.single import SingleProcess

    chosen = arithmetic.called("portable" if portable else "native")
    layout, dtype = Layout(shape.widths), np.dtype(np.float32)
    X, y, order = data(shape)
    identity = Standardization(np.zeros(shape.widths[0]), np.ones(shape.widths[0]), used=False)
    source = MemorySource(X, y, None, chosen.working(dtype), identity)
    if portable:
        source = rounded(source, shape, SingleProcess())
    network = Architecture(layout, (ACTIVATIONS[shape.activation],) * (layout.L - 1))
    parameters = np.zeros(layout.length, dtype)
    layout.initialize(parameters, 0)
    forward, communicator = ForwardPass(network, parameters, chosen), SingleProcess()
    targets = Targets(classes=tuple(map(str, range(shape.widths[-1]))))

    def step(i: int) -> float:
        evaluate(communicator, forward, source, order, metrics_of(targets, False, chosen))
        return float("nan")

    return step


def halves(shape: Shape) -> Step:
    """Two ranks that train alone on half a batch each: what two cores can do when nobody waits for anybody."""
    from ddp_mlp.parallel.single import SingleProcess

    return ours(replace(shape, batch=shape.batch // 2), K=1, communicator=SingleProcess())


def torch_network(shape: Shape) -> Any:
    """Return PyTorch's network with the common weights."""
    import torch

    layers: list[Any] = []
    start = weights(shape)
    for l, (n_prev, n) in enumerate(itertools.pairwise(shape.widths), start=1):
        linear = torch.nn.Linear(n_prev, n)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(start[f"W{l}"]))
            linear.bias.copy_(torch.from_numpy(start[f"b{l}"]))
        layers += [linear, {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}[shape.activation]()]
    return torch.nn.Sequential(*layers[:-1])


def torch_step(shape: Shape, model: Any, lo: float = 0.0, hi: float = 1.0) -> Step:
    """Return the step of a PyTorch model on the part [lo, hi) of each batch."""
    import torch

    X, y, order = (torch.from_numpy(array) for array in data(shape))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    loss_function = torch.nn.CrossEntropyLoss()
    first, last = round(lo * shape.batch), round(hi * shape.batch)

    def step(i: int) -> float:
        start = i % BATCHES * shape.batch
        rows = order[start + first : start + last]
        optimizer.zero_grad()
        loss = loss_function(model(X[rows]), y[rows])
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def torch_alone(shape: Shape) -> Step:
    """PyTorch in one process on all cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch_step(shape, torch_network(shape))


def torch_ddp(shape: Shape) -> Step:
    """PyTorch DistributedDataParallel over gloo, one thread per rank; the first losses are means over the ranks."""
    import torch

    torch.set_num_threads(1)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    step = torch_step(
        shape, torch.nn.parallel.DistributedDataParallel(torch_network(shape)), rank / size, (rank + 1) / size
    )

    def averaged(i: int) -> float:
        loss = step(i)
        if i < CHECKED_STEPS:  # only for the check: not part of training
            total: Any = torch.tensor([loss], dtype=torch.float64)
            torch.distributed.all_reduce(total)
            loss = float(total) / int(size)
        return loss

    return averaged


def jax_alone(shape: Shape) -> Step:
    """JAX, the whole step jitted, parameters donated, rows gathered on the device, on all cores."""
    import jax
    import jax.numpy as jnp

    X, y, order = (jnp.asarray(array) for array in data(shape))
    L = len(shape.widths) - 1
    hidden: dict[str, Any] = {
        "relu": jax.nn.relu,
        "tanh": jnp.tanh,
        "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    }
    f = hidden[shape.activation]
    parameters = {name: jnp.asarray(array) for name, array in weights(shape).items()}
    velocity = {name: jnp.zeros_like(array) for name, array in parameters.items()}

    def loss_of(parameters: Any, X: Any, y: Any) -> Any:
        A = X
        for l in range(1, L + 1):
            A = A @ parameters[f"W{l}"].T + parameters[f"b{l}"]
            A = f(A) if l < L else A
        return -jnp.take_along_axis(jax.nn.log_softmax(A), y[:, None], axis=1).mean()

    def update(parameters: Any, velocity: Any, X: Any, y: Any, rows: Any) -> Any:
        loss, gradient = jax.value_and_grad(loss_of)(parameters, X[rows], y[rows])
        velocity = {name: MOMENTUM * velocity[name] + gradient[name] for name in gradient}
        return {name: parameters[name] - LEARNING_RATE * velocity[name] for name in gradient}, velocity, loss

    jitted = jax.jit(update, donate_argnums=(0, 1))
    rows_of = [order[i * shape.batch : (i + 1) * shape.batch] for i in range(BATCHES)]

    def step(i: int) -> float:
        nonlocal parameters, velocity
        parameters, velocity, loss = jitted(parameters, velocity, X, y, rows_of[i % BATCHES])
        return float(loss)

    return step


def scikit_learn(shape: Shape) -> Step:
    """scikit-learn's MLPClassifier, a batch per partial_fit, from the common weights, on all cores."""
    import warnings

    import numpy as np
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")
    X, y, order = data(shape)
    model = MLPClassifier(
        shape.widths[1:-1],
        activation=shape.activation,  # it has no gelu, and is left out there
        solver="sgd",
        learning_rate_init=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        alpha=0.0,
        batch_size=shape.batch,
        shuffle=False,
    )
    L, start = len(shape.widths) - 1, weights(shape)
    initialize = model._initialize

    def with_common_weights(*arguments: Any) -> None:
        initialize(*arguments)
        model.coefs_ = [np.ascontiguousarray(start[f"W{l}"].T) for l in range(1, L + 1)]
        model.intercepts_ = [start[f"b{l}"].copy() for l in range(1, L + 1)]

    model._initialize = with_common_weights

    def step(i: int) -> float:
        rows = order[i % BATCHES * shape.batch : (i % BATCHES + 1) * shape.batch]
        model.partial_fit(X[rows], y[rows], classes=np.arange(shape.widths[-1]))
        return float(model.loss_)

    return step


MAKERS: dict[str, Callable[..., Step]] = {
    "products": products,
    "ours": ours,
    "evaluation": evaluation,
    "halves": halves,
    "torch": torch_alone,
    "ddp": torch_ddp,
    "jax": jax_alone,
    "sklearn": scikit_learn,
}
NEEDS = {"torch": "torch", "ddp": "torch", "jax": "jax", "sklearn": "sklearn"}


# ---- a worker: one contender's processes, which take a turn whenever told to -----------------------------------------


def serve(kind: str, options: dict[str, Any], folder: Path) -> None:
    """Carry out the orders folder/0, folder/1, …, each a JSON object, on every rank; rank 0 writes folder/N.answer.

    {"shape": i, "activation": name}: make that shape's step, and answer with its first losses. {"steps": n}: train n
    steps, and answer with the median seconds per step. {"lines": true}: answer with what the ranks of a node cost one
    another. {}: end. Waiting is sleeping, so that nobody disturbs whose turn it is.
    """
    rank = int(os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("RANK") or 0)
    step: Step | None = None
    done = 0
    for number in itertools.count():
        path = folder / str(number)
        while not path.exists():
            time.sleep(0.05)
        order = json.loads(path.read_text())
        answer: Any = None
        if not order:
            return
        if "lines" in order:
            answer = lines_between_ranks()
        elif "shape" in order:
            step = MAKERS[kind](replace(SHAPES[order["shape"]], activation=order["activation"]), **options)
            answer = [step(i) for i in range(CHECKED_STEPS)]
            done = CHECKED_STEPS
        else:
            assert step is not None, "a shape comes first"
            taken = []
            for i in range(done, done + order["steps"]):
                start = time.perf_counter()
                step(i)
                taken.append(time.perf_counter() - start)
            done += order["steps"]
            answer = statistics.median(taken)
        if rank == 0:
            _write(folder / f"{number}.answer", answer)


def lines_between_ranks() -> tuple[float, list[float]]:
    """Return the seconds of a barrier, and of writing a cache line that another rank has read. Collective."""
    from ddp_mlp.examination.ranks import measure_lines
    from ddp_mlp.parallel.mpi import connect

    return measure_lines(connect())


def _write(path: Path, value: Any) -> None:
    """Write JSON so that whoever waits for the file finds it whole."""
    path.with_suffix(".new").write_text(json.dumps(value))
    path.with_suffix(".new").rename(path)


class Worker:
    """A contender's processes, driven from here."""

    def __init__(self, kind: str, P: int, options: dict[str, Any], folder: Path) -> None:
        folder.mkdir()
        self._folder, self._orders = folder, 0
        one_thread = kind in ("products", "ours", "evaluation", "halves", "ddp")
        threads = "1" if one_thread else str(len(os.sched_getaffinity(0)))
        # A fixed BLAS kernel would slow this program and scikit-learn, and not the others.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
        environment |= {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, "--serve", kind, json.dumps(options), str(folder)]
        commands = [(command, environment)]
        if kind in ("ours", "evaluation", "halves"):
            mpirun = Path(sys.executable).with_name("mpirun")
            commands = [([str(mpirun), "-n", str(P), *command], environment)]
        elif kind == "ddp":
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "WORLD_SIZE": str(P)}
            commands = [(command, {**environment, **where, "RANK": str(rank)}) for rank in range(P)]
        quiet = subprocess.DEVNULL
        self._processes = [
            subprocess.Popen(command, env=env, stdin=quiet, stdout=quiet, stderr=quiet) for command, env in commands
        ]

    def ask(self, **order: Any) -> Any:
        """Give an order and return its answer; None if the processes have ended or take longer than two minutes."""
        answer = self._folder / f"{self._orders}.answer"
        _write(self._folder / str(self._orders), order)
        self._orders += 1
        deadline = time.monotonic() + 120
        while not answer.exists():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                return None
            time.sleep(0.02)
        return json.loads(answer.read_text())

    def close(self) -> None:
        """Let the processes end, or end them."""
        _write(self._folder / str(self._orders), {})
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(timeout=10)


# ---- the comparison -------------------------------------------------------------------------------------------------


def compare(
    shapes: list[int], names: list[str], repeats: int, seconds: float, activation: str = "relu"
) -> dict[str, dict[str, list[float]]]:
    """Return {shape: {contender: seconds per step, one figure a repeat}}; contenders take turns within a repeat."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        workers = {}
        for number, name in enumerate(names):
            kind, P, options = CONTENDERS[name]
            workers[name] = Worker(kind, P, options, Path(folder) / str(number))
        try:
            for i in shapes:
                shape = SHAPES[i]
                losses = {name: worker.ask(shape=i, activation=activation) for name, worker in workers.items()}
                check_losses(shape, losses)
                present = [name for name in names if losses[name] is not None]
                pace = {name: workers[name].ask(steps=5) for name in present}
                figures: dict[str, list[float]] = {name: [] for name in present}
                for repeat in range(repeats):
                    for name in present if repeat % 2 == 0 else reversed(present):
                        steps = max(5, min(5000, int(seconds / pace[name])))
                        figures[name].append(workers[name].ask(steps=steps))
                found[shape.name] = figures
                print_table(shape, figures)
                pairs = (n for n in present if CONTENDERS[n][:2] == ("ours", 2))
                if (pair := next(pairs, None)) and (lines := workers[pair].ask(lines=True)):
                    barrier, line = 1e6 * lines[0], 1e9 * lines[1][0]
                    print(
                        f"{'latency, P=2':24}{barrier:12.1f} µs a barrier; {line:.0f} ns more a line the other has read"
                    )
        finally:
            for worker in workers.values():
                worker.close()
    return found


def check_losses(shape: Shape, losses: dict[str, list[float] | None]) -> None:
    """Stop unless all who train on the same batches show the same losses for the first steps, to 1e-3 relative."""
    curves = {name: curve for name, curve in losses.items() if curve and curve[0] == curve[0] and "half" not in name}
    reference = next(iter(curves.values()))
    for name, curve in curves.items():
        if any(abs(a - b) > 1e-3 * abs(b) for a, b in zip(curve, reference, strict=True)):
            raise SystemExit(f"{shape.name}: {name} does not compute the same: losses {curve}, others {reference}")


def ratios(figures: dict[str, list[float]], slower: str, faster: str) -> list[float]:
    """Return the seconds of one contender over another's, repeat by repeat."""
    return [a / b for a, b in zip(figures[slower], figures[faster], strict=True)]


def print_table(shape: Shape, figures: dict[str, list[float]]) -> None:
    """Print medians, and how many times as fast `exact P=2 K=2` is, as the median of ratios, with their quartiles."""
    ours = "exact P=2 K=2"
    print(f"\n{shape.name}\n{'':24}{'ms per step':>12}{'examples/s':>12}    time / time of {ours}")
    for name, seconds in figures.items():
        line = f"{name:24}{1e3 * statistics.median(seconds):12.3f}{shape.batch / statistics.median(seconds):12,.0f}"
        if ours in figures:
            found = ratios(figures, name, ours)
            low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else 3 * found
            line += f"    {middle:6.2f}  ({low:.2f} to {high:.2f})"
        print(line, flush=True)


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw the medians as bars, one panel per shape."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(4 * len(found), 4), squeeze=False, sharey=True)
    for panel, (shape, figures) in zip(panels[0], found.items(), strict=True):
        names = list(figures)[::-1]
        medians = [1e3 * statistics.median(figures[name]) for name in names]
        colours = ["tab:blue" if name.startswith(("exact", "allreduce", "portable")) else "tab:gray" for name in names]
        panel.barh(names, medians, color=colours)
        panel.set_title(shape, fontsize=9)
        panel.set_xlabel("ms per step")
        panel.set_xlim(0, 4 * min(medians))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def installed(name: str) -> bool:
    """Return whether the contender's library is there."""
    if CONTENDERS[name][2].get("library") == "mkl":
        from ddp_mlp.nn.cblas import find_mkl

        return find_mkl() is not None
    module = NEEDS.get(CONTENDERS[name][0])
    return module is None or importlib.util.find_spec(module) is not None


def about_here(names: list[str]) -> dict[str, Any]:
    """Return what figures depend on: the processor, its cores, and the versions of what was measured."""
    from importlib.metadata import version

    import ddp_mlp
    from ddp_mlp.nn import blas

    fields = {"vendor_id": "", "model name": platform.processor() or platform.machine(), "cpu family": "", "model": ""}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in fields:
            fields[name.strip()] = value.strip()
    model = re.sub(r"\((R|TM)\)", "", fields["model name"])
    packages = {"torch": "PyTorch", "jax": "JAX", "sklearn": "scikit-learn"}
    needed = dict.fromkeys(NEEDS[CONTENDERS[name][0]] for name in names if CONTENDERS[name][0] in NEEDS)
    library = blas.in_use()
    return {
        "processor": f"{model} (family {fields['cpu family']}, model {fields['model']})",
        "cores": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "versions": {
            "ddp_mlp": ddp_mlp.__version__,
            "NumPy": version("numpy"),
            "BLAS": f"{library.name} {library.architecture}",
            **{packages[module]: version(packages[module].replace("PyTorch", "torch")) for module in needed},
        },
    }


def main() -> None:
    """Run the comparison and write what was asked for."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description="Compare the training step with its peers, side by side.")
    names = [shape.name for shape in SHAPES]
    parser.add_argument("--shapes", nargs="+", choices=names, default=names)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--activation", choices=["relu", "tanh", "gelu"], default="relu", help="of the hidden layers")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contender (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of a turn (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this JSON file")
    parser.add_argument("--png", type=Path, help="draw the medians into this file (needs matplotlib)")
    asked = parser.parse_args()
    contenders = [name for name in asked.contenders if installed(name)]
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if name in os.environ:
            print(f"{name}={os.environ[name]} is set: the contenders run without it")
    indices = [names.index(name) for name in asked.shapes]
    found = compare(indices, contenders, asked.repeats, asked.seconds, asked.activation)
    if asked.output:
        about = {**about_here(contenders), "activation": asked.activation, "repeats": asked.repeats}
        asked.output.write_text(json.dumps({**about, "seconds_per_step": found}, indent=1))
    if asked.png:
        draw(found, asked.png)


if __name__ == "__main__":
    main()
