"""What the launcher tells a process before MPI starts: its rank, and how many there are. Reads variables alone."""

import os
from collections.abc import Mapping

LAUNCHED_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
LAUNCHED_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
"""Variables by which launchers (Open MPI, MPICH and its kin, Slurm) tell a process the size of its job and its rank."""
ON_NODE = (
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)
"""Those that tell it the same of its node."""

OF_LAUNCHERS = (
    *("PMI_", "PMIX_", "HYDI_", "OMPI_COMM_", "PRTE_", "SLURM_PROCID", "SLURM_STEP", "MV2_COMM_", "MPI_LOCAL"),
    *("ALPS_", "PALS_", "FLUX_", "JSM_", "LSB_"),
)
"""How the variables begin that launchers set for the processes they start, those of sizes that are not known too."""

PARENT = os.getppid()
"""The process that started this one, as it was when this module was loaded."""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether some launcher may have started this process; without one there is no MPI to be started."""
    return any(name.startswith(OF_LAUNCHERS) for name in environment)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """Return a variable's number; None where it has none, as "²" has not."""
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the rank the launcher gave this process, 0 without a launcher."""
    return next((rank for name in LAUNCHED_RANK if (rank := _number(environment, name)) is not None), 0)


def launched_size(environment: Mapping[str, str] = os.environ) -> tuple[int, str | None]:
    """Return how many processes the launcher started, and the variable that says so: 1 and None without a launcher."""
    for name in LAUNCHED_SIZE:
        if (size := _number(environment, name)) is not None:
            return size, name
    return 1, None


def launched_by_open_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether Open MPI's mpirun started this process."""
    return launched_size(environment)[1] == LAUNCHED_SIZE[0]


def ends_at_first_exit(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the launcher ends the job when one process has ended with an error: mpirun does, srun need not."""
    return "HYDI_CONTROL_FD" in environment or launched_by_open_mpi(environment)


def launched_on_node(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Return this process's rank within its node, and how many there are; None where the launcher does not say."""
    for names in ON_NODE:
        rank, size = (_number(environment, name) for name in names)
        if rank is not None and size is not None:
            return rank, size
    return None
