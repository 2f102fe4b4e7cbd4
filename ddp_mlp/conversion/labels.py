"""Class numbers of labels: a label is its text, whole numbers keep their order."""

import re
from collections.abc import Sequence

from ddp_mlp.errors import DataError

_WHOLE = re.compile(r"0|-?[1-9]\d*")
"""A whole number as it is usually written: "02139" and "1e5" are names."""


def number_classes(labels: Sequence[str], name: str, least: int = 2) -> tuple[dict[str, int], tuple[str, ...] | None]:
    """Return the class number of each label, and the classes' names; None where the labels are 0, 1, 2, … themselves.

    Whole numbers keep their order, text is sorted. Raises DataError for fewer than `least` classes.
    """
    whole = all(_WHOLE.fullmatch(label) for label in labels)
    ordered = sorted(labels, key=int) if whole else sorted(labels)
    if len(ordered) < least:
        raise DataError(f"{name}: every label is {labels[0]!r}: expected at least two classes")
    numbers = {label: number for number, label in enumerate(ordered)}
    plain = ordered == [str(number) for number in range(len(ordered))]
    return numbers, None if plain else tuple(ordered)


def check_classes(labels: dict[str, int], name: str) -> None:
    """Raise DataError for labels that are no classes: numbers or texts of which nearly every row has its own."""
    rows = sum(labels.values())
    if rows >= 20 and len(labels) > 0.5 * rows:
        raise DataError(
            f"{name}: {len(labels):,} different labels in {rows:,} rows: numbers to be met are --target, not --label"
        )
    fractions = [label for label in labels if _is_fraction(label)]
    if fractions and all(_is_fraction(label) or _WHOLE.fullmatch(label) for label in labels):
        raise DataError(f"{name}: the label {fractions[0]!r} is not a whole number: numbers to be met are --target")


def _is_fraction(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d*\.\d*[1-9]\d*", text) is not None
