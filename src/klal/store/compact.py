"""Putting down old payloads: what may go, what takes its place, and giving the space back.

Everything that the cut's rows came from goes, and an image of the state as of the cut takes its
place. What stays of a change is its header, its seal and its acts. A change inside the cut also
keeps its rows where some change outside, known here, had not seen it: that one is compared with
it whenever history is applied again.

The choice a reader would question: the image is made by applying the cut again in memory, and
not read from the tables. It costs as much as `verify`, and it is compared with the certificate
before the first byte is dropped.

Source:
    Protocol spec section 15, rules CMP-1 to CMP-3. Decision D17.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from klal.errors import DamagedError
from klal.model.header import ACTS_TABLE, parts_of
from klal.model.payload import Kind, decode_stripes
from klal.rules.merge import ChangeRef
from klal.rules.order import OrderKey
from klal.store.apply import Closed
from klal.store.base import Base, base_size, decode_written, make_image, put_written, write_base
from klal.store.epochs import Replay
from klal.store.history import STATE_APPLIED, STATE_VOID, History
from klal.store.moments import Scan
from klal.store.roots import rows_root
from klal.store.rows import encode_key
from klal.store.store import Store
from klal.store.window import order_key

_INDEXED_SIZE = 20  # Of a header in the index of hashes.
_PACKED_SIZE = 41  # Of one in a block, with three bytes of its hash: most of it is a part's root.
_PROGRESS_STEPS = 100_000  # Steps of SQLite's machine between two looks at the clock while pages are given back.


@dataclass(frozen=True, slots=True)
class Weight:
    """What a compaction brings in and what it takes away, in bytes.

    Shape:
        image_size: of the image that stands for what goes.
        gone_size: of what goes: payloads, what packed headers save, and the image before.
    """

    image_size: int
    gone_size: int

    @property
    def is_gain(self) -> bool:
        """True when the file becomes smaller by it."""
        return self.image_size < self.gone_size


def weigh(store: Store, closed: Closed, image: bytes) -> Weight:
    """Return what putting down the payloads inside a cut would come to."""
    history = store.history
    gone = 0 if history.base is None else base_size(store.connection)
    for index, stop in _seen_by_all(store, closed.cut.lengths).items():
        for _, state, _, header, _ in history.raw_lines(history.logs[index], 0, stop):
            if state in (STATE_APPLIED, STATE_VOID):
                gone += sum(part.size for part in parts_of(header) if part.table_id != ACTS_TABLE)
    for index, stop in closed.cut.lengths.items():
        log = history.logs[index]
        if log.origin not in history.forked:
            start = history.packed_length(log)
            gone += sum(len(header) + _INDEXED_SIZE - _PACKED_SIZE for header in history.headers(log, start, stop))
    return Weight(len(image), gone)


def compact_below(store: Store, closed: Closed, keepers: tuple[bytes, ...], image: bytes) -> int:
    """Put down the payloads inside a cut and return of how many changes; inside a durable write transaction.

    Args:
        store: The file.
        closed: The cut.
        keepers: Who has shown to hold what goes.
        image: What `image_of` made of that cut.
    """
    history = store.history
    lengths = tuple(sorted(closed.cut.lengths.items()))
    base = Base(closed.cut.epoch, closed.certificate_hash, lengths, keepers)
    count = 0
    for index, stop in sorted(_seen_by_all(store, closed.cut.lengths).items()):
        lines, slices = [], []
        for lsn, state, _, header, payload in history.raw_lines(history.logs[index], 0, stop):
            parts = parts_of(header)
            kept = int(bool(parts) and parts[0].table_id == ACTS_TABLE)
            if state not in (STATE_APPLIED, STATE_VOID) or len(parts) == kept:
                continue
            acts = payload[: parts[0].size] if kept and payload is not None else None
            lines.append((lsn, acts))
            if payload is None:
                slices.append((lsn, kept))
        history.put_down(lines, slices)
        count += len(lines)
    write_base(store.connection, base, image)
    history.rest_on(base)
    for index, stop in sorted(closed.cut.lengths.items()):
        # The branches of a forked log are shown with their headers, and are few.
        if history.logs[index].origin not in history.forked:
            history.pack_headers(history.logs[index], stop)
    return count


def _seen_by_all(store: Store, cut: Mapping[int, int]) -> dict[int, int]:
    """Return the prefixes of the cut that every change outside it had seen, as far as known here."""
    history = store.history
    found = dict(cut)
    for log in history.logs.values():
        start = max(cut.get(log.log, 0), log.start)
        if log.length > start:
            # Along a log pasts only grow, so its first change outside has seen least.
            seen = store.knowledge.past(log, start + 1)
            found = {index: min(length, seen.get(index, 0)) for index, length in found.items()}
    return {index: length for index, length in found.items() if length}


def image_of(store: Store, closed: Closed) -> bytes:
    """Return the image of the state as of a cut.

    Raises:
        DamagedError: History does not give the rows that the certificate names.
    """
    replay = Replay(store.connection, store.history, store.applier.certificate_in)
    try:
        replay.run(closed.cut.lengths)
        certificate = store.certificate(closed.cut.epoch)
        found = rows_root(replay.connection, replay.catalog).root
        if certificate is None or found != certificate.body.rows_root:
            raise DamagedError(
                f"history does not give the rows that the certificate of epoch {closed.cut.epoch} names",
                hint="klal verify says where it is damaged",
            )
        for table_id in sorted(replay.catalog.by_id):
            put_written(replay.connection, table_id, _written(replay, table_id, closed.cut.lengths))
        return make_image(replay.connection)
    finally:
        replay.connection.close()


def _written(
    replay: Replay, table_id: bytes, lengths: Mapping[int, int]
) -> Iterator[tuple[bytes, int, dict[bytes, ChangeRef]]]:
    """Yield (key, life, writes) of every key of a table: which changes of its life wrote it last, by column."""
    history, place = replay.history, _Places(replay.history)
    rows = replay.connection.execute(
        "SELECT key, life, writes FROM klal_written WHERE table_id = ?", (table_id,)
    ).fetchall()
    earlier: dict[bytes, tuple[int, Any]] = {key: (life, writes) for key, life, writes in rows}
    lives: dict[Any, int] = {}
    inserted: dict[Any, ChangeRef] = {}
    updated: dict[Any, dict[bytes, ChangeRef]] = {}
    for change, part in Scan(history).ordered(table_id, lengths):
        for stripe in decode_stripes(part):
            if stripe.kind is Kind.DELETE:
                continue
            for row, key in enumerate(stripe.keys):
                life = 1 if stripe.lives is None else stripe.lives[row]
                known = lives.get(key, 0)
                if life < known:
                    continue
                if life > known:
                    lives[key] = life
                    inserted.pop(key, None)
                    updated.pop(key, None)
                if stripe.kind is Kind.INSERT:
                    inserted[key] = change  # They come in order: the last one is the greatest.
                else:
                    updated.setdefault(key, {}).update(dict.fromkeys(stripe.columns, change))
    for bare, life in lives.items():
        key = encode_key(bare if isinstance(bare, tuple) else (bare,))
        writes = dict(updated.get(bare, {}))
        if bare in inserted:
            writes[b""] = inserted[bare]
        before_life, before = earlier.get(key, (0, b""))
        if before_life > life:
            continue
        if before_life == life:
            for column_id, ref in decode_written(before).items():
                if column_id not in writes or place.order(ref) > place.order(writes[column_id]):
                    writes[column_id] = ref
        yield key, life, writes


class _Places:
    """Order keys, each worked out once."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._orders: dict[ChangeRef, OrderKey] = {}

    def order(self, ref: ChangeRef) -> OrderKey:
        if ref not in self._orders:
            self._orders[ref] = order_key(self._history, self._history.logs[ref.log], self._history.read(ref))
        return self._orders[ref]


def give_back(store: Store, on_progress: Callable[[], None] | None = None) -> None:
    """Return the pages that are free to the file system: rewrite the file in place, as SQLite does.

    Not by a new file and a rename: other processes may have this one open, and the fence tells copies by its inode.
    """
    connection = store.connection
    if on_progress is not None:
        told = on_progress

        def go_on() -> bool:
            told()
            return False

        connection.set_progress_handler(go_on, _PROGRESS_STEPS)
    try:
        with store.translated():
            connection.execute("VACUUM -- klal")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.set_progress_handler(None)
    store.noticed()
