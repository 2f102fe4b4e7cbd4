"""Let storage fail under a run, at any of its calls: `python scripts/tools/storage_faults.py --faults 2000`.

`storage_faults.c` is compiled and preloaded (Linux, a C compiler). Each case trains a small network in a folder of its
own, in a forked child, in which one call, a few or all from some number on fail: an open, write, sync, truncate,
rename, unlink or close, with ENOSPC, EIO, EDQUOT, EROFS or EMFILE, or a write that is cut short. After that

- the exit code is 0 or 74, with one line for an error, and no traceback;
- `metrics.jsonl` is whole: every line an event, steps in their order and none twice; lines are lacking where a run went
  on in spite of errors, as many as it said;
- every checkpoint under its name is whole;
- the same command, with storage that works, ends with the parameters of a run that was left alone and, where no line
  was given up, with each step once in its journal; no temporary file is left. Where a run has gone on without its best
  checkpoint, it says so (65), and ends with its last parameters instead.

Exit code 1 if any of that does not hold.
"""

# ruff: noqa: E402 - threads and MPI are settled before anything that would start them is imported

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # a child forked from threads would miss them

import argparse
import collections
import contextlib
import ctypes
import errno
import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.modules["mpi4py"] = None  # type: ignore[assignment] # one process: starting MPI takes longer than a case

from ddp_mlp.errors import DataError
from ddp_mlp.explaining import describe, teach
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.writer import DatasetWriter
from ddp_mlp.train import main as train
from ddp_mlp.training import loop

LOADED_ONCE = (describe, teach, loop)
"""What training imports late: here before there are children."""
SOURCE = Path(__file__).with_suffix(".c")
KINDS = ("open", "write", "sync", "truncate", "rename", "unlink", "close")
"""Of calls, in the order of the library's."""
SHORT, TORN = -1, -2
OUTCOMES = {
    "open": ("ENOSPC", "EIO", "EROFS", "EMFILE"),
    "write": ("ENOSPC", "EIO", "EDQUOT", "short", "torn"),
    "sync": ("EIO", "ENOSPC"),
    "truncate": ("EIO",),
    "rename": ("EIO", "ENOSPC"),
    "unlink": ("EIO",),
    "close": ("EIO", "EDQUOT"),
}
"""How a call of each kind fails."""
MEMORY = Path("/dev/shm")
"""Where files are that need no disk: real syncs would take most of the time."""
SECONDS = 30
STEPS = 15


class Fault(NamedTuple):
    """Calls that fail."""

    kind: str
    outcome: str
    first: int
    last: int

    @property
    def code(self) -> int:
        """The outcome as the library has it."""
        return {"short": SHORT, "torn": TORN}.get(self.outcome) or int(getattr(errno, self.outcome))


class Failure(Exception):
    """A promise that was not kept."""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--faults", type=int, default=200, metavar="N", help="calls, or rows of calls, that fail (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first case (0)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        if "STORAGE_FAULTS" not in os.environ:
            return preloaded(Path(name))
        return attack(asked.seed, range(asked.first, asked.first + asked.faults), Path(name))


def preloaded(folder: Path) -> int:
    """Compile the library, and run this program once more above it."""
    library = folder / "storage_faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "STORAGE_FAULTS": str(library)}
    return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


def attack(seed: int, numbers: range, folder: Path) -> int:
    """Run the cases, and tell of those in which a promise was not kept."""
    library = ctypes.CDLL(os.environ["STORAGE_FAULTS"])
    library.storage_faults_counted.restype = ctypes.c_long
    rng = np.random.default_rng(0)
    with DatasetWriter(folder / "data.h5", {"train": 40, "valid": 20}, 3, np.dtype(np.float32), 3) as writer:
        for split, rows in (("train", 40), ("valid", 20)):
            writer.append(split, rng.standard_normal((rows, 3)).astype(np.float32), np.arange(rows) % 3)
    alone = folder / "alone"
    started = time.monotonic()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    if run(library, alone, None, "stop") != 0:
        raise SystemExit(Path(f"{alone}.log").read_text())
    wanted, calls = events(alone)[-1]["parameters_sha256"], json.loads(Path(f"{alone}.calls").read_text())
    print(f"undisturbed: {', '.join(f'{name} {calls[name]}' for name in KINDS)}; {wanted}", flush=True)
    hit, failures = collections.Counter[str](), 0
    for number in numbers:
        fault, on_save_error = draw(random.Random(f"{seed} {number}"), calls)
        run_dir = folder / str(number)
        try:
            hit[check(library, run_dir, fault, on_save_error, str(wanted))] += 1
        except Failure as failure:
            failures += 1
            print(f"case {number}: {fault} with on_save_error = {on_save_error}: {failure}", flush=True)
        shutil.rmtree(run_dir, ignore_errors=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = ", ".join(f"{name} {count}" for name, count in sorted(hit.items()))
    seconds = f"{time.monotonic() - started:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor time"
    print(f"{len(numbers)} faults with seed {seed} in {seconds} ({told}): {failures} failures", flush=True)
    return 1 if failures else 0


def draw(rng: random.Random, calls: dict[str, int]) -> tuple[Fault, str]:
    """Return a fault of a run that makes so many calls, and what the run does about it."""
    kind = rng.choice([name for name in KINDS if calls[name]])
    first = rng.randint(1, calls[kind])
    last = first + rng.choice((0, 0, 0, 2, 10**6))
    return Fault(kind, rng.choice(OUTCOMES[kind]), first, last), rng.choice(("stop", "continue"))


def run(library: ctypes.CDLL, run_dir: Path, fault: Fault | None, on_save_error: str, restore_best: bool = True) -> int:
    """Train in a child whose storage fails; return its exit code. Its output and calls lie beside the folder."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            descriptor = os.open(f"{run_dir}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            signal.alarm(SECONDS)
            kind = -1 if fault is None else KINDS.index(fault.kind)
            what, first, last = (0, 0, 0) if fault is None else (fault.code, fault.first, fault.last)
            library.storage_faults_arm(f"{run_dir}/".encode(), kind, what, ctypes.c_long(first), ctypes.c_long(last))
            flags = {
                "data": run_dir.with_name("data.h5"),
                "run_dir": run_dir,
                "hidden": 3,
                "batch_size": 8,
                "epochs": 3,
            }
            flags |= {"checkpoint_every": 2, "log_every": 1, "on_save_error": on_save_error, "stall_seconds": 0}
            flags |= {"keep": 2, "restore_best": str(restore_best).lower(), "quiet": "true", "shards": 1}
            train(
                [
                    word
                    for name, value in flags.items()
                    for word in (f"--{name}", str(value).lower() if value is False else str(value))
                ]
            )
        except SystemExit as ending:
            code = int(ending.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            library.storage_faults_arm(b"", -1, 0, ctypes.c_long(0), ctypes.c_long(0)) if fault is not None else None
            counts = {name: library.storage_faults_counted(i) for i, name in enumerate(KINDS)}
            Path(f"{run_dir}.calls").write_text(json.dumps(counts))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check(library: ctypes.CDLL, run_dir: Path, fault: Fault, on_save_error: str, wanted: str) -> str:
    """Let a run meet a fault, look at what it leaves, and go on; return how it ended. Raises Failure."""
    code = run(library, run_dir, fault, on_save_error)
    said = Path(f"{run_dir}.log").read_text(errors="replace")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    without_best = on_save_error == "continue" and "go on without restore_best" in said
    if code not in (0, 65 if without_best else 74) or "Traceback" in said or len(errors) != (code != 0):
        raise Failure(f"exit code {code}: {said[-600:]}")
    lost = sum(map(int, re.findall(r"lacks (\d+) line", said)))
    check_journal(run_dir, lost, code == 0)
    check_checkpoints(run_dir)
    if code == 0 and events(run_dir)[-1].get("parameters_sha256", wanted) != wanted:
        raise Failure("other parameters at the end")
    again = run(library, run_dir, None, on_save_error)
    said = Path(f"{run_dir}.log").read_text(errors="replace")
    if again == 65 and on_save_error == "continue" and "best.h5: is of epoch" in said:
        again = run(library, run_dir, None, on_save_error, restore_best=False)
        said, wanted = Path(f"{run_dir}.log").read_text(errors="replace"), "parameters_sha256"
    if again != 0:
        raise Failure(f"then exit code {again} with storage that works: {said[-600:]}")
    if wanted not in said:
        raise Failure(f"not {wanted} in the end: {said[-600:]}")
    check_journal(run_dir, lost, True)
    if stray := [path.name for path in run_dir.rglob("*.tmp-*")]:
        raise Failure(f"stray files: {stray}")
    return ("ended by it" if code else "went on") if said or errors else "no notice"


def events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the journal's events. Raises Failure where a line is none."""
    path = run_dir / "metrics.jsonl"
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):
        raise Failure(f"the journal ends with {text[-40:]!r}")
    try:
        return [dict(json.loads(line)) for line in text.splitlines()]
    except ValueError as error:
        raise Failure(f"the journal has a line that is no event: {error}") from None


def check_journal(run_dir: Path, lost: int, complete: bool) -> None:
    """See that the journal has each step once, in order, but for so many lines that were lost. Raises Failure."""
    steps = [event["step"] for event in events(run_dir) if event["event"] == "step"]
    if steps != sorted(set(steps)):
        raise Failure(f"the journal has the steps {steps}")
    lacking = set(range(1, STEPS + 1 if complete else max(steps, default=0) + 1)) - set(steps)
    if len(lacking) > lost:
        raise Failure(f"the journal lacks the steps {sorted(lacking)}, and {lost} line(s) were said to be lost")


def check_checkpoints(run_dir: Path) -> None:
    """See that every checkpoint is whole. Raises Failure."""
    for path in (run_dir / "checkpoints").glob("*.h5"):
        try:
            checkpoints.load(path)
        except DataError as error:
            raise Failure(str(error)) from None


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
