"""What a run would be, before it is one: network, steps, memory and traffic of every rank, for `--describe`.

Nothing is trained and nothing written; of the data only the structure and the labels are read. The figures come from
the plan by which the ranks work (`summing/plan.py`), from `Layout` and from `Group`, whose buffers take no memory
before something is written into them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.config import Config
from ddp_mlp.data.access import Access, choose_access
from ddp_mlp.data.targets import names_of, settle
from ddp_mlp.errors import printable
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.nn import architecture, optimizers
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.targets import Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo, inspect
from ddp_mlp.storage.reader import Reader
from ddp_mlp.summing.plan import Plan, make_plan
from ddp_mlp.summing.proven import WIDE
from ddp_mlp.summing.tallies import WIDTH
from ddp_mlp.summing.tree import Subtree, automatic_shards, rows, turns
from ddp_mlp.units import byte_size

LABELS = 1 << 20
"""Labels read at a time."""
OUTPUT_FUNCTIONS = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp"}
"""f_L of the losses that have one of their own."""
LINES_AT_MOST = 16
"""Of a table with one line per rank; beyond that it shows the least and the most."""


@dataclass(frozen=True)
class RankOutline:
    """What one rank does and needs; memory in bytes, traffic in bytes per step."""

    examples: int
    """Of a whole batch."""
    gradients: int
    """Sums of shards, finished or waiting for their sibling, and what is on its way to other nodes; at most."""
    optimizer: int
    """The state of its own slice, and the mask of what decays."""
    activations: int
    """Buffers of all passes of different size, training and evaluation; at most."""
    read: int
    """Gradient sums of its node's other ranks, read where they lie: within a node nothing is sent."""
    sent: int
    """To ranks of other nodes; with reduction = allreduce to any, if the MPI library passes it round a ring."""


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
    ranks: list[RankOutline]

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

    Raises DataError, StorageError or ConfigError on all ranks for data that cannot be used or do not fit.
    """
    found = outline(config, communicator)
    if communicator.rank == 0:
        print("\n".join(printable(line) for line in lines(config, found, communicator)), flush=True)


def outline(config: Config, communicator: Communicator) -> Outline:
    """Return what a run would do, from its start. Collective."""
    info, targets, counts = communicator.on_rank_0(_look, config)
    access = choose_access(config, info, communicator)
    held_out = 0.0 if "valid" in info.splits else config.valid_fraction
    m = sum(int(n) - round(held_out * int(n)) for n in counts)
    batch_size = m if config.batch_size == "full" else min(config.batch_size, m)
    network = architecture.create(info.features, config.hidden, targets, activation=config.activation)
    layout, dtype = network.layout, np.dtype(config.dtype)
    arithmetic = arithmetics.called(config.arithmetic)
    working = arithmetic.working(dtype)
    if arithmetic.is_portable:  # a rank's share takes the place of its shards
        K = communicator.size
        part = exact_part(make_plan(K, layout.length, communicator.nodes), communicator)
    elif config.reduction == "exact":
        K = automatic_shards(communicator.size) if config.shards == "auto" else config.shards
        part = exact_part(make_plan(K, layout.length, communicator.nodes), communicator)
    else:
        K = communicator.size
        part = plain_part(layout.length, communicator)

    batches = {batch_size, m % batch_size} - {0}
    if arithmetic.is_portable:
        batches = {piece for m in batches for piece in (min(m, config.chunk_rows), m % config.chunk_rows)} - {0}
    sizes = {size for batch in batches for size in _passes(part.subtrees, batch, K, config.chunk_rows)}
    passes = [(size, working, True) for size in sizes]
    passes += [((n,), working, False) for n in _evaluations(config, info, m)]
    weighted = info.splits["train"].weighted or config.class_weight is not None
    optimizer = optimizers.create(config.optimizer)
    decay = optimizer.default_weight_decay if config.weight_decay is None else config.weight_decay
    sums = _gradient_sums(part.subtrees, layout, batches, K, config.chunk_rows)
    mine = RankOutline(
        examples=sum(len(rows(subtree, batch_size, K)) for subtree in part.subtrees),
        gradients=(sums + part.exchanged) * working.itemsize,
        optimizer=(len(optimizer.slots) + bool(config.l2 or decay)) * part.slice_length * dtype.itemsize,
        activations=sum(_pass_bytes(network.group(*each), info, weighted, working) for each in passes),
        read=part.read * working.itemsize,
        sent=part.sent * working.itemsize + part.tallies * np.dtype(np.float64).itemsize,
    )
    return Outline(
        info=info,
        access=access,
        network=network,
        targets=targets,
        rows=m,
        batch_size=batch_size,
        K=K,
        parameters=layout.length * (dtype.itemsize + arithmetic.is_portable * working.itemsize),
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


# ---- one rank's part of a sum ----------------------------------------------------------------------------------------


class Part(NamedTuple):
    """What one rank has to do with the sum of all gradients; in elements of the flat vector, but for tallies."""

    subtrees: list[Subtree]
    """The shards it computes, in complete subtrees."""
    slice_length: int
    """What it updates."""
    exchanged: int
    """In buffers for what is sent and received."""
    read: int
    """Of its node's other ranks' gradient sums, in each step."""
    sent: int
    """Gradient sums and parameters, in each step."""
    tallies: int
    """Numbers (float64) that it sends for its node besides, in each step."""


def exact_part(plan: Plan, communicator: Communicator) -> Part:
    """Return this rank's part of an exact sum. Local."""
    nodes, node, column = communicator.nodes, communicator.node, communicator.local_rank
    own, others = plan.slices()[communicator.rank], len(nodes) - 1
    partials = sum(len(plan.of_rank[p]) for p in nodes[node] if p != communicator.rank)
    exchanged = read = sent = 0
    if column < len(plan.columns):
        bounds = plan.columns[column]
        read = partials * (bounds[-1] - bounds[0])
        if plan.halving:
            swaps = plan.swaps(node, column)
            exchanged = max(_length(swap.kept) for swap in swaps)
            sent = sum(_length(swap.given) + _length(swap.kept) for swap in swaps)  # sums out, parameters back
        elif others:
            to, received = plan.sent(node, column), plan.received(node, column)
            exchanged = sum(to) + sum(received)
            sent = sum(to) - to[node] + others * _length(own)
    tallies = 0
    if column == 0:
        shards = sum(hi - lo for p in nodes[node] for lo, hi in plan.of_rank[p])
        tallies = WIDTH * (shards + len(nodes[node])) * others
    return Part(plan.of_rank[communicator.rank], _length(own), exchanged, read, sent, tallies)


def plain_part(length: int, communicator: Communicator) -> Part:
    """Return this rank's part of an Allreduce, as a ring would do it. Local."""
    rank, P = communicator.rank, communicator.size
    return Part([(rank, rank + 1)], length, exchanged=0, read=0, sent=2 * length * (P - 1) // P, tallies=0)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


# ---- one rank's passes over examples ---------------------------------------------------------------------------------


def _passes(subtrees: Sequence[Subtree], m: int, K: int, chunk_rows: int) -> Iterator[tuple[int, ...]]:
    """Yield the sizes of the shards of every pass over a batch of m rows, as `step` makes them."""
    for part in (turn for subtree in subtrees for turn in turns(subtree, m, K, together=chunk_rows)):
        n = len(rows(part.subtree, m, K))
        if n <= chunk_rows:
            yield tuple(len(rows(turn.subtree, m, K)) for turn in turns(part.subtree, m, K))
        else:
            yield from ((min(chunk_rows, n - lo),) for lo in range(0, n, chunk_rows))


def _evaluations(config: Config, info: DatasetInfo, m: int) -> set[int]:
    """Return the sizes of the passes over the examples that are held out: whole blocks, and what is left of a split."""
    splits = [info.splits[name].rows for name in ("valid", "test") if name in info.splits]
    if "valid" not in info.splits and config.valid_fraction:
        splits.append(info.splits["train"].rows - m)
    return {size for n in splits for size in (min(n, EVALUATION_ROWS), n % EVALUATION_ROWS) if size}


def _pass_bytes(group: Group, info: DatasetInfo, weighted: bool, dtype: np.dtype[Any]) -> int:
    """Return the bytes of a pass's buffers, and of the one in which rows of another dtype arrive."""
    raw = np.dtype(info.splits["train"].dtype)
    arriving = 0 if raw == dtype else group.m * info.features * raw.itemsize
    return group.nbytes + arriving + weighted * group.m * dtype.itemsize


def _gradient_sums(subtrees: Sequence[Subtree], layout: Layout, batches: set[int], K: int, chunk_rows: int) -> int:
    """Return the elements of all gradient sums at hand; at most, since products may be added up in smaller blocks."""
    waiting = height = count = 0
    """The most sums of parts that wait at a time, and of shards in one part, one by one or all at once."""
    for m, subtree in product(batches, subtrees):
        for part in turns(subtree, m, K, together=chunk_rows):
            of_shards = turns(part.subtree, m, K)
            waiting = max(waiting, part.height + (len(rows(part.subtree, m, K)) > chunk_rows))
            height = max(height, *(turn.height for turn in of_shards))
            count = max(count, len(of_shards))
    sizes = [n * k for n, k in {(n, k) for n_prev, n in pairwise(layout.widths) for k in (n_prev, 1)}]
    products = sum(size * (height if size >= WIDE else count if count > 1 else 0) for size in sizes)
    return (len(subtrees) + waiting) * layout.length + products


# ---- words -----------------------------------------------------------------------------------------------------------


def lines(config: Config, found: Outline, communicator: Communicator) -> Iterator[str]:
    """Yield the description, line by line."""
    info, layout, nodes = found.info, found.layout, communicator.nodes
    splits = ", ".join(f"{split.rows:,} {name}" for name, split in info.splits.items())
    held_out = info.splits["train"].rows - found.rows
    apart = f" ({held_out:,} of them held out for validation)" if held_out else ""
    targets, network = found.targets, found.network
    features = f"{info.features:,} features ({info.splits['train'].dtype})"
    kinds = f"{len(targets.classes):,} classes" if targets.classes else _counted(targets.count, "target")
    yield f"data       {info.path}: {splits}{apart}; {features}, {kinds}"

    yield "network    layer              weights     biases"
    shown = {**{f.name: f.name for f in network.activations}, "relu": "ReLU"}
    last_function = OUTPUT_FUNCTIONS.get(targets.loss, config.output_activation)
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
        f"training   {_counted(config.epochs, 'epoch')} of {_counted(found.steps_per_epoch, 'step')}, {batches}, "
        f"{config.optimizer}, learning rate {config.learning_rate:g} ({config.schedule})"
    )
    per_shard = sorted({len(rows((i, i + 1), found.batch_size, found.K)) for i in range(found.K)})
    sizes = " or ".join(f"{n:,}" for n in per_shard)
    shared = f"K = {found.K} shards of {sizes} examples, {config.reduction} sum"
    if config.arithmetic == "portable":
        shared = f"shares of {sizes} examples, portable arithmetic: no shards, the same bits on any machine"
    yield f"ranks      P = {communicator.size} on {_counted(len(nodes), 'node')}, {shared}"

    data = f"data {byte_size(found.access.node_bytes)} (access = {found.access.kind})"
    if config.reduction == "exact":
        yield f"memory     of a node, one copy for all its ranks: parameters {byte_size(found.parameters)}, {data}"
    else:
        yield f"memory     of a node, one copy for all its ranks: {data}; of each rank: parameters {taken}"
    yield from _table(
        ("gradients", "optimizer", "activations", "in all"),
        [(r.gradients, r.optimizer, r.activations, r.gradients + r.optimizer + r.activations) for r in found.ranks],
    )
    yield "each step"
    if config.reduction == "exact":
        heads = ("examples", "sent within nodes", "read within nodes", "sent between nodes")
        yield from _table(heads, [(r.examples, 0, r.read, r.sent) for r in found.ranks])
    else:
        yield from _table(("examples", "sent, if round a ring"), [(r.examples, r.sent) for r in found.ranks])
    idle = sum(not r.examples for r in found.ranks)
    if idle:
        yield f"           {_counted(idle, 'rank')} of {communicator.size} without examples: raise shards or batch_size"


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


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
