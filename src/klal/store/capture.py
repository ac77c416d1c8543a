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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import apsw
import msgspec

from klal.errors import UsageError
from klal.model.codec import SALT_SIZE, SEGMENT_ROW_COUNT_MAX
from klal.model.payload import Kind, Segment, decode_segments, encode_row, encode_segment
from klal.model.schema import Key, Value
from klal.rules.merge import same
from klal.store.catalog import ColumnInfo, Table
from klal.store.sql import Connection

Row = tuple[Value, ...]
_NO_SALT = bytes(SALT_SIZE)
_INSERT, _UPDATE = int(Kind.INSERT), int(Kind.UPDATE)  # Plain numbers: an enum's member costs a look-up each time.
_INSERTED = apsw.SQLITE_INSERT
_LINES = "klal_change"  # The one table of klal's that every commit writes.


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

    def reshape(self, table: Table) -> None:
        """Bring the images seen so far into the shape of the table as it is now."""
        if not self.is_mixed:
            self.mix()
        before = [info.column_id for info in self.table.columns]
        kept = [p for p, column_id in enumerate(before) if any(column_id == info.column_id for info in table.columns)]
        if len(kept) < len(before):
            self.events = [(_picked(old, kept), _picked(new, kept)) for old, new in self.events]
        self.table = table

    def copied(self) -> TableCapture:
        """Return a capture of the same events, that goes on by itself."""
        copy = TableCapture(self.table)
        copy.is_mixed, copy.spilled_count = self.is_mixed, self.spilled_count
        copy.forced = {key: {*positions} for key, positions in self.forced.items()}
        copy.burials = [*self.burials]
        copy.inserted, copy.spilled, copy.events = [*self.inserted], [*self.spilled], [*self.events]
        return copy

    def bury(self, key: Key) -> None:
        """Delete a key once more that is dead already, whatever the hook sees of it."""
        if not self.is_mixed:
            self.mix()
        self.burials.append(key)

    def mix(self) -> None:
        """Turn what was kept as inserts back into events, to be folded key by key."""
        self.is_mixed = True
        for encoded in self.spilled:
            for segment in decode_segments(_NO_SALT + encoded):
                self.events.extend((None, row) for row in rows_of_segment(self.table, segment))
        self.events.extend((None, row) for row in self.inserted)
        self.spilled, self.inserted, self.spilled_count = [], [], 0


def _picked(row: Row | None, positions: Sequence[int]) -> Row | None:
    # An image may be older than a column that was added last: it is only as wide as the table was then.
    return None if row is None else tuple(row[p] for p in positions if p < len(row))


Snapshot = dict[str, TableCapture]


class Capture:
    """The hook and what it saw; one per writing connection."""

    def __init__(self, connection: Connection, table_of: Callable[[str], Table | None]) -> None:
        self._connection = connection
        self._table_of = table_of
        self._tables: dict[str, TableCapture] = {}
        self.is_dirty = False
        self.is_spoiled = False
        self._hook = self._see

    def start(self) -> None:
        """Begin to see row writes."""
        self._connection.preupdate_hook(self._hook)

    def meet_locals(self) -> None:
        """From now on tell rows of local tables, which may bear any name, from the user's replicated ones."""
        if self._hook != self._see_main:
            self._hook = self._see_main
            self.start()

    def _see_main(self, update: apsw.PreUpdate) -> None:
        # Asked only where there are local tables: it costs every row of a bulk INSERT.
        if update.database_name == "main":
            self._see(update)

    @contextmanager
    def only_new_rows(self, table: Table) -> Iterator[Callable[[], None]]:
        """See a statement that does nothing but insert rows of one table, and give what keeps memory bounded.

        For every row of a bulk INSERT the hook is asked, so here it knows beforehand what it would look up.
        """
        seen = self.of(table)
        if seen.is_mixed or self._hook == self._see_main:
            yield lambda: None
            return
        inserted = seen.inserted
        append = inserted.append

        def see(update: apsw.PreUpdate) -> None:
            try:
                if update.opcode != _INSERTED:
                    raise AssertionError("a plain INSERT does nothing but insert")
                append(update.new)  # type: ignore[arg-type]
            except BaseException:
                self.is_spoiled = True
                raise

        def spill() -> None:
            if len(inserted) >= SEGMENT_ROW_COUNT_MAX:
                seen.spill(inserted)
                inserted.clear()

        self._connection.preupdate_hook(see)
        try:
            yield spill
        finally:
            self.start()
            if not (inserted or seen.spilled):
                del self._tables[table.name]  # Nothing was inserted, and nothing is no change.

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
        seen = self._tables.get(name)
        if seen is None:
            # klal's own tables and SQLite's are seen too, and are nobody's change.
            table = None if name == _LINES else self._table_of(name)
            if table is None or update.database_name != "main":
                return
            seen = self._tables[name] = TableCapture(table)
        try:
            if update.opcode == _INSERTED and not seen.is_mixed:
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

    def redeclare(self, by_id: Mapping[bytes, Table]) -> None:
        """Go on after tables were declared anew in the running transaction.

        Renamed ones are known by their new name, dropped ones forgotten with their rows, and where
        columns came or went, the images seen so far are brought into the new shape.
        """
        seen = list(self._tables.values())
        self._tables.clear()
        for capture in seen:
            table = by_id.get(capture.table.table_id)
            if table is not None:
                self._tables[table.name] = capture
                if table.columns != capture.table.columns:
                    capture.reshape(table)
                    self.is_dirty = True
                capture.table = table

    def snapshot(self) -> Snapshot:
        """Return what was seen so far, for a rollback that takes back tables or columns too."""
        return {name: capture.copied() for name, capture in self._tables.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; a key that was first written after it is as it was before the transaction."""
        self._tables = {name: capture.copied() for name, capture in snapshot.items()}

    def forced_counts(self) -> dict[str, tuple[dict[Key, set[int]], int]]:
        """Return what is to be written whatever it shows, per table: the hook does not see it, nor its rollback."""
        return {
            name: ({key: {*places} for key, places in seen.forced.items()}, len(seen.burials))
            for name, seen in self._tables.items()
            if seen.forced or seen.burials
        }

    def restore_forced(self, counts: Mapping[str, tuple[dict[Key, set[int]], int]]) -> None:
        """Go back to what `forced_counts` gave."""
        for name, seen in self._tables.items():
            forced, burial_count = counts.get(name, ({}, 0))
            seen.forced = {key: {*places} for key, places in forced.items()}
            del seen.burials[burial_count:]

    def captures(self) -> list[TableCapture]:
        """Return what was seen, per replicated table, in the order of table ids."""
        return sorted(self._tables.values(), key=lambda capture: capture.table.table_id)

    def only(self) -> TableCapture | None:
        """Return what was seen of the one table that was written; None if it is not the truth or not the only one."""
        if self.is_dirty or len(self._tables) != 1:
            return None
        return next(iter(self._tables.values()))

    def net(self) -> Iterator[tuple[Table, Net]]:
        """Yield what the transaction did, per table, in the order of table ids."""
        for capture in self.captures():
            if self.is_dirty and not capture.is_mixed:
                capture.mix()
            net = self._net_mixed(capture) if capture.is_mixed else _net_inserts(capture)
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
        # A change has one write of a key at most: what was written or deleted since needs no burial.
        net.burials = [
            key for key in dict.fromkeys(capture.burials) if key not in net.inserts and key not in net.deletes
        ]
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
    key_columns = [columns[position] for position in table.key_positions]
    segment = Segment(Kind.INSERT, table.value_ids, key_columns, [columns[p] for p in table.value_positions])
    if table.has_blob_key or any(None in values for values in key_columns):
        for key in segment.keys:
            _checked(table, key)
    return segment


def encode_inserts(table: Table, rows: Sequence[Row]) -> bytes:
    """Return an encoded INSERT segment; a single row, the commonest change, takes a short way."""
    if len(rows) > 1:
        return encode_segment(segment_of_rows(table, rows))
    row = rows[0]
    if None in row or table.has_blob_key:
        _checked(table, table.key_of(row))
    return encode_row(_INSERT, table.value_ids, row, table.key_positions, table.value_positions)


def encode_update(table: Table, old: Row | None, new: Row | None) -> bytes | None:
    """Return the encoded UPDATE segment of one row in its first life; None if that is not what this is.

    Law: what `segments_of_updates` gives for the same row; it only makes fewer objects on the way.
    """
    if old is None or new is None:
        return None
    for position in table.key_positions:
        if not same(old[position], new[position]):
            return None
    old = _as_stored(table, old)
    changed = [position for position in table.value_positions if not same(old[position], new[position])]
    if not changed:
        return None
    columns = [table.columns[position].column_id for position in changed]
    return encode_row(_UPDATE, columns, new, table.key_positions, changed)


def rows_of_segment(table: Table, segment: Segment) -> Iterator[Row]:
    """Yield the rows of an INSERT segment that gives every column, in physical column order."""
    # What is generated is not in a segment, and nobody asks for it here.
    columns: list[Sequence[Value]] = [(None,) * segment.row_count] * len(table.columns)
    for position, key_values in zip(table.key_positions, segment.key_columns, strict=True):
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
            segments.append(Segment.of_keys(Kind.UPDATE, columns, keys, values, _lives(keys, life_of)))
    return segments


def segments_of_deletes(table: Table, keys: Iterable[Key], life_of: Callable[[Key], int]) -> list[Segment]:
    """Return DELETE segments, final ones where the table says that a DELETE wins."""
    is_final = table.on_delete == "wins"
    return [
        Segment.of_keys(Kind.DELETE, (), batch, [], _lives(batch, life_of), is_final=is_final)
        for batch in _batches(list(keys))
    ]


def segments_of_inserts(table: Table, inserts: dict[Key, Row], life_of: Callable[[Key], int]) -> list[Segment]:
    """Return INSERT segments."""
    segments = []
    for keys in _batches(list(inserts)):
        plain = segment_of_rows(table, [inserts[key] for key in keys])
        segments.append(msgspec.structs.replace(plain, lives=_lives(keys, life_of)))
    return segments


def _lives(keys: list[Key], life_of: Callable[[Key], int]) -> list[int] | None:
    lives = [life_of(key) for key in keys]
    return None if set(lives) <= {1} else lives


def _batches(keys: list[Key]) -> Iterator[list[Key]]:
    return (keys[i : i + SEGMENT_ROW_COUNT_MAX] for i in range(0, len(keys), SEGMENT_ROW_COUNT_MAX))
