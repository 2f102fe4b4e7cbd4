"""Runs of spaces as separators: within quotes they are text."""

import pytest

from ddp_mlp.conversion.spaces import squeezed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"  1   2 \t x  \n\t3 4  y\n", b"1\t2\tx\n3\t4\ty\n"),
        (b'1 "New  York"  2\n', b'1\t"New  York"\t2\n'),
        (b'1  5" 2\n3 6" 4', b'1\t5"\t2\n3\t6"\t4'),
        (b" 1 2 \r\n 3 4 \r\n", b"1\t2\r\n3\t4\r\n"),
        (b"", b""),
        (b"   ", b""),
    ],
)
def test_gaps_become_tabs(text: bytes, wanted: bytes) -> None:
    """None at the ends of a line."""
    assert squeezed(text) == wanted
