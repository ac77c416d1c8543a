"""Other tools read a klal file as the SQLite file it is, and pandas writes through klal.

Where klal has the file open, the tool runs as a process of its own, as its user would start it: two SQLite libraries in
one process take each other's locks away.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import sqlalchemy as sa
import sqlite_utils
from datasette.app import Datasette

import klal
from klal import dbapi

BIRDS = [("a", 3750, 39.1, b"\0\xff", "\u05d0"), ("b", None, None, None, None), ("c", 2**63 - 1, -0.5, b"", "")]
COLUMNS = ["id", "mass", "bill", "blob", "note"]


@pytest.fixture
def open_file(tmp_path):
    """Make a file with rows and a conflict in it, which stays open."""
    home = tmp_path / "home"
    with klal.create(tmp_path / "ana.db", space="s", member="ana", home=home) as ana:
        ana.execute(
            "CREATE TABLE bird(id TEXT PRIMARY KEY DEFAULT (klal_id()), mass INT, bill REAL, blob BLOB, note TEXT)"
        )
        ana.insert_many("bird", BIRDS)
        with klal.join(tmp_path / "ben.db", ana.invite(), member="ben", home=home) as ben:
            ben.sync(ana.path)
            for member in (ana, ben):
                member.execute("UPDATE bird SET mass = ? WHERE id = 'b'", (len(member.log()),))
            ben.execute("UPDATE bird SET mass = 7 WHERE id = 'b'")
            ana.sync(ben.path)
        yield ana


@pytest.fixture
def closed_file(open_file):
    """Make the same file, closed."""
    open_file.close()
    return open_file.path


@pytest.fixture
def connection(open_file):
    """Connect to the file through klal."""
    return dbapi.Connection(open_file)


@pytest.fixture
def engine(open_file):
    """Connect to the file through SQLAlchemy and klal."""
    engine = sa.create_engine(f"klal:///{open_file.path}?home={open_file.path.parent}/home&member=ana")
    yield engine
    engine.dispose()


def run(*arguments):
    """Run a tool as a process of its own."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(replica):
    return replica.query("SELECT id, mass, bill, blob, note FROM bird WHERE id <> 'b' ORDER BY id")


# -- sqlite-utils ------------------------------------------------------------------------


def test_sqlite_utils_reads_rows_schema_and_views(closed_file):
    with closing(sqlite3.connect(closed_file)) as connection:
        tool = sqlite_utils.Database(connection)

        assert [tuple(row.values()) for row in tool["bird"].rows_where("id <> 'b'")] == [BIRDS[0], BIRDS[2]]
        assert tool["bird"].pks == ["id"]
        assert tool["bird"].columns_dict == {"id": str, "mass": int, "bill": float, "blob": bytes, "note": str}
        assert {"klal_members", "klal_conflicts", "klal_changes"} <= set(tool.view_names())
        assert sorted(row["name"] for row in tool["klal_members"].rows) == ["ana", "ben"]
        assert [row["column"] for row in tool["klal_conflicts"].rows] == ["mass"]


def test_sqlite_utils_reads_while_klal_has_the_file_open_and_goes_on_writing(open_file):
    before = json.loads(run("sqlite_utils", "rows", open_file.path, "bird"))
    open_file.execute("INSERT INTO bird(id) VALUES ('d')")
    after = json.loads(run("sqlite_utils", "rows", open_file.path, "bird"))

    assert [row["id"] for row in before] == ["a", "b", "c"]
    assert [row["id"] for row in after] == ["a", "b", "c", "d"]
    assert "klal_id()" in run("sqlite_utils", "schema", open_file.path, "bird")
    open_file.verify()


# -- pandas ------------------------------------------------------------------------------


def test_pandas_reads_with_the_standard_librarys_sqlite3(closed_file):
    with closing(sqlite3.connect(closed_file)) as connection:
        frame = pd.read_sql("SELECT * FROM bird ORDER BY id", connection, index_col="id")
        members = pd.read_sql("SELECT name FROM klal_members", connection)

    assert list(frame.index) == ["a", "b", "c"]
    assert frame.loc["a", "blob"] == b"\0\xff"
    assert sorted(members["name"]) == ["ana", "ben"]


def test_pandas_reads_with_klal(connection, engine):
    sql = "SELECT * FROM bird WHERE mass >= ? ORDER BY id"
    with pytest.warns(UserWarning, match="SQLAlchemy"):
        plain = pd.read_sql(sql, connection, params=(3750,))
    frame = pd.read_sql(sql, engine, params=(3750,))
    table = pd.read_sql_table("bird", engine)
    chunks = list(pd.read_sql("SELECT * FROM bird", engine, chunksize=2))

    assert list(plain.columns) == list(frame.columns) == COLUMNS
    assert list(plain["mass"]) == list(frame["mass"]) == [3750, 2**63 - 1]
    assert list(frame["blob"]) == [b"\0\xff", b""]
    assert len(table) == 3
    assert [len(chunk) for chunk in chunks] == [2, 1]


FRAME = pd.DataFrame(
    {
        "id": ["x", "y", "z"],
        "mass": [1, 2**53 + 1, -(2**63)],
        "bill": [0.1 + 0.2, float("nan"), float("inf")],
        "blob": [b"\0", None, b""],
        "note": ["\u05d0", None, ""],
    }
)
APPENDED = [
    ("x", 1, 0.1 + 0.2, b"\0", "\u05d0"),
    ("y", 2**53 + 1, None, None, None),
    ("z", -(2**63), float("inf"), b"", ""),
]


def append(frame, connection, **options):
    frame.to_sql("bird", connection, if_exists="append", index=False, **options)


@pytest.mark.parametrize("method", [None, "multi"])
def test_pandas_appends_through_sqlalchemy_as_one_change(engine, open_file, method):
    """NaN is no value to pandas, and NULL in the table."""
    before = len(open_file.log())
    append(FRAME, engine, method=method)

    assert stored(open_file)[2:] == APPENDED
    assert len(open_file.log()) == before + 1
    open_file.verify()


def test_pandas_appends_through_a_plain_connection_as_one_change(connection, open_file):
    """It takes any connection that it does not know for one of sqlite3's."""
    before = len(open_file.log())
    with pytest.warns(UserWarning, match="SQLAlchemy"):
        append(FRAME, connection)

    assert stored(open_file)[2:] == APPENDED
    assert len(open_file.log()) == before + 1
    open_file.verify()


def test_pandas_writes_dates_and_categories_alike_in_both_ways(connection, engine, open_file):
    open_file.execute("CREATE TABLE visit(day DATE PRIMARY KEY, moment TIMESTAMP, kind TEXT, flag BOOLEAN)")
    moments = pd.to_datetime(["2009-11-16 08:30:00", "2009-11-17 00:00:00"])
    frame = pd.DataFrame(
        {"day": moments.date, "moment": moments, "kind": pd.Categorical(["a", "b"]), "flag": [True, False]}
    )
    frame.to_sql("visit", engine, if_exists="append", index=False)
    through_engine = open_file.query("SELECT day, unixepoch(moment), kind, flag FROM visit ORDER BY day")
    open_file.execute("DELETE FROM visit")
    with pytest.warns(UserWarning, match="SQLAlchemy"):
        frame.to_sql("visit", connection, if_exists="append", index=False)

    expected = [("2009-11-16", 1258360200, "a", 1), ("2009-11-17", 1258416000, "b", 0)]
    assert through_engine == expected
    assert open_file.query("SELECT day, unixepoch(moment), kind, flag FROM visit ORDER BY day") == expected


def test_a_frame_that_breaks_a_constraint_leaves_nothing(connection, engine, open_file):
    before = open_file.query("SELECT count(*) FROM bird")
    twice = pd.concat([FRAME, FRAME])
    # What pandas makes of an error is its own, and changes from version to version.
    with pytest.raises((sa.exc.IntegrityError, pd.errors.DatabaseError), match=r"bird\.id"):
        append(twice, engine)
    errors = (dbapi.IntegrityError, pd.errors.DatabaseError)
    with pytest.warns(UserWarning, match="SQLAlchemy"), pytest.raises(errors, match=r"bird\.id"):
        append(twice, connection)

    assert open_file.query("SELECT count(*) FROM bird") == before


def test_pandas_own_tables_have_no_key_and_are_refused_in_a_sentence(connection, engine, open_file):
    with pytest.raises(sa.exc.NotSupportedError, match="no primary key"):
        FRAME.to_sql("new", engine)
    before = open_file.query("SELECT * FROM bird ORDER BY id")
    # Given an engine and no connection, pandas commits its DROP before it makes what is refused.
    with pytest.raises(sa.exc.NotSupportedError, match="no primary key"), engine.begin() as together:
        FRAME.to_sql("bird", together, if_exists="replace")
    assert open_file.query("SELECT * FROM bird ORDER BY id") == before
    errors = (dbapi.NotSupportedError, pd.errors.DatabaseError)
    with pytest.warns(UserWarning, match="SQLAlchemy"), pytest.raises(errors, match="no primary key"):
        FRAME.to_sql("new", connection)

    assert open_file.tables() == ["bird"]


# -- DuckDB ------------------------------------------------------------------------------


def sqlite_extension():
    """Return the path of DuckDB's SQLite extension, as its package from PyPI brings it."""
    spec = find_spec("duckdb_extension_sqlite_scanner")
    assert spec is not None
    found = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}" / "sqlite_scanner.duckdb_extension"
    if not found.is_file():
        pytest.skip(f"the package duckdb-extension-sqlite-scanner is not of DuckDB {duckdb.__version__}")
    return found


ATTACH = """
import duckdb, json, sys
with duckdb.connect() as tool:
    tool.execute(f"LOAD '{sys.argv[1]}'")
    tool.execute(f"ATTACH '{sys.argv[2]}' AS season (TYPE sqlite, READ_ONLY)")
    print(json.dumps(tool.execute("SELECT id, mass FROM season.bird ORDER BY id").fetchall()))
    print(json.dumps(tool.execute("SELECT name FROM season.klal_members ORDER BY name").fetchall()))
"""


@pytest.mark.parametrize("is_open", [True, False])
def test_duckdb_attaches_a_klal_file_open_or_closed(open_file, is_open):
    extension = sqlite_extension()
    if not is_open:
        open_file.close()
    done = subprocess.run(
        [sys.executable, "-c", ATTACH, extension, open_file.path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    birds, members = map(json.loads, done.stdout.splitlines())

    assert [name for name, _ in birds] == ["a", "b", "c"]
    assert birds[2][1] == 2**63 - 1
    assert members == [["ana"], ["ben"]]
    if is_open:
        open_file.execute("INSERT INTO bird(id) VALUES ('d')")
        open_file.verify()


def test_duckdb_asks_a_frame_that_pandas_read_through_klal(engine):
    birds = pd.read_sql("SELECT id, bill FROM bird", engine)
    assert len(birds) == 3

    assert duckdb.sql("SELECT count(*), sum(bill) FROM birds").fetchall() == [(3, pytest.approx(38.6))]


# -- Datasette ---------------------------------------------------------------------------


def test_datasette_serves_a_klal_file(closed_file):
    async def get(*paths):
        served = Datasette([str(closed_file)], crossdb=False)
        await served.invoke_startup()
        return [(await served.client.get(path)).json() for path in paths]

    birds, members, asked = asyncio.run(
        get(
            "/ana/bird.json?_shape=array",
            "/ana/klal_members.json?_shape=array",
            "/ana.json?_shape=array&sql=select+count(*)+as+n+from+klal_conflicts",
        )
    )

    assert [row["id"] for row in birds] == ["a", "b", "c"]
    assert sorted(row["name"] for row in members) == ["ana", "ben"]
    assert asked == [{"n": 1}]


def test_datasette_serves_while_klal_has_the_file_open(open_file):
    path = "/ana/bird.json?_shape=array&_sort=id"
    before = json.loads(run("datasette", open_file.path, "--get", path))
    open_file.execute("INSERT INTO bird(id) VALUES ('d')")
    after = json.loads(run("datasette", open_file.path, "--get", path))

    assert [row["id"] for row in before] == ["a", "b", "c"]
    assert [row["id"] for row in after] == ["a", "b", "c", "d"]
    open_file.verify()
