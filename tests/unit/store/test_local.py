"""What is made in temp serves the user's side: it is in no change, and keeps nothing from being one (T41)."""

import pytest

import klal
from klal.errors import UsageError
from tests.helpers.fleet import BIRD, Fleet, rows_of


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", BIRD, "CREATE TABLE tally(id TEXT PRIMARY KEY, count INTEGER)")
        fleet.join("ben")
        fleet.gather()
        yield fleet


def objects(replica):
    return [row[0] for row in replica.query("SELECT name FROM sqlite_temp_schema WHERE name NOT LIKE 'sqlite%'")]


def test_local_tables_views_and_triggers_are_in_no_change(fleet):
    ana = fleet["ana"]
    before = ana.log()
    ana.execute("CREATE TEMP TABLE seen(id)")
    ana.execute("CREATE INDEX temp.seen_by_id ON seen(id)")
    ana.execute("CREATE TEMP VIEW heavy AS SELECT * FROM bird WHERE mass > 10")
    ana.execute("CREATE TEMP TRIGGER note AFTER INSERT ON bird BEGIN INSERT INTO seen VALUES (new.id); END")
    ana.execute("CREATE VIRTUAL TABLE temp.words USING fts5(id UNINDEXED, note)")
    result = ana.execute("INSERT INTO seen VALUES ('x')")
    ana.insert_many("bird", [])

    assert result.change is None
    assert ana.log() == before
    ana.verify()
    assert fleet.reopen("ana").query("SELECT count(*) FROM sqlite_temp_schema") == [(0,)]


def test_what_a_local_trigger_writes_into_replicated_tables_is_part_of_the_same_change(fleet):
    ana, ben = fleet["ana"], fleet["ben"]
    ana.execute(
        "CREATE TEMP TRIGGER count AFTER INSERT ON bird BEGIN INSERT INTO tally VALUES (new.id, 1)"
        " ON CONFLICT DO UPDATE SET count = count + 1; END"
    )
    one = ana.execute("INSERT INTO bird VALUES ('a', 1, '')")
    ana.insert_many("bird", [("b", 2, ""), ("c", 3, "")])
    ana.executemany("INSERT INTO bird VALUES (?, 4, '')", [("d",), ("e",)])
    fleet.gather()

    assert one.change is not None
    assert [entry.tables for entry in ana.log(limit=3)] == [
        {"bird": 2, "tally": 2},
        {"bird": 2, "tally": 2},
        {"bird": 1, "tally": 1},
    ]
    assert rows_of(ben) == rows_of(ana)
    assert ben.query("SELECT count(*), sum(count) FROM tally") == [(5, 5)]
    ana.verify()


def test_a_merge_fires_no_local_trigger_and_they_are_there_again(fleet):
    """An error inside one, or what it writes, would make an honest change come out differently here alone (T27)."""
    ana, ben = fleet["ana"], fleet["ben"]
    ben.execute("CREATE TEMP VIEW all_birds AS SELECT * FROM bird")
    ben.execute("CREATE TEMP TRIGGER count AFTER INSERT ON bird BEGIN INSERT INTO tally VALUES (new.id, 1); END")
    ben.execute("CREATE TEMP TRIGGER no AFTER UPDATE ON bird BEGIN SELECT RAISE(ABORT, 'never'); END")
    ben.execute(
        "CREATE TEMP TRIGGER in_view INSTEAD OF INSERT ON all_birds BEGIN INSERT INTO bird VALUES (new.id, 0, ''); END"
    )
    made = sorted(objects(ben))
    ana.execute("INSERT INTO bird VALUES ('a', 1, '')")
    ana.execute("UPDATE bird SET mass = 2")
    fleet.gather()

    assert rows_of(ben) == rows_of(ana)
    assert ben.query("SELECT * FROM tally") == []
    assert ben.status().warnings == ()
    ben.verify()
    assert sorted(objects(ben)) == made
    with pytest.raises(UsageError, match="never"):
        ben.execute("UPDATE bird SET mass = 3")
    ben.execute("INSERT INTO all_birds VALUES ('b', 0, '')")
    assert ben.query("SELECT id FROM tally") == [("b",)]


def test_a_view_of_what_is_not_there_keeps_no_table_from_being_made(fleet):
    """Here and by a merge: SQLite refuses every RENAME while a view names what it cannot find."""
    ana, ben = fleet["ana"], fleet["ben"]
    for replica in (ana, ben):
        replica.execute("CREATE TEMP VIEW broken AS SELECT * FROM nowhere")
    ana.execute("CREATE TABLE egg(id TEXT PRIMARY KEY)")
    fleet.gather()

    assert "egg" in ben.tables()
    assert objects(ben) == ["broken"]
    ben.verify()


def test_rows_of_a_local_table_are_not_taken_for_those_of_a_replicated_one_that_came_later(fleet):
    ana, ben = fleet["ana"], fleet["ben"]
    ben.execute("CREATE TEMP TABLE egg(id TEXT PRIMARY KEY, size)")
    ana.execute("CREATE TABLE egg(id TEXT PRIMARY KEY, size)")
    fleet.gather()
    with ben.transaction():
        ben.execute("INSERT INTO temp.egg VALUES ('mine', 1)")
        ben.execute("INSERT INTO main.egg VALUES ('ours', 2)")
    with ben.transaction():
        ben.execute("INSERT INTO main.egg VALUES ('ours too', 2)")
        ben.execute("INSERT INTO temp.egg VALUES ('mine too', 1)")
    fleet.gather()

    assert ana.query("SELECT id FROM egg ORDER BY id") == [("ours",), ("ours too",)]
    ben.verify()


def test_full_text_search_follows_local_writes_by_a_trigger(fleet):
    ana = fleet["ana"]
    ana.execute("CREATE VIRTUAL TABLE temp.words USING fts5(id UNINDEXED, note)")
    ana.execute("CREATE TEMP TRIGGER w AFTER INSERT ON bird BEGIN INSERT INTO words VALUES (new.id, new.note); END")
    ana.execute("BEGIN")
    ana.execute("INSERT INTO bird VALUES ('a', 1, 'taken back')")
    ana.execute("ROLLBACK")
    ana.execute("INSERT INTO bird VALUES ('b', 1, 'ringed twice')")

    assert ana.query("SELECT id FROM words WHERE words MATCH 'ringed OR taken'") == [("b",)]
    assert ana.log(limit=1)[0].tables == {"bird": 1}


def test_what_was_made_in_temp_can_be_dropped_and_nothing_else(fleet):
    ana = fleet["ana"]
    ana.execute("CREATE TEMP TABLE seen(id)")
    ana.execute("CREATE TEMP VIEW v AS SELECT 1")
    ana.execute("CREATE VIRTUAL TABLE temp.words USING fts5(note)")
    for sql in ("DROP TABLE seen", "DROP VIEW v", "DROP TABLE temp.words"):
        ana.execute(sql)

    assert objects(ana) == []
    for sql in ("DROP TABLE temp.bird", "DROP VIEW klal_members", "DROP TABLE klal_log"):
        with pytest.raises(UsageError):
            ana.execute(sql)


@pytest.mark.parametrize(
    ("sql", "instead"),
    [
        ("CREATE TRIGGER r AFTER INSERT ON bird BEGIN SELECT 1; END", "CREATE TEMP TRIGGER"),
        ("CREATE VIRTUAL TABLE words USING fts5(note)", "CREATE VIRTUAL TABLE temp.NAME"),
        ("ATTACH 'other.db' AS other", "a connection of its own"),
        ("PRAGMA writable_schema = 1", "writable_schema is not allowed"),
        ("SELECT load_extension('x')", "load_extension"),
    ],
)
def test_what_is_refused_says_what_to_do_instead(fleet, sql, instead):
    """T41."""
    with pytest.raises(UsageError, match=instead):
        fleet["ana"].execute(sql)


def test_a_column_may_be_called_temp(tmp_path):
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.execute("CREATE TABLE weather(day TEXT PRIMARY KEY, temp REAL)")

        assert ana.tables() == ["weather"]
