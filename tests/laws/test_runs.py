"""Changes applied together leave the file that the same changes leave when each is applied by itself."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from hypothesis import example, given, settings

from klal.file_station import FileStation
from klal.model.acts import encode_acts, make_join
from klal.model.codec import SALT_SIZE
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import SigningKey, log_id_of
from klal.model.payload import Kind, Segment, encode_segment, part_root
from klal.model.seal import make_seal
from klal.model.ticket import decode_ticket
from klal.replica import Replica
from klal.store.writer import paused
from klal.sync.station import PartSlice, Run
from tests.helpers.fleet import START_MS, Fleet, scratch

BIRD = "CREATE TABLE bird(id TEXT PRIMARY KEY, mass INTEGER NOT NULL DEFAULT 0 CHECK (mass < 100), note TEXT, w REAL)"
RING = "CREATE TABLE ring(id TEXT PRIMARY KEY, code TEXT UNIQUE, note TEXT)"
SALT = b"s" * SALT_SIZE
KEYS = tuple(f"k{number}" for number in range(8))
SEEN = KEYS[:5]  # Rows that everybody has seen; those behind are new to whoever writes them first.

cells = {
    "mass": st.sampled_from([1, 2, 3, 500]),
    "note": st.sampled_from([None, "x", "y", b"z"]),
    "code": st.sampled_from(["a", "b", "c", None]),
}
COLUMNS = {"bird": ("mass", "note"), "ring": ("code", "note")}


def writes_of(table: str) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw what an honest writer may do: a row that it inserts twice is the rare exception."""
    names = st.lists(st.sampled_from(COLUMNS[table]), min_size=1, max_size=2, unique=True)
    values = [cells[name] for name in COLUMNS[table]]
    seen = st.lists(st.tuples(st.sampled_from(SEEN), *values), min_size=1, max_size=2, unique_by=lambda row: row[0])
    new = st.lists(st.tuples(st.sampled_from(KEYS[len(SEEN) :]), *values), min_size=1, max_size=1)
    update = st.tuples(st.just(table), st.just(Kind.UPDATE), names, seen, st.just(1))
    insert = st.tuples(st.just(table), st.just(Kind.INSERT), names, new, st.just(1))
    delete = st.tuples(st.just(table), st.just(Kind.DELETE), names, seen, st.just(1))
    return st.one_of(*([update] * 8), insert, delete)


honest = st.one_of(writes_of("bird"), writes_of("bird"), writes_of("bird"), writes_of("ring"))
faulty = st.sampled_from(
    [
        ("garbage",),
        ("unknown table",),
        ("NOT NULL",),
        ("REAL in TEXT",),
        ("NaN",),
        ("bird", Kind.UPDATE, ["mass"], [("k7", 1, None)], 1),
        ("bird", Kind.INSERT, [], [("k1", 1, None)], 1),
        ("bird", Kind.UPDATE, ["mass"], [("k1", 1, None), ("k1", 2, None)], 1),
        ("bird", Kind.UPDATE, ["mass"], [("k1", 1, None)], 2),
    ]
)
clocks = st.sampled_from([0, 0, 1, -5, 50])  # How far its writer's clock went.
changes = st.lists(st.tuples(honest, clocks), min_size=3, max_size=16)
faults = st.one_of(st.just([]), st.just([]), st.lists(st.tuples(faulty, st.integers(0, 16)), min_size=1, max_size=1))
seen_keys = st.sampled_from(SEEN)
local = st.one_of(
    st.tuples(st.just("UPDATE bird SET mass = ?2 WHERE id = ?1"), seen_keys, st.integers(10, 12)),
    st.tuples(st.just("UPDATE bird SET note = ?2 WHERE id = ?1"), seen_keys, st.integers(10, 12)),
    st.tuples(st.just("INSERT OR IGNORE INTO bird(id, mass) VALUES(?1, ?2)"), seen_keys, st.integers(10, 12)),
    st.tuples(st.just("DELETE FROM bird WHERE id = ?1 AND ?2"), seen_keys, st.just(1)),
    st.tuples(st.just("reinsert"), seen_keys, st.integers(10, 12)),
    st.tuples(st.just("UPDATE OR IGNORE ring SET code = ?2 WHERE id = ?1"), seen_keys, st.sampled_from(["a", "b"])),
)
locals_ = st.lists(local, max_size=6)
UPDATED = ("UPDATE bird SET mass = ?2 WHERE id = ?1", "k1", 10)
DELETED = ("DELETE FROM bird WHERE id = ?1 AND ?2", "k1", 1)


@dataclass
class Writer:
    """A member with a real key, whose changes are drawn and not made by klal."""

    replica: Replica
    ticket: str
    clock: int = START_MS
    headers: list[bytes] = field(default_factory=list)
    payloads: list[dict[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.space_id = self.replica.space_id
        self.key = SigningKey(b"w" * 32)
        self.log_id = log_id_of(self.space_id, self.key.member_id, b"i" * 16)

    def write(self, parts: dict[bytes, bytes], past: tuple[bytes, ...] = ()) -> None:
        head = header_hash(self.space_id, self.headers[-1]) if self.headers else self.log_id
        made = tuple(Part(table_id, part_root(data), len(data), 1) for table_id, data in sorted(parts.items()))
        header = Header(len(self.headers), 0, self.clock, 0, head, NO_CERTIFICATE, past, made)
        self.headers.append(header.encode())
        self.payloads.append(parts)

    def join(self) -> None:
        ticket = decode_ticket(self.ticket)
        act = make_join(ticket.key, self.space_id, self.key.member_id, "wes", ticket.invitation)
        seen = self.replica._store.writer.own.log.head_hash
        self.write({ACTS_TABLE: encode_acts((act,), SALT)}, (seen,))

    def write_drawn(self, what: tuple[Any, ...], by_ms: int) -> None:
        self.clock += by_ms
        self.write_what(what)

    def meet(self) -> None:
        """Write a change that has seen all that the replica wrote."""
        store = self.replica._store
        store.seal()
        rows = self._rows("bird", Kind.UPDATE, ["note"], [("k0", None, "has met")], 1)
        self.write({store.catalog.by_name["bird"].table_id: rows}, (store.writer.own.log.head_hash,))

    def write_what(self, what: tuple[Any, ...]) -> None:
        catalog = self.replica._store.catalog
        bird = catalog.by_name["bird"]
        match what:
            case ("garbage",):
                self.write({bird.table_id: SALT + b"\xc1" * 60})
            case ("unknown table",):
                self.write({b"u" * 16: SALT + b"\xc1" * 60})
            case ("NOT NULL",):
                self.write({bird.table_id: self._rows("bird", Kind.UPDATE, ["mass"], [("k1", None, None)], 1)})
            case ("REAL in TEXT",):
                self.write({bird.table_id: self._rows("bird", Kind.UPDATE, ["note"], [("k1", None, 1.5)], 1)})
            case ("NaN",):
                weight = next(info.column_id for info in bird.values if info.name == "w")
                part = SALT + encode_segment(Segment(Kind.UPDATE, (weight,), [["k1"]], [[1.5]]))
                assert part.count(struct.pack(">d", 1.5)) == 1, "the one value is replaced by what no klal encodes"
                self.write({bird.table_id: part.replace(struct.pack(">d", 1.5), struct.pack(">d", float("nan")))})
            case (table, *rest):
                self.write({catalog.by_name[table].table_id: self._rows(table, *rest)})

    def _rows(self, table: str, kind: Kind, names: list[str], rows: list[tuple[Any, ...]], life: int) -> bytes:
        by_name = {info.name: info.column_id for info in self.replica._store.catalog.by_name[table].values}
        names = list(COLUMNS[table]) if kind is Kind.INSERT else [] if kind is Kind.DELETE else names
        values = [[row[1 + COLUMNS[table].index(name)] for row in rows] for name in names]
        lives = [life] * len(rows) if life > 1 else None
        ids = tuple(by_name[name] for name in names)
        return SALT + encode_segment(Segment(kind, ids, [[row[0] for row in rows]], values, lives))

    def deliver(self, start: int) -> None:
        """Let everything from `start` on be stored, and nothing of it be applied."""
        door = FileStation(self.replica._store)
        head = header_hash(self.space_id, self.headers[-1])
        seal = make_seal(self.key, self.space_id, self.log_id, len(self.headers), head)
        door.take(Run(self.log_id, self.key.member_id, b"i" * 16, start, tuple(self.headers[start:]), seal))
        for seq, parts in enumerate(self.payloads[start:], start):
            for table_id, data in parts.items():
                door.take(PartSlice(self.log_id, seq, table_id, 0, data))
        door._flush()


def whole_file(replica: Replica) -> dict[str, list[Any]]:
    """Return every row of every table in a file, klal's own among them."""
    connection = replica._store.connection
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
    return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


def started(fleet: Fleet) -> Writer:
    ana = fleet.found("ana", BIRD, RING)
    ana.executemany("INSERT INTO bird VALUES(?, 0, 'seen by all', 0.5)", [(key,) for key in SEEN])
    ana.executemany("INSERT INTO ring(id) VALUES(?)", [(key,) for key in SEEN])
    ana._store.seal()
    writer = Writer(ana, fleet.ticket)
    writer.join()
    writer.deliver(0)
    ana._store.apply_ready()
    return writer


def write_all(replica: Replica, local_writes: list[tuple[Any, ...]]) -> None:
    for write in local_writes:
        write_row(replica, write)


def write_row(replica: Replica, write: tuple[Any, ...]) -> None:
    match write:
        case ("reinsert", key, mass):
            replica.execute("DELETE FROM bird WHERE id = ?", (key,))
            replica.execute("INSERT INTO bird(id, mass) VALUES(?, ?)", (key, mass))
        case (sql, key, value):
            replica.execute(sql, (key, value))


def update(key: str, mass: int) -> tuple[tuple[Any, ...], int]:
    return (("bird", Kind.UPDATE, ["mass"], [(key, mass, None)], 1), 1)


# The same row as others write, by a shape that comes after theirs.
BOTH = (("bird", Kind.UPDATE, ["mass", "note"], [("k1", 5, "x")], 1), 1)


@given(changes, faults, locals_, st.lists(st.tuples(honest, clocks), max_size=4), locals_)
@example([update("k0", 1), update("k1", 2), update("k0", 3), update("k2", 1)], [], [], [], [])
@example([update("k0", 1), update("k7", 2), update("k1", 3)], [], [], [], [])
@example([update("k0", 1), update("k1", 2), update("k2", 3)], [], [DELETED], [], [])
@example([update("k0", 1), update("k1", 2), update("k2", 3)], [], [UPDATED], [], [])
@example([update("k0", 1), update("k1", 2), update("k2", 3)], [], [], [update("k0", 1), update("k1", 4)], [UPDATED])
@example([update("k0", 1), (("bird", Kind.UPDATE, ["mass"], [("k1", 4, None)], 2), 1), update("k2", 3)], [], [], [], [])
@example([update("k0", 1), BOTH, update("k1", 7), update("k2", 3)], [], [], [], [])
@settings(max_examples=100)
def test_a_run_leaves_the_file_that_its_changes_leave_one_by_one(
    drawn: list[tuple[Any, ...]],
    faults: list[tuple[Any, ...]],
    concurrent: list[tuple[Any, ...]],
    earlier: list[tuple[Any, ...]],
    seen: list[tuple[Any, ...]],
) -> None:
    """S33 S34 S35 MRG-1 APP-4: rows, side tables, conflicts, states, stamps and pasts."""
    with scratch() as folder, Fleet(folder) as fleet:
        writer = started(fleet)
        ana, store = fleet["ana"], fleet["ana"]._store
        # What was written apart and is seen by now: it leaves conflicts, lives and dead rows, and no window.
        write_all(ana, seen)
        for what, by_ms in earlier:
            writer.write_drawn(what, by_ms)
        if earlier:
            writer.deliver(1)
            store.apply_ready()
        length = len(writer.headers)
        writer.meet()
        write_all(ana, concurrent)
        drawn = list(drawn)
        for fault, place in faults:
            drawn.insert(place, (fault, 1))
        for what, by_ms in drawn:
            writer.write_drawn(what, by_ms)
        writer.deliver(length)

        # Inside another's transaction a run could not be undone, so there each change is applied by itself.
        store.begin()
        assert store.apply_ready() == 1 + len(drawn)
        want = whole_file(ana)
        store.rollback()
        assert store.apply_ready() == 1 + len(drawn)

        assert whole_file(ana) == want


def test_changes_that_bring_no_news_are_applied_in_one_run() -> None:
    """The law above compares two ways, and not one with itself."""
    with scratch() as folder, Fleet(folder) as fleet:
        writer = started(fleet)
        store = fleet["ana"]._store
        for number, key in enumerate((*SEEN, "k0")):
            writer.write_drawn(*update(key, number))
        writer.write_drawn(("bird", Kind.INSERT, [], [("k6", 1, "new")], 1), 1)
        writer.deliver(1)
        log = store.history.by_id[writer.log_id]

        # The change before the first is a join, so the first is applied by itself.
        with paused(store.writer.capture), store.writing():
            assert store.runs.apply(log, 0, 100) == 0
            assert store.applier.apply(log, 0) == ()
            assert store.runs.apply(log, 0, 4) == 4
            assert store.runs.apply(log, 0, 100) == 2
        assert fleet["ana"].query("SELECT id, mass FROM bird ORDER BY id") == [
            *zip(SEEN, (5, 1, 2, 3, 4), strict=True),
            ("k6", 1),
        ]
        fleet["ana"].verify()
