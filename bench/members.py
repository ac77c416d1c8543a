"""An epoch of very many members, closed by the engine in one real file.

    make bench                                           600,000 members, each with its own key, log and change
    .venv/bin/python -m bench.members --members 10000

"made" is what the members' own replicas would have done: keys, joins, rows, Closes and seals, in this one process.
"taken in" is the door of a session, "applied" judges and merges every change, "finished" is the founder's Close, which
joins all of their heads and from which the certificate follows. "checked" is what one does who was given only the
certificate. "named" is everybody's receipt that names it, and "closed" the look that finds them all. Times are those
that this process spends on a core. Results are kept in bench/results/.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import klal
from bench.bench import Place, machine, save
from klal.model.certificate import check_certificate
from klal.model.ticket import decode_ticket
from tests.helpers.many import TABLE, Many, batches, receipts, take_in, take_receipts

BAR = 0.1  # W22: checking costs under a tenth of making the whole.
BATCH_COUNT = 10_000
COMMITS_PER_LINE = 50


class Clock:
    """What each phase has cost, and a line about the one that runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        self.tell(name)

    def tell(self, name: str, done: str = "") -> None:
        spent = sum(self.seconds.values())
        print(f"  {name:10} {done:>12} {spent:8.0f} s in all, {peak_mb():7.0f} MB", file=sys.stderr, flush=True)


def peak_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(member_count: int) -> dict[str, float]:
    """Close one epoch of so many members beside its founder, and return what it cost."""
    place, clock = Place(), Clock()
    path = place.folder / "founder.db"
    try:
        with klal.create(path, space="bench", member="founder", home=place.folder / "home") as founder:
            founder.execute(TABLE)
            store = founder._store  # noqa: SLF001 - a session's door, without a file for each member
            many = Many(store, decode_ticket(founder.invite(use_count_max=member_count)))
            for numbers in batches(member_count, BATCH_COUNT):
                with clock.phase("made"):
                    newcomers = [many.newcomer(number) for number in numbers]
                with clock.phase("taken in"):
                    take_in(store, newcomers)
            commits = iter(range(1 << 62))

            def tell() -> None:
                if not next(commits) % COMMITS_PER_LINE:
                    clock.tell("applied", f"{sum(log.applied_length for log in store.history.logs.values()):,}")

            end = store.listen(tell)
            with clock.phase("applied"):
                store.apply_ready()
            end()
            with clock.phase("finished"):
                founder.finish()
            closed = founder.close_epoch(0)
            data = closed.certificate.encode()
            whole = sum(clock.seconds.values())
            with clock.phase("checked"):
                certificate_hash = check_certificate(data).hash
            for numbers in batches(member_count, BATCH_COUNT):
                with clock.phase("named"):
                    take_receipts(store, receipts(store, many, numbers, certificate_hash))
            with clock.phase("closed"):
                state = founder.close_epoch(0).state
            assert state == "closed", "everybody's receipt names the certificate"
        kept = {f"{name.replace(' ', '_')}_seconds": round(value, 2) for name, value in clock.seconds.items()}
        return kept | {
            "members": closed.certificate.body.member_count,
            "changes": closed.certificate.body.change_count,
            "whole_seconds": round(whole, 1),
            "whole_ms_per_member": round(1000 * whole / member_count, 2),
            "W22_check_to_whole": round(clock.seconds["checked"] / whole, 4),
            "peak_memory_mb": round(peak_mb()),
            "file_bytes": path.stat().st_size,
            "certificate_bytes": len(data),
        }
    finally:
        place.remove()


def main() -> None:
    """Run, print the figures beside the bar, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=600_000)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    figures = measured(arguments.members)
    for name, value in figures.items():
        note = f"   bar {BAR}   {'within' if value <= BAR else 'ABOVE'}" if name.startswith("W22") else ""
        print(f"  {name:24} {value:>14,}{note}")
    if not arguments.no_save:
        save("members.json", machine() | figures)


if __name__ == "__main__":
    main()
