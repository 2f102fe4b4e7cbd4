"""What is asked of the sums over ranks, whoever provides the ranks: MPI or its simulation."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.summing.plan import QUANTUM
from ddp_mlp.summing.tree import turns
from tests.oracles import shard_sums, tree_sum


def write_partials(reduction: ExactSum, values: NDArray[Any], m: int) -> None:
    """Form this rank's partials from the shards' sums, as a training step does."""
    for subtree, partial in zip(reduction.subtrees, reduction.partials, strict=True):
        partial[...] = np.nan  # an absent term must not be read
        waiting = [partial, *(np.empty_like(partial) for _ in range(8))]
        for turn in turns(subtree, m, len(values)):
            waiting[turn.height][...] = values[turn.shard]
            for height in range(turn.height, turn.height - turn.folds, -1):
                waiting[height - 1] += waiting[height]


def has_the_bits_of_the_definition(communicator: Communicator, length: int, K: int, m: int, halving: bool) -> None:
    """Sum, update by each rank's slice, and sharing give every rank the one-process result, twice in a row."""
    values = shard_sums(K, length, np.float32)
    expected = tree_sum(values, m, 0, K)
    assert expected is not None
    reduction = ExactSum(communicator, length, np.dtype(np.float32), K, halving)
    for repeat in (1, 2):
        write_partials(reduction, values, m)
        reduction.collect(m)
        for lo, hi, gradient in reduction.sums(m):
            reduction.parameters[lo:hi] += gradient
        reduction.publish()
        assert reduction.parameters.tobytes() == (repeat * expected).tobytes()


def slices_cover_the_vector(communicator: Communicator) -> None:
    """Every element is updated by one rank; slices begin and end on quanta."""
    reduction = ExactSum(communicator, 10 * QUANTUM + 3, np.dtype(np.float64), 8)
    covered = sorted((part.start, part.stop) for part in reduction.slices if part.stop > part.start)
    assert covered[0][0] == 0
    assert covered[-1][1] == 10 * QUANTUM + 3
    assert all(left[1] == right[0] for left, right in pairwise(covered))
    assert all(lo % QUANTUM == 0 for lo, _ in covered)
