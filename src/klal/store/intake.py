"""The door for foreign bytes, and the shelf others read from: one file as a station.

Everything that comes in is checked before it is stored: names, links, seals, membership,
sizes, hashes. The log of an unknown member waits in bounded memory until its first
change shows a valid invitation; strangers' chains are never stored (T17).

Source:
    Protocol spec sections 9 and 12, rules MEM-1 to MEM-5, SYN-1 to SYN-9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from klal.errors import ForkError, MalformedError, MembershipError
from klal.model.acts import Act, Genesis, Join, decode_acts
from klal.model.codec import HASH_SIZE, tree_leaf
from klal.model.frontier import Head
from klal.model.header import ACTS_TABLE, Header, Part
from klal.model.receipt import Receipt
from klal.model.seal import Seal
from klal.rules.admit import (
    Admission,
    Link,
    SealedRun,
    admit_run,
    check_chain,
    check_leaves,
    check_slice,
    slice_count_of,
)
from klal.rules.merge import ChangeRef
from klal.store.history import INLINE_SIZE_MAX, History, Log, Stored, lacks_payload
from klal.store.knowledge import Knowledge
from klal.store.sql import Connection

_SPARSE_MAX = 4  # Slices of fewer than one in so many changes are looked up one by one.
STRANGER_SIZE_MAX = 8 << 20  # Bytes of headers kept in memory for logs nobody has vouched for yet.


class SliceOfPart(Protocol):
    """One slice of one part with its place; `sync.station.PartSlice` is one."""

    @property
    def seq(self) -> int: ...
    @property
    def table_id(self) -> bytes: ...
    @property
    def index(self) -> int: ...
    @property
    def data(self) -> bytes: ...


class Intake:
    """Takes runs, slices and receipts into one file; the caller holds a write transaction."""

    def __init__(
        self,
        connection: Connection,
        history: History,
        knowledge: Knowledge,
        admit_member: Callable[[Log, int, Act], None],
        leave_own_log: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._history = history
        self._knowledge = knowledge
        self._admit_member = admit_member
        self._strangers: dict[bytes, list[tuple[bytes, bytes, list[Link], Seal]]] = {}
        self._stranger_size = 0
        self._small: dict[tuple[int, int], dict[int, bytes]] = {}
        self.own_log: int | None = None
        self._leave_own_log = leave_own_log

    # -- headers -----------------------------------------------------------------------

    def take_run(self, run: SealedRun) -> None:
        """Store a run of headers that goes on where this file's log ends.

        Raises:
            RefusedError: It breaks a rule; a fork is kept as evidence.
        """
        log_id, member_id = run.log_id, run.member_id
        links = check_chain(self._history.space_id, run)
        log = self._history.by_id.get(log_id)
        if log is None or not log.length:
            if not self.is_member(member_id):
                self._keep_stranger(run, links)
                return
            if links[0].header.seq != 0:
                return  # Its beginning is not here yet; it will be asked for again.
            if log is None:
                log = self._history.add_log(log_id, member_id, run.incarnation)
        self._append(log, links, run.seal)

    def _append(self, log: Log, links: list[Link], seal: Seal) -> None:
        head = Head(log.length, log.head_hash) if log.length else None
        try:
            verdict, fresh = admit_run(
                log.log_id, head, lambda seq: self._history.hash_at(ChangeRef(log.log, seq)), links
            )
        except ForkError as error:
            evidence = error.evidence[1] if isinstance(error.evidence, tuple) else links[0].data
            seq = Header.decode(evidence).seq
            self._connection.execute("INSERT OR IGNORE INTO klal_fork VALUES(?,?,?)", (log.log_id, seq, evidence))
            raise
        if verdict is Admission.WAIT:
            return
        if fresh and log.log == self.own_log:
            # My own log is longer elsewhere: this file is a copy or a rollback that no
            # fence could see. What is theirs is taken; what I write next is a new log.
            self._leave_own_log()
        if fresh:
            self._history.append_headers(log, fresh)
        self._history.add_seal(log, seal)
        if fresh:
            self._raise_payload_length(log)
            self._history.save_log(log)

    def is_member(self, member_id: bytes) -> bool:
        """True when this key has entered the space, as far as known here."""
        return bool(self._connection.execute("SELECT 1 FROM klal_member WHERE member_id = ?", (member_id,)).get)

    def _keep_stranger(self, run: SealedRun, links: list[Link]) -> None:
        size = sum(len(link.data) for link in links)
        log_id = run.log_id
        waiting = self._strangers.get(log_id, [])
        expected = waiting[-1][2][-1].header.seq + 1 if waiting else 0
        if links[0].header.seq != expected:
            return
        if self._stranger_size + size > STRANGER_SIZE_MAX:
            raise MembershipError(
                f"log {log_id.hex()[:8]} is of nobody known here, and enough such wait already", rule="MEM-4"
            )
        self._stranger_size += size
        entry = (run.member_id, run.incarnation, links, run.seal)
        self._strangers.setdefault(log_id, []).append(entry)

    def _meet_stranger(self, log_id: bytes, acts_bytes: bytes) -> None:
        """Admit a stranger whose first change shows a valid invitation (MEM-1)."""
        runs = self._strangers[log_id]
        member_id, incarnation, _, _ = runs[0]
        acts = decode_acts(acts_bytes)
        log = Log(0, log_id, member_id, incarnation)
        joins = [act for act in acts if isinstance(act, Join | Genesis)]
        if len(joins) != 1:
            raise MembershipError(f"log {log_id.hex()[:8]} begins with neither a genesis nor a join", rule="MEM-1")
        self._admit_member(log, 0, joins[0])
        self._adopt(log_id, member_id, incarnation)

    def _adopt_known(self) -> None:
        """Store the logs of strangers who are known by now: a member's second log shows no join of its own."""
        for log_id, runs in list(self._strangers.items()):
            member_id, incarnation, _, _ = runs[0]
            if self.is_member(member_id):
                self._adopt(log_id, member_id, incarnation)

    def _adopt(self, log_id: bytes, member_id: bytes, incarnation: bytes) -> None:
        runs = self._strangers.pop(log_id)
        self._stranger_size -= sum(len(link.data) for _, _, links, _ in runs for link in links)
        stored = self._history.by_id.get(log_id) or self._history.add_log(log_id, member_id, incarnation)
        for _, _, links, seal in runs:
            self._append(stored, links, seal)

    # -- payloads ----------------------------------------------------------------------

    def take_leaves(self, log_id: bytes, seq: int, table_id: bytes, leaves: tuple[bytes, ...]) -> None:
        """Keep the leaf hashes of a part that comes in several slices."""
        found = self._wanted(log_id, seq, table_id)
        if found is None:
            return
        stored, index = found
        check_leaves(stored.header.parts[index], leaves)
        self._connection.execute(
            "INSERT OR IGNORE INTO klal_leaves VALUES(?,?,?)", (stored.lsn, index, b"".join(leaves))
        )

    def take_slice(self, log_id: bytes, seq: int, table_id: bytes, index: int, data: bytes) -> None:
        """Keep one slice of one part, once its hash is right."""
        if log_id in self._strangers:
            self._take_stranger_slice(log_id, seq, table_id, index, data)
            self._adopt_known()
        found = self._wanted(log_id, seq, table_id)
        if found is None:
            return
        stored, part_index = found
        part = stored.header.parts[part_index]
        check_slice(part, self._leaves(stored.lsn, part_index, part), index, data)
        log = self._history.by_id[log_id]
        if stored.header.payload_size <= INLINE_SIZE_MAX:
            self._take_small(log, stored, part_index, data)
            return
        self._connection.execute(
            "INSERT OR IGNORE INTO klal_slice VALUES(?,?,?,?)", (stored.lsn, part_index, index, data)
        )
        counts = [self._history.slice_count(stored, i) for i in range(len(stored.header.parts))]
        if counts == [slice_count_of(each) for each in stored.header.parts]:
            self._connection.execute("DELETE FROM klal_leaves WHERE lsn = ?", (stored.lsn,))
            self._history.note_whole(stored.lsn)
            self._raise_payload_length(log)

    def take_whole(self, log_id: bytes, slices: Sequence[SliceOfPart]) -> set[int]:
        """Keep those small payloads of a log that are whole in these slices and right; return their seqs.

        Law: as `take_slice` of each of theirs.
        """
        log = self._history.by_id.get(log_id)
        if log is None or log_id in self._strangers:
            return set()
        given: dict[int, list[SliceOfPart]] = {}
        for piece in slices:
            given.setdefault(piece.seq, []).append(piece)
        start, stop = min(given), min(max(given) + 1, log.length)
        if stop - start > _SPARSE_MAX * len(given):
            return set()
        taken: set[int] = set()
        kept: list[tuple[bytes, int]] = []
        for stored in self._history.lines(log, start, stop):
            header = stored.header
            pieces = given.get(header.seq)
            if pieces and lacks_payload(stored.state) and _are_whole(header.parts, pieces):
                kept.append((b"".join([piece.data for piece in pieces]), stored.lsn))
                taken.add(header.seq)
                self._small.pop((log.log, header.seq), None)
        if kept:
            self._history.keep_payloads(kept)
            self._raise_payload_length(log)
        return taken

    def _take_stranger_slice(self, log_id: bytes, seq: int, table_id: bytes, index: int, data: bytes) -> None:
        if self.is_member(self._strangers[log_id][0][0]) or seq != 0 or table_id != ACTS_TABLE:
            return
        header = self._strangers[log_id][0][2][0].header
        parts = [part for part in header.parts if part.table_id == ACTS_TABLE]
        if not parts:
            raise MembershipError(f"log {log_id.hex()[:8]} begins with no act", rule="MEM-1")
        if slice_count_of(parts[0]) > 1:
            raise MalformedError(f"log {log_id.hex()[:8]} begins with {parts[0].size} bytes of acts", rule="ACT-1")
        check_slice(parts[0], None, index, data)
        self._meet_stranger(log_id, data)

    def _take_small(self, log: Log, stored: Stored, part_index: int, data: bytes) -> None:
        # Small payloads go beside their header, once all of their parts are here.
        parts = self._small.setdefault((log.log, stored.header.seq), {})
        parts[part_index] = data
        if len(parts) == len(stored.header.parts):
            del self._small[log.log, stored.header.seq]
            payload = b"".join(parts[index] for index in range(len(parts)))
            self._history.keep_payloads([(payload, stored.lsn)])
            self._raise_payload_length(log)

    def _wanted(self, log_id: bytes, seq: int, table_id: bytes) -> tuple[Stored, int] | None:
        """Return (change, part index) that a slice belongs to, or None when it is here already."""
        log = self._history.by_id.get(log_id)
        if log is None or seq >= log.length:
            raise MalformedError(f"slice for change {seq} of {log_id.hex()[:8]}, which is not known here", rule="PAY-6")
        stored = self._history.read(ChangeRef(log.log, seq))
        if not lacks_payload(stored.state):
            return None
        for index, part in enumerate(stored.header.parts):
            if part.table_id == table_id:
                return stored, index
        raise MalformedError(f"slice for a part that change {seq} of {log_id.hex()[:8]} does not have", rule="PAY-6")

    def _leaves(self, lsn: int, index: int, part: Part) -> list[bytes] | None:
        if slice_count_of(part) == 1:
            return None
        data: bytes | None = self._connection.execute(
            "SELECT leaves FROM klal_leaves WHERE lsn = ? AND part = ?", (lsn, index)
        ).get
        return None if data is None else [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]

    def _raise_payload_length(self, log: Log) -> None:
        lacking = self._history.lacking(log, log.payload_length, log.length, 1)
        length = lacking[0] if lacking else log.length
        if length != log.payload_length:
            log.payload_length = length
            self._history.save_log(log)

    # -- receipts ----------------------------------------------------------------------

    def take_receipt(self, receipt: Receipt) -> None:
        """Keep a receipt if a member signed it and it is newer than the one kept (T10, T19).

        Raises:
            SignatureError: Not signed by the member it names.
        """
        statement = receipt.statement
        if not self.is_member(statement.member_id):
            return  # A stranger's word counts for nothing, and is asked for again once they are known.
        log_id = receipt.log_id(self._history.space_id)
        kept = self._connection.execute("SELECT number FROM klal_receipt WHERE log_id = ?", (log_id,)).get
        if kept is not None and kept >= statement.number:
            return
        receipt.check(self._history.space_id)
        self._connection.execute(
            "INSERT OR REPLACE INTO klal_receipt VALUES(?,?,?,?)",
            (log_id, statement.number, receipt.body, receipt.signature),
        )

    # -- what a session asks -------------------------------------------------------------

    def payload_gaps(self, log_id: bytes, stop: int) -> list[range]:
        """Return the seqs below `stop` whose payload is wanted; of a stranger, its first change."""
        if log_id in self._strangers:
            return [range(1)]
        log = self._history.by_id.get(log_id)
        return [] if log is None else self._knowledge.payload_gaps(log, stop)

    def begun(self, log_id: bytes, start: int, stop: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield (seq, table id, slices here) of parts that are here in part."""
        log = self._history.by_id.get(log_id)
        if log is None:
            return
        for (lsn, index), count in self._history.slice_counts(log, start, min(stop, log.length)).items():
            seq = self._history.ref_of(lsn).seq
            stored = self._history.read(ChangeRef(log.log, seq))
            if lacks_payload(stored.state):
                yield seq, stored.header.parts[index].table_id, count

    def is_stranger(self, arrival: object) -> bool:
        """True when an arrival is of a log that waits for its invitation."""
        return getattr(arrival, "log_id", None) in self._strangers

    def waiting(self) -> Iterator[tuple[bytes, bytes, bytes, int, bytes]]:
        """Yield (log id, member id, incarnation, length, head hash) of strangers' logs in memory."""
        for log_id, runs in self._strangers.items():
            member_id, incarnation, links, _ = runs[-1]
            yield log_id, member_id, incarnation, links[-1].header.seq + 1, links[-1].hash

    def forget(self) -> None:
        """Drop what waits in memory; it is asked for again."""
        self._strangers.clear()
        self._stranger_size = 0
        self._small.clear()


def _are_whole(parts: Sequence[Part], pieces: Sequence[SliceOfPart]) -> bool:
    """True when these are all slices of a change with small parts, in order and with the right hashes (PAY-6)."""
    if len(parts) != len(pieces):
        return False
    total = 0
    for part, piece in zip(parts, pieces, strict=True):
        total += part.size
        is_it = piece.table_id == part.table_id and piece.index == 0 and len(piece.data) == part.size
        if not is_it or total > INLINE_SIZE_MAX or tree_leaf(piece.data) != part.root:
            return False
    return True
