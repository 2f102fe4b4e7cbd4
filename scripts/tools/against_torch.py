"""Train beside PyTorch in float64: `python scripts/tools/against_torch.py --runs 300`.

Each run is a network, data and settings drawn from (seed, number): every activation, loss, optimizer and schedule, with
L2, decoupled decay, clipping, label smoothing, sample weights and warm-up. It is trained here, on one to four simulated
ranks, and once more with PyTorch's autograd, losses, optimizers, schedulers and clipping, which share no line with this
program. After every step, loss and gradient norm must be equal but for rounding, and so must all parameters in the end.
Exit code 1 where they are not. `--replay NUMBER` repeats one run.
"""

# ruff: noqa: E402 - threads are settled before NumPy is imported

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddp_mlp.config import Config
from ddp_mlp.config.keys import ACTIVATIONS
from ddp_mlp.data.opening import data_of_arrays
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.nn.targets import LOSSES, Targets
from ddp_mlp.run_dir.saving import State
from ddp_mlp.training.in_memory import train_in_memory
from tests.simulated_mpi import World

TOLERANCE = 1e-11
"""Relative. Sums of at most 100 terms in two orders differ by 1e-14, a dozen steps of an optimizer that divides by its
own gradients may make more of it; a wrong term makes far more than this."""
Arrays = dict[str, NDArray[np.float64]]


class Run(NamedTuple):
    """What is trained twice."""

    keys: dict[str, Any]
    """Of the configuration."""
    targets: Targets
    X: NDArray[np.float64]
    y: NDArray[Any]
    """(m,) classes, or (m, n_T) numbers."""
    w: NDArray[np.float64] | None
    parameters: Arrays
    """At the start."""
    ranks: int


class Course(NamedTuple):
    """What came of it."""

    losses: list[float]
    """Of each step: the mean."""
    norms: list[float]
    parameters: Arrays


def draw(seed: int, number: int) -> Run:
    """Return the run of a number."""
    drawn, normal = random.Random(f"{seed} {number}"), np.random.default_rng([seed, number])
    loss, optimizer = (
        LOSSES[number % len(LOSSES)],
        drawn.choice(("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")),
    )
    m, count, features = drawn.randint(20, 90), drawn.randint(1, 3), drawn.randint(1, 12)
    hidden = tuple(drawn.choice((1, 2, 5, 8, 17, 32)) for _ in range(drawn.randint(0, 3)))
    names = tuple("abc"[:count])
    if loss == "cross_entropy":
        targets, y = Targets(classes=tuple("abcd")), normal.permutation(np.arange(m) % 4)
    else:
        levels = (0.1, 0.5, 0.9) if loss == "quantile" else ()
        targets, y = Targets(loss, (), names, (0.0,) * count, (1.0,) * count, levels), numbers(loss, normal, m, count)
    keys: dict[str, Any] = {
        "hidden": hidden,
        "activation": ",".join(drawn.choice(ACTIVATIONS) for _ in hidden) or "relu",
        "dtype": "float64",
        "loss": loss,
        "huber_delta": drawn.choice((0.3, 1.0)),
        "optimizer": optimizer,
        "learning_rate": drawn.choice((1e-3, 1e-2, 0.05)),
        "momentum": drawn.choice((0.5, 0.9)),
        "beta1": drawn.choice((0.8, 0.9)),
        "beta2": drawn.choice((0.95, 0.999)),
        "alpha": drawn.choice((0.9, 0.99)),
        "epsilon": drawn.choice((1e-8, 1e-4)),
        "weight_decay": drawn.choice((None, 0.1)) if optimizer == "adamw" else None,
        "l2": drawn.choice((0.0, 1e-2)),
        "clip_norm": drawn.choice((None, 0.5)),
        "label_smoothing": drawn.choice((0.0, 0.1)) if loss == "cross_entropy" else 0.0,
        "schedule": drawn.choice(("constant", "cosine", "step", "exponential")),
        "min_learning_rate": drawn.choice((0.0, 1e-4)),
        "decay": drawn.choice((0.5, 0.9)),
        "decay_every": 1,
        "warmup_steps": drawn.choice((0, 0, 3)),
        "batch_size": drawn.choice((7, 16, 33, "full")),
        "shards": drawn.choice((1, 3, 8)),
        "shuffle": "none",
        "epochs": 3,
        "max_steps": 12,
        "log_every": 1,
        "quiet": True,
        "stall_seconds": 0,
    }
    widths = (features, *hidden, targets.outputs)
    W = {f"W{l}": normal.standard_normal((n, k)) / math.sqrt(k) for l, (k, n) in enumerate(pairwise(widths), start=1)}
    b = {f"b{l}": 0.1 * normal.standard_normal(n) for l, n in enumerate(widths[1:], start=1)}
    w = normal.uniform(0.1, 2.0, m) if drawn.random() < 0.3 else None
    return Run(keys, targets, normal.standard_normal((m, features)), y, w, W | b, drawn.randint(1, 4))


def numbers(loss: str, normal: np.random.Generator, m: int, count: int) -> NDArray[np.float64]:
    """Return targets (m, count) that a loss may have."""
    if loss == "binary_cross_entropy":
        return normal.integers(0, 2, (m, count)).astype(np.float64)
    return (
        normal.poisson(2.0, (m, count)).astype(np.float64) if loss == "poisson" else normal.standard_normal((m, count))
    )


def here(run: Run) -> Course:
    """Train with this program."""
    features = run.X.shape[1]
    as_they_are = Standardization(np.zeros(features), np.ones(features), used=False)
    config = Config(**run.keys)
    data = data_of_arrays(run.X, run.y, run.w, run.targets, as_they_are, config)
    [trained, *_] = World(run.ranks, 1).run(
        lambda communicator: train_in_memory(config, data, communicator, State(run.parameters, None))
    )
    steps = [event for event in trained.events if event["event"] == "step"]
    arrays = {name: np.array(array) for name, array in trained.state.parameters.items()}
    return Course([step["loss"] for step in steps], [step["gradient_norm"] for step in steps], arrays)


def with_torch(run: Run) -> Course:
    """Train with PyTorch."""
    import torch

    keys, L = run.keys, len(run.parameters) // 2
    parameters = {name: torch.tensor(array, requires_grad=True) for name, array in run.parameters.items()}
    X, y = torch.tensor(run.X), torch.tensor(run.y)
    w = torch.ones(len(X), dtype=torch.float64) if run.w is None else torch.tensor(run.w)
    optimizer = optimizer_of(keys, parameters)
    size = len(X) if keys["batch_size"] == "full" else min(keys["batch_size"], len(X))
    rates = rates_of(keys, math.ceil(len(X) / size))
    losses, norms = [], []
    for rows in batches(len(X), size, keys):
        rate = next(rates)
        for group in optimizer.param_groups:
            group["lr"] = rate
        A = X[rows]
        for l in range(1, L + 1):
            A = torch.nn.functional.linear(A, parameters[f"W{l}"], parameters[f"b{l}"])
            if l < L:
                A = activated(keys["activation"].split(",")[l - 1], A)
        loss = (w[rows] * losses_of(keys, run.targets, A, y[rows])).sum() / w[rows].sum()
        penalty = sum(0.5 * keys["l2"] * (parameters[f"W{l}"] ** 2).sum() for l in range(1, L + 1))
        optimizer.zero_grad()
        (loss + penalty).backward()
        longest = math.inf if keys["clip_norm"] is None else keys["clip_norm"]
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), longest)))
        losses.append(float(loss.detach()))
        optimizer.step()
    return Course(losses, norms, {name: array.detach().numpy() for name, array in parameters.items()})


def batches(m: int, size: int, keys: dict[str, Any]) -> list[slice]:
    """Return the rows of every step, in the order of the data."""
    epoch = [slice(lo, min(lo + size, m)) for lo in range(0, m, size)]
    epochs, steps = keys["epochs"], keys["max_steps"]
    every: list[slice] = epoch * epochs
    return every[:steps]


def optimizer_of(keys: dict[str, Any], parameters: dict[str, Any]) -> Any:
    """Return PyTorch's optimizer; decoupled decay is for weights alone."""
    from torch import optim

    W, b = ([array for name, array in parameters.items() if name[0] == letter] for letter in "Wb")
    rate, betas = keys["learning_rate"], (keys["beta1"], keys["beta2"])
    name = keys["optimizer"]
    if name == "rmsprop":
        return optim.RMSprop([*W, *b], rate, alpha=keys["alpha"], eps=keys["epsilon"])
    if name == "adam":
        return optim.Adam([*W, *b], rate, betas, keys["epsilon"])
    if name == "adamw":
        decay: dict[str, Any] = {} if keys["weight_decay"] is None else {"weight_decay": keys["weight_decay"]}
        return optim.AdamW([{"params": W, **decay}, {"params": b, "weight_decay": 0.0}], rate, betas, keys["epsilon"])
    return optim.SGD([*W, *b], rate, momentum=0 if name == "sgd" else keys["momentum"], nesterov=name == "nesterov")


def rates_of(keys: dict[str, Any], steps_per_epoch: int) -> Iterator[float]:
    """Yield the learning rates of PyTorch's schedulers, behind a linear warm-up."""
    import torch
    from torch.optim import lr_scheduler

    warm, total, base = keys["warmup_steps"], keys["epochs"] * steps_per_epoch, keys["learning_rate"]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    schedulers: dict[str, Any] = {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, 1.0),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - warm), keys["min_learning_rate"]),
        "step": lambda: lr_scheduler.StepLR(optimizer, keys["decay_every"], keys["decay"]),
        "exponential": lambda: lr_scheduler.ExponentialLR(optimizer, keys["decay"] ** (1 / steps_per_epoch)),
    }
    scheduler, floor = schedulers[keys["schedule"]](), keys["min_learning_rate"]
    for step in range(1, total + 1):
        rate = scheduler.get_last_lr()[0]
        yield (rate if keys["schedule"] == "constant" else max(rate, floor)) * (min(1.0, step / warm) if warm else 1.0)
        if step % steps_per_epoch == 0 if keys["schedule"] == "step" else step > warm:
            optimizer.step()
            scheduler.step()


def activated(name: str, z: Any) -> Any:
    """Return PyTorch's activation of z."""
    import torch
    from torch.nn import functional

    if name in ("tanh", "sigmoid"):
        return getattr(torch, name)(z)
    return z if name == "identity" else getattr(functional, name)(z)


def losses_of(keys: dict[str, Any], targets: Targets, z: Any, y: Any) -> Any:
    """Return PyTorch's loss of every example (m,)."""
    import torch
    from torch.nn import functional

    name: str = keys["loss"]
    each: dict[str, Any] = {"reduction": "none"}
    if name == "cross_entropy":
        return functional.cross_entropy(z, y, label_smoothing=keys["label_smoothing"], **each)
    if name == "quantile":
        u = (y[:, :, None] - z.reshape(len(z), y.shape[1], -1)).flatten(1)
        q = torch.tensor(targets.quantiles * y.shape[1], dtype=torch.float64)
        return torch.maximum(q * u, (q - 1) * u).sum(1)
    found = {
        "binary_cross_entropy": lambda: functional.binary_cross_entropy_with_logits(z, y, **each),
        "squared_error": lambda: functional.mse_loss(z, y, **each) / 2,
        "poisson": lambda: functional.poisson_nll_loss(z, y, log_input=True, full=False, **each),
        "huber": lambda: functional.huber_loss(z, y, delta=keys["huber_delta"], **each),
        "absolute_error": lambda: functional.l1_loss(z, y, **each),
    }
    return found[name]().sum(1)


def distance(run: Run) -> float:
    """Return the largest relative difference of a run's losses, norms and parameters; of numbers below 1, absolute."""
    ours, theirs = here(run), with_torch(run)
    assert len(ours.losses) == len(theirs.losses) > 0
    assert list(ours.parameters) == sorted(theirs.parameters, key=list(ours.parameters).index)
    pairs: list[tuple[Any, Any]] = [(ours.losses, theirs.losses), (ours.norms, theirs.norms)]
    pairs += [(array, theirs.parameters[name]) for name, array in ours.parameters.items()]
    far = [np.abs(np.subtract(a, b)) / np.maximum(1.0, np.abs(b)) for a, b in pairs]
    return float(np.max([each.max() for each in far]))


def compare(seed: int, numbers: Sequence[int]) -> list[str]:
    """Train all runs twice, tell how far apart they came, and return those that are not equal but for rounding."""
    found, kinds, began, largest = [], Counter[str](), time.monotonic(), 0.0
    for number in numbers:
        run = draw(seed, number)
        far = distance(run)
        largest = max(largest, far) if math.isfinite(far) else math.inf
        kinds.update((run.keys["loss"], run.keys["optimizer"]))
        if not far <= TOLERANCE:
            found.append(f"run {number}: {far:.1e}")
            print(f"DIFFERENT: {found[-1]}\n  {run.keys}", flush=True)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(kinds.items()))
    seconds = time.monotonic() - began
    print(f"{len(numbers)} runs in {seconds:.0f} s, {len(found)} different, at most {largest:.1e} apart ({counted})")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=300, help="runs to compare (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=int, help="repeat the run of this number")
    asked = parser.parse_args(argv)
    numbers = range(asked.runs) if asked.replay is None else [asked.replay]
    return bool(compare(asked.seed, numbers))


if __name__ == "__main__":
    sys.exit(main())
