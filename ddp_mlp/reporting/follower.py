"""Watches the journal of a run that goes on, from any terminal that sees its folder; reads each byte once."""

import os
from pathlib import Path

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.run_dir import journal
from ddp_mlp.run_dir.journal import Event

LATEST = 20
"""Events since the last start that are told when the watch begins."""


class Follower:
    """New events of a journal, each time it is asked; a run that resumes and cuts its journal back is noticed."""

    def __init__(self, path: Path, whole: bool = False) -> None:
        """Watch a journal; `whole`: all its events are told when the watch begins, and when it was cut back."""
        self._path = path
        self._whole = whole
        self._position = 0
        self._last_line = b""
        self._start: Event | None = None
        """The last start event told."""

    def poll(self) -> list[Event]:
        """Return the events written since the last call; none where the journal is not there yet.

        Raises StorageError for what cannot be read, DataError for what is no journal.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._position - len(self._last_line))
                if file.read(len(self._last_line)) == self._last_line:
                    first = self._position == 0
                    return self._told(self._take(file.read()), anew=first)
                file.seek(0)  # cut back: what is told of the present start is told anew
                self._position, self._last_line = 0, b""
                return self._told(self._take(file.read()), anew=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{self._path}: {error}") from error

    def _take(self, text: bytes) -> list[Event]:
        events, taken = journal.parse(text)
        self._position += taken
        if taken:
            self._last_line = text[text.rfind(b"\n", 0, taken - 1) + 1 : taken]
        return events

    def _told(self, events: list[Event], anew: bool) -> list[Event]:
        """Return which events to tell: the new ones or, anew, the last start and the latest since; no start twice."""
        starts = [i for i, event in enumerate(events) if event["event"] == "start"]
        if starts and anew and not self._whole:
            since = events[starts[-1] + 1 :]
            again = events[starts[-1]] == self._start
            events = [] if again else [events[starts[-1]], *since[-LATEST:]]
        if starts:
            self._start = next((event for event in events[::-1] if event["event"] == "start"), self._start)
        return events


def journal_of(folder: Path) -> Path:
    """Return the path of a run's journal, given its folder or the journal itself."""
    return folder if os.path.isfile(folder) else folder / journal.JOURNAL
