"""Speed against plain SQLite, as ratios inside one run: medians of interleaved repetitions.

    make bench                       100,000 and 1,000,000 rows of 6 columns
    .venv/bin/python bench/bench.py --rows 100000 --repeat 5

Each figure is (time or size with klal) / (the same with plain apsw in the same run), so a
slow or busy machine moves both. Results are kept in bench/results/.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw

import klal

RESULTS = Path(__file__).parent / "results"
COLUMNS = "id TEXT PRIMARY KEY, island TEXT, mass REAL, flipper INTEGER, seen TEXT, note TEXT"
INSERT = "INSERT INTO bird VALUES (?,?,?,?,?,?)"
UPDATE = "UPDATE bird SET mass = ? WHERE id = ?"
BARS: dict[str, float | None] = {
    "insert_many": 1.3,
    "sql_insert_one_transaction": 2.0,
    "apply_bulk_from_peer": 1.3,
    "single_row_commits_normal": 2.2,
    "single_row_updates_normal": None,
    "single_row_commits_full": 1.35,
    "file_size": 1.3,
    "open_ms": 30.0,
}


def rows_of(count: int) -> list[tuple[object, ...]]:
    """Return rows of about 72 bytes with ascending keys."""
    islands = ("Biscoe", "Dream", "Torgersen")
    return [
        (
            f"{i:016x}",
            islands[i % 3],
            2700.0 + (i * 37 % 3600),
            172 + i % 60,
            f"200{7 + i % 3}-11-{1 + i % 28:02d}",
            f"bird {i}",
        )
        for i in range(count)
    ]


class Place:
    """A fresh folder for one repetition, and the two databases in it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="klal-bench-"))

    def plain(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.folder / "plain.db"))
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "normal")
        connection.pragma("cache_size", -64 * 1024)
        connection.execute(f"CREATE TABLE bird({COLUMNS})")
        return connection

    def replica(self, name: str = "a") -> klal.Replica:
        replica = klal.create(self.folder / f"{name}.db", space="bench", member=name, home=self.folder / "home")
        replica.execute(f"CREATE TABLE bird({COLUMNS})")
        return replica

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of `clock` that `work` takes, with the garbage collector quiet."""
    gc.collect()
    gc.disable()
    try:
        start = clock()
        work()
        return clock() - start
    finally:
        gc.enable()


def machine() -> dict[str, object]:
    """Return what is kept beside every figure of where it was measured."""
    return {"python": platform.python_version(), "sqlite": apsw.sqlite_lib_version(), "cores": os.cpu_count()}


def save(name: str, kept: dict[str, object]) -> None:
    """Write the results of a benchmark to its file in bench/results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def plain_bulk(connection: apsw.Connection, rows: list[tuple[object, ...]]) -> None:
    with connection:
        connection.executemany(INSERT, rows)


def one_repetition(rows: list[tuple[object, ...]], commits: int) -> dict[str, float]:
    """Run every piece of work once, klal and plain, and return the ratios."""
    place = Place()
    figures: dict[str, float] = {}
    try:
        plain = place.plain()
        plain_time = timed(lambda: plain_bulk(plain, rows))
        plain.pragma("wal_checkpoint", "truncate")
        plain.close()
        plain_size = (place.folder / "plain.db").stat().st_size

        replica = place.replica()
        klal_time = timed(lambda: replica.insert_many("bird", rows))
        figures["insert_many"] = klal_time / plain_time
        ticket = replica.invite()
        replica.close()
        figures["file_size"] = (place.folder / "a.db").stat().st_size / plain_size

        opened: list[klal.Replica] = []
        figures["open_ms"] = 1000 * timed(
            lambda: opened.append(klal.open(place.folder / "a.db", home=place.folder / "home", member="a"))
        )
        opened[0].close()

        other = klal.join(place.folder / "b.db", ticket, member="b", home=place.folder / "home-b")
        figures["apply_bulk_from_peer"] = timed(lambda: other.sync(place.folder / "a.db")) / plain_time
        assert other.query("SELECT count(*) FROM bird") == [(len(rows),)]
        other.close()
    finally:
        place.remove()

    place = Place()
    try:
        plain = place.plain()
        plain_time = timed(lambda: plain_bulk(plain, rows))
        replica = place.replica()
        figures["sql_insert_one_transaction"] = timed(lambda: replica.executemany(INSERT, rows)) / plain_time
        figures.update(single_row_figures(plain, replica, commits))
        plain.close()
        replica.close()
    finally:
        place.remove()
    return figures


def single_row_figures(plain: apsw.Connection, replica: klal.Replica, commits: int) -> dict[str, float]:
    """Return the ratios for statements of one row, each its own commit."""
    new = [(f"x{i:015x}", "Dream", 3700.0, 190, "2009-11-16", "one") for i in range(commits)]
    durable = [(f"y{i:015x}", "Dream", 3700.0, 190, "2009-11-16", "one") for i in range(commits)]
    figures = {
        "single_row_commits_normal": commit_ratio(plain, replica, INSERT, new),
        "single_row_updates_normal": commit_ratio(
            plain, replica, UPDATE, [(2900.0 + i, new[i][0]) for i in range(commits)]
        ),
    }

    for connection in (plain, replica._store.connection):  # noqa: SLF001 - a replica has no setting for it
        connection.pragma("synchronous", "full")
    figures["single_row_commits_full"] = commit_ratio(plain, replica, INSERT, durable)
    return figures


def commit_ratio(plain: apsw.Connection, replica: klal.Replica, sql: str, bindings: list[tuple[object, ...]]) -> float:
    """Return the ratio for single-row statements, each its own commit, in alternating stretches."""

    def run_all(execute: Callable[..., object], part: list[tuple[object, ...]]) -> None:
        for row in part:
            execute(sql, row)

    ratios = []
    step = max(1, len(bindings) // 5)
    for start in range(0, len(bindings), step):
        part = bindings[start : start + step]
        klal_time = timed(lambda part=part: run_all(replica.execute, part))  # type: ignore[misc]
        ratios.append(klal_time / timed(lambda part=part: run_all(plain.execute, part)))  # type: ignore[misc]
    return statistics.median(ratios)


def main() -> None:
    """Run, print a table with the bars, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--commits", type=int, default=5000)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    kept: dict[str, object] = machine()
    for count in arguments.rows or [100_000, 1_000_000]:
        rows = rows_of(count)
        runs = [one_repetition(rows, arguments.commits) for _ in range(arguments.repeat)]
        medians = {name: statistics.median(run[name] for run in runs) for name in BARS}
        kept[str(count)] = {
            name: {"median": round(medians[name], 3), "runs": [round(run[name], 3) for run in runs]} for name in BARS
        }
        print(f"\n{count:,} rows, median of {arguments.repeat}")
        for name, bar in BARS.items():
            verdict = "" if bar is None else f"bar {bar:6.2f}   {'within' if medians[name] <= bar else 'ABOVE'}"
            print(f"  {name:30} {medians[name]:8.2f}   {verdict}")
    if not arguments.no_save:
        save("speed.json", kept)


if __name__ == "__main__":
    main()
