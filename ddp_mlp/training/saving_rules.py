"""When a run saves a checkpoint by itself: one small rule per kind of interval.

A rule looks at a moment after a step, the same on every rank, so that all ranks take part.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ddp_mlp.config import parse_interval


class Moment(NamedTuple):
    """Where a run stands after a step."""

    step: int
    """Steps done."""
    epoch: int
    """Epochs done."""
    ends_epoch: bool
    """Whether the step was its epoch's last."""
    seconds_since_save: float
    """By rank 0's clock, as the step began."""


class SavingRule(Protocol):
    """Decides whether a checkpoint is due."""

    def is_due(self, moment: Moment) -> bool:
        """Return whether one is due at this moment."""


@dataclass(frozen=True)
class EverySteps:
    """After each so many steps of the run."""

    count: int

    def is_due(self, moment: Moment) -> bool:
        """Return whether the step's number is a multiple."""
        return moment.step % self.count == 0


@dataclass(frozen=True)
class EveryEpochs:
    """At the end of each so many epochs."""

    count: int

    def is_due(self, moment: Moment) -> bool:
        """Return whether an epoch has ended whose number is a multiple."""
        return moment.ends_epoch and moment.epoch % self.count == 0


@dataclass(frozen=True)
class EverySeconds:
    """When so much time has passed since the last one."""

    count: int

    def is_due(self, moment: Moment) -> bool:
        """Return whether the time has passed."""
        return moment.seconds_since_save >= self.count


@dataclass(frozen=True)
class Never:
    """Not by itself."""

    def is_due(self, moment: Moment) -> bool:
        """Return False."""
        return False


def saving_rule(interval: int | str) -> SavingRule:
    """Return the rule that a configuration's `checkpoint_every` names."""
    count, unit = (found := parse_interval(interval)).count, found.unit
    if unit == "steps":
        return EverySteps(count)
    return EveryEpochs(count) if unit == "epochs" else EverySeconds(count)
