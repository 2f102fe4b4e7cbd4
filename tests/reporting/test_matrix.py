"""A confusion matrix as SVG: what is in its cells, which names it has, and that it is XML."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

matrix = pytest.importorskip("ddp_mlp.reporting.matrix")  # needs matplotlib beside it
SVG = "{http://www.w3.org/2000/svg}"


def test_cells_are_shares_of_the_true_class() -> None:
    """Each filled cell says its count, row and share; its place is its row and column, its colour right or wrong."""
    confusion = np.array([[3, 1, 0], [0, 8, 0], [0, 0, 0]])
    root = ElementTree.fromstring(matrix.matrix_svg(confusion, ["a", "b<", "犬"], "three classes"))
    assert root.get("aria-label") == "three classes"
    cells = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert [cell.findtext(f"{SVG}title") for cell in cells] == [
        "a: 3 of 4 rows predicted a, 75.0%",
        "a: 1 of 4 rows predicted b<, 25.0%",
        "b<: 8 of 8 rows predicted b<, 100.0%",
    ]
    assert [cell.get("fill") for cell in cells] == [matrix.RIGHT, matrix.WRONG, matrix.RIGHT]
    (x0, y0), (x1, y1), (x2, y2) = ([float(cell.get(name) or "") for name in ("x", "y")] for cell in cells)
    assert (x1 > x0, y1 == y0, x2 == x1, y2 > y0) == (True,) * 4
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert texts[:2] == ["predicted", "true"]
    assert sorted(texts[2:]) == sorted(["a", "b<", "犬"] * 2 + ["3", "1", "8"])


@pytest.mark.parametrize("n", [26, 100])
def test_many_classes(n: int) -> None:
    """Every class has its name twice; beyond 40, every tenth has a larger one for narrow screens, and no counts."""
    confusion = np.diag(np.arange(1, n + 1))
    svg = matrix.matrix_svg(confusion, [f"c{i}" for i in range(n)], "many classes")
    for i in range(n):
        assert svg.count(f">c{i}</text>") == (4 if n > 40 and i % 10 == 0 else 2)
    assert svg.count('class="counts fine"') == (1 if n <= 40 else 0)
    width, height = (float(number) for number in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    assert abs(width - height) < 20
    for x, y, side in re.findall(r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', svg):
        assert float(x) + float(side) <= width
        assert float(y) + float(side) <= height


def test_long_and_wide_names() -> None:
    """A name is cut to ten columns, of which a wide character takes two."""
    svg = matrix.matrix_svg(np.eye(2, dtype=np.int64), ["犬" * 9, "eleven chars"], "names")
    assert ">犬犬犬犬…<" in svg
    assert ">eleven ch…<" in svg


def test_room_for_the_widest_names() -> None:
    """Ten of the widest letters have room, and control characters count as what they are shown as."""
    svg = matrix.matrix_svg(np.eye(2, dtype=np.int64), ["W" * 10, "a"], "names")
    [left] = re.findall(r'class="frame" x="([\d.]+)"', svg)
    assert float(left) > 0.99 * 10 * 11 + 14  # a W of DejaVu Sans is 0.99 high; the other axis has its name there
    svg = matrix.matrix_svg(np.eye(2, dtype=np.int64), ["\x01" * 9, "a"], "names")
    assert r">\x01\x01\…<" in svg


def test_names_that_begin_alike_differ_by_their_ends() -> None:
    """What all long names begin with is left out where their beginnings are one; short names stay as they are."""
    assert matrix.shortened([f"species {i:03d}" for i in range(100)]) == [f"…{i:03d}" for i in range(100)]
    assert matrix.shortened(["Iris-setosa", "Iris-virginica", "a"]) == ["Iris-seto…", "Iris-virg…", "a"]
    assert matrix.shortened(["sample_number_1", "sample_number_2", "x"]) == ["…1", "…2", "x"]
    assert matrix.shortened(["a-bcdefghijklmn1", "a-bcdefghijklmn2"]) == ["…1", "…2"]


def test_a_class_without_rows_has_no_colour() -> None:
    """Shares of an empty row are zeros, not NaN."""
    assert matrix.shares_of(np.array([[0, 0], [1, 1]])).tolist() == [[0, 0], [0.5, 0.5]]
