"""Counters, sets and texts on their way from the user's table into a change.

The user writes what the cell shall show; what travels is what that adds to what it
showed. A set is written back in its one spelling first, so that equal sets are equal text.

Source:
    Protocol spec section 10, rules TYP-1 to TYP-4.
"""

from __future__ import annotations

from collections.abc import Sequence

from klal.errors import ConstraintError, MalformedError
from klal.model.schema import Key, Merge, Value
from klal.rules.cells import canonical_set, set_change, wrapped
from klal.rules.text import Edit, edits_between, encode_edits
from klal.store.capture import Net, Row
from klal.store.catalog import Table
from klal.store.sql import Connection


def settle(connection: Connection, table: Table, net: Net) -> None:
    """Check the counters, sets and texts that were written, and give sets their one spelling, also in the table.

    Raises:
        ConstraintError: A value that is none of its column's type.
    """
    for key, row in net.inserts.items():
        net.inserts[key] = _settled(connection, table, key, row)
    for key, (old, new) in net.updates.items():
        net.updates[key] = (old, _settled(connection, table, key, new))


def _settled(connection: Connection, table: Table, key: Key, row: Row) -> Row:
    settled = list(row)
    for position, merge in table.typed.items():
        settled[position] = checked(table, position, merge, row[position])
    respelled = [position for position in table.typed if settled[position] != row[position]]
    if respelled:
        update = table.update(tuple(table.columns[position] for position in respelled))
        connection.execute(update, (*(settled[position] for position in respelled), *key))
    return tuple(settled)


def checked(table: Table, position: int, merge: Merge, value: Value) -> Value:
    """Return what a counter, set or text holds, a set in its one spelling.

    Raises:
        ConstraintError: It is none.
    """
    name = f"column {table.columns[position].name} of table {table.name}"
    if merge is Merge.SET:
        try:
            return canonical_set(value)
        except MalformedError as error:
            raise ConstraintError(f"{name}: {error.message}") from error
    if merge is Merge.COUNTER and type(value) is not int:
        # SQLite makes a REAL of a sum beyond 64 bits.
        raise ConstraintError(f"{name} is a counter and holds {value!r:.40}, want an integer of 64 bits")
    if merge is Merge.TEXT and type(value) is not str:
        raise ConstraintError(f"{name} is a text and holds {type(value).__name__}, want text")
    return value


def travelling(table: Table, positions: Sequence[int], old: Row, new: Row) -> tuple[Row, dict[int, list[Edit]]]:
    """Return a row with what an UPDATE carries for each column, and the edits of each text among `positions`."""
    row = list(new)
    edits: dict[int, list[Edit]] = {}
    for position in positions:
        match table.typed.get(position):
            case Merge.COUNTER:
                row[position] = _difference(old[position], new[position])
            case Merge.SET:
                row[position] = set_change(old[position], new[position])
            case Merge.TEXT:
                edits[position] = edits_between(str(old[position]), str(new[position]))
                row[position] = encode_edits(edits[position])
            case _:
                pass
    return tuple(row), edits


def _difference(old: Value, new: Value) -> int:
    assert isinstance(old, int), "what a counter held was checked when it was written"
    assert isinstance(new, int), "and so is what it holds"
    return wrapped(new - old)
