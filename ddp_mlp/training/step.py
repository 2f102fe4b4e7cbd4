"""One step of training, all ranks together: local sums, the global sum, one division, one update per slice.

dz, dW, db of my shards  →  tree over all shards  →  ÷ global m (or the global sum of weights)  →  optimizer
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.batches import Batch, Source
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.nn import backprop, optimizers
from ddp_mlp.nn.buffers import Group, Panel
from ddp_mlp.nn.optimizers import Optimizer
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.randomness import Purpose, generator
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing import proven, tree
from ddp_mlp.summing.between import BLOCK, Block, Reduction
from ddp_mlp.summing.plan import QUANTUM
from ddp_mlp.summing.tallies import RankSignal, ShardTally
from ddp_mlp.summing.totals import total
from ddp_mlp.summing.tree import Subtree, Turn
from ddp_mlp.summing.within import GradientSum, Scratch
from ddp_mlp.training.phases import Phases


@dataclass(frozen=True)
class Regularization:
    """What is added to, or taken from, the plain gradient; all off by default."""

    l2: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    dropout: float = 0.0
    label_smoothing: float = 0.0


class StepResult(NamedTuple):
    """What every rank knows after a step; the same on all of them."""

    totals: Totals
    gradient_norm: float | None
    """Of the mean gradient before clipping; None where nobody asked."""
    learning_rate: float
    signals: NDArray[np.float64]
    """What each rank had to say to the others, (P, 3): rows of `RankSignal`."""


class TrainingStep:
    """The parameters, the optimizer's state of one's own slice, and the buffers of a step. Collective to make."""

    def __init__(
        self,
        communicator: Communicator,
        layout: Layout,
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
        self.communicator, self.layout, self.reduction, self.source = communicator, layout, reduction, source
        self.optimizer, self.regularization = optimizer, regularization
        self.output = SoftmaxCrossEntropy(regularization.label_smoothing)
        self.dtype, self.seed, self.chunk_rows = dtype, seed, chunk_rows
        self.W, self.b = layout.views(reduction.parameters)
        own = reduction.slice
        self.state = optimizer.init(own.stop - own.start, dtype)
        """The optimizer's state for the elements reduction.slice of the flat vector: {slot: (slice length,)}."""
        decays = regularization.l2 or regularization.weight_decay
        self._mask = layout.weights_mask(dtype)[own].copy() if decays else None
        self._scratch = Scratch()
        self._partials = [GradientSum(layout, flat, self._scratch) for flat in reduction.partials]
        self._spares: list[GradientSum] = []
        self.phases = Phases(trace)
        self._block = np.empty(BLOCK, dtype)
        self._groups: dict[tuple[int, ...], Group] = {}

    def __call__(
        self, batch: Batch, learning_rate: float, signal: Sequence[float] = RankSignal(), measure_norm: bool = False
    ) -> StepResult:
        """Train on one batch. Collective; `signal`, the numbers of a `RankSignal`, is passed on to all ranks."""
        m = len(batch.rows)
        reduction, tallies, phases = self.reduction, self.reduction.tallies, self.phases
        tallies.start(signal)
        for subtree, partial in zip(reduction.subtrees, self._partials, strict=True):
            self._sum_partial(batch, subtree, partial)

        phases.enter("waiting")
        everyone = reduction.collect(m)
        loss, weight, correct = map(total, everyone.shards.T.tolist())
        totals = Totals(loss, weight, int(correct), m)
        if not math.isfinite(loss):
            reduction.publish()  # as it is: nothing that is not finite gets into the parameters
            phases.enter("between")
            return StepResult(totals, None, learning_rate, everyone.signals)

        blocks: Iterator[Block] = (self._mean_gradient(block, totals.weight_sum) for block in reduction.sums(m))
        phases.enter("sum")
        clip_norm, norm = self.regularization.clip_norm, None
        if clip_norm is not None or measure_norm:
            kept = list(blocks)
            blocks, norm = iter(kept), self._norm(kept)
        for block in blocks:
            if clip_norm is not None and norm is not None:
                np.multiply(block[2], self.dtype.type(optimizers.clip_scale(norm, clip_norm)), out=block[2])
            phases.enter("update")
            self._update(block, batch.step, learning_rate)
            phases.enter("sum")
        phases.enter("waiting")
        reduction.publish()
        phases.enter("between")
        return StepResult(totals, norm, learning_rate, everyone.signals)

    def first_layer_not_finite(self) -> int:
        """Return the first layer with a z that was not finite in the last batch on any rank, or L. Collective."""
        L = self.layout.L
        local = (l for group in self._groups.values() for l in range(1, L) if not np.isfinite(group.A[l].whole).all())
        return min(self.communicator.allgather(min(local, default=L)))

    # ---- the sums over one's own examples ----------------------------------------------------------------------------

    def _sum_partial(self, batch: Batch, subtree: Subtree, out: GradientSum) -> None:
        """Put the gradient sum over a subtree's examples into `out`; its tallies into their rows."""
        m, K = len(batch.rows), self.reduction.K
        parts = tree.turns(subtree, m, K, together=self.chunk_rows)
        if not parts:
            out.flat[...] = 0
        for part in parts:
            self._sum_part(batch, part, self._spare(part.height - 1) if part.height else out)
            for top in range(part.height, part.height - part.folds, -1):
                below = self._spare(top - 2) if top > 1 else out
                np.add(below.flat, self._spare(top - 1).flat, out=below.flat)

    def _sum_part(self, batch: Batch, part: Turn, out: GradientSum) -> None:
        """Put the gradient sum over some shards that are computed together, or a large one's chunks, into `out`."""
        m, K = len(batch.rows), self.reduction.K
        span = tree.rows(part.subtree, m, K)
        turns = tree.turns(part.subtree, m, K)
        if len(span) <= self.chunk_rows:
            self._sum_group(batch, span, turns, out)
            return
        for chunk, lo in enumerate(range(span.start, span.stop, self.chunk_rows)):  # one shard too large for memory
            into = self._spare(part.height) if chunk else out
            self._sum_group(batch, range(lo, min(lo + self.chunk_rows, span.stop)), turns, into, chunk)
            if chunk:
                np.add(out.flat, into.flat, out=out.flat)

    def _sum_group(self, batch: Batch, span: range, turns: Sequence[Turn], out: GradientSum, chunk: int = 0) -> None:
        """Put the gradient sum over the batch's rows `span` into `out`: the turns' shards, or a chunk of one shard."""
        m, K = len(batch.rows), self.reduction.K
        sizes = [len(span)]
        if len(turns) > 1:
            sizes = [len(tree.rows(turn.subtree, m, K)) for turn in turns]
        group = self._group(tuple(sizes))
        self.phases.enter("gather")
        self.source.gather(batch.rows[span.start : span.stop], group)
        keep_scale = 1 / (1 - self.regularization.dropout)

        def drop(l: int, A: Panel, slope: Panel | None) -> None:
            for i, (turn, A_i) in enumerate(zip(turns, A.shards, strict=True)):
                before = chunk * self.chunk_rows * len(A_i)  # drawn for the shard's earlier chunks
                random = generator(self.seed, Purpose.DROPOUT, batch.step, turn.shard, l, skip=before)
                uniform = random.random(A_i.shape[::-1], np.float32).T  # (n_l, m_i)
                kept = uniform >= self.regularization.dropout
                for part in (A_i,) if slope is None else (A_i, slope.shards[i]):
                    part *= kept
                    part *= part.dtype.type(keep_scale)

        def add_up(l: int, dz: Panel, A_prev: Panel) -> None:
            out.add_up(l, dz, A_prev, turns, group.shortcuts[l])

        self.phases.enter("forward")
        backprop.forward(self.W, self.b, group, drop if self.regularization.dropout else None)
        sums = self.output.gradient(group)
        for i, (turn, (loss_sum, correct)) in enumerate(zip(turns, sums, strict=True)):
            weight_sum = sizes[i] if group.w is None else np.sum(group.w[group.slices[i]], dtype=np.float64)
            tally = self.reduction.tallies.of_shard[turn.shard]
            for j, term in enumerate(ShardTally(loss_sum, float(weight_sum), correct)):
                tally[j] += term

        self.phases.enter("backward")
        backprop.backward(self.W, group, add_up, keep_scale)

    def _group(self, sizes: tuple[int, ...]) -> Group:
        if sizes not in self._groups:
            self._groups[sizes] = group = Group(self.layout.widths, sizes, self.dtype)
            group.shortcuts = proven.shortcuts(group)
        return self._groups[sizes]

    def _spare(self, depth: int) -> GradientSum:
        while len(self._spares) <= depth:
            flat = np.zeros(self.layout.length, self.dtype)
            self._spares.append(GradientSum(self.layout, flat, self._scratch))
        return self._spares[depth]

    # ---- the update of one's own slice -------------------------------------------------------------------------------

    def _mean_gradient(self, block: Block, weight_sum: float) -> Block:
        """Divide a block of the global sum by the global sum of weights, the only 1/m there is; add the L2 term."""
        lo, hi, gradient = block
        m = self.dtype.type(weight_sum or 1)  # where nothing weighs, the sum is 0
        if math.frexp(m)[0] == 0.5:  # a power of two: the same bits, sooner
            np.multiply(gradient, 1 / m, out=gradient)
        else:
            np.divide(gradient, m, out=gradient)
        if self.regularization.l2:
            theta = self.reduction.parameters[lo:hi]
            optimizers.add_l2(gradient, theta, self._mask_of(lo, hi), self.regularization.l2, self._block[: hi - lo])
        return block

    def _update(self, block: Block, step: int, learning_rate: float) -> None:
        lo, hi, gradient = block
        theta, scratch = self.reduction.parameters[lo:hi], self._block[: hi - lo]
        start = self.reduction.slice.start
        state = {slot: array[lo - start : hi - start] for slot, array in self.state.items()}
        if self.regularization.weight_decay:
            decay = self.regularization.weight_decay
            optimizers.decay(theta, self._mask_of(lo, hi), learning_rate, decay, scratch)
        self.optimizer.update(theta, gradient, state, step, learning_rate, scratch)

    def _mask_of(self, lo: int, hi: int) -> NDArray[Any]:
        assert self._mask is not None, "made whenever a decay is on"
        start = self.reduction.slice.start
        return self._mask[lo - start : hi - start]

    def _norm(self, blocks: list[Block]) -> float:
        """Return the norm of the whole gradient, from the sums of squares of all quanta. Collective."""
        squares: list[float] = []
        if self.communicator.rank == 0 or self.reduction.slices[self.communicator.rank].stop:
            for _, _, gradient in blocks:
                padded = np.zeros(-(-len(gradient) // QUANTUM) * QUANTUM)
                np.square(gradient, out=padded[: len(gradient)], dtype=np.float64)
                squares += np.add.reduce(padded.reshape(-1, QUANTUM), axis=1).tolist()
        return math.sqrt(total(s for part in self.communicator.allgather(squares) for s in part))
