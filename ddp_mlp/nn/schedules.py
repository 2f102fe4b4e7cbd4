"""The learning rate of each step, and the watch on a validation value that lowers it or ends a run.

A schedule is a pure function `(step, total_steps, epoch, steps_per_epoch, plateau) -> learning rate`:

- `step` is counted from 1; `total_steps` is how many the run is to have;
- `epoch` is counted from 0: the epochs completed before this step; `steps_per_epoch` is how many steps each has;
- `plateau` is the `Patience` that watches the validation value. Schedules other than `plateau` ignore it.

All that a schedule remembers is in those five, so a resumed run needs nothing else. η is the learning rate asked for,
η_min the one that no schedule goes below (warm-up starts below it).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic


@dataclass(frozen=True)
class Patience:
    """What a watch on one value per epoch remembers: early stopping and the plateau schedule are both this.

    All fields are numbers or None: `dataclasses.asdict` goes into JSON, `Patience(**fields)` comes back.

    - `best`: the value that later ones must beat; None before the first finite one;
    - `best_epoch`: when it was observed, counted from 1; 0 before;
    - `epochs`: how many values were observed;
    - `since`: how many have passed since the best one, or since patience last ran out;
    - `ran_out`: how many times patience ran out.
    """

    best: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    since: int = 0
    ran_out: int = 0


Schedule: TypeAlias = Callable[[int, int, int, int, Patience], float]


def observe(
    state: Patience,
    value: float,
    *,
    patience: int | None,
    min_delta: float = 0.0,
    mode: Literal["min", "max"] = "min",
) -> Patience:
    """Return the state after one more epoch's value.

    The value is a new best if it is finite and better than `best` by more than `min_delta`, an absolute difference:
    smaller for "min", larger for "max". Where `patience` values in a row are not, patience runs out: `ran_out` goes up
    and the count starts again, while `best` stays. None never runs out. Early stopping ends the run when `ran_out` is
    1; the plateau schedule lowers the rate each time. torch's ReduceLROnPlateau (threshold_mode "abs") waits one
    epoch longer for the same `patience`; Keras waits as long.

    >>> state = Patience()
    >>> for loss in (1.0, 0.5, 0.6, 0.7):
    ...     state = observe(state, loss, patience=2)
    >>> state
    Patience(best=0.5, best_epoch=2, epochs=4, since=0, ran_out=1)

    Source: Prechelt, "Early stopping: but when?", in Neural Networks: Tricks of the Trade, 1998 (criterion UP).
    """
    epochs, since = state.epochs + 1, state.since + 1
    if mode == "min":
        better = state.best is None or value < state.best - min_delta
    else:
        better = state.best is None or value > state.best + min_delta
    if better and math.isfinite(value):
        return replace(state, best=float(value), best_epoch=epochs, epochs=epochs, since=0)
    if patience is not None and since >= patience:
        return replace(state, epochs=epochs, since=0, ran_out=state.ran_out + 1)
    return replace(state, epochs=epochs, since=since)


def create(
    name: str,
    *,
    learning_rate: float,
    min_learning_rate: float = 0.0,
    decay: float = 0.5,
    decay_every: int = 10,
    warmup_steps: int = 0,
    arithmetic: Arithmetic = NATIVE,
) -> Schedule:
    """Return the schedule called `name` in SCHEDULES, behind `warmup_steps` steps of linear warm-up.

    `decay` is for step, exponential and plateau, `decay_every` (epochs) for step; `min_learning_rate` is for all but
    constant. Which values give a schedule is checked where they are configured.

    >>> rate = create("cosine", learning_rate=0.5, warmup_steps=2)
    >>> [round(rate(step, 6, 0, 6, Patience()), 3) for step in range(1, 7)]
    [0.25, 0.5, 0.5, 0.427, 0.25, 0.073]
    """
    given: dict[str, Any] = {"min_learning_rate": min_learning_rate, "decay": decay, "decay_every": decay_every}
    given["arithmetic"] = arithmetic
    function, settings = SCHEDULES[name]
    schedule = partial(function, learning_rate=learning_rate, **{setting: given[setting] for setting in settings})
    return partial(warm_up, schedule=schedule, warmup_steps=warmup_steps) if warmup_steps else schedule


def constant(
    step: int, total_steps: int, epoch: int, steps_per_epoch: int, plateau: Patience, *, learning_rate: float
) -> float:
    """Return η.

    >>> constant(7, 100, 0, 10, Patience(), learning_rate=0.5)
    0.5
    """
    return learning_rate


def cosine(
    step: int,
    total_steps: int,
    epoch: int,
    steps_per_epoch: int,
    plateau: Patience,
    *,
    learning_rate: float,
    min_learning_rate: float = 0.0,
    arithmetic: Arithmetic = NATIVE,
) -> float:
    """Return η_min + ½ (η − η_min) (1 + cos(π (step − 1) / total_steps)): η at step 1, η_min after the last step.

    As torch's CosineAnnealingLR(T_max=total_steps), stepped once per step; steps beyond the last keep η_min.

    >>> [round(cosine(step, 4, 0, 4, Patience(), learning_rate=1.0), 3) for step in (1, 2, 3, 4, 5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, eq. 5, no restart.
    """
    done = min((step - 1) / total_steps, 1.0)
    return min_learning_rate + 0.5 * (learning_rate - min_learning_rate) * (1 + arithmetic.cos(math.pi * done))


def step_decay(
    step: int,
    total_steps: int,
    epoch: int,
    steps_per_epoch: int,
    plateau: Patience,
    *,
    learning_rate: float,
    min_learning_rate: float = 0.0,
    decay: float = 0.5,
    decay_every: int = 10,
    arithmetic: Arithmetic = NATIVE,
) -> float:
    """Return η · decay^⌊epoch / decay_every⌋, at least η_min: a stair of `decay_every` epochs, torch's StepLR.

    >>> [step_decay(1, 9, epoch, 1, Patience(), learning_rate=1.0, decay_every=2) for epoch in (0, 1, 2, 3, 4)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return max(min_learning_rate, learning_rate * arithmetic.power(decay, epoch // decay_every))


def exponential(
    step: int,
    total_steps: int,
    epoch: int,
    steps_per_epoch: int,
    plateau: Patience,
    *,
    learning_rate: float,
    min_learning_rate: float = 0.0,
    decay: float = 0.5,
    arithmetic: Arithmetic = NATIVE,
) -> float:
    """Return η · decay^((step − 1) / steps_per_epoch), at least η_min: a factor `decay` per epoch, a little each step.

    At the first step of every epoch it is torch's ExponentialLR; in between it goes on falling instead of waiting.

    >>> [round(exponential(step, 9, 0, 2, Patience(), learning_rate=1.0), 3) for step in (1, 2, 3)]
    [1.0, 0.707, 0.5]
    """
    return max(min_learning_rate, learning_rate * arithmetic.real_power(decay, (step - 1) / steps_per_epoch))


def plateau(
    step: int,
    total_steps: int,
    epoch: int,
    steps_per_epoch: int,
    plateau: Patience,
    *,
    learning_rate: float,
    min_learning_rate: float = 0.0,
    decay: float = 0.5,
    arithmetic: Arithmetic = NATIVE,
) -> float:
    """Return η · decay^ran_out, at least η_min: lower by `decay` each time the watch `plateau` runs out of patience.

    >>> plateau(1, 9, 0, 1, Patience(ran_out=2), learning_rate=1.0)
    0.25
    """
    return max(min_learning_rate, learning_rate * arithmetic.power(decay, plateau.ran_out))


def warm_up(
    step: int,
    total_steps: int,
    epoch: int,
    steps_per_epoch: int,
    plateau: Patience,
    *,
    schedule: Schedule,
    warmup_steps: int,
) -> float:
    """Return `schedule`'s rate, times step / warmup_steps for the first `warmup_steps` steps.

    The schedule's steps start after the warm-up and number total_steps − warmup_steps, so cosine and exponential fall
    from the full rate; its epochs are the run's, so step and plateau change the rate where they would without.

    >>> steady = partial(constant, learning_rate=1.0)
    >>> [warm_up(step, 9, 0, 9, Patience(), schedule=steady, warmup_steps=4) for step in (1, 2, 3, 4, 5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.
    """
    step_after, steps_after = max(1, step - warmup_steps), max(1, total_steps - warmup_steps)
    rate = schedule(step_after, steps_after, epoch, steps_per_epoch, plateau)
    return rate * min(1.0, step / warmup_steps)


SCHEDULES: dict[str, tuple[Callable[..., float], tuple[str, ...]]] = {
    "constant": (constant, ()),
    "cosine": (cosine, ("min_learning_rate", "arithmetic")),
    "step": (step_decay, ("min_learning_rate", "decay", "decay_every", "arithmetic")),
    "exponential": (exponential, ("min_learning_rate", "decay", "arithmetic")),
    "plateau": (plateau, ("min_learning_rate", "decay", "arithmetic")),
}
