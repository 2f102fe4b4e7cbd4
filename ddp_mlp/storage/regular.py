"""Files to be read that may be anything: what is no regular file is refused, and never waited for."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ddp_mlp.errors import DataError


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read, a link to one too. Raises DataError for a pipe, a device or the like, and OSError.

    A pipe to which nobody writes would be waited for without end, and a device may have none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a folder raises OSError by itself
        os.close(descriptor)
        raise DataError(f"{path}: is not a regular file: remove it, or name another")
    return os.fdopen(descriptor, "rb")
