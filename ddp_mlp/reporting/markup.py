"""HTML from text: every text that comes from a journal, a file or a folder's name is escaped here, at one place."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from ddp_mlp.errors import printable
from ddp_mlp.reporting.charts import Chart, to_svg


class Raw(str):
    """Text that is HTML already."""


def escaped(value: object) -> str:
    """Return any value as text that HTML shows as it is."""
    return html.escape(printable(str(value)))


def figures_of(charts: Sequence[Chart], prefix: str) -> str:
    """Return charts as figures; `prefix` makes their ids unique in the page."""
    figures = []
    for number, chart in enumerate(charts):
        svg = to_svg(chart, f"{prefix}-{number}").replace(
            "<svg", f'<svg role="img" aria-label="{escaped(chart.text)}"', 1
        )
        figures.append(f'<figure class="chart"><figcaption>{escaped(chart.title)}</figcaption>{svg}</figure>')
    return f'<div class="figures">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return a table; columns of numbers are flush right."""
    rows = list(rows)
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(head))]

    def cell(kind: str, column: int, value: Any, attributes: str = "") -> str:
        shown = value if isinstance(value, Raw) else escaped(f"{value:,}" if isinstance(value, int) else value)
        return f"<{kind}{' class=number' if numeric[column] else ''}{attributes}>{shown}</{kind}>"

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
    return f'<div class="scroll"><table>{titled}{head_row}<tbody>{lines}</tbody></table></div>'


def _is_number(value: Any) -> bool:
    text = str(value).replace(",", "").replace(".", "").rstrip("%")
    return not isinstance(value, Raw) and (isinstance(value, int | float) or text.isdigit() or text == "–")


def section(heading: str, content: str) -> str:
    """Return a section of the page; `content` is HTML."""
    return f"<section><h2>{escaped(heading)}</h2>\n{content}\n</section>"
