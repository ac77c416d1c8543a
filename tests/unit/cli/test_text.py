import json
import string

from hypothesis import given
from hypothesis import strategies as st

from klal.cli.text import aged, counted, jsonable, listed, rows_as_objects, short_change, shown, sized


@given(st.text())
def test_whatever_the_text_a_terminal_obeys_nothing_of_it(text):
    assert "\x1b" not in shown(text)
    assert len(shown(text).splitlines()) <= 1
    assert not set(shown(text)) & {chr(code) for code in (*range(32), 127, *range(128, 160), 0x202E, 0x2028)}


@given(st.text(alphabet=string.printable.strip()))
def test_plain_text_is_shown_as_it_is(text):
    assert shown(text) == text


def test_a_name_that_would_clear_the_screen_is_escaped():
    """T44: terminal escapes in names are data, not orders."""
    assert shown("Ana\x1b[2J\r\n") == "Ana\\x1b[2J\\r\\n"
    assert shown("a\u202eb") == "a\\u202eb"


def test_letters_of_any_script_stay_letters():
    assert shown("\u05db\u05dc\u05dc") == "\u05db\u05dc\u05dc"


def test_absence_and_bytes_have_their_own_spelling():
    assert shown(None) == "NULL"
    assert shown(b"\x00\xff") == "x'00ff'"
    assert shown(b"a" * 100).endswith("... 100 bytes'")


def test_json_carries_bytes_and_infinite_numbers_as_text():
    value = jsonable({"blob": b"\x01\x02", "far": [float("inf"), float("-inf")], "none": None})

    assert json.loads(json.dumps(value, allow_nan=False)) == {"blob": "x'0102'", "far": ["Inf", "-Inf"], "none": None}


def test_two_columns_of_one_name_are_both_kept():
    assert rows_as_objects(["id", "id", "id"], [(1, 2, 3)]) == [{"id": 1, "id:1": 2, "id:2": 3}]


def test_figures_are_short():
    assert [sized(n) for n in (0, 999, 1_000, 999_999, 5_000_000)] == ["0 B", "999 B", "1.0 kB", "1.0 MB", "5.0 MB"]
    assert [counted(n, "change") for n in (0, 1, 2_000)] == ["0 changes", "1 change", "2,000 changes"]
    assert listed([]) == "nobody known"
    assert listed(["a", "b"]) == "a and b"
    assert listed(list("abcdef")) == "a, b, c and 3 more"
    assert short_change("ab" * 32 + ":7") == "abababab:7"


def test_an_age_is_coarse_and_never_negative():
    assert aged(None, 10) == "never"
    assert aged(1_000, 2_000) == "just now"
    assert aged(1_000, 1_000 + 3 * 3_600_000) == "3 hours ago"
    assert aged(10_000_000, 1_000) == "ahead of this clock"
