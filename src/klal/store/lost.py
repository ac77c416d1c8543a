"""Writes to what somebody dropped who had not seen them: kept in history, shown nowhere, and listed.

A drop stands, whatever was written apart from it. Nobody's work goes without a trace all the
same: each such change is a line of klal_violations, until a drop that has seen it arrives.

Law: a line is there if and only if the change is applied, what it wrote is dropped, and no
applied drop of it has the change in its past, whatever came first.

Source:
    Protocol spec section 10, rule SCH-9 (S32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from klal.model.acts import Act, Drop, DropColumn
from klal.model.payload import Kind, decode_segments
from klal.model.schema import Value
from klal.rules.merge import ChangeRef
from klal.store.catalog import Catalog
from klal.store.history import STATE_APPLIED, History, Stored
from klal.store.sql import Connection

_WHOLE_TABLE = b""


class Lost:
    """The lines of klal_lost."""

    def __init__(self, connection: Connection, history: History, catalog: Catalog) -> None:
        self._connection = connection
        self._history = history
        self._catalog = catalog

    def note_table(self, change: ChangeRef, table_id: bytes, row_count: int) -> None:
        """Note that an applied change wrote rows of a table that is dropped."""
        name = self._catalog.declared_name(table_id)
        self._note(change, table_id, _WHOLE_TABLE, name, row_count)

    def note_column(self, change: ChangeRef, table_id: bytes, column_id: bytes, values: Sequence[Value]) -> None:
        """Note that an applied change wrote cells of a column that is dropped, if they said anything."""
        row_count = sum(value is not None for value in values)
        if row_count:
            name = f"{self._catalog.declared_name(table_id)}.{self._catalog.declared_column(table_id, column_id)}"
            self._note(change, table_id, column_id, name, row_count)

    def _note(self, change: ChangeRef, table_id: bytes, column_id: bytes, name: str, row_count: int) -> None:
        self._connection.execute(
            "INSERT INTO klal_lost VALUES(?,?,?,?,?,?) ON CONFLICT DO UPDATE SET"
            " row_count = row_count + excluded.row_count",
            (table_id, column_id, *change, name, row_count),
        )

    def note_drops(
        self, change: ChangeRef, acts: Sequence[Act], vector: Mapping[int, int], unseen: Mapping[int, tuple[int, int]]
    ) -> None:
        """Note what the drops of a change that is applied now had not seen, and forget what they had.

        Args:
            vector: What the dropping change had seen: log -> length.
            unseen: The applied changes that it had not.
        """
        for act in acts:
            if isinstance(act, Drop):
                self._note_drop(change, act.object_id, _WHOLE_TABLE, vector)
                # The line of a whole table says enough, and what came of its columns depends on what came first.
                every = "DELETE FROM klal_lost WHERE table_id = ? AND column_id <> ?"
                self._connection.execute(every, (act.object_id, _WHOLE_TABLE))
                if self._catalog.declared_name(act.object_id):
                    self._note_unseen(act.object_id, _WHOLE_TABLE, unseen)
            elif isinstance(act, DropColumn):
                self._note_drop(change, act.table_id, act.column_id, vector)
                table = self._catalog.schema.tables.get(act.table_id)
                if table is not None and act.column_id in table.dropped:
                    self._note_unseen(act.table_id, act.column_id, unseen)

    def _note_drop(self, change: ChangeRef, table_id: bytes, column_id: bytes, vector: Mapping[int, int]) -> None:
        place = (table_id, column_id)
        self._connection.execute("INSERT OR IGNORE INTO klal_drop VALUES(?,?,?,?)", (*place, *change))
        for log, length in vector.items():
            self._connection.execute(
                "DELETE FROM klal_lost WHERE table_id = ? AND column_id = ? AND log = ? AND seq < ?",
                (*place, log, length),
            )

    def _note_unseen(self, table_id: bytes, column_id: bytes, unseen: Mapping[int, tuple[int, int]]) -> None:
        for index, (start, stop) in sorted(unseen.items()):
            for stored in self._history.lines(self._history.logs[index], start, stop):
                if stored.state == STATE_APPLIED:
                    self._note_change(ChangeRef(index, stored.header.seq), stored, table_id, column_id)

    def _note_change(self, change: ChangeRef, stored: Stored, table_id: bytes, column_id: bytes) -> None:
        place = (table_id, column_id, *change)
        known = "SELECT 1 FROM klal_lost WHERE table_id = ? AND column_id = ? AND log = ? AND seq = ?"
        data = self._history.part(stored, table_id)
        if data is None or self._connection.execute(known, place).get or self._is_seen(place):
            return
        for segment in decode_segments(data):
            if column_id == _WHOLE_TABLE:
                self.note_table(change, table_id, segment.row_count)
            elif segment.kind is not Kind.DELETE and column_id in segment.columns:
                self.note_column(change, table_id, column_id, segment.values[segment.columns.index(column_id)])

    def _is_seen(self, place: tuple[bytes, bytes, int, int]) -> bool:
        """True when some applied drop of this place had seen the change: whoever made it knew what would go."""
        drops = "SELECT log, seq FROM klal_drop WHERE table_id = ? AND column_id = ?"
        change = ChangeRef(*place[2:])
        rows = self._connection.execute(drops, place[:2]).fetchall()
        return any(self._history.sees(ChangeRef(*drop), change) for drop in rows)
