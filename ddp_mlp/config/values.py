"""What a key may hold: values cast to the annotation of their key, held against its limits, and shown in messages.

Invariant: a value that does not fit is one line, a `ConfigError`: KEY = VALUE: what was expected.
"""

import math
import operator
import os
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from ddp_mlp.errors import ConfigError

LIMITS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}
"""The names of limits, and when a number keeps one."""


def check(name: str, value: Any, hint: Any, limits: Mapping[str, float]) -> Any:
    """Return the value as the type of its key, within its limits. Raises ConfigError."""
    try:
        value = cast(value, hint)
    except TypeError:
        reject(name, value, f"expected {wording(hint)}")
    if not all(LIMITS[words](number, limits[words]) for number in _numbers(value) for words in limits):
        bounds = " and ".join(f"{words.replace('_', ' ')} {limit}" for words, limit in limits.items())
        reject(name, value, f"must be {wording(hint, bounds)}")
    return value


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def cast(value: Any, hint: Any) -> Any:
    """Return the value as the hint's type, unchanged in meaning; raise `TypeError` where it does not fit."""
    for kind in alternatives(hint):
        origin, isbool = get_origin(kind), isinstance(value, bool)
        if origin is Literal and isinstance(value, str) and value in get_args(kind):
            return value
        if kind is type(None) and value is None:
            return None
        if kind is bool and isbool:
            return value
        if kind is int and isinstance(value, Integral) and not isbool:
            return int(value)
        if kind is float and isinstance(value, Real) and not isbool and _is_finite(value):
            return float(value)
        if kind is str and isinstance(value, os.PathLike):
            value = os.fsdecode(value)
        if kind is str and isinstance(value, str) and value:
            return value
        if origin is tuple and isinstance(value, list | tuple):
            return tuple(cast(item, get_args(kind)[0]) for item in value)
        if origin is Mapping and isinstance(value, Mapping):
            # YAML reads a class named 0 as a number
            return {str(cast(name, int | str)): cast(weight, get_args(kind)[1]) for name, weight in value.items()}
    raise TypeError(value)


def expand(name: str, value: Any) -> Any:
    """Return a path with ~ and $VARIABLES in it replaced, unless it is there as it is written. Raises ConfigError."""
    if not isinstance(value, str) or os.path.lexists(value):
        return value
    found = os.path.expandvars(os.path.expanduser(value))
    if found.startswith("~"):
        reject(name, value, "there is no such home folder; write the path in full")
    if "$" in found:
        reject(name, value, "names a variable that is not set; set it, or write the path in full")
    return found


def _is_finite(value: Real) -> bool:
    """Tell whether a float holds the number: not infinity, not NaN, and no integer beyond all floats."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _numbers(value: Any) -> Sequence[float]:
    """Return the numbers in a value, to which a key's limits apply."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple):
        return value
    return [value] if isinstance(value, int | float) else []


def wording(hint: Any, number: str = "") -> str:
    """Say in words what a hint accepts; `number` replaces the words for its number type."""
    words = {int: number or "an integer", float: number or "a finite number", bool: "true or false", str: "text"}

    def say(kind: Any) -> list[str]:
        if get_origin(kind) is Literal:
            return [f'"{choice}"' for choice in get_args(kind)]
        if get_origin(kind) is tuple:
            of = "integers such as [128, 64]" if get_args(kind)[0] is int else "numbers such as [0.1, 0.9]"
            return [f"a list of {of}{number and ', each '}{number}"]
        if get_origin(kind) is Mapping:
            return [f"a table of names and numbers{number and ', each '}{number}"]
        return [words.get(kind, "null")]

    *most, last = [word for kind in alternatives(hint) for word in say(kind)]
    return f"{', '.join(most)}{',' if number else ''} or {last}" if most else last


def show(value: Any) -> str:
    """Return a value on one line, as a user would have written it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    words = " ".join(str(list(value) if isinstance(value, tuple) else value).split())
    return (words if len(words) <= 60 else words[:57] + "...") or '""'


def reject(name: str, value: Any, problem: str) -> NoReturn:
    """Raise the ConfigError of a key whose value does not fit."""
    raise ConfigError(f"{name} = {show(value)}: {problem}")


@dataclass(frozen=True)
class Interval:
    """A distance between two events, such as checkpoints."""

    count: int
    unit: Literal["steps", "epochs", "seconds"]


def parse_interval(value: int | str) -> Interval:
    """Read `100` or `"100 steps"`, `"2 epochs"`, `"600 seconds"` (or `"1 epoch"`); raises `ConfigError`."""
    found = re.fullmatch(r"\s*(\d{1,18})\s*(?:(step|epoch|second)s?)?\s*", str(value), re.ASCII)
    if not found or not int(found[1]):
        reject("checkpoint_every", value, 'expected steps (at least 1), "N epochs" or "N seconds"')
    units: dict[str | None, Literal["steps", "epochs", "seconds"]] = {"epoch": "epochs", "second": "seconds"}
    return Interval(int(found[1]), units.get(found[2], "steps"))
