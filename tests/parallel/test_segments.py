"""Tests of parallel/segments.py: what killed jobs leave in shared memory is found and removed, and nothing else is."""

import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ddp_mlp.parallel.host import SHARED_MEMORY
from ddp_mlp.parallel.segments import dead
from tests.conftest import MPIRUN, Program

CONNECTED = """
import time
from ddp_mlp.parallel.mpi import connect
connect()
print("here", flush=True)
time.sleep(50)
"""
LONG_AGO = time.time() - 1000


def put(path: Path, when: float = LONG_AGO) -> Path:
    """Make a file of a page, as old as that."""
    path.write_bytes(bytes(4096))
    os.utime(path, (when, when))
    return path


def test_what_is_old_and_of_no_process_is_dead(tmp_path: Path) -> None:
    """MPICH's segments, its windows and this program's files; not what is mapped, young, or of another name."""
    names = ("mpich_shm_25ea7198_0", "mpich_shar_tmpab12XY", "ddp_mlp-a1b2c3d_")
    expected = [(put(tmp_path / name), 4096) for name in names]
    put(tmp_path / "sem.other")
    put(tmp_path / "mpich_shm_of_mine")
    put(tmp_path / "mpich_shm_30d64b9f_0", time.time())
    foreign = tmp_path / os.fsdecode(b"caf\xe9")  # processes may map files whose names are not UTF-8
    with (
        put(tmp_path / "mpich_shm_41956a5c_0").open("r+b") as file,
        mmap.mmap(file.fileno(), 4096),
        put(foreign).open("r+b") as other,
        mmap.mmap(other.fileno(), 4096),
    ):
        assert dead(tmp_path) == sorted(expected)
    assert len(dead(tmp_path)) == len(expected) + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's files need root")
def test_what_another_user_has_left_stays(tmp_path: Path) -> None:
    """A segment of another owner is none of ours."""
    os.chown(put(tmp_path / "mpich_shm_25ea7198_0"), 12345, 12345)
    assert dead(tmp_path) == []


def test_the_next_start_removes_what_a_killed_job_has_left(mpirun: Program, run_python: Program) -> None:
    """A job of which all is killed leaves a segment: the doctor tells of it, and the next start removes it."""
    if MPIRUN.with_name("ompi_info").exists():
        pytest.skip("Open MPI cleans up otherwise")
    before = set(SHARED_MEMORY.glob("mpich_shm_*"))
    command: list[str | Path] = [MPIRUN, "-n", "2", sys.executable, "-c", CONNECTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as job:
        assert job.stdout is not None
        assert [job.stdout.readline() for _ in range(2)] == ["here\n"] * 2
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if CONNECTED in (process / "cmdline").read_text() and int(process.name) != job.pid:
                    lines = (process / "maps").read_text().splitlines()
                    found |= {Path(line.split()[-1]) for line in lines if "/dev/shm/mpich_shm" in line}
                    os.kill(int(process.name), signal.SIGKILL)
        job.kill()
    left = found - before
    assert len(left) == 1
    segment = left.pop()
    time.sleep(0.5)
    assert segment.exists()
    os.utime(segment, (LONG_AGO, LONG_AGO))
    told = run_python("-m", "ddp_mlp.doctor").stdout
    assert "of killed jobs" in told
    done = mpirun(2, "-c", "from ddp_mlp.parallel.mpi import connect; connect().leave(0)")
    assert done.returncode == 0, done.stderr
    assert not segment.exists()
