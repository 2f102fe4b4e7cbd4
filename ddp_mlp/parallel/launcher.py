"""What the launcher tells a process before MPI starts: its rank, and how many there are. Reads variables alone."""

import os
from collections.abc import Mapping

LAUNCHED_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
LAUNCHED_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
"""Variables by which launchers (Open MPI, MPICH and its kin, Slurm) tell a process the size of its job and its rank."""


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the rank the launcher gave this process, 0 without a launcher."""
    return next((int(environment[name]) for name in LAUNCHED_RANK if environment.get(name, "").isdigit()), 0)


def launched_size(environment: Mapping[str, str] = os.environ) -> tuple[int, str | None]:
    """Return how many processes the launcher started, and the variable that says so: 1 and None without a launcher."""
    name = next((name for name in LAUNCHED_SIZE if environment.get(name, "").isdigit()), None)
    return (int(environment[name]), name) if name else (1, None)
