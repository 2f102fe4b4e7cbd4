"""Show runs: `python -m ddp_mlp.report RUN… -o report.html`, and `--follow RUN` for one that goes on."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ddp_mlp import command, streams
from ddp_mlp.command import Parser
from ddp_mlp.errors import ConfigError, DataError, printable
from ddp_mlp.stopping import Stopped
from ddp_mlp.units import counted

POLL_SECONDS = 0.5
MISTAKES = 24


def _parser() -> Parser:
    parser = Parser(
        "report",
        "Put one or several runs on a page of their own, or follow a run that goes on.",
        epilog="Exit codes: 0 done, 2 usage, 65 no journal, 74 cannot read or write.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the run_dir of a run; several are compared")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="report.html, or a picture: report.png")
    parser.add_argument("--data", type=Path, metavar="FILE", help="where the data file is now, for the test data")
    parser.add_argument(
        "--image",
        default="auto",
        metavar="SHAPE",
        help="the features' shape as a picture, such as 28x28 or 32x32x3; none; auto: a square from 8 x 8 on (auto)",
    )
    parser.add_argument("--follow", action="store_true", help="tell what the run does, until it ends or Ctrl-C")
    return parser


def write(folders: Sequence[Path], output: Path, data: Path | None, image: str) -> None:
    """Write the report of the runs to `output`. Raises ConfigError, DataError or StorageError."""
    if output.suffix.lower() not in (".html", ".png"):
        raise ConfigError(f"output = {output}: must end in .html or .png")
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError('a report needs matplotlib: pip install "ddp_mlp[report]"') from error
    matplotlib.use("agg")  # draws without a display

    from ddp_mlp.reporting import page, pictures
    from ddp_mlp.reporting.curves import training_charts
    from ddp_mlp.reporting.machine_use import machine_charts
    from ddp_mlp.reporting.number_outcome import NumberOutcome, number_outcome_on_test
    from ddp_mlp.reporting.outcome import Outcome, image_shape, outcome_on_test
    from ddp_mlp.reporting.runs import read_all
    from ddp_mlp.reporting.searches import search_page
    from ddp_mlp.reporting.target_charts import charts_of_numbers
    from ddp_mlp.run_dir.narrator import duration
    from ddp_mlp.storage.atomic import write_atomically
    from ddp_mlp.trials.log import read as read_search

    search = ""
    if len(folders) == 1 and (found := read_search(folders[0])) is not None:
        search = search_page(found)
    runs = read_all(folders)
    try:
        shapes = [image_shape(run.start["data"].get("features", 0), image) for run in runs]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    outcomes = [
        outcome_on_test(run, data, MISTAKES) if "classes" in run.start["data"] else number_outcome_on_test(run, data)
        for run in runs
    ]
    if output.suffix.lower() == ".html":
        content = page.page(runs, outcomes, shapes, search).encode()
    else:
        drawn = [*training_charts(runs)[1:], *machine_charts(runs)]
        lines = []
        for run, outcome, shape in zip(runs, outcomes, shapes, strict=True):
            lines.append(
                f"{run.name}: {run.state}, {counted(run.events[-1]['step'], 'step')}, "
                f"{duration(run.events[-1]['seconds'])}"
            )
            if isinstance(outcome, NumberOutcome):
                drawn += charts_of_numbers(outcome)
            elif isinstance(outcome, Outcome):
                lines[-1] += f", test accuracy {outcome.accuracy:.4f}, {outcome.parameters_sha256[:16]}"
                title = "Confusion matrix" if len(runs) == 1 else f"Confusion matrix: {run.name}"
                drawn.append(pictures.confusion_chart(run, outcome, title))
                if shape is not None and outcome.mistakes:
                    drawn.append(pictures.mistakes_chart(run, outcome, shape))
        content = pictures.to_png(drawn, " · ".join(run.name for run in runs), lines)
    write_atomically(output, content)


def follow(folder: Path) -> None:
    """Print what a run does as it happens, while somebody reads on, until its end. Raises DataError or StorageError."""
    from ddp_mlp.parallel.terminal import terminal_of
    from ddp_mlp.reporting.follower import Follower, journal_of
    from ddp_mlp.run_dir import narrator as words

    path = journal_of(folder)
    if not path.exists():
        print(printable(f"waiting for {path}"), file=sys.stderr, flush=True)
    follower, narrator, screen = Follower(path), words.Narrator(), terminal_of(1)
    while True:
        for event in follower.poll():
            try:
                lines = narrator.lines(event)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise DataError(f"{path}: an event is not of this program: {event.get('event')!r}") from None
            if event["event"] == "final":
                lines += [words.result(event)] if screen is None else words.result_on_screen(event, screen.columns)
            for line in lines:
                print(printable(line), flush=True)
            if streams.reader_is_gone():
                return
            if event["event"] == "final":
                return
        time.sleep(POLL_SECONDS)


def _run(asked: argparse.Namespace) -> None:
    if asked.follow:
        try:
            follow(asked.runs[0])
        except Stopped as stopped:
            if stopped.number != signal.SIGINT:
                raise
    else:
        output = asked.output or Path("report.html")
        write(asked.runs, output, asked.data, asked.image)
        print(printable(str(output)))


def _check(asked: argparse.Namespace) -> None:
    if asked.follow and (len(asked.runs) > 1 or asked.output):
        raise ConfigError("--follow: takes one RUN and no --output")
    command.keep_what_is_read({"--output": asked.output}, asked.data, *asked.runs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.alone(_parser(), _run, argv, _check)


if __name__ == "__main__":
    sys.exit(main())
