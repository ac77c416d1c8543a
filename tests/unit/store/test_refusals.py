"""SQL that klal cannot replicate is refused in one sentence, and nothing of it is stored."""

import json
import subprocess
import sys

import apsw
import pytest

import klal
from klal.errors import KlalError, UsageError


@pytest.fixture
def ana(tmp_path):
    replica = klal.create(tmp_path / "ana.db", space="s", member="ana", home=tmp_path / "home")
    replica.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER NOT NULL DEFAULT 0)")
    replica.execute("INSERT INTO t VALUES ('a', 1)")
    yield replica
    replica.close()


def everything(replica):
    """Return all that the file holds, klal's own tables and the schema included."""
    connection = replica._store.connection
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    found = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}
    del found["klal_meta"]  # The fence changes hands with the first write.
    return found, connection.execute("SELECT * FROM sqlite_schema ORDER BY name").fetchall()


def refused(replica, run):
    """See that `run` is refused in one sentence, alone and within a transaction, and leaves nothing."""
    before = everything(replica)
    with pytest.raises(UsageError) as alone:
        run()
    assert everything(replica) == before
    assert not replica._store.in_transaction
    with replica.transaction(), pytest.raises(UsageError):
        run()
    assert everything(replica) == before
    message = str(alone.value)
    assert message
    assert "\n" not in message
    assert not message.endswith(".")
    replica.verify()
    return message


TABLES = {
    "CHECK": "CREATE TABLE u(k TEXT PRIMARY KEY, v CHECK (v > 0))",
    "table CHECK": "CREATE TABLE u(k TEXT PRIMARY KEY, v, CHECK (v > 0))",
    "REFERENCES": "CREATE TABLE u(k TEXT PRIMARY KEY REFERENCES t(k))",
    "FOREIGN KEY": "CREATE TABLE u(k TEXT PRIMARY KEY, v, FOREIGN KEY(v) REFERENCES t)",
    "UNIQUE": "CREATE TABLE u(k TEXT PRIMARY KEY, v UNIQUE)",
    "table UNIQUE": "CREATE TABLE u(k TEXT PRIMARY KEY, v, UNIQUE(v))",
    "ON CONFLICT": "CREATE TABLE u(k TEXT PRIMARY KEY ON CONFLICT REPLACE)",
    "NOT NULL ON CONFLICT": "CREATE TABLE u(k TEXT PRIMARY KEY, v NOT NULL ON CONFLICT IGNORE)",
    "generated": "CREATE TABLE u(k TEXT PRIMARY KEY, v GENERATED ALWAYS AS (k || 'x'))",
    "generated, short": "CREATE TABLE u(k TEXT PRIMARY KEY, v AS (k || 'x') STORED)",
    "AUTOINCREMENT": "CREATE TABLE u(k INTEGER PRIMARY KEY AUTOINCREMENT)",
    "INTEGER PRIMARY KEY": "CREATE TABLE u(k INTEGER PRIMARY KEY, v)",
    "INTEGER PRIMARY KEY of the table": "CREATE TABLE u(k INTEGER, v, PRIMARY KEY(k))",
    "no key": "CREATE TABLE u(v)",
    "no key, STRICT": "CREATE TABLE u(v TEXT) STRICT",
    "typeless key": "CREATE TABLE u(k PRIMARY KEY)",
    "key with collation": "CREATE TABLE u(k TEXT COLLATE NOCASE PRIMARY KEY)",
    "TEMP, of a name that is replicated": "CREATE TEMP TABLE t(k TEXT PRIMARY KEY)",
    "TEMP, of a name of klal's": "CREATE TEMP TABLE klal_log(k TEXT PRIMARY KEY)",
    "TEMP, quoted": 'CREATE TABLE "temp".u(k TEXT PRIMARY KEY)',
    "AS SELECT": "CREATE TABLE u AS SELECT * FROM t",
    "DEFAULT of an expression": "CREATE TABLE u(k TEXT PRIMARY KEY, v DEFAULT (1 + 1))",
    "DEFAULT of a function": "CREATE TABLE u(k TEXT PRIMARY KEY, v DEFAULT (random()))",
    "DEFAULT of load_extension": "CREATE TABLE u(k TEXT PRIMARY KEY, v DEFAULT (load_extension('x')))",
    "DEFAULT that reads": "CREATE TABLE u(k TEXT PRIMARY KEY, v DEFAULT (CAST(x'ff' AS TEXT)))",
    "name of klal's": "CREATE TABLE klal_u(k TEXT PRIMARY KEY)",
    "name of klal's, quoted": 'CREATE TABLE "KLAL_u"(k TEXT PRIMARY KEY)',
    "name of SQLite's": "CREATE TABLE sqlite_u(k TEXT PRIMARY KEY)",
    "exists": "CREATE TABLE t(k TEXT PRIMARY KEY)",
    "exists, in capitals": "CREATE TABLE T(k TEXT PRIMARY KEY)",
    "two": "CREATE TABLE u(k TEXT PRIMARY KEY); CREATE TABLE w(k TEXT PRIMARY KEY)",
    "virtual": "CREATE VIRTUAL TABLE u USING fts5(a)",
    "not SQL": "CREATE TABLE u(",
}


@pytest.mark.parametrize("sql", TABLES.values(), ids=TABLES)
def test_a_table_that_could_not_mean_the_same_elsewhere_is_refused(ana, sql):
    """T38."""
    refused(ana, lambda: ana.execute(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE t RENAME COLUMN v TO w",
        "ALTER TABLE t DROP COLUMN v",
        "ALTER TABLE t ADD COLUMN w REFERENCES t(k)",
        "ALTER TABLE t ADD COLUMN w CHECK (w > 0)",
        "ALTER TABLE t ADD COLUMN w NOT NULL",
        "ALTER TABLE t ADD COLUMN w DEFAULT CURRENT_TIMESTAMP",
        "ALTER TABLE t ADD COLUMN w DEFAULT (random())",
        "ALTER TABLE t ADD COLUMN w AS (k)",
        "ALTER TABLE t ADD COLUMN v",
        "ALTER TABLE t ADD COLUMN w; ALTER TABLE t ADD COLUMN x",
        "ALTER TABLE t ADD COLUMN w; DROP TABLE t",
        "ALTER TABLE klal_log ADD COLUMN w",
        "ALTER TABLE nowhere ADD COLUMN w",
        "DROP TABLE t",
        "DROP TABLE klal_log",
        "CREATE INDEX i ON t(v)",
        "CREATE UNIQUE INDEX i ON t(v)",
        "CREATE VIEW w AS SELECT * FROM t",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE TEMP TRIGGER r AFTER INSERT ON klal_change BEGIN DELETE FROM t; END",
        "CREATE TRIGGER main.r AFTER INSERT ON t BEGIN DELETE FROM temp.t; END",
        "CREATE VIRTUAL TABLE main.temp USING fts5(a)",
        "CREATE VIEW temp.t AS SELECT 1",
        "DROP TABLE IF EXISTS temp.t",
        "REINDEX",
        "ANALYZE",
        "VACUUM",
        "VACUUM INTO 'elsewhere.db'",
        "ATTACH 'elsewhere.db' AS other",
        "DETACH main",
    ],
)
def test_other_ddl_is_refused(ana, sql):
    """T38 T41."""
    refused(ana, lambda: ana.execute(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA writable_schema = 1",
        "PRAGMA writable_schema(1)",
        "PRAGMA main.user_version = 7",
        "PRAGMA application_id = 7",
        "PRAGMA journal_mode = delete",
        "PRAGMA synchronous = off",
        "PRAGMA foreign_keys = on",
        "PRAGMA defer_foreign_keys = on",
        "PRAGMA recursive_triggers = on",
        "PRAGMA wal_checkpoint",
        "PRAGMA query_only = on",
        "SELECT * FROM pragma_journal_mode('delete')",
        "SELECT * FROM pragma_user_version(7)",
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('x', x'00')",
        "INSERT INTO t SELECT load_extension('x'), 1",
    ],
)
def test_what_would_change_the_connection_or_the_file_is_refused(ana, sql):
    """T41."""
    refused(ana, lambda: ana.execute(sql))
    refused(ana, lambda: ana.query(sql))


@pytest.mark.parametrize(
    "table", ["klal_meta", "KLAL_LOG", "main.klal_change", "sqlite_schema", "sqlite_master", "sqlite_stat1", "temp.t"]
)
def test_tables_of_klal_and_of_sqlite_are_not_written(ana, table):
    """T41."""
    name = table.rpartition(".")[2]
    for sql in (
        f"DELETE FROM {table}",
        f"INSERT INTO {table} VALUES (1)",
        f"UPDATE {table} SET rowid = 1",
        f"WITH q AS (SELECT 1) DELETE FROM {table}",
        f"REPLACE INTO {table} DEFAULT VALUES",
    ):
        refused(ana, lambda sql=sql: ana.execute(sql))
        refused(ana, lambda sql=sql: ana.executemany(sql, [(), ()]))
    if name.casefold().startswith(("klal_", "sqlite_")):
        refused(ana, lambda: ana.insert_many(name, [(1,)]))


def test_sql_that_klal_itself_runs_is_not_run_for_the_user(ana):
    """T41: prepared statements are cached by their text, and the authorizer is asked only when one is prepared."""
    own_sql = []
    trace = lambda event: own_sql.append(event["sql"])  # noqa: E731
    connection = ana._store.connection
    connection.trace_v2(apsw.SQLITE_TRACE_STMT, trace)
    ana.execute("INSERT INTO t VALUES ('b', 2)")
    ana.execute("DELETE FROM t WHERE k = 'b'")
    ana.finish()
    ana.invite()
    connection.trace_v2(0, None)
    written = {sql for sql in own_sql if sql.startswith(("INSERT", "UPDATE", "DELETE")) and "klal_" in sql}
    before = everything(ana)

    assert len(written) > 5
    for sql in written:
        with pytest.raises(UsageError):
            ana.execute(sql, (1,) * sql.count("?"))
    assert everything(ana) == before


SMUGGLED = [
    "INSERT INTO t VALUES ('b', 2); COMMIT",
    "INSERT INTO t VALUES ('b', 2); INSERT INTO t VALUES ('c', 3)",
    "INSERT INTO t VALUES ('b', 2) RETURNING k; DELETE FROM klal_log",
    "SELECT 1; DROP TABLE t",
    "SELECT 1; INSERT INTO t VALUES ('b', 2)",
    "SELECT 1; SELECT 2",
    "; PRAGMA writable_schema = 1",
    "SELECT 1; PRAGMA writable_schema = 1",
    "WITH q AS (SELECT 1) SELECT * FROM q; DELETE FROM t",
    "EXPLAIN SELECT 1; DELETE FROM t",
    "BEGIN; DROP TABLE t",
    "BEGIN; COMMIT",
    "SAVEPOINT s; DELETE FROM klal_meta",
    "SAVEPOINT s; RELEASE s",
    "VALUES (1); DELETE FROM t",
    "SELECT ';' /* ; */ -- ;\n; DELETE FROM t",
    "REPLACE INTO t VALUES ('a;b', 2);; DELETE FROM t;",
    "CREATE TABLE u(k TEXT PRIMARY KEY); INSERT INTO u VALUES ('x')",
    "CREATE TABLE u(k TEXT PRIMARY KEY); DROP TABLE t",
]


@pytest.mark.parametrize("sql", SMUGGLED)
def test_a_second_statement_is_never_run(ana, sql):
    """T38 T41."""
    refused(ana, lambda: ana.execute(sql))
    refused(ana, lambda: ana.executemany(sql, [()]))
    refused(ana, lambda: ana.query(sql))


@pytest.mark.parametrize(
    "sql", ["SELECT ';'", "SELECT 1;", "SELECT 1 ; ; -- ; the end\n", "SELECT 1 /* ; */", "SELECT 1; -- more"]
)
def test_a_semicolon_alone_is_no_second_statement(ana, sql):
    assert len(ana.query(sql)) == 1
    assert len(ana.query(sql).columns) == 1
    assert len(ana.execute(sql).rows) == 1


@pytest.mark.parametrize(
    "sql", ["", " ", ";", "-- nothing", "/* nothing */", "SELEC 1", "42", "'", '"', "SELECT 'a\0b'"]
)
def test_what_is_no_statement_is_refused(ana, sql):
    refused(ana, lambda: ana.execute(sql))
    refused(ana, lambda: ana.query(sql))


@pytest.mark.parametrize(
    "sql", ["INSERT INTO t VALUES ('b', 2)", "DELETE FROM t RETURNING k", "WITH q AS (SELECT 1) DELETE FROM t"]
)
def test_query_does_not_write(ana, sql):
    refused(ana, lambda: ana.query(sql))


def test_executemany_takes_only_writes(ana):
    for sql in ("SELECT 1", "BEGIN", "CREATE TABLE u(k TEXT PRIMARY KEY)", "WITH q AS (SELECT 1) SELECT * FROM q"):
        refused(ana, lambda sql=sql: ana.executemany(sql, [()]))


@pytest.mark.parametrize(
    "write",
    [
        lambda ana: ana.execute("INSERT INTO u VALUES (NULL, 'x', 1)"),
        lambda ana: ana.execute("INSERT INTO u VALUES ('x', NULL, 1)"),
        lambda ana: ana.execute("INSERT INTO u(v) VALUES (1)"),
        lambda ana: ana.executemany("INSERT INTO u VALUES (?, ?, ?)", [("a", "b", 1), ("a", None, 1)]),
        lambda ana: ana.insert_many("u", [("a", "b", 1), ("a", None, 1)]),
        lambda ana: ana.insert_many("u", [{"v": 1}]),
        lambda ana: ana.execute("INSERT INTO u SELECT NULL, k, v FROM t"),
    ],
)
def test_a_key_with_a_null_is_refused(ana, write):
    ana.execute("CREATE TABLE u(k TEXT, j TEXT, v, PRIMARY KEY(k, j))")
    with pytest.raises(UsageError, match="NULL"):
        write(ana)
    with pytest.raises(UsageError, match="NULL"), ana.transaction():
        write(ana)

    assert ana.query("SELECT * FROM u") == []
    ana.verify()


def test_a_key_updated_to_null_is_refused(ana):
    with pytest.raises(UsageError, match="NULL"):
        ana.execute("UPDATE t SET k = NULL")

    assert ana.query("SELECT k FROM t") == [("a",)]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([("b",)], None),
        ([("b", 1, 2)], None),
        ([("b", 1)], ["k", "nowhere"]),
        ([{"k": "b", "nowhere": 1}], None),
        ([("b", 1), ("b",)], ["k", "v"]),
        ([("b", object())], None),
        ([("b", 2**63)], None),
        ([("b", None)], None),
        ([("a", 1)], None),
        ([("b", 1), ("b", 2)], None),
        ([5], None),
        ([None], None),
        (["bc"], None),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(ana, rows, columns):
    before = everything(ana)
    try:
        ana.insert_many("t", rows, columns=columns)
    except UsageError:
        assert everything(ana) == before
    else:
        assert rows == ["bc"]  # A string is a sequence of two values too.
    ana.verify()


def test_rows_for_no_table_are_refused(ana):
    refused(ana, lambda: ana.insert_many("nowhere", [(1,)]))


@pytest.mark.parametrize(
    "call",
    [
        lambda ana: ana.sync(ana.path),
        lambda ana: ana.finish(),
        lambda ana: ana.invite(),
        lambda ana: ana.backup(ana.path.with_name("backup.db")),
        lambda ana: ana.transaction().__enter__(),
        lambda ana: ana.execute("BEGIN"),
    ],
)
def test_what_needs_a_transaction_of_its_own_is_refused_inside_one(ana, call):
    with ana.transaction():
        ana.execute("INSERT INTO t VALUES ('b', 2)")
        with pytest.raises(UsageError, match="transaction"):
            call(ana)
        ana.execute("INSERT INTO t VALUES ('c', 3)")

    assert ana.log(limit=1)[0].tables == {"t": 2}


@pytest.mark.parametrize("sql", ["COMMIT", "END", "ROLLBACK", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s"])
def test_the_end_of_no_transaction_is_refused(ana, sql):
    before = everything(ana)
    with pytest.raises(UsageError):
        ana.execute(sql)

    assert everything(ana) == before


_READER = """
import json, sqlite3, sys
connection = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
names = [row[0] for row in connection.execute(
    "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'")]
print(json.dumps({name: len(connection.execute('SELECT * FROM "' + name + '"').fetchall()) for name in names}))
"""


def test_any_sqlite_tool_reads_the_tables_and_views_while_a_writer_is_open(ana):
    ana.execute("INSERT INTO t VALUES ('b', 2)")
    ana.execute("BEGIN")
    ana.execute("INSERT INTO t VALUES ('c', 3)")
    done = subprocess.run([sys.executable, "-c", _READER, str(ana.path)], capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout)
    ana.execute("COMMIT")

    assert counts["t"] == 2
    assert counts["klal_members"] == 1
    assert counts["klal_changes"] == 4
    assert {"klal_conflicts", "klal_parked", "klal_epochs"} <= set(counts)


def test_every_refusal_is_an_error_of_klals(ana):
    for sql in (*SMUGGLED, *TABLES.values()):
        with pytest.raises(KlalError):
            ana.execute(sql)
