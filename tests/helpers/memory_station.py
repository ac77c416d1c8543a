"""A second implementation of the station port, in memory, and members who write real logs into it.

`MemoryStation` keeps to the contract of `klal.sync.station` and to nothing else: what a session does with it, it must
do with a file and a folder. It judges with the same pure rules they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from klal.errors import RefusedError
from klal.model.codec import SLICE_SIZE, tree_leaf, tree_root
from klal.model.frontier import Frontier, Head
from klal.model.header import NO_CERTIFICATE, Header, Part
from klal.model.keys import SigningKey, branch_id_of, log_id_of
from klal.model.receipt import HeldHead, Receipt, Statement, make_receipt
from klal.model.seal import SEAL_EVERY_COUNT, Seal, make_seal
from klal.rules.admit import (
    check_chain,
    check_leaves,
    check_slice,
    slice_count_of,
)
from klal.sync.station import (
    Arrival,
    LogState,
    PartBegun,
    PartLeaves,
    PartSlice,
    Receipts,
    Roots,
    Run,
    Station,
    roots_of,
)

SPACE = sha256(b"a space for tests").digest()
TABLE = b"penguin-table-id"
OTHER_TABLE = b"visits--table-id"


@dataclass
class PartHeld:
    """Slices of one part that are here, and its leaves once they are."""

    leaves: tuple[bytes, ...] | None = None
    slices: dict[int, bytes] = field(default_factory=dict)


@dataclass
class LogHeld:
    """One log as a station holds it; of a log that forked, one branch with all that lies below it."""

    origin: bytes
    member_id: bytes
    incarnation: bytes
    data: list[bytes] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    seals: dict[int, Seal] = field(default_factory=dict)
    parts: dict[tuple[int, bytes], PartHeld] = field(default_factory=dict)

    def is_whole(self, seq: int) -> bool:
        return all(
            len(self.parts.get((seq, part.table_id), PartHeld()).slices) == slice_count_of(part)
            for part in self.headers[seq].parts
        )

    @property
    def payload_length(self) -> int:
        return next((seq for seq in range(len(self.headers)) if not self.is_whole(seq)), len(self.headers))


class MemoryStation:
    """A station whose every answer can be read off a few dictionaries."""

    def __init__(self, space_id: bytes = SPACE, *, takes: bool = True) -> None:
        self.space_id = space_id
        self.takes = takes
        self.held: dict[bytes, LogHeld] = {}
        self.newest: dict[bytes, Receipt] = {}
        self.settle_count = 0
        self.taken: list[Arrival] = []
        self.before_take: Callable[[Arrival], None] = lambda _: None

    def roots(self) -> Roots:
        known, held = {}, {}
        for origin in {log.origin for log in self.held.values()}:
            logs = [log for log in self.held.values() if log.origin == origin]
            known.update(named(origin, [log.hashes for log in logs]))
            held.update(named(origin, [log.hashes[: log.payload_length] for log in logs]))
        return roots_of(Frontier(known), Frontier(held), self.newest)

    def logs(self) -> list[LogState]:
        return [
            LogState(log_id, log.member_id, log.incarnation, len(log.headers), log.hashes[-1], log.payload_length)
            for log_id, log in self.held.items()
        ]

    def holds(self, log: LogState) -> bool:
        return self._find(log) is not None

    def _find(self, log: LogState) -> LogHeld | None:
        family = self._family(log.origin(self.space_id))
        return next((each for each in family if each.hashes[log.length - 1 : log.length] == [log.head_hash]), None)

    def _family(self, origin: bytes) -> list[LogHeld]:
        return [log for log in self.held.values() if log.origin == origin]

    def runs(self, log_id: bytes, start: int, stop: int) -> Iterator[Run]:
        log = self.held[log_id]
        assert stop in log.seals, "a stop is a sealed length"
        for length in sorted(log.seals):
            if start < length <= stop:
                data = tuple(log.data[start:length])
                yield Run(log.origin, log.member_id, log.incarnation, start, data, log.seals[length])
                start = length

    def payload_gaps(self, log: LogState) -> list[range]:
        held = self._find(log)
        gaps: list[range] = []
        for seq in range(log.length if held is not None else 0):
            if held.is_whole(seq):
                continue
            if gaps and gaps[-1].stop == seq:
                gaps[-1] = range(gaps[-1].start, seq + 1)
            else:
                gaps.append(range(seq, seq + 1))
        return gaps

    def parts_begun(self, log: LogState, start: int, stop: int) -> list[PartBegun]:
        held = self._find(log)
        begun = []
        for seq in range(start, min(stop, log.length)) if held is not None else ():
            for part in held.headers[seq].parts if not held.is_whole(seq) else ():
                here = held.parts.get((seq, part.table_id), PartHeld()).slices
                count = next(i for i in range(len(here) + 1) if i not in here)
                if count:
                    begun.append(PartBegun(seq, part.table_id, count))
        return begun

    def payloads(self, log_id: bytes, start: int, stop: int) -> Iterator[PartLeaves | PartSlice]:
        log = self.held[log_id]
        for seq in range(start, min(stop, len(log.headers))):
            for part in log.headers[seq].parts:
                here = log.parts.get((seq, part.table_id), PartHeld())
                if here.leaves is not None:
                    yield PartLeaves(log.origin, seq, part.table_id, here.leaves)
                for index in sorted(here.slices):
                    yield PartSlice(log.origin, seq, part.table_id, index, here.slices[index])

    def receipts(self) -> list[Receipt]:
        return [self.newest[log_id] for log_id in sorted(self.newest)]

    def take(self, arrival: Arrival) -> None:
        assert self.takes, "a station that does not take is sent nothing"
        self.before_take(arrival)
        match arrival:
            case Run():
                self._take_run(arrival)
            case PartLeaves():
                for part, held in self._fitting(arrival):
                    check_leaves(part, arrival.leaves)
                    held.leaves = arrival.leaves
            case PartSlice():
                for part, held in self._fitting(arrival):
                    check_slice(part, held.leaves, arrival.index, arrival.data)
                    held.slices[arrival.index] = arrival.data
            case Receipts():
                for receipt in arrival.receipts:
                    receipt.check(self.space_id)
                for receipt in arrival.receipts:
                    log_id = receipt.log_id(self.space_id)
                    known = self.newest.get(log_id)
                    if known is None or known.statement.number < receipt.statement.number:
                        self.newest[log_id] = receipt
        self.taken.append(arrival)

    def take_whole(self, log_id: bytes, slices: Sequence[PartSlice]) -> set[int]:
        return set()

    def settle(self) -> None:
        self.settle_count += 1

    def _take_run(self, run: Run) -> None:
        links = check_chain(self.space_id, run)
        start = links[0].header.seq
        family = self._family(run.log_id)
        below = [log for log in family if start == 0 or log.hashes[start - 1 : start] == [links[0].header.backlink]]
        if not below and start:
            return

        def shared(log: LogHeld) -> int:
            pairs = zip(log.hashes[start:], links, strict=False)
            return next(
                (i for i, (ours, link) in enumerate(pairs) if ours != link.hash),
                min(len(log.hashes) - start, len(links)),
            )

        log = max(below, key=shared, default=None)
        length = start + (0 if log is None else shared(log))
        fresh = links[length - start :]
        if log is None:
            log = self.held[run.log_id] = LogHeld(run.log_id, run.member_id, run.incarnation)
        elif fresh and length < len(log.hashes):
            log = self.held[branch_id_of(run.log_id, fresh[0].hash)] = LogHeld(
                run.log_id,
                run.member_id,
                run.incarnation,
                log.data[:length],
                log.headers[:length],
                log.hashes[:length],
                {at: seal for at, seal in log.seals.items() if at <= length},
                {(seq, table): part for (seq, table), part in log.parts.items() if seq < length},
            )
        for link in fresh:
            log.data.append(link.data)
            log.headers.append(link.header)
            log.hashes.append(link.hash)
        for each in self._family(run.log_id):
            if each.hashes[run.seal.length - 1 : run.seal.length] == [run.seal.head_hash]:
                each.seals[run.seal.length] = run.seal

    def _fitting(self, arrival: PartLeaves | PartSlice) -> list[tuple[Part, PartHeld]]:
        """Return the parts that an arrival may be of: all that it fits, or one that it does not fit."""
        found = []
        for log in self._family(arrival.log_id):
            for part in log.headers[arrival.seq].parts if arrival.seq < len(log.headers) else ():
                if part.table_id == arrival.table_id:
                    held = log.parts.setdefault((arrival.seq, arrival.table_id), PartHeld())
                    found.append((part, held))
        if not found:
            raise RefusedError("no header names this part", rule="PAY-6")
        return [each for each in found if self._fits(arrival, *each)] or found[:1]

    @staticmethod
    def _fits(arrival: PartLeaves | PartSlice, part: Part, held: PartHeld) -> bool:
        try:
            if isinstance(arrival, PartLeaves):
                check_leaves(part, arrival.leaves)
            else:
                check_slice(part, held.leaves, arrival.index, arrival.data)
        except RefusedError:
            return False
        return True


def named(origin: bytes, chains: list[list[bytes]]) -> dict[bytes, Head]:
    """Return what a frontier makes of the branches of one log, as the specification says it (FRN-4)."""
    found = {}
    waiting = [(origin, 0, [chain for chain in chains if chain])]
    while waiting:
        name, start, together = waiting.pop()
        if not together:
            continue
        stop = start
        while True:
            nexts = sorted({chain[stop] for chain in together if len(chain) > stop})
            # The first header after a fork is in the branch already.
            if len(nexts) != 1:
                break
            stop += 1
        if stop > start:
            found[name] = Head(stop - start, max(together, key=len)[stop - 1])
        for first in nexts:
            branch = [chain for chain in together if chain[stop : stop + 1] == [first]]
            waiting.append((branch_id_of(origin, first), stop, branch))
    return found


def stated(station: Station, log_id: bytes) -> LogState:
    """Return what a station says of one log."""
    return next(log for log in station.logs() if log.log_id == log_id)


class Author:
    """A member with a key, who writes one log straight into stations.

    Two authors with one seed are one member on two machines: that is how a fork is made.
    """

    def __init__(self, name: str, space_id: bytes = SPACE, incarnation: int = 1) -> None:
        self.space_id = space_id
        self.key = SigningKey(sha256(name.encode()).digest())
        self.incarnation = incarnation.to_bytes(16, "big")
        self.log_id = log_id_of(space_id, self.key.member_id, self.incarnation)
        self.own = MemoryStation(space_id)
        self.receipt_number = 0
        self._pending: list[bytes] = []
        self._payloads: list[tuple[int, bytes, bytes]] = []
        self._head = self.log_id
        self.length = 0

    def write(
        self, *parts: bytes, past: tuple[bytes, ...] = (), tables: tuple[bytes, ...] = (TABLE, OTHER_TABLE)
    ) -> None:
        """Append one change; it is held once it is sealed."""
        named = sorted(zip(tables, parts, strict=False))
        seq = self.length
        header = Header(
            seq=seq,
            epoch=0,
            unix_ms=1_700_000_000_000 + seq,
            counter=0,
            backlink=self._head,
            certificate=NO_CERTIFICATE,
            past=tuple(sorted(past)),
            parts=tuple(Part(table, tree_root(part_leaves(data)), len(data), 1) for table, data in named),
        )
        data = header.encode()
        self._pending.append(data)
        self._payloads.extend((seq, table, part) for table, part in named)
        self._head = sha256(b"klal/header/1\0" + self.space_id + data).digest()
        self.length += 1
        if len(self._pending) == SEAL_EVERY_COUNT:
            self.seal()

    def write_many(self, count: int, size: int = 40) -> None:
        for _ in range(count):
            self.write(row_bytes(self.log_id, self.length, size))
        self.seal()

    def run(self) -> Run:
        """Return what is not sealed yet, sealed."""
        seal = make_seal(self.key, self.space_id, self.log_id, self.length, self._head)
        start = self.length - len(self._pending)
        return Run(self.log_id, self.key.member_id, self.incarnation, start, tuple(self._pending), seal)

    def seal(self) -> None:
        """Seal what was written and store it in this author's own station."""
        if not self._pending:
            return
        self.own.take(self.run())
        self._pending.clear()
        for seq, table, data in self._payloads:
            for arrival in payload_arrivals(self.log_id, seq, table, data):
                self.own.take(arrival)
        self._payloads.clear()

    def receipt(self) -> Receipt:
        """Sign what this author's station holds, store the receipt there, and return it."""
        self.receipt_number += 1
        heads = tuple(
            HeldHead(log_id, log.payload_length, log.hashes[log.payload_length - 1])
            for log_id, log in sorted(self.own.held.items())
            if log.payload_length
        )
        statement = Statement(
            self.key.member_id, self.incarnation, self.receipt_number, 1_700_000_000_000, heads, (), NO_CERTIFICATE
        )
        receipt = make_receipt(self.key, self.space_id, statement)
        self.own.take(Receipts((receipt,)))
        return receipt


def slices_of(part: bytes) -> list[bytes]:
    return [part[i : i + SLICE_SIZE] for i in range(0, len(part), SLICE_SIZE)]


def part_leaves(part: bytes) -> list[bytes]:
    return [tree_leaf(piece) for piece in slices_of(part)]


def payload_arrivals(log_id: bytes, seq: int, table: bytes, data: bytes) -> Iterator[PartLeaves | PartSlice]:
    if len(data) > SLICE_SIZE:
        yield PartLeaves(log_id, seq, table, tuple(part_leaves(data)))
    for index, piece in enumerate(slices_of(data)):
        yield PartSlice(log_id, seq, table, index, piece)


def row_bytes(*seed: object, size: int = 0) -> bytes:
    """Return bytes that differ for different arguments; the last argument, or `size`, says how many."""
    want = size or int(seed[-1])  # type: ignore[call-overload]
    block = sha256(repr(seed).encode()).digest()
    return (block * (want // len(block) + 1))[:want]


def station_with(*authors: Author) -> MemoryStation:
    """Return a station that holds everything these authors wrote."""
    from klal.sync.drive import drive

    station = MemoryStation(authors[0].space_id)
    for author in authors:
        assert drive(author.own, station).is_finished
    return station
