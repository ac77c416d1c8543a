"""Applying what others wrote: judge a change by its past, then merge its rows.

A change is applied when all of its past is. A change that breaks a rule which only its
past can show (an unreadable payload, a wrong epoch, a wrong certificate) is applied
*without effect*: it stays in history, its successors go on, and the verdict is the same
on every replica because it depends on nothing but the change and its past (T9).

Source:
    Protocol spec sections 10 and 13, rules APP-1 to APP-4, EPO-1, EPO-4. Decision D10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apsw
import msgspec

from klal.errors import MalformedError, MembershipError, RefusedError
from klal.model.acts import Act, Certify, Close, Drop, DropColumn, Genesis, Join, SchemaAct, decode_acts
from klal.model.codec import UNIX_MS_MAX
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header
from klal.model.payload import Kind, Segment, decode_segments
from klal.model.schema import PLAIN_TYPES, Key, Value, is_as_stored
from klal.rules.cells import check_cells
from klal.rules.closing import Cut
from klal.rules.merge import ChangeRef, Sees, Write, merge_write
from klal.rules.order import OrderKey, draw_of, order_bytes, order_stamp
from klal.store.base import PutDownError
from klal.store.catalog import Catalog, ColumnInfo, Table
from klal.store.history import STATE_APPLIED, STATE_DROPPED, STATE_VOID, History, Log, Stored
from klal.store.lost import Lost
from klal.store.rows import Rows
from klal.store.sql import Connection
from klal.store.window import Unseen, Window

_ROWS_PER_INSERT = 16  # More per statement gains nothing; plain multi-row INSERT without OR FAIL loses.
_STRICT_TYPES: dict[str, tuple[type, ...]] = {
    "INT": (int,),
    "INTEGER": (int,),
    "REAL": (float, int),
    "TEXT": (str,),
    "BLOB": (bytes,),
}


@dataclass(frozen=True, slots=True)
class Closed:
    """An epoch whose certificate is known here: its hash, its cut, and the size of all payloads up to it."""

    certificate_hash: bytes
    cut: Cut
    payload_size: int


class Applier:
    """Applies held changes to the tables of one file."""

    def __init__(self, connection: Connection, history: History, catalog: Catalog, rows: Rows) -> None:
        self._connection = connection
        self._history = history
        self._catalog = catalog
        self._rows = rows
        self.window = Window(history)
        self.lost = Lost(connection, history, catalog)
        self.closed: list[Closed] = []
        self.certificate_in: Callable[[Mapping[int, int]], bytes] = lambda _vector: NO_CERTIFICATE
        self.not_after_ms = UNIX_MS_MAX
        self.questioned: Mapping[bytes, Mapping[int, int]] = {}
        """Members whose changes wait for another's word: member id -> log -> the prefix that does not (MEM-9)."""
        self.unmade: Mapping[int, int] = {}
        """What a certificate is to be made from that cannot be, since payloads of it were put down (CMP-11)."""
        self._vouched: dict[int, int] = {}
        self.vouched_count = 0

    def apply(self, log: Log, epoch_max: int) -> tuple[Act, ...] | None:
        """Apply the next change of `log`, if its past and its epoch allow.

        Args:
            log: A log with a held, unapplied change whose payload is here.
            epoch_max: Changes of a later epoch stay parked (EPO-2).
        """
        ref = ChangeRef(log.log, log.applied_length)
        stored = self._history.read(ref)
        header = stored.header
        if header.epoch > epoch_max or self.is_questioned(log):
            return None
        if self.questioned:
            self._vouch(header)
        past = self._applied_past(ref, header)
        if past is None:
            return None
        rose = self._history.risen(log, past)
        vector = {**self._history.head_vector(log), **rose}
        if self._history.floor and self._lacks(log, stored, vector):
            return None  # What it must be compared with was put down, and is wanted again (CMP-5).
        try:
            fault = self._fault(self._newest(ref), header, past, vector)
        except PutDownError:
            return None  # So was what it is judged by (CMP-11).
        stamp = self._stamp(ref, header, past)
        acts: tuple[Act, ...] = ()
        state = STATE_VOID
        if fault is None:
            stored.order_stamp = stamp
            order = OrderKey(
                stamp,
                draw_of(self._history.space_id, header.certificate, log.member_id),
                self._history.hash_of(stored),
            )
            # The past is recorded before the rows: the merge asks what this change saw.
            vector[log.log] = ref.seq + 1
            self._history.record_past(ref, rose)
            acts, state = self._perform(ref, stored, order, vector)
        else:
            vector[log.log] = ref.seq + 1
            self._history.record_past(ref, rose)
        log.vector = vector
        log.applied_length += 1
        self.window.grew(log)
        log.order_stamp = stamp
        self._history.set_state(stored.lsn, state, stamp)
        return acts

    def pass_over(self, log: Log) -> bool:
        """Take the next change of `log` as applied whose effect the tables show already; False while its past is not.

        Its state is kept, and all that follows from its header is worked out as when it is applied.
        """
        ref = ChangeRef(log.log, log.applied_length)
        stored = self._history.read(ref)
        past = self._applied_past(ref, stored.header)
        if past is None:
            return False
        rose = self._history.risen(log, past)
        vector = {**self._history.head_vector(log), **rose}
        stamp = self._stamp(ref, stored.header, past)
        acts = self._history.part(stored, ACTS_TABLE) if ref.seq == 0 and stored.state != STATE_VOID else None
        for act in () if acts is None else decode_acts(acts):
            if isinstance(act, Genesis):
                self.not_after_ms = act.policy.not_after_ms
        vector[log.log] = ref.seq + 1
        self._history.record_past(ref, rose)
        log.vector = vector
        log.applied_length += 1
        self.window.grew(log)
        log.order_stamp = stamp
        self._history.set_state(stored.lsn, stored.state, stamp)
        return True

    def _applied_past(self, ref: ChangeRef, header: Header) -> list[ChangeRef] | None:
        """Return what a header names of its past, or None where some of it is not applied here."""
        below = self._history.before(ref)
        if below is not None and self._history.logs[below.log].applied_length <= below.seq:
            return None  # A branch waits for what it goes on from.
        past = []
        for hashed in header.past:
            dependency = self._history.find(hashed)
            if dependency is None or self._history.logs[dependency.log].applied_length <= dependency.seq:
                return None
            past.append(dependency)
        return past

    def wanted(self, epoch_max: int) -> dict[int, list[int]]:
        """Return the payloads that compaction put down and a parked change waits for: log -> seqs (CMP-5)."""
        found: dict[int, set[int]] = {}
        if self._history.floor:
            self._want(self.unmade, found)
        for log in self._history.logs.values() if self._history.floor else ():
            if log.applied_length >= log.payload_length:
                continue
            ref = ChangeRef(log.log, log.applied_length)
            stored = self._history.read(ref)
            past = self._applied_past(ref, stored.header)
            if past is None or stored.header.epoch > epoch_max:
                continue
            vector = {**self._history.head_vector(log), **self._history.risen(log, past)}
            for lacking in self._lacks(log, stored, vector):
                found.setdefault(lacking.log, set()).add(lacking.seq)
            try:
                self._fault(self._newest(ref), stored.header, past, vector)
            except PutDownError as error:
                self._want(error.lengths, found)
        return {index: sorted(seqs) for index, seqs in found.items()}

    def _want(self, lengths: Mapping[int, int], found: dict[int, set[int]]) -> None:
        """Add whatever of these prefixes was put down."""
        for index, length in lengths.items():
            dropped = [seq for seq in self._history.dropped(self._history.logs[index]) if seq < length]
            if dropped:
                found.setdefault(index, set()).update(dropped)

    def _lacks(self, log: Log, stored: Stored, vector: dict[int, int]) -> list[ChangeRef]:
        """Return the changes that the next of `log` had not seen, must be compared with, and that were put down."""
        open_from = {
            index: vector.get(index, 0)
            for index, length in self._history.floor.items()
            if vector.get(index, 0) < length and index != log.log
        }
        if not open_from:
            return []
        tables = {part.table_id for part in stored.header.parts if part.table_id != ACTS_TABLE}
        acts = self._history.part(stored, ACTS_TABLE)
        try:
            for act in () if acts is None else decode_acts(acts):
                if isinstance(act, Drop):
                    tables.add(act.object_id)
                elif isinstance(act, DropColumn):
                    tables.add(act.table_id)
        except RefusedError:
            return []  # It has no effect, whatever it is compared with.
        found: list[ChangeRef] = []
        for index, start in sorted(open_from.items()):
            found.extend(
                ChangeRef(index, line.header.seq)
                for line in self._history.lines(self._history.logs[index], start, self._history.floor[index])
                if line.state == STATE_DROPPED and any(part.table_id in tables for part in line.header.parts)
            )
        return found

    def is_questioned(self, log: Log) -> bool:
        """True when the next change of a log waits until another member's change has it in its past (MEM-9)."""
        allowed = self.questioned.get(log.member_id)
        if allowed is None:
            return False
        return log.applied_length >= max(allowed.get(log.log, 0), self._vouched.get(log.log, 0))

    def forget_vouched(self) -> None:
        """Forget who was let in: what was rolled back meanwhile may have said it."""
        self._vouched = {}

    def _vouch(self, header: Header) -> None:
        """Let in what a change had seen that may be applied itself: its member's word for them."""
        for hashed in header.past:
            ref = self._history.find(hashed)
            path = [] if ref is None else self._history.path(self._history.logs[ref.log], ref.seq + 1)
            for log, _, stop in path:  # Of a branch, with what it goes on from.
                if self._vouched.get(log.log, log.applied_length) < stop:
                    self._vouched[log.log] = stop
                    self.vouched_count += 1

    def _newest(self, ref: ChangeRef) -> Stored | None:
        below = self._history.before(ref)
        return None if below is None else self._history.read(below)

    def _stamp(self, ref: ChangeRef, header: Header, past: Sequence[ChangeRef]) -> int:
        log = self._history.logs[ref.log]
        newest = None if ref.seq > log.start else self._newest(ref)
        greatest = log.order_stamp if newest is None else newest.order_stamp
        for dependency in past:
            other = self._history.logs[dependency.log]
            is_head = dependency.seq == other.applied_length - 1
            stamp = other.order_stamp if is_head else self._history.read(dependency).order_stamp
            greatest = max(greatest, stamp)
        return order_stamp(header.unix_ms, self.not_after_ms, greatest)

    def _fault(
        self, newest: Stored | None, header: Header, past: Sequence[ChangeRef], vector: dict[int, int]
    ) -> str | None:
        """Return the rule that this header, linked to `newest`, breaks against its own past, or None."""
        before = None if newest is None else newest.header
        is_plain = newest is not None and all(part.table_id != ACTS_TABLE for part in newest.header.parts)
        if newest is not None and newest.state == STATE_APPLIED and is_plain and not past:
            same_certificate = header.certificate == newest.header.certificate
            if same_certificate and header.epoch >= newest.header.epoch:
                return None  # Nothing new was seen, so nothing new can be wrong.
        epochs = [self._history.read(dependency).header.epoch for dependency in past]
        if before is not None:
            epochs.append(before.epoch)
        if header.epoch < max(epochs, default=0):
            return "EPO-1"
        return None if header.certificate == self.certificate_in(vector) else "EPO-4"

    # -- effects ---------------------------------------------------------------------

    def _perform(
        self, ref: ChangeRef, stored: Stored, order: OrderKey, vector: dict[int, int]
    ) -> tuple[tuple[Act, ...], int]:
        self._connection.execute("SAVEPOINT klal_perform")
        try:
            try:
                acts = self._effects(ref, stored, order, vector)
            except (apsw.SQLError, apsw.TooBigError):
                # An index that raises on a row must not stop it, whatever stood in the row before.
                self._connection.execute("ROLLBACK TO klal_perform")
                self._catalog.load()
                self._rows.forget()
                written = [self._catalog.by_id.get(part.table_id) for part in stored.header.parts]
                if not self._catalog.take_away({table.tab for table in written if table is not None}):
                    raise
                acts = self._effects(ref, stored, order, vector)
        except RefusedError:
            # T9: whatever cannot be read, or has no right here, has no effect, the same everywhere.
            self._connection.execute("ROLLBACK TO klal_perform")
            self._connection.execute("RELEASE klal_perform")
            self._catalog.load()
            self._rows.forget()
            return (), STATE_VOID
        self._connection.execute("RELEASE klal_perform")
        return acts, STATE_APPLIED

    def _effects(self, ref: ChangeRef, stored: Stored, order: OrderKey, vector: dict[int, int]) -> tuple[Act, ...]:
        unseen = self.window.unseen(vector)
        acts = self._acts(self._history.logs[ref.log], stored, order)
        self.lost.note_drops(ref, acts, vector, unseen)
        for part in stored.header.parts:
            if part.table_id != ACTS_TABLE:
                data = self._history.part(stored, part.table_id)
                assert data is not None, "only changes whose payload is here are applied"
                self.merge_part(ref, order, part.table_id, data, unseen)
        return acts

    def _acts(self, log: Log, stored: Stored, order: OrderKey) -> tuple[Act, ...]:
        data = self._history.part(stored, ACTS_TABLE)
        if data is None:
            return ()
        acts = decode_acts(data)
        for act in acts:
            self._check_entry(log, stored.header, act)
        declared = [act for act in acts if isinstance(act, SchemaAct)]
        if declared and self._catalog.declare(declared, order_bytes(order)):
            self._rows.forget()
        for act in acts:
            if isinstance(act, Genesis):
                self.not_after_ms = act.policy.not_after_ms
            elif isinstance(act, Close | Certify) and not stored.header.is_sealed:
                raise MalformedError(f"word on epoch {act.epoch} is not sealed exactly there", rule="SEA-3")
            elif isinstance(act, Close) and act.epoch != stored.header.epoch:
                raise MalformedError(f"close of epoch {act.epoch} in epoch {stored.header.epoch}", rule="EPO-1")
        return acts

    def _check_entry(self, log: Log, header: Header, act: Act) -> None:
        """Return if an act that lets a member in may stand here, by the change alone (MEM-1, MEM-2).

        Whether its inviter is known is asked at the door, of logs of members not known yet.

        Raises:
            MembershipError: Not a log's first change, or of somebody else. SignatureError: MEM-2.
        """
        if not isinstance(act, Join | Genesis):
            return
        if header.seq != 0:
            raise MembershipError("a member enters with the first change of a log", rule="MEM-1")
        if isinstance(act, Join):
            if act.member != log.member_id:
                raise MembershipError("a join in another member's log", rule="MEM-1")
            act.check(self._history.space_id)
        elif act.space_id != self._history.space_id or act.founder != log.member_id:
            raise MembershipError("another genesis cannot enter this space", rule="MEM-1")

    def merge_part(self, ref: ChangeRef, order: OrderKey, table_id: bytes, data: bytes, unseen: Unseen) -> None:
        """Merge the rows of one part of a change.

        Raises:
            RefusedError: PAY-1 to PAY-5, APP-3, APP-4; some of its rows may be written by then.
        """
        table = self._catalog.by_id.get(table_id)
        if table is None:
            if table_id not in self._catalog.schema.dropped:
                raise MalformedError(f"rows of unknown table {table_id.hex()[:8]}", rule="APP-3")
            self.lost.note_table(ref, table_id, sum(segment.row_count for segment in decode_segments(data)))
            return
        # Keys are remembered only where somebody may wait for what is written here.
        is_watched = table.tab in self._catalog.unbuilt or self._rows.has_hidden(table)
        keys_written: set[Key] = set()
        for whole in decode_segments(data):
            if is_watched:
                keys_written.update(whole.keys)
            segment = self._without_dropped(ref, table, whole)
            columns = check_columns(table, segment)
            slow: set[Key] = set()
            # New rows that nothing here can meet: a key written twice fails as it is inserted.
            is_met = self.window.touches(unseen, table_id) or self._rows.has_side(table)
            if is_met or segment.kind is not Kind.INSERT:
                keys = _distinct(segment)
                slow = self.window.touched(unseen, table_id, keys) | self._rows.keys_with_side(table, keys)
            if segment.lives is not None:
                slow |= {key for key, life in zip(segment.keys, segment.lives, strict=True) if life > 1}
            self._merge_segment(ref, order, table, columns, segment, slow, unseen)
        if is_watched or self._rows.has_hidden(table):
            self._catalog.touch(table.tab, keys_written if is_watched else None)

    def _without_dropped(self, ref: ChangeRef, table: Table, segment: Segment) -> Segment:
        """Return a segment without columns that were dropped, of which what it writes is noted (SCH-9).

        Raises:
            MalformedError: APP-3, a column that the table never had. PAY-4.
        """
        if segment.kind is Kind.UPDATE and not segment.columns:
            raise MalformedError("update writes no column", rule="PAY-4")
        if table.by_id.keys() >= set(segment.columns):
            return segment
        dropped = self._catalog.dropped_columns(table)
        kept = []
        for position, column_id in enumerate(segment.columns):
            if column_id in table.by_id:
                kept.append(position)
            elif column_id not in dropped:
                raise MalformedError(f"segment writes an unknown column of {table.name!r:.40}", rule="APP-3")
            else:
                self.lost.note_column(ref, table.table_id, column_id, segment.values[position])
        columns = tuple(segment.columns[position] for position in kept)
        return msgspec.structs.replace(segment, columns=columns, values=[segment.values[position] for position in kept])

    def _merge_segment(
        self,
        ref: ChangeRef,
        order: OrderKey,
        table: Table,
        columns: tuple[ColumnInfo, ...],
        segment: Segment,
        slow: set[Key],
        unseen: Unseen,
    ) -> None:
        is_sum = segment.kind is Kind.UPDATE and not table.merge_columns.merges.keys().isdisjoint(segment.columns)
        if segment.kind is Kind.DELETE or is_sum or not (columns or segment.kind is Kind.INSERT):
            # A delete keeps an image, and a sum adds to what is there, so each row is read anyway. An update of
            # nothing but what was dropped changes no cell, and still says that the row lives.
            slow = set(segment.keys)
        if slow:
            _distinct(segment)
        log_id = self._history.logs[ref.log].origin
        fast = [row for row, key in enumerate(segment.keys) if key not in slow] if slow else range(segment.row_count)
        if fast and not self._write_blind(table, columns, segment, fast):
            slow = _distinct(segment)
        if slow:
            log_id = self._history.logs[ref.log].log_id
            writes = [
                (key, Write(ref, order, segment.kind, segment.life(row), cells, segment.is_final, log_id))
                for row, (key, cells) in enumerate(zip(segment.keys, cells_of(segment), strict=True))
                if key in slow
            ]
            self.merge_rows(table, writes, unseen)

    def merge_rows(self, table: Table, writes: Sequence[tuple[Key, Write]], unseen: Unseen) -> None:
        """Merge row writes of different keys into what is there, each with what the window holds of its key.

        Args:
            unseen: The window of all these writes.

        Raises:
            MalformedError: APP-4.
        """
        changes = []
        states = self._rows.load_all(table, [key for key, _ in writes])
        for (key, write), was in zip(writes, states, strict=True):
            window = self.window.writes(unseen, table, key) if unseen else []
            now = merge_write(was, window, write, self._sees(write.change, unseen), table.merge_columns)
            changes.append((key, was, now))
        try:
            self._rows.save_all(table, changes)
        except (apsw.ConstraintError, apsw.TooBigError) as error:
            raise MalformedError(f"row does not fit its table: {error}", rule="APP-4") from error

    def _sees(self, change: ChangeRef, unseen: Unseen) -> Sees:
        """Return `History.sees` for a change that is applied now: what it saw follows from what it did not."""

        def sees(a: ChangeRef, b: ChangeRef) -> bool:
            if a == change:
                start, stop = unseen.get(b.log, (0, 0))
                return b != change and not start <= b.seq < stop
            return b != change and self._history.sees(a, b)

        return sees

    def _write_blind(
        self, table: Table, columns: tuple[ColumnInfo, ...], segment: Segment, fast: Sequence[int]
    ) -> bool:
        """Write rows that nothing here can conflict with; False, and nothing written, if they do not fit.

        Not fitting means a faulty writer: an INSERT of a row that its own past holds, or
        an UPDATE of one that it does not. The careful path gives that its meaning.
        """
        self._connection.execute("SAVEPOINT klal_blind")
        before = self._connection.total_changes()
        try:
            if segment.kind is Kind.INSERT:
                self._insert_blind(table, columns, segment, fast)
            elif columns:
                self._update_blind(table, columns, segment, fast)
        except (apsw.ConstraintError, apsw.TooBigError):
            fits = False
        else:
            fits = not columns or self._connection.total_changes() - before == len(fast)
        if not fits:
            self._connection.execute("ROLLBACK TO klal_blind")
        self._connection.execute("RELEASE klal_blind")
        return fits

    def _insert_blind(
        self, table: Table, columns: tuple[ColumnInfo, ...], segment: Segment, fast: Sequence[int]
    ) -> None:
        lists = [*segment.key_columns, *segment.values]
        if len(fast) != segment.row_count:
            lists = [[values[row] for row in fast] for values in lists]
        insert_rows(self._connection, table, columns, lists)

    def _update_blind(
        self, table: Table, columns: tuple[ColumnInfo, ...], segment: Segment, fast: Sequence[int]
    ) -> None:
        # Sorted by key: neighbours share pages, which halves the time of a large batch.
        order = sorted(fast, key=lambda row: tuple(map(sort_key, segment.keys[row])))
        rows = ((*(values[row] for values in segment.values), *segment.keys[row]) for row in order)
        self._connection.executemany(table.update(columns), rows)


def _distinct(segment: Segment) -> set[Key]:
    """Return the keys of a segment.

    Raises:
        MalformedError: PAY-4, one of them stands twice.
    """
    keys = set(segment.keys)
    if len(keys) != len(segment.keys):
        raise MalformedError("segment writes a key twice", rule="PAY-4")
    return keys


def cells_of(segment: Segment) -> Iterator[dict[bytes, Value]]:
    """Yield the cells that each row writes: column id -> value."""
    if not segment.columns:
        return ({} for _ in range(segment.row_count))
    return (dict(zip(segment.columns, row, strict=True)) for row in zip(*segment.values, strict=True))


def insert_rows(
    connection: Connection, table: Table, columns: tuple[ColumnInfo, ...], lists: Sequence[Sequence[Value]]
) -> None:
    """Insert rows, many to a statement.

    The caller holds a savepoint: OR FAIL spares SQLite a statement journal, so a row
    that fails leaves those before it.

    Args:
        lists: The values of each column: those of the key, then those of `columns`.
    """
    width = len(lists)
    count = len(lists[0]) * width
    # All rows one after another, laid down a column at a time: no row becomes a tuple of its own.
    flat: list[Value] = [None] * count
    for position, values in enumerate(lists):
        flat[position::width] = values
    step = _ROWS_PER_INSERT * width
    whole = count - count % step
    if whole:
        batches = (flat[start : start + step] for start in range(0, whole, step))
        connection.executemany(table.insert(columns, _ROWS_PER_INSERT), batches)
    if whole < count:
        rest = (flat[start : start + width] for start in range(whole, count, width))
        connection.executemany(table.insert(columns, 1), rest)


def check_columns(table: Table, segment: Segment) -> tuple[ColumnInfo, ...]:
    """Return the table's columns that a segment writes, its values checked against them.

    Raises:
        MalformedError: APP-3, a key that does not fit the table; APP-4, a
            value that no honest writer's SQLite would have let in.
    """
    columns = tuple(table.by_id[column_id] for column_id in segment.columns)
    key_columns = segment.key_columns
    key_kinds, value_kinds = segment.kinds[: len(key_columns)], segment.kinds[len(key_columns) :]
    if len(key_columns) != len(table.key) or any(type(None) in kinds for kinds in key_kinds):
        raise MalformedError(f"segment has a key that does not fit {table.name!r:.40}", rule="APP-3")
    merges = table.merge_columns.merges
    for info, values, kinds in zip(columns, segment.values, value_kinds, strict=True):
        if info.column_id in merges:
            check_cells(merges[info.column_id], segment.kind, values)
            continue
        if info.column.not_null and type(None) in kinds:
            raise MalformedError(f"column {info.name!r:.40} is NOT NULL", rule="APP-4")
        _check_stored(table, info, values, kinds)
        _check_strict(table, info, kinds)
    for info, key_values, kinds in zip(table.key, key_columns, key_kinds, strict=True):
        _check_stored(table, info, key_values, kinds)
        _check_strict(table, info, kinds)
    if segment.kind is Kind.INSERT:
        _check_given(table, columns)
    return columns


def _check_given(table: Table, columns: tuple[ColumnInfo, ...]) -> None:
    for info in table.values:
        column = info.column
        default = column.default
        is_evaluated = default is not None and default.function != ""
        must_be_given = is_evaluated or (column.not_null and (default is None or default.literal is None))
        if must_be_given and info not in columns:
            raise MalformedError(f"insert leaves out column {info.name!r:.40}, which must be given", rule="APP-4")


def _check_stored(table: Table, info: ColumnInfo, values: Sequence[Value], kinds: set[type]) -> None:
    affinity = table.affinity(info)
    if kinds <= PLAIN_TYPES[affinity] and not (affinity == "REAL" and 0.0 in values):
        return
    if not all(is_as_stored(affinity, value) for value in values):
        raise MalformedError(f"column {info.name!r:.40} would convert a value", rule="APP-4")
    if "BLOB" in info.column.type and info.is_key and kinds & {int, float}:
        raise MalformedError(f"key column {info.name!r:.40} is a number, want text or bytes", rule="APP-4")


def _check_strict(table: Table, info: ColumnInfo, kinds: set[type]) -> None:
    if table.definition.strict:
        allowed = _STRICT_TYPES.get(info.column.type)
        if allowed is not None and not kinds <= {*allowed, type(None)}:
            raise MalformedError(f"column {info.name!r:.40} of a STRICT table has another type", rule="APP-4")


def sort_key(value: Value) -> tuple[int, Value]:
    """Return what sorts as SQLite sorts this value."""
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 1, value
    return (2, value) if isinstance(value, str) else (3, value)
