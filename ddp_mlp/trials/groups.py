"""Which ranks train together: groups of `ranks_per_trial`, each within a node where it can be.

Nodes give as many whole groups as they have; what is left over of all nodes, in order of rank, makes further groups,
and what is left of that is idle. Local arithmetic, the same on every rank.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ddp_mlp.errors import ConfigError


class Groups(NamedTuple):
    """The groups of a world."""

    ranks: list[list[int]]
    """The ranks of each group, ascending."""
    idle: list[int]
    """The ranks in no group."""

    def of(self, rank: int) -> int | None:
        """Return the number of a rank's group, or None for an idle one."""
        return next((number for number, ranks in enumerate(self.ranks) if rank in ranks), None)


def make_groups(nodes: Sequence[range], ranks_per_trial: int) -> Groups:
    """Share out the ranks of the nodes. Raises ConfigError where there are too few for one group."""
    size = sum(map(len, nodes))
    if ranks_per_trial < 1:
        raise ConfigError(f"ranks_per_trial = {ranks_per_trial}: must be at least 1")
    if size < ranks_per_trial:
        there = "there is 1 rank" if size == 1 else f"there are {size} ranks"
        raise ConfigError(f"ranks_per_trial = {ranks_per_trial}: {there}: start more, or ask for fewer")
    groups: list[list[int]] = []
    left: list[int] = []
    for node in nodes:
        whole = len(node) // ranks_per_trial * ranks_per_trial
        groups += _cut(node[:whole], ranks_per_trial)
        left += node[whole:]
    whole = len(left) // ranks_per_trial * ranks_per_trial
    groups += _cut(left[:whole], ranks_per_trial)
    return Groups(sorted(groups), left[whole:])


def _cut(ranks: Sequence[int], size: int) -> list[list[int]]:
    return [list(ranks[start : start + size]) for start in range(0, len(ranks), size)]
