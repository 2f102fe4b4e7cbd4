"""How a process ends, and its job with it, while MPI is not there to do so: it has not started, or does not end."""

import os
import stat
import time
from contextlib import suppress
from typing import NoReturn

from ddp_mlp.parallel.launcher import launched_size

GOODBYE_SECONDS = 0.3
"""Between the last line of output and the end of a job: launchers drop what they have not read by then."""
HYDRA_SECONDS = 3
"""How long MPICH's launcher may take to end a rank that has asked for it."""


def end_job(exit_code: int) -> None:
    """Let what has been said come out, and MPICH's mpirun end the job, while MPI has not started. Local.

    Return where there is no such launcher.

    Hydra takes the code from an abort in the words of PMI-1; from ranks that just exit, it takes 255 now and then, or
    the 9 of those that it kills, and it lets ranks that have come into MPI wait for one that never will.
    """
    if launched_size()[0] > 1:
        time.sleep(GOODBYE_SECONDS)
    if "HYDI_CONTROL_FD" in os.environ:
        with suppress(OSError, KeyError, ValueError):  # it is gone, or speaks otherwise
            launcher = int(os.environ["PMI_FD"])
            if stat.S_ISSOCK(os.fstat(launcher).st_mode):  # and no file of a process that has the variables alone
                os.write(launcher, f"cmd=abort exitcode={exit_code}\n".encode())
                time.sleep(HYDRA_SECONDS)


def leave_without_mpi(exit_code: int) -> NoReturn:
    """End this process, and with MPICH's mpirun the job. Local.

    Open MPI's mpirun makes 1 of code 0, and may crash.
    """
    end_job(exit_code)
    os._exit(exit_code)
