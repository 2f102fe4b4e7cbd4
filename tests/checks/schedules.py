"""What is asked of a step and of a run under a drawn schedule of simulated ranks: the bits of one process."""

import functools
import random
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.data.batches import Batch
from ddp_mlp.errors import Interrupted
from ddp_mlp.inference.evaluate import ForwardPass, evaluate
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.summing import proven
from ddp_mlp.summing.between import ExactSum, PlainSum
from ddp_mlp.training import loop
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.loop import take_step
from ddp_mlp.training.phases import Phases
from ddp_mlp.training.step import TrainingStep
from ddp_mlp.training.trainer import Trainer
from ddp_mlp.training.update import Regularization
from tests.oracles import write_data
from tests.reference import ArraySource, examples
from tests.simulated_mpi import Rank, World

F32 = np.dtype(np.float32)
WIDTHS = (24, 40, 30, 5)
"""2,400 parameters: three quanta, so that as many ranks of a node, or nodes, have a slice of their own."""
BATCHES = ([*range(0, 53)], [*range(30, 60)], [7, 3, 59], [1])
"""Row numbers: shards that differ by a row, then batches so short that shards are empty."""


class Model(NamedTuple):
    """What is trained: all that the bits may depend on."""

    K: int = 8
    optimizer: str = "adam"
    regularization: Regularization = Regularization()
    chunk_rows: int = 4096
    label_smoothing: float = 0.0


MODELS = (
    Model(),
    Model(K=7, optimizer="momentum", regularization=Regularization(dropout=0.3)),
    Model(K=5, optimizer="sgd", regularization=Regularization(clip_norm=0.1, l2=0.01)),
    Model(K=16, optimizer="adamw", regularization=Regularization(weight_decay=0.1), label_smoothing=0.1),
    Model(K=3, chunk_rows=6, regularization=Regularization(dropout=0.2, clip_norm=0.5)),
    Model(K=1, optimizer="nesterov"),
)


class PausingPhases(Phases):
    """The step's clock; at each phase, so also between the blocks of a slice, other ranks may go on."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self._rank = rank

    def enter(self, phase: str) -> None:
        """End the present phase and begin another, after any others."""
        self._rank.pause()
        super().enter(phase)


@functools.cache
def _proven(prove: Callable[..., Any], widths: Any, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return prove(Group(widths, sizes, dtype))


@pytest.fixture(autouse=True)
def proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove each shape once, not once a rank: the proof has its own tests."""
    prove = proven.shortcuts

    def once(group: Group) -> Any:
        widths = tuple(len(group.A[l].whole) for l in range(group.L + 1))
        return _proven(prove, widths, group.sizes, group.A[0].whole.dtype)

    monkeypatch.setattr(proven, "shortcuts", once)


def make_step(communicator: Communicator, model: Model, plain: bool = False, halving: bool = True) -> TrainingStep:
    """Return the step of a model at its first parameters."""
    layout = Layout(WIDTHS)
    X, y = examples(60, WIDTHS[0], WIDTHS[-1])
    reduction = (
        PlainSum(communicator, layout.length, F32)
        if plain
        else ExactSum(communicator, layout.length, F32, model.K, halving)
    )
    step = TrainingStep(
        communicator,
        Architecture(layout, output=SoftmaxCrossEntropy(model.label_smoothing)),
        reduction,
        ArraySource(X.astype(np.float32), y),
        optimizers.create(model.optimizer),
        model.regularization,
        dtype=F32,
        seed=0,
        chunk_rows=model.chunk_rows,
    )
    if isinstance(communicator, Rank):
        step.phases = PausingPhases(communicator)
    first = np.zeros(layout.length, F32)
    layout.initialize(first, 0)
    reduction.parameters[reduction.slice] = first[reduction.slice]
    reduction.publish()
    return step


def trained(communicator: Communicator, model: Model, plain: bool = False, halving: bool = True) -> list[Any]:
    """Train on the batches; return what came of each: the parameters' bytes and the step's figures, and a last look.

    The parameters are read before the rank comes to any other call, as a snapshot is.
    """
    found: list[Any] = []
    with communicator:
        step = make_step(communicator, model, plain, halving)
        for number, rows in enumerate(BATCHES, start=1):
            batch = Batch(0, number, np.array(rows))
            result = take_step(step, batch, 0.01, [communicator.rank], measure_norm=number == 2)
            signals = result.signals[:, 0].tolist()
            assert signals == [*range(communicator.size)], "each rank's word has reached all"
            found.append((step.reduction.parameters.tobytes(), result.totals, result.gradient_norm))
        found.append(
            evaluate(communicator, ForwardPass(step.architecture, step.reduction.parameters), step.source, None)
        )
    return found


@functools.cache
def alone(model: Model) -> list[Any]:
    """Train a model in one process."""
    return trained(SingleProcess(), model)


def draw(seed: int) -> tuple[World, Model, bool]:
    """Return a seed's ranks, its model, and whether sums between nodes may be formed by halving."""
    drawn = random.Random(seed)
    size = drawn.randint(2, 6)
    return World(size, seed, drawn.choice([None, 1, 2, 3])), drawn.choice(MODELS), drawn.random() < 0.5


def check(seed: int) -> World:
    """Train under a seed's schedule; every rank must see what one process sees, to the bit."""
    world, model, halving = draw(seed)
    outcomes = world.run(lambda communicator: trained(communicator, model, halving=halving))
    for rank, outcome in enumerate(outcomes):
        assert outcome == alone(model), f"rank {rank} of {world.name}, {model}: not the bits of one process"
    return world


RUN: dict[str, Any] = {"hidden": [9], "batch_size": 50, "epochs": 3, "dropout": 0.2, "stall_seconds": 0, "quiet": True}
"""203 rows in batches of 50: 15 steps. The watchdog's thread keeps the machine's time, not the schedule's."""


def run_once(world: World, run_dir: Path, signalled: tuple[int, int] | None = None) -> str:
    """Train in a world as the command does, and return the hash; with (rank, step), SIGTERM comes to it before that."""
    words_to_all = Trainer.words_to_all

    def with_signal(run: Trainer, signals: Interruption) -> Any:
        if signalled == (run.communicator.rank, run.progress.step + 1):
            signals.signal = SIGTERM
        return words_to_all(run, signals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "words_to_all", with_signal)
        config = Config(data=str(run_dir.parent / "data.h5"), run_dir=str(run_dir), shards=8, **RUN)
        (found,) = {final["parameters_sha256"] for final in world.run(lambda ranks: loop.train(config, ranks))}
    return str(found)


def check_run(seed: int, folder: Path) -> None:
    """Interrupt a run on one number of ranks and finish it on another: it must end as the one of a process does."""
    if not (folder / "data.h5").exists():
        write_data(folder / "data.h5", {"train": 203, "valid": 61})
    whole = run_once(World(1, 0), folder / "alone")
    drawn, parts = random.Random(seed), folder / str(seed)
    first, second = (World(drawn.randint(2, 4), seed + i, drawn.choice([None, 1, 2])) for i in range(2))
    stop = drawn.randrange(len(first.ranks)), drawn.randint(1, 14)
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {stop[1]};"):
        run_once(first, parts, stop)
    assert run_once(second, parts) == whole, f"{first.name} until rank and step {stop}, then {second.name}"
