"""Dates: what is none is told, and a form that Arrow does not go by is refused."""

from datetime import datetime

import pytest

from ddp_mlp.conversion.recipe import check_form, first_not_date
from ddp_mlp.errors import ConfigError

arrow = pytest.importorskip("pyarrow")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("30.02.2020", "%d.%m.%Y"),
        ("31.04.2020", "%d.%m.%Y"),
        ("29.02.2019", "%d.%m.%Y"),
        ("29.02.2020", "%d.%m.%Y"),
        ("2020-02-30", "%Y-%m-%d"),
        ("20-02-28", "%Y-%m-%d"),
        ("02/31/20", "%D"),
        ("03/01/20", "%m/%d/%y"),
        ("1 Mar 2020", "%d %b %Y"),
        ("30 Feb 2020", "%d %b %Y"),
        ("202002", "%Y%m"),
        ("2020-02-03T00:30:00+0200", "%Y-%m-%dT%H:%M:%S%z"),
    ],
)
def test_a_date_that_no_calendar_has_is_none(text: str, form: str) -> None:
    """By Python's own strptime; Arrow makes the first of March of the thirtieth of February."""
    try:
        datetime.strptime(text, form.replace("%D", "%m/%d/%y"))
        there = True
    except ValueError:
        there = False
    cells = arrow.array(["15.06.2020", None, text] if form == "%d.%m.%Y" else [None, None, text])
    assert first_not_date(cells, form) == (None if there else (2, text))


@pytest.mark.parametrize("form", ["%Y-%U", "%G-%V-%u", "%s", "%Y-%m-%d %Z", "%d/%m", "%Y %d", "%Q", "day"])
def test_a_form_that_tells_no_date_is_refused(form: str) -> None:
    """Arrow passes over weeks and zones, and takes 1900 for the year."""
    with pytest.raises(ConfigError, match=r"^--date "):
        check_form(form)


@pytest.mark.parametrize("form", ["%d.%m.%Y", "%d %b %y", "%Y%m", "%Y-%j", "%F %T", "%m/%d/%Y %I:%M %p", "%Y"])
def test_forms_that_are_taken(form: str) -> None:
    """Months alone are, too."""
    check_form(form)
