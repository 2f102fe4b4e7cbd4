"""A simulated MPI: P ranks as threads of one process, whose every interleaving is a function of a seed.

It implements the program's `Communicator`, and takes the place of no MPI in any test of MPI itself.

- Ranks are threads, of which exactly one runs at a time. They change places at communicator calls (and where a test
  calls `pause`); who goes on, and when a message arrives, the seed decides. So a seed that fails, fails again.
- Semantics are the loosest that MPI allows: a rank leaves a collective as soon as what *it* needs is there; bytes may
  be read from the sender's buffer until the sender leaves, and written to the receiver's any time before it leaves.
- Memory of a node is one array that all its ranks see at once: a missing barrier shows.
- Ranks that wait for one another for ever are a `Deadlock`, ranks that call different things a `Mismatch`.
"""

import pickle
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ProgramError
from ddp_mlp.parallel.communicator import Communicator, zeros_on_a_page

T = TypeVar("T")


def _always() -> bool:
    return True


class Deadlock(Exception):
    """Every rank that has not ended waits, and no message is on its way."""


class Mismatch(Exception):
    """Two ranks have come to the same collective call with different calls."""


class JobEnded(BaseException):
    """The job has ended under a rank: another one failed, or called `abort`. Not to be caught by a program."""


class Aborted(Exception):
    """A rank has called `abort`."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"abort({exit_code})")
        self.exit_code = exit_code


@dataclass
class _Meeting:
    """One collective call: what each rank that has come brought along."""

    kind: str
    brought: dict[int, Any] = field(default_factory=dict)
    left: int = 0
    """Messages that have not arrived."""


@dataclass
class _Message:
    """Elements on their way; `source` is the sender's buffer itself where it may be read until the sender leaves."""

    meeting: _Meeting
    sender: int
    receiver: int
    source: NDArray[Any]
    number: int


class World:
    """P ranks on nodes of `node_size`, for one run of one program."""

    def __init__(self, size: int, seed: int, node_size: int | None = None) -> None:
        self.name = f"World(size={size}, seed={seed}, node_size={node_size})"
        width = node_size or size
        self.nodes = [range(lo, min(lo + width, size)) for lo in range(0, size, width)]
        self.ranks = [Rank(self, rank, size) for rank in range(size)]
        self.choices: list[int] = []
        """What went on at each turn: a rank, or P + the receiver of a message."""
        self._random = random.Random(seed)
        # Two ways to choose: evenly, or by priorities that seldom change, which let ranks run far ahead of others
        # (Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding bugs", ASPLOS 2010).
        self._priority = None if seed % 2 else [self._random.random() for _ in range(2 * size)]
        self._go = [threading.Lock() for _ in range(size)]
        """Held, but for the moment at which a rank is told to go on."""
        for lock in self._go:
            lock.acquire()
        self._all_done = threading.Event()
        self._ready: list[Callable[[], bool] | None] = [_always] * size
        self._where = ["start"] * size
        self._messages: list[_Message] = []
        self._meetings: dict[tuple[Any, int], _Meeting] = {}
        self._outcomes: list[Any] = [None] * size
        self._failure: BaseException | None = None

    def run(self, program: Callable[[Communicator], T]) -> list[T]:
        """Call program(communicator) on every rank and return the results in rank order.

        Raises the ProgramError that all ranks ended with; or the exception with which one rank alone ended the job.
        """
        threads = [threading.Thread(target=self._live, args=(rank, program), daemon=True) for rank in self.ranks]
        for thread in threads:
            thread.start()
        self._go[self._next()].release()
        self._all_done.wait()
        for thread in threads:
            thread.join()
        errors = [outcome for outcome in self._outcomes if isinstance(outcome, ProgramError)]
        if self._failure is None and errors:
            if len({(type(error), str(error), error.found_by) for error in errors}) > 1 or len(errors) < len(threads):
                self._failure = AssertionError(f"the ranks end differently: {self._outcomes}")
            else:
                raise errors[0]
        if self._failure is not None:
            self._failure.add_note(f"replay with {self.name}")
            raise self._failure
        return self._outcomes

    # ---- turns -------------------------------------------------------------------------------------------------------

    def wait(self, rank: int, where: str, ready: Callable[[], bool] = _always) -> None:
        """Let others go on, until this rank is chosen and what it waits for is there."""
        if self._failure is None:
            self._ready[rank], self._where[rank] = ready, where
            try:
                chosen = self._next()
            except Deadlock as deadlock:
                self.fail(deadlock)
            if chosen != rank:
                self._go[chosen].release()
                self._go[rank].acquire()
        if self._failure is not None:
            raise JobEnded

    def fail(self, error: BaseException) -> NoReturn:
        """End the job on all ranks because of this rank's error."""
        self._failure = self._failure or error
        raise JobEnded

    def _live(self, rank: "Rank", program: Callable[[Communicator], Any]) -> None:
        self._go[rank.rank].acquire()
        try:
            if self._failure is None:
                self._outcomes[rank.rank] = program(rank)
        except JobEnded:
            pass
        except BaseException as error:
            if isinstance(error, ProgramError) and error.found_by is not None:
                self._outcomes[rank.rank] = error  # every rank raises it, and ends by itself
            else:
                self._failure = self._failure or error
        self._ready[rank.rank] = None
        try:
            self._go[self._next()].release()
        except Deadlock as deadlock:
            self._failure = self._failure or deadlock
            self._go[self._next()].release()
        except StopIteration:
            self._all_done.set()

    def _next(self) -> int:
        """Choose the rank that goes on, after any messages that arrive before. Raises Deadlock, or StopIteration."""
        while True:
            alive = [rank for rank, ready in enumerate(self._ready) if ready is not None]
            if not alive:
                raise StopIteration
            if self._failure is not None:
                return alive[0]
            size = len(self.ranks)
            able = [rank for rank in alive if self._ready[rank]()]  # type: ignore[misc] # alive: not None
            arriving = [size + m.receiver for m in self._messages if m.receiver in m.meeting.brought]
            if not able and not arriving:
                places = ", ".join(f"rank {r} in {self._where[r]}" for r in alive)
                ended = "" if len(alive) == size else f"; {size - len(alive)} rank(s) have ended"
                raise Deadlock(f"{places}{ended}")
            chosen = self._choose(able + arriving)
            self.choices.append(chosen)
            if chosen < size:
                return chosen
            self._deliver(chosen - size)

    def _choose(self, events: list[int]) -> int:
        if self._priority is None:
            return self._random.choice(events)
        if self._random.random() < 0.05:
            self._priority[self._random.randrange(len(self._priority))] = self._random.random()
        priority = self._priority
        return max(events, key=lambda event: priority[event])

    # ---- meetings and messages ---------------------------------------------------------------------------------------

    def meet(self, rank: "Rank", group: Any, kind: str, brought: Any = None) -> _Meeting:
        """Come to the group's next collective call."""
        number = rank.calls[group] = rank.calls.get(group, 0) + 1
        meeting = self._meetings.setdefault((group, number), _Meeting(kind))
        if meeting.kind != kind:
            others = ", ".join(map(str, meeting.brought))
            self.fail(Mismatch(f"call {number} of {group}: {kind} on rank {rank.rank}, {meeting.kind} on {others}"))
        meeting.brought[rank.rank] = brought
        return meeting

    def send(self, meeting: _Meeting, sender: int, receiver: int, source: NDArray[Any], number: int) -> None:
        """Put elements on their way: copied now, or left in the sender's buffer until they arrive."""
        eager = self._random.random() < 0.5
        self._messages.append(_Message(meeting, sender, receiver, source.copy() if eager else source, number))

    def outstanding(self, meeting: _Meeting, rank: int) -> bool:
        """Tell whether messages of this meeting to or from a rank have not arrived."""
        return any(m.meeting is meeting and rank in (m.sender, m.receiver) for m in self._messages)

    def shuffled(self, items: list[T]) -> list[T]:
        """Return the items in an order of the seed's."""
        return self._random.sample(items, len(items))

    def _deliver(self, receiver: int) -> None:
        waiting = [m for m in self._messages if m.receiver == receiver and receiver in m.meeting.brought]
        message = self._random.choice(waiting)
        self._messages.remove(message)
        target: list[NDArray[Any]] = message.meeting.brought[receiver]
        target[message.number][...] = message.source


class Rank(Communicator):
    """One rank of a `World`."""

    library = "simulated"

    def __init__(self, world: World, rank: int, size: int) -> None:
        self.world, self.rank, self.size, self.nodes = world, rank, size, world.nodes
        self.node = next(i for i, ranks in enumerate(world.nodes) if rank in ranks)
        self.calls: dict[Any, int] = {}
        self.letters: list[tuple[int, bytes]] = []
        self._shares = False

    def pause(self) -> None:
        """Let other ranks go on here."""
        self.world.wait(self.rank, "pause")

    def broadcast(self, value: T) -> T:
        meeting = self.world.meet(self, "all", "broadcast", pickle.dumps(value) if self.rank == 0 else None)
        self.world.wait(self.rank, "broadcast", lambda: 0 in meeting.brought)
        return pickle.loads(meeting.brought[0])  # type: ignore[no-any-return]

    def allgather(self, value: T) -> list[T]:
        brought = self._all_of("all", range(self.size), "allgather", pickle.dumps(value))
        return [pickle.loads(pickled) for pickled in brought]

    def barrier(self) -> None:
        self._all_of("all", range(self.size), "barrier")

    def share(self, count: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        self._shares = True
        mine = zeros_on_a_page(count, dtype)
        here = self.nodes[self.node]
        return self._all_of(("node", self.node), here, "share", mine) if len(here) > 1 else [mine]

    def node_barrier(self) -> None:
        self._all_of(("node", self.node), self.nodes[self.node], "node_barrier")

    def Exchange(self, send: NDArray[Any], sent: Sequence[int], receive: NDArray[Any], received: Sequence[int]) -> None:
        here, incoming = self.node, _parts(receive, received)
        outgoing = dict(enumerate(_parts(send, sent)))
        incoming[here][...] = outgoing.pop(here)
        self._move(("column", self.local_rank), "Exchange", outgoing, dict(enumerate(incoming)))

    def Swap(self, node: int, send: NDArray[Any], receive: NDArray[Any]) -> None:
        self._move(("pair", self.local_rank, *sorted((self.node, node))), "Swap", {node: send}, {node: receive})

    def Complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        parts = _parts(array[bounds[0] :], [int(n) for n in np.diff(bounds)])
        outgoing = {node: parts[self.node] for node in range(len(parts)) if node != self.node}
        self._move(("column", self.local_rank), "Complete", outgoing, dict(enumerate(parts)))

    def Gather(self, part: NDArray[Any], counts: Sequence[int]) -> NDArray[Any] | None:
        meeting = self.world.meet(self, "all", "Gather", part.copy())
        needed = range(self.size) if self.rank == 0 else ()
        self.world.wait(self.rank, "Gather", lambda: all(rank in meeting.brought for rank in needed))
        if self.rank:
            return None
        assert [len(meeting.brought[rank]) for rank in range(self.size)] == list(counts), "parts are as announced"
        return np.concatenate([meeting.brought[rank] for rank in range(self.size)])

    def Allreduce(self, array: NDArray[Any]) -> None:
        meeting = self.world.meet(self, "all", "Allreduce", (array.copy(), self.world.shuffled([*range(self.size)])))
        self.world.wait(self.rank, "Allreduce", lambda: len(meeting.brought) == self.size)
        first, *others = meeting.brought[0][1]  # one order, the library's own
        array[...] = meeting.brought[first][0]
        for other in others:
            array += meeting.brought[other][0]

    def split(self, color: int | None) -> Communicator | None:
        raise NotImplementedError("a simulated world stays whole")

    def apart(self) -> Communicator:
        raise NotImplementedError("a simulated world has nodes of `node_size`")

    def post(self, value: Any, rank: int) -> None:
        self.world.ranks[rank].letters.append((self.rank, pickle.dumps(value)))

    def collect(self) -> tuple[int, Any] | None:
        self.world.wait(self.rank, "collect")
        if not self.letters:
            return None
        sender, pickled = self.letters.pop(0)
        return sender, pickle.loads(pickled)

    def close(self) -> None:
        if self._shares:
            self._all_of(("node", self.node), self.nodes[self.node], "close")

    def free(self) -> None:
        pass

    def leave(self, exit_code: int, patience: float | None = None) -> NoReturn:
        raise NotImplementedError("a simulated rank ends by returning")

    def abort(self, exit_code: int) -> NoReturn:
        self.world.fail(Aborted(exit_code))

    def _all_of(self, group: Any, ranks: range, kind: str, brought: Any = None) -> list[Any]:
        """Wait until all ranks of a group have come; return what they brought."""
        meeting = self.world.meet(self, group, kind, brought)
        self.world.wait(self.rank, kind, lambda: len(meeting.brought) == len(ranks))
        return [meeting.brought[rank] for rank in ranks]

    def _move(
        self, group: Any, kind: str, outgoing: dict[int, NDArray[Any]], incoming: dict[int, NDArray[Any]]
    ) -> None:
        """Send parts to other nodes' counterparts, by node; leave when what goes and what comes has arrived."""
        meeting = self.world.meet(self, group, kind, incoming)
        for node, part in outgoing.items():
            self.world.send(meeting, self.rank, self.nodes[node][self.local_rank], part, self.node)

        def arrived() -> bool:
            return len(meeting.brought) > len(outgoing) and not self.world.outstanding(meeting, self.rank)

        self.world.wait(self.rank, kind, arrived)


def _parts(array: NDArray[Any], counts: Sequence[int]) -> list[NDArray[Any]]:
    bounds = np.cumsum([0, *counts]).tolist()
    return [array[lo:hi] for lo, hi in pairwise(bounds)]
