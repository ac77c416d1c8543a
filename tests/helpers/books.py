"""A little fleet whose books were closed four times, and everything that can be proved of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klal.model.certificate import Certificate
from klal.model.proof import Proof
from klal.replica import Replica
from tests.helpers.fleet import BIRD, Fleet, certificates_of

NAMES = ("ana", "ben", "cal")
EPOCH_COUNT = 4


@contextmanager
def books(folder: Path) -> Iterator[Fleet]:
    """Give three members with four closed epochs, `cal` there from the second on, and work after the last."""
    with Fleet(folder) as fleet:
        fleet.found("ana", BIRD, "CREATE TABLE visit(day TEXT, place TEXT, PRIMARY KEY(day, place))")
        fleet.join("ben")
        for epoch in range(EPOCH_COUNT):
            if epoch == 1:
                fleet.join("cal", fleet["ben"].invite())
                fleet["ana"].execute("ALTER TABLE bird ADD COLUMN ring TEXT DEFAULT '-'")
                fleet.gather()
            for name in fleet.names:
                fleet[name].execute("INSERT INTO bird(id, mass) VALUES(?, ?)", (f"{name}-{epoch}", 1000 + epoch))
            fleet["ana"].execute("INSERT INTO visit VALUES(?, 'Dream')", (f"Day {epoch}",))
            fleet.close_epoch()
        fleet["ana"].execute("INSERT INTO bird(id, mass) VALUES('after', 1)")
        fleet["ben"].execute("UPDATE bird SET mass = 7 WHERE id = 'ana-0'")
        fleet.gather()
        yield fleet


def chain_of(replica: Replica) -> list[Certificate]:
    """Return the certificates of all closed epochs."""
    return list(certificates_of(replica))


def proofs_of(replica: Replica) -> dict[str, Proof]:
    """Return one proof of each kind, by a name for it."""
    changes = [entry.change for entry in replica.log() if entry.tables.get("bird")]
    oldest, newest = changes[-1], next(c for c in changes if c.log_id == replica.log_id and _is_certified(replica, c))
    prove = replica.prove
    return {
        "change": prove.change(newest),
        "old change": prove.change(oldest),
        "change with its payload": prove.change(newest, with_payload=True),
        "row": prove.row("bird", "ben-2"),
        "row of a key of two columns": prove.row("visit", ("Day 1", "Dream"), epoch=2),
        "absent between two": prove.row("bird", "ben-"),
        "absent at the end": prove.row("visit", ("x", "y")),
        "member": prove.member("cal"),
        "named": prove.named(),
        "named since": prove.named(since=1),
    }


def _is_certified(replica: Replica, change: object) -> bool:
    return next(entry.epoch for entry in replica.log() if entry.change == change) < EPOCH_COUNT
