"""Rows are rounded once where a run leaves room for them, and passes them more than once."""

from dataclasses import replace

import pytest

from ddp_mlp.config import Config
from ddp_mlp.data.memory import MemorySource
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.training import memory
from ddp_mlp.training.building import architecture_of
from ddp_mlp.training.in_memory import train_in_memory
from ddp_mlp.training.needs import Rows, needs, parameter_bytes
from ddp_mlp.verification.portable import COMMON, data_for

CONFIG = Config(**COMMON)


def is_rounded(config: Config) -> bool:
    """Tell whether rows are rounded for a run alone."""
    data = data_for(config, weighted=True)
    found = memory.rounded_where_it_fits(config, data, SingleProcess())
    before, after = data.train[0], found.train[0]
    assert isinstance(before, MemorySource)
    assert isinstance(after, MemorySource)
    return after.X is not before.X


def test_only_what_is_passed_again_is_rounded() -> None:
    """In portable arithmetic, with several epochs."""
    assert CONFIG.epochs > 1
    assert is_rounded(CONFIG)
    assert not is_rounded(replace(CONFIG, epochs=1))
    assert not is_rounded(replace(CONFIG, arithmetic="native"))


@pytest.mark.parametrize("name", ["free_on_a_node", "address_space_left"])
def test_a_run_needs_its_memory_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of what it leaves is enough for the rows, and a byte less is not; its bits are the same."""
    data = data_for(CONFIG, weighted=True)
    source = data.train[0]
    assert isinstance(source, MemorySource)
    count, network = Rows(source.m, source.m), architecture_of(CONFIG, data)
    if data.train[1] is not None:
        count = Rows(len(data.train[1]), source.m)
    taken = needs(CONFIG, data.info, network, count, SingleProcess()).memory
    enough = taken + parameter_bytes(CONFIG, network.layout) + 4 * 4 * source.X.size
    hashes = []
    for room, expected in ((enough, True), (enough - 1, False)):
        monkeypatch.setattr(memory, name, lambda *_, room=room: room)
        assert is_rounded(CONFIG) == expected
        hashes.append(train_in_memory(CONFIG, data, SingleProcess()).final["parameters_sha256"])
    assert hashes[0] == hashes[1]
