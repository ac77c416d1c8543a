"""A writer is killed at any instant, again and again, on one file: what it said it stored is there, whole (S48, W9).

What one number of one log once named outside of the file, it names for ever.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import klal
from klal.rules.merge import ChangeRef

SCRIPT = Path(__file__).parents[1] / "helpers" / "killed_writer.py"


class Bench:
    """One file that is written by processes that get killed, and a witness who has seen all that left it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ana.db"
        self.home = folder / "home"
        self.folder = folder / "shared"
        self.folder.mkdir()
        with klal.create(self.path, space="s", member="ana", home=self.home) as ana:
            ana.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER)")
            ticket = ana.invite()
        # The witness never finishes, so epochs stay open and the writer has to go round them.
        self.ben = klal.join(folder / "ben.db", ticket, member="ben", home=folder / "ben")
        self.ben.sync(self.folder)
        self.seen: dict[tuple[str, int], bytes] = {}
        self.said: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.cut_in: dict[str, int] = {}
        self.starter = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.path), str(self.home), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            text=True,
        )

    def close(self):
        self.starter.stdin.close()
        self.starter.wait()
        self.ben.close()

    def kill_one(self, order, after_s=None):
        """Have a process write, kill it after a while or let it kill itself; return what it said, and keep it."""
        self.starter.stdin.write(f"{order}\n")
        self.starter.stdin.flush()
        lines = [self.starter.stdout.readline()]
        while "pid" not in json.loads(lines[-1]):
            lines.append(self.starter.stdout.readline())
        if after_s is not None:
            time.sleep(after_s)
            os.kill(json.loads(lines[-1])["pid"], signal.SIGKILL)
        while '"ended"' not in lines[-1]:
            lines.append(self.starter.stdout.readline())
        assert json.loads(lines.pop()) == {"ended": signal.SIGKILL}, "the writer ended by itself"
        step = "open"
        for line in lines:
            word = parsed(line)
            step = word.get("step", step)
            if "change" in word:
                rows = word.get("rows", {})
                if "bulk" in word:
                    prefix, count, value = word["bulk"]
                    rows = {f"{prefix}.{number}": value for number in range(count)}
                self.said[word["change"]] = sum(value is not None for value in rows.values())
                self.rows.update(rows)
        self.cut_in[step] = self.cut_in.get(step, 0) + 1
        return [parsed(line) for line in lines]

    def check(self, serial):
        """Open the file as the killed writer left it: everything said is there, whole, and it goes on."""
        with klal.open(self.path, home=self.home) as ana:
            ana.verify()
            entries = {str(entry.change): entry.tables for entry in ana.log()}
            assert self.said.keys() <= entries.keys()
            assert all(entries[change].get("t", 0) >= count for change, count in self.said.items())
            self.check_no_gap(entries)
            held = dict(ana.query("SELECT k, v FROM t"))
            gone = {key for key, value in self.rows.items() if held.get(key) != value}
            # A delete that was committed, and cut off before it was said, takes its rows.
            assert len(gone) <= 3
            assert not gone & held.keys()
            self.rows.update(dict.fromkeys(gone))
            key = f"check {serial}"
            result = ana.execute("INSERT INTO t VALUES (?, 1)", (key,))
            self.said[str(result.change)] = self.rows[key] = 1
            ana.sync(self.folder)
            root = ana.status().root
        self.witness()
        assert self.ben.status().root == root

    def check_no_gap(self, entries):
        numbers: dict[str, list[int]] = {}
        for change in entries:
            log, _, seq = change.partition(":")
            numbers.setdefault(log, []).append(int(seq))
        for found in numbers.values():
            assert sorted(found) == list(range(len(found)))

    def witness(self):
        """Take what lies in the folder: a number that now names something else would be a fork."""
        report = self.ben.sync(self.folder)
        assert report.refused == ()
        history = self.ben._store.history
        for log in history.logs.values():
            for seq in range(log.length):
                place = (log.log_id.hex(), seq)
                if place not in self.seen or seq == log.length - 1:
                    hashed = history.hash_at(ChangeRef(log.log, seq))
                    assert self.seen.setdefault(place, hashed) == hashed
        assert self.ben._store.connection.execute("SELECT count(*) FROM klal_forks").get == 0


def parsed(line):
    """Return what a line says; a line that was cut off says nothing."""
    try:
        return json.loads(line)
    except ValueError:
        return {}


def kill_often(folder, count, seed):
    bench = Bench(folder)
    dice = random.Random(seed)
    try:
        for serial in range(count):
            bench.kill_one(dice.getrandbits(32), dice.choice([0.01, 0.05, 0.2, 0.3]) * dice.random())
            bench.check(serial)
        bench.ben.verify()
    finally:
        bench.close()
    return bench


@pytest.mark.parametrize("seed", range(4))
def test_a_writer_killed_at_any_instant_keeps_all_it_said_and_nothing_by_half(tmp_path, seed):
    """S48 W9 T51: durable when said, no gap, no half change, no number used twice."""
    bench = kill_often(tmp_path, 16, seed)

    assert bench.said
    assert len(bench.cut_in) > 1


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("step", "stride"),
    [
        ("first_row", 1),
        ("one_row", 1),
        ("transaction", 9),
        ("large", 2),
        ("delete", 1),
        ("reopen", 3),
        ("finish", 29),
        ("sync", 31),
        pytest.param("transaction", 1, marks=pytest.mark.soak),
        pytest.param("large", 1, marks=pytest.mark.soak),
        pytest.param("finish", 1, marks=pytest.mark.soak),
        pytest.param("sync", 3, marks=pytest.mark.soak),
    ],
)
def test_a_writer_killed_between_any_two_calls_keeps_all_it_said_and_nothing_by_half(tmp_path, step, stride):
    """S48 W9: before every statement that SQLite runs for it and every file it writes, or every few of them."""
    bench = Bench(tmp_path)
    try:
        for serial in itertools.count():
            words = bench.kill_one(f"{serial} {step} {serial * stride}")
            bench.check(serial)
            if {"done": True} in words:
                break
            if step == "finish":  # A member finishes an epoch once.
                bench.close()
                (tmp_path / str(serial)).mkdir()
                bench = Bench(tmp_path / str(serial))
        bench.ben.verify()
    finally:
        bench.close()

    assert serial > 1, "nothing was cut"


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_writer_killed_hundreds_of_times_keeps_all_it_said(tmp_path, seed):
    """S48 W9 T51."""
    bench = kill_often(tmp_path, 50, seed)

    assert {"open", "one_row", "many_rows", "transaction", "sync", "reopen"} <= set(bench.cut_in)
