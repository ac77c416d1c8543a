import io

import pytest
from rich.console import Console

from klal.cli import render, standing
from klal.cli.output import Output

NOW = 1_700_000_000_000
STATUS = {
    "space": "penguins",
    "member": "Dream",
    "state": "behind",
    "standing": "part",
    "headers": {"held": 42, "known": 42},
    "payloads": {"held": 30, "known": 42},
    "root": "ab" * 32,
    "as_of_unix_ms": NOW,
    "members": [
        {"member": "cd" * 32, "name": "Dream", "state": "whole", "last_seen_unix_ms": NOW, "finished": True}
        | {"standing": "member", "age_ms": 0, "held": 42, "known": 42, "owes": {"headers": 0, "payloads": 0}},
        {
            "member": "ef" * 32,
            "name": "Bis\x1b[31mcoe",
            "state": "behind",
            "last_seen_unix_ms": None,
            "finished": False,
            "standing": "member",
            "age_ms": None,
            "held": 41,
            "known": 42,
            "owes": {"headers": 0, "payloads": 12},
        },
    ],
    "epoch": {
        "number": 1,
        "state": "open",
        "waiting_for": [
            {"member": "Biscoe", "reason": "not finished", "count": 0, "holders": []},
            {"member": "Torgersen", "reason": "missing payloads", "count": 12, "holders": ["Biscoe"]},
        ],
    },
    "stable": {"changes": 20, "of": 42},
    "only_here": 2,
    "conflicts": 1,
    "violations": 0,
    "parked": 3,
    "parked_why": [{"member": "Bis\x1b[31mcoe", "log": "ef" * 32, "count": 3, "reason": "epoch 2 has not begun here"}],
    "news": {"since_unix_ms": NOW - 90_000_000, "written": 4, "arrived": {"Bis\x1b[31mcoe": 7, "Dream": 2}},
    "applied": 27,
    "certainty": "incomplete",
    "now_unix_ms": NOW,
    "warnings": ["the clock of Biscoe is 3 hours ahead"],
}


def drawn(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


def test_status_fits_eighty_columns_and_says_what_matters():
    text = drawn(standing.status(STATUS, now_unix_ms=NOW))

    assert max(map(len, text.splitlines())) <= 80
    for figure in (
        "42 of 42",
        "30 of 42",
        "12 not here",
        "epoch 1 open",
        "Torgersen (12 missing payloads)",
        "1 conflict",
        "12 payloads",
        "97 %",
        "27 applied 3 waiting",
        "3 of Bis\\x1b[31mcoe, epoch 2 has not begun here",
        "4 written here, 9 arrived since 1 day ago",
    ):
        assert figure in " ".join(text.replace("\u2502", " ").split()), figure
    assert "warning: the clock of Biscoe" in text
    assert "\x1b" not in text


def test_a_bar_is_full_only_when_nothing_is_missing_and_empty_only_when_nothing_is_held():
    assert standing.bar(999_999, 1_000_000, width=10, ascii_only=True).plain == "#########."
    assert standing.bar(1, 1_000_000, width=10, ascii_only=True).plain == "#........."
    assert standing.bar(0, 5, width=10, ascii_only=True).plain == ".........."
    assert standing.bar(5, 5, width=10, ascii_only=True).plain == "##########"
    assert standing.bar(0, 0, width=10, ascii_only=True).plain == "##########"


def test_a_conflict_shows_both_values():
    claim = {"value": 3_400, "member": "Dream", "change": "ab" * 32 + ":7", "unix_ms": 1_700_000_000_000}
    item = {
        "id": "0123456789abcdef",
        "table": "penguin",
        "key": ["N1"],
        "column": "mass",
        "winner": claim,
        "loser": {**claim, "value": None},
    }

    text = drawn(render.conflicts([item], now_unix_ms=1_700_000_120_000))

    assert "3400" in text
    assert "2 min" in text
    assert "0123456789abcdef" in text
    assert "NULL" in text
    assert "abababab:7" in text


@pytest.fixture
def out(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    return Output()


def test_rows_are_aligned_numbers_to_the_right(out, capsys):
    render.rows(out, ["id", "mass"], [("a", 1), ("bcd", None), ("e", 1000)])

    assert capsys.readouterr().out.splitlines() == ["id   mass", "a       1", "bcd  NULL", "e    1000", "3 rows"]


def test_rows_wider_than_the_terminal_are_shown_one_field_to_a_line(out, capsys):
    render.rows(out, ["id", "note"], [("a", "x" * 60)])

    assert capsys.readouterr().out.splitlines() == ["row 1", "  id    a", f"  note  {'x' * 60}", "1 row"]


def test_a_value_cannot_steer_the_terminal(out, capsys):
    """T44"""
    render.rows(out, ["a\x1b[2J"], [("[bold]\x07",)])

    assert capsys.readouterr().out.splitlines() == ["a\\x1b[2J", "[bold]\\x07", "1 row"]
