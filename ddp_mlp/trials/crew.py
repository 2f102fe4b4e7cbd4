"""What each rank of a search does: wait for a training, take part in it, say what came of it, until the search ends.

Letters go between rank 0's dispatcher and the ranks; nobody waits in MPI for a letter, so that a rank that has nothing
to do leaves its core to others and hears signals.

    rank → dispatcher    Ready, Done, TrainingStopped, Failed (a group's first rank); AskedToStop (any rank)
    dispatcher → rank    Train (all ranks of a group), Stop (a group's first rank), End (all ranks)
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ddp_mlp.errors import Interrupted, ProgramError
from ddp_mlp.trials.course import Outcome, Unit

NAP_SECONDS = 0.001
LOOK_SECONDS = 0.05
"""How often a rank that trains looks for a letter, between two steps."""


class Ready(NamedTuple):
    """A group has nothing to do."""

    group: int


class Done(NamedTuple):
    """A training has ended."""

    group: int
    unit: Unit
    outcome: Outcome


class TrainingStopped(NamedTuple):
    """A training was interrupted, with a checkpoint."""

    group: int
    unit: Unit


class Failed(NamedTuple):
    """A training met an error that ends the search."""

    group: int
    unit: Unit
    error: ProgramError


class AskedToStop(NamedTuple):
    """A signal came to some rank."""

    reason: str


class Train(NamedTuple):
    """Take part in a training."""

    unit: Unit


class Stop(NamedTuple):
    """End the training at hand, with a checkpoint."""


class End(NamedTuple):
    """The search is over: with this result, or with this error."""

    result: dict[str, Any] | None
    error: ProgramError | None


class Post(Protocol):
    """A rank's letters: to the dispatcher, and from it."""

    def tell(self, letter: Any) -> None:
        """Send a letter to the dispatcher; returns at once."""

    def look(self) -> Any:
        """Return the next letter from the dispatcher, or None."""


class Summons:
    """What asks the training at hand to stop: a signal to this rank, or the dispatcher's letter. Local.

    It stands in for `Interruption` in a training, which asks for `signal` at each step.
    """

    def __init__(self, own: Callable[[], int], name: Callable[[int], str], post: Post, stop_signal: int) -> None:
        """`own()` is the number of the signal that this rank has caught, or 0; `stop_signal` stands for a letter."""
        self._own, self._name, self._post, self._stop_signal = own, name, post, stop_signal
        self._told = self._stopped = False
        self._next_look = 0.0
        self.waiting: list[Any] = []
        """Letters that came during a training and are no Stop."""

    @property
    def signal(self) -> int:
        """The number of the signal to stop at, or 0."""
        own = self._own()
        if own and not self._told:
            self._told = True
            self._post.tell(AskedToStop(self._name(own)))
        if not self._stopped and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self.take()
        return own or (self._stop_signal if self._stopped else 0)

    def take(self) -> None:
        """Look for a letter, and keep it unless it says to stop."""
        letter = self._post.look()
        if isinstance(letter, Stop):
            self._stopped = True
        elif letter is not None:
            self.waiting.append(letter)

    def next_letter(self) -> Any:
        """Wait for the next letter that is no Stop."""
        while not self.waiting:
            _ = self.signal
            self.take()
            if not self.waiting:
                time.sleep(NAP_SECONDS)
        return self.waiting.pop(0)


def take_part(
    group: int | None, leads: bool, post: Post, summons: Summons, train: Callable[[Unit], Outcome]
) -> dict[str, Any]:
    """Do what the dispatcher says until it says that the search is over; return its result.

    `group` is None for an idle rank; `leads` is true for a group's first rank, which alone talks for it. `train` is
    collective over the group. Raises the error that ended the search, marked as known to all ranks.
    """
    if leads:
        assert group is not None, "a leader has a group"
        post.tell(Ready(group))
    while True:
        letter = summons.next_letter()
        if isinstance(letter, End):
            if letter.error is not None:
                letter.error.found_by = 0
                raise letter.error
            assert letter.result is not None, "one of the two"
            return letter.result
        assert isinstance(letter, Train), letter
        assert group is not None, "idle ranks are told to train nothing"
        answer: Done | TrainingStopped | Failed
        try:
            answer = Done(group, letter.unit, train(letter.unit))
        except Interrupted:
            answer = TrainingStopped(group, letter.unit)
        except ProgramError as error:
            if error.found_by is None:  # met by this rank alone: nobody else of the group comes to know
                raise
            answer = Failed(group, letter.unit, error)
        if leads:
            post.tell(answer)
