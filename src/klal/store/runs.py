"""Applying many small changes at once: a run of one log whose changes bring no news of others.

Changes that name no past, no other epoch and no other certificate differ in nothing but
what they write, so they share one window. Those that nothing here can conflict with, and
whose keys no other change of the run writes, are written together; each of the others goes
through `Applier.merge_part` in its turn.

Law: a run leaves the file that `Applier.apply` of each change leaves. Where anything does
not fit, `DoesNotFitError` asks for exactly that.

Source:
    Protocol spec section 10. Decision D26.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress

import apsw

from klal.errors import RefusedError
from klal.model.codec import COLUMN_ID_SIZE
from klal.model.header import ACTS_TABLE
from klal.model.payload import Kind, Segment, check_values, decode_row, decode_segments
from klal.model.schema import Key, Value
from klal.rules.merge import ChangeRef
from klal.rules.order import OrderKey, draw_of, order_stamp
from klal.store.apply import Applier, check_columns, insert_rows, sort_key
from klal.store.catalog import Catalog, ColumnInfo, Table
from klal.store.history import STATE_APPLIED, History, Log, Stored
from klal.store.rows import Rows
from klal.store.sql import Connection

RUN_COUNT_MAX = 1 << 15  # About 16 MB in memory, and as many dirty pages as the page cache holds.
_SMALL_SIZE_MAX = 4096  # A larger payload has rows enough to gain nothing from its neighbours.


@dataclass(slots=True)
class _Shape:
    """Rows of one kind over the same columns of one table, of several changes.

    Shape:
        numbers: places in the run of the changes, one per row, like `keys` and `values`.
        table: None where rows of this shape cannot be written blind, whatever they are.
    """

    kind: int
    column_ids: tuple[bytes, ...]
    table: Table | None
    numbers: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    values: list[Sequence[Value]] = field(default_factory=list)


class _Plan:
    """What a run writes: rows by shape, and the changes that need a look of their own."""

    def __init__(self, catalog: Catalog, lines: Sequence[Stored]) -> None:
        self._tables = catalog.by_id
        self._unbuilt = catalog.unbuilt
        self.shapes: dict[tuple[bytes, int, bytes, int], _Shape] = {}
        self.careful: set[int] = set()
        self.writers: dict[bytes, dict[Key, int]] = {}  # table id -> key -> the first change that writes it
        for number, stored in enumerate(lines):
            for table_id, data in _parts(stored):
                row = decode_row(data)
                if row is None:
                    self._add_segments(number, table_id, data)
                else:
                    self._add(number, table_id, *row)

    def _add(self, number: int, table_id: bytes, kind: int, columns: bytes, key: Key, values: Sequence[Value]) -> None:
        name = (table_id, kind, columns, len(key))
        shape = self.shapes.get(name)
        if shape is None:
            shape = self.shapes[name] = self._shape(table_id, kind, columns)
        if shape.table is None:
            self.careful.add(number)
        shape.numbers.append(number)
        shape.keys.append(key)
        shape.values.append(values)
        writers = self.writers.setdefault(table_id, {})
        first = writers.setdefault(key, number)
        if first != number:
            self.careful.add(first)
            self.careful.add(number)

    def _add_segments(self, number: int, table_id: bytes, data: bytes) -> None:
        try:
            segments = list(decode_segments(data))
        except RefusedError:
            self.careful.add(number)
            return
        for segment in segments:
            columns = b"".join(segment.columns)
            if segment.lives is not None or len(set(segment.keys)) < len(segment.keys):
                self.careful.add(number)
            for row, key in enumerate(segment.keys):
                self._add(number, table_id, segment.kind, columns, key, [values[row] for values in segment.values])
        if len(segments) > 1:
            self.careful.add(number)

    def _shape(self, table_id: bytes, kind: int, columns: bytes) -> _Shape:
        ids = tuple(columns[i : i + COLUMN_ID_SIZE] for i in range(0, len(columns), COLUMN_ID_SIZE))
        table = self._tables.get(table_id)
        is_blind = (
            table is not None
            and not table.uniques
            and table.tab not in self._unbuilt
            and len(set(ids)) == len(ids)
            and table.by_id.keys() >= set(ids)
            and (kind == Kind.INSERT or table.merge_columns.merges.keys().isdisjoint(ids))
            and (kind == Kind.INSERT or (kind == Kind.UPDATE and bool(ids)))
        )
        return _Shape(kind, ids, table if is_blind else None)


class DoesNotFitError(Exception):
    """A run holds what only a faulty writer makes: its changes are to be applied one by one.

    The whole transaction is undone for it, and not a savepoint: with one open, SQLite keeps
    the former content of every page that a run touches, which costs more than the run.
    """


class Runs:
    """Applies runs of changes to the tables of one file."""

    def __init__(
        self, connection: Connection, history: History, catalog: Catalog, rows: Rows, applier: Applier
    ) -> None:
        self._connection = connection
        self._history = history
        self._catalog = catalog
        self._rows = rows
        self._applier = applier

    def apply(self, log: Log, epoch_max: int, count_max: int) -> int:
        """Apply the next changes of `log` that bring no news, and return how many that were; often none.

        Args:
            log: A log with held, unapplied changes.
            epoch_max: Changes of a later epoch stay parked (EPO-2).
            count_max: As many at most.

        Raises:
            DoesNotFitError: Some of the run may be written by then: undo the transaction.
        """
        lines = self._lines(log, epoch_max, min(count_max, RUN_COUNT_MAX))
        if len(lines) < 2:
            return 0
        try:
            self._perform(log, lines)
        except (RefusedError, apsw.ConstraintError, apsw.TooBigError, apsw.SQLError) as error:
            raise DoesNotFitError from error
        return len(lines)

    def _lines(self, log: Log, epoch_max: int, count_max: int) -> list[Stored]:
        """Return the next changes whose headers nothing new can be wrong with (EPO-1, EPO-4)."""
        if not log.applied_length:
            return []
        newest = self._history.read(ChangeRef(log.log, log.applied_length - 1))
        before = newest.header
        is_plain = all(part.table_id != ACTS_TABLE for part in before.parts)
        if newest.state != STATE_APPLIED or not is_plain or before.epoch > epoch_max:
            return []
        lines = []
        stop = min(log.payload_length, log.applied_length + count_max)
        for stored in self._history.lines(log, log.applied_length, stop):
            header = stored.header
            if stored.payload is None or len(stored.payload) > _SMALL_SIZE_MAX or header.past:
                break
            if (header.epoch, header.certificate) != (before.epoch, before.certificate):
                break
            if header.parts[0].table_id == ACTS_TABLE:
                break
            lines.append(stored)
        return lines

    def _perform(self, log: Log, lines: Sequence[Stored]) -> None:
        stamps = self._stamps(log, lines)
        vector = dict(self._history.head_vector(log))
        unseen = self._applier.window.unseen(vector)
        unseen.pop(log.log, None)
        plan = _Plan(self._catalog, lines)
        self._look(plan, unseen)
        for shape in plan.shapes.values():
            self._write_blind(shape, plan.careful)
        for number in sorted(plan.careful):
            stored = lines[number]
            header = stored.header
            stored.order_stamp = stamps[number]
            draw = draw_of(self._history.space_id, header.certificate, log.member_id)
            order = OrderKey(stamps[number], draw, self._history.hash_of(stored))
            for table_id, data in _parts(stored):
                self._applier.merge_part(ChangeRef(log.log, header.seq), order, table_id, data, unseen)
        self._history.set_applied([(stamp, stored.lsn) for stamp, stored in zip(stamps, lines, strict=True)])
        log.applied_length += len(lines)
        log.order_stamp = stamps[-1]
        log.vector = {**vector, log.log: log.applied_length}

    def _stamps(self, log: Log, lines: Sequence[Stored]) -> list[int]:
        stamps = []
        stamp = log.order_stamp
        for stored in lines:
            stamp = order_stamp(stored.header.unix_ms, self._applier.not_after_ms, stamp)
            stamps.append(stamp)
        return stamps

    def _look(self, plan: _Plan, unseen: dict[int, tuple[int, int]]) -> None:
        """Find the changes that write a key of which something is remembered, or which the window holds."""
        for table_id, writers in plan.writers.items():
            table = self._catalog.by_id.get(table_id)
            if table is None:
                continue
            met = self._applier.window.touched(unseen, table_id, writers)
            met |= self._rows.keys_with_side(table, writers)
            plan.careful.update(writers[key] for key in met)

    def _write_blind(self, shape: _Shape, careful: set[int]) -> None:
        table = shape.table
        if table is None:
            return
        chosen = [number not in careful for number in shape.numbers]
        keys = list(compress(shape.keys, chosen))
        values = list(compress(shape.values, chosen))
        if not keys:
            return
        cells = list(zip(*values, strict=True))
        segment = Segment.of_keys(Kind(shape.kind), shape.column_ids, keys, cells)
        check_values(segment, len(keys))
        columns = check_columns(table, segment)
        before = self._connection.total_changes()
        self._write(table, columns, segment.kind, keys, values)
        if self._connection.total_changes() - before != len(keys):
            raise DoesNotFitError

    def _write(
        self,
        table: Table,
        columns: tuple[ColumnInfo, ...],
        kind: Kind,
        keys: Sequence[Key],
        values: Sequence[Sequence[Value]],
    ) -> None:
        # Sorted by key: neighbours share pages, of which a run touches many.
        order = _by_key(keys)
        if kind is Kind.INSERT:
            lists = list(zip(*[(*keys[row], *values[row]) for row in order], strict=True))
            insert_rows(self._connection, table, columns, lists)
        else:
            rows = [(*values[row], *keys[row]) for row in order]
            self._connection.executemany(table.update(columns), rows)


def _by_key(keys: Sequence[Key]) -> list[int]:
    """Return the rows in the order in which SQLite sorts their keys."""
    if all(type(value) is str for key in keys for value in key):
        return sorted(range(len(keys)), key=lambda row: keys[row])
    places = [tuple(map(sort_key, key)) for key in keys]
    return sorted(range(len(keys)), key=lambda row: places[row])


def _parts(stored: Stored) -> Sequence[tuple[bytes, bytes]]:
    """Return (table id, bytes) of each part of a change whose payload lies beside its header."""
    payload, parts = stored.payload, stored.header.parts
    assert payload is not None, "large payloads are not applied in runs"
    if len(parts) == 1:
        return ((parts[0].table_id, payload),)
    ends = list(accumulate(part.size for part in parts))
    return [(part.table_id, payload[end - part.size : end]) for part, end in zip(parts, ends, strict=True)]
