"""Text whose columns are separated by runs of spaces, as text separated by tabs.

Invariants:
- what stands within quotation marks, of one line, stays as it is.
"""

import io
import re
from typing import Any

_GAPS = re.compile(rb'"[^"\r\n]*"|[ \t]+(?=[\r\n]|\Z)|(?m:^)[ \t]+|[ \t]+')


def squeezed(text: bytes) -> bytes:
    """Return whole lines with a tab for each run of spaces and tabs, and none at a line's ends."""

    def instead(found: "re.Match[bytes]") -> bytes:
        if found[0].startswith(b'"'):
            return found[0]
        first = found.start() == 0 or text[found.start() - 1 : found.start()] in b"\r\n"
        last = found.end() == len(text) or text[found.end() : found.end() + 1] in b"\r\n"
        return b"" if first or last else b"\t"

    return _GAPS.sub(instead, text)


class Squeezed(io.RawIOBase):
    """Text whose columns are separated by runs of spaces, as text separated by tabs."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, out: Any) -> int:
        while not self._ready:
            piece = self._stream.read(1 << 20)
            text = self._rest + piece
            cut = text.rfind(b"\n") + 1 if piece else len(text)
            self._rest, whole = text[cut:], text[:cut]
            self._ready = squeezed(whole)
            if not piece:
                break
        taken = self._ready[: len(out)]
        out[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)
