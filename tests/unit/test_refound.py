"""A space that goes on from another."""

from __future__ import annotations

import pytest

import klal
from klal.errors import IncompleteError, UsageError


@pytest.fixture
def old(tmp_path):
    with klal.create(tmp_path / "old.db", space="season", member="ana", home=tmp_path / "home") as ana:
        ana.execute("CREATE TABLE place(name TEXT PRIMARY KEY)")
        ana.execute(
            "CREATE TABLE bird(id TEXT PRIMARY KEY, place TEXT REFERENCES place(name),"
            " mass INTEGER COUNTER NOT NULL DEFAULT 0,"
            " note TEXT COLLABORATIVE NOT NULL DEFAULT '', double INTEGER AS (mass * 2) STORED, CHECK (mass > 0))"
        )
        ana.execute("CREATE VIEW heavy AS SELECT id FROM bird WHERE mass > 4000")
        ana.execute("ALTER TABLE bird SET MERGE ROW")
        ticket = ana.invite()
        with klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home-ben") as ben:
            ben.execute("INSERT INTO place VALUES('Dream')")
            ben.execute("INSERT INTO bird(id, place, mass, note) VALUES('N1', 'Dream', 4100, 'ringed')")
        ana.execute("INSERT INTO place VALUES('Biscoe')")
        ana.sync(tmp_path / "ben.db")
        ana.finish()
    return tmp_path / "old.db"


def test_it_names_the_old_space_and_carries_its_tables_and_rows(old, tmp_path):
    """W18 D15 MEM-11: and the old file stays what it was."""
    with klal.open(old, home=tmp_path / "home") as before:
        root, space_id = before.status().root, before.space_id

    with klal.refound(old, tmp_path / "new.db", space="season 2", home=tmp_path / "home") as new:
        assert new.predecessor == (space_id, "season")
        assert (new.space_name, new.member_name) == ("season 2", "ana")
        assert new.space_id != space_id
        assert new.query("SELECT id, place, mass, note, double FROM bird") == [("N1", "Dream", 4100, "ringed", 8200)]
        assert new.query("SELECT name FROM place ORDER BY 1") == [("Biscoe",), ("Dream",)]
        assert new.query("SELECT id FROM heavy") == [("N1",)]
        assert new.query('SELECT "merge" FROM klal_policies WHERE "table" = \'bird\'') == [("row",)]
        new.execute("UPDATE bird SET mass = mass + 1")
        assert new.finish().epoch == 0
        assert new.close_epoch().grade == "complete"
        new.verify()
        ticket = new.invite()
    with klal.open(old, home=tmp_path / "home") as before:
        assert before.status().root == root
        assert before.predecessor is None
    with klal.join(tmp_path / "ben-2.db", ticket, member="ben", home=tmp_path / "home-ben") as ben:
        ben.sync(tmp_path / "new.db")
        assert ben.predecessor == (space_id, "season")


def test_nothing_is_founded_on_what_is_not_all_there(old, tmp_path):
    """W4 W5: known of and not here is said, and no file is left."""
    with klal.open(old, home=tmp_path / "home") as ana:
        ticket = ana.invite()
    with klal.join(tmp_path / "cal.db", ticket, member="cal", home=tmp_path / "home-cal") as cal:
        while not cal.missing():
            cal.sync(old, byte_count_max=700)
    with pytest.raises(IncompleteError):
        klal.refound(tmp_path / "cal.db", tmp_path / "new.db", space="x", home=tmp_path / "home-cal")
    with pytest.raises(UsageError):
        klal.refound(old, old, space="x", home=tmp_path / "home")

    assert not (tmp_path / "new.db").exists()
