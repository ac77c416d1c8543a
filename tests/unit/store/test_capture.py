"""Any SQL on a replicated table does what SQLite does, and what it did is what travels.

The same statements run on a klal file and on a plain SQLite database. After every step both hold the same rows, bit
for bit; at the end a second replica holds them too, and the whole verifies.
"""

import itertools
import shutil
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

import klal
from klal.errors import ConstraintError, KlalError, UsageError
from klal.model.schema import is_as_stored
from klal.rules.merge import same

# Each has its key columns first, then i, r and n, of which n is NOT NULL.
TABLES = {
    "text": "CREATE TABLE t(k TEXT NOT NULL PRIMARY KEY, i INTEGER, r REAL, n NOT NULL DEFAULT 0)",
    "int": "CREATE TABLE t(k INT NOT NULL PRIMARY KEY, i NUMERIC, r TEXT, n BLOB NOT NULL DEFAULT x'00')",
    "real": "CREATE TABLE t(k REAL NOT NULL PRIMARY KEY, i, r REAL, n NOT NULL DEFAULT 'it''s')",
    "strict": "CREATE TABLE t(k TEXT NOT NULL PRIMARY KEY, i INTEGER, r REAL, n ANY NOT NULL DEFAULT 0) STRICT",
    "pair": "CREATE TABLE t(k INT, j TEXT, i INTEGER, r REAL, n NOT NULL DEFAULT 1, PRIMARY KEY(j, k)) WITHOUT ROWID",
    "clustered": "CREATE TABLE t(k INTEGER PRIMARY KEY, i INTEGER, r REAL, n NOT NULL DEFAULT 1.0) WITHOUT ROWID",
}
KEYS = {
    "text": ["a", "b", "c", 1, "", "a\0b", b"a"],
    "int": [1, 2, 3, "1", 2.0, 2.5, "x", 2**63 - 1, -(2**63)],
    "real": [0.0, -0.0, 1, "1", 2.5, 1e400, -1],
    "strict": ["a", "b", "c", "d", 1],
    "pair": [1, 2, "2", 3.0],
    "clustered": [1, 2, 3, "3", 2.0, -(2**63)],
}
VALUES = [
    *(None, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, 0.0, -0.0, 1.0, 1.5, 1e400, -1e400, float("nan"), 5e-324),
    *(
        True,
        "",
        "5",
        "5.0",
        " 7 ",
        "0x10",
        "1e3",
        "text",
        "a\0b",
        "\u05db\u05dc\u05dc",
        "\U0001f600",
        b"",
        b"\xff",
        b"5",
    ),
]
OR = ["", "", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR ROLLBACK"]


class Twin:
    """A klal file and a plain database with the same history of SQL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ana = klal.create(folder / "ana.db", space="s", member="ana", home=folder / "ana")
        self.plain = apsw.Connection(":memory:")
        self.before = None
        self.refusals = []

    def ddl(self, sql):
        self.ana.execute(sql)
        self.plain.execute(sql)

    def rows(self):
        return [rows_of(lambda sql: self.plain.execute(sql).fetchall(), name) for name in self.tables()]

    def tables(self):
        return [name for (name,) in self.plain.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY 1")]

    def step(self, kind, *arguments):
        """Run one step on both; a change is made exactly when a transaction's end leaves other rows or tables."""
        was_open = self.plain.in_transaction
        if not was_open:
            self.before = self.state()
        plain_fails = self.on_plain(kind, *arguments)
        change = None
        try:
            change = self.on_klal(kind, *arguments)
            fails = False
        except KlalError as error:
            self.refusals.append(f"{type(error).__name__}: {error}")
            fails = True
        assert fails == plain_fails
        after = [rows_of(self.ana.query, name) for name in self.ana.tables()]
        assert after == self.rows()
        if self.plain.in_transaction:
            assert change is None
        elif kind != "release":
            assert (change is not None) == (self.state() != self.before)

    def state(self):
        return self.plain.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall(), self.rows()

    def on_klal(self, kind, *arguments):
        match kind:
            case "run":
                return self.ana.execute(*arguments).change
            case "many":
                return self.ana.executemany(*arguments).change
            case "bulk":
                return self.ana.insert_many("t", *arguments).change
            case "transaction":
                return self.ana.execute(arguments[0]).change

    def on_plain(self, kind, *arguments):
        """Return whether it failed; outside a transaction a statement that fails leaves nothing."""
        own = not self.plain.in_transaction and kind != "transaction"
        if own:
            self.plain.execute("BEGIN")
        try:
            match kind:
                case "run" | "transaction":
                    self.plain.execute(*arguments).fetchall()
                case "many":
                    self.plain.executemany(*arguments)
                case "bulk":
                    with self.plain:
                        marks = ",".join("?" * len(self.plain.execute("PRAGMA table_info(t)").fetchall()))
                        self.plain.executemany(f"INSERT INTO t VALUES({marks})", *arguments)
        except (apsw.Error, OverflowError):
            if own and self.plain.in_transaction:
                self.plain.execute("ROLLBACK")
            return True
        if own:
            self.plain.execute("COMMIT")
        return False

    def finish(self):
        """End what is open, and see that another replica has the same in the end."""
        if self.plain.in_transaction:
            self.step("transaction", "COMMIT")
        ben = klal.join(self.folder / "ben.db", self.ana.invite(), member="ben", home=self.folder / "ben")
        ben.sync(self.ana.path)
        assert [rows_of(ben.query, name) for name in ben.tables()] == self.rows()
        self.ana.verify()
        ben.verify()
        ben.close()

    def close(self):
        self.ana.close()
        self.plain.close()


def rows_of(query, table):
    """Return a table's rows so that 1, 1.0, -0.0 and '1' all differ, with the storage class SQLite says."""
    names = [row[1] for row in query(f"PRAGMA table_info({table})")]
    types = ", ".join(f"typeof({name})" for name in names)
    return sorted(map(repr, query(f"SELECT *, {types} FROM {table}")))


def keys(draw, name):
    key = [draw(st.sampled_from(KEYS[name]))]
    return [*key, draw(st.sampled_from(["x", "y", 1]))] if name == "pair" else key


def draw_step(draw, name, serial):
    """Return one step on table `name`."""
    columns = "k, j" if name == "pair" else "k"
    where = "k = ? AND j = ?" if name == "pair" else "k = ?"
    value = st.sampled_from(VALUES)
    marks = "?, ?, ?, ?, ?" if name == "pair" else "?, ?, ?, ?"
    row = lambda: [*keys(draw, name), draw(value), draw(value), draw(value)]  # noqa: E731
    rows = lambda least: [row() for _ in range(draw(st.integers(least, 3)))]  # noqa: E731
    either = draw(st.sampled_from(OR))
    into = f"INTO t({columns}, i, r, n)"
    match draw(st.integers(0, 19)):
        case 0 | 1 | 2:
            given_rows = rows(1)
            values = ", ".join([f"({marks})"] * len(given_rows))
            return "run", f"INSERT {either} {into} VALUES {values}", [value for each in given_rows for value in each]
        case 3:
            return "run", f"REPLACE {into} VALUES ({marks}) RETURNING k", row()
        case 4:
            upsert = "DO UPDATE SET i = excluded.i, n = t.n" if draw(st.booleans()) else "DO NOTHING"
            return "run", f"INSERT {into} VALUES ({marks}), ({marks}) ON CONFLICT({columns}) {upsert}", [*row(), *row()]
        case 5:
            return "run", f"INSERT INTO t({columns}) VALUES ({marks[:-9]})", keys(draw, name)
        case 6:
            return "many", f"INSERT {either} {into} VALUES ({marks})", rows(0)
        case 7:
            return "many", f"UPDATE {either} t SET n = ? WHERE {where}", [(draw(value), *keys(draw, name))] * 2
        case 8 | 9:
            return "bulk", [tuple(row()) for _ in range(draw(st.integers(0, 20)))] if serial else [tuple(row())]
        case 10:
            column = draw(st.sampled_from("irn"))
            return "run", f"UPDATE {either} t SET {column} = ? WHERE {where}", [draw(value), *keys(draw, name)]
        case 11:
            return "run", f"UPDATE {either} t SET k = ?, i = 1 WHERE {where}", [keys(draw, name)[0], *keys(draw, name)]
        case 12:
            what = ["n = n", "i = i + 0.0", "n = CAST(n AS REAL)", "k = k", "r = NULL", "n = nullif(n, 1)", "k = k + 1"]
            return "run", f"UPDATE {either} t SET {draw(st.sampled_from(what))}", ()
        case 13:
            other = "j" if name == "pair" else ""
            source = f"SELECT k + 1, {other + ',' if other else ''} i, r, n FROM t ORDER BY 1"
            return "run", f"INSERT {either} {into} {source}", ()
        case 14:
            return "run", f"DELETE FROM t WHERE {where} RETURNING *", keys(draw, name)
        case 15:
            return "run", "DELETE FROM t", ()
        case 16:
            ddl = [
                f"CREATE TABLE u{serial}(id TEXT NOT NULL PRIMARY KEY, v DEFAULT 7)",
                f"ALTER TABLE t ADD COLUMN c{serial} REAL NOT NULL DEFAULT 3",
                f"ALTER TABLE t ADD COLUMN c{serial} TEXT DEFAULT 'old'",
                "WITH q(v) AS (SELECT ?1) UPDATE t SET i = (SELECT v FROM q)",
            ]
            sql = draw(st.sampled_from(ddl))
            return "run", sql, [draw(value)] if "?1" in sql else ()
        case _:
            words = ["BEGIN", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "SAVEPOINT z", "ROLLBACK TO s", "RELEASE s"]
            return "transaction", draw(st.sampled_from([*words, 'ROLLBACK TO "Z" -- back', "RELEASE z"]))


@st.composite
def stories(draw):
    name = draw(st.sampled_from(sorted(TABLES)))
    steps = [draw_step(draw, name, serial) for serial in range(draw(st.integers(1, 25)))]
    return name, steps


@pytest.fixture
def twin(tmp_path):
    made = Twin(tmp_path)
    yield made
    made.close()


def is_replayable(twin, step):
    """Leave out what SQLite and klal answer differently on purpose: savepoints outside a transaction."""
    return twin.plain.in_transaction or step[0] != "transaction" or not step[1].startswith("SAVEPOINT")


@given(stories())
@example(("real", [("run", "INSERT INTO t(k) VALUES (0.0)", ()), ("run", "UPDATE t SET k = ?", [-0.0])]))
def test_any_sql_does_what_sqlite_does_and_travels_as_it_is(story):
    """S6 S7 S8 S33 S34 T42: reads within, undone statements, and rows of every storage class."""
    name, steps = story
    folder = Path(tempfile.mkdtemp(prefix="klal-capture-"))
    twin = Twin(folder)
    try:
        twin.ddl(TABLES[name])
        for step in steps:
            if is_replayable(twin, step):
                note(f"{step} {twin.refusals[-1:]}")
                twin.step(*step)
        twin.finish()
    finally:
        twin.close()
        shutil.rmtree(folder)


# -- one claim for each way in which capture is known to go wrong ------------------------


def changes(replica):
    """Return how many changes the replica's own log has."""
    return sum(1 for entry in replica.log() if entry.change.log_id == replica.log_id)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_transaction_of_every_kind_of_table_goes_on_after_a_statement_failed_in_it(twin, name):
    twin.ddl(TABLES[name])
    pair = ", j" if name == "pair" else ""
    other = ", 'x'" if name == "pair" else ""
    row = f"INSERT INTO t(k{pair}) VALUES"
    twin.step("run", f"{row} (1{other}), (2{other})")
    twin.step("transaction", "BEGIN")
    twin.step("run", f"{row} (3{other})")
    twin.step("run", f"{row} (4{other}), (1{other})")  # Fails on its second row.
    twin.step("run", f"INSERT OR FAIL INTO t(k{pair}) VALUES (5{other}), (1{other}), (6{other})")  # Keeps its first.
    twin.step("run", "UPDATE t SET n = nullif(k, 2)")  # Fails on NOT NULL.
    twin.step("run", "UPDATE t SET i = 7 WHERE k > 1")
    twin.step("transaction", "COMMIT")

    twin.finish()
    assert len(twin.rows()[0]) == 4


def test_a_savepoint_rolled_back_leaves_no_change(twin):
    twin.ddl(TABLES["text"])
    twin.step("transaction", "BEGIN")
    twin.step("transaction", "SAVEPOINT s")
    twin.step("run", "INSERT INTO t(k) VALUES ('a')")
    twin.step("transaction", "ROLLBACK TO s")
    twin.step("transaction", "COMMIT")

    twin.finish()


def test_a_table_created_and_rolled_back_leaves_no_change(twin):
    twin.ddl(TABLES["text"])
    twin.step("transaction", "BEGIN")
    twin.step("transaction", "SAVEPOINT s")
    twin.step("run", "CREATE TABLE u(id TEXT PRIMARY KEY)")
    twin.step("run", "INSERT INTO u VALUES ('a')")
    twin.step("transaction", "ROLLBACK TO s")
    twin.step("run", "CREATE TABLE u(id TEXT PRIMARY KEY, v)")
    twin.step("run", "INSERT INTO u VALUES ('a', 1)")
    twin.step("transaction", "COMMIT")

    twin.finish()


def test_a_primary_key_change_is_a_delete_and_an_insert_of_the_whole_row(twin):
    twin.ddl(TABLES["text"])
    twin.step("run", "INSERT INTO t VALUES ('a', 1, 2, 3), ('b', 4, 5, 6)")
    twin.step("transaction", "BEGIN")
    for old, new in (("a", "z"), ("b", "a"), ("z", "b")):
        twin.step("run", "UPDATE t SET k = ? WHERE k = ?", (new, old))
    twin.step("transaction", "COMMIT")

    assert twin.ana.query("SELECT k, i FROM t ORDER BY k") == [("a", 4), ("b", 1)]
    twin.finish()


def test_a_row_inserted_and_deleted_in_one_transaction_leaves_no_change(twin):
    twin.ddl(TABLES["text"])
    before = changes(twin.ana)
    with twin.ana.transaction():
        twin.ana.execute("INSERT INTO t(k) VALUES ('a')")
        twin.ana.execute("DELETE FROM t")

    assert changes(twin.ana) == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET i = i, r = r, n = n, k = k",
        "REPLACE INTO t VALUES ('a', 1, 2.0, 3)",
        "INSERT INTO t VALUES ('a', 9, 9, 9) ON CONFLICT DO NOTHING",
        "INSERT OR IGNORE INTO t VALUES ('a', 9, 9, 9)",
        "UPDATE t SET i = '1' WHERE k = 'a'",  # 1 once stored: affinity is applied first.
        "DELETE FROM t WHERE k = 'b'",
    ],
)
def test_what_leaves_every_row_as_it_was_is_no_change(twin, sql):
    twin.ddl(TABLES["text"])
    twin.ana.execute("INSERT INTO t VALUES ('a', 1, 2.0, 3)")

    assert twin.ana.execute(sql).change is None


def test_a_change_of_type_alone_is_a_change(twin):
    twin.ddl(TABLES["text"])
    twin.step("run", "INSERT INTO t(k, n) VALUES ('a', 1)")
    twin.step("run", "UPDATE t SET n = 1.0")
    twin.step("run", "UPDATE t SET n = '1'")
    twin.step("run", "UPDATE t SET n = 0.0")
    twin.step("run", "UPDATE t SET n = ?", (-0.0,))

    twin.finish()


def test_rows_that_replace_deletes_are_captured_without_triggers(twin):
    twin.ddl(TABLES["text"])
    twin.step("run", "INSERT INTO t VALUES ('a', 1, 1, 1), ('b', 2, 2, 2), ('c', 3, 3, 3)")
    twin.step("run", "UPDATE OR REPLACE t SET k = 'c' WHERE k = 'a'")
    twin.step("run", "INSERT OR REPLACE INTO t(k) VALUES ('b')")

    twin.finish()


@pytest.mark.parametrize("verb", ["execute", "insert_many"])
def test_a_key_that_is_null_is_refused_and_nothing_is_stored(twin, verb):
    """S7: SQLite lets a NULL into the key of an ordinary table, where no replica could tell such rows apart."""
    twin.ana.execute("CREATE TABLE u(k TEXT PRIMARY KEY, v)")
    arguments = ["INSERT INTO u VALUES ('a', 1), (NULL, 2)"] if verb == "execute" else ["u", [("a", 1), (None, 2)]]
    with pytest.raises(UsageError, match="NULL"):
        getattr(twin.ana, verb)(*arguments)

    assert twin.ana.query("SELECT * FROM u") == []
    twin.ana.verify()


def test_insert_many_stores_what_sql_would(twin):
    twin.ddl("CREATE TABLE v(k INT PRIMARY KEY, i INTEGER, n NUMERIC, r REAL, t TEXT, b BLOB, u)")
    values = [value for value in VALUES if value != 2**63]
    rows = [(number, value, value, value, value, value, value) for number, value in enumerate(values)]
    twin.ana.insert_many("v", rows)
    twin.plain.executemany("INSERT INTO v VALUES (?,?,?,?,?,?,?)", rows)

    assert rows_of(twin.ana.query, "v") == rows_of(lambda sql: twin.plain.execute(sql).fetchall(), "v")
    twin.finish()


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([(1, 2, 3)], ["k", "i", "I"], "column i of table v is named twice"),
        ([{"k": 1, "i": 2, "I": 3}], None, "row 0 names a column twice"),
        ([(0, 0), 7], None, "row 1 is a int, want a sequence or a mapping"),
        (["ab"], None, "row 0 is a str, want a sequence or a mapping"),
        ([{1, 2}], None, "row 0 is a set, want a sequence or a mapping"),
    ],
)
def test_insert_many_refuses_what_is_no_row(twin, rows, columns, said):
    """Which of two values a cell got would be anybody's guess."""
    twin.ddl("CREATE TABLE v(k INT PRIMARY KEY, i INTEGER)")

    with pytest.raises(UsageError, match=f"^{said}$"):
        twin.ana.insert_many("v", rows, columns=columns)
    assert twin.ana.query("SELECT * FROM v") == []


@pytest.mark.parametrize("affinity", ["INTEGER", "NUMERIC", "REAL", "TEXT", "BLOB"])
def test_the_model_knows_which_values_sqlite_stores_as_they_are(affinity):
    """APP-4: a value that the model calls converted has no effect anywhere, so it must never be one SQLite keeps."""
    plain = apsw.Connection(":memory:")
    plain.execute(f"CREATE TABLE t(c {affinity})")
    texts = ["".join(letters) for length in range(5) for letters in itertools.product("1.e+ -", repeat=length)]
    texts += [
        "1\0",
        "1\0x",
        "\0",
        "Inf",
        "nan",
        "\u0661",
        "\u00a01",
        "\v1",
        "1_0",
        "1" * 400,
        "0" * 40,
        "9" * 30 + ".5",
    ]
    reals = [2.0**63, -(2.0**63), 2.0**63 - 1024, -(2.0**63) + 1024, 2.0**53, 2.0**51 + 0.5, 1e300]
    for value in [*texts, *reals, *VALUES]:
        if value is True or value == 2**63 or str(value) == "nan":
            continue
        plain.execute("DELETE FROM t")
        plain.execute("INSERT INTO t VALUES (?)", (value,))

        assert is_as_stored(affinity, value) == same(value, plain.execute("SELECT c FROM t").get), repr(value)


def test_a_bulk_insert_that_fails_leaves_what_the_transaction_did_before(twin):
    twin.ddl(TABLES["text"])
    with twin.ana.transaction():
        twin.ana.insert_many("t", [("a", 1, 1.0, 1)])
        with pytest.raises(ConstraintError):
            twin.ana.insert_many("t", [(f"k{number}", 1, 1.0, 1) for number in range(40_000)] + [("a", 1, 1.0, 1)])
        twin.ana.insert_many("t", [("b", 1, 1.0, 1)])

    assert twin.ana.query("SELECT k FROM t ORDER BY k") == [("a",), ("b",)]
    assert twin.ana.log(limit=1)[0].tables == {"t": 2}
    twin.ana.verify()


def test_a_transaction_over_three_tables_is_one_change(twin):
    """S33: over the tables, and S34: over many rows."""
    with twin.ana.transaction():
        for name in "uvw":
            twin.ana.execute(f"CREATE TABLE {name}(k INT PRIMARY KEY, x)")
        for name in "uvw":
            twin.ana.insert_many(name, [(number, "x" * 50) for number in range(20_000)])
            twin.ana.execute(f"UPDATE {name} SET x = 'y' WHERE k % 2")

    entry = twin.ana.log(limit=1)[0]
    assert entry.tables == {"u": 20_000, "v": 20_000, "w": 20_000}
    ben = klal.join(twin.folder / "ben.db", twin.ana.invite(), member="ben", home=twin.folder / "ben")
    ben.sync(twin.ana.path)
    assert [rows_of(ben.query, name) for name in "uvw"] == [rows_of(twin.ana.query, name) for name in "uvw"]
    ben.close()


def test_a_transaction_that_a_failed_statement_ended_goes_no_further(twin):
    """INSERT OR ROLLBACK ends the transaction beneath a `with` block: what follows must not land outside of it."""
    twin.ana.execute(TABLES["text"])
    twin.ana.execute("INSERT INTO t(k) VALUES ('a')")
    block = twin.ana.transaction()
    block.__enter__()
    twin.ana.execute("INSERT INTO t(k) VALUES ('b')")
    with pytest.raises(ConstraintError):
        twin.ana.execute("INSERT OR ROLLBACK INTO t(k) VALUES ('a')")
    with pytest.raises(UsageError, match="rolled back"):
        twin.ana.execute("INSERT INTO t(k) VALUES ('c')")
    with pytest.raises(UsageError, match="rolled back"):
        block.__exit__(None, None, None)

    assert twin.ana.query("SELECT k FROM t") == [("a",)]
    twin.ana.execute("INSERT INTO t(k) VALUES ('d')")
    twin.ana.verify()


@pytest.mark.parametrize(
    "write",
    [
        lambda ana: ana.execute("INSERT INTO t(k, i) VALUES ('b', CAST(x'ff' AS TEXT))"),
        lambda ana: ana.execute("INSERT INTO t(k) VALUES (CAST(x'ff' AS TEXT))"),
        lambda ana: ana.execute("UPDATE t SET n = CAST(x'61ff62' AS TEXT)"),
        lambda ana: ana.execute("INSERT INTO t(k, i) VALUES ('b', ?)", ("\ud800",)),
        lambda ana: ana.execute("INSERT INTO t(k, i) VALUES ('b', '\ud800')"),
        lambda ana: ana.executemany("INSERT INTO t(k, i) VALUES (?, ?)", [("b", 1), ("c", "\udfff")]),
        lambda ana: ana.insert_many("t", [("b", 1, 1.0, 1), ("c", 1, 1.0, "\ud800")]),
        lambda ana: ana.insert_many("t", [("b", 2**63, 1.0, 1)]),
        lambda ana: ana.insert_many("t", [("b", 1, 1.0, object())]),
        lambda ana: ana.execute("INSERT INTO t(k, i) VALUES ('b', ?)", (2**63,)),
    ],
)
@pytest.mark.parametrize("is_open", [False, True])
def test_what_cannot_travel_is_refused_where_it_is_written(twin, write, is_open):
    """T42: text that is not Unicode, integers beyond 64 bits; also when the program goes on in its transaction."""
    twin.ana.execute(TABLES["text"])
    twin.ana.execute("INSERT INTO t(k, n) VALUES ('a', 1)")
    if is_open:
        twin.ana.execute("BEGIN")
    with pytest.raises(UsageError):
        write(twin.ana)
    if is_open:
        try:
            twin.ana.execute("COMMIT")
        except UsageError:  # SQLite writes a row of which the hook could not be told, so all of it is undone.
            assert twin.ana.query("SELECT k, n FROM t") == [("a", 1)]

    twin.ana.verify()
    assert ("a", 1) in twin.ana.query("SELECT k, n FROM t")


def test_a_savepoint_takes_back_a_row_that_cannot_travel(twin):
    twin.ana.execute(TABLES["text"])
    with twin.ana.transaction():
        twin.ana.execute("INSERT INTO t(k) VALUES ('a')")
        twin.ana.execute("SAVEPOINT s")
        with pytest.raises(UsageError):
            twin.ana.execute("INSERT INTO t(k, n) VALUES ('b', CAST(x'ff' AS TEXT))")
        twin.ana.execute("ROLLBACK TO s")

    assert twin.ana.query("SELECT k FROM t") == [("a",)]
    twin.ana.verify()


def test_reads_inside_a_transaction_see_its_writes_and_others_do_not(twin):
    """S6 S7 S8."""
    twin.ana.execute(TABLES["text"])
    reader = klal.open(twin.ana.path, home=twin.folder / "ana")
    twin.ana.execute("BEGIN")
    twin.ana.execute("INSERT INTO t(k) VALUES ('a')")

    assert twin.ana.query("SELECT k FROM t") == [("a",)]
    assert reader.query("SELECT k FROM t") == []
    twin.ana.execute("ROLLBACK")
    assert twin.ana.query("SELECT k FROM t") == []
    reader.close()


def test_rows_older_than_an_added_column_are_the_same_everywhere_once_deleted(twin):
    """The hook shows them the added REAL column's DEFAULT 3 as an integer, and a replica may add the column later."""
    twin.ddl(TABLES["text"])
    twin.step("run", "INSERT INTO t(k) VALUES ('a'), ('b'), ('c')")
    twin.step("run", "DELETE FROM t WHERE k = 'a'")
    twin.step("run", "ALTER TABLE t ADD COLUMN c REAL NOT NULL DEFAULT 3")
    twin.step("run", "DELETE FROM t WHERE k = 'b'")
    twin.step("run", "UPDATE t SET c = c")

    twin.finish()
