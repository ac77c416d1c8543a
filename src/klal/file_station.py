"""One klal file as a station: what a session may ask of it, and the door for what it brings.

Arrivals are stored in batches, each in one SQLite transaction; what was stored before a
cut stays. A file without its key is a read-only source: it gives, and takes nothing.

Source:
    Protocol spec section 12, rules SYN-1 to SYN-9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from klal.errors import RefusedError
from klal.model.codec import pack, tree_leaf
from klal.model.header import ACTS_TABLE, lone_table
from klal.model.receipt import Receipt
from klal.model.snapshot import Outline
from klal.rules.admit import slice_count_of
from klal.rules.merge import ChangeRef
from klal.store.history import STATE_LACKING, Log, lacks_payload
from klal.store.snapshot import Snapshots
from klal.store.stewardship import Stewardship
from klal.store.store import Store
from klal.store.writer import paused
from klal.sync.station import (
    Arrival,
    LogState,
    PartBegun,
    PartLeaves,
    PartSlice,
    Receipts,
    Roots,
    Run,
    roots_of,
)

# Headers and slices stored in one transaction, but no more than the drive settles at once (32 MiB).
_BATCH_COUNT = 1 << 14


class FileStation:
    """A store as a session sees it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending = 0
        store.intake.forget()
        with store.reading():
            pass
        if self.takes:
            store.apply_ready()
            # Before anything is stated: what is said now leaves in this session.
            Stewardship(store).do_duties()
        store.seal()
        if self.takes:
            store.sign_receipt()

    @property
    def space_id(self) -> bytes:
        """The space this file belongs to."""
        return self._store.space_id

    @property
    def takes(self) -> bool:
        """False when the file's key is not at hand."""
        return self._store.identity is not None

    def roots(self) -> Roots:
        """Return the three roots as of now."""
        history = self._store.history
        return roots_of(history.frontier(), history.held_frontier(), self._store.knowledge.receipts())

    def logs(self) -> list[LogState]:
        """Return every log held, in the order in which they came: an inviter's first.

        A log that waits in memory for its invitation is among them, so that the session
        asks for the payload that shows it.
        """
        history = self._store.history
        waiting = [LogState(*each, payload_length=0) for each in self._store.intake.waiting()]
        logs = sorted(history.logs.values(), key=lambda log: log.log)
        return [
            LogState(
                history.name_of(ChangeRef(log.log, log.length - 1)),
                log.member_id,
                log.incarnation,
                log.length,
                log.head_hash,
                history.whole_length(log),
            )
            for log in logs
            if log.length > log.start
        ] + waiting

    def holds(self, log: LogState) -> bool:
        """True when all headers of this prefix are here."""
        return self._store.intake.holds(log.origin(self.space_id), log.length, log.head_hash)

    def runs(self, log_id: bytes, start: int, stop: int) -> Iterator[Run]:
        """Yield the headers [start, stop) as runs that end at seals."""
        history = self._store.history
        waiting: list[bytes] = []  # Headers of a branch may lie below it, and their seal in it.
        for log, first, end in history.path(history.by_id[log_id], stop):
            at = max(start, first)
            for seal in history.seals(log, at, end):
                headers = (*waiting, *history.headers(log, at, seal.length))
                yield Run(log.origin, log.member_id, log.incarnation, seal.length - len(headers), headers, seal)
                waiting, at = [], seal.length
            waiting += history.headers(log, at, end)

    def payload_gaps(self, log: LogState) -> list[range]:
        """Return the seqs of this prefix whose payload is wanted."""
        return self._store.intake.payload_gaps(log.origin(self.space_id), log.length, log.head_hash)

    def parts_begun(self, log: LogState, start: int, stop: int) -> list[PartBegun]:
        """Return the parts of [start, stop) that are here in part."""
        origin = log.origin(self.space_id)
        begun = self._store.intake.begun(origin, log.length, log.head_hash, range(start, stop))
        return [PartBegun(*each) for each in begun]

    def payloads(self, log_id: bytes, start: int, stop: int) -> Iterator[PartLeaves | PartSlice]:
        """Yield the payloads of [start, stop) that are here, in order."""
        history = self._store.history
        for log, first, end in history.path(history.by_id[log_id], stop):
            yield from self._payloads(log, max(start, first), end)

    def _payloads(self, log: Log, start: int, stop: int) -> Iterator[PartLeaves | PartSlice]:
        history, log_id = self._store.history, log.origin
        for seq, stored in enumerate(history.lines(log, start, stop), start):
            if stored.state == STATE_LACKING:
                continue
            table_id = lone_table(stored.header_bytes)
            if stored.payload is not None and table_id is not None:
                yield PartSlice(log_id, seq, table_id, 0, stored.payload)
                continue
            for index, part in enumerate(stored.header.parts):
                if lacks_payload(stored.state) and part.table_id != ACTS_TABLE:
                    break  # Compacted: its acts come first, and are all that is here.
                slices = list(history.slices(stored, index))
                if slice_count_of(part) > 1:
                    leaves = tuple(tree_leaf(data) for _, data in slices)
                    yield PartLeaves(log_id, seq, part.table_id, leaves)
                for number, data in slices:
                    yield PartSlice(log_id, seq, part.table_id, number, data)

    # -- a snapshot: asked for before a session (SNP-5) ------------------------------------

    def snapshot_outline(self) -> bytes:
        """Return the outline of the snapshot that was made or came here, or empty bytes."""
        kept = Snapshots(self._store).kept()
        return b"" if kept is None or kept.state != "made" else pack(kept.outline)

    def snapshot_slice(self, root: bytes, index: int) -> bytes:
        """Return one slice of the snapshot with this root, or empty bytes where it is not here."""
        return Snapshots(self._store).slice(root, index)

    def wants_snapshot(self) -> bool:
        """True while nothing of the space's rows is here."""
        return Snapshots(self._store).is_wanted()

    def begin_snapshot(self, outline: Outline, giver: str) -> int | None:
        """Take up an outline: the first slice that lacks, their number where none does, None where it is not wanted."""
        return Snapshots(self._store).begin(outline, giver)

    def take_snapshot_slice(self, index: int, data: bytes) -> None:
        """Keep one slice, once its hash is right."""
        Snapshots(self._store).take(index, data)

    def open_snapshot(self) -> None:
        """Make the rows of a snapshot that is all here readable, and check them."""
        Snapshots(self._store).open()

    @property
    def name(self) -> str:
        """What a person would call this side."""
        identity = self._store.identity
        return str(self._store.path) if identity is None else identity.name

    def receipts(self) -> list[Receipt]:
        """Return the newest receipt of every log, ascending by log id."""
        return list(self._store.knowledge.receipts().values())

    def take(self, arrival: Arrival) -> None:
        """Store one arrival after checking it.

        Raises:
            RefusedError: It breaks a rule; nothing of it is stored.
        """
        store = self._store
        is_new = isinstance(arrival, Run) and arrival.log_id not in store.history.by_id
        if is_new or store.intake.is_stranger(arrival):
            # What can be refused after some of it was written stands in a batch of its own.
            self._flush()
        if not store.in_transaction:
            store.begin(durable=True)
        try:
            with self._storing():
                self._take(arrival)
        except RefusedError:
            if self._pending == 0:
                store.rollback()
            raise
        except BaseException:
            store.rollback()
            self._pending = 0
            raise
        self._note(len(arrival.headers) if isinstance(arrival, Run) else 1)

    def take_whole(self, log_id: bytes, slices: Sequence[PartSlice]) -> set[int]:
        """Store those small payloads that these slices hold whole and right; return their seqs."""
        store = self._store
        if not store.in_transaction:
            store.begin(durable=True)
        try:
            with self._storing():
                taken = store.intake.take_whole(log_id, slices)
        except BaseException:
            store.rollback()
            self._pending = 0
            raise
        self._note(len(taken))
        return taken

    @contextmanager
    def _storing(self) -> Iterator[None]:
        # What arrives is stored in klal's own tables, of which the hook would be told row by row.
        with self._store.translated(), paused(self._store.writer.capture):
            yield

    def _note(self, count: int) -> None:
        self._pending += count
        if self._pending >= _BATCH_COUNT:
            self._flush()

    def _take(self, arrival: Arrival) -> None:
        intake = self._store.intake
        match arrival:
            case Run():
                intake.take_run(arrival)
            case PartLeaves():
                intake.take_leaves(arrival.log_id, arrival.seq, arrival.table_id, arrival.leaves)
            case PartSlice():
                intake.take_slice(arrival.log_id, arrival.seq, arrival.table_id, arrival.index, arrival.data)
            case Receipts():
                for receipt in arrival.receipts:
                    intake.take_receipt(receipt)

    def _flush(self) -> None:
        self._pending = 0
        if self._store.in_transaction:
            self._store.commit()

    def settle(self) -> None:
        """Make everything taken durable, apply what can be applied, sign a fresh receipt if due."""
        if not self.takes:
            return
        self._flush()
        self._store.apply_ready()
        Snapshots(self._store).judge()
        self._store.sign_receipt()
