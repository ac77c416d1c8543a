"""Local transactions: the user's SQL in, one change appended in the same SQLite transaction.

Rows, header, payload and everything the merge must remember commit together or not at
all: killed at any instant, the file holds a change wholly or not.

Source:
    Decisions D3, D4, D5, D9; protocol spec sections 5 and 10.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from klal.errors import RefusedError, UsageError
from klal.model.acts import Act, AddColumn, Close, CreateTable, SetPolicy, check_act, encode_acts
from klal.model.codec import PART_COUNT_MAX, PART_SIZE_MAX, PAST_COUNT_MAX, SALT_SIZE, UNIX_MS_MAX, tree_leaf
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Part, encode_header, header_hash
from klal.model.payload import encode_segment, part_root
from klal.model.schema import TABLE_COLUMN_COUNT_GROWN_MAX, Key, Value, check_definition, fold
from klal.ports import Clock, Entropy
from klal.rules.merge import ChangeRef
from klal.rules.order import OrderKey, draw_of, order_stamp
from klal.rules.text import Put
from klal.store.apply import Applier, order_bytes
from klal.store.capture import (
    Capture,
    Net,
    Row,
    TableCapture,
    encode_inserts,
    segments_of_deletes,
    segments_of_inserts,
    segments_of_updates,
    written,
)
from klal.store.catalog import Catalog, Table, check_addable
from klal.store.declare import (
    added_column,
    created_table,
    first_word,
    is_blank,
    savepoint_name,
    set_policy,
    words_of,
)
from klal.store.file import allow_klal_id, translate
from klal.store.history import INLINE_SIZE_MAX, STATE_APPLIED, History, Log
from klal.store.rows import Rows
from klal.store.sql import Connection
from klal.store.typed import settle, travelling

_UNNAMED_ORDER = b"\xff" * 72  # Sorts after every real order key; replaced when the change has one.
_COUNTER_MAX = 0xFFFF
# Ends the user's SQL. The authorizer is asked when a statement is prepared, and SQLite's cache of
# prepared statements goes by the text: without it, klal's own text would be run unasked.
_USERS = "\n--"
_DEPTH_MAX = 1 << 30  # More savepoints than can be open at once.
_ID_SIZE = 16

_READ_WORDS = {"SELECT", "VALUES", "EXPLAIN", "WITH", "PRAGMA"}
_WRITE_WORDS = {"INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"}
_TRANSACTION_WORDS = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
_UNREPLICATED_WORDS = {"ANALYZE", "ATTACH", "DETACH", "DROP", "REINDEX", "VACUUM"}
_READABLE_PRAGMAS = {
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "foreign_key_list",
    "data_version",
}


class Outcome(NamedTuple):
    """What one statement did: rows it gave, rows it changed, and the change it made, if any."""

    row_count: int
    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]


@dataclass(slots=True)
class OwnLog:
    """Counters of the own log that every commit needs at hand."""

    log: Log
    unix_ms: int
    counter: int
    stamp_max: int
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
        self._history = history
        self._catalog = catalog
        self._rows = rows
        self._applier = applier
        self._clock = clock
        self._entropy = entropy
        self._path = path
        self._acts: list[Act] = []
        self._savepoints: list[tuple[str, int]] = []
        self._spoiled_depth = _DEPTH_MAX
        self._is_user = False
        self._salts = b""
        self._salt_at = 0
        self._plans: dict[str, str] = {}
        self.capture = Capture(connection, lambda name: catalog.by_name.get(fold(name)))
        self.own: OwnLog | None = None
        self.epoch = 0
        connection.authorizer = self._authorize
        allow_klal_id(connection, self.new_id)

    def new_id(self) -> str:
        """Return a new key: 26 characters that nobody else makes, as DEFAULT (klal_id()) does."""
        return base64.b32encode(self._entropy.token(_ID_SIZE)).decode().rstrip("=").lower()

    # -- statements ------------------------------------------------------------------

    def plan(self, sql: str) -> str:
        """Return how a statement must be run: "read", "write", "returning", "ddl" or a transaction word.

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
        if word == "ALTER" and set_policy(sql) is not None:
            return "ddl"  # In words that SQLite does not know, so it is not asked.
        if word and ";" in sql.rstrip("; \t\r\n"):
            self._check_single(sql)
        if word in _TRANSACTION_WORDS:
            return word
        if word in ("CREATE", "ALTER"):
            return "ddl"
        if word not in _READ_WORDS | _WRITE_WORDS:
            if word in _UNREPLICATED_WORDS:
                raise UsageError(f"{word} is not replicated by this version")
            raise UsageError(f"near {word!r}: no statement begins so" if word else "this is no SQL statement")
        if word in ("WITH", "EXPLAIN"):
            return "read" if self._is_readonly(sql) else "returning"
        if word in _READ_WORDS:
            return "read"
        return "returning" if "RETURNING" in words_of(sql) else "write"

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

    def run(self, sql: str, bindings: Any, *, gives_rows: bool = True) -> Outcome:
        """Run one read or write statement of the user's inside the running transaction.

        Args:
            gives_rows: False spares the work of naming columns that are not there.
        """
        columns: list[tuple[str, ...]] = []

        def name_columns(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
            columns.append(tuple(name for name, *_ in cursor.get_description()))
            return True

        if not gives_rows:
            return Outcome(self.run_quietly(sql, bindings), (), [])
        with self._running() as before:
            cursor = self._connection.cursor()
            # Asked before the first step: a finished statement no longer knows its columns.
            cursor.exec_trace = name_columns
            rows = cursor.execute(sql + _USERS, bindings).fetchall()
            return Outcome(self._connection.total_changes() - before, columns[0] if columns else (), rows)

    def run_quietly(self, sql: str, bindings: Any) -> int:
        """Run a statement that gives no rows, and return how many it changed: kept short, as `run_step` is."""
        connection = self._connection
        before = connection.total_changes()
        self._is_user = True
        try:
            connection.execute(sql + _USERS, bindings)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._is_user = False
        return connection.total_changes() - before

    def run_many(self, sql: str, rows: Iterable[Any]) -> Outcome:
        """Run one statement for each row of bindings."""
        with self._running() as before:
            self._connection.executemany(sql + _USERS, rows)
            return Outcome(self._connection.total_changes() - before, (), [])

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
        if isinstance(error, apsw.Error):
            raise translate(error, self._path) from error
        if isinstance(error, UnicodeError):
            raise UsageError(f"a text is not valid Unicode, so it cannot travel: {error}") from error
        if isinstance(error, TypeError | OverflowError):
            raise UsageError(f"a value cannot be stored: {error}") from error

    def _authorize(
        self, action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
    ) -> int:
        """Deny, while the user's SQL is prepared, what would slip past capture or into klal's tables (T41)."""
        if not self._is_user or action in (apsw.SQLITE_READ, apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE):
            return apsw.SQLITE_OK
        if action in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE):
            is_theirs = first is not None and fold(first) in self._catalog.by_name
            return apsw.SQLITE_OK if is_theirs else apsw.SQLITE_DENY
        if action == apsw.SQLITE_FUNCTION:
            return apsw.SQLITE_DENY if second == "load_extension" else apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA:
            return apsw.SQLITE_OK if first in _READABLE_PRAGMAS else apsw.SQLITE_DENY
        return apsw.SQLITE_DENY

    # -- DDL -------------------------------------------------------------------------

    def declare(self, sql: str) -> Outcome:
        """Run a CREATE TABLE or ALTER TABLE ADD COLUMN and note it as an act.

        Raises:
            UsageError: Anything else, or what cannot be replicated.
        """
        word = "ALTER" if first_word(sql) == "ALTER" else "CREATE"
        try:
            policy = set_policy(sql)
            if word == "CREATE":
                self._create(sql)
            elif policy is not None:
                self._set_policy(*policy)
            else:
                table_name, column = added_column(sql, self._catalog.definitions())
                table = self._catalog.named(table_name)
                check_addable(column)
                if len(table.columns) >= TABLE_COLUMN_COUNT_GROWN_MAX:
                    raise UsageError(
                        f"table {table.name} has {len(table.columns)} columns, which is as wide as one may grow"
                    )
                self._catalog.declare_column(table.table_id, column)
                self._acts.append(AddColumn(table.table_id, column))
                self.capture.retable(self._catalog.by_id[table.table_id])
        except RefusedError as error:
            raise UsageError(error.message) from error
        self._plans.clear()
        return Outcome(0, (), [])

    def declare_policy(self, table_name: str, merge: str, on_delete: str) -> Outcome:
        """Run what an ALTER TABLE SET asks for, given in words.

        Raises:
            UsageError: No such table or policy.
        """
        try:
            self._set_policy(table_name, merge, on_delete)
        except RefusedError as error:
            raise UsageError(error.message) from error
        return Outcome(0, (), [])

    def _set_policy(self, table_name: str, merge: str, on_delete: str) -> None:
        """Set how writes of a table are made from here on, and note it as an act."""
        table = self._catalog.named(table_name)
        act = SetPolicy(table.table_id, merge, on_delete)
        check_act(act)
        self._catalog.set_policy(act, _UNNAMED_ORDER)
        self._acts.append(act)
        self.capture.retable(self._catalog.by_id[table.table_id])

    def _create(self, sql: str) -> None:
        kind = [word for word in words_of(sql)[:5] if word in ("TABLE", "INDEX", "VIEW", "TRIGGER")]
        if kind[:1] != ["TABLE"]:
            raise UsageError(f"CREATE {kind[0] if kind else '...'} is not replicated by this version")
        definition = created_table(sql, self._catalog.definitions())
        if definition is None:
            return
        check_definition(definition)
        if definition.table_id in self._catalog.by_id:
            raise UsageError(f"table {definition.name} was declared already, under another name here")
        self._catalog.declare_table(definition, _UNNAMED_ORDER)
        self._acts.append(CreateTable(definition))

    def declare_act(self, act: CreateTable | AddColumn) -> None:
        """Declare a table or column that came as data, as a ticket's do."""
        if isinstance(act, CreateTable):
            self._catalog.declare_table(act.definition, _UNNAMED_ORDER)
        else:
            self._catalog.declare_column(act.table_id, act.column)

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
            self._savepoints.append((name, len(self._acts)))
            return
        while self._savepoints and self._savepoints[-1][0] != name:
            self._savepoints.pop()
        if word == "ROLLBACK":
            # The hook is not told: what it saw is checked against the table later.
            self.capture.is_dirty = True
            if len(self._savepoints) <= self._spoiled_depth:
                self.capture.is_spoiled = False
            if self._savepoints:
                del self._acts[self._savepoints[-1][1] :]
            self._catalog.load()
            self.capture.renew()
        elif self._savepoints:
            self._savepoints.pop()
            if self.capture.is_spoiled:
                self._spoiled_depth = min(self._spoiled_depth, len(self._savepoints))

    # -- the end of a transaction ------------------------------------------------------

    def clear(self) -> None:
        """Forget the running transaction."""
        self._spoiled_depth = _DEPTH_MAX
        self.capture.clear()
        self._acts.clear()
        self._savepoints.clear()

    def flush(self) -> ChangeRef | None:
        """Append what the running transaction did; None when it did nothing.

        Raises:
            UsageError: Rows that cannot be told apart elsewhere, or too many tables at once.
        """
        if self.capture.is_spoiled:
            raise UsageError("a row that cannot travel was written by a statement that failed, so nothing was stored")
        parts: list[tuple[bytes, bytes, int]] = []
        if self._acts:
            parts.append((ACTS_TABLE, encode_acts(tuple(self._acts), self._salt()), len(self._acts)))
        if not self.capture.is_empty:
            only = self.capture.only_inserts()
            if only is not None and not self._rows.has_side(only.table):
                parts = [*parts, self._part_of_inserts(only)] if parts else [self._part_of_inserts(only)]
            else:
                parts.extend(self._part(table, net) for table, net in self._net())
        if not parts:
            return None
        return self.append(parts)

    def flush_insert(self) -> ChangeRef | None:
        """Append a transaction that did nothing but insert one row; None when it did anything else.

        Law: the change is the one that `flush` would append.
        """
        own, capture = self.own, self.capture.only_inserts()
        if own is None or capture is None or self._acts or not own.past_is_fresh:
            return None
        rows, table = capture.inserted, capture.table
        if len(rows) != 1 or capture.spilled or self._rows.has_side(table):
            return None
        history, log = self._history, own.log
        payload = self._salt() + encode_inserts(table, rows)
        if len(payload) > INLINE_SIZE_MAX:
            return None
        seq, closed, clock = log.length, self._applier.closed, self._tick(own)
        part = (table.table_id, tree_leaf(payload), len(payload), 1)
        certificate = closed[-1].certificate_hash if closed else NO_CERTIFICATE
        backlink = log.head_hash if seq else log.log_id
        encoded = encode_header(seq, self.epoch, clock, backlink, certificate, (), (part,))
        own.stamp_max = stamp = order_stamp(clock >> 16, self._applier.not_after_ms, own.stamp_max)
        history.append(log, encoded, header_hash(history.space_id, encoded), STATE_APPLIED, stamp, payload)
        log.payload_length = log.applied_length = seq + 1
        log.order_stamp = stamp
        if log.vector is not None:
            log.vector[log.log] = seq + 1
        return ChangeRef(log.log, seq)

    def _net(self) -> Iterator[tuple[Table, Net]]:
        for capture in self.capture.captures():
            # A reinserted key has a life of its own, which spilled inserts do not name.
            if capture.spilled and self._rows.has_side(capture.table):
                capture.mix()
        return self.capture.net()

    def _part_of_inserts(self, capture: TableCapture) -> tuple[bytes, bytes, int]:
        """Return the part of a transaction that only inserted new keys in one table."""
        encoded = capture.spilled
        count = capture.spilled_count + len(capture.inserted)
        if capture.inserted:
            encoded = [*encoded, encode_inserts(capture.table, capture.inserted)]
        return capture.table.table_id, b"".join((self._salt(), *encoded)), count

    def _salt(self) -> bytes:
        """Return 16 bytes never returned before, drawn from the dice many at a time."""
        at = self._salt_at
        if at == len(self._salts):
            self._salts = self._entropy.token(256 * SALT_SIZE)
            at = 0
        self._salt_at = at + SALT_SIZE
        return self._salts[at : at + SALT_SIZE]

    def _part(self, table: Table, net: Net) -> tuple[bytes, bytes, int]:
        if table.typed:
            with paused(self.capture):
                settle(self._connection, table, net)
        lives: dict[Key, int] = {}
        has_side = self._rows.has_side(table)
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
        count = net.spilled_count + sum(len(segment.keys) for segment in segments)
        return table.table_id, b"".join((self._salt(), *encoded)), count

    def _travelling(self, table: Table, key: Key, positions: tuple[int, ...], old: Row, new: Row) -> Row:
        """Return what an UPDATE of counters, sets and texts carries, and keep the documents of the texts."""
        row, edits = travelling(table, positions, old, new)
        own = self.own
        assert own is not None, "a write transaction has a log to write to"
        for position, made in edits.items():
            put = Put(own.log.log_id, self._next_seq(own))
            self._rows.local_edits(table, key, table.columns[position].column_id, str(old[position]), made, put)
        return row

    def _next_seq(self, own: OwnLog) -> int:
        """Return the number of the change that is being made: `append` may put headers without payload before it."""
        if own.past_is_fresh:
            return own.log.length
        heads = self._history.maximal_heads(self._history.head_vector(own.log))
        others = sum(head.log != own.log.log for head in heads)
        return own.log.length + max(0, -(-others // PAST_COUNT_MAX) - 1)

    def append(self, parts: list[tuple[bytes, bytes, int]]) -> ChangeRef:
        """Append one change with these (table id, bytes, row count) parts to the own log.

        With more heads than a header can name, headers without payload join them first (D5).
        """
        own = self.own
        assert own is not None, "a write transaction has a log to write to"
        if len(parts) > PART_COUNT_MAX:
            raise UsageError(f"the transaction writes {len(parts)} tables, want at most {PART_COUNT_MAX}")
        if not own.past_is_fresh:
            heads = self._history.maximal_heads(self._history.head_vector(own.log))
            heads = [head for head in heads if head.log != own.log.log]
            while len(heads) > PAST_COUNT_MAX:
                self._append_header(own, heads[:PAST_COUNT_MAX], [])
                heads = heads[PAST_COUNT_MAX:]
            own.past_is_fresh = True
            return self._append_header(own, heads, parts)
        return self._append_header(own, [], parts)

    def _append_header(self, own: OwnLog, heads: list[ChangeRef], parts: list[tuple[bytes, bytes, int]]) -> ChangeRef:
        history, log = self._history, own.log
        seq = log.length
        ref = ChangeRef(log.log, seq)
        past = self._see_past(ref, heads) if heads else ()
        if len(parts) == 1:
            table_id, payload, row_count = parts[0]
            sizes = [Part(table_id, part_root(payload), len(payload), row_count)]
        else:
            parts = sorted(parts)
            sizes = [Part(table_id, part_root(data), len(data), row_count) for table_id, data, row_count in parts]
            payload = b"".join([data for _, data, _ in parts])
        if len(payload) > PART_SIZE_MAX:
            raise UsageError(f"the transaction writes {len(payload)} bytes, want at most {PART_SIZE_MAX}")
        closed = self._applier.closed
        certificate = closed[-1].certificate_hash if closed else NO_CERTIFICATE
        clock = self._tick(own)
        backlink = log.head_hash if seq else log.log_id
        is_sealed = any(isinstance(act, Close) for act in self._acts)
        encoded = encode_header(seq, self.epoch, clock, backlink, certificate, past, sizes, is_sealed=is_sealed)
        hashed = header_hash(history.space_id, encoded)
        own.stamp_max = stamp = order_stamp(clock >> 16, self._applier.not_after_ms, own.stamp_max)
        if len(payload) <= INLINE_SIZE_MAX:
            history.append(log, encoded, hashed, STATE_APPLIED, stamp, payload)
        else:
            lsn = history.append(log, encoded, hashed, STATE_APPLIED, stamp, None)
            for index, (_, data, _) in enumerate(parts):
                history.store_slices(lsn, index, data)
        log.payload_length = log.applied_length = seq + 1
        log.order_stamp = stamp
        if log.vector is not None:
            log.vector[log.log] = seq + 1
        if any(isinstance(act, CreateTable | SetPolicy) for act in self._acts):
            draw = draw_of(history.space_id, certificate, log.member_id)
            order = order_bytes(OrderKey(stamp, draw, hashed))
            for name in ("klal_table", "klal_policy"):
                self._connection.execute(
                    f"UPDATE {name} SET order_key = ? WHERE order_key = ?", (order, _UNNAMED_ORDER)
                )
        return ref

    def _see_past(self, ref: ChangeRef, heads: list[ChangeRef]) -> list[bytes]:
        """Record what these heads bring into the past of `ref`, and return their hashes, ascending."""
        history = self._history
        log = history.logs[ref.log]
        before = history.head_vector(log)
        vector = dict(before)
        for head in heads:
            for index, length in history.head_vector(history.logs[head.log]).items():
                vector[index] = max(vector.get(index, 0), length)
        history.record_past(ref, before, vector)
        log.vector = vector
        return sorted(history.hash_at(head) for head in heads)

    def _tick(self, own: OwnLog) -> int:
        """Return the next stamp of the hybrid logical clock: unix_ms << 16 | counter, always rising."""
        unix_ms = min(max(self._clock.unix_ms(), 0), UNIX_MS_MAX - 1)
        if unix_ms > own.unix_ms:
            own.unix_ms, own.counter = unix_ms, 0
        elif own.counter < _COUNTER_MAX:
            own.counter += 1
        else:
            own.unix_ms, own.counter = own.unix_ms + 1, 0
        return own.unix_ms << 16 | own.counter


def _is_text(sql: str) -> bool:
    try:
        sql.encode()
    except UnicodeError:
        return False
    return True


@contextmanager
def paused(capture: Capture) -> Iterator[None]:
    """Run the engine's own writes to the user's tables without seeing them as the user's."""
    capture.stop()
    try:
        yield
    finally:
        capture.start()
