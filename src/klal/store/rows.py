"""What the merge must remember of single keys, and the user's rows seen as row states.

Most keys have nothing here: a row in its first life, never deleted, without conflict, is
just the user's row. So every question begins with "does this table have anything at all".

Source:
    Protocol spec section 10, rules MRG-2 and MRG-7. Decision D10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
_NEVER_WRITTEN = RowState()

Run = Callable[[str, tuple[Any, ...]], object]
"""Runs a statement, now or with others of its text; of those about one key, all DELETEs come first."""


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
        return self.load_all(table, [key])[0]

    def load_all(self, table: Table, keys: Sequence[Key]) -> list[RowState]:
        """Return the states of keys."""
        encoded = [encode_key(key) for key in keys]
        shown = self._shown_cells(table, keys)
        hidden = self._hidden_cells(table, encoded)
        entries = self._entries(table, encoded)
        documents = self._documents(table, encoded)
        lives = self._lives(table, encoded)
        dead = self._dead(table, encoded)
        states = []
        for number, name in enumerate(encoded):
            cells = shown.get(number, hidden.get(name))
            if cells is not None:
                life, births, was_deleted = lives.get(name, (1, 1, 0))
                state = RowState(life, cells, is_alive=True, births=births, was_deleted=bool(was_deleted))
            else:
                state = dead.get(name, _NEVER_WRITTEN)
            if name in entries or name in documents:
                state = replace(state, entries=tuple(entries.get(name, ())), documents=dict(documents.get(name, ())))
            states.append(state)
        return states

    def _shown_cells(self, table: Table, keys: Sequence[Key]) -> dict[int, dict[bytes, Value]]:
        """Return the cells of the rows that the table shows, by their place among `keys`."""
        ids = table.value_ids
        # What SQLite takes for the same key is its own affair, so each row comes with the place it was asked for.
        rows = self._connection.executemany(table.select_numbered, ((place, *key) for place, key in enumerate(keys)))
        return {place: dict(zip(ids, cells, strict=True)) for place, *cells in rows}

    def _lives(self, table: Table, encoded: Sequence[bytes]) -> dict[bytes, tuple[int, int, int]]:
        """Return (life, births, was deleted) of those rows that have more than a first life."""
        rows = self._side_rows(table, encoded, "klal_life", "life, births, was_deleted")
        return {name: (life, births, was_deleted) for name, life, births, was_deleted in rows}

    def _dead(self, table: Table, encoded: Sequence[bytes]) -> dict[bytes, RowState]:
        return {
            name: RowState(
                life,
                {**table.defaults, **decode_image(image)},
                births=births,
                was_deleted=bool(was_deleted),
                is_ended=bool(is_ended),
            )
            for name, life, births, was_deleted, is_ended, image in self._side_rows(
                table, encoded, "klal_dead", "life, births, was_deleted, is_ended, image"
            )
        }

    def _side_rows(self, table: Table, encoded: Sequence[bytes], side: str, columns: str, rest: str = "") -> list[Any]:
        """Return (key, columns) of what a side table holds of keys, which may be nothing."""
        if not self._uses(table, side):
            return []
        sql = f"SELECT key, {columns} FROM {side} WHERE tab = ? AND key = ? {rest}"
        return self._connection.executemany(sql, ((table.tab, name) for name in encoded)).fetchall()

    def save_all(self, table: Table, changes: Iterable[tuple[Key, RowState, RowState]]) -> None:
        """Make the file show, of each of several keys, the last state where it showed the one before."""
        together = _Together()
        # Where UNIQUE may hide a row, each finds those before it in their places.
        run: Run = self._connection.execute if table.uniques else together.add
        for key, was, now in changes:
            encoded = encode_key(key)
            self._place(run, table, key, encoded, was, now)
            self._remember(run, table, encoded, was, now)
            if was.entries != now.entries:
                self._save_entries(run, table, encoded, key, was, now)
            if was.documents != now.documents:
                self._save_documents(run, table, encoded, now.documents)
        together.execute(self._connection)

    def _place(self, run: Run, table: Table, key: Key, encoded: bytes, was: RowState, now: RowState) -> None:
        is_hidden = bool(self._hidden_cells(table, [encoded]))
        if now.is_alive and is_hidden:
            # Whether it may be seen now is settled when the batch is done.
            self.hide(table, key, now.cells or {})
        elif now.is_alive:
            try:
                self._show(run, table, key, was, now)
            except apsw.ConstraintError as error:
                if getattr(error, "extendedresult", 0) != apsw.SQLITE_CONSTRAINT_UNIQUE:
                    raise
                self.hide(table, key, now.cells or {})
        elif is_hidden:
            self._forget_key(table, encoded, "klal_hidden")
        elif was.is_alive:
            run(table.delete, key)

    # -- rows that UNIQUE hides ----------------------------------------------------------

    def has_hidden(self, table: Table) -> bool:
        """True when some row of the table is alive and not shown."""
        sql = "SELECT 1 FROM klal_hidden WHERE tab = ? LIMIT 1"
        return self._uses(table, "klal_hidden") and self._connection.execute(sql, (table.tab,)).get == 1

    def hidden(self, table: Table) -> dict[Key, dict[bytes, Value]]:
        """Return the rows of a table that are alive and not shown: key -> cells."""
        rows = self._connection.execute("SELECT key, image FROM klal_hidden WHERE tab = ?", (table.tab,)).fetchall()
        return {decode_key(key): {**table.defaults, **decode_image(image)} for key, image in rows}

    def _hidden_cells(self, table: Table, encoded: Sequence[bytes]) -> dict[bytes, dict[bytes, Value]]:
        rows = self._side_rows(table, encoded, "klal_hidden", "image")
        return {name: {**table.defaults, **decode_image(image)} for name, image in rows}

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
        self._show(self._connection.execute, table, key, _NEVER_WRITTEN, RowState(cells=cells, is_alive=True))

    def _show(self, run: Run, table: Table, key: Key, was: RowState, now: RowState) -> None:
        cells = now.cells or {}
        columns = tuple(info for info in table.values if info.column_id in cells)
        if not was.is_alive:
            # A column the life never wrote takes its default, as a plain INSERT would.
            row = (*key, *(cells[info.column_id] for info in columns))
            run(table.insert(columns, 1), row)
            return
        if now.life != was.life:
            run(table.delete, key)
            self._show(run, table, key, _NEVER_WRITTEN, now)
            return
        before = was.cells or {}
        changed = tuple(
            info
            for info in columns
            if info.column_id not in before or before[info.column_id] is not cells[info.column_id]
        )
        if changed:
            values = (*(cells[info.column_id] for info in changed), *key)
            run(table.update(changed), values)

    def _remember(self, run: Run, table: Table, encoded: bytes, was: RowState, now: RowState) -> None:
        place = (table.tab, encoded)
        if _is_dead(now):
            self._are_used[table.tab, "klal_dead"] = True
            run(
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
        elif _is_dead(was):
            run("DELETE FROM klal_dead WHERE tab = ? AND key = ?", place)
        if _has_lived(now):
            self._are_used[table.tab, "klal_life"] = True
            run("INSERT OR REPLACE INTO klal_life VALUES(?,?,?,?,?)", (*place, now.life, now.births, now.was_deleted))
        elif _has_lived(was):
            run("DELETE FROM klal_life WHERE tab = ? AND key = ?", place)

    # -- local writes ----------------------------------------------------------------
    # A local write has seen everything applied here, so it never loses and only clears.

    def _life(self, table: Table, encoded: bytes) -> tuple[int, int]:
        """Return (life, births) of a row that is alive."""
        if not self._uses(table, "klal_life"):
            return 1, 1
        sql = "SELECT life, births FROM klal_life WHERE tab = ? AND key = ?"
        side: tuple[int, int] | None = self._connection.execute(sql, (table.tab, encoded)).fetchone()
        return side or (1, 1)

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
        life, _ = self._life(table, place[1])
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
        life, births = self._life(table, place[1])
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

    def local_edits(
        self, table: Table, key: Key, column_id: bytes, old: str, edits: list[Edit], put: Put, log_id: bytes
    ) -> None:
        """Keep the document of a text that was edited here."""
        place = (table.tab, encode_key(key), column_id)
        kept = self._connection.execute(
            "SELECT document FROM klal_text WHERE tab = ? AND key = ? AND column_id = ?", place
        ).get
        document = begun(old) if kept is None else decode_document(kept)
        self._are_used[table.tab, "klal_text"] = True
        self._connection.execute(
            "INSERT OR REPLACE INTO klal_text VALUES(?,?,?,?)",
            (*place, edited(document, edits, put, log_id, ()).encode()),
        )

    # -- documents of texts ------------------------------------------------------------

    def _documents(self, table: Table, encoded: Sequence[bytes]) -> dict[bytes, list[tuple[bytes, Document]]]:
        found: dict[bytes, list[tuple[bytes, Document]]] = {}
        if table.has_text:
            for name, column_id, document in self._side_rows(table, encoded, "klal_text", "column_id, document"):
                found.setdefault(name, []).append((column_id, decode_document(document)))
        return found

    def _save_documents(self, run: Run, table: Table, encoded: bytes, documents: Mapping[bytes, Document]) -> None:
        self._are_used[table.tab, "klal_text"] = True
        run("DELETE FROM klal_text WHERE tab = ? AND key = ?", (table.tab, encoded))
        for column_id, document in documents.items():
            run("INSERT INTO klal_text VALUES(?,?,?,?)", (table.tab, encoded, column_id, document.encode()))

    # -- conflicts -------------------------------------------------------------------

    def _entries(self, table: Table, encoded: Sequence[bytes]) -> dict[bytes, list[Entry]]:
        found: dict[bytes, list[Entry]] = {}
        columns = "column_id, log, seq, life, value, winner_log, winner_seq, winner_value"
        for name, column, log, seq, life, value, winner_log, winner_seq, winner_value in self._side_rows(
            table, encoded, "klal_conflict", columns, "ORDER BY column_id, log, seq"
        ):
            winner = None if winner_log is None else ChangeRef(winner_log, winner_seq)
            entry = Entry(column or None, ChangeRef(log, seq), life, value, winner, winner_value)
            found.setdefault(name, []).append(entry)
        return found

    def _save_entries(self, run: Run, table: Table, encoded: bytes, key: Key, was: RowState, now: RowState) -> None:
        if was.entries:
            run("DELETE FROM klal_conflict WHERE tab = ? AND key = ?", (table.tab, encoded))
        text = key_text(key)
        for entry in now.entries:
            if entry.column is not None and entry.column not in table.by_id:
                continue  # Of a column that was dropped: history has it.
            self._are_used[table.tab, "klal_conflict"] = True
            run(
                "INSERT INTO klal_conflict VALUES(?,?,?,?,?,?,?,?,?,?,?)",
                (
                    table.tab,
                    encoded,
                    entry.column or _DELETE_COLUMN,
                    *entry.change,
                    entry.life,
                    text,
                    entry.value,
                    *(entry.winner or (None, None)),
                    entry.winner_value,
                ),
            )


class _Together:
    """Statements about different keys, gathered by their text and run many at once."""

    def __init__(self) -> None:
        self._bindings: dict[str, list[tuple[Any, ...]]] = {}

    def add(self, sql: str, bindings: tuple[Any, ...]) -> None:
        self._bindings.setdefault(sql, []).append(bindings)

    def execute(self, connection: Connection) -> None:
        # Of one key, whatever is deleted makes room for what is inserted.
        for sql in sorted(self._bindings, key=lambda sql: not sql.startswith("DELETE")):
            connection.executemany(sql, self._bindings[sql])


def _is_dead(state: RowState) -> bool:
    """True when a line of klal_dead holds this state."""
    return not state.is_alive and state.life > 0


def _has_lived(state: RowState) -> bool:
    """True when a line of klal_life holds more of this state than that the row is there."""
    return state.is_alive and (state.life > 1 or state.births > 1 or state.was_deleted)
