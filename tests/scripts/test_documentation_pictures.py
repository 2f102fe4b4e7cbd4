"""The pictures of the documentation are what their script makes, of the code and the tables as they are now."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("matplotlib")

from scripts.tools import pictures

SHOWN = sorted((ROOT / "docs" / "pictures").iterdir())
REMEDY = "python scripts/tools/pictures.py makes it anew"


@pytest.mark.parametrize("name", pictures.DRAWN)
def test_drawn_pictures_are_up_to_date(name: str) -> None:
    """What a picture says in words, with every figure in it, is what the code and the tables say today."""
    there = (ROOT / "docs" / "pictures" / name).read_text(encoding="utf-8")
    words = [re.findall(r'aria-label="([^"]*)"', svg)[0] for svg in (there, pictures.DRAWN[name]())]
    assert words[0] == words[1], REMEDY


def test_the_sum_is_drawn_to_the_byte() -> None:
    """No library has a hand in the drawing of the sum: the file is the same."""
    assert (ROOT / "docs/pictures/exact-sum.svg").read_text(encoding="utf-8") == pictures.exact_sum(), REMEDY


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_every_picture_is_on_a_page(path: Path) -> None:
    """A picture is made by the script, shown somewhere with words, and an SVG is XML that fetches nothing."""
    made = [*pictures.DRAWN, *pictures.RECORDED, *(f"{name}.png" for name in pictures.SCREENS)]
    assert path.name in made
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(
        re.search(rf"!\[[^\]]{{20,}}\]\([\w/]*pictures/{re.escape(path.name)}\)", page.read_text()) for page in pages
    )
    if path.suffix == ".svg":
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert not re.search(r'(?:href|src)="(?!#)|url\((?!#)', text)


def test_a_recording_ends_with_its_last_lines() -> None:
    """Each line appears at its own time, and where nothing moves the last lines are seen, in their colours."""
    lines = [(0.5, f"line {k} <&>") for k in range(pictures.ROWS + 3)] + [(0.5, "\x1b[1;31merror:\x1b[0m no")]
    svg = pictures.as_svg(lines)
    root = ElementTree.fromstring(svg)
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [*(f"line {k} <&>" for k in range(pictures.ROWS + 3)), "error: no"]
    assert f"#all {{ transform: translateY(-{4 * pictures.LINE}px)" in svg
    assert '<tspan class="r b">error:</tspan>' in svg
