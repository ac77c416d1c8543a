"""The window: applied changes that an incoming one had not seen, indexed by key.

It is loaded from the log when a merge first needs it and dropped when the batch is
done; nothing about it is stored. Where it is empty, a write needs no looking at all.

Source:
    Decision D10; protocol spec section 10, rule MRG-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from klal.errors import MalformedError
from klal.model.codec import COLUMN_ID_SIZE
from klal.model.header import ACTS_TABLE, lone_table
from klal.model.payload import Kind, Segment, decode_keys, decode_row, decode_segments
from klal.model.schema import Key, Value
from klal.rules.merge import ChangeRef, Write
from klal.rules.order import OrderKey, draw_of
from klal.store.catalog import Table
from klal.store.history import STATE_APPLIED, History, Log, Stored

_TOUCH_COUNT_MAX = 4_000_000  # About 600 MB; beyond this the index is rebuilt for what is needed now.


_Touch = tuple[Log, Stored, int, int]
"""Which segment of which change wrote a key, and in which row; what it wrote is read when it is asked for."""


class Unseen(Mapping[int, tuple[int, int]]):
    """The stretches of applied changes outside a past: log -> [start, stop).

    Worked out for the log that is asked for: of very many members most have not seen most others.
    """

    def __init__(self, history: History, vector: Mapping[int, int]) -> None:
        self._history = history
        self.vector = vector

    def __getitem__(self, index: int) -> tuple[int, int]:
        log = self._history.logs.get(index)
        start = self.vector.get(index, 0)
        if log is None or log.applied_length <= max(start, log.start):
            raise KeyError(index)
        return start, log.applied_length

    def __iter__(self) -> Iterator[int]:
        seen = self.vector.get
        return (log.log for log in self._history.logs.values() if log.applied_length > max(seen(log.log, 0), log.start))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)


class Window:
    """Touches of applied changes, by table and key."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.clear()

    def clear(self) -> None:
        """Forget everything loaded."""
        self._touches: dict[bytes, dict[Key, list[_Touch]]] = {}
        self._loaded: dict[int, tuple[int, int]] = {}  # log -> seqs loaded, [start, stop)
        # Which logs a change may need more of: a look at all of them for every change would cost more than
        # the change. None while nothing is loaded.
        self._starts: dict[int, int] | None = None  # log -> where what is loaded begins, unless that is 0
        self._grown: set[int] = set()
        self._segments: dict[tuple[int, bytes, int], Segment] = {}  # of what was asked for: (lsn, table id, which)
        self._count = 0

    def unseen(self, vector: Mapping[int, int]) -> Unseen:
        """Return the stretches of applied changes outside `vector`."""
        return Unseen(self._history, vector)

    def grew(self, log: Log) -> None:
        """Note that more of a log is applied now."""
        if self._starts is not None:
            self._grown.add(log.log)

    def touches(self, unseen: Unseen, table_id: bytes) -> bool:
        """True when some change in the window wrote this table at all."""
        self._load(unseen.vector)
        return bool(self._touches.get(table_id))

    def touched(self, unseen: Unseen, table_id: bytes, keys: Iterable[Key]) -> set[Key]:
        """Return those of `keys` that some change in the window may have written."""
        self._load(unseen.vector)
        touches = self._touches.get(table_id)
        return set() if not touches else touches.keys() & set(keys)

    def writes(self, unseen: Unseen, table: Table, key: Key) -> list[Write]:
        """Return the window's writes of one key, of the columns that the table has."""
        found = []
        for log, stored, index, row in self._touches.get(table.table_id, {}).get(key, ()):
            change = ChangeRef(log.log, stored.header.seq)
            start, stop = unseen.get(change.log, (0, 0))
            if start <= change.seq < stop:
                kind, life, cells, is_final = self._read(stored, table.table_id, index, row)
                if not cells.keys() <= table.by_id.keys():
                    cells = {column: value for column, value in cells.items() if column in table.by_id}
                order = order_key(self._history, log, stored)
                found.append(Write(change, order, kind, life, cells, is_final, log.origin))
        return found

    def _read(
        self, stored: Stored, table_id: bytes, index: int, row: int
    ) -> tuple[Kind, int, dict[bytes, Value], bool]:
        """Return (kind, life, cells, is final) of one row write."""
        lone = decode_row(stored.payload) if stored.payload is not None and lone_table(stored.header_bytes) else None
        if lone is not None:
            kind, ids, _, values = lone
            columns = [ids[i : i + COLUMN_ID_SIZE] for i in range(0, len(ids), COLUMN_ID_SIZE)]
            return Kind(kind), 1, dict(zip(columns, values, strict=True)), False
        segment = self._segment(stored, table_id, index)
        cells = {column: values[row] for column, values in zip(segment.columns, segment.values, strict=True)}
        return segment.kind, segment.life(row), cells, segment.is_final

    def _load(self, vector: Mapping[int, int]) -> None:
        """Load what lies outside a past, as far as it is not loaded yet."""
        if self._count > _TOUCH_COUNT_MAX:
            self.clear()
        logs = self._history.logs
        if self._starts is None:
            self._starts = {log.log: log.applied_length for log in logs.values() if log.applied_length > log.start}
        lacking = [index for index, start in self._starts.items() if vector.get(index, 0) < start]
        lacking.extend(index for index in self._grown if vector.get(index, 0) < logs[index].applied_length)
        for index in lacking:
            start, stop = vector.get(index, 0), logs[index].applied_length
            have_start, have_stop = self._loaded.get(index, (stop, stop))
            # What lies between is loaded too: what is said to be loaded has no hole.
            for first, last in ((start, have_start), (have_stop, stop)):
                if first < last:
                    self._load_range(logs[index], first, last)
            start = min(start, have_start)
            self._loaded[index] = (start, stop)
            self._grown.discard(index)
            self._starts[index] = start
            if not start:
                del self._starts[index]

    def _load_range(self, log: Log, start: int, stop: int) -> None:
        for stored in self._history.lines(log, start, stop):
            if stored.state == STATE_APPLIED:
                self._load_change(log, stored)

    def _load_change(self, log: Log, stored: Stored) -> None:
        table_id = lone_table(stored.header_bytes)
        row = None if table_id is None or stored.payload is None else decode_row(stored.payload)
        if row is not None and table_id is not None and table_id != ACTS_TABLE:
            # One row, as most changes are.
            self._count += 1
            self._touches.setdefault(table_id, {}).setdefault(row[2], []).append((log, stored, 0, 0))
            return
        for part in stored.header.parts:
            if part.table_id == ACTS_TABLE:
                continue
            touches = self._touches.setdefault(part.table_id, {})
            for index, keys in enumerate(decode_keys(self._part(stored, part.table_id))):
                self._count += len(keys)
                for number, key in enumerate(keys):
                    touches.setdefault(key, []).append((log, stored, index, number))

    def _segment(self, stored: Stored, table_id: bytes, index: int) -> Segment:
        place = (stored.lsn, table_id, index)
        segment = self._segments.get(place)
        if segment is None:
            segments = enumerate(decode_segments(self._part(stored, table_id)))
            segment = self._segments[place] = next(segment for at, segment in segments if at == index)
        return segment

    def _part(self, stored: Stored, table_id: bytes) -> bytes:
        data = self._history.part(stored, table_id)
        if data is None:
            raise MalformedError(f"payload of applied change {stored.header.seq} is not here", rule="PAY-6")
        return data


def order_key(history: History, log: Log, stored: Stored) -> OrderKey:
    """Return the order key of an applied change (ORD-3)."""
    draw = draw_of(history.space_id, stored.header.certificate, log.member_id)
    return OrderKey(stored.order_stamp, draw, history.hash_of(stored))
