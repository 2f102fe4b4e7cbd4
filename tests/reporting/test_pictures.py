"""The picture of a report: letters of every script, in fonts of this machine or as numbers, without a warning."""

import io
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from ddp_mlp.reporting import pictures
from ddp_mlp.reporting.charts import Chart, Palette, short


def chart_of(names: list[str]) -> Chart:
    """Return a chart whose axis has these names."""

    def draw(axes: Axes, palette: Palette) -> None:
        axes.plot(range(len(names)))
        axes.set_xticks(range(len(names)), names)
        axes.set_title(names[0])

    return Chart("Names", ", ".join(names), draw)


def test_letters_that_no_font_has_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a font for it a letter stands as its number: no box, no warning (which would be an error here)."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(pictures, "_families", lambda: ("DejaVu Sans",))
    families, missing = pictures.fonts_for("кошка قطة 犬")
    assert families == ["DejaVu Sans"]
    assert missing == {"犬"}
    assert pictures.spelled("a 犬", missing) == "a <U+72AC>"
    drawn = pictures.to_png([chart_of(["犬", "кошка", "قطة"])], "犬", ["a line"])
    assert image.open(io.BytesIO(drawn)).size[0] > 500


def test_letters_of_an_axis_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that no words of a chart have is spelled too, and cut before it takes the room of the chart."""
    monkeypatch.setattr(pictures, "_families", lambda: ("DejaVu Sans",))
    chart = replace(chart_of(["a", "한국어말씀"]), text="no names")
    assert len(pictures.to_png([chart], "title", [])) > 1000
    assert pictures._cut("<U+D55C>" * 5) == "<U+D55C><U+AD6D>…".replace("AD6D", "D55C")


def test_a_font_that_has_a_letter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families that have what is missing are added, the usual one stays first."""
    letters: dict[str, Any] = {"DejaVu Sans": {ord("a")}, "Other": {ord("b")}, "Dogs": {0x72AC, ord("b")}}
    monkeypatch.setattr(pictures, "_families", lambda: tuple(sorted(letters)))
    monkeypatch.setattr(pictures, "_letters", letters.__getitem__)
    assert pictures.fonts_for("ab犬") == (["DejaVu Sans", "Dogs"], frozenset())
    assert pictures.fonts_for("a") == (["DejaVu Sans"], frozenset())


def test_no_font_of_boxes() -> None:
    """The font that has a box for every letter, which comes with matplotlib, is not taken for one that has letters."""
    assert not [family for family in pictures._families() if "Last Resort" in family]


def test_a_cut_name_keeps_its_signs() -> None:
    """A name is cut before its dollar signs are told not to be TeX."""
    assert short("it's & so $x_1$", 12) == "it's & so \\$…"
