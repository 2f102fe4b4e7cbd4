"""What every rank of a training does and needs, before it is one: its part of the sum, and memory to the byte.

The figures come from the plan by which the ranks work (`summing/plan.py`), from `Layout` and from `Group`; nothing
large is allocated to get them. All here is local.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from ddp_mlp.config import Config
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.summing.plan import Plan, make_plan
from ddp_mlp.summing.proven import TOGETHER_BYTES, WIDE
from ddp_mlp.summing.tallies import WIDTH
from ddp_mlp.summing.tree import Subtree, automatic_shards, rows, turns


class Needs(NamedTuple):
    """What one rank does and needs; memory in bytes, traffic in bytes per step."""

    examples: int
    """Of a whole batch."""
    gradients: int
    """Sums of shards, finished or waiting for their sibling, and what is on its way to other nodes; at most."""
    optimizer: int
    """The state of its own slice, and the mask of what decays."""
    activations: int
    """Buffers of all passes of different size, training and evaluation; at most."""
    checkpoint: int
    """On rank 0: a copy of parameters and state, the one before and the file that is made of it, and the best one where
    one is kept; at most."""
    read: int
    """Gradient sums of its node's other ranks, read where they lie: within a node nothing is sent."""
    sent: int
    """To ranks of other nodes; with reduction = allreduce to any, if the MPI library passes it round a ring."""

    @property
    def memory(self) -> int:
        """What the rank takes in all, beside what its node has once."""
        return self.gradients + self.optimizer + self.activations + self.checkpoint


class Rows(NamedTuple):
    """How many rows there are to train on, of how many in the split."""

    train: int
    split: int

    def batch(self, config: Config) -> int:
        """Return the rows of a batch."""
        return self.train if config.batch_size == "full" else min(config.batch_size, self.train)


def parameter_bytes(config: Config, layout: Layout) -> int:
    """Return the bytes of one copy of the parameters: one per node, or one per rank with reduction = allreduce.

    In portable arithmetic with the rounded weights, in float64.
    """
    arithmetic, dtype = arithmetics.called(config.arithmetic), np.dtype(config.dtype)
    return layout.length * (dtype.itemsize + arithmetic.is_portable * arithmetic.working(dtype).itemsize)


def shards_of(config: Config, communicator: Communicator) -> int:
    """Return K; a rank's share takes the place of shards in portable arithmetic and in a plain sum."""
    if config.arithmetic == "portable" or config.reduction != "exact":
        return communicator.size
    return automatic_shards(communicator.size) if config.shards == "auto" else config.shards


def needs(config: Config, info: DatasetInfo, network: Architecture, count: Rows, communicator: Communicator) -> Needs:
    """Return what this rank does and needs."""
    layout, dtype = network.layout, np.dtype(config.dtype)
    arithmetic = arithmetics.called(config.arithmetic)
    working = arithmetic.working(dtype)
    K, m, batch_size = shards_of(config, communicator), count.train, count.batch(config)
    if arithmetic.is_portable or config.reduction == "exact":
        part = exact_part(make_plan(K, layout.length, communicator.nodes), communicator)
    else:
        part = plain_part(layout.length, communicator)
    batches = {batch_size, m % batch_size} - {0}
    if arithmetic.is_portable:
        batches = {piece for m in batches for piece in (min(m, config.chunk_rows), m % config.chunk_rows)} - {0}
    sizes = {size for batch in batches for size in _passes(part.subtrees, batch, K, config.chunk_rows)}
    passes = [(sum(size), True) for size in sizes] + [(n, False) for n in _evaluations(config, info, count)]
    weighted = info.splits["train"].weighted or config.class_weight is not None
    raw = np.dtype(info.splits["train"].dtype)
    arriving = (0 if raw == working else info.features * raw.itemsize) + weighted * working.itemsize
    optimizer = optimizers.create(config.optimizer)
    decay = optimizer.default_weight_decay if config.weight_decay is None else config.weight_decay
    sums = _gradient_sums(part.subtrees, layout, batches, K, config.chunk_rows)
    keeps_best = "valid" in info.splits or count.train < count.split or config.monitor == "train_loss"
    kept = (1 + len(optimizer.slots)) * layout.length * dtype.itemsize
    return Needs(
        examples=sum(len(rows(subtree, batch_size, K)) for subtree in part.subtrees),
        gradients=(sums + part.exchanged) * working.itemsize,
        optimizer=(len(optimizer.slots) + bool(config.l2 or decay)) * part.slice_length * dtype.itemsize,
        activations=sum(network.group_bytes(n, working, training) + n * arriving for n, training in passes),
        checkpoint=(3 + keeps_best) * kept if communicator.rank == 0 else 0,
        read=part.read * working.itemsize,
        sent=part.sent * working.itemsize + part.tallies * np.dtype(np.float64).itemsize,
    )


# ---- one rank's part of a sum ----------------------------------------------------------------------------------------


class SumPart(NamedTuple):
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


def exact_part(plan: Plan, communicator: Communicator) -> SumPart:
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
    return SumPart(plan.of_rank[communicator.rank], _length(own), exchanged, read, sent, tallies)


def plain_part(length: int, communicator: Communicator) -> SumPart:
    """Return this rank's part of an Allreduce, as a ring would do it. Local."""
    rank, P = communicator.rank, communicator.size
    return SumPart([(rank, rank + 1)], length, exchanged=0, read=0, sent=2 * length * (P - 1) // P, tallies=0)


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


def _evaluations(config: Config, info: DatasetInfo, count: Rows) -> set[int]:
    """Return the sizes of the passes over the examples that are held out: whole blocks, and what is left of a split."""
    splits = [info.splits[name].rows for name in ("valid", "test") if name in info.splits]
    if "valid" not in info.splits and config.valid_fraction:
        splits.append(count.split - count.train)
    return {size for n in splits for size in (min(n, EVALUATION_ROWS), n % EVALUATION_ROWS) if size}


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
    together = TOGETHER_BYTES // np.dtype(np.float32).itemsize
    wide, small = height * sum(s for s in sizes if s >= WIDE), count * sum(s for s in sizes if s < WIDE)
    products = (wide + small + together * sum(s >= WIDE for s in sizes)) * (count > 1)
    return (len(subtrees) + waiting) * layout.length + products
