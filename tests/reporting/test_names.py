"""Names on a page: nothing hides in them, each script is spelled as it is, and room is left for the widest."""

import pytest

pytest.importorskip("matplotlib")

from ddp_mlp.reporting.names import columns, ems, followed, legible


def test_joiners_stay_where_they_spell_words() -> None:
    """Persian and Hindi keep their joiners, and so do pictures of people; nothing hides between letters of ASCII."""
    for name in ("می\u200cخواهم", "क्\u200dष", "👩\u200d👧"):
        assert legible(name) == name
    assert legible("a\u200cb\u202e\t") == "a\\u200cb\\u202e\\t"
    assert legible("\u200da") == "\\u200da"


def test_a_number_after_hebrew_or_arabic_stays_behind_it() -> None:
    """A mark of direction ends such a name, and no other; it outlives `legible`."""
    assert followed("שלום") == "שלום\u200e"
    assert followed("קטן a") == "קטן a"
    assert followed("犬") == "犬"
    assert legible(f"a predicted {followed('قطة')}, 0.943") == "a predicted قطة\u200e, 0.943"


def test_widths() -> None:
    """Wide letters take two columns, joiners and accents none; capitals are wider than small letters."""
    assert [columns(text) for text in ("abc", "犬", "e\u0301", "می\u200cخواهم")] == [3, 2, 1, 7]
    assert ems("WWWW") > ems("QQQQ") > ems("nnnn") > ems("\u200c") == 0
