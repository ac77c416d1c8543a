"""Every feature of SQLite's schema: it works here, through a merge and when it is breached apart, or it is refused."""

import tomllib
from pathlib import Path

import pytest

from klal.errors import ConstraintError, UsageError
from tests.helpers.fleet import Fleet, answers_of

LIST = Path(__file__).parents[3] / "docs/reference/sql.toml"
FEATURES = tomllib.loads(LIST.read_text("utf-8"))["feature"]
WORKS = [feature for feature in FEATURES if "refused" not in feature]
REFUSED = [feature for feature in FEATURES if "refused" in feature]


def by_name(feature):
    return feature["name"]


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as made:
        made.found("ana")
        made.join("ben")
        yield made


@pytest.mark.parametrize("feature", WORKS, ids=by_name)
def test_what_works_holds_here_and_is_listed_when_it_is_breached_apart(fleet, feature):
    """D12 S26 S27 VIO-1."""
    for sql in feature["example"]:
        fleet["ana"].execute(sql)
    fleet.gather()
    for name in fleet.names:
        if "local" in feature:
            with pytest.raises(ConstraintError):
                fleet[name].execute(feature["local"])
        for sql in feature.get(name, []):
            fleet[name].execute(sql)
        fleet[name].verify()
    fleet.gather()

    query, wanted = feature["shows"]
    for replica in fleet.replicas.values():
        assert str(replica.query(query)[0][0]) == wanted
        assert [kind for (kind,) in replica.query("SELECT kind FROM klal_violations")] == feature.get("lists", [])
        replica.verify()
    assert answers_of(fleet["ana"])[:3] == answers_of(fleet["ben"])[:3]


@pytest.mark.parametrize("feature", REFUSED, ids=by_name)
def test_what_is_refused_says_so_in_a_sentence(fleet, feature):
    """D11."""
    *before, last = feature["example"]
    for sql in before:
        fleet["ana"].execute(sql)
    tables = fleet["ana"].tables()
    with pytest.raises(UsageError) as refused:
        fleet["ana"].execute(last)

    assert str(refused.value).startswith(feature["refused"])
    assert fleet["ana"].tables() == tables


def test_an_index_that_raised_is_built_again_once_no_row_makes_it_raise(fleet):
    """SCH-7."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT)")
    fleet.gather()
    fleet["ana"].execute("CREATE INDEX i ON t(json_extract(v, '$.a'))")
    fleet["ben"].execute("INSERT INTO t VALUES('bad', '{')")
    fleet.gather()
    for replica in fleet.replicas.values():
        assert replica.query('SELECT kind, "table" FROM klal_violations') == [("index", "i")]
    fleet["ben"].execute("UPDATE t SET v = '{}'")
    fleet["ben"].verify()
    fleet.gather()

    for replica in fleet.replicas.values():
        assert replica.query("SELECT count(*) FROM klal_violations") == [(0,)]
        assert replica.query("SELECT count(*) FROM sqlite_schema WHERE name = 'i'") == [(1,)]
        with pytest.raises(UsageError):  # From here on SQLite itself refuses such a row.
            replica.execute("INSERT INTO t VALUES('again', '{')")
        replica.verify()


@pytest.mark.parametrize("least", [-(2**63), 3])
def test_a_check_never_makes_the_list_of_violations_fail(fleet, least):
    """VIO-1: abs of the least integer raises, and the list says what it would have said."""
    fleet["ana"].execute(
        "CREATE TABLE t(k TEXT PRIMARY KEY, a INT, b INT, CHECK (CASE WHEN a THEN abs(b) < 2 ELSE 1 END))"
    )
    fleet["ana"].execute("INSERT INTO t VALUES('k', NULL, 0)")
    fleet.gather()
    fleet["ana"].execute("UPDATE t SET a = 1")
    fleet["ben"].execute("UPDATE t SET b = ?", (least,))
    fleet.gather()

    for replica in fleet.replicas.values():
        assert replica.query("SELECT kind, key FROM klal_violations") == [("check", "k")]
        replica.verify()


def test_a_write_that_takes_what_a_hidden_row_waits_for_is_refused_and_names_it(fleet):
    """UNQ-4 S26."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT UNIQUE)")
    fleet.gather()
    fleet["ana"].execute("INSERT INTO t VALUES('a', 'x')")
    fleet["ben"].execute("INSERT INTO t VALUES('b', 'x')")
    fleet.gather()
    ((hidden,),) = fleet["ana"].query("SELECT key FROM klal_violations")
    ((shown,),) = fleet["ana"].query("SELECT k FROM t")
    with pytest.raises(ConstraintError, match=f"key {hidden}"):
        fleet["ana"].execute("INSERT INTO t VALUES(?, 'free')", (hidden,))
    fleet["ana"].execute("BEGIN")
    fleet["ana"].execute("UPDATE t SET v = 'y' WHERE k = ?", (shown,))
    fleet["ana"].execute("INSERT INTO t VALUES('c', 'x')")
    with pytest.raises(ConstraintError, match=f"key {hidden}"):
        fleet["ana"].execute("COMMIT")
    fleet["ana"].execute("UPDATE t SET v = 'y' WHERE k = ?", (shown,))

    assert fleet["ana"].query("SELECT v FROM t WHERE k = ?", (hidden,)) == [("x",)]
    assert fleet["ana"].query("SELECT count(*) FROM klal_violations") == [(0,)]
    fleet["ana"].verify()


def test_more_constraints_than_one_union_takes_are_all_asked(fleet):
    """VIO-1."""
    checks = ", ".join(f"CHECK (a IS NULL OR b <> {number})" for number in range(150))
    for number in range(4):
        fleet["ana"].execute(f"CREATE TABLE t{number}(k TEXT PRIMARY KEY, a INT, b INT, {checks})")
        fleet["ana"].execute(f"INSERT INTO t{number}(k) VALUES('k')")
    fleet.gather()
    fleet["ana"].execute("UPDATE t3 SET a = 1")
    fleet["ben"].execute("UPDATE t3 SET b = 149")
    fleet.gather()

    assert fleet["ana"].query('SELECT kind, "table", detail FROM klal_violations')[0][:2] == ("check", "t3")


def test_a_foreign_key_is_listed_by_the_comparison_that_enforces_it(fleet):
    """VIO-1: the parent's type decides, so 1 names the row '1' of a parent of text."""
    fleet["ana"].execute("CREATE TABLE p(k TEXT PRIMARY KEY)")
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v REFERENCES p)")
    fleet["ana"].execute("INSERT INTO p VALUES('1')")
    fleet["ana"].execute("INSERT INTO t VALUES('t', 1)")
    fleet.gather()

    assert fleet["ben"].query("SELECT * FROM klal_violations") == []


def test_two_who_drop_apart_list_only_what_neither_had_seen(fleet):
    """SCH-9 S32."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INT)")
    fleet.join("cal")
    fleet.gather()
    fleet["ben"].execute("INSERT INTO t VALUES('b', 1)")
    fleet.meet("ana", "ben")
    fleet["ana"].execute("ALTER TABLE t DROP COLUMN v")
    fleet["cal"].execute("ALTER TABLE t DROP COLUMN v")
    fleet.meet("ben", "cal")
    fleet.meet("ana", "ben")
    fleet.gather()

    for replica in fleet.replicas.values():
        assert replica.query("SELECT * FROM klal_violations") == []
        replica.verify()


def test_a_hidden_row_goes_on_being_merged(fleet):
    """UNQ-3 S26: who has not heard that it is hidden writes to it, and that shows once it is visible again."""
    fleet["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT UNIQUE, note TEXT)")
    fleet.join("cal")
    fleet.gather()
    fleet.skew("ben", 100_000)  # So that ben's claim is the younger one.
    fleet["ben"].execute("INSERT INTO t(k, v) VALUES('b', 'x')")
    fleet.meet("ben", "cal")
    fleet["ana"].execute("INSERT INTO t(k, v) VALUES('a', 'x')")
    fleet["cal"].execute("UPDATE t SET note = 'later' WHERE k = 'b'")
    fleet.meet("ana", "ben")
    fleet.gather()
    assert fleet["ana"].query("SELECT kind, key FROM klal_violations") == [("unique", "b")]
    fleet["ana"].execute("DELETE FROM t")
    fleet.gather()

    for replica in fleet.replicas.values():
        assert replica.query("SELECT * FROM t") == [("b", "x", "later")]
        replica.verify()
