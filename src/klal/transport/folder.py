"""A station over a shared folder: a stick, a network drive, a synced directory.

    <folder>/
      klal-3F2A..  16 hex digits of the space id     other spaces and other files may lie beside it
        9C01..     16 hex digits of a log id
          00000000.H4B   headers and seals, from number 0
          00000000.P91   payload slices, from number 0
          000003E8.H07   more headers, written later or by somebody else
          9C01AB3E.D55   names of items that a reader found damaged
          RECEIPTS/
            0000000C.R2F receipt number 12 of this log; the greatest counts

The folder only grows: an item is never changed or removed, so any number of writers need
no lock, and whatever copies folders may copy this one. What an item says counts only
after it was checked: headers by their links and seals, payloads by their hashes, receipts
by their signatures. A file that does not check out is listed in `damaged`, and its range
counts as absent, so that the next replica that has it writes it again.

The one choice a reader would question: a payload's body is hashed when it is read and not
when the folder is indexed, because a stick of 10 GB would otherwise be read whole at every
sync. Whoever finds such a body damaged leaves a note, and from then on it counts for nobody.

Law: two replicas that sync with a folder in any order, any number of times, end with what
they would have had from a direct session.

Source:
    docs/spec/folder.md, rules FLD-1 to FLD-8.
"""

# Paths stay text here: a folder may hold a hundred thousand of them.
# ruff: noqa: PTH102, PTH112, PTH116, PTH118, PTH119, PTH120

from __future__ import annotations

import errno
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from klal.disk import sync_folder
from klal.errors import RefusedError, TransportError
from klal.items import (
    DAMAGE,
    HEADERS,
    ITEM_SIZE_AIM,
    ITEM_SIZE_MAX,
    LETTERS,
    PAYLOADS,
    RECEIPT,
    DamagedItem,
    DamageIndex,
    HeadersIndex,
    ItemHead,
    PayloadsDraft,
    PayloadsIndex,
    ReceiptIndex,
    RunLine,
    decode_headers,
    decode_payloads,
    encode_item,
)
from klal.model.codec import HASH_SIZE, SLICE_SIZE, pack, unpack
from klal.model.frontier import Frontier, Head
from klal.model.header import Part
from klal.model.receipt import Receipt
from klal.model.seal import Seal
from klal.rules.admit import (
    Admission,
    Link,
    admit_run,
    check_chain,
    check_leaves,
    check_slice,
    slice_count_of,
    slice_size_of,
)
from klal.rules.branches import Branch, Strand, branches_of
from klal.rules.merge import ChangeRef
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
from klal.transport.items import read_head, read_whole, write_item

NAME_COUNT_MAX = 1 << 20  # Names looked at in one directory; FAT32 holds 65,534.
RECEIPTS_FOLDER = "RECEIPTS"
_PENDING_SIZE_MAX = 4 * ITEM_SIZE_AIM
_CACHED_ITEM_COUNT = 4

_LOG_NAME = re.compile(r"[0-9A-Fa-f]{16}")
_ITEM_NAME = re.compile(r"[0-9A-Fa-f]{8}\.[HPD][0-9A-Fa-f]{2}", re.IGNORECASE)
_RECEIPT_NAME = re.compile(r"[0-9A-Fa-f]{8}\.R[0-9A-Fa-f]{2}", re.IGNORECASE)

_NOTED_NAME = re.compile(r"[0-9A-F]{8}\.P[0-9A-F]{2}")
_RECEIPTS_NAME = re.compile(RECEIPTS_FOLDER, re.IGNORECASE)

_Stamp = tuple[int, int]
_Loader = Callable[[str, ItemHead], None]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where slices of one part lie: in an item, or (path "") still in memory."""

    path: str
    table_id: bytes
    first: int
    count: int
    leaf_count: int
    offset: int
    data: bytes = b""


@dataclass(slots=True)
class _Log:
    """One log as the folder holds it, what is not written yet included; of a forked log, one strand.

    Shape:
        log_id: the log that its headers were signed for.
        index: its place among the log's strands; `below` is the one that its first header goes on from, at `start`.
        name: what the branch that ends with it is called, once it has been stated.
        data, hashes, parts: per header, from number `start` on.
        places: seq -> where its slices lie; a seq may lie in several items.
        gaps: numbers whose payload is not whole.
        waiting: checked runs whose predecessor has not been seen.
    """

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    rank: int
    index: int = 0
    below: _Log | None = None
    start: int = 0
    name: bytes = b""
    data: list[bytes] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    parts: list[tuple[Part, ...]] = field(default_factory=list)
    seals: dict[int, Seal] = field(default_factory=dict)
    places: dict[int, list[_Place]] = field(default_factory=dict)
    gaps: set[int] = field(default_factory=set)
    leaves: dict[tuple[int, bytes], tuple[bytes, ...]] = field(default_factory=dict)
    new_runs: list[Run] = field(default_factory=list)
    new_slices: list[PartSlice] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.start + len(self.hashes)

    @property
    def payload_length(self) -> int:
        """The prefix whose payloads are whole, with what lies below."""
        length = min(self.gaps, default=self.length)
        if self.below is None:
            return length
        below = self.below.payload_length
        return below if below < self.start else length

    def hash_at(self, seq: int) -> bytes:
        return self.hashes[seq - self.start]

    def part_of(self, seq: int, table_id: bytes) -> Part | None:
        return next((part for part in self.parts_at(seq) if part.table_id == table_id), None)

    def parts_at(self, seq: int) -> tuple[Part, ...]:
        return self.parts[seq - self.start] if self.start <= seq < self.length else ()

    def path(self, stop: int) -> list[tuple[_Log, int, int]]:
        """Return where the first `stop` changes lie: (strand, start, stop), in order."""
        found: list[tuple[_Log, int, int]] = []
        log: _Log | None = self
        while log is not None:
            if stop > log.start:
                found.append((log, log.start, stop))
            stop, log = min(stop, log.start), log.below
        return found[::-1]

    def slices_here(self, seq: int, part: Part) -> set[int]:
        here: set[int] = set()
        for place in self.places.get(seq, ()):
            if place.table_id == part.table_id:
                here.update(range(place.first, min(place.first + place.count, slice_count_of(part))))
        return here

    def weigh(self, seq: int) -> None:
        """Note whether the payload of `seq` is whole."""
        if not self.start <= seq < self.length:
            return
        if all(len(self.slices_here(seq, part)) == slice_count_of(part) for part in self.parts_at(seq)):
            self.gaps.discard(seq)
        else:
            self.gaps.add(seq)


class FolderStation:
    """What one space has in a shared folder.

    Args:
        path: The folder. It must exist: a missing stick is not made anew.
        space_id: The space to look for; others in the same folder are left alone.
        read_only: Never write, and be sent nothing.

    Nothing is read before the first question, and the folder is listed anew at each one
    that opens or ends a turn, so what others add meanwhile is seen.
    """

    def __init__(self, path: str | os.PathLike[str], space_id: bytes, *, read_only: bool = False) -> None:
        self.path = os.fspath(path)
        self._space_id = space_id
        self._takes = not read_only
        self._home = os.path.join(self.path, f"klal-{space_id.hex()[:16]}")
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._forget()

    def _forget(self) -> None:
        """Go back to knowing nothing, so that the folder alone says what is there."""
        self._strands: dict[bytes, list[_Log]] = {}
        self._named: dict[bytes, _Log] = {}
        self._newest: dict[bytes, Receipt] = {}
        self._new_receipts: dict[bytes, Receipt] = {}
        self._damaged: dict[str, str] = {}
        self._noted: set[str] = set()
        self._to_note: dict[str, bytes] = {}
        self._good: dict[str, _Stamp] = {}
        self._bad: dict[str, _Stamp] = {}
        self._pending_size = 0
        self._cache.clear()

    @property
    def space_id(self) -> bytes:
        return self._space_id

    @property
    def takes(self) -> bool:
        return self._takes

    @property
    def damaged(self) -> list[str]:
        """Files that should be items and do not count, each with the reason, in order of their paths."""
        return [f"{path}: {reason}" for path, reason in sorted(self._damaged.items())]

    # Questions.

    def roots(self) -> Roots:
        self._refresh()
        known: dict[bytes, Head] = {}
        held: dict[bytes, Head] = {}
        for log_id, strands in self._strands.items():
            known.update(_heads(log_id, strands, {log.index: log.length for log in strands}))
            whole = {log.index: length for log in strands if (length := log.payload_length) > log.start}
            held.update(_heads(log_id, strands, whole))
        return roots_of(Frontier(known), Frontier(held), self._newest)

    def logs(self) -> list[LogState]:
        self._refresh()
        for log_id, strands in self._strands.items():
            self._named[log_id] = strands[0]
            for branch in _branches(log_id, strands, {log.index: log.length for log in strands}):
                # Where a fork has been found, what has no end of its own lies below the others.
                log = strands[branch.last.log]
                if branch.last.seq == log.length - 1:
                    log.name = branch.log_id
                    self._named[log.name] = log
        return [
            LogState(log.name, log.member_id, log.incarnation, log.length, log.hashes[-1], log.payload_length)
            for log in self._in_order()
        ]

    def holds(self, log: LogState) -> bool:
        return self._find(log) is not None

    def _find(self, log: LogState) -> _Log | None:
        """Return the strand that holds the head of this prefix."""
        for strand in self._strands.get(log.origin(self._space_id), ()):
            if strand.start < log.length <= strand.length and strand.hash_at(log.length - 1) == log.head_hash:
                return strand
        return None

    def runs(self, log_id: bytes, start: int, stop: int) -> Iterator[Run]:
        waiting: list[bytes] = []  # Headers of a branch may lie below it, and their seal in it.
        for log, first, end in self._named[log_id].path(stop):
            at = max(start, first)
            for length in sorted(log.seals):
                if at < length <= end:
                    headers = (*waiting, *log.data[at - first : length - first])
                    begin = length - len(headers)
                    yield Run(log.log_id, log.member_id, log.incarnation, begin, headers, log.seals[length])
                    waiting, at = [], length
            waiting += log.data[at - first : end - first]

    def payload_gaps(self, log: LogState) -> list[range]:
        strand = self._find(log)
        gaps: list[range] = []
        for each, start, stop in () if strand is None else strand.path(log.length):
            for seq in sorted(seq for seq in each.gaps if start <= seq < stop):
                if gaps and gaps[-1].stop == seq:
                    gaps[-1] = range(gaps[-1].start, seq + 1)
                else:
                    gaps.append(range(seq, seq + 1))
        return gaps

    def parts_begun(self, log: LogState, start: int, stop: int) -> list[PartBegun]:
        strand = self._find(log)
        begun: list[PartBegun] = []
        for each, first, end in () if strand is None else strand.path(log.length):
            inside = range(max(start, first), min(stop, end))
            for seq in sorted(seq for seq in each.places.keys() & each.gaps if seq in inside):
                for part in each.parts_at(seq):
                    here = each.slices_here(seq, part)
                    count = next(index for index in range(len(here) + 1) if index not in here)
                    if count:
                        begun.append(PartBegun(seq, part.table_id, count))
        return begun

    def payloads(self, log_id: bytes, start: int, stop: int) -> Iterator[PartLeaves | PartSlice]:
        for log, first, end in self._named[log_id].path(stop):
            for seq in range(max(start, first), min(end, log.length)):
                if seq in log.places:
                    for part in log.parts_at(seq):
                        yield from self._part(log, seq, part)

    def receipts(self) -> list[Receipt]:
        self._refresh()
        return [self._newest[log_id] for log_id in sorted(self._newest)]

    def _in_order(self) -> list[_Log]:
        # By rank an inviter comes before those it invited; ties are of logs that know nothing of each other.
        return sorted(self._all(), key=lambda log: (log.rank, log.log_id, log.index))

    def _all(self) -> list[_Log]:
        return [log for strands in self._strands.values() for log in strands]

    # Taking.

    def take(self, arrival: Arrival) -> None:
        if not self._takes:
            raise TransportError(f"folder {self.path} is open for reading only")
        match arrival:
            case Run():
                self._take_run(arrival)
            case PartLeaves():
                self._take_leaves(arrival)
            case PartSlice():
                self._take_slice(arrival)
            case Receipts():
                self._take_receipts(arrival)
        if self._pending_size >= _PENDING_SIZE_MAX:
            self._write_pending()

    def take_whole(self, log_id: bytes, slices: Sequence[PartSlice]) -> set[int]:  # noqa: ARG002 - the port's form
        # What is taken is kept in memory until a file of it is full: one by one costs the same.
        return set()

    def settle(self) -> None:
        self._write_pending()

    def _take_run(self, run: Run) -> None:
        links = check_chain(self._space_id, run)
        rank = 1 + max((log.rank for log in self._all()), default=0)
        log, new = self._fit(run, links, rank)
        if log is not None and new:
            start = new[0].header.seq
            data = tuple(link.data for link in new)
            log.new_runs.append(Run(run.log_id, run.member_id, run.incarnation, start, data, run.seal))
            self._pending_size += sum(map(len, data))

    def _fit(self, run: Run, links: list[Link], rank: int) -> tuple[_Log | None, list[Link]]:
        """Put a checked run where it belongs; return its strand, if what lies before it is here, and what was new."""
        strands = self._strands.get(run.log_id, [])
        verdict, place, new, is_fork = admit_run(_Shelf(strands), links)
        if verdict is Admission.WAIT:
            return None, []
        if place is None or is_fork:
            below, start = (None, 0) if place is None else (strands[place.log], place.seq + 1)
            log = _Log(run.log_id, run.member_id, run.incarnation, rank, len(strands), below, start)
            self._strands.setdefault(run.log_id, strands).append(log)
        else:
            log = strands[place.log]
        for link in new:
            log.data.append(link.data)
            log.hashes.append(link.hash)
            log.parts.append(link.header.parts)
            log.weigh(link.header.seq)
        log.seals[run.seal.length] = run.seal
        return log, new

    def _take_leaves(self, arrival: PartLeaves) -> None:
        def keep(log: _Log, part: Part) -> None:
            check_leaves(part, arrival.leaves)
            log.leaves[arrival.seq, arrival.table_id] = arrival.leaves

        self._keep(arrival, keep)

    def _take_slice(self, arrival: PartSlice) -> None:
        def keep(log: _Log, part: Part) -> None:
            leaves = self._leaves(log, arrival.seq, part) if slice_count_of(part) > 1 else None
            check_slice(part, leaves, arrival.index, arrival.data)
            if arrival.index in log.slices_here(arrival.seq, part):
                return
            place = _Place("", arrival.table_id, arrival.index, 1, 0, 0, arrival.data)
            log.places.setdefault(arrival.seq, []).append(place)
            log.new_slices.append(arrival)
            log.weigh(arrival.seq)
            self._pending_size += len(arrival.data)

        self._keep(arrival, keep)

    def _keep(self, arrival: PartLeaves | PartSlice, keep: Callable[[_Log, Part], None]) -> None:
        """Keep a piece for each header that it fits: in a forked log several bear one number."""
        refusals: list[RefusedError] = []
        is_kept = False
        for log in self._strands.get(arrival.log_id, ()):
            part = log.part_of(arrival.seq, arrival.table_id)
            if part is None:
                continue
            try:
                keep(log, part)
            except RefusedError as error:
                refusals.append(error)
            else:
                is_kept = True
        if is_kept:
            return
        if refusals:
            raise refusals[0]
        raise RefusedError(
            f"no header of {arrival.log_id.hex()[:8]}:{arrival.seq} names table {arrival.table_id.hex()[:8]}",
            rule="PAY-6",
        )

    def _take_receipts(self, arrival: Receipts) -> None:
        for receipt in arrival.receipts:
            receipt.check(self._space_id)
        for receipt in arrival.receipts:
            log_id = receipt.log_id(self._space_id)
            newest = self._newest.get(log_id)
            # A receipt that repeats what an older one says, with a later clock, is not worth
            # a file: a folder that is synced daily would grow by one a day for every member.
            if log_id in self._strands and (newest is None or _says_more(receipt, newest)):
                self._newest[log_id] = self._new_receipts[log_id] = receipt

    # Reading the folder.

    def _refresh(self) -> None:
        """Look for items that came since, unless something taken still waits to be written."""
        if self._pending_size or self._new_receipts:
            return
        if self._to_note and self._takes:
            # Nobody gives a station that is only read a moment to settle. A note helps
            # others and may fail here.
            with suppress(TransportError):
                self._write_pending()
        found = self._list()
        # Items are never changed or removed; where somebody did, start over rather than guess.
        if any(found.get(path) != stamp for path, stamp in self._good.items()):
            self._forget()
        for path in [path for path in self._damaged if path not in found and path in self._bad]:
            del self._damaged[path], self._bad[path]
        new = [path for path, stamp in found.items() if path not in self._good and self._bad.get(path) != stamp]
        heads = self._read_heads(new, found)
        for path, head in heads:
            if head.kind == DAMAGE:
                self._load(path, head, self._load_note)
        runs: list[tuple[str, int, Run]] = []
        for path, head in heads:
            if head.kind == HEADERS:
                self._load(path, head, lambda path, head: runs.extend(_runs_of(path, head)))
        self._admit(runs)
        for path, head in heads:
            if head.kind == PAYLOADS:
                self._load(path, head, self._load_payloads)
            elif head.kind == RECEIPT:
                self._load(path, head, self._load_receipt)

    def _list(self) -> dict[str, _Stamp]:
        """Return path -> (size, mtime_ns) of every file that is named like an item, in order."""
        found: dict[str, _Stamp] = {}
        with self._wire("be listed"):
            self._check_place()
            for folder in _folders(self._home, _LOG_NAME):
                # A closed or vanished sub-folder is that log's affair, and not the end of the others.
                try:
                    found.update(_files(folder, _ITEM_NAME))
                    for inner in _folders(folder, _RECEIPTS_NAME):
                        found.update(_files(inner, _RECEIPT_NAME))
                except (PermissionError, FileNotFoundError) as error:
                    self._damaged[folder] = f"cannot be listed: {error.strerror}"
                else:
                    self._damaged.pop(folder, None)
        return dict(sorted(found.items()))

    def _check_place(self) -> None:
        if not stat.S_ISDIR(os.stat(self.path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", self.path)
        # An unplugged stick often leaves its mount point behind, empty and writable.
        if self._good and not os.path.isdir(self._home):
            raise FileNotFoundError(errno.ENOENT, "what was there is gone", self._home)

    def _read_heads(self, paths: list[str], found: dict[str, _Stamp]) -> list[tuple[str, ItemHead]]:
        heads: list[tuple[str, ItemHead]] = []
        for path in paths:
            self._damaged.pop(path, None)
            self._bad.pop(path, None)
            try:
                with self._wire("be read"):
                    head = read_head(path)
                if head.space_id != self._space_id:
                    raise DamagedItem(f"is of space {head.space_id.hex()[:8]}")
                if not _belongs(path, head):
                    raise DamagedItem("lies under a name that is not its own")
            except DamagedItem as error:
                self._damaged[path], self._bad[path] = str(error), found[path]
                continue
            self._good[path] = found[path]
            heads.append((path, head))
        return heads

    def _load(self, path: str, head: ItemHead, load: _Loader) -> None:
        try:
            load(path, head)
        except (DamagedItem, RefusedError) as error:
            self._spoil(path, str(error))

    def _spoil(self, path: str, reason: str) -> None:
        """Count this item for nothing from here on."""
        stamp = self._good.pop(path, None)
        if stamp is not None:
            self._bad[path] = stamp
        self._damaged[path] = reason
        self._cache.pop(path, None)

    def _load_note(self, path: str, head: ItemHead) -> None:
        note = unpack(head.index, DamageIndex, "note", ITEM_SIZE_MAX)
        folder = os.path.dirname(path)
        self._noted.update(os.path.join(folder, name).upper() for name in note.names if _NOTED_NAME.fullmatch(name))
        # An item loaded before its note came is found here too.
        for known in list(self._good):
            if known.upper() in self._noted:
                self._drop(known, "was found damaged by a reader")

    def _admit(self, runs: list[tuple[str, int, Run]]) -> None:
        """Put runs of headers where they belong; what has no predecessor here is absent."""
        for path, rank, run in sorted(runs, key=lambda item: (item[2].log_id, item[2].start, item[0])):
            try:
                links = check_chain(self._space_id, run)
                log, _ = self._fit(run, links, rank)
            except RefusedError as error:
                self._spoil(path, str(error))
                continue
            if log is None:
                # Looked at again with every refresh, until what lies before it has come.
                self._good.pop(path, None)
                continue
            log.rank = min(log.rank, rank)

    def _load_payloads(self, path: str, head: ItemHead) -> None:
        if path.upper() in self._noted:
            raise DamagedItem("was found damaged by a reader")
        index = decode_payloads(head)
        last = max(entry.seq for entry in index.entries)
        strands = self._strands.get(head.log_id, ())
        found = [log for log in strands if log.start <= last < log.length and log.hash_at(last) == index.head]
        if not found:
            # Its headers may come later: look again then.
            self._good.pop(path, None)
            return
        path_below = found[0].path(last + 1)
        offset = head.body_start
        for entry in index.entries:
            table_id = index.tables[entry.table]
            place = _Place(path, table_id, entry.first, entry.count, entry.leaf_count, offset)
            offset += entry.size
            log = next(log for log, start, stop in path_below if start <= entry.seq < stop)
            log.places.setdefault(entry.seq, []).append(place)
            log.weigh(entry.seq)

    def _load_receipt(self, path: str, head: ItemHead) -> None:
        line = unpack(head.index, ReceiptIndex, "item of a receipt", ITEM_SIZE_MAX)
        receipt = Receipt.decode(line.body, line.signature)
        receipt.check(self._space_id)
        number = int(os.path.basename(path)[:8], 16)
        if receipt.log_id(self._space_id) != head.log_id or receipt.statement.number & 0xFFFFFFFF != number:
            raise DamagedItem("holds a receipt of another log or number")
        newest = self._newest.get(head.log_id)
        if head.log_id in self._strands and (newest is None or newest.statement.number < receipt.statement.number):
            self._newest[head.log_id] = receipt

    # Payload bytes.

    def _part(self, log: _Log, seq: int, part: Part) -> Iterator[PartLeaves | PartSlice]:
        leaves: tuple[bytes, ...] | None = None
        count = slice_count_of(part)
        if count > 1:
            leaves = self._leaves(log, seq, part)
            if leaves is None:
                return
            yield PartLeaves(log.log_id, seq, part.table_id, leaves)
        for index in sorted(log.slices_here(seq, part)):
            data = self._slice(log, seq, part, leaves, index)
            if data is not None:
                yield PartSlice(log.log_id, seq, part.table_id, index, data)

    def _leaves(self, log: _Log, seq: int, part: Part) -> tuple[bytes, ...] | None:
        known = log.leaves.get((seq, part.table_id))
        if known is not None:
            return known
        for place in list(log.places.get(seq, ())):
            if place.table_id != part.table_id or not place.leaf_count or not place.path:
                continue
            data = self._item(place.path)
            if data is None:
                continue
            end = place.offset + place.leaf_count * HASH_SIZE
            leaves = tuple(data[i : i + HASH_SIZE] for i in range(place.offset, end, HASH_SIZE))
            try:
                check_leaves(part, leaves)
            except RefusedError as error:
                self._find_damaged(place.path, str(error))
                continue
            log.leaves[seq, part.table_id] = leaves
            return leaves
        return None

    def _slice(self, log: _Log, seq: int, part: Part, leaves: tuple[bytes, ...] | None, index: int) -> bytes | None:
        for place in list(log.places.get(seq, ())):
            if place.table_id != part.table_id or not place.first <= index < place.first + place.count:
                continue
            if not place.path:
                return place.data
            item = self._item(place.path)
            if item is None:
                continue
            start = place.offset + place.leaf_count * HASH_SIZE + (index - place.first) * SLICE_SIZE
            data = item[start : start + slice_size_of(part, index)]
            try:
                check_slice(part, leaves, index, data)
            except RefusedError as error:
                self._find_damaged(place.path, str(error))
                continue
            return data
        return None

    def _item(self, path: str) -> bytes | None:
        """Return a whole checked item, or None (and a note to write) if it is damaged."""
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        try:
            with self._wire("be read"):
                data = read_whole(path)
        except DamagedItem as error:
            self._find_damaged(path, str(error))
            return None
        self._cache[path] = data
        if len(self._cache) > _CACHED_ITEM_COUNT:
            self._cache.popitem(last=False)
        return data

    def _find_damaged(self, path: str, reason: str) -> None:
        for log in self._all():
            if any(place.path == path for places in log.places.values() for place in places) and os.path.lexists(path):
                self._to_note[path] = log.log_id
        self._drop(path, reason)

    def _drop(self, path: str, reason: str) -> None:
        """Forget what an item brought, and count it for nothing."""
        self._spoil(path, reason)
        for log in self._all():
            for seq, places in list(log.places.items()):
                left = [place for place in places if place.path != path]
                if len(left) != len(places):
                    log.places[seq] = left
                    if not left:
                        del log.places[seq]
                    log.weigh(seq)

    # Writing.

    def _write_pending(self) -> None:
        if not (self._pending_size or self._new_receipts or (self._to_note and self._takes)):
            return
        try:
            with self._wire("be written"):
                self._check_place()
                for log in self._in_order():
                    self._write_headers(log)
                    self._write_payloads(log)
                for log_id, receipt in self._new_receipts.items():
                    self._write_receipt(log_id, receipt)
                self._write_notes()
        except (TransportError, DamagedItem):
            # Whatever was written is found again; whatever was not must not count.
            self._forget()
            raise
        for log in self._all():
            # They lie in the items now.
            log.leaves.clear()
        self._new_receipts.clear()
        self._pending_size = 0

    def _write(self, folder: str, number: int, kind: int, log_id: bytes, index: bytes, body: bytes = b"") -> str:
        data = encode_item(kind, self._space_id, log_id, index, body)
        prefix = os.path.join(folder, "").upper()
        avoid = frozenset(path[len(prefix) :] for path in self._noted if path.startswith(prefix))
        name = write_item(folder, number, kind, data, avoid)
        path = os.path.join(folder, name)
        info = os.lstat(path)
        self._good[path] = (info.st_size, info.st_mtime_ns)
        return path

    def _log_folder(self, log_id: bytes, *inner: str) -> str:
        folder = self.path
        for name in (os.path.basename(self._home), log_id.hex()[:16], *inner):
            parent, folder = folder, os.path.join(folder, name)
            try:
                os.mkdir(folder)
            except FileExistsError:
                # A link here would send our writes somewhere else.
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "not a directory", folder) from None
            else:
                sync_folder(parent)
        return folder

    def _write_headers(self, log: _Log) -> None:
        while log.new_runs:
            runs: list[Run] = []
            size = 0
            while log.new_runs and (not runs or size < ITEM_SIZE_AIM):
                runs.append(log.new_runs.pop(0))
                size += sum(map(len, runs[-1].headers))
            lines = tuple(RunLine(run.start, run.headers, run.seal.signature) for run in runs)
            index = HeadersIndex(log.member_id, log.incarnation, log.rank, lines)
            self._write(self._log_folder(log.log_id), runs[0].start, HEADERS, log.log_id, pack(index))

    def _write_payloads(self, log: _Log) -> None:
        waiting = sorted(log.new_slices, key=lambda piece: (piece.seq, piece.table_id, piece.index))
        log.new_slices = []
        while waiting:
            draft = PayloadsDraft(ITEM_SIZE_AIM)
            taken = 0
            while taken < len(waiting):
                piece = waiting[taken]
                if not draft.add(piece, log.leaves.get((piece.seq, piece.table_id), ())):
                    break
                taken += 1
            index, body = draft.finish(log.hash_at(waiting[taken - 1].seq))
            path = self._write(self._log_folder(log.log_id), waiting[0].seq, PAYLOADS, log.log_id, pack(index), body)
            self._place(log, path, index, body)
            del waiting[:taken]

    def _place(self, log: _Log, path: str, index: PayloadsIndex, body: bytes) -> None:
        """Turn places in memory into places in the item that was just written."""
        offset = self._good[path][0] - HASH_SIZE - len(body)
        for entry in index.entries:
            table_id = index.tables[entry.table]
            inside = range(entry.first, entry.first + entry.count)
            kept = [
                place
                for place in log.places[entry.seq]
                if place.path or place.table_id != table_id or place.first not in inside
            ]
            kept.append(_Place(path, table_id, entry.first, entry.count, entry.leaf_count, offset))
            log.places[entry.seq] = kept
            offset += entry.size

    def _write_receipt(self, log_id: bytes, receipt: Receipt) -> None:
        folder = self._log_folder(log_id, RECEIPTS_FOLDER)
        index = pack(ReceiptIndex(receipt.body, receipt.signature))
        self._write(folder, receipt.statement.number, RECEIPT, log_id, index)

    def _write_notes(self) -> None:
        by_log: dict[bytes, list[str]] = {}
        for path, log_id in self._to_note.items():
            by_log.setdefault(log_id, []).append(os.path.basename(path).upper())
        for log_id, names in by_log.items():
            folder = self._log_folder(log_id)
            number = int.from_bytes(log_id[:4], "big")
            self._write(folder, number, DAMAGE, log_id, pack(DamageIndex(tuple(sorted(names)))))
            self._noted.update(os.path.join(folder, name).upper() for name in names)
        self._to_note.clear()

    @contextmanager
    def _wire(self, what: str) -> Iterator[None]:
        """Turn what the system says into one sentence that names the path and what failed."""
        try:
            yield
        except OSError as error:
            path = error.filename if isinstance(error.filename, str) else self.path
            # One file that went away or may not be read is that file's affair, unless the folder went with it.
            if error.errno in _FILE_ERRORS and what == "be read" and path != self.path and os.path.isdir(self.path):
                raise DamagedItem(f"cannot be read: {error.strerror}") from error
            raise TransportError(f"{path} cannot {what}: {error.strerror or error}") from error


_FILE_ERRORS = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOTDIR}


class _Shelf:
    """The strands of one log, as `admit_run` asks for them."""

    def __init__(self, strands: Sequence[_Log]) -> None:
        self._strands = strands

    def find(self, seq: int, hashed: bytes) -> ChangeRef | None:
        for log in self._strands:
            if log.start <= seq < log.length and log.hash_at(seq) == hashed:
                return ChangeRef(log.index, seq)
        return None

    def after(self, place: ChangeRef | None) -> list[tuple[bytes, ChangeRef]]:
        below, seq = (None, 0) if place is None else (self._strands[place.log], place.seq + 1)
        logs = [log for log in self._strands if log.below is below and log.start == seq]
        if below is not None and below.length > seq:
            logs.append(below)
        return [(log.hash_at(seq), ChangeRef(log.index, seq)) for log in logs]

    def seals_below(self, place: ChangeRef | None) -> int:
        path = [] if place is None else self._strands[place.log].path(place.seq + 1)
        return max((length for log, _, stop in path for length in log.seals if length <= stop), default=0)


def _branches(log_id: bytes, strands: Sequence[_Log], lengths: dict[int, int]) -> list[Branch]:
    listed = [Strand(log.index, None if log.below is None else log.below.index, log.start) for log in strands]
    return branches_of(log_id, listed, lengths, lambda ref: strands[ref.log].hash_at(ref.seq))


def _heads(log_id: bytes, strands: Sequence[_Log], lengths: dict[int, int]) -> dict[bytes, Head]:
    """Return what a frontier names of one log (FRN-4)."""
    branches = _branches(log_id, strands, lengths)
    return {
        branch.log_id: Head(branch.length, strands[branch.last.log].hash_at(branch.last.seq)) for branch in branches
    }


def _says_more(receipt: Receipt, newest: Receipt) -> bool:
    new, old = receipt.statement, newest.statement
    return new.number > old.number and new.content != old.content


def _runs_of(path: str, head: ItemHead) -> list[tuple[str, int, Run]]:
    rank, runs = decode_headers(head)
    return [(path, rank, run) for run in runs]


def _belongs(path: str, head: ItemHead) -> bool:
    folder, name = os.path.split(path)
    if head.kind == RECEIPT:
        folder = os.path.dirname(folder)
    return os.path.basename(folder).lower() == head.log_id.hex()[:16] and name[9].upper() == LETTERS[head.kind]


def _folders(folder: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the paths of real directories with such names, links left out; none if `folder` is none."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return []
    except FileNotFoundError:
        return []
    with os.scandir(folder) as entries:
        return [
            entry.path
            for entry in islice(entries, NAME_COUNT_MAX)
            if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]


def _files(folder: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, _Stamp]]:
    """Yield path and (size, mtime_ns) of plain files with such names, links and empty files left out."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, NAME_COUNT_MAX):
            if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                info = entry.stat(follow_symlinks=False)
                # An empty file is a name that somebody has reserved and not filled yet.
                if info.st_size:
                    yield entry.path, (info.st_size, info.st_mtime_ns)
