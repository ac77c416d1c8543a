"""What goes into a bundle and in which order, worked out before anything is written.

Changes go in the order of their stamps, as far as seals allow: so almost everything a
change had seen comes before it, and a file that is the first of several, or was cut off,
can be applied as far as it goes. A log's beginning comes after that of every log that was
here before it: so whoever let a member in comes first.

The unit is the *wave*: some megabytes of all logs together, which are items of at most
one of headers and a few of payloads for each log. Item by item in the exact order, a
fleet that syncs hourly would spend more bytes on the frames of items than on changes.

Law: of one read transaction there is one plan, and writing it gives exactly what it says.

Source:
    docs/spec/bundle.md, rules BDL-3 and BDL-4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge

from klal.bundle.contents import LINE_SIZE_MAX, PART_COUNT_MAX, SPAN_SIZE_MAX
from klal.errors import UsageError
from klal.items import ITEM_SIZE_AIM, ITEM_SIZE_MIN
from klal.model.codec import HASH_SIZE, SLICE_SIZE, TABLE_ID_SIZE
from klal.model.header import ACTS_TABLE, Part, lone_table
from klal.rules.merge import ChangeRef
from klal.store.history import STATE_LACKING, Log, Stored, lacks_payload
from klal.store.store import Store

_LAST = 1 << 64  # After every order stamp: what is not applied has none.
# What the form around them adds to a header, a run, an entry and an item at the most.
_HEADER_SIZE = 5
_RUN_SIZE = 96
_ENTRY_SIZE = 48 + TABLE_ID_SIZE
_ITEM_SIZE = ITEM_SIZE_MIN + 128
# An item of headers and two of payloads: what a wave takes of one log ends before a third is full.
_SEGMENT_SIZE = 3 * _ITEM_SIZE
_RECEIPT_SIZE = 96

Place = tuple[int, int, int]  # Number, part, slice.
OnProgress = Callable[[int, int], None]


@dataclass(slots=True)
class Segment:
    """What a wave takes of one strand.

    Shape:
        runs: (first number, sealed length), in order.
        begin, end: slices from the first place up to, and without, the second.
        whole: [start, stop) of numbers whose payload is whole with it.
    """

    log: Log
    begin: Place
    end: Place
    runs: list[tuple[int, int]] = field(default_factory=list)
    whole: list[tuple[int, int]] = field(default_factory=list)


Wave = dict[int, Segment]  # By strand, in order of first use.


@dataclass(slots=True)
class Volume:
    """One bundle of those that are written together.

    Shape:
        starts: strand -> headers that came before it.
        stops: strand -> headers that came with it, of those that are in it.
        payloads: strand -> [start, stop) of numbers whose payload is whole with it.
        size: bytes of its waves, at the most.
    """

    starts: Mapping[int, int]
    stops: dict[int, int] = field(default_factory=dict)
    payloads: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    waves: list[Wave] = field(default_factory=list)
    size: int = 0

    @property
    def change_count(self) -> int:
        return sum(stop - self.starts[index] for index, stop in self.stops.items())

    @property
    def payload_count(self) -> int:
        return sum(stop - start for spans in self.payloads.values() for start, stop in spans)


def parts_here(stored: Stored) -> list[Part]:
    """Return the parts of a change that are here whole: all, none, or of a compacted one its acts, which come first."""
    if stored.state == STATE_LACKING:
        return []
    if lacks_payload(stored.state):
        return [part for part in stored.header.parts if part.table_id == ACTS_TABLE]
    return list(stored.header.parts)


class Planner:
    """Plans bundles of what is in one store and beyond `base`; used inside one read transaction and then dropped.

    Args:
        store: What is written.
        base: Strand -> how much of it whoever takes the bundle holds.
        size_max: Bytes of one bundle; none of them is larger.
    """

    def __init__(self, store: Store, base: Mapping[int, int], size_max: int | None) -> None:
        self._store = store
        self._history = store.history
        self._logs = [log for log in self._history.logs.values() if self._sealed(log) > log.start]
        self._base = {log.log: min(max(base.get(log.log, 0), log.start), log.length) for log in self._logs}
        self._room = None if size_max is None else size_max - self._frame_size()
        self._wave_size_max = ITEM_SIZE_AIM if self._room is None else max(1, min(ITEM_SIZE_AIM, self._room))
        self._wave: Wave = {}
        self._wave_size = 0
        self._volumes = [Volume(dict(self._base))]
        self._size_max = size_max

    def _sealed(self, log: Log) -> int:
        # A file whose key is elsewhere may end in changes that their writer has not sealed yet.
        return log.length if self._store.writer.own is not None else self._history.sealed_length(log)

    def _frame_size(self) -> int:
        """Return what a bundle has beside its waves, at the most."""
        lines = 2 * len(self._logs) + 2
        spans = sum(len(self._store.knowledge.payload_gaps(log, log.length)) + 1 for log in self._logs)
        receipts = sum(len(each.body) + _RECEIPT_SIZE for each in self._store.knowledge.receipts().values())
        frames = lines * LINE_SIZE_MAX + (lines + spans) * SPAN_SIZE_MAX + receipts
        return frames + _ITEM_SIZE * (3 + frames // ITEM_SIZE_AIM * 4)

    def plan(self, on_progress: OnProgress) -> list[Volume]:
        """Return what each bundle holds, in order; one that holds no change where there is nothing to give.

        Raises:
            UsageError: `size_max` is too small for something that cannot be divided.
        """
        history = self._history
        total = sum(log.length - self._base[log.log] for log in self._logs)
        done = 0
        for _, _, start, length, log in merge(*self._ordered_runs()):
            size = sum(len(data) + _HEADER_SIZE for data in history.headers(log, start, length)) + _RUN_SIZE
            self._segment(log, size, (start, 0, 0)).runs.append((start, length))
            for seq, stored in enumerate(history.lines(log, start, length), start):
                for index, size in enumerate(_sizes_here(stored)):
                    self._add_part(log, (seq, index), size)
                if not lacks_payload(stored.state):
                    _join(self._segment(log, 0, (seq, 0, 0)).whole, seq, seq + 1)
            done += length - start
            on_progress(done, total)
        self._end_wave()
        return self._volumes

    def _ordered_runs(self) -> list[Iterator[tuple[int, int, int, int, Log]]]:
        own = self._store.writer.own
        floors: dict[int, int] = {}
        floor = 0
        # One's own log is older here than its inviter's: it was begun before anybody was met.
        for log in sorted(self._logs, key=lambda log: (own is not None and log is own.log, log.log)):
            floors[log.log] = floor = max(floor, self._stamp(log, self._seals(log)[0]))
        return [self._runs(log, floors) for log in self._logs]

    def _runs(self, log: Log, floors: Mapping[int, int]) -> Iterator[tuple[int, int, int, int, Log]]:
        """Yield (key, strand's index, first number, sealed length, strand) of each run, keys rising."""
        start, floor = self._base[log.log], self._floor(log, floors)
        for length in self._seals(log):
            if length > start:
                yield max(self._stamp(log, length), floor), log.log, start, length, log
                start = length

    def _floor(self, log: Log, floors: Mapping[int, int]) -> int:
        """Return the least key of a strand's runs: a branch comes after what it goes on from."""
        floor = floors[log.log]
        while log.below is not None:
            below = self._history.logs[log.below]
            seal = next(length for length in self._seals(below) if length >= log.start)
            floor = max(floor, self._stamp(below, seal), floors[below.log])
            log = below
        return floor

    def _seals(self, log: Log) -> list[int]:
        return self._history.sealed_lengths(log, log.length)

    def _stamp(self, log: Log, length: int) -> int:
        return self._history.read(ChangeRef(log.log, length - 1)).order_stamp or _LAST

    # -- filling waves and volumes --------------------------------------------------------

    def _add_part(self, log: Log, which: tuple[int, int], size: int) -> None:
        count = max(1, -(-size // SLICE_SIZE))
        # Twice, because what a wave takes of one log may be two items, and each carries the leaves.
        frame = _ENTRY_SIZE + (2 * count * HASH_SIZE if count > 1 else 0)
        for index in range(count):
            before = self._wave.get(log.log) if index else None
            piece = min(SLICE_SIZE, size - index * SLICE_SIZE)
            segment = self._segment(log, piece + (frame if before is None else 0), (*which, index))
            segment.end = (*which, index + 1)
            if before is not None and segment is not before:
                self._wave_size += frame

    def _segment(self, log: Log, size: int, place: Place) -> Segment:
        """Return the segment that takes `size` more bytes, which begins at `place` if it is new."""
        if self._wave and self._wave_size + size > self._wave_size_max:
            self._end_wave()
        segment = self._wave.get(log.log)
        if segment is None:
            size += _SEGMENT_SIZE
            segment = self._wave[log.log] = Segment(log, place, place)
        self._wave_size += size
        return segment

    def _end_wave(self) -> None:
        if not self._wave:
            return
        volume = self._volumes[-1]
        if self._room is not None and volume.size + self._wave_size > self._room:
            if self._wave_size > self._room:
                raise UsageError(
                    f"size_max is {self._size_max}, want at least {self._frame_size() + self._wave_size} here"
                )
            volume = Volume({**volume.starts, **volume.stops})
            self._volumes.append(volume)
            if len(self._volumes) > PART_COUNT_MAX:
                raise UsageError(f"size_max is {self._size_max}, which makes more than {PART_COUNT_MAX} files")
        volume.waves.append(self._wave)
        volume.size += self._wave_size
        for index, segment in self._wave.items():
            if segment.runs:
                volume.stops[index] = segment.runs[-1][1]
            for start, stop in segment.whole:
                _join(volume.payloads.setdefault(index, []), start, stop)
        self._wave, self._wave_size = {}, 0


def _sizes_here(stored: Stored) -> list[int]:
    """Return the sizes of `parts_here`, most often without decoding the header."""
    if stored.payload is not None and lone_table(stored.header_bytes) is not None:
        return [len(stored.payload)]
    return [part.size for part in parts_here(stored)]


def _join(spans: list[tuple[int, int]], start: int, stop: int) -> None:
    if spans and spans[-1][1] == start:
        spans[-1] = (spans[-1][0], stop)
    else:
        spans.append((start, stop))
