"""Bytes and counts in words."""

import pytest

from ddp_mlp.units import byte_size, counted


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


def test_counts_in_words() -> None:
    """One is singular; nothing, and more, are not; a noun that ends in s gets es."""
    assert [counted(n, "rank") for n in (0, 1, 2, 4096)] == ["0 ranks", "1 rank", "2 ranks", "4,096 ranks"]
    assert [counted(n, "class") for n in (1, 10)] == ["1 class", "10 classes"]
