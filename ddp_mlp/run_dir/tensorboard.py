"""A run's events as TensorBoard event files: scalars, and histograms of all weights after epochs. Rank 0 alone.

A resumed run writes a further file that begins with a session start, by which TensorBoard drops what an earlier file
says about later steps; so that its curves are those of the journal. TensorBoard takes the files by name, which begins
with the second of their making: a file's second is later than that of every other there, be they made within one second
or on a node whose clock is behind. Epochs may be over in milliseconds, and encoding takes as long as a step: so events
are encoded once a second, and histograms are made as often at most, and at the end.
"""

import math
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError, StorageError
from ddp_mlp.run_dir.journal import Event

FOLDER = "tensorboard"
"""The event files' folder in a run's folder."""
BUCKETS = 30
ENCODE_SECONDS = 1.0
"""Least time between two encodings of the events since, and between the histograms of two epochs."""


class TensorBoard:
    """An event file that a run adds to. Local."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin a file in `folder` for the steps after `step`. Raises ConfigError where there is no TensorBoard."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.histogram import metadata
            from tensorboard.summary.writer.record_writer import RecordWriter
            from tensorboard.util import tensor_util
        except ImportError as error:
            raise ConfigError('tensorboard = true: needs TensorBoard: pip install "ddp_mlp[tensorboard]"') from error
        self._folder = folder
        self._waiting: list[tuple[float, Event]] = []
        self._next_encoding = self._next_histograms = -math.inf
        self._histograms_of = step
        self._events, self._summaries, self._tensors = event_pb2, summary_pb2, tensor_util
        self._is_histogram = metadata.create_summary_metadata(display_name=None, description=None)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = RecordWriter(_next_path(folder).open("xb"))
        began = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(time.time(), 0, file_version="brain.Event:2")
        self._add(time.time(), step + 1, session_log=began)

    def event(self, event: Event, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Add an event's figures as scalars, `step/loss` for the loss of a step event. Raises StorageError.

        Its seconds per phase stay in the journal. With an epoch's end, and the run's, come histograms of the
        parameters.
        """
        self._waiting.append((time.time(), event))
        if time.monotonic() >= self._next_encoding:
            self._encode()
        if event["event"] in ("epoch", "final"):
            self._weights(event["step"], parameters, last=event["event"] == "final")

    def close(self) -> None:
        """Bring all that was added into the file. Raises StorageError."""
        self._encode()
        with _writing(self._folder):
            self._file.close()

    def _weights(self, step: int, arrays: Mapping[str, NDArray[Any]], last: bool) -> None:
        """Add a histogram of each array, `weights/W1` for W1, if it is time or they are the last. StorageError."""
        now = time.monotonic()
        if step == self._histograms_of or (now < self._next_histograms and not last):
            return
        self._next_histograms, self._histograms_of = now + ENCODE_SECONDS, step
        values = []
        for name, array in arrays.items():
            counts, edges = np.histogram(array.ravel("K"), BUCKETS)
            buckets = np.column_stack([edges[:-1], edges[1:], counts]).astype(np.float64)
            tensor = self._tensors.make_tensor_proto(buckets)
            values.append(
                self._summaries.Summary.Value(tag=f"weights/{name}", metadata=self._is_histogram, tensor=tensor)
            )
        self._add(time.time(), step, summary=self._summaries.Summary(value=values))

    def _encode(self) -> None:
        self._next_encoding = time.monotonic() + ENCODE_SECONDS
        waiting, self._waiting = self._waiting, []
        for wall_time, event in waiting:
            values = [
                self._summaries.Summary.Value(tag=f"{event['event']}/{name}", simple_value=value)
                for name, value in event.items()
                if isinstance(value, float) and not name.startswith("seconds")
            ]
            if values:
                self._add(wall_time, event["step"], summary=self._summaries.Summary(value=values))
        with _writing(self._folder):
            self._file.flush()

    def _add(self, wall_time: float, step: int, **content: Any) -> None:
        event = self._events.Event(wall_time=wall_time, step=step, **content)
        with _writing(self._folder):
            self._file.write(event.SerializeToString())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the system says against writing in `folder` into a StorageError."""
    try:
        yield
    except OSError as error:
        remedy = "mend that, or go on with --tensorboard false"
        raise StorageError(f"{folder}: cannot be written: {error.strerror}; {remedy}") from error


def _next_path(folder: Path) -> Path:
    """Return a path for an event file that TensorBoard reads after those in `folder`."""
    names = (re.match(r"events\.out\.tfevents\.(\d{10})\.", path.name) for path in folder.iterdir())
    latest = max((int(name[1]) for name in names if name), default=0)
    second = max(int(time.time()), latest + 1)
    return folder / f"events.out.tfevents.{second:010d}.{socket.gethostname()}"
