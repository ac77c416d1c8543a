"""What once went wrong, kept for ever: each a small fleet that ended with one root and different rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import klal
from klal.errors import MalformedError
from klal.model.payload import Kind, Segment, encode_segment
from klal.model.schema import Column, TableDefinition, check_definition
from klal.store.store import World
from tests.helpers.fleet import FakeClock, Fleet, all_agree, scratch


def _everybody(folder: Path, names: tuple[str, ...], *ddl: str) -> dict[str, klal.Replica]:
    first = klal.create(folder / f"{names[0]}.db", space="s", member=names[0], home=folder / f"home-{names[0]}")
    for sql in ddl:
        first.execute(sql)
    ticket = first.invite()
    replicas = {names[0]: first}
    for name in names[1:]:
        replicas[name] = klal.join(folder / f"{name}.db", ticket, member=name, home=folder / f"home-{name}")
    return replicas


def _meet(folder: Path, *replicas: klal.Replica) -> None:
    folder.mkdir(exist_ok=True)
    for replica in replicas:
        replica.sync(folder)


def _assert_same(*replicas: klal.Replica) -> None:
    first = replicas[0]
    for replica in replicas:
        assert replica.status().root == first.status().root
        assert replica.conflicts() == first.conflicts()
        assert replica.status().warnings == ()
        for table in first.tables():
            key = ", ".join(f'"{name}"' for name in first.table_key(table))
            names = ", ".join(sorted(f'"{name}"' for name, _ in first.table_columns(table)))
            sql = f'SELECT {names} FROM "{table}" ORDER BY {key}'
            assert replica.query(sql) == first.query(sql)
        replica.verify()


def test_a_window_that_was_loaded_in_pieces_has_no_hole(tmp_path: Path) -> None:
    """S19, S35: one batch first asked for [0, 5) of a log, then [8, 10), then [3, 10)."""
    found = _everybody(tmp_path, tuple("omanp"), "CREATE TABLE t(id TEXT PRIMARY KEY, v TEXT, w TEXT)")
    o, m, a, n, p = (found[name] for name in "omanp")
    for each in (m, a, n, p):
        _meet(tmp_path / "all", each, o)
    o.execute("INSERT INTO t VALUES ('k', 'base', 'base'), ('j', 'base', 'base')")
    _meet(tmp_path / "all", o, m, a, n, p)
    for i in range(3):
        a.execute("UPDATE t SET w = ? WHERE id = 'j'", (f"a{i}",))
    _meet(tmp_path / "two", a, o)
    m.execute("UPDATE t SET v = 'm1' WHERE id = 'j'")
    a.execute("UPDATE t SET v = 'a-late' WHERE id = 'k'")
    _meet(tmp_path / "two", a, n)
    a.execute("UPDATE t SET w = 'a-last' WHERE id = 'j'")
    n.execute("UPDATE t SET v = 'n' WHERE id = 'j'")
    p.execute("INSERT INTO t VALUES ('pp', 'p', 'p')")
    _meet(tmp_path / "four", p, m)
    m.execute("UPDATE t SET v = 'm2' WHERE id = 'k'")

    _meet(tmp_path / "end", m, a, n, p, o, m, a, n, p, o)

    assert len(o.conflicts()) == 2
    _assert_same(o, m, a, n, p)


def test_columns_added_apart_whose_names_differ_in_case_stand_side_by_side(tmp_path: Path) -> None:
    """S32."""
    found = _everybody(tmp_path, ("ana", "ben"), "CREATE TABLE t(id TEXT PRIMARY KEY)")
    ana, ben = found["ana"], found["ben"]
    for i in range(6):
        ana.execute(f'ALTER TABLE t ADD COLUMN "Note{i}" TEXT')
        ben.execute(f'ALTER TABLE t ADD COLUMN "note{i}" TEXT')
    ana.execute("INSERT INTO t(id, Note0) VALUES ('a', 'x')")
    ben.execute("INSERT INTO t(id, note0) VALUES ('b', 'y')")

    _meet(tmp_path / "stick", ana, ben, ana)

    assert len(ana.table_columns("t")) == 13
    _assert_same(ana, ben)


def test_a_name_that_tells_tables_apart_cannot_be_taken_beforehand(tmp_path: Path) -> None:
    """T38, SCH-3: two tables of one name, apart: nobody may declare the name that tells them apart."""
    found = _everybody(tmp_path, ("ana", "ben"))
    ana, ben = found["ana"], found["ben"]
    ana.execute("CREATE TABLE x(id TEXT PRIMARY KEY, a INT)")
    ben.execute("CREATE TABLE x(id TEXT PRIMARY KEY, b INT)")
    _meet(tmp_path / "stick", ana, ben, ana)
    taken = next(name for name in ana.tables() if "__" in name)

    eve = klal.create(tmp_path / "eve.db", space="other", member="eve", home=tmp_path / "home-eve")
    with pytest.raises(klal.errors.UsageError, match="reserved"):
        eve.execute(f'CREATE TABLE "{taken}"(id TEXT PRIMARY KEY)')

    _assert_same(ana, ben)


@pytest.mark.parametrize("kind", ["INT CHECK(0)", "INT DEFAULT(7)", "INT AS(1)", "AS(1)"])
def test_a_type_carries_no_sql_behind_a_parenthesis(kind: str) -> None:
    """T38, SCH-4."""
    definition = TableDefinition("t", (Column("id", "TEXT"), Column("c", kind)), ("id",))

    with pytest.raises(MalformedError):
        check_definition(definition)


def test_any_of_a_strict_table_converts_nothing(tmp_path: Path) -> None:
    """T42, APP-4."""
    found = _everybody(tmp_path, ("ana", "ben"), "CREATE TABLE t(id TEXT PRIMARY KEY, v ANY) STRICT")
    ana, ben = found["ana"], found["ben"]
    ana.execute("INSERT INTO t VALUES ('k', '123'), ('m', 1.0), ('n', x'00')")
    ana.insert_many("t", [("o", "456")])

    _meet(tmp_path / "stick", ana, ben, ana)

    _assert_same(ana, ben)
    assert ben.query("SELECT typeof(v) FROM t ORDER BY id") == [("text",), ("real",), ("blob",), ("text",)]


def test_the_smallest_real_that_is_no_integer_travels(tmp_path: Path) -> None:
    """T42: SQLite keeps -2^63 as a real in an INTEGER column."""
    found = _everybody(tmp_path, ("ana", "ben"), "CREATE TABLE t(id TEXT PRIMARY KEY, v INTEGER)")
    ana, ben = found["ana"], found["ben"]
    ana.execute("INSERT INTO t VALUES ('k', -9223372036854775808.0)")

    _meet(tmp_path / "stick", ana, ben, ana)

    _assert_same(ana, ben)


def test_a_clock_before_1970_harms_nothing(tmp_path: Path) -> None:
    """S20, T18: it is stamped as 1970, and the file stays readable."""
    ana = klal.create(tmp_path / "ana.db", space="s", member="ana", home=tmp_path / "home")
    store: Any = ana._store
    clock = FakeClock(-3_600_000)
    store._world = World(clock, store._world.entropy)
    store.writer._clock = clock
    ana.execute("CREATE TABLE t(id TEXT PRIMARY KEY)")
    _meet(tmp_path / "stick", ana)
    clock.now_ms = 1 << 50
    ana.execute("INSERT INTO t VALUES ('far future')")
    _meet(tmp_path / "stick", ana)
    ana.close()

    with klal.open(tmp_path / "ana.db", home=tmp_path / "home") as again:
        again.verify()
        assert again.query("SELECT * FROM t") == [("far future",)]


def test_rows_too_large_for_one_segment_travel_in_several(tmp_path: Path) -> None:
    """PAY-3, T2: what the author's door lets out every other door lets in."""
    found = _everybody(tmp_path, ("ana", "ben"), "CREATE TABLE t(id TEXT PRIMARY KEY, v BLOB)")
    ana, ben = found["ana"], found["ben"]
    ana.insert_many("t", [(str(i), bytes(100_000_000)) for i in range(3)])

    with pytest.raises(klal.errors.UsageError, match="more than can travel"):
        ana.execute("INSERT INTO t VALUES ('huge', zeroblob(300000000))")
    _meet(tmp_path / "stick", ana, ben, ana)

    assert ben.query("SELECT id, length(v) FROM t ORDER BY id") == [(str(i), 100_000_000) for i in range(3)]
    assert ben.status().warnings == ()


@pytest.mark.parametrize("act", ["finish", "invite"])
def test_a_returning_member_whose_first_act_is_no_row_is_let_in(tmp_path: Path, act: str) -> None:
    """MEM-1, W11: its join comes first, whatever it does first."""
    ana = klal.create(tmp_path / "ana.db", space="s", member="ana", home=tmp_path / "home-ana")
    ana.execute("CREATE TABLE t(id TEXT PRIMARY KEY)")
    ticket = ana.invite()
    klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home-ben").close()
    (tmp_path / "ben.db").unlink()
    ben = klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home-ben")

    getattr(ben, act)()
    ben.execute("INSERT INTO t VALUES ('work of ben')")
    (tmp_path / "stick").mkdir()
    report = ben.sync(tmp_path / "stick")

    assert report.refused == ()
    assert ana.sync(tmp_path / "stick").equal
    assert sorted(member.name for member in ana.members()) == ["ana", "ben"]
    ben.verify()


def test_another_tool_may_read_while_klal_writes(tmp_path: Path) -> None:
    """Decision 0002."""
    with klal.create(tmp_path / "ana.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.execute("CREATE TABLE t(id TEXT PRIMARY KEY)")
        ana.execute("INSERT INTO t VALUES ('a')")

        rows = sqlite3.connect(tmp_path / "ana.db").execute("SELECT id FROM t").fetchall()

        assert rows == [("a",)]


# -- what features did to each other -----------------------------------------------------------


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana")
        fleet.join("ben")
        yield fleet


def lost_twice(fleet: Fleet) -> None:
    """Make a dead key with two cells that lost: it was deleted here for good while both were written there."""
    fleet["ana"].execute("CREATE TABLE pair(k TEXT PRIMARY KEY, a INT, b INT)")
    fleet["ana"].execute("ALTER TABLE pair SET ON DELETE WINS")
    fleet["ana"].execute("INSERT INTO pair VALUES('k', 1, 1)")
    fleet.gather()
    fleet["ana"].execute("DELETE FROM pair")
    fleet["ben"].execute("UPDATE pair SET a = 2, b = 2")
    fleet.gather()
    assert len(fleet["ana"].conflicts()) == 2


def agree(fleet: Fleet) -> None:
    fleet.gather()
    all_agree(fleet)
    for replica in fleet.replicas.values():
        replica.verify()


def test_settling_a_dead_key_twice_is_one_write_of_it(fleet: Fleet) -> None:
    """PAY-4: both lost cells are one key, and a change writes a key once."""
    lost_twice(fleet)
    with fleet["ana"].transaction() as ana:
        for conflict in ana.conflicts():
            ana.resolve(conflict, keep=True)
    agree(fleet)

    assert fleet["ben"].conflicts() == []


def test_settling_and_then_writing_a_key_in_one_transaction_is_one_write_of_it(fleet: Fleet) -> None:
    lost_twice(fleet)
    with fleet["ana"].transaction() as ana:
        ana.resolve(ana.conflicts()[0], keep=True)
        ana.execute("INSERT INTO pair VALUES('k', 7, 7)")
    agree(fleet)

    assert fleet["ben"].query("SELECT * FROM pair") == [("k", 7, 7)]


def test_settling_is_taken_back_with_its_savepoint(fleet: Fleet) -> None:
    lost_twice(fleet)
    with fleet["ana"].transaction() as ana:
        ana.execute("SAVEPOINT s")
        ana.resolve(ana.conflicts()[0], keep=True)
        ana.execute("ROLLBACK TO s")
        ana.execute("INSERT INTO pair VALUES('other', 0, 0)")
    agree(fleet)

    assert len(fleet["ben"].conflicts()) == 2


def test_a_key_that_is_no_value_stops_nothing(fleet: Fleet) -> None:
    """T7: an array in the place of a key cannot even be looked up."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INT)")
    fleet.gather()
    writer = fleet["ana"]._store.writer
    table = fleet["ana"]._store.catalog.named("t")
    good = encode_segment(Segment(Kind.INSERT, table.value_ids, [["x"]], [[1]]))
    keys, bad = msgspec.msgpack.encode([["x"]]), msgspec.msgpack.encode([[["x"]]])
    for _ in range(3):
        with fleet["ana"]._store.writing():
            forged = good.replace(keys, bad)
            forged = forged[:8] + len(bad).to_bytes(4, "big") * 2 + forged[16:]
            writer.append([(table.table_id, bytes(16) + forged, 1)])
    fleet["ben"].execute("INSERT INTO t VALUES('mine', 1)")
    fleet.meet("ana", "ben")

    assert fleet["ben"].query("SELECT * FROM t") == [("mine", 1)]
    assert list(fleet["ben"].query("SELECT DISTINCT state FROM klal_changes ORDER BY 1")) == [
        ("applied",),
        ("without effect",),
    ]


def test_a_key_that_stands_twice_in_a_later_life_has_no_effect_anywhere(fleet: Fleet) -> None:
    """PAY-4, T7: whether or not anything here could meet it, or two replicas would say two things."""
    fleet.join("cal")
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INT)")
    fleet.gather()
    writer = fleet["ana"]._store.writer
    table = fleet["ana"]._store.catalog.named("t")
    twice = encode_segment(Segment(Kind.INSERT, table.value_ids, [["x", "x"]], [[1, 2]], [2, 2]))
    with fleet["ana"]._store.writing():
        writer.append([(table.table_id, bytes(16) + twice, 2)])
    fleet["cal"].execute("INSERT INTO t VALUES('y', 1)")
    fleet["cal"].execute("DELETE FROM t")
    for name in ("ben", "cal"):
        fleet.meet("ana", name)

    for name in ("ben", "cal"):
        assert fleet[name].query("SELECT * FROM t") == []
        states = fleet[name].query("SELECT count(*) FROM klal_changes WHERE state = 'without effect'")
        assert states == [(1,)]


def test_no_trigger_of_the_users_fires_on_what_klal_writes(fleet: Fleet) -> None:
    """S36: a set in its one spelling, and a row that UNIQUE reveals, are nobody's writes."""
    typed = "tags TEXT ELEMENTS NOT NULL DEFAULT '[]'"
    fleet["ana"].execute(f"CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT UNIQUE, {typed})")
    fleet["ana"].execute("CREATE TABLE noted(k TEXT PRIMARY KEY DEFAULT (klal_id()))")
    fleet.gather()
    fleet["ana"].execute("INSERT INTO t(k, v) VALUES('a', 'x')")
    fleet["ben"].execute("INSERT INTO t(k, v) VALUES('b', 'x')")
    fleet.gather()
    for verb in ("INSERT", "UPDATE"):
        note = "BEGIN INSERT INTO noted VALUES(lower(hex(randomblob(8)))); END"
        fleet["ana"].execute(f"CREATE TEMP TRIGGER on_{verb} AFTER {verb} ON t {note}")
    shown = fleet["ana"].query("SELECT k FROM t")[0][0]
    fleet["ana"].execute("UPDATE t SET v = 'y', tags = '[\"b\", \"a\"]' WHERE k = ?", (shown,))
    agree(fleet)

    assert fleet["ana"].query("SELECT count(*) FROM t") == [(2,)]
    assert fleet["ben"].query("SELECT count(*) FROM noted") == [(1,)]


def test_the_versions_of_a_row_outlive_its_columns_and_read_as_they_were_meant(fleet: Fleet) -> None:
    """W14."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, gone INT, n INTEGER COUNTER NOT NULL DEFAULT 0)")
    fleet["ana"].execute("INSERT INTO t VALUES('a', 5, 1)")
    fleet["ana"].execute("UPDATE t SET n = n + 2")
    fleet["ana"].execute("ALTER TABLE t DROP COLUMN gone")

    assert [version.written for version in fleet["ana"].history("t", "a")] == [{"n": 1}, {"n": "+2"}]


def test_a_view_that_names_what_is_gone_can_be_dropped_and_made_anew(fleet: Fleet) -> None:
    """S32."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY)")
    fleet.gather()
    fleet["ana"].execute("CREATE VIEW v AS SELECT k FROM t")
    fleet["ben"].execute("DROP TABLE t")
    fleet.gather()
    fleet["ana"].execute("DROP VIEW v")
    fleet["ana"].execute("DROP VIEW IF EXISTS v")
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, x INT)")
    fleet["ana"].execute("CREATE VIEW v AS SELECT x FROM t")
    agree(fleet)

    assert fleet["ben"].query("SELECT count(*) FROM klal_violations WHERE kind = 'view'") == [(0,)]


def test_a_null_in_a_dead_row_goes_with_its_column(fleet: Fleet) -> None:
    """FIL-4."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INT DEFAULT 5, w INT)")
    fleet["ana"].execute("INSERT INTO t VALUES('a', NULL, 1)")
    fleet.gather()
    fleet["ana"].execute("DELETE FROM t")
    fleet["ben"].execute("ALTER TABLE t DROP COLUMN v")
    agree(fleet)


@pytest.mark.parametrize("way", ["value", "values", "delete"])
def test_a_hidden_row_can_be_given_another_value_or_deleted(fleet: Fleet, way: str) -> None:
    """S26 UNQ-4: whoever made it need not touch the row that shows."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT UNIQUE, n INT)")
    fleet.gather()
    fleet["ana"].execute("INSERT INTO t VALUES('a', 'x', 1)")
    fleet["ben"].execute("INSERT INTO t VALUES('b', 'x', 2)")
    fleet.gather()
    (violation,) = fleet["ben"].violations()
    (shown,) = fleet["ben"].query("SELECT * FROM t")
    assert violation.row is not None
    if way == "value":
        fleet["ben"].resolve(violation, "y")
    elif way == "values":
        fleet["ben"].resolve(violation.id, {"v": "y", "n": 7})
    else:
        fleet["ben"].resolve(violation, delete=True)
    agree(fleet)

    wanted = {
        "value": [(violation.key, "y", violation.row["n"])],
        "values": [(violation.key, "y", 7)],
        "delete": [],
    }[way]
    assert sorted(fleet["ana"].query("SELECT * FROM t")) == sorted([shown, *wanted])
    assert fleet["ana"].violations() == []


@pytest.mark.parametrize("ddl", ["ALTER TABLE t RENAME COLUMN v TO m", "ALTER TABLE t DROP COLUMN v"])
def test_a_view_that_lost_a_column_apart_blocks_nothing(fleet: Fleet, ddl: str) -> None:
    """S32: in a replay as in the file, a name in double quotes is no text."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INT)")
    fleet.gather()
    fleet["ana"].execute("CREATE VIEW vw AS SELECT k, v FROM t")
    fleet["ben"].execute(ddl)
    agree(fleet)

    assert [v.kind for v in fleet["ana"].violations()] == ["view"]
    assert fleet.reopen("ana").foreign_writes() == []


def test_what_is_generated_stands_in_no_version_and_no_difference(fleet: Fleet) -> None:
    """W14."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INT, g INT AS (v + 1) STORED)")
    change = fleet["ana"].execute("INSERT INTO t(k, v) VALUES('a', 1)").change
    fleet["ana"].execute("UPDATE t SET v = 2")
    (difference,) = fleet["ana"].diff(change)

    assert [version.row for version in fleet["ana"].history("t", "a")] == [{"k": "a", "v": 1}, {"k": "a", "v": 2}]
    assert (difference.before, difference.after) == ({"k": "a", "v": 1}, {"k": "a", "v": 2})
    assert fleet["ana"].at(change).query("SELECT g FROM t") == [(2,)]


@pytest.mark.parametrize("way", ["adopt", "undo"])
@pytest.mark.parametrize("sql", ["DELETE FROM t", "INSERT INTO t(k, v) VALUES('b', 2)", "UPDATE t SET v = 7"])
def test_rows_with_generated_columns_are_adopted_and_undone(tmp_path: Path, way: str, sql: str) -> None:
    """T40."""
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INT, g INT AS (v + 1) STORED)")
        ana.execute("INSERT INTO t(k, v) VALUES('a', 1)")
        before = ana.query("SELECT * FROM t ORDER BY k")
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute(sql)
        after = other.execute("SELECT * FROM t ORDER BY k").fetchall()
    other.close()
    with klal.open(tmp_path / "a.db", home=tmp_path / "home") as ana:
        assert len(ana.foreign_writes()) == 1
        getattr(ana, way)()
        ana.verify()

        assert ana.query("SELECT * FROM t ORDER BY k") == (before if way == "undo" else after)


def test_births_that_knew_nothing_of_a_text_begin_it_alike(fleet: Fleet) -> None:
    """TYP-4 FIL-4: a text added while one key was inserted twice apart has one beginning, its default."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT)")
    fleet.join("cal")
    fleet.gather()
    fleet["ana"].execute("INSERT INTO t VALUES('k', 'x')")
    fleet["ben"].execute("INSERT INTO t VALUES('k', 'y')")
    fleet["ben"].execute("ALTER TABLE t ADD COLUMN q TEXT COLLABORATIVE NOT NULL DEFAULT 'ab'")
    fleet.meet("ana", "cal")
    agree(fleet)
    fleet["ana"].execute("UPDATE t SET q = 'a-b'")
    fleet["ben"].execute("UPDATE t SET q = 'ab!'")
    agree(fleet)

    assert fleet["cal"].query("SELECT q FROM t") == [("a-b!",)]
