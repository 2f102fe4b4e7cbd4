"""Loss and accuracy of a network over many rows, the same for every number of ranks.

Rows are computed in fixed blocks of EVALUATION_ROWS, which the ranks share out among them. A block's numbers depend on
the block alone, counts are integers, and the blocks' losses are added by `totals.total`, in any order.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.batches import Source
from ddp_mlp.inference.metrics import Metrics
from ddp_mlp.nn import backprop
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import Output
from ddp_mlp.nn.portable import Pass, RoundedWeights
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.totals import total
from ddp_mlp.summing.tree import cut

EVALUATION_ROWS = 256
"""Rows that are evaluated at a time: fixed, since bits depend on it."""


class Totals(NamedTuple):
    """Sums over some examples of all ranks."""

    loss_sum: float = 0.0
    """Σ w_i loss_i, in float64."""
    weight_sum: float = 0.0
    """Σ w_i; the number of examples where they have no weights."""
    correct: int = 0
    examples: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Return the sums over the examples of both."""
        return Totals(
            self.loss_sum + other.loss_sum,
            self.weight_sum + other.weight_sum,
            self.correct + other.correct,
            self.examples + other.examples,
        )

    @property
    def loss_mean(self) -> float:
        """The weighted mean loss per example; 0 where nothing weighs."""
        return self.loss_sum / self.weight_sum if self.weight_sum else 0.0

    @property
    def accuracy(self) -> float:
        """The share of examples whose most probable class is their label; weights do not enter."""
        return self.correct / self.examples


class ForwardPass:
    """The way of some rows through a network, in buffers that are kept by the number of rows. Local."""

    def __init__(self, architecture: Architecture, parameters: NDArray[Any], arithmetic: Arithmetic = NATIVE) -> None:
        """Take the flat parameters (length,) as they are at `begin`: they are kept, not copied."""
        self.architecture = architecture.portable if arithmetic.is_portable else architecture
        self.arithmetic, self._dtype = arithmetic, arithmetic.working(parameters.dtype)
        self._W, self._b = architecture.layout.views(parameters)
        self._groups: dict[int, Group] = {}
        self._weights = RoundedWeights(architecture.layout.widths) if arithmetic.is_portable else None
        self._ways: dict[int, Pass] = {}

    def begin(self) -> None:
        """Take note of the parameters before a number of passes."""
        if self._weights is not None:
            self._weights.look(self._W)
            self._weights.set(self._W)

    def __call__(self, source: Source, rows: NDArray[np.int64]) -> Group:
        """Compute a source's rows (m,) and return their group, with the output layer's z in A[L].

        The next pass of as many rows overwrites the group. BLAS must have one thread.
        """
        m = len(rows)
        if m not in self._groups:
            self._groups[m] = self.architecture.group((m,), self._dtype, training=False)
            if self._weights is not None:
                self._ways[m] = Pass(self._groups[m], self._weights)
        group = self._groups[m]
        source.gather(rows, group)
        if self._weights is None:
            backprop.forward(self._W, self._b, group)
        else:
            self._ways[m].forward(self._b)
        return group

    def values(self, group: Group) -> NDArray[Any]:
        """Return the outputs A (m, n_L) of a group's examples; its z stays."""
        out = self._room(group)
        self.architecture.scoring.values(group, out)
        return out

    def loss(self, group: Group) -> Totals:
        """Return the sums over a group's examples; its z stays."""
        return loss_totals(self.architecture.scoring, group, self.arithmetic)

    def loss_and_values(self, group: Group) -> tuple[Totals, NDArray[Any]]:
        """Return the sums over a group's examples, and their outputs A (m, n_L); its z stays."""
        values = self._room(group)
        return loss_totals(self.architecture.scoring, group, self.arithmetic, values), values

    def _room(self, group: Group) -> NDArray[Any]:
        return np.empty((group.m, self.architecture.layout.widths[-1]), self._dtype)


def loss_totals(output: Output, group: Group, arithmetic: Arithmetic, values: NDArray[Any] | None = None) -> Totals:
    """Return the sums over a group's examples, of one shard; its z stays, and `values` (m, n_L) become its outputs A.

    In portable arithmetic, a sum is that of `totals.total`, rounded once whatever the order.
    """
    [(loss_sum, correct)] = output.score(group, values)
    weight_sum = float(group.m) if group.w is None else float(np.sum(group.w, dtype=np.float64))
    if arithmetic.is_portable:
        loss_sum = total(group.losses.tolist())
        weight_sum = float(group.m) if group.w is None else total(group.w.tolist())
    return Totals(loss_sum, weight_sum, correct, group.m)


def blocks(m: int) -> list[range]:
    """Return the blocks of the rows [0, m) that are computed together."""
    return [range(lo, min(lo + EVALUATION_ROWS, m)) for lo in range(0, m, EVALUATION_ROWS)]


def forward_blocks(forward: ForwardPass, source: Source) -> Iterator[tuple[slice, Group]]:
    """Compute all rows of a source block by block; yield each block, and its group with z in A[L]. Local.

    The group is overwritten by the next block.
    """
    forward.begin()
    for block in blocks(source.m):
        yield slice(block.start, block.stop), forward(source, np.arange(block.start, block.stop))


def evaluate(
    communicator: Communicator,
    forward: ForwardPass,
    source: Source,
    chosen: NDArray[np.int64] | None,
    metrics: Metrics | None = None,
) -> Totals:
    """Return loss and accuracy over the rows `chosen` (all where None): the same for every P. Collective.

    What else is to be counted goes into `metrics`, of this rank's rows.
    """
    m = source.m if chosen is None else len(chosen)
    every = blocks(m)
    share = cut(len(every), communicator.size)
    found: list[Totals] = []
    forward.begin()
    with communicator.in_agreement():  # what a source has to read can be wrong on one rank alone
        for block in every[share[communicator.rank] : share[communicator.rank + 1]]:
            numbers = np.arange(block.start, block.stop)
            group = forward(source, numbers if chosen is None else chosen[numbers])
            if metrics is None:
                found.append(forward.loss(group))
                continue
            totals, values = forward.loss_and_values(group)
            found.append(totals)
            metrics.add(values, group)
    everything = [totals for part in communicator.allgather(found) for totals in part]
    return Totals(
        total(totals.loss_sum for totals in everything),
        total(totals.weight_sum for totals in everything),
        sum(totals.correct for totals in everything),
        m,
    )
