"""What this process can find out about its machine: the name, cores, memory, and what control groups leave of them.

Invariants:
- all here is local, and nothing is written;
- of a job's control group and those above it (versions 1 and 2), the tightest limit counts; what a system does not tell
  is taken to be no limit.
"""

import math
import os
import platform
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
SHARED_MEMORY = Path("/dev/shm")
PROCESSOR = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class FileSystemSize(NamedTuple):
    """Bytes of a file system."""

    free: int
    total: int


def host_name() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def text_of(path: Path) -> str:
    """Return a file of the system's that has names in it, which need not be UTF-8. Raises OSError."""
    return os.fsdecode(path.read_bytes())


@cache
def processor_model() -> str:
    """Return what this machine's processor is: maker, family, model and cache, as far as the system tells."""
    told: dict[str, str] = {}
    with suppress(OSError):
        for line in PROCESSOR.read_text().splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
            if not line and told:
                break  # the other cores are its like
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU part", "cpu")
    words = [told[name] for name in names if name in told]
    with suppress(OSError):
        words += [f"L{level} {(CACHES / f'index{level}' / 'size').read_text().strip()}" for level in (2, 3)]
    return " ".join(words) or platform.machine()


def cores() -> frozenset[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def processor_quota(root: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> float:
    """Return the processor time, in cores, that control groups leave to this process; infinite without a limit."""
    quota = math.inf
    for version, group in _groups("cpu", root, own):
        with suppress(OSError, ValueError):
            if version == 2:
                allowed, period = (group / "cpu.max").read_text().split()
            else:
                allowed, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(allowed) > 0:
                quota = min(quota, int(allowed) / int(period))
    return quota


def shared_memory() -> FileSystemSize:
    """Return the room in /dev/shm; as much as can be where a system has none."""
    return _size_of(SHARED_MEMORY)


def places_to_share() -> list[Path]:
    """Return the folders in which memory that processes share may lie, the best first."""
    found = [SHARED_MEMORY]
    with suppress(OSError):
        found.append(Path(tempfile.gettempdir()))
    return [folder for folder in found if folder.is_dir()]


def free_memory(shared: bool) -> int:
    """Return the bytes that this process's node can still give out, `shared` among processes or not.

    The least of what the system has available, what control groups leave, and, for shared memory, the room in the
    place that has the most.
    """
    least = min(_available(), memory_left_by_control_groups())
    if shared:
        least = min(least, max((_size_of(folder).free for folder in places_to_share()), default=0))
    return int(least) if math.isfinite(least) else 1 << 62


def address_space_left() -> float:
    """Return the bytes that this process may still map, as `ulimit -v` has it; infinite without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return limit


def _size_of(folder: Path) -> FileSystemSize:
    try:
        status = os.statvfs(folder)
    except OSError:
        return FileSystemSize(sys.maxsize, sys.maxsize)
    return FileSystemSize(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)


def memory_left_by_control_groups(root: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> float:
    """Return the least bytes that a group leaves; pages of files can be dropped, and count as free."""
    least = math.inf
    for version, group in _groups("memory", root, own):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit, usage, droppable = names
        with suppress(OSError, ValueError):  # no such group, or its limit is "max"
            allowed, used = int((group / limit).read_text()), int((group / usage).read_text())
            found = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            least = min(least, max(0, allowed - used + int(found.get(droppable, 0))))
    return least


def _groups(controller: str, root: Path, own: Path) -> Iterator[tuple[int, Path]]:
    """Yield (version, folder) of this process's control group and of all above it, the innermost first."""
    with suppress(OSError):
        for line in text_of(own).splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers == "":
                version, top = 2, root
            elif controller in controllers.split(","):
                version, top = 1, root / controller
            else:
                continue
            group = top / place.strip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(top):
                    break
                yield version, folder


def _available() -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf
