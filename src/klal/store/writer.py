"""Local transactions: the user's SQL in, one change appended in the same SQLite transaction.

Rows, header, payload and everything the merge must remember commit together or not at
all: killed at any instant, the file holds a change wholly or not.

Source:
    Decisions D3, D4, D5, D9; protocol spec sections 5 and 10.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apsw

from klal.errors import RefusedError, UsageError
from klal.model.acts import Act, AddColumn, CreateTable, encode_acts
from klal.model.codec import PART_COUNT_MAX, PART_SIZE_MAX, PAST_COUNT_MAX, SALT_SIZE
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.payload import encode_segment, part_root
from klal.model.schema import Key, Value, check_definition
from klal.ports import Clock, Entropy
from klal.rules.merge import ChangeRef
from klal.rules.order import OrderKey, draw_of, order_stamp
from klal.store.apply import Applier, order_bytes
from klal.store.capture import Capture, Net, segments_of_deletes, segments_of_inserts, segments_of_updates
from klal.store.catalog import Catalog, Table, check_addable
from klal.store.declare import added_column, created_table, first_word, words_of
from klal.store.file import allow_klal_id, translate
from klal.store.history import INLINE_SIZE_MAX, STATE_APPLIED, History, Log
from klal.store.rows import Rows
from klal.store.sql import Connection

_UNNAMED_ORDER = b"\xff" * 72  # Sorts after every real order key; replaced when the change has one.
_COUNTER_MAX = 0xFFFF
_ID_SIZE = 16

_READ_WORDS = {"SELECT", "VALUES", "EXPLAIN", "WITH", "PRAGMA"}
_WRITE_WORDS = {"INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"}
_TRANSACTION_WORDS = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
_READABLE_PRAGMAS = {
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "foreign_key_list",
    "data_version",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one statement did: rows it gave, rows it changed, and the change it made, if any."""

    row_count: int
    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]


@dataclass(slots=True)
class Session:
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
        self._is_user = False
        self._plans: dict[str, str] = {}
        self.capture = Capture(connection, lambda name: catalog.by_name.get(name.casefold()))
        self.own: Session | None = None
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
        if word in _TRANSACTION_WORDS:
            return word
        if word in ("CREATE", "ALTER"):
            return "ddl"
        if word not in _READ_WORDS | _WRITE_WORDS:
            raise UsageError(
                f"{word or 'this'} is not replicated by this version" if word else "this is no SQL statement"
            )
        if word in ("WITH", "EXPLAIN"):
            return "read" if self._is_readonly(sql) else "returning"
        if word in _READ_WORDS:
            return "read"
        return "returning" if "RETURNING" in words_of(sql) else "write"

    def _is_readonly(self, sql: str) -> bool:
        readonly: list[bool] = []

        def trace(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
            readonly.append(cursor.is_readonly)
            return False

        cursor = self._connection.cursor()
        cursor.exec_trace = trace
        try:
            cursor.execute(sql)
        except apsw.ExecTraceAbort:
            pass
        except apsw.Error as error:
            raise translate(error, self._path) from error
        return bool(readonly) and readonly[0]

    def run(self, sql: str, bindings: Any, *, gives_rows: bool = True) -> Outcome:
        """Run one read or write statement of the user's inside the running transaction.

        Args:
            gives_rows: False spares the work of naming columns that are not there.
        """
        columns: list[tuple[str, ...]] = []

        def name_columns(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
            columns.append(tuple(name for name, *_ in cursor.get_description()))
            return True

        with self._running() as before:
            if gives_rows:
                cursor = self._connection.cursor()
                # Asked before the first step: a finished statement no longer knows its columns.
                cursor.exec_trace = name_columns
                rows = cursor.execute(sql, bindings).fetchall()
            else:
                rows = self._connection.execute(sql, bindings).fetchall()
            return Outcome(self._connection.total_changes() - before, columns[-1] if columns else (), rows)

    def run_many(self, sql: str, rows: Iterable[Any]) -> Outcome:
        """Run one statement for each row of bindings."""
        with self._running() as before:
            self._connection.executemany(sql, rows)
            return Outcome(self._connection.total_changes() - before, (), [])

    @contextmanager
    def _running(self) -> Iterator[int]:
        """Run the user's SQL: under the authorizer, any failure noted for capture and translated."""
        self._is_user = True
        try:
            yield self._connection.total_changes()
        except BaseException as error:
            # A statement that failed half-way leaves events of rows that are not there.
            self.capture.is_dirty = True
            if isinstance(error, apsw.Error):
                raise translate(error, self._path) from error
            if isinstance(error, UnicodeError):
                raise UsageError(f"a text is not valid Unicode, so it cannot travel: {error}") from error
            if isinstance(error, TypeError | OverflowError):
                raise UsageError(f"a value cannot be stored: {error}") from error
            raise
        finally:
            self._is_user = False

    def _authorize(
        self, action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
    ) -> int:
        """Deny, while the user's SQL is prepared, what would slip past capture or into klal's tables (T41)."""
        if not self._is_user or action in (apsw.SQLITE_READ, apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE):
            return apsw.SQLITE_OK
        if action in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE):
            is_theirs = first is not None and first.casefold() in self._catalog.by_name
            return apsw.SQLITE_OK if is_theirs else apsw.SQLITE_DENY
        if action == apsw.SQLITE_FUNCTION:
            return apsw.SQLITE_DENY if second == "load_extension" else apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA:
            return apsw.SQLITE_OK if first in _READABLE_PRAGMAS else apsw.SQLITE_DENY
        return apsw.SQLITE_DENY

    # -- DDL -------------------------------------------------------------------------

    def declare(self, sql: str) -> None:
        """Run a CREATE TABLE or ALTER TABLE ADD COLUMN and note it as an act.

        Raises:
            UsageError: Anything else, or what cannot be replicated.
        """
        word = "ALTER" if first_word(sql) == "ALTER" else "CREATE"
        try:
            if word == "CREATE":
                self._create(sql)
            else:
                table_name, column = added_column(sql, self._catalog.definitions())
                table = self._catalog.named(table_name)
                check_addable(column)
                self._catalog.declare_column(table.table_id, column)
                self._acts.append(AddColumn(table.table_id, column))
                self.capture.retable(self._catalog.by_id[table.table_id])
        except RefusedError as error:
            raise UsageError(error.message) from error
        self._plans.clear()

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
        name = sql.replace(";", " ").split()[-1].strip("\"'`[]").casefold()
        if word == "SAVEPOINT":
            self._savepoints.append((name, len(self._acts)))
            return
        while self._savepoints and self._savepoints[-1][0] != name:
            self._savepoints.pop()
        if word == "ROLLBACK":
            # The hook is not told: what it saw is checked against the table later.
            self.capture.is_dirty = True
            if self._savepoints:
                del self._acts[self._savepoints[-1][1] :]
            self._catalog.load()
        elif self._savepoints:
            self._savepoints.pop()

    # -- the end of a transaction ------------------------------------------------------

    def clear(self) -> None:
        """Forget the running transaction."""
        self.capture.clear()
        self._acts.clear()
        self._savepoints.clear()

    def flush(self) -> ChangeRef | None:
        """Append what the running transaction did; None when it did nothing.

        Raises:
            UsageError: Rows that cannot be told apart elsewhere, or too many tables at once.
        """
        parts: list[tuple[bytes, bytes, int]] = []
        if self._acts:
            parts.append((ACTS_TABLE, encode_acts(tuple(self._acts), self._entropy.token(SALT_SIZE)), len(self._acts)))
        if not self.capture.is_empty:
            for table, net in self._net():
                parts.append(self._part(table, net))
        if not parts:
            return None
        return self.append(parts)

    def _net(self) -> Iterator[tuple[Table, Net]]:
        for capture in self.capture.captures():
            # A reinserted key has a life of its own, which spilled inserts do not name.
            if capture.spilled and self._rows.has_side(capture.table):
                capture.mix()
        return self.capture.net()

    def _part(self, table: Table, net: Net) -> tuple[bytes, bytes, int]:
        lives: dict[Key, int] = {}
        has_side = self._rows.has_side(table)
        for key, row in net.deletes.items():
            lives[key] = self._rows.local_delete(table, key, row)
        if has_side:
            for key in net.inserts:
                lives[key] = self._rows.local_insert(table, key)
            for key, (old, new) in net.updates.items():
                lives[key] = self._rows.local_update(table, key, old, new)

        def life_of(key: Key) -> int:
            return lives.get(key, 1)

        segments = [
            *segments_of_deletes(net.deletes, life_of),
            *segments_of_updates(table, net.updates, life_of),
            *segments_of_inserts(table, net.inserts, life_of),
        ]
        encoded = [*net.spilled, *map(encode_segment, segments)]
        count = net.spilled_count + len(net.deletes) + len(net.updates) + len(net.inserts)
        return table.table_id, b"".join((self._entropy.token(SALT_SIZE), *encoded)), count

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

    def _append_header(self, own: Session, heads: list[ChangeRef], parts: list[tuple[bytes, bytes, int]]) -> ChangeRef:
        history, log = self._history, own.log
        ref = ChangeRef(log.log, log.length)
        if heads:
            before = history.head_vector(log)
            vector = dict(before)
            for head in heads:
                for index, length in history.head_vector(history.logs[head.log]).items():
                    vector[index] = max(vector.get(index, 0), length)
            history.record_past(ref, before, vector)
            log.vector = vector
        unix_ms = self._clock.unix_ms()
        if unix_ms > own.unix_ms:
            own.unix_ms, own.counter = unix_ms, 0
        elif own.counter < _COUNTER_MAX:
            own.counter += 1
        else:
            own.unix_ms, own.counter = own.unix_ms + 1, 0
        closed = self._applier.closed
        sizes = []
        for table_id, data, row_count in sorted(parts):
            if len(data) > PART_SIZE_MAX:
                raise UsageError(f"the transaction has {len(data)} bytes for one table, want at most {PART_SIZE_MAX}")
            sizes.append(Part(table_id, part_root(data), len(data), row_count))
        header = Header(
            log.length,
            self.epoch,
            own.unix_ms,
            own.counter,
            log.head_hash if log.length else log.log_id,
            closed[-1].certificate_hash if closed else NO_CERTIFICATE,
            tuple(sorted(history.hash_at(head) for head in heads)),
            tuple(sizes),
        )
        encoded = header.encode()
        hashed = header_hash(history.space_id, encoded)
        stamp = order_stamp(own.unix_ms, self._applier.not_after_ms, own.stamp_max)
        payload = b"".join(data for _, data, _ in sorted(parts))
        is_inline = len(payload) <= INLINE_SIZE_MAX
        lsn = history.append(log, encoded, hashed, STATE_APPLIED, stamp, payload if is_inline else None)
        if not is_inline:
            for index, (_, data, _) in enumerate(sorted(parts)):
                history.store_slices(lsn, index, data)
        log.payload_length = log.applied_length = log.length
        log.order_stamp = own.stamp_max = stamp
        if log.vector is not None:
            log.vector[log.log] = log.length
        if any(isinstance(act, CreateTable) for act in self._acts):
            draw = draw_of(history.space_id, header.certificate, log.member_id)
            order = order_bytes(OrderKey(stamp, draw, hashed))
            self._connection.execute("UPDATE klal_table SET order_key = ? WHERE order_key = ?", (order, _UNNAMED_ORDER))
        return ref


@contextmanager
def paused(capture: Capture) -> Iterator[None]:
    """Run the engine's own writes to the user's tables without seeing them as the user's."""
    capture.stop()
    try:
        yield
    finally:
        capture.start()
