"""klal.dbapi is what PEP 249 says, and carries every value exactly.

The first half follows PEP 249 section by section, in the order of its text.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import pickle
import struct
import subprocess
import sys
import time
from contextlib import closing
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import klal
from klal import dbapi
from klal.dbapi import BINARY, DATETIME, NUMBER, ROWID, STRING
from klal.errors import BusyError, ConstraintError, UnsupportedError
from tests.helpers.naughty import NAMES, STRINGS

TABLE = "CREATE TABLE bird(id TEXT PRIMARY KEY, mass INT, note BLOB, seen DATETIME)"


@pytest.fixture
def season(tmp_path):
    """Make a file with one table, and give its path."""
    with klal.create(tmp_path / "ana.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.execute(TABLE)
    return tmp_path / "ana.db"


@pytest.fixture
def connection(season):
    with closing(dbapi.connect(season, home=season.parent / "home")) as connection:
        yield connection


@pytest.fixture
def other(season):
    """Open the same file a second time."""
    with closing(dbapi.connect(season, home=season.parent / "home")) as connection:
        yield connection


def birds(connection):
    return connection.execute("SELECT id, mass FROM bird ORDER BY id").fetchall()


def fill(connection, *names):
    connection.executemany("INSERT INTO bird(id) VALUES (?)", [(name,) for name in names])


# -- the module --------------------------------------------------------------------------


def test_the_module_says_what_it_is():
    assert dbapi.apilevel == "2.0"
    assert dbapi.threadsafety == 1
    assert dbapi.paramstyle == "qmark"
    assert dbapi.sqlite_version_info >= (3, 45)


def test_exceptions_are_in_the_order_that_pep_249_draws():
    assert issubclass(dbapi.Warning, Exception)
    assert issubclass(dbapi.Error, Exception)
    assert not issubclass(dbapi.Warning, dbapi.Error)
    assert issubclass(dbapi.InterfaceError, dbapi.Error)
    assert issubclass(dbapi.DatabaseError, dbapi.Error)
    for name in ("Data", "Operational", "Integrity", "Internal", "Programming", "NotSupported"):
        assert issubclass(getattr(dbapi, f"{name}Error"), dbapi.DatabaseError)


def test_every_exception_is_found_on_a_connection():
    names = [name for name in dbapi.__all__ if name == "Warning" or name.endswith("Error")]

    assert len(names) == 10
    assert all(getattr(dbapi.Connection, name) is getattr(dbapi, name) for name in names)


# -- connections -------------------------------------------------------------------------


def test_no_file_is_a_programming_error(tmp_path):
    with pytest.raises(dbapi.ProgrammingError, match="does not exist"):
        dbapi.connect(tmp_path / "nothing.db", home=tmp_path)


def test_what_is_no_klal_file_is_an_operational_error(tmp_path):
    (tmp_path / "x.db").write_text("no database")

    with pytest.raises(dbapi.OperationalError, match="is not a database"):
        dbapi.connect(tmp_path / "x.db", home=tmp_path)


def test_what_is_written_is_seen_by_others_after_commit_alone_and_is_one_change(connection, other):
    before = len(connection.replica.log())
    fill(connection, "a", "b")
    fill(connection, "c")

    assert birds(other) == []
    connection.commit()
    assert birds(other) == [("a", None), ("b", None), ("c", None)]
    assert len(connection.replica.log()) == before + 1


def test_rollback_undoes_what_was_written_since_the_last_commit(connection):
    fill(connection, "a")
    connection.commit()
    fill(connection, "b")
    connection.execute("UPDATE bird SET mass = 7")
    connection.rollback()

    assert birds(connection) == [("a", None)]
    assert not connection.in_transaction


def test_commit_and_rollback_with_nothing_written_do_nothing(connection):
    before = len(connection.replica.log())
    birds(connection)
    connection.commit()
    connection.rollback()

    assert len(connection.replica.log()) == before


def test_closing_rolls_back_what_was_not_committed(season, other):
    connection = dbapi.connect(season, home=season.parent / "home")
    fill(connection, "a")
    connection.close()

    assert birds(other) == []


def test_a_closed_connection_raises_from_everything_but_close(season):
    connection = dbapi.connect(season, home=season.parent / "home")
    cursor = connection.execute("SELECT 1")
    connection.close()
    connection.close()

    for call in (
        connection.commit,
        connection.rollback,
        connection.cursor,
        connection.__enter__().commit,
        lambda: connection.execute("SELECT 1"),
        lambda: connection.in_transaction,
        lambda: cursor.execute("SELECT 1"),
        cursor.fetchone,
    ):
        with pytest.raises(dbapi.ProgrammingError, match="closed"):
            call()


def test_a_block_is_committed_or_rolled_back_and_leaves_the_connection_open(connection, other):
    """As sqlite3's, whose habit this is."""
    with connection:
        fill(connection, "a")
    with pytest.raises(KeyError), connection:  # noqa: PT012 - the block is what is tested
        fill(connection, "b")
        raise KeyError

    assert birds(other) == birds(connection) == [("a", None)]


def test_reading_holds_nobody_up(connection, other):
    """The choice: a transaction begins with the first write."""
    cursor = connection.execute("SELECT * FROM bird")

    assert not connection.in_transaction
    fill(other, "a")
    other.commit()
    assert cursor.fetchall() == []
    assert birds(connection) == [("a", None)]


def test_a_reader_may_say_begin_so_that_nobody_writes_in_between(connection, season):
    connection.execute("BEGIN")

    assert connection.in_transaction
    code = (
        "import klal, sys\nfrom klal.store import file\nfile._BUSY_TIMEOUT_MS = 50\n"
        "from klal import dbapi\nc = dbapi.connect(sys.argv[1], home=sys.argv[2])\n"
        "try: c.execute(\"INSERT INTO bird(id) VALUES ('x')\")\n"
        "except dbapi.OperationalError as error: print(error, type(error.__cause__).__name__)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, season, season.parent / "home"], capture_output=True, text=True, check=True
    )
    assert "is locked by another process BusyError" in run.stdout
    assert BusyError.retryable


def test_a_statement_that_fails_leaves_no_transaction_that_was_begun_for_it(connection, other):
    fill(connection, "a")
    connection.commit()
    with pytest.raises(dbapi.IntegrityError):
        fill(connection, "b", "a")

    assert not connection.in_transaction
    fill(other, "c")
    other.commit()
    assert birds(connection) == [("a", None), ("c", None)]


def test_a_statement_that_fails_within_a_transaction_leaves_it_open(connection):
    fill(connection, "a")
    with pytest.raises(dbapi.IntegrityError):
        fill(connection, "a")
    fill(connection, "b")
    connection.commit()

    assert birds(connection) == [("a", None), ("b", None)]


def test_autocommit_makes_every_statement_a_change(season, other):
    with closing(dbapi.connect(season, home=season.parent / "home", autocommit=True)) as connection:
        fill(connection, "a")
        assert birds(other) == [("a", None)]
        connection.rollback()
        assert birds(other) == [("a", None)]


def test_turning_autocommit_on_commits_what_is_pending(connection, other):
    fill(connection, "a")
    connection.autocommit = True

    assert birds(other) == [("a", None)]
    connection.autocommit = False
    fill(connection, "b")
    assert birds(other) == [("a", None)]


def test_ddl_is_part_of_the_transaction(connection, other):
    connection.execute("CREATE TABLE visit(id TEXT PRIMARY KEY)")
    connection.execute("INSERT INTO visit VALUES ('v')")
    with pytest.raises(dbapi.ProgrammingError, match="no such table"):
        other.execute("SELECT * FROM visit")
    connection.rollback()

    assert connection.replica.tables() == ["bird"]


def test_savepoints_begin_a_transaction_and_roll_back_within_it(connection):
    connection.execute("SAVEPOINT one")
    fill(connection, "a")
    connection.execute("SAVEPOINT two")
    fill(connection, "b")
    connection.execute("ROLLBACK TO two")
    connection.execute("RELEASE two")
    connection.execute("RELEASE one")
    assert connection.in_transaction
    connection.commit()

    assert birds(connection) == [("a", None)]


def test_the_replica_is_at_hand_for_what_no_database_interface_knows(connection):
    assert connection.replica.space_name == "s"


def test_a_connection_is_made_over_an_open_replica_too(season):
    with klal.open(season, home=season.parent / "home") as db:
        connection = dbapi.Connection(db)
        fill(connection, "a")
        connection.commit()

        assert db.query("SELECT id FROM bird") == [("a",)]


def test_a_file_without_its_key_is_read_and_not_written(season, tmp_path):
    with closing(dbapi.connect(season, home=tmp_path / "elsewhere")) as connection:
        assert birds(connection) == []
        with pytest.raises(dbapi.OperationalError, match="read-only"):
            fill(connection, "a")


# -- cursors -----------------------------------------------------------------------------


def test_cursors_of_one_connection_see_each_others_work(connection):
    one, two = connection.cursor(), connection.cursor()
    one.execute("INSERT INTO bird(id) VALUES ('a')")
    two.execute("SELECT id FROM bird")

    assert two.fetchall() == [("a",)]
    assert one.connection is two.connection is connection


def test_description_names_and_types_the_columns_of_a_query_and_of_nothing_else(connection):
    cursor = connection.cursor()
    assert cursor.description is None
    cursor.execute('SELECT id, mass AS "Mass of it", note, seen, 1 + 1 FROM bird')
    described = cursor.description

    assert [len(column) for column in described] == [7] * 5
    assert [column[0] for column in described] == ["id", "Mass of it", "note", "seen", "1 + 1"]
    assert [column[1] for column in described[:4]] == [STRING, NUMBER, BINARY, DATETIME]
    assert described[4][1] is None
    assert described[0][2:] == (None,) * 5
    cursor.execute("CREATE TABLE visit(id TEXT PRIMARY KEY)")
    assert cursor.description is None
    cursor.execute("INSERT INTO visit VALUES ('v')")
    assert cursor.description is None


def test_type_objects_equal_the_types_of_their_kind_alone():
    kinds = [
        (STRING, ["TEXT", "VARCHAR(50)", "NVARCHAR", "CLOB"]),
        (NUMBER, ["INT", "BIGINT", "REAL", "NUMERIC(10, 2)", "BOOLEAN"]),
        (BINARY, ["BLOB"]),
        (DATETIME, ["DATE", "TIME", "DATETIME", "TIMESTAMP"]),
        (ROWID, []),
    ]
    every = [name for _, names in kinds for name in names]
    for kind, names in kinds:
        assert [name for name in every if name == kind] == names
        assert kind == kind  # noqa: PLR0124 - its own equality is what is tested
        assert [other == kind for other, _ in kinds].count(True) == 1


def test_rowcount_is_how_many_a_write_changed_and_else_minus_one(connection):
    cursor = connection.cursor()
    assert cursor.rowcount == -1
    assert cursor.execute("CREATE TABLE visit(id TEXT PRIMARY KEY)").rowcount == -1
    assert cursor.executemany("INSERT INTO bird(id) VALUES (?)", [("a",), ("b",), ("c",)]).rowcount == 3
    assert cursor.execute("UPDATE bird SET mass = 1 WHERE id < 'c'").rowcount == 2
    assert cursor.execute("UPDATE bird SET mass = 1 WHERE id < 'c'").rowcount == 2
    assert cursor.execute("SELECT * FROM bird").rowcount == -1
    assert cursor.execute("WITH w AS (SELECT 1) SELECT * FROM w").rowcount == -1
    assert cursor.execute("UPDATE bird SET mass = 2 RETURNING id").rowcount == 3
    assert cursor.execute("DELETE FROM bird WHERE id = 'x' RETURNING id").rowcount == 0
    assert cursor.execute("WITH w AS (SELECT 'a' AS id) DELETE FROM bird WHERE id IN w").rowcount == 1
    assert cursor.execute("DELETE FROM bird").rowcount == 2


def test_lastrowid_is_none_and_returning_gives_the_key(connection):
    connection.execute("CREATE TABLE visit(id TEXT PRIMARY KEY DEFAULT (klal_id()), day TEXT)")
    cursor = connection.execute("INSERT INTO visit(day) VALUES ('2009-11-16') RETURNING id")

    assert cursor.lastrowid is None
    ((key,),) = cursor.fetchall()
    assert len(key) == len(klal.new_id()) == 26
    assert klal.new_id() != klal.new_id()


def test_parameters_are_given_by_place_or_by_name(connection):
    connection.execute("INSERT INTO bird(id, mass) VALUES (?, ?)", ["a", 1])
    connection.execute("INSERT INTO bird(id, mass) VALUES (:id, :mass)", {"id": "b", "mass": 2, "more": 3})
    connection.executemany("INSERT INTO bird(id, mass) VALUES (:id, :mass)", iter([{"id": "c", "mass": 3}]))
    connection.executemany("INSERT INTO bird(id, mass) VALUES (?, ?)", (pair for pair in [("d", 4)]))

    assert birds(connection) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]


@pytest.mark.parametrize("parameters", [("a",), ("a", 1, 2), {"id": "a"}, {}, None, 5, "ab", b"ab", 1.5], ids=repr)
def test_parameters_that_do_not_fit_are_a_programming_error(connection, parameters):
    for sql in ("INSERT INTO bird(id, mass) VALUES (?, ?)", "INSERT INTO bird(id, mass) VALUES (:id, :mass)"):
        with pytest.raises(dbapi.ProgrammingError):
            connection.execute(sql, parameters)
        with pytest.raises(dbapi.ProgrammingError):
            connection.executemany(sql, [parameters])

    assert birds(connection) == []


def test_the_iterable_of_executemany_raises_its_own(connection):
    def rows():
        yield ("a",)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        connection.executemany("INSERT INTO bird(id) VALUES (?)", rows())
    assert birds(connection) == []


@pytest.mark.parametrize("sql", ["SELECT 1", "CREATE TABLE u(id TEXT PRIMARY KEY)", "COMMIT", ""])
def test_executemany_is_for_writes(connection, sql):
    with pytest.raises(dbapi.ProgrammingError):
        connection.executemany(sql, [()])
    assert not connection.in_transaction


def test_fetching_gives_each_row_once_and_then_none(connection):
    fill(connection, "a", "b", "c", "d", "e", "f")
    cursor = connection.execute("SELECT id FROM bird ORDER BY id")

    assert cursor.fetchone() == ("a",)
    assert cursor.arraysize == 1
    assert cursor.fetchmany() == [("b",)]
    assert cursor.fetchmany(2) == [("c",), ("d",)]
    assert next(iter(cursor)) == ("e",)
    assert cursor.fetchall() == [("f",)]
    assert cursor.fetchone() is None
    assert cursor.fetchmany() == cursor.fetchall() == []
    cursor.execute("SELECT id FROM bird ORDER BY id")
    cursor.arraysize = 4
    assert len(cursor.fetchmany()) == 4
    assert list(cursor) == [("e",), ("f",)]
    assert cursor.execute("SELECT id FROM bird WHERE mass = 1").fetchall() == []


@pytest.mark.parametrize("sql", [None, "INSERT INTO bird(id) VALUES ('a')", "CREATE TABLE u(id TEXT PRIMARY KEY)"])
def test_fetching_where_there_was_no_query_is_an_error(connection, sql):
    cursor = connection.cursor()
    if sql:
        cursor.execute(sql)

    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall, lambda: iter(cursor)):
        with pytest.raises(dbapi.ProgrammingError, match="no rows to fetch"):
            fetch()


def test_a_failed_statement_leaves_the_rows_of_none(connection):
    cursor = connection.execute("SELECT 1")
    with pytest.raises(dbapi.ProgrammingError):
        cursor.execute("SELECT nothing")

    assert cursor.description is None
    with pytest.raises(dbapi.ProgrammingError):
        cursor.fetchone()


def test_a_closed_cursor_raises(connection):
    cursor = connection.execute("SELECT 1")
    cursor.close()
    cursor.close()

    for call in (cursor.fetchone, cursor.fetchall, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(dbapi.ProgrammingError, match="the cursor is closed"):
            call()


def test_input_and_output_sizes_are_taken_and_ignored(connection):
    cursor = connection.cursor()
    cursor.setinputsizes((25,))
    cursor.setoutputsize(1000)
    cursor.setoutputsize(2000, 0)

    assert cursor.execute("SELECT 1").fetchall() == [(1,)]


def test_a_row_is_a_tuple_or_what_row_factory_makes(connection):
    fill(connection, "a")
    assert type(connection.execute("SELECT id FROM bird").fetchone()) is tuple
    connection.row_factory = dbapi.Row
    row = connection.execute('SELECT id AS "Id", mass, id || 1 AS mass FROM bird').fetchone()

    assert row == ("a", None, "a1")
    assert (row[0], row["id"], row["ID"], row["mass"], row[-1], row[1:]) == ("a", "a", "a", None, "a1", (None, "a1"))
    assert row.keys() == ["Id", "mass", "mass"]
    assert dict(zip(row.keys(), row, strict=True)) == {"Id": "a", "mass": "a1"}
    with pytest.raises(IndexError, match="no column weight"):
        row["weight"]
    connection.row_factory = lambda cursor, values: {c[0]: v for c, v in zip(cursor.description, values, strict=True)}
    assert connection.execute("SELECT id, mass FROM bird").fetchall() == [{"id": "a", "mass": None}]


# -- errors ------------------------------------------------------------------------------

ERRORS = {
    "key twice": ("INSERT INTO bird(id) VALUES ('a'), ('a')", (), dbapi.IntegrityError),
    "no such table": ("SELECT * FROM nowhere", (), dbapi.ProgrammingError),
    "syntax": ("SELEC 1", (), dbapi.ProgrammingError),
    "two statements": ("SELECT 1; SELECT 2", (), dbapi.ProgrammingError),
    "nothing": ("", (), dbapi.ProgrammingError),
    "released twice": ("RELEASE nothing", (), dbapi.ProgrammingError),
    "not replicated": ("CREATE TABLE w AS SELECT * FROM bird", (), dbapi.NotSupportedError),
    "no trigger": ("CREATE TRIGGER r AFTER INSERT ON bird BEGIN SELECT 1; END", (), dbapi.NotSupportedError),
    "no key": ("CREATE TABLE u(x)", (), dbapi.NotSupportedError),
    "not allowed": ("PRAGMA journal_mode = delete", (), dbapi.NotSupportedError),
    "klal's own": ("DELETE FROM klal_change", (), dbapi.NotSupportedError),
    "too large": ("INSERT INTO bird(id) VALUES (?)", (2**63,), dbapi.DataError),
    "too small": ("INSERT INTO bird(id) VALUES (?)", (-(2**63) - 1,), dbapi.DataError),
    "surrogate": ("INSERT INTO bird(id) VALUES (?)", ("\ud800",), dbapi.DataError),
    "surrogate in SQL": ("INSERT INTO bird(id) VALUES ('\ud800')", (), dbapi.DataError),
    "decimal": ("INSERT INTO bird(id) VALUES (?)", (Decimal(1),), dbapi.DataError),
    "object": ("INSERT INTO bird(id) VALUES (:id)", {"id": object()}, dbapi.DataError),
}


@pytest.mark.parametrize(("sql", "parameters", "kind"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_of_its_kind_one_sentence_and_leaves_nothing(connection, sql, parameters, kind):
    with pytest.raises(dbapi.Error) as caught:
        connection.execute(sql, parameters)

    assert type(caught.value) is kind
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert not message.endswith(".")
    assert birds(connection) == []
    assert not connection.in_transaction


def test_the_cause_is_klals_own_error_with_its_advice(connection):
    with pytest.raises(dbapi.IntegrityError) as constraint:
        fill(connection, "a", "a")
    with pytest.raises(dbapi.NotSupportedError) as numbered:
        connection.execute("CREATE TABLE u(id INTEGER PRIMARY KEY)")

    assert isinstance(constraint.value.__cause__, ConstraintError)
    assert isinstance(numbered.value.__cause__, UnsupportedError)
    assert "klal_id()" in numbered.value.__cause__.hint


# -- values ------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """Connect to the files of two members who can reach each other."""
    with klal.create(tmp_path / "ana.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.execute("CREATE TABLE v(id INT PRIMARY KEY, value)")
        ticket = ana.invite()
    klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home").close()
    with (
        closing(dbapi.connect(tmp_path / "ana.db", home=tmp_path / "home", member="ana")) as ana,
        closing(dbapi.connect(tmp_path / "ben.db", home=tmp_path / "home", member="ben")) as ben,
    ):
        yield ana, ben


def exact(value):
    """Return a value as its type and bytes: -0.0 is not 0.0, and 1 is not 1.0."""
    return type(value), struct.pack(">d", value) if isinstance(value, float) else value


def carried(pair, values):
    """Return values as the author and another member read them, having seen that SQLite stores them alike."""
    ana, ben = pair
    ana.executemany("INSERT INTO v VALUES (?, ?)", list(enumerate(values)))
    ana.commit()
    report = ana.replica.sync(ben.replica.path)
    ben.replica.sync(ana.replica.path)
    assert report.refused == ()
    read = [c.execute("SELECT typeof(value), hex(value), value FROM v ORDER BY id").fetchall() for c in (ana, ben)]
    assert list(map(exact, map(str, read[0]))) == list(map(exact, map(str, read[1])))
    return [[exact(value) for *_, value in rows] for rows in read]


def test_every_storage_class_is_carried_exactly(pair):
    """T42."""
    values = [
        None,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**53 + 1,
        0.0,
        -0.0,
        0.1 + 0.2,
        1.0,
        5e-324,
        -1.7976931348623157e308,
        float("inf"),
        float("-inf"),
        2.0**63,
        "",
        "a\0b",
        "1",
        "1.0",
        b"",
        b"\0",
        bytes(range(256)),
        b"text",
    ]
    here, there = carried(pair, values)

    assert here == list(map(exact, values))
    assert there == here


def test_nan_is_stored_as_null_by_sqlite_itself(pair):
    """T42: no error, and no NaN either; a column that is NOT NULL refuses it."""
    here, there = carried(pair, [float("nan"), -float("nan")])

    assert here == there == [(type(None), None)] * 2


def test_a_real_column_has_no_minus_zero(pair):
    """T42: SQLite keeps an integral real as an integer there, for the author as for everybody."""
    ana, ben = pair
    ana.execute("CREATE TABLE r(id INT PRIMARY KEY, value REAL NOT NULL)")
    ana.executemany("INSERT INTO r VALUES (?, ?)", [(0, -0.0), (1, 3), (2, 2.0**63)])
    with pytest.raises(dbapi.IntegrityError, match="NOT NULL"):
        ana.execute("INSERT INTO r VALUES (3, ?)", (float("nan"),))
    ana.commit()
    ana.replica.sync(ben.replica.path)
    ben.replica.sync(ana.replica.path)

    for connection in pair:
        values = connection.execute("SELECT value FROM r ORDER BY id").fetchall()
        assert [exact(value) for (value,) in values] == [exact(0.0), exact(3.0), exact(2.0**63)]


def test_naughty_strings_are_carried_as_values(pair):
    """T42."""
    here, there = carried(pair, STRINGS)

    assert here == there == [(str, text) for text in STRINGS]


def test_naughty_strings_are_carried_as_names(pair):
    """T42: each is a table, its key column, another column and a row; altered, written and read."""
    ana, ben = pair
    for number, name in enumerate(NAMES):
        quoted = '"' + name.replace('"', '""') + '"'
        table = '"' + f"{number} {name}".replace('"', '""') + '"'
        ana.execute(f"CREATE TABLE {table}({quoted} TEXT PRIMARY KEY, value INT)")
        ana.execute(f"INSERT INTO {table} VALUES (?, 1)", (name,))
        ana.execute(f"ALTER TABLE {table} ADD COLUMN {quoted[:-1]}+\" TEXT DEFAULT 'd'")
        ana.execute(f"UPDATE {table} SET value = value + 1 WHERE {quoted} = ?", (name,))
    ana.commit()
    report = ana.replica.sync(ben.replica.path)
    ben.replica.sync(ana.replica.path)
    assert report.refused == ()

    for connection in pair:
        for number, name in enumerate(NAMES):
            cursor = connection.execute('SELECT * FROM "{}"'.format(f"{number} {name}".replace('"', '""')))
            assert [column[0] for column in cursor.description] == [name, "value", f"{name}+"]
            assert cursor.fetchall() == [(name, 2, "d")]
    ben.replica.verify()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_naughty_string_is_a_tables_whole_name(connection, name):
    """T42."""
    quoted = '"' + name.replace('"', '""') + '"'
    connection.execute(f"CREATE TABLE {quoted}(id TEXT PRIMARY KEY)")
    connection.execute(f"SAVEPOINT {quoted}")
    connection.execute(f"INSERT INTO {quoted} VALUES ('kept')")
    connection.execute(f"SAVEPOINT {quoted}")
    connection.execute(f"INSERT INTO {quoted} VALUES ('undone')")
    connection.execute(f"ROLLBACK TO {quoted}")
    connection.commit()

    assert name in connection.replica.tables()
    assert connection.execute(f"SELECT * FROM {quoted}").fetchall() == [("kept",)]
    connection.replica.verify()


def test_dates_are_stored_as_sqlite3_stores_them_and_sqlites_functions_read_them(connection):
    day, moment, hour = dbapi.Date(2009, 11, 16), dbapi.Timestamp(2009, 11, 16, 8, 30), dbapi.Time(8, 30)
    connection.execute("CREATE TABLE v(id INT PRIMARY KEY, a DATE, b TIMESTAMP, c TIME)")
    connection.execute("INSERT INTO v VALUES (1, ?, ?, ?)", (day, moment, hour))
    connection.execute("INSERT INTO v VALUES (2, :a, :b, :c)", {"a": day, "b": moment, "c": hour})

    stored = ("2009-11-16", "2009-11-16 08:30:00", "08:30:00", 8)
    assert connection.execute("SELECT a, b, c, unixepoch(b) % 86400 / 3600 FROM v").fetchall() == [stored] * 2


def test_constructors_from_ticks_agree_with_local_time():
    ticks = time.mktime((2009, 11, 16, 8, 30, 5, 0, 0, 0))

    assert dbapi.DateFromTicks(ticks) == dt.date(2009, 11, 16)
    assert dbapi.TimeFromTicks(ticks) == dt.time(8, 30, 5)
    assert dbapi.TimestampFromTicks(ticks) == dt.datetime(2009, 11, 16, 8, 30, 5)  # noqa: DTZ001 - local, as PEP 249 says


def test_bytes_of_every_kind_are_blobs(pair):
    values = [dbapi.Binary(b"\0\xff"), dbapi.Binary(b""), bytearray(b"ab"), memoryview(b"abcd")[1:3]]
    here, there = carried(pair, values)

    assert here == there == [(bytes, b"\0\xff"), (bytes, b""), (bytes, b"ab"), (bytes, b"bc")]


def test_numbers_of_numpy_are_numbers_and_not_their_memory(pair):
    """A numpy integer shows its bytes as a buffer, and sqlite3 and apsw store those as a blob without a word."""
    values = [np.int64(7), np.uint8(255), np.int64(-(2**63)), np.float32(0.5), np.float64(0.1), True, np.str_("s")]
    here, there = carried(pair, values)

    assert here == there == list(map(exact, [7, 255, -(2**63), 0.5, 0.1, 1, "s"]))
    for value in (np.uint64(2**63), np.bool_(1), np.array([1]), Fraction(1, 2), 1j, [1], dt.timedelta(1)):
        with pytest.raises(dbapi.DataError):
            pair[0].execute("INSERT INTO v VALUES (99, ?)", (value,))


def test_a_blob_of_eight_megabytes_is_carried(pair):
    """T42, as far as every run can afford; the next one has the size."""
    _carry_a_blob(pair, 8)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_blob_of_a_hundred_megabytes_is_carried(pair):
    """T42."""
    _carry_a_blob(pair, 100)


def _carry_a_blob(pair, megabytes):
    ana, ben = pair
    blob = os.urandom(1 << 20) * megabytes
    ana.execute("INSERT INTO v VALUES (1, ?)", (blob,))
    ana.commit()
    ana.replica.sync(ben.replica.path)
    ben.replica.sync(ana.replica.path)

    ((there,),) = ben.execute("SELECT value FROM v")
    assert hashlib.sha256(there).digest() == hashlib.sha256(blob).digest()


def test_errors_can_be_pickled_as_those_of_worker_processes_are(connection):
    with pytest.raises(dbapi.IntegrityError) as caught:
        fill(connection, "a", "a")

    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert type(again) is dbapi.IntegrityError
    assert str(again) == str(caught.value)
