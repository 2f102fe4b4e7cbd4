"""Whether the trainings of a search fit into the memory of its nodes, whichever of them run at the same time.

A trial that does not fit is never passed over: the table must not depend on the machine. So this is settled before
anything is trained, for the largest trials of the search together. The figures are upper bounds.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, log2

import numpy as np

from ddp_mlp.config import Config
from ddp_mlp.data.access import stream_bytes
from ddp_mlp.data.adapting import adapted
from ddp_mlp.data.opening import Data
from ddp_mlp.errors import EnvironmentMismatch
from ddp_mlp.inference.evaluate import EVALUATION_ROWS
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.buffers import CACHED
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import free_memory, host_name
from ddp_mlp.trials.groups import Groups
from ddp_mlp.trials.plan import SearchPlan
from ddp_mlp.units import byte_size

GROUPS = 4
"""Of buffers in a rank: for batches and the last of an epoch, for blocks that are evaluated and the last of them."""


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
    blocks = ranks * GROUPS * 2 * max(CACHED, *layout.widths)  # zeros and biases for the examples of a block
    widest = max(n * n_prev for n_prev, n in pairwise(layout.widths))
    return (sums + kept + activations + blocks + ranks * widest) * itemsize


def check(
    plan: SearchPlan, data: Data, groups: Groups, nodes: Sequence[range], free: Sequence[tuple[str, int]]
) -> None:
    """Raise EnvironmentMismatch unless each node has room for its groups' trainings, the largest of them all at once.

    `free` is the name of every rank's host, and what it has free. On rank 0.
    """
    features, rows, ranks = data.info.features, data.train[0].m, plan.asked.ranks_per_trial

    def need(trial: int) -> int:
        config = plan.member(trial, 0)
        streamed = data.access is not None and data.access.kind == "stream"
        window = stream_bytes(config, data.info) if streamed else 0
        return window + training_bytes(config, features, adapted(data, config).targets.outputs, rows, ranks)

    each = max(plan.asked.folds, plan.asked.members)  # trainings of one trial that may go on at once
    needs = sorted([(need(trial), -trial) for trial in range(len(plan.settings))] * each, reverse=True)
    for node in nodes:
        here = [ranks for ranks in groups.ranks if set(ranks) & set(node)]
        largest = needs[: len(here)]
        needed, (host, room) = sum(size for size, _ in largest), free[node[0]]
        if needed > room:
            size, trial = largest[0]
            at_once = "" if len(largest) == 1 else f", the {len(largest)} largest at once {byte_size(needed)}"
            raise EnvironmentMismatch(
                f"trial {-trial} takes {byte_size(size)}{at_once}, but {host} has {byte_size(room)} free: start fewer "
                "ranks per node, raise ranks_per_trial, or narrow the space"
            )


def free_on_nodes(communicator: Communicator) -> list[tuple[str, int]]:
    """Return the name of every rank's host, and what it has free. Collective."""
    shared = len(communicator.nodes[communicator.node]) > 1
    return communicator.allgather((host_name(), free_memory(shared)))
