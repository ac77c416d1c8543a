"""How soon a newcomer can read, and is whole: by snapshot and then history, as ratios to plain insertion of the rows.

Three times, each from nothing: until the rows of the newest close can be read, until they are checked against the
root that the certificate names, and until history is here and applied and every row follows from it. Beside them what
making the snapshot took, once, for all newcomers (W22). Times are of the processor of this process, since a machine
that does other things too moves wall times more than the ratio; bytes are those of the frames.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from functools import partial

import klal
from bench import INSERT, Place, machine, rows_of, save, timed
from klal.file_station import FileStation
from klal.sync.snapshot import Asker, Giver

BARS = {"readable": 0.5, "certified": 1.2}


def plain_insertion(place: Place, rows: list[tuple[object, ...]]) -> float:
    """Return how long plain SQLite takes to insert the rows into a new file."""
    (place.folder / "plain.db").unlink(missing_ok=True)
    connection = place.plain()

    def insert() -> None:
        with connection:
            connection.executemany(INSERT, rows)

    took = timed(insert, time.process_time)
    connection.close()
    return took


def by_snapshot(newcomer: klal.Replica, source: klal.Replica) -> dict[str, float]:
    """Fetch, open and check a snapshot; return when each was done, and the bytes that came."""
    store = newcomer._store  # noqa: SLF001 - each step is timed by itself, and `sync` takes them all
    station, giver = FileStation(store), FileStation(source._store)  # noqa: SLF001 - as above
    begun = time.process_time()
    readable: list[float] = []
    ended = store.listen(
        lambda: readable.append(time.process_time()) if newcomer.snapshot.get().state == "unchecked" else None
    )
    asker, answers = Asker(station, "source"), Giver(giver, source.space_id)
    question: bytes | None = asker.begin()
    byte_count = 0
    while question:
        answer: bytes | None = b""
        for frame in answers.receive(question):
            byte_count += len(frame)
            answer = asker.receive(frame)
        question = answer
    done = time.process_time()
    ended()
    assert newcomer.snapshot.get().state == "certified"
    return {"readable": readable[0] - begun, "certified": done - begun, "bytes": byte_count}


def measured(row_count: int, per_change: int, repeat: int) -> dict[str, float]:
    """Close an epoch of rows, let newcomers come, and return medians: ratios to plain insertion, and sizes."""
    place, rows = Place(), rows_of(row_count)
    found: dict[str, list[float]] = {}
    try:
        source = place.replica("ana")
        for start in range(0, row_count, per_change):
            source.insert_many("bird", rows[start : start + per_change])
        source.finish()
        made = timed(source.snapshot.make, time.process_time)
        for number in range(repeat):
            gc.collect()
            plain = plain_insertion(place, rows)
            path = place.folder / f"newcomer-{number}.db"
            newcomer = klal.join(path, source.invite(), member=f"n{number}", home=place.folder / "home")
            times = by_snapshot(newcomer, source)
            byte_count = times.pop("bytes")
            assert newcomer.snapshot.query("SELECT count(*) FROM bird") == [(row_count,)]
            times["whole"] = times["certified"] + timed(partial(newcomer.sync, source.path), time.process_time)
            assert newcomer.status().standing == "whole"
            newcomer.close()
            straight = klal.join(
                place.folder / f"straight-{number}.db", source.invite(), member=f"s{number}", home=place.folder / "home"
            )
            source.snapshot.forget()
            times["whole_without"] = timed(partial(straight.sync, source.path), time.process_time)
            source.snapshot.make()
            straight.close()
            for name, took in (*times.items(), ("making", made)):
                found.setdefault(name, []).append(took / plain)
            found.setdefault("plain_s", []).append(plain)
            found.setdefault("bytes_per_row", []).append(byte_count / row_count)
            path.unlink()
        source.close()
        return {name: statistics.median(values) for name, values in found.items()}
    finally:
        place.remove()


def main() -> None:
    """Run, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--per-change", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    kept: dict[str, object] = machine() | {"per_change": arguments.per_change}
    for count in arguments.rows:
        figures = measured(count, arguments.per_change, arguments.repeat)
        kept[f"{count}_rows"] = {name: round(value, 3) for name, value in figures.items()}
        print(f"\n{count:,} rows, {arguments.per_change:,} to a change, times as ratios to plain insertion")
        for name, value in figures.items():
            bar = f"   bar {BARS[name]}" if name in BARS else ""
            print(f"  {name:16} {value:10.3f}{bar}")
    if not arguments.no_save:
        save("newcomer.json", kept)


if __name__ == "__main__":
    main()
