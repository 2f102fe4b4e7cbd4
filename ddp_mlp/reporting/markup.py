"""HTML from text: every text that comes from a journal, a file or a folder's name is escaped here, at one place."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ddp_mlp.reporting.charts import Chart, to_svg
from ddp_mlp.reporting.names import legible

NARROW_COLUMNS, NARROW_TEXTS = 5, 3
"""The most columns of a table on a telephone, and the most that are not numbers; else each row becomes a card there."""
SMALL_LETTERS, LONG_WORD = 30, 12
"""The most letters, that cannot be broken, beside one another on the smallest; words longer than this are broken."""
NUMBER = re.compile(r"[-−]?[\d.,]*\d(e[-+]?\d+)?( ± [\d.,]+(e[-+]?\d+)?)?( ?%)?|–|nan|[-−]?inf")

SHORT_ROWS = 16
"""The most rows of a table that stays on one sheet of paper."""


class Raw(str):
    """Text that is HTML already."""


class Name(str):
    """Text that names something, though it may look like a number."""


def escaped(value: object) -> str:
    """Return any value as text that HTML shows as it is."""
    return html.escape(legible(str(value)))


def svg_of(chart: Chart, prefix: str, kind: str = "") -> str:
    """Return a chart as an SVG element with its words; `prefix` makes its ids unique in the page."""
    named = f' class="{kind}"' if kind else ""
    return to_svg(chart, prefix).replace("<svg", f'<svg{named} role="img" aria-label="{escaped(chart.text)}"', 1)


def figures_of(charts: Sequence[Chart], prefix: str) -> str:
    """Return charts as figures, side by side where there is room."""
    figures = [
        f'<figure class="chart"><figcaption>{escaped(chart.title)}</figcaption>{svg_of(chart, f"{prefix}-{place}")}'
        "</figure>"
        for place, chart in enumerate(charts)
    ]
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return a table; columns of numbers are flush right, and where there are many, rows can become cards."""
    rows = list(rows)
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    wide = len(head) > NARROW_COLUMNS or numeric.count(False) > NARROW_TEXTS
    letters = sum(_longest_word([head[i], *(row[i] for row in rows)], numeric[i]) for i in range(len(head)))
    small = any(head) and not wide and letters > SMALL_LETTERS

    def cell(kind: str, column: int, value: Any, attributes: str = "") -> str:
        shown = value if isinstance(value, Raw) else escaped(f"{value:,}" if isinstance(value, int) else value)
        named = f' data-label="{escaped(head[column])}"' if (wide or small) and kind == "td" else ""
        return f"<{kind}{' class=number' if numeric[column] else ''}{attributes}{named}>{shown}</{kind}>"

    named = "".join(cell("th", i, name, " scope=col") for i, name in enumerate(head)) if any(head) else ""
    lines = "".join(
        "<tr>"
        + cell("th", 0, row[0], " scope=row")
        + "".join(cell("td", i, value) for i, value in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    head_row = f"<thead><tr>{named}</tr></thead>" if named else ""
    titled = f"<caption>{escaped(caption)}</caption>" if caption else ""
    kinds = " ".join(
        name
        for name, holds in (("cards-if-narrow", wide), ("cards-if-small", small), ("short", len(rows) <= SHORT_ROWS))
        if holds
    )
    return f'<table class="{kinds}">{titled}{head_row}<tbody>{lines}</tbody></table>'


def _is_number(value: Any) -> bool:
    return not isinstance(value, Raw | Name) and NUMBER.fullmatch(str(value)) is not None


def _longest_word(values: Iterable[Any], numeric: bool) -> int:
    """Return the letters of the longest word of a column; long ones can be broken where they are no numbers."""
    longest = max((len(word) for value in values for word in str(value).split()), default=0)
    return longest if numeric else min(longest, LONG_WORD)


def section(heading: str, content: str) -> str:
    """Return a section of the page; `content` is HTML."""
    return f"<section><h2>{escaped(heading)}</h2>\n{content}\n</section>"


def folded(summary: str, content: str, on_paper: bool = True) -> str:
    """Return what is shown when asked for, and on paper if that is wanted; `content` is HTML."""
    kind = "" if on_paper else " class=screen"
    return f"<details{kind}><summary>{escaped(summary)}</summary>\n{content}\n</details>" if content else ""


def paragraph(text: str, soft: bool = False) -> str:
    """Return a paragraph of text."""
    return f"<p{' class=soft' if soft else ''}>{escaped(text)}</p>\n"
