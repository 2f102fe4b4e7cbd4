"""A search as its folder tells it, for the report."""

import json
from pathlib import Path
from typing import Any

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.reporting.searches import SearchLog
from ddp_mlp.trials import files, table
from ddp_mlp.trials.course import order_of


def read(folder: Path) -> SearchLog | None:
    """Return what is known of the search in a folder; None where there is none. Raises DataError, StorageError."""
    stored = files.stored(folder)
    if stored is None:
        return None
    path = folder / files.SEARCH_EVENTS
    try:
        text = path.read_text() if path.exists() else ""
        events = [_event(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not a search's: {error}") from error
    rows = table.read(folder / table.TABLE)
    monitor = stored["config"]["monitor"]
    largest = files.is_largest_best(monitor)
    return SearchLog(folder, monitor, largest, order_of(rows.values(), largest), rows, events)


def _event(line: str) -> dict[str, Any]:
    """Return a line's event. Raises ValueError where it is none."""
    found = json.loads(line)
    if not isinstance(found, dict) or "event" not in found:
        raise ValueError("a line is not an event of a search")
    return found
