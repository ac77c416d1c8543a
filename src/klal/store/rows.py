"""What the merge must remember of single keys, and the user's rows seen as row states.

Most keys have nothing here: a row in its first life, never deleted, without conflict, is
just the user's row. So every question begins with "does this table have anything at all".

Source:
    Protocol spec section 10, rules MRG-2 and MRG-7. Decision D10.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from klal.errors import UsageError
from klal.model.codec import pack
from klal.model.payload import LIFE_MAX
from klal.model.schema import Key, Value
from klal.rules.merge import ChangeRef, Entry, RowState, same
from klal.rules.text import Document, Edit, Put, begun, decode_document, edited
from klal.store.catalog import Table
from klal.store.sql import Connection

_SIDE_TABLES = ("klal_life", "klal_dead", "klal_conflict")
_decode_image = msgspec.msgpack.Decoder(dict[bytes, Any]).decode
_DELETE_COLUMN = b""


def encode_key(key: Key) -> bytes:
    """Return the bytes that name a key in klal's own tables."""
    return pack(key)


def decode_key(data: bytes) -> Key:
    """Return the key that was stored as these bytes."""
    return tuple(msgspec.msgpack.decode(data))


def _encode_image(table: Table, cells: Mapping[bytes, Value]) -> bytes:
    """Return a dead row's cells as they are kept.

    Without those that show their default: whether a column was added before or after this row died
    differs between replicas, and must not show.
    """
    absent = object()
    defaults = table.defaults
    kept = {
        column_id: value
        for column_id, value in sorted(cells.items())
        if (default := defaults.get(column_id, absent)) is absent or not same(default, value)  # type: ignore[arg-type]
    }
    return pack(kept)


def key_text(key: Key) -> str:
    """Return a key as people read it: one value bare, several as a JSON list."""
    shown = [value.hex() if isinstance(value, bytes) else value for value in key]
    return str(shown[0]) if len(shown) == 1 else json.dumps(shown, ensure_ascii=False)


class Rows:
    """Row states of one file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._has_side: dict[int, bool] = {}

    def forget(self) -> None:
        """Drop what is remembered between transactions."""
        self._has_side.clear()

    def has_side(self, table: Table) -> bool:
        """True when any key of the table has something remembered."""
        known = self._has_side.get(table.tab)
        if known is None:
            known = any(
                self._connection.execute(f"SELECT 1 FROM {name} WHERE tab = ? LIMIT 1", (table.tab,)).get
                for name in _SIDE_TABLES
            )
            self._has_side[table.tab] = known
        return known

    def keys_with_side(self, table: Table, keys: Iterable[Key]) -> set[Key]:
        """Return those of `keys` that have something remembered."""
        if not self.has_side(table):
            return set()
        found = set()
        for key in keys:
            encoded = encode_key(key)
            for name in _SIDE_TABLES:
                if self._connection.execute(
                    f"SELECT 1 FROM {name} WHERE tab = ? AND key = ? LIMIT 1", (table.tab, encoded)
                ).get:
                    found.add(key)
                    break
        return found

    def load(self, table: Table, key: Key) -> RowState:
        """Return the state of one key."""
        encoded = encode_key(key)
        visible = self._connection.execute(table.select_values, key).fetchone()
        entries = self._entries(table, encoded) if self.has_side(table) else ()
        documents = self._documents(table, encoded) if table.has_text else {}
        if visible is not None:
            cells = {info.column_id: value for info, value in zip(table.values, visible[1:], strict=True)}
            side = self._connection.execute(
                "SELECT life, births, was_deleted FROM klal_life WHERE tab = ? AND key = ?", (table.tab, encoded)
            ).fetchone()
            life, births, was_deleted = side or (1, 1, 0)
            return RowState(
                life,
                cells,
                is_alive=True,
                births=births,
                was_deleted=bool(was_deleted),
                entries=entries,
                documents=documents,
            )
        dead = self._connection.execute(
            "SELECT life, births, was_deleted, is_ended, image FROM klal_dead WHERE tab = ? AND key = ?",
            (table.tab, encoded),
        ).fetchone()
        if dead is None:
            return RowState(entries=entries)
        life, births, was_deleted, is_ended, image = dead
        cells = {**table.defaults, **_decode_image(image)}
        return RowState(
            life,
            cells,
            births=births,
            was_deleted=bool(was_deleted),
            is_ended=bool(is_ended),
            entries=entries,
            documents=documents,
        )

    def save(self, table: Table, key: Key, was: RowState, now: RowState) -> None:
        """Make the file show `now` where it showed `was`."""
        encoded = encode_key(key)
        if now.is_alive:
            self._show(table, key, was, now)
        elif was.is_alive:
            self._connection.execute(table.delete, key)
        self._remember(table, encoded, now)
        if was.entries != now.entries:
            self._save_entries(table, encoded, key, now.entries)
        if was.documents != now.documents:
            self._save_documents(table, encoded, now.documents)

    def _show(self, table: Table, key: Key, was: RowState, now: RowState) -> None:
        cells = now.cells or {}
        columns = tuple(info for info in table.values if info.column_id in cells)
        if not was.is_alive:
            # A column the life never wrote takes its default, as a plain INSERT would.
            row = (*key, *(cells[info.column_id] for info in columns))
            self._connection.execute(table.insert(columns, 1), row)
            return
        if now.life != was.life:
            self._connection.execute(table.delete, key)
            self._show(table, key, RowState(), now)
            return
        before = was.cells or {}
        changed = tuple(
            info
            for info in columns
            if info.column_id not in before or before[info.column_id] is not cells[info.column_id]
        )
        if changed:
            values = (*(cells[info.column_id] for info in changed), *key)
            self._connection.execute(table.update(changed), values)

    def _remember(self, table: Table, encoded: bytes, now: RowState) -> None:
        place = (table.tab, encoded)
        if now.is_alive or now.life == 0:
            self._connection.execute("DELETE FROM klal_dead WHERE tab = ? AND key = ?", place)
        else:
            self._has_side[table.tab] = True
            self._connection.execute(
                "INSERT OR REPLACE INTO klal_dead VALUES(?,?,?,?,?,?,?)",
                (
                    *place,
                    now.life,
                    now.births,
                    now.was_deleted,
                    now.is_ended,
                    _encode_image(table, now.cells or {}),
                ),
            )
        if now.is_alive and (now.life > 1 or now.births > 1 or now.was_deleted):
            self._has_side[table.tab] = True
            self._connection.execute(
                "INSERT OR REPLACE INTO klal_life VALUES(?,?,?,?,?)", (*place, now.life, now.births, now.was_deleted)
            )
        else:
            self._connection.execute("DELETE FROM klal_life WHERE tab = ? AND key = ?", place)

    # -- local writes ----------------------------------------------------------------
    # A local write has seen everything applied here, so it never loses and only clears.

    def local_insert(self, table: Table, key: Key) -> int:
        """Note a local INSERT, and return the life it begins."""
        place = (table.tab, encode_key(key))
        dead = self._connection.execute("SELECT life FROM klal_dead WHERE tab = ? AND key = ?", place).get
        if dead is None:
            return 1
        life: int = dead + 1
        if life > LIFE_MAX:
            raise UsageError(f"key {key_text(key)} of table {table.name} has had every life a key can have")
        self._connection.execute("DELETE FROM klal_dead WHERE tab = ? AND key = ?", place)
        self._connection.execute("INSERT OR REPLACE INTO klal_life VALUES(?,?,?,1,0)", (*place, life))
        self._connection.execute("DELETE FROM klal_conflict WHERE tab = ? AND key = ?", place)
        self._connection.execute("DELETE FROM klal_text WHERE tab = ? AND key = ?", place)
        return life

    def local_update(self, table: Table, key: Key, written: Iterable[int]) -> int:
        """Note a local UPDATE that writes the columns at these positions, and return the life it writes in."""
        place = (table.tab, encode_key(key))
        life: int = self._connection.execute("SELECT life FROM klal_life WHERE tab = ? AND key = ?", place).get or 1
        self._connection.execute(
            "DELETE FROM klal_conflict WHERE tab = ? AND key = ? AND (life < ? OR column_id = x'')", (*place, life)
        )
        for position in written:
            self._connection.execute(
                "DELETE FROM klal_conflict WHERE tab = ? AND key = ? AND column_id = ?",
                (*place, table.columns[position].column_id),
            )
        return life

    def local_delete(self, table: Table, key: Key, row: tuple[Value, ...]) -> int:
        """Note a local DELETE, and return the life it ends."""
        place = (table.tab, encode_key(key))
        side = self._connection.execute("SELECT life, births FROM klal_life WHERE tab = ? AND key = ?", place)
        life, births = side.fetchone() or (1, 1)
        is_ended = table.on_delete == "wins"
        image = {info.column_id: row[p] for info, p in zip(table.values, table.value_positions, strict=True)}
        self._has_side[table.tab] = True
        self._connection.execute(
            "INSERT OR REPLACE INTO klal_dead VALUES(?,?,?,?,1,?,?)",
            (*place, life, births, is_ended, _encode_image(table, image)),
        )
        self._connection.execute("DELETE FROM klal_life WHERE tab = ? AND key = ?", place)
        self._connection.execute("DELETE FROM klal_conflict WHERE tab = ? AND key = ?", place)
        return int(life)

    def local_burial(self, table: Table, key: Key) -> int:
        """Note a local DELETE of a key that is dead already, and return the life it confirms the end of."""
        place = (table.tab, encode_key(key))
        life: int = self._connection.execute(
            "UPDATE klal_dead SET was_deleted = 1, is_ended = max(is_ended, ?) WHERE tab = ? AND key = ?"
            " RETURNING life",
            (table.on_delete == "wins", *place),
        ).get
        self._connection.execute("DELETE FROM klal_conflict WHERE tab = ? AND key = ?", place)
        return life

    def local_edits(self, table: Table, key: Key, column_id: bytes, old: str, edits: list[Edit], put: Put) -> None:
        """Keep the document of a text that was edited here."""
        place = (table.tab, encode_key(key), column_id)
        kept = self._connection.execute(
            "SELECT document FROM klal_text WHERE tab = ? AND key = ? AND column_id = ?", place
        ).get
        document = begun(old) if kept is None else decode_document(kept)
        self._connection.execute(
            "INSERT OR REPLACE INTO klal_text VALUES(?,?,?,?)", (*place, edited(document, edits, put, ()).encode())
        )

    # -- documents of texts ------------------------------------------------------------

    def _documents(self, table: Table, encoded: bytes) -> dict[bytes, Document]:
        rows = self._connection.execute(
            "SELECT column_id, document FROM klal_text WHERE tab = ? AND key = ?", (table.tab, encoded)
        )
        return {column_id: decode_document(document) for column_id, document in rows.fetchall()}

    def _save_documents(self, table: Table, encoded: bytes, documents: Mapping[bytes, Document]) -> None:
        self._connection.execute("DELETE FROM klal_text WHERE tab = ? AND key = ?", (table.tab, encoded))
        for column_id, document in documents.items():
            self._connection.execute(
                "INSERT INTO klal_text VALUES(?,?,?,?)", (table.tab, encoded, column_id, document.encode())
            )

    # -- conflicts -------------------------------------------------------------------

    def _entries(self, table: Table, encoded: bytes) -> tuple[Entry, ...]:
        rows = self._connection.execute(
            "SELECT column_id, log, seq, life, value, winner_log, winner_seq, winner_value FROM klal_conflict"
            " WHERE tab = ? AND key = ? ORDER BY column_id, log, seq",
            (table.tab, encoded),
        ).fetchall()
        return tuple(
            Entry(
                column or None,
                ChangeRef(log, seq),
                life,
                value,
                None if winner_log is None else ChangeRef(winner_log, winner_seq),
                winner_value,
            )
            for column, log, seq, life, value, winner_log, winner_seq, winner_value in rows
        )

    def _save_entries(self, table: Table, encoded: bytes, key: Key, entries: tuple[Entry, ...]) -> None:
        self._connection.execute("DELETE FROM klal_conflict WHERE tab = ? AND key = ?", (table.tab, encoded))
        for entry in entries:
            self._has_side[table.tab] = True
            winner = entry.winner or (None, None)
            self._connection.execute(
                "INSERT INTO klal_conflict VALUES(?,?,?,?,?,?,?,?,?,?,?)",
                (
                    table.tab,
                    encoded,
                    entry.column or _DELETE_COLUMN,
                    *entry.change,
                    entry.life,
                    key_text(key),
                    entry.value,
                    *winner,
                    entry.winner_value,
                ),
            )
