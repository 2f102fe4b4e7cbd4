"""What is judged of ranks, cores, shared memory and rates: pure functions of what was found."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ddp_mlp.examination.finding import Finding
from ddp_mlp.parallel.host import FileSystemSize, cores, host_name, processor_quota, shared_memory
from ddp_mlp.units import byte_size, counted

SHARED_MEMORY_AT_LEAST = 32 << 20
"""Bytes: below this MPI itself may die of a bus error while it starts; MPICH takes about 10 MiB for two ranks."""
RANK_SHARE_AT_LEAST = 0.6
"""Of the rate of one rank alone, when all compute."""
REDUCTION_AT_LEAST = 0.05e9
"""Bytes of gradient per second; a Gigabit Ethernet gives about twice as much."""


class Place(NamedTuple):
    """What a rank can say about where it runs."""

    host: str
    cores: frozenset[int]
    """That its processes may run on."""
    quota: float
    """Processor time it may use, in cores; infinite where there is no limit."""
    shared_memory: FileSystemSize
    """Bytes free and in all in /dev/shm."""


def look_around() -> Place:
    """Return what this process can see of its machine. Local."""
    return Place(host_name(), cores(), processor_quota(), shared_memory())


def judge_ranks(places: Sequence[Place], pretended_nodes: int) -> Finding:
    """Say how many ranks there are, and where."""
    per_host = {host: len(members) for host, members in by_host(places).items()}
    found = ", ".join(f"{host} ({count})" for host, count in list(per_host.items())[:16])
    more = f" and {len(per_host) - 16} more" if len(per_host) > 16 else ""
    pretended = f"; DDP_MLP_NODE_SIZE makes {pretended_nodes} nodes of them" if pretended_nodes != len(per_host) else ""
    return Finding(
        "ranks",
        True,
        f"{len(places)} on {counted(len(per_host), 'host')}: {found}{more}{pretended}",
        values={"ranks": len(places), "hosts": per_host},
    )


def judge_cores(places: Sequence[Place], threads: int) -> Finding:
    """Compare the cores that each host's ranks may use with the threads that they will run."""
    problems, values = [], {}
    for host, members in by_host(places).items():
        allowed = [places[rank].cores for rank in members]
        available = frozenset().union(*allowed)
        wanted = threads * len(members)
        seated = seats(allowed, threads)
        quota = min(places[rank].quota for rank in members)
        values[host] = {"cores": len(available), "ranks": len(members), "threads": wanted, "quota": min(quota, 1e9)}
        if seated < wanted:
            problems.append(
                f"{host}: {counted(len(members), 'rank')} × {counted(threads, 'thread')} on "
                f"{counted(len(available), 'core')} ({core_ranges(available)}), {wanted - seated} too few"
            )
        elif quota < wanted:
            problems.append(f"{host}: {counted(wanted, 'thread')}, but a limit of {quota:g} cores of processor time")
    if problems:
        do = "start fewer ranks or threads there, or give each its own cores (srun --cpus-per-task, mpirun -bind-to)"
        return Finding("cores", False, "; ".join(problems), do, values)
    found = "; ".join(
        f"{host}: {v['cores']} for {counted(int(v['threads']), 'thread')}" for host, v in list(values.items())[:16]
    )
    return Finding("cores", True, found, values=values)


def judge_shared_memory(places: Sequence[Place], left: Sequence[tuple[str, int]] = ()) -> Finding:
    """Judge the room in /dev/shm, where a host's ranks keep data, parameters and partial sums.

    `left` are names and bytes of what killed jobs have left there.
    """
    free = {host: min(places[rank].shared_memory for rank in members) for host, members in by_host(places).items()}
    host, (least, total) = min(free.items(), key=lambda item: item[1])
    found = f"{byte_size(least)} free of {byte_size(total)}" + (f" on {host}, the least" if len(free) > 1 else "")
    if left:
        found += f"; {len(left)} segment(s) of killed jobs, {byte_size(sum(size for _, size in left))}"
        found += ", which the start of the next job removes"
    do = (
        "make it larger: docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm; it holds a run's data and sums"
    )
    fine = least >= SHARED_MEMORY_AT_LEAST
    return Finding(
        "/dev/shm",
        fine,
        found,
        "" if fine else do,
        {"free": least, "total": total, "host": host, "left": [name for name, _ in left]},
    )


def judge_rates(alone: float, together: Sequence[float], hosts: Sequence[str]) -> Finding:
    """Compare what one rank computes alone with what each does when all compute; GFLOP/s."""
    slowest = min(range(len(together)), key=lambda rank: together[rank])
    values = {"alone": round(alone, 2), "together": [round(rate, 2) for rate in together]}
    found = f"{alone:.1f} GFLOP/s on rank 0 alone"
    if len(together) > 1:
        low, high = min(together), max(together)
        found += f"; all at once {low:.1f} to {high:.1f} each, {sum(together):.0f} in all"
    if together[slowest] >= RANK_SHARE_AT_LEAST * alone:
        return Finding("products", True, found, values=values)
    return Finding(
        "products",
        False,
        f"{found}; rank {slowest} on {hosts[slowest]} has {together[slowest] / alone:.0%} of it",
        "look for other programs on that host, ranks that share a core, or a processor that is throttled",
        values,
    )


def judge_reduction(seconds: Mapping[int, float]) -> Finding:
    """Judge how fast a gradient is summed over all ranks; `seconds` by number of float32 parameters."""
    if not seconds:
        return Finding("reduction", False, "not timed: too little room in /dev/shm", "see the line /dev/shm")
    rates = {count: 4 * count / time_taken for count, time_taken in seconds.items()}
    found = ", ".join(f"{count:,}: {1e3 * seconds[count]:.2f} ms ({rates[count] / 1e9:.2f} GB/s)" for count in seconds)
    values = {str(count): {"seconds": seconds[count], "bytes_per_second": rates[count]} for count in seconds}
    fine = rates[max(rates)] >= REDUCTION_AT_LEAST
    do = "" if fine else "check that ranks have cores of their own, and that MPI uses the fast network between hosts"
    return Finding("reduction", fine, f"parameters: {found}", do, values)


def judge_lines(nodes: Sequence[tuple[float, Sequence[float]]]) -> Finding:
    """Tell what ranks of one node cost one another; `nodes` has each node's barrier and cost of a line, in seconds."""
    barrier = max(seconds for seconds, _ in nodes)
    lines = [cost for _, costs in nodes for cost in costs]
    values = {"barrier_seconds": barrier, "line_seconds": lines}
    found = f"a barrier takes {1e6 * barrier:.1f} µs"
    if lines:
        low, high = f"{1e9 * min(lines):.0f}", f"{1e9 * max(lines):.0f}"
        found += f"; to write a line that another rank has read, {low if low == high else f'{low} to {high}'} ns more"
    return Finding("latency", True, found, values=values)


def by_host(places: Sequence[Place]) -> dict[str, list[int]]:
    """Return the ranks on each host."""
    hosts: dict[str, list[int]] = {}
    for rank, place in enumerate(places):
        hosts.setdefault(place.host, []).append(rank)
    return hosts


def seats(allowed: Sequence[frozenset[int]], threads: int) -> int:
    """Return how many threads can have a core to themselves: `threads` per set of allowed cores.

    A maximum matching, by augmenting paths (Kuhn, "The Hungarian method", 1955).
    """
    holder: dict[int, int] = {}

    def seat(rank: int, tried: set[int]) -> bool:
        free = [core for core in allowed[rank] if core not in holder]
        if free:
            holder[free[0]] = rank
            return True
        for core in allowed[rank] - tried:
            tried.add(core)
            if core in holder and seat(holder[core], tried):
                holder[core] = rank
                return True
        return False

    return sum(seat(rank, set()) for rank in range(len(allowed)) for _ in range(threads))


def core_ranges(cores: Iterable[int]) -> str:
    """Return the numbers as ranges, such as 0-3,8."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][1] + 1:
            parts[-1][1] = core
        else:
            parts.append([core, core])
    return ",".join(str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi in parts)
