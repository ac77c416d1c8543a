"""A replica: one klal file, opened. The object that programs hold.

Every public call is one step: it commits wholly or changes nothing. Answers are values
from `klal.reports`; "not yet" is a value too, except where a call asked for what only
completeness can give, and then it is `IncompleteError` with the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from klal.answers import Answers
from klal.bundle.reading import is_bundle
from klal.bundles import Bundles
from klal.compaction import compact
from klal.errors import IncompleteError, KlalError, LinkError, ReadOnlyError, UsageError
from klal.file_station import FileStation
from klal.mend import Healed, mend, store_at
from klal.model.certificate import Certificate
from klal.model.codec import EPOCH_MAX
from klal.model.schema import Key, Value
from klal.moment import Asked, Moment, Moments, changed, versions
from klal.prove import Prover
from klal.reports import (
    ChangeId,
    Claim,
    Closed,
    Compacted,
    Conflict,
    Finished,
    ForeignWrite,
    LogEntry,
    NamedMoment,
    Progress,
    Result,
    RowChange,
    Rows,
    Standing,
    SyncReport,
    Traffic,
    Verified,
    Version,
    Violation,
)
from klal.rules.chain import check_against
from klal.rules.merge import same
from klal.snapshots import SnapshotShelf
from klal.store.behind import Finding, shown
from klal.store.bulk import insert_many
from klal.store.catalog import Table
from klal.store.checks import check_store
from klal.store.copy import backup_to
from klal.store.moments import Past
from klal.store.resolve import Choice, settle_conflict
from klal.store.sqltext import words_of
from klal.store.store import Store
from klal.sync.drive import drive
from klal.sync.side import Outcome
from klal.sync.side import Traffic as Carried
from klal.sync.station import Station
from klal.sync.wire import Wire, exchange
from klal.watch import AsyncWatch, LiveQuery, Since, Watch


class Unset(Enum):
    """Says that no value was given, where None is one."""

    UNSET = "unset"


UNSET = Unset.UNSET
Connect = Callable[[str], Station]
OnStanding = Callable[[Standing], None]


class Network(Protocol):
    """How a replica reaches hubs; handed in, as everything of the world is."""

    def wire(self, store: Store, url: str, token: str) -> Wire:
        """Return a wire to a hub that has admitted this file's member."""

    async def stay(self, store: Store, urls: Sequence[str], token: str, told: OnStanding) -> None:
        """Stay connected to hubs."""


OnProgress = Callable[[Progress], None]
# What a statement did: a store's `Outcome`.
Ran = tuple[int, tuple[str, ...], Sequence[tuple[Value, ...]], tuple[str | None, ...]]


class Replica(Answers, Bundles):
    """One SQLite file of one space, with a member's key, or without one and then read-only.

    Made by `klal.create`, `klal.join` and `klal.open`. One thread uses it at a time.

    Raises:
        KlalError: From any method, as `klal.errors` says; never an error of SQLite's.
    """

    def __init__(self, store: Store, connect: Connect, network: Network | None = None) -> None:
        self._store = store
        self._connect = connect
        self._network = network
        self._is_in_block = False
        self._conflict_watches: list[_ConflictWatch] = []

    # -- identity ------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The file."""
        return self._store.path

    @property
    def space_id(self) -> bytes:
        """The 32 bytes that name the space."""
        return self._store.space_id

    @property
    def space_name(self) -> str:
        """The name the founder gave the space."""
        return self._store.genesis.space_name

    @property
    def predecessor(self) -> tuple[bytes, str] | None:
        """The id and name of the space that this one goes on from (`klal.refound`), or None."""
        named = self._store.genesis.predecessor
        return None if named is None else (named.space_id, named.space_name)

    @property
    def member_id(self) -> bytes:
        """The member's public key, or empty bytes when the file has no key here."""
        return self._store.member_id

    @property
    def member_name(self) -> str:
        """The member's name, or "" when the file has no key here."""
        return "" if self._store.identity is None else self._store.identity.name

    @property
    def log_id(self) -> bytes:
        """The log this file writes, or empty bytes before it has one."""
        own = self._store.writer.own
        return b"" if own is None else own.log.log_id

    @property
    def read_only(self) -> bool:
        """True when the member's key is not at hand."""
        return self._store.identity is None

    def close(self) -> None:
        """Seal what was written and release the file."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- SQL -----------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> Result:
        """Run one SQL statement, committed as one change unless a transaction is open.

        Raises:
            UsageError: SQL that SQLite or klal refuses; a row that breaks a constraint
                (`ConstraintError`). The statement is undone.
            BusyError: Another process holds the file.
        """
        writer = self._store.writer
        plan = writer.plan(sql)
        if plan == "write":
            return self._stepped(writer.run_quietly, sql, parameters)
        if plan == "read":
            outcome = self._store.run_read(sql, parameters)
            return Result(0, None, outcome.columns, outcome.rows, outcome.types)
        if plan == "returning":
            return self._stepped(writer.run, sql, parameters)
        if plan == "ddl":
            return self._stepped(lambda text, _: writer.declare(text), sql, ())
        if plan == "local":
            return self._stepped(lambda text, _: writer.shape(text), sql, ())
        return self._transact(plan, sql)

    def executemany(self, sql: str, rows: Iterable[Sequence[Value] | Mapping[str, Value]]) -> Result:
        """Run one INSERT, UPDATE or DELETE for each row of parameters, as one change."""
        writer = self._store.writer
        if writer.plan(sql) not in ("write", "returning"):
            raise UsageError("executemany wants an INSERT, UPDATE or DELETE")
        return self._stepped(writer.run_many, sql, rows)

    def insert_many(
        self, table: str, rows: Iterable[Sequence[Value] | Mapping[str, Value]], *, columns: Sequence[str] | None = None
    ) -> Result:
        """Insert many rows as one change, faster than SQL can.

        Args:
            table: Its name.
            rows: Tuples in the order of `columns`, or mappings by column name.
            columns: Names for tuples; all of the table's, in its order, by default.

        Raises:
            UsageError: A row of another shape, or one that breaks a constraint; nothing was inserted.
        """
        store = self._store
        return self._stepped(
            lambda name, given: insert_many(store.connection, store.writer, store.catalog.named(name), given, columns),
            table,
            rows,
        )

    def query(self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> Rows:
        """Return the rows of a SELECT.

        Raises:
            UsageError: Not a query.
        """
        if self._store.writer.plan(sql) != "read":
            raise UsageError("query wants a statement that only reads")
        outcome = self._store.run_read(sql, parameters)
        return Rows(outcome.columns, outcome.rows)

    def is_query(self, sql: str) -> bool:
        """True when a statement only reads; nothing runs.

        Raises:
            UsageError: SQL that klal cannot replicate, in a sentence that says so.
        """
        return self._store.writer.plan(sql) == "read"

    @property
    def in_transaction(self) -> bool:
        """True while statements are being gathered into one change."""
        return self._store.in_transaction

    @contextmanager
    def transaction(self) -> Iterator[Replica]:
        """Make several statements one change: all of them, or nothing if the block raises."""
        if self._store.in_transaction:
            raise UsageError("a transaction is open already; use SAVEPOINT inside it")
        self._store.enter_if_waiting(is_writing=True)
        with self._store.writing():
            self._is_in_block = True
            try:
                yield self
                self._check_block()
            finally:
                self._is_in_block = False

    def _check_block(self) -> None:
        """Refuse to go on in a transaction that a failed statement has ended (INSERT OR ROLLBACK, a full disk)."""
        if self._is_in_block and not self._store.in_transaction:
            raise UsageError("this transaction was rolled back by a statement that failed in it; nothing was stored")

    def tables(self) -> list[str]:
        """Return the names of the replicated tables, sorted."""
        return sorted(table.name for table in self._store.catalog.by_id.values())

    def table_columns(self, name: str) -> list[tuple[str, str]]:
        """Return (name, declared type) of a table's columns, in its order."""
        return [(info.name, info.column.type) for info in self._table(name).columns]

    def table_key(self, name: str) -> list[str]:
        """Return the names of a table's key columns, in key order."""
        return [info.name for info in self._table(name).key]

    def _table(self, name: str) -> Table:
        return self._store.catalog.named(name)

    def _transact(self, word: str, sql: str) -> Result:
        """Run the user's own BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE."""
        store = self._store
        words = words_of(sql)
        nothing = Result(0, None)
        if word == "BEGIN":
            if store.in_transaction:
                raise UsageError("a transaction is open already")
            store.enter_if_waiting(is_writing=True)
            store.begin()
            return nothing
        if not store.in_transaction:
            raise UsageError(f"{word} outside a transaction")
        if word in ("COMMIT", "END"):
            seq = store.commit()
            return Result(0, None if seq is None else ChangeId(self.log_id, seq))
        if word == "ROLLBACK" and "TO" not in words:
            store.rollback()
            return nothing
        store.writer.savepoint(sql, word)
        return nothing

    def _stepped(self, work: Callable[[str, Any], Ran], what: str, values: Any) -> Result:
        """Run one statement's work: in a transaction of its own, or as part of the open one."""
        store = self._store
        if self._is_in_block:
            self._check_block()
        if store.in_transaction:
            try:
                row_count, columns, rows, types = work(what, values)
            finally:
                store.check_ended()
            return Result(row_count, None, columns, rows, types)
        if store.is_returning:
            store.enter_if_waiting(is_writing=True)
        store.begin()
        try:
            row_count, columns, rows, types = work(what, values)
        except BaseException:
            store.rollback()
            raise
        seq = store.commit()
        return Result(row_count, None if seq is None else ChangeId(self.log_id, seq), columns, rows, types)

    # -- live ----------------------------------------------------------------------------

    def watch(
        self,
        sql: str,
        parameters: Sequence[Value] | Mapping[str, Value] = (),
        *,
        since: Since | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Return an iterator of what changes in the rows of a SELECT, from now on or since a change.

        `.rows` are those of the beginning, and `.poll()` looks without waiting. Changes of another
        process on this file are noticed within `klal.polling.POLL_S` seconds. It ends when the replica is closed.

        Args:
            since: An event's `heads`, to go on after a restart: the first event then holds what changed
                meanwhile. A single change stands for the state that it had seen.
            timeout: End after this many seconds without an event; 0 gives what is there already.

        Raises:
            UsageError: Not a SELECT, or a `since` that is not applied here.
        """
        return Watch(self._live_query(sql, parameters, since), timeout)

    def watch_async(
        self,
        sql: str,
        parameters: Sequence[Value] | Mapping[str, Value] = (),
        *,
        since: Since | None = None,
        timeout: float | None = None,
    ) -> AsyncWatch:
        """Return an asynchronous iterator as `watch` gives a plain one.

        What this process commits wakes it at once. The loop must run on the thread that uses the replica.
        """
        return AsyncWatch(self._live_query(sql, parameters, since), timeout)

    def _live_query(
        self, sql: str, parameters: Sequence[Value] | Mapping[str, Value], since: Since | None
    ) -> LiveQuery:
        if self._store.in_transaction:
            raise UsageError("a watch cannot begin inside a transaction")
        return LiveQuery(self._store, sql, parameters, since)

    def on_conflict(self, callback: Callable[[list[Conflict]], None]) -> Callable[[], None]:
        """Have `callback` called with the new conflicts after a sync or finish has merged and committed them.

        What it raises passes through to whoever called `sync` or `finish`; everything is committed
        before, and it is not called again for the same ones.

        Returns:
            A function that ends it.
        """
        watch = _ConflictWatch(callback, {_entry_of(conflict) for conflict in self.conflicts()})
        self._conflict_watches.append(watch)
        return lambda: self._conflict_watches.remove(watch)

    def _tell_conflicts(self) -> None:
        if not self._conflict_watches:
            return
        conflicts = self.conflicts()
        for watch in tuple(self._conflict_watches):
            new = [conflict for conflict in conflicts if _entry_of(conflict) not in watch.seen]
            watch.seen = {_entry_of(conflict) for conflict in conflicts}
            if new:
                watch.callback(new)

    # -- exchange ------------------------------------------------------------------------

    def sync(
        self,
        *remotes: str | Path,
        progress: OnProgress | None = None,
        byte_count_max: int | None = None,
        token: str = "",
    ) -> SyncReport:
        """Exchange with other klal files, folders that others share, or hubs, until both hold the same; take bundles.

        Args:
            remotes: Paths, or URLs of hubs: `ws://host:port` or `wss://host`, with the space behind it where the hub
                calls it otherwise than by its id. A file without its key at hand only gives,
                and so does a bundle.
            progress: Called now and then.
            byte_count_max: Stop after about this many bytes; what arrived whole is kept.
            token: Shown to hubs; without one this member signs the hub's challenge with its key.

        Raises:
            TransportError: A remote cannot be reached; what had arrived is kept.
            RefusedError: A remote of another space.
        """
        if not remotes:
            raise UsageError("sync wants at least one remote")
        if self._store.in_transaction:
            raise UsageError("sync cannot run inside a transaction")
        if self._store.identity is None:
            raise ReadOnlyError(f"{self.path} is read-only here: the key of its member is not at hand")
        only_gave: list[str] = []
        try:
            outcomes = [self._sync_one(str(remote), progress, byte_count_max, token, only_gave) for remote in remotes]
        finally:
            self._tell_conflicts()
        return SyncReport(
            _traffic([outcome.sent for outcome in outcomes]),
            _traffic([outcome.received for outcome in outcomes]),
            outcomes[-1].equal,
            outcomes[-1].roots.known,
            tuple(sentence for outcome in outcomes for sentence in outcome.refused),
            tuple(only_gave),
            all(outcome.is_finished for outcome in outcomes),
        )

    def _sync_one(
        self, remote: str, progress: OnProgress | None, byte_count_max: int | None, token: str, only_gave: list[str]
    ) -> Outcome:
        if not is_hub(remote) and is_bundle(Path(remote)):
            if byte_count_max is not None:
                raise UsageError(f"{remote} is a bundle, and is taken without a limit")
            return self._take_bundle(remote, progress)
        told = None if progress is None else lambda phase, done, total: progress(Progress(phase, done, total))
        if self._network is not None and is_hub(remote):
            with closing(self._network.wire(self._store, remote, token)) as wire:
                outcome = exchange(FileStation(self._store), wire, on_progress=told, byte_count_max=byte_count_max)
        else:
            station = self._connect(remote)
            try:
                outcome = drive(FileStation(self._store), station, on_progress=told, byte_count_max=byte_count_max)
            finally:
                release = getattr(station, "release", None)
                if release is not None:
                    release()
            if not station.takes:
                only_gave.append(remote)
        self._store.enter_if_waiting(is_writing=False)
        self._store.note_contact()
        return outcome

    async def stay_synced(self, *urls: str, token: str = "", on_standing: OnStanding | None = None) -> None:
        """Stay connected to hubs: what they gain comes at once, and what is written to this file goes at once.

        It runs until it is cancelled or the replica is closed, on the event loop of the thread that uses the
        replica, between the program's own steps; a lost connection is dialed again. What another process writes
        to the file is noticed within `klal.polling.POLL_S` seconds.

        Args:
            urls: Of hubs, as for `sync`.
            token: Shown to hubs, as for `sync`.
            on_standing: Called whenever it stands otherwise with one of them.

        Raises:
            RefusedError: A hub serves another space.
            StoreError: The file cannot be used.
        """
        if not urls:
            raise UsageError("stay_synced wants at least one URL of a hub")
        if self._store.identity is None:
            raise ReadOnlyError(f"{self.path} is read-only here: the key of its member is not at hand")
        if self._network is None:
            raise UsageError("this replica was made without a network")
        await self._network.stay(self._store, urls, token, on_standing or (lambda _standing: None))

    def _take_bundle(self, path: str, progress: OnProgress | None) -> Outcome:
        taken = self.import_bundle(path, progress=progress)
        return Outcome(
            sent=Carried(0, 0, 0),
            received=Carried(taken.changes, taken.payloads, taken.read),
            equal=False,  # A bundle says nothing of what else its maker holds by now.
            is_finished=True,
            refused=taken.sentences,
            roots=taken.roots,
        )

    def invite(self, *, use_count_max: int = 100) -> str:
        """Record an invitation and return its ticket: whoever has it may join, offline.

        Args:
            use_count_max: How many members it is meant for; over-use is listed, not refused.
        """
        if self._store.in_transaction:
            raise UsageError("invite cannot run inside a transaction")
        if not 1 <= use_count_max < 1 << 31:
            raise UsageError(f"use_count_max is {use_count_max}, want at least 1")
        self._store.enter_if_waiting(is_writing=True)
        return self._store.invite(use_count_max)

    # -- what did not go together ---------------------------------------------------------

    def conflicts(self) -> list[Conflict]:
        """Return every value that lost against one its writer had not seen."""
        with self._store.reading():
            return self._survey().conflicts()

    def violations(self) -> list[Violation]:
        """Return what stands here though a constraint speaks against it, the same on every replica.

        Merges never stop on a constraint: rows that share a UNIQUE value are shown one at a time,
        and what breaks a CHECK or FOREIGN KEY stays and is listed. The view klal_violations says it in SQL.
        """
        with self._store.reading():
            return self._survey().violations()

    def resolve(
        self,
        conflict: Conflict | Violation | str,
        value: Value | Mapping[str, Value] | Unset = UNSET,
        *,
        keep: bool = False,
        delete: bool = False,
    ) -> Result:
        """Settle a conflict with one write that has seen both sides; wherever it arrives, the conflict is gone.

        Args:
            conflict: One of `conflicts()`, or of `violations()` a row that UNIQUE hides, or its id.
            value: What the cell shall show. Where the row is deleted, it comes back with it. Of a
                hidden row its new value in the column that is UNIQUE, or values by column.
            keep: What stands shall stand: the value, the row, or that it is deleted.
            delete: The row shall be deleted.

        Raises:
            UsageError: Not exactly one of the three; no such conflict; a lost DELETE has no value.
        """
        if (not isinstance(value, Unset)) + keep + delete != 1:
            raise UsageError("resolve wants a value, or keep, or delete: one of the three")
        conflict_id = conflict if isinstance(conflict, str) else conflict.id
        choice = Choice("keep" if keep else "delete") if isinstance(value, Unset) else Choice("value", value)
        return self._stepped(lambda named, chosen: settle_conflict(self._store, named, chosen), conflict_id, choice)

    def set_policy(self, table: str, *, merge: str = "", on_delete: str = "") -> Result:
        """Set how changes of a table are made from here on, on every replica that hears of it.

        Args:
            table: Its name.
            merge: "cell": of a row written apart, each cell decides by itself. "row": the whole row.
            on_delete: "revive": a row deleted here while it was changed there stays. "wins": it is gone.

        Raises:
            UsageError: Another word, or none.
        """
        return self._stepped(
            lambda name, chosen: self._store.writer.declare_policy(name, *chosen), table, (merge, on_delete)
        )

    def log(self, *, limit: int | None = None, table: str | None = None) -> list[LogEntry]:
        """Return the changes held here, newest first in the one order all replicas share."""
        with self._store.reading():
            return self._survey().log(limit, table)

    # -- the past ------------------------------------------------------------------------

    def at(self, moment: Asked) -> Moment:
        """Return a state of the past, on which any SELECT can be run.

        Args:
            moment: What it is asked by.
                "now": everything applied here.
                "epoch:3", or what `close_epoch` returned: the cut of that epoch.
                A time (`datetime`, text in ISO format, milliseconds since 1970 as text; UTC
                where no zone is given): the greatest causally closed set of changes held here
                whose order stamps are not above it. It is the same wherever the same changes
                are held; a change that arrives later with an earlier stamp makes it another.
                A `ChangeId`, or how it is spelled: that change and everything it had seen.
                A `Frontier`, another `Moment`, or a root in hex: that state, where it is known.
                A name that a member gave, with "name:" before it if it looks like something else.

        Raises:
            IncompleteError: Not all of its changes or payloads are here; `.missing` lists them.
            UsageError: There is no such moment.
        """
        if self._store.in_transaction:
            raise UsageError("at cannot run inside a transaction")
        with self._store.reading():
            moments = Moments(self._store)
            lengths = moments.lengths(moment)
            frontier = moments.frontier(lengths)
            name = moments.name_of(frontier.root())
        return Moment(self._past(lengths), frontier, name)

    def discloser(self, moment: Asked = "now") -> Claim | None:
        """Return who was the first to have a state whole, and in which change; None while nobody's change had it.

        It is the first in the one order of the changes that have all of it in their past, or complete it: the
        same wherever the same changes are held. `value` is the root of the state.

        Args:
            moment: As for `at`.
        """
        with self._store.reading():
            moments = Moments(self._store)
            lengths = moments.lengths(moment)
            ref = moments.discloser(lengths)
            root = moments.frontier(lengths).root()
            return None if ref is None else self._survey().claim(root, ref)

    def _past(self, lengths: Mapping[int, int]) -> Past:
        # As SQLite knows it: a relative path would be another file after a chdir.
        path = Path(self._store.connection.db_filename("main"))
        with self._store.translated():
            return Past(path, lengths)

    def history(self, table: str, key: Value | Key) -> list[Version]:
        """Return every version of a row, oldest first: who wrote what and when, and what of it lost.

        Args:
            table: Its name.
            key: The row's key: a value, or a tuple where several columns are the key.
        """
        with self._store.reading():
            return versions(self._store, table, key)

    def diff(self, before: Asked, after: Asked = "now") -> list[RowChange]:
        """Return the rows that are not the same in two moments, by table and key.

        A column that only one of them has counts as if the other had it with its default.
        """
        if self._store.in_transaction:
            raise UsageError("diff cannot run inside a transaction")
        with self._store.reading():
            wanted = [Moments(self._store).lengths(asked) for asked in (before, after)]
        with ExitStack() as opened, self._store.translated():
            old, new = (opened.enter_context(closing(self._past(lengths))) for lengths in wanted)
            return changed(old, new)

    def name_moment(self, name: str) -> NamedMoment:
        """Give what is applied here a name, by which every replica that hears of it can open it.

        Two members who give one name to two states apart have named both: the earlier in the
        one order keeps the name, the other has its root behind it, the same everywhere.

        Raises:
            UsageError: It is no name, or names another state here.
        """
        store = self._store
        if store.in_transaction:
            raise UsageError("name_moment cannot run inside a transaction")
        if store.identity is None:
            raise ReadOnlyError(f"{self.path} is read-only here: the key of its member is not at hand")
        store.enter_if_waiting(is_writing=True)
        with store.reading():
            known = Moments(store).check_name(name)
        if known is not None:
            return known
        change = ChangeId(self.log_id, store.name_moment(name))
        return next(moment for moment in self.moments() if moment.change == change)

    def moments(self) -> list[NamedMoment]:
        """Return the states that members named, earliest naming first in the one order."""
        with self._store.reading():
            return Moments(self._store).named()

    # -- closing the books ---------------------------------------------------------------

    def finish(self, *, alone: bool = False) -> Finished:
        """Say that this member has nothing more to add to the running epoch.

        What is written afterwards belongs to the next epoch.

        Args:
            alone: Finish even though invitations are out and nobody has been heard of: an
                epoch that everybody known has finished is complete, and this member would
                be everybody.

        Raises:
            IncompleteError: Invitations are out, nobody has been heard of, and not `alone`.
            IncompleteError: This member has finished that epoch and the epoch before is
                not complete here; `.waiting_for` says whom it waits for.
        """
        store = self._store
        if store.in_transaction:
            raise UsageError("finish cannot run inside a transaction")
        if store.identity is None:
            raise ReadOnlyError(f"{self.path} is read-only here: the key of its member is not at hand")
        with store.reading():
            self._survey().check_may_finish(alone=alone)
        store.enter_if_waiting(is_writing=True)
        epoch = store.finish()
        self._settle()
        self._tell_conflicts()
        return self._finished(epoch)

    def close_epoch(self, epoch: int | None = None) -> Closed:
        """Return the certificate of an epoch.

        Args:
            epoch: Its number; by default the newest that this member has finished.

        Raises:
            IncompleteError: Not complete here; `.waiting_for` names members and reasons.
        """
        check_epoch(epoch)
        if self._store.is_closed:
            raise UsageError("close_epoch wants a replica that is open")
        if not self.read_only and not self._store.in_transaction:
            self._settle()
        with self._store.reading():
            if not self.read_only:
                self._store.behind.require_clean()
            survey = self._survey()
            number = survey.epoch_to_close() if epoch is None else epoch
            certificate = self._store.certificate(number)
            waiting = survey.waiting_for(number)
            if certificate is None or waiting:
                names = ", ".join(f"{each.member_name} ({each.reason})" for each in waiting) or "earlier epochs"
                what = "is not complete here" if certificate is None else "has several certificates"
                raise IncompleteError(f"epoch {number} {what}: it waits for {names}", waiting_for=waiting, epoch=number)
            return Closed(number, certificate, survey.epoch_state(number))

    def compact(
        self, epoch: int | None = None, *, keep: int = 2, anyway: bool = False, progress: OnProgress | None = None
    ) -> Compacted:
        """Put down the rows' payloads below the cut of a closed epoch, so that they no longer take space.

        Headers, seals and acts stay, so history is still proven link by link, and an image of the
        state at the cut takes the payloads' place. Where that image would outweigh them nothing is
        done, and the answer says so. From then on this replica is a `part`: moments
        before the cut can be read where a full copy is. Late changes that must be compared with
        what went wait until it is brought again, which any sync with a full copy does.

        The first call asks the others to show that they hold what would go. Question and answers
        travel with the receipts, so sync, let them sync, sync again, and call it again.

        Args:
            epoch: Below which; by default the newest that is closed.
            keep: How many other members must have shown a full copy, and promised to keep it.
            anyway: Put them down also where the file does not become smaller by it.
            progress: Is told how far it is.

        Raises:
            IncompleteError: The epoch is not closed or not stable, or too few have answered yet;
                `.waiting_for` says who.
            CopiesError: So many full copies are not known to exist, or others rely on this one.
        """
        check_epoch(epoch)
        if self._store.is_closed or not isinstance(keep, int):
            raise UsageError("compact wants a replica that is open, and how many copies to keep as a number")
        return compact(self._store, epoch, keep, progress, anyway=anyway)

    # -- writes behind klal's back -------------------------------------------------------

    def foreign_writes(self) -> list[ForeignWrite]:
        """Return what another program wrote to this file, row by row: found by applying all of history again.

        After a clean close nothing needs to be looked for. Otherwise klal looks by itself before
        its first write and before it syncs, finishes or closes an epoch.
        """
        if self._store.in_transaction:
            raise UsageError("foreign_writes cannot run inside a transaction")
        return [_foreign_write(found) for found in self._store.find_foreign()]

    def adopt(self) -> Result:
        """Make all rows that another program wrote one change of mine, which merges as any other.

        Those with an obstacle stay as they are: `foreign_writes` says why, and `undo` takes them back.
        """
        return self._settle_foreign("adopt")

    def undo(self) -> Result:
        """Put all rows that another program wrote back as history says, and drop its indexes, triggers and views."""
        return self._settle_foreign("undo")

    def _settle_foreign(self, how: str) -> Result:
        if self._store.in_transaction:
            raise UsageError(f"{how} cannot run inside a transaction")
        count, seq = self._store.settle_foreign(is_adopting=how == "adopt")
        return Result(count, None if seq is None else ChangeId(self.log_id, seq))

    # -- proof and copies ----------------------------------------------------------------

    @property
    def prove(self) -> Prover:
        """What makes proofs for somebody who has nothing but a certificate's hash."""
        return Prover(self._store)

    @property
    def snapshot(self) -> SnapshotShelf:
        """The snapshot that this replica made for newcomers, or reads as one."""
        return SnapshotShelf(self._store)

    def verify(self, progress: OnProgress | None = None, *, certificates: Iterable[Certificate] = ()) -> Verified:
        """Check every hash, link, seal, receipt, payload and certificate, and replay all rows.

        Args:
            progress: Called now and then.
            certificates: Others to compare with those that this file's history gives.

        Raises:
            RefusedError: The first thing that does not hold: `.rule`, and `.evidence` for where.
            IncompleteError: The epoch of one of `certificates` is not complete here.
        """
        told = None if progress is None else lambda done, total: progress(Progress("verify", done, total))
        counts = check_store(self._store, told)
        for given in certificates:
            true = self._store.certificate(given.epoch)
            if given.body.space_id != self.space_id:
                raise LinkError(f"certificate of epoch {given.epoch} is of another space", rule="CRT-1")
            if true is None:
                raise IncompleteError(f"epoch {given.epoch} is not complete in this file", epoch=given.epoch)
            check_against(given, true)
        epoch = None if counts.base is None else counts.base.epoch
        return Verified(counts.changes, counts.payloads, counts.receipts, counts.certificates, epoch)

    def heal(self, *, rows: Literal["ask", "adopt", "undo"] = "ask", progress: OnProgress | None = None) -> Healed:
        """Make a whole file of this damaged one, from what is good of its signed history.

        Rows, members, certificates and all that klal keeps beside them are computed again; what was not
        good is known of and not here, and the next sync asks for it. The old file is kept beside the new
        one. A file that passes `verify` is left as it is. `klal.heal` heals one that cannot be opened.

        Args:
            rows: What becomes of rows in the tables that history does not give, which may be damage,
                another program's work, or all that is left of a change that was lost. "ask" heals
                nothing as long as there are any; "adopt" makes them a change of mine, which loses
                nothing; "undo" leaves them behind in the old file.
            progress: Called now and then.

        Raises:
            ForeignWritesError: There are such rows, and `rows` is "ask".
            DamagedError: Nothing of it can be read any more: `klal.join` brings the member back.
        """
        store = self._store
        if store.in_transaction:
            raise UsageError("heal cannot run inside a transaction")
        name = None if store.identity is None else store.identity.name
        home, world = store.surroundings
        told = None if progress is None else lambda done, total: progress(Progress("heal", done, total))
        store.release()
        try:
            self._store, healed = mend(store.path, home, world, name, rows, told)
        except KlalError:
            with suppress(KlalError):
                self._store = store_at(store.path, home, world, name)
            raise
        return healed

    def backup(self, to: str | Path, progress: OnProgress | None = None) -> None:
        """Write a copy of everything to a new path, without this writer's identity.

        Whoever opens the copy with a member's key writes to it as a log of its own.
        """
        if self._store.in_transaction:
            raise UsageError("backup cannot run inside a transaction")
        told = None if progress is None else lambda done, total: progress(Progress("backup", done, total))
        with self._store.translated():
            self._store.seal()
        backup_to(self._store.connection, Path(to), told)

    def __repr__(self) -> str:
        return f"<klal.Replica {str(self.path)!r} of {self.space_name!r}, member {self.member_name!r}>"


@dataclass(eq=False, slots=True)
class _ConflictWatch:
    """Who is told of conflicts, and which are known to them."""

    callback: Callable[[list[Conflict]], None]
    seen: set[tuple[object, ...]]


def is_hub(remote: str) -> bool:
    """True for the URL of a hub."""
    return remote.lower().startswith(("ws://", "wss://"))


def check_epoch(epoch: object) -> None:
    """Return if this is the number of an epoch, or None.

    Raises:
        UsageError: It is not.
    """
    if epoch is not None and (not isinstance(epoch, int) or not 0 <= epoch <= EPOCH_MAX):
        raise UsageError(f"{epoch!r:.40} is no number of an epoch")


def _entry_of(conflict: Conflict) -> tuple[object, ...]:
    """Return what names a conflict entry, whichever value wins over it meanwhile."""
    return conflict.table, conflict.key, conflict.column, conflict.loser.change


def _foreign_write(found: Finding) -> ForeignWrite:
    table, before, after = found.table, found.before, found.after
    if table is None:
        return ForeignWrite(found.kind, found.name, (), None, None, found.obstacle)
    positions = list(range(len(table.columns)))
    if before is not None and after is not None:
        positions = [p for p in positions if not same(before[p], after[p])]
    sides = [
        None if row is None else {table.columns[p].name: shown(row[p]) for p in positions} for row in (before, after)
    ]
    key = tuple(shown(value) for value in found.key)
    return ForeignWrite(found.kind, found.name, key, sides[0], sides[1], found.obstacle)


def _traffic(parts: Iterable[Any]) -> Traffic:
    parts = list(parts)
    return Traffic(
        sum(part.change_count for part in parts),
        sum(part.payload_count for part in parts),
        sum(part.byte_count for part in parts),
    )
