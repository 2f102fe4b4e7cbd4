"""How far a run is, and what it remembers besides parameters and optimizer state; goes into every checkpoint."""

import math
from dataclasses import dataclass, field
from typing import Any

from ddp_mlp.config import Config
from ddp_mlp.errors import DataError
from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.nn.schedules import Patience


@dataclass
class Progress:
    """The cursor of a run, its sums since the last events, its watches and its clock; nothing shaped by P."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Epochs done."""
    epoch_totals: Totals = field(default_factory=Totals)
    """Sums over the examples of the epoch so far."""
    logged_totals: Totals = field(default_factory=Totals)
    """Sums over the examples since the last step event."""
    stopping: Patience = field(default_factory=Patience)
    plateau: Patience = field(default_factory=Patience)
    best: Patience = field(default_factory=Patience)
    seconds: float = 0.0
    """The run's clock, over all its starts."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """Read back what `dataclasses.asdict` gave, after JSON has held it. Raises DataError for anything else."""
        try:
            totals = {name: Totals(*values[name]) for name in ("epoch_totals", "logged_totals")}
            watches = {name: Patience(**values[name]) for name in ("stopping", "plateau", "best")}
            found = cls(**{**values, **totals, **watches})
            counts = [found.step, found.epoch]
            for watch in watches.values():
                counts += [watch.best_epoch, watch.epochs, watch.since, watch.ran_out]
            numbers = [found.seconds, *found.epoch_totals, *found.logged_totals]
            for totals_ in totals.values():
                counts += [totals_.examples, totals_.correct, totals_.examples - totals_.correct]
                numbers += [totals_.weight_sum]
            numbers += [watch.best for watch in watches.values() if watch.best is not None]
            if not all(type(count) is int and count >= 0 for count in counts) or not all(map(math.isfinite, numbers)):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):  # an integer that no float holds
            raise DataError(f"the checkpoint's progress is not that of a run: {str(values)[:200]}") from None
        return found


def why_ended(config: Config, progress: Progress) -> str | None:
    """Return why a run that is this far has no more steps to do, or None."""
    if config.patience is not None and progress.stopping.ran_out:
        return "patience"
    if config.max_steps is not None and progress.step >= config.max_steps:
        return "max_steps"
    return "epochs" if progress.epoch >= config.epochs else None
