"""Successive halving: many trials begin, and at each rung the better ones alone go on, with more epochs.

Synchronous, as in Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS 2016: a rung is complete before anything is decided, so that nothing depends on which trial was the faster. Ties
go to the lower trial number. A trial goes on from its own checkpoint: its epochs are trained once.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from ddp_mlp.errors import ConfigError


class Rung(NamedTuple):
    """One stage of a search."""

    epochs: int
    """How many each trial has trained at its end, counted from its beginning; 0 where the trial's own number holds."""
    trials: int
    """How many trials come to it, at most."""


def rungs(trials: int, epochs: int, halving: int | None) -> list[Rung]:
    """Return the stages of a search; one where halving is None, else each a `halving`th of the trials before.

    The last rung has all `epochs`, the one before a `halving`th of them, rounded up; as many as leave a trial and an
    epoch. Raises ConfigError where there is nothing to halve.
    """
    if halving is None:
        return [Rung(0, trials)]
    if halving < 2:
        raise ConfigError(f"halving = {halving}: must be at least 2")
    found = [Rung(epochs, trials)]
    while found[0].epochs > 1 and trials >= halving ** len(found):
        found.insert(0, Rung(-(-epochs // halving ** len(found)), trials))
    if len(found) == 1:
        raise ConfigError(
            f"halving = {halving}: needs at least {halving} trials and 2 epochs, there are {trials} and {epochs}"
        )
    return [Rung(rung.epochs, trials // halving**i) for i, rung in enumerate(found)]


def ranked(scores: Mapping[int, float], largest: bool) -> list[int]:
    """Return trial numbers from the best score to the worst; of equal ones the lower number first, NaN last."""

    def key(trial: int) -> tuple[bool, float, int]:
        score = scores[trial]
        return (True, 0.0, trial) if math.isnan(score) else (False, -score if largest else score, trial)

    return sorted(scores, key=key)
