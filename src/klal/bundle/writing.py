"""Writing what one file holds as bundles: planned and written inside one read transaction, never over anything.

Source:
    docs/spec/bundle.md, rules BDL-1 to BDL-6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from klal import disk
from klal.bundle.contents import MAGIC, Contents, Gives, Needs, encode_contents, encode_end, encode_receipts
from klal.bundle.plan import Planner, Segment, Volume, parts_here
from klal.bundle.reports import BundleWritten, Exported
from klal.errors import StoreError, UsageError
from klal.file_station import FileStation
from klal.items import (
    HEADERS,
    ITEM_SIZE_AIM,
    PAYLOADS,
    HeadersIndex,
    PayloadsDraft,
    RunLine,
    encode_item,
)
from klal.model.codec import pack, tree_leaf
from klal.rules.admit import slice_count_of
from klal.rules.merge import ChangeRef
from klal.store.history import Log
from klal.store.store import Store
from klal.sync.station import PartSlice

OnProgress = Callable[[str, int, int], None]


def export_bundles(
    store: Store,
    path: Path,
    base: Callable[[], Mapping[int, int]],
    *,
    size_max: int | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Exported:
    """Write everything beyond `base` to `path`, or where `size_max` asks for it to several files beside it.

    Args:
        store: What is written, with the newest receipt of everybody.
        path: Must not exist. Of several, "field.bundle" becomes "field.1-of-3.bundle".
        base: Called inside the read transaction: strand -> how much of it whoever takes it holds.
        size_max: No file is larger than this.
        on_progress: Called with ("plan" or "export", done, total).

    Raises:
        UsageError: Something is there already, or `size_max` is too small.
        StoreError: The disk refuses. Files that were whole by then stay, and nothing half-written does.
    """
    FileStation(store)  # What is held here is sealed, applied and signed for before it leaves.
    with store.reading():
        planner = Planner(store, base(), size_max)
        volumes = planner.plan(lambda done, total: on_progress("plan", done, total))
        total = sum(volume.size for volume in volumes)
        done = 0

        def tell(size: int) -> None:
            nonlocal done
            done = min(done + size, total)
            on_progress("export", done, total)

        names = [path] if len(volumes) == 1 else [_numbered(path, n, len(volumes)) for n in range(1, len(volumes) + 1)]
        written = []
        for number, (name, volume) in enumerate(zip(names, volumes, strict=True), 1):
            size = _write(store, name, _Writing(store, volume, number, len(volumes)).items(), tell)
            written.append(BundleWritten(name, size, volume.change_count, volume.payload_count))
        return Exported(tuple(written))


def _numbered(path: Path, number: int, count: int) -> Path:
    return path.with_name(f"{path.stem}.{number:0{len(str(count))}}-of-{count}{path.suffix}")


def _write(store: Store, path: Path, items: Iterator[bytes], tell: Callable[[int], None]) -> int:
    """Write one bundle, durably, and return its size."""
    size, count = len(MAGIC), 0
    try:
        with disk.new_file(str(path)) as descriptor:
            disk.write_all(descriptor, MAGIC)
            for item in items:
                disk.write_all(descriptor, item)
                size += len(item)
                count += 1
                tell(len(item))
            end = encode_end(store.space_id, count, size)
            disk.write_all(descriptor, end)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already", hint="name another path: a bundle is never written over") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    return size + len(end)


class _Writing:
    """The items of one bundle but its end, in order."""

    def __init__(self, store: Store, volume: Volume, part: int, part_count: int) -> None:
        self._store = store
        self._history = store.history
        self._volume = volume
        self._part = part, part_count

    def items(self) -> Iterator[bytes]:
        yield from encode_contents(self._contents())
        for wave in self._volume.waves:
            for index in sorted(wave):
                yield from self._headers(wave[index])
                yield from self._payloads(wave[index])
        # After the changes: they speak of members and logs that are known by then.
        yield from encode_receipts(self._store.space_id, self._store.knowledge.receipts().values())

    def _contents(self) -> Contents:
        history, volume = self._history, self._volume
        rows = self._store.connection.execute("SELECT member_id, name FROM klal_member").fetchall()
        names: dict[bytes, str] = dict(rows)
        needs, gives = [], []
        for index, start in sorted(volume.starts.items()):
            log = history.logs[index]
            if start > log.start:
                needs.append(
                    Needs(log.origin, names.get(log.member_id, ""), start, history.hash_at(ChangeRef(index, start - 1)))
                )
            if index in volume.stops or index in volume.payloads:
                stop = volume.stops.get(index, start)
                name, spans = names.get(log.member_id, ""), tuple(volume.payloads.get(index, ()))
                head_hash = history.hash_at(ChangeRef(index, stop - 1))
                gives.append(Gives(log.origin, log.member_id, log.incarnation, name, start, stop, head_hash, spans))
        part, count = self._part
        return Contents(self._store.space_id, self._store.genesis.space_name, part, count, tuple(needs), tuple(gives))

    def _headers(self, segment: Segment) -> Iterator[bytes]:
        log, history = segment.log, self._history
        lines = []
        for start, length in segment.runs:
            (seal,) = history.seals(log, length - 1, length)
            lines.append(RunLine(start, tuple(history.headers(log, start, length)), seal.signature))
        if lines:
            index = pack(HeadersIndex(log.member_id, log.incarnation, log.log, tuple(lines)))
            yield encode_item(HEADERS, self._store.space_id, log.origin, index)

    def _payloads(self, segment: Segment) -> Iterator[bytes]:
        log = segment.log
        draft = PayloadsDraft(ITEM_SIZE_AIM)
        for piece, leaves in self._pieces(segment):
            if not draft.add(piece, leaves):
                yield self._payload_item(log, draft)
                draft = PayloadsDraft(ITEM_SIZE_AIM)
                draft.add(piece, leaves)
        if draft.entries:
            yield self._payload_item(log, draft)

    def _payload_item(self, log: Log, draft: PayloadsDraft) -> bytes:
        index, body = draft.finish(self._history.hash_at(ChangeRef(log.log, draft.entries[-1].seq)))
        return encode_item(PAYLOADS, self._store.space_id, log.origin, pack(index), body)

    def _pieces(self, segment: Segment) -> Iterator[tuple[PartSlice, tuple[bytes, ...]]]:
        log, history = segment.log, self._history
        first, last = segment.begin[0], segment.end[0]
        for seq, stored in enumerate(history.lines(log, first, last + 1), first):
            for number, part in enumerate(parts_here(stored)):
                if not segment.begin[:2] <= (seq, number) <= segment.end[:2]:
                    continue
                leaves: tuple[bytes, ...] = ()
                if slice_count_of(part) > 1:
                    # Read twice, so that no more than one slice of it is ever in memory.
                    leaves = tuple(tree_leaf(data) for _, data in history.slices(stored, number))
                for index, data in history.slices(stored, number):
                    if segment.begin <= (seq, number, index) < segment.end:
                        yield PartSlice(log.origin, seq, part.table_id, index, data), leaves
