"""Schedules against torch.optim.lr_scheduler and closed forms; the watch on a value against epochs counted by hand."""

import dataclasses
import json
import math
from typing import Any, Literal

import pytest

from ddp_mlp.nn import schedules
from ddp_mlp.nn.schedules import SCHEDULES, Patience, Schedule, observe


def rates(schedule: Schedule, epochs: int, steps_per_epoch: int) -> list[float]:
    """Return the learning rate of every step of a run whose plateau watch never ran out."""
    total = epochs * steps_per_epoch
    return [schedule(t + 1, total, t // steps_per_epoch, steps_per_epoch, Patience()) for t in range(total)]


def torch_rates(name: str, steps: int, base: float, **arguments: Any) -> list[float]:
    """Return torch's rate at `steps` steps of the scheduler called `name`; skip the test where PyTorch is missing."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def test_constant_is_constant() -> None:
    """Every step has the learning rate asked for."""
    assert rates(schedules.create("constant", learning_rate=0.3), 3, 4) == [0.3] * 12


def test_cosine_goes_through_its_known_points() -> None:
    """Over 12 steps: full at step 1, 3/4, 1/2 and 1/4 of the way down at the cosine's exact angles, bottom after."""
    rate = schedules.create("cosine", learning_rate=1.0, min_learning_rate=0.2)
    found = {step: rate(step, 12, 0, 12, Patience()) for step in (1, 5, 7, 9, 13, 20)}
    # cos 0 = 1, cos(π/3) = 1/2, cos(π/2) = 0, cos(2π/3) = -1/2, cos π = -1, and no way up again after the last step
    expected = {1: 1.0, 5: 0.2 + 0.8 * 0.75, 7: 0.2 + 0.8 * 0.5, 9: 0.2 + 0.8 * 0.25, 13: 0.2, 20: 0.2}
    assert found == pytest.approx(expected, rel=1e-14)


def test_cosine_is_torchs() -> None:
    """Every step is CosineAnnealingLR's; its recurrence rounds more than the closed form, hence 1e-12."""
    expected = torch_rates("CosineAnnealingLR", 30, 0.3, T_max=30, eta_min=0.01)
    found = rates(schedules.create("cosine", learning_rate=0.3, min_learning_rate=0.01), 5, 6)
    assert found == pytest.approx(expected, rel=1e-12)


def test_step_falls_at_its_epochs() -> None:
    """With two steps per epoch and a fall every two epochs, the rate changes after steps 4 and 8."""
    found = rates(schedules.create("step", learning_rate=1.0, decay=0.25, decay_every=2), 5, 2)
    assert found == [1.0] * 4 + [0.25] * 4 + [0.0625] * 2


def test_step_is_torchs() -> None:
    """The rate of each epoch is StepLR's."""
    expected = torch_rates("StepLR", 9, 0.3, step_size=4, gamma=0.1)
    found = rates(schedules.create("step", learning_rate=0.3, decay=0.1, decay_every=4), 9, 1)
    assert found == pytest.approx(expected, rel=1e-14)


def test_exponential_falls_by_its_factor_per_epoch_and_evenly_within() -> None:
    """With two steps per epoch, two steps halve the rate and one divides it by √2."""
    found = rates(schedules.create("exponential", learning_rate=1.0, decay=0.5), 2, 2)
    assert found == pytest.approx([1, 1 / math.sqrt(2), 0.5, 0.5 / math.sqrt(2)], rel=1e-14)


def test_exponential_is_torchs_at_the_first_step_of_each_epoch() -> None:
    """ExponentialLR, stepped once per epoch, has the rate of each epoch's first step."""
    expected = torch_rates("ExponentialLR", 8, 0.3, gamma=0.9)
    found = rates(schedules.create("exponential", learning_rate=0.3, decay=0.9), 8, 5)[::5]
    assert found == pytest.approx(expected, rel=1e-14)


LOSSES = [1.0, 0.8, 0.79, 0.79, 0.78, 0.5, 0.6, 0.7, 0.49, 0.6, 0.55, 0.7, 0.8, 0.9, 0.2, 0.3]


def plateau_rates(losses: list[float]) -> list[float]:
    """Return the plateau schedule's rate after each loss: patience 3, min_delta 0.05, factor 0.1, from 1 to 0.005."""
    rate = schedules.create("plateau", learning_rate=1.0, min_learning_rate=0.005, decay=0.1)
    watch, found = Patience(), []
    for epoch, loss in enumerate(losses, start=1):
        watch = observe(watch, loss, patience=3, min_delta=0.05)
        found.append(rate(epoch + 1, 99, epoch, 1, watch))
    return found


def test_plateau_falls_where_the_epochs_counted_by_hand_say() -> None:
    """0.8 is best at epoch 2, 0.79 to 0.78 gain too little: fall; 0.5 at 6: fall at 9 and 12; 0.2 at 15: no fall."""
    expected = [1.0] * 4 + [0.1] * 3 + [0.1] + [0.01] * 3 + [0.005] * 5
    assert plateau_rates(LOSSES) == pytest.approx(expected, rel=1e-14)


def test_plateau_is_torchs() -> None:
    """ReduceLROnPlateau gives the same rates; it falls when more than `patience` epochs are bad, so has one less."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=2, threshold=0.05, threshold_mode="abs", min_lr=0.005
    )
    expected = []
    for loss in LOSSES:
        scheduler.step(loss)
        expected.append(float(optimizer.param_groups[0]["lr"]))
    assert plateau_rates(LOSSES) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_climbs_evenly_to_the_full_rate(name: str) -> None:
    """Step t of 4 has t / 4 of the learning rate, in front of every schedule; step 5 is the schedule's first."""
    found = rates(schedules.create(name, learning_rate=0.8, warmup_steps=4), 1, 10)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8], rel=1e-14)


def test_warm_up_in_front_of_cosine_is_torchs() -> None:
    """LinearLR for 5 steps, then CosineAnnealingLR over the other 15, joined by SequentialLR."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    kinds = torch.optim.lr_scheduler
    climb = kinds.LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    fall = kinds.CosineAnnealingLR(optimizer, T_max=15, eta_min=0.01)
    scheduler = kinds.SequentialLR(optimizer, [climb, fall], milestones=[5])
    expected = []
    for _ in range(20):
        expected.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    found = rates(schedules.create("cosine", learning_rate=0.4, min_learning_rate=0.01, warmup_steps=5), 4, 5)
    assert found == pytest.approx(expected, rel=1e-12)


def test_warm_up_leaves_cosine_the_steps_that_remain() -> None:
    """Of 20 steps, 4 climb; the other 16 are half-way down when 8 of them are done, and at the bottom after all."""
    rate = schedules.create("cosine", learning_rate=1.0, warmup_steps=4)
    assert rate(4 + 8 + 1, 20, 0, 20, Patience()) == pytest.approx(0.5, rel=1e-14)
    assert rate(20 + 1, 20, 0, 20, Patience()) == 0


def test_warm_up_leaves_the_falls_of_step_at_the_runs_epochs() -> None:
    """Three steps of warm-up do not move a fall that is due after epoch 2."""
    plain = rates(schedules.create("step", learning_rate=1.0, decay_every=2), 5, 2)
    warm = rates(schedules.create("step", learning_rate=1.0, decay_every=2, warmup_steps=3), 5, 2)
    assert warm[3:] == plain[3:]


def test_warm_up_longer_than_the_run_only_climbs() -> None:
    """A run that ends during its warm-up has the warm-up's rates alone."""
    found = rates(schedules.create("cosine", learning_rate=1.0, warmup_steps=8), 1, 4)
    assert found == [1 / 8, 2 / 8, 3 / 8, 4 / 8]


@pytest.mark.parametrize("name", ["cosine", "step", "exponential"])
def test_no_schedule_goes_below_the_least_rate(name: str) -> None:
    """Twenty epochs of a steep fall end at min_learning_rate, and none is lower."""
    schedule = schedules.create(name, learning_rate=1.0, min_learning_rate=0.125, decay=0.1, decay_every=1)
    found = [schedule(t + 1, 200, t // 10, 10, Patience()) for t in range(201)]
    assert min(found) == found[-1] == 0.125


def watch(values: list[float], **settings: Any) -> Patience:
    """Return the state after all values."""
    state = Patience()
    for value in values:
        state = observe(state, value, **settings)
    return state


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_patience_runs_out_after_that_many_epochs_without_gain(mode: Literal["min", "max"], sign: float) -> None:
    """The best is at epoch 2; with patience 3, epoch 5 is the first to end the run, going down or up alike."""
    values = [sign * value for value in (2.0, 1.0, 1.0, 1.5, 1.25)]
    assert watch(values[:4], patience=3, mode=mode) == Patience(sign, best_epoch=2, epochs=4, since=2, ran_out=0)
    assert watch(values, patience=3, mode=mode) == Patience(sign, best_epoch=2, epochs=5, since=0, ran_out=1)


def test_a_gain_of_just_min_delta_is_none() -> None:
    """From 1, 0.5 is no gain at min_delta 0.5, and the next smaller number is."""
    assert watch([1.0, 0.5], patience=9, min_delta=0.5).best_epoch == 1
    assert watch([1.0, math.nextafter(0.5, 0)], patience=9, min_delta=0.5).best_epoch == 2


def test_slow_gains_add_up_against_the_best() -> None:
    """Gains are counted from the best value, not from the last: three of 0.25 pass a min_delta of 0.5."""
    assert watch([2.0, 1.75, 1.5, 1.25], patience=9, min_delta=0.5) == Patience(1.25, best_epoch=4, epochs=4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_the_best(value: float) -> None:
    """It counts as an epoch without gain, first or later, and the state stays valid JSON."""
    assert watch([value], patience=9) == Patience(epochs=1, since=1)
    state = watch([1.0, value], patience=9)
    assert state == Patience(1.0, best_epoch=1, epochs=2, since=1)
    json.dumps(dataclasses.asdict(watch([value], patience=9)), allow_nan=False)


def test_no_patience_never_runs_out() -> None:
    """None watches for the best alone."""
    assert watch([1.0] * 100, patience=None) == Patience(1.0, best_epoch=1, epochs=100, since=99)


def test_patience_shortened_below_what_has_passed_runs_out_at_once() -> None:
    """A resumed run may have less patience than the epochs its state has counted."""
    state = watch([1.0] * 6, patience=None)
    assert observe(state, 1.0, patience=2).ran_out == 1


def test_the_watch_continues_from_json_as_if_uninterrupted() -> None:
    """State written to JSON and read back after any epoch ends in the same state."""
    whole = watch(LOSSES, patience=3, min_delta=0.05)
    for stop in range(len(LOSSES)):
        text = json.dumps(dataclasses.asdict(watch(LOSSES[:stop], patience=3, min_delta=0.05)))
        state = Patience(**json.loads(text))
        for loss in LOSSES[stop:]:
            state = observe(state, loss, patience=3, min_delta=0.05)
        assert state == whole
