"""Tests of parallel/mapping.py and of runs where /dev/shm is small: files in its place, one line, or no sharing."""

import errno
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ddp_mlp.parallel import mapping
from tests.conftest import MPIRUN, Program

TRAIN = ("-m", "ddp_mlp.train", "--epochs", "1", "--quiet", "--hidden", "[900,900]")
SMALL = """
mount -t tmpfs -o size="$1" tmpfs /dev/shm
mount -t tmpfs -o size="$2" tmpfs "$3"
export TMPDIR="$3"
shift 3
timeout 50 "$@" && code=0 || code=$?
find /dev/shm "$TMPDIR" -type f
exit $code
"""


@pytest.fixture(scope="module")
def wanted(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the hash of the run in one process, which shares nothing."""
    done = run_python(*TRAIN, "--run_dir", tmp_path_factory.mktemp("alone"))
    assert done.returncode == 0, done.stderr
    return str(done.stdout.split()[-1])


def test_two_processes_see_the_same_bytes(tmp_path: Path) -> None:
    """What one writes the other reads; the bytes begin as zeros and outlive the file's name."""
    path = mapping.make(tmp_path, 3 * 4096)
    sizes = [4096, 0, 8192]
    first = mapping.join(path, sizes, 0)
    child = os.fork()
    if child == 0:
        mine = mapping.join(path, sizes, 2)
        zeros = not any(part.any() for part in mine)
        mine[2][...] = 7
        os._exit(0 if zeros and [len(part) for part in mine] == sizes else 1)
    assert os.waitpid(child, 0)[1] == 0
    path.unlink()
    assert np.array_equal(first[2], np.full(8192, 7))
    assert not first[0].any()


def test_what_a_file_system_has_not_is_an_error_and_no_bus_error(in_namespace: Program, tmp_path: Path) -> None:
    """Bytes are reserved before anything is mapped; a file that is too large leaves nothing behind."""
    program = (
        "import sys; from pathlib import Path; from ddp_mlp.parallel import mapping\n"
        "path = mapping.make(Path(sys.argv[1]), 1 << 22)\n"
        "try:\n    mapping.join(path, [1 << 22], 0)\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    script = 'mount -t tmpfs -o size=1m tmpfs "$1"; "$2" -c "$3" "$1"'
    done = in_namespace(script, tmp_path, sys.executable, program)
    assert done.stdout.split() == [str(errno.ENOSPC)], done.stderr


@pytest.mark.parametrize(
    ("room", "files", "code", "said"),
    [
        ("100m", "1m", 0, ""),
        ("8m", "100m", 0, r"warning: /dev/shm: No space left on device: what ranks share on \S+ lies in files in \S+"),
        (
            "8m",
            "1m",
            78,
            r"error: [\d.]+ MiB of shared memory are needed on .*: enlarge /dev/shm .* shared_memory = off",
        ),
        (
            "1m",
            "100m",
            78,
            r"error: /dev/shm is too small: .* are free on .*, and MPI takes 3.1 MiB: .*",
        ),
    ],
)
def test_small_shared_memory(
    room: str, files: str, code: int, said: str, in_namespace: Program, tmp_path: Path, wanted: str
) -> None:
    """Three ranks with that much in /dev/shm and in TMPDIR: the same bits, or one line; nothing is left there."""
    if not MPIRUN.exists() or MPIRUN.with_name("ompi_info").exists():
        pytest.skip("the figures are MPICH's")
    folder = tmp_path / "files"
    folder.mkdir()
    job = [MPIRUN, "-n", "3", sys.executable, *TRAIN, "--run_dir", tmp_path / "run"]
    done = in_namespace(SMALL, room, files, folder, *job)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "warning: "))]
    assert len(lines) == bool(said), done.stderr
    assert re.fullmatch(said, "".join(lines))
    if code == 0:
        assert done.stdout.split()[-1] == wanted  # and no file after it
    else:
        assert done.stdout == ""


def test_ranks_that_share_nothing_have_the_same_bits(mpirun: Program, tmp_path: Path, wanted: str) -> None:
    """With shared_memory = off each rank is a node of its own."""
    done = mpirun(3, *TRAIN, "--shared_memory", "off", "--run_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == wanted
    assert '"nodes": 3' in (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
