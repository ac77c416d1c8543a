"""Live queries: which rows of a query came and went, whoever made the change.

A query is run again when a change touches a table that it reads, and its rows are compared
with those of before as a multiset, so that it is right for any SELECT. What touched which
table is read from the headers of the changes applied since, and not from a hook: so local
writes, merges and those of another process are seen alike.

Law: the rows of the beginning, with every event's `removed` taken out and `added` put in,
are the rows of the query.

Source:
    Decision D3; decision record 0023.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Self

from klal.errors import UsageError
from klal.model.codec import pack
from klal.model.header import ACTS_TABLE
from klal.model.schema import Value, fold
from klal.polling import look_until, look_until_async
from klal.reports import ChangeId, Event, Rows
from klal.rules.merge import ChangeRef
from klal.store.epochs import Replay
from klal.store.sqltext import first_word
from klal.store.store import Store

Parameters = Sequence[Value] | Mapping[str, Value]
Since = ChangeId | str | Iterable[ChangeId | str]


def rows_as_of(store: Store, lengths: dict[int, int], sql: str, parameters: Parameters) -> list[tuple[Value, ...]]:
    """Return what a query gave when this much of each log was applied: history applied again in memory."""
    replay = Replay(store.connection, store.history, store.applier.certificate_in)
    try:
        replay.run(lengths)
        return replay.connection.execute(sql, parameters).fetchall()
    finally:
        replay.connection.close()


class LiveQuery:
    """A query, its rows as of the last look, and how much of history they show."""

    def __init__(self, store: Store, sql: str, parameters: Parameters, since: Since | None) -> None:
        if store.writer.plan(sql) != "read" or first_word(sql) not in ("SELECT", "VALUES", "WITH"):
            raise UsageError("watch wants a SELECT")
        self.store = store
        self._sql = sql
        self._parameters = parameters
        with store.reading(), store.translated():
            self.rows = self._run()
            self._names = {fold(name) for name in store.writer.tables_read(sql)}
            self._lengths = store.history.applied_lengths()
            if since is not None:
                self._lengths = self._lengths_of(since)
                self.rows = Rows(self.rows.columns, rows_as_of(store, self._lengths, sql, parameters))

    def look(self) -> Event | None:
        """Return what changed since the last look; None where the rows are the same."""
        store = self.store
        with store.reading():
            lengths = store.history.applied_lengths()
            if lengths == self._lengths:
                return None
            before, self._lengths = self._lengths, lengths
            if not self._is_touched(before):
                return None
            self._names = {fold(name) for name in store.writer.tables_read(self._sql)}
            rows = self._run()
            added, removed = _minus(rows, self.rows), _minus(self.rows, rows)
            self.rows = rows
            if not (added or removed):
                return None
            return Event(Rows(rows.columns, added), Rows(rows.columns, removed), self._newest(before), self._heads())

    def _run(self) -> Rows:
        outcome = self.store.run_read(self._sql, self._parameters)
        return Rows(outcome.columns, outcome.rows)

    def _is_touched(self, before: dict[int, int]) -> bool:
        """True when a change applied since wrote a table of the query, or declared one."""
        history, catalog = self.store.history, self.store.catalog
        if any(name.startswith("klal_") for name in self._names):
            return True
        wanted = {table.table_id for name, table in catalog.by_name.items() if name in self._names} | {ACTS_TABLE}
        return any(
            part.table_id in wanted
            for log in history.logs.values()
            for stored in history.lines(log, before.get(log.log, 0), log.applied_length)
            for part in stored.header.parts
        )

    def _newest(self, before: dict[int, int]) -> ChangeId:
        moved = [log for log in self.store.history.logs.values() if log.applied_length > before.get(log.log, log.start)]
        newest = max(moved, key=lambda log: (log.order_stamp, log.log_id))
        return self._id_of(ChangeRef(newest.log, newest.applied_length - 1))

    def _heads(self) -> tuple[ChangeId, ...]:
        return tuple(sorted(map(self._id_of, self.store.history.maximal_heads({}))))

    def _id_of(self, ref: ChangeRef) -> ChangeId:
        return ChangeId(self.store.history.name_of(ref), ref.seq)

    def _lengths_of(self, since: Since) -> dict[int, int]:
        history = self.store.history
        lengths: dict[int, int] = {}
        for each in [since] if isinstance(since, ChangeId | str) else since:
            change = ChangeId.parse(each) if isinstance(each, str) else each
            ref = history.named(change.log_id, change.seq)
            if ref is None or ref.seq >= history.logs[ref.log].applied_length:
                raise UsageError(f"change {change.log_id.hex()[:8]}:{change.seq} is not applied here")
            for index, length in history.vector(ref).items():
                lengths[index] = max(length, lengths.get(index, 0))
        return lengths


def _minus(rows: Sequence[tuple[Value, ...]], others: Sequence[tuple[Value, ...]]) -> list[tuple[Value, ...]]:
    """Return the rows that are not among the others, as often as they are more; 1 and 1.0 are two values."""
    count = Counter(map(pack, others))
    more = []
    for row in rows:
        key = pack(row)
        if count[key]:
            count[key] -= 1
        else:
            more.append(row)
    return more


class Watch(Iterator[Event]):
    """Events of a query, waited for on the thread that asks for the next one."""

    def __init__(self, live: LiveQuery, timeout: float | None) -> None:
        self._live = live
        self._timeout = timeout

    @property
    def rows(self) -> Rows:
        """The rows of the query as of the last event, or as of the beginning."""
        return self._live.rows

    def poll(self) -> Event | None:
        """Return what changed since the last event, without waiting; None where nothing did."""
        if self._live.store.in_transaction:
            raise UsageError("a watch cannot look inside a transaction, before it is known to be committed")
        return self._live.look()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = look_until(self._live.store, self.poll, self._timeout)
        if event is None:
            raise StopIteration
        return event


class AsyncWatch(AsyncIterator[Event]):
    """Events of a query, waited for without holding up the event loop; the query itself runs on the loop's thread."""

    def __init__(self, live: LiveQuery, timeout: float | None) -> None:
        self._live = live
        self._timeout = timeout

    @property
    def rows(self) -> Rows:
        """The rows of the query as of the last event, or as of the beginning."""
        return self._live.rows

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await look_until_async(self._live.store, self._live.look, self._timeout)
        if event is None:
            raise StopAsyncIteration
        return event
