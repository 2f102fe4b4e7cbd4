"""Where a step's time goes: seconds by phase, and on request every phase's start and end for a trace.

A phase lasts from its `enter` to the next one. Entering costs about 0.1 µs, so that it is always on.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, thread_time

from ddp_mlp.errors import StorageError
from ddp_mlp.parallel.communicator import Communicator

PHASES = ("gather", "forward", "backward", "sum", "update", "waiting", "between")
"""Rows into buffers; z, A; dz, dW, db and the tree within the rank; the tree between ranks; the optimizer; for other
ranks, and bytes on their way; all that is not a step: logging, evaluation, checkpoints."""
OTHERS = ("waiting", "between")
"""The phases that are no part of what a rank computes in a step."""


class Phases:
    """The clock of one rank. Local."""

    def __init__(self, trace: bool = False) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        """Of each phase, since the beginning."""
        self.trace: list[tuple[str, float, float]] | None = [] if trace else None
        """(phase, start, end) of every phase in seconds of `time.perf_counter`, where asked for."""
        self._phase, self._since = "between", perf_counter()
        self._computed: float | None = None
        """Processor seconds in the phases that compute, where they are counted."""
        self._thread_since = 0.0
        self._laps: dict[str, dict[str, float]] = {}

    def enter(self, phase: str) -> None:
        """End the present phase and begin another."""
        now = perf_counter()
        self.seconds[self._phase] += now - self._since
        if self.trace is not None:
            self.trace.append((self._phase, self._since, now))
        if self._computed is not None:
            taken = thread_time()
            self._computed += 0.0 if self._phase in OTHERS else taken - self._thread_since
            self._thread_since = taken
        self._phase, self._since = phase, now

    def count_processor(self) -> None:
        """Count processor time too from now on; another 1 to 2 µs a phase."""
        self._computed, self._thread_since = 0.0, thread_time()

    def computed(self) -> float | None:
        """Return this thread's processor seconds in phases that compute since this was last asked, where counted."""
        self.enter(self._phase)
        found = self._computed
        self._computed = None if found is None else 0.0
        return found

    def lap(self, name: str) -> dict[str, float]:
        """Return the seconds of each phase since the last lap of this name, or the beginning."""
        self.enter(self._phase)
        last = self._laps.get(name, {})
        self._laps[name] = dict(self.seconds)
        return {phase: seconds - last.get(phase, 0.0) for phase, seconds in self.seconds.items()}


def write_trace(path: Path, traces: Sequence[Sequence[tuple[str, float, float]]], zero: Sequence[float]) -> None:
    """Write what every rank did when as a Chrome trace, which chrome://tracing and Perfetto show; local.

    `traces` are the ranks' `Phases.trace`; `zero` is the time of one moment on each rank's clock.
    Raises StorageError. Format: "Trace Event Format", Google, complete events ("ph": "X") in microseconds.
    """
    spans = [
        (phase, rank, (start - zero[rank]) * 1e6, (end - start) * 1e6)
        for rank, trace in enumerate(traces)
        for phase, start, end in trace
        if phase != "between"
    ]
    first = min((start for _, _, start, _ in spans), default=0.0)
    events = [
        {"name": phase, "ph": "X", "pid": 0, "tid": rank, "ts": start - first, "dur": duration}
        for phase, rank, start, duration in spans
    ]
    names = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": rank, "args": {"name": f"rank {rank}"}}
        for rank in range(len(traces))
    ]
    try:
        path.write_text(json.dumps({"traceEvents": names + events}))
    except OSError as error:
        raise StorageError(f"trace = {path}: cannot be written: {error.strerror}; choose another") from error


def write_traces(path: str, phases: Phases, communicator: Communicator) -> None:
    """Have rank 0 write what all ranks did when; nothing where no trace was kept. Collective. Raises StorageError."""
    if phases.trace is not None:
        communicator.barrier()
        traces, now = zip(*communicator.allgather((phases.trace, perf_counter())), strict=True)
        communicator.on_rank_0(write_trace, Path(path), traces, now)
