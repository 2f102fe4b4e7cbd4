"""Two hosts made of network namespaces: own names, own addresses, a cable between them that a test can pull.

Where a test wants it, a host sees an empty folder in place of a shared one. What a run must give is taken from one
process. Namespaces are gone when a test ends, with all that runs in them.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ddp_mlp.storage import checkpoints
from tests.conftest import ROOT, Program
from tests.launchers import NAMES, Launcher, launcher

pytestmark = pytest.mark.timeout(180)

STEPS, PARAMETERS = 4 * 12, 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
"""Of the undisturbed run."""
ADDRESSES = {"one": "10.77.0.1", "two": "10.77.0.2"}


class Hosts:
    """Two hosts and the program that a launcher uses to start its own processes on them, in place of ssh."""

    def __init__(self, folder: Path) -> None:
        self.names = {host: f"ddp-{os.getpid()}-{host}" for host in ADDRESSES}
        self.hidden: dict[str, Path] = {}
        """By host: a folder that is empty there."""
        self.ssh = folder / "ssh"

    def make(self) -> None:
        """Make the namespaces and the cable. Raises subprocess.CalledProcessError where that is not permitted."""
        for name in self.names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        one, two = self.names.values()
        ip("link", "add", "cable", "netns", one, "type", "veth", "peer", "name", "cable", "netns", two)
        for host, name in self.names.items():
            ip("-n", name, "address", "add", f"{ADDRESSES[host]}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        self.wait_for_the_cable()

    def wait_for_the_cable(self) -> None:
        """Wait until both ends know that they are connected: the kernel may take a second to notice."""
        deadline = time.monotonic() + 10
        for name in self.names.values():
            while json.loads(ip("-n", name, "-json", "link", "show", "cable"))[0]["operstate"] != "UP":
                assert time.monotonic() < deadline, "the cable does not come up"
                time.sleep(0.05)

    def remove_processes(self) -> None:
        """Kill what runs in the namespaces."""
        for name in self.names.values():
            for pid in ip("netns", "pids", name).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> None:
        """Kill what runs in the namespaces, and remove them."""
        with suppress(subprocess.CalledProcessError):  # a namespace was never made
            self.remove_processes()
        for name in self.names.values():
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)

    def pull_cable(self) -> None:
        """Take the cable out, at one end: nothing passes any more, and nobody is told."""
        ip("-n", self.names["one"], "link", "set", "cable", "down")

    def plug_in_cable(self) -> None:
        """Put the cable back."""
        ip("-n", self.names["one"], "link", "set", "cable", "up")
        self.wait_for_the_cable()

    def bytes_sent(self) -> int:
        """Return how many bytes host one has sent over the cable."""
        link = json.loads(ip("-n", self.names["one"], "-json", "-stats", "link", "show", "cable"))[0]
        return int(link["stats64"]["tx"]["bytes"])

    def processes(self, host: str) -> list[str]:
        """Return the command lines of the training processes on a host."""
        found = []
        for pid in ip("netns", "pids", self.names[host]).split():
            with suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        return [command for command in found if "python" in command.split(" ")[0] and "ddp_mlp" in command]

    def inside(self, host: str, command: str) -> list[str]:
        """Return the command that runs a shell's command line on a host."""
        before = f"hostname {host}"
        if host in self.hidden:
            before += f"; mount -t tmpfs -o ro none {shlex.quote(str(self.hidden[host]))}"
        return ["ip", "netns", "exec", self.names[host], "unshare", "--uts", "bash", "-c", f"{before}; {command}"]

    def start(self, mpi: Launcher, placement: list[str], *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the program from host one with a rank for each host of `placement`, in that order."""
        cases = "".join(
            f"{ADDRESSES[host]}) exec {shlex.join(self.inside(host, 'COMMAND'))} ;;\n".replace("COMMAND'", '\'"$*"')
            for host in ADDRESSES
        )
        # Options of ssh are not for us; the first word that is none is the host.
        self.ssh.write_text(
            f"#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nhost=$1; shift\ncase $host in\n{cases}esac\n"
        )
        self.ssh.chmod(0o755)
        environment = {**os.environ, **mpi.settings, "PYTHONPATH": str(ROOT)}
        # UCX, in either library, would notice that the two hosts share one memory after all.
        environment |= {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "cable"}
        slots = {host: placement.count(host) for host in placement}
        in_turn = placement != sorted(placement, key=list(slots).index)
        if mpi.open_mpi:
            options = ["--host", ",".join(f"{ADDRESSES[host]}:{n}" for host, n in slots.items())]
            options += ["--map-by", "node" if in_turn else "slot"]
            environment |= {"OMPI_MCA_plm": "rsh", "OMPI_MCA_plm_rsh_agent": str(self.ssh)}
            environment |= {"PRTE_MCA_plm": "ssh", "PRTE_MCA_plm_ssh_agent": str(self.ssh)}
            environment |= {"OMPI_MCA_btl_tcp_if_include": "cable", "OMPI_MCA_oob_tcp_if_include": "cable"}
            environment |= {"PRTE_MCA_prte_if_include": "cable"}
            options += [
                word for name in (*mpi.settings, "PYTHONPATH", "UCX_TLS", "UCX_NET_DEVICES") for word in ("-x", name)
            ]
        else:
            options = ["-launcher", "rsh", "-launcher-exec", str(self.ssh)]
            options += ["-hosts", ",".join(f"{ADDRESSES[host]}:{1 if in_turn else n}" for host, n in slots.items())]
        words = [mpi.mpirun, *options, "-n", str(len(placement)), sys.executable, "-m", "ddp_mlp.train", *arguments]
        return subprocess.Popen(
            self.inside("one", "exec " + shlex.join(map(str, words))),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )

    def run(self, mpi: Launcher, placement: list[str], *arguments: str | Path) -> tuple[int, str]:
        """Start the program and wait for it; return its exit code and what it printed."""
        process = self.start(mpi, placement, *arguments)
        try:
            printed, _ = process.communicate(timeout=90)
        finally:
            process.kill()
        return process.returncode, printed


def remove_what_is_left() -> None:
    """Remove the hosts of test processes that were killed and could not do so themselves."""
    with suppress(subprocess.CalledProcessError):
        for name in re.findall(r"^ddp-\d+-\w+", ip("netns", "list"), re.MULTILINE):
            if not Path("/proc", name.split("-")[1]).exists():
                for pid in ip("netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                ip("netns", "delete", name)


def ip(*words: str) -> str:
    """Run the program ip."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts."""
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed: apt-get install iproute2")
    remove_what_is_left()
    made = Hosts(tmp_path)
    try:
        made.make()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def undisturbed(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the hash that 4 epochs in one process give."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    done = run_python("-m", "ddp_mlp.train", "--epochs", "4", "--quiet", "--run_dir", run_dir)
    assert done.returncode == 0, done.stderr
    return str(last_event(run_dir)["parameters_sha256"])


def last_event(run_dir: Path) -> dict[str, object]:
    """Return the last event of a run's journal."""
    event: dict[str, object] = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    return event


def first_event(run_dir: Path) -> dict[str, object]:
    """Return the first event of a run's journal."""
    event: dict[str, object] = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    return event


@pytest.mark.parametrize("name", NAMES)
def test_two_hosts_give_the_bits_of_one_process(name: str, hosts: Hosts, undisturbed: str, tmp_path: Path) -> None:
    """Every MPI library, over TCP, whether ranks are dealt out host by host, in turn, or from the second host on."""
    mpi = launcher(name, tmp_path)
    for placement in (["one", "one", "two"], ["one", "two", "one"], ["two", "one", "one"]):
        run_dir, sent = tmp_path / "-".join(placement), hosts.bytes_sent()
        code, printed = hosts.run(mpi, placement, "--epochs", "4", "--quiet", "--run_dir", run_dir)
        assert code == 0, printed
        start = first_event(run_dir)
        assert (start["ranks"], start["nodes"], start["hosts"]) == (3, 2, ["one", "two"])
        assert last_event(run_dir)["parameters_sha256"] == undisturbed
        # A step sends at least half the gradient and half the parameters.
        assert hosts.bytes_sent() - sent > 4 * STEPS * PARAMETERS


def test_the_runs_folder_is_needed_on_the_host_of_rank_0_alone(hosts: Hosts, undisturbed: str, tmp_path: Path) -> None:
    """Host two sees an empty read-only folder where the run's folder is; training and resuming go on all the same."""
    mpi, folder = launcher(NAMES[0], tmp_path), tmp_path / "runs"
    folder.mkdir()
    hosts.hidden["two"] = folder
    for epochs in ("2", "4"):
        code, printed = hosts.run(mpi, ["one", "two"], "--epochs", epochs, "--quiet", "--run_dir", folder / "run")
        assert code == 0, printed
    assert last_event(folder / "run")["parameters_sha256"] == undisturbed


def test_data_that_one_host_does_not_see_is_an_error_that_names_it(hosts: Hosts, digits: Path, tmp_path: Path) -> None:
    """Host two sees an empty folder where the data file is."""
    mpi, folder = launcher(NAMES[0], tmp_path), tmp_path / "data"
    folder.mkdir()
    shutil.copy(digits, folder)
    hosts.hidden["two"] = folder
    code, printed = hosts.run(
        mpi, ["one", "two"], "--data", folder / digits.name, "--quiet", "--run_dir", tmp_path / "run"
    )
    assert code == 74, printed
    assert "two" in printed.split("error: ")[1]


def test_a_pulled_cable_ends_both_hosts_in_time_and_a_resume_gives_the_same_bits(
    hosts: Hosts, run_python: Program, tmp_path: Path
) -> None:
    """Nobody is told that the cable is out: each side's watchdog ends it within stall_seconds + 10 s."""
    mpi, run_dir, stall_seconds = launcher(NAMES[0], tmp_path), tmp_path / "run", 4
    process = hosts.start(
        mpi, ["one", "two"], "--epochs", "1000000", "--quiet", "--run_dir", run_dir,
        "--stall_seconds", str(stall_seconds), "--checkpoint_every", "10 epochs",
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not list(run_dir.glob("checkpoints/step-*.h5")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        assert hosts.processes("one")
        assert hosts.processes("two")
        hosts.pull_cable()
        pulled = time.monotonic()
        ended: dict[str, float] = {}
        while len(ended) < 2:
            for host in ADDRESSES:
                if host not in ended and not hosts.processes(host):
                    ended[host] = time.monotonic() - pulled
            if time.monotonic() > pulled + stall_seconds + 10:
                pytest.fail(f"ended are only {ended}; still there: {[hosts.processes(host) for host in ADDRESSES]}")
            time.sleep(0.1)
        assert min(ended.values()) > stall_seconds / 2
    finally:
        hosts.remove_processes()
        print(process.communicate()[0])
        hosts.plug_in_cable()
    newest = checkpoints.newest(run_dir / "checkpoints")
    assert newest is not None
    steps = str(newest[0].step + 20)
    code, printed = hosts.run(
        mpi, ["one", "two"], "--epochs", "1000000", "--max_steps", steps, "--quiet", "--run_dir", run_dir
    )
    assert code == 0, printed
    alone = tmp_path / "alone"
    done = run_python(
        "-m", "ddp_mlp.train", "--epochs", "1000000", "--max_steps", steps, "--quiet", "--run_dir", alone,
        "--checkpoint_every", "1000 epochs",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert last_event(run_dir)["parameters_sha256"] == last_event(alone)["parameters_sha256"]
