"""Limits that are known beforehand are said in one line with numbers, and none ends a command in a traceback.

The limits are real: prlimit, a control group and a tmpfs where this machine lets one be made.
"""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ddp_mlp.parallel import host
from tests.conftest import LAUNCHER_PREFIXES, MPIRUN, ROOT

MEMORY_GROUPS = host.CONTROL_GROUPS / "memory"
DIGITS = ROOT / "data" / "digits.h5"
WIDE = ["--hidden", "3000,3000"]
"""590.2 MiB in all: 9.2 million parameters, their gradients, Adam's state, a checkpoint and its file."""

Limited = Callable[[], object]


def limited(limit: Limited, *command: str | Path, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command alone, under a limit that the child sets for itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)}
    kept |= {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, preexec_fn=limit, capture_output=True, text=True, timeout=55, cwd=cwd, env=kept, check=False
    )


def train(limit: Limited, folder: Path, *flags: str, ranks: int = 1) -> "subprocess.CompletedProcess[str]":
    """Train on the digits in a folder, under a limit."""
    launcher: list[str | Path] = [] if ranks == 1 else [MPIRUN, "-n", str(ranks)]
    command = [*launcher, sys.executable, "-m", "ddp_mlp.train", "--data", DIGITS, "--quiet", "--run_dir", "run"]
    return limited(limit, *command, "--epochs", "1", *flags, cwd=folder)


def to(kind: int, value: int) -> Limited:
    """Return what sets a limit of the process."""
    return lambda: resource.setrlimit(kind, (value, value))


@pytest.fixture
def memory_group() -> Iterator[Limited]:
    """Make a control group with 200 MB, and yield how to enter it; skip where none can be made."""
    group = MEMORY_GROUPS / f"ddp_mlp-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("200000000")
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory control group of version 1 can be made here ({error.strerror})")
    yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()


@pytest.mark.parametrize("flags", [[], ["--describe"]], ids=["train", "describe"])
def test_what_a_control_group_leaves_is_held_against_the_network(
    memory_group: Limited, flags: list[str], tmp_path: Path
) -> None:
    """78 and the numbers before anything is made; a small network trains in the same group."""
    done = train(memory_group, tmp_path, *WIDE, *flags)
    assert done.returncode == 78, done.stderr
    found = re.fullmatch(
        r"error: memory: parameters 35\.2 MiB, gradients [\d.]+ MiB, optimizer 70\.4 MiB, activations [\d.]+ MiB, "
        r"checkpoint 316\.8 MiB, data 137\.6 KiB are: ([\d.]+) MiB, but ([\d.]+) MiB are free: lower hidden.*\n",
        done.stderr,
    )
    assert found, done.stderr
    assert float(found[1]) > 190 > float(found[2])
    assert not (tmp_path / "run").exists()
    assert train(memory_group, tmp_path, "--hidden", "30").returncode == 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_address_space_is_held_against_the_network(ranks: int, tmp_path: Path) -> None:
    """`ulimit -v`: 78 on all ranks, one line, no folder."""
    done = train(to(resource.RLIMIT_AS, 700 << 20), tmp_path, *WIDE, ranks=ranks)
    assert done.returncode == 78, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert re.match(r"error: rank \d needs [\d.]+ MiB of address space, but ulimit -v leaves it [\d.]+ MiB", lines[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mebibytes", [50, 200, 301, 330, 380])
def test_no_lack_of_memory_is_a_traceback(mebibytes: int, tmp_path: Path) -> None:
    """While libraries are loaded, threads started, data read: 78."""
    for module in ("train", "convert"):
        flags = {"train": ["--quiet", "--epochs", "1", "--run_dir", "run"], "convert": ["--inspect", str(DIGITS)]}
        done = limited(
            to(resource.RLIMIT_AS, mebibytes << 20),
            *(sys.executable, "-m", f"ddp_mlp.{module}", *flags[module]),
            cwd=tmp_path,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 78), done.stderr


FIT = """
import sys
import numpy as np
import ddp_mlp
X, y = np.random.default_rng(0).standard_normal((60, 5)), np.arange(60) % 3
made = getattr(ddp_mlp, sys.argv[1])(hidden_layer_sizes=eval(sys.argv[2]), max_iter=1, tol=0, verbose=False)
try:
    made.fit(X, y)
except MemoryError as error:
    print(error)
    print(hasattr(made, "n_iter_"), made.set_params(hidden_layer_sizes=(4,)).fit(X, y).n_iter_)
"""


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("limit", [None, 700 << 20])
def test_an_estimator_says_what_a_network_takes(name: str, limit: int | None, tmp_path: Path) -> None:
    """A MemoryError of one line with numbers before anything is made; the estimator goes on with a smaller network."""
    enter = (lambda: None) if limit is None else to(resource.RLIMIT_AS, limit)
    hidden = "(300000, 300000)" if limit is None else "(5000, 5000)"
    done = limited(enter, sys.executable, "-W", "ignore", "-c", FIT, name, hidden, cwd=tmp_path, DDP_MLP_CACHE="")
    assert done.returncode == 0, done.stderr
    said, after = done.stdout.splitlines()
    if limit is None:
        found = re.fullmatch(
            r"memory: parameters [\d.]+ GiB, .* are: ([\d.]+) TiB, but [\d.]+ .iB are free: (.*)", said
        )
        assert found, said
        assert float(found[1]) > 4 * 3e5**2 / 2**40  # the parameters alone
        assert found[2] == "lower hidden_layer_sizes or batch_size"
    else:
        assert re.match(
            r"rank 0 needs [\d.]+ .iB of address space, but ulimit -v leaves it [\d.]+ MiB: raise that", said
        )
    assert after == "False 1"


def test_an_address_space_that_is_small_damages_no_data(tmp_path: Path) -> None:
    """Data with text of variable length are trained on in 400 MiB; Arrow, which needs more, is refused with numbers."""
    pytest.importorskip("pyarrow")
    (tmp_path / "table.csv").write_text("a,b\n" + "".join(f"{i}.5,{'xy'[i % 2]}\n" for i in range(40)))
    convert: list[str | Path] = [sys.executable, "-m", "ddp_mlp.convert", "table.csv", "table.h5", "--label", "b"]
    assert limited(lambda: None, *convert, cwd=tmp_path).returncode == 0
    few = to(resource.RLIMIT_AS, 400 << 20)
    done = train(few, tmp_path, "--hidden", "4", "--data", "table.h5")
    assert (done.returncode, done.stderr) == (0, "")
    predict: list[str | Path] = [sys.executable, "-m", "ddp_mlp.predict", "run", "table.csv", "-o", "out.csv"]
    for command in (convert, predict):
        done = limited(few, *command, cwd=tmp_path)
        assert done.returncode == 78
        assert re.fullmatch(
            r"error: ulimit -v leaves .* MiB of address space: tables need 330\.0 MiB: .*\n", done.stderr
        )


@pytest.mark.parametrize("descriptors", [5, 8, 10, 12, 16])
def test_few_file_descriptors_are_enough_or_one_line(descriptors: int, tmp_path: Path) -> None:
    """16 are enough for a run; fewer are one line, and nobody is told that a file is damaged."""
    done = train(to(resource.RLIMIT_NOFILE, descriptors), tmp_path, "--hidden", "4")
    assert done.returncode == 0 if descriptors == 16 else done.returncode in (0, 78), done.stderr
    assert len(done.stderr.splitlines()) == (done.returncode != 0)
    assert "damaged" not in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("limits")
    assert train(lambda: None, folder, "--hidden", "4").returncode == 0
    return folder / "run"


def test_a_limit_on_file_sizes_is_one_line(trained: Path, tmp_path: Path) -> None:
    """74 from what writes checkpoints, predictions and data sets; no half of a file stays."""
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *(f"{i % 97},{i % 89},{i % 3}" for i in range(3000))]))
    limit = to(resource.RLIMIT_FSIZE, 8192)
    for flags in (
        ["predict", trained, DIGITS, "-o", "p.h5"],
        ["predict", trained, DIGITS, "-o", "p.csv"],
        ["convert", "t.csv", "x.h5", "--label", "y"],
    ):
        done = limited(limit, sys.executable, "-m", f"ddp_mlp.{flags[0]}", *flags[1:], cwd=tmp_path)
        assert done.returncode == 74, (done.returncode, done.stderr)
        assert re.search(r"^error: .*(File too large|ulimit -f)[^\n]*\n\Z", done.stderr, re.MULTILINE), done.stderr
    done = train(limit, tmp_path, "--hidden", "30")
    assert done.returncode == 74, done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "t.csv"]


def test_a_disk_that_is_full_is_one_line(trained: Path, tmp_path: Path) -> None:
    """On a tmpfs of 40 KiB predict ends with 74, where HDF5 by itself ends in a segmentation fault."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted here")
    try:
        flags: list[str | Path] = [trained, DIGITS, "-o", folder / "p.h5", "--split", "train"]
        command: list[str | Path] = [sys.executable, "-m", "ddp_mlp.predict", *flags]
        done = limited(lambda: None, *command, cwd=tmp_path)
        assert done.returncode == 74, done.stderr
        assert done.stderr == f"error: {folder}/p.h5: cannot be written: No space left on device\n"
        assert not list(folder.iterdir())
    finally:
        subprocess.run(["umount", folder], check=True)


ELSEWHERE = {
    "no HOME": (["env", "-u", "HOME"], []),
    "HOME that is not there": (["env", "HOME=/nonexistent"], []),
    "python -O": ([], ["-O"]),
    "python -OO": ([], ["-OO"]),
    "unbuffered": (["env", "PYTHONUNBUFFERED=1"], []),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_unusual_environment_changes_nothing(kind: str, trained: Path, tmp_path: Path) -> None:
    """Training ends with 0, and so does a page of it, or an export where Python has matplotlib to compile."""
    before, after = ELSEWHERE[kind]
    run = [*before, sys.executable, *after, "-m"]
    flags: list[str | Path] = ["--data", DIGITS, "--quiet", "--epochs", "1", "--hidden", "4", "--run_dir", "run"]
    done = limited(lambda: None, *run, "ddp_mlp.train", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown: list[str | Path] = ["ddp_mlp.export", trained, "out.npz"] if after else ["ddp_mlp.report", trained]
    assert limited(lambda: None, *run, *shown, cwd=tmp_path).returncode == 0


def test_a_folder_that_was_deleted_under_a_command(tmp_path: Path) -> None:
    """What is written elsewhere works; what would go there is one line and 74."""
    gone = tmp_path / "gone"
    gone.mkdir()
    flags = f"--data {DIGITS} --quiet --epochs 1 --hidden 4"
    for run_dir, code in ((f"--run_dir {tmp_path}/run", 0), ("", 74)):
        script = f"cd {gone}; rmdir {gone}; {sys.executable} -m ddp_mlp.train {flags} {run_dir}"
        done = limited(lambda: None, "bash", "-c", script, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == (code != 0)
        gone.mkdir()


def test_alone_no_mpi_library_is_needed(tmp_path: Path) -> None:
    """One that cannot be loaded, or would hang, is not touched without a launcher."""
    broken = tmp_path / "libmpi.so.12"
    broken.write_bytes(b"this is no library")
    flags: list[str | Path] = ["--data", DIGITS, "--quiet", "--epochs", "1", "--hidden", "4", "--run_dir", "run"]
    command = [sys.executable, "-m", "ddp_mlp.train", *flags]
    done = limited(lambda: None, *command, cwd=tmp_path, MPI4PY_LIBMPI=str(broken), LD_LIBRARY_PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("before", "flags", "code", "line"),
    [
        ("ulimit -v 200000", "", 78, "ulimit -v leaves 195.3 MiB of address space: "),
        ("ulimit -n 14", "", 78, ": too many are open: raise ulimit -n"),
        (":", "--wrong 1", 2, 'unknown key "wrong": '),
    ],
    ids=["memory", "files", "flag"],
)
def test_one_rank_that_cannot_begin_ends_all(
    before: str, flags: str, code: int, line: str, rank: int, tmp_path: Path
) -> None:
    """The others have come into MPI, and wait for it; they end with its code, and it says why."""
    whole = f"{sys.executable} -m ddp_mlp.train --data {DIGITS} --quiet --epochs 1 --hidden 4 --run_dir run"
    scripts = [f"exec {whole}", f"exec {whole}"]
    scripts[rank] = f"{before}; exec {whole} {flags}"
    command: list[str | Path] = [MPIRUN, "-n", "1", "sh", "-c", scripts[0], ":", "-n", "1", "sh", "-c", scripts[1]]
    done = limited(lambda: None, *command, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
