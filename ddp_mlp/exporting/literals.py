"""Numbers, names and comments as C and Fortran write them: exact, and harmless whatever a name contains."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import printable

LINE = 116
"""Characters of a line of numbers, without its indentation: a Fortran line ends at 132."""
FORTRAN_PIECE = 40
"""Characters of a name that stand on one line of Fortran."""


@cache
def template(name: str) -> str:
    """Return the text of a template of this package."""
    return files(__package__).joinpath("templates", name).read_text("utf-8")


def fill_template(text: str, values: dict[str, str]) -> str:
    """Put the values in the places `@key@` of a template; what a value contains is left alone. Raises KeyError."""
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], text)


def identifier(stem: str) -> str:
    """Return a name for C and Fortran made of a file's stem: letters of ASCII, digits and underscores, 40 at most."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII).strip("_")[:40].rstrip("_")
    return name if name and name[0].isalpha() else f"model_{name}".rstrip("_")


def comment(text: str) -> str:
    """Return one line that ends no comment of C, starts none, and has no trigraph and no line's continuation in it."""
    return re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", printable(text)).rstrip("\\")


def c_numbers(values: NDArray[Any]) -> list[str]:
    """Return the numbers as hexadecimal constants of C, exact, in the type that they have."""
    suffix = "f" if values.dtype == np.float32 else ""
    return ["0" if text == "0x0p+0" else text + suffix for text in map(_hexadecimal, values.ravel().tolist())]


def _hexadecimal(value: float) -> str:
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}" if "." in mantissa else f"{mantissa}p{exponent}"


def fortran_numbers(values: NDArray[Any]) -> list[str]:
    """Return the numbers in decimal, with the 9 digits (real32) or 17 (real64) that are enough to get the same bits."""
    if values.dtype == np.float32:
        return [f"{value:.8e}" for value in values.ravel().tolist()]
    return [f"{value:.16e}".replace("e", "d") for value in values.ravel().tolist()]


def wrapped(tokens: Iterable[str], indent: str = "    ", end: str = "") -> str:
    """Return the tokens with commas between them in lines of at most LINE characters, each ended by `end`."""
    return f"{end}\n".join(f"{indent}{line}" for line in _lines(tokens))


def _lines(tokens: Iterable[str]) -> Iterator[str]:
    line: list[str] = []
    length = 0
    for token in tokens:
        if line and length + len(token) + 2 > LINE:
            yield ", ".join(line) + ","
            line, length = [], 0
        line.append(token)
        length += len(token) + 2
    if line:
        yield ", ".join(line)


def c_string(text: str) -> str:
    """Return the UTF-8 bytes of a text as a string constant of C, in printable ASCII."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    octets = text.encode("utf-8", "backslashreplace")
    return '"' + "".join(chr(octet) if octet in plain else f"\\{octet:03o}" for octet in octets) + '"'


def fortran_string(text: str) -> str:
    """Return the UTF-8 bytes of a text as a character expression of Fortran in printable ASCII, with line breaks."""
    octets = text.encode("utf-8", "backslashreplace")
    parts = re.findall(rb"[\x20-\x7e]{1,%d}|[^\x20-\x7e]" % FORTRAN_PIECE, octets)
    pieces = [_quoted(part) if 0x20 <= part[0] < 0x7F else f"char({part[0]})" for part in parts]
    lines: list[str] = [""]
    for piece in pieces or ["''"]:
        if len(lines[-1]) + len(piece) > FORTRAN_PIECE and lines[-1]:
            lines.append("")
        lines[-1] += f" // {piece}" if lines[-1] else piece
    return " // &\n        ".join(lines)


def _quoted(part: bytes) -> str:
    return "'" + part.decode("ascii").replace("'", "''") + "'"
