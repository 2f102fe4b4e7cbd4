"""Optimizers against PyTorch and hand arithmetic; blocks against the whole vector, byte for byte."""

import importlib
import math
import tracemalloc
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp_mlp.nn import optimizers
from ddp_mlp.nn.optimizers import OPTIMIZERS, Array, State

START = (1.0, -2.0, 0.5, 3.0, -0.25)
STEPS = 50


@dataclass(frozen=True)
class Run:
    """STEPS steps from START, here and in torch.optim; `expected` is θ as PyTorch 2.13.0 left it, float64, x86-64.

    `python tests/nn/test_optimizers.py` prints `expected` again where PyTorch is installed.
    """

    name: str
    torch_class: str
    expected: tuple[float, ...]
    coefficients: dict[str, float] = field(default_factory=dict)
    l2: float = 0.0
    decay: float = 0.0
    torch_arguments: dict[str, Any] = field(default_factory=dict)


RUNS = [
    Run(
        "sgd",
        "SGD",
        (0.9557142857142858, -1.9921428571428563, 0.5764285714285716, 2.980714285714286, -0.21714285714285717),
    ),
    Run(
        "sgd",
        "SGD",
        (0.7269979473648553, -1.524340717659637, 0.4505696508378053, 2.2667132969962442, -0.16965215511205048),
        l2=0.3,
        torch_arguments={"weight_decay": 0.3},
    ),
    Run(
        "momentum",
        "SGD",
        (0.882703624581348, -1.8025912134341293, 0.7612550726141858, 3.028115306034969, -0.020084726583526686),
        torch_arguments={"momentum": 0.9},
    ),
    Run(
        "nesterov",
        "SGD",
        (0.8501475478374991, -1.8144749492335737, 0.8115581367813388, 3.006018061145759, -0.01021911106803116),
        torch_arguments={"momentum": 0.9, "nesterov": True},
    ),
    Run(
        "nesterov",
        "SGD",
        (0.6756859385326662, -1.457409633466394, 0.4973984394948142, 2.1939495799761537, -0.14540195463986155),
        coefficients={"momentum": 0.7},
        l2=0.1,
        torch_arguments={"momentum": 0.7, "nesterov": True, "weight_decay": 0.1},
    ),
    Run(
        "rmsprop",
        "RMSprop",
        (0.7022949680051004, -1.8114036112885665, 0.8615496011765015, 2.958539646402434, 0.03927090389493508),
    ),
    Run(
        "rmsprop",
        "RMSprop",
        (0.9293065736249991, -1.9622125806603046, 0.6057299941597907, 2.9827855437407154, -0.17926512900572183),
        coefficients={"alpha": 0.9, "epsilon": 0.1},
        torch_arguments={"alpha": 0.9, "eps": 0.1},
    ),
    Run(
        "adam",
        "Adam",
        (0.9701684578403745, -1.9384351203177477, 0.5786892015421099, 3.0015974989065843, -0.1895134966468053),
    ),
    Run(
        "adam",
        "Adam",
        (0.8028101106015966, -1.6600287986175961, 0.4672188015619126, 2.543965370649088, -0.175961556460687),
        coefficients={"beta1": 0.8, "beta2": 0.95, "epsilon": 0.01},
        l2=0.2,
        torch_arguments={"betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.2},
    ),
    Run(
        "adamw",
        "AdamW",
        (0.9613567662267162, -1.920956735083994, 0.5735360308992687, 2.9745101592378242, -0.18778660933386424),
        decay=OPTIMIZERS["adamw"].default_weight_decay,
    ),
    Run(
        "adamw",
        "AdamW",
        (0.6128709728510334, -1.2296844779208025, 0.36910140053595825, 1.9024409059978376, -0.12002784108554018),
        decay=0.5,
        torch_arguments={"weight_decay": 0.5},
    ),
]


def gradient_of(step: int) -> Array:
    """Return the (5,) gradient of a step: rational numbers in [-11/7, 11/7] with exact zeros among them."""
    return np.array([(step * 37 + i * 101) % 23 - 11 for i in range(len(START))]) / 7


def learning_rate_of(step: int) -> float:
    """Return a rate that changes at every step: a rule with the rate inside its state would differ."""
    return 0.03 / (1 + step % 3)


def run_torch(run: Run) -> list[float]:
    """Return θ (5,) after the run's steps of torch.optim's class; skip the test where PyTorch is missing."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; its stored numbers stand in for it")
    theta = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torch.optim, run.torch_class)([theta], lr=1.0, **run.torch_arguments)
    for step in range(1, STEPS + 1):
        theta.grad = torch.tensor(gradient_of(step).tolist(), dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = learning_rate_of(step)
        optimizer.step()
    return list(theta.tolist())


@pytest.mark.parametrize("source", ["stored", "torch"])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.name}-{run.torch_class}{run.torch_arguments or ''}")
def test_fifty_steps_are_pytorchs(run: Run, source: str) -> None:
    """Fifty float64 steps end where PyTorch's do, to 1e-12: the order of roundings differs, nothing else."""
    expected = run.expected if source == "stored" else run_torch(run)
    optimizer = optimizers.create(run.name, **run.coefficients)  # type: ignore[arg-type] # numbers all
    theta, mask, scratch = np.array(START), np.ones(len(START)), np.full(len(START), np.nan)
    state = optimizer.init(len(START), np.float64)
    for step in range(1, STEPS + 1):
        gradient, rate = gradient_of(step), learning_rate_of(step)
        optimizers.add_l2(gradient, theta, mask, run.l2, scratch)
        optimizers.decay(theta, mask, rate, run.decay, scratch)
        optimizer.update(theta, gradient, state, step, rate, scratch)
    np.testing.assert_allclose(theta, expected, rtol=1e-12, atol=0)


def test_every_optimizer_has_a_run_against_pytorch() -> None:
    """An optimizer that is added to the table without a comparison fails here."""
    assert {run.name for run in RUNS} == set(OPTIMIZERS)


# θ = 1, gradients 2 then 1, learning rate 0.1; the second column is θ after step 1, the third after step 2.
BY_HAND = [
    ("sgd", {}, 1 - 0.2, 1 - 0.2 - 0.1),
    # v = 2; v = 0.5 · 2 + 1 = 2
    ("momentum", {"momentum": 0.5}, 1 - 0.2, 1 - 0.2 - 0.2),
    # v = 2, step 2 + 0.5 · 2 = 3; v = 2, step 1 + 0.5 · 2 = 2
    ("nesterov", {"momentum": 0.5}, 1 - 0.3, 1 - 0.3 - 0.2),
    # v = 0.25 · 4 = 1, step 2 / (1 + 1); v = 0.75 · 1 + 0.25 · 1 = 1, step 1 / (1 + 1)
    ("rmsprop", {"alpha": 0.75, "epsilon": 1.0}, 1 - 0.1, 1 - 0.1 - 0.05),
    # m̂ = 2, v̂ = 4, step 2 / (2 + 1); m = 0.5 · 1 + 0.5 · 1 = 1, m̂ = 1 / (1 - 0.25) = 4/3,
    # v = 0.75 · 1 + 0.25 · 1 = 1, v̂ = 1 / (1 - 0.5625) = 16/7, step (4/3) / (4/√7 + 1)
    *(
        (
            name,
            {"beta1": 0.5, "beta2": 0.75, "epsilon": 1.0},
            1 - 0.1 * 2 / 3,
            1 - 0.1 * 2 / 3 - 0.1 * (4 / 3) / (4 / math.sqrt(7) + 1),
        )
        for name in ("adam", "adamw")
    ),
]


@pytest.mark.parametrize(("name", "coefficients", "after_one", "after_two"), BY_HAND, ids=[row[0] for row in BY_HAND])
def test_first_two_steps_are_those_done_by_hand(
    name: str, coefficients: dict[str, float], after_one: float, after_two: float
) -> None:
    """The first two steps are the arithmetic of the published equations, to a few roundings."""
    optimizer = optimizers.create(name, **coefficients)  # type: ignore[arg-type] # numbers all
    theta, state, scratch = np.ones(1), optimizer.init(1, np.float64), np.empty(1)
    optimizer.update(theta, np.array([2.0]), state, 1, 0.1, scratch)
    assert theta[0] == pytest.approx(after_one, rel=1e-15)
    optimizer.update(theta, np.array([1.0]), state, 2, 0.1, scratch)
    assert theta[0] == pytest.approx(after_two, rel=1e-15)


def three_steps(name: str, dtype: str, n: int, cuts: list[int], seed: int) -> tuple[Array, State]:
    """Return θ (n,) and the state after three full steps, done block by block between the cuts."""
    optimizer = optimizers.create(name)
    draw = np.random.Generator(np.random.Philox(seed))
    theta = draw.standard_normal(n).astype(dtype)
    mask = (np.arange(n) < 3 * n // 4).astype(dtype)
    state = optimizer.init(n, dtype)
    bounds = [0, *sorted(cuts), n]
    for step in range(1, 4):
        gradient = draw.standard_normal(n).astype(dtype)
        for lo, hi in pairwise(bounds):
            block = slice(lo, hi)
            scratch = np.full(hi - lo, np.nan, dtype)
            optimizers.add_l2(gradient[block], theta[block], mask[block], 0.01, scratch)
            optimizers.decay(theta[block], mask[block], 0.1, 0.03, scratch)
            block_state = {slot: array[block] for slot, array in state.items()}
            optimizer.update(theta[block], gradient[block], block_state, step, 0.1, scratch)
    return theta, state


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(deadline=None)  # a loaded machine is not a failure
@given(data=st.data())
def test_cutting_the_vector_into_blocks_does_not_change_the_bits(name: str, dtype: str, data: st.DataObject) -> None:
    """Random cuts, empty blocks too, leave θ and every state array with the bytes of the whole vector's step."""
    n = data.draw(st.integers(0, 300))
    cuts = data.draw(st.lists(st.integers(0, n), max_size=5))
    seed = data.draw(st.integers(0, 1000))
    whole_theta, whole_state = three_steps(name, dtype, n, [], seed)
    theta, state = three_steps(name, dtype, n, cuts, seed)
    assert theta.tobytes() == whole_theta.tobytes()
    assert {slot: array.tobytes() for slot, array in state.items()} == {
        slot: array.tobytes() for slot, array in whole_state.items()
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_allocates_no_array(name: str) -> None:
    """A step on 64 Ki float32 elements, decay, L2 and NumPy scalars included, never holds even 4 KiB more."""
    n = 65536
    optimizer = optimizers.create(name)
    theta, gradient, mask, scratch = (np.ones(n, np.float32) for _ in range(4))
    state = optimizer.init(n, np.float32)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        optimizers.add_l2(gradient, theta, mask, 0.01, scratch)
        optimizers.decay(theta, mask, np.float64(0.1), 0.01, scratch)
        optimizer.update(theta, gradient, state, 3, np.float64(0.1), scratch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 4096


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_float32_step_is_computed_in_float32(name: str) -> None:
    """A float64 learning rate does not raise the arithmetic: the bits are those of a Python float's."""
    results = []
    for number in (float, np.float64):
        optimizer = optimizers.create(name)
        theta, gradient, scratch = np.ones(7, np.float32), np.linspace(-1, 1, 7, dtype=np.float32), np.empty(7, "f4")
        state, mask = optimizer.init(7, np.float32), np.ones(7, np.float32)
        optimizers.add_l2(gradient, theta, mask, number(0.01), scratch)
        optimizers.decay(theta, mask, number(0.1), number(0.07), scratch)
        optimizer.update(theta, gradient, state, 1, number(0.1), scratch)
        results.append(theta.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_init_gives_one_zeroed_array_per_slot(name: str) -> None:
    """The state before step 1 is zeros of the parameters' dtype, nothing but the slots."""
    optimizer = optimizers.create(name)
    state = optimizer.init(4, np.float32)
    assert tuple(state) == optimizer.slots
    assert all(array.tobytes() == bytes(16) for array in state.values())


def test_decay_and_l2_leave_biases_alone() -> None:
    """Where the mask is 0, θ and the gradient keep their bits; where it is 1, they change by the formula."""
    theta, gradient = np.array([3.0, -0.1, 0.7]), np.array([0.3, 0.2, 0.1])
    mask, scratch = np.array([1.0, 0, 1]), np.empty(3)
    found, summed = theta.copy(), gradient.copy()
    optimizers.add_l2(summed, theta, mask, 0.25, scratch)
    optimizers.decay(found, mask, 0.5, 0.25, scratch)
    assert found[1] == theta[1]
    assert summed[1] == gradient[1]
    np.testing.assert_allclose(found[[0, 2]], [2.625, 0.6125], rtol=1e-15)
    np.testing.assert_allclose(summed[[0, 2]], [1.05, 0.275], rtol=1e-15)


if __name__ == "__main__":
    version = importlib.import_module("torch").__version__
    for made in RUNS:
        print(version, made.name, made.torch_class, made.torch_arguments, tuple(run_torch(made)))
