"""The update of one's own slice: the one division of the gradient's global sum, L2, clipping, decay, optimizer.

Invariants:
- element by element, so that no bit depends on how the vector is cut into slices and blocks;
- the norm is formed from the sums of squares of all quanta, whoever has which.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import optimizers
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.optimizers import Optimizer, State
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.between import BLOCK, Block, Reduction
from ddp_mlp.summing.plan import QUANTUM
from ddp_mlp.summing.totals import total


@dataclass(frozen=True)
class Regularization:
    """What is added to, or taken from, the plain gradient; all off by default."""

    l2: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    dropout: float = 0.0


Place: TypeAlias = tuple[int, int]
Views: TypeAlias = tuple[NDArray[Any], State, NDArray[Any]]


class Update:
    """The optimizer's state of one's own slice, and what turns the gradient's global sum into new parameters."""

    def __init__(
        self,
        communicator: Communicator,
        layout: Layout,
        reduction: Reduction,
        optimizer: Optimizer,
        regularization: Regularization,
        dtype: np.dtype[Any],
        arithmetic: Arithmetic = NATIVE,
    ) -> None:
        self._communicator, self._reduction, self._optimizer = communicator, reduction, optimizer
        self._regularization, self._dtype, self._arithmetic = regularization, dtype, arithmetic
        own = reduction.slice
        self.state = optimizer.init(own.stop - own.start, dtype)
        """The optimizer's state for the elements reduction.slice of the flat vector: {slot: (slice length,)}."""
        decays = regularization.l2 or regularization.weight_decay
        self.mask = layout.weights_mask(dtype)[own].copy() if decays else None
        """1 for weights, 0 for biases, in the slice; None where nothing decays."""
        self._block = np.empty(BLOCK, dtype)
        self._views: dict[Place, Views] = {}
        self._mean = np.empty(BLOCK if arithmetic.is_portable else 0, dtype)
        """Of the block at hand, where sums are of another dtype."""
        self._means = np.empty(0, dtype)
        """Of the whole slice, once they are needed all at once."""

    def mean_gradient(self, sums: Iterator[Block], weight_sum: float) -> Iterator[Block]:
        """Divide the global sum by the global sum of weights, the only 1/m there is; add the L2 term. Local."""
        is_portable, l2 = self._arithmetic.is_portable, self._regularization.l2
        m = self._arithmetic.working(self._dtype).type(weight_sum or 1)  # where nothing weighs, the sum is 0
        is_power_of_2 = math.frexp(m)[0] == 0.5
        for lo, hi, gradient in sums:
            if is_power_of_2:  # the same bits, sooner
                np.multiply(gradient, 1 / m, out=gradient)
            else:
                np.divide(gradient, m, out=gradient)
            if is_portable:  # an exact sum in float64: one division, and rounded to the dtype
                mean = self._mean[: hi - lo]
                np.copyto(mean, gradient, casting="same_kind")
                gradient = mean
            if l2:
                theta, scratch = self._reduction.parameters[lo:hi], self._block[: hi - lo]
                optimizers.add_l2(gradient, theta, self._mask_of(lo, hi), l2, scratch)
            yield lo, hi, gradient

    def clipped(self, gradient: Iterator[Block], measure_norm: bool) -> tuple[Iterator[Block], float | None]:
        """Scale the mean gradient down to clip_norm; return its norm before that, where it is asked for. Collective."""
        clip_norm = self._regularization.clip_norm
        if clip_norm is None and not measure_norm:
            return gradient, None
        kept = list(self._kept(gradient))
        norm = self._norm(kept)
        return iter(kept) if clip_norm is None else self._scaled(kept, optimizers.clip_scale(norm, clip_norm)), norm

    def apply(self, block: Block, step: int, learning_rate: float) -> None:
        """Update the parameters of a block of the slice. Local."""
        lo, hi, gradient = block
        theta, state, scratch = self._views.get((lo, hi)) or self._viewed(lo, hi)
        if self._regularization.weight_decay:
            decay = self._regularization.weight_decay
            optimizers.decay(theta, self._mask_of(lo, hi), learning_rate, decay, scratch)
        self._optimizer.update(theta, gradient, state, step, learning_rate, scratch)

    def _viewed(self, lo: int, hi: int) -> Views:
        """Return the parameters and the state of a block, and as much scratch memory; the same views every time."""
        start = self._reduction.slice.start
        state = {slot: array[lo - start : hi - start] for slot, array in self.state.items()}
        self._views[lo, hi] = self._reduction.parameters[lo:hi], state, self._block[: hi - lo]
        return self._views[lo, hi]

    def _kept(self, gradient: Iterator[Block]) -> Iterator[Block]:
        """Yield the blocks, each in memory of its own."""
        if not self._arithmetic.is_portable:
            yield from gradient
            return
        own = self._reduction.slice
        if not len(self._means):
            self._means = np.empty(own.stop - own.start, self._dtype)
        for lo, hi, mean in gradient:
            kept = self._means[lo - own.start : hi - own.start]
            kept[...] = mean
            yield lo, hi, kept

    def _scaled(self, blocks: list[Block], factor: float) -> Iterator[Block]:
        for block in blocks:
            np.multiply(block[2], self._dtype.type(factor), out=block[2])
            yield block

    def _mask_of(self, lo: int, hi: int) -> NDArray[Any]:
        assert self.mask is not None, "made whenever a decay is on"
        start = self._reduction.slice.start
        return self.mask[lo - start : hi - start]

    def _norm(self, blocks: list[Block]) -> float:
        """Return the norm of the whole gradient, from the sums of squares of all quanta. Collective."""
        squares: list[float] = []
        if self._communicator.rank == 0 or self._reduction.slices[self._communicator.rank].stop:
            for _, _, gradient in blocks:
                padded = np.zeros(-(-len(gradient) // QUANTUM) * QUANTUM)
                np.square(gradient, out=padded[: len(gradient)], dtype=np.float64)
                quanta = padded.reshape(-1, QUANTUM)
                if self._arithmetic.is_portable:
                    squares += self._arithmetic.sum_rows(quanta.T).tolist()
                else:
                    squares += np.add.reduce(quanta, axis=1).tolist()
        return math.sqrt(total(s for part in self._communicator.allgather(squares) for s in part))
