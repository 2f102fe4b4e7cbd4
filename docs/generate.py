"""The pages of the documentation that are made from the code: options, commands, exit codes.

`write_pages` is called by conf.py at each build, so that these pages cannot go stale.
"""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from ddp_mlp import errors
from ddp_mlp.__main__ import VERBS
from ddp_mlp.config import Config
from ddp_mlp.run_dir import schema

ROOT = Path(__file__).resolve().parents[1]


def write_pages(folder: Path) -> None:
    """Write the pages into the folder; files that would not change are left alone."""
    folder.mkdir(exist_ok=True)
    pages = {"options.md": options(), "commands.md": commands(), "exit-codes.md": exit_codes(), "events.md": events()}
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def options() -> str:
    """Return a section per theme of `Config`: each key's meaning, default and limits, and may a resume change it."""
    resume = {
        "fixed": "Stays as it is when a run is resumed.",
        "override": "May change at a resume with `--resume_override`.",
        "free": "May change at a resume.",
    }
    by_name = {field.name: field for field in fields(Config)}
    lines: list[str] = []
    theme = ""
    for found_theme, name, meaning in documented_keys():
        if found_theme != theme:
            theme = found_theme
            lines += [f"## {theme}", ""]
        field = by_name[name]
        limits = ", ".join(f"{words.replace('_', ' ')} {limit:g}" for words, limit in field.metadata["limits"].items())
        default = "not set" if field.default is None else f"`{_spelled(field.default)}`"
        lines += [f"(option-{name})=", f"`{name}`"]
        lines += [
            f": {meaning[0].upper()}{meaning[1:]}.",
            f"  Default: {default}." + (f" Limits: {limits}." if limits else ""),
        ]
        lines += [f"  {resume[field.metadata['resume']]}", ""]
    return "\n".join(lines)


def documented_keys() -> list[tuple[str, str, str]]:
    """Return (theme, key, meaning) of every key, in the order of the docstring of `Config`."""
    import inspect
    import re

    theme, found = "", []
    for line in inspect.cleandoc(Config.__doc__ or "").splitlines():
        if heading := re.fullmatch(r"(\w+):", line):
            theme = heading[1]
        elif key := re.fullmatch(r"  (\w+): (.+)", line):
            found.append((theme, key[1], key[2]))
    return found


def commands() -> str:
    """Return a section per command with what its --help prints."""
    lines: list[str] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"}
    for verb, does in VERBS.items():
        command = [sys.executable, "-m", f"ddp_mlp.{verb}", "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
        lines += [f"## {verb}", "", f"{does[0].upper()}{does[1:]}: `python -m ddp_mlp.{verb}`.", ""]
        lines += ["```text", shown.stdout.rstrip(), "```", ""]
    return "\n".join(lines)


def exit_codes() -> str:
    """Return a table of the program's errors by exit code."""
    kinds: dict[int, list[str]] = {}
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.ProgramError):
            meaning, names_a_code, _ = (error.__doc__ or "").partition(" (exit code")
            if names_a_code:  # a special case of another error has none of its own
                kinds.setdefault(error.exit_code, []).append(meaning)
    rows = [f"| {code} | {'. '.join(texts)} |" for code, texts in sorted(kinds.items())]
    return "\n".join(["| code | meaning |", "|---|---|", "| 0 | Finished, early stop included |", *rows, ""])


def events() -> str:
    """Return a table of the fields of metrics.jsonl, from the schema that the tests hold the journal against."""
    rows = [f"| all | `{name}` | {meaning} |" for name, meaning in schema.ALL.items()]
    for event, own in schema.EVENTS.items():
        rows += [f"| `{event}` | `{name}` | {meaning} |" for name, meaning in own.items()]
        for split in schema.EVALUATED.get(event, ()):
            rows.append(f"| `{event}` | `{split}_loss`, … | `{split}_` and the name of a metric |")
            rows.append(f"| `{event}` | `{split}_targets` | the metrics of each class, label or number |")
    return "\n".join(["| event | field | meaning |", "|---|---|---|", *rows, ""])


def _spelled(value: object) -> str:
    """Return a default as a configuration file spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)
