"""What a search is going to do, settled before anything starts: trials, rungs, and each training's configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError
from ddp_mlp.summing.tree import automatic_shards
from ddp_mlp.trials import space as spaces
from ddp_mlp.trials.course import Unit
from ddp_mlp.trials.rungs import Rung, rungs
from ddp_mlp.trials.sampling import SAMPLERS, Sampler, draw
from ddp_mlp.trials.space import Settings, Space

MEMBER = -1
"""The rung of a member's training: after all others."""
CHECKPOINT_EVERY = "30 seconds"
"""Of a trial, where the configuration leaves it at its default: epochs of small trials are short."""
DECIDES = ("epochs", "max_steps", "patience", "restore_best")
"""Keys that a resumed run may change and a resumed search may not: they decide what trials give."""


@dataclass(frozen=True)
class Asked:
    """What a search is told beside its configuration and its space."""

    trials: int | None = None
    """None: all points of a grid."""
    sampler: Sampler = "sobol"
    folds: int = 1
    """More than one: cross-validation."""
    members: int = 1
    """Networks that are trained with the best settings in the end, each with its own seed."""
    halving: int | None = None
    ranks_per_trial: int = 1


@dataclass(frozen=True)
class Plan:
    """A search, checked."""

    base: Config
    """The configuration, with its shards chosen."""
    asked: Asked
    space: Space
    settings: list[Settings]
    """Of each trial."""
    rungs: list[Rung]

    def folder(self, unit: Unit) -> Path:
        """Return the run_dir of a training: the search's own for the first member, as if that were the run."""
        assert self.base.run_dir is not None, "claimed"
        top = Path(self.base.run_dir)
        if unit.rung == MEMBER:
            return top / "members" / str(unit.fold) if unit.fold else top
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


def make_plan(config: Config, table: Mapping[str, Any], asked: Asked) -> Plan:
    """Settle and check a search whole. Raises ConfigError, one line, before anything is opened or started."""
    for problem in _problems(config, asked):
        raise ConfigError(problem)
    base = config
    if config.shards == "auto" and config.arithmetic == "native":  # the portable one has none
        base = replace(config, shards=automatic_shards(asked.ranks_per_trial))
    space = spaces.parse(table, base, asked.halving is not None)
    settings = draw(space, asked.sampler, config.seed, asked.trials)
    return Plan(base, asked, space, settings, rungs(len(settings), config.epochs, asked.halving))


def _problems(config: Config, asked: Asked) -> Iterator[str]:
    """Yield what cannot be, in the order in which it is best told."""
    if asked.sampler not in SAMPLERS:
        yield f"sampler = {asked.sampler}: must be one of {', '.join(SAMPLERS)}"
    if asked.trials is not None and asked.trials < 1:
        yield f"trials = {asked.trials}: must be at least 1"
    for name in ("folds", "members", "ranks_per_trial"):
        if (number := getattr(asked, name)) < 1:
            yield f"{name} = {number}: must be at least 1"
    if asked.folds > 1 and config.valid_fraction:
        yield f"folds = {asked.folds}: every row is held out once: drop valid_fraction"
    if asked.halving is not None and config.max_steps is not None:
        yield f"halving = {asked.halving}: the rungs end trials after whole epochs: drop max_steps"
    if config.reduction != "exact":
        yield f"reduction = {config.reduction}: a search needs exact, so that its table does not depend on the ranks"
    if config.init_from is not None:
        yield "init_from: the trials of a search start from random weights: drop it"
    if config.resume not in ("auto", "never"):
        yield f"resume = {config.resume}: a search goes on where its run_dir is: name that"
    for name in ("describe", "teach", "trace"):
        if getattr(config, name):
            yield f"{name}: is for one training: use ddp_mlp.train"
