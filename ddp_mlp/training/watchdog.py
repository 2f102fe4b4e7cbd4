"""A watchdog for each rank: it ends a rank that makes no progress, even one that waits in MPI for a rank that is gone.

- It looks from before the data are read until the last line. A step is progress once it is done; as a run starts,
  which may take long, so is work: processor time, bytes read, on this rank or on another one of its node.
- Each rank notes where it is in a record that its whole node can read, in plain memory: no MPI call is needed to beat,
  to look, or to end.
- A thread compares. It counts its own ticks rather than the clock, so that a job that was suspended as a whole, and
  goes on, is left alone.
- A record whose thread no longer ticks is that of a process that is stopped, or gone.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ddp_mlp import parallel
from ddp_mlp.errors import Interrupted
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import host_name
from ddp_mlp.run_dir.saving import GO_ON

RECORD = np.dtype(
    [
        ("pid", "<i8"),
        ("step", "<i8"),
        ("beats", "<i8"),
        ("beat", "<f8"),
        ("tick", "<f8"),
        ("phase", "S32"),
        ("at", "S96"),
    ]
)
"""Of one rank: its process, step, how often it has come to a new place and when last, when its thread last looked, what
the rank was doing, and the line of the program it was at. Times are the node's monotonic clock, in seconds."""
LONGEST_TICK = 1.0
"""Seconds between two looks, at most."""
STARTING = ("reading data", "start")
"""Phases before the first step, in which work is progress."""


class Watchdog:
    """Watches this rank while it is entered; a context manager. Collective to make, the rest is local."""

    def __init__(self, communicator: Communicator, stall_seconds: float) -> None:
        """With stall_seconds = 0 it never ends anything."""
        self._communicator, self._stall_seconds = communicator, stall_seconds
        self.again = GO_ON
        """What makes the run go on after a stop."""
        self._records: list[NDArray[Any]] = [
            shared.view(RECORD) for shared in communicator.share(RECORD.itemsize, np.dtype(np.uint8))
        ]
        self._mine = self._records[communicator.local_rank]
        self._mine["pid"], self._mine["tick"] = os.getpid(), time.monotonic()
        self._tick_seconds = min(LONGEST_TICK, stall_seconds / 5)
        self._watched = threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.at("start", 0)

    def __enter__(self) -> Self:
        if self._stall_seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def at(self, phase: str, step: int) -> None:
        """Note that this rank has come to a new place: this is a heartbeat."""
        mine = self._mine
        mine["phase"], mine["step"], mine["beat"] = phase.encode(), step, time.monotonic()
        mine["beats"] += 1

    def _watch(self) -> None:
        seen, work, still, worked = -1, _Work(self._watched), 0.0, 0.0
        while not self._stopped.wait(self._tick_seconds):
            place = self._place()
            self._mine["tick"], self._mine["at"] = time.monotonic(), place.encode()
            starting = self._mine["phase"][0].decode() in STARTING
            if starting and work.has_been_done() and not _waits(place):
                self._mine["beats"] += 1
                worked += self._tick_seconds
            beats = sum(int(record["beats"][0]) for record in (self._records if starting else [self._mine]))
            seen, still = beats, (still + self._tick_seconds if beats == seen else 0.0)
            elsewhere = worked if starting and len(self._communicator.nodes) > 1 else 0.0
            if still >= self._stall_seconds + elsewhere:  # another node may have as much to do as this one had
                self._end(still)

    def _end(self, still: float) -> None:
        """End all ranks; the first one of the node that still can says why."""
        alive = [self._ticks(record) for record in self._records]
        if alive.index(True) == self._communicator.local_rank:
            print(f"error: {self.report(still)}", file=sys.stderr, flush=True)
        else:
            time.sleep(1)  # let it be said first
        self._communicator.abort(Interrupted.exit_code)

    def report(self, still: float) -> str:
        """Return one line: where this rank has stood for `still` seconds, and which rank it may be waiting for."""
        first = self._communicator.rank - self._communicator.local_rank
        places = [
            f"rank {first + i} (process {record['pid'][0]}) was last seen {self._seen(record)} in {_where(record)}"
            for i, record in enumerate(self._records)
        ]
        stopped = [p + " and does not run" for p, r in zip(places, self._records, strict=True) if not self._ticks(r)]
        busy = [p for p, r in zip(places, self._records, strict=True) if not _waits(r["at"][0].decode())]
        elsewhere = [] if len(self._communicator.nodes) == 1 else ["all ranks of this host wait for another host"]
        suspects = stopped or busy or elsewhere or places
        return (
            f"rank {self._communicator.rank} on {host_name()}: no progress for {still:.0f} s in {_where(self._mine)}; "
            f"{'; '.join(suspects)}; {self.again} from the last checkpoint "
            f"(stall_seconds = {self._stall_seconds:g})"
        )

    def _ticks(self, record: NDArray[Any]) -> bool:
        late = 3 * self._tick_seconds + 1
        return record is self._mine or bool(time.monotonic() - record["tick"][0] < late)

    def _seen(self, record: NDArray[Any]) -> str:
        last = record["beat"][0] if self._ticks(record) else record["tick"][0]
        return f"{time.monotonic() - last:.0f} s ago"

    def _place(self) -> str:
        """Return the program's innermost line that the watched thread is at."""
        package = Path(parallel.__file__).parents[1]
        frame: FrameType | None = sys._current_frames().get(self._watched)
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(str(package)):
                return f"{code.co_name}, {Path(code.co_filename).relative_to(package)}:{frame.f_lineno}"
            frame = frame.f_back
        return ""


def _where(record: NDArray[Any]) -> str:
    """Return step, phase and line of a record."""
    phase, line = record["phase"][0].decode(errors="replace"), record["at"][0].decode(errors="replace")
    return f"step {record['step'][0]}, {phase}" + (f" ({line})" if line else "")


class _Work:
    """Whether a thread has worked since this was last asked: used the processor, or read. Local."""

    def __init__(self, thread: int) -> None:
        self._thread, self._before = thread, (0.0, b"")
        number = next((t.native_id for t in threading.enumerate() if t.ident == thread), None)
        self._io = Path(f"/proc/self/task/{number}/io")

    def has_been_done(self) -> bool:
        """Tell, and begin anew."""
        read = b""
        with suppress(OSError):
            read = self._io.read_bytes().split()[1]
        if hasattr(time, "pthread_getcpuclockid"):
            seconds = round(time.clock_gettime(time.pthread_getcpuclockid(self._thread)), 2)
        else:
            seconds = round(time.process_time(), 2)
        now = (seconds, read)
        before, self._before = self._before, now
        return now != before


def _waits(place: str) -> bool:
    """Tell whether a line of the program is one at which it waits for other ranks."""
    return " parallel/" in place
