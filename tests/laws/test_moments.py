"""Reading the past: two ways give the same rows, every replica gives the same rows, and now is now."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from klal.errors import UsageError
from klal.moment import Moments
from klal.replica import Replica
from klal.rules.merge import ChangeRef
from klal.store.moments import Past
from tests.helpers.fleet import Fleet, rows_of, scratch
from tests.laws.test_any_order import KEYS, NAMES, run_step, started, steps

MORE = (
    "CREATE TABLE pair(a INTEGER, b TEXT, weight REAL, PRIMARY KEY(a, b)) STRICT",
    "CREATE TABLE cage(id BLOB PRIMARY KEY, note TEXT COLLATE NOCASE) WITHOUT ROWID",
)


def drawn_fleet(fleet: Fleet, drawn: list[tuple[Any, ...]]) -> None:
    """Live through the drawn steps; where it matters, with keys of two columns and of bytes too."""
    started(fleet, *MORE)
    for number, step in enumerate(drawn):
        run_step(fleet, step)
        if step[0] == "write":
            who = fleet[step[1]]
            who.execute(
                "INSERT INTO pair VALUES(?, 'x', 0.5) ON CONFLICT DO UPDATE SET weight = weight + 1", (number % 3,)
            )
            who.execute("INSERT OR REPLACE INTO cage VALUES(?, ?)", (bytes([number % 2]), f"N{number}"))
            if number % 4 == 3:
                who.execute("DELETE FROM pair WHERE a = ?", (number % 3,))


def frontiers(replica: Replica, count: int) -> list[dict[int, int]]:
    """Return about `count` frontiers, spread over changes applied here, each with its past, and pairs of them."""
    history = replica._store.history
    vectors = [
        history.vector(ChangeRef(log.log, seq)) for log in history.logs.values() for seq in range(log.applied_length)
    ]
    pairs = zip(vectors, vectors[len(vectors) // 2 :], strict=False)
    united = [{log: max(a.get(log, 0), b.get(log, 0)) for log in a.keys() | b.keys()} for a, b in pairs]
    found = sorted([*vectors, *united], key=lambda lengths: sum(lengths.values()))
    return found[:: max(1, len(found) // count)]


def rows_at(past: Past, *, replayed: bool) -> dict[str, Any]:
    """Return all rows of all tables as of a frontier, through SQL, by one of the two ways."""
    catalog = past.replayed().catalog if replayed else past.catalog
    found = {}
    for table in catalog.by_id.values():
        columns = sorted(info.name for info in table.columns)
        listed = ", ".join(f'"{column}"' for column in columns)
        order = ", ".join(f'"{info.name}"' for info in table.key)
        columns_found, rows = past.query(f'SELECT {listed} FROM "{table.name}" ORDER BY {order}', ())
        assert columns_found == tuple(columns)
        found[table.name] = [columns_found, *rows]
    return found


@given(steps)
@settings(max_examples=15)
def test_overlay_and_replay_give_the_same_rows_for_every_frontier(drawn: list[tuple[Any, ...]]) -> None:
    """W14 W17."""
    quick = 0
    with scratch() as folder, Fleet(folder) as fleet:
        drawn_fleet(fleet, drawn)
        replica = fleet["ben"]
        for lengths in frontiers(replica, 8):
            one, other = Past(replica.path, lengths), Past(replica.path, lengths)
            try:
                want = rows_at(other, replayed=True)
                for name, rows in want.items():
                    table = one.catalog.by_name.get(name)
                    if table is not None and one.is_plain(table):
                        listed = ", ".join(f'"{column}"' for column in rows[0])
                        order = ", ".join(f'"{info.name}"' for info in table.key)
                        found = one.query(f'SELECT {listed} FROM "{name}" ORDER BY {order}', ())
                        assert [found[0], *found[1]] == rows
                        quick += 1
                assert one._replay is None, "the plain tables take the quick way"
                shown = {table.table_id: table for table in one.catalog.by_id.values() if one.is_plain(table)}
                for table_id, table in shown.items():
                    _, rows = other.everything(table_id)
                    assert one.rows_of(table, one.touched_between(table, {}) | set(rows)) == rows
            finally:
                one.close()
                other.close()
    assert quick


@given(steps)
@settings(max_examples=15)
def test_a_moment_of_now_is_now(drawn: list[tuple[Any, ...]]) -> None:
    """W14."""
    with scratch() as folder, Fleet(folder) as fleet:
        drawn_fleet(fleet, drawn)
        for replica in fleet.replicas.values():
            with replica.at("now") as moment:
                assert rows_of_moment(moment, replica) == rows_of(replica)
            applied = Moments(replica._store).frontier(replica._store.history.applied_lengths())
            with replica.at(applied) as moment:
                assert rows_of_moment(moment, replica) == rows_of(replica)


def rows_of_moment(moment: Any, replica: Replica) -> dict[str, Any]:
    found = {}
    for name in replica.tables():
        columns = sorted(column for column, _ in replica.table_columns(name))
        listed = ", ".join(f'"{column}"' for column in columns)
        order = ", ".join(f'"{column}"' for column in replica.table_key(name))
        found[name] = [tuple(columns), *moment.query(f'SELECT {listed} FROM "{name}" ORDER BY {order}')]
    return found


@given(steps, st.lists(st.integers(0, 400), min_size=3, max_size=3))
@settings(max_examples=12)
def test_a_moment_has_one_root_and_the_same_rows_on_every_replica(
    drawn: list[tuple[Any, ...]], picks: list[int]
) -> None:
    """W1 W14 W17: whoever holds the changes of a moment reads the same in it, whatever else is held."""
    with scratch() as folder, Fleet(folder) as fleet:
        drawn_fleet(fleet, drawn)
        wanted: list[Any] = []
        history = fleet["cal"]._store.history
        entries = fleet["cal"].log()
        wanted += [entries[pick % len(entries)].change for pick in picks]
        stamps = sorted(
            {s.order_stamp for log in history.logs.values() for s in history.lines(log, 0, log.applied_length)}
        )
        fleet.gather()
        wanted += [str(stamps[pick % len(stamps)]) for pick in picks]
        for asked in wanted:
            answers = {answer(fleet[name], asked) for name in NAMES}
            assert len(answers) == 1, (asked, answers)


def answer(replica: Replica, asked: Any) -> tuple[object, ...]:
    """Return all that a moment says, or that it is before the table was made."""
    with replica.at(asked) as moment:
        members = moment.query("SELECT name, member_id FROM klal_members ORDER BY 2")
        conflicts = moment.query(
            'SELECT "table", "key", "column", loser_change, loser_value, winner_value, winner_change'
            " FROM klal_conflicts ORDER BY 1, 2, 3, 4"
        )
        try:
            rows = moment.query("SELECT id, mass, note FROM bird ORDER BY id")
        except UsageError:
            rows = []
        return moment.root, moment.name, tuple(members), tuple(conflicts), tuple(rows)


@given(steps)
@settings(max_examples=12)
def test_the_versions_of_a_row_end_in_the_row_and_what_stands_as_lost_was_lost(drawn: list[tuple[Any, ...]]) -> None:
    """W14."""
    with scratch() as folder, Fleet(folder) as fleet:
        drawn_fleet(fleet, drawn)
        fleet.end_epochs()
        replica = fleet["dan"]
        for key in KEYS:
            rows = replica.query("SELECT * FROM bird WHERE id = ?", (key,))
            versions = replica.history("bird", key)
            assert versions[-1].row == (dict(zip(rows.columns, rows[0], strict=True)) if rows else None)
            standing = {(c.column, c.loser.change) for c in replica.conflicts() if (c.table, c.key) == ("bird", (key,))}
            assert standing <= {(c.column, c.loser.change) for version in versions for c in version.lost}
            assert versions == fleet["ana"].history("bird", key)


@given(steps)
@settings(max_examples=12)
def test_a_diff_names_the_rows_that_differ_and_no_other(drawn: list[tuple[Any, ...]]) -> None:
    """W14."""
    with scratch() as folder, Fleet(folder) as fleet:
        drawn_fleet(fleet, drawn)
        replica = fleet["dan"]
        for lengths in frontiers(replica, 5):
            frontier = Moments(replica._store).frontier(lengths)
            with replica.at(frontier) as then, replica.at("now") as now:
                before, after = keyed(then), keyed(now)
            differing = {each for each in before.keys() | after.keys() if before.get(each) != after.get(each)}
            changes = [each for each in replica.diff(frontier) if each.table in ("bird", "cage")]
            assert {(each.table, each.key[0]) for each in changes} == differing
            for each in changes:
                note = None if each.after is None else each.after["note"]
                assert note == after.get((each.table, each.key[0]), (None,))[0]
            assert [(each.table, each.key) for each in changes] == sorted((each.table, each.key) for each in changes)


def keyed(moment: Any) -> dict[Any, Any]:
    """Return the rows of the tables that are always there, by table and key."""
    found = {}
    for table, columns in (("bird", "note, mass"), ("cage", "note")):
        try:
            rows = moment.query(f"SELECT id, {columns} FROM {table}")
        except UsageError:
            continue  # Before it was made.
        found |= {(table, row[0]): row[1:] for row in rows}
    return found
