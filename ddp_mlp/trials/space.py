"""The space of a search: which keys of the configuration are tried, and with what values. TOML or a dictionary.

    learning_rate = { log = [1e-4, 1e-1] }              # evenly in the logarithm
    dropout = { uniform = [0.0, 0.5], points = 6 }      # six values, evenly spaced
    batch_size = { int = [32, 512], log = true }        # whole numbers, both ends included; step = 32
    optimizer = { choice = ["adam", "momentum"] }
    momentum = { uniform = [0.5, 0.99], when = { optimizer = ["momentum"] } }
    hidden = { depth = { int = [1, 3] }, width = { choice = [32, 64, 128] } } # widths: each layer its own

Invariants:
- a space that exists is valid: every value that it can give has passed the configuration's own rules, key by key;
- the order of the lines in the file does not matter.
"""

import difflib
import math
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.config.values import show
from ddp_mlp.errors import ConfigError, StorageError
from ddp_mlp.trials.ranges import DIGITS, Choice, Range, Real, Whole, Widths
from ddp_mlp.units import counted

Settings = dict[str, Any]
"""What a trial changes in the configuration: key → value, as JSON holds it."""

_ROWS = "decides which rows and targets scores are of, so trials could not be compared"
_MACHINE = "belongs to the machine, of which the table must not know"
_RUN = "belongs to the search as a whole, and changes no trial"
REFUSED = {
    **dict.fromkeys(("x_name", "y_name", "valid_fraction", "missing_targets"), _ROWS),
    **dict.fromkeys(("shards", "reduction", "arithmetic", "threads", "chunk_rows"), _MACHINE),
    "monitor": "is what trials are compared by",
    "init_from": "would be a start that only some trials have: they begin with random weights",
}
"""Keys that decide bits and are the same for all trials, each with why; all keys of no bits are, too."""
SEARCHED_ALTHOUGH_FREE = frozenset(("epochs", "max_steps", "patience", "restore_best"))
"""Keys that a resumed run may change, and that a trial may have for itself all the same."""
ENDS = ("epochs", "max_steps")
"""Keys that say when a trial ends, as rungs do."""
DEFINE_LOSS = ("loss", "huber_delta", "quantiles", "target_weight", "standardize_targets")
"""Keys that decide what a loss is: losses of trials that differ in them cannot be compared."""
DEFINE_TRAIN_LOSS = (*DEFINE_LOSS, "label_smoothing", "class_weight")
"""Those that decide what the training loss is."""
MOST_POINTS, MOST_LAYERS = 10_000, 1_000
"""Limits of a key's points and of a network's layers, of which lists are made: beyond lies a slip of the pen."""


@dataclass(frozen=True)
class Parameter:
    """A key that is searched, its values, and for which values of other keys it is searched at all."""

    key: str
    range: Range
    when: Mapping[str, tuple[Any, ...]]

    def is_searched(self, settings: Settings, base: Settings) -> bool:
        """Tell whether the key is searched in a trial whose keys so far are `settings`, above the configuration's."""
        return all(settings.get(other, base[other]) in values for other, values in self.when.items())


@dataclass(frozen=True)
class Space:
    """A checked space. `parameters` come in an order in which what a key depends on is before it."""

    parameters: tuple[Parameter, ...]
    base: Settings
    """The configuration's own values, which hold where a key is not searched."""
    table: Mapping[str, Any]
    """What the space was made of."""

    @property
    def dimensions(self) -> int:
        """How many numbers in [0, 1) a trial's settings are made of."""
        return sum(parameter.range.dimensions for parameter in self.parameters)

    def at(self, u: Sequence[float]) -> Settings:
        """Return the settings at u, `dimensions` numbers in [0, 1), one range after the other."""
        settings: Settings = {}
        place = 0
        for parameter in self.parameters:
            own = u[place : place + parameter.range.dimensions]
            place += parameter.range.dimensions
            if parameter.is_searched(settings, self.base):
                settings[parameter.key] = parameter.range.value(own)
        return dict(sorted(settings.items()))

    @property
    def continuous(self) -> str | None:
        """A key whose values cannot be counted, or None: a grid needs `points` for it."""
        return next((parameter.key for parameter in self.parameters if parameter.range.every() is None), None)

    def points(self) -> Iterator[Settings]:
        """Yield all settings, each once, the last key's values fastest. Not where `continuous`."""
        return (dict(sorted(settings.items())) for settings in self._points(0, {}))

    def _points(self, place: int, settings: Settings) -> Iterator[Settings]:
        if place == len(self.parameters):
            yield settings
            return
        parameter = self.parameters[place]
        if not parameter.is_searched(settings, self.base):
            yield from self._points(place + 1, settings)
            return
        for value in parameter.range.every() or ():
            yield from self._points(place + 1, {**settings, parameter.key: value})

    def configure(self, settings: Settings) -> Config:
        """Return the configuration of a trial. Raises ConfigError."""
        return configuration.from_dict({**self.base, **settings})


def read(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file. Raises ConfigError for what is no TOML, StorageError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"space = {path}: not found") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error


def parse(table: Mapping[str, Any], base: Config, halving: bool = False) -> Space:
    """Check a space whole against a configuration, and return it. Raises ConfigError, one line."""
    if not isinstance(table, Mapping) or not table:
        raise ConfigError("space: is empty: name a key, such as learning_rate = { log = [1e-4, 1e-1] }")
    table = _plain(table)
    found = {key: _parameter(key, table[key], base, halving) for key in sorted(table)}
    try:
        order = list(
            TopologicalSorter({key: sorted(set(p.when) & set(found)) for key, p in found.items()}).static_order()
        )
    except CycleError as error:
        raise ConfigError(
            f"space: {', '.join(sorted(set(error.args[1])))} wait for one another: drop one when"
        ) from error
    place = {key: i for i, key in enumerate(order)}
    space = Space(tuple(sorted(found.values(), key=lambda p: place[p.key])), configuration.to_dict(base), table)
    for parameter in space.parameters:
        for other in parameter.when:
            if other not in space.base:
                _reject(parameter.key, f"when names {other}, which is no key{_near(other)}")
            if _is_free(other):
                _reject(parameter.key, f"when names {other}, which may change when the search goes on: drop it")
        for value in parameter.range.extremes():
            _check_value(space, parameter, value, {key: values[0] for key, values in parameter.when.items()})
        for other, values in parameter.when.items():
            for value in values:
                _check_value(space, parameter, next(parameter.range.extremes()), {other: value})
            if not any(_occurs(space, other, value) for value in values):
                _reject(parameter.key, f"is never searched, as {other} is never {' or '.join(map(show, values))}")
    return space


def _plain(value: Any) -> Any:
    """Return a table, or a part of one, as TOML would give it: Python's own numbers, lists, tables with names."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _occurs(space: Space, key: str, value: Any) -> bool:
    """Tell whether a key can have this value in a trial.

    What the configuration has for a key that is not searched is known to its author: a space serves several.
    """
    found = next((parameter for parameter in space.parameters if parameter.key == key), None)
    return found is None or found.range.has(value) or (bool(found.when) and value == space.base[key])


def _is_free(key: str) -> bool:
    """Tell whether a key decides no bits: a search that goes on may have another value."""
    [found] = (field.metadata.get("resume", "fixed") for field in fields(Config) if field.name == key)
    return found == "free" and key not in SEARCHED_ALTHOUGH_FREE


def _parameter(key: str, given: Any, base: Config, halving: bool) -> Parameter:
    """Return a key's checked parameter; the limits of its values come later."""
    if key not in {field.name for field in fields(Config)}:
        raise ConfigError(f'space: unknown key "{key}"{_near(key)}')
    if key in REFUSED or _is_free(key):
        why = REFUSED.get(key, _RUN)
        _reject(key, f"is the same for all trials of a search, as it {why}: set it in the configuration")
    if key in ENDS and halving:
        _reject(key, "cannot be searched with halving, whose rungs are made of epochs")
    if key == "seed" and base.valid_fraction:
        _reject(key, "decides with valid_fraction which rows are held out: take folds or a group valid, or members")
    if key == "max_steps" and base.monitor == "train_loss":
        _reject(key, "cannot be searched by train_loss, which whole epochs have: search epochs, or set another monitor")
    if key in {"valid_loss": DEFINE_LOSS, "train_loss": DEFINE_TRAIN_LOSS}.get(base.monitor, ()):
        _reject(key, f"decides what {base.monitor} is, by which trials are compared: set monitor to another figure")
    if not isinstance(given, Mapping):
        _reject(key, "expected a table such as { choice = [1, 2] }, { uniform = [0, 1] }, { log = … } or { int = … }")
    rest = dict(given)
    when = rest.pop("when", {})
    if not isinstance(when, Mapping) or not all(values != [] for values in when.values()):
        _reject(key, 'when: expected a table such as { optimizer = ["adam", "adamw"] }')
    if key in when:
        _reject(key, "when names the key itself: drop it")
    conditions = {other: tuple(values) if isinstance(values, list) else (values,) for other, values in when.items()}
    return Parameter(key, _range(key, rest), conditions)


def _range(key: str, given: Mapping[str, Any]) -> Range:
    kinds = [kind for kind in ("choice", "uniform", "log", "int", "depth") if kind in given and given[kind] is not True]
    if len(kinds) != 1:
        _reject(key, "expected one of choice, uniform, log, int" + (", or depth and width" if key == "hidden" else ""))
    allowed = {
        "choice": {"choice"},
        "uniform": {"uniform", "points"},
        "log": {"log", "points"},
        "int": {"int", "step", "log"},
        "depth": {"depth", "width", "widths"},
    }[kinds[0]]
    for name in given:
        if name not in allowed:
            _reject(key, f"{name} does not go with {kinds[0]}: expected {', '.join(sorted(allowed))}")
    if kinds[0] == "choice":
        return _choice(key, given["choice"])
    if kinds[0] == "depth":
        return _widths(key, given)
    return _whole(key, given) if kinds[0] == "int" else _real(key, kinds[0], given)


def _choice(key: str, values: Any) -> Choice:
    if not isinstance(values, list) or not values:
        _reject(key, "choice: expected a list of values")
    if any(value in values[:i] for i, value in enumerate(values)):
        _reject(key, "choice: has a value twice")
    return Choice(tuple(values))


def _bounds(key: str, kind: str, given: Any) -> tuple[Any, Any]:
    if not isinstance(given, list) or len(given) != 2 or not all(_is_number(value) for value in given):
        _reject(key, f"{kind} = {show(given)}: expected two numbers, such as [1, 10]")
    lo, hi = given
    if not lo < hi:
        _reject(key, f"{kind} = [{lo}, {hi}]: the first must be less than the second")
    return lo, hi


def _whole(key: str, given: Mapping[str, Any]) -> Whole:
    lo, hi = _bounds(key, "int", given["int"])
    step, log = given.get("step", 1), given.get("log", False)
    if not (isinstance(lo, int) and isinstance(hi, int)):
        _reject(key, f"int = [{lo}, {hi}]: expected two whole numbers")
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= hi - lo:
        _reject(key, f"step = {step}: must be a whole number from 1 to {hi - lo}")
    if not isinstance(log, bool):
        _reject(key, f"log = {log}: with int, expected true or false")
    if log and lo < 1:
        _reject(key, f"int = [{lo}, {hi}] with log = true: the first must be at least 1")
    return Whole(lo, hi, step, log)


def _real(key: str, kind: str, given: Mapping[str, Any]) -> Real:
    lo, hi = _bounds(key, kind, given[kind])
    points = given.get("points")
    if points is not None and (type(points) is not int or not 2 <= points <= MOST_POINTS):
        _reject(key, f"points = {points}: must be a whole number from 2 to {MOST_POINTS:,}")
    if kind == "log" and not lo > 0:
        _reject(key, f"log = [{lo}, {hi}]: the first must be above 0")
    found = Real(float(lo), float(hi), kind == "log", points)
    if (different := len(set(found.every() or ()))) < (points or 0):
        values = counted(different, "value")
        _reject(key, f"points = {points}: in {DIGITS} digits that is {values}: widen it, or ask for fewer")
    return found


def _widths(key: str, given: Mapping[str, Any]) -> Widths:
    if key != "hidden":
        _reject(key, "depth is for hidden alone: expected one of choice, uniform, log, int")
    if ("width" in given) == ("widths" in given):
        _reject(key, "expected depth with width (one for all layers) or widths (each layer its own)")
    each = "widths" in given
    parts = {"depth": given["depth"], "width": given["widths" if each else "width"]}
    ranges: dict[str, Range] = {}
    for name, part in parts.items():
        if not isinstance(part, Mapping):
            _reject(key, f"{name}: expected a table such as {{ int = [1, 3] }}")
        ranges[name] = _range(f"{key}: {name}", part)
        least, most = (0, MOST_LAYERS) if name == "depth" else (1, math.inf)
        for value in ranges[name].extremes():
            if type(value) is not int or not least <= value <= most:
                limits = f"from 0 to {MOST_LAYERS:,}" if name == "depth" else "of at least 1"
                _reject(key, f"{name}: must be whole numbers {limits}")
    return Widths(ranges["depth"], ranges["width"], each, max(ranges["depth"].extremes()))


def _check_value(space: Space, parameter: Parameter, value: Any, conditions: Settings) -> None:
    """Raise ConfigError where the configuration's own rules refuse a value in a trial that has it."""
    settings = dict(conditions)
    for other in space.parameters:
        if other.key == parameter.key:
            settings[other.key] = value
        elif other.key not in settings and other.is_searched(settings, space.base):
            settings[other.key] = other.range.value([0.0] * other.range.dimensions)
    try:
        space.configure(settings)
    except ConfigError as error:
        raise ConfigError(f"space: {error}") from error


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _near(key: str) -> str:
    near = difflib.get_close_matches(key, [field.name for field in fields(Config)], n=1)
    return f": did you mean {near[0]}?" if near else ""


def _reject(key: str, problem: str) -> NoReturn:
    raise ConfigError(f"space: {key}: {problem}")
