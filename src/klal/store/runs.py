"""Applying many small changes at once: a run of one log whose changes bring no news of others.

Changes that name no past, no other epoch and no other certificate differ in nothing but
what they write, so they share one window. Their rows are sorted by table and key. Those that
nothing here can conflict with, and whose keys no other change of the run writes, are written
together. The others are merged together too: first the first write of each key, then the second.
What depends on more than its key, as under UNIQUE, goes through `Applier.merge_part` in its turn.

Law: a run leaves the file that `Applier.apply` of each change leaves. Where anything does
not fit, `DoesNotFitError` asks for exactly that.

Source:
    Protocol spec section 10. Decision D26.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from typing import Any, NamedTuple

import apsw

from klal.errors import RefusedError
from klal.model.codec import COLUMN_ID_SIZE
from klal.model.header import ACTS_TABLE
from klal.model.payload import Kind, Segment, check_values, decode_row, decode_segments
from klal.model.schema import Key, Value
from klal.rules.merge import ChangeRef, Write
from klal.rules.order import OrderKey, draw_of, order_stamp
from klal.store.apply import Applier, check_columns, insert_rows, sort_key
from klal.store.catalog import Catalog, ColumnInfo, Table
from klal.store.history import STATE_APPLIED, History, Log, Stored
from klal.store.rows import Rows
from klal.store.sql import Connection
from klal.store.window import Unseen

RUN_COUNT_MAX = 1 << 15  # About 16 MB in memory, and as many dirty pages as the page cache holds.
_SMALL_SIZE_MAX = 4096  # A larger payload has rows enough to gain nothing from its neighbours.


class _Row(NamedTuple):
    """One row write: which change of the run makes it, and how many of the run wrote its key before."""

    number: int
    turn: int
    key: Key
    values: Sequence[Value]
    life: int


@dataclass(slots=True)
class _Shape:
    """Rows of one kind over the same columns of one table, of several changes."""

    kind: int
    column_ids: tuple[bytes, ...]
    is_final: bool
    rows: list[_Row] = field(default_factory=list)


class _TablePlan:
    """What a run writes to one table: rows by shape, in the order of the changes."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, bytes]] = []  # (which change, its bytes)
        self.shapes: dict[tuple[int, bytes, int, bool], _Shape] = {}
        self.turns: dict[Key, int] = {}  # key -> how many changes of the run write it

    def read(self) -> None:
        """Sort the rows of all parts.

        Raises:
            DoesNotFitError: A part cannot be read, or writes a key twice.
        """
        for number, data in self.parts:
            row = decode_row(data)
            if row is None:
                self._add_segments(number, data)
            else:
                self._add(number, *row)

    def _add(
        self,
        number: int,
        kind: int,
        columns: bytes,
        key: Key,
        values: Sequence[Value],
        life: int = 1,
        *,
        is_final: bool = False,
    ) -> None:
        name = (kind, columns, len(key), is_final)
        shape = self.shapes.get(name)
        if shape is None:
            ids = tuple(columns[i : i + COLUMN_ID_SIZE] for i in range(0, len(columns), COLUMN_ID_SIZE))
            shape = self.shapes[name] = _Shape(kind, ids, is_final)
        turn = self.turns.get(key, 0)
        self.turns[key] = turn + 1
        shape.rows.append(_Row(number, turn, key, values, life))

    def _add_segments(self, number: int, data: bytes) -> None:
        for segment in decode_segments(data):
            if len(set(segment.keys)) < segment.row_count:
                raise DoesNotFitError
            columns = b"".join(segment.columns)
            rows = zip(*segment.values, strict=True) if segment.columns else repeat((), segment.row_count)
            for row, (key, values) in enumerate(zip(segment.keys, rows, strict=True)):
                self._add(number, segment.kind, columns, key, values, segment.life(row), is_final=segment.is_final)

    def fits(self, table: Table) -> bool:
        """True when every shape writes columns that the table has, each once, and does something."""
        return all(
            len(set(shape.column_ids)) == len(shape.column_ids)
            and table.by_id.keys() >= set(shape.column_ids)
            and (shape.kind != Kind.UPDATE or bool(shape.column_ids))
            for shape in self.shapes.values()
        )


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
        if log.payload_length - log.applied_length < 2:
            return 0
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
        is_questioned = log.member_id in self._applier.questioned
        if log.applied_length == log.start or self._is_below_base(log) or is_questioned:
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

    def _is_below_base(self, log: Log) -> bool:
        """True when a log has not seen all of what was compacted: its changes may have to wait, one by one (CMP-5)."""
        seen = self._history.head_vector(log)
        return any(seen.get(index, 0) < length for index, length in self._history.floor.items())

    def _perform(self, log: Log, lines: Sequence[Stored]) -> None:
        stamps = self._stamps(log, lines)
        vector = dict(self._history.head_vector(log))
        unseen = self._applier.window.unseen(vector)
        for table_id, plan in _plans(lines).items():
            table = self._catalog.by_id.get(table_id)
            if table is not None and self._is_plain(table):
                plan.read()
                if plan.fits(table):
                    self._merge(log, lines, stamps, table, plan, unseen)
                    continue
            for number, data in plan.parts:
                order = self._order(log, lines[number], stamps[number])
                ref = ChangeRef(log.log, lines[number].header.seq)
                self._applier.merge_part(ref, order, table_id, data, unseen)
        self._history.set_applied([(stamp, stored.lsn) for stamp, stored in zip(stamps, lines, strict=True)])
        log.applied_length += len(lines)
        self._applier.window.grew(log)
        log.order_stamp = stamps[-1]
        log.vector = {**vector, log.log: log.applied_length}

    def _stamps(self, log: Log, lines: Sequence[Stored]) -> list[int]:
        stamps = []
        stamp = log.order_stamp
        for stored in lines:
            stamp = order_stamp(stored.header.unix_ms, self._applier.not_after_ms, stamp)
            stamps.append(stamp)
        return stamps

    def _order(self, log: Log, stored: Stored, stamp: int) -> OrderKey:
        draw = draw_of(self._history.space_id, stored.header.certificate, log.member_id)
        return OrderKey(stamp, draw, self._history.hash_of(stored))

    def _is_plain(self, table: Table) -> bool:
        """True where rows depend on their own key alone: nothing is hidden by UNIQUE, no index is waited for."""
        return not (table.uniques or table.tab in self._catalog.unbuilt or self._rows.has_hidden(table))

    def _merge(
        self,
        log: Log,
        lines: Sequence[Stored],
        stamps: Sequence[int],
        table: Table,
        plan: _TablePlan,
        unseen: Unseen,
    ) -> None:
        """Write the rows blind whose keys nothing can meet, and merge the others, those of different keys together."""
        met = self._applier.window.touched(unseen, table.table_id, plan.turns)
        met |= self._rows.keys_with_side(table, plan.turns)
        met.update(key for key, count in plan.turns.items() if count > 1)
        merged: dict[int, list[tuple[Key, Write]]] = {}
        for shape in plan.shapes.values():
            columns = _checked(table, shape)
            # A DELETE keeps an image, and a sum adds to what is there, so each row is read anyway.
            is_blind = shape.kind == Kind.INSERT or (
                shape.kind == Kind.UPDATE and table.merge_columns.merges.keys().isdisjoint(shape.column_ids)
            )
            blind: list[_Row] = []
            for row in shape.rows:
                if is_blind and row.life == 1 and row.key not in met:
                    blind.append(row)
                    continue
                stored = lines[row.number]
                write = Write(
                    ChangeRef(log.log, stored.header.seq),
                    self._order(log, stored, stamps[row.number]),
                    Kind(shape.kind),
                    row.life,
                    dict(zip(shape.column_ids, row.values, strict=True)),
                    shape.is_final,
                    log.log_id,
                )
                merged.setdefault(row.turn, []).append((row.key, write))
            self._write_blind(table, Kind(shape.kind), columns, blind)
        for _, writes in sorted(merged.items()):
            place = _placing(key for key, _ in writes)
            writes.sort(key=lambda write: place(write[0]))
            self._applier.merge_rows(table, writes, unseen)

    def _write_blind(self, table: Table, kind: Kind, columns: tuple[ColumnInfo, ...], rows: list[_Row]) -> None:
        if not rows:
            return
        # Sorted by key: neighbours share pages, of which a run touches many.
        place = _placing(row.key for row in rows)
        rows.sort(key=lambda row: place(row.key))
        before = self._connection.total_changes()
        if kind is Kind.INSERT:
            lists = list(zip(*[(*row.key, *row.values) for row in rows], strict=True))
            insert_rows(self._connection, table, columns, lists)
        else:
            self._connection.executemany(table.update(columns), [(*row.values, *row.key) for row in rows])
        if self._connection.total_changes() - before != len(rows):
            raise DoesNotFitError


def _plans(lines: Sequence[Stored]) -> dict[bytes, _TablePlan]:
    """Return what a run writes, by table."""
    plans: dict[bytes, _TablePlan] = {}
    for number, stored in enumerate(lines):
        for table_id, data in _parts(stored):
            plans.setdefault(table_id, _TablePlan()).parts.append((number, data))
    return plans


def _checked(table: Table, shape: _Shape) -> tuple[ColumnInfo, ...]:
    """Return the columns that a shape writes, all of its rows' values checked together.

    Raises:
        RefusedError: PAY-5, APP-3, APP-4.
    """
    keys = [row.key for row in shape.rows]
    values = list(zip(*[row.values for row in shape.rows], strict=True))
    segment = Segment.of_keys(Kind(shape.kind), shape.column_ids, keys, values, is_final=shape.is_final)
    check_values(segment, len(keys))
    return check_columns(table, segment)


def _placing(keys: Iterable[Key]) -> Callable[[Key], tuple[Any, ...]]:
    """Return what gives each of `keys` the place where SQLite sorts it; texts alone sort as they are."""
    if all(type(value) is str for key in keys for value in key):
        return tuple
    return lambda key: tuple(map(sort_key, key))


def _parts(stored: Stored) -> Sequence[tuple[bytes, bytes]]:
    """Return (table id, bytes) of each part of a change whose payload lies beside its header."""
    payload, parts = stored.payload, stored.header.parts
    assert payload is not None, "large payloads are not applied in runs"
    if len(parts) == 1:
        return ((parts[0].table_id, payload),)
    ends = list(accumulate(part.size for part in parts))
    return [(part.table_id, payload[end - part.size : end]) for part, end in zip(parts, ends, strict=True)]
