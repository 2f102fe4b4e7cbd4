"""A confusion matrix as SVG: shares of each row, as wide as there is room, with names in the browser's own fonts.

Invariants:
- a cell's colour is its share of the true class; rows of true classes, columns of predicted ones;
- up to NUMBERED classes have their counts in the cells, up to LABELLED each its name; beyond, every tenth has, and all
  where the matrix is shown large (the page's style chooses by the width there is);
- a name that is cut stays another name than the next, where that can be;
- what is seen is said: each cell has a title, the whole has words.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.reporting.markup import escaped
from ddp_mlp.reporting.names import columns, ems, followed, legible

RIGHT, WRONG = "#3f82e0", "#e0662a"
"""Shades, seen through on light and on dark."""
MOST_RIGHT, LEAST_WRONG, MORE_WRONG = 0.55, 0.22, 0.43
SMALL = 12
"""The most classes whose cells are large enough for counts on any screen."""
NUMBERED = 40
LABELLED = 40
EVERY = 10
"""Beyond LABELLED classes, how many classes lie between names on a narrow screen."""
LETTERS = 10
"""The most columns of text that a name takes."""
TITLED = 4000
"""The most cells that get a title each."""


def opacity(share: NDArray[np.float64], wrong: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how dense the colour of cells is; mistakes are rare: theirs grows with the root of their share."""
    return np.where(wrong, np.where(share > 0, LEAST_WRONG + MORE_WRONG * np.sqrt(share), 0), MOST_RIGHT * share)


def shares_of(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row of a matrix as shares of its sum; of a row without any, zeros."""
    shares: NDArray[np.float64] = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return shares


def matrix_svg(confusion: NDArray[np.int64], names: Sequence[str], text: str) -> str:
    """Return the matrix (n_L, n_L) of rows by true and predicted class as an SVG element; `text` says what is in it."""
    n, names = len(names), [legible(name) for name in names]
    # one unit is the width of a cell of ten; text is sized so that a telephone shows it at 9 pixels or more
    cell = 30.0 if n <= SMALL else 400.0 / n if n <= LABELLED else 640.0 / n
    font = min(11.0, 0.78 * cell) if n <= LABELLED else 0.86 * cell
    axis = 11 if n <= LABELLED else 17
    short = shortened(names)
    # beyond LABELLED classes the few names are larger than the cells are high
    widest = max(map(ems, short))
    room = widest * (font if n <= LABELLED else 17.0) + 10
    turned = widest * font > cell
    above = (room if turned or n > LABELLED else font + 5) + axis + 3
    left, size = room + axis + 3, cell * n
    found = [
        f'<text class="axis" x="{left + size / 2:.1f}" y="{axis - 1}" font-size="{axis}" '
        'text-anchor="middle">predicted</text>',
        f'<text class="axis" font-size="{axis}" text-anchor="middle" '
        f'transform="translate({axis - 1} {above + size / 2:.1f}) rotate(-90)">true</text>',
        f'<rect class="frame" x="{left:.1f}" y="{above:.1f}" width="{size:.1f}" height="{size:.1f}"/>',
        *_cells(confusion, names, (left, above, cell)),
        *_names(short, (left, above, cell), font, turned),
    ]
    if n <= NUMBERED:
        found += _counts(confusion, (left, above, cell))
    return (
        f'<svg class="matrix" role="img" aria-label="{escaped(text)}" viewBox="0 0 {left + size + 2:.1f} '
        f'{above + size + 2:.1f}" xmlns="http://www.w3.org/2000/svg">{"".join(found)}</svg>'
    )


def _cells(confusion: NDArray[np.int64], names: Sequence[str], place: tuple[float, float, float]) -> list[str]:
    left, above, cell = place
    n = len(names)
    shares, wrong = shares_of(confusion), ~np.eye(n, dtype=bool)
    dense = opacity(shares, wrong)
    filled = list(zip(*np.nonzero(confusion), strict=True))
    supports = confusion.sum(axis=1)
    found = []
    for i, k in filled:
        true, said = followed(names[i]), followed(names[k])
        words = f"{true}: {confusion[i, k]:,} of {supports[i]:,} rows predicted {said}, {shares[i, k]:.1%}"
        title = f"<title>{escaped(words)}</title>" if len(filled) <= TITLED else ""
        found.append(
            f'<rect x="{left + k * cell:.2f}" y="{above + i * cell:.2f}" width="{cell:.2f}" height="{cell:.2f}" '
            f'fill="{WRONG if i != k else RIGHT}" fill-opacity="{dense[i, k]:.2f}">{title}</rect>'
        )
    return found


def _counts(confusion: NDArray[np.int64], place: tuple[float, float, float]) -> list[str]:
    left, above, cell = place
    size = min(0.42 * cell, 0.86 * cell / (0.6 * len(str(int(confusion.max())))), 11.0)
    kind = "counts" if len(confusion) <= SMALL else "counts fine"
    below = above + 0.36 * size
    found = [
        f'<text x="{left + (k + 0.5) * cell:.1f}" y="{below + (i + 0.5) * cell:.1f}">{confusion[i, k]}</text>'
        for i, k in zip(*np.nonzero(confusion), strict=True)
    ]
    return [f'<g class="{kind}" font-size="{size:.1f}" text-anchor="middle">', *found, "</g>"]


def _names(short: Sequence[str], place: tuple[float, float, float], font: float, turned: bool) -> list[str]:
    """Return the names of rows and columns: all of them and, where they are small on a narrow screen, some of them."""
    n = len(short)
    all_of = _named(short, range(n), place, font, turned)
    if n <= LABELLED:
        return [f'<g font-size="{font:.1f}">', *all_of, "</g>"]
    some_of = _named(short, range(0, n, EVERY), place, 17.0, True)
    return [
        f'<g class="all" font-size="{font:.1f}">',
        *_named(short, range(n), place, font, True),
        '</g><g class="some" font-size="17">',
        *some_of,
        "</g>",
    ]


def _named(
    short: Sequence[str], which: Sequence[int], place: tuple[float, float, float], font: float, turned: bool
) -> list[str]:
    left, above, cell = place
    found = []
    for i in which:
        name, middle = escaped(short[i]), (i + 0.5) * cell
        y = above + middle + 0.36 * font
        found.append(f'<text x="{left - 4:.1f}" y="{y:.1f}" text-anchor="end">{name}</text>')
        if turned:
            where = f"translate({left + middle + 0.36 * font:.1f} {above - 4:.1f}) rotate(-90)"
            found.append(f'<text transform="{where}">{name}</text>')
        else:
            found.append(f'<text x="{left + middle:.1f}" y="{above - 4:.1f}" text-anchor="middle">{name}</text>')
    return found


def shortened(names: Sequence[str], most: int = LETTERS) -> list[str]:
    """Return names of `most` columns at most: their beginnings or, where several begin alike, what comes after that."""
    found = [_short(name, most) for name in names]
    if len(set(found)) == len(set(names)):
        return found
    long = [name for name in names if columns(name) > most]
    alike = next((i for i, (a, b) in enumerate(zip(min(long), max(long), strict=False)) if a != b), len(min(long)))
    word = max((i + 1 for i in range(alike) if not long[0][i].isalnum()), default=alike)  # whole numbers, whole words
    for start in (word, alike):
        ends = [name if columns(name) <= most else _short(f"…{name[start:]}", most) for name in names]
        found = ends if len(set(ends)) > len(set(found)) else found
    return found


def _short(name: str, most: int) -> str:
    """Return a name, or its beginning, of `most` columns at most."""
    if columns(name) <= most:
        return name
    kept = ""
    for letter in name:
        if columns(kept + letter) > most - 1:
            break
        kept += letter
    return f"{kept}…"
