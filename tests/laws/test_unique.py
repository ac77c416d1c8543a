"""UNIQUE, CHECK and FOREIGN KEY after a merge: what is shown, hidden and listed is a function of the changes alone."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from klal.errors import KlalError
from klal.replica import Replica
from tests.helpers.fleet import Fleet, answers_of, scratch
from tests.helpers.unique_oracle import Rules, Shown, Unique, expected, writes_of

NAMES = ("ana", "ben", "cal")
SCHEMA = (
    """CREATE TABLE ring(id TEXT PRIMARY KEY, code TEXT UNIQUE, site INT, number INT, tag TEXT COLLATE NOCASE UNIQUE,
       state TEXT DEFAULT 'live', mass INT CONSTRAINT heavy CHECK (mass < 100), UNIQUE(site, number))""",
    """CREATE TABLE sight(id TEXT PRIMARY KEY, ring TEXT REFERENCES ring(id) ON DELETE CASCADE,
       code TEXT REFERENCES ring(code) ON DELETE SET NULL ON UPDATE CASCADE,
       kept TEXT REFERENCES ring ON DELETE RESTRICT)""",
)
LATE = "CREATE UNIQUE INDEX one_live_mass ON ring(mass) WHERE state = 'live'"
RING = {"id": None, "code": None, "site": None, "number": None, "tag": None, "state": "live", "mass": None}
DECLARED = (Unique(("code",)), Unique(("tag",), ("NOCASE",)), Unique(("site", "number")))
LATE_RULE = Unique(("mass",), (), lambda row: row["state"] == "live", frozenset({"state"}))
SIGHT = Rules(
    "id",
    {"id": None, "ring": None, "code": None, "kept": None},
    parents={"ring": ("ring", "id"), "code": ("ring", "code"), "kept": ("ring", "id")},
)


def rules_of(replica: Replica) -> dict[str, Rules]:
    has_late = replica.query("SELECT count(*) FROM sqlite_schema WHERE name = 'one_live_mass'") == [(1,)]
    uniques = (*DECLARED, LATE_RULE) if has_late else DECLARED
    checks = {"heavy": lambda row: row["mass"] is None or row["mass"] < 100}
    return {"ring": Rules("id", RING, uniques, checks), "sight": SIGHT}


def shown_by(replica: Replica) -> Shown:
    """Return what a replica shows, in the oracle's words."""
    visible = {}
    for name, rules in rules_of(replica).items():
        columns = ", ".join(rules.defaults)
        rows = replica.query(f"SELECT {columns} FROM {name} ORDER BY id")
        visible[name] = [dict(zip(rules.defaults, row, strict=True)) for row in rows]
    violations = sorted(replica.query("SELECT * FROM klal_violations"))
    hidden: dict[str, list[str]] = {name: [] for name in visible}
    for table, key in replica.query(
        "SELECT t.name, h.key_text FROM klal_hidden h JOIN klal_table t USING (tab) ORDER BY 1, 2"
    ):
        hidden[table].append(key)
    return Shown(visible, hidden, violations)


def expected_of(replica: Replica) -> Shown:
    tables = rules_of(replica)
    found = expected(tables, {name: writes_of(replica._store, name) for name in tables})
    return Shown(found.visible, {name: sorted(keys) for name, keys in found.hidden.items()}, found.violations)


def attempt(replica: Replica, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Run statements as one transaction; what SQLite or klal refuses was not to be."""
    try:
        with replica.transaction():
            for sql, values in statements:
                replica.execute(sql, values)
    except KlalError:
        pass


def started(fleet: Fleet) -> None:
    fleet.found("ana", *SCHEMA)
    for name in NAMES[1:]:
        fleet.join(name)
    fleet["ana"].executemany("INSERT INTO ring(id, code, mass) VALUES(?, ?, ?)", [("r1", "A", 1), ("r2", "B", 2)])
    fleet["ana"].execute("INSERT INTO sight VALUES('s1', 'r1', 'A', NULL)")
    fleet.gather()


def check(fleet: Fleet) -> None:
    """See that all say the same, that it is what the oracle says, and that a newcomer comes to it too."""
    fleet.end_epochs()
    want = expected_of(fleet["ana"])
    for replica in fleet.replicas.values():
        assert shown_by(replica) == want, replica.member_name
        assert answers_of(replica)[:3] == answers_of(fleet["ana"])[:3]
        replica.verify()
    fleet.join("eve")
    fleet.gather(["ana", "eve"])
    assert shown_by(fleet["eve"]) == want
    fleet["eve"].verify()


who = st.sampled_from(NAMES)
ring_ids = st.sampled_from(["r1", "r2", "r3", "r4"])
codes = st.sampled_from(["A", "B", "C", None])
tags = st.sampled_from(["x", "X", "y", "\u00e4", "\u00c4", None])
places = st.sampled_from([None, 1, 2])
masses = st.sampled_from([1, 2, 100, 200, None])


def sql(text: str, *values: Any) -> tuple[str, tuple[Any, ...]]:
    return text, values


writes = st.one_of(
    st.builds(
        lambda *v: [sql("INSERT INTO ring(id, code, site, number, tag, mass) VALUES(?,?,?,?,?,?)", *v)],
        ring_ids,
        codes,
        places,
        places,
        tags,
        masses.filter(lambda mass: mass is None or mass < 100),
    ),
    st.builds(lambda k, v: [sql("UPDATE ring SET code = ? WHERE id = ?", v, k)], ring_ids, codes),
    st.builds(lambda k, v: [sql("UPDATE ring SET tag = ? WHERE id = ?", v, k)], ring_ids, tags),
    st.builds(
        lambda k, s, n: [sql("UPDATE ring SET site = ?, number = ? WHERE id = ?", s, n, k)], ring_ids, places, places
    ),
    st.builds(lambda k, v: [sql("UPDATE ring SET mass = ? WHERE id = ?", v, k)], ring_ids, st.sampled_from([1, 2])),
    st.builds(
        lambda k, v: [sql("UPDATE ring SET state = ? WHERE id = ?", v, k)], ring_ids, st.sampled_from(["live", "dead"])
    ),
    st.builds(lambda k: [sql("DELETE FROM ring WHERE id = ?", k)], ring_ids),
    st.builds(
        lambda k, v: [
            sql("DELETE FROM ring WHERE id = ?", k),
            sql("INSERT INTO ring(id, code) VALUES(?, ?)", k, v),
        ],
        ring_ids,
        codes,
    ),
    st.builds(
        lambda a, b: [  # A swap of two values in one transaction.
            sql("UPDATE ring SET code = 'swap' WHERE id = ?", a),
            sql("UPDATE ring SET code = 'A' WHERE id = ?", b),
            sql("UPDATE ring SET code = 'B' WHERE id = ?", a),
        ],
        ring_ids,
        ring_ids,
    ),
    st.builds(lambda k, v: [sql("INSERT OR REPLACE INTO ring(id, code) VALUES(?, ?)", k, v)], ring_ids, codes),
    st.builds(
        lambda k, r, c, p: [sql("INSERT OR REPLACE INTO sight VALUES(?, ?, ?, ?)", k, r, c, p)],
        st.sampled_from(["s1", "s2"]),
        st.sampled_from(["r1", "r2", "r3", None]),
        codes,
        st.sampled_from(["r1", "r4", None]),
    ),
    st.builds(lambda k: [sql("DELETE FROM sight WHERE id = ?", k)], st.sampled_from(["s1", "s2"])),
)
BY_KIND = {
    "write": st.tuples(st.just("write"), who, st.lists(writes, min_size=1, max_size=2)),
    "index": st.tuples(st.just("index"), who, st.sampled_from([LATE, LATE, "DROP INDEX one_live_mass"])),
    "skew": st.tuples(st.just("skew"), who, st.sampled_from([-100_000, 100_000])),
    "meet": st.tuples(st.just("meet"), who, who),
    "finish": st.tuples(st.just("finish"), who),
}
WEIGHED = ("write",) * 10 + ("meet",) * 4 + tuple(BY_KIND)
steps = st.lists(st.sampled_from(WEIGHED).flatmap(BY_KIND.__getitem__), min_size=6, max_size=24)


def run_step(fleet: Fleet, step: tuple[Any, ...]) -> None:
    match step:
        case ("write", name, drawn):
            attempt(fleet[name], *(statement for group in drawn for statement in group))
        case ("index", name, text):
            attempt(fleet[name], (text, ()))
        case ("skew", name, by_ms):
            fleet.skew(name, by_ms)
        case ("meet", a, b):
            if a != b:
                fleet.meet(a, b)
        case ("finish", name):
            store = fleet[name]._store
            if store.writer.epoch <= store.epochs.next_epoch:
                fleet[name].finish(alone=True)


@given(steps)
@settings(max_examples=30)
def test_what_is_shown_hidden_and_listed_is_what_the_set_of_changes_says(drawn: list[tuple[Any, ...]]) -> None:
    """UNQ-1 UNQ-2 VIO-1 S26 S27."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet)
        for step in drawn:
            run_step(fleet, step)
            # At every moment, not only in the end: what is settled wrongly may be put right later.
            if step[0] in ("write", "meet", "index"):
                assert shown_by(fleet[step[1]]) == expected_of(fleet[step[1]])
        check(fleet)


SMALL = {
    "three who take one value": [
        ("ana", [sql("INSERT INTO ring(id, code) VALUES('x', 'C')")]),
        ("ben", [sql("INSERT INTO ring(id, code) VALUES('y', 'C')")]),
        ("cal", [sql("UPDATE ring SET code = 'C' WHERE id = 'r1'")]),
    ],
    "one who takes two values, and two who take one each": [
        ("ana", [sql("INSERT INTO ring(id, code, tag) VALUES('x', 'C', 'q')")]),
        ("ben", [sql("INSERT INTO ring(id, code) VALUES('y', 'C')")]),
        ("cal", [sql("INSERT INTO ring(id, tag) VALUES('z', 'Q')")]),
    ],
    "a swap, and one who takes a value of it": [
        ("ana", [sql("UPDATE ring SET code = 's' WHERE id = 'r1'"), sql("UPDATE ring SET code = 'A' WHERE id = 'r2'")]),
        (
            "ben",
            [sql("UPDATE ring SET code = 'B' WHERE id = 'r1'"), sql("UPDATE ring SET code = 't' WHERE id = 'r2'")][
                ::-1
            ],
        ),
        ("cal", [sql("DELETE FROM ring WHERE id = 'r1'"), sql("INSERT INTO ring(id, code) VALUES('z', 'A')")]),
    ],
    "a survivor, and one who took its value meanwhile": [
        ("ana", [sql("DELETE FROM ring WHERE id = 'r1'"), sql("INSERT INTO ring(id, code) VALUES('x', 'A')")]),
        ("ben", [sql("UPDATE ring SET site = 5 WHERE id = 'r1'")]),
        ("cal", [sql("INSERT INTO ring(id, code, tag) VALUES('z', 'C', 'q')")]),
    ],
    "an index that comes to duplicates": [
        ("ana", [(LATE, ())]),
        ("ben", [sql("INSERT INTO ring(id, mass) VALUES('x', 5)"), sql("INSERT INTO ring(id, mass) VALUES('y', 5)")]),
        ("cal", [sql("INSERT INTO ring(id, mass) VALUES('z', 5)")]),
    ],
}


@pytest.mark.parametrize("name", SMALL)
def test_small_fleets_come_to_it_in_every_order(name: str) -> None:
    """UNQ-1 UNQ-2 S26 S35: each member's work reaches two newcomers in each of all orders."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet)
        for member, statements in SMALL[name]:
            with fleet[member].transaction():
                for text, values in statements:
                    fleet[member].execute(text, values)
        for number, order in enumerate(permutations(NAMES)):
            newcomer = f"eve{number}"
            fleet.join(newcomer)
            for member in order:
                fleet.meet(newcomer, member)
                assert shown_by(fleet[newcomer]) == expected_of(fleet[newcomer]), order
            fleet[newcomer].verify()
        fleet.gather()

        want = expected_of(fleet["ana"])
        assert {repr(shown_by(replica)) for replica in fleet.replicas.values()} == {repr(want)}
        assert want.hidden["ring"]


def test_rows_are_settled_before_a_certificate_is_made_of_them() -> None:
    """UNQ-2 CRT-3: both hear of the other's row and of the last Close at once, and certify the same rows."""
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", "CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT UNIQUE)")
        fleet.join("ben")
        fleet.gather()
        fleet.skew("ana", 100_000)  # Ben's claim is the older one, and ana's row is there first at ana's.
        for name in fleet.names:
            fleet[name].execute("INSERT INTO t VALUES(?, 'x')", (name,))
            fleet[name].finish(alone=True)
        fleet.gather()

        ana, ben = (fleet[name]._store.certificate(0) for name in fleet.names)
        assert ana is not None
        assert ana == ben
        assert fleet["ana"].query("SELECT k FROM t") == [("ben",)]
        for replica in fleet.replicas.values():
            replica.verify()
