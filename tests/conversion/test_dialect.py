"""How a text table is written: found out and said, or refused with the flag that settles it."""

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp import convert

pytest.importorskip("pyarrow")

ROWS = 30
PLACES = ["Köln", "Århus", "Łódź"]


def run(*arguments: Any) -> int:
    """Run the command inside this process and return its exit code."""
    return convert.main([str(argument) for argument in arguments])


def test_a_header_of_numbers_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0,1,2 may be names or a row; flags may stand before, between and after the files."""
    rows = [f"{i * 0.5},{i % 7},{i % 2}" for i in range(ROWS)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["0,1,2", *rows]) + "\n")
    assert run("--label", "2", path, tmp_path / "a.h5") == 2
    assert "say --header yes or --header no" in capsys.readouterr().err
    assert run("--label", "2", path, "--header", "yes", tmp_path / "yes.h5") == 0
    with h5py.File(tmp_path / "yes.h5") as file:
        assert file["train/X"].shape == (ROWS, 2)
        assert file.attrs["features"].tolist() == [b"0", b"1"]
    assert run(path, "--header", "no", tmp_path / "no.h5", "--label", "2") == 0
    with h5py.File(tmp_path / "no.h5") as file:
        assert file["train/X"].shape == (ROWS + 1, 2)
        assert file["train/X"][0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("encoding", "places", "flags"),
    [
        ("utf-8-sig", PLACES, ()),
        ("utf-16", PLACES, ()),
        ("latin-1", PLACES[:2], ("--encoding", "latin-1")),
        ("cp1250", [PLACES[0], PLACES[2]], ("--encoding", "cp1250")),
    ],
)
def test_encodings(encoding: str, places: list[str], flags: tuple[str, ...], tmp_path: Path) -> None:
    """Found by their first bytes, or named; names of columns and labels come out whole."""
    rows = [f"{i * 0.37:.2f};{places[i % len(places)]}" for i in range(ROWS)]
    (tmp_path / "a.csv").write_bytes("\n".join(["größe;ort", *rows, ""]).encode(encoding))
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "ort", *flags) == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert [name.decode() for name in file.attrs["classes"]] == sorted(places)
        assert [name.decode() for name in file.attrs["features"]] == ["größe"]
        np.testing.assert_allclose(file["train/X"][:, 0], np.arange(ROWS) * 0.37, atol=0.006)


def test_another_encoding_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not UTF-8 is refused with its line and the flag."""
    (tmp_path / "a.csv").write_bytes("x,y\n1,a\n2,Köln\n".encode("latin-1"))
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 65
    assert (
        "line 3 is not utf-8: save it in utf-8, or tell convert how it is, such as --encoding latin-1"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("separator", "decimal", "said"),
    [(";", ",", "separated by semicolon, decimal comma"), ("|", ".", "separated by pipe"), ("   ", ".", "spaces")],
)
def test_separators_are_found_and_said(
    separator: str, decimal: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers are those of the table with commas."""
    rows = [[f"{i * 0.37:.2f}".replace(".", decimal), f"{i % 5}", "ab"[i % 2]] for i in range(ROWS)]
    (tmp_path / "a.csv").write_text("\n".join(separator.join(row) for row in [["p", "q", "y"], *rows]) + "\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 0
    assert said in capsys.readouterr().out
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_allclose(file["train/X"][:, 0], np.arange(ROWS) * 0.37, atol=0.006)
        assert file["train/X"][:, 1].tolist() == [i % 5 for i in range(ROWS)]


def test_archives_are_named_for_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ZIP archive of tables, and an Excel workbook."""
    for name, member, said in (
        ("a.zip", "table.csv", "is a ZIP archive of table.csv: unpack it"),
        ("a.xlsx", "[Content_Types].xml", "is an Excel workbook: save its sheet as CSV"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, "x,y\n1,a\n2,b\n")
        assert run(tmp_path / name, tmp_path / "a.h5", "--label", "y") == 65
        assert said in capsys.readouterr().err


def test_quoted_line_breaks_in_a_file_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end no row, wherever a block ends; what is guessed from the beginning is read to the end."""
    from ddp_mlp.conversion import tables

    monkeypatch.setattr(tables, "WHOLE_BYTES", 0)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(tables, "GUESS_BYTES", 1 << 9)
    rows = [f'{i},{i * 0.25},"a\nb {i % 3}",{"xy"[i % 2]}' for i in range(2000)]
    rows[1500] = '0.5,1,"a\nb 0",x'  # the column is no longer whole numbers
    (tmp_path / "a.csv").write_text("\n".join(["n,q,note,y", *rows]) + "\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--onehot", "note", "--keep", "n") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        expected = np.arange(2000.0)
        expected[1500] = 0.5
        assert file["train/X"][:, 0].tolist() == expected.tolist()
        assert file["train/X"][:, 2:].sum(axis=1).tolist() == [1] * 2000


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["sep=;", "a;b;k"], "its first line is Excel's sep=;: take it out, and give --sep ';'"),
        (["# made by me", "# on Monday", "a;b;k"], "begins with lines that # makes comments: take them out"),
    ],
)
def test_a_first_line_that_is_neither_names_nor_a_row(
    lines: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said as what it is; names behind a # are names."""
    rows = [f"{i * 0.5};{i % 7 / 3};{'xy'[i % 2]}" for i in range(ROWS)]
    (tmp_path / "a.csv").write_text("\n".join([*lines, *rows, ""]))
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "k") == 65
    assert said in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("\n".join(["#a;b;k", *rows, ""]))
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "k") == 0


HEADERLESS = {
    "text and numbers": (
        "red,5.1,0\nblue,3.2,1\nred,4,0\n",
        ("--target", "1", "--onehot", "0"),
        "a row of text and numbers?",
    ),
    "dates": ("2020-01-02,5.1,0\n2020-01-03,3.2,1\n", ("--label", "2", "--date", "0"), "a row of text and numbers?"),
    "text": ("red,big,0\nblue,small,1\nred,big,0\n", ("--label", "2", "--onehot", "auto"), "'red' comes again below"),
    "years": ("1990,1991,1992,1993\n1,2,0,4\n5,6,1,8\n", ("--label", "2"), "names or numbers?"),
    "pandas": (",0,1,2\n0,1.5,2.5,0\n1,3.5,4.5,1\n", ("--label", "3"), "names or numbers?"),
}


@pytest.mark.parametrize("what", HEADERLESS)
def test_a_first_line_that_could_be_a_row_is_asked_about(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was taken for names, and the row was lost, or for a row; a name that is given settles it."""
    text, flags, said = HEADERLESS[what]
    (tmp_path / "a.csv").write_text(text)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", *flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "say --header yes or --header no" in error
    rows = text.count("\n")
    if what != "pandas":
        assert run(tmp_path / "a.csv", tmp_path / "a.h5", *flags, "--header", "no") == 0
        with h5py.File(tmp_path / "a.h5") as file:
            assert len(file["train/X"]) == rows


def test_a_name_that_is_given_can_only_be_found_in_a_header(tmp_path: Path) -> None:
    """Years and countries are names, then."""
    (tmp_path / "a.csv").write_text("country,1990,1991,y\na,1,2.5,0\nb,3,4.5,1\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--target", "y", "--onehot", "0") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train/X"][:].tolist() == [[1, 0, 1, 2.5], [0, 1, 3, 4.5]]


@pytest.mark.parametrize(
    ("cells", "decimal"),
    [(["1,234", "999"], None), (["12,345", "1,000"], None), (["1,234", "1,5"], ","), (["0,123", "1,234"], ",")],
)
def test_a_comma_that_may_separate_thousands_is_asked_about(
    cells: list[str], decimal: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,234 beside 999 became 1.234; where one cell can be but a fraction, all are."""
    (tmp_path / "a.csv").write_text("a;b;y\n" + "".join(f"{cell};{n};{n}\n" for n, cell in enumerate(cells)))
    flags = (tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y")
    if decimal is None:
        assert run(*flags) == 2
        assert f"is {cells[0]} a number with a decimal comma, or are thousands separated" in capsys.readouterr().err
        assert run(*flags, "--decimal", ".") == 65
        assert f"'a' is '{cells[0]}'" in capsys.readouterr().err
    assert run(*flags, *(() if decimal else ("--decimal", ","))) == 0
    with h5py.File(tmp_path / "a.h5") as file:
        wanted = [float(cell.replace(",", ".")) for cell in cells]
        assert file["train/X"][:, 0].tolist() == np.array(wanted, np.float32).tolist()


@pytest.mark.parametrize("where", ["short", "long", "last"])
def test_a_quotation_mark_that_is_never_closed_is_told(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All lines behind it were one cell, in silence, or a traceback where that was long."""
    rows = [f"{n},{n % 3},{'pq'[n % 2]}" for n in range(30000 if where == "long" else ROWS)]
    line = len(rows) - 1 if where == "last" else 2
    rows[line] = f'7,"1,{"pq"[line % 2]}'
    (tmp_path / "a.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 65
    assert f"a quotation mark in line {line + 2} is never closed" in capsys.readouterr().err


def test_marks_within_cells_and_long_cells_are_taken(tmp_path: Path) -> None:
    """An inch is no quotation, and a cell may be longer than Python's 128 KiB."""
    rows = [f'{n % 3},{"x" * 200_000 if n == 1 else n},{"pq"[n % 2]} 5"' for n in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--drop", "b") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["classes"].tolist() == [b'p 5"', b'q 5"']


def test_spaces_within_quotes_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They became tabs; in an encoding of two bytes, parts of other letters did."""
    (tmp_path / "a.txt").write_text('a  b label\n1 2  "New  York"\n 4   5 "Bonn am Rhein"\n')
    assert run(tmp_path / "a.txt", tmp_path / "a.h5", "--label", "label") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["classes"].tolist() == [b"Bonn am Rhein", b"New  York"]
    (tmp_path / "a.txt").write_text("a b label\n1 2 \u0120\n4 5 x\n", "utf-16")
    assert run(tmp_path / "a.txt", tmp_path / "a.h5", "--label", "label") == 65
    assert "is separated by spaces, and encoded in utf-16: save it in utf-8" in capsys.readouterr().err


def test_text_of_two_bytes_and_files_of_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its mark it looks like no text at all; what other programs write is named."""
    path, out = tmp_path / "a.csv", tmp_path / "a.h5"
    path.write_bytes("a,y\n1,p\n2,q\n".encode("utf-16-le"))
    assert run(path, out, "--label", "y") == 65
    assert "if it is text, --encoding utf-16-le" in capsys.readouterr().err
    assert run(path, out, "--label", "y", "--encoding", "utf-16-le") == 0
    others = {b"CDF\2": "nccopy -k nc4", b"MATLAB 5.0 MAT": "save it with -v7.3", b"BZh9": "bzip2: unpack it"}
    for start, said in (others | {b"ARROW1": "as Parquet", b"\x80\4": "is no CSV"}).items():
        path.write_bytes(start + bytes(100))
        assert run(path, out) == 65
        error = capsys.readouterr().err
        assert said in error
        assert "--encoding" not in error


@pytest.mark.parametrize(
    ("encoding", "code", "said"),
    [
        ("utf-16", 65, "line 1 is not utf-16: save it in utf-8"),
        ("hex", 2, "no encoding"),
        ("klingon", 2, "no encoding"),
    ],
)
def test_an_encoding_that_is_another(
    encoding: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, where it was a traceback."""
    (tmp_path / "a.csv").write_text("a,y\n1,p\n2,q\n")
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y", "--encoding", encoding) == code
    assert said in capsys.readouterr().err


def test_names_of_several_lines(tmp_path: Path) -> None:
    """A header whose cells hold line breaks says nothing of the separator line by line."""
    rows = ["p;q", "r;s"] * 5
    text = '"a\nb";"c\nd";"y"\n' + "".join(f'1;2.5;"{row}"\n' for row in rows)
    (tmp_path / "a.csv").write_text(text)
    assert run(tmp_path / "a.csv", tmp_path / "a.h5", "--label", "y") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["features"].tolist() == [b"a\nb", b"c\nd"]
        assert file["train/X"][:].tolist() == [[1, 2.5]] * 10
