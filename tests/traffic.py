"""What a rank hands to MPI for other nodes, counted at the communicator's own methods while they do their work."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.parallel.communicator import Communicator
from scripts.benchmarks.scaling import Traffic


class Count:
    """Counts what a communicator's Exchange, Swap and Complete send and receive, from now on."""

    def __init__(self, communicator: Communicator) -> None:
        self._node, self._nodes = communicator.node, len(communicator.nodes)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        for name, look in (("Exchange", self._exchange), ("Swap", self._swap), ("Complete", self._complete)):
            setattr(communicator, name, partial(_look_and_call, look, getattr(communicator, name)))

    def seen(self, method: str, dtype: str = "float32") -> Traffic:
        """Return the counts of one method."""
        return Traffic(*(self._counts[method, dtype, what] for what in Traffic._fields))

    @property
    def sent(self) -> int:
        """All bytes that this rank has for other nodes; MPI may pass what `Complete` moves on for others."""
        return sum(n for (_, _, what), n in self._counts.items() if what == "sent")

    def _exchange(
        self, send: NDArray[Any], sent: Sequence[int], receive: NDArray[Any], received: Sequence[int]
    ) -> None:
        for node, (going, coming) in enumerate(zip(sent, received, strict=True)):
            if node != self._node:
                self._note("Exchange", send.dtype, int(going > 0), going, coming)

    def _swap(self, node: int, send: NDArray[Any], receive: NDArray[Any]) -> None:
        self._note("Swap", send.dtype, int(send.size > 0), send.size, receive.size)

    def _complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        own = bounds[self._node + 1] - bounds[self._node]
        others = bounds[-1] - bounds[0] - own
        self._note("Complete", array.dtype, 0, own * (self._nodes - 1), others)  # messages: the library's choice

    def _note(self, method: str, dtype: np.dtype[Any], messages: int, sent: int, received: int) -> None:
        for what, n in (
            ("messages", messages),
            ("sent", sent * dtype.itemsize),
            ("received", received * dtype.itemsize),
        ):
            self._counts[method, dtype.name, what] += n


def _look_and_call(look: Callable[..., None], call: Callable[..., None], *arguments: Any) -> None:
    look(*arguments)
    call(*arguments)
