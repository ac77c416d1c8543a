"""Whoever puts old payloads down shows, merges and certifies what those do who keep everything."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from klal.errors import IncompleteError, KlalError
from klal.replica import Replica
from tests.helpers.fleet import Fleet, all_agree, answers_of, certificates_of, scratch
from tests.laws.test_any_order import run_step, started, steps

RING = "CREATE TABLE ring(id TEXT PRIMARY KEY, code TEXT UNIQUE, mass INTEGER)"
SITE_WRITE = (
    "UPDATE site SET nests = nests + :mass, notes = notes || :code, tags = json_insert(tags, '$[#]', :code)"
    " WHERE id = 'k1'"
)
LATE = "CREATE UNIQUE INDEX one_mass ON ring(mass)"

ring_writes = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "INSERT OR IGNORE INTO ring(id, code, mass) VALUES(:id, :code, :mass)",
                "UPDATE OR IGNORE ring SET code = :code WHERE id = :id",
                "UPDATE OR IGNORE ring SET mass = :mass WHERE id = :id",
                "DELETE FROM ring WHERE id = :id",
                SITE_WRITE,
                "INSERT OR IGNORE INTO bird(id, mass, note) VALUES(:id, :mass, :code)",
                "UPDATE bird SET mass = :mass, note = :code",
                "DELETE FROM bird WHERE mass = :mass",
                LATE,
                "DROP TABLE bird",
                "ALTER TABLE bird DROP COLUMN note",
            )
        ),
        st.fixed_dictionaries(
            {
                "id": st.sampled_from(("k1", "k2", "r1", "r2")),
                "code": st.sampled_from(("A", "B", "C")),
                "mass": st.integers(0, 3),
            }
        ),
    ),
    max_size=5,
)


def write(replica: Replica, writes: list[tuple[str, dict[str, Any]]]) -> None:
    for sql, values in writes:
        with suppress(KlalError):  # What SQLite or klal refuses here was not to be.
            replica.execute(sql, values if sql.startswith(("INSERT", "UPDATE", "DELETE")) else ())


def run_steps(fleet: Fleet, drawn: list[tuple[Any, ...]]) -> None:
    for step in drawn:
        if step[0] != "reopen":
            with suppress(KlalError):
                run_step(fleet, step)


def close_epoch(fleet: Fleet) -> None:
    """Let everybody finish as far as anybody has, and then one epoch more."""
    members = [replica for name, replica in fleet.replicas.items() if name != "ben again"]
    last = max(replica._store.writer.epoch for replica in members)
    for epoch in range(last + 1):
        fleet.gather()
        for replica in members:
            if replica._store.writer.epoch <= epoch:
                replica.finish()
    fleet.gather()
    assert not any(replica.status().parked for replica in fleet.replicas.values())


def compacted(fleet: Fleet, name: str, keep: int = 2) -> None:
    """Compact a replica, however often it must ask."""
    with suppress(IncompleteError):
        fleet[name].compact(keep=keep, anyway=True)
    fleet.gather()
    fleet[name].compact(keep=keep, anyway=True)


@given(steps, ring_writes, ring_writes, ring_writes, steps, st.sampled_from(("dan", "ana", "cal")))
@settings(max_examples=5)
def test_whoever_compacts_and_whoever_does_not_come_to_the_same(
    early: list[tuple[Any, ...]],
    strayed: list[tuple[str, dict[str, Any]]],
    unmet: list[tuple[str, dict[str, Any]]],
    known: list[tuple[str, dict[str, Any]]],
    late: list[tuple[Any, ...]],
    first: str,
) -> None:
    """W14 D17 S54, CMP-2 to CMP-5: also when work comes late that had seen nothing of what was put down."""
    with scratch() as folder, Fleet(folder) as fleet:
        started(fleet, RING)
        copy = folder / "copy.db"
        fleet["ben"].backup(copy)
        run_steps(fleet, early)
        write(fleet["cal"], known)
        close_epoch(fleet)
        compacted(fleet, "dan")
        fleet["dan"].verify()

        run_steps(fleet, late)
        fleet.join("eve")
        write(fleet["eve"], unmet)
        # Another file of ben's, made from an old copy, writes what it had not seen.
        fleet.replicas["ben again"] = fleet.guest("ben", copy)
        write(fleet["ben again"], strayed)
        for stray in ("ben again", "eve"):
            fleet.meet(first, stray)
            fleet["dan"].verify()
        fleet[first].admit("eve")
        close_epoch(fleet)

        all_agree(fleet, lambda replica: (answers_of(replica)[:3], [c.hash for c in certificates_of(replica)]))
        assert len(certificates_of(fleet["dan"])) >= 2
        for replica in fleet.replicas.values():
            replica.verify()
        assert fleet["dan"].status().standing == "part"
