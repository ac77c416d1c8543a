"""The schema is a function of the acts that are applied: whoever declares what, in whatever order it is heard of."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from klal.errors import KlalError
from klal.model.acts import (
    AddColumn,
    CreateIndex,
    CreateTable,
    CreateView,
    Drop,
    DropColumn,
    Rename,
)
from klal.model.schema import (
    Column,
    Default,
    ForeignKey,
    IndexDefinition,
    IndexTerm,
    TableDefinition,
    ViewDefinition,
    column_id_of,
)
from klal.model.tokens import Token
from klal.replica import Replica
from klal.rules.schema import Stated, resolve
from tests.helpers.fleet import BIRD, Fleet, answers_of, scratch

NAMES = ("ana", "ben", "cal")
TABLES = ("bird", "nest", "site", "aves")
COLUMNS = ("mass", "note", "ring", "age", "eggs", "bird")
DDL = (
    "CREATE TABLE nest(id TEXT PRIMARY KEY, eggs INT CHECK (eggs < 9), bird TEXT REFERENCES bird(id))",
    "CREATE TABLE nest(id TEXT PRIMARY KEY, eggs INT UNIQUE)",
    "CREATE TABLE site(id TEXT, part INT, note TEXT, bird TEXT REFERENCES nest, PRIMARY KEY(id, part)) WITHOUT ROWID",
    "CREATE TABLE site(id TEXT PRIMARY KEY, note TEXT UNIQUE, long TEXT AS (note || note) STORED) STRICT",
    "CREATE VIEW heavy AS SELECT id, mass FROM bird WHERE mass > 1",
    "CREATE VIEW heavy AS SELECT count(*) FROM bird",
    "CREATE VIEW nested AS SELECT * FROM heavy",
    "DROP VIEW heavy",
    "DROP VIEW nested",
    "CREATE INDEX by_mass ON bird(mass DESC)",
    "CREATE INDEX by_mass ON bird(mass, note COLLATE NOCASE) WHERE mass > 1",
    "CREATE INDEX by_size ON bird(abs(mass))",
    "CREATE INDEX by_path ON bird(json_extract(note, '$.a'))",
    "CREATE UNIQUE INDEX one_note ON bird(note COLLATE NOCASE)",
    "CREATE UNIQUE INDEX one_pair ON bird(note, mass) WHERE mass > 0",
    "DROP INDEX by_mass",
    "DROP INDEX by_path",
    "DROP INDEX one_note",
    "DROP INDEX one_pair",
    *(f"DROP TABLE {name}" for name in TABLES),
)

who = st.sampled_from(NAMES)
tables = st.sampled_from(TABLES)
columns = st.sampled_from(COLUMNS)
keys = st.sampled_from(["k1", "k2", "k3"])
values = st.sampled_from([None, 0, 1, 9, "x", "X", '{"a": 1}', -(2**63)])
ddl = st.one_of(
    st.sampled_from(DDL),
    st.builds("ALTER TABLE {} ADD COLUMN {} {}".format, tables, columns, st.sampled_from(["TEXT", "INT DEFAULT 1"])),
    st.builds("ALTER TABLE {} RENAME TO {}".format, tables, tables),
    st.builds("ALTER TABLE {} RENAME COLUMN {} TO {}".format, tables, columns, columns),
    st.builds("ALTER TABLE {} DROP COLUMN {}".format, tables, columns),
)
BY_KIND = {
    "ddl": st.tuples(st.just("ddl"), who, st.lists(ddl, min_size=1, max_size=3)),
    "insert": st.tuples(st.just("insert"), who, tables, keys, columns, values),
    "update": st.tuples(st.just("update"), who, tables, keys, columns, values),
    "delete": st.tuples(st.just("delete"), who, tables, keys),
    "skew": st.tuples(st.just("skew"), who, st.sampled_from([-100_000, 100_000])),
    "meet": st.tuples(st.just("meet"), who, who, st.sampled_from([None, None, 900, 3_000])),
    "reopen": st.tuples(st.just("reopen"), who),
    "finish": st.tuples(st.just("finish"), who),
}
WEIGHED = ("ddl",) * 8 + ("insert", "update") * 4 + ("meet",) * 4 + tuple(BY_KIND)
steps = st.lists(st.sampled_from(WEIGHED).flatmap(BY_KIND.__getitem__), min_size=8, max_size=30)


def attempt(replica: Replica, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Run statements as one transaction; what is refused, since a table is not there or not so, was not to be."""
    try:
        with replica.transaction():
            for sql, values in statements:
                replica.execute(sql, values)
    except KlalError:
        pass


def run_step(fleet: Fleet, step: tuple[Any, ...]) -> None:
    match step:
        case ("ddl", name, statements):
            attempt(fleet[name], *((sql, ()) for sql in statements))
        case ("insert", name, table, key, column, value):
            attempt(fleet[name], (f"INSERT OR IGNORE INTO {table}(id, {column}) VALUES(?, ?)", (key, value)))
        case ("update", name, table, key, column, value):
            attempt(fleet[name], (f"UPDATE {table} SET {column} = ? WHERE id = ?", (value, key)))
        case ("delete", name, table, key):
            attempt(fleet[name], (f"DELETE FROM {table} WHERE id = ?", (key,)))
        case ("skew", name, by_ms):
            fleet.skew(name, by_ms)
        case ("meet", a, b, limit):
            if a != b:
                fleet.meet(a, b, limit)
        case ("reopen", name):
            fleet.reopen(name)
        case ("finish", name):
            store = fleet[name]._store
            if store.writer.epoch <= store.epochs.next_epoch:
                fleet[name].finish(alone=True)


def everything_of(replica: Replica) -> tuple[object, ...]:
    """Return what replicas that hold the same must say alike, schema and violations among it."""
    objects = replica.query(
        "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2, 3"
    )
    shapes = {name: sorted(replica.table_columns(name)) for name in replica.tables()}
    used = [view for kind, view, _ in objects if kind == "view" and not view.startswith("klal_")]
    seen = {view: sorted(replica.query(f'SELECT * FROM "{view}"'), key=repr) for view in used}
    violations = sorted(replica.query("SELECT * FROM klal_violations"), key=repr)
    return (*answers_of(replica)[:3], objects, shapes, seen, violations)


def started(fleet: Fleet) -> None:
    fleet.found("ana", BIRD)
    for name in NAMES[1:]:
        fleet.join(name)
    fleet["ana"].executemany("INSERT INTO bird VALUES(?, 1, ?)", [("k1", "x"), ("k2", '{"a": 2}')])
    fleet.gather()


def check(fleet: Fleet) -> None:
    fleet.end_epochs()
    want = everything_of(fleet["ana"])
    for name in fleet.names:
        assert everything_of(fleet[name]) == want, name
        fleet[name].verify()
    fleet.join("eve", fleet["ana"].invite())
    fleet.gather(["ana", "eve"])
    assert everything_of(fleet["eve"])[1:] == want[1:]
    fleet["eve"].verify()


@given(steps)
@settings(max_examples=25)
def test_members_apart_who_change_the_schema_come_to_one_schema(drawn: list[tuple[Any, ...]]) -> None:
    """SCH-3 SCH-5 SCH-9 S32 S35 S36."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet)
        for step in drawn:
            run_step(fleet, step)
        check(fleet)


@given(st.lists(ddl, min_size=3, max_size=12), st.lists(st.tuples(tables, keys, columns, values), max_size=12))
@settings(max_examples=12)
def test_who_stayed_on_the_old_schema_for_long_still_meets(statements: list[str], written: list[Any]) -> None:
    """S45: nothing that was written under the old schema is lost without a line that says so."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet)
        for sql in statements:
            attempt(fleet["ana"], (sql, ()))
            fleet.meet("ana", "ben")
        for table, key, column, value in written:
            run_step(fleet, ("insert", "cal", table, key, column, value))
            run_step(fleet, ("update", "cal", "bird", key, "note", value))
        check(fleet)


# -- the pure function --------------------------------------------------------------------

_KEY = Column("id", "TEXT")
_DEFINITIONS = [
    TableDefinition("t", (_KEY, Column("a", "INT"), Column("b", "TEXT")), ("id",), uniques=(("a",),)),
    TableDefinition("T", (_KEY, Column("a", "INT")), ("id",)),
    TableDefinition("u", (_KEY, Column("a", "INT")), ("id",), strict=True),
]
_PARENT = _DEFINITIONS[0].table_id
_DEFINITIONS.append(
    TableDefinition("v", (_KEY, Column("a", "INT")), ("id",), foreign_keys=(ForeignKey(("a",), _PARENT, ("a",)),))
)
_ADDED = [Column("c", "INT"), Column("c", "", default=Default(1)), Column("c", "", default=Default(1.0)), _KEY]
_IDS = [definition.table_id for definition in _DEFINITIONS]
_COLUMN_IDS = [column_id_of(_PARENT, column) for column in (*_DEFINITIONS[0].columns, *_ADDED)]
_INDEXES = [
    IndexDefinition(name, _PARENT, (IndexTerm((Token("c", column_id),)),), is_unique)
    for name in ("i", "t")
    for column_id in _COLUMN_IDS[1:4]
    for is_unique in (True, False)
]
_VIEWS = [ViewDefinition(name, (), (Token("w", "SELECT"), Token("v", 1))) for name in ("t", "i", "w")]
acts = st.one_of(
    st.sampled_from([CreateTable(definition) for definition in _DEFINITIONS]),
    st.builds(AddColumn, st.sampled_from(_IDS), st.sampled_from(_ADDED)),
    st.sampled_from([CreateIndex(index) for index in _INDEXES]),
    st.sampled_from([CreateView(view) for view in _VIEWS]),
    st.builds(
        Rename,
        st.sampled_from(_IDS),
        st.sampled_from([b"", *_COLUMN_IDS]),
        st.sampled_from(["t", "u", "a", "C"]),
        st.integers(1, 2),
    ),
    st.builds(DropColumn, st.sampled_from(_IDS), st.sampled_from(_COLUMN_IDS)),
    st.builds(Drop, st.sampled_from([*_IDS, *(index.object_id for index in _INDEXES), _VIEWS[0].object_id])),
)
stated = st.lists(st.builds(Stated, st.binary(min_size=1, max_size=1), acts), max_size=14)


@given(stated, st.data())
@settings(max_examples=150)
def test_any_permutation_and_repetition_of_acts_gives_the_same_schema(drawn: list[Stated], data: st.DataObject) -> None:
    """SCH-1 SCH-3."""
    again = data.draw(st.permutations([*drawn, *data.draw(st.lists(st.sampled_from(drawn or [None]), max_size=3))]))
    again = [each for each in again if each is not None]
    schema = resolve(drawn)

    assert repr(resolve(again)) == repr(schema)
    assert repr(resolve(schema.stated)) == repr(schema)


@given(stated)
@settings(max_examples=150)
def test_no_two_things_bear_one_name_and_no_index_is_over_what_is_gone(drawn: list[Stated]) -> None:
    """SCH-3."""
    schema = resolve(drawn)
    tables = [table.name for table in schema.tables.values()]
    others = [name for name, _ in (*schema.indexes.values(), *schema.views.values())]

    assert len({name.lower() for name in (*tables, *others)}) == len(tables) + len(others)
    for table in schema.tables.values():
        assert len({state.name.lower() for state in table.columns.values()}) == len(table.columns)
        assert {state.column.name for state in table.columns.values()} >= set(table.definition.key)
    for _, index in schema.indexes.values():
        assert index.column_ids <= schema.tables[index.table_id].columns.keys()
