"""Whether the trainings of a search fit into the memory of its nodes, whichever of them run at the same time.

A trial that does not fit is never passed over: the table must not depend on the machine. So this is settled before
anything is trained, for the largest trials of the search together. The figures are upper bounds.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, log2

import numpy as np

from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data
from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.host import free_memory
from ddp_mlp.trials.groups import Groups
from ddp_mlp.trials.plan import Plan
from ddp_mlp.units import byte_size


def training_bytes(config: Config, features: int, outputs: int, rows: int, ranks: int) -> int:
    """Return at most what a training takes on all `ranks` of its group together, beside the data."""
    portable = config.arithmetic == "portable"
    shards = 1 if portable else config.shards
    assert isinstance(shards, int), "chosen by the plan"
    layout = Layout((features, *config.hidden, outputs))
    itemsize = np.dtype(config.dtype).itemsize * (4 if portable else 1)  # whole numbers and sums, in float64
    slots = len(optimizers.create(config.optimizer).slots)
    height = ceil(log2(max(2, shards)))
    # Each rank: partial sums and those that wait for a sibling. Once: parameters, state; and both again, twice, while a
    # checkpoint is gathered and written.
    sums = ranks * (2 * height + 2) * layout.length
    kept = 3 * (1 + slots) * layout.length
    batch = rows if config.batch_size == "full" else min(config.batch_size, rows)
    at_once = min(batch, config.chunk_rows * shards) + ranks * 2 * EVALUATION_ROWS
    activations = 2 * 3 * at_once * sum(layout.widths)  # A, dz and more, for whole batches and the last of an epoch
    widest = max(n * n_prev for n_prev, n in pairwise(layout.widths))
    return (sums + kept + activations + ranks * widest) * itemsize


def check(plan: Plan, data: Data, groups: Groups, nodes: Sequence[range]) -> None:
    """Raise EnvironmentMismatch unless each node has room for its groups' trainings, the largest of them all at once.

    On rank 0, for its own node: nodes of a job are alike.
    """
    shape, ranks = (data.info.features, data.targets.outputs, data.train[0].m), plan.asked.ranks_per_trial
    trials = range(len(plan.settings))
    needs = sorted(((training_bytes(plan.member(trial, 0), *shape, ranks), -trial) for trial in trials), reverse=True)
    here = [ranks for ranks in groups.ranks if set(ranks) & set(nodes[0])]
    largest = needs[: max(1, len(here))]
    needed, free = sum(size for size, _ in largest), free_memory(len(nodes[0]) > 1)
    if needed > free:
        size, trial = largest[0]
        at_once = "" if len(largest) == 1 else f", the {len(largest)} largest at once {byte_size(needed)}"
        raise EnvironmentMismatch(
            f"trial {-trial} takes {byte_size(size)}{at_once}, but a node has {byte_size(free)} free: start fewer "
            "ranks per node, raise ranks_per_trial, or narrow the space"
        )
