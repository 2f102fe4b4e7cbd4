"""Weights in panels."""

import hashlib

import numpy as np
import pytest

from ddp_mlp.exporting.panels import STACK_BYTES, in_a_file, in_panels
from tests.exported import described


@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 16), ("float64", 8)])
def test_panels_hold_the_weights_and_zeros(dtype: str, lanes: int) -> None:
    """Output j of layer l lies in panel j // lanes, lane j % lanes; the rest is zero."""
    network = described((3, 20, 2), dtype=dtype)
    panels = in_panels(network)
    assert panels.lanes == lanes
    W, b = network.layers[0]
    for j in range(20):
        np.testing.assert_array_equal(panels.parts["W1"][j // lanes, :, j % lanes], W[j])
        assert panels.parts["b1"][j // lanes, j % lanes] == b[j]
    assert not panels.parts["W1"][-1, :, 20 % lanes :].any()
    assert panels.parts["W2"].shape == (1, 20, lanes)
    assert panels.offset("b2") == sum(panels.parts[name].size for name in ("W1", "b1", "W2"))


def test_the_file_is_little_endian_and_named_by_its_hash() -> None:
    """A multiple of 64 bytes."""
    panels = in_panels(described((3, 20, 2)))
    image = panels.image()
    assert len(image) % 64 == 0
    np.testing.assert_array_equal(np.frombuffer(image, "<f4"), panels.flat())
    assert panels.sha256() == hashlib.sha256(image).hexdigest()


@pytest.mark.parametrize(("widths", "groups"), [((4, 3), 8), ((784, 512, 10), 5), ((20_000, 3), 1)])
def test_blocks_fit_a_stack(widths: tuple[int, ...], groups: int) -> None:
    """A block has as many groups of rows as fit, eight at most, one at least."""
    panels = in_panels(described(widths))
    assert panels.groups == groups
    assert groups == 1 or 2 * panels.widest * 8 * 4 * groups <= STACK_BYTES


def test_many_parameters_go_into_a_file() -> None:
    """More than 200,000."""
    assert not in_a_file(described((199, 1000)))  # 200,000 with the biases
    assert in_a_file(described((199, 1001)))
