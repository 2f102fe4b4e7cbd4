"""What all ranks must know before they multiply: a small table of whole numbers, maxima and sums over all ranks.

Invariants:
- every entry is a maximum or a sum of whole numbers, so that no order matters;
- within a node tables lie in shared memory; between nodes one rank of each exchanges tables with log₂ N others: by
  recursive doubling, where nodes beyond a power of two hand theirs to another one first (Thakur, Rabenseifner, Gropp,
  "Optimization of collective communication operations in MPICH", IJHPCA 19(1), 2005).
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
        self._overall = communicator.share_one(size, dtype).reshape(shape)
        """The node's copy of what all nodes have agreed on; of use where there are several."""
        self._received = np.zeros(shape, dtype)

    def reach(self, table: Table) -> None:
        """Replace this rank's table by that of all ranks. Collective.

        The next call may come only after another barrier of the node: others may still be reading.
        """
        communicator = self._communicator
        self._local[communicator.local_rank][...] = table
        communicator.node_barrier()
        if len(communicator.nodes) == 1:
            _combine(self._local, table)
            return
        if communicator.local_rank == 0:
            _combine(self._local, self._overall)
            self._between_nodes()
        communicator.node_barrier()
        table[...] = self._overall

    def _between_nodes(self) -> None:
        """Replace the node's table by that of all nodes. Collective of the nodes' first ranks."""
        node, N = self._communicator.node, len(self._communicator.nodes)
        doubling = 1 << (N.bit_length() - 1)  # the nodes of the largest power of two
        if node >= doubling:
            self._swap(node - doubling)
            self._communicator.Swap(node - doubling, self._overall, self._received)
            self._overall[...] = self._received
            return
        has_other = node + doubling < N
        if has_other:
            self._swap(node + doubling)
        distance = 1
        while distance < doubling:
            self._swap(node ^ distance)
            distance *= 2
        if has_other:
            self._communicator.Swap(node + doubling, self._overall, self._received)

    def _swap(self, node: int) -> None:
        """Exchange tables with another node, and combine both."""
        self._communicator.Swap(node, self._overall, self._received)
        _combine([self._overall, self._received], self._overall)


def _combine(tables: list[Table], out: Table) -> None:
    """Set out, which may be the first, to the maximum of the tables' first rows, and the sums of the others."""
    out[...] = tables[0]
    for table in tables[1:]:
        np.maximum(out[0], table[0], out=out[0])
        np.add(out[1:], table[1:], out=out[1:])
