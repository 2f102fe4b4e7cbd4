"""Judgements of what was found, each counted by hand."""

import pytest

from ddp_mlp.examination import judging
from ddp_mlp.examination.judging import Place
from ddp_mlp.parallel.host import FileSystemSize


def place(host: str = "a", cores: str = "0123", quota: float = 4.0, free: int = 1 << 30) -> Place:
    """Make up what a rank says about itself; one digit per core."""
    return Place(host, frozenset(map(int, cores)), quota, FileSystemSize(free, 1 << 30))


@pytest.mark.parametrize(
    ("allowed", "threads", "expected"),
    [
        (["0", "1"], 1, 2),
        (["0", "0"], 1, 1),
        (["01", "0"], 1, 2),  # the first must move to let the second in
        (["01", "12", "0"], 1, 3),
        (["0123"], 4, 4),
        (["01", "01"], 2, 2),
        (["", "0"], 1, 1),
        (["0", "0", "12"], 1, 2),  # as many cores as ranks, and yet two share one
    ],
)
def test_seats(allowed: list[str], threads: int, expected: int) -> None:
    """Threads with a core of their own, counted by hand."""
    assert judging.seats([frozenset(map(int, cores)) for cores in allowed], threads) == expected


def test_cores_are_counted_per_host() -> None:
    """Two hosts with equal core numbers do not share them; a limit on processor time counts as well."""
    assert judging.judge_cores([place("a", "0"), place("b", "0")], 1).fine
    assert not judging.judge_cores([place("a", "0"), place("a", "0")], 1).fine
    limited = judging.judge_cores([place(quota=1.5), place(quota=1.5)], 1)
    assert not limited.fine
    assert "a limit of 1.5 cores" in limited.found


def test_rates() -> None:
    """A rank that loses much of its pace when all compute is named, with its host."""
    assert judging.judge_rates(100.0, [95.0, 61.0], ["a", "b"]).fine
    slow = judging.judge_rates(100.0, [95.0, 59.0], ["a", "b"])
    assert not slow.fine
    assert "rank 1 on b has 59% of it" in slow.found


def test_reduction_rates() -> None:
    """A sum that moves less than the limit is not fine."""
    assert judging.judge_reduction({1_000_000: 0.01}).fine
    assert not judging.judge_reduction({10_000: 0.0001, 1_000_000: 0.1}).fine
    assert not judging.judge_reduction({}).fine


def test_numbers() -> None:
    """Runs of numbers are drawn together."""
    assert judging.core_ranges([8, 0, 1, 2, 3]) == "0-3,8"


def test_what_ranks_of_a_node_cost_one_another() -> None:
    """The slowest barrier, and the range of what a line costs, over all nodes."""
    found = judging.judge_lines([(0.6e-6, [10e-9, 30e-9]), (1e-6, [12e-9])])
    assert found.fine
    assert found.found == "a barrier takes 1.0 µs; to write a line that another rank has read, 10 to 30 ns more"
    assert found.values == {"barrier_seconds": 1e-6, "line_seconds": [10e-9, 30e-9, 12e-9]}
