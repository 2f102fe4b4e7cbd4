"""stdout and stderr as they are met: closed, broken, full, without some characters, hung up. Nothing here ever raises.

Invariants:
- writing to a `TextStream` never fails: what cannot be written is dropped, and `lost` says why;
- a line, and what is printed at once, goes out in one write: lines of several processes do not mix;
- descriptors 0, 1 and 2 are open, or the next file that is opened would get what others print.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

UNWANTED = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO)
"""Of a reader that went away, a closed descriptor, a terminal that hung up: nobody misses what is not written."""


class TextStream:
    """A text stream for people that takes whatever is written to it; the other attributes are the stream's own."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`; None, which a closed descriptor is to Python, is nowhere."""
        self._stream = stream
        self._pending = ""
        self.lost: OSError | None = None if stream is not None else OSError(errno.EBADF, os.strerror(errno.EBADF))
        """Why what was written last did not arrive."""
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # not every stream can

    def write(self, text: str) -> int:
        """Write what is there up to the last line's end; the rest waits for more."""
        self._pending += text
        if "\n" in text:
            whole, end, self._pending = self._pending.rpartition("\n")
            self._put(whole + end)
        return len(text)

    def flush(self) -> None:
        """Write what is waiting."""
        text, self._pending = self._pending, ""
        self._put(text)

    def isatty(self) -> bool:
        """Tell whether people may see a bar move here."""
        try:
            return self.lost is None and self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def _put(self, text: str) -> None:
        if self.lost is not None or self._stream is None or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except UnicodeEncodeError:  # a stream that could not be told what to do about them
            self._put(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            self.lost = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
            self._forget()

    def _forget(self) -> None:
        """Let what Python's own buffer still holds go nowhere: it would be tried, and complained of, at exit."""
        with suppress(OSError, ValueError, AttributeError):
            assert self._stream is not None, "it failed"
            descriptor = self._stream.fileno()
            if descriptor in (1, 2):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


def console(stream: TextIO | None) -> TextStream:
    """Return the stream as a `TextStream`; one that is one already stays itself."""
    return stream if isinstance(stream, TextStream) else TextStream(stream)


@contextmanager
def guarded() -> Iterator[None]:
    """Let everybody print safely in this block: sys.stdout and sys.stderr are Consoles."""
    _open_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = console(sys.stdout), console(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def result_lost() -> OSError | None:
    """Return why the result on stdout did not arrive though somebody wants it, as on a full disk; else None."""
    lost = getattr(sys.stdout, "lost", None)
    return lost if lost is not None and lost.errno not in UNWANTED else None


def reader_is_gone() -> bool:
    """Tell whether nothing that is written to stdout arrives any more."""
    return getattr(sys.stdout, "lost", None) is not None


def _open_descriptors() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
