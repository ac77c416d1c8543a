"""DDL among writes and savepoints of one transaction: what was done is one change, and what was rolled back is none."""

from __future__ import annotations

from itertools import product

import pytest

from tests.helpers.fleet import Fleet
from tests.laws.test_schema_any_order import everything_of

DDL = (
    "ALTER TABLE t DROP COLUMN a",
    "ALTER TABLE t RENAME COLUMN b TO c",
    "ALTER TABLE t ADD COLUMN d INT DEFAULT 3",
    "ALTER TABLE t RENAME TO u",
)


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as made:
        made.found("ana", "CREATE TABLE t(k TEXT PRIMARY KEY, a INT, b INT, z INT)")
        made.join("ben")
        made["ana"].executemany("INSERT INTO t VALUES(?, 1, 2, 3)", [("k1",), ("k2",), ("k3",)])
        made.gather()
        yield made


def name_of(replica):
    return replica.tables()[0]


@pytest.mark.parametrize("is_rolled_back", [True, False])
@pytest.mark.parametrize(("first", "second"), list(product(DDL, repeat=2)))
def test_ddl_between_writes_and_savepoints_leaves_capture_right(fleet, first, second, is_rolled_back):
    """W9 S33: BEGIN; write; SAVEPOINT; DDL; write; ROLLBACK TO or RELEASE; write; COMMIT."""
    ana = fleet["ana"]
    ana.execute("BEGIN")
    ana.execute("UPDATE t SET z = z + 1 WHERE k = 'k1'")
    ana.execute("SAVEPOINT s")
    ana.execute(first)
    ana.execute(f"UPDATE {name_of(ana)} SET z = z + 10 WHERE k <> 'k3'")
    ana.execute(f"INSERT INTO {name_of(ana)}(k, z) VALUES('new', 0)")
    if second != first and not (second.startswith("ALTER TABLE t") and name_of(ana) != "t"):
        ana.execute(second)
    ana.execute(f"DELETE FROM {name_of(ana)} WHERE k = 'k3'")
    if is_rolled_back:
        ana.execute("ROLLBACK TO s")
    ana.execute("RELEASE s")
    ana.execute(f"UPDATE {name_of(ana)} SET z = z + 100 WHERE k = 'k2'")
    count = ana.coverage().held
    ana.execute("COMMIT")

    assert ana.coverage().held == count + 1
    wanted = [("k1", 4), ("k2", 103), ("k3", 3)] if is_rolled_back else [("k1", 14), ("k2", 113), ("new", 0)]
    assert ana.query(f"SELECT k, z FROM {name_of(ana)} ORDER BY k") == wanted
    ana.verify()
    fleet.gather()
    assert everything_of(fleet["ben"]) == everything_of(ana)
    fleet["ben"].verify()


def test_a_migration_is_one_change_and_arrives_whole(fleet):
    """S33 S36: add a column, copy into it, drop the old one."""
    ana = fleet["ana"]
    ana.execute("BEGIN")
    ana.execute("ALTER TABLE t ADD COLUMN full TEXT")
    ana.execute("UPDATE t SET full = a || ':' || b")
    ana.execute("ALTER TABLE t DROP COLUMN a")
    ana.execute("ALTER TABLE t RENAME COLUMN full TO a")
    before = ana.coverage().held
    ana.execute("COMMIT")
    fleet["ben"].execute("UPDATE t SET a = 9 WHERE k = 'k1'")
    fleet.gather()

    assert ana.coverage().held == before + 2
    for replica in fleet.replicas.values():
        assert replica.query("SELECT DISTINCT a FROM t") == [("1:2",)]
        assert replica.query('SELECT kind, "table" FROM klal_violations') == [("dropped", "t.a")]
        replica.verify()
