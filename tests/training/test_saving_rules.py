"""Tests of training/saving_rules.py: at which moments each rule saves."""

import pytest

from ddp_mlp.training.saving_rules import Moment, Never, SavingRule, saving_rule

STEPS_PER_EPOCH = 3
MOMENTS = [
    Moment(step, step // STEPS_PER_EPOCH, step % STEPS_PER_EPOCH == 0, seconds_since_save=4.0 * step)
    for step in range(1, 13)
]
"""The steps of four epochs, four seconds each, with nothing saved."""


@pytest.mark.parametrize(
    ("rule", "due"),
    [
        (saving_rule(5), [5, 10]),
        (saving_rule("4 steps"), [4, 8, 12]),
        (saving_rule("1 epoch"), [3, 6, 9, 12]),
        (saving_rule("2 epochs"), [6, 12]),
        (saving_rule("41 seconds"), [11, 12]),
        (Never(), []),
    ],
    ids=str,
)
def test_when_a_rule_is_due(rule: SavingRule, due: list[int]) -> None:
    """Of twelve moments, these."""
    assert [moment.step for moment in MOMENTS if rule.is_due(moment)] == due
