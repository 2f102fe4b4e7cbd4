"""Whether a run's data are held in memory or streamed from the file, by what they need and what its nodes have free."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from ddp_mlp.config import Config
from ddp_mlp.data.stream import ring_rows
from ddp_mlp.errors import ConfigError, by_all_ranks
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import free_memory, host_name
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.units import byte_size

SHARE = 0.7
"""Of a node's free memory that `auto` gives to data; the rest is for parameters, activations and other programs."""


class Access(NamedTuple):
    """How a run gets at its rows, and by what figures that was chosen."""

    kind: str
    """ "memory" or "stream"."""
    node_bytes: int
    """What one node holds."""
    free_bytes: int
    """What the node with the least has free for it."""


def choose_access(config: Config, info: DatasetInfo, communicator: Communicator) -> Access:
    """Settle how rows are read: as `access` says or, where it is auto, in memory if that leaves room. Collective.

    Raises ConfigError on all ranks for what does not fit, and for what cannot be streamed.
    """
    free = free_on_a_node(communicator)
    in_memory, streamed = memory_bytes(config, info), stream_bytes(config, info)
    kind = config.access
    if kind == "auto":
        kind = "memory" if in_memory <= SHARE * free else "stream"
    access = Access(kind, in_memory if kind == "memory" else streamed, free)
    if problem := _problem(config, kind, in_memory, streamed, free):
        raise by_all_ranks(ConfigError(problem))
    return access


def free_on_a_node(communicator: Communicator) -> int:
    """Return the bytes that the node with the least has free for what its ranks share. Collective."""
    shared = len(communicator.nodes[communicator.node]) > 1
    places = communicator.allgather((host_name(), communicator.node, free_memory(shared)))
    nodes_of = Counter(name for name, _ in {(name, node) for name, node, _ in places})
    return min(found // nodes_of[name] for name, _, found in places)


def _problem(config: Config, kind: str, in_memory: int, streamed: int, free: int) -> str | None:
    """Return why a kind of access cannot be, and what to do, on one line; None where it can."""
    room = f"a node has {byte_size(free)} free"
    if kind == "memory":
        too_large = f"access = memory: the data take {byte_size(in_memory)}, but {room}: set access = stream"
        return too_large if in_memory > free else None
    chosen = f"access = {config.access}"
    if config.access == "auto":
        chosen += f" is stream here, as the data take {byte_size(in_memory)} and {room}"
    if config.shuffle == "rows":
        return f"{chosen}: shuffle = rows needs all rows in memory: set shuffle = blocks"
    if config.batch_size == "full":
        return f"{chosen}: batch_size = full needs all rows in memory: set batch_size to a number"
    if streamed > free:
        read_ahead = f"the blocks that are read ahead take {byte_size(streamed)}"
        return f"block_rows = {config.block_rows}: {read_ahead}, but {room}: lower block_rows or batch_size"
    return None


def memory_bytes(config: Config, info: DatasetInfo) -> int:
    """Return the bytes of one node's copy of all splits, and of the order of train."""
    rows = sum(split.rows * _row_bytes(info, name) for name, split in info.splits.items())
    return rows + 8 * info.splits["train"].rows + _held_out_bytes(config, info)


def stream_bytes(config: Config, info: DatasetInfo) -> int:
    """Return the bytes that one node holds while it streams."""
    m = info.splits["train"].rows
    batch_size = m if config.batch_size == "full" else min(config.batch_size, m)
    return ring_rows(m, batch_size, config.block_rows) * _row_bytes(info, "train") + _held_out_bytes(config, info)


def _row_bytes(info: DatasetInfo, split: str) -> int:
    """Return the bytes of a row of X as in the file, its label as int64 and its weight, if it has one, as float64."""
    found = info.splits[split]
    return info.features * np.dtype(found.dtype).itemsize + 8 + 8 * found.weighted


def _held_out_bytes(config: Config, info: DatasetInfo) -> int:
    """Return the bytes of the row numbers on both sides of valid_fraction."""
    return 8 * info.splits["train"].rows if config.valid_fraction and "valid" not in info.splits else 0
