"""Where what a run says and keeps goes: a folder, memory, or whatever else implements this."""

from collections.abc import Callable
from typing import Protocol

from ddp_mlp.inference.evaluate import Totals
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.run_dir.saving import Arrays, Snapshot


class Outputs(Protocol):
    """What a trainer tells, and what it asks to be kept. All calls are collective but where it says local.

    An error that ends the run is raised on all ranks.
    """

    def step(self, step: int, totals: Totals, examples: int) -> None:
        """Hear of a step that is done: `totals` of the epoch so far, `examples` of the step. Local, and cheap."""

    def event(self, event: Event, parameters: Arrays) -> None:
        """Hear of an event, with the parameters as they are then, to be read and not kept."""

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Keep what the run can go on from, if anything is kept: `take` is collective and gathers it."""

    def best(self, take: Callable[[], Snapshot]) -> None:
        """Keep the parameters as the best so far."""

    def best_parameters(self, epoch: int) -> Arrays | None:
        """Return the best ones, which an epoch has left, on rank 0; None elsewhere."""

    @property
    def failed(self) -> bool:
        """Whether something could not be kept, of which `settle` will tell. Local, for rank 0."""

    def settle(self) -> str:
        """Wait for what is under way, and return in words what is kept; raise what went wrong."""

    def kept(self) -> str:
        """Return in words what is kept, whatever went wrong. Local, for rank 0; "" where nothing ever is."""

    def finished(self, step: int, best: bool) -> str | None:
        """See to it that the last step is kept; return the name of what holds the result, the best or the last."""
