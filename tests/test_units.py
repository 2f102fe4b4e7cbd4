"""Bytes in words."""

import pytest

from ddp_mlp.units import byte_size


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2 << 20, "2.0 MiB"),
        (4.2e9, "3.9 GiB"),
        (1000 << 30, "1.0 TiB"),
        (5000 << 40, "5,000.0 TiB"),
    ],
)
def test_bytes_in_words(count: float, words: str) -> None:
    """Units of 1024, one decimal."""
    assert byte_size(count) == words
