"""Rows in memory as a portable pass rounds them: standardized and rounded once, not again in every epoch.

Invariants:
- a row is rounded by itself, so that its bits are those of a pass that rounds it among others;
- rounded rows are kept in float32, which has as many bits and more. Where it does not hold them, or they would take
  much of the memory, rows stay as they are read: no bit depends on that.
"""

from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.batches import Source
from ddp_mlp.data.memory import MemorySource
from ddp_mlp.data.opening import Data
from ddp_mlp.nn.products import layer_bits
from ddp_mlp.nn.rounding import Room, width
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.tree import cut

FLOAT32 = np.dtype(np.float32)
S = TypeVar("S", bound=Source)
SHARE = 0.25
"""Of what a run leaves free on a node: so much, at most, is taken for rounded rows."""


def with_rounded_rows(data: Data, n_1: int, spare: float, communicator: Communicator) -> Data:
    """Return the data of a portable run, whose first layer has n_1 units, with rows in memory rounded. Collective.

    `spare` are the bytes that every node has left: the same on all ranks.
    """
    parts = (data.train, data.valid, data.test)
    sources = {id(part[0].X): part[0] for part in parts if part is not None and isinstance(part[0], MemorySource)}
    wanted = sum(source.X.size for source in sources.values()) * FLOAT32.itemsize
    if wanted > SHARE * spare:
        return data
    bits = layer_bits(data.info.features, n_1).A
    rounded = {rows: rounded_rows(source, bits, communicator) for rows, source in sources.items()}

    def taken(source: S) -> S:
        if isinstance(source, MemorySource) and (X := rounded[id(source.X)]) is not None:
            return source.rounded(X)
        return source

    train, rows = data.train
    valid, test = (part and (taken(part[0]), part[1]) for part in parts[1:])
    return data._replace(train=(taken(train), rows), valid=valid, test=test)


def rounded_rows(source: MemorySource, bits: int, communicator: Communicator) -> NDArray[np.float32] | None:
    """Return a source's rows (m, n_0), standardized and rounded to so many bits each, one copy per node. Collective.

    None where float32 does not hold them.
    """
    m, n = source.X.shape
    rounded: NDArray[np.float32] = communicator.share_one(m * n, FLOAT32).reshape(m, n)
    here = communicator.nodes[communicator.node]
    lo, hi = list(pairwise(cut(m, len(here))))[communicator.local_rank]
    step = max(1, width(n, hi - lo))
    X = np.zeros((step, n))
    [block] = Room((n,), step).blocks(X.T)
    is_held = True
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(lo, hi, step):
            rows = np.arange(start, min(start + step, hi))
            source.inputs(rows, X[: len(rows)])
            block.round_examples(bits, signed=True)
            found = rounded[start : start + len(rows)]
            np.copyto(found, X[: len(rows)], casting="same_kind")
            is_held = is_held and np.array_equal(found, X[: len(rows)])
    communicator.node_barrier()
    return rounded if all(communicator.allgather(is_held)) else None
