"""Predict for the rows of a file: `python -m ddp_mlp.predict CHECKPOINT DATA -o OUT.h5`, alone or under mpirun."""

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.errors import ConfigError, printable
from ddp_mlp.units import counted

if TYPE_CHECKING:
    from ddp_mlp.inference.ensemble import EnsembleScores
    from ddp_mlp.inference.numbers import NumberScores
    from ddp_mlp.inference.scores import Scores
    from ddp_mlp.model import Model
    from ddp_mlp.parallel.communicator import Communicator
    from ddp_mlp.storage.dataset import DatasetInfo

COLUMNS = 80
"""A confusion matrix is printed where its lines fit into this; else the most frequent confusions are listed."""
CONFUSIONS = 20
"""The most confusions that are listed."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, on every rank with the same code."""
    command.on_all_ranks(_parser(), _run, argv, _check)


def _parser() -> Parser:
    parser = Parser(
        "predict",
        "Predict classes or numbers for the rows of a data-set file with a trained network. Where the file has "
        "targets, figures go to standard output: accuracy, log-loss, precision and recall of each class and the "
        "confusion matrix, or RMSE, MAE and R² of each number in its own units.",
        epilog="The same bytes on any number of ranks: mpirun -n 4 python -m ddp_mlp.predict …",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint file, or a run's folder")
    what = "HDF5 (a pattern: several), or a raw CSV, Parquet, NPY"
    parser.add_argument("data", type=Path, metavar="DATA", help=what)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="OUT", help="file for labels and probabilities, or numbers: .h5, .csv"
    )
    parser.add_argument("--split", metavar="NAME", help="train, valid or test (test, else the only one there is)")
    parser.add_argument("--x_name", default="X", metavar="TEXT", help='name of the features; "/a/b": from the root (X)')
    parser.add_argument("--y_name", default="y", metavar="TEXT", help="name of the labels, if there are any (y)")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="write the figures to FILE too, as JSON")
    return parser


def _check(asked: argparse.Namespace) -> None:
    if asked.out is not None and asked.out.suffix not in (".h5", ".hdf5", ".csv"):
        raise ConfigError(f"--out {asked.out}: must end in .h5 or .csv, which is the format to write")
    command.keep_what_is_read({"--out": asked.out, "--scores": asked.scores}, asked.data, asked.checkpoint)


def _run(asked: argparse.Namespace, communicator: "Communicator") -> None:
    from ddp_mlp.inference.apply import classify
    from ddp_mlp.inference.numbers import predict_numbers
    from ddp_mlp.inference.scores import Scores
    from ddp_mlp.model import load, members_of
    from ddp_mlp.storage.atomic import write_atomically
    from ddp_mlp.storage.dataset import inspect

    if len(communicator.on_rank_0(members_of, asked.checkpoint)) > 1:
        info = communicator.on_rank_0(inspect, asked.data, asked.x_name, asked.y_name, False)
        with communicator.in_agreement():
            split = _chosen_split(info, asked)
        _run_together(asked, info, split, communicator)
        return
    model = communicator.on_rank_0(load, asked.checkpoint)
    apply = classify if model.classes else predict_numbers
    with _rows_made_of(asked, model, communicator) as data:
        info = communicator.on_rank_0(inspect, data, asked.x_name, asked.y_name, False)
        with communicator.in_agreement():
            split = _chosen_split(info, asked)
        scores = apply(model.network, info, split, communicator, asked.out)
        communicator.barrier()  # every rank has read the rows
    if communicator.rank != 0:
        return
    rows = info.splits[split].rows
    names = {"classes": model.classes} if model.classes else {"targets": model.targets.names}
    if scores is not None:
        lines = describe(scores, model.classes) if isinstance(scores, Scores) else describe_numbers(scores)
        for line in lines:
            print(printable(line))
        if asked.scores is not None:
            text = json.dumps(finite_or_none({**names, **asdict(scores)}), indent=1)
            write_atomically(asked.scores, text.encode() + b"\n")
    if asked.out is not None:
        [(kind, found)] = names.items()
        print(f"{asked.out}: {counted(rows, 'row')} of {split}, {len(found)} {kind}", file=sys.stderr, flush=True)


def _run_together(asked: argparse.Namespace, info: "DatasetInfo", split: str, communicator: "Communicator") -> None:
    """Let the members of a search answer together. Collective."""
    from ddp_mlp.inference.ensemble import classify_together
    from ddp_mlp.model import load_ensemble
    from ddp_mlp.storage.atomic import write_atomically

    model = communicator.on_rank_0(load_ensemble, asked.checkpoint)
    scores = classify_together(model.ensemble, info, split, communicator, asked.out)
    if communicator.rank != 0:
        return
    if scores is not None:
        for line in describe_together(scores, model.classes):
            print(printable(line))
        if asked.scores is not None:
            kept = asdict(scores)
            text = json.dumps({"classes": model.classes, **kept.pop("together"), **kept}, indent=1)
            write_atomically(asked.scores, text.encode() + b"\n")
    if asked.out is not None:
        rows = f"{counted(info.splits[split].rows, 'row')} of {split}"
        what = f"{rows}, {counted(len(model.classes), 'class')}, {counted(model.members, 'member')}"
        print(f"{asked.out}: {what}", file=sys.stderr, flush=True)


def describe_together(scores: "EnsembleScores", classes: Sequence[str]) -> Iterator[str]:
    """Yield an ensemble's scores as lines for people: its own, its members', and its calibration."""
    yield from describe(scores.together, classes)
    yield ""
    table: list[Sequence[Any]] = [("member", "accuracy", "log-loss")]
    for number, (accuracy, loss) in enumerate(zip(scores.accuracies, scores.log_losses, strict=True)):
        table.append((number, f"{accuracy:.4f}", f"{loss:.4f}"))
    together = scores.together
    yield from _aligned([*table, ("all", f"{together.accuracy:.4f}", f"{together.log_loss:.4f}")])
    yield ""
    found = scores.calibration
    yield f"calibration: expected error {found.expected_error:.4f}; mean deviation {scores.deviation:.4f}"
    bins: list[Sequence[Any]] = [("confidence", "rows", "mean", "accuracy")]
    for i, (rows, confidence, right) in enumerate(zip(found.rows, found.confidence, found.accuracy, strict=True)):
        if confidence is not None and right is not None:
            lo, hi = i / len(found.rows), (i + 1) / len(found.rows)
            bins.append((f"{lo:.1f} to {hi:.1f}", rows, f"{confidence:.4f}", f"{right:.4f}"))
    yield from _aligned(bins)


@contextmanager
def _rows_made_of(asked: argparse.Namespace, model: "Model", communicator: "Communicator") -> "Iterator[Path]":
    """Yield the data-set file to read: DATA itself, or what rank 0 makes of a raw table, which goes in the end.

    It is made beside OUT, or in the run's folder, where every node can read it. Collective.
    """
    made: list[Path] = []

    def make() -> Path:
        from ddp_mlp.conversion.raw import is_raw, write_raw

        if not asked.data.exists() or not is_raw(asked.data):  # a pattern, or a file of HDF5
            return Path(asked.data)
        beside = asked.checkpoint if asked.checkpoint.is_dir() else asked.checkpoint.parent
        folder = Path(tempfile.mkdtemp(prefix=".predict-", dir=asked.out.parent if asked.out else beside))
        made.append(folder)
        network = model.network
        for line in write_raw(asked.data, network.inputs.get("recipe"), network.feature_names, folder / "rows.h5"):
            print(printable(line), file=sys.stderr, flush=True)
        return folder / "rows.h5"

    try:
        yield communicator.on_rank_0(make)
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def _chosen_split(info: "DatasetInfo", asked: argparse.Namespace) -> str:
    names = list(info.splits)
    split: str = asked.split or ("test" if "test" in names else names[0])
    if split not in names:
        raise ConfigError(f"--split {split}: {asked.data} has {', '.join(names)}")
    if asked.split is None and split != "test" and len(names) > 1:
        raise ConfigError(f"{asked.data}: has {', '.join(names)}: choose one with --split")
    if not info.splits[split].labelled and (asked.out is None or asked.scores is not None):
        raise ConfigError(f"{asked.data}: {split} has no {asked.y_name!r}: there are no scores, name a file with --out")
    return split


def describe(scores: "Scores", classes: Sequence[str]) -> Iterator[str]:
    """Yield the scores as lines for people: the figures, a table of the classes, the confusion matrix."""
    yield f"rows {scores.rows:,}, accuracy {scores.accuracy:.4f}, log-loss {scores.log_loss:.4f}"
    if scores.unseen:
        listed = ", ".join(f"{name} {count:,}" for name, count in scores.unseen.items())
        yield f"rows of classes that training never saw, in no figure: {listed}"
    yield ""
    table: list[Sequence[Any]] = [("class", "precision", "recall", "rows")]
    for row in zip(classes, scores.precision, scores.recall, scores.support, strict=True):
        table.append([f"{value:.4f}" if isinstance(value, float) else "-" if value is None else value for value in row])
    yield from _aligned(table)
    if scores.confusion is not None:
        yield ""
        yield from _describe_confusion(scores.confusion, scores.support, classes)


def _describe_confusion(
    confusion: Sequence[Sequence[int]], support: Sequence[int], classes: Sequence[str]
) -> Iterator[str]:
    """Yield the matrix, or the most frequent confusions where it does not fit the screen."""
    from ddp_mlp.parallel.terminal import columns_of

    matrix = [["", *classes]]
    for i, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        matrix.append([name, *(str(rows) if rows or i == k else "·" for k, rows in enumerate(row))])
    lines = list(_aligned(matrix))
    if max(map(columns_of, lines)) <= COLUMNS:
        yield "confusion matrix: a row for each true class, a column for each predicted one"
        yield from lines
        return
    pairs = [(rows, i, k) for i, row in enumerate(confusion) for k, rows in enumerate(row) if rows and i != k]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    wrong = sum(rows for rows, _, _ in pairs)
    yield f"confusions: {wrong:,} rows in {len(pairs):,} pairs of classes" + (", the most frequent:" if pairs else "")
    table: list[Sequence[Any]] = [("true", "predicted", "rows", "share of the class")]
    table += [(classes[i], classes[k], rows, f"{rows / support[i]:.1%}") for rows, i, k in pairs[:CONFUSIONS]]
    if pairs:
        yield from _aligned(table)


def describe_numbers(scores: "NumberScores") -> Iterator[str]:
    """Yield the scores as lines for people: the figures of all targets, and a table of each."""
    figures = ", ".join(f"{name} {value:.6g}" for name, value in scores.figures.items())
    yield f"rows {scores.rows:,}, loss {scores.loss:.6g}, {figures}"
    yield ""
    heads = list(next(iter(scores.of_each.values())))
    table: list[Sequence[Any]] = [("target", *heads)]
    for name, of_target in scores.of_each.items():
        table.append([name, *("-" if math.isnan(value) else f"{value:.6g}" for value in of_target.values())])
    yield from _aligned(table)


def finite_or_none(value: Any) -> Any:
    """Return a value with null in place of figures that are not defined, as JSON has no NaN."""
    if isinstance(value, dict):
        return {name: finite_or_none(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _aligned(table: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Yield the rows of a table, the first column flush left and the others flush right."""
    from ddp_mlp.parallel.terminal import columns_of

    shown = [[printable(str(cell)) for cell in row] for row in table]
    widths = [max(columns_of(row[i]) for row in shown) for i in range(len(shown[0]))]
    for row in shown:
        gaps = [" " * (width - columns_of(cell)) for cell, width in zip(row, widths, strict=True)]
        first = row[0] + gaps[0]
        yield "  ".join([first, *(gap + cell for cell, gap in zip(row[1:], gaps[1:], strict=True))]).rstrip()


if __name__ == "__main__":
    main()
