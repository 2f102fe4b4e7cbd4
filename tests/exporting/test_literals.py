"""Numbers and names as C and Fortran write them."""

import numpy as np
import pytest

from ddp_mlp.exporting import literals

FLOATS = np.array([0.0, -0.0, 1.0, -1.5, 0.1, 1e-45, 3.4028235e38, 1.1754944e-38, np.pi], np.float32)


def test_numbers_of_c_are_exact() -> None:
    """Python reads hexadecimal constants as C does; the sign of zero stays."""
    texts = literals.c_numbers(FLOATS)
    assert [float.fromhex(text.rstrip("f")) for text in texts] == FLOATS.tolist()
    assert texts[:4] == ["0", "-0x0p+0f", "0x1p+0f", "-0x1.8p+0f"]
    doubles = np.array([0.1, 5e-324, 1.7976931348623157e308])
    assert [float.fromhex(text) for text in literals.c_numbers(doubles)] == doubles.tolist()


def test_numbers_of_fortran_are_exact() -> None:
    """9 and 17 digits, read to the nearest number of the type, are the number."""
    texts = literals.fortran_numbers(FLOATS)
    np.testing.assert_array_equal(np.array([np.float32(text) for text in texts]), FLOATS)
    doubles = np.array([0.1, 5e-324, 1.7976931348623157e308, -1 / 3])
    texts = literals.fortran_numbers(doubles)
    assert all("d" in text for text in texts)
    assert [float(text.replace("d", "e")) for text in texts] == doubles.tolist()


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("model", "model"),
        ("my-model.v2", "my_model_v2"),
        ("2nd", "model_2nd"),
        ("犬", "model"),
        ("__x__", "x"),
        ("a" * 70, "a" * 40),
    ],
)
def test_a_name_is_made_of_any_stem(stem: str, name: str) -> None:
    """C and Fortran both take it: it begins with a letter."""
    assert literals.identifier(stem) == name


@pytest.mark.parametrize("text", ["*/ int x; /*", "a\\", "??/", "???", "a\nb", "/*/*/", "\u202e"])
def test_a_comment_stays_one(text: str) -> None:
    """No end, no beginning, no trigraph, no continuation, no line break, no text that runs backwards."""
    found = literals.comment(text)
    assert not any(harm in found for harm in ("*/", "/*", "??", "\n", "\u202e"))
    assert not found.endswith("\\")


def test_lines_are_short() -> None:
    """Fortran ends a line at 132 characters; nothing is lost on the way."""
    tokens = [f"{i}.00000001e-10" for i in range(100)]
    text = literals.wrapped(tokens, " " * 8, " &")
    assert max(map(len, text.split("\n"))) <= 132
    assert text.replace("&", "").replace("\n", "").replace(" ", "").split(",") == tokens


def test_strings_of_fortran_have_short_lines() -> None:
    """A long name with quotes is cut into pieces."""
    text = literals.fortran_string("it's " * 60 + "ç")
    assert max(map(len, text.split("\n"))) <= 132
    assert text.replace("&\n        ", "").endswith("'it''s it''s it''s it''s ' // char(195) // char(167)")
    assert literals.fortran_string("") == "''"


def test_a_place_without_a_value_is_an_error() -> None:
    """A template never leaves a mark behind; what a value contains is no mark."""
    assert literals.fill_template("a @b@ c", {"b": "@d@"}) == "a @d@ c"
    with pytest.raises(KeyError):
        literals.fill_template("a @b@ c", {})
