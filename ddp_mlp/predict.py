"""Predict for the rows of a file: `python -m ddp_mlp.predict CHECKPOINT DATA -o OUT.h5`, alone or under mpirun."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.errors import ConfigError, ProgramError, printable
from ddp_mlp.units import counted

if TYPE_CHECKING:
    from ddp_mlp.inference.ensemble import Calibration, Ensemble, EnsembleScores
    from ddp_mlp.inference.ensemble_numbers import EnsembleNumberScores
    from ddp_mlp.inference.network import Network
    from ddp_mlp.inference.numbers import NumberScores
    from ddp_mlp.inference.scores import Scores
    from ddp_mlp.parallel.communicator import Communicator
    from ddp_mlp.storage.dataset import DatasetInfo

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
    network = "a checkpoint file, or the folder of a run or a search"
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=network)
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
    from ddp_mlp.model import load_ensemble
    from ddp_mlp.storage.atomic import write_atomically
    from ddp_mlp.storage.dataset import inspect
    from ddp_mlp.training.machine import agree_on_kernels

    model = communicator.on_rank_0(load_ensemble, asked.checkpoint)
    for dtype in sorted({each.dtype.name for each in model.ensemble.networks if not each.arithmetic.is_portable}):
        agree_on_kernels(dtype, communicator)
    with _rows_made_of(asked, model.ensemble.networks[0], communicator) as data:
        info = communicator.on_rank_0(inspect, data, asked.x_name, asked.y_name, False)
        communicator.on_rank_0(_tell_left_out, info, model.ensemble.networks[0])
        with communicator.in_agreement():
            split = _chosen_split(info, asked)
        scores = _applied(model.ensemble, info, split, communicator, asked.out)
        communicator.barrier()  # every rank has read the rows
    if communicator.rank != 0:
        return
    names = {"classes": model.classes} if model.classes else {"targets": model.ensemble.targets.names}
    if scores is not None:
        for line in _described(scores, model.classes):
            print(printable(line))
        if asked.scores is not None:
            kept = asdict(scores)
            together = kept.pop("together", {})
            text = json.dumps(finite_or_none({**names, **together, **kept}), indent=1)
            write_atomically(asked.scores, text.encode() + b"\n")
    if asked.out is not None:
        [(kind, found)] = names.items()
        named = counted(len(found), {"classes": "class", "targets": "target"}[kind])
        what = f"{counted(info.splits[split].rows, 'row')} of {split}, {named}"
        together = f", {model.members} members" if model.members > 1 else ""
        print(f"{asked.out}: {what}{together}", file=sys.stderr, flush=True)


AnyScores: TypeAlias = "Scores | NumberScores | EnsembleScores | EnsembleNumberScores"


def _applied(
    ensemble: "Ensemble", info: "DatasetInfo", split: str, communicator: "Communicator", out: Path | None
) -> "AnyScores | None":
    """Let one network answer, or several together, for classes or numbers. Collective."""
    from ddp_mlp.inference.apply import classify
    from ddp_mlp.inference.ensemble import classify_together
    from ddp_mlp.inference.ensemble_numbers import predict_together
    from ddp_mlp.inference.numbers import predict_numbers

    rest = info, split, communicator, out
    if len(ensemble.networks) > 1:
        return classify_together(ensemble, *rest) if ensemble.classes else predict_together(ensemble, *rest)
    [network] = ensemble.networks
    return classify(network, *rest) if ensemble.classes else predict_numbers(network, *rest)


def _described(scores: "AnyScores", classes: Sequence[str]) -> Iterator[str]:
    """Yield scores as lines for people."""
    from ddp_mlp.inference.ensemble import EnsembleScores
    from ddp_mlp.inference.ensemble_numbers import EnsembleNumberScores
    from ddp_mlp.inference.scores import Scores

    if isinstance(scores, Scores):
        return describe_classes(scores, classes)
    if isinstance(scores, EnsembleScores):
        return describe_together(scores, classes)
    return describe_numbers_together(scores) if isinstance(scores, EnsembleNumberScores) else describe_numbers(scores)


def describe_together(scores: "EnsembleScores", classes: Sequence[str]) -> Iterator[str]:
    """Yield an ensemble's scores as lines for people: its own, its members', and its calibration."""
    yield from describe_classes(scores.together, classes)
    yield ""
    table: list[Sequence[Any]] = [("member", "accuracy", "log-loss")]
    for number, (accuracy, loss) in enumerate(zip(scores.accuracies, scores.log_losses, strict=True)):
        table.append((number, f"{accuracy:.4f}", f"{loss:.4f}"))
    together = scores.together
    yield from _aligned([*table, ("all", f"{together.accuracy:.4f}", f"{together.log_loss:.4f}")])
    yield ""
    found = scores.calibration
    yield f"calibration: expected error {found.expected_error:.4f}; mean deviation {scores.deviation:.4f}"
    yield from _bins(found, ("confidence", "rows", "mean", "accuracy"))


def describe_numbers_together(scores: "EnsembleNumberScores") -> Iterator[str]:
    """Yield an ensemble's scores as lines for people: its own, its members', and how well its spread tells errors."""
    from ddp_mlp.inference.ensemble import Calibration

    yield from describe_numbers(scores.together)
    yield ""
    heads = list(scores.together.figures)
    table: list[Sequence[Any]] = [("member", "loss", *heads)]
    for number, one in [*enumerate(scores.members), ("all", scores.together)]:
        table.append([number, *(f"{value:.6g}" for value in (one.loss, *(one.figures[head] for head in heads)))])
    yield from _aligned(table)
    yield ""
    found = scores.calibration
    if isinstance(found, Calibration):
        yield f"calibration: expected error {found.expected_error:.4f}"
        yield from _bins(found, ("probability", "labels", "mean", "share that is so"))
        return
    yield "calibration: the share of rows within the interval that the spread gives for it"
    shares = list(next(iter(found.values())).coverage)
    lines: list[Sequence[Any]] = [("target", *shares, "expected error", "spread")]
    for name, interval in found.items():
        numbers = [f"{interval.coverage.get(share, math.nan):.4f}" for share in shares]
        lines.append([name, *numbers, f"{interval.expected_error:.4f}", f"{interval.spread:.6g}"])
    yield from _aligned(lines)


def _bins(found: "Calibration", heads: Sequence[str]) -> Iterator[str]:
    """Yield the bins of a calibration that have rows."""
    bins: list[Sequence[Any]] = [heads]
    for i, (rows, confidence, right) in enumerate(zip(found.rows, found.confidence, found.accuracy, strict=True)):
        if confidence is not None and right is not None:
            lo, hi = i / len(found.rows), (i + 1) / len(found.rows)
            bins.append((f"{lo:.1f} to {hi:.1f}", rows, f"{confidence:.4f}", f"{right:.4f}"))
    yield from _aligned(bins)


@contextmanager
def _rows_made_of(asked: argparse.Namespace, network: "Network", communicator: "Communicator") -> "Iterator[Path]":
    """Yield the data-set file to read: DATA itself, or what rank 0 makes of a raw table, which goes in the end.

    It is made beside OUT, or in the run's folder, where every node can read it. Collective.
    """
    kept = ExitStack()

    def make() -> Path:
        from ddp_mlp.conversion.raw import is_raw, write_raw
        from ddp_mlp.storage.atomic import temporary_folder

        if not asked.data.exists() or not is_raw(asked.data):  # a pattern, or a file of HDF5
            return Path(asked.data)
        beside = asked.checkpoint if asked.checkpoint.is_dir() else asked.checkpoint.parent
        folder = kept.enter_context(temporary_folder(asked.out.parent if asked.out else beside, ".predict-"))
        for line in write_raw(asked.data, network.inputs.get("recipe"), network.feature_names, folder / "rows.h5"):
            print(printable(line), file=sys.stderr, flush=True)
        return folder / "rows.h5"

    with kept:
        data = communicator.on_rank_0(make)
        try:
            yield data
        except ProgramError as error:  # names the table: what was made of it goes, and nobody has seen it
            error.args = (error.args[0].replace(str(data), str(asked.data)), *error.args[1:])
            raise


def _tell_left_out(info: "DatasetInfo", network: "Network") -> None:
    """Say which features of a data-set file the network does not take. Raises DataError where one is not there."""
    from ddp_mlp.storage.dataset import arranged

    _, left_out = arranged(info, network.feature_names)
    if left_out:
        listed = ", ".join(left_out[:20]) + (", …" if len(left_out) > 20 else "")
        print(printable(f"{info.path}: takes no part: {listed}"), file=sys.stderr, flush=True)


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


def describe_classes(scores: "Scores", classes: Sequence[str]) -> Iterator[str]:
    """Yield the scores as lines for people: the figures, a table of the classes, the confusion matrix."""
    from ddp_mlp.run_dir.narrator import wrapped

    yield f"rows {scores.rows:,}, accuracy {scores.accuracy:.4f}, log-loss {scores.log_loss:.4f}"
    if scores.unseen:
        listed = ", ".join(f"{name} {count:,}" for name, count in scores.unseen.items())
        yield from wrapped(f"rows of classes that training never saw, in no figure: {listed}")
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
    from ddp_mlp.parallel.terminal import COLUMNS, display_width

    matrix = [["", *classes]]
    for i, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        matrix.append([name, *(str(rows) if rows or i == k else "·" for k, rows in enumerate(row))])
    widths = [max(display_width(printable(str(row[i]))) for row in matrix) for i in range(len(matrix))]
    if sum(widths) + 2 * len(classes) <= COLUMNS:
        yield "confusion matrix: a row for each true class, a column for each predicted one"
        yield from _aligned(matrix)
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
    from ddp_mlp.parallel.terminal import COLUMNS
    from ddp_mlp.run_dir.narrator import listed

    figures = [f"{name} {value:.6g}" for name, value in scores.figures.items()]
    yield from listed([f"rows {scores.rows:,}", f"loss {scores.loss:.6g}", *figures], COLUMNS)
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
    """Yield the rows of a table, the first column flush left and the others flush right.

    Columns that do not fit the screen beside the first stand below, with the first again.
    """
    from ddp_mlp.parallel.terminal import COLUMNS, display_width

    shown = [[printable(str(cell)) for cell in row] for row in table]
    widths = [max(display_width(row[i]) for row in shown) for i in range(len(shown[0]))]
    parts: list[list[int]] = [[]]
    for i in range(1, len(widths)):
        if parts[-1] and widths[0] + sum(2 + widths[k] for k in (*parts[-1], i)) > COLUMNS:
            parts.append([])
        parts[-1].append(i)
    for number, part in enumerate(parts):
        yield from [""] if number else []
        for row in shown:
            gaps = {i: " " * (widths[i] - display_width(row[i])) for i in (0, *part)}
            yield "  ".join([row[0] + gaps[0], *(gaps[i] + row[i] for i in part)]).rstrip()


if __name__ == "__main__":
    main()
