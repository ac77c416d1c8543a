"""What a replica says depends on what it holds, and on nothing else: not on the order, the carrier, the pieces or the
clocks by which it came."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from klal.errors import UsageError
from klal.file_station import FileStation
from klal.replica import Replica
from klal.rules.merge import ChangeRef
from klal.sync.station import PartLeaves, PartSlice
from tests.helpers.fleet import BIRD, Fleet, all_agree, answers_of, rows_of, scratch

NAMES = ("ana", "ben", "cal", "dan")
KEYS = ("k1", "k2", "k3")
APART = (
    "CREATE TABLE nest(id TEXT PRIMARY KEY, eggs INTEGER)",
    "CREATE TABLE nest(id TEXT PRIMARY KEY, eggs INTEGER, island TEXT)",
)
SITE = (
    "CREATE TABLE site(id TEXT PRIMARY KEY, name TEXT, nests INTEGER COUNTER NOT NULL DEFAULT 0,"
    " tags TEXT ELEMENTS NOT NULL DEFAULT '[]', notes TEXT COLLABORATIVE NOT NULL DEFAULT '')"
)
SITE_WRITES = (
    "INSERT OR IGNORE INTO site(id, nests, notes) VALUES(:key, :number, :word)",
    "UPDATE site SET nests = nests + :number WHERE id = :key",
    "UPDATE site SET tags = json_insert(tags, '$[#]', :word) WHERE id = :key",
    "UPDATE site SET tags = '[]', name = :word WHERE id = :key",
    "UPDATE site SET notes = substr(notes, 1, :number) || :word || substr(notes, :number + 2) WHERE id = :key",
    "DELETE FROM site WHERE id = :key",
)
POLICIES = ({"merge": "row"}, {"merge": "cell"}, {"on_delete": "wins"}, {"on_delete": "revive"})
COLUMNS = ("ring TEXT", "age INTEGER DEFAULT 1", "weight REAL DEFAULT 0.5")

who = st.sampled_from(NAMES)
keys = st.sampled_from(KEYS)
values = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["", "x", "2"]))

row_writes = st.one_of(
    st.tuples(st.just("insert"), keys, values),
    st.tuples(st.just("update"), keys, st.sampled_from(["mass", "note"]), values),
    st.tuples(st.just("update"), st.just("k1"), st.just("mass"), st.integers(0, 99)),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("reinsert"), keys, values),
    st.tuples(st.just("update all"), values),
)
limits = st.one_of(st.none(), st.integers(1, 3_000))
BY_KIND = {
    "write": st.tuples(st.just("write"), who, st.lists(row_writes, min_size=1, max_size=3)),
    "column": st.tuples(st.just("column"), who, st.sampled_from(COLUMNS)),
    "table": st.tuples(st.just("table"), who, st.sampled_from(APART)),
    "nest": st.tuples(st.just("nest"), who, keys, st.integers(0, 3)),
    "site": st.tuples(
        st.just("site"),
        who,
        st.sampled_from(SITE_WRITES),
        keys,
        st.integers(-2, 9),
        st.sampled_from(["x", "yz", "\u00e9"]),
    ),
    "policy": st.tuples(st.just("policy"), who, st.sampled_from(POLICIES)),
    "skew": st.tuples(st.just("skew"), who, st.sampled_from([-100_000, -5, 5, 100_000])),
    "reopen": st.tuples(st.just("reopen"), who),
    "finish": st.tuples(st.just("finish"), who),
    "meet": st.tuples(st.just("meet"), who, who, limits),
    "folder": st.tuples(st.just("folder"), who, limits),
}
# Weighed: most of a fleet's life is writing, and it is what nobody has seen yet that makes order matter.
WEIGHED = ("write",) * 8 + ("site",) * 8 + ("meet",) * 3 + ("folder",) * 2 + tuple(BY_KIND)
steps = st.lists(st.sampled_from(WEIGHED).flatmap(BY_KIND.__getitem__), min_size=8, max_size=24)


def write_row(replica: Replica, write: tuple[Any, ...]) -> None:
    match write:
        case ("insert", key, value):
            replica.execute("INSERT OR IGNORE INTO bird(id, note) VALUES(?, ?)", (key, value))
        case ("update", key, column, value):
            replica.execute(f"UPDATE bird SET {column} = ? WHERE id = ?", (value, key))
        case ("delete", key):
            replica.execute("DELETE FROM bird WHERE id = ?", (key,))
        case ("reinsert", key, value):
            replica.execute("DELETE FROM bird WHERE id = ?", (key,))
            replica.execute("INSERT INTO bird(id, mass) VALUES(?, ?)", (key, value))
        case ("update all", value):
            replica.execute("UPDATE bird SET note = ?", (value,))


def run_step(fleet: Fleet, step: tuple[Any, ...]) -> None:
    match step:
        case ("write", name, row_writes):
            with fleet[name].transaction():
                for write in row_writes:
                    write_row(fleet[name], write)
        case ("column", name, column):
            # Whoever has that column already is told so, and nothing happens.
            if column.split()[0] not in dict(fleet[name].table_columns("bird")):
                fleet[name].execute(f"ALTER TABLE bird ADD COLUMN {column}")
        case ("table", name, sql):
            if "nest" not in fleet[name].tables():
                fleet[name].execute(sql)
        case ("nest", name, key, eggs):
            if "nest" in fleet[name].tables():
                fleet[name].execute("INSERT OR REPLACE INTO nest(id, eggs) VALUES(?, ?)", (key, eggs))
        case ("site", name, sql, key, number, word):
            fleet[name].execute(sql, {"key": key, "number": number, "word": word})
        case ("policy", name, policy):
            fleet[name].set_policy("site", **policy)
        case ("skew", name, by_ms):
            fleet.skew(name, by_ms)
        case ("reopen", name):
            fleet.reopen(name)
        case ("finish", name):
            store = fleet[name]._store
            if store.writer.epoch <= store.epochs.next_epoch:
                fleet[name].finish(alone=True)
        case ("meet", a, b, limit):
            if a != b:
                fleet.meet(a, b, limit)
        case ("folder", name, limit):
            fleet.drop_by(name, limit)


def started(fleet: Fleet, *tables: str) -> None:
    """Make the fleet, all of it holding the same three rows: what follows is concurrent until somebody meets."""
    fleet.found("ana", BIRD, SITE, *tables)
    for name in NAMES[1:]:
        fleet.join(name)
    fleet["ana"].executemany("INSERT INTO bird VALUES(?, 0, 'seen by all')", [(key,) for key in KEYS])
    fleet["ana"].execute("INSERT INTO site(id, notes) VALUES('k1', 'seen by all')")
    fleet.gather()


@given(steps)
@settings(max_examples=30)
def test_any_order_any_pieces_and_any_carrier_give_the_same_whole(drawn: list[tuple[Any, ...]]) -> None:
    """W1 W9 W15 W17 S35."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet)
        for step in drawn:
            run_step(fleet, step)
        fleet.end_epochs()

        all_agree(fleet)
        for replica in fleet.replicas.values():
            assert replica.coverage().is_whole
            replica.verify()
            assert replica.status().warnings == () or all("clock" in w for w in replica.status().warnings)

        # Whoever comes last, by the folder alone, has the same, and nothing is counted twice (W9).
        fleet.drop_by("ana")
        fleet.join("eve")
        fleet.drop_by("eve")
        fleet.end_epochs()
        all_agree(fleet)
        counted = {replica.coverage().held for replica in fleet.replicas.values()}
        assert counted == {sum(1 for _ in fleet["eve"].log())}
        fleet["eve"].verify()

        # And once more brings nothing new.
        root = fleet["ana"].status().root
        again = fleet.meet("ana", "ben")
        assert again.equal
        assert (again.received.change_count, again.sent.change_count) == (0, 0)
        assert fleet["ana"].status().root == root


def pieces(fleet: Fleet, name: str) -> list[tuple[bytes, int]]:
    """Return the changes of a replica, each after its past."""
    history = fleet[name]._store.history
    found: list[tuple[int, bytes, int]] = []
    for log in history.logs.values():
        found.extend(
            (stored.order_stamp, log.log_id, stored.header.seq) for stored in history.lines(log, 0, log.length)
        )
    return [(log_id, seq) for _, log_id, seq in sorted(found)]


def deliver(source: Replica, target: Replica, lengths: dict[bytes, int], order: list[bytes]) -> None:
    """Give `target` the prefixes `lengths` of logs, log by log in this order, and settle after each."""
    station = FileStation(source._store)
    for log_id in order:
        sealed = source._store.history.by_id[log_id]
        length = lengths[log_id]
        seals = [s.length for s in source._store.history.seals(sealed, 0, sealed.length)]
        assert length in seals, "what is delivered ends at seals"
        door = FileStation(target._store)
        for run in station.runs(log_id, 0, length):
            door.take(run)
        for piece in station.payloads(log_id, 0, length):
            assert isinstance(piece, PartLeaves | PartSlice)
            door.take(piece)
        door.settle()


@given(
    steps,
    st.lists(st.integers(0, 30), min_size=5, max_size=5),
    st.permutations(range(5)),
    st.permutations(range(5)),
)
@settings(max_examples=15)
def test_equal_frontiers_mean_equal_roots_and_equal_rows(
    drawn: list[tuple[Any, ...]], cuts: list[int], one: list[int], other: list[int]
) -> None:
    """W1 W9: two replicas that hold one subset, however it came, say the same of it."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet)
        for step in drawn:
            run_step(fleet, step)
        fleet.end_epochs()
        source = fleet["ana"]
        history = source._store.history

        # A subset is drawn as sealed lengths, and then closed over its past.
        logs = sorted(history.logs.values(), key=lambda log: log.log_id)
        lengths = {}
        for log, cut in zip(logs, cuts, strict=False):
            seals = [seal.length for seal in history.seals(log, 0, log.length)]
            lengths[log.log_id] = seals[cut % len(seals)]
        for log in logs:
            if log.member_id == source.member_id:  # Whoever joins has met the founder's genesis, and the table.
                lengths[log.log_id] = max(lengths[log.log_id], 3)
        changed = True
        while changed:
            changed = False
            for log in logs:
                vector = history.vector(ChangeRef(log.log, lengths[log.log_id] - 1))
                for index, seen in vector.items():
                    past = history.logs[index]
                    sealed = next(s.length for s in history.seals(past, 0, past.length) if s.length >= seen)
                    if sealed > lengths[past.log_id]:
                        lengths[past.log_id], changed = sealed, True

        for name, order in (("one", one), ("two", other)):
            fleet.join(name)
            founder_first = [log.log_id for log in logs if log.member_id == source.member_id]
            rest = [log.log_id for log in logs if log.member_id != source.member_id]
            drawn_order = [rest[i % len(rest)] for i in order]
            deliver(source, fleet[name], lengths, founder_first + list(dict.fromkeys(drawn_order + rest)))
        # Each has a join of its own, so they are compared on what came from elsewhere.
        roots = []
        for name in ("one", "two"):
            frontier = fleet[name]._store.history.frontier()
            roots.append({log: head for log, head in frontier.heads.items() if log != fleet[name].log_id})
            assert fleet[name].coverage().payloads_held == fleet[name].coverage().held
            fleet[name].verify()
        assert roots[0] == roots[1]
        assert rows_of(fleet["one"]) == rows_of(fleet["two"])
        assert fleet["one"].conflicts() == fleet["two"].conflicts()
        assert source._store.epochs.next_epoch >= fleet["one"]._store.epochs.next_epoch
        assert fleet["one"]._store.epochs.next_epoch == fleet["two"]._store.epochs.next_epoch

        fleet.meet("one", "two")
        assert fleet["one"].status().root == fleet["two"].status().root


@given(steps)
@settings(max_examples=15)
def test_what_was_refused_or_rolled_back_leaves_nothing(drawn: list[tuple[Any, ...]]) -> None:
    """W9: a transaction that raises is in no log, so no order can bring it back."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet)
        for step in drawn:
            run_step(fleet, step)
        before = answers_of(fleet["ben"])
        try:
            with fleet["ben"].transaction():
                fleet["ben"].execute("INSERT OR REPLACE INTO bird(id, note) VALUES('ghost', 'x')")
                fleet["ben"].execute("DELETE FROM bird WHERE id <> 'ghost'")
                raise UsageError("no")
        except UsageError:
            pass

        assert answers_of(fleet["ben"]) == before
        fleet["ben"].verify()
