"""Names of classes, targets and runs as a page shows them: in any script, with nothing in them that is not seen.

Invariants: control characters are made visible; what joins letters stays, where it stands behind a letter that is not
of ASCII, since Persian, Hindi and pictures of people are spelled with it.
"""

import unicodedata

from ddp_mlp.errors import printable

JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner."""
LEFT_TO_RIGHT = "\u200e"
"""A mark without width: what comes after it is written from left to right."""
EMS = 0.62
"""Width of a letter, in heights."""
MORE_EMS, WIDE_EMS = 0.8, 1.1
"""Of capitals, and of letters that are not of ASCII; of the widest."""


def legible(text: str) -> str:
    """Return a text with control characters made visible; joiners and marks of direction stay between letters."""
    kept = JOINERS + LEFT_TO_RIGHT
    if not any(letter in kept for letter in text):
        return printable(text)
    before = ["", *text]
    return "".join(
        letter if letter in kept and before[i] and not before[i].isascii() else printable(letter)
        for i, letter in enumerate(text)
    )


def followed(name: str) -> str:
    """Return a name after which a number comes, which else would move to the other side of Hebrew or Arabic."""
    strong = [kind for kind in map(unicodedata.bidirectional, name) if kind in ("L", "R", "AL")]
    return name + LEFT_TO_RIGHT if strong and strong[-1] != "L" else name


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for wide letters, none for joiners and accents."""
    return sum(_columns(letter) for letter in text)


def ems(text: str) -> float:
    """Return how wide a text is at most, nearly, in heights of its letters, in a font without serifs."""
    return sum(_ems(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _ems(letter: str) -> float:
    if not _columns(letter):
        return 0.0
    if letter in "MWmw@%" or _columns(letter) == 2 or (letter.isupper() and not letter.isascii()):
        return WIDE_EMS
    return MORE_EMS if letter.isupper() or not letter.isascii() else EMS
