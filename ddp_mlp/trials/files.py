"""What a search writes beside its trials' folders: search.json, search.jsonl, best.toml. For rank 0 alone.

search.json     what was asked for; a search that goes on must be asked for the same
search.jsonl    what happened: starts, rungs, interruptions, the end; for people and for the report
trials.jsonl    the table (`table.py`)
best.toml       the best configuration so far: `train --config` takes it
trials/NNNNN    a trial's own run_dir, or one for each fold
members/N       the further members' run_dirs; the first member's is the search's own
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.errors import ConfigError, DataError, StorageError, printable
from ddp_mlp.inference.metrics import DIRECTIONS
from ddp_mlp.run_dir import journal
from ddp_mlp.run_dir.journal import utc_now
from ddp_mlp.storage.atomic import write_atomically
from ddp_mlp.trials.plan import DECIDES, SearchPlan, member_folder
from ddp_mlp.units import counted

FORMAT = "ddp_mlp search 1"
SEARCH, SEARCH_EVENTS, BEST_SETTINGS = "search.json", "search.jsonl", "best.toml"


def stored(run_dir: Path) -> dict[str, Any] | None:
    """Return what search.json says, or None where there is none. Raises DataError, StorageError."""
    path = run_dir / SEARCH
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not a search's: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        version = found.get("format") if isinstance(found, dict) else found
        raise DataError(f"{path}: format {version!r}, must be {FORMAT!r}: another version of the program wrote it")
    kinds: dict[str, Any] = dict.fromkeys(("space", "config", "fingerprint"), dict)
    kinds |= dict.fromkeys(("folds", "members"), int) | dict.fromkeys(("trials", "halving"), int | None)
    if not all(name in found and isinstance(found[name], kind) for name, kind in {**kinds, "sampler": str}.items()):
        raise DataError(f"{path}: is not a whole search's: put it back as it was")
    return found


def trained_members(run_dir: Path) -> list[Path]:
    """Return the folders of the networks that the search in `run_dir` gives; [run_dir] where there is no search.

    Raises DataError where it has not trained all of them to the end, StorageError.
    """
    search = stored(run_dir)
    if search is None:
        return [run_dir]
    folders = [member_folder(run_dir, number) for number in range(search["members"])]
    trained = sum(map(_has_ended, folders))
    if trained < len(folders):
        one = f", or name one network, such as {run_dir / 'checkpoints'}" if trained else ""
        raise DataError(
            f"{run_dir}: its search has not come to its end, {trained} of {counted(len(folders), 'member')} trained: "
            f"run the same command again{one}"
        )
    return folders


def _has_ended(folder: Path) -> bool:
    """Tell whether the run in a folder has come to its end, as its journal says."""
    try:
        events, _ = journal.parse((folder / journal.JOURNAL).read_bytes())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"{folder / journal.JOURNAL}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{folder / journal.JOURNAL}: {error}") from error
    return bool(events) and events[-1].get("event") == "final"


def agree(run_dir: Path, before: Mapping[str, Any], plan: SearchPlan, fingerprint: Mapping[str, str]) -> None:
    """Raise ConfigError or DataError unless a stored search is the one that is asked for."""
    now = plan.described()
    if grows(before, plan):
        before = {**before, "trials": now["trials"]}
    for name in ("trials", "sampler", "folds", "members", "halving"):
        if before[name] != now[name]:
            raise ConfigError(_difference(name, before[name], now[name], run_dir))
    if before["space"] != json.loads(json.dumps(now["space"])):
        raise ConfigError(f"space: is not that of the search in {run_dir}: keep it, or choose another run_dir")
    try:
        kept = configuration.from_dict(before["config"])
    except ConfigError as error:
        raise DataError(f"{run_dir / SEARCH}: {error}: another version of the program wrote it") from error
    # Both ways, and without resume_override: trials that are yet to come begin with what is asked, "auto" or not.
    strict = [replace(config, resume_override=False) for config in (kept, plan.base)]
    found = configuration.first_difference(*strict) or configuration.first_difference(*reversed(strict))
    for name in (*DECIDES, *(found[:1] if found else ())):
        if getattr(kept, name) != getattr(plan.base, name):
            raise ConfigError(_difference(name, getattr(kept, name), getattr(plan.base, name), run_dir))
    for split in {**before["fingerprint"], **fingerprint}:
        if before["fingerprint"].get(split) != fingerprint.get(split):
            raise DataError(
                f"{plan.base.data}: its {split} is not what the search in {run_dir} was begun with: put that file "
                "back, or choose another run_dir"
            )


def grows(before: Mapping[str, Any], plan: SearchPlan) -> bool:
    """Tell whether a stored search is asked for again with more trials; the rungs of halving allow no more."""
    kept, asked = before["trials"], plan.asked.trials
    return None not in (kept, asked) and kept < asked and before["halving"] is plan.asked.halving is None


def forget_members(run_dir: Path) -> None:
    """Remove what was trained with the best settings, which more trials may change. Raises StorageError."""
    try:
        for path in [*(run_dir / "checkpoints").glob("*.h5"), run_dir / journal.JOURNAL, run_dir / BEST_SETTINGS]:
            path.unlink(missing_ok=True)
        if (run_dir / "members").exists():
            shutil.rmtree(run_dir / "members")
    except OSError as error:
        raise StorageError(f"{run_dir}: cannot be written: {error.strerror}") from error


def begin(run_dir: Path, plan: SearchPlan, fingerprint: Mapping[str, str]) -> None:
    """Write search.json. Raises StorageError."""
    text = json.dumps({"format": FORMAT, **plan.described(), "fingerprint": fingerprint}, indent=1)
    write_atomically(run_dir / SEARCH, text.encode() + b"\n")


def tell(folder: Path, event: str, **values: Any) -> None:
    """Append an event to search.jsonl. Raises StorageError."""
    path = folder / SEARCH_EVENTS
    line = json.dumps({"event": event, "time": utc_now(), **values}).encode() + b"\n"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def write_best(run_dir: Path, config: Config, words: str) -> None:
    """Write best.toml: every key that is not at its default, but for those of the place where it was found."""
    lines = [f"# {printable(words)}"]
    usual = configuration.to_dict(Config())
    for name, value in configuration.to_dict(config).items():
        if value != usual[name] and value is not None and name not in ("run_dir", "quiet", "debug", "max_seconds"):
            lines.append(f"{name} = {_toml(value)}")
    write_atomically(run_dir / BEST_SETTINGS, ("\n".join(lines) + "\n").encode())


def is_largest_best(monitor: str) -> bool:
    """Tell whether the largest values of a monitored figure are the best."""
    return DIRECTIONS[monitor.split(":")[0].split("_", 1)[1]] == "max"


def _toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):  # as JSON, but that has escapes for half a character, and none for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _difference(name: str, before: Any, now: Any, run_dir: Path) -> str:
    return f"{name} = {now}, but the search in {run_dir} has {name} = {before}: keep it, or choose another run_dir"
