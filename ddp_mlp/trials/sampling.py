"""Which settings a trial has: a function of (space, sampler, seed, trial number), never of what other trials gave.

    sobol     scrambled Sobol points (`sobol.py`): even from the first trial on
    random    independent draws, Philox's own words (Bergstra and Bengio, JMLR 13, 2012)
    grid      all points of the space, in order

Where the space has a finite number of points, a point that an earlier trial has is passed over, so that no training is
done twice.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Literal, get_args

from ddp_mlp.errors import ConfigError
from ddp_mlp.nn.randomness import Purpose, words
from ddp_mlp.trials import sobol
from ddp_mlp.trials.space import Settings, Space
from ddp_mlp.units import counted

Sampler = Literal["sobol", "random", "grid"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
DRAWS_PER_POINT = 64
"""How many points are drawn for one that is new, on average, before the rest is taken in the order of the grid."""
MOST_TRIALS = 100_000
"""Of a search: beyond lies a slip of the pen, and hours before the first training starts."""


def draw(space: Space, sampler: Sampler, seed: int, trials: int | None) -> list[Settings]:
    """Return the settings of trials 0, 1, …; None is all points of a grid. Raises ConfigError, also for one trial."""
    found = list(islice(_settings(space, sampler, seed, trials), MOST_TRIALS + 1 if trials is None else trials))
    if len(found) > MOST_TRIALS:
        raise ConfigError(f"space: a grid of more than {MOST_TRIALS:,} points: say with trials how many of them")
    for number, settings in enumerate(found):
        try:
            space.configure(settings)
        except ConfigError as error:
            words = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
            raise ConfigError(f"space: {error} (trial {number} would have {words})") from error
    return found


def _settings(space: Space, sampler: Sampler, seed: int, trials: int | None) -> Iterator[Settings]:
    if sampler == "grid" or space.continuous is None:
        if space.continuous is not None:
            raise ConfigError(f"space: {space.continuous}: a grid needs points, such as points = 5")
        if trials is not None:
            points = sum(1 for _ in islice(space.points(), trials))
            if points < trials:
                has = counted(points, "point")
                raise ConfigError(f"trials = {trials}: the space has {has}: ask for no more, or widen it")
    if sampler == "grid":
        return space.points()
    if trials is None:
        raise ConfigError(f"trials: must be given for sampler = {sampler}; grid alone knows how many there are")
    if sampler == "sobol" and space.dimensions > sobol.DIMENSIONS:
        raise ConfigError(
            f"sampler = sobol: the space has {space.dimensions} dimensions, at most {sobol.DIMENSIONS}: take random"
        )
    drawn = (space.at(coordinates(sampler, seed, number, space.dimensions)) for number in count())
    return drawn if space.continuous is not None else _distinct(space, drawn, trials)


def coordinates(sampler: Sampler, seed: int, number: int, dimensions: int) -> Sequence[float]:
    """Return point `number` of a sampler, `dimensions` numbers in (0, 1): a function of these four alone."""
    if sampler == "sobol":
        return [sobol.scrambled(seed, number, dimension) for dimension in range(dimensions)]
    drawn = words(
        seed, Purpose.SAMPLING, 1 << 32, number, count=dimensions
    ).tolist()  # no dimension of Sobol's has that index
    return [((word >> 12) * 2 + 1) / (1 << 53) for word in drawn]  # the middle of one of 2**52 intervals


def _distinct(space: Space, drawn: Iterator[Settings], trials: int) -> Iterator[Settings]:
    """Yield what is drawn, each point once; when new ones come too seldom, the others in the order of the grid."""
    seen: set[str] = set()
    for source in (islice(drawn, DRAWS_PER_POINT * trials), space.points()):
        for settings in source:
            name = json.dumps(settings)
            if name not in seen:
                seen.add(name)
                yield settings
