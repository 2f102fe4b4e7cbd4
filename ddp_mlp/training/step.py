"""The parts of a step on one rank: its shards' sums, and what it does with the sum over all ranks.

`loop.take_step` puts them together; the order is

    dz, dW, db of my shards  →  tree over all shards  →  ÷ global m (or the global sum of weights)  →  optimizer
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.batches import Batch, Source
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.nn import backprop
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.buffers import Group, GroupMatrix
from ddp_mlp.nn.optimizers import Optimizer, State
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing import proven, tree
from ddp_mlp.summing.between import Block, Reduction
from ddp_mlp.summing.tallies import RankSignal
from ddp_mlp.summing.totals import total
from ddp_mlp.summing.tree import Turn
from ddp_mlp.summing.within import GradientSum, Scratch
from ddp_mlp.training.phases import Phases
from ddp_mlp.training.update import Regularization, Update


class StepResult(NamedTuple):
    """What every rank knows after a step; the same on all of them."""

    totals: Totals
    gradient_norm: float | None
    """Of the mean gradient before clipping; None where nobody asked."""
    learning_rate: float
    signals: NDArray[np.float64]
    """What each rank had to say to the others, (P, 3): rows of `RankSignal`."""


class Step(Protocol):
    """What `loop.take_step` puts together, in either arithmetic. A part is this rank's, to be computed as a whole."""

    communicator: Communicator
    architecture: Architecture
    layout: Layout
    reduction: Reduction
    update: Update
    phases: Phases
    arithmetic: Arithmetic
    dtype: np.dtype[Any]
    seed: int

    @property
    def state(self) -> State:
        """The optimizer's state for the elements reduction.slice of the flat vector: {slot: (slice length,)}."""

    def parts(self, batch: Batch) -> Iterator[Any]:
        """Yield the parts of a batch that are this rank's, each to be computed before the next; add up their sums."""

    def forward(self, part: Any) -> None:
        """Compute z = W A_prev + b and A = f(z) of every layer."""

    def loss(self, part: Any) -> None:
        """Turn the output z into dz = A − Y, and tally the losses."""

    def backward(self, part: Any) -> None:
        """Carry dz back through the layers, dz = dA ⊙ f′(z), and sum up dW = dz A_prevᵀ and db = Σ dz of every one."""

    def first_layer_not_finite(self) -> int:
        """Return the first layer with a z that was not finite in the last batch on any rank, or L. Collective."""

    def begin(self, signal: RankSignal | Sequence[float]) -> None:
        """Forget the last batch's tallies, and note what this rank has to tell the others. Local."""

    def totals(self, m: int) -> tuple[Totals, NDArray[np.float64]]:
        """Wait for all ranks' sums; return the batch's totals, and what each rank had to tell. Collective."""

    def sums(self, m: int) -> Iterator[Block]:
        """Yield this rank's slice of the gradient's sum over all ranks, block by block. Local."""

    def apply(self, block: Block, step: int, learning_rate: float) -> None:
        """Update the parameters of a block of this rank's slice from their mean gradient. Local."""

    def publish(self) -> None:
        """Let every rank see the parameters that all have updated. Collective."""

    def figures(self) -> dict[str, int]:
        """Return what the arithmetic has to tell of the steps since this was last asked; the same on every rank."""


class Share(NamedTuple):
    """What a rank does for one turn of its subtrees, for all batches of one size."""

    rows: range
    """Of the batch."""
    turns: Sequence[Turn]
    """Of the shards that have these rows."""
    group: Group | None
    """The buffers for all of them; None where there are more than `chunk_rows`."""
    height: int
    """At which the sum waits, as `tree.Turn` says."""
    out: GradientSum
    """The sum."""
    additions: Sequence[tuple[NDArray[Any], NDArray[Any]]]
    """What follows: left += right, in turn."""


class Part(NamedTuple):
    """Some rows of a batch that a rank computes together: some shards, or a chunk of one too large for memory."""

    group: Group
    """The buffers, with the rows in A[0]."""
    turns: Sequence[Turn]
    """Of the shards, as they are added up."""
    out: GradientSum
    """Where the sums go."""
    step: int
    """The batch's."""
    chunk: int
    """Its number in the shard; 0 where that is whole."""


class TrainingStep:
    """The parameters, the update of one's own slice, and the buffers of a step. Collective to make."""

    def __init__(
        self,
        communicator: Communicator,
        architecture: Architecture,
        reduction: Reduction,
        source: Source,
        optimizer: Optimizer,
        regularization: Regularization,
        *,
        dtype: np.dtype[Any],
        seed: int,
        chunk_rows: int,
        trace: bool = False,
    ) -> None:
        layout = architecture.layout
        self.architecture, self.layout = architecture, layout
        self.communicator, self.reduction, self.source = communicator, reduction, source
        self.regularization, self.dtype, self.seed, self.chunk_rows = regularization, dtype, seed, chunk_rows
        self.arithmetic: Arithmetic = NATIVE
        self.W, self.b = layout.views(reduction.parameters)
        self.update = Update(communicator, layout, reduction, optimizer, regularization, dtype)
        self._keep_scale = 1 / (1 - regularization.dropout)
        self._scratch = Scratch()
        self._partials = [GradientSum(layout, flat, self._scratch) for flat in reduction.partials]
        self._spares: list[GradientSum] = []
        self.phases = Phases(trace)
        self._groups: dict[tuple[int, ...], Group] = {}
        self._shares: dict[int, list[Share]] = {}
        """By the size of a batch."""

    @property
    def state(self) -> State:
        """The optimizer's state for the elements reduction.slice of the flat vector: {slot: (slice length,)}."""
        return self.update.state

    # ---- this rank's shards: sums over its own examples; local -------------------------------------------------------

    def parts(self, batch: Batch) -> Iterator[Part]:
        """Yield the parts of a batch that are this rank's, each to be computed before the next; add up their sums."""
        m = len(batch.rows)
        if m not in self._shares:
            self._shares[m] = list(self._divided(m))
        for share in self._shares[m]:
            rows, group = share.rows, share.group
            if group is not None:
                yield self._gathered(batch, rows, group, share, 0)
            elif rows:
                yield from self._chunks(batch, share)
            else:
                share.out.flat[...] = 0
            for left, right in share.additions:
                np.add(left, right, out=left)

    def forward(self, part: Part) -> None:
        """Compute z = W A_prev + b and A = f(z) of every layer."""
        self.phases.enter("forward")
        backprop.forward(self.W, self.b, part.group, partial(self._drop, part) if self.regularization.dropout else None)

    def loss(self, part: Part) -> None:
        """Turn the output z into dz = A − Y, and tally the losses of every shard."""
        group, add = part.group, self.reduction.tallies.add
        sums, w = self.architecture.output.gradient(group), group.w
        for turn, place, (loss_sum, correct) in zip(part.turns, group.slices, sums, strict=True):
            weight_sum = place.stop - place.start if w is None else float(np.sum(w[place], dtype=np.float64))
            add(turn.shard, loss_sum, weight_sum, correct)

    def backward(self, part: Part) -> None:
        """Carry dz back through the layers, dz = dA ⊙ f′(z), and sum up dW = dz A_prevᵀ and db = Σ dz of every one."""
        self.phases.enter("backward")
        for l, dz, A_prev in backprop.backward(self.W, part.group, self._keep_scale):
            part.out.add_up(l, dz, A_prev, part.turns, part.group.shortcuts[l])

    def first_layer_not_finite(self) -> int:
        """Return the first layer with a z that was not finite in the last batch on any rank, or L. Collective."""
        L = self.layout.L
        local = (l for group in self._groups.values() for l in range(1, L) if not np.isfinite(group.A[l].whole).all())
        return min(self.communicator.allgather(min(local, default=L)))

    # ---- all ranks ---------------------------------------------------------------------------------------------------

    def begin(self, signal: RankSignal | Sequence[float]) -> None:
        """Forget the last batch's tallies, and note what this rank has to tell the others. Local."""
        self.reduction.tallies.start(signal)

    def totals(self, m: int) -> tuple[Totals, NDArray[np.float64]]:
        """Wait for all ranks' sums; return the batch's totals, and what each rank had to tell. Collective."""
        self.phases.enter("waiting")
        everyone = self.reduction.collect(m)
        loss, weight, correct = map(total, everyone.shards.T.tolist())
        return Totals(loss, weight, int(correct), m), everyone.signals

    def sums(self, m: int) -> Iterator[Block]:
        """Yield this rank's slice of the gradient's sum over all ranks, block by block, in the tree's order. Local."""
        self.phases.enter("sum")
        return self.reduction.sums(m)

    def apply(self, block: Block, step: int, learning_rate: float) -> None:
        """Update the parameters of a block of this rank's slice from their mean gradient. Local."""
        self.phases.enter("update")
        self.update.apply(block, step, learning_rate)
        self.phases.enter("sum")

    def publish(self) -> None:
        """Let every rank see the parameters that all have updated. Collective."""
        self.phases.enter("waiting")
        self.reduction.publish()
        self.phases.enter("between")

    def figures(self) -> dict[str, int]:
        """Return nothing: products have the dtype's precision, whatever they are of."""
        return {}

    # ---- the parts of the above --------------------------------------------------------------------------------------

    def _divided(self, m: int) -> Iterator[Share]:
        """Yield this rank's shares of a batch of m rows: all that is known of them beforehand."""
        K = self.reduction.K
        for subtree, own in zip(self.reduction.subtrees, self._partials, strict=True):
            turns = tree.turns(subtree, m, K, together=self.chunk_rows)
            if not turns:
                yield Share(range(0), (), None, 0, own, ())
            for turn in turns:
                sums = [own, *map(self._spare, range(turn.height))]  # by height
                tops = range(turn.height, turn.height - turn.folds, -1)
                additions = [(sums[top - 1].flat, sums[top].flat) for top in tops]
                span, shards = tree.rows(turn.subtree, m, K), tree.turns(turn.subtree, m, K)
                whole = len(span) <= self.chunk_rows
                group = self._group([len(tree.rows(shard.subtree, m, K)) for shard in shards]) if whole else None
                yield Share(span, shards, group, turn.height, sums[turn.height], additions)

    def _chunks(self, batch: Batch, share: Share) -> Iterator[Part]:
        """Yield the chunks of a shard that is too large for memory, whose sums are added one after the other."""
        out, spare = share.out, self._spare(share.height)
        for chunk, lo in enumerate(range(share.rows.start, share.rows.stop, self.chunk_rows)):
            rows = range(lo, min(lo + self.chunk_rows, share.rows.stop))
            into = share._replace(out=spare) if chunk else share
            yield self._gathered(batch, rows, self._group([len(rows)]), into, chunk)
            if chunk:
                np.add(out.flat, spare.flat, out=out.flat)

    def _drop(self, part: Part, l: int, A: GroupMatrix, slope: GroupMatrix | None) -> None:
        """Set some of a hidden layer's A, and of its slope, to zero, drawn shard by shard; scale the rest (dropout)."""
        for i, (turn, A_i) in enumerate(zip(part.turns, A.shards, strict=True)):
            before = part.chunk * self.chunk_rows * len(A_i)  # drawn for the shard's earlier chunks
            random = generator(self.seed, Purpose.DROPOUT, part.step, turn.shard, l, skip=before)
            kept = self.regularization.dropout <= random.random(A_i.shape[::-1], np.float32).T  # (n_l, m_i)
            for array in (A_i,) if slope is None else (A_i, slope.shards[i]):
                array *= kept
                array *= array.dtype.type(self._keep_scale)

    def _gathered(self, batch: Batch, rows: range, group: Group, share: Share, chunk: int) -> Part:
        """Return some rows of a batch as a part, in their buffers."""
        self.phases.enter("gather")
        self.source.gather(batch.rows[rows.start : rows.stop], group)
        return Part(group, share.turns, share.out, batch.step, chunk)

    def _group(self, sizes: Sequence[int]) -> Group:
        """Return buffers for shards of these sizes."""
        key = tuple(sizes)
        if key not in self._groups:
            self._groups[key] = group = self.architecture.group(key, self.dtype)
            group.take(proven.shortcuts(group))
        return self._groups[key]

    def _spare(self, depth: int) -> GradientSum:
        while len(self._spares) <= depth:
            flat = np.zeros(self.layout.length, self.dtype)
            self._spares.append(GradientSum(self.layout, flat, self._scratch))
        return self._spares[depth]
