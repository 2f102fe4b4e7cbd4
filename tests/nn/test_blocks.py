"""Functions of one block serve any array, and threads do not share what they form on the way."""

import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import blocks, elementary
from ddp_mlp.nn.blocks import BLOCK, Block, in_blocks
from ddp_mlp.nn.formulas import BlockRoom


@in_blocks()
def twice_plus_one(x: Block, out: Block, room: BlockRoom) -> None:
    """Return 2 x + 1, by way of the room."""
    np.multiply(x, 2.0, room.vectors[0])
    np.add(room.vectors[0], 1.0, out)


@pytest.mark.parametrize("size", [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_every_size_is_served(size: int) -> None:
    """Less than a block, a block, and more."""
    x = np.arange(float(size))
    assert twice_plus_one(x).tobytes() == (2 * x + 1).tobytes()
    assert twice_plus_one(x, out=x) is x
    assert x.tobytes() == (2 * np.arange(float(size)) + 1).tobytes()


def test_the_room_is_as_long_as_the_block_and_starts_on_cache_lines() -> None:
    """Vectors lie apart, each on a line of its own."""
    for size in (1, 8, 9, BLOCK):
        room = blocks.ROOMS.of(size).vectors
        assert [vector.shape for vector in room] == [(size,)] * blocks.ROOM
        assert all(vector.ctypes.data % 64 == 0 for vector in room)
        for number, vector in enumerate(room):
            vector[...] = number
        assert [float(vector.sum()) for vector in room] == [float(number * size) for number in range(blocks.ROOM)]


def test_it_is_pickled_by_name() -> None:
    """As functions are."""
    assert pickle.loads(pickle.dumps(elementary.exp)) is elementary.exp


def in_two_threads() -> list[NDArray[np.float64]]:
    """Return what two threads find for zeros and for ones; each reads its room after both have written to theirs."""
    both = threading.Barrier(2, timeout=30)

    @in_blocks()
    def by_way_of_the_room(x: Block, out: Block, room: BlockRoom) -> None:
        np.copyto(room.vectors[0], x)
        both.wait()
        np.copyto(out, room.vectors[0])

    found = [np.zeros(9), np.ones(9)]
    workers = [threading.Thread(target=by_way_of_the_room, args=(x,), kwargs={"out": x}) for x in found]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    return found


def test_each_thread_has_a_room_of_its_own() -> None:
    """What one forms on the way, the other does not see."""
    zeros, ones = in_two_threads()
    assert (zeros == 0).all()
    assert (ones == 1).all()


def test_one_room_for_all_threads_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the same memory for everybody."""
    room = blocks.ROOMS.of(9)
    monkeypatch.setattr(blocks, "ROOMS", SimpleNamespace(of=lambda n: room))
    zeros, ones = in_two_threads()
    assert (zeros == ones).all()
