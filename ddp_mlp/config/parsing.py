"""Flags and files: `--KEY VALUE` and `--config FILE` (.toml, .yaml, .json) become a `Config`, and a `Config` YAML.

A flag's value, and a text in a file, is text for the keys that hold text. For the others it is read as YAML reads a
value, and where YAML takes it for text too it stays as it was written. Of two values for a key the later one holds.
"""

import argparse
import dataclasses
import functools
import inspect
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

from ddp_mlp import __version__
from ddp_mlp.config.keys import Config, check_key, from_dict, hints, to_dict, unknown_key
from ddp_mlp.config.values import alternatives, cast, expand, show, wording
from ddp_mlp.errors import ConfigError

LARGEST_FILE, LARGEST_YAML = 1 << 20, 1 << 16
"""Bytes of a configuration file; YAML takes longer to read."""
DEEPEST = 20
"""Brackets inside one another, or levels of YAML."""

PATHS = {"data", "init_from", "run_dir", "resume", "trace"}
"""Keys whose texts are paths: ~ and $VARIABLES in them are replaced, in a file as a shell does it for a flag."""
PRINTED = ("", "skip_default", "skip_unset")
"""What may follow `--print_config=`; no key of a configuration is ever unset."""


def parse(argv: Sequence[str]) -> Config:
    """Read flags and the files named by `--config` (.toml, .yaml, .json); of two values for a key the later one holds.

    Raises `ConfigError`; `--help`, `--version` and `--print_config` print and raise `SystemExit(0)`.
    """
    parser = _parser()
    try:  # the flags of --print_config follow a "=": a word of its own is none of them
        found, rest = parser.parse_known_args([word + "=" * (word == "--print_config") for word in argv])
    except argparse.ArgumentError as error:
        name = str(error.argument_name).removeprefix("--")
        if name != "config" and name not in hints():
            raise ConfigError(f"{name}: {error.message}") from error
        raise ConfigError(f"{name}: no value given; expected {wording(hints().get(name, str))}") from error
    if rest:
        name = rest[0].removeprefix("--").partition("=")[0]
        raise (
            unknown_key(name)
            if rest[0] != name and name
            else ConfigError(f"{show(' '.join(rest))}: expected --KEY VALUE")
        )
    values = vars(found)
    printed = values.pop("print_config", None)
    config = from_dict(values)
    if printed is not None:
        print(dump(config, skip_default="skip_default" in printed), end="", flush=True)
        raise SystemExit(0)
    return config


def dump(config: Config, skip_default: bool = False) -> str:
    """Return the configuration as YAML that `--config` reads back to an equal `Config`, or only what is no default."""
    defaults = to_dict(Config()) if skip_default else {}
    lines = [
        f"{name}: {_quoted(value)}\n"
        for name, value in to_dict(config).items()
        if not (name in defaults and defaults[name] == value)
    ]
    return "".join(lines)


def _quoted(value: Any) -> str:
    """Return a value as JSON that is YAML too, where special characters need another escape."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


# ---- values ----------------------------------------------------------------------------------------------------------


def _read(name: str, value: Any) -> Any:
    """Return what a flag or a file says of a key, as the key's type. Raises ConfigError."""
    hint = hints()[name]
    if isinstance(value, str) and str not in alternatives(hint):
        found = _from_text(value, hint)
        with suppress(TypeError):  # what does not fit is shown as it was written
            value = cast(found, hint)
    elif isinstance(value, str) and value.isdecimal() and int in alternatives(hint):
        with suppress(ValueError):  # more digits than Python reads
            value = int(value)
    if name in PATHS:
        value = expand(name, value)
    return check_key(name, value)


def _from_text(text: str, hint: Any) -> Any:
    """Return what a text stands for: a list of widths with or without brackets, else YAML's value; or the text."""
    if get_origin(hint) is tuple:
        words = text.strip().removeprefix("[").removesuffix("]").split(",")
        try:
            return tuple(get_args(hint)[0](word) for word in words if word.strip())
        except ValueError:
            return text
    for number in (int, float):  # YAML takes 010 for 8
        try:
            return number(text)
        except ValueError:
            continue
    import yaml

    try:
        value = yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return text if isinstance(value, str) or not text.strip() else value


@functools.cache
def _yaml_loader() -> type[Any]:
    """Return a loader of YAML to which 1e-3 is a number, as in version 1.2, and a date is text."""
    import yaml

    number, timestamp = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (number, timestamp)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    loader: Any = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": resolvers})
    plain = re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    )
    loader.compose_node = _compose_without_aliases
    loader.add_implicit_resolver(number, plain, list("-+0123456789."))
    return loader  # type: ignore[no-any-return] # PyYAML ships no annotations


def _compose_without_aliases(loader: Any, parent: Any, index: Any) -> Any:
    """Refuse what stands for something else: a few lines of aliases can mean millions of values, or themselves."""
    import yaml

    if loader.check_event(yaml.AliasEvent):
        event = loader.peek_event()
        raise yaml.composer.ComposerError(None, None, "aliases (*) are not taken", event.start_mark)
    return yaml.SafeLoader.compose_node(loader, parent, index)


# ---- files -----------------------------------------------------------------------------------------------------------


def read_file(path: str) -> dict[str, Any]:
    """Return what a configuration file says of each key it names. Raises ConfigError with the file and the line."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        is_yaml = not path.endswith((".toml", ".json"))
        if len(content) > (most := LARGEST_YAML if is_yaml else LARGEST_FILE):
            also = "; a .toml or .json file may have 1 MiB" if is_yaml else ""
            raise ConfigError(f"{show(path)}: has more than {most} bytes: no configuration is as large{also}")
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        problem = "not found" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise ConfigError(f"{show(path)}: {problem}") from error
    table = _table(path, text)
    if _depth(table) > DEEPEST:
        raise ConfigError(f"{path}: is nested too deeply")
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: {show(text)}: expected a table of keys and values")
    values = {}
    for name, value in table.items():
        try:
            if name not in hints():
                raise unknown_key(name)
            values[name] = _read(name, value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {_line(text, name)}{error}") from error
    return values


def _table(path: str, text: str) -> Any:
    """Return what is in a file, in the language that its ending names; another one is YAML. Raises ConfigError."""
    import yaml

    try:
        if path.endswith(".toml"):
            return tomllib.loads(text)
        if path.endswith(".json"):
            return json.loads(text)
        return yaml.load(text, _yaml_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = f"{error.problem or error.context}{place}"
    except (yaml.YAMLError, ValueError) as error:
        problem = str(error)
    except RecursionError:
        problem = "is nested too deeply"
    raise ConfigError(f"{path}: {' '.join(problem.split())}")


def _depth(value: Any) -> int:
    """Return how many tables and lists are inside one another, or DEEPEST + 1 where there are more."""
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        parts = [part for part in level if isinstance(part, Mapping | list | tuple)]
        level = [item for part in parts for item in (part.values() if isinstance(part, Mapping) else part)]
        depth += bool(parts)
    return depth


def _line(text: str, name: Any) -> str:
    """Return where a file names a key, for people: "line 3: ", or nothing where no line begins with it."""
    begins = re.compile(rf"[\s{{\[,]*[\"']?{re.escape(str(name))}[\"']?\s*[]:=]")
    return next((f"line {n}: " for n, line in enumerate(text.splitlines(), 1) if begins.match(line)), "")


# ---- flags -----------------------------------------------------------------------------------------------------------


class _File(argparse.Action):
    """Takes over what a file says, at its place among the flags."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        for name, value in read_file(values).items():
            setattr(namespace, name, value)


def _parser() -> argparse.ArgumentParser:
    """Build the parser from the fields of `Config` and its docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m ddp_mlp.train",
        usage="%(prog)s [--config FILE] [--KEY VALUE ...]",
        description="Train a multi-layer perceptron, with the same bits on any number of ranks.",
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=30),
    )
    version = f"%(prog)s {__version__}"
    parser.add_argument("--version", action="version", version=version, help="Print version and exit.")
    text = "read keys from FILE (.toml, .yaml, .json); of two values for a key the later on the line holds"
    parser.add_argument("--config", action=_File, metavar="FILE", help=text)
    text = "print the configuration in force as YAML, and end; flags: skip_default, skip_unset"
    parser.add_argument("--print_config", type=_printed, nargs="?", metavar="=flags", help=text)
    themes: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        theme, text = _documented().get(field.name, ("Keys", ""))  # python -OO drops docstrings
        if theme not in themes:
            themes[theme] = parser.add_argument_group(theme)
        hint, default = hints()[field.name], field.default
        text = text if default is None else f"{text} (default: {show(default)})"
        themes[theme].add_argument(
            f"--{field.name}",
            type=functools.partial(_read, field.name),
            metavar=_metavar(hint),
            help=text.replace("%", "%%"),
            **({"nargs": "?", "const": True} if hint is bool else {}),
        )
    return parser


def _printed(flags: str) -> list[str]:
    """Return the flags of `--print_config`. Raises ConfigError."""
    for flag in flags.split(","):
        if flag not in PRINTED:
            raise ConfigError(f"print_config = {show(flag)}: expected skip_default or skip_unset")
    return flags.split(",")


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
    if hint == str | None:
        return "TEXT"
    names: dict[Any, str] = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT", type(None): "null"}
    names |= {tuple[int, ...]: "[INT,...]", tuple[float, ...]: "[NUMBER,...]", Mapping: "{NAME: NUMBER}"}
    kinds = [(kind, get_origin(kind)) for kind in alternatives(hint)]
    return "|".join(
        "|".join(get_args(kind)) if origin is Literal else names[kind if kind in names else origin]
        for kind, origin in kinds
    )
