"""How a process ends, and its job with it, while MPI is not there to do so: it has not started, or does not end."""

import os
import time
from contextlib import suppress
from typing import NoReturn

HYDRA_SECONDS = 3
"""How long MPICH's launcher may take to end a rank that has asked for it."""


def leave_without_mpi(exit_code: int) -> NoReturn:
    """End this process, and with MPICH's mpirun the job. Local.

    Hydra takes the code from an abort in the words of PMI-1; from ranks that just exit, it takes 255 now and then, or
    the 9 of those that it kills. Open MPI's mpirun makes 1 of code 0, and may crash.
    """
    if "HYDI_CONTROL_FD" in os.environ:
        with suppress(OSError, KeyError, ValueError):  # it is gone, or speaks otherwise
            os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={exit_code}\n".encode())
            time.sleep(HYDRA_SECONDS)
    os._exit(exit_code)
