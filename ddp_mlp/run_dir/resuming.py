"""Where a run begins: at its newest checkpoint, at one that is named, at given parameters, or anew.

Only rank 0 looks at the files; the others hear of it by broadcast. What a run goes on from has to be its own: the same
configuration where that decides the bits, the same data, arrays of the right shapes.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.data.opening import Data, given_weights
from ddp_mlp.data.targets import names_of
from ddp_mlp.errors import ConfigError, DataError, EnvironmentMismatch
from ddp_mlp.nn import optimizers
from ddp_mlp.nn.schedules import Patience
from ddp_mlp.nn.targets import OWN_FUNCTIONS, Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.journal import JOURNAL
from ddp_mlp.run_dir.saving import State
from ddp_mlp.storage import checkpoints, weights
from ddp_mlp.storage.atomic import sweep
from ddp_mlp.storage.checkpoint import Checkpoint
from ddp_mlp.storage.checkpoints import Newest
from ddp_mlp.summing.tree import automatic_shards
from ddp_mlp.units import counted


class Start(NamedTuple):
    """Where a run begins; the same on every rank."""

    config: Config
    """Resolved: what was `auto` is chosen."""
    run_dir: Path
    progress: dict[str, Any] | None
    """That of the checkpoint to continue from; None for a new run."""
    resumed_from: str | None
    """The checkpoint's file name."""
    warnings: list[str]
    is_given_a_state: bool = False
    """Whether parameters come from a file; else they are drawn."""
    journal_bytes: int = 0
    """The journal's length when that checkpoint was saved."""
    kernels: tuple[str, ...] = ()
    """Those that have computed the run, where they are several."""


def open_run(
    config: Config, data: Data, arithmetic: Mapping[str, str], communicator: Communicator
) -> tuple[Start, State | None]:
    """Settle what the run resumes from or starts from, in its claimed folder; the state itself comes to rank 0 alone.

    Collective. `arithmetic` is what this machine computes with, by name. Raises ConfigError, DataError, StorageError or
    EnvironmentMismatch on all ranks.
    """
    found: list[State] = []
    start = communicator.on_rank_0(_open_run, config, data, arithmetic, communicator.size, found)
    return start, (found[0] if found else None)


def _open_run(config: Config, data: Data, arithmetic: Mapping[str, str], size: int, found: list[State]) -> Start:
    assert config.run_dir is not None, "claimed"
    run_dir = Path(config.run_dir)
    newest = _find_checkpoint(config, run_dir)
    if newest is None:
        shards = config.shards
        if shards == "auto" and config.arithmetic == "native":  # the portable one has none
            shards = automatic_shards(size)
        if config.init_from is not None:
            found.append(State(_starting_parameters(config, data), None))
        settled: dict[str, Any] = {"shards": shards, "loss": data.targets.loss, "standardize": data.standardize}
        resolved = replace(config, **settled)
        return Start(resolved, run_dir, None, None, [], is_given_a_state=config.init_from is not None)

    checkpoint, path, passed_over = newest
    try:
        stored = configuration.from_dict({"loss": "cross_entropy", **checkpoint.config})  # 0.1 had no other
    except ConfigError as error:
        raise DataError(f"{path}: its configuration is not one of this version: {error}") from error
    if difference := configuration.first_difference(stored, config):
        name, before, now = difference
        raise ConfigError(
            f"{name} = {now}, but the run of {path} has {name} = {before}: keep it, or choose another run_dir"
        )
    if stored.loss != data.targets.loss:
        raise ConfigError(
            f"loss = auto is {data.targets.loss} here, but the run of {path} has loss = {stored.loss}: set it, or "
            "choose another run_dir"
        )
    for split in {**checkpoint.data, **data.fingerprint}:
        if checkpoint.data.get(split) != data.fingerprint.get(split):
            raise DataError(
                f"{config.data}: its {split} is not what the run of {path} has been trained with: "
                "put that file back, or choose another run_dir"
            )
    _check_names(checkpoint, path, data)
    _check_arrays(checkpoint, path, stored, data)
    kernels = _kernels(checkpoint, path, arithmetic, config.resume_override)
    found.append(State(checkpoint.parameters, checkpoint.optimizer))
    warnings = [f"{reason}; going on from {path.name}" for _, reason in passed_over]
    if kernels:
        warnings.append(f"the bits of this run are of several kernels: {'; '.join(kernels)}")
    resolved = replace(config, shards=stored.shards, loss=stored.loss, standardize=data.standardize)
    progress = dict(checkpoint.progress)
    journal_bytes = progress.pop("journal_bytes", None)
    if type(journal_bytes) is not int or journal_bytes < 0:
        raise DataError(f"the checkpoint's progress is not that of a run: {str(checkpoint.progress)[:200]}")
    if path.parent == run_dir / "checkpoints":
        return Start(resolved, run_dir, progress, path.name, warnings, True, journal_bytes, kernels)
    # Another folder's journal and best checkpoint stay there: the best so far counts from here.
    progress["best"] = asdict(Patience())
    return Start(resolved, run_dir, progress, str(path.resolve()), warnings, True, kernels=kernels)


def _kernels(checkpoint: Checkpoint, path: Path, arithmetic: Mapping[str, str], override: bool) -> tuple[str, ...]:
    """Return the kernels that have computed the run, this machine's among them, where they are several; else none.

    Raises EnvironmentMismatch where a run would go on with another kernel than its own, and nothing allows that.
    """
    earlier = tuple(map(str, checkpoint.versions.get("kernels", ())))
    for name, now in arithmetic.items():
        before = str(checkpoint.versions.get(name, now)).split("; ")[0]  # 0.1 named other libraries, too
        if before != now:
            if not override:
                raise EnvironmentMismatch(
                    f"{name} is {now} here, but {before} where {path} was computed, and the bits differ: "
                    "resume on such a machine, with the same software, or set resume_override"
                )
            return tuple(dict.fromkeys((*(earlier or (_in_words(checkpoint.versions),)), _in_words(arithmetic))))
    return earlier


def _in_words(arithmetic: Mapping[str, Any]) -> str:
    """Return what computes in a few words."""
    named = {"BLAS kernel": "", "numpy": "NumPy ", "vector instructions": "", "libm": ""}
    return ", ".join(f"{before}{arithmetic[name]}" for name, before in named.items() if name in arithmetic)


def _find_checkpoint(config: Config, run_dir: Path) -> Newest | None:
    """Return the checkpoint to go on from: the newest of run_dir, else the one that `resume` names, else None."""
    folder, journal = run_dir / "checkpoints", run_dir / JOURNAL
    used = any(folder.glob("*.h5")) or (journal.exists() and journal.stat().st_size > 0)
    if config.resume == "never" and used:
        raise ConfigError(f"resume = never, but {run_dir} has been used: choose another run_dir")
    sweep(folder)
    sweep(run_dir)
    found = checkpoints.to_go_on_from(str(run_dir), config.resume)
    asked = Path(config.resume)
    if found is None or config.resume in ("auto", "never"):
        return found
    if asked.resolve().parent == folder.resolve() and asked.name != found.path.name:
        raise ConfigError(
            f"resume = {asked}, but {run_dir} has gone on to {found.path.name}: choose another run_dir to go back"
        )
    return found


def _check_names(checkpoint: Checkpoint, path: Path, data: Data) -> None:
    """Raise DataError where the data call classes, features or targets otherwise than the run has learnt them."""
    known, found = checkpoint.inputs.get("features"), data.inputs.get("features")
    unnamed = list(names_of(replace(data.info, targets=None)))
    targets = list((checkpoint.targets or {}).get("names", unnamed))
    for what, before, now in (
        ("classes", list(checkpoint.classes), list(data.classes)),
        ("features", known, found),
        (
            "targets",
            None if targets == unnamed else targets,
            None if data.info.targets is None else [*data.info.targets],
        ),
    ):
        if before is not None and now is not None and before != now:
            first = next((pair for pair in zip(before, now, strict=False) if pair[0] != pair[1]), (before, now))
            raise DataError(
                f"{data.info.path}: its {what} are not those of the run of {path}, which has {first[0]!r} where the "
                f"data have {first[1]!r}: put that file back, or choose another run_dir"
            )


def _check_arrays(checkpoint: Checkpoint, path: Path, config: Config, data: Data) -> None:
    """Raise DataError unless parameters and optimizer state have the names, shapes and dtype of the configuration."""
    widths = (data.info.features, *config.hidden, data.targets.outputs)
    found, dtype = weights.widths(checkpoint.parameters), checkpoint.parameters["W1"].dtype
    if found != widths or dtype != config.dtype:
        network = "-".join(map(str, widths))
        raise DataError(
            f"{path}: holds a network {'-'.join(map(str, found))} of {dtype}, but its configuration and the data say "
            f"{network} of {config.dtype}: remove it, or put an intact copy in its place"
        )
    slots = sorted(optimizers.create(config.optimizer).slots)
    if sorted(checkpoint.optimizer) != slots:
        raise DataError(
            f"{path}: holds the optimizer state {sorted(checkpoint.optimizer)}, but {config.optimizer} has {slots}: "
            "remove it, or put an intact copy in its place"
        )


def _starting_parameters(config: Config, data: Data) -> dict[str, NDArray[Any]]:
    """Return the parameters of the file init_from, checked against the network that is asked for."""
    assert config.init_from is not None, "asked by the caller"
    read = given_weights(config, data.targets.classes or None, data.info)
    found = read.parameters
    _check_outputs(config, read, data.targets)
    for name, function in (read.functions or {}).items():
        if function != getattr(config, name):
            raise ConfigError(f"{name} = {getattr(config, name)}, but init_from = {config.init_from} has {function}")
    widths = (data.info.features, *config.hidden, data.targets.outputs)
    if (given := weights.widths(found)) != widths:
        raise ConfigError(
            f"init_from = {config.init_from}: a network {'-'.join(map(str, given))}, but features, hidden and outputs "
            f"ask for {'-'.join(map(str, widths))}: choose hidden, or another file"
        )
    return found


def _check_outputs(config: Config, read: weights.StoredNetwork, targets: Targets) -> None:
    """Raise ConfigError where the outputs of the file init_from are known to stand for something else."""
    given = Targets(classes=read.classes) if read.targets is None and read.classes else read.targets
    if given is None:
        return
    if OWN_FUNCTIONS.get(given.loss) != OWN_FUNCTIONS.get(targets.loss):
        raise ConfigError(
            f"loss = {targets.loss}, but init_from = {config.init_from} was trained with loss = {given.loss}: its "
            "outputs stand for something else; choose a loss of its kind, or another file"
        )
    if given.count != targets.count:
        raise ConfigError(
            f"init_from = {config.init_from}: has {counted(given.count, 'target')}, but the data have {targets.count}: "
            "choose another file"
        )
