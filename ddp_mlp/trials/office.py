"""How letters get to the dispatcher and back: by MPI between ranks, by a queue on rank 0, at once in one process.

The dispatcher has a thread of its own on rank 0, which trains like any other rank. A training there may take long
between two looks at the post; a group that has become free must not wait for it.
"""

import threading
import time
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from ddp_mlp.parallel.communicator import Communicator, end_on_exception
from ddp_mlp.trials.dispatcher import Dispatcher

NAP_SECONDS = 0.005
"""Between two looks for letters: each look takes the interpreter from rank 0's own training."""


class RankPost:
    """The post of a rank that is not rank 0."""

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator

    def tell(self, letter: Any) -> None:
        """Send a letter to the dispatcher; returns at once."""
        self._communicator.post(letter, 0)

    def look(self) -> Any:
        """Return the next letter from the dispatcher, or None."""
        found = self._communicator.collect()
        return None if found is None else found[1]


class Office:
    """The dispatcher's place on rank 0, and rank 0's own post; a context manager. Local."""

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self._dispatcher: Dispatcher | None = None
        self._in: SimpleQueue[Any] = SimpleQueue()
        self._out: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def send(self, rank: int, letter: Any) -> None:
        """Send a rank a letter; returns at once."""
        if rank == 0:
            self._out.put(letter)
        else:
            self._communicator.post(letter, rank)

    def open(self, dispatcher: Dispatcher) -> Self:
        """Let the dispatcher work as long as the context lasts."""
        self._dispatcher = dispatcher
        return self

    def __enter__(self) -> Self:
        if self._communicator.size > 1:
            self._thread = threading.Thread(target=self._work, name="dispatcher", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error that rank 0 met alone the dispatcher never ends; the job is about to.
        if self._thread is not None and self._dispatcher is not None and self._dispatcher.ended:
            self._thread.join()

    def tell(self, letter: Any) -> None:
        """Send a letter to the dispatcher; returns at once."""
        if self._thread is not None:
            self._in.put(letter)
        else:
            self._present.handle(letter)

    def look(self) -> Any:
        """Return the next letter from the dispatcher, or None."""
        if self._thread is None:
            self._present.tick()
        return _next(self._out)

    @property
    def _present(self) -> Dispatcher:
        assert self._dispatcher is not None, "opened"
        return self._dispatcher

    def _work(self) -> None:
        """Handle letters until the search is over. In the dispatcher's thread."""
        try:
            while not self._present.ended:
                letter = _next(self._in)
                if letter is None and (found := self._communicator.collect()) is not None:
                    letter = found[1]
                if letter is not None:
                    self._present.handle(letter)
                else:
                    self._present.tick()
                    time.sleep(NAP_SECONDS)
        except BaseException:
            end_on_exception(self._communicator)


def _next(queue: "SimpleQueue[Any]") -> Any:
    try:
        return queue.get_nowait()
    except Empty:
        return None
