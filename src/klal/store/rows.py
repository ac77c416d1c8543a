"""What the merge must remember of single keys, and the user's rows seen as row states.

Most keys have nothing here: a row in its first life, never deleted, without conflict, is
just the user's row. So every question begins with "does this table have anything at all".

Source:
    Protocol spec section 10, rules MRG-2 and MRG-7. Decision D10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw
import msgspec

from klal.errors import UsageError
from klal.model.codec import pack
from klal.model.payload import LIFE_MAX
from klal.model.schema import Key, Value, key_text
from klal.rules.merge import ChangeRef, Entry, RowState
from klal.rules.text import Document, Edit, Put, begun, decode_document, edited
from klal.store.catalog import Table, decode_image
from klal.store.sql import Connection

_SIDE_TABLES = ("klal_life", "klal_dead", "klal_hidden", "klal_conflict")
_DELETE_COLUMN = b""
_KEYS_PER_QUERY = 256


def encode_key(key: Key) -> bytes:
    """Return the bytes that name a key in klal's own tables."""
    return pack(key)


def decode_key(data: bytes) -> Key:
    """Return the key that was stored as these bytes."""
    return tuple(msgspec.msgpack.decode(data))


class Rows:
    """Row states of one file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._are_used: dict[tuple[int, str], bool] = {}  # (table, side table) -> whether it may hold anything

    def forget(self) -> None:
        """Drop what is remembered between transactions."""
        self._are_used.clear()

    def has_side(self, table: Table) -> bool:
        """True when any key of the table has something remembered."""
        return any(self._uses(table, name) for name in _SIDE_TABLES)

    def _uses(self, table: Table, name: str) -> bool:
        # Most tables have nothing in most side tables, and a statement spared counts where changes are small.
        known = self._are_used.get((table.tab, name))
        if known is None:
            known = self._connection.execute(f"SELECT 1 FROM {name} WHERE tab = ? LIMIT 1", (table.tab,)).get == 1
            self._are_used[table.tab, name] = known
        return known

    def _forget_key(self, table: Table, encoded: bytes, *names: str) -> None:
        for name in names:
            if self._uses(table, name):
                self._connection.execute(f"DELETE FROM {name} WHERE tab = ? AND key = ?", (table.tab, encoded))

    def keys_with_side(self, table: Table, keys: Iterable[Key]) -> set[Key]:
        """Return those of `keys` that have something remembered."""
        if not self.has_side(table):
            return set()
        by_bytes = {encode_key(key): key for key in keys}
        encoded = list(by_bytes)
        found: set[Key] = set()
        for start in range(0, len(encoded), _KEYS_PER_QUERY):
            some = encoded[start : start + _KEYS_PER_QUERY]
            marks = ", ".join("?" * len(some))
            for name in filter(lambda name: self._uses(table, name), _SIDE_TABLES):
                sql = f"SELECT DISTINCT key FROM {name} WHERE tab = ? AND key IN ({marks})"
                found.update(by_bytes[each] for (each,) in self._connection.execute(sql, (table.tab, *some)))
        return found

    def load(self, table: Table, key: Key) -> RowState:
        """Return the state of one key."""
        encoded = encode_key(key)
        visible = self._connection.execute(table.select_values, key).fetchone()
        entries = self._entries(table, encoded) if self._uses(table, "klal_conflict") else ()
        documents = self._documents(table, encoded) if table.has_text else {}
        cells = self._hidden_cells(table, encoded) if visible is None else None
        if visible is not None:
            cells = {info.column_id: value for info, value in zip(table.values, visible[1:], strict=True)}
        if cells is not None:
            life, births, was_deleted = self._life(table, encoded)
            return RowState(
                life,
                cells,
                is_alive=True,
                births=births,
                was_deleted=bool(was_deleted),
                entries=entries,
                documents=documents,
            )
        if not self._uses(table, "klal_dead"):
            return RowState(entries=entries)
        dead = self._connection.execute(
            "SELECT life, births, was_deleted, is_ended, image FROM klal_dead WHERE tab = ? AND key = ?",
            (table.tab, encoded),
        ).fetchone()
        if dead is None:
            return RowState(entries=entries)
        life, births, was_deleted, is_ended, image = dead
        cells = {**table.defaults, **decode_image(image)}
        return RowState(
            life,
            cells,
            births=births,
            was_deleted=bool(was_deleted),
            is_ended=bool(is_ended),
            entries=entries,
            documents=documents,
        )

    def _life(self, table: Table, encoded: bytes) -> tuple[int, int, int]:
        """Return (life, births, was deleted) of a row that is alive."""
        if not self._uses(table, "klal_life"):
            return 1, 1, 0
        sql = "SELECT life, births, was_deleted FROM klal_life WHERE tab = ? AND key = ?"
        side: tuple[int, int, int] | None = self._connection.execute(sql, (table.tab, encoded)).fetchone()
        return side or (1, 1, 0)

    def save(self, table: Table, key: Key, was: RowState, now: RowState) -> None:
        """Make the file show `now` where it showed `was`."""
        encoded = encode_key(key)
        is_hidden = self._hidden_cells(table, encoded) is not None
        if now.is_alive and is_hidden:
            # Whether it may be seen now is settled when the batch is done.
            self.hide(table, key, now.cells or {})
        elif now.is_alive:
            self._show_or_hide(table, key, was, now)
        elif is_hidden:
            self._forget_key(table, encoded, "klal_hidden")
        elif was.is_alive:
            self._connection.execute(table.delete, key)
        self._remember(table, encoded, now)
        if was.entries != now.entries:
            self._save_entries(table, encoded, key, now.entries)
        if was.documents != now.documents:
            self._save_documents(table, encoded, now.documents)

    def _show_or_hide(self, table: Table, key: Key, was: RowState, now: RowState) -> None:
        try:
            self._show(table, key, was, now)
        except apsw.ConstraintError as error:
            if getattr(error, "extendedresult", 0) != apsw.SQLITE_CONSTRAINT_UNIQUE:
                raise
            self.hide(table, key, now.cells or {})

    # -- rows that UNIQUE hides ----------------------------------------------------------

    def has_hidden(self, table: Table) -> bool:
        """True when some row of the table is alive and not shown."""
        sql = "SELECT 1 FROM klal_hidden WHERE tab = ? LIMIT 1"
        return self._uses(table, "klal_hidden") and self._connection.execute(sql, (table.tab,)).get == 1

    def hidden(self, table: Table) -> dict[Key, dict[bytes, Value]]:
        """Return the rows of a table that are alive and not shown: key -> cells."""
        rows = self._connection.execute("SELECT key, image FROM klal_hidden WHERE tab = ?", (table.tab,)).fetchall()
        return {decode_key(key): {**table.defaults, **decode_image(image)} for key, image in rows}

    def _hidden_cells(self, table: Table, encoded: bytes) -> dict[bytes, Value] | None:
        if not self._uses(table, "klal_hidden"):
            return None
        place = (table.tab, encoded)
        image = self._connection.execute("SELECT image FROM klal_hidden WHERE tab = ? AND key = ?", place).get
        return None if image is None else {**table.defaults, **decode_image(image)}

    def hide(self, table: Table, key: Key, cells: Mapping[bytes, Value]) -> None:
        """Keep a row that is alive beside its table, and show it no more."""
        self._are_used[table.tab, "klal_hidden"] = True
        self._connection.execute(table.delete, key)
        self._connection.execute(
            "INSERT OR REPLACE INTO klal_hidden VALUES(?,?,?,?)",
            (table.tab, encode_key(key), key_text(key), table.encode_image(cells)),
        )

    def reveal(self, table: Table, key: Key, cells: Mapping[bytes, Value]) -> None:
        """Show a row that was kept beside its table."""
        self._forget_key(table, encode_key(key), "klal_hidden")
        self._show(table, key, RowState(), RowState(cells=cells, is_alive=True))

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
            self._forget_key(table, encoded, "klal_dead")
        else:
            self._are_used[table.tab, "klal_dead"] = True
            self._connection.execute(
                "INSERT OR REPLACE INTO klal_dead VALUES(?,?,?,?,?,?,?)",
                (
                    *place,
                    now.life,
                    now.births,
                    now.was_deleted,
                    now.is_ended,
                    table.encode_image(now.cells or {}),
                ),
            )
        if now.is_alive and (now.life > 1 or now.births > 1 or now.was_deleted):
            self._are_used[table.tab, "klal_life"] = True
            self._connection.execute(
                "INSERT OR REPLACE INTO klal_life VALUES(?,?,?,?,?)", (*place, now.life, now.births, now.was_deleted)
            )
        else:
            self._forget_key(table, encoded, "klal_life")

    # -- local writes ----------------------------------------------------------------
    # A local write has seen everything applied here, so it never loses and only clears.

    def local_insert(self, table: Table, key: Key) -> int:
        """Note a local INSERT, and return the life it begins."""
        place = (table.tab, encode_key(key))
        sql = "SELECT life FROM klal_dead WHERE tab = ? AND key = ?"
        dead = self._connection.execute(sql, place).get if self._uses(table, "klal_dead") else None
        if dead is None:
            return 1
        life: int = dead + 1
        if life > LIFE_MAX:
            raise UsageError(f"key {key_text(key)} of table {table.name} has had every life a key can have")
        self._are_used[table.tab, "klal_life"] = True
        self._connection.execute("INSERT OR REPLACE INTO klal_life VALUES(?,?,?,1,0)", (*place, life))
        self._connection.execute("DELETE FROM klal_text WHERE tab = ? AND key = ?", place)
        self._forget_key(table, place[1], "klal_dead", "klal_conflict")
        return life

    def local_update(self, table: Table, key: Key, written: Iterable[int]) -> int:
        """Note a local UPDATE that writes the columns at these positions, and return the life it writes in."""
        place = (table.tab, encode_key(key))
        life, *_ = self._life(table, place[1])
        if not self._uses(table, "klal_conflict"):
            return life
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
        life, births, _ = self._life(table, place[1])
        is_ended = table.on_delete == "wins"
        image = {info.column_id: row[p] for info, p in zip(table.values, table.value_positions, strict=True)}
        self._are_used[table.tab, "klal_dead"] = True
        self._connection.execute(
            "INSERT OR REPLACE INTO klal_dead VALUES(?,?,?,?,1,?,?)",
            (*place, life, births, is_ended, table.encode_image(image)),
        )
        self._forget_key(table, place[1], "klal_life", "klal_conflict")
        return life

    def local_burial(self, table: Table, key: Key) -> int:
        """Note a local DELETE of a key that is dead already, and return the life it confirms the end of."""
        place = (table.tab, encode_key(key))
        life: int = self._connection.execute(
            "UPDATE klal_dead SET was_deleted = 1, is_ended = max(is_ended, ?) WHERE tab = ? AND key = ?"
            " RETURNING life",
            (table.on_delete == "wins", *place),
        ).get
        self._forget_key(table, place[1], "klal_conflict")
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
        self._forget_key(table, encoded, "klal_conflict")
        for entry in entries:
            if entry.column is not None and entry.column not in table.by_id:
                continue  # Of a column that was dropped: history has it.
            self._are_used[table.tab, "klal_conflict"] = True
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
