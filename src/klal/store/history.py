"""Logs, changes and payloads as they lie in the file, and what each change had seen.

The file keeps changes in order of arrival. Which log and number a line belongs to is
said once per stretch (a *span*), so a local commit writes one row and nothing else. What
a change had seen is stored as the lengths that rose since the change before it.

Source:
    Protocol spec sections 5, 6 and 15, rules LOG-1 to LOG-6, FRN-1, FIL-3.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge

from klal.errors import DamagedError
from klal.model.codec import HASH_SIZE, SLICE_SIZE
from klal.model.frontier import Frontier, Head
from klal.model.header import Header, Part, header_hash
from klal.model.keys import branch_id_of
from klal.model.payload import slices_of
from klal.model.seal import Seal
from klal.rules.admit import Link
from klal.rules.branches import Branch, Strand, branches_of
from klal.rules.merge import ChangeRef
from klal.store.base import Base, read_base
from klal.store.packs import Packs
from klal.store.sql import Connection, runner

INLINE_SIZE_MAX = 64 * 1024  # A payload up to this size lies beside its header; larger ones in slices.

_FRESH_COUNT_MAX = 1 << 15  # About 20 MB.

STATE_LACKING = 0
STATE_HELD = 1
STATE_APPLIED = 2
STATE_VOID = 3
STATE_DROPPED = 4  # Applied, and its rows' payload put down by compaction.
STATE_VOID_DROPPED = 5
_DROPPED = STATE_DROPPED - STATE_APPLIED
_IS_HERE_SQL = f"CASE WHEN state >= {STATE_DROPPED} THEN state - {_DROPPED} ELSE {STATE_HELD} END"


def lacks_payload(state: int) -> bool:
    """True when some of a change's payload is not here, for want of it or by compaction."""
    return state == STATE_LACKING or state >= STATE_DROPPED


def outcome_of(state: int) -> int:
    """Return what a change came to, whether its payload is still here or not."""
    return state - _DROPPED if state >= STATE_DROPPED else state


@dataclass(slots=True)
class Log:
    """One log as this file holds it; of a log that forked, one strand of it (`klal.rules.branches`).

    What lay here when a fork was found stays in its strand, so nothing that refers to a
    change ever moves; what the branches are called is worked out beside it.

    Shape:
        log: its index in this file; never leaves it.
        log_id: unlike any other here; of a strand that came later, the name of its branch.
        length, head_hash: headers here; payload_length, applied_length <= length.
        order_stamp: of the newest applied change, 0 when none is.
        origin: the log that its headers were signed for.
        below, start: strand and number that its first header goes on from; all lengths count from the
            beginning of the log, so none is less than `start`.
        vector: what the newest applied change had seen, itself included: log -> length.
    """

    log: int
    log_id: bytes
    member_id: bytes
    incarnation: bytes
    length: int = 0
    head_hash: bytes = b""
    payload_length: int = 0
    applied_length: int = 0
    order_stamp: int = 0
    origin: bytes = b""
    below: int | None = None
    start: int = 0
    vector: dict[int, int] | None = None

    def __post_init__(self) -> None:
        self.origin = self.origin or self.log_id


@dataclass(slots=True)
class Stored:
    """One line of klal_change."""

    lsn: int
    state: int
    order_stamp: int
    header_bytes: bytes
    payload: bytes | None
    _header: Header | None = None

    @property
    def header(self) -> Header:
        """The header, decoded when it is first asked for."""
        if self._header is None:
            self._header = Header.decode(self.header_bytes)
        return self._header


class History:
    """All logs of one file."""

    def __init__(self, connection: Connection, space_id: bytes) -> None:
        self._connection = connection
        self._run = runner(connection)
        self.space_id = space_id
        self._packs = Packs(connection, space_id)
        self.logs: dict[int, Log] = {}
        self.by_id: dict[bytes, Log] = {}
        self.forked: dict[bytes, list[Log]] = {}  # origin -> its strands, where there are several
        self._names: dict[int, list[tuple[int, bytes]]] = {}  # strand of a forked log -> (from which number, name)
        self._log_max = 0
        self.lsn_max = 0
        self.base: Base | None = None
        """Below what payloads were put down, where they were."""
        self.floor: dict[int, int] = {}
        """Its lengths, by log."""
        self.wanted: dict[int, list[int]] = {}
        """Log -> seqs whose payload was put down and is needed again, ascending (CMP-5)."""
        self._fresh: dict[int, Header] = {}  # lsn -> header, of those that came a moment ago
        self._span: tuple[int, int] | None = None  # (log, next seq) that an append would continue

    # -- loading ---------------------------------------------------------------------

    def load(self, own_log: int | None) -> None:
        """Read the logs' counters; those of the log written here are corrected from its lines."""
        self.logs = {}
        self.by_id = {}
        self.forked = {}
        self._names = {}
        self._log_max = 0
        self.rest_on(read_base(self._connection))
        self._packs.forget()
        self.forget()
        for row in self._connection.execute(
            "SELECT log, log_id, member_id, incarnation, length, head_hash, payload_length, applied_length,"
            " order_stamp, origin, below, start FROM klal_log"
        ):
            self._know(Log(*row))
        for log, seq, log_id in self._connection.execute("SELECT log, seq, log_id FROM klal_branch ORDER BY log, seq"):
            self._names.setdefault(log, []).append((seq, log_id))
            self.by_id[log_id] = self.logs[log]
        self.lsn_max = self._connection.execute("SELECT coalesce(max(lsn), 0) FROM klal_change").get or 0
        span = self._connection.execute("SELECT lsn, log, seq FROM klal_span ORDER BY lsn DESC LIMIT 1").fetchone()
        self._span = None if span is None else (span[1], span[2] + self.lsn_max - span[0] + 1)
        if own_log is not None:
            self._recover_own(self.logs[own_log])

    def rest_on(self, base: Base | None) -> None:
        """Know below what payloads were put down."""
        self.base = base
        self.floor = {} if base is None else dict(base.lengths)

    def holds_base(self, lengths: Mapping[int, int]) -> bool:
        """True when nothing that was compacted lies beyond these prefixes."""
        return all(lengths.get(log, 0) >= length for log, length in self.floor.items())

    def lacks_payloads(self, lengths: Mapping[int, int]) -> bool:
        """True when some payload of these prefixes is not here."""
        condition = f"state IN ({STATE_LACKING}, {STATE_DROPPED}, {STATE_VOID_DROPPED})"
        return any(self._in_state(self.logs[log], 0, length, condition, 1) for log, length in lengths.items())

    def forget(self) -> None:
        """Drop the headers kept in memory from their arrival until they are applied."""
        self._fresh.clear()

    def _know(self, log: Log) -> Log:
        self.logs[log.log] = log
        self.by_id[log.log_id] = log
        self._log_max = max(self._log_max, log.log)
        if log.log_id != log.origin:
            self.forked.setdefault(log.origin, [self.by_id[log.origin]]).append(log)
        return log

    def _recover_own(self, log: Log) -> None:
        span = self._connection.execute(
            "SELECT lsn, seq FROM klal_span WHERE log = ? ORDER BY seq DESC LIMIT 1", (log.log,)
        ).fetchone()
        if span is None:
            return
        lsn, seq = span
        end = self._connection.execute("SELECT min(lsn) FROM klal_span WHERE lsn > ?", (lsn,)).get or self.lsn_max + 1
        last = self._connection.execute(
            "SELECT header, order_stamp FROM klal_change WHERE lsn = ?", (end - 1,)
        ).fetchone()
        if last is None:
            raise DamagedError(f"log {log.log_id.hex()[:8]} has no line {end - 1}")
        if not last[0]:
            return  # It was compacted, and so sealed and its counters written, and nothing came since.
        log.length = log.payload_length = log.applied_length = seq + end - lsn
        log.head_hash = header_hash(self.space_id, last[0])
        log.order_stamp = last[1]

    # -- logs ------------------------------------------------------------------------

    def add_log(self, log_id: bytes, member_id: bytes, incarnation: bytes) -> Log:
        """Return a new, empty log; it is stored with its first header."""
        log = Log(self._log_max + 1, log_id, member_id, incarnation)
        return self._add(log)

    def _add(self, log: Log) -> Log:
        self._connection.execute(
            "INSERT INTO klal_log VALUES(?,?,?,?,?,x'',?,?,0,?,?,?)",
            (log.log, log.log_id, log.member_id, log.incarnation, *[log.start] * 3, log.origin, log.below, log.start),
        )
        return self._know(log)

    def add_copy(self, log: Log) -> Log:
        """Return a new, empty log with the place of another file's: what refers to a change means the same in both."""
        copy = Log(log.log, log.log_id, log.member_id, log.incarnation)
        copy.origin, copy.below, copy.start = log.origin, log.below, log.start
        copy.length = copy.payload_length = copy.applied_length = log.start
        return self._add(copy)

    def add_branch(self, origin: Log, place: ChangeRef | None, first: bytes) -> Log:
        """Return a new, empty strand, and name the log's branches anew (LOG-7).

        Args:
            origin: Any strand of the log.
            place: The header that it goes on from, which another goes on from too; None before number 0.
            first: Hash of the header that it will begin with.
        """
        start = 0 if place is None else place.seq + 1
        log = Log(self._log_max + 1, branch_id_of(origin.origin, first), origin.member_id, origin.incarnation)
        log.origin, log.below, log.start = origin.origin, None if place is None else place.log, start
        log.length = log.payload_length = log.applied_length = start
        return self._add(log)

    def name_branches(self, origin: bytes) -> None:
        """Write down what each stretch of a forked log is called, for views and for `name_of`."""
        strands = self.forked[origin]
        found = self._names_in(origin)
        for strand in strands:
            self._connection.execute("DELETE FROM klal_branch WHERE log = ?", (strand.log,))
            self._names[strand.log] = []
        self._connection.executemany("INSERT INTO klal_branch VALUES(?,?,?)", found)
        for log, seq, log_id in found:
            self._names[log].append((seq, log_id))
            self.by_id[log_id] = self.logs[log]

    def branch_names(self) -> list[tuple[int, int, bytes]]:
        """Return what the headers here make of `klal_branch`: strand, from which number, name."""
        return sorted(name for origin in self.forked for name in self._names_in(origin))

    def _names_in(self, origin: bytes) -> list[tuple[int, int, bytes]]:
        lengths = {strand.log: strand.length for strand in self.forked[origin]}
        branches = self._branches(origin, lengths)
        return sorted((log, start, branch.log_id) for branch in branches for log, start, _ in branch.stretches)

    def _branches(self, origin: bytes, lengths: Mapping[int, int]) -> list[Branch]:
        strands = [Strand(log.log, log.below, log.start) for log in self.forked[origin]]
        return branches_of(origin, strands, lengths, self.hash_at)

    def strands_of(self, log_id: bytes) -> list[Log]:
        """Return everything held of the log that headers are signed for, in order of arrival."""
        log = self.by_id.get(log_id)
        return self.forked.get(log_id, []) or ([] if log is None else [log])

    def branch_in(self, ref: ChangeRef, lengths: Mapping[int, int]) -> bytes:
        """Return the hash that the branch of a change goes by in a frontier: empty where it is in the log itself."""
        origin = self.logs[ref.log].origin
        for branch in self._branches(origin, lengths) if origin in self.forked else ():
            is_in = any(log == ref.log and start <= ref.seq < stop for log, start, stop in branch.stretches)
            if is_in and branch.log_id != origin:
                log, start, _ = branch.stretches[0]
                return self.hash_at(ChangeRef(log, start))
        return b""

    def by_join(self) -> list[Log]:
        """Return the logs that begin with a first change, ascending by log id and then by its hash (CRT-4)."""
        logs = [log for log in self.logs.values() if log.start == 0 and log.length]
        return sorted(logs, key=lambda log: (log.origin, self.hash_at(ChangeRef(log.log, 0))))

    def name_of(self, ref: ChangeRef) -> bytes:
        """Return the id of the log that a change is in, among all headers here (LOG-7)."""
        names = self._names.get(ref.log)
        if names is None:
            return self.logs[ref.log].log_id
        return names[bisect_right(names, ref.seq, key=_seq_of) - 1][1]

    def named(self, log_id: bytes, seq: int) -> ChangeRef | None:
        """Return the change that a log id and a number name, or None where it is not here.

        An id noted before a fork was found names what it named then.
        """
        log = self.by_id.get(log_id)
        while log is not None and seq < log.start:
            log = None if log.below is None else self.logs[log.below]
        return None if log is None or seq >= log.length else ChangeRef(log.log, seq)

    def before(self, ref: ChangeRef) -> ChangeRef | None:
        """Return the change that the one at `ref` is linked to, or None for number 0."""
        log = self.logs[ref.log]
        if ref.seq > log.start:
            return ChangeRef(ref.log, ref.seq - 1)
        return None if log.below is None else ChangeRef(log.below, log.start - 1)

    def after(self, place: ChangeRef | None, origin: bytes) -> list[ChangeRef]:
        """Return the changes here that are linked to the one at `place`, or the ones numbered 0."""
        below, seq = (None, 0) if place is None else (place.log, place.seq + 1)
        found = [
            ChangeRef(log.log, seq)
            for log in self.strands_of(origin)
            if log.below == below and log.start == seq and log.length > seq
        ]
        if place is not None and self.logs[place.log].length > seq:
            found.append(ChangeRef(place.log, seq))
        return found

    def path(self, log: Log, stop: int) -> list[tuple[Log, int, int]]:
        """Return where the first `stop` changes up to a strand's lie: (strand, start, stop), in order."""
        found = []
        while True:
            if stop > log.start:
                found.append((log, log.start, stop))
            stop = min(stop, log.start)
            if log.below is None:
                return found[::-1]
            log = self.logs[log.below]

    def head_at(self, origin: bytes, length: int, head_hash: bytes) -> ChangeRef | None:
        """Return the change that ends this prefix of a log, or None where it is not here."""
        for log in self.strands_of(origin):
            if log.start < length <= log.length and self.hash_at(ChangeRef(log.log, length - 1)) == head_hash:
                return ChangeRef(log.log, length - 1)
        return None

    def save_log(self, log: Log) -> None:
        """Write a log's counters."""
        self._connection.execute(
            "UPDATE klal_log SET length=?, head_hash=?, payload_length=?, applied_length=?, order_stamp=? WHERE log=?",
            (log.length, log.head_hash, log.payload_length, log.applied_length, log.order_stamp, log.log),
        )

    def frontier(self) -> Frontier:
        """Return the headers held, by log."""
        return self.frontier_of({log.log: log.length for log in self.logs.values() if log.length > log.start})

    def frontier_of(self, lengths: Mapping[int, int]) -> Frontier:
        """Return prefix lengths as what has one root everywhere, its branches named by what is inside (FRN-4)."""
        heads = {}
        for index, length in lengths.items():
            log = self.logs[index]
            if length and log.origin not in self.forked:
                heads[log.log_id] = Head(length, self.hash_at(ChangeRef(index, length - 1)))
        for origin in self.forked:
            for branch in self._branches(origin, lengths):
                heads[branch.log_id] = Head(branch.length, self.hash_at(branch.last))
        return Frontier(heads)

    def lengths_of(self, frontier: Frontier) -> dict[int, int] | None:
        """Return a frontier's prefix lengths by log index, what lies below a branch included.

        None where a head of it is not here.
        """
        lengths: dict[int, int] = {}
        for log_id, head in frontier.heads.items():
            log = self.by_id.get(log_id)
            last = None if log is None else self.head_at(log.origin, head.length, head.head_hash)
            last = last or self.find(head.head_hash)
            if last is None:
                return None
            for strand, _, stop in self.path(self.logs[last.log], last.seq + 1):
                lengths[strand.log] = max(lengths.get(strand.log, 0), stop)
        return lengths

    def held_frontier(self) -> Frontier:
        """Return the prefixes of which no payload is wanted, by log: it is here, or was put down by compaction."""
        return self.frontier_of(self._whole(self.wants_from))

    def held_lengths(self) -> dict[int, int]:
        """Return the prefixes held with all their payloads, by log index; a branch goes on from a whole one."""
        return self._whole(lambda log: log.payload_length)

    def _whole(self, length_of: Callable[[Log], int]) -> dict[int, int]:
        lengths: dict[int, int] = {}
        for index in sorted(self.logs):
            log = self.logs[index]
            length = length_of(log)
            if length > log.start and (log.below is None or lengths.get(log.below, 0) >= log.start):
                lengths[index] = length
        return lengths

    def whole_length(self, log: Log) -> int:
        """Return up to where no payload is wanted of a strand and of what lies below it."""
        length = self.wants_from(log)
        while log.below is not None:
            start, log = log.start, self.logs[log.below]
            if self.wants_from(log) < start:
                length = self.wants_from(log)
        return length

    def wants_from(self, log: Log) -> int:
        """Return the seq of the first payload that is wanted, or the length where none is."""
        wanted = self.wanted.get(log.log)
        return min(wanted[0], log.payload_length) if wanted else log.payload_length

    def dropped(self, log: Log, start: int = 0) -> list[int]:
        """Return the seqs from `start` on whose payload was put down by compaction, ascending."""
        stop = self.floor.get(log.log, 0)
        return self._in_state(log, start, stop, f"state >= {STATE_DROPPED}", -1)

    def applied_lengths(self) -> dict[int, int]:
        """Return how much of each log is applied, by log index; those with nothing left out."""
        return {log.log: log.applied_length for log in self.logs.values() if log.applied_length > log.start}

    # -- lines -----------------------------------------------------------------------

    def append(
        self, log: Log, header_bytes: bytes, hashed: bytes, state: int, stamp: int, payload: bytes | None
    ) -> int:
        """Store one header at the end of its log, and return its lsn."""
        self.lsn_max = lsn = self.lsn_max + 1
        # Chained on the log as well as the number: a line belongs to the newest span.
        if self._span != (log.log, log.length):
            self._run("INSERT INTO klal_span VALUES(?,?,?)", (lsn, log.log, log.length))
        self._run("INSERT INTO klal_change VALUES(?,?,?,?,?)", (lsn, state, stamp, header_bytes, payload))
        log.length += 1
        self._span = (log.log, log.length)
        log.head_hash = hashed
        return lsn

    def append_headers(self, log: Log, links: Sequence[Link]) -> None:
        """Store headers at the end of their log, each findable by its hash; those with parts lack their payload."""
        first = self.lsn_max + 1
        if self._span != (log.log, log.length):
            self._connection.execute("INSERT INTO klal_span VALUES(?,?,?)", (first, log.log, log.length))
        self.lsn_max += len(links)
        if len(self._fresh) > _FRESH_COUNT_MAX:
            self._fresh.clear()
        self._fresh.update((lsn, link.header) for lsn, link in enumerate(links, first))
        self._span = (log.log, log.length + len(links))
        self._connection.executemany(
            "INSERT INTO klal_change VALUES(?,?,0,?,NULL)",
            [
                (lsn, STATE_LACKING if link.header.parts else STATE_HELD, link.data)
                for lsn, link in enumerate(links, first)
            ],
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO klal_hash VALUES(?,?)",
            sorted((_prefix(link.hash), lsn) for lsn, link in enumerate(links, first)),
        )
        log.length += len(links)
        log.head_hash = links[-1].hash

    def lsn_of(self, ref: ChangeRef) -> int:
        """Return where a change lies.

        Raises:
            DamagedError: It should be here and is not.
        """
        span = self._connection.execute(
            "SELECT lsn, seq FROM klal_span WHERE log = ? AND seq <= ? ORDER BY seq DESC LIMIT 1", ref
        ).fetchone()
        if span is None:
            raise DamagedError(f"change {ref.seq} of log {ref.log} has no place in the file")
        lsn: int = span[0] + ref.seq - span[1]
        return lsn

    def ref_of(self, lsn: int) -> ChangeRef:
        """Return which change a line holds."""
        span = self._connection.execute(
            "SELECT lsn, log, seq FROM klal_span WHERE lsn <= ? ORDER BY lsn DESC LIMIT 1", (lsn,)
        ).fetchone()
        if span is None:
            raise DamagedError(f"line {lsn} belongs to no log")
        return ChangeRef(span[1], span[2] + lsn - span[0])

    def read(self, ref: ChangeRef) -> Stored:
        """Return one stored change.

        Raises:
            DamagedError: It should be here and is not.
        """
        row = self._connection.execute(
            "SELECT lsn, state, order_stamp, header, payload FROM klal_change WHERE lsn = ?", (self.lsn_of(ref),)
        ).fetchone()
        if row is None:
            raise DamagedError(f"change {ref.seq} of log {ref.log} is not in the file")
        lsn, state, stamp, header, payload = row
        return Stored(lsn, state, stamp, header or self._packs.header(ref), payload)

    def lines(self, log: Log, start: int, stop: int) -> Iterator[Stored]:
        """Yield the changes [start, stop) of a log, in order."""
        known = self._fresh.get
        for at, state, stamp, header, payload in self.raw_lines(log, start, stop):
            yield Stored(at, state, stamp, header, payload, known(at))

    def raw_lines(self, log: Log, start: int, stop: int) -> Iterator[tuple[int, int, int, bytes, bytes | None]]:
        """Yield the changes [start, stop) of a log as they are stored: lsn, state, order stamp, header, payload."""
        for lsn, count, seq in self._spans(log, start, stop):
            rows = self._connection.execute(
                "SELECT lsn, state, order_stamp, header, payload FROM klal_change"
                " WHERE lsn BETWEEN ? AND ? ORDER BY lsn",
                (lsn, lsn + count - 1),
            )
            if not self.floor.get(log.log):
                yield from rows
                continue
            for at, state, stamp, header, payload in rows:
                here = header or self._packs.header(ChangeRef(log.log, seq + at - lsn))
                yield at, state, stamp, here, payload

    def _spans(self, log: Log, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return where the changes [start, stop) of a log lie: (first lsn, how many, first number)."""
        if start >= stop:
            return []
        spans = self._connection.execute(
            "SELECT lsn, seq FROM klal_span WHERE log = ? AND seq < ? AND seq >= coalesce("
            "(SELECT max(seq) FROM klal_span WHERE log = ? AND seq <= ?), 0) ORDER BY seq",
            (log.log, stop, log.log, start),
        ).fetchall()
        ends = [seq for _, seq in spans[1:]] + [log.length]
        found = []
        for (lsn, seq), end in zip(spans, ends, strict=True):
            first, last = max(seq, start), min(end, stop)
            if first < last:
                found.append((lsn + first - seq, last - first, first))
        return found

    def headers(self, log: Log, start: int, stop: int) -> Iterator[bytes]:
        """Yield the headers [start, stop) of a log as received, in order."""
        for lsn, count, first in self._spans(log, start, stop):
            rows = self._connection.execute(
                "SELECT header FROM klal_change WHERE lsn BETWEEN ? AND ? ORDER BY lsn", (lsn, lsn + count - 1)
            )
            for seq, (header,) in enumerate(rows, first):
                yield header or self._packs.header(ChangeRef(log.log, seq))

    def in_order(self, starts: Mapping[int, int], stops: Mapping[int, int]) -> Iterator[tuple[Log, Stored]]:
        """Yield the changes between two frontiers: by ascending log id, number and header hash.

        The log id is the one that headers are signed for, so the order is the same everywhere.
        """
        strands: dict[bytes, list[Log]] = {}
        for index in stops:
            strands.setdefault(self.logs[index].origin, []).append(self.logs[index])
        for log_id in sorted(strands):
            runs = [self._hashed(log, starts.get(log.log, 0), stops[log.log]) for log in strands[log_id]]
            yield from (each[2:] for each in merge(*runs, key=lambda each: each[:2]))

    def _hashed(self, log: Log, start: int, stop: int) -> Iterator[tuple[int, bytes, Log, Stored]]:
        for seq, stored in enumerate(self.lines(log, start, stop), max(start, log.start)):
            yield seq, header_hash(self.space_id, stored.header_bytes), log, stored

    def lacking(self, log: Log, start: int, stop: int, count_max: int = -1) -> list[int]:
        """Return the seqs of [start, stop) whose header is here and whose payload is not; if told, only the first."""
        return self._in_state(log, start, stop, f"state = {STATE_LACKING}", count_max)

    def _in_state(self, log: Log, start: int, stop: int, condition: str, count_max: int) -> list[int]:
        found: list[int] = []
        for lsn, count, seq in self._spans(log, start, stop):
            rows = self._connection.execute(
                f"SELECT lsn FROM klal_change WHERE lsn BETWEEN ? AND ? AND {condition} ORDER BY lsn LIMIT ?",
                (lsn, lsn + count - 1, count_max),
            ).fetchall()
            found.extend(seq + at - lsn for (at,) in rows)
            if 0 < count_max <= len(found):
                break
        return found

    def keep_payloads(self, payloads: Sequence[tuple[bytes, int]]) -> None:
        """Keep small payloads, given as (all parts, lsn), beside their headers: these changes are held."""
        self._connection.executemany(
            f"UPDATE klal_change SET state = {_IS_HERE_SQL}, payload = ? WHERE lsn = ?", payloads
        )

    def note_whole(self, lsn: int) -> None:
        """Write that the last slice of a payload came: its change is held, or again as it was before compaction."""
        self._connection.execute(f"UPDATE klal_change SET state = {_IS_HERE_SQL} WHERE lsn = ?", (lsn,))

    def put_down(self, lines: Sequence[tuple[int, bytes | None]], slices: Sequence[tuple[int, int]]) -> None:
        """Drop the payloads of applied changes.

        Args:
            lines: (lsn, what of it stays beside the header).
            slices: (lsn, the first part of which none stay), of those that lie in slices.
        """
        self._connection.executemany(
            f"UPDATE klal_change SET state = state + {_DROPPED}, payload = ? WHERE lsn = ?",
            [(kept, lsn) for lsn, kept in lines],
        )
        self._connection.executemany("DELETE FROM klal_slice WHERE lsn = ? AND part >= ?", slices)

    def set_applied(self, stamps: Sequence[tuple[int, int]]) -> None:
        """Write that changes, given as (order stamp, lsn), are applied."""
        self._connection.executemany(
            f"UPDATE klal_change SET state = {STATE_APPLIED}, order_stamp = ? WHERE lsn = ?", stamps
        )

    def set_state(self, lsn: int, state: int, stamp: int) -> None:
        """Write what became of a change."""
        self._connection.execute("UPDATE klal_change SET state=?, order_stamp=? WHERE lsn=?", (state, stamp, lsn))

    def hash_at(self, ref: ChangeRef) -> bytes:
        """Return the hash of a stored header."""
        log = self.logs[ref.log]
        if ref.seq == log.length - 1:
            return log.head_hash
        return header_hash(self.space_id, self.read(ref).header_bytes)

    def hash_of(self, stored: Stored) -> bytes:
        """Return the hash of a header that was read."""
        return header_hash(self.space_id, stored.header_bytes)

    # -- finding a change by its hash --------------------------------------------------

    def index_hash(self, hashed: bytes, lsn: int) -> None:
        """Make a header findable by its hash.

        Own headers are indexed when they are sealed: nobody can name one that never left.
        """
        self._connection.execute("INSERT OR IGNORE INTO klal_hash VALUES(?,?)", (_prefix(hashed), lsn))

    def index_hashes(self, log: Log, start: int) -> None:
        """Make the headers of a log from `start` on findable by their hashes."""
        spans = self._spans(log, start, log.length)
        for lsn, count, _ in spans:
            rows = self._connection.execute(
                "SELECT lsn, header FROM klal_change WHERE lsn BETWEEN ? AND ?", (lsn, lsn + count - 1)
            ).fetchall()
            self._connection.executemany(
                "INSERT OR IGNORE INTO klal_hash VALUES(?,?)",
                [(_prefix(header_hash(self.space_id, data)), at) for at, data in rows],
            )

    def find(self, hashed: bytes) -> ChangeRef | None:
        """Return the change whose header hashes to this, or None if it is not here."""
        for (lsn,) in self._connection.execute(
            "SELECT lsn FROM klal_hash WHERE prefix = ?", (_prefix(hashed),)
        ).fetchall():
            data = self._connection.execute("SELECT header FROM klal_change WHERE lsn = ?", (lsn,)).get
            if data is not None and header_hash(self.space_id, data) == hashed:
                return self.ref_of(lsn)
        return self._packs.find(hashed) if self.floor else None

    def is_findable(self, ref: ChangeRef, hashed: bytes) -> bool:
        """True when a look for this hash comes by this change."""
        if ref.seq < self.packed_length(self.logs[ref.log]):
            return self._packs.has_mark(ref, hashed)
        return self.find(hashed) is not None

    def packed_length(self, log: Log) -> int:
        """Return up to which number the headers of a log lie in blocks."""
        return self._packs.length(log.log) if self.floor.get(log.log) else 0

    def pack_headers(self, log: Log, stop: int) -> None:
        """Put the headers of a log up to `stop` into blocks, out of their rows and out of the index of hashes."""
        start = self.packed_length(log)
        lines = [(lsn, header) for lsn, _, _, header, _ in self.raw_lines(log, start, stop)]
        self._packs.add(log.log, start, [header for _, header in lines])
        self._connection.executemany(
            "DELETE FROM klal_hash WHERE prefix = ? AND lsn = ?",
            [(_prefix(header_hash(self.space_id, header)), lsn) for lsn, header in lines],
        )
        self._connection.executemany("UPDATE klal_change SET header = x'' WHERE lsn = ?", [(lsn,) for lsn, _ in lines])

    # -- payloads ----------------------------------------------------------------------

    def store_slices(self, lsn: int, part: int, data: bytes) -> None:
        """Store a whole part in slices."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO klal_slice VALUES(?,?,?,?)",
            ((lsn, part, index, piece) for index, piece in enumerate(slices_of(data))),
        )

    def part(self, stored: Stored, table_id: bytes) -> bytes | None:
        """Return the bytes of one part, or None if the change has no such part or it is not here."""
        start = 0
        parts = stored.header.parts
        if len(parts) == 1 and parts[0].table_id == table_id and stored.payload is not None:
            return stored.payload
        for index, part in enumerate(parts):
            if part.table_id == table_id:
                if stored.payload is not None:
                    # Of a change that was compacted only the acts are here, which come first.
                    data = stored.payload[start : start + part.size]
                    return data if len(data) == part.size else None
                return self.joined(stored.lsn, index, part)
            start += part.size
        return None

    def joined(self, lsn: int, index: int, part: Part) -> bytes | None:
        """Return a part whose payload lies in slices, or None if not all of them are here."""
        pieces = self._connection.execute(
            "SELECT data FROM klal_slice WHERE lsn = ? AND part = ? ORDER BY slice", (lsn, index)
        ).fetchall()
        data = b"".join(piece for (piece,) in pieces)
        return data if len(data) == part.size else None

    def slices(self, stored: Stored, index: int) -> Iterator[tuple[int, bytes]]:
        """Yield (number, bytes) of the slices of one part that are here."""
        if stored.payload is not None:
            start = sum(part.size for part in stored.header.parts[:index])
            data = stored.payload[start : start + stored.header.parts[index].size]
            yield from enumerate(slices_of(data))
            return
        rows = self._connection.execute(
            "SELECT slice, data FROM klal_slice WHERE lsn = ? AND part = ? ORDER BY slice", (stored.lsn, index)
        )
        yield from rows

    def slice_count(self, stored: Stored, index: int) -> int:
        """Return how many leading slices of a part are here."""
        if stored.payload is not None:
            return -(-stored.header.parts[index].size // SLICE_SIZE)
        count: int = self._connection.execute(
            "SELECT count(*) FROM klal_slice WHERE lsn = ? AND part = ?", (stored.lsn, index)
        ).get
        return count

    def slice_counts(self, log: Log, start: int, stop: int) -> dict[tuple[int, int], int]:
        """Return how many slices are here of large parts of [start, stop): (lsn, part) -> count."""
        counts: dict[tuple[int, int], int] = {}
        for lsn, count, _ in self._spans(log, start, stop):
            rows = self._connection.execute(
                "SELECT lsn, part, count(*) FROM klal_slice WHERE lsn BETWEEN ? AND ? GROUP BY lsn, part",
                (lsn, lsn + count - 1),
            )
            counts.update(((at, part), here) for at, part, here in rows)
        return counts

    # -- what a change had seen --------------------------------------------------------

    def vector(self, ref: ChangeRef) -> dict[int, int]:
        """Return the past of an applied change, as log -> length; its own log counts it too."""
        rows = self._connection.execute(
            "SELECT past_log, max(length) FROM klal_past WHERE log = ? AND seq <= ? GROUP BY past_log", ref
        )
        vector = dict(rows.fetchall())
        vector[ref.log] = ref.seq + 1
        return vector

    def past_of(self, ref: ChangeRef) -> dict[int, int]:
        """Return the past of an applied change without itself, as log -> length; those with nothing left out."""
        vector = self.vector(ref)
        del vector[ref.log]
        return vector if ref.seq == self.logs[ref.log].start else {**vector, ref.log: ref.seq}

    def head_vector(self, log: Log) -> dict[int, int]:
        """Return the vector of a log's newest applied change; empty when none is applied."""
        if log.applied_length == log.start:
            return {} if log.below is None else self.vector(ChangeRef(log.below, log.start - 1))
        if log.vector is None:
            log.vector = self.vector(ChangeRef(log.log, log.applied_length - 1))
        return log.vector

    def sees(self, a: ChangeRef, b: ChangeRef) -> bool:
        """True when change b is in the past of applied change a."""
        if a.log == b.log:
            return b.seq < a.seq
        length = self._connection.execute(
            "SELECT length FROM klal_past WHERE log = ? AND past_log = ? AND seq <= ? ORDER BY seq DESC LIMIT 1",
            (a.log, b.log, a.seq),
        ).get
        return length is not None and length > b.seq

    def risen(self, log: Log, past: Iterable[ChangeRef]) -> dict[int, int]:
        """Return the lengths that the next change of `log` sees beyond what its head had seen.

        Args:
            past: The applied changes that it names.
        """
        before = self.head_vector(log)
        rose: dict[int, int] = {}
        for ref in past:
            other = self.logs[ref.log]
            seen = self.head_vector(other) if ref.seq == other.applied_length - 1 else self.vector(ref)
            for index, length in seen.items():
                if length > before.get(index, 0) and length > rose.get(index, 0):
                    rose[index] = length
        return rose

    def record_past(self, ref: ChangeRef, rose: Mapping[int, int]) -> None:
        """Store which lengths rose from the change before `ref` in its strand to `ref`."""
        log = self.logs[ref.log]
        if ref.seq == log.start:  # What lies below a branch was seen by its first change, as far as its strand goes.
            rose = {**self.head_vector(log), **rose}
        lines = [(ref.log, index, ref.seq, length) for index, length in sorted(rose.items()) if index != ref.log]
        if lines:
            self._connection.executemany("INSERT INTO klal_past VALUES(?,?,?,?)", lines)

    def maximal_heads(self, seen: Mapping[int, int]) -> list[ChangeRef]:
        """Return the applied heads beyond `seen` that no other applied head has seen."""
        heads = [log for log in self.logs.values() if log.applied_length > max(seen.get(log.log, 0), log.start)]
        covered = {
            index
            for head in heads
            for index, length in self.head_vector(head).items()
            if index != head.log and length >= self.logs[index].applied_length
        }
        return [ChangeRef(head.log, head.applied_length - 1) for head in heads if head.log not in covered]

    # -- seals -------------------------------------------------------------------------

    def add_seal(self, log: Log, seal: Seal) -> None:
        """Keep a checked seal."""
        self._connection.execute(
            "INSERT OR IGNORE INTO klal_seal VALUES(?,?,?)", (log.log, seal.length, seal.signature)
        )

    def sealed_length(self, log: Log) -> int:
        """Return the greatest length of this log under a seal."""
        length: int | None = self._connection.execute("SELECT max(length) FROM klal_seal WHERE log = ?", (log.log,)).get
        return length or 0

    def sealed_lengths(self, log: Log, stop: int) -> list[int]:
        """Return the lengths of this strand up to `stop` that are under a seal, ascending."""
        rows = self._connection.execute(
            "SELECT length FROM klal_seal WHERE log = ? AND length <= ? ORDER BY length", (log.log, stop)
        )
        return [length for (length,) in rows]

    def seals(self, log: Log, start: int, stop: int) -> list[Seal]:
        """Return the seals of a log with start < length <= stop, ascending."""
        rows = self._connection.execute(
            "SELECT length, signature FROM klal_seal WHERE log = ? AND length > ? AND length <= ? ORDER BY length",
            (log.log, start, stop),
        ).fetchall()
        return [
            Seal(log.origin, length, self.hash_at(ChangeRef(log.log, length - 1)), signature)
            for length, signature in rows
        ]


def _seq_of(named: tuple[int, bytes]) -> int:
    return named[0]


def _prefix(hashed: bytes) -> int:
    return int.from_bytes(hashed[:8], "big", signed=True)


assert HASH_SIZE >= 8, "the index of hashes keeps eight bytes of each"
