"""Inserting many rows at once, without the hook: encoded as they go, 16 rows to a statement.

What SQLite would do to a value on its way into a column is done here first, so that the
payload says what the table holds. A value whose conversion only SQLite knows goes through
an ordinary INSERT with its rows.

Source:
    Decision D3.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from itertools import islice

import apsw

from klal.errors import UsageError
from klal.model.codec import SEGMENT_ROW_COUNT_MAX
from klal.model.payload import encode_segment
from klal.model.schema import PLAIN_TYPES, Value
from klal.store.apply import insert_rows
from klal.store.capture import Row, segment_of_columns
from klal.store.catalog import ColumnInfo, Table
from klal.store.file import translate
from klal.store.local import has_triggers
from klal.store.sql import Connection
from klal.store.writer import Outcome, Writer, paused


def insert_many(
    connection: Connection,
    writer: Writer,
    table: Table,
    rows: Iterable[Sequence[Value] | Mapping[str, Value]],
    columns: Sequence[str] | None,
) -> Outcome:
    """Insert rows into `table` inside the running transaction.

    Raises:
        UsageError: A row of another shape, or one that breaks a constraint; nothing was inserted.
    """
    _check_columns(table, columns)
    connection.execute("SAVEPOINT klal_bulk")
    was_spoiled = writer.capture.is_spoiled
    enabled = gc.isenabled()
    # Millions of short-lived tuples make the collector walk them all, again and again.
    gc.disable()
    total = 0
    try:
        for batch in _batches(writer, table, iter(rows), columns):
            _insert_batch(connection, writer, table, batch)
            total += len(batch)
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO klal_bulk")
            connection.execute("RELEASE klal_bulk")
        # What was captured since is checked against the table when the change is made.
        writer.capture.is_dirty = True
        writer.capture.is_spoiled = was_spoiled
        if isinstance(error, apsw.Error):
            raise translate(error, "the file") from error
        if isinstance(error, UnicodeError):
            raise UsageError(f"a text is not valid Unicode, so it cannot travel: {error}") from error
        if isinstance(error, TypeError | OverflowError):
            raise UsageError(f"a value cannot be stored: {error}") from error
        raise
    finally:
        if enabled:
            gc.enable()
    connection.execute("RELEASE klal_bulk")
    return Outcome(total, (), [])


def _check_columns(table: Table, columns: Sequence[str] | None) -> None:
    names = [name.casefold() for name in columns or ()]
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise UsageError(f"column {twice[0]} of table {table.name} is named twice")


def _insert_batch(connection: Connection, writer: Writer, table: Table, batch: list[Row]) -> None:
    if has_triggers(connection):
        writer.run_many(table.insert_in_order, batch)  # What local triggers write must be seen.
        return
    lists = list(zip(*batch, strict=True))
    if len(table.given) < len(table.columns):
        # What is generated is worked out by SQLite, and the hook then shows it.
        writer.run_many(table.insert_in_order, batch)
        return
    stored = [
        values
        for affinity, given in zip(table.affinities, lists, strict=True)
        if (values := _as_stored(affinity, given)) is not None
    ]
    if len(stored) < len(lists):
        # Some value is converted by rules that are SQLite's own; let it, and see what came out.
        writer.run_many(table.insert_in_order, batch)
        return
    with paused(writer.capture):
        positions = (*table.key_positions, *table.value_positions)
        insert_rows(connection, table, table.values, [stored[p] for p in positions])
    capture = writer.capture.of(table)
    if capture.is_mixed:
        capture.events.extend((None, row) for row in zip(*stored, strict=True))
    else:
        capture.add_spilled(encode_segment(segment_of_columns(table, stored)), len(batch))


def _as_stored(affinity: str, values: Sequence[Value]) -> Sequence[Value] | None:
    """Return a column's values as SQLite would store them, or None if only SQLite knows."""
    kinds = set(map(type, values))
    if bool in kinds:
        values = [int(value) if isinstance(value, bool) else value for value in values]
        kinds = set(map(type, values))
    if float in kinds and any(value != value for value in values):  # noqa: PLR0124 - NaN alone differs from itself
        return None
    if affinity == "REAL" and float in kinds and 0.0 in values:
        # A REAL column keeps integral reals as integers, which have no -0.
        values = [0.0 if value == 0 else value for value in values]
    if kinds <= PLAIN_TYPES[affinity]:
        return values
    if affinity == "REAL" and kinds <= {int, float, bytes, type(None)}:
        return [float(value) if type(value) is int else value for value in values]
    return None


def _batches(
    writer: Writer, table: Table, rows: Iterator[Sequence[Value] | Mapping[str, Value]], columns: Sequence[str] | None
) -> Iterator[list[Row]]:
    """Yield batches of rows in the table's physical column order, defaults filled in, without what is generated."""
    done = 0
    while batch := list(islice(rows, SEGMENT_ROW_COUNT_MAX)):
        yield _shape(writer, table, batch, columns, done)
        done += len(batch)


def _shape(
    writer: Writer,
    table: Table,
    batch: list[Sequence[Value] | Mapping[str, Value]],
    columns: Sequence[str] | None,
    done: int,
) -> list[Row]:
    infos = {info.name.casefold(): info for info in table.given}
    if columns is None and set(map(type, batch)) == {tuple}:
        width = len(table.given)
        if set(map(len, batch)) != {width}:
            number, row = next((number, row) for number, row in enumerate(batch) if len(row) != width)
            raise UsageError(f"row {done + number} has {len(row)} values, table {table.name} has {width} columns")
        return batch  # type: ignore[return-value]
    shaped = []
    for number, row in enumerate(batch):
        if isinstance(row, Mapping):
            named = {str(name).casefold(): value for name, value in row.items()}
            if len(named) != len(row):
                raise UsageError(f"row {done + number} names a column twice")
        elif not _is_in_order(row):
            raise UsageError(f"row {done + number} is a {type(row).__name__}, want a sequence or a mapping")
        else:
            names = [info.name for info in table.given] if columns is None else columns
            if len(row) != len(names):
                raise UsageError(f"row {done + number} has {len(row)} values, want {len(names)}")
            named = {name.casefold(): value for name, value in zip(names, row, strict=True)}
        unknown = sorted(set(named) - set(infos))
        if unknown:
            raise UsageError(f"row {done + number} names column {unknown[0]}, which table {table.name} does not have")
        shaped.append(tuple(_value(info, named, writer) for info in table.given))
    return shaped


def _is_in_order(row: object) -> bool:
    """True for a tuple, a list, an array, a row of another library: not all of these call themselves a sequence."""
    return isinstance(row, Sized) and isinstance(row, Iterable) and not isinstance(row, str | bytes | AbstractSet)


def _value(info: ColumnInfo, named: dict[str, Value], writer: Writer) -> Value:
    name = info.name.casefold()
    if name in named:
        return named[name]
    default = info.column.default
    if default is None:
        return None
    if default.function == "klal_id":
        return writer.new_id()
    if default.function:
        raise UsageError(f"column {info.name} has DEFAULT {default.function}, which insert_many cannot give; name it")
    literal: Value = default.literal
    return literal
