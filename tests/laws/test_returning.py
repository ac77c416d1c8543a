"""A device that comes back after a year: what it wrote is nobody's loss, and what was deleted stays deleted (S38)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.fleet import BIRD, Fleet, all_agree, scratch

YEAR_MS = 365 * 24 * 60 * 60 * 1000


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Ana, ben and cal, who know the same four birds; then cal is away."""
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", BIRD)
        fleet.join("ben")
        fleet.join("cal")
        fleet["ana"].executemany("INSERT INTO bird VALUES(?, 1, 'seen by all')", [(key,) for key in "abcd"])
        fleet.gather()
        yield fleet


def back_after_a_year(fleet: Fleet) -> None:
    for name in ("ana", "ben"):
        fleet.skew(name, YEAR_MS)
    fleet.gather()
    all_agree(fleet)


def test_a_delete_that_comes_a_year_late_takes_the_row_away_and_nothing_else(fleet: Fleet) -> None:
    """S38: nobody touched the row meanwhile, so the old delete has seen all of it."""
    fleet["cal"].execute("DELETE FROM bird WHERE id = 'a'")
    fleet["ana"].execute("UPDATE bird SET mass = 2 WHERE id = 'b'")
    fleet.gather(["ana", "ben"])
    back_after_a_year(fleet)

    assert fleet["ben"].query("SELECT id, mass FROM bird ORDER BY id") == [("b", 2), ("c", 1), ("d", 1)]
    assert fleet["ben"].conflicts() == []


def test_a_delete_that_comes_a_year_late_loses_nothing_that_was_written_meanwhile(fleet: Fleet) -> None:
    """S38: the row lives on with what it had not seen, and the delete is listed."""
    fleet["cal"].execute("DELETE FROM bird WHERE id = 'a'")
    for mass in (2, 3):
        fleet["ana"].execute("UPDATE bird SET mass = ? WHERE id = 'a'", (mass,))
        fleet.gather(["ana", "ben"])
    back_after_a_year(fleet)

    assert fleet["ben"].query("SELECT mass, note FROM bird WHERE id = 'a'") == [(3, "seen by all")]
    assert [(c.key, c.column, c.loser.member_name) for c in fleet["ben"].conflicts()] == [(("a",), None, "cal")]


def test_a_row_deleted_meanwhile_does_not_come_back_with_an_old_device(fleet: Fleet) -> None:
    """S38: no resurrection: what the device still shows was seen by the delete."""
    fleet["ana"].execute("DELETE FROM bird WHERE id = 'a'")
    fleet["ben"].execute("UPDATE bird SET mass = 5 WHERE id = 'd'")
    fleet.gather(["ana", "ben"])
    assert fleet["cal"].query("SELECT count(*) FROM bird WHERE id = 'a'") == [(1,)]
    fleet["cal"].execute("UPDATE bird SET mass = 9 WHERE id = 'b'")
    back_after_a_year(fleet)

    assert fleet["cal"].query("SELECT id, mass FROM bird ORDER BY id") == [("b", 9), ("c", 1), ("d", 5)]
    assert fleet["cal"].conflicts() == []


def test_the_old_device_wins_and_loses_by_the_same_rule_as_everybody(fleet: Fleet) -> None:
    """S38: a year of clock makes a later write, and the earlier one is listed with its author."""
    fleet["cal"].execute("UPDATE bird SET mass = 9 WHERE id = 'b'")
    for name in ("ana", "ben"):
        fleet.skew(name, YEAR_MS)
    fleet["ana"].execute("UPDATE bird SET mass = 2 WHERE id = 'b'")
    fleet.gather()
    all_agree(fleet)

    assert fleet["cal"].query("SELECT mass FROM bird WHERE id = 'b'") == [(2,)]
    assert [(c.loser.value, c.loser.member_name) for c in fleet["ben"].conflicts()] == [(9, "cal")]
