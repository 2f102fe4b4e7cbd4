"""The terminal that people see a stream on: this process's own, or that of the launcher which passes its lines on.

Invariants:
- all here is local, reads /proc and one terminal's size, and never raises OSError;
- a launcher's terminal that cannot be found out, as on another host, is none: lines are plain and results whole;
- colour goes to a terminal alone, and to none where NO_COLOR is set (no-color.org) or TERM is "dumb".
"""

import os
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ddp_mlp.parallel.launcher import is_launched

LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun", "srun", "flux", "aprun", "jsrun")
"""Names of programs that start ranks and pass on what these write."""
COLUMNS = 80
"""What lines are made for where no terminal says otherwise."""
CODES = {"bold": "1", "dim": "2", "red": "1;31", "yellow": "33", "green": "32"}


class Terminal(NamedTuple):
    """A terminal that people look at."""

    columns: int
    colours: bool

    def paint(self, text: str, style: str) -> str:
        """Return printable text in a style of CODES, as it is where there are no colours."""
        return f"\x1b[{CODES[style]}m{text}\x1b[0m" if self.colours and text else text


def display_width(text: str) -> int:
    """Return the columns that printable text takes: two for a wide character, none for one that joins another."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def painted(terminal: Terminal | None, text: str, style: str) -> str:
    """Return the text in a style where there is a terminal that has colours."""
    return text if terminal is None else terminal.paint(text, style)


def terminal_of(
    descriptor: int, environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc")
) -> Terminal | None:
    """Return the terminal on which people see descriptor 1 or 2 of this process; None where it goes elsewhere."""
    columns = 0
    if is_launched(environment):
        # a launcher may give its ranks a terminal of its own and write what comes from there to a file
        device = _device_of_launcher(descriptor, proc)
        if device is None:
            return None
        with suppress(OSError):
            opened = os.open(device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                columns = os.get_terminal_size(opened).columns
            finally:
                os.close(opened)
    else:
        try:
            if not os.isatty(descriptor):
                return None
            columns = os.get_terminal_size(descriptor).columns
        except OSError:
            return None
    coloured = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
    return Terminal(columns or COLUMNS, coloured)


def _device_of_launcher(descriptor: int, proc: Path) -> Path | None:
    """Return the terminal that the nearest launcher above this process writes to; None where there is none."""
    process = str(os.getpid())
    with suppress(OSError, ValueError, IndexError):
        while process != "0":
            # the name stands in brackets and may hold anything, also brackets
            name, _, rest = (proc / process / "stat").read_text(errors="replace").rpartition(")")
            if name.partition("(")[2] in LAUNCHERS:
                device = (proc / process / "fd" / str(descriptor)).resolve()
                return device if _is_terminal(device) else None
            process = rest.split()[1]
    return None


def _is_terminal(device: Path) -> bool:
    return str(device).startswith(("/dev/pts/", "/dev/tty", "/dev/console"))
