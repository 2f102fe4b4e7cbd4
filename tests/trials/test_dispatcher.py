"""Who is given what: every group is kept busy, everybody hears of the end, and an error ends all in order."""

import random
from pathlib import Path
from typing import Any

import pytest

from ddp_mlp.config import Config
from ddp_mlp.errors import Interrupted, StorageError
from ddp_mlp.trials import table
from ddp_mlp.trials.course import Course, Outcome, Unit
from ddp_mlp.trials.crew import AskedToStop, Done, End, Failed, Ready, Stop, Train, TrainingStopped
from ddp_mlp.trials.dispatcher import Dispatcher
from ddp_mlp.trials.plan import MEMBER, SearchOptions, plan_search

GROUPS = [[0, 1], [2, 3], [4, 5]]


class Ranks:
    """Seven ranks, one of them idle, that answer letters in an order of the seed's."""

    def __init__(self, run_dir: Path, seed: int) -> None:
        (run_dir / "checkpoints").mkdir(parents=True)
        config = Config(run_dir=str(run_dir), epochs=4, quiet=True)
        asked = SearchOptions(trials=6, halving=2, folds=2, members=3, ranks_per_trial=2)
        plan = plan_search(config, {"seed": {"int": [0, 99]}}, asked)
        self.course = Course(plan.settings, plan.rungs, 2, largest=False)
        self.letters: dict[int, list[Any]] = {rank: [] for rank in range(7)}
        self.random = random.Random(seed)
        self.dispatcher = Dispatcher(
            plan, self.course, GROUPS, 7, lambda rank, letter: self.letters[rank].append(letter)
        )
        self.going: dict[int, Unit] = {}
        for group in range(3):
            self.tell(Ready(group))

    def tell(self, letter: Any) -> None:
        """Let the dispatcher handle a letter, and note what groups do now."""
        before = [len(self.letters[ranks[0]]) for ranks in GROUPS]
        self.dispatcher.handle(letter)
        for number, ranks in enumerate(GROUPS):
            for new in self.letters[ranks[0]][before[number] :]:
                if isinstance(new, Train):
                    self.going[number] = new.unit

    def finish_one(self) -> None:
        """Let a group finish its training, which scores by its trial and fold."""
        group = self.random.choice(sorted(self.going))
        unit = self.going.pop(group)
        score = None if unit.rung == MEMBER else float(unit.trial * 7 % 5 + unit.fold)
        self.tell(Done(group, unit, Outcome(score, None, 4, 8, f"hash {unit}", 0.5, "here", {"test_loss": 1.0})))

    def ends(self) -> list[End]:
        """Return the last letters of all ranks, which are the same."""
        last = [letters[-1] for letters in self.letters.values()]
        assert all(isinstance(letter, End) for letter in last)
        return last


@pytest.mark.parametrize("seed", range(8))
def test_all_is_trained_once_and_everybody_hears_of_the_end(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ranks of a group get the same letters; nobody waits while there is something to do."""
    ranks = Ranks(tmp_path, seed)
    while not ranks.dispatcher.ended:
        assert len(ranks.going) == 3 or not ranks.course._waiting
        ranks.finish_one()
    trained = [letter.unit for group in GROUPS for letter in ranks.letters[group[0]] if isinstance(letter, Train)]
    assert len(trained) == len(set(trained)) == 2 * (6 + 3 + 1) + 3
    assert all(ranks.letters[first] == ranks.letters[second] for first, second in GROUPS)
    (end,) = {str(end) for end in ranks.ends()}
    result = ranks.ends()[0].result
    assert result is not None, end
    assert (result["best"], len(result["members"])) == (0, 3)
    assert len(table.read(tmp_path / table.TABLE)) == 6
    assert capsys.readouterr().out.startswith("trial 0, valid loss 0.5, test loss 1.0000, parameters_sha256 hash")


def test_a_signal_stops_all_groups_and_waits_for_them(tmp_path: Path) -> None:
    """The first rank of each is told once; the end comes when the last one has saved."""
    ranks = Ranks(tmp_path, 0)
    ranks.finish_one()
    going = dict(ranks.going)
    ranks.tell(AskedToStop("SIGTERM"))
    ranks.tell(AskedToStop("SIGTERM"))
    for number, (first, second) in enumerate(GROUPS):
        assert (ranks.letters[first].count(Stop()), ranks.letters[second].count(Stop())) == (number in going, 0)
    for number, unit in going.items():
        assert not ranks.dispatcher.ended
        ranks.tell(TrainingStopped(number, unit))
    error = ranks.ends()[0].error
    assert isinstance(error, Interrupted)
    assert str(error).startswith("stopped by SIGTERM; 0 of 6 trials are done")
    assert ranks.dispatcher.bulletin.busy_seconds > 2 * 0.5  # one training that ended, and three that were at work


def test_an_error_ends_the_search_and_is_told_rather_than_a_signal(tmp_path: Path) -> None:
    """A full disk in one group: the others save, and all ranks raise that error."""
    ranks = Ranks(tmp_path, 0)
    ranks.tell(AskedToStop("SIGTERM"))
    ranks.tell(Failed(1, ranks.going[1], StorageError("full")))
    for number in (0, 2):
        ranks.tell(TrainingStopped(number, ranks.going[number]))
    assert str(ranks.ends()[0].error) == "full"


def test_a_table_that_cannot_be_written_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a group had met it: everybody stops and hears why."""
    ranks = Ranks(tmp_path, 0)

    def full(self: table.Table, row: table.Row) -> None:
        raise StorageError("table full")

    monkeypatch.setattr(table.Table, "append", full)
    ranks.finish_one()
    for number in list(ranks.going):
        if not ranks.dispatcher.ended:
            ranks.tell(TrainingStopped(number, ranks.going[number]))
    assert str(ranks.ends()[0].error) == "table full"
