"""Examine the machine before a run: `python -m ddp_mlp.doctor`, alone or under mpirun or srun.

Every line says what was found, whether that is fine, and what to do if it is not. A check looks at what a run would
depend on, in the way a run would use it; nothing stays behind. What could keep MPI from starting is judged first, so
that a launcher that does not match its library, or too little shared memory, is a line as well.
"""

import fcntl
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ddp_mlp.command import THREAD_VARIABLES, Parser, exit_before_mpi
from ddp_mlp.errors import ConfigError, EnvironmentMismatch, ProgramError, printable
from ddp_mlp.parallel.host import Room, cores, host_name, processor_quota, shared_memory

if TYPE_CHECKING:
    from ddp_mlp.parallel.communicator import Communicator

MIB = 1 << 20
SHARED_MEMORY_AT_LEAST = 32 * MIB
"""Below this MPI itself may die of a bus error while it starts: MPICH takes about 10 MiB for two ranks."""
FREE_AT_LEAST = 1024 * MIB
FSYNC_AT_MOST = 0.2
"""Seconds: a run whose checkpoint takes longer to reach the disk waits for it."""
RANK_SHARE_AT_LEAST = 0.6
"""Of the rate of one rank alone, when all compute."""
REDUCTION_AT_LEAST = 0.05e9
"""Bytes of gradient per second; a Gigabit Ethernet gives about twice as much."""
REDUCED = (10_000, 100_000, 1_000_000, 4_000_000)
"""Parameters whose sum over all ranks is timed."""
MEASURED_SECONDS = 0.3
DEADLINE_SECONDS = 60.0
SILENT_SECONDS = 10.0
"""So long a process waits that leaves the word to another: Open MPI ends the job when the first one exits."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    check: str
    fine: bool
    found: str
    do: str = ""
    """What to do where it is not fine."""
    values: dict[str, Any] = field(default_factory=dict)
    """The figures of `found`, for programs."""


class Place(NamedTuple):
    """What a rank can say about where it runs."""

    host: str
    cores: frozenset[int]
    """That its processes may run on."""
    quota: float
    """Processor time it may use, in cores; infinite where there is no limit."""
    shared_memory: Room
    """Bytes free and in all in /dev/shm."""


# --- Judgements: pure functions of what was found ---------------------------------------------------------------------


def judge_ranks(places: Sequence[Place], pretended_nodes: int) -> Finding:
    """Say how many ranks there are, and where."""
    per_host = {host: len(members) for host, members in by_host(places).items()}
    found = ", ".join(f"{host} ({count})" for host, count in list(per_host.items())[:16])
    more = f" and {len(per_host) - 16} more" if len(per_host) > 16 else ""
    pretended = f"; DDP_MLP_NODE_SIZE makes {pretended_nodes} nodes of them" if pretended_nodes != len(per_host) else ""
    return Finding(
        "ranks",
        True,
        f"{len(places)} on {len(per_host)} host(s): {found}{more}{pretended}",
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
                f"{host}: {len(members)} rank(s) × {threads} thread(s) on {len(available)} core(s) "
                f"({numbers(available)}), {wanted - seated} thread(s) have none of their own"
            )
        elif quota < wanted:
            problems.append(f"{host}: {wanted} threads, but a limit of {quota:g} cores of processor time")
    if problems:
        do = "start fewer ranks or threads there, or give each its own cores (srun --cpus-per-task, mpirun -bind-to)"
        return Finding("cores", False, "; ".join(problems), do, values)
    found = "; ".join(f"{host}: {v['cores']} for {v['threads']} thread(s)" for host, v in list(values.items())[:16])
    return Finding("cores", True, found, values=values)


def judge_shared_memory(places: Sequence[Place]) -> Finding:
    """Judge the room in /dev/shm, where a host's ranks keep data, parameters and partial sums."""
    free = {host: min(places[rank].shared_memory for rank in members) for host, members in by_host(places).items()}
    host, (least, total) = min(free.items(), key=lambda item: item[1])
    found = f"{size(least)} free of {size(total)}" + (f" on {host}, the least" if len(free) > 1 else "")
    do = (
        "make it larger: docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm; it holds a run's data and sums"
    )
    fine = least >= SHARED_MEMORY_AT_LEAST
    return Finding("/dev/shm", fine, found, "" if fine else do, {"free": least, "total": total, "host": host})


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


def numbers(cores: Iterable[int]) -> str:
    """Return the numbers as ranges, such as 0-3,8."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][1] + 1:
            parts[-1][1] = core
        else:
            parts.append([core, core])
    return ",".join(str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi in parts)


def size(count: float) -> str:
    """Return bytes in words."""
    return f"{count / MIB:,.0f} MiB" if count < 10 * 1024 * MIB else f"{count / 1024 / MIB:,.0f} GiB"


# --- What a rank sees, without MPI ------------------------------------------------------------------------------------


def look_around() -> Place:
    """Return what this process can see of its machine. Local."""
    return Place(host_name(), cores(), processor_quota(), shared_memory())


def launcher() -> tuple[str, int]:
    """Return what the launcher set to tell this process the size of its job, and that size: 1 without one. Local."""
    from ddp_mlp.parallel.launcher import LAUNCHED_SIZE

    name = next((name for name in LAUNCHED_SIZE if os.environ.get(name, "").isdigit()), "")
    return name, int(os.environ[name]) if name else 1


# --- The folder of the run --------------------------------------------------------------------------------------------


def examine_folder(run_dir: Path) -> list[Finding]:
    """Write, lock and fsync where a run would write. Local; leaves nothing behind."""
    folder = run_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    name = f"{run_dir} (in {folder}, it is yet to be made)" if folder != run_dir else str(run_dir)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            times = []
            for _ in range(5):
                began = time.perf_counter()
                file.write(bytes(64 * 1024))
                file.flush()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
            locked = locks(file.fileno())
        status = os.statvfs(folder)
    except OSError as error:
        found = f"{name}: cannot be written ({error.strerror})"
        return [
            Finding(
                "run_dir", False, found, "choose another --run_dir, or change its permissions", {"error": error.errno}
            )
        ]
    import h5py

    seconds, free = sorted(times)[2], status.f_bavail * status.f_frsize
    kind = file_system(folder)
    versions = f"HDF5 {h5py.version.hdf5_version} (h5py {h5py.__version__})"
    slow = (
        ""
        if seconds <= FSYNC_AT_MOST
        else "checkpoints wait for it: use a faster file system, or a longer checkpoint_every"
    )
    return [
        Finding("run_dir", True, f"{name}: can be written, {kind}", values={"file_system": kind}),
        Finding(
            "hdf5",
            locked,
            f"{versions}; file locks {'work' if locked else 'do not work'} on {kind}",
            ""
            if locked
            else "never start two runs in one run_dir; for other HDF5 tools set HDF5_USE_FILE_LOCKING=FALSE",
            {"hdf5": h5py.version.hdf5_version, "h5py": h5py.__version__, "locks": locked},
        ),
        Finding("fsync", not slow, f"{1e3 * seconds:.1f} ms for 64 KiB", slow, {"seconds": seconds}),
        Finding(
            "space",
            free >= FREE_AT_LEAST,
            f"{size(free)} free",
            "" if free >= FREE_AT_LEAST else "make room, or choose another --run_dir: a full disk ends a run",
            {"free": free},
        ),
    ]


def locks(descriptor: int) -> bool:
    """Tell whether a file can be locked as HDF5 locks its files."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return False
    return True


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, such as ext4 or nfs4, where the system tells."""
    best, kind = "", "unknown file system"
    with suppress(OSError):
        path = f"{folder.resolve()}/"
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, found, *_ = line.split()
            if path.startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
                best, kind = mount, found
    return kind


# --- What all ranks do together ---------------------------------------------------------------------------------------


def examine_blas(threads: int, communicator: "Communicator") -> Finding:
    """Check that all ranks compute with the same libraries, kernel and bits. Collective."""
    from ddp_mlp.training.machine import agree_on_machine

    try:
        machine = agree_on_machine(threads, communicator)
    except EnvironmentMismatch as error:
        do = "give every rank the same software; OPENBLAS_CORETYPE=Haswell on all makes different processors agree"
        return Finding("blas", False, str(error).partition(": every rank must")[0], do)
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("ddp_mlp", "python", "numpy"))
    same = "" if communicator.size == 1 else ", the same on all ranks"
    return Finding("blas", True, f"{machine.kernel}; {versions}{same}", values={"kernel": machine.kernel})


def measure_products(communicator: "Communicator") -> tuple[float, list[float]]:
    """Return the GFLOP/s of rank 0 while the others sleep, and of every rank while all compute. Collective."""
    gflops_of_products(0.05)  # the kernels are loaded, the processor wakes up
    communicator.barrier()
    if communicator.rank == 0:
        alone = gflops_of_products(MEASURED_SECONDS)
    else:
        alone = 0.0
        time.sleep(MEASURED_SECONDS + 0.1)
    communicator.barrier()
    return communicator.broadcast(alone), communicator.allgather(gflops_of_products(MEASURED_SECONDS))


def gflops_of_products(seconds: float) -> float:
    """Return the mean rate of W A, 512 × 784 times 784 × 256 in float32, over so many seconds. Local."""
    import numpy as np

    W, A, out = (np.ones(shape, np.float32, order="F") for shape in ((512, 784), (784, 256), (512, 256)))
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        np.matmul(W, A, out=out)
        count += 1
    return 2 * count * 512 * 784 * 256 / passed / 1e9


def measure_reduction(communicator: "Communicator", room: int) -> dict[int, float]:
    """Return the median seconds of the exact sum by number of parameters, where it fits in `room` bytes. Collective."""
    import numpy as np

    from ddp_mlp.summing.between import ExactSum
    from ddp_mlp.summing.tree import automatic_shards

    K, seconds = automatic_shards(communicator.size), {}
    for count in REDUCED:
        if 4 * count * (2 * K + 1) > room:
            break
        reduction = ExactSum(communicator, count, np.dtype(np.float32), K)
        times: list[float] = []
        while communicator.broadcast(len(times) < 5 or (sum(times) < MEASURED_SECONDS and len(times) < 500)):
            communicator.barrier()
            began = time.perf_counter()
            reduction.collect(K)
            for _ in reduction.sums(K):
                pass
            reduction.publish()
            times.append(time.perf_counter() - began)
        seconds[count] = sorted(times)[len(times) // 2]
        communicator.close()
    return seconds


def examine(run_dir: Path, threads: int, communicator: "Communicator", launched: Finding) -> list[Finding]:
    """Make all checks. Collective; the findings are whole on rank 0."""
    places = communicator.allgather(look_around())
    memory = judge_shared_memory(places)
    findings = [
        judge_ranks(places, len(communicator.nodes)),
        launched,
        judge_cores(places, threads),
        examine_blas(threads, communicator),
        judge_rates(*measure_products(communicator), [place.host for place in places]),
        memory,
    ]
    if communicator.size > 1:
        findings.insert(-1, judge_reduction(measure_reduction(communicator, memory.values["free"] // 4)))
    if communicator.rank == 0:
        findings += examine_folder(run_dir)
    return findings


# --- The command ------------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(
        "doctor",
        "Examine the machine before a run, alone or under mpirun or srun: what was found, fine or not, what to do.",
        epilog="Exit codes: 0 all is fine, 2 usage, 78 something is not.",
    )
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="the folder a run would write to (runs)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="BLAS threads per rank (1)")
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    return parser


def connect(room: int) -> tuple["Communicator", Finding]:
    """Start MPI where that is safe, and judge whether launcher and library belong together. Collective."""
    from ddp_mlp.parallel import mpi
    from ddp_mlp.parallel.single import SingleProcess

    name, launched = launcher()
    values: dict[str, Any] = {"launcher": name, "launched": launched}
    if launched > 1 and room < SHARED_MEMORY_AT_LEAST:
        found = f"{name} = {launched}, but MPI was not started: {size(room)} in /dev/shm may kill it with a bus error"
        return SingleProcess(), Finding("launcher", False, found, "see the line /dev/shm", values)
    try:
        communicator = mpi.connect()
    except EnvironmentMismatch as error:
        found, _, do = str(error).partition("): ")
        return SingleProcess(), Finding("launcher", False, found + ")", do, values)
    library = " ".join(communicator.library.split())
    if communicator.size == 1:
        found = f"none ({name} = 1)" if name else "none: one process; start it under mpirun or srun to examine a job"
    else:
        found = f"{name} = {launched} and a world of {communicator.size} ranks, {library}"
    return communicator, Finding("launcher", True, found, values=values | {"library": library})


def report(findings: Sequence[Finding], seconds: float, as_json: bool) -> str:
    """Return the findings as text for people, or as JSON."""
    wrong = sum(not finding.fine for finding in findings)
    if as_json:
        listed = [asdict(finding) for finding in findings]
        return json.dumps({"fine": not wrong, "seconds": round(seconds, 2), "findings": listed}, indent=1)
    lines = []
    for finding in findings:
        lines.append(f"{'fine' if finding.fine else 'NOT FINE':<9} {finding.check:<10} {printable(finding.found)}")
        if not finding.fine:
            lines.append(f"{'':<9} {'':<10} → {printable(finding.do)}")
    verdict = f"{wrong} of {len(findings)} checks are not fine" if wrong else f"all {len(findings)} checks are fine"
    return "\n".join([*lines, f"{verdict}; {seconds:.1f} s"])


def watch(abort: Callable[[int], Any]) -> threading.Timer:
    """End the examination if ranks never find one another: `abort(exit_code)`, or SIGALRM while MPI lets nobody run."""

    def end() -> None:
        do = "check the network between the hosts, and that all of them start the same program"
        print(f"error: no answer from all ranks within {DEADLINE_SECONDS:g} s: {do}", file=sys.stderr, flush=True)
        abort(EnvironmentMismatch.exit_code)

    timer = threading.Timer(DEADLINE_SECONDS, end)
    timer.daemon = True
    timer.start()
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS + 1)
    return timer


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, on every rank with the same code."""
    began = time.monotonic()
    try:
        arguments = _parser().parse_args(argv)
        if arguments.threads < 1:
            raise ConfigError(f"threads = {arguments.threads}: must be at least 1")
    except ProgramError as error:
        exit_before_mpi(error)
    for name in THREAD_VARIABLES:  # BLAS reads them when NumPy is loaded, which is below
        os.environ[name] = str(arguments.threads)

    import threadpoolctl

    from ddp_mlp.parallel.communicator import end_on_exception
    from ddp_mlp.parallel.launcher import launched_rank

    timer = watch(os._exit)
    try:
        communicator, launched = connect(shared_memory().free)
    except ProgramError as error:
        exit_before_mpi(error)
    if not launched.fine and launched_rank() != 0:
        time.sleep(SILENT_SECONDS)  # one process speaks for those that do not find one another
        sys.exit(EnvironmentMismatch.exit_code)
    try:
        with threadpoolctl.threadpool_limits(arguments.threads, "blas"):
            findings = examine(arguments.run_dir, arguments.threads, communicator, launched)
        timer.cancel()
        if communicator.rank == 0:
            print(report(findings, time.monotonic() - began, arguments.json), flush=True)
        fine = communicator.broadcast(all(finding.fine for finding in findings))
    except BaseException:
        end_on_exception(communicator)
    communicator.leave(0 if fine else EnvironmentMismatch.exit_code)


if __name__ == "__main__":
    main()
