"""What a rank does between letters: waits without holding anybody up, hears signals, and says what came of it."""

from collections import deque
from typing import Any

import pytest

from ddp_mlp.errors import DataError, Interrupted, StorageError, by_all_ranks
from ddp_mlp.trials.course import Outcome, Unit
from ddp_mlp.trials.crew import AskedToStop, Done, End, Failed, Ready, Stop, Summons, Train, TrainingStopped, take_part

UNIT, OUTCOME = Unit(0, 3, 1), Outcome(0.5, None, 1, 9, "x", 0.1, "here", {})


class Letters:
    """A post that is a list: what was told, and what is to come."""

    def __init__(self, *coming: Any) -> None:
        self.told: list[Any] = []
        self._coming = deque(coming)

    def tell(self, letter: Any) -> None:
        """Remember a letter."""
        self.told.append(letter)

    def look(self) -> Any:
        """Return the next one."""
        return self._coming.popleft() if self._coming else None


def summons_of(post: Letters, own: int = 0) -> Summons:
    """Return a summons with a signal caught, or none."""
    return Summons(lambda: own, lambda number: f"signal {number}", post, 15)


def test_a_leader_says_what_came_of_it() -> None:
    """Ready, then a training's outcome; the search's result is returned."""
    post = Letters(Train(UNIT), End({"best": 3}, None))
    assert take_part(2, True, post, summons_of(post), lambda unit: OUTCOME) == {"best": 3}
    assert post.told == [Ready(2), Done(2, UNIT, OUTCOME)]


def test_others_of_a_group_and_idle_ranks_say_nothing() -> None:
    """But they take part, or wait for the end."""
    post, trained = Letters(Train(UNIT), End({}, None)), []
    take_part(2, False, post, summons_of(post), lambda unit: trained.append(unit) or OUTCOME)  # type: ignore[func-returns-value]
    assert (post.told, trained) == ([], [UNIT])
    post = Letters(End({}, None))
    take_part(None, False, post, summons_of(post), lambda unit: OUTCOME)
    assert post.told == []


def test_interruptions_and_errors_are_told_apart() -> None:
    """What all ranks of the group know of; an error of this rank alone is not caught."""
    interrupted, full = by_all_ranks(Interrupted("stopped")), by_all_ranks(StorageError("full"))

    def train(unit: Unit) -> Outcome:
        raise interrupted if unit.fold else full

    post = Letters(Train(UNIT), Train(Unit(0, 0, 0)), End({}, None))
    take_part(0, True, post, summons_of(post), train)
    assert post.told == [Ready(0), TrainingStopped(0, UNIT), Failed(0, Unit(0, 0, 0), full)]

    def fail(unit: Unit) -> Outcome:
        raise DataError("on this rank alone")

    with pytest.raises(DataError):
        take_part(0, True, post := Letters(Train(UNIT)), summons_of(post), fail)


def test_the_error_that_ends_a_search_is_everybodys() -> None:
    """Each rank raises it, and rank 0 reports it."""
    post = Letters(End(None, StorageError("full")))
    with pytest.raises(StorageError, match="full") as caught:
        take_part(None, False, post, summons_of(post), lambda unit: OUTCOME)
    assert caught.value.found_by == 0


def test_a_signal_is_told_once_and_a_letter_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training sees either as a signal; letters for later are kept."""
    monkeypatch.setattr("ddp_mlp.trials.crew.LOOK_SECONDS", 0)
    post = Letters()
    summons = summons_of(post, own=10)
    assert [summons.signal, summons.signal] == [10, 10]
    assert post.told == [AskedToStop("signal 10")]

    post = Letters(Train(UNIT), Stop())
    summons = summons_of(post)
    assert [summons.signal, summons.signal, summons.signal] == [0, 15, 15]
    assert summons.next_letter() == Train(UNIT)
    assert post.told == []
