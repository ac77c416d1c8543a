"""Settling a conflict: one write that has seen both sides, made even where it changes nothing that shows.

Source:
    Protocol spec section 10, rules MRG-5 and MRG-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from klal.errors import UsageError
from klal.model.codec import tagged_hash
from klal.model.schema import Key, Value, key_text
from klal.rules.merge import ChangeRef
from klal.store.catalog import Table
from klal.store.rows import decode_key, encode_key
from klal.store.store import Store
from klal.store.writer import Outcome

_ID_SIZE = 8


class Line(NamedTuple):
    """One line of klal_conflict, with its table and the id that names it on every replica."""

    conflict_id: str
    table: Table
    key: Key
    column_id: bytes
    loser: ChangeRef
    value: Value
    winner: ChangeRef | None
    winner_value: Value


@dataclass(frozen=True, slots=True)
class Choice:
    """How to settle: with a value, by keeping what stands, or by deleting the row.

    Shape:
        verb: "value", "keep" or "delete". value: of a hidden row it may be values by column.
    """

    verb: str
    value: Value | Mapping[str, Value] = None


def conflict_id_of(table: Table, key: Key, column_id: bytes, log_id: bytes, seq: int) -> str:
    """Return what names a conflict on every replica; column_id is empty for a lost DELETE."""
    # The key comes last: it is the only part whose size varies.
    place = (table.table_id, column_id.rjust(8, b"\0"), log_id, seq.to_bytes(8, "big"), encode_key(key))
    return tagged_hash("klal/conflict/1", *place)[:_ID_SIZE].hex()


def hidden_id_of(table: Table, key: Key) -> str:
    """Return what names a row that UNIQUE hides, on every replica."""
    return tagged_hash("klal/hidden/1", table.table_id, encode_key(key))[:_ID_SIZE].hex()


def lines(store: Store) -> list[Line]:
    """Return every conflict entry."""
    tables = {table.tab: table for table in store.catalog.by_id.values()}
    found = []
    for tab, key, column_id, log, seq, value, winner_log, winner_seq, winner_value in store.connection.execute(
        "SELECT tab, key, column_id, log, seq, value, winner_log, winner_seq, winner_value FROM klal_conflict"
    ).fetchall():
        table = tables[tab]
        winner = None if winner_log is None else ChangeRef(winner_log, winner_seq)
        conflict_id = conflict_id_of(table, decode_key(key), column_id, store.history.name_of(ChangeRef(log, seq)), seq)
        found.append(
            Line(conflict_id, table, decode_key(key), column_id, ChangeRef(log, seq), value, winner, winner_value)
        )
    return found


def settle_conflict(store: Store, conflict_id: str, choice: Choice) -> Outcome:
    """Settle one conflict inside the running transaction.

    Raises:
        UsageError: There is no such conflict, or it cannot be settled so.
    """
    line = next((line for line in lines(store) if line.conflict_id == conflict_id), None)
    if line is None:
        return _settle_hidden(store, conflict_id, choice)
    if isinstance(choice.value, Mapping):
        raise UsageError("a conflict is about one cell: want its value")
    table, key = line.table, line.key
    info = table.by_id.get(line.column_id)
    row = store.rows.load(table, key)
    if key in store.rows.hidden(table):
        raise UsageError(
            f"the row {key_text(key)} of table {table.name} is hidden",
            hint=f"settle that first: it is {hidden_id_of(table, key)} in klal_violations",
        )
    capture = store.writer.capture.of(table)
    if choice.verb == "value" and info is None:
        raise UsageError("what lost is a DELETE, which has no value", hint="keep the row, or delete it")
    if not row.is_alive and choice.verb != "value":
        capture.bury(key)
        return Outcome(0, (), [])
    if not row.is_alive:
        cells = {**(row.cells or {}), line.column_id: choice.value}
        columns = tuple(column for column in table.values if column.column_id in cells)
        return _run(store, table.insert(columns, 1), (*key, *(cells[column.column_id] for column in columns)))
    if choice.verb == "delete":
        return _run(store, table.delete, key)
    if info is None:
        if not table.values:
            raise UsageError(
                f"table {table.name} has no column to write", hint="delete the row, and insert it anew afterwards"
            )
        info = table.values[0]
    cells = dict(row.cells or {})
    value = choice.value if choice.verb == "value" else cells[info.column_id]
    capture.forced.setdefault(key, set()).add(table.columns.index(info))
    return _run(store, table.update((info,)), (value, *key))


def _settle_hidden(store: Store, hidden_id: str, choice: Choice) -> Outcome:
    """Give a row that UNIQUE hides another value, or delete it.

    Raises:
        UsageError: There is no such row, or it cannot be settled so.
    """
    tables = [table for table in store.catalog.by_id.values() if store.rows.has_hidden(table)]
    found = [(t, key) for t in tables for key in store.rows.hidden(t) if hidden_id_of(t, key) == hidden_id]
    if not found:
        raise UsageError(f"there is no conflict or hidden row {hidden_id!r:.40} here, or it is settled")
    table, key = found[0]
    unique = [info for info in table.values if info.column_id in table.unique_ids]
    if choice.verb == "keep":
        raise UsageError("a hidden row waits for a value that another row shows: give it another, or delete it")
    if isinstance(choice.value, Mapping):
        values = dict(choice.value)
    elif choice.verb == "value" and len(unique) != 1:
        raise UsageError(f"UNIQUE depends on {', '.join(info.name for info in unique)}: want values by column")
    else:
        values = {unique[0].name: choice.value} if unique else {}
    by_name = {info.name: info for info in table.values}
    if not by_name.keys() >= values.keys():
        raise UsageError(f"table {table.name} has no column {min(values.keys() - by_name.keys())} to write")
    with store.writer.engine_writes():
        store.writer.uniques.make_room(table, key)
    if choice.verb == "delete":
        return _run(store, table.delete, key)
    return _run(store, table.update(tuple(by_name[name] for name in values)), (*values.values(), *key))


def _run(store: Store, sql: str, values: tuple[Value, ...]) -> Outcome:
    row_count, *_ = store.writer.run_quietly(sql, values)
    return Outcome(row_count, (), [])
