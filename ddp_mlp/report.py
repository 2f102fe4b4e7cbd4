"""Show runs: `python -m ddp_mlp.report RUN… -o report.html`, and `--follow RUN` for one that goes on."""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddp_mlp import command, streams
from ddp_mlp.command import Parser
from ddp_mlp.errors import ConfigError, DataError, printable
from ddp_mlp.stopping import Stopped
from ddp_mlp.units import counted

if TYPE_CHECKING:
    from ddp_mlp.reporting.right_and_wrong import Found, Shape
    from ddp_mlp.reporting.runs import RunLog

POLL_SECONDS = 0.5
REFRESH_SECONDS = 10.0
"""Between two pages of a run that goes on."""
MISTAKES = 24


def _parser() -> Parser:
    parser = Parser(
        "report",
        "Put one or several runs on a page of their own, or follow a run that goes on.",
        epilog="Exit codes: 0 done, 2 usage, 65 no journal, 74 cannot read or write.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="the run_dir of a run or a search, or a saved model; several are compared",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="report.html, or a picture: report.png")
    parser.add_argument("--data", type=Path, metavar="FILE", help="where the data file is now, for the test data")
    parser.add_argument(
        "--image",
        default="auto",
        metavar="SHAPE",
        help="the features' shape as a picture, such as 28x28 or 32x32x3; none; auto: a square from 8 x 8 on (auto)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="show what the run does, until it ends or Ctrl-C; with -o, the page is written anew every 10 s",
    )
    return parser


def write(folders: Sequence[Path], output: Path, data: Path | None, image: str, refresh: float | None = None) -> None:
    """Write the report of the runs to `output`. Raises ConfigError, DataError or StorageError.

    `refresh`: they go on, a browser reads the page again after as many seconds, and no model is applied meanwhile.
    """
    os.environ["MPLBACKEND"] = "agg"  # draws without a display; with a wrong one matplotlib cannot be imported
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError('a report needs matplotlib: pip install "ddp_mlp[report]"') from error
    except ValueError as error:  # of a matplotlibrc that is no text
        raise ConfigError(f"matplotlib cannot read its settings ({error}): mend or remove matplotlibrc") from error
    matplotlib.use("agg")

    from ddp_mlp.reporting import page
    from ddp_mlp.reporting.number_outcome import number_outcome_on_test
    from ddp_mlp.reporting.outcome import image_shape, outcome_on_test
    from ddp_mlp.reporting.runs import read_all
    from ddp_mlp.reporting.searches import search_page
    from ddp_mlp.run_dir.journal import JOURNAL
    from ddp_mlp.storage.atomic import write_atomically
    from ddp_mlp.trials.log import read as read_search

    search = ""
    if len(folders) == 1 and (found := read_search(folders[0])) is not None:
        search = search_page(found)
        if not (folders[0] / JOURNAL).exists():  # it has no best network yet
            if output.suffix.lower() != ".html":
                raise ConfigError(f"output = {output}: {folders[0]} has no best network to draw yet: ask for .html")
            write_atomically(output, page.page_of_search(folders[0], search).encode())
            return
    runs = read_all(folders)
    try:
        shapes = [image_shape(run.start["data"].get("features", 0), image) for run in runs]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    outcomes = [
        "the run goes on"
        if refresh is not None
        else outcome_on_test(run, data, MISTAKES)
        if "classes" in run.start["data"]
        else number_outcome_on_test(run, data)
        for run in runs
    ]
    if output.suffix.lower() == ".html":
        content = page.page(runs, outcomes, shapes, search, refresh).encode()
    else:
        content = _picture(runs, outcomes, shapes)
    write_atomically(output, content)


def _picture(runs: "Sequence[RunLog]", outcomes: "Sequence[Found]", shapes: "Sequence[Shape]") -> bytes:
    """Return the report of the runs as a PNG."""
    from ddp_mlp.reporting import pictures
    from ddp_mlp.reporting.curves import training_charts
    from ddp_mlp.reporting.machine_use import machine_charts
    from ddp_mlp.reporting.number_outcome import NumberOutcome
    from ddp_mlp.reporting.outcome import ClassOutcome
    from ddp_mlp.reporting.target_charts import charts_of_numbers
    from ddp_mlp.run_dir.narrator import duration

    drawn = [*training_charts(runs)[1:], *machine_charts(runs)]
    lines = []
    for run, outcome, shape in zip(runs, outcomes, shapes, strict=True):
        lines.append(
            f"{run.name}: {run.state}, {counted(run.events[-1]['step'], 'step')}, {duration(run.events[-1]['seconds'])}"
        )
        if isinstance(outcome, NumberOutcome):
            drawn += charts_of_numbers(outcome)
        elif isinstance(outcome, ClassOutcome):
            lines[-1] += f", test accuracy {outcome.accuracy:.4f}, {outcome.parameters_sha256[:16]}"
            title = "Confusion matrix" if len(runs) == 1 else f"Confusion matrix: {run.name}"
            drawn.append(pictures.confusion_chart(run, outcome, title))
            if shape is not None and outcome.mistakes:
                drawn.append(pictures.mistakes_chart(run, outcome, shape))
    return pictures.to_png(drawn, " · ".join(run.name for run in runs), lines)


def follow(folder: Path, data: Path | None = None, image: str = "auto", output: Path | None = None) -> None:
    """Tell what a run does as it happens, while somebody reads on, until its end. Raises DataError or StorageError.

    `output`: a page that is written anew every REFRESH_SECONDS, and once more in the end.
    """
    from ddp_mlp.reporting.follower import Follower, journal_of

    path = journal_of(folder)
    if not path.exists():
        print(printable(f"waiting for {path}"), file=sys.stderr, flush=True)
    begun, written = False, -math.inf
    with _teller() as (tell, whole):
        follower = Follower(path, whole)
        while True:
            events = follower.poll()
            try:
                tell(events)
            except (KeyError, TypeError, ValueError, AttributeError):
                kinds = ", ".join(dict.fromkeys(repr(event.get("event")) for event in events))
                raise DataError(f"{path}: an event is not of this program: one of {kinds}") from None
            begun = begun or bool(events)
            ended = bool(events) and events[-1]["event"] == "final"
            if output is not None and begun and (ended or time.monotonic() - written > REFRESH_SECONDS):
                write([path.parent], output, data, image, None if ended else REFRESH_SECONDS)
                written = time.monotonic()
            if ended or streams.reader_is_gone():
                return
            time.sleep(POLL_SECONDS)


@contextmanager
def _teller() -> Iterator[tuple[Callable[[list[Any]], None], bool]]:
    """Yield what tells events, and whether it wants all: a live view on a terminal where rich is, else plain lines."""
    from ddp_mlp.parallel.terminal import terminal_of
    from ddp_mlp.run_dir import narrator as words

    screen, narrator = terminal_of(1), words.Narrator()

    def tell_lines(events: list[Any]) -> None:
        for event in events:
            lines = narrator.lines(event)
            if event["event"] == "final":
                lines += [words.result(event)] if screen is None else words.result_on_screen(event, screen.columns)
            for line in lines:
                print(printable(line), flush=True)

    if screen is None or find_spec("rich") is None:
        yield tell_lines, False
        return
    from ddp_mlp.reporting.live import LiveView

    with LiveView(screen) as view:
        yield view.show, True
    if view.final is not None:
        for line in [*view.said, *words.result_on_screen(view.final, screen.columns)]:
            print(printable(line), flush=True)


def _run(asked: argparse.Namespace) -> None:
    if asked.follow:
        try:
            follow(asked.runs[0], asked.data, asked.image, asked.output)
        except Stopped as stopped:
            if stopped.number != signal.SIGINT:
                raise
    else:
        output = asked.output or Path("report.html")
        write(asked.runs, output, asked.data, asked.image)
        print(printable(str(output)))


def _check(asked: argparse.Namespace) -> None:
    if asked.follow and len(asked.runs) > 1:
        raise ConfigError("--follow: takes one RUN")
    if asked.output is not None and asked.output.suffix.lower() not in (".html", ".png"):
        raise ConfigError(f"output = {asked.output}: must end in .html or .png")
    command.keep_what_is_read({"--output": asked.output}, asked.data, *asked.runs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.alone(_parser(), _run, argv, _check)


if __name__ == "__main__":
    sys.exit(main())
