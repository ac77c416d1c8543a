"""One file as it was at a frontier, read with SQL: two ways, one meaning.

The general way applies the frontier's changes again in a file in memory. The quick way
reads this very file, on a connection of its own that sees one snapshot of it: a row that
no later change wrote is then what it is now, so only the keys touched since are worked
out, from their writes before. They lie in temporary tables, and a temporary view by the
table's name puts them in the place of the rows of now.

The choice a reader would question: nothing is stored for this, no undo images. It is
paid for by whoever looks back, who reads the log once (docs/decisions/0022).

Law: both ways give the same rows, for every frontier.

Source:
    Protocol spec section 10, rules MRG-1 to MRG-4. Decision D11.
"""

from __future__ import annotations

import gc
import heapq
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, compress, islice, repeat
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import apsw.ext

from klal.errors import DamagedError, UsageError
from klal.model.acts import AddColumn, Close, CreateTable, Genesis, Invite, Join, NameMoment, decode_acts
from klal.model.header import ACTS_TABLE, Part, header_hash, parts_of
from klal.model.payload import Kind, Stripe, decode_stripes, touched_keys
from klal.model.schema import Column, Key, Value, fold
from klal.rules.merge import ChangeRef
from klal.rules.order import draw_of
from klal.rules.shown import PastWrite, shown
from klal.store.apply import Applier
from klal.store.catalog import Catalog, ColumnInfo, Table
from klal.store.ddl import column_sql
from klal.store.epochs import Epochs, Replay
from klal.store.file import open_file, translate
from klal.store.history import STATE_APPLIED, History, Log, outcome_of
from klal.store.layout import quote
from klal.store.rows import Rows, decode_key
from klal.store.sql import Connection
from klal.store.sqltext import first_word, is_blank

# Of more than this since the moment, it is cheaper to apply what was before it, and it need not lie in memory.
_LATER_CHANGE_COUNT_MAX = 1_000_000
_LATER_PART_SIZE_MAX = 64 << 20
_ROWS_PER_INSERT = 64
_BINDING_COUNT_MAX = 900
_ORDERED_COUNT_MIN = 64  # A shorter segment is not worth asking whether its keys ascend.
# Acts after the moment that leave tables as they are. What is not listed here may do anything to them.
_HARMLESS_ACTS = (Genesis, Invite, Join, Close, NameMoment)
# What a moment has beside the user's tables; klal's other tables and views speak of one file, and not of a moment.
_VIEWS = {"klal_members", "klal_conflicts", "klal_epochs"}
_BEHIND_VIEWS = {"klal_table", "klal_column", "klal_conflict", "klal_log", "klal_member", "klal_epoch"}
_FUNCTIONS = {"json_each", "json_tree"}
_ROWID_NAMES = ("rowid", "oid", "_rowid_")
_NAMES_MAIN = re.compile(r"\bmain\b", re.IGNORECASE)

Lengths = Mapping[int, int]
"""Log index -> prefix length; an absent log means 0."""

BareKey = Value | Key
"""A key: its bare value where one column is the key, else a tuple."""


class _Large(NamedTuple):
    """A part that lies in slices: where, to be read when it is needed."""

    lsn: int
    place: int
    part: Part


class Scan:
    """The applied changes of one file, part by part, as they lie in its log."""

    def __init__(self, history: History) -> None:
        self._history = history

    def parts(self, log: Log, start: int, stop: int) -> Iterator[tuple[bytes, bytes | _Large]]:
        """Yield (table id, part) of the applied changes [start, stop) of a log; `load` gives a part's bytes."""
        for lsn, state, _, header, payload in self._history.raw_lines(log, start, stop):
            if state == STATE_APPLIED:
                if header[2] == 1 and payload is not None:
                    yield header[-60:-44], payload  # One small part: by far the commonest change.
                else:
                    yield from _parts(lsn, header, payload)

    def load(self, part: bytes | _Large) -> bytes:
        """Return the bytes of a part.

        Raises:
            DamagedError: They are not here, though the change is applied.
        """
        if isinstance(part, bytes):
            return part
        data = self._history.joined(*part)
        if data is None:
            raise DamagedError(f"payload at line {part.lsn} is not here, though its change is applied")
        return data

    def ordered(self, table_id: bytes, lengths: Lengths) -> Iterator[tuple[ChangeRef, bytes]]:
        """Yield (change, part) of every applied change of a table inside `lengths`, by ascending order key.

        Along one log the order keys rise, so logs are merged and nothing is sorted.
        """
        logs = [log for log in self._history.logs.values() if min(lengths.get(log.log, 0), log.applied_length)]
        streams = [self._stream(log, lengths[log.log], table_id, is_alone=len(logs) == 1) for log in logs]
        for _, change, part in heapq.merge(*streams, key=lambda each: each[0]):
            yield change, self.load(part)

    def _stream(
        self, log: Log, length: int, table_id: bytes, *, is_alone: bool
    ) -> Iterator[tuple[tuple[int, bytes, bytes], ChangeRef, bytes | _Large]]:
        space_id = self._history.space_id
        draws: dict[bytes, bytes] = {}
        lines = self._history.raw_lines(log, log.start, length)
        for seq, (lsn, state, stamp, header, payload) in enumerate(lines, log.start):
            if state != STATE_APPLIED or table_id not in header:
                continue
            order = (stamp, b"", b"")
            if not is_alone:  # Within one log the stamp says everything, and hashes are spared.
                certificate = header[56:88]
                if certificate not in draws:
                    draws[certificate] = draw_of(space_id, certificate, log.member_id)
                order = (stamp, draws[certificate], header_hash(space_id, header))
            for named, part in _parts(lsn, header, payload):
                if named == table_id:
                    yield order, ChangeRef(log.log, seq), part


def _parts(lsn: int, header: bytes, payload: bytes | None) -> Iterator[tuple[bytes, bytes | _Large]]:
    at = 0
    for index, part in enumerate(parts_of(header)):
        yield part.table_id, _Large(lsn, index, part) if payload is None else payload[at : at + part.size]
        at += part.size


class Past:
    """One file as it was at the frontier `lengths`, a causally closed set of changes whose payloads are here.

    It holds a read transaction, so that what it reads does not change while it is open.
    """

    def __init__(self, path: Path, lengths: Lengths) -> None:
        self._path = path
        self.lengths = dict(lengths)
        self._connection = open_file(path, writable=False)
        try:
            self._connection.pragma("temp_store", "memory")
            self._connection.execute("BEGIN")
            meta = dict(self._connection.execute("SELECT name, value FROM klal_meta").fetchall())
            self.history = History(self._connection, meta["space_id"])
            self.history.load(meta.get("own_log"))
            self.catalog = Catalog(self._connection)
            self.catalog.load()
            self._applier = Applier(self._connection, self.history, self.catalog, Rows(self._connection))
            Epochs(self._connection, self.history, self.catalog, self._applier).load()
        except BaseException:
            self._connection.close()
            raise
        self._scan = Scan(self.history)
        self._later: _Later | None = None
        self._shadowed: set[int] = set()
        self._own: set[tuple[str, str]] = set()  # What our own views read: (table, view).
        self._replay: Replay | None = None

    def close(self) -> None:
        """Release the file, and the memory."""
        self._connection.close()
        if self._replay is not None:
            self._replay.connection.close()

    # -- SQL -------------------------------------------------------------------------------

    def query(self, sql: str, parameters: Any) -> tuple[tuple[str, ...], list[tuple[Value, ...]]]:
        """Return the columns and rows of one SELECT as of this frontier.

        Raises:
            UsageError: No SELECT, one that SQLite refuses, or one that reads what is no part of a moment.
        """
        if first_word(sql) not in ("SELECT", "VALUES", "WITH", "EXPLAIN"):
            raise UsageError("a moment is past and can only be read: want a SELECT")
        try:
            if self._replay is None and self._is_quick(sql):
                return _run(self._connection, sql, parameters)
            replay = self.replayed()
            _check_names(_reads(replay.connection, sql), replay.catalog, set())
            return _run(replay.connection, sql, parameters)
        except apsw.Error as error:
            raise translate(error, self._path) from error
        except (UnicodeError, TypeError, OverflowError) as error:
            raise UsageError(f"a value cannot be bound: {error}") from error

    def _is_quick(self, sql: str) -> bool:
        """True when all that a statement reads can be read in the file itself; what it reads is then prepared."""
        # Named with its schema a table is not shadowed. In a string the word does no harm but take the long way.
        if not self._may_be_quick or _NAMES_MAIN.search(sql):
            return False
        try:
            reads = _reads(self._connection, sql)
        except apsw.Error:
            if self.later.is_schema_same:
                raise
            return False  # Whether it is wrong as of then, only the tables as of then can say.
        names = _check_names(reads, self.catalog, self._own)
        # A view of the user's reads the table itself, whatever stands before it.
        through = {view for table, _, view in reads if view and (table, view) not in self._own}
        if through or names & _VIEWS:
            return False
        tables = [self.catalog.by_name[name] for name in sorted(names - _FUNCTIONS)]
        new = [table for table in tables if table.tab not in self._shadowed]
        if not all(map(self.is_plain, new)):
            return False
        for table in new:
            with _uncollected():
                self._shadow(table)
            self._shadowed.add(table.tab)
        return True

    # -- what is surely as it is now ---------------------------------------------------------

    @property
    def _may_be_quick(self) -> bool:
        """True when this file's tables show at least everything in the frontier, and not very much more.

        In a compacted file the writes before the frontier are not all here, so nothing more at all.
        """
        logs = self.history.logs
        is_within = all(logs[log].applied_length >= length for log, length in self.lengths.items())
        more = sum(log.applied_length - max(log.start, self.lengths.get(log.log, 0)) for log in logs.values())
        return is_within and more <= (0 if self.history.floor else _LATER_CHANGE_COUNT_MAX)

    @property
    def later(self) -> _Later:
        """What was applied here that is not in the frontier."""
        if self._later is None:
            self._later = _Later(self._scan, self.history, self.lengths)
        return self._later

    def is_plain(self, table: Table) -> bool:
        """True when a table is surely defined as it is now, and its rows depend on nothing but their own writes.

        The one place that decides which tables take the quick way. Whoever teaches klal something
        by which a row's visibility depends on other rows, or a column's value on more than the
        greatest write (MRG-3), must say here that such a table takes the long way.
        """
        if not self._may_be_quick:
            return False
        later = self.later
        return (
            later.has_only_known_acts
            and table.table_id not in later.grown
            and (table.table_id not in later.declared or self._is_declared_inside(table))
            and table.name == table.definition.name
            and all(info.name == info.column.name for info in table.columns)
            and not table.definition.without_rowid
            and not table.typed  # What stands in a counter, set or text is of many writes (TYP-2 to TYP-4).
            and not table.uniques  # Whether a row may be seen depends on others (UNQ-2).
            and len(table.given) == len(table.columns)
            and not self.catalog.dropped_columns(table)
            and _rowid_of(table) is not None
            and later.size(table) <= _LATER_PART_SIZE_MAX
        )

    def _is_declared_inside(self, table: Table) -> bool:
        """True when the first declaration of a table lies in the frontier, so that later ones said nothing new."""
        key = self.catalog.declared_order(table.table_id)
        first = None if key is None else self.history.find(key[-32:])
        return first is not None and first.seq < self.lengths.get(first.log, 0)

    # -- the quick way -------------------------------------------------------------------------

    def _shadow(self, table: Table) -> None:
        """Put the rows as of the frontier in the place of a table's rows of now.

        A key that later changes only updated, in its one life, is the row of now but for the columns they
        wrote: those lie in `patch`. The others are hidden by `gone`, and stand whole in `then` if they stood.
        """
        touched = self.later.touched(table)
        if touched is None:
            return
        careful = touched.other | self._keys_with_lives(table)
        simple = touched.updated - careful if careful else touched.updated
        hard = touched.other | (touched.updated & careful)
        patched = [info for info in table.values if info.column_id in touched.columns]
        cells, writes = self._gather(table, simple, [info.column_id for info in patched], hard)
        rowid, listed = _rowid_of(table), ", ".join(quote(info.name) for info in table.columns)
        now = f"main.{quote(table.name)}"
        hides, arms = [], []
        if simple:
            name = self._make(table, "patch", patched)
            if self._fill(table, name, patched, _patches(simple, patched, table, cells)) != len(simple):
                raise DamagedError(f"table {table.name} lacks rows that its history has", hint="klal verify says more")
            hides.append(name)
            columns = ", ".join(f"{'p' if info in patched else 'b'}.{quote(info.name)}" for info in table.columns)
            # A LEFT JOIN by rowid is left out by SQLite where none of its columns is asked for.
            arms.append(f"SELECT {columns} FROM temp.{name} p LEFT JOIN {now} b ON b.{rowid} = p.{rowid}")
        if hard:
            name = self._make(table, "gone", [])
            self._fill(table, name, [], map(_tuple_of, hard))
            hides.append(name)
            name = self._make(table, "then", table.columns)
            self._insert_rows(table, name, writes)
            arms.append(f"SELECT {listed} FROM temp.{name}")
        here = " AND ".join(f"{rowid} NOT IN (SELECT {rowid} FROM temp.{name})" for name in hides)
        arms.insert(0, f"SELECT {listed} FROM {now} WHERE {here}")
        self._connection.execute(f"CREATE TEMP VIEW {quote(table.name)}({listed}) AS {' UNION ALL '.join(arms)}")
        self._own.add((fold(table.name), fold(table.name)))

    def _make(self, table: Table, word: str, infos: Sequence[ColumnInfo]) -> str:
        """Create a temporary table with some of a table's columns, as they compare and convert, and return its name."""
        name = f"klal_{word}_{table.tab}"
        declared = [
            column_sql(Column(info.name, info.column.type, collation=info.column.collation), info.name, str)
            for info in infos
        ] or ["klal INTEGER"]
        strict = " STRICT" if table.definition.strict else ""
        self._connection.execute(f"CREATE TEMP TABLE {name}({', '.join(declared)}){strict}")
        self._own.add((name, fold(table.name)))
        return name

    def _keys_with_lives(self, table: Table) -> set[BareKey]:
        """Return the keys that have lived more than once, or died: those are worked out with care."""
        rows = self._connection.execute(
            "SELECT key FROM klal_life WHERE tab = ?1 UNION ALL SELECT key FROM klal_dead WHERE tab = ?1", (table.tab,)
        )
        return {_bare(decode_key(data)) for (data,) in rows}

    def _gather(
        self, table: Table, simple: set[BareKey], columns: list[bytes], hard: set[BareKey]
    ) -> tuple[dict[bytes, dict[BareKey, Value]], dict[BareKey, list[PastWrite]]]:
        """Read the frontier's writes of these keys.

        Returns:
            By column, the value that stands for each key of `simple`, in the order met: of keys with one life,
            never deleted, it is that of the greatest write (MRG-3). By key of `hard`, all of its writes.
        """
        cells: dict[bytes, dict[BareKey, Value]] = {column: {} for column in columns}
        writes: dict[BareKey, list[PastWrite]] = {key: [] for key in hard}
        sought = _Sought(simple)
        for change, part in self._scan.ordered(table.table_id, self.lengths):
            for stripe in decode_stripes(part):
                if hard:
                    _note_writes(stripe, stripe.keys, change, writes)
                if cells.keys().isdisjoint(stripe.columns):
                    continue
                keys, rows = sought.among(stripe.keys)
                if not keys:
                    continue
                for index, column in enumerate(stripe.columns):
                    if column in cells:
                        cells[column].update(zip(keys, map(stripe.column(index).__getitem__, rows), strict=True))
        return cells, writes

    def _fill(self, table: Table, name: str, infos: Sequence[ColumnInfo], rows: Iterable[tuple[Value, ...]]) -> int:
        """Insert rows of (key, values) under the rowids that the keys have in the table of now; return how many."""
        rowid = _rowid_of(table)
        width = len(table.key) + len(infos)
        on = " AND ".join(f"b.{quote(info.name)} = v.column{at}" for at, info in enumerate(table.key, 1))
        given = "".join(f", v.column{at}" for at in range(len(table.key) + 1, width + 1))
        into = ", ".join([str(rowid), *(quote(info.name) for info in infos)])

        def sql(count: int) -> str:
            row = f"({', '.join('?' * width)})"
            return (
                f"INSERT INTO temp.{name}({into}) SELECT b.{rowid}{given}"
                f" FROM (VALUES {', '.join([row] * count)}) v CROSS JOIN main.{quote(table.name)} b ON {on}"
            )

        before = self._connection.total_changes()
        _execute_in_batches(self._connection, sql, width, rows)
        return self._connection.total_changes() - before

    def _insert_rows(self, table: Table, name: str, writes: dict[BareKey, list[PastWrite]]) -> None:
        found = ((key, shown(listed, self.history.sees, table.defaults)) for key, listed in writes.items())
        infos = (*table.key, *table.values)
        rows = (
            (*_tuple_of(key), *(cells[info.column_id] for info in table.values))
            for key, cells in found
            if cells is not None
        )
        listed = ", ".join(quote(info.name) for info in infos)

        def sql(count: int) -> str:
            row = f"({', '.join('?' * len(infos))})"
            return f"INSERT INTO temp.{name}({listed}) VALUES {', '.join([row] * count)}"

        _execute_in_batches(self._connection, sql, len(infos), rows)

    # -- the general way -------------------------------------------------------------------------

    def replayed(self) -> Replay:
        """Return the frontier's changes, applied again in memory."""
        if self._replay is None:
            replay = Replay(self._connection, self.history, self._applier.certificate_in)
            try:
                replay.run(self.lengths)
                if replay.history.applied_lengths() != {log: length for log, length in self.lengths.items() if length}:
                    raise DamagedError("the changes of this moment cannot all be applied again")
                self._fill_views(replay)
            except BaseException:
                replay.connection.close()
                raise
            self._replay = replay
        return self._replay

    def _fill_views(self, replay: Replay) -> None:
        """Enter what the views of a moment show beside rows: the members and the certificates of its time."""
        # Of several joins of one key, the first log's, by log id, names the member everywhere (CRT-4).
        for log in replay.history.by_join():
            first = replay.history.read(ChangeRef(log.log, 0)) if log.applied_length else None
            data = (
                None
                if first is None or outcome_of(first.state) != STATE_APPLIED
                else replay.history.part(first, ACTS_TABLE)
            )
            for act in () if data is None else decode_acts(data):
                entry = None
                if isinstance(act, Genesis):
                    entry = (act.founder, act.founder_name)
                elif isinstance(act, Join):
                    entry = (act.member, act.name)
                if entry is not None:
                    replay.connection.execute(
                        "INSERT OR IGNORE INTO klal_member VALUES(?,?,?,0,NULL,NULL)", (*entry, log.log_id)
                    )
        for closed in self._applier.closed:
            if all(length <= self.lengths.get(log, 0) for log, length in closed.cut.lengths.items()):
                replay.connection.execute(
                    "INSERT INTO klal_epoch VALUES(?,?,x'')", (closed.cut.epoch, closed.certificate_hash)
                )

    # -- rows by key -------------------------------------------------------------------------------

    def rows_of(self, table: Table, keys: set[BareKey]) -> dict[BareKey, Mapping[bytes, Value]]:
        """Return the visible rows among these keys of a plain table, as cells by column id."""
        writes = writes_of(self._scan, table, keys, self.lengths)
        found = {key: shown(listed, self.history.sees, table.defaults) for key, listed in writes.items()}
        return {key: cells for key, cells in found.items() if cells is not None}

    def everything(self, table_id: bytes) -> tuple[Table | None, dict[BareKey, Mapping[bytes, Value]]]:
        """Return a table as of the frontier, with all of its rows; none where there was no such table."""
        replay = self.replayed()
        table = replay.catalog.by_id.get(table_id)
        if table is None:
            return None, {}
        infos = (*table.key, *table.values)
        listed = ", ".join(quote(info.name) for info in infos)
        width, ids = len(table.key), table.value_ids
        rows = replay.connection.execute(f"SELECT {listed} FROM main.{quote(table.name)}")
        return table, {_bare(row[:width]): dict(zip(ids, row[width:], strict=True)) for row in rows}

    def touched_between(self, table: Table, other: Lengths) -> set[BareKey]:
        """Return the keys of a table that changes inside one of two frontiers, and not inside both, wrote."""
        keys: set[BareKey] = set()
        for log in self.history.logs.values():
            here, there = self.lengths.get(log.log, 0), other.get(log.log, 0)
            found = self._scan.parts(log, min(here, there), max(here, there))
            parts = (self._scan.load(part) for table_id, part in found if table_id == table.table_id)
            for form in touched_keys(parts):
                keys.update(form.keys)
        return keys


class _Touched(NamedTuple):
    """What later changes wrote of one table.

    Shape:
        updated: keys of UPDATEs in the first life. other: keys of any other write.
        columns: ids of the columns that those UPDATEs wrote.
    """

    updated: set[BareKey]
    other: set[BareKey]
    columns: set[bytes]


class _Sought:
    """Keys that are looked for in the segments of a log."""

    def __init__(self, keys: set[BareKey]) -> None:
        self._keys = keys
        self._ascending: list[Any] | None = None
        with suppress(TypeError):  # Keys of several kinds have no order in Python.
            self._ascending = sorted(keys)

    def among(self, listed: Sequence[Any]) -> tuple[list[BareKey], list[int]]:
        """Return those of the keys that a segment lists, and where.

        A look back asks this of every row that was ever written, so it runs in C. What was inserted in bulk is
        often listed in order; then the few keys are looked for in it, and not all of it among the keys.
        """
        if self._ascending is not None and len(listed) >= _ORDERED_COUNT_MIN and _is_ascending(listed):
            here = self._ascending[bisect_left(self._ascending, listed[0]) : bisect_right(self._ascending, listed[-1])]
            places = list(map(bisect_left, repeat(listed), here))
            flags = list(map(eq, here, map(listed.__getitem__, places)))
            return list(compress(here, flags)), list(compress(places, flags))
        flags = list(map(self._keys.__contains__, listed))
        return list(compress(listed, flags)), list(compress(range(len(listed)), flags))


def _is_ascending(listed: Sequence[Any]) -> bool:
    try:
        return listed == sorted(listed)  # Of a list that is in order, sorting is one look at it.
    except TypeError:
        return False


class _Later:
    """What was applied in one file and is not inside a frontier."""

    def __init__(self, scan: Scan, history: History, lengths: Lengths) -> None:
        self._scan = scan
        self._parts: dict[bytes, list[bytes | _Large]] = {}
        for log in history.logs.values():
            for table_id, part in scan.parts(log, lengths.get(log.log, 0), log.applied_length):
                self._parts.setdefault(table_id, []).append(part)
        acts = [act for part in self._parts.pop(ACTS_TABLE, ()) for act in decode_acts(scan.load(part))]
        self.has_only_known_acts = all(isinstance(act, (*_HARMLESS_ACTS, CreateTable, AddColumn)) for act in acts)
        self.declared = {act.definition.table_id for act in acts if isinstance(act, CreateTable)}
        self.grown = {act.table_id for act in acts if isinstance(act, AddColumn)}
        self.is_schema_same = self.has_only_known_acts and not self.declared and not self.grown

    def size(self, table: Table) -> int:
        """Return how many bytes were written of a table."""
        parts = self._parts.get(table.table_id, ())
        return sum(part.part.size if isinstance(part, _Large) else len(part) for part in parts)

    def touched(self, table: Table) -> _Touched | None:
        """Return what of a table was written, or None where nothing was; it is asked once, and then let go."""
        parts = self._parts.pop(table.table_id, None)
        if not parts:
            return None
        touched = _Touched(set(), set(), set())
        for form in touched_keys(map(self._scan.load, parts)):
            if form.kind is Kind.UPDATE and not form.has_lives:
                touched.updated.update(form.keys)
                touched.columns.update(form.columns)
            else:
                touched.other.update(form.keys)
        return touched


def _note_writes(
    stripe: Stripe, listed: Sequence[BareKey], change: ChangeRef, writes: dict[BareKey, list[PastWrite]]
) -> None:
    """Add a segment's writes of the keys of `writes` to them."""
    hits = [row for row, key in enumerate(listed) if key in writes]
    columns = [stripe.column(index) for index in range(len(stripe.columns))] if hits else []
    for row in hits:
        cells = {column: values[row] for column, values in zip(stripe.columns, columns, strict=True)}
        life = 1 if stripe.lives is None else stripe.lives[row]
        writes[listed[row]].append(PastWrite(change, stripe.kind, life, cells, stripe.is_final))


def writes_of(scan: Scan, table: Table, keys: set[BareKey], lengths: Lengths) -> dict[BareKey, list[PastWrite]]:
    """Return all writes inside `lengths` of these keys, each key's by ascending order key."""
    writes: dict[BareKey, list[PastWrite]] = {key: [] for key in keys}
    for change, part in scan.ordered(table.table_id, lengths):
        for stripe in decode_stripes(part):
            _note_writes(stripe, stripe.keys, change, writes)
    return writes


def _patches(
    keys: set[BareKey], infos: Sequence[ColumnInfo], table: Table, cells: dict[bytes, dict[BareKey, Value]]
) -> Iterator[tuple[Value, ...]]:
    """Yield (key, values) of each key: in the order in which they were met, which is often that of the table."""
    column = cells[infos[0].column_id] if len(infos) == len(table.key) == 1 else {}
    if len(column) == len(keys):  # The commonest case, without asking for each key again.
        yield from zip(column, column.values(), strict=True)
        return
    met = list(dict.fromkeys(chain(*cells.values(), keys)))
    values = [map(cells[info.column_id].get, met, repeat(table.defaults.get(info.column_id))) for info in infos]
    if len(table.key) == 1:
        yield from zip(met, *values, strict=True)
    else:
        yield from ((*_tuple_of(key), *row) for key, *row in zip(met, *values, strict=True))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Run without the garbage collector, which would walk all the short-lived values again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _bare(key: Key) -> BareKey:
    return key[0] if len(key) == 1 else key


def _tuple_of(key: BareKey) -> Key:
    return key if isinstance(key, tuple) else (key,)


def _rowid_of(table: Table) -> str | None:
    """Return a name by which SQLite gives a row's place, that no column of the table has taken."""
    taken = {fold(info.name) for info in table.columns}
    return next((name for name in _ROWID_NAMES if name not in taken), None)


def _execute_in_batches(
    connection: Connection, sql: Callable[[int], str], width: int, rows: Iterable[tuple[Value, ...]]
) -> None:
    """Run `sql(count)` for every `count` rows: many to a statement is what makes it quick."""
    count = max(1, min(_ROWS_PER_INSERT, _BINDING_COUNT_MAX // width))
    rows = iter(rows)
    rest: list[tuple[Value, ...]] = []

    def whole() -> Iterator[tuple[Value, ...]]:
        while len(batch := list(islice(rows, count))) == count:
            yield tuple(chain.from_iterable(batch))
        rest.extend(batch)

    connection.executemany(sql(count), whole())
    if rest:
        connection.executemany(sql(1), rest)


def _reads(connection: Connection, sql: str) -> list[tuple[str, str, str]]:
    """Return (table, column, by way of which view) for all that one SELECT reads; nothing runs.

    Raises:
        UsageError: It does more than read, or there is a second statement.
    """
    info = apsw.ext.query_info(connection, sql, actions=True)
    if not info.is_readonly:
        raise UsageError("a moment is past and can only be read: want a SELECT")
    if info.query_remaining and not is_blank(info.query_remaining):
        raise UsageError("want one SQL statement at a time, found more after the first")
    return [
        (fold(action.table_name or ""), action.column_name or "", fold(action.trigger_or_view or ""))
        for action in info.actions or ()
        if action.action_name == "SQLITE_READ"
    ]


def _check_names(reads: Sequence[tuple[str, str, str]], catalog: Catalog, own: set[tuple[str, str]]) -> set[str]:
    """Return the tables and views that a statement reads, if a moment has them all.

    Args:
        own: (table, view) of what views made here read.

    Raises:
        UsageError: It reads what speaks of this file, and not of the moment.
    """
    names = set()
    # Of `count(*)` over a view, SQLite says which tables are read and not by way of what.
    behind = {table for table, _ in own}
    if any(table in _VIEWS or view in _VIEWS for table, _, view in reads):
        behind |= _BEHIND_VIEWS
    for table, column, view in reads:
        name = view if view in _VIEWS else table
        if (table, view) in own or (not column and table in behind):
            continue
        if name == table and column == "ROWID":
            raise UsageError(f"the rowid of {name} is its place in one file, and no part of a moment")
        if name not in catalog.by_name and name not in _VIEWS | _FUNCTIONS:
            raise UsageError(f"{name} is no table of this moment")
        names.add(name)
    return names


def _run(connection: Connection, sql: str, parameters: Any) -> tuple[tuple[str, ...], list[tuple[Value, ...]]]:
    columns: list[tuple[str, ...]] = []

    def name_columns(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
        columns.append(tuple(name for name, *_ in cursor.get_description()))
        return True

    cursor = connection.cursor()
    # Asked before the first step: a finished statement no longer knows its columns.
    cursor.exec_trace = name_columns
    rows = cursor.execute(sql, parameters).fetchall()
    return columns[0], rows
