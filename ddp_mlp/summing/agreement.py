"""What all ranks must know before they multiply: a small table of whole numbers, maxima and sums over all ranks.

Invariants:
- every entry is a maximum or a sum of whole numbers, so that no order matters;
- one exchange per call: within a node through shared memory, between nodes one table per node.
"""

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.parallel.communicator import Communicator

Table = NDArray[np.int32]


class Agreement:
    """Tables of one shape (rows, columns), of which the first row becomes a maximum, the others sums. Collective."""

    def __init__(self, communicator: Communicator, shape: tuple[int, int]) -> None:
        self._communicator = communicator
        size = shape[0] * shape[1]
        dtype = np.dtype(np.int32)
        self._local = [array.reshape(shape) for array in communicator.share(size, dtype)]
        nodes = len(communicator.nodes)
        self._nodes = communicator.share_one(nodes * size if nodes > 1 else 0, dtype)
        self._bounds = [node * size for node in range(nodes + 1)]
        self._shape = shape

    def reach(self, table: Table) -> None:
        """Replace this rank's table by that of all ranks. Collective.

        The next call may come only after another barrier of the node: others may still be reading.
        """
        communicator = self._communicator
        self._local[communicator.local_rank][...] = table
        communicator.node_barrier()
        tables = self._local
        if len(communicator.nodes) > 1:
            tables = list(self._nodes.reshape(-1, *self._shape))
            if communicator.local_rank == 0:
                _combine(self._local, tables[communicator.node])
                communicator.Complete(self._nodes, self._bounds)
            communicator.node_barrier()
        _combine(tables, table)


def _combine(tables: list[Table], out: Table) -> None:
    """Set out to the maximum of the tables' first rows, and the sums of the others."""
    out[...] = tables[0]
    for table in tables[1:]:
        np.maximum(out[0], table[0], out=out[0])
        np.add(out[1:], table[1:], out=out[1:])
