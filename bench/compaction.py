"""How small a file becomes: many small updates over three epochs, before and after compaction, beside a plain file.

Two members write by turns into one table; the one who compacts relies on the other's copy. Sizes are of files after
VACUUM, so that they compare what must be stored. Times are wall times.
"""

from __future__ import annotations

import argparse
import random
from contextlib import suppress
from pathlib import Path

import apsw

import klal
from bench import COLUMNS, INSERT, UPDATE, Place, machine, rows_of, save, timed
from klal.errors import IncompleteError


def vacuumed(path: Path) -> int:
    """Return the size of a copy of a file, without free pages."""
    copy = path.with_name("vacuumed.db")
    copy.unlink(missing_ok=True)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()
    size = copy.stat().st_size
    copy.unlink()
    return size


def plain_size(path: Path, rows: list[tuple[object, ...]]) -> int:
    """Return the size of a plain SQLite file with just these rows."""
    connection = apsw.Connection(str(path))
    connection.execute(f"CREATE TABLE bird({COLUMNS})")
    with connection:
        connection.executemany(INSERT, rows)
    connection.close()
    return vacuumed(path)


def measured(row_count: int, update_count: int, per_change: int) -> dict[str, float]:
    """Write three epochs, close them, compact, and return sizes as ratios to a plain file, and times in seconds."""
    place, dice = Place(), random.Random(1)
    try:
        ana = place.replica("ana")
        ana.insert_many("bird", rows_of(row_count))
        ben = klal.join(place.folder / "ben.db", ana.invite(), member="ben", home=place.folder / "home")
        for _ in range(3):
            for replica, other in ((ana, ben), (ben, ana)):
                for _ in range(update_count // 2 // per_change):
                    with replica.transaction():
                        for _ in range(per_change):
                            replica.execute(UPDATE, (dice.random() * 5000, f"{dice.randrange(row_count):016x}"))
                replica.sync(other.path)
            ana.finish()
            ana.sync(ben.path)
            ben.finish()
            ben.sync(ana.path)
            ana.sync(ben.path)
        before = vacuumed(ana.path)
        figures = {"verify_s": timed(ana.verify)}
        with suppress(IncompleteError):
            ana.compact(keep=1)
        for _ in range(2):  # There with the question, and back with the answer.
            ana.sync(ben.path)
        figures["compact_s"] = timed(lambda: ana.compact(keep=1))
        figures["verify_compacted_s"] = timed(ana.verify)
        change_count = ana.coverage().held
        plain = plain_size(place.folder / "plain.db", list(ana.query("SELECT * FROM bird")))
        image = ana.query("SELECT sum(length(data)) FROM klal_base")[0][0]
        ana.close()
        ben.close()
        after = vacuumed(place.folder / "ana.db")
        return figures | {
            "plain_bytes": plain,
            "changes": change_count,
            "before": before / plain,
            "after": after / plain,
            "image": image / plain,
            "headers_bytes_each": (after - plain - image) / change_count,
        }
    finally:
        place.remove()


def main() -> None:
    """Run, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    kept: dict[str, object] = machine() | {"rows": arguments.rows, "updates_per_epoch": arguments.updates}
    for per_change in (1, 100):
        found = measured(arguments.rows, arguments.updates, per_change)
        kept[f"{per_change}_to_a_change"] = {name: round(value, 3) for name, value in found.items()}
        print(f"\n{arguments.updates:,} updates an epoch, {per_change} to a change, {arguments.rows:,} rows")
        for name, value in found.items():
            print(f"  {name:24} {value:14,.2f}")
    if not arguments.no_save:
        save("compaction.json", kept)


if __name__ == "__main__":
    main()
