"""A watched query tells which rows came and went, whoever changed them, and misses none."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

import klal
import klal.polling
from klal.cli.app import run
from klal.errors import UsageError
from klal.reports import ChangeId
from tests.helpers.fleet import BIRD, Fleet

ALL = "SELECT id, mass FROM bird"
HEAVY = "SELECT id, mass FROM bird WHERE mass >= ?"


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as fleet:
        ana = fleet.found("ana", BIRD, "CREATE TABLE egg(id TEXT PRIMARY KEY)")
        ana.insert_many("bird", [("a", 1, ""), ("b", 2, "")])
        fleet.join("ben")
        fleet.gather()
        yield fleet


def told(event):
    return event and (sorted(event.removed), sorted(event.added))


def test_a_local_change_gives_what_came_and_what_went(fleet):
    ana = fleet["ana"]
    watch = ana.watch(HEAVY, (2,))
    first = list(watch.rows)
    change = ana.execute("UPDATE bird SET mass = mass + 1").change
    event = watch.poll()

    assert first == [("b", 2)]
    assert told(event) == ([("b", 2)], [("a", 2), ("b", 3)])
    assert event.change == change
    assert event.heads == (change,)
    assert event.added.columns == ("id", "mass")
    assert list(watch.rows) == [("a", 2), ("b", 3)]
    assert watch.poll() is None


def test_a_merged_change_gives_what_came_and_what_went(fleet):
    ana, ben = fleet["ana"], fleet["ben"]
    watch = ben.watch(ALL, timeout=0)
    with ana.transaction():
        ana.execute("DELETE FROM bird WHERE id = 'a'")
        change = ana.execute("INSERT INTO bird VALUES ('c', 3, '')")
    change = ana.log(limit=1)[0].change
    fleet.gather()
    events = list(watch)

    assert [told(event) for event in events] == [([("a", 1)], [("c", 3)])]
    assert events[0].change == change


def test_changes_of_other_tables_and_columns_wake_nobody(fleet):
    """The query is not even run: its rows would be others each time."""
    ana = fleet["ana"]
    dice = ana.watch("SELECT random() FROM bird")
    masses = ana.watch("SELECT mass FROM bird")
    ana.execute("INSERT INTO egg VALUES ('e')")
    first = dice.poll()
    ana.execute("UPDATE bird SET note = 'seen'")

    assert first is None
    assert dice.poll() is not None
    assert masses.poll() is None


def test_a_view_and_a_join_are_touched_through_all_their_tables(fleet):
    ana = fleet["ana"]
    ana.execute("CREATE TEMP VIEW pairs AS SELECT bird.id FROM bird JOIN egg USING (id)")
    watch = ana.watch("WITH p AS (SELECT * FROM pairs) SELECT count(*) AS n FROM p")
    ana.execute("INSERT INTO egg VALUES ('a')")

    assert told(watch.poll()) == ([(0,)], [(1,)])
    rest = ana.watch("SELECT (SELECT count(*) FROM egg), b.id FROM bird b NATURAL JOIN (SELECT id FROM bird) LIMIT 1")
    ana.execute("DELETE FROM egg")
    assert told(rest.poll()) == ([(1, "a")], [(0, "a")])
    assert ana.watch("SELECT winner_value FROM klal_conflicts").poll() is None


def test_rows_are_counted_and_told_apart_to_the_byte(fleet):
    ana = fleet["ana"]
    ana.execute("CREATE TABLE thing(id TEXT PRIMARY KEY, value)")
    ana.execute("INSERT INTO thing VALUES ('a', 1), ('b', 1)")
    watch = ana.watch("SELECT value FROM thing")
    ana.execute("INSERT INTO thing VALUES ('c', 1)")
    more = watch.poll()
    ana.execute("UPDATE thing SET value = 1.0 WHERE id = 'a'")
    other = watch.poll()

    assert told(more) == ([], [(1,)])
    assert [repr(row) for row in (*other.removed, *other.added)] == ["(1,)", "(1.0,)"]


def test_the_first_event_after_a_restart_holds_what_changed_meanwhile(fleet):
    ana, ben = fleet["ana"], fleet["ben"]
    watch = ana.watch(ALL)
    ana.execute("INSERT INTO bird VALUES ('c', 3, '')")
    ben.execute("INSERT INTO bird VALUES ('d', 4, '')")
    fleet.meet("ana", "ben")
    event = watch.poll()
    ana.execute("DELETE FROM bird WHERE id = 'a'")
    ben.execute("UPDATE bird SET mass = 9 WHERE id = 'b'")
    ana = fleet.reopen("ana")
    fleet.meet("ana", "ben")
    again = ana.watch(ALL, since=map(str, event.heads))

    assert len(event.heads) == 2  # Neither change has seen the other.
    assert sorted(again.rows) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert told(again.poll()) == ([("a", 1), ("b", 2)], [("b", 9)])
    assert ana.watch(ALL, since=again._live._heads(), timeout=0).poll() is None


def test_since_one_change_is_since_what_that_change_had_seen(fleet):
    ana = fleet["ana"]
    change = ana.execute("INSERT INTO bird VALUES ('c', 3, '')").change
    ana.execute("DELETE FROM bird WHERE id = 'c'")
    ana.execute("INSERT INTO bird VALUES ('d', 4, '')")

    assert told(ana.watch(ALL, since=change).poll()) == ([("c", 3)], [("d", 4)])


@pytest.mark.parametrize("since", [ChangeId(bytes(32), 0), f"{'00' * 32}:0", "nothing", [ChangeId(bytes(32), 7)]])
def test_since_a_change_that_is_not_here_is_refused(fleet, since):
    with pytest.raises(UsageError):
        fleet["ana"].watch(ALL, since=since)


@pytest.mark.parametrize("sql", ["DELETE FROM bird", "PRAGMA table_info(bird)", "EXPLAIN SELECT 1", "SELECT", "BEGIN"])
def test_only_a_select_is_watched(fleet, sql):
    with pytest.raises(UsageError):
        fleet["ana"].watch(sql)


def test_a_transaction_is_told_of_when_it_is_committed_and_not_before(fleet):
    ana = fleet["ana"]
    watch = ana.watch(ALL, timeout=0)
    ana.execute("BEGIN")
    ana.execute("INSERT INTO bird VALUES ('c', 3, '')")
    with pytest.raises(UsageError, match="inside a transaction"):
        next(watch)
    ana.execute("ROLLBACK")
    assert list(watch) == []
    with ana.transaction():
        ana.execute("INSERT INTO bird VALUES ('c', 3, '')")
        ana.execute("DELETE FROM bird WHERE id = 'a'")

    assert [told(event) for event in watch] == [([("a", 1)], [("c", 3)])]


def insert_elsewhere(path, home, key):
    """Start another process that writes one row through klal."""
    return subprocess.Popen(
        [sys.executable, "-m", "klal", "sql", str(path), f"INSERT INTO bird VALUES ('{key}', 7, '')"],
        env={**os.environ, "KLAL_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
    )


def test_a_change_of_another_process_is_noticed(fleet):
    ana = fleet["ana"]
    watch = ana.watch(ALL, timeout=60)
    other = insert_elsewhere(ana.path, fleet.home.folder, "far")
    event = next(watch)
    other.wait()

    assert other.returncode == 0
    assert told(event) == ([], [("far", 7)])


def test_it_ends_when_nothing_came_in_time_and_when_the_replica_is_closed(fleet):
    ana = fleet["ana"]
    begun = time.monotonic()
    assert list(ana.watch(ALL, timeout=0.3)) == []
    assert time.monotonic() - begun >= 0.3

    watch = ana.watch(ALL)
    ana.close()
    assert list(watch) == []


def test_an_asynchronous_watch_wakes_at_once_and_holds_nothing_up(fleet, monkeypatch):
    monkeypatch.setattr(klal.polling, "POLL_S", 3600)
    ana = fleet["ana"]
    order = []
    late = ana.watch_async(ALL)

    async def consume(watch):
        async for event in watch:
            order.append(told(event))
            if len(order) == 3:
                break

    async def produce():
        await asyncio.sleep(0)
        ana.execute("INSERT INTO bird VALUES ('c', 3, '')")
        order.append("written")
        for _ in range(5):
            await asyncio.sleep(0)
        with ana.transaction():
            ana.execute("DELETE FROM bird WHERE id = 'a'")
            asker = asyncio.ensure_future(anext(late))
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(order) == 2
            assert not asker.done()
        assert told(await asker) == ([("a", 1)], [("c", 3)])

    async def main():
        async with asyncio.timeout(30):
            await asyncio.gather(consume(ana.watch_async(ALL)), produce())

    asyncio.run(main())

    assert order == ["written", ([], [("c", 3)]), ([("a", 1)], [])]
    assert ana._store._listeners == []
    ana.execute("INSERT INTO bird VALUES ('d', 4, '')")  # The loop is gone, and nobody minds.


def test_an_asynchronous_watch_sees_merges_and_other_processes_and_ends(fleet):
    ana, ben = fleet["ana"], fleet["ben"]

    async def main():
        watch = ben.watch_async(ALL, timeout=60)
        ana.execute("INSERT INTO bird VALUES ('c', 3, '')")
        fleet.gather()
        merged = await anext(watch)
        other = insert_elsewhere(ben.path, fleet.home.folder, "far")
        far = await anext(watch)
        other.wait()
        ended = [event async for event in ben.watch_async(ALL, timeout=0)]
        waiting = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0)
        ben.close()
        return told(merged), told(far), ended, await waiting

    assert asyncio.run(main()) == (([], [("c", 3)]), ([], [("far", 7)]), [], None)


def test_beginning_and_events_add_up_to_the_rows_of_the_query(fleet):
    """The law of the module, over local writes and merges in a drawn order."""
    dice = random.Random(7)
    ana, ben = fleet["ana"], fleet["ben"]
    watches = [ana.watch(sql) for sql in (ALL, "SELECT mass % 3 FROM bird", "SELECT count(*) FROM bird")]
    held = [Counter(watch.rows) for watch in watches]
    for _ in range(60):
        replica = dice.choice([ana, ben])
        key, mass = dice.choice("abcdefgh"), dice.randrange(9)
        sql = dice.choice(
            [
                "INSERT OR REPLACE INTO bird VALUES (?1, ?2, '')",
                "UPDATE bird SET mass = ?2 WHERE id = ?1",
                "DELETE FROM bird WHERE id = ?1 AND ?2",
            ]
        )
        replica.execute(sql, (key, mass))
        if dice.random() < 0.4:
            fleet.meet("ana", "ben")
        for number, watch in enumerate(watches):
            event = watch.poll() if dice.random() < 0.6 else None
            if event is not None:
                held[number].subtract(event.removed)
                held[number].update(event.added)
                assert +held[number] == Counter(ana.query(watch._live._sql))
                assert min(held[number].values()) >= 0


# -- conflicts ------------------------------------------------------------------------------


def disagree(fleet, key, sync):
    fleet["ana"].execute("UPDATE bird SET mass = 10 WHERE id = ?", (key,))
    fleet["ben"].execute("UPDATE bird SET mass = 20 WHERE id = ?", (key,))
    fleet.drop_by("ana")
    return sync()


def test_new_conflicts_are_told_after_the_merge_and_once(fleet):
    """MRG-6."""
    ben = fleet["ben"]
    calls = []
    end = ben.on_conflict(lambda new: calls.append((new, ben._store.in_transaction, ben.conflicts())))
    disagree(fleet, "a", lambda: ben.sync(fleet.share))
    ben.sync(fleet.share)
    disagree(fleet, "b", lambda: ben.sync(fleet.share))
    end()
    ben.execute("UPDATE bird SET mass = 30")
    fleet.drop_by("ben")
    fleet.drop_by("ana")
    disagree(fleet, "a", lambda: ben.sync(fleet.share))

    assert [[conflict.key for conflict in new] for new, _, _ in calls] == [[("a",)], [("b",)]]
    assert all(not in_transaction and set(new) <= set(now) for new, in_transaction, now in calls)


def test_what_a_callback_raises_is_the_callers_and_loses_nothing(fleet):
    """MRG-6."""
    ben = fleet["ben"]
    others = []

    def raises(_new):
        raise LookupError("mine")

    ben.on_conflict(raises)
    ben.on_conflict(others.extend)
    with pytest.raises(LookupError, match="mine"):
        disagree(fleet, "a", lambda: ben.sync(fleet.share))
    ben.sync(fleet.share)

    assert [conflict.key for conflict in ben.conflicts()] == [("a",)]
    assert others == ben.conflicts()
    ben.verify()


# -- the command ----------------------------------------------------------------------------


def test_the_command_prints_events_and_goes_on_where_one_ended(fleet, capsys, monkeypatch):
    monkeypatch.setenv("KLAL_HOME", str(fleet.home.folder))
    ana = fleet["ana"]
    path = str(ana.path)
    head = str(ana.log(limit=1)[0].change)
    ana.execute("UPDATE bird SET mass = 5 WHERE id = 'a'")
    ana.close()
    monkeypatch.setattr("klal.cli.app.open_replica", lambda path: fleet.open("ana", path))
    assert run(["watch", path, ALL, "--since", head[:12] + head[64:], "--once", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    event = json.loads(lines[0])
    assert run(["watch", path, ALL, "--since", head, "--timeout", "0"]) == 0
    shown = capsys.readouterr().out
    assert run(["watch", path, ALL, "--since", event["heads"][0], "--once", "--timeout", "0"]) == 3
    assert run(["watch", path, "DELETE FROM bird"]) == 2

    assert len(lines) == 1
    assert event["removed"] == [{"id": "a", "mass": 1}]
    assert event["added"] == [{"id": "a", "mass": 5}]
    assert event["heads"] == [event["change"]]
    assert [line.split() for line in shown.splitlines()[1:4]] == [["id", "mass"], ["-", "a", "1"], ["+", "a", "5"]]


def test_the_watch_is_part_of_the_public_face():
    assert klal.Event.__name__ == "Event"
