"""Moments: states of the whole, by a frontier, a time, a change, an epoch's close, or a name that a member gave.

A moment is a causally closed set of changes. Its name everywhere is the root of its
frontier, so two replicas that open one root read the same rows. Whatever a moment is
asked by, it becomes prefix lengths of logs first, and then rows (`klal.store.moments`).

The choice a reader would question: a time is looked up among order stamps and not among
the clocks that writers state. A stamp is never less than any in its past, so whatever
time is asked for, what it cuts off is causally closed; with clocks it would not be.

Source:
    Protocol spec section 18, rules MOM-1 to MOM-4. Decisions D5, D11.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Self

from klal.coverage import Missing
from klal.errors import IncompleteError, UsageError
from klal.holding import compacted
from klal.model.codec import HASH_SIZE, NAME_LENGTH_MAX
from klal.model.frontier import Frontier
from klal.model.schema import Key, Merge, Value, has_suffix
from klal.reports import ChangeId, Closed, Conflict, NamedMoment, RowChange, Rows, Version
from klal.rules.cells import readable
from klal.rules.merge import ChangeRef, Entry, RowState, Write, merge_write, same
from klal.rules.order import OrderKey, order_stamp
from klal.store.catalog import Table
from klal.store.history import History, Log
from klal.store.moments import BareKey, Past, Scan, writes_of
from klal.store.resolve import conflict_id_of
from klal.store.store import Store
from klal.store.window import order_key
from klal.survey import Survey

_ROOT = re.compile(rf"[0-9a-fA-F]{{{2 * HASH_SIZE}}}")
_CHANGE = re.compile(rf"[0-9a-fA-F]{{{2 * HASH_SIZE}}}:[0-9]+")
_EPOCH = re.compile(r"epoch:([0-9]{1,10})")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
_UNIX_MS = re.compile(r"[0-9]{1,15}")
_YEAR = re.compile(r"(19|20)[0-9]{2}")
_DAY = re.compile(r"(19|20)[0-9]{2}[01][0-9][0-3][0-9]")
_SHORT_ROOT = re.compile(r"[0-9a-f]{8,63}")
_NAME = "name:"

Lengths = dict[int, int]


class Moment:
    """A state of the past that can be read and not written: a frontier, opened.

    Made by `Replica.at`. It holds a read transaction on the file, and memory for the rows
    that were different then, until it is closed: close it, or use it in a `with`.

    What it has is the tables of its time, under their names and with the columns of then,
    and `klal_members`, `klal_conflicts` and `klal_epochs` as of then. Without ORDER BY the
    order of rows is anybody's, and so is that of columns that were added apart; a rowid is
    a row's place in one file and is not there.

    Raises:
        KlalError: From any method, as `klal.errors` says; never an error of SQLite's.
    """

    def __init__(self, past: Past, frontier: Frontier, name: str) -> None:
        self._past = past
        self._is_closed = False
        self._frontier = frontier
        self._root = frontier.root()
        self._name = name

    @property
    def frontier(self) -> Frontier:
        """How much of each log it holds."""
        return self._frontier

    @property
    def root(self) -> bytes:
        """The root of its frontier, 32 bytes: its name on every replica."""
        return self._root

    @property
    def name(self) -> str:
        """The name that a member gave this state, as far as known here; else its root in hex."""
        return self._name or self._root.hex()

    def query(self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> Rows:
        """Return the rows of a SELECT, as of this moment.

        Raises:
            UsageError: Not a SELECT, or one of what is no part of a moment.
        """
        if self._is_closed:
            raise UsageError("this moment is closed")
        return Rows(*self._past.query(sql, parameters))

    def close(self) -> None:
        """Let go of the file and the memory."""
        if not self._is_closed:
            self._is_closed = True
            self._past.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        label = "" if self.name == self.root.hex() else f"{self.name!r} "
        state = ", closed" if self._is_closed else ""
        return f"<klal.Moment {label}{self.root.hex()[:8]} of {self.frontier.change_count} changes{state}>"


Asked = Moment | Frontier | ChangeId | Closed | datetime | str
"""What a moment may be asked by; `Replica.at` says what each means."""


class Moments:
    """The moments of one store; used inside one read transaction and then dropped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._history: History = store.history

    def discloser(self, lengths: Lengths) -> ChangeRef | None:
        """Return the first change, in the one order, whose past and itself hold all of a state; None while none does.

        Whoever holds the same changes finds the same one. A change that arrives later and is earlier in the order
        still takes its place: what nobody here has heard of is not counted (MOM-5).
        """
        found: list[tuple[OrderKey, ChangeRef]] = []
        for log in self._history.logs.values():
            # Along a log pasts only grow, so the first of its changes that has all of it is found by halving.
            refs = [ChangeRef(log.log, seq) for seq in range(log.start, log.applied_length)]
            at = bisect_left(refs, True, key=partial(self._holds, lengths))
            if at < len(refs):
                found.append((order_key(self._history, log, self._history.read(refs[at])), refs[at]))
        return min(found)[1] if found else None

    def _holds(self, lengths: Lengths, ref: ChangeRef) -> bool:
        seen = self._history.vector(ref)
        return all(seen.get(log, 0) >= length for log, length in lengths.items())

    # -- from what is asked to a frontier --------------------------------------------------

    def lengths(self, asked: object) -> Lengths:
        """Return the prefix lengths that a moment is made of, all of it here.

        Raises:
            UsageError: It is not the form of any moment, or there is none by that name.
            IncompleteError: Not all of its changes and payloads are here; `.missing` lists them.
        """
        match asked:
            case Moment():
                found = self._of_frontier(asked.frontier)
            case Frontier():
                found = self._of_frontier(asked)
            case ChangeId():
                found = self._of_change(asked)
            case Closed():
                found = self._of_epoch(asked.epoch)
            case datetime():
                found = self._of_time(_unix_ms(asked))
            case str():
                found = self._of_text(asked.strip())
            case _:
                raise UsageError(f"a {type(asked).__name__} is no moment: want a change, a frontier, a time or text")
        self._check_here(found)
        return {log: length for log, length in found.items() if length}

    def _of_text(self, text: str) -> Lengths:
        if text == "now":
            return self._history.applied_lengths()
        if (epoch := _EPOCH.fullmatch(text)) is not None:
            return self._of_epoch(int(epoch[1]))
        if _CHANGE.fullmatch(text):
            return self._of_change(ChangeId.parse(text))
        if _ROOT.fullmatch(text):
            return self._of_root(bytes.fromhex(text))
        if _YEAR.fullmatch(text) or _DAY.fullmatch(text):
            # As milliseconds either would be the first minutes of 1970, which nobody means.
            raise UsageError(f"{text!r} could be a year, a day or milliseconds: want a time as 2026-11-25T18:00")
        if _UNIX_MS.fullmatch(text):
            return self._of_time(int(text))
        if _TIME.fullmatch(text):
            try:
                return self._of_time(_unix_ms(datetime.fromisoformat(text)))
            except ValueError as error:
                raise UsageError(f"{text!r:.60} is no time: {error}") from error
        return self._of_name(text.removeprefix(_NAME))

    def _of_name(self, name: str) -> Lengths:
        for moment, lengths in self._named():
            if moment.name == name:
                return lengths
        raise UsageError(
            f"{name!r:.60} is no moment known here: want now, epoch:N, a time, a change, a root or a name",
            hint="a root has 64 hex digits; klal status FILE --json has it whole"
            if _SHORT_ROOT.fullmatch(name)
            else "klal moment FILE lists the names",
        )

    def _of_root(self, root: bytes) -> Lengths:
        """Return the frontier with this root: that of now, of an epoch or of a named moment."""
        known = [self._history.applied_lengths(), {log.log: log.length for log in self._history.logs.values()}]
        known.extend(dict(closed.cut.lengths) for closed in self._store.applier.closed)
        known.extend(lengths for _, lengths in self._named())
        for lengths in known:
            if self.frontier(lengths).root() == root:
                return lengths
        missing = Survey(self._store).coverage().missing
        sentence = f"no state known here has the root {root.hex()[:8]}: want that of now, of an epoch or of a name"
        if missing:
            raise IncompleteError(f"{sentence}, and not all that is known of is here", missing=missing)
        raise UsageError(sentence)

    def _of_epoch(self, epoch: int) -> Lengths:
        closed = self._store.applier.closed
        if epoch < len(closed):
            return dict(closed[epoch].cut.lengths)
        waiting = Survey(self._store).waiting_for(epoch)
        names = ", ".join(f"{each.member_name} ({each.reason})" for each in waiting) or "earlier epochs"
        raise IncompleteError(
            f"epoch {epoch} is not complete here: it waits for {names}", waiting_for=waiting, epoch=epoch
        )

    def _of_change(self, change: ChangeId) -> Lengths:
        ref = self._history.named(change.log_id, change.seq)
        if ref is None:
            what = f"change {change.log_id.hex()[:8]}:{change.seq}"
            missing = self._missing({change.log_id: change.seq + 1})
            if missing:
                raise IncompleteError(f"{what} is known of and not here", missing=missing)
            raise UsageError(f"{what} is not known here")
        return self._closure({ref.log: ref.seq + 1})

    def _of_frontier(self, frontier: Frontier) -> Lengths:
        lengths = self._history.lengths_of(frontier)
        if lengths is None:
            wanted = {log_id: head.length for log_id, head in frontier.heads.items()}
            raise IncompleteError("this frontier names a change that is not here", missing=self._missing(wanted))
        if self._closure(lengths) != lengths:
            raise UsageError("this frontier is no moment: a change in it had seen one outside it")
        return lengths

    def _closure(self, wanted: Lengths) -> Lengths:
        """Return the least frontier that holds these prefixes and all of their pasts (MOM-1).

        Raises:
            IncompleteError: Some of a past is not here.
        """
        history = self._history
        lengths: Lengths = {}
        waiting = list(wanted.items())
        while waiting:
            index, length = waiting.pop()
            log, have = history.logs[index], lengths.get(index, 0)
            if length <= have:
                continue
            lengths[index] = length
            if log.below is not None:
                waiting.append((log.below, log.start))
            applied = min(length, log.applied_length)
            if applied > max(have, log.start):
                waiting.extend(history.vector(ChangeRef(index, applied - 1)).items())
            # What is not applied has no stored past: its headers name it.
            for stored in history.lines(log, max(have, log.applied_length), length):
                for hashed in stored.header.past:
                    seen = history.find(hashed)
                    if seen is None:
                        raise IncompleteError(
                            f"change {stored.header.seq} of log {log.log_id.hex()[:8]} had seen one that is not here",
                            missing=Survey(self._store).coverage().missing,
                        )
                    waiting.append((seen.log, seen.seq + 1))
        return lengths

    def _of_time(self, unix_ms: int) -> Lengths:
        """Return the changes held here, with all of their pasts, whose order stamps are not above `unix_ms` (MOM-3)."""
        history = self._history
        lengths: Lengths = {}
        waiting = []
        for log in history.logs.values():
            lengths[log.log] = self._stamped_until(log, unix_ms)
            if lengths[log.log] == log.applied_length < log.length:
                waiting.append(log)
        # What is parked, or waits for its payload, is stamped by its headers, as it will be when it is applied.
        stamps: dict[ChangeRef, int] = {}
        is_moving = True
        while is_moving:
            is_moving = False
            for log in waiting:
                while lengths[log.log] < log.length:
                    ref = ChangeRef(log.log, lengths[log.log])
                    stamp = self._stamp(ref, lengths, stamps)
                    if stamp is None or stamp > unix_ms:
                        break
                    stamps[ref] = stamp
                    lengths[log.log] += 1
                    is_moving = True
        return {index: length for index, length in lengths.items() if length > history.logs[index].start}

    def _stamped_until(self, log: Log, unix_ms: int) -> int:
        """Return up to where a log's applied changes are stamped so: stamps rise along a log."""
        low, high = log.start, log.applied_length
        while low < high:
            middle = (low + high) // 2
            if self._history.read(ChangeRef(log.log, middle)).order_stamp <= unix_ms:
                low = middle + 1
            else:
                high = middle
        return low

    def _stamp(self, ref: ChangeRef, lengths: Lengths, stamps: dict[ChangeRef, int]) -> int | None:
        """Return the order stamp of a change that is not applied, or None where its past is not inside `lengths`."""
        header = self._history.read(ref).header
        below = self._history.before(ref)
        past = [] if below is None else [below]
        for hashed in header.past:
            seen = self._history.find(hashed)
            if seen is None:
                return None
            past.append(seen)
        if any(seen.seq >= lengths[seen.log] for seen in past):
            return None
        greatest = max((stamps.get(seen) or self._history.read(seen).order_stamp for seen in past), default=0)
        return order_stamp(header.unix_ms, self._store.applier.not_after_ms, greatest)

    def _check_here(self, lengths: Lengths) -> None:
        """Return if every payload inside is here.

        Raises:
            IncompleteError: Otherwise, with what is missing.
        """
        logs, base = self._history.logs, self._history.base
        if base is not None and any(lengths.get(log, 0) < length for log, length in base.lengths):
            raise compacted(self._store, "this moment lies", {logs[log].log_id for log in lengths})
        if all(logs[index].payload_length >= length for index, length in lengths.items()):
            return
        missing = self._missing({logs[index].log_id: length for index, length in lengths.items()})
        count = sum(each.change_count for each in missing)
        names = ", ".join(sorted({each.member_name for each in missing}))
        raise IncompleteError(f"this moment is not all here: it lacks {count} payloads of {names}", missing=missing)

    def _missing(self, wanted: Mapping[bytes, int]) -> list[Missing]:
        gaps = Survey(self._store).coverage().missing
        return [gap for gap in gaps if gap.start < wanted.get(gap.log_id, 0)]

    # -- and back ------------------------------------------------------------------------------

    def frontier(self, lengths: Lengths) -> Frontier:
        """Return prefix lengths as what has one root everywhere."""
        return self._history.frontier_of(lengths)

    def name_of(self, root: bytes) -> str:
        """Return the name that members gave the state with this root, or ""."""
        return next((moment.name for moment in self.named() if moment.root == root), "")

    # -- names ------------------------------------------------------------------------------------

    def named(self) -> list[NamedMoment]:
        """Return the named moments, earliest naming first in the one order."""
        return [moment for moment, _ in self._named()]

    def _named(self) -> list[tuple[NamedMoment, Lengths]]:
        """Tell apart what bears one name: the earliest bears it alone, others with their root behind it (MOM-2)."""
        history, survey = self._history, Survey(self._store)
        rows = self._store.connection.execute("SELECT log, seq, name FROM klal_moment").fetchall()
        found = []
        for index, seq, name in rows:
            ref, log = ChangeRef(index, seq), history.logs[index]
            found.append((order_key(history, log, history.read(ref)), name, ref))
        named: list[tuple[NamedMoment, Lengths]] = []
        roots: dict[str, list[bytes]] = {}
        for _, name, ref in sorted(found):
            log = history.logs[ref.log]
            lengths = history.past_of(ref)
            frontier = self.frontier(lengths)
            root, earlier = frontier.root(), roots.setdefault(name, [])
            if root in earlier:
                continue  # Said again.
            told_apart = f"{name}__{root[:16].hex()}" if earlier else name
            earlier.append(root)
            unix_ms = history.read(ref).header.unix_ms
            change = ChangeId(history.name_of(ref), ref.seq)
            by = survey.name(log.member_id)
            named.append((NamedMoment(told_apart, root, frontier.change_count, by, unix_ms, change), lengths))
        return named

    def check_name(self, name: str) -> NamedMoment | None:
        """Return the moment that bears this name already for the state of now, or None where the name is free.

        Raises:
            UsageError: It cannot be a name, or is another state's.
        """
        if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable() or name != name.strip():
            raise UsageError(f"moment name {name!r:.40} is empty, too long or not printable")
        forms = (_EPOCH, _CHANGE, _ROOT, _UNIX_MS, _TIME)
        if name == "now" or name.startswith(_NAME) or has_suffix(name) or any(form.fullmatch(name) for form in forms):
            raise UsageError(f"moment name {name!r:.40} would be read as something else")
        root = self.frontier(self._history.applied_lengths()).root()
        for moment in self.named():
            if moment.name == name:
                if moment.root == root:
                    return moment
                raise UsageError(f"{name!r:.40} is the name of another state, {moment.root.hex()[:8]}")
        return None


def _unix_ms(time: datetime) -> int:
    """Return a time in milliseconds; without a zone it is UTC."""
    known = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return int((known - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000 // 1)


# -- one row, all of its versions -------------------------------------------------------------------


def versions(store: Store, table_name: str, key: Value | Key) -> list[Version]:
    """Return every write of a row that is applied here, in the one order, oldest first.

    Raises:
        UsageError: No such table, or not the shape of its key.
    """
    history, survey, table = store.history, Survey(store), store.catalog.named(table_name)
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) != len(table.key):
        raise UsageError(f"table {table.name} has {len(table.key)} key columns, found {len(parts)} values")
    for log in history.logs.values() if history.base is not None else ():
        for seq in history.dropped(log):
            if any(part.table_id == table.table_id for part in history.read(ChangeRef(log.log, seq)).header.parts):
                raise compacted(store, f"writes of table {table.name} lie", {log.log_id})
    bare: BareKey = parts[0] if len(parts) == 1 else parts
    state, done = RowState(), list[Write]()
    found: list[tuple[Write, int, dict[str, Value] | None]] = []
    lost: dict[ChangeRef, list[Entry]] = {}
    for each in writes_of(Scan(history), table, {bare}, history.applied_lengths())[bare]:
        stored, log = history.read(each.change), history.logs[each.change.log]
        order = order_key(history, log, stored)
        cells = {column: value for column, value in each.cells.items() if column in table.by_id}
        write = Write(each.change, order, each.kind, each.life, cells, each.is_final, log.origin)
        window = [other for other in done if not history.sees(write.change, other.change)]
        before = {(entry.column, entry.change) for entry in state.entries}
        state = merge_write(state, window, write, history.sees, table.merge_columns)
        for entry in state.entries:
            if (entry.column, entry.change) not in before:
                lost.setdefault(entry.change, []).append(entry)
        done.append(write)
        row = _named_row(table, parts, state.cells or {}) if state.is_alive else None
        found.append((write, stored.header.unix_ms, row))
    return [
        Version(
            ChangeId(history.name_of(write.change), write.change.seq),
            survey.name(history.logs[write.change.log].member_id),
            unix_ms,
            write.kind.name.lower(),
            {table.by_id[column].name: _as_said(table, write, column) for column in write.cells},
            row,
            tuple(_conflict(history, survey, table, parts, entry) for entry in lost.get(write.change, ())),
        )
        for write, unix_ms, row in found
    ]


def _as_said(table: Table, write: Write, column: bytes) -> Value:
    """Return what a write says of a column as people read it: a counter's difference has its sign."""
    merge = table.merge_columns.merges.get(column, Merge.REGISTER)
    return readable(merge, write.kind, write.cells[column])


def _conflict(history: History, survey: Survey, table: Table, key: Key, entry: Entry) -> Conflict:
    column = None if entry.column is None else table.by_id[entry.column].name
    winner, loser = survey.claim(entry.winner_value, entry.winner), survey.claim(entry.value, entry.change)
    log_id = history.name_of(entry.change)
    conflict_id = conflict_id_of(table, key, entry.column or b"", log_id, entry.change.seq)
    return Conflict(conflict_id, table.name, key, column, winner, loser)


def _named_row(table: Table, key: Key, cells: Mapping[bytes, Value]) -> dict[str, Value]:
    """Return a row by column name, in the table's order, without what SQLite works out."""
    parts = {info.column_id: value for info, value in zip(table.key, key, strict=True)}
    return {info.name: parts[info.column_id] if info.is_key else cells[info.column_id] for info in table.given}


# -- two moments --------------------------------------------------------------------------------------

_Rows = Mapping[BareKey, Mapping[bytes, Value]]


def changed(before: Past, after: Past) -> list[RowChange]:
    """Return the rows that are not the same in two moments, by table and key.

    A column that only one of them has is as if the other had it with its default: adding a column changes no row.
    """
    tables = list(after.catalog.by_id.values())
    if all(before.is_plain(table) and after.is_plain(table) for table in tables):
        found = []
        for table in tables:
            keys = before.touched_between(table, after.lengths)
            found += _differences(table, before.rows_of(table, keys), table, after.rows_of(table, keys))
        return _in_order(found)
    found = []
    for table_id in before.replayed().catalog.by_id.keys() | after.replayed().catalog.by_id.keys():
        old, old_rows = before.everything(table_id)
        new, new_rows = after.everything(table_id)
        known = new or old
        assert known is not None, "it is of one of the two"
        found += _differences(old or known, old_rows, new or known, new_rows)
    return _in_order(found)


def _differences(old: Table, before: _Rows, new: Table, after: _Rows) -> list[RowChange]:
    defaults = {**old.defaults, **new.defaults}
    found = []
    for bare in before.keys() | after.keys():
        was, now = before.get(bare), after.get(bare)
        if was is not None and now is not None:
            columns = was.keys() | now.keys()
            if all(same(was.get(c, defaults.get(c)), now.get(c, defaults.get(c))) for c in columns):
                continue
        key = bare if isinstance(bare, tuple) else (bare,)
        row_was = None if was is None else _named_row(old, key, was)
        row_now = None if now is None else _named_row(new, key, now)
        found.append(RowChange(new.name, key, row_was, row_now))
    return found


def _in_order(found: list[RowChange]) -> list[RowChange]:
    """Return rows by table and key, keys in the order that SQLite gives values."""
    return sorted(found, key=lambda each: (each.table, tuple(map(_sort_key, each.key))))


def _sort_key(value: Value) -> tuple[int, Value]:
    return (1 if isinstance(value, int | float) else 2 if isinstance(value, str) else 3, value)
