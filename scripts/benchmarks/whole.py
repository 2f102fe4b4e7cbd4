"""Time the whole program: a step of a run of short epochs beside one of long epochs, with every default.

What a run does besides its steps (epochs' ends, evaluation, events, checkpoints) counts where epochs are short. Each
shape is trained on a data set of a few rows and on one of many, turn by turn; a step's time is that between the ends of
the first epoch and of the last, and ratios are formed within a turn.

    python scripts/benchmarks/whole.py --ranks 2 --turns 5
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp.storage.writer import DatasetWriter  # noqa: E402

SHAPES = {
    "784-512-512-10@512": (784, (512, 512), 10, 512),
    "784-512-512-10@128": (784, (512, 512), 10, 128),
    "784-2048-2048-10@512": (784, (2048, 2048), 10, 512),
    "64-128-64-10@256": (64, (128, 64), 10, 256),
    "784-100-10@200": (784, (100,), 10, 200),
}
"""Features, hidden widths, classes and batch size by name."""
FEW, MANY = 2_048, 60_000
"""Rows."""


class Timed(NamedTuple):
    """What one run took."""

    step: float
    """Seconds a step, between the ends of the first epoch and of the last."""
    start: float
    """Seconds of the run's clock at the end of the first epoch."""


def write(path: Path, rows: int, features: int, classes: int, valid: int) -> None:
    """Write a data set of random numbers."""
    random = np.random.default_rng(0)
    splits = {"train": rows} | ({"valid": valid} if valid else {})
    with DatasetWriter(path, splits, features, np.dtype(np.float32), classes) as writer:
        for split, count in splits.items():
            X = random.standard_normal((count, features), np.float32)
            writer.append(split, X, random.integers(0, classes, count))


def run(data: Path, shape: str, ranks: int, epochs: int, flags: Sequence[str]) -> Timed:
    """Train in a folder of its own, and return what it took."""
    _, hidden, _, batch = SHAPES[shape]
    with tempfile.TemporaryDirectory() as run_dir:
        mpirun = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks)] if ranks > 1 else []
        command = [*mpirun, sys.executable, "-m", "ddp_mlp.train", "--data", str(data), "--run_dir", run_dir, "--quiet"]
        command += ["--hidden", ",".join(map(str, hidden)), "--batch_size", str(batch), "--epochs", str(epochs), *flags]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
        lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    ends = [event for event in map(json.loads, lines) if event["event"] == "epoch"]
    first, last = ends[0], ends[-1]
    return Timed((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]), first["seconds"])


def compare(shape: str, ranks: int, turns: int, seconds: float, valid: int, flags: Sequence[str]) -> dict[str, Any]:
    """Train on few and on many rows, turn by turn; runs on few last about `seconds`."""
    features, _, classes, batch = SHAPES[shape]
    with tempfile.TemporaryDirectory() as folder:
        data = {rows: Path(folder) / f"{rows}.h5" for rows in (FEW, MANY)}
        for rows, path in data.items():
            write(path, rows, features, classes, valid)
        pace = run(data[FEW], shape, ranks, 10, flags).step
        epochs = {FEW: max(10, round(seconds / pace / -(-FEW // batch))), MANY: 2}
        epochs[MANY] = max(2, 1 + round(seconds / pace / -(-MANY // batch)))
        found: dict[int, list[float]] = {FEW: [], MANY: []}
        for turn in range(turns):
            for rows in (FEW, MANY) if turn % 2 == 0 else (MANY, FEW):
                found[rows].append(run(data[rows], shape, ranks, epochs[rows], flags).step)
    ratios = [few / many for few, many in zip(found[FEW], found[MANY], strict=True)]
    return {"few": found[FEW], "many": found[MANY], "ratios": ratios}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5, help="runs of each kind (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run, about (default %(default)s)")
    parser.add_argument("--valid", type=int, default=0, help="rows to evaluate on after every epoch (default none)")
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this JSON file")
    asked, flags = parser.parse_known_args(argv)
    print(f"{'':22}{FEW:>10,} rows{MANY:>10,} rows   ms a step, medians; ratio within a turn (quartiles)")
    everything = {}
    for shape in asked.shapes:
        found = compare(shape, asked.ranks, asked.turns, asked.seconds, asked.valid, flags)
        everything[shape] = found
        few, many = (1e3 * statistics.median(found[name]) for name in ("few", "many"))
        low, middle, high = np.quantile(found["ratios"], [0.25, 0.5, 0.75])
        print(f"{shape:22}{few:15.3f}{many:15.3f}   {middle:5.2f} ({low:.2f} to {high:.2f})", flush=True)
    if asked.output:
        asked.output.write_text(json.dumps(everything, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
