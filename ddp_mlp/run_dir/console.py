"""Plain lines, or a bar on a terminal, for people in front of it. Rank 0 alone.

The result goes to stdout, all else to stderr, and nothing but printable characters to either. A console that is gone or
full ends no run: nothing here raises OSError.
"""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from ddp_mlp.errors import printable
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.run_dir.narrator import Narrator, result
from ddp_mlp.streams import console

DRAW_SECONDS = 0.1
"""Least time between two drawings of the bar."""


class Console:
    """Lines for people on stderr, with a bar below them on a terminal, and the result on stdout.

    Where `quiet` it prints warnings and the result alone; where `silent` too, warnings alone.
    """

    def __init__(self, quiet: bool, clock: Callable[[], float] = time.monotonic, silent: bool = False) -> None:
        self._silent = silent
        self._quiet = quiet
        self._stdout, self._stderr = console(sys.stdout), console(sys.stderr)
        self._live = not quiet and self._stderr.isatty()
        self._narrator = Narrator()
        self._clock = clock
        self._bar: Any = None
        self._next_draw = -math.inf
        self._rate = Rate(clock)
        self._saved = ""

    def say(self, line: str) -> None:
        """Print a line about what is going on."""
        if not self._quiet:
            self._print(line)

    def warn(self, line: str) -> None:
        """Print a warning; also where quiet."""
        self._print(f"warning: {line}")

    def event(self, event: Event) -> None:
        """Tell an event: on a terminal the bar takes the place of step events."""
        if event["event"] == "final":
            self._close_bar()
        for line in self._narrator.lines(event) if not self._quiet else []:
            if not (self._live and event["event"] == "step"):
                self._print(line + (self._saved if event["event"] == "step" else ""))
        if event["event"] == "start" and self._live:
            self._open_bar(event)
        if event["event"] == "final":
            self.result(result(event))

    def result(self, line: str) -> None:
        """Print a result, to stdout."""
        if not self._silent:
            self._stdout.write(f"{printable(line)}\n")

    def step(self, step: int, totals: Totals, examples: int) -> None:
        """Move the bar, if there is one, to a step: `totals` of the epoch so far, `examples` of the step."""
        if not self._live:
            return
        self._rate.count(examples)
        if self._clock() < self._next_draw or self._bar is None:
            return
        self._next_draw = self._clock() + DRAW_SECONDS
        self._bar.n = step
        figures = f"loss {totals.loss_mean:.4f}  accuracy {totals.accuracy:.3f}" if totals.examples else ""
        self._bar.set_description_str(f"{figures}  {self._rate.take():,.0f} examples/s{self._saved}", refresh=False)
        self._bar.refresh()

    def saved(self, step: int) -> None:
        """Remember the step of the last checkpoint, for the lines to come. From any thread."""
        self._saved = f"  saved at {step:,}"

    def close(self) -> None:
        """Take the bar away."""
        self._close_bar()

    def _open_bar(self, start: Event) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            initial=start["step"],
            total=start["total_steps"],
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}  {desc}  {remaining} left",
            leave=False,
            file=self._stderr,
            dynamic_ncols=True,
            miniters=1,
        )

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, line: str) -> None:
        if self._bar is None:
            self._stderr.write(f"{printable(line)}\n")
        else:
            self._bar.write(printable(line), file=self._stderr)


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
