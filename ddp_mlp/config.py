"""The configuration of a run: each key, its meaning, default and limits, and whether a resumed run may change it.

Invariants: a key has one spelling (file key = flag = attribute); each `Config` that exists is valid; whatever is wrong
with a configuration is one line, a `ConfigError`; nothing here starts MPI or loads an array library.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import math
import operator
import os
import re
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from ddp_mlp import __version__
from ddp_mlp.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from jsonargparse import ArgumentParser, Namespace

T = TypeVar("T")


_LIMITS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def _key(default: T, resume: Literal["fixed", "override", "free"] = "fixed", **limits: float) -> T:
    """Declare a key, the limits of its numbers (names as in `_LIMITS`), and whether a resumed run may change it.

    "fixed" keys decide the bits of the run and never change, "override" ones only with `resume_override`.
    """
    field: T = dataclasses.field(default=default, metadata={"limits": limits, "resume": resume})
    return field


@dataclasses.dataclass(frozen=True)
class Config:
    """What one run does.

    Data:
      data: HDF5 file with the group train and, if wanted, valid and test
      x_name: data set of each group that holds the features, one row per example
      y_name: data set of each group that holds the labels
      valid_fraction: share of train held out for validation where the file has no valid; 0 is none
      standardize: subtract the mean and divide by the standard deviation of train
      access: hold the data in memory, one copy per node, or stream it from the file; auto decides by size
      shuffle: new order in every epoch of all rows, of blocks of rows, or the file's order
      block_rows: rows per block, for shuffling by blocks and for reading

    Network:
      hidden: widths of the hidden layers, as [128,64] or 128,64; [] is softmax regression
      dtype: number type of the parameters
      init_from: start from the weights in this .safetensors, .npz or checkpoint file; if not given, from random ones

    Optimisation:
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
      monitor: figure watched by patience, by the schedule plateau and for the best checkpoint
      restore_best: finish with the best parameters instead of the last

    Run:
      run_dir: folder for all that the run writes; if not given, runs/DATA-TIME
      checkpoint_every: steps between checkpoints, or such as "1 epoch" or "600 seconds"
      keep: newest checkpoints kept
      resume: continue what is in run_dir (auto), refuse a used one (never), or PATH of a checkpoint to begin with
      resume_override: let a resumed run change the learning rate
      on_save_error: what to do when a checkpoint cannot be written
      log_every: steps between step events in metrics.jsonl; 0 is none
      tensorboard: write TensorBoard event files too, to tensorboard in run_dir
      trace: write what each rank did when to this file, for chrome://tracing or Perfetto
      describe: show what would be trained, and end
      teach: work one step of a tiny network through in words, rank by rank, and end
      quiet: no progress on the terminal
      debug: show tracebacks

    Machine:
      shards: fixed pieces of every batch, the unit of work; auto is max(8, smallest power of two >= ranks)
      chunk_rows: most rows of a shard computed at once
      reduction: sum gradients in a fixed order (exact), or with plain MPI (allreduce: equal only to rounding)
      threads: BLAS threads per rank
      stall_seconds: end the run when a step takes longer; 0 is never
    """

    data: str = _key("data/digits.h5", resume="free")
    x_name: str = _key("X")
    y_name: str = _key("y")
    valid_fraction: float = _key(0.0, at_least=0, below=1)
    standardize: bool = _key(True)
    access: Literal["auto", "memory", "stream"] = _key("auto", resume="free")
    shuffle: Literal["rows", "blocks", "none"] = _key("rows")
    block_rows: int = _key(1024, at_least=1)

    hidden: tuple[int, ...] = _key((128, 64), at_least=1)
    dtype: Literal["float32", "float64"] = _key("float32")
    init_from: str | None = _key(None)

    epochs: int = _key(30, at_least=0, resume="free")
    max_steps: int | None = _key(None, at_least=0, resume="free")
    max_seconds: float | None = _key(None, above=0, resume="free")
    batch_size: int | Literal["full"] = _key(128, at_least=1)
    optimizer: Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"] = _key("adam")
    learning_rate: float = _key(3e-3, above=0, resume="override")
    schedule: Literal["constant", "cosine", "step", "exponential", "plateau"] = _key("constant")
    warmup_steps: int = _key(0, at_least=0)
    decay: float = _key(0.5, above=0, at_most=1)
    decay_every: int = _key(10, at_least=1)
    plateau_patience: int = _key(5, at_least=1)
    min_learning_rate: float = _key(0.0, at_least=0)
    momentum: float = _key(0.9, at_least=0, below=1)
    beta1: float = _key(0.9, at_least=0, below=1)
    beta2: float = _key(0.999, at_least=0, below=1)
    alpha: float = _key(0.99, at_least=0, below=1)
    epsilon: float = _key(1e-8, above=0)
    seed: int = _key(0, at_least=0, below=2**63)

    l2: float = _key(0.0, at_least=0)
    weight_decay: float | None = _key(None, at_least=0)
    clip_norm: float | None = _key(None, above=0)
    dropout: float = _key(0.0, at_least=0, below=1)
    label_smoothing: float = _key(0.0, at_least=0, below=1)
    class_weight: Mapping[str, float] | Literal["balanced"] | None = _key(None, at_least=0)
    patience: int | None = _key(None, at_least=1, resume="free")
    min_delta: float = _key(0.0, at_least=0)
    monitor: Literal["valid_loss", "valid_accuracy", "train_loss"] = _key("valid_loss")
    restore_best: bool = _key(False, resume="free")

    run_dir: str | None = _key(None, resume="free")
    checkpoint_every: int | str = _key("1 epoch", resume="free")
    keep: int = _key(3, at_least=1, resume="free")
    resume: str = _key("auto", resume="free")
    resume_override: bool = _key(False, resume="free")
    on_save_error: Literal["stop", "continue"] = _key("stop", resume="free")
    log_every: int = _key(50, at_least=0, resume="free")
    tensorboard: bool = _key(False, resume="free")
    trace: str | None = _key(None, resume="free")
    describe: bool = _key(False, resume="free")
    teach: bool = _key(False, resume="free")
    quiet: bool = _key(False, resume="free")
    debug: bool = _key(False, resume="free")

    shards: int | Literal["auto"] = _key("auto", at_least=1)
    chunk_rows: int = _key(4096, at_least=1)
    reduction: Literal["exact", "allreduce"] = _key("exact")
    threads: int = _key(1, at_least=1)
    stall_seconds: float = _key(300.0, at_least=0, resume="free")

    def __post_init__(self) -> None:
        """Cast each value to its key's type and check it; raises `ConfigError`."""
        for field in dataclasses.fields(self):
            name, value, hint = field.name, getattr(self, field.name), _hints()[field.name]
            try:
                value = _cast(value, hint)
            except TypeError:
                _reject(name, value, f"expected {_wording(hint)}")
            limits = field.metadata["limits"]
            if not all(_LIMITS[words](number, limits[words]) for number in _numbers(value) for words in limits):
                bounds = " and ".join(f"{words.replace('_', ' ')} {limit}" for words, limit in limits.items())
                _reject(name, value, f"must be {_wording(hint, bounds)}")
            object.__setattr__(self, name, value)
        parse_interval(self.checkpoint_every)
        floor, rate = self.min_learning_rate, self.learning_rate
        if floor > rate:
            _reject("min_learning_rate", floor, f"must be at most learning_rate, which is {rate}")
        if self.weight_decay and self.optimizer != "adamw":
            _reject("weight_decay", self.weight_decay, f"needs optimizer = adamw; for {self.optimizer} there is l2")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A distance between two events, such as checkpoints."""

    count: int
    unit: Literal["steps", "epochs", "seconds"]


def parse_interval(value: int | str) -> Interval:
    """Read `100` or `"100 steps"`, `"2 epochs"`, `"600 seconds"` (or `"1 epoch"`); raises `ConfigError`."""
    found = re.fullmatch(r"\s*(\d{1,18})\s*(?:(step|epoch|second)s?)?\s*", str(value), re.ASCII)
    if not found or not int(found[1]):
        _reject("checkpoint_every", value, 'expected steps (at least 1), "N epochs" or "N seconds"')
    units: dict[str | None, Literal["steps", "epochs", "seconds"]] = {"epoch": "epochs", "second": "seconds"}
    return Interval(int(found[1]), units.get(found[2], "steps"))


def parse(argv: Sequence[str]) -> Config:
    """Read flags and the files named by `--config` (.toml, .yaml, .json); of two values for a key the later one holds.

    Raises `ConfigError`; `--help`, `--version` and `--print_config` print and raise `SystemExit(0)`.
    """
    found = _parser().parse_args(list(argv))
    return from_dict({name: found[name] for name in _hints()})


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from what `to_dict` gave; absent keys get their defaults. Raises `ConfigError`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"configuration = {_show(values)}: expected a table of keys and values")
    for name in values:
        if name not in _hints():
            raise _unknown(name)
    return Config(**values)


def to_dict(config: Config) -> dict[str, Any]:
    """Return all keys with values that JSON can hold."""
    values = dataclasses.asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def dump(config: Config) -> str:
    """Return the configuration as YAML that `--config` reads back to an equal `Config`."""
    parser = _parser()
    text: str = parser.dump(parser.parse_object(to_dict(config)))
    return text


def first_difference(stored: Config, asked: Config) -> tuple[str, Any, Any] | None:
    """Return the first key, with both values, by which a resumed run would break with the stored one; or None.

    An asked "auto" agrees with any stored value: it leaves the choice to the program, and the stored run has made it.
    """
    for field in dataclasses.fields(Config):
        before, now = getattr(stored, field.name), getattr(asked, field.name)
        fixed = field.metadata["resume"] == "fixed" or not asked.resume_override
        if field.metadata["resume"] != "free" and fixed and before != now and not now == field.default == "auto":
            return field.name, before, now
    return None


@functools.cache
def _hints() -> dict[str, Any]:
    """Return the annotation of each key."""
    return get_type_hints(Config)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _cast(value: Any, hint: Any) -> Any:
    """Return the value as the hint's type, unchanged in meaning; raise `TypeError` where it does not fit."""
    for kind in _alternatives(hint):
        origin, isbool = get_origin(kind), isinstance(value, bool)
        if origin is Literal and isinstance(value, str) and value in get_args(kind):
            return value
        if kind is type(None) and value is None:
            return None
        if kind is bool and isbool:
            return value
        if kind is int and isinstance(value, Integral) and not isbool:
            return int(value)
        if kind is float and isinstance(value, Real) and not isbool and math.isfinite(value):
            return float(value)
        if kind is str and isinstance(value, str) and value:
            return value
        if origin is tuple and isinstance(value, list | tuple):
            return tuple(_cast(item, get_args(kind)[0]) for item in value)
        if origin is Mapping and isinstance(value, Mapping):
            # YAML reads a class named 0 as a number
            return {str(_cast(name, int | str)): _cast(weight, get_args(kind)[1]) for name, weight in value.items()}
    raise TypeError(value)


def _numbers(value: Any) -> Sequence[float]:
    """Return the numbers in a value, to which a key's limits apply."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple):
        return value
    return [value] if isinstance(value, int | float) else []


def _wording(hint: Any, number: str = "") -> str:
    """Say in words what a hint accepts; `number` replaces the words for its number type."""
    words = {int: number or "an integer", float: number or "a finite number", bool: "true or false", str: "text"}

    def say(kind: Any) -> list[str]:
        if get_origin(kind) is Literal:
            return [f'"{choice}"' for choice in get_args(kind)]
        if get_origin(kind) is tuple:
            return [f"a list of integers such as [128, 64]{number and ', each '}{number}"]
        if get_origin(kind) is Mapping:
            return [f"a table of class names and numbers{number and ', each '}{number}"]
        return [words.get(kind, "null")]

    *most, last = [word for kind in _alternatives(hint) for word in say(kind)]
    return f"{', '.join(most)}{',' if number else ''} or {last}" if most else last


def _show(value: Any) -> str:
    """Return a value on one line, as a user would have written it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    words = " ".join(str(list(value) if isinstance(value, tuple) else value).split())
    return (words if len(words) <= 60 else words[:57] + "...") or '""'


def _reject(name: str, value: Any, problem: str) -> NoReturn:
    raise ConfigError(f"{name} = {_show(value)}: {problem}")


def _unknown(name: Any) -> ConfigError:
    near = difflib.get_close_matches(str(name), _hints(), n=1)
    return ConfigError(f'unknown key "{_show(name)}": ' + (f"did you mean {near[0]}?" if near else "--help lists all"))


def _explain(message: str) -> ConfigError:
    """Condense a message of jsonargparse to one line."""
    line = " ".join(message.split()).replace('in "<unicode string>", ', "at ").removeprefix("Problems parsing config: ")
    if found := re.match(r"(?:unrecognized arguments: --|Option ')([^\s=']+)", line):
        return _unknown(found[1])
    if found := re.match(r"unrecognized arguments: (.*)", line):
        return ConfigError(f"{_show(found[1])}: expected --KEY VALUE")
    if found := re.match(r"Unexpected config: ?(.*)", line):
        return ConfigError(f"{_show(found[1])}: expected a table of keys and values")
    if found := re.match(r"Parser key \"config\": (.*): '(.*)'", line):
        return ConfigError(f"{_relative(found[2])}: {found[1].replace('File does not exist', 'not found')}")
    if found := re.match(r"argument --(\w+): expected one argument", line):
        return ConfigError(f"{found[1]}: no value given; expected {_wording(_hints().get(found[1], str))}")
    found = re.match(r"(?:Parser key \"|argument --)(\w+)", line)
    if found and found[1] in _hints():
        name, hint = found[1], _hints()[found[1]]
        value = re.match(r".*(?:Given value|Got value|invalid \w+ value): (.*)", line)
        return ConfigError(f"{name} = {_show(value[1].strip(chr(39)) if value else line)}: expected {_wording(hint)}")
    return ConfigError(line)


def _relative(path: str) -> str:
    """Return a path as seen from the current folder, where it lies below."""
    return path.removeprefix(os.getcwd() + os.sep)


@functools.cache
def _documented() -> dict[str, tuple[str, str]]:
    """Return the theme and the help line of each key, from the docstring of `Config`."""
    theme, lines = "", {}
    for line in inspect.cleandoc(Config.__doc__ or "").splitlines():
        if found := re.fullmatch(r"(\w+):", line):
            theme = found[1]
        elif found := re.fullmatch(r"  (\w+): (.+)", line):
            lines[found[1]] = theme, found[2]
    return lines


def _metavar(hint: Any) -> str:
    """Return what stands for the value in the help."""
    names: dict[Any, str] = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT", type(None): "null"}
    names |= {tuple: "[INT,...]", Mapping: "{NAME: NUMBER}"}
    kinds = [(kind, get_origin(kind)) for kind in _alternatives(hint)]
    return "|".join("|".join(get_args(kind)) if origin is Literal else names[origin or kind] for kind, origin in kinds)


def _widths(value: Any) -> Any:
    """Take `[128, 64]` from a file, and also `128,64`, `128` and `[]` from a flag."""
    if isinstance(value, str):
        widths = value.strip().removeprefix("[").removesuffix("]").split(",")
        return tuple(int(width) for width in widths if width.strip())
    return value


def _quoted(value: Any) -> str:
    """Return a value as JSON that is YAML too, where special characters need another escape."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


def _parser() -> ArgumentParser:
    """Build the parser from the fields of `Config` and its docstring; jsonargparse (50 ms) is imported here."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def __init__(self, prog: str) -> None:
            super().__init__(prog, max_help_position=30)  # type: ignore[no-untyped-call] # jsonargparse's own gap

        def _get_help_string(self, action: argparse.Action) -> str:
            if "--print_config" in action.option_strings:
                return "print the configuration in force as YAML, and end; flags: skip_default, skip_unset"
            return action.help or ""

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise _explain(message) from ex

        def parse_path(self, path: Any, *args: Any, **options: Any) -> Namespace:
            """Read one configuration file in the language that its ending names."""
            usual, self.parser_mode = self.parser_mode, "toml" if str(path).endswith(".toml") else "yaml"
            try:
                found: Namespace = super().parse_path(path, *args, **options)
            except (ConfigError, ValueError, OSError) as error:
                raise ConfigError(f"{_relative(str(path))}: {error}") from error
            finally:
                self.parser_mode = usual
            return found

        def dump(self, *args: Any, **options: Any) -> str:
            """Write YAML with JSON's values: PyYAML's own would turn the text "1e3" into a number."""
            values = json.loads(super().dump(*args, format="json", **options))
            return "".join(f"{name}: {_quoted(value)}\n" for name, value in values.items())

    parser = Parser(
        prog="python -m ddp_mlp.train",
        usage="%(prog)s [--config FILE] [--KEY VALUE ...]",
        description="Train a multi-layer perceptron, with the same bits on any number of ranks.",
        version=__version__,
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    text = "read keys from FILE (.toml, .yaml, .json); of two values for a key the later on the line holds"
    parser.add_argument("--config", action="config", metavar="FILE", help=text)
    themes: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        theme, text = _documented().get(field.name, ("Keys", ""))  # python -OO drops docstrings
        if theme not in themes:
            themes[theme] = parser.add_argument_group(theme)
        hint, default = _hints()[field.name], field.default
        if hint == str | None:
            hint = str  # takes null all the same; as a union it would read the text "# x" once more, as null
        themes[theme].add_argument(
            f"--{field.name}",
            type=_widths if get_origin(hint) is tuple else hint,
            default=default,
            metavar=_metavar(hint),
            help=text if default is None else f"{text} (default: {_show(default)})",
            **({"nargs": "?", "const": True} if hint is bool else {}),
        )
    return parser
