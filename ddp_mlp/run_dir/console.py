"""Plain lines, or a bar on a terminal, for people in front of it. Rank 0 alone.

The result goes to stdout, all else to stderr, and nothing but printable characters and the program's own colours to
either. A console that is gone or full ends no run: nothing here raises OSError.
"""

import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ddp_mlp.errors import printable
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.parallel.terminal import COLUMNS, Terminal, painted, terminal_of
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.run_dir.narrator import Narrator, fit_line, result, result_on_screen
from ddp_mlp.streams import console

DRAW_SECONDS = 0.1
"""Least time between two drawings of the bar."""
BAR_COLUMNS = 6
"""What the bar itself has at least, beside figures."""
HEAD = re.compile(r"\A\w+")
"""What a line is about, in front of the rest."""


class Screens(NamedTuple):
    """The terminals behind stdout and stderr; None where there is none."""

    stdout: Terminal | None
    stderr: Terminal | None


def screens() -> Screens:
    """Return the terminals that people see this process on, also behind a launcher."""
    return Screens(terminal_of(1), terminal_of(2))


class Console:
    """Lines for people on stderr, with a bar below them on a terminal, and the result on stdout.

    Where `quiet` it prints warnings and the result alone; where `silent` too, warnings alone.
    """

    def __init__(
        self,
        quiet: bool,
        clock: Callable[[], float] = time.monotonic,
        silent: bool = False,
        look: Callable[[], Screens] = screens,
    ) -> None:
        """Print to sys.stdout and sys.stderr; `look` finds out on which screens people see them."""
        self._silent = silent
        self._quiet = quiet
        self._look = look
        self._screens = look()
        self._stdout, self._stderr = console(sys.stdout), console(sys.stderr)
        self._live = not quiet and self._screens.stderr is not None
        self._narrator = Narrator()
        self._clock = clock
        self._bar: Any = None
        self._next_draw = -math.inf
        self._rate = Rate(clock)
        self._saved: int | None = None
        self._counts_right = False
        """Whether steps tell an accuracy: of one class of several."""

    def say(self, line: str) -> None:
        """Print a line about what is going on."""
        if not self._quiet:
            self._print(printable(line))

    def warn(self, line: str) -> None:
        """Print a warning; also where quiet."""
        self._print(painted(self._screens.stderr, "warning:", "yellow") + printable(f" {line}"))

    def event(self, event: Event) -> None:
        """Tell an event: on a terminal the bar takes the place of step events."""
        if event["event"] == "final":
            self._close_bar()
        for line in self._narrator.lines(event, self._saved) if not self._quiet else []:
            if not (self._live and event["event"] == "step"):
                self._print(HEAD.sub(lambda head: painted(self._screens.stderr, head[0], "bold"), line, count=1))
        if event["event"] == "start" and self._live:
            self._counts_right = "classes" in event["data"]
            self._open_bar(event)
        if event["event"] == "final":
            self.result(event)

    def result(self, final: Mapping[str, Any]) -> None:
        """Print the result, from a run's final event, to stdout: on a screen for people, else one line for scripts."""
        screen = self._screens.stdout
        lines = [result(final)] if screen is None else result_on_screen(final, screen.columns)
        if not self._silent:
            self._stdout.write("".join(painted(screen, printable(line), "green") + "\n" for line in lines))

    def step(self, step: int, totals: Totals, examples: int) -> None:
        """Move the bar, if there is one, to a step: `totals` of the epoch so far, `examples` of the step."""
        if not self._live:
            return
        self._rate.count(examples)
        if self._clock() < self._next_draw or self._bar is None:
            return
        self._next_draw = self._clock() + DRAW_SECONDS
        self._bar.n = step
        if terminal := self._look().stderr:  # its window may have another size now
            self._bar.ncols = terminal.columns
        figures = [f"loss {totals.loss_mean:.4f}"] if totals.examples else []
        figures += [f"accuracy {totals.accuracy:.3f}"] if totals.examples and self._counts_right else []
        saved = [] if self._saved is None else [f"saved at {self._saved:,}"]
        rate = f"{self._rate.take():,.0f} examples/s"
        self._bar.set_description_str(fit_line(["", *figures, rate, *saved], self._room())[2:], refresh=False)
        self._bar.refresh()

    def saved(self, step: int) -> None:
        """Remember the step of the last checkpoint, for the lines to come. From any thread."""
        self._saved = step

    def close(self) -> None:
        """Take the bar away."""
        self._close_bar()

    def _room(self) -> int:
        """Return the columns that figures have beside percentage, bar, steps and time left."""
        columns: int = self._bar.ncols or COLUMNS
        return columns - len("100%||   00:00 left  ") - 2 * len(str(self._bar.total)) - BAR_COLUMNS

    def _open_bar(self, start: Event) -> None:
        from tqdm import tqdm

        assert self._screens.stderr is not None, "looked at before"
        self._bar = tqdm(
            initial=start["step"],
            total=start["total_steps"],
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}  {desc}  {remaining} left",
            leave=False,
            file=self._stderr,
            ncols=self._screens.stderr.columns,
            miniters=1,
        )

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, line: str) -> None:
        if self._bar is None:
            self._stderr.write(f"{line}\n")
        else:
            self._bar.write(line, file=self._stderr)


class Rate:
    """Counts examples, and tells how many there were per second since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._examples = 0
        self._since = clock()

    def count(self, examples: int) -> None:
        """Add examples."""
        self._examples += examples

    def take(self) -> float:
        """Return the examples per second since the last call, to a tenth; begin to count anew."""
        now = self._clock()
        rate = self._examples / max(now - self._since, 1e-9)
        self._examples, self._since = 0, now
        return round(rate, 1)
