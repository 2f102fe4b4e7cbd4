"""What many trainings in one job cost and gain, on this machine and, simulated, on a larger one.

    python scripts/benchmarks/searching.py efficiency       trials per second on 1 and on 2 ranks, idle shares
    python scripts/benchmarks/searching.py steps            steps per second and core of trials, beside one run alone
    python scripts/benchmarks/searching.py optuna           the same random trials by Optuna, in one process
    python scripts/benchmarks/searching.py simulate DIR     idle share of more ranks, from the times of a search in DIR
    python scripts/benchmarks/searching.py memory           PSS of 4 ranks that search on a file of 1 GB

Timings mean something on a machine that nobody else uses.
"""

import argparse
import heapq
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp.trials import table  # noqa: E402 # from this checkout, installed or not
from scripts.benchmarks import memory as memory_of_ranks  # noqa: E402

MPIRUN = Path(sys.executable).with_name("mpirun")
SPACE = """
learning_rate = { log = [1e-4, 1e-1] }
batch_size = { choice = [64, 128, 256] }
hidden = { depth = { int = [1, 2] }, width = { choice = [64, 128, 256] } }
dropout = { uniform = [0.0, 0.5] }
"""
LEARNING_RATES = "learning_rate = { log = [1e-4, 1e-2] }\n"
FLAGS = ("--valid_fraction", "0.2", "--epochs", "30")


def search(ranks: int, folder: Path, *flags: str, space: str = SPACE) -> float:
    """Search on so many ranks; return the seconds that all of it took."""
    written = folder.parent / "space.toml"
    written.write_text(space)
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, "-m", "ddp_mlp.search"]
    command += ["--space", str(written), "--run_dir", str(folder), "--quiet", *flags]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def last_event(folder: Path) -> Any:
    """Return what a search ended with."""
    return json.loads((folder / "search.jsonl").read_text().splitlines()[-1])


def efficiency(asked: argparse.Namespace) -> None:
    """Compare 2 ranks with 1: by the clock, and by the processor's time, where other programs count less."""
    rates, work = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (1, 2):
            run_dir = Path(folder) / str(ranks)
            before = os.times()
            search(ranks, run_dir, "--trials", str(asked.trials), *FLAGS)
            after = os.times()
            work[ranks] = sum(after[2:4]) - sum(before[2:4])  # of children, user and system
            final = last_event(run_dir)
            rates[ranks] = asked.trials / final["seconds"]
            words = f"{asked.trials} trials in {final['seconds']:.1f} s, {rates[ranks]:.2f} trials/s"
            idle = 100 * final["idle_share"]
            print(f"{ranks} rank(s): {words}, idle {idle:.1f} %, processor {work[ranks]:.1f} s", flush=True)
    print(f"a trial takes {work[2] / work[1]:.2f} of one rank's processor time on 2 ranks, starts included")
    print(f"2 ranks have {rates[2] / rates[1] / 2:.2f} of twice one rank's trials per second")


def steps(asked: argparse.Namespace) -> None:
    """Compare the steps per second and core of trials of one rank each with those of one run alone, in turns."""
    flags = ["--valid_fraction", "0.2", "--hidden", "128,64", "--batch_size", "64", "--shards", "8", "--quiet"]
    flags += ["--epochs", "60"]
    names = {0: "one run alone", 1: "trials, 1 rank", 2: "trials, 2 ranks"}
    rates: dict[int, list[float]] = {ranks: [] for ranks in names}
    of_a_trial = 0  # known from the first turn, which begins with the run
    for turn in range(asked.turns):
        for ranks in names if turn % 2 == 0 else reversed(names):
            with tempfile.TemporaryDirectory() as folder:
                if ranks == 0:
                    command = [sys.executable, "-m", "ddp_mlp.train", "--run_dir", folder, *flags]
                    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                    final = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])
                    of_a_trial = final["step"]
                    rates[0].append(of_a_trial / final["seconds"])
                else:
                    run_dir = Path(folder) / "run"
                    search(ranks, run_dir, "--trials", str(asked.trials), *flags, space=LEARNING_RATES)
                    spent = ranks * last_event(run_dir)["seconds"]
                    rates[ranks].append(asked.trials * of_a_trial / spent)
    for ranks, name in names.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(rates[ranks], rates[0], strict=True)])
        words = f"{statistics.median(rates[ranks]):8.0f} steps/s and core, {middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"{name:18}{words} of one run alone", flush=True)


def objective_with_optuna(trials: int, seed: int) -> tuple[float, float]:
    """Return the best score and the seconds of Optuna's random sampler, trial after trial in this process."""
    import optuna

    import ddp_mlp

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:

        def objective(trial: Any) -> float:
            hidden = [trial.suggest_categorical("width", [64, 128, 256])] * trial.suggest_int("depth", 1, 2)
            return validate(
                ddp_mlp,
                f"{folder}/{trial.number}",
                learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
                batch_size=trial.suggest_categorical("batch_size", [64, 128, 256]),
                hidden=tuple(hidden),
                dropout=trial.suggest_float("dropout", 0.0, 0.5),
            )

        began = time.monotonic()
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        study.optimize(objective, n_trials=trials)
        return study.best_value, time.monotonic() - began


def validate(ddp_mlp: Any, run_dir: str, **settings: Any) -> float:
    """Train with these settings; return the validation loss."""
    config = ddp_mlp.Config(
        run_dir=run_dir, valid_fraction=0.2, epochs=30, shards=8, quiet=True, checkpoint_every="30 seconds", **settings
    )
    return float(ddp_mlp.train(config)["valid_loss"])


def same_trials_with_optuna(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the best score and the seconds of the same trials, handed to Optuna one by one (`enqueue_trial`)."""
    import optuna

    import ddp_mlp

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = [row["settings"] for row in rows]
    with tempfile.TemporaryDirectory() as folder:

        def objective(trial: Any) -> float:
            number = trial.suggest_int("number", 0, len(settings) - 1)
            found = {**settings[number], "hidden": tuple(settings[number]["hidden"])}
            return validate(ddp_mlp, f"{folder}/{number}", **found)

        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for number in range(len(settings)):
            study.enqueue_trial({"number": number})
        began = time.monotonic()
        study.optimize(objective, n_trials=len(settings))
        return study.best_value, time.monotonic() - began


def optuna(asked: argparse.Namespace) -> None:
    """Compare with Optuna: the same trials, and its own random ones."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        search(2, run_dir, "--trials", str(asked.trials), "--sampler", "random", *FLAGS)
        final = last_event(run_dir)
        print(f"search, 2 ranks: best {final['score']:.6f}, {final['seconds']:.1f} s", flush=True)
        best, seconds = same_trials_with_optuna(list(table.read(run_dir / table.TABLE).values()))
        same = "the same" if best == final["score"] else "ANOTHER"
        print(f"Optuna, 1 process, the same trials: best {best:.6f} ({same}), {seconds:.1f} s", flush=True)
        best, seconds = objective_with_optuna(asked.trials, 0)
        print(f"Optuna, 1 process, its own random trials: best {best:.6f}, {seconds:.1f} s")


def idle_share(stages: Sequence[Sequence[float]], ranks: int) -> float:
    """Return the share of time in which ranks wait, where each stage's trainings are taken in order by who is free."""
    now = busy = 0.0
    for trainings in stages:
        free = [now] * ranks
        for seconds in trainings:
            heapq.heappush(free, heapq.heappop(free) + seconds)
            busy += seconds
        now = max(free)
    return 1 - busy / (now * ranks)


def simulate(asked: argparse.Namespace) -> None:
    """Play a search of many trials on many ranks, with the times that a real one has measured, again and again."""
    rows = list(table.read(asked.search / table.TABLE).values())
    rungs = max(len(row["rungs"]) for row in rows)
    measured = [
        [fold["seconds"] for row in rows if len(row["rungs"]) > rung for fold in row["rungs"][rung]["folds"]]
        for rung in range(rungs)
    ]
    folds = len(rows[0]["rungs"][0]["folds"])
    print(f"{'trials':>8} {'ranks':>6} {'idle, no halving':>17} {'idle, halving by 3':>19}")
    for trials in asked.trials_of:
        whole = [sum(measured[rung][i % len(measured[rung])] for rung in range(rungs)) for i in range(trials * folds)]
        stages = [
            [measured[rung][i % len(measured[rung])] for i in range(trials // 3**rung * folds)] for rung in range(rungs)
        ]
        plain, halved = idle_share([whole], asked.ranks), idle_share([stage for stage in stages if stage], asked.ranks)
        print(f"{trials:>8} {asked.ranks:>6} {100 * plain:>15.1f} % {100 * halved:>17.1f} %")


def memory(asked: argparse.Namespace) -> None:
    """Measure the memory of ranks that search."""
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        data, space = Path(folder) / "data.h5", Path(folder) / "space.toml"
        memory_of_ranks.write(data, asked.gigabytes)
        space.write_text("learning_rate = { log = [1e-4, 1e-2] }\nhidden = { choice = [[256], [512, 512]] }\n")
        command = ["-m", "ddp_mlp.search", "--data", str(data), "--space", str(space), "--run_dir", f"{folder}/run"]
        command += ["--trials", str(2 * asked.ranks), "--epochs", "1", "--max_steps", "100", "--batch_size", "512"]
        peak = memory_of_ranks.peak_of_ranks(asked.ranks, [*command, "--quiet"])
        print(f"{asked.gigabytes:g} GB, {asked.ranks} ranks that search: peak of the sum of PSS {peak / 1e9:.3f} GB")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, work in (("efficiency", efficiency), ("optuna", optuna)):
        part = commands.add_parser(name)
        part.add_argument("--trials", type=int, default=60)
        part.set_defaults(work=work)
    part = commands.add_parser("steps")
    part.add_argument("--trials", type=int, default=16)
    part.add_argument("--turns", type=int, default=5)
    part.set_defaults(work=steps)
    part = commands.add_parser("simulate")
    part.add_argument("search", type=Path)
    part.add_argument("--ranks", type=int, default=512)
    part.add_argument("--trials_of", type=int, nargs="+", default=[512, 2000, 10_000])
    part.set_defaults(work=simulate)
    part = commands.add_parser("memory")
    part.add_argument("--gigabytes", type=float, default=1.0)
    part.add_argument("--ranks", type=int, default=4)
    part.add_argument("--folder", type=Path)
    part.set_defaults(work=memory)
    asked = parser.parse_args()
    asked.work(asked)


if __name__ == "__main__":
    main()
