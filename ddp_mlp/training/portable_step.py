"""One step with the same bits on every machine and for any share of the batch: no shards, sums exact in any order.

my rows → forward, loss, backward → agree on the lines' exponents → my rows' dW, db, whole numbers of units
        → one sum over all ranks, exact → ÷ Σw, once → optimizer

Invariants:
- a batch of more than `chunk_rows` rows is cut into pieces of that many, each shared by all ranks; a piece's sum is
  exact, and pieces are added along the tree that shards have in native arithmetic, in float64;
- whatever a rank decides, it decides from the table that all ranks have agreed on.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.batches import Batch, Source
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.nn import lines, optimizers
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.lines import Limbs, Lines
from ddp_mlp.nn.optimizers import Optimizer
from ddp_mlp.nn.portable import Pass, RoundedWeights
from ddp_mlp.nn.products import Array
from ddp_mlp.nn.randomness import Purpose, kept
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing import tree
from ddp_mlp.summing.agreement import Agreement
from ddp_mlp.summing.between import BLOCK, Block, ExactSum, Reduction
from ddp_mlp.summing.tallies import RankSignal, ShardTally
from ddp_mlp.summing.totals import total
from ddp_mlp.summing.tree import Turn
from ddp_mlp.training.phases import Phases
from ddp_mlp.training.update import Regularization, Update

CORRECT = ShardTally._fields.index("correct")
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def portable_sum(communicator: Communicator, length: int) -> ExactSum:
    """Return the sum over all ranks' shares: float64, one share per rank, float32 parameters. Collective."""
    return ExactSum(communicator, length, FLOAT32, K=communicator.size, sum_dtype=FLOAT64)


class PortablePart(NamedTuple):
    """One rank's rows of one piece of a batch."""

    way: Pass
    """Through the network, with the rows in its group's A[0]."""
    step: int
    """The batch's."""
    first: int
    """The number in the batch of the first row."""
    sampled: slice
    """Which of the rows show what is usual."""


class PortableStep:
    """The parameters, the optimizer's state of one's own slice, and the buffers of a step. Collective to make."""

    def __init__(
        self,
        communicator: Communicator,
        architecture: Architecture,
        reduction: ExactSum,
        source: Source,
        optimizer: Optimizer,
        regularization: Regularization,
        *,
        seed: int,
        chunk_rows: int,
        trace: bool = False,
    ) -> None:
        """`reduction` is a `portable_sum`; the optimizer's powers are portable ones."""
        self.communicator, self.source = communicator, source
        self.reduction: Reduction = reduction
        self.architecture, self.layout = architecture.portable, architecture.layout
        self.arithmetic, self.dtype = PORTABLE, FLOAT32
        self.regularization, self.seed, self.chunk_rows = regularization, seed, chunk_rows
        self.W, self.b = self.layout.views(reduction.parameters)
        self.update = Update(communicator, self.layout, reduction, optimizer, regularization, FLOAT32, PORTABLE)
        self.phases = Phases(trace)
        widths = self.layout.widths
        here = communicator.nodes[communicator.node]
        self._weights = RoundedWeights(
            widths, lambda count: communicator.share_one(count, FLOAT64), communicator.local_rank, len(here)
        )
        self._lines = Lines(widths)
        self._agreement = Agreement(communicator, self._lines.table.shape)
        (self._partial,) = reduction.partials
        self._dW, self._db = self.layout.views(self._partial)
        self._ways: dict[int, Pass] = {}
        """By the number of rows."""
        self._keep_scale = 1 / (1 - regularization.dropout)
        self._room: Array = np.empty(0)
        self._signal: RankSignal | Sequence[float] = ()
        self._signals: NDArray[np.float64] = np.zeros((0, 0))
        self._totals = Totals()
        self._in_pieces = False
        """Whether the batch is more than one piece."""
        self._waiting: dict[int, Array] = {}
        """By height in the tree of the pieces, sums that wait for their siblings: this rank's slice."""
        self._more: Array | None = None
        """What the last piece's second limbs add to the flat sum."""
        self._spread: Array = np.empty(0)
        """Memory for that, zero but for what `_spread_of` has in it."""
        self._spread_of: Limbs | None = None
        self._second_limbs = 0

    @property
    def state(self) -> optimizers.State:
        """The optimizer's state for the elements reduction.slice of the flat vector: {slot: (slice length,)}."""
        return self.update.state

    # ---- this rank's rows: sums over its own examples ----------------------------------------------------------------

    def begin(self, signal: RankSignal | Sequence[float]) -> None:
        """Forget the last batch, and note what this rank has to tell the others. Local."""
        self._signal = signal
        self._totals, self._more = Totals(), None

    def parts(self, batch: Batch) -> Iterator[PortablePart]:
        """Yield this rank's rows of each piece of the batch, to be computed before the next. Collective.

        In between, all ranks agree on the lines of a piece, and add up its sums.
        """
        self._set_weights()
        rows = len(batch.rows)
        pieces = [range(lo, min(lo + self.chunk_rows, rows)) for lo in range(0, rows, self.chunk_rows)]
        self._in_pieces = len(pieces) > 1
        for piece, turn in zip(pieces, tree.turns((0, len(pieces)), len(pieces), len(pieces)), strict=True):
            self.reduction.tallies.start(self._signal)
            self._lines.begin()
            share = self._share(batch, piece)
            if share is not None:
                yield share
            if not self._sum_piece(None if share is None else share.way, len(piece)):
                return
            if self._in_pieces:
                self._keep(len(piece), turn)
                self.communicator.node_barrier()  # others may still be reading this rank's partial

    def forward(self, part: PortablePart) -> None:
        """Compute z = W A_prev + b and A = f(z) of every layer. Local."""
        self.phases.enter("forward")
        drop = partial(self._drop, part) if self.regularization.dropout else None
        part.way.forward(self.b, drop)

    def loss(self, part: PortablePart) -> None:
        """Turn the output z into dz, and note the size of losses and weights. Local."""
        group = part.way.group
        [(_, correct)] = self.architecture.output.gradient(group)
        self.reduction.tallies.of_shard[self.communicator.rank][CORRECT] = correct
        high = self._lines.loss_and_weight.high
        high[0] = np.maximum.reduce(np.abs(group.losses))
        high[1] = 1.0 if group.w is None else np.maximum.reduce(group.w)

    def backward(self, part: PortablePart) -> None:
        """Carry dz back through the layers, dz = dA ⊙ f′(z), and note the lines of the sums dz A_prevᵀ. Local."""
        self.phases.enter("backward")
        part.way.backward(part.sampled, self._keep_scale)

    def first_layer_not_finite(self) -> int:
        """Return the first layer with a z that was not finite in the last batch on any rank, or L. Collective."""
        L = self.layout.L
        groups = [way.group for way in self._ways.values()]
        local = (l for group in groups for l in range(1, L) if not np.isfinite(group.A[l].whole).all())
        return min(self.communicator.allgather(min(local, default=L)))

    # ---- all ranks ---------------------------------------------------------------------------------------------------

    def totals(self, m: int) -> tuple[Totals, NDArray[np.float64]]:
        """Return the batch's totals, and what each rank had to tell; `parts` has collected them. Local."""
        return self._totals, self._signals

    def sums(self, m: int) -> Iterator[Block]:
        """Yield this rank's slice of the gradient's exact sum over all ranks, block by block. Local."""
        self.phases.enter("sum")
        if not self._in_pieces:
            yield from self._sums(m)
            return
        own = self.reduction.slice
        for lo in range(own.start, own.stop, BLOCK):
            hi = min(lo + BLOCK, own.stop)
            yield lo, hi, self._waiting[0][lo - own.start : hi - own.start]

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
        """Return how many rows of dz and A had bits in a second limb since this was last asked: lost with only one."""
        found, self._second_limbs = self._second_limbs, 0
        return {"second_limbs": found}

    # ---- the parts of the above --------------------------------------------------------------------------------------

    def _set_weights(self) -> None:
        """Round the weights for this step's products, the ranks of a node together."""
        self._weights.look(self.W)
        self.communicator.node_barrier()
        self._weights.set(self.W)
        self.communicator.node_barrier()

    def _share(self, batch: Batch, piece: range) -> PortablePart | None:
        """Return this rank's rows of a piece, in their buffers; None where it has none."""
        rank, m = self.communicator.rank, len(piece)
        mine = tree.rows((rank, rank + 1), m, self.communicator.size)
        if not mine:
            return None
        first = piece.start + mine.start
        if len(mine) not in self._ways:
            group = self.architecture.group([len(mine)], FLOAT64)
            self._ways[len(mine)] = Pass(group, self._weights, self._lines)
        way = self._ways[len(mine)]
        self.phases.enter("gather")
        self.source.gather(batch.rows[first : first + len(mine)], way.group)
        return PortablePart(way, batch.step, first, lines.sample(mine.start, len(mine), m))

    def _drop(self, part: PortablePart, l: int, A: Array, slope: Array | None, examples: slice) -> None:
        """Set some of a hidden layer's A, and of its slope, to zero, drawn row by row; scale the rest (dropout)."""
        rows = range(part.first + examples.start, part.first + examples.stop)
        found = kept(rows, len(A), self.regularization.dropout, self.seed, Purpose.DROPOUT, part.step, l).T
        scale = found * self._keep_scale
        for array in (A,) if slope is None else (A, slope):
            np.multiply(array, scale, out=array)

    def _sum_piece(self, way: Pass | None, m: int) -> bool:
        """Agree on the lines of a piece of m rows, and collect its sums; return whether its losses are finite."""
        found, phases = self._lines, self.phases
        found.end()
        phases.enter("waiting")
        self._agreement.reach(found.table)
        finite = found.finite
        if finite:
            phases.enter("backward")
            self._more = self._add_up(way, m)
        phases.enter("waiting")
        everyone = self.reduction.collect(m)
        self._signals = everyone.signals
        loss, weight, correct = map(total, everyone.shards.T.tolist())
        loss_unit, weight_unit = (lines.sum_unit(int(e), m) for e in found.loss_and_weight.exponent)
        loss = loss * loss_unit if finite else math.nan
        self._totals = self._totals.plus(Totals(loss, weight * weight_unit, int(correct), m))
        return finite

    def _add_up(self, way: Pass | None, m: int) -> Array | None:
        """Put the sums over this rank's rows into its partial and tally; return what the second limbs of all add."""
        limbs = Limbs(self._lines, m)
        self._second_limbs += limbs.rows
        if len(self._room) < limbs.length:
            self._room = np.empty(limbs.length)
        more = self._room[: limbs.length]
        if way is None:
            self._partial[...] = 0
            more[...] = 0
        else:
            self._tally(way.group, m)
            way.weight_gradient(limbs, self._dW, self._db, more)
        if not limbs.length:
            return None
        self.phases.enter("waiting")
        self.communicator.Allreduce(more)  # whole numbers of units: exact in MPI's own order
        self.phases.enter("backward")
        if self._spread_of is None:
            self._spread = np.zeros(self.layout.length)
        else:
            self._spread_of.wipe_out(*self.layout.views(self._spread))
        self._spread_of = limbs
        limbs.spread_out(more, *self.layout.views(self._spread))
        return self._spread

    def _tally(self, group: Group, m: int) -> None:
        """Tell this rank's sums of losses and weights, as whole numbers of the units that all ranks know."""
        loss, weight = (int(e) for e in self._lines.loss_and_weight.exponent)
        tally = self.reduction.tallies.of_shard[self.communicator.rank]
        tally[0] = lines.sum_in_units(group.losses, loss, m)
        every_one = group.m / lines.sum_unit(weight, m)  # a whole number
        tally[1] = every_one if group.w is None else lines.sum_in_units(group.w, weight, m)

    def _sums(self, m: int) -> Iterator[Block]:
        """Yield this rank's slice of a piece's global sum, with what the second limbs add to it."""
        for lo, hi, block in self.reduction.sums(m):
            yield lo, hi, block if self._more is None else np.add(block, self._more[lo:hi], out=block)

    def _keep(self, m: int, turn: Turn) -> None:
        """Put a piece's sum, this rank's slice of it, at its height in the tree, and add what is complete."""
        own = self.reduction.slice
        kept = self._waiting.setdefault(turn.height, np.empty(own.stop - own.start))
        for lo, hi, block in self._sums(m):
            kept[lo - own.start : hi - own.start] = block
        for top in range(turn.height, turn.height - turn.folds, -1):
            np.add(self._waiting[top - 1], self._waiting[top], out=self._waiting[top - 1])
