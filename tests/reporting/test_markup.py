"""Tables of a page: which columns are numbers, and what becomes of them on a telephone."""

import re

import pytest

pytest.importorskip("matplotlib")

from ddp_mlp.reporting.markup import Name, table


@pytest.mark.parametrize(
    ("values", "numeric"),
    [
        (["122.7586", "3.898e+05", "3.55e-10"], True),
        (["-0.0312", "–", "0.5"], True),
        (["29.44 ± 2.87 %", "1.2e-09 ± 3e-11"], True),
        ([1, 2], True),
        (["96.11%", "1,437"], True),
        (["nan", "0.5"], True),
        (["1-2", "3"], False),
        (["e5", "3"], False),
        ([Name("1"), Name("2")], False),
    ],
)
def test_columns_of_numbers(values: list[object], numeric: bool) -> None:
    """A column of figures in any form is flush right, where no figure is broken in two; names never are."""
    page = table(["name", "figure"], [["a", value] for value in values])
    assert page.count("class=number") == (1 + len(values) if numeric else 0)


def test_a_table_that_is_too_wide_for_the_smallest_screen() -> None:
    """Rows of a table of long words become cards on a small screen, those of a short one stay."""
    head = ["class", "rows", "precision", "recall", "F1"]
    short, long = (table(head, [[Name(name), 1, "0.500", "0.500", "0.500"]]) for name in ("3", "<script>alert"))
    assert re.findall(r'<table class="(.*?)"', short + long) == ["short", "cards-if-small short"]
    assert "data-label" not in short
    assert 'data-label="precision"' in long
