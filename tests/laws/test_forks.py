"""A log that forked goes on as its branches, on every replica alike, in whatever order they met (LOG-4, LOG-7, W15).

Branches are made as people make them: a machine is brought back with its file and its keys, and both go on. Machines
are drawn from any moment, so that there are forks of forks, and forks found after later ones.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from klal.replica import Replica
from tests.helpers.fleet import BIRD, Fleet, all_agree, answers_of, scratch

NOTE = "CREATE TABLE note(id TEXT PRIMARY KEY, body TEXT COLLABORATIVE NOT NULL, seen INTEGER COUNTER NOT NULL)"

machines = st.integers(0, 6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), machines, st.integers(0, 2)),
        st.tuples(st.just("edit"), machines, st.integers(0, 2)),
        st.tuples(st.just("bring back"), machines, st.none()),
        st.tuples(st.just("meet"), machines, machines),
        st.tuples(st.just("drop by"), machines, st.none()),
    ),
    min_size=4,
    max_size=24,
)


def everything_of(replica: Replica) -> tuple[object, ...]:
    """Return what replicas must say alike, the proof of every fork included."""
    evidence = replica._store.connection.execute("SELECT log, number, branch, header FROM klal_forks").fetchall()
    status = replica.status()
    return (*answers_of(replica), evidence, status.coverage.held, status.coverage.is_whole)


def run_step(fleet: Fleet, kind: str, one: int, other: Any) -> None:
    names = fleet.names
    name = names[one % len(names)]
    replica = fleet[name]
    match kind:
        case "write":
            sql = "INSERT INTO bird VALUES(?, 1, ?) ON CONFLICT DO UPDATE SET mass = mass + 1, note = excluded.note"
            replica.execute(sql, (f"b{other}", f"{name} {fleet.file_count}"))
        case "edit":
            sql = "UPDATE note SET body = substr(body, 1, ?) || ? || substr(body, ? + 1), seen = seen + 1"
            replica.execute(sql, (other, name[0], other))
        case "bring back":
            if len(names) < 6:
                fleet.snapshot(name, f"m{fleet.file_count}")
        case "meet":
            if names[other % len(names)] != name:
                fleet.meet(name, names[other % len(names)])
        case "drop by":
            fleet.drop_by(name)


@given(steps)
@settings(max_examples=25, deadline=None)
def test_replicas_that_met_branches_in_any_order_are_alike(drawn: list[tuple[str, int, Any]]) -> None:
    """LOG-4 LOG-7 FRN-4 S41 S56 T15 T50: the same forks, the same proof, the same rows, nothing lost."""
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", BIRD, NOTE).execute("INSERT INTO note VALUES('n', 'abc', 0)")
        fleet.join("ben")
        fleet.meet("ana", "ben")
        for step in drawn:
            run_step(fleet, *step)
        fleet.gather()
        all_agree(fleet, everything_of)
        for name in fleet.names:
            fleet[name].verify()
        assert {member.name for member in fleet["ana"].members()} == {"ana", "ben"}

        # By a folder to which they came one by one, a newcomer has the same; and again brings nothing.
        for name in fleet.names[::-1]:
            fleet.drop_by(name)
        fleet.join("cal")
        fleet.drop_by("cal")
        fleet.gather()
        all_agree(fleet, everything_of)
        fleet["cal"].verify()
        again = fleet.meet("ana", "cal")
        assert again.equal
        assert (again.received.change_count, again.sent.change_count) == (0, 0)

        # An epoch closes over the branches, and each member is counted once (W28).
        for name in ("ana", "ben", "cal"):
            fleet[name].finish()
        fleet.gather()
        all_agree(fleet, everything_of)
        certificate = fleet["ana"].close_epoch().certificate
        assert certificate.body.member_count == 3
        fleet["ben"].verify()
