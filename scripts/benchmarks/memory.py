"""Measure what access = memory and access = stream cost: peak memory of a node's ranks, and examples per second.

- Memory: real runs of `python -m ddp_mlp.train` on files of random float32 rows (784 features; train, valid and test).
  While they last, the proportional set sizes (PSS in /proc/PID/smaps_rollup) of all ranks are added up; a page that k
  ranks share counts 1/k for each, so that the sum is what the node really holds. Linux.
- Speed: one job of 2 ranks trains with rows in memory and with streamed rows in turns, so that a drift of the machine's
  speed meets both; ratios are formed within a turn. A streamed turn begins with nothing read ahead.

Files are written to --folder and removed at the end. Needs an mpirun beside this Python.

    python scripts/benchmarks/memory.py
    python scripts/benchmarks/memory.py --gigabytes 1 3 --ranks 4 --turns 5
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")
FEATURES, CLASSES = 784, 10
SPLITS = {"train": 0.8, "valid": 0.1, "test": 0.1}
TRAIN = ["--hidden", "512,512", "--batch_size", "512", "--shuffle", "blocks"]
SAMPLE_SECONDS = 0.1


def main() -> None:
    """Write the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 3.0], help="sizes of the files (1 3)")
    parser.add_argument("--ranks", type=int, default=4, help="ranks whose memory is added up (4)")
    parser.add_argument("--steps", type=int, default=100, help="steps of a run, and of a turn (100)")
    parser.add_argument("--turns", type=int, default=5, help="turns for the speed, on the first file; 0 is none (5)")
    parser.add_argument("--folder", type=Path, help="where the files are written (the system's temporary folder)")
    parser.add_argument("--take_turns", type=Path, help=argparse.SUPPRESS)  # as a rank of the second measurement
    asked = parser.parse_args()
    if asked.take_turns is not None:
        take_turns(asked.take_turns, asked.turns, asked.steps)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        print(f"{'file':>8} {'access':>8} {'ranks':>6} {'peak of the sum of PSS':>24}", flush=True)
        for number, gigabytes in enumerate(asked.gigabytes):
            data = Path(folder) / "data.h5"
            write(data, gigabytes)
            for access in ("memory", "stream"):
                command = ["-m", "ddp_mlp.train", "--data", str(data), "--run_dir", f"{folder}/{number}-{access}"]
                options = ["--access", access, "--max_steps", str(asked.steps), "--epochs", "1", "--quiet", *TRAIN]
                peak = peak_of_ranks(asked.ranks, command + options)
                print(f"{gigabytes:>5g} GB {access:>8} {asked.ranks:>6} {peak / 1e9:>21.3f} GB", flush=True)
            if number == 0 and asked.turns:
                turns = ["--take_turns", str(data), "--turns", str(asked.turns), "--steps", str(asked.steps)]
                subprocess.run(mpirun(2, [__file__, *turns]), check=True, env=environment(), timeout=3600)


def write(path: Path, gigabytes: float) -> None:
    """Write a data-set file of about so many bytes of X."""
    import numpy as np

    from ddp_mlp.storage.writer import DatasetWriter

    total = round(gigabytes * 1e9 / (4 * FEATURES))
    counts = {split: round(share * total) for split, share in SPLITS.items()}
    random = np.random.default_rng(0)
    noise = random.standard_normal((8192, FEATURES), np.float32)
    with DatasetWriter(path, counts, FEATURES, np.dtype(np.float32), CLASSES) as writer:
        for split, m in counts.items():
            for lo in range(0, m, len(noise)):
                k = min(len(noise), m - lo)
                writer.append(split, noise[:k] + np.float32(random.standard_normal()), random.integers(0, CLASSES, k))


# ---- memory ----------------------------------------------------------------------------------------------------------


def peak_of_ranks(ranks: int, command: list[str]) -> int:
    """Run a Python command on so many ranks; return the largest sum of their PSS that was seen, in bytes."""
    peak = 0
    with subprocess.Popen(mpirun(ranks, command), env=environment(), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(pss, descendants(process.pid))))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return peak


def pss(pid: int) -> int:
    """Return the proportional set size of a Python process in bytes; 0 for another, or one that is gone."""
    with suppress(OSError, StopIteration):
        if b"ddp_mlp" not in Path(f"/proc/{pid}/cmdline").read_bytes() or "python" not in os.readlink(
            f"/proc/{pid}/exe"
        ):
            return 0
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


# ---- speed -----------------------------------------------------------------------------------------------------------


def take_turns(path: Path, turns: int, steps: int) -> None:
    """Train with rows in memory and with streamed rows in turns, on all ranks of this job, and print the speeds."""
    import numpy as np
    import threadpoolctl

    from ddp_mlp.data.memory import load_split
    from ddp_mlp.data.opening import make_batches
    from ddp_mlp.data.stream import StreamSource
    from ddp_mlp.nn import optimizers
    from ddp_mlp.nn.architecture import Architecture
    from ddp_mlp.nn.parameters import Layout
    from ddp_mlp.nn.standardization import Standardization
    from ddp_mlp.parallel.mpi import connect
    from ddp_mlp.storage.dataset import inspect
    from ddp_mlp.summing.between import ExactSum
    from ddp_mlp.summing.tree import automatic_shards
    from ddp_mlp.training.loop import take_step
    from ddp_mlp.training.step import TrainingStep
    from ddp_mlp.training.update import Regularization

    dtype, layout = np.dtype(np.float32), Layout((FEATURES, 512, 512, CLASSES))
    identity = Standardization(np.zeros(FEATURES), np.ones(FEATURES))
    batch_size, block_rows = 512, 1024
    with connect() as communicator, threadpoolctl.threadpool_limits(1, "blas"):
        info = inspect(path)
        m = info.splits["train"].rows
        ring = StreamSource(
            info, "train", m, communicator, dtype, identity, batch_size=batch_size, block_rows=block_rows
        )
        sources = {"memory": load_split(info, "train", communicator, dtype, identity), "stream": ring}
        runs = {}
        for access, source in sources.items():
            reduction = ExactSum(communicator, layout.length, dtype, automatic_shards(communicator.size))
            adam = optimizers.create("adam")
            step = TrainingStep(
                communicator,
                Architecture(layout),
                reduction,
                source,
                adam,
                Regularization(),
                dtype=dtype,
                seed=0,
                chunk_rows=4096,
            )
            first = np.zeros(layout.length, dtype)
            layout.initialize(first, 0)
            reduction.parameters[reduction.slice] = first[reduction.slice]
            reduction.publish()
            order = {"batch_size": batch_size, "seed": 0, "shuffle": "blocks", "block_rows": block_rows}
            runs[access] = step, make_batches(communicator, source, m, **order)
        rates: dict[str, list[float]] = {access: [] for access in runs}
        for turn in range(-1, turns):  # one more for warming up
            for access in list(runs)[:: 1 if turn % 2 else -1]:
                step, batches = runs[access]
                communicator.barrier()
                began, count = time.perf_counter(), 0
                for batch in itertools.islice(batches.epoch(turn + 1), steps):
                    count += take_step(step, batch, 1e-3).totals.examples
                communicator.barrier()
                batches.close()
                if turn >= 0:
                    rates[access].append(count / (time.perf_counter() - began))
        if communicator.rank == 0:
            same = runs["memory"][0].reduction.parameters.tobytes() == runs["stream"][0].reduction.parameters.tobytes()
            for access, found in rates.items():
                each = ", ".join(f"{rate:,.0f}" for rate in found)
                print(f"{access}: {statistics.median(found):,.0f} examples/s on {communicator.size} ranks ({each})")
            ratio = statistics.median(s / m for s, m in zip(rates["stream"], rates["memory"], strict=True))
            print(f"stream ÷ memory, median of the turns: {ratio:.3f}; same parameters: {'yes' if same else 'NO'}")


def mpirun(ranks: int, command: list[str]) -> list[str]:
    """Return the command line that runs a Python command on so many ranks."""
    more = ["--oversubscribe"] if MPIRUN.with_name("ompi_info").exists() else []
    return [str(MPIRUN), *more, "-n", str(ranks), sys.executable, *command]


def environment() -> dict[str, str]:
    """Return the environment of ranks: this checkout, one BLAS thread."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", **root}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
