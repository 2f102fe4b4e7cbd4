"""What a search is going to do, settled before anything starts: trials, rungs, and each training's configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.config.keys import key
from ddp_mlp.config.values import check
from ddp_mlp.errors import ConfigError
from ddp_mlp.summing.tree import automatic_shards
from ddp_mlp.trials import space as spaces
from ddp_mlp.trials.course import Unit
from ddp_mlp.trials.folds import MOST_FOLDS
from ddp_mlp.trials.rungs import Rung, rungs
from ddp_mlp.trials.sampling import MOST_TRIALS, Sampler, draw
from ddp_mlp.trials.space import Settings, Space

MEMBER = -1
"""The rung of a member's training: after all others."""
CHECKPOINT_EVERY = "30 seconds"
"""Of a trial, where the configuration leaves it at its default: epochs of small trials are short."""
DECIDES = ("epochs", "max_steps", "patience", "restore_best")
"""Keys that a resumed run may change and a resumed search may not: they decide what trials give."""


@dataclass(frozen=True)
class SearchOptions:
    """What a search is told beside its configuration and its space. Raises ConfigError for what cannot be."""

    trials: int | None = key(None, at_least=1, at_most=MOST_TRIALS)
    """None: all points of a grid."""
    sampler: Sampler = key("sobol")  # noqa: RUF009  (a string)
    folds: int = key(1, at_least=1, at_most=MOST_FOLDS)
    """More than one: cross-validation."""
    members: int = key(1, at_least=1, at_most=MOST_TRIALS)
    """Networks that are trained with the best settings in the end, each with its own seed."""
    halving: int | None = key(None, at_least=2)
    ranks_per_trial: int = key(1, at_least=1)

    def __post_init__(self) -> None:
        """Check each value, and keep it as the type of its field."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = check(field.name, getattr(self, field.name), hints[field.name], field.metadata["limits"])
            object.__setattr__(self, field.name, value)


@dataclass(frozen=True)
class SearchPlan:
    """A search, checked."""

    base: Config
    """The configuration, with its shards chosen."""
    asked: SearchOptions
    space: Space
    settings: list[Settings]
    """Of each trial."""
    rungs: list[Rung]

    def folder(self, unit: Unit) -> Path:
        """Return the run_dir of a training: the search's own for the first member, as if that were the run."""
        assert self.base.run_dir is not None, "claimed"
        top = Path(self.base.run_dir)
        if unit.rung == MEMBER:
            return member_folder(top, unit.fold)
        fold = f"-fold-{unit.fold}" if self.asked.folds > 1 else ""
        return top / "trials" / f"{unit.trial:05d}{fold}"

    def member(self, trial: int, number: int) -> Config:
        """Return the configuration of a member: the trial's, with the seed so many further."""
        config = self.space.configure({**self._base(), **self.settings[trial]})
        return replace(config, seed=(config.seed + number) % 2**63)

    def config(self, unit: Unit, rows: int) -> Config:
        """Return the configuration of a training on so many rows."""
        folder = str(self.folder(unit))
        if unit.rung == MEMBER:
            return replace(self.member(unit.trial, unit.fold), run_dir=folder, max_seconds=None, quiet=True)
        config = self.member(unit.trial, 0)
        steps = config.max_steps
        if self.asked.halving is not None:
            batch = rows if config.batch_size == "full" else min(config.batch_size, rows)
            steps = self.rungs[unit.rung].epochs * -(-rows // batch)
        usual = config.checkpoint_every == Config().checkpoint_every
        return replace(
            config,
            run_dir=folder,
            max_steps=steps,
            max_seconds=None,
            checkpoint_every=CHECKPOINT_EVERY if usual else config.checkpoint_every,
            keep=1,
            log_every=0,
            tensorboard=False,
            quiet=True,
        )

    def described(self) -> dict[str, Any]:
        """Return what decides the search's results, as JSON holds it."""
        asked = {name: value for name, value in asdict(self.asked).items() if name != "ranks_per_trial"}
        return {**asked, "space": self.space.table, "config": configuration.to_dict(self.base)}

    def _base(self) -> Settings:
        return configuration.to_dict(self.base)


def member_folder(top: Path, number: int) -> Path:
    """Return the run_dir of a member of the search in `top`, which itself is the first one's."""
    return top / "members" / str(number) if number else top


def plan_search(config: Config, table: Mapping[str, Any], asked: SearchOptions) -> SearchPlan:
    """Settle and check a search whole. Raises ConfigError, one line, before anything is opened or started."""
    for problem in _problems(config, asked):
        raise ConfigError(problem)
    base = config
    if config.shards == "auto" and config.arithmetic == "native":  # the portable one has none
        base = replace(config, shards=automatic_shards(asked.ranks_per_trial))
    space = spaces.parse(table, base, asked.halving is not None)
    settings = draw(space, asked.sampler, config.seed, asked.trials)
    return SearchPlan(base, asked, space, settings, rungs(len(settings), config.epochs, asked.halving))


def _problems(config: Config, asked: SearchOptions) -> Iterator[str]:
    """Yield what cannot be, in the order in which it is best told."""
    if asked.folds > 1 and config.valid_fraction:
        yield f"folds = {asked.folds}: every row is held out once: drop valid_fraction"
    if asked.halving is not None and config.max_steps is not None:
        yield f"halving = {asked.halving}: the rungs end trials after whole epochs: drop max_steps"
    if config.monitor == "train_loss" and config.max_steps is not None:
        yield f"max_steps = {config.max_steps}: train_loss, which trials are compared by, is of whole epochs: drop it"
    if config.reduction != "exact":
        yield f"reduction = {config.reduction}: a search needs exact, so that its table does not depend on the ranks"
    if config.init_from is not None:
        yield "init_from: the trials of a search start from random weights: drop it"
    if config.resume not in ("auto", "never"):
        yield f"resume = {config.resume}: a search goes on where its run_dir is: name that"
    for name in ("describe", "teach", "trace"):
        if getattr(config, name):
            yield f"{name}: is for one training: use ddp_mlp.train"
