"""Local transactions: the user's SQL in, one change appended in the same SQLite transaction.

Rows, header, payload and everything the merge must remember commit together or not at
all: killed at any instant, the file holds a change wholly or not.

Source:
    Decisions D3, D4, D5, D9; protocol spec sections 5 and 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import apsw

from klal.errors import RefusedError, UnsupportedError, UsageError
from klal.model.acts import Act, Certify, Close, SchemaAct, check_act, encode_acts
from klal.model.codec import PART_COUNT_MAX, PART_SIZE_MAX, PAST_COUNT_MAX, SALT_SIZE, UNIX_MS_MAX
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, encode_header, header_hash
from klal.model.payload import encode_segment, part_root
from klal.model.schema import KLAL_ID_SIZE, Key, Value, fold, is_reserved, klal_id
from klal.ports import Clock, Entropy
from klal.rules.merge import ChangeRef, same
from klal.rules.order import OrderKey, draw_of, order_bytes, order_stamp
from klal.rules.text import Put
from klal.store.apply import Applier
from klal.store.capture import (
    Capture,
    Net,
    Row,
    Snapshot,
    TableCapture,
    encode_inserts,
    encode_update,
    segments_of_deletes,
    segments_of_inserts,
    segments_of_updates,
    written,
)
from klal.store.catalog import Catalog, Table
from klal.store.declare import policy_acts, read_ddl, read_policy
from klal.store.file import allow_klal_id, translate, unchecked
from klal.store.history import INLINE_SIZE_MAX, STATE_APPLIED, History, Log
from klal.store.local import SHAPING, is_local, put_aside
from klal.store.rows import Rows
from klal.store.sql import Connection, runner
from klal.store.sqltext import Reader, first_word, is_blank, lexemes_of, savepoint_name, words_of
from klal.store.typed import settle, travelling
from klal.store.unique import Uniques

_PartBytes = tuple[bytes, bytes, int]  # Table id, bytes, row count.
_COUNTER_MAX = 0xFFFF
_BATCH_COUNT = 1024
_PLAIN = frozenset((type(None), int, float, str, bytes, bool))
_STORABLE = (type(None), int, float, str, bytes, bytearray, memoryview)
# Ends the user's SQL. The authorizer is asked when a statement is prepared, and SQLite's cache of
# prepared statements goes by the text: without it, klal's own text would be run unasked.
_USERS = "\n--"
_DEPTH_MAX = 1 << 30  # More savepoints than can be open at once.

_READ_WORDS = {"SELECT", "VALUES", "EXPLAIN", "WITH", "PRAGMA"}
_WRITE_WORDS = {"INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"}
_TRANSACTION_WORDS = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
_UNREPLICATED_WORDS = {
    "ANALYZE": "ANALYZE is not replicated",
    "ATTACH": "ATTACH would put a second file beside this one, past klal; open it by a connection of its own",
    "DETACH": "DETACH has nothing to detach: ATTACH is not allowed here",
    "REINDEX": "REINDEX is not replicated",
    "VACUUM": "VACUUM is not replicated",
}
_READABLE_PRAGMAS = {
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "database_list",
    "data_version",
}


class Outcome(NamedTuple):
    """What one statement did: how many rows it changed, and the rows it gave with their names and declared types."""

    row_count: int
    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]
    types: tuple[str | None, ...] = ()


@dataclass(slots=True)
class Savepoint:
    """A savepoint of the user's that is open.

    Shape:
        act_count: acts noted before it. seen: what was captured before the first DDL inside it.
        forced: what was to be written, whatever it shows, before it.
    """

    name: str
    act_count: int
    forced: dict[str, tuple[dict[Key, set[int]], int]]
    seen: Snapshot | None = None


@dataclass(slots=True)
class OwnLog:
    """Counters of the own log that every commit needs at hand."""

    log: Log
    unix_ms: int
    counter: int
    past_is_fresh: bool


class Writer:
    """Runs the user's SQL on one file and appends what it did."""

    def __init__(
        self,
        connection: Connection,
        history: History,
        catalog: Catalog,
        rows: Rows,
        applier: Applier,
        clock: Clock,
        entropy: Entropy,
        path: object,
    ) -> None:
        self._connection = connection
        self._run = runner(connection)
        self._history = history
        self._catalog = catalog
        self._rows = rows
        self._applier = applier
        self._clock = clock
        self._entropy = entropy
        self._path = path
        self._acts: list[Act] = []
        self._savepoints: list[Savepoint] = []
        self._spoiled_depth = _DEPTH_MAX
        self._is_user = False
        self._is_shaping = False
        self._asked: list[tuple[int, str | None]] | None = None
        self._denied = ""
        self._salts = b""
        self._salt_at = 0
        self._plans: dict[str, str] = {}
        self.capture = Capture(connection, lambda name: catalog.by_name.get(fold(name)))
        self.uniques = Uniques(connection, history, catalog, rows)
        self.own: OwnLog | None = None
        self.epoch = 0
        connection.authorizer = self._authorize
        allow_klal_id(connection, self.new_id)

    def new_id(self) -> str:
        """Return a new key: 26 characters that nobody else makes, as DEFAULT (klal_id()) does."""
        return klal_id(self._entropy.token(KLAL_ID_SIZE))

    # -- statements ------------------------------------------------------------------

    def plan(self, sql: str) -> str:
        """Return how a statement must be run: "read", "write", "returning", "ddl", "local" or a transaction word.

        Raises:
            UsageError: SQL that klal cannot replicate, in a sentence that says so.
        """
        plan = self._plans.get(sql)
        if plan is None:
            if len(self._plans) > 1000:
                self._plans.clear()
            plan = self._plans[sql] = self._plan(sql)
        return plan

    def _plan(self, sql: str) -> str:
        word = first_word(sql)
        if word == "ALTER" and read_policy(sql) is not None:
            return "ddl"  # In words that SQLite does not know, so it is not asked.
        if word and ";" in sql.rstrip("; \t\r\n"):
            self._check_single(sql)
        if word in _TRANSACTION_WORDS:
            return word
        if word in ("CREATE", "DROP") and self._is_local(sql):
            return "local"
        if word in ("CREATE", "ALTER", "DROP"):
            return "ddl"
        if word not in _READ_WORDS | _WRITE_WORDS:
            if word in _UNREPLICATED_WORDS:
                raise UnsupportedError(_UNREPLICATED_WORDS[word])
            raise UsageError(f"near {word!r}: no statement begins so" if word else "this is no SQL statement")
        if word in ("WITH", "EXPLAIN"):
            return "read" if self._is_readonly(sql) else "returning"
        if word in _READ_WORDS:
            return "read"
        return "returning" if "RETURNING" in words_of(sql) else "write"

    def _is_local(self, sql: str) -> bool:
        """True when a CREATE or DROP is about the temp schema alone, which is nobody's but this connection's."""
        words = words_of(sql)
        if words[1:2] in (["TEMP"], ["TEMPORARY"]):
            return True
        if words[:1] == ["CREATE"] and "TEMP" not in words:
            return False
        asked: list[tuple[int, str | None]] = []
        self._asked = asked
        try:
            self._prepared(sql)
        except UsageError:
            return False  # What is not in this file may be declared all the same: a view that cannot be used.
        finally:
            self._asked = None
        return is_local(asked)

    def tables_read(self, sql: str) -> set[str]:
        """Return the names of the tables of the file that a query reads, through whatever views.

        Asked of the program that SQLite makes of it: the authorizer is not told of a table that
        is only joined by USING.
        """
        nothing = apsw._null_bindings  # type: ignore[attr-defined] # noqa: SLF001 - as apsw.ext does
        steps = self._connection.execute(f"EXPLAIN {sql}", nothing).fetchall()
        roots = {p2 for _, opcode, _, p2, p3, *_ in steps if opcode in ("OpenRead", "ReopenIdx") and p3 == 0}
        tables = self._connection.execute("SELECT rootpage, tbl_name FROM main.sqlite_schema").fetchall()
        return {name for root, name in tables if root in roots}

    def _is_readonly(self, sql: str) -> bool:
        return self._prepared(sql)[1]

    def _check_single(self, sql: str) -> None:
        """Refuse a second statement: it would run under the first one's plan (T38).

        Raises:
            UsageError: There is one.
        """
        first, _ = self._prepared(sql)
        if not is_blank(sql[len(first) :]):
            raise UsageError("want one SQL statement at a time, found more after the first")

    def _prepared(self, sql: str) -> tuple[str, bool]:
        """Return the text of the first statement of `sql`, and whether it only reads; nothing runs."""
        seen: list[tuple[str, bool]] = []

        def trace(cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
            seen.append((statement, cursor.is_readonly))
            return False

        cursor = self._connection.cursor()
        cursor.exec_trace = trace
        try:
            # Null for every parameter: the caller's are bound when the statement runs.
            nothing = apsw._null_bindings  # type: ignore[attr-defined] # noqa: SLF001 - as apsw.ext does
            cursor.execute(sql, nothing, can_cache=False)
        except apsw.ExecTraceAbort:
            pass
        except apsw.Error as error:
            raise translate(error, self._path) from error
        except UnicodeError as error:
            raise UsageError(f"a text is not valid Unicode, so it cannot travel: {error}") from error
        return seen[0] if seen else (sql, False)

    def run(self, sql: str, bindings: Any) -> Outcome:
        """Run one statement of the user's that gives rows."""
        described: list[tuple[Any, ...]] = []

        def name_columns(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
            described.append(cursor.get_description())
            return True

        with self._running() as before:
            cursor = self._connection.cursor()
            # Asked before the first step: a finished statement no longer knows its columns.
            cursor.exec_trace = name_columns
            rows = cursor.execute(sql + _USERS, _storable(bindings)).fetchall()
            columns = described[0] if described else ()
            names, types = tuple(name for name, _ in columns), tuple(declared for _, declared in columns)
            return Outcome(self._connection.total_changes() - before, names, rows, types)

    def run_quietly(self, sql: str, bindings: Any) -> tuple[int, tuple[()], tuple[()], tuple[()]]:
        """Run one statement of the user's that gives no rows."""
        # What `_running` does, without it: a context manager costs as much as a short statement.
        self._is_user = True
        try:
            self._run(sql + _USERS, _storable(bindings))
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._is_user = False
        return self._connection.changes(), (), (), ()

    def run_many(self, sql: str, rows: Iterable[Any]) -> Outcome:
        """Run one statement for each row of bindings."""
        with self._running() as before:
            table = self._table_inserted(sql)
            if table is None:
                self._connection.executemany(sql + _USERS, chain.from_iterable(_storable_batches(rows)))
            else:
                with self.capture.only_new_rows(table) as spill:
                    for batch in _storable_batches(rows):
                        self._connection.executemany(sql + _USERS, batch)
                        spill()
            return Outcome(self._connection.total_changes() - before, (), [])

    def _table_inserted(self, sql: str) -> Table | None:
        """Return the table that a statement inserts new rows into and does nothing else; None for any other."""
        reader = Reader(lexemes_of(sql))
        if not reader.skip("INSERT", "INTO") or not {"CONFLICT", "RETURNING"}.isdisjoint(words_of(sql)):
            return None
        name = reader.take_name()
        return self._catalog.by_name.get(fold(name))

    @contextmanager
    def _running(self) -> Iterator[int]:
        """Run the user's SQL: under the authorizer, any failure noted for capture and translated."""
        self._is_user = True
        try:
            yield self._connection.total_changes()
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._is_user = False

    def _fail(self, error: BaseException) -> None:
        """Note that a statement failed half-way, and raise klal's error for SQLite's."""
        # The hook's events of rows that are not there are checked against the table later.
        self.capture.is_dirty = True
        if self.capture.is_spoiled:
            self._spoiled_depth = min(self._spoiled_depth, len(self._savepoints))
        if isinstance(error, apsw.AuthError) and self._denied:
            denied, self._denied = self._denied, ""
            raise UnsupportedError(denied) from error
        if isinstance(error, apsw.Error):
            raise translate(error, self._path) from error
        if isinstance(error, UnicodeError):
            raise UsageError(f"a text is not valid Unicode, so it cannot travel: {error}") from error
        if isinstance(error, TypeError | OverflowError):
            raise UsageError(f"a value cannot be stored: {error}") from error
        if isinstance(error, KeyError):
            raise UsageError(f"the parameters name no {error.args[0]!r}, which the statement wants") from error

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, _trigger: str | None
    ) -> int:
        """Deny, while the user's SQL is prepared, what would slip past capture or into klal's tables (T41)."""
        if self._asked is not None:
            self._asked.append((action, database))
        if not self._is_user or action in (apsw.SQLITE_READ, apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE):
            return apsw.SQLITE_OK
        if action in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE):
            is_theirs = database == "temp" or (first is not None and fold(first) in self._catalog.by_name)
            # Of a TEMP trigger on a replicated table, SQLite asks about the schema of both.
            is_theirs = is_theirs or (self._is_shaping and first == "sqlite_master" and action == apsw.SQLITE_INSERT)
            return apsw.SQLITE_OK if is_theirs else self._deny(f"{first} is not a replicated table")
        if database == "temp" and action in SHAPING:
            return self._authorize_local(action, str(first), second)
        if action == apsw.SQLITE_FUNCTION:
            return apsw.SQLITE_DENY if second == "load_extension" else apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA:
            if first in _READABLE_PRAGMAS:
                return apsw.SQLITE_OK
            return self._deny(f"PRAGMA {first} is not allowed here: klal keeps the settings of its file")
        return self._deny("this SQL is not allowed here")

    def _authorize_local(self, action: int, name: str, on: str | None) -> int:
        """Deny local objects that would hide what is klal's or replicated, or listen to klal's own tables."""
        if action == apsw.SQLITE_CREATE_TEMP_TRIGGER:
            return self._deny(f"{on} is klal's own") if on is not None and is_reserved(on) else apsw.SQLITE_OK
        if fold(name) in self._catalog.by_name:
            return self._deny(f"{name} is a replicated table, which a local one of that name would hide")
        # SQLite itself names the index of a key.
        if is_reserved(name) and action not in (apsw.SQLITE_CREATE_TEMP_INDEX, apsw.SQLITE_DROP_TEMP_INDEX):
            return self._deny(f"name {name} is reserved: it begins with klal_ or sqlite_")
        return apsw.SQLITE_OK

    def _deny(self, why: str) -> int:
        self._denied = why
        return apsw.SQLITE_DENY

    def shape(self, sql: str) -> Outcome:
        """Make or drop a local object: in this connection's temp schema, and in no change."""
        self._is_shaping = True
        try:
            self.run_quietly(sql, ())
        finally:
            self._is_shaping = False
        self._plans.clear()
        self.capture.meet_locals()
        return Outcome(0, (), [])

    # -- DDL -------------------------------------------------------------------------

    def declare_policy(self, table_name: str, merge: str, on_delete: str) -> Outcome:
        """Run what an ALTER TABLE SET asks for, given in words.

        Raises:
            UsageError: No such table or policy.
        """
        try:
            acts = policy_acts(self._catalog.schema, table_name, merge, on_delete)
            for act in acts:
                check_act(act)
        except RefusedError as error:
            raise UsageError(error.message) from error
        return self._declare(acts)

    def declare(self, sql: str) -> Outcome:
        """Run a CREATE, ALTER or DROP and note it as acts.

        Raises:
            UsageError: What SQLite does not accept, or what cannot be replicated.
        """
        return self._declare(read_ddl(sql, self._catalog.schema))

    def _declare(self, acts: list[SchemaAct]) -> Outcome:
        self._connection.execute("SAVEPOINT klal_declare")
        try:
            with self.engine_writes():
                if acts:
                    self._catalog.declare(acts, is_own=True)
        except BaseException as error:
            self._connection.execute("ROLLBACK TO klal_declare")
            self._connection.execute("RELEASE klal_declare")
            self._catalog.load()
            if isinstance(error, RefusedError):
                raise UsageError(error.message) from error
            if isinstance(error, apsw.Error):
                raise translate(error, "the statement") from error
            raise
        self._connection.execute("RELEASE klal_declare")
        self._acts.extend(acts)
        unmarked = [savepoint for savepoint in self._savepoints if savepoint.seen is None]
        seen = self.capture.snapshot() if unmarked else None
        for savepoint in unmarked:
            savepoint.seen = seen
        self.capture.redeclare(self._catalog.by_id)
        self._rows.forget()
        self._plans.clear()
        return Outcome(0, (), [])

    def declare_acts(self, acts: Sequence[SchemaAct]) -> None:
        """Declare what came as data, as a ticket's schema does."""
        self._catalog.declare(acts)
        self._rows.forget()

    def note(self, act: Act) -> None:
        """Add an act to the running transaction."""
        self._acts.append(act)

    # -- savepoints ------------------------------------------------------------------

    def savepoint(self, sql: str, word: str) -> None:
        """Run the user's SAVEPOINT, RELEASE or ROLLBACK TO, keeping what was captured right."""
        try:
            self._connection.execute(sql)
        except apsw.Error as error:
            raise translate(error, self._path) from error
        name = savepoint_name(sql)
        if word == "SAVEPOINT":
            self._savepoints.append(Savepoint(name, len(self._acts), self.capture.forced_counts()))
            return
        while self._savepoints and self._savepoints[-1].name != name:
            self._savepoints.pop()
        if word == "ROLLBACK":
            # The hook is not told: what it saw is checked against the table later.
            self.capture.is_dirty = True
            if len(self._savepoints) <= self._spoiled_depth:
                self.capture.is_spoiled = False
            if self._savepoints:
                savepoint = self._savepoints[-1]
                del self._acts[savepoint.act_count :]
                if savepoint.seen is not None:
                    self.capture.restore(savepoint.seen)
                    savepoint.seen = None
                self.capture.restore_forced(savepoint.forced)
            self._catalog.load()
            self._rows.forget()
            self._plans.clear()
        elif self._savepoints:
            self._savepoints.pop()
            if self.capture.is_spoiled:
                self._spoiled_depth = min(self._spoiled_depth, len(self._savepoints))

    @contextmanager
    def engine_writes(self) -> Iterator[None]:
        """Write rows that follow from history: nobody's change, no trigger's business, and no constraint stops them."""
        with put_aside(self._connection), unchecked(self._connection), paused(self.capture):
            yield

    # -- the end of a transaction ------------------------------------------------------

    def clear(self) -> None:
        """Forget the running transaction."""
        self._spoiled_depth = _DEPTH_MAX
        self.capture.clear()
        self._acts.clear()
        self._savepoints.clear()

    def flush(self) -> int | None:
        """Append what the running transaction did, and return its number in the own log; None when it did nothing.

        Raises:
            UsageError: Rows that cannot be told apart elsewhere, or too many tables at once.
        """
        capture = self.capture
        if capture.is_spoiled:
            raise UsageError("a row that cannot travel was written by a statement that failed, so nothing was stored")
        parts: list[_PartBytes] = []
        if self._acts:
            parts.append((ACTS_TABLE, encode_acts(tuple(self._acts), self._salt()), len(self._acts)))
        only = capture.only()
        part = None if only is None else self._plain_part(only)
        if part is not None:
            parts.append(part)
        elif not capture.is_empty:
            parts.extend(self._part(table, net) for table, net in self._net())
        if not parts:
            return None
        seq = self.append(parts)
        if self._catalog.unsettled:
            with self.engine_writes():
                self.uniques.settle()
        return seq

    def _plain_part(self, capture: TableCapture) -> _PartBytes | None:
        """Return the part of new rows, or of one row updated, in a table that remembers nothing of any key.

        None for whatever else happened. Law: the part is the one that `_part` makes of the
        same rows; here nothing is looked up or folded key by key.
        """
        table = capture.table
        if self._rows.has_side(table) or table.tab in self._catalog.unbuilt or table.typed:
            return None
        if not capture.is_mixed:
            return self._part_of_inserts(capture)
        is_one = len(capture.events) == 1 and not capture.forced and not capture.burials and table.merge == "cell"
        encoded = encode_update(table, *capture.events[0]) if is_one else None
        return None if encoded is None else (table.table_id, self._salt() + encoded, 1)

    def _net(self) -> Iterator[tuple[Table, Net]]:
        for capture in self.capture.captures():
            # A reinserted key has a life of its own, which spilled inserts do not name.
            if capture.spilled and self._rows.has_side(capture.table):
                capture.mix()
        return self.capture.net()

    def _part_of_inserts(self, capture: TableCapture) -> _PartBytes:
        table, rows = capture.table, capture.inserted
        encoded = [self._salt(), *capture.spilled]
        if rows:
            encoded.append(encode_inserts(table, rows))
        return table.table_id, b"".join(encoded), capture.spilled_count + len(rows)

    def _salt(self) -> bytes:
        """Return 16 bytes never returned before, drawn from the dice many at a time."""
        at = self._salt_at
        if at == len(self._salts):
            self._salts = self._entropy.token(256 * SALT_SIZE)
            at = 0
        self._salt_at = at + SALT_SIZE
        return self._salts[at : at + SALT_SIZE]

    def _part(self, table: Table, net: Net) -> _PartBytes:
        if table.typed:
            with self.engine_writes():
                settle(self._connection, table, net)
        lives: dict[Key, int] = {}
        has_side = self._rows.has_side(table)
        has_hidden = has_side and self._rows.has_hidden(table)
        if has_hidden or table.tab in self._catalog.unbuilt:
            self._catalog.touch(table.tab, (*net.inserts, *net.updates, *net.deletes))
        if has_hidden:
            changed = [key for key, (old, new) in net.updates.items() if self._touches_unique(table, old, new)]
            self.uniques.check_local(table, [*net.inserts, *changed])
        for key, row in net.deletes.items():
            lives[key] = self._rows.local_delete(table, key, row)
        for key in net.burials:
            lives[key] = self._rows.local_burial(table, key)
        forced = self.capture.of(table).forced
        updates: dict[Key, tuple[tuple[int, ...], Sequence[Value]]] = {
            key: (written(table, old, new, forced.get(key, ())), new) for key, (old, new) in net.updates.items()
        }
        if has_side:
            for key in net.inserts:
                lives[key] = self._rows.local_insert(table, key)
            for key, (positions, _) in updates.items():
                lives[key] = self._rows.local_update(table, key, positions)
        if table.typed:
            for key, (positions, _) in updates.items():
                updates[key] = (positions, self._travelling(table, key, positions, *net.updates[key]))

        def life_of(key: Key) -> int:
            return lives.get(key, 1)

        segments = [
            *segments_of_deletes(table, [*net.deletes, *net.burials], life_of),
            *segments_of_updates(table, updates, life_of),
            *segments_of_inserts(table, net.inserts, life_of),
        ]
        encoded = [*net.spilled, *map(encode_segment, segments)]
        count = net.spilled_count + sum(segment.row_count for segment in segments)
        return table.table_id, b"".join((self._salt(), *encoded)), count

    @staticmethod
    def _touches_unique(table: Table, old: Row, new: Row) -> bool:
        return any(
            info.column_id in table.unique_ids and not same(before, after)
            for info, before, after in zip(table.columns, old, new, strict=True)
        )

    def _travelling(self, table: Table, key: Key, positions: tuple[int, ...], old: Row, new: Row) -> Row:
        """Return what an UPDATE of counters, sets and texts carries, and keep the documents of the texts."""
        row, edits = travelling(table, positions, old, new)
        own = self.own
        assert own is not None, "a write transaction has a log to write to"
        for position, made in edits.items():
            put = Put(own.log.log, self._next_seq(own))
            column_id, was = table.columns[position].column_id, str(old[position])
            self._rows.local_edits(table, key, column_id, was, made, put, own.log.origin)
        return row

    def _next_seq(self, own: OwnLog) -> int:
        """Return the number of the change that is being made: `append` may put headers without payload before it."""
        if own.past_is_fresh:
            return own.log.length
        heads = self._history.maximal_heads(self._history.head_vector(own.log))
        others = sum(head.log != own.log.log for head in heads)
        return own.log.length + max(0, -(-others // PAST_COUNT_MAX) - 1)

    def append(self, parts: Sequence[_PartBytes], heads: Sequence[ChangeRef] = ()) -> int:
        """Append one change with these parts to the own log, and return its number.

        Args:
            parts: At most one of a table.
            heads: Applied heads that the change names as its past; those not named yet are added.
        """
        own = self.own
        assert own is not None, "a write transaction has a log to write to"
        if not own.past_is_fresh:
            heads = self._meet(own)
        history, log = self._history, own.log
        seq = log.length
        past = self._see_past(ChangeRef(log.log, seq), heads) if heads else ()
        if len(parts) == 1:
            table_id, payload, row_count = parts[0]
            sizes = [(table_id, part_root(payload), len(payload), row_count)]
        elif len(parts) > PART_COUNT_MAX:
            raise UsageError(f"the transaction writes {len(parts)} tables, want at most {PART_COUNT_MAX}")
        else:
            parts = sorted(parts)
            sizes = [(table_id, part_root(data), len(data), row_count) for table_id, data, row_count in parts]
            payload = b"".join([data for _, data, _ in parts])
        if len(payload) > PART_SIZE_MAX:
            raise UsageError(f"the transaction writes {len(payload)} bytes, want at most {PART_SIZE_MAX}")
        closed = self._applier.closed
        certificate = closed[-1].certificate_hash if closed else NO_CERTIFICATE
        clock = self._tick(own)
        backlink = log.head_hash if seq else log.log_id
        acts = self._acts if parts else ()  # A header that only joins heads is not the one that the acts are in.
        is_sealed = bool(acts) and any(isinstance(act, Close | Certify) for act in acts)
        encoded = encode_header(seq, self.epoch, clock, backlink, certificate, past, sizes, is_sealed=is_sealed)
        hashed = header_hash(history.space_id, encoded)
        past_stamp_max = max((history.logs[head.log].order_stamp for head in heads), default=0)
        stamp = order_stamp(clock >> 16, self._applier.not_after_ms, max(log.order_stamp, past_stamp_max))
        is_inline = len(payload) <= INLINE_SIZE_MAX
        lsn = history.append(log, encoded, hashed, STATE_APPLIED, stamp, payload if is_inline else None)
        if not is_inline:
            for index, (_, data, _) in enumerate(parts):
                history.store_slices(lsn, index, data)
        log.payload_length = log.applied_length = seq + 1
        log.order_stamp = stamp
        if log.vector is not None:
            log.vector[log.log] = seq + 1
        if acts and any(isinstance(act, SchemaAct) for act in acts):
            draw = draw_of(history.space_id, certificate, log.member_id)
            self._catalog.name_order(order_bytes(OrderKey(stamp, draw, hashed)))
            self._applier.lost.note_drops(ChangeRef(log.log, seq), acts, history.head_vector(log), {})
        return seq

    def _meet(self, own: OwnLog) -> list[ChangeRef]:
        """Return the applied heads that the own log has not named yet.

        With more than a header can name, headers without payload join them first (D5).
        """
        own.past_is_fresh = True
        heads = self._history.maximal_heads(self._history.head_vector(own.log))
        heads = [head for head in heads if head.log != own.log.log]
        start = 0
        while len(heads) - start > PAST_COUNT_MAX:
            self.append((), heads[start : start + PAST_COUNT_MAX])
            start += PAST_COUNT_MAX
        return heads[start:]

    def _see_past(self, ref: ChangeRef, heads: Sequence[ChangeRef]) -> list[bytes]:
        """Record what these heads bring into the past of `ref`, and return their hashes, ascending."""
        history = self._history
        log = history.logs[ref.log]
        rose = history.risen(log, heads)
        history.record_past(ref, rose)
        history.head_vector(log).update(rose)
        return sorted(history.hash_at(head) for head in heads)

    def _tick(self, own: OwnLog) -> int:
        """Return the next stamp of the hybrid logical clock: unix_ms << 16 | counter, always rising."""
        unix_ms = self._clock.unix_ms()
        if unix_ms >= UNIX_MS_MAX:
            unix_ms = UNIX_MS_MAX - 1
        if unix_ms > own.unix_ms:
            own.unix_ms, own.counter = unix_ms, 0
        elif own.counter < _COUNTER_MAX:
            own.counter += 1
        else:
            own.unix_ms, own.counter = own.unix_ms + 1, 0
        return own.unix_ms << 16 | own.counter


def _storable(bindings: Any) -> Any:
    """Return the bindings if SQLite stores each as what it is.

    apsw takes whatever has a buffer for a blob: a numpy integer would become its eight bytes.

    Raises:
        TypeError: It names the type.
    """
    if type(bindings) in (tuple, list) and _PLAIN.issuperset(map(type, bindings)):
        return bindings  # As nearly always: asked first, since whether something is a Mapping costs more.
    values = bindings.values() if isinstance(bindings, Mapping) else bindings
    if not isinstance(values, Iterable) or _PLAIN.issuperset(map(type, values)):
        return bindings
    for value in values:
        if not isinstance(value, _STORABLE):
            raise TypeError(f"{type(value).__module__}.{type(value).__name__}, want None, int, float, str or bytes")
    return bindings


def _storable_batches(rows: Iterable[Any]) -> Iterator[Iterable[Any]]:
    """Yield the rows of bindings in batches, looked at together: one by one, that costs as much as inserting them.

    Raises:
        TypeError: It names the type that SQLite would not store as what it is.
    """
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH_COUNT)):
        is_plain = set(map(type, batch)) <= {tuple, list} and _PLAIN.issuperset(map(type, chain.from_iterable(batch)))
        yield batch if is_plain else map(_storable, batch)


@contextmanager
def paused(capture: Capture) -> Iterator[None]:
    """Run the engine's own writes to the user's tables without seeing them as the user's."""
    capture.stop()
    try:
        yield
    finally:
        capture.start()
