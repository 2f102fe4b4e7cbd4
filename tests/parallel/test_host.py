"""What a process finds out about its machine, against files as the kernel writes them."""

import math
import os
from pathlib import Path

import pytest

from ddp_mlp.parallel.host import cores, free_memory, memory_left_by_control_groups, processor_quota, shared_memory


def test_this_machine_has_free_memory() -> None:
    """It is some, less than all there is; shared memory is at most that."""
    total = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1])
    assert 0 < free_memory(shared=True) <= total * 1024
    assert 0 < free_memory(shared=False) <= total * 1024
    assert free_memory(shared=True) <= shared_memory().total


def test_cores_are_those_this_process_may_use() -> None:
    """A process that is bound to one core sees one."""
    allowed = os.sched_getaffinity(0)
    assert cores() == allowed
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == {min(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)


def write_group(folder: Path, names: tuple[str, str, str], limit: str, used: int, droppable: int) -> None:
    """Write what a control group says of its memory."""
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {droppable}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_memory_limit_counts(version: int, tmp_path: Path) -> None:
    """Of a job's group and those above it: the limit less what is used, but for pages of files, which can go."""
    if version == 2:
        names, top, line = ("memory.max", "memory.current", "inactive_file"), tmp_path, "0::/job/step\n"
    else:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        top, line = tmp_path / "memory", "5:devices:/\n4:cpu,memory:/job/step\n"
    write_group(top / "job", names, "1000", 700, 100)
    write_group(top / "job" / "step", names, "max" if version == 2 else str(2**63 - 4096), 300, 0)
    own = tmp_path / "own"
    own.write_text(line)
    assert memory_left_by_control_groups(tmp_path, own) == 400


def test_a_control_group_of_any_name_is_found(tmp_path: Path) -> None:
    """Names of groups are bytes, which need not be UTF-8."""
    own = tmp_path / "own"
    own.write_bytes(b"0::/caf\xe9\n")
    write_group(tmp_path / os.fsdecode(b"caf\xe9"), ("memory.max", "memory.current", "inactive_file"), "1000", 700, 100)
    assert memory_left_by_control_groups(tmp_path, own) == 400


def test_the_tightest_quota_counts(tmp_path: Path) -> None:
    """Limits on processor time are read in both versions of control groups, of all groups above; none is infinite."""
    own, old = tmp_path / "own", tmp_path / "cpu"
    own.write_text("4:cpu,cpuacct:/\n0::/job/step\n")
    assert processor_quota(tmp_path, own) == math.inf
    old.mkdir()
    (old / "cpu.cfs_quota_us").write_text("-1\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    assert processor_quota(tmp_path, own) == math.inf
    (old / "cpu.cfs_quota_us").write_text("250000\n")
    assert processor_quota(tmp_path, own) == 2.5
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "cpu.max").write_text("150000 100000\n")
    assert processor_quota(tmp_path, own) == 1.5
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert processor_quota(tmp_path, own) == 1.5


def test_a_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    """What is not told is no limit."""
    nowhere = tmp_path / "nothing here"
    assert processor_quota(tmp_path, nowhere) == memory_left_by_control_groups(tmp_path, nowhere) == math.inf
