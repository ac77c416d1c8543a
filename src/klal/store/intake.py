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

from klal.errors import MalformedError, MembershipError, RefusedError
from klal.model.acts import Act, Genesis, Join, decode_acts
from klal.model.codec import HASH_SIZE, tree_leaf
from klal.model.header import ACTS_TABLE, Part
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
        """Store a run of headers where it goes on from what is here: at a log's end, or as a branch of it (LOG-4).

        Raises:
            RefusedError: It breaks a rule.
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

    def _append(self, origin: Log, links: list[Link], seal: Seal) -> None:
        history = self._history
        place: ChangeRef | None
        if origin.length and links[0].header.seq == origin.length and links[0].header.backlink == origin.head_hash:
            place, fresh, is_fork = ChangeRef(origin.log, origin.length - 1), links, False
        else:
            fit = admit_run(_Strands(history, origin.log_id), links)
            if fit.verdict is Admission.WAIT:
                return
            place, fresh, is_fork = fit.place, fit.fresh, fit.is_fork
        if not fresh:
            assert place is not None, "a run has a header, and it is here"
            history.add_seal(history.logs[place.log], seal)
            return
        log = origin if place is None else history.logs[place.log]
        if self.own_log is not None and history.logs[self.own_log].origin == origin.origin:
            # My own log is longer elsewhere: this file is a copy or a rollback that no
            # fence could see. What is theirs is taken; what I write next is a new log (LOG-6).
            self._leave_own_log()
        if is_fork:
            log = history.add_branch(origin, place, fresh[0].hash)
        history.append_headers(log, fresh)
        history.add_seal(log, seal)
        self._raise_payload_length(log)
        history.save_log(log)
        if is_fork:
            history.name_branches(origin.origin)

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

    def _adopt_known(self, member_id: bytes) -> None:
        """Store all logs of a stranger who is known by now: a member's second log shows no join of its own."""
        if self.is_member(member_id):
            for log_id, runs in list(self._strangers.items()):
                if runs[0][0] == member_id:
                    self._adopt(log_id, *runs[0][:2])

    def _adopt(self, log_id: bytes, member_id: bytes, incarnation: bytes) -> None:
        runs = self._strangers.pop(log_id)
        self._stranger_size -= _size_of(runs)
        stored = self._history.by_id.get(log_id) or self._history.add_log(log_id, member_id, incarnation)
        for _, _, links, seal in runs:
            self._append(stored, links, seal)

    # -- payloads ----------------------------------------------------------------------

    def take_leaves(self, log_id: bytes, seq: int, table_id: bytes, leaves: tuple[bytes, ...]) -> None:
        """Keep the leaf hashes of a part that comes in several slices."""

        def keep(_: Log, stored: Stored, index: int) -> None:
            check_leaves(stored.header.parts[index], leaves)
            self._connection.execute(
                "INSERT OR IGNORE INTO klal_leaves VALUES(?,?,?)", (stored.lsn, index, b"".join(leaves))
            )

        self._keep(self._wanted(log_id, seq, table_id), keep)

    def take_slice(self, log_id: bytes, seq: int, table_id: bytes, index: int, data: bytes) -> None:
        """Keep one slice of one part, once its hash is right."""
        if log_id in self._strangers:
            member_id = self._strangers[log_id][0][0]
            self._take_stranger_slice(log_id, seq, table_id, index, data)
            self._adopt_known(member_id)
        self._keep(
            self._wanted(log_id, seq, table_id),
            lambda log, stored, part_index: self._keep_slice(log, stored, part_index, index, data),
        )

    def _keep(self, wanted: list[tuple[Log, Stored, int]], keep: Callable[[Log, Stored, int], None]) -> None:
        """Keep a piece of a payload for each header that it fits: in a forked log several bear one number."""
        refusals: list[RefusedError] = []
        for log, stored, index in wanted:
            try:
                keep(log, stored, index)
            except RefusedError as error:
                refusals.append(error)
        if refusals and len(refusals) == len(wanted):
            raise refusals[0]

    def _keep_slice(self, log: Log, stored: Stored, part_index: int, index: int, data: bytes) -> None:
        part = stored.header.parts[part_index]
        check_slice(part, self._leaves(stored.lsn, part_index, part), index, data)
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
        if log is None or log_id in self._strangers or log_id in self._history.forked:
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

    def _wanted(self, log_id: bytes, seq: int, table_id: bytes) -> list[tuple[Log, Stored, int]]:
        """Return (strand, change, part index) that a slice may belong to: none when it is here already."""
        strands = [log for log in self._history.strands_of(log_id) if log.start <= seq < log.length]
        if not strands:
            raise MalformedError(f"slice for change {seq} of {log_id.hex()[:8]}, which is not known here", rule="PAY-6")
        wanted = []
        is_named = False
        for log in strands:
            stored = self._history.read(ChangeRef(log.log, seq))
            for index, part in enumerate(stored.header.parts if lacks_payload(stored.state) else ()):
                if part.table_id == table_id:
                    wanted.append((log, stored, index))
            is_named = is_named or bool(wanted) or not lacks_payload(stored.state)
        if not is_named:
            what = f"slice for a part that change {seq} of {log_id.hex()[:8]} does not have"
            raise MalformedError(what, rule="PAY-6")
        return wanted

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
        self._knowledge.keep(log_id, receipt)

    # -- what a session asks -------------------------------------------------------------

    def holds(self, log_id: bytes, length: int, head_hash: bytes) -> bool:
        """True when this prefix of a log is here, if only in memory."""
        runs = self._strangers.get(log_id, ())
        if any((seal.length, seal.head_hash) == (length, head_hash) for _, _, _, seal in runs):
            return True
        return self._history.head_at(log_id, length, head_hash) is not None

    def payload_gaps(self, log_id: bytes, length: int, head_hash: bytes) -> list[range]:
        """Return the seqs of this prefix of a log whose payload is wanted; of a stranger, its first change."""
        if log_id in self._strangers:
            return [range(1)]
        gaps: list[range] = []
        for log, _, stop in self._path(log_id, length, head_hash):
            gaps += self._knowledge.payload_gaps(log, stop)
        return gaps

    def begun(self, log_id: bytes, length: int, head_hash: bytes, seqs: range) -> Iterator[tuple[int, bytes, int]]:
        """Yield (seq, table id, slices here) of parts that are here in part."""
        for log, start, stop in self._path(log_id, length, head_hash):
            counts = self._history.slice_counts(log, max(start, seqs.start), min(stop, seqs.stop))
            for (lsn, index), count in counts.items():
                seq = self._history.ref_of(lsn).seq
                stored = self._history.read(ChangeRef(log.log, seq))
                if lacks_payload(stored.state):
                    yield seq, stored.header.parts[index].table_id, count

    def _path(self, log_id: bytes, length: int, head_hash: bytes) -> list[tuple[Log, int, int]]:
        last = self._history.head_at(log_id, length, head_hash)
        return [] if last is None else self._history.path(self._history.logs[last.log], last.seq + 1)

    def is_stranger(self, arrival: object) -> bool:
        """True when an arrival is of a log that waits for its invitation."""
        return getattr(arrival, "log_id", None) in self._strangers

    def waiting(self) -> Iterator[tuple[bytes, bytes, bytes, int, bytes]]:
        """Yield (log id, member id, incarnation, length, head hash) of strangers' logs in memory."""
        for log_id, runs in self._strangers.items():
            member_id, incarnation, links, _ = runs[-1]
            yield log_id, member_id, incarnation, links[-1].header.seq + 1, links[-1].hash

    def waiting_sizes(self) -> dict[bytes, int]:
        """Return how many bytes of headers wait in memory, by strangers' logs."""
        return {log_id: _size_of(runs) for log_id, runs in self._strangers.items()}

    def forget_stranger(self, log_id: bytes) -> None:
        """Drop one stranger's log from memory; it is asked for again."""
        self._stranger_size -= _size_of(self._strangers.pop(log_id, []))

    def forget(self) -> None:
        """Drop what waits in memory; it is asked for again."""
        self._strangers.clear()
        self._stranger_size = 0
        self._small.clear()


def _size_of(runs: Sequence[tuple[bytes, bytes, list[Link], Seal]]) -> int:
    return sum(len(link.data) for _, _, links, _ in runs for link in links)


class _Strands:
    """What is held of one log, as `admit_run` asks for it."""

    def __init__(self, history: History, log_id: bytes) -> None:
        self._history = history
        self._log_id = log_id

    def find(self, seq: int, hashed: bytes) -> ChangeRef | None:
        return self._history.head_at(self._log_id, seq + 1, hashed)

    def after(self, place: ChangeRef | None) -> list[tuple[bytes, ChangeRef]]:
        return [(self._history.hash_at(ref), ref) for ref in self._history.after(place, self._log_id)]

    def seals_below(self, place: ChangeRef | None) -> int:
        if place is None:
            return 0
        path = self._history.path(self._history.logs[place.log], place.seq + 1)
        return max((seal for log, _, stop in path for seal in self._history.sealed_lengths(log, stop)[-1:]), default=0)


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
