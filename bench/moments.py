"""What a look at the past costs, as a ratio to the same query of now: medians of interleaved repetitions.

    make bench                                   1,000,000 rows, 100,000 single-row updates since
    .venv/bin/python bench/moments.py --rows 100000 --updates 10000 --repeat 5

A moment is opened anew for every repetition, so its figure is that of the first question: reading the log,
working out the rows that were different, and the query itself. "again" is the second question of the same moment.
Times are those that this process spends on a core: all of it is one thread's work, and a busy machine would count
twice, once for each side of a ratio and unevenly.
The updates are made twice: 100 to a change, and each a change of its own. Results are kept in bench/results/.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import klal
from bench import COLUMNS, Place, machine, rows_of, save, timed

QUERY = "SELECT sum(mass), count(*) FROM bird"
POINT = "SELECT * FROM bird WHERE id = ?"
BAR = 10.0
FORMS = {"100 updates to a change": 100, "1 update to a change": 1}


def updated(place: Place, row_count: int, update_count: int, per_change: int) -> tuple[klal.Replica, klal.ChangeId]:
    """Return a replica with rows and then updates of single rows, and the change before those."""
    replica = klal.create(place.folder / "a.db", space="bench", member="a", home=place.folder / "home")
    replica.execute(f"CREATE TABLE bird({COLUMNS})")
    loaded = replica.insert_many("bird", rows_of(row_count)).change
    assert loaded is not None
    dice = random.Random(1)
    updates = [(float(i) + 0.5, f"{dice.randrange(row_count):016x}") for i in range(update_count)]
    for start in range(0, update_count, per_change):
        replica.executemany("UPDATE bird SET mass = ? WHERE id = ?", updates[start : start + per_change])
    return replica, loaded


def measured(row_count: int, update_count: int, per_change: int, repeat: int) -> dict[str, float]:
    """Return medians in seconds, and the ratios to a query of now."""
    place = Place()
    replica, moment = updated(place, row_count, update_count, per_change)
    want = [(sum(row[2] for row in rows_of(row_count)), row_count)]  # type: ignore[misc]
    figures: dict[str, list[float]] = {"now": [], "then": [], "again": [], "point": []}
    try:
        replica.query(QUERY)
        for _ in range(repeat):
            figures["now"].append(timed(lambda: replica.query(QUERY), time.process_time))
            opened: list[klal.Moment] = []

            def look(opened: list[klal.Moment] = opened) -> None:
                opened.append(replica.at(moment))
                assert opened[0].query(QUERY) == want

            figures["then"].append(timed(look, time.process_time))
            then = opened[0]
            figures["again"].append(timed(lambda then=then: then.query(QUERY), time.process_time))  # type: ignore[misc]
            figures["point"].append(timed(lambda then=then: then.query(POINT, (f"{7:016x}",)), time.process_time))  # type: ignore[misc]
            then.close()
    finally:
        replica.close()
        place.remove()
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return {
        "now_seconds": round(medians["now"], 4),
        "then_seconds": round(medians["then"], 4),
        "W14_first_query_of_then_to_now": round(medians["then"] / medians["now"], 2),
        "next_query_of_then_to_now": round(medians["again"] / medians["now"], 2),
        "one_row_of_then_ms": round(1000 * medians["point"], 3),
    }


def main() -> None:
    """Run, print the figures beside the bar, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    kept: dict[str, object] = machine() | {
        "rows": arguments.rows,
        "updates_since": arguments.updates,
    }
    print(f"a moment {arguments.updates:,} updates back, {arguments.rows:,} rows, median of {arguments.repeat}")
    for form, per_change in FORMS.items():
        figures = measured(arguments.rows, arguments.updates, per_change, arguments.repeat)
        kept[form] = figures
        ratio = figures["W14_first_query_of_then_to_now"]
        print(f"  {form:26} {ratio:6.2f}   bar {BAR:5.2f}   {'within' if ratio <= BAR else 'ABOVE'}")
        for name, value in figures.items():
            print(f"      {name:34} {value}")
    if not arguments.no_save:
        save("moments.json", kept)


if __name__ == "__main__":
    main()
