"""Merging many small changes, against plain SQLite: 20,000 changes of a peer, each of one row.

    make bench                       in a table of 100,000 and of 1,000,000 rows
    .venv/bin/python bench/merge.py --rows 1000000 --repeat 5

Plain is one executemany of the same updates, in one transaction, on a file that was just
opened. A sync is all of it: reading and sending on the other side, checking, storing,
ordering, merging, two commits and a receipt. Keys are drawn at random, so a few of every
hundred meet a change that was made here at the same time.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time

import apsw

import klal
from bench import BARS, INSERT, Place, machine, rows_of, save, timed

UPDATE = "UPDATE bird SET mass = ? WHERE id = ?"
MERGE_BARS = {"merge_20k_small": 1.5, "apply_20k_small_no_concurrency": 1.5}
assert not BARS.keys() & MERGE_BARS.keys(), "each figure has one name"

Update = tuple[float, str]


def drawn(dice: random.Random, row_count: int, count: int, first: float) -> list[Update]:
    """Return updates of as many different rows, each with a value of its own."""
    return [(first + i, f"{key:016x}") for i, key in enumerate(dice.sample(range(row_count), count))]


class Fleet:
    """Two replicas and a plain file with the same rows."""

    def __init__(self, row_count: int) -> None:
        self.place = Place()
        self.folder = self.place.folder
        rows = rows_of(row_count)
        with self.place.plain() as plain:
            plain.executemany(INSERT, rows)
        plain.close()
        ana = self.place.replica()
        ana.insert_many("bird", rows)
        ticket = ana.invite()
        ana.close()
        ben = klal.join(self.folder / "b.db", ticket, member="b", home=self.folder / "home-b")
        ben.sync(self.folder / "a.db")
        ben.close()

    def ana(self) -> klal.Replica:
        return klal.open(self.folder / "a.db", home=self.folder / "home", member="a")

    def ben(self) -> klal.Replica:
        return klal.open(self.folder / "b.db", home=self.folder / "home-b", member="b")

    def write(self, replica: klal.Replica, updates: list[Update]) -> None:
        for update in updates:
            replica.execute(UPDATE, update)
        replica.close()

    def plain_times(self, updates: list[Update]) -> tuple[float, float]:
        """Return (wall, processor) seconds per update."""
        plain = apsw.Connection(str(self.folder / "plain.db"))
        plain.pragma("cache_size", -64 * 1024)
        plain.pragma("synchronous", "normal")

        def run() -> None:
            with plain:
                plain.executemany(UPDATE, updates)

        start = time.process_time()
        wall = timed(run)
        spent = time.process_time() - start
        plain.close()
        return wall / len(updates), spent / len(updates)

    def sync_times(self, count: int) -> tuple[float, float, int]:
        """Return (wall, processor) seconds per change, and the conflicts there are afterwards."""
        ben = self.ben()
        start = time.process_time()
        wall = timed(lambda: ben.sync(self.folder / "a.db"))
        spent = time.process_time() - start
        ((conflicts,),) = ben.query("SELECT count(*) FROM klal_conflicts")
        ben.close()
        return wall / count, spent / count, conflicts


def one_repetition(row_count: int, count: int, seed: int) -> dict[str, float]:
    """Return the ratios, and microseconds per change, of one repetition."""
    dice = random.Random(seed)
    fleet = Fleet(row_count)
    figures: dict[str, float] = {}
    try:
        for name in ("apply_20k_small_no_concurrency", "merge_20k_small"):
            theirs = drawn(dice, row_count, count, 5000.5)
            mine = drawn(dice, row_count, count, 9000.5 + count) if name == "merge_20k_small" else []
            fleet.write(fleet.ana(), theirs)
            fleet.write(fleet.ben(), mine)
            gc.collect()
            plain, plain_spent = fleet.plain_times(theirs)
            wall, spent, conflicts = fleet.sync_times(count)
            met = {key for _, key in theirs} & {key for _, key in mine}
            assert conflicts == len(met), f"{conflicts} conflicts, want {len(met)}"
            figures[name] = wall / plain
            figures[f"{name}_plain_us"] = plain * 1e6
            figures[f"{name}_us"] = wall * 1e6
            figures[f"{name}_processor"] = spent / plain_spent
        figures["conflicts"] = conflicts
    finally:
        fleet.place.remove()
    return figures


def main() -> None:
    """Run, print a table with the bars, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    kept: dict[str, object] = machine() | {
        "changes": arguments.changes,
    }
    for row_count in arguments.rows or [100_000, 1_000_000]:
        runs = [one_repetition(row_count, arguments.changes, seed) for seed in range(arguments.repeat)]
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        kept[str(row_count)] = {
            name: {"median": round(medians[name], 3), "runs": [round(run[name], 3) for run in runs]} for name in medians
        }
        print(f"\n{arguments.changes:,} changes into {row_count:,} rows, median of {arguments.repeat}")
        for name, bar in MERGE_BARS.items():
            verdict = "within" if medians[name] <= bar else "ABOVE"
            print(f"  {name:32} {medians[name]:8.2f}   bar {bar:6.2f}   {verdict}")
        for name in sorted(medians.keys() - MERGE_BARS.keys()):
            print(f"  {name:46} {medians[name]:8.2f}")
    if not arguments.no_save:
        save("merge.json", kept)


if __name__ == "__main__":
    main()
