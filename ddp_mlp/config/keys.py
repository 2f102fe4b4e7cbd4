"""The keys of a run: each one's meaning, default and limits, and whether a resumed run may change it."""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_type_hints

from ddp_mlp.config.values import check, parse_interval, reject, show
from ddp_mlp.errors import ConfigError

T = TypeVar("T")


ACTIVATIONS = ("relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus", "gelu", "silu", "identity")
"""What hidden layers may be, as `nn/activations.py` has it."""
OUTPUT_ACTIVATIONS = ("identity", "softplus", "relu")
METRICS = (
    *("loss", "accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision"),
    *("rmse", "mae", "r2", "deviance", "coverage_error"),
)
"""What `monitor` may watch on the validation data, as `inference/metrics.py` has it, before ":" and a target's name."""


def key(default: T, resume: Literal["fixed", "override", "free"] = "fixed", **limits: float) -> T:
    """Declare a key, the limits of its numbers (names as in `LIMITS`), and whether a resumed run may change it.

    "fixed" keys decide the bits of the run and never change, "override" ones only with `resume_override`.
    """
    field: T = dataclasses.field(default=default, metadata={"limits": limits, "resume": resume})
    return field


FREE_IF_PORTABLE = ("threads",)
"""Keys that decide no bits where arithmetic = portable."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What one run does.

    Data:
      data: HDF5 file with the group train and, if wanted, valid and test; a pattern in quotes is several files as one
      valid_data: file or pattern of the validation rows, where they are in files of their own
      test_data: file or pattern of the test rows, likewise
      x_name: data set of each group that holds the features, one row per example; several side by side as T,q,ps
      y_name: data set of each group that holds the labels, one class number per row, or numbers (rows, targets)
      valid_fraction: share of train held out for validation where the file has no valid; 0 is none
      standardize: mean 0, deviation 1 on train: each feature, or all as one (global); auto by feature_shape of the file
      standardize_targets: the same for numbers to be predicted, undone wherever they come out
      missing_targets: take NaN in y for a number that was not observed; if false, it is refused
      access: hold the data in memory, one copy per node, or stream it from the file; auto decides by size
      check: at a resume, look at every row again (full), or at what tells of a change and at a sample (auto)
      shuffle: new order in every epoch of all rows, of blocks of rows, or the file's order
      block_rows: rows per block, for shuffling by blocks and for reading

    Network:
      hidden: widths of the hidden layers, as [128,64] or 128,64; [] is none: softmax or linear regression
      activation: of the hidden layers, one for all or one each: relu, leaky_relu, elu, tanh, sigmoid, softplus, gelu, …
      output_activation: of numbers that are never negative, one for all or one each: identity, softplus, relu
      dtype: number type of the parameters
      init_from: start from the weights in this .safetensors, .npz or checkpoint file; if not given, from random ones

    Optimisation:
      loss: what is minimised; auto is cross_entropy for class numbers, squared_error for other numbers
      huber_delta: where the loss huber turns from squares to absolute values, in standard deviations of the target
      quantiles: levels that the loss quantile predicts, one output each for every target
      target_weight: weight of each target in the loss, as {"T": 2, "p": 1}; 1 where none is given
      epochs: passes over train
      max_steps: end after this many steps; null is no limit
      max_seconds: stop this many seconds after the start, with a checkpoint to go on from; null is no limit
      batch_size: examples per step over all ranks; full is plain gradient descent
      optimizer: update rule
      learning_rate: step size, never scaled by the number of ranks
      schedule: course of the learning rate over all epochs, wherever max_steps ends them
      warmup_steps: steps in which the learning rate rises linearly from 0
      decay: factor on the learning rate at each step or plateau, or in each epoch of the schedule exponential
      decay_every: epochs between two decays, for the schedule step
      plateau_patience: epochs without improvement before a decay, for the schedule plateau
      min_learning_rate: floor of all schedules but constant
      momentum: momentum of momentum and nesterov
      beta1: decay rate of the mean gradient of adam and adamw
      beta2: decay rate of the mean squared gradient of adam and adamw
      alpha: decay rate of the mean squared gradient of rmsprop
      epsilon: added to the denominator of adam, adamw and rmsprop
      seed: decides initial weights, order and dropout

    Regularisation:
      l2: adds half of this times the sum of squared weights to the loss; biases are left alone
      weight_decay: decoupled weight decay of adamw, times the learning rate; if not given, 0.01
      clip_norm: longest global gradient; null is unclipped
      dropout: share of hidden activations dropped
      label_smoothing: share of each target spread evenly over the classes
      class_weight: weight of each class in the loss, as {"cat": 2, "dog": 1}; balanced is inverse frequency
      patience: end after this many epochs without improvement; null is never
      min_delta: least change of the monitored figure that counts as improvement
      monitor: figure watched by patience, by the schedule plateau and for the best checkpoint, such as valid_rmse
      restore_best: finish with the best parameters instead of the last

    Run:
      run_dir: folder for all that the run writes; if not given, runs/DATA-TIME
      checkpoint_every: steps between checkpoints, or such as "2 epochs" or "600 seconds"
      keep: newest checkpoints kept
      resume: continue what is in run_dir (auto), refuse a used one (never), or PATH of a checkpoint to begin with
      resume_override: let a resumed run change the learning rate, or go on with another kernel, which its journal tells
      on_save_error: what to do when a checkpoint cannot be written
      log_every: steps between step events in metrics.jsonl; 0 is none
      tensorboard: write TensorBoard event files too, to tensorboard in run_dir
      private: let nobody else read what the run writes; if not given, the umask decides
      trace: write what each rank did when to this file, for chrome://tracing or Perfetto
      describe: show what would be trained, and end
      teach: work one step of a tiny network through in words, rank by rank, and end
      quiet: no progress on the terminal
      debug: show tracebacks

    Machine:
      arithmetic: native, fast, the same bits on one kind of processor; or portable, the same bits on any machine
      blas: library of the matrix products: numpy is NumPy's own, mkl Intel's, or PATH; auto is mkl on Intel processors
      shards: fixed pieces of every batch, the unit of work; auto is max(8, smallest power of two >= ranks)
      chunk_rows: most rows of a shard computed at once
      reduction: sum gradients in a fixed order (exact), or with plain MPI (allreduce: equal only to rounding)
      threads: BLAS threads per rank
      shared_memory: auto lets the ranks of a node share arrays, in /dev/shm or in files; off gives each rank its own
      stall_seconds: end the run when a step, or waiting for another rank, takes longer; 0 is never
    """

    data: str = key("data/digits.h5", resume="free")  # comes with the program: `storage.patterns.DIGITS`
    valid_data: str | None = key(None, resume="free")
    test_data: str | None = key(None, resume="free")
    x_name: str = key("X")
    y_name: str = key("y")
    valid_fraction: float = key(0.0, at_least=0, below=1)
    standardize: Literal["auto", "features", "global", "none"] | bool = key("auto")
    standardize_targets: bool = key(True)
    missing_targets: bool = key(False)
    access: Literal["auto", "memory", "stream"] = key("auto", resume="free")
    check: Literal["auto", "full"] = key("auto", resume="free")
    shuffle: Literal["rows", "blocks", "none"] = key("rows")
    block_rows: int = key(1024, at_least=1)

    hidden: tuple[int, ...] = key((128, 64), at_least=1)
    activation: str = key("relu")
    output_activation: str = key("identity")
    dtype: Literal["float32", "float64"] = key("float32")
    init_from: str | None = key(None)

    loss: Literal[
        "auto",
        "cross_entropy",
        "binary_cross_entropy",
        "squared_error",
        "poisson",
        "huber",
        "absolute_error",
        "quantile",
    ] = key("auto")
    huber_delta: float = key(1.0, above=0)
    quantiles: tuple[float, ...] = key((0.1, 0.5, 0.9), above=0, below=1)
    target_weight: Mapping[str, float] | None = key(None, at_least=0)
    epochs: int = key(30, at_least=0, resume="free")
    max_steps: int | None = key(None, at_least=0, resume="free")
    max_seconds: float | None = key(None, above=0, resume="free")
    batch_size: int | Literal["full"] = key(128, at_least=1)
    optimizer: Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"] = key("adam")
    learning_rate: float = key(3e-3, above=0, resume="override")
    schedule: Literal["constant", "cosine", "step", "exponential", "plateau"] = key("constant")
    warmup_steps: int = key(0, at_least=0)
    decay: float = key(0.5, above=0, at_most=1)
    decay_every: int = key(10, at_least=1)
    plateau_patience: int = key(5, at_least=1)
    min_learning_rate: float = key(0.0, at_least=0)
    momentum: float = key(0.9, at_least=0, below=1)
    beta1: float = key(0.9, at_least=0, below=1)
    beta2: float = key(0.999, at_least=0, below=1)
    alpha: float = key(0.99, at_least=0, below=1)
    epsilon: float = key(1e-8, above=0)
    seed: int = key(0, at_least=0, below=2**63)

    l2: float = key(0.0, at_least=0)
    weight_decay: float | None = key(None, at_least=0)
    clip_norm: float | None = key(None, above=0)
    dropout: float = key(0.0, at_least=0, below=1)
    label_smoothing: float = key(0.0, at_least=0, below=1)
    class_weight: Mapping[str, float] | Literal["balanced"] | None = key(None, at_least=0)
    patience: int | None = key(None, at_least=1, resume="free")
    min_delta: float = key(0.0, at_least=0)
    monitor: str = key("valid_loss")
    restore_best: bool = key(False, resume="free")

    run_dir: str | None = key(None, resume="free")
    checkpoint_every: int | str = key("60 seconds", resume="free")
    keep: int = key(3, at_least=1, resume="free")
    resume: str = key("auto", resume="free")
    resume_override: bool = key(False, resume="free")
    on_save_error: Literal["stop", "continue"] = key("stop", resume="free")
    log_every: int = key(50, at_least=0, resume="free")
    tensorboard: bool = key(False, resume="free")
    private: bool = key(False, resume="free")
    trace: str | None = key(None, resume="free")
    describe: bool = key(False, resume="free")
    teach: bool = key(False, resume="free")
    quiet: bool = key(False, resume="free")
    debug: bool = key(False, resume="free")

    arithmetic: Literal["native", "portable"] = key("native")
    blas: str = key("numpy")
    shards: int | Literal["auto"] = key("auto", at_least=1, at_most=2**20)
    chunk_rows: int = key(4096, at_least=1)
    reduction: Literal["exact", "allreduce"] = key("exact")
    threads: int = key(1, at_least=1)
    shared_memory: Literal["auto", "off"] = key("auto", resume="free")
    stall_seconds: float = key(300.0, at_least=0, resume="free")

    def __post_init__(self) -> None:
        """Cast each value to its key's type and check it; raises `ConfigError`."""
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) is not field.default:  # those are as they should be
                object.__setattr__(self, field.name, check_key(field.name, value))
        parse_interval(self.checkpoint_every)
        floor, rate = self.min_learning_rate, self.learning_rate
        if floor > rate:
            reject("min_learning_rate", floor, f"must be at most learning_rate, which is {rate}")
        if self.weight_decay and self.optimizer != "adamw":
            reject("weight_decay", self.weight_decay, f"needs optimizer = adamw; for {self.optimizer} there is l2")
        if self.arithmetic == "portable":
            if self.dtype != "float32":
                reject("dtype", self.dtype, "arithmetic = portable has float32 parameters: its exact sums take float64")
            if self.shards != "auto":
                reject("shards", self.shards, "arithmetic = portable has none: its sums are exact in any order")
            if self.blas not in ("auto", "numpy"):
                reject("blas", self.blas, "arithmetic = portable takes NumPy's own: its bits depend on no library")
            if self.reduction != "exact":
                reject("reduction", self.reduction, "arithmetic = portable has sums of its own, exact in any order")
        self._check_names("activation", ACTIVATIONS, len(self.hidden), "hidden layer")
        self._check_names("output_activation", OUTPUT_ACTIVATIONS, None, "target")
        watched = self.monitor.split(":")[0]
        if watched not in ("train_loss", *(f"valid_{name}" for name in METRICS)):
            known = ", ".join(f"valid_{name}" for name in METRICS)
            reject("monitor", self.monitor, f'must be train_loss or one of {known}, or such as "valid_rmse:NAME"')
        if list(self.quantiles) != sorted(set(self.quantiles)) or not self.quantiles:
            reject("quantiles", self.quantiles, "must be levels in ascending order, such as [0.1, 0.5, 0.9]")

    def _check_names(self, name: str, known: tuple[str, ...], count: int | None, of_what: str) -> None:
        """Check a key that is one name for all, or with commas one each."""
        value = getattr(self, name)
        names = [word.strip() for word in value.split(",")]
        if not set(names) <= set(known):
            reject(name, value, f"must be one or more of {', '.join(known)}")
        if count is not None and len(names) not in (1, count):
            reject(name, value, f"must be one for all, or one for each of {count} {of_what}{'s' if count > 1 else ''}")


def check_key(name: str, value: Any) -> Any:
    """Return the value as the type of the key `name`, within its limits. Raises ConfigError."""
    return check(name, value, hints()[name], Config.__dataclass_fields__[name].metadata["limits"])


@functools.cache
def hints() -> dict[str, Any]:
    """Return the annotation of each key."""
    return get_type_hints(Config)


def unknown_key(name: Any) -> ConfigError:
    """Return the error of a key that is none, with the nearest one."""
    near = difflib.get_close_matches(str(name), hints(), n=1)
    return ConfigError(f'unknown key "{show(name)}": ' + (f"did you mean {near[0]}?" if near else "--help lists all"))


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from what `to_dict` gave; absent keys get their defaults. Raises `ConfigError`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"configuration = {show(values)}: expected a table of keys and values")
    for name in values:
        if name not in hints():
            raise unknown_key(name)
    return Config(**values)


def to_dict(config: Config) -> dict[str, Any]:
    """Return all keys with values that JSON can hold."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: _for_json(value) for name, value in values.items()}


def _for_json(value: Any) -> Any:
    """Return a value with lists for tuples and dicts for tables, none of them the configuration's own."""
    if isinstance(value, Mapping):
        return {name: _for_json(part) for name, part in value.items()}
    return [_for_json(part) for part in value] if isinstance(value, tuple | list) else value


def changed(config: Config) -> list[str]:
    """Return the keys whose value is not the default, `run_dir` apart."""
    values, defaults = to_dict(config), to_dict(Config())
    return [name for name, value in values.items() if value != defaults[name] and name != "run_dir"]


def first_difference(stored: Config, asked: Config) -> tuple[str, Any, Any] | None:
    """Return the first key, with both values, by which a resumed run would break with the stored one; or None.

    An asked "auto" agrees with any stored value: it leaves the choice to the program, and the stored run has made it.
    """
    for field in dataclasses.fields(Config):
        before, now = (_meaning(field.name, getattr(config, field.name)) for config in (stored, asked))
        fixed = field.metadata["resume"] == "fixed" or not asked.resume_override
        if field.name in FREE_IF_PORTABLE and stored.arithmetic == asked.arithmetic == "portable":
            continue
        if field.metadata["resume"] != "free" and fixed and before != now and not now == field.default == "auto":
            return field.name, before, now
    return None


def _meaning(name: str, value: Any) -> Any:
    """Return a value by the one word that it has today: standardize was true or false before it had words."""
    return standardize_word(value) if name == "standardize" else value


def standardize_word(value: str | bool) -> Literal["auto", "features", "global", "none"]:
    """Return what `standardize` says as auto, features, global or none."""
    words: dict[str | bool, Literal["auto", "features", "global", "none"]]
    words = {"auto": "auto", "global": "global", "none": "none", False: "none"}
    return words.get(value, "features")
