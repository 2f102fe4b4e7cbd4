"""The parts of a trainer, built from a configuration and data: step, batches, schedule; and the trainer.

Collective, unless it says local.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.data.batches import Batches, Source
from ddp_mlp.data.opening import Data, Rows, make_batches
from ddp_mlp.errors import ConfigError, DataError, by_all_ranks
from ddp_mlp.inference.metrics import check_monitor
from ddp_mlp.nn import architecture, optimizers, schedules
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.schedules import Schedule
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.journal import utc_now
from ddp_mlp.summing import tree
from ddp_mlp.summing.between import ExactSum, PlainSum
from ddp_mlp.training.machine import Machine, agree_on_products
from ddp_mlp.training.outputs import Outputs
from ddp_mlp.training.portable_step import PortableStep, portable_sum
from ddp_mlp.training.progress import Progress
from ddp_mlp.training.saving_rules import SavingRule
from ddp_mlp.training.step import Step, TrainingStep
from ddp_mlp.training.trainer import Trainer
from ddp_mlp.training.update import Regularization
from ddp_mlp.training.watchdog import Watchdog


def build_batches(
    config: Config, data: Data, communicator: Communicator, progress: Progress, earlier: tuple[int, int] = (0, 0)
) -> Batches:
    """Return the batches of the rows to train on, for a run that is as far as `progress` says.

    `earlier` are the epochs and steps that its parameters have seen with other data. Raises DataError on all ranks.
    """
    source, rows = data.train
    batches = make_batches(
        communicator,
        source,
        source.m if rows is None else rows,
        batch_size=source.m if config.batch_size == "full" else config.batch_size,
        seed=config.seed,
        shuffle=config.shuffle,
        block_rows=config.block_rows,
        arithmetic=arithmetics.called(config.arithmetic),
        earlier=earlier,
    )
    if not 0 <= progress.step - progress.epoch * batches.steps_per_epoch < batches.steps_per_epoch:
        cursor = f"step {progress.step} is not in epoch {progress.epoch + 1}"
        raise by_all_ranks(DataError(f"the checkpoint's progress is not that of this run: {cursor}"))
    return batches


def build_step(config: Config, data: Data, communicator: Communicator) -> Step:
    """Return the step of a network for these data, its parameters all zeros; `config.shards` is resolved."""
    network, dtype = architecture_of(config, data), np.dtype(config.dtype)
    arithmetic = arithmetics.called(config.arithmetic)
    coefficients = {name: getattr(config, name) for name in ("momentum", "beta1", "beta2", "alpha", "epsilon")}
    optimizer = optimizers.create(config.optimizer, **coefficients, power=arithmetic.power)
    decay = optimizer.default_weight_decay if config.weight_decay is None else config.weight_decay
    regularization = Regularization(config.l2, decay, config.clip_norm, config.dropout)
    if arithmetic.is_portable:
        return PortableStep(
            communicator,
            network,
            portable_sum(communicator, network.layout.length),
            data.train[0],
            optimizer,
            regularization,
            seed=config.seed,
            chunk_rows=config.chunk_rows,
            trace=config.trace is not None,
        )
    if config.reduction == "exact":
        assert isinstance(config.shards, int), "resolved before"
        reduction: ExactSum | PlainSum = ExactSum(communicator, network.layout.length, dtype, config.shards)
    else:
        reduction = PlainSum(communicator, network.layout.length, dtype)
    agree_on_products(network.layout.widths, _shard_sizes(config, data, reduction.K), dtype, communicator)
    return TrainingStep(
        communicator,
        network,
        reduction,
        data.train[0],
        optimizer,
        regularization,
        dtype=dtype,
        seed=config.seed,
        chunk_rows=config.chunk_rows,
        trace=config.trace is not None,
    )


def _shard_sizes(config: Config, data: Data, K: int) -> tuple[int, ...]:
    """Return how many examples shards of a whole batch have, or their chunks. Local."""
    source, rows = data.train
    count = source.m if rows is None else len(rows)
    m = count if config.batch_size == "full" else min(config.batch_size, count)
    sizes = {min(config.chunk_rows, len(tree.rows((shard, shard + 1), m, K))) for shard in range(K)}
    return tuple(sorted(sizes - {0}))


def build_trainer(
    config: Config,
    data: Data,
    step: Step,
    batches: Batches,
    outputs: Outputs,
    *,
    progress: Progress,
    saving: SavingRule,
    watchdog: Watchdog,
    resumed: bool = False,
    kernels: Sequence[str] = (),
) -> Trainer:
    """Return a trainer of these parts, the configuration's schedule and the splits that are held out. Local."""
    return Trainer(
        step,
        batches,
        _schedule(config),
        outputs,
        config=config,
        progress=progress,
        held_out=held_out(data),
        saving=saving,
        watchdog=watchdog,
        resumed=resumed,
        targets=data.targets,
        kernels=kernels,
    )


def _schedule(config: Config) -> Schedule:
    """Return the learning rate's schedule. Local."""
    return schedules.create(
        config.schedule,
        learning_rate=config.learning_rate,
        min_learning_rate=config.min_learning_rate,
        decay=config.decay,
        decay_every=config.decay_every,
        warmup_steps=config.warmup_steps,
        arithmetic=arithmetics.called(config.arithmetic),
    )


def held_out(data: Data) -> dict[str, tuple[Source, Rows]]:
    """Return the splits that are evaluated, "valid" and "test", as far as there are such. Local."""
    return {name: part for name, part in (("valid", data.valid), ("test", data.test)) if part is not None}


def architecture_of(config: Config, data: Data) -> Architecture:
    """Return the network that a configuration asks for. Local."""
    return architecture.create(
        data.info.features,
        config.hidden,
        data.targets,
        activation=config.activation,
        output_activation=config.output_activation,
        label_smoothing=config.label_smoothing,
        huber_delta=config.huber_delta,
        factor=data.factor,
        weight=data.weight,
    )


def check_validation_data(config: Config, data: Data) -> None:
    """Raise ConfigError on all ranks where an option needs data to validate on, or a figure, and there is none."""
    needs = {
        "patience": config.patience is not None,
        "schedule = plateau": config.schedule == "plateau",
        "restore_best": config.restore_best,
    }
    for name, asked in needs.items():
        if asked and data.valid is None and config.monitor != "train_loss":
            raise by_all_ranks(
                ConfigError(f"{name}: needs validation data: a group valid in {config.data}, or valid_fraction")
            )
    try:
        check_monitor(config.monitor, data.targets)
    except ConfigError as error:
        raise by_all_ranks(error) from None


def start_values(config: Config, data: Data, machine: Machine, trainer: Trainer) -> dict[str, Any]:
    """Return what a run's start event says of it. Local."""
    communicator, step, batches = trainer.communicator, trainer.step, trainer.batches
    rows = {"train": batches.m}
    rows |= {name: source.m if chosen is None else len(chosen) for name, (source, chosen) in held_out(data).items()}
    return {
        "time": utc_now(),
        "config": configuration.to_dict(config),
        "data": {
            "path": data.info.path,
            "rows": rows,
            "features": data.info.features,
            **({"classes": len(data.classes)} if data.classes else {"targets": list(data.targets.names)}),
            **({"notes": list(data.notes)} if data.notes else {}),
            **({"check": data.check} if data.check else {}),
            **({"weighted": True} if data.info.splits["train"].weighted else {}),
            **({} if data.access is None else {"access": data.access._asdict()}),
        },
        "fingerprint": data.fingerprint,
        "parameters": step.layout.count,
        "outputs": step.layout.widths[-1],
        "steps_per_epoch": batches.steps_per_epoch,
        "total_steps": min(trainer.total_steps, config.max_steps or trainer.total_steps),
        "ranks": communicator.size,
        "nodes": len(communicator.nodes),
        "shards": min(step.reduction.K, batches.batch_size) if step.arithmetic.is_portable else step.reduction.K,
        "hosts": sorted(set(machine.hosts)),
        "versions": machine.versions,
        "blas": machine.kernel,
        **({} if machine.crowd is None else {"crowded": machine.crowd}),
    }
