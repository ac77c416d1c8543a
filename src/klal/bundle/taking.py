"""What a bundle would bring to a file, and bringing it: through the same door as everything else from elsewhere.

A bundle is walked, not loaded: no more than one item is in memory. What is held already is
passed over by its index, so taking a bundle again costs little, and that is how a cut-off
import goes on.

Whatever order a bundle has, all of it arrives: what must wait for something behind it, as a
member's log for its inviter's, is come back to as long as each walk brings something.

Law: a bundle gives what a session with the file it was made of would have given, of what it
contains; nothing else that is in it is stored or believed.

Source:
    docs/spec/bundle.md, rules BDL-5 to BDL-7. Protocol spec section 12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from klal.bundle.contents import Contents, Gives, decode_receipts
from klal.bundle.reading import Bundle, Found
from klal.bundle.reports import Absent, BundleStatus, Carried, Imported
from klal.errors import RefusedError
from klal.file_station import FileStation
from klal.items import (
    HEADERS,
    PAYLOADS,
    RECEIPTS,
    DamagedItem,
    Entry,
    PayloadsIndex,
    decode_headers,
    decode_payloads,
    leaves_in,
    slices_in,
)
from klal.model.header import header_hash
from klal.rules.merge import ChangeRef
from klal.store.history import STATE_LACKING, lacks_payload
from klal.store.knowledge import stretches
from klal.store.store import Store
from klal.sync.station import Arrival, PartLeaves, PartSlice, Receipts, Run

REFUSED_COUNT_MAX = 1000  # As in a session: what breaks more rules is not worth the wait.
# Settled this often, so that a power cut costs no more than this.
_SETTLE_SIZE = 32 * 1024 * 1024

OnProgress = Callable[[int, int], None]


def import_bundle(store: Store, bundle: Bundle, on_progress: OnProgress = lambda *_: None) -> Imported:
    """Take what a bundle holds and is not here.

    Raises:
        StoreError: The disk refuses; what had arrived whole is kept.
        TransportError: The bundle cannot be read any further; likewise.
    """
    station = FileStation(store)
    changes = _header_count(store)
    payload_count = 0
    while True:
        walk = _Walk(store, station, bundle, on_progress)
        before = station.roots()
        walk.run()
        payload_count += walk.payload_count
        absent = _absent(store, bundle.contents)
        after = station.roots()
        # What was refused or passed over may have waited for what came behind it.
        if not absent or (before.known, before.held) == (after.known, after.held):
            break
    return Imported(
        _header_count(store) - changes,
        payload_count,
        bundle.size,
        _unmet(store, bundle.contents),
        absent,
        tuple(bundle.damaged),
        tuple(walk.refused),
        after,
    )


def _header_count(store: Store) -> int:
    return sum(log.length - log.start for log in store.history.logs.values())


@dataclass(slots=True)
class _Walk:
    """One walk over a bundle, taking what is wanted."""

    store: Store
    station: FileStation
    bundle: Bundle
    on_progress: OnProgress
    payload_count: int = 0
    refused: list[str] = field(default_factory=list)
    lost_logs: set[bytes] = field(default_factory=set)
    lost_changes: set[tuple[bytes, int]] = field(default_factory=set)
    begun: set[tuple[bytes, int]] = field(default_factory=set)
    unsettled_size: int = 0

    def run(self) -> None:
        try:
            for found in self.bundle.items():
                self._take_item(found)
                self.on_progress(found.end, self.bundle.size)
                if len(self.refused) > REFUSED_COUNT_MAX:
                    break
        finally:
            # What arrived whole stays, whatever went wrong, also when somebody pressed Ctrl-C.
            self._settle()

    def _take_item(self, found: Found) -> None:
        head = found.head
        if head.space_id != self.bundle.space_id:
            self.bundle.note_damage(found, f"is of space {head.space_id.hex()[:8]}")
            return
        try:
            if head.kind == HEADERS:
                for run in decode_headers(head)[1]:
                    self._take_run(run)
            elif head.kind == PAYLOADS:
                self._take_payloads(found)
            elif head.kind == RECEIPTS:
                for receipt in decode_receipts(head):
                    self._take(Receipts((receipt,)))
        except RefusedError as error:
            self._refuse(error)
        except DamagedItem as reason:
            self.bundle.note_damage(found, str(reason))

    def _take_run(self, run: Run) -> None:
        seal = run.seal
        if run.log_id in self.lost_logs or self.store.intake.holds(run.log_id, seal.length, seal.head_hash):
            return
        if not self._take(run):
            self.lost_logs.add(run.log_id)
        self._note(sum(map(len, run.headers)))

    def _take_payloads(self, found: Found) -> None:
        log_id, index = found.head.log_id, decode_payloads(found.head)
        seqs = {entry.seq for entry in index.entries}
        body: bytes | None = None
        # Of somebody not known yet only the first change is wanted; once it has let them in, the others are.
        while wanted := self._wanted(log_id, seqs, index.entries[-1].seq, index.head):
            seqs -= wanted
            body = self.bundle.body(found) if body is None else body
            self._take_wanted(log_id, index, body, wanted)
        self._note(0 if body is None else len(body))

    def _take_wanted(self, log_id: bytes, index: PayloadsIndex, body: bytes, wanted: set[int]) -> None:
        offset = 0
        waiting: list[PartSlice] = []
        for entry in index.entries:
            if entry.seq in wanted:
                table_id = index.tables[entry.table]
                slices = [PartSlice(log_id, entry.seq, table_id, *each) for each in slices_in(entry, body, offset)]
                if entry.leaf_count:
                    self._take_piece(PartLeaves(log_id, entry.seq, table_id, leaves_in(entry, body, offset)))
                    for piece in slices:
                        self._take_piece(piece)
                else:
                    waiting += slices
            offset += entry.size
        if waiting:
            taken = self.station.take_whole(log_id, waiting)
            self.payload_count += len(taken)
            for piece in waiting:
                if piece.seq not in taken:
                    self._take_piece(piece)

    def _wanted(self, log_id: bytes, seqs: set[int], last: int, head_hash: bytes) -> set[int]:
        """Return which of these payloads are not here and are of headers that are."""
        if log_id in self.lost_logs:
            return set()
        gaps = self.store.intake.payload_gaps(log_id, last + 1, head_hash)
        return {seq for gap in gaps for seq in seqs if seq in gap and (log_id, seq) not in self.lost_changes}

    def _take_piece(self, piece: PartLeaves | PartSlice) -> None:
        place = piece.log_id, piece.seq
        if place in self.lost_changes:
            return
        if self._take(piece):
            self.begun.add(place)
        else:
            self.lost_changes.add(place)

    def _take(self, arrival: Arrival) -> bool:
        try:
            self.station.take(arrival)
        except RefusedError as error:
            self._refuse(error)
            return False
        return True

    def _refuse(self, error: RefusedError) -> None:
        self.refused.append(str(error))

    def _note(self, size: int) -> None:
        self.unsettled_size += size
        if self.unsettled_size >= _SETTLE_SIZE:
            self._settle()

    def _settle(self) -> None:
        self.unsettled_size = 0
        self.station.settle()
        # Of what came piece by piece, count what is whole by now.
        whole = {place for place in self.begun if not _is_wanted(self.store, *place)}
        self.payload_count += len(whole)
        self.begun -= whole


# -- what it says, beside what is here -----------------------------------------------------


def bundle_status(bundle: Bundle, store: Store | None) -> BundleStatus:
    """Return what a bundle would bring to a store, or without one what is in it. Nothing is taken, no payload read."""
    contents = bundle.contents
    survey = _Tally(bundle, store)
    survey.run()
    names: dict[bytes, str] = {}
    for line in contents.gives if contents is not None else ():
        names.setdefault(line.member_id, line.name)
    names.update(_names(store))
    members = [
        Carried(names.get(member_id, ""), member_id, *survey.of_member[member_id]) for member_id in survey.of_member
    ]
    return BundleStatus(
        "" if contents is None else contents.space_name,
        bundle.space_id,
        bundle.size,
        1 if contents is None else contents.part,
        1 if contents is None else contents.part_count,
        tuple(sorted(members, key=lambda each: (-each.bytes, each.member_name, each.member_id))),
        survey.receipt_count,
        _unmet(store, contents),
        tuple(bundle.damaged),
    )


@dataclass(slots=True)
class _Tally:
    """Counts what items bring that a store has not: member id -> [changes, payloads, bytes]."""

    bundle: Bundle
    store: Store | None
    of_member: dict[bytes, list[int]] = field(default_factory=dict)
    receipt_count: int = 0
    members: dict[bytes, bytes] = field(default_factory=dict)
    last: dict[bytes, int] = field(default_factory=dict)

    def run(self) -> None:
        contents = self.bundle.contents
        self.members = {line.log_id: line.member_id for line in contents.gives} if contents is not None else {}
        for found in self.bundle.items():
            head = found.head
            try:
                if head.kind == HEADERS:
                    for run in decode_headers(head)[1]:
                        self._count_run(run)
                elif head.kind == PAYLOADS:
                    self._count_payloads(head.log_id, decode_payloads(head).entries)
                elif head.kind == RECEIPTS:
                    self.receipt_count += len(decode_receipts(head))
            except RefusedError as error:
                self.bundle.note_damage(found, str(error))

    def _count_run(self, run: Run) -> None:
        self.members[run.log_id] = run.member_id
        store = self.store
        new = list(run.headers)
        if store is not None:
            if store.intake.holds(run.log_id, run.seal.length, run.seal.head_hash):
                return
            hashes = [header_hash(store.space_id, data) for data in new]
            new = [
                data
                for seq, data in enumerate(run.headers, run.start)
                if store.history.head_at(run.log_id, seq + 1, hashes[seq - run.start]) is None
            ]
        self._count(run.log_id, len(new), 0, sum(map(len, new)))

    def _count_payloads(self, log_id: bytes, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if self.store is not None and not _is_wanted(self.store, log_id, entry.seq):
                continue
            # Several parts of one payload, or several items, are one payload.
            self._count(log_id, 0, int(self.last.get(log_id) != entry.seq), entry.size)
            self.last[log_id] = entry.seq

    def _count(self, log_id: bytes, changes: int, payloads: int, size: int) -> None:
        if changes or payloads or size:
            counts = self.of_member.setdefault(self.members.get(log_id, b""), [0, 0, 0])
            for at, count in enumerate((changes, payloads, size)):
                counts[at] += count


def _is_wanted(store: Store, log_id: bytes, seq: int) -> bool:
    """True unless the payload of a change is here, on whatever branch, or was put down by compaction."""
    history = store.history
    refs = [ChangeRef(log.log, seq) for log in history.strands_of(log_id) if log.start <= seq < log.length]
    states = [(history.read(ref).state, seq in history.wanted.get(ref.log, ())) for ref in refs]
    return all(state == STATE_LACKING or (lacks_payload(state) and is_needed) for state, is_needed in states)


def _names(store: Store | None) -> dict[bytes, str]:
    if store is None:
        return {}
    return dict(store.connection.execute("SELECT member_id, name FROM klal_member").fetchall())


def _unmet(store: Store | None, contents: Contents | None) -> tuple[Absent, ...]:
    """Return what a bundle needs and is not here."""
    if contents is None:
        return ()
    names = _names(store)
    found = []
    for line in contents.needs:
        if store is not None and store.history.head_at(line.log_id, line.length, line.head_hash) is not None:
            continue
        here, member_id = 0, b""
        for log in store.history.strands_of(line.log_id) if store is not None else ():
            here, member_id = max(here, log.length), log.member_id
        # Where a branch of that log is as long, what is not here is another branch.
        seqs = range(here if here < line.length else 0, line.length)
        found.append(Absent(names.get(member_id, line.name), line.log_id, "headers", (seqs,)))
    return tuple(sorted(found, key=lambda each: (each.member_name, each.log_id, each.seqs[0].start)))


def _absent(store: Store, contents: Contents | None) -> tuple[Absent, ...]:
    """Return what a bundle says it contains and is not here."""
    names = _names(store)
    found = []
    for line in contents.gives if contents is not None else ():
        headers, payloads = _lacking(store, line)
        name = names.get(line.member_id, line.name)
        if headers:
            found.append(Absent(name, line.log_id, "headers", (headers,)))
        if payloads:
            found.append(Absent(name, line.log_id, "payloads", tuple(payloads)))
    return tuple(sorted(found, key=lambda each: (each.member_name, each.log_id, each.what, each.seqs[0].start)))


def _lacking(store: Store, line: Gives) -> tuple[range, list[range]]:
    """Return which headers of a line are not here, and which payloads of it are not: of absent headers, all."""
    history = store.history
    spans = [range(*span) for span in line.payloads]
    last = history.head_at(line.log_id, line.length, line.head_hash)
    if last is not None:
        gaps = store.intake.payload_gaps(line.log_id, line.length, line.head_hash)
        return range(0), [both for gap in gaps for span in spans if (both := _common(gap, span))]
    here = max((log.length for log in history.strands_of(line.log_id)), default=0)
    headers = range(max(line.start, here) if here < line.length else line.start, line.length)
    below = (seq for span in spans for seq in span if seq < headers.start and _is_wanted(store, line.log_id, seq))
    beyond = [range(max(span.start, headers.start), span.stop) for span in spans if span.stop > headers.start]
    return headers, [*stretches(below), *beyond]


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))
