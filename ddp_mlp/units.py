"""How bytes and counts are written for people: the one form for the whole program."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def byte_size(count: float) -> str:
    """Return bytes in words, in units of 1024 (IEC 80000-13): "512 B", "2.0 MiB", "3.9 GiB".

    One decimal but for bytes, and three digits before it where there is a larger unit.
    """
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:,.1f} {unit}"


def counted(n: int, noun: str) -> str:
    """Return a count with its noun, in the plural where there is not exactly one.

    >>> counted(1, "class"), counted(1234, "class"), counted(0, "rank")
    ('1 class', '1,234 classes', '0 ranks')
    """
    ending = "" if n == 1 else "es" if noun.endswith("s") else "s"
    return f"{n:,} {noun}{ending}"
