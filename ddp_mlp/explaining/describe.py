"""What a run would be, before it is one: network, steps, memory and traffic of every rank, for `--describe`.

Nothing is trained and nothing written; of the data only the structure and the labels are read. The figures are those of
`training/needs.py`, by which a run is held against its machine.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.access import Access, choose_access
from ddp_mlp.data.targets import names_of, settle
from ddp_mlp.errors import printable
from ddp_mlp.nn import architecture
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.targets import OWN_FUNCTIONS, Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, inspect
from ddp_mlp.storage.reader import Reader
from ddp_mlp.summing.tree import rows
from ddp_mlp.training.memory import check_memory
from ddp_mlp.training.needs import Needs, Rows, needs, parameter_bytes, shards_of
from ddp_mlp.units import byte_size, counted

LABELS = 1 << 20
"""Labels read at a time."""
LINES_AT_MOST = 16
"""Of a table with one line per rank; beyond that it shows the least and the most."""


@dataclass(frozen=True)
class Outline:
    """What all ranks do together."""

    info: DatasetInfo
    access: Access
    network: Architecture
    targets: Targets
    rows: int
    """Rows to train on."""
    batch_size: int
    K: int
    parameters: int
    """Bytes of one copy of the parameters: one per node, or one per rank with reduction = allreduce.

    In portable arithmetic with the rounded weights, in float64.
    """
    ranks: list[Needs]

    @property
    def layout(self) -> Layout:
        """Where the parameters lie."""
        return self.network.layout

    @property
    def steps_per_epoch(self) -> int:
        """The last one may have a smaller batch."""
        return math.ceil(self.rows / self.batch_size)


def describe(config: Config, communicator: Communicator) -> None:
    """Print on rank 0 what would be trained, by whom and at what cost. Collective.

    Raises DataError, StorageError or ConfigError on all ranks for data that cannot be used or do not fit, and, once all
    is told, EnvironmentMismatch where a run would not fit.
    """
    found = outline(config, communicator)
    if communicator.rank == 0:
        print("\n".join(printable(line) for line in lines(config, found, communicator)), flush=True)
    check_memory(config, found.access, found.parameters, found.ranks[communicator.rank], communicator)


def outline(config: Config, communicator: Communicator) -> Outline:
    """Return what a run would do, from its start. Collective."""
    info, targets, counts = communicator.on_rank_0(_look, config)
    access = choose_access(config, info, communicator)
    held_out = 0.0 if "valid" in info.splits else config.valid_fraction
    m = sum(int(n) - round(held_out * int(n)) for n in counts)
    network = architecture.create(info.features, config.hidden, targets, activation=config.activation)
    count = Rows(m, info.splits["train"].rows)
    mine = needs(config, info, network, count, communicator)
    return Outline(
        info=info,
        access=access,
        network=network,
        targets=targets,
        rows=m,
        batch_size=count.batch(config),
        K=shards_of(config, communicator),
        parameters=parameter_bytes(config, network.layout),
        ranks=communicator.allgather(mine),
    )


def _look(config: Config) -> tuple[DatasetInfo, Targets, NDArray[np.int64]]:
    """Return the structure of the data set, what its targets are, and how many rows of train each class has.

    On rank 0 alone. Rows whose targets are numbers count as one class.
    """
    called = config.x_name, config.y_name
    inspected = inspect(config.data, *called, True, config.valid_data, config.test_data)
    loss, info = settle(config, inspected)
    if info.numbers:
        names, n = names_of(info), info.numbers
        quantiles = config.quantiles if loss == "quantile" else ()
        targets = Targets(loss, (), names, (0.0,) * n, (1.0,) * n, quantiles)
        return info, targets, np.array([info.splits["train"].rows])
    counts = np.zeros(len(info.classes or ()), np.int64)
    with Reader(info, "train") as reader:
        for lo in range(0, reader.rows, LABELS):
            found = np.bincount(reader.y(lo, min(lo + LABELS, reader.rows)), minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
    return info, Targets(classes=info.classes or tuple(map(str, range(len(counts))))), counts


# ---- words -----------------------------------------------------------------------------------------------------------


def lines(config: Config, found: Outline, communicator: Communicator) -> Iterator[str]:
    """Yield the description, line by line. Local."""
    info, layout, nodes = found.info, found.layout, communicator.nodes
    splits = ", ".join(f"{split.rows:,} {name}" for name, split in info.splits.items())
    held_out = info.splits["train"].rows - found.rows
    apart = f" ({held_out:,} of them held out for validation)" if held_out else ""
    targets, network = found.targets, found.network
    features = f"{counted(info.features, 'feature')} ({info.splits['train'].dtype})"
    kinds = counted(len(targets.classes), "class") if targets.classes else counted(targets.count, "target")
    yield f"data       {info.path}: {splits}{apart}; {features}, {kinds}"

    yield "network    layer              weights     biases"
    shown = {**{f.name: f.name for f in network.activations}, "relu": "ReLU"}
    last_function = OWN_FUNCTIONS.get(targets.loss, config.output_activation)
    functions = [*(shown[f.name] for f in network.activations), last_function]
    for l, (n_prev, n) in enumerate(pairwise(layout.widths), start=1):
        shape, start = f"{l}  {n_prev} → {n}", network.starts.get(l, "He")
        yield f"           {shape:<14} {n * n_prev:>11,} {n:>10,}  {functions[l - 1]}, begins as {start} has it"
    yield f"           loss = {targets.loss}" + (f", {_levels(targets)}" if targets.quantiles else "")
    taken = byte_size(layout.count * np.dtype(config.dtype).itemsize)
    yield f"           {layout.count:,} parameters, {config.dtype}, {taken}"

    last = found.rows % found.batch_size
    batches = f"batches of {found.batch_size:,}{f' (the last of {last:,})' if last else ''}"
    yield (
        f"training   {counted(config.epochs, 'epoch')} of {counted(found.steps_per_epoch, 'step')}, {batches}, "
        f"{config.optimizer}, learning rate {config.learning_rate:g} ({config.schedule})"
    )
    per_shard = sorted({len(rows((i, i + 1), found.batch_size, found.K)) for i in range(found.K)})
    sizes = " or ".join([*(f"{n:,}" for n in per_shard[:-1]), counted(per_shard[-1], "example")])
    shared = f"K = {counted(found.K, 'shard')} of {sizes}, {config.reduction} sum"
    if config.arithmetic == "portable":
        shared = f"shares of {sizes}, portable arithmetic: no shards, the same bits on any machine"
    yield f"ranks      P = {communicator.size} on {counted(len(nodes), 'node')}, {shared}"

    data = f"data {byte_size(found.access.node_bytes)} (access = {found.access.kind})"
    if config.reduction == "exact":
        yield f"memory     of a node, one copy for all its ranks: parameters {byte_size(found.parameters)}, {data}"
    else:
        yield f"memory     of a node, one copy for all its ranks: {data}; of each rank: parameters {taken}"
    yield from _table(
        ("gradients", "optimizer", "activations", "checkpoint", "in all"),
        [(r.gradients, r.optimizer, r.activations, r.checkpoint, r.memory) for r in found.ranks],
    )
    yield "each step"
    if config.reduction == "exact":
        heads = ("examples", "sent within nodes", "read within nodes", "sent between nodes")
        yield from _table(heads, [(r.examples, 0, r.read, r.sent) for r in found.ranks])
    else:
        yield from _table(("examples", "sent, if round a ring"), [(r.examples, r.sent) for r in found.ranks])
    idle = sum(not r.examples for r in found.ranks)
    if idle:
        yield f"           {counted(idle, 'rank')} of {communicator.size} without examples: raise shards or batch_size"


def _levels(targets: Targets) -> str:
    return f"levels {', '.join(f'{q:g}' for q in targets.quantiles)} of each target"


def _table(heads: Sequence[str], figures: list[tuple[int, ...]]) -> Iterator[str]:
    """Yield a table of every rank's figures, bytes but for examples: a line for each run of ranks that show the same.

    Where that takes too many lines, one has the least and one the most of every column.
    """
    shown = [
        [f"{n:,}" if head == "examples" else byte_size(n) for head, n in zip(heads, r, strict=True)] for r in figures
    ]
    named, start = [], 0
    for cells, same in groupby(shown):
        stop = start + len(list(same))
        named.append((str(start) if stop - start == 1 else f"{start}–{stop - 1}", cells))
        start = stop
    if len(named) > LINES_AT_MOST:
        pairs = [zip(numbers, cells, strict=True) for numbers, cells in zip(figures, shown, strict=True)]
        columns = [sorted(column) for column in zip(*pairs, strict=True)]
        named = [("least", [column[0][1] for column in columns]), ("most", [column[-1][1] for column in columns])]
    for ranks, cells in [("ranks", list(heads)), *named]:
        yield f"           {ranks:<8}" + "".join(
            f"{c:>{max(12, len(h) + 2)}}" for h, c in zip(heads, cells, strict=True)
        )
