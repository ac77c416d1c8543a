"""Healing a damaged file: what is good of its signed history goes into a new one, and everything else follows.

Nothing is patched. The old file is read as if it were a stranger's: its headers, payloads and
receipts go through the same door as those of a session, and rows, members, epochs and all that
klal keeps beside them are computed from what got through. What did not is known of and not here,
so the next sync asks for it.

The old file is kept under a name of its own, byte for byte, before anything else is done, and
the new one takes its place in one step, after it was verified. Rows that lie in the old tables
and that no history gives are neither dropped nor believed without being asked for.

Law: a healed file passes `verify`, and holds every sealed change that the old one held whole.
It writes under a log of its own, since what the old log once held cannot be known.

Source:
    Protocol spec section 15, rules FIL-5 and LOG-6.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import apsw

from klal.disk import sync_folder
from klal.errors import (
    BusyError,
    ConstraintError,
    DamagedError,
    ForeignWritesError,
    NewerFormatError,
    NotKlalError,
    ReadOnlyError,
    RefusedError,
    StoreError,
    UsageError,
)
from klal.model.codec import pack, tree_leaf
from klal.model.header import ACTS_TABLE
from klal.store.behind import Finding, differences, objects_in, obstacle_to, rows_in
from klal.store.checks import check_store
from klal.store.file import create_file, hold, is_there, open_file, translated, unchecked
from klal.store.home import Fence, Home
from klal.store.local import put_aside
from klal.store.salvage import LOST_HINT, FoundLog, FoundSlice, Salvage
from klal.store.sql import Connection
from klal.store.store import Store, World, opened_store

_BATCH_COUNT = 1024  # Changes taken in one transaction.
_KEPT = "before-heal"

ROWS = ("ask", "adopt", "undo")
"""What may become of rows that history does not give: heal nothing, make them a change of mine, leave them behind."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A stretch of one log that could not be taken over.

    Shape:
        what: "headers" or "payloads".
    """

    log_id: bytes
    member_id: bytes
    start: int
    stop: int
    what: str


@dataclass(slots=True)
class Healing:
    """What was found and what was done.

    Shape:
        found: what `verify` said of the old file; "" where there was nothing to heal.
        kept: where the old file lies now.
        change_count: changes taken over.
        dropped: what of the logs was not good, in log order.
        receipt_count: receipts taken over; `receipts_dropped`: those that nobody signed.
        row_count, change_seq: rows adopted, and the number of the change that they are.
        left: what lies in the old file alone, as sentences.
    """

    found: str = ""
    kept: Path | None = None
    change_count: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    receipt_count: int = 0
    row_count: int = 0
    change_seq: int | None = None
    left: list[str] = field(default_factory=list)


OnCount = Callable[[int, int], None]


def heal_file(
    path: Path, home: Home, world: World, member_name: str | None, rows: str = "ask", on_progress: OnCount | None = None
) -> Healing:
    """Heal the file at `path`, which nobody has open; where it passes `verify`, nothing is done.

    Args:
        rows: One of `ROWS`.

    Raises:
        ForeignWritesError: There are rows that history does not give, and `rows` is "ask". Nothing was done.
        DamagedError: Nothing of it can be read. ReadOnlyError: The member's key is not at hand.
        BusyError: It is open elsewhere. UsageError, NewerFormatError, StoreError.
    """
    if rows not in ROWS:
        raise UsageError(f"rows is {rows!r:.40}, want ask, adopt or undo")
    if not is_there(path) or not path.is_file():
        raise UsageError(f"{path} is not a file")
    if not path.stat().st_size:
        raise NotKlalError(f"{path} is empty", hint=LOST_HINT)
    healing = Healing(found=_what_verify_says(path, home, world, member_name, on_progress))
    if not healing.found:
        return healing
    with _held(path) as lock:
        kept = _keep(path)
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        try:
            old = Salvage(kept, str(path))
            try:
                _build(old, partial, home, world, member_name, rows, healing, on_progress)
            finally:
                old.close()
            _put_in_place(partial, path, lock)
        except BaseException:
            _remove(kept, "", "-wal", "-shm")
            raise
        finally:
            _remove(partial, "", "-wal", "-shm")
    healing.kept = kept
    return healing


def _what_verify_says(
    path: Path, home: Home, world: World, member_name: str | None, on_progress: OnCount | None
) -> str:
    """Return what is wrong with a file, or ""; it is left as it is."""
    try:
        connection = open_file(path)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            check_store(opened_store(connection, path, home, world, member_name), on_progress)
        finally:
            # Not the store's own end, which would seal the log of a file that nothing is known of.
            connection.close()
    except (BusyError, NewerFormatError):
        raise
    except (StoreError, RefusedError, UsageError) as error:
        return error.message
    return ""


# -- the old file ------------------------------------------------------------------------


@contextmanager
def _held(path: Path) -> Iterator[Connection | None]:
    """Lock everybody else out of a file, as far as SQLite can still open it."""
    connection = Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        # Whoever opens the healed file may have begun a write-ahead log by the time this one is closed.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        try:
            if hold(connection) is None:
                raise BusyError(f"{path} is open elsewhere", hint="close it there, then try again")
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.IOError):
            yield None
        else:
            yield connection
    finally:
        connection.close()


def _keep(path: Path) -> Path:
    """Copy a file, with what of it lies in its write-ahead log, to the first free name beside it, durably."""
    try:
        for number in count(1):
            kept = path.with_name(f"{path.name}.{_KEPT}-{number}")
            with suppress(FileExistsError):
                os.close(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                break
        for suffix in ("-wal", ""):
            source, target = (each.with_name(each.name + suffix) for each in (path, kept))
            if source.exists() and source.stat().st_size:
                shutil.copyfile(source, target)
                shutil.copymode(source, target)
                with target.open("rb+") as file:
                    os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be copied: {error.strerror}") from error
    return kept


def _put_in_place(new: Path, path: Path, lock: Connection | None) -> None:
    """Let the healed file take the place of the old one, of which a copy is kept."""
    try:
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        if lock is not None:
            # Until the last step the old file is whole, with everything in it.
            with suppress(apsw.Error):
                lock.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        _remove(path, "-wal", "-shm")
        shutil.copymode(path, new)
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be replaced: {error.strerror}") from error


def _remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


# -- the new file ------------------------------------------------------------------------


def _build(
    old: Salvage,
    partial: Path,
    home: Home,
    world: World,
    member_name: str | None,
    rows: str,
    healing: Healing,
    on_progress: OnCount | None,
) -> None:
    """Make the healed file, verified and closed."""
    store = _empty(old, partial, home, world, member_name)
    try:
        if store.identity is None:
            raise ReadOnlyError(
                f"{old.name} cannot be healed without the key of its member",
                hint="heal it with the home folder that has the key",
            )
        with store.translated():
            _Taking(old, store, home, healing, on_progress).run()
        _settle(store, *_compare(old, store), rows, healing)
        try:
            check_store(store, on_progress)
        except RefusedError as error:
            raise DamagedError(f"what was healed does not hold: {error.message}", hint="please report this") from error
        store.close()
    finally:
        store.connection.close()


def _empty(old: Salvage, path: Path, home: Home, world: World, member_name: str | None) -> Store:
    """Return a new file of the same space and member, with what is the file's own word and follows from nothing."""
    words: list[tuple[str, Any]] = [("space_id", old.space_id), ("genesis", pack(old.genesis))]
    words += [(name, old.meta(name, kind)) for name, kind in _OWN_WORDS]
    given = [(name, value) for name, value in words if value is not None]
    connection = create_file(path)
    try:
        with translated(path), connection:
            connection.executemany("INSERT INTO klal_meta VALUES(?,?)", given)
        store = Store(connection, path, home, world, member_name)
    except BaseException:
        connection.close()
        raise
    store.behind.is_suspect = False  # Nobody but this has ever written it.
    return store


_OWN_WORDS: tuple[tuple[str, type], ...] = (("member_id", bytes), ("contact_unix_ms", int), ("ticket", bytes))


class _Taking:
    """Taking over what is good, through the door."""

    def __init__(self, old: Salvage, store: Store, home: Home, healing: Healing, on_progress: OnCount | None) -> None:
        self._old = old
        self._home = home
        self._store = store
        self._healing = healing
        self._on_progress = on_progress

    def run(self) -> None:
        store = self._store
        assert store.identity is not None, "asked before"
        logs = self._old.logs(store.identity.key, self._fence_of)
        total = sum(len(log.lines) - log.start for log in logs)
        store.enter_founder(self._old.founding_log(logs))
        waiting = [log for log in logs if log.lines]
        progress = True
        while progress:
            progress = False
            for log in list(waiting):
                if self._take_headers(log):
                    waiting.remove(log)
                    progress = True
        for log in logs:
            taken = 0 if log in waiting else len(log.lines)
            self._note(log, taken, log.known_length, "headers")
            if taken:
                self._take_payloads(log)
            self._healing.change_count += max(0, taken - log.start)
            if self._on_progress is not None:
                self._on_progress(self._healing.change_count, total)
        if not self._healing.change_count:
            raise DamagedError(f"nothing of the history in {self._old.name} can be read", hint=LOST_HINT)
        store.apply_ready()
        self._take_rest()

    def _fence_of(self, log_id: bytes) -> Fence | None:
        with suppress(StoreError):
            return self._home.fence(self._old.space_id, log_id)
        return None

    def _note(self, log: FoundLog, start: int, stop: int, what: str) -> None:
        if start < stop:
            self._healing.dropped.append(Dropped(log.log_id, log.member_id, start, stop, what))

    def _take_headers(self, log: FoundLog) -> bool:
        """Take a log's headers; False while its member has not entered."""
        store = self._store
        with store.writing(), suppress(RefusedError):
            runs = self._old.runs(log)
            store.intake.take_run(next(runs))
            if not store.intake.is_member(log.member_id):
                acts = next((p for p in self._old.payload(log, 0) if p.table_id == ACTS_TABLE), None)
                if acts is not None:
                    store.intake.take_slice(log.log_id, 0, ACTS_TABLE, 0, acts.data)
            is_in = store.intake.is_member(log.member_id)
            for run in runs if is_in else ():
                store.intake.take_run(run)
            store.intake.forget()
            return is_in
        store.intake.forget()
        return False

    def _take_payloads(self, log: FoundLog) -> None:
        intake = self._store.intake
        for start in range(log.start, len(log.lines), _BATCH_COUNT):
            stop = min(start + _BATCH_COUNT, len(log.lines))
            with self._store.writing():
                pieces = [piece for seq in range(start, stop) for piece in self._old.payload(log, seq)]
                taken = intake.take_whole(log.log_id, pieces) if pieces else set()
                for piece in pieces:
                    if piece.seq not in taken:
                        self._take_piece(log, piece, pieces)
        for gap in intake.payload_gaps(log.log_id, len(log.lines), self._old.head_of(log)):
            self._note(log, max(gap.start, log.start), gap.stop, "payloads")

    def _take_piece(self, log: FoundLog, piece: FoundSlice, pieces: list[FoundSlice]) -> None:
        """Take one slice; where there are several of its part, with the hashes by which each is checked."""
        with suppress(RefusedError):
            if piece.index == 0:
                part = [p.data for p in pieces if (p.seq, p.table_id) == (piece.seq, piece.table_id)]
                if len(part) > 1:
                    leaves = tuple(map(tree_leaf, part))
                    self._store.intake.take_leaves(log.log_id, piece.seq, piece.table_id, leaves)
            self._store.intake.take_slice(log.log_id, piece.seq, piece.table_id, piece.index, piece.data)

    def _take_rest(self) -> None:
        """Take what is signed by itself: receipts."""
        store = self._store
        with store.writing():
            for receipt in self._old.receipts():
                store.intake.take_receipt(receipt)
            self._healing.receipt_count = len(store.knowledge.receipts())


# -- rows that history does not give ------------------------------------------------------


def _compare(old: Salvage, store: Store) -> tuple[list[Finding], list[str], list[str]]:
    """Return the rows of the old tables that history does not give, what else is not in it, and what cannot be read."""
    findings: list[Finding] = []
    objects: list[str] = []
    left: list[str] = []
    with suppress(apsw.Error, UnicodeDecodeError, TypeError, AttributeError):  # Of a schema that was changed.
        ours = objects_in(store.connection)
        for kind, name in sorted(objects_in(old.connection).keys() - ours.keys()):
            if not name.startswith("klal_"):
                objects.append(f"{kind} {name} is not in history")
    with store.reading():
        for table in sorted(store.catalog.by_id.values(), key=lambda table: table.name):
            broken: list[str] = []
            mine = _readable(rows_in(old.connection, table), broken)
            for before, after in differences(table, mine, rows_in(store.connection, table)):
                if after is None and broken:
                    continue  # It may lie where the table cannot be read.
                kind = "inserted" if before is None else "deleted" if after is None else "updated"
                image = after if before is None else before
                assert image is not None, "a difference has at least one side"
                obstacle = "" if after is None else obstacle_to(table, after)
                findings.append(Finding(kind, table.name, table, table.key_of(image), before, after, obstacle))
            left.extend(f"rows of table {table.name} that cannot be read: {what}" for what in broken)
    return findings, objects, left


def _readable(rows: Iterator[Any], broken: list[str]) -> Iterator[Any]:
    """Yield rows up to where they cannot be read, and note why."""
    try:
        yield from rows
    except (apsw.Error, UnicodeDecodeError) as error:
        broken.append(str(error))


def _settle(
    store: Store, findings: list[Finding], objects: list[str], left: list[str], rows: str, healing: Healing
) -> None:
    """Do with the rows what was asked, or refuse to go on without being told."""
    healing.left = left = [*objects, *left]
    if objects and rows == "ask":
        raise ForeignWritesError(f"{objects[0]}", hint="with --undo it is left behind in the old file")
    if findings and rows == "ask":
        are = "is" if len(findings) == 1 else "are"
        raise ForeignWritesError(
            f"{_counted(findings)} in the tables {are} not what history gives, the first in {findings[0].name}",
            hint="with --adopt they become a change of mine, with --undo they are left behind in the old file",
        )
    if rows == "adopt":
        store.begin(durable=True)
        try:
            with put_aside(store.connection), unchecked(store.connection):
                for each in findings:
                    if each.obstacle or not _is_written(store, each):
                        left.append(f"row {each.key!r:.60} of {each.name}: {each.obstacle or 'it fits no table'}")
                    else:
                        healing.row_count += 1
            healing.change_seq = store.commit()
        except BaseException:
            if store.in_transaction:
                store.rollback()
            raise
    elif findings:
        left.append(f"{_counted(findings)} that history does not give")


def _counted(rows: list[Finding]) -> str:
    return f"{len(rows)} row{'s' * (len(rows) != 1)}"


def _is_written(store: Store, each: Finding) -> bool:
    """Write one row as the user's own; False if its table does not take it."""
    before = store.writer.capture.snapshot()
    try:
        store.behind.write(each)
    except (apsw.ConstraintError, apsw.MismatchError, ConstraintError):
        store.writer.capture.restore(before)
        return False
    return True
