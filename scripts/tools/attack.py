"""Attack the promise of the same bits: `python scripts/tools/attack.py --pairs 5000`.

Each case is a configuration and data drawn from (seed, number): widths down to one unit, shards down to no row, both
number types, every optimizer and option. It is trained on one rank and on several, on one node or more, with sums
between nodes by halving or flat, and the two must end with the same bits: parameters, and every figure of the journal.
With `--losses` each loss has its turn, and so has each activation; without it all cases have classes.
Ranks are the threads of `tests.simulated_mpi`, whose order of turns is part of the case; every tenth case reads its
data from a file, in memory and streamed; `--mpi N` more run under a real mpirun, and `--kernels` repeats all on every
kernel of OpenBLAS that this processor runs. `--replay NUMBER` repeats one case. Exit code 1 where anything differs.
"""

# ruff: noqa: E402 - threads are settled before NumPy is imported

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["DDP_MLP_CACHE"] = ""  # every process proves its products anew

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddp_mlp.config import Config
from ddp_mlp.data.opening import data_of_arrays, standardization_of
from ddp_mlp.errors import ProgramError
from ddp_mlp.nn import blas, kernels
from ddp_mlp.nn.activations import ACTIVATIONS
from ddp_mlp.nn.targets import LOSSES, STANDARDIZED, Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.writer import DatasetWriter
from ddp_mlp.summing import plan
from ddp_mlp.training import loop
from ddp_mlp.training.in_memory import train_in_memory
from tests.simulated_mpi import World

CORES = ("SkylakeX", "Haswell", "Sandybridge", "Nehalem", "Prescott")
"""What OPENBLAS_CORETYPE may be; Zen takes Haswell's kernels, Prescott Katmai's."""
OF_TIMES = ("seconds", "examples_per_second", "waiting_by_rank", "crowded_times", "time")
"""What two runs of the same bits may differ in."""


class Case(NamedTuple):
    """Two ways to train one and the same thing."""

    number: int
    keys: dict[str, Any]
    """Of the configuration."""
    rows: int
    features: int
    classes: int
    weighted: bool
    ranks: int
    node_size: int | None
    flat: bool
    """Sums between nodes are flat, even where nodes are siblings."""
    from_file: bool

    @property
    def config(self) -> Config:
        """The configuration."""
        return Config(**self.keys)


def draw(seed: int, number: int) -> Case:
    """Return the case of a number."""
    drawn = random.Random(f"{seed} {number}")
    rows = drawn.randint(12, 90)
    width = (1, 1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64)
    from_file = number % 10 == 9
    optimizer = drawn.choice(("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"))
    keys: dict[str, Any] = {
        "hidden": tuple(drawn.choice(width) for _ in range(drawn.randint(0, 3))),
        "dtype": drawn.choice(("float32", "float64")),
        "activation": drawn.choice(("relu", "relu", "tanh", "sigmoid", "gelu", "elu")),
        "optimizer": optimizer,
        "learning_rate": drawn.choice((1e-3, 1e-2, 0.1)),
        "schedule": drawn.choice(("constant", "cosine", "exponential")),
        "batch_size": drawn.choice((1, 2, 3, 4, 7, 8, 16, 17, 31, 64)),
        "shards": drawn.choice((1, 2, 3, 4, 5, 7, 8, 8, 8, 13, 16)),
        "chunk_rows": drawn.choice((4096, 4096, 1, 3, 10)),
        "epochs": 2,
        "max_steps": drawn.randint(2, 6),
        "shuffle": "blocks" if from_file else drawn.choice(("rows", "blocks", "none")),
        "block_rows": drawn.choice((1, 4, 8)),
        "seed": drawn.randrange(1000),
        "clip_norm": drawn.choice((None, None, 0.1)),
        "dropout": drawn.choice((0.0, 0.0, 0.3)),
        "label_smoothing": drawn.choice((0.0, 0.0, 0.1)),
        "l2": 0.0 if optimizer == "adamw" else drawn.choice((0.0, 1e-3)),
        "valid_fraction": drawn.choice((0.0, 0.3)),
        "log_every": 1,
        "stall_seconds": 0,
        "quiet": True,
    }
    return Case(
        number,
        keys,
        rows,
        drawn.choice((1, 2, 3, 7, 16, 31, 64)),
        drawn.randint(2, 7),
        drawn.random() < 0.3,
        drawn.randint(2, 9),
        drawn.choice((None, None, 1, 2, 3)),
        drawn.random() < 0.5,
        from_file,
    )


def with_a_loss(case: Case, seed: int) -> Case:
    """Return the case with the loss whose turn it is, and activations of its own; numbers are not read from files."""
    drawn = random.Random(f"{seed} {case.number} loss")
    loss = LOSSES[case.number % len(LOSSES)]
    activations = [drawn.choice(sorted(ACTIVATIONS)) for _ in case.keys["hidden"]]
    keys = {**case.keys, "loss": loss, "activation": ",".join(activations) or "relu"}
    if loss == "cross_entropy":
        return case._replace(keys=keys)
    keys |= {"label_smoothing": 0.0, "quantiles": (0.1, 0.9)}
    if loss in STANDARDIZED:
        keys["output_activation"] = drawn.choice(("identity", "softplus", "relu"))
    return case._replace(keys=keys, from_file=False)


def examples(case: Case) -> tuple[Any, Any, Any]:
    """Return X (m, n_0), y (m,) with every class or numbers (m, classes), and weights (m,) or None."""
    random = np.random.default_rng(case.number)
    X = random.standard_normal((case.rows, case.features)) * 10.0 ** random.integers(-3, 4, case.features)
    y = np.arange(case.rows) % case.classes
    random.shuffle(y)
    w = random.uniform(0.0, 2.0, case.rows) if case.weighted else None
    loss = case.keys.get("loss", "cross_entropy")
    if loss == "binary_cross_entropy":
        y = random.integers(0, 2, (case.rows, case.classes)).astype(np.float64)
    elif loss == "poisson":
        y = random.poisson(3.0, (case.rows, case.classes)).astype(np.float64)
    elif loss != "cross_entropy":
        y = np.abs(random.standard_normal((case.rows, case.classes)))
    return X.astype(case.keys["dtype"]), y, w


def targets_of(case: Case) -> Targets:
    """Return what the outputs of a case stand for."""
    loss, names = case.keys.get("loss", "cross_entropy"), tuple(map(str, range(case.classes)))
    if loss == "cross_entropy":
        return Targets(classes=names)
    shift = 0.7 if case.keys.get("output_activation") == "identity" else 0.0
    scale = 2.3 if loss in STANDARDIZED else 1.0
    quantiles = case.keys["quantiles"] if loss == "quantile" else ()
    return Targets(loss, names=names, mean=(shift,) * len(names), scale=(scale,) * len(names), quantiles=quantiles)


def trained(case: Case, communicator: Communicator, folder: Path | None, access: str) -> list[Any]:
    """Train, and return what must be the same: the journal but for its times. Collective."""
    config = case.config
    if folder is None:
        X, y, w = examples(case)
        data = data_of_arrays(X, y, w, targets_of(case), standardization_of(X, w), config)
        found: list[Any] = train_in_memory(config, data, communicator).events
    else:
        run_dir = folder / f"{access}-{communicator.size}"
        keys = {**case.keys, "data": str(folder / "data.h5"), "run_dir": str(run_dir), "access": access}
        loop.train(Config(**keys), communicator)
        found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][1:]
    return [{k: v for k, v in event.items() if k not in OF_TIMES and not k.startswith("seconds_")} for event in found]


def outcome(case: Case, world: World, folder: Path | None, access: str) -> list[Any] | str:
    """Return what came of a case in a world: the same on all ranks, or the line of the error that all end with."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            everyone = world.run(lambda communicator: trained(case, communicator, folder, access))
    except ProgramError as error:
        return f"{type(error).__name__}: {str(error).partition(';')[0]}"
    assert all(json.dumps(found) == json.dumps(everyone[0]) for found in everyone)
    return everyone[0]


@contextmanager
def between_nodes(flat: bool) -> Iterator[None]:
    """Let sums between nodes be flat, or as they are."""
    siblings = plan.nodes_are_siblings
    if flat:
        plan.nodes_are_siblings = lambda of_node, K: False
    try:
        yield
    finally:
        plan.nodes_are_siblings = siblings


def both(case: Case, seed: int) -> tuple[list[Any] | str, list[Any] | str]:
    """Return what comes of the two ways of a case."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if case.from_file else None
        if folder is not None:
            write(case, folder / "data.h5")
        alone = outcome(case, World(1, seed), folder, "memory")
        with between_nodes(case.flat):
            several = outcome(case, World(case.ranks, seed + case.number, case.node_size), folder, "stream")
    return alone, several


def difference(alone: list[Any] | str, several: list[Any] | str) -> str | None:
    """Return how two outcomes differ, or None."""
    if json.dumps(alone) == json.dumps(several):
        return None
    if isinstance(alone, str) or isinstance(several, str):
        return f"{alone!s:.200} | {several!s:.200}"
    pairs = zip(alone, several, strict=False)
    return " | ".join(next((str(a), str(b)) for a, b in pairs if json.dumps(a) != json.dumps(b)))


def write(case: Case, path: Path) -> None:
    """Write a case's examples as a data set."""
    X, y, _ = examples(case)
    with DatasetWriter(path, {"train": case.rows}, case.features, X.dtype, case.classes) as writer:
        writer.append("train", X, y)


def difference_under_mpi(case: Case) -> str | None:
    """Return how a case's hash differs between one process and ranks under mpirun, or None."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(case, folder / "data.h5")
        hashes = []
        mpirun = [str(Path(sys.executable).with_name("mpirun")), "-n", str(min(case.ranks, 4))]
        for size, launcher in enumerate(([], mpirun)):
            keys = {**case.keys, "data": str(folder / "data.h5"), "run_dir": str(folder / str(size))}
            (folder / "run.json").write_text(json.dumps(keys))
            command = [*launcher, sys.executable, "-m", "ddp_mlp.train", "--config", str(folder / "run.json")]
            node_size = {"DDP_MLP_NODE_SIZE": str(case.node_size)} if case.node_size else {}
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=120, env={**os.environ, **node_size}, check=False
            )
            if done.returncode not in (0, 1):
                return f"exit code {done.returncode}: {done.stderr[-300:]}"
            last = (folder / str(size) / "metrics.jsonl").read_text().splitlines()[-1]
            hashes.append((done.returncode, json.loads(last).get("parameters_sha256")))
    return None if hashes[0] == hashes[1] else f"{hashes[0]} | {hashes[1]}"


def attack(seed: int, numbers: Sequence[int], mpi: int, library: str = "numpy", losses: bool = False) -> list[str]:
    """Compare all cases, tell how far it has come, and return the differences. `library` is as `blas` names it."""

    def drawn(number: int, losses: bool) -> Case:
        case = with_a_loss(draw(seed, number), seed) if losses else draw(seed, number)
        return case._replace(keys={**case.keys, "blas": library})

    found, kinds, began = [], Counter[str](), time.monotonic()
    for number in numbers:
        case = drawn(number, losses)
        kinds.update((case.keys["dtype"], "from files" if case.from_file else "arrays", f"{case.ranks} ranks"))
        outcomes = both(case, seed)
        kinds.update([f"ended by {outcomes[0].partition(':')[0]}"] if isinstance(outcomes[0], str) else [])
        if problem := difference(*outcomes):
            found.append(f"case {number} ({case.ranks} ranks, nodes of {case.node_size}): {problem}")
            print(f"DIFFERENT: {found[-1]}\n  {case.keys}", flush=True)
    for number in range(mpi):
        case = drawn(number, False)._replace(from_file=True)
        kinds.update(["under mpirun"])
        if problem := difference_under_mpi(case):
            found.append(f"case {number} under mpirun: {problem}")
            print(f"DIFFERENT: {found[-1]}\n  {case.keys}", flush=True)
    counted = ", ".join(f"{name} {count:,}" for name, count in sorted(kinds.items()))
    with blas.used(library):
        names = kernels.names()
    print(
        f"{names['BLAS kernel']}, {names['vector instructions']}: {len(numbers) + mpi:,} pairs in "
        f"{time.monotonic() - began:.0f} s, {len(found)} different ({counted})",
        flush=True,
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=1000, help="cases to compare (1000)")
    parser.add_argument("--mpi", type=int, default=0, help="cases to compare under a real mpirun (0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case (0)")
    parser.add_argument("--blas", default="numpy", help="the library of the products: numpy, mkl or a path")
    parser.add_argument("--losses", action="store_true", help="every loss in turn, not classes alone")
    parser.add_argument("--replay", type=int, help="repeat the case of this number")
    parser.add_argument("--kernels", action="store_true", help="on every kernel of OpenBLAS that this processor runs")
    asked = parser.parse_args(argv)
    if asked.replay is not None:
        case = draw(asked.seed, asked.replay)
        print(with_a_loss(case, asked.seed) if asked.losses else case)
        return bool(attack(asked.seed, [asked.replay], 0, asked.blas, asked.losses))
    if not asked.kernels:
        numbers = range(asked.first, asked.first + asked.pairs)
        return bool(attack(asked.seed, numbers, asked.mpi, asked.blas, asked.losses))
    codes = []
    for core in CORES:
        flags = ["--pairs", str(asked.pairs), "--mpi", str(asked.mpi), "--seed", str(asked.seed)]
        flags += ["--losses"] if asked.losses else []
        command = [sys.executable, __file__, *flags, "--first", str(asked.first)]
        codes.append(subprocess.run(command, env={**os.environ, "OPENBLAS_CORETYPE": core}, check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
