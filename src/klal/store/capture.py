"""Seeing what a statement did to rows, and making one net change of a transaction.

The preupdate hook reports every row as it is written: by INSERT, REPLACE, UPSERT or
cascade. It is not undone when a statement fails half-way or a savepoint rolls back, so
after either the touched keys are read back from the table: the first image seen of a
key is always what it was when the transaction began.

Memory stays bounded for the common bulk case: inserts are encoded every 16k rows and
only kept as bytes.

Source:
    Decision D3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import apsw

from klal.errors import UsageError
from klal.model.codec import SALT_SIZE, SEGMENT_ROW_COUNT_MAX
from klal.model.payload import Kind, Segment, decode_segments, encode_insert, encode_segment
from klal.model.schema import Key, Value
from klal.rules.merge import same
from klal.store.catalog import ColumnInfo, Table
from klal.store.sql import Connection

Row = tuple[Value, ...]
_NO_SALT = bytes(SALT_SIZE)


@dataclass(slots=True)
class Net:
    """What a transaction did to one table, key by key.

    Shape:
        inserts: key -> new row. updates: key -> (old row, new row), not the same.
        deletes: key -> old row. Rows are in the table's physical column order.
        burials: keys that are dead already and are to be deleted once more.
        spilled: encoded INSERT segments; only when there is nothing but inserts.
    """

    inserts: dict[Key, Row] = field(default_factory=dict)
    updates: dict[Key, tuple[Row, Row]] = field(default_factory=dict)
    deletes: dict[Key, Row] = field(default_factory=dict)
    burials: list[Key] = field(default_factory=list)
    spilled: list[bytes] = field(default_factory=list)
    spilled_count: int = 0


class TableCapture:
    """What was seen of one table in the running transaction."""

    __slots__ = ("burials", "events", "forced", "inserted", "is_mixed", "spilled", "spilled_count", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        # Counters, sets and texts are looked at one by one before they travel.
        self.is_mixed = bool(table.typed)
        # Cells that travel though they show what they showed, and dead keys to be deleted once more: what settles.
        self.forced: dict[Key, set[int]] = {}
        self.burials: list[Key] = []
        self.inserted: list[Row] = []
        self.spilled: list[bytes] = []
        self.spilled_count = 0
        self.events: list[tuple[Row | None, Row | None]] = []

    def see_other(self, old: Row | None, new: Row | None) -> None:
        if not self.is_mixed:
            self.mix()
        self.events.append((old, new))

    def spill(self, rows: Sequence[Row]) -> None:
        """Keep inserted rows as encoded bytes."""
        self.add_spilled(encode_inserts(self.table, rows), len(rows))

    def add_spilled(self, encoded: bytes, row_count: int) -> None:
        """Keep inserts that are encoded already."""
        self.spilled.append(encoded)
        self.spilled_count += row_count

    def mix(self) -> None:
        """Turn what was kept as inserts back into events, to be folded key by key."""
        self.is_mixed = True
        for encoded in self.spilled:
            for segment in decode_segments(_NO_SALT + encoded):
                self.events.extend((None, row) for row in rows_of_segment(self.table, segment))
        self.events.extend((None, row) for row in self.inserted)
        self.spilled, self.inserted, self.spilled_count = [], [], 0


class Capture:
    """The hook and what it saw; one per writing connection."""

    def __init__(self, connection: Connection, table_of: Callable[[str], Table | None]) -> None:
        self._connection = connection
        self._table_of = table_of
        self._tables: dict[str, TableCapture | None] = {}
        self.is_dirty = False
        self.is_spoiled = False

    def start(self) -> None:
        """Begin to see row writes."""
        self._connection.preupdate_hook(self._see)

    def stop(self) -> None:
        """Stop seeing row writes, for the engine's own."""
        self._connection.preupdate_hook(None)

    def clear(self) -> None:
        """Forget the transaction."""
        self._tables.clear()
        self.is_dirty = False
        self.is_spoiled = False

    @property
    def is_empty(self) -> bool:
        """True when nothing was seen."""
        return not self._tables

    def _see(self, update: apsw.PreUpdate) -> None:
        name = update.table_name
        try:
            seen = self._tables[name]
        except KeyError:
            # klal's own tables and SQLite's are seen too, and are nobody's change.
            table = self._table_of(name) if update.database_name == "main" else None
            seen = self._tables[name] = None if table is None else TableCapture(table)
        if seen is None:
            return
        try:
            if update.opcode == apsw.SQLITE_INSERT and not seen.is_mixed:
                # Written out here, not in a method: this runs once for every row of a bulk INSERT.
                inserted = seen.inserted
                inserted.append(update.new)  # type: ignore[arg-type]
                if len(inserted) >= SEGMENT_ROW_COUNT_MAX:
                    seen.spill(inserted)
                    seen.inserted = []
            else:
                seen.see_other(update.old, update.new)
        except BaseException:
            # The statement fails, and yet SQLite writes this row: it must not be committed.
            self.is_spoiled = True
            raise

    def of(self, table: Table) -> TableCapture:
        """Return the capture of one table, for rows that are written without the hook."""
        name = table.name
        seen = self._tables.get(name)
        if seen is None:
            seen = self._tables[name] = TableCapture(table)
        return seen

    def retable(self, table: Table) -> None:
        """Go on after the table gained a column: earlier images are read back when netted."""
        seen = self._tables.get(table.name)
        if seen is not None:
            if not seen.is_mixed:
                seen.mix()
            seen.table = table
            self.is_dirty = True

    def renew(self) -> None:
        """Go on after a rollback to a savepoint took back tables or columns."""
        for name, seen in list(self._tables.items()):
            table = self._table_of(name)
            if seen is None or table is None or table.table_id != seen.table.table_id:
                del self._tables[name]  # Its rows went with it.
            elif table.columns != seen.table.columns:
                self.retable(table)

    def captures(self) -> list[TableCapture]:
        """Return what was seen, per replicated table, in the order of table ids."""
        seen = [capture for capture in self._tables.values() if capture is not None]
        return sorted(seen, key=lambda capture: capture.table.table_id)

    def only_inserts(self) -> TableCapture | None:
        """Return the one table that was written, if that was by plain inserts alone."""
        if self.is_dirty:
            return None
        only = None
        for capture in self._tables.values():
            if capture is not None:
                if only is not None or capture.is_mixed:
                    return None
                only = capture
        return only

    def net(self) -> Iterator[tuple[Table, Net]]:
        """Yield what the transaction did, per table, in the order of table ids."""
        for capture in self.captures():
            if self.is_dirty and not capture.is_mixed:
                capture.mix()
            net = self._net_mixed(capture) if capture.is_mixed else _net_inserts(capture)
            net.burials = capture.burials
            if net.inserts or net.updates or net.deletes or net.burials or net.spilled:
                yield capture.table, net

    def _net_mixed(self, capture: TableCapture) -> Net:
        table = capture.table
        first: dict[Key, Row | None] = {}
        last: dict[Key, Row | None] = {}
        width = len(table.columns)
        for old, new in capture.events:
            old_key = None if old is None else table.key_of(old)
            new_key = None if new is None else table.key_of(new)
            if old_key is not None:
                first.setdefault(old_key, old)
                last[old_key] = None
            if new_key is not None:
                first.setdefault(new_key, None)
                last[new_key] = new
        if self.is_dirty:
            last = {key: self._read_back(table, key) for key in first}
        net = Net()
        for key, old in first.items():
            new = last[key]
            if old is not None and len(old) > width:
                old = old[:width]  # noqa: PLW2901 - seen while a column stood that was rolled back
            if old is not None and len(old) < width:
                # The row is older than a column added in this same transaction.
                old = (*old, *(_default_of(info) for info in table.columns[len(old) :]))  # noqa: PLW2901
            if old is not None:
                old = _as_stored(table, old)  # noqa: PLW2901
            if old is None and new is not None:
                net.inserts[_checked(table, key)] = new
            elif new is None and old is not None:
                net.deletes[key] = old
            elif old is not None and new is not None and (key in capture.forced or not all(map(same, old, new))):
                net.updates[key] = (old, new)
        return net

    def _read_back(self, table: Table, key: Key) -> Row | None:
        row = self._connection.execute(table.select_row, key).fetchone()
        return None if row is None else tuple(row)


def _as_stored(table: Table, old: Row) -> Row:
    """Return an old image as a query shows it.

    The hook gives the DEFAULT 3.0 of an added column as 3 for rows that are older than the column.
    """
    wrong = [position for position in table.real_positions if type(old[position]) is int]
    if not wrong:
        return old
    row = list(old)
    for position in wrong:
        row[position] = float(row[position])  # type: ignore[arg-type]
    return tuple(row)


def _default_of(info: ColumnInfo) -> Value:
    default = info.column.default
    return None if default is None else default.literal


def _net_inserts(capture: TableCapture) -> Net:
    net = Net(spilled=capture.spilled, spilled_count=capture.spilled_count)
    table = capture.table
    for row in capture.inserted:
        net.inserts[_checked(table, table.key_of(row))] = row
    return net


def _checked(table: Table, key: Key) -> Key:
    """Return the key if it can name a row on every replica.

    Raises:
        UsageError: A NULL, which SQLite lets into keys; a number in a BLOB key.
    """
    for info, value in zip(table.key, key, strict=True):
        if value is None:
            raise UsageError(f"key column {info.name} of table {table.name} is NULL: such a row cannot be told apart")
        if type(value) in (int, float) and "BLOB" in info.column.type:
            raise UsageError(f"key column {info.name} of table {table.name} is a number, want text or bytes")
    return key


def segment_of_rows(table: Table, rows: Sequence[Row]) -> Segment:
    """Return an INSERT segment of rows in physical column order.

    Raises:
        UsageError: A key that cannot name a row.
    """
    return segment_of_columns(table, list(zip(*rows, strict=True)))


def segment_of_columns(table: Table, columns: Sequence[Sequence[Value]]) -> Segment:
    """Return an INSERT segment of columns in physical order.

    Raises:
        UsageError: A key that cannot name a row.
    """
    keys = list(zip(*(columns[position] for position in table.key_positions), strict=True))
    for info, position in zip(table.key, table.key_positions, strict=True):
        if None in columns[position] or "BLOB" in info.column.type:
            for key in keys:
                _checked(table, key)
    values = [columns[position] for position in table.value_positions]
    return Segment(Kind.INSERT, tuple(info.column_id for info in table.values), keys, values)


def encode_inserts(table: Table, rows: Sequence[Row]) -> bytes:
    """Return an encoded INSERT segment; a single row, the commonest change, takes a short way."""
    if len(rows) > 1:
        return encode_segment(segment_of_rows(table, rows))
    row = rows[0]
    key = [row[position] for position in table.key_positions]
    if None in key or table.has_blob_key:
        _checked(table, tuple(key))
    return encode_insert(table.value_ids, key, [row[position] for position in table.value_positions])


def rows_of_segment(table: Table, segment: Segment) -> Iterator[Row]:
    """Yield the rows of an INSERT segment that gives every column, in physical column order."""
    columns: list[Sequence[Value]] = [()] * len(table.columns)
    for position, key_values in zip(table.key_positions, zip(*segment.keys, strict=True), strict=True):
        columns[position] = key_values
    for position, values in zip(table.value_positions, segment.values, strict=True):
        columns[position] = values
    return zip(*columns, strict=True)


def written(table: Table, old: Row, new: Row, forced: Iterable[int] = ()) -> tuple[int, ...]:
    """Return the positions of the columns that an UPDATE writes: those that changed, and in a row table the rest too.

    Counters, sets and texts merge by themselves, so they travel only where they changed.
    """
    positions = {p for p in table.value_positions if not same(old[p], new[p])}.union(forced)
    if table.merge == "row" and not positions <= table.typed.keys():
        positions.update(p for p in table.value_positions if p not in table.typed)
    return tuple(sorted(positions))


def segments_of_updates(
    table: Table, updates: dict[Key, tuple[tuple[int, ...], Sequence[Value]]], life_of: Callable[[Key], int]
) -> list[Segment]:
    """Return UPDATE segments, one per set of written columns, so that no other cell is written.

    Args:
        updates: key -> positions of the written columns, and a row of what travels in them.
    """
    groups: dict[tuple[int, ...], list[Key]] = {}
    for key, (positions, _) in updates.items():
        groups.setdefault(positions, []).append(key)
    segments = []
    for positions in sorted(groups):
        if not positions:
            continue  # Only the spelling of the key changed, which is the same key.
        columns = tuple(table.columns[position].column_id for position in positions)
        for keys in _batches(groups[positions]):
            values = [[updates[key][1][position] for key in keys] for position in positions]
            segments.append(Segment(Kind.UPDATE, columns, keys, values, _lives(keys, life_of)))
    return segments


def segments_of_deletes(table: Table, keys: Iterable[Key], life_of: Callable[[Key], int]) -> list[Segment]:
    """Return DELETE segments, final ones where the table says that a DELETE wins."""
    is_final = table.on_delete == "wins"
    return [
        Segment(Kind.DELETE, (), batch, [], _lives(batch, life_of), is_final=is_final) for batch in _batches(list(keys))
    ]


def segments_of_inserts(table: Table, inserts: dict[Key, Row], life_of: Callable[[Key], int]) -> list[Segment]:
    """Return INSERT segments."""
    segments = []
    for keys in _batches(list(inserts)):
        plain = segment_of_rows(table, [inserts[key] for key in keys])
        segments.append(Segment(plain.kind, plain.columns, plain.keys, plain.values, _lives(keys, life_of)))
    return segments


def _lives(keys: list[Key], life_of: Callable[[Key], int]) -> list[int] | None:
    lives = [life_of(key) for key in keys]
    return None if set(lives) <= {1} else lives


def _batches(keys: list[Key]) -> Iterator[list[Key]]:
    return (keys[i : i + SEGMENT_ROW_COUNT_MAX] for i in range(0, len(keys), SEGMENT_ROW_COUNT_MAX))
