"""Whatever a replica says of itself or of others is so, against an observer who sees every file.

The observer knows what each member's files held at any time, from their own counters and bytes. Replicas know what
came to them, through sessions cut anywhere, a shared folder, files that were copied, set back or lost. A claim about
another member is about what it durably held when it signed: a disk that burns afterwards is not a lie (docs/spec, RCP).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from klal.model.header import Header, header_hash
from klal.model.receipt import Receipt
from klal.store.knowledge import Knowledge
from klal.store.store import Store
from tests.helpers.fleet import BIRD, Fleet, scratch, stored_counts

NAMES = ("ana", "ben", "cal")
who = st.sampled_from(NAMES)
limits = st.sampled_from([None, None, 1, 400, 1500, 4000, 20_000])
STEPS = st.one_of(
    st.tuples(st.just("write"), who, st.sampled_from([1, 40, 120_000])),
    st.tuples(st.just("meet"), who, who, limits),
    st.tuples(st.just("drop_by"), who, limits),
    st.tuples(st.just("finish"), who),
    st.tuples(st.just("save"), who),
    st.tuples(st.just("set_back"), who),
    st.tuples(st.just("copy"), who),
    st.tuples(st.just("lose"), who),
    st.tuples(st.just("reopen"), who),
)


class Observer:
    """Sees every file, and remembers the most that each member ever held of each log, with its payloads."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.truth: dict[bytes, dict[bytes, int]] = {}
        self.before: dict[str, tuple] = {}
        self.saved: dict[str, Path] = {}
        self.written = 0
        self.finished: dict[bytes, int] = {}

    def look(self, name: str) -> None:
        store = self.fleet[name]._store
        held = self.truth.setdefault(store.member_id, {})
        for log in store.history.logs.values():
            held[log.log_id] = max(held.get(log.log_id, 0), log.payload_length)

    def unknown_past(self, store: Store) -> int:
        rows = store.connection.execute(
            "SELECT l.member_id, c.header FROM klal_change c JOIN klal_span s"
            " ON s.lsn = (SELECT max(lsn) FROM klal_span WHERE lsn <= c.lsn) JOIN klal_log l ON l.log = s.log"
        ).fetchall()
        here = {header_hash(store.space_id, header) for _, header in rows}
        return len(
            {(member, past) for member, header in rows for past in Header.decode(header).past}
            - {(member, past) for member, _ in rows for past in here}
        )

    def check(self, name: str) -> None:
        replica = self.fleet[name]
        store = replica._store
        coverage, status, stable = replica.coverage(), replica.status(), replica.stable()
        me, cuts = store.member_id, replica._survey().cuts

        # Of itself: counted again from the file's bytes, under seals or written here.
        sealed, payloads, lines = stored_counts(replica.path)
        own = store.writer.own
        unsealed = lines - sealed if own is not None else 0
        assert (coverage.held, coverage.payloads_held) == (sealed + unsealed, payloads + unsealed)
        assert coverage.applied <= coverage.payloads_held <= coverage.held <= coverage.known

        # Whole: everything that any statement in this file names, read from its bytes by other means.
        named: dict[bytes, int] = {}
        for body, signature in store.connection.execute("SELECT body, signature FROM klal_receipt"):
            statement = Receipt.decode(body, signature).statement
            for head in (*statement.heads, *statement.parked):
                named[head.log_id] = max(named.get(head.log_id, 0), head.length)
        here = {log.log_id: log for log in store.history.logs.values()}
        lacks = sum(max(0, n - (here[log_id].length if log_id in here else 0)) for log_id, n in named.items())
        if not lacks:  # What a header names as its past is known of too, though not in which log it lies.
            lacks = self.unknown_past(store)
        assert coverage.known - coverage.held == lacks
        if coverage.is_whole or status.state in ("whole", "stable", "closed"):
            assert lacks == 0
            assert all(log.payload_length == log.length for log in here.values())

        # Of others: never more than the member ever held.
        for share in store.knowledge.shares(cuts):
            for member in share.members:
                for log_id, length in share.lengths.items():
                    assert length <= self.truth.get(member, {}).get(log_id, 0), (name, log_id.hex()[:8])
        members = [member.member_id for member in status.members]
        assert len(members) == len(set(members)) <= len(NAMES)
        for log_id, head in stable.heads.items():
            for member in members:
                if member != me:
                    assert self.truth[member].get(log_id, 0) >= head.length
            assert here[log_id].payload_length >= head.length
        for entry in replica.log(limit=3):
            found = replica.who_has(entry.change)
            assert found.holder_count == len(found.holders) == len(set(found.holders)) <= len(members)
            assert found.is_stable <= (len(found.holders) == len(members))
        for log, seqs in replica._survey().only_here():
            for share in store.knowledge.shares(cuts, but=me):
                assert share.lengths.get(log.log_id, 0) <= seqs.start

        # Complete: every counted member has finished it, and every payload of it is here.
        for closed in store.applier.closed:
            certificate = store.certificate(closed.cut.epoch)
            for witness in certificate.witness:
                assert self.finished.get(witness.member.member_id, 0) > closed.cut.epoch
            for head in certificate.cut:
                assert here[head.log_id].payload_length >= head.length
            assert replica.coverage(certificate).certainty == "whole"

        # More contact never lowers what is known, and nothing remembered differs from a fresh look.
        fresh = Knowledge(store.connection, store.history)
        assert fresh.shares(cuts) == store.knowledge.shares(cuts)
        assert fresh.named() == store.knowledge.named()
        claims = {member: share.lengths for share in store.knowledge.shares(cuts) for member in share.members}
        figures = coverage.held, coverage.payloads_held, coverage.known
        past = self.before.get(name)
        if past is not None:
            assert all(now >= then for now, then in zip(figures, past[0], strict=True))
            for member, lengths in past[1].items():
                assert all(claims[member].get(log_id, 0) >= length for log_id, length in lengths.items())
            # A member who becomes known counts from then on, and may hold little: only then may stable fall.
            for log_id, head in past[2].heads.items() if past[3] == members else ():
                assert stable.heads[log_id].length >= head.length
        self.before[name] = (figures, claims, stable, members)

    # -- what happens ----------------------------------------------------------------------

    def play(self, step: tuple) -> None:
        """Do one step, and hold what the replicas that it touched now say against what is so."""
        word, name, *rest = step
        touched = getattr(self, f"do_{word}")(name, *rest)
        for each in touched:
            self.look(each)
        for each in touched:
            self.check(each)

    def do_write(self, name: str, size: int) -> list[str]:
        self.written += 1
        self.fleet[name].execute("INSERT INTO bird VALUES(?, 1, hex(randomblob(?)))", (f"k{self.written}", size))
        return [name]

    def do_meet(self, a: str, b: str, limit: int | None) -> list[str]:
        if a == b:
            return []
        self.fleet.meet(a, b, limit)
        return [a, b]

    def do_drop_by(self, name: str, limit: int | None) -> list[str]:
        self.fleet.drop_by(name, limit)
        return [name]

    def do_finish(self, name: str) -> list[str]:
        replica = self.fleet[name]
        if replica._store.writer.epoch == replica._store.epochs.next_epoch:
            epoch = replica.finish(alone=True).epoch
            self.finished[replica.member_id] = epoch + 1
        return [name]

    def do_save(self, name: str) -> list[str]:
        replica = self.fleet.reopen(name)
        self.saved[name] = self.fleet.folder / f"{name}.saved"
        replica.close()
        shutil.copy(replica.path, self.saved[name])
        self.fleet.open(name, replica.path)
        return [name]

    def do_set_back(self, name: str) -> list[str]:
        """Put a backup in the file's place: what is known falls with it, and rises from there."""
        if name in self.saved:
            replica = self.fleet[name]
            replica.close()
            shutil.copy(self.saved[name], replica.path)
            self.fleet.open(name, replica.path)
            self.before.pop(name, None)
        return [name]

    def do_copy(self, name: str) -> list[str]:
        """Go on in a copy of the file beside it: the same member, a log of its own."""
        replica = self.fleet.reopen(name)
        replica.close()
        path = self.fleet._path(name)
        shutil.copy(replica.path, path)
        self.fleet.open(name, path)
        return [name]

    def do_lose(self, name: str) -> list[str]:
        """Lose the file and come back as the same member, with nothing."""
        self.fleet.destroy(name)
        self.fleet.join(name)
        self.before.pop(name, None)
        return [name]

    def do_reopen(self, name: str) -> list[str]:
        self.fleet.reopen(name)
        return [name]


@given(steps=st.lists(STEPS, min_size=4, max_size=18))
def test_whatever_a_replica_calls_held_stable_whole_or_complete_is_so(steps: list[tuple]) -> None:
    """W3, W6, W28, COV-1 to COV-6, STB-1, S16, S17, T10, T20: sessions cut anywhere, copies, backups, lost files."""
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", BIRD)
        for name in NAMES[1:]:
            fleet.join(name)
        observer = Observer(fleet)
        for name in NAMES:
            observer.look(name)
        for step in steps:
            observer.play(step)


def test_all_of_it_is_reached(tmp_path: Path) -> None:
    """A law over nothing proves nothing: stable, whole and complete do come about under these steps."""
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", BIRD)
        for name in NAMES[1:]:
            fleet.join(name)
        observer = Observer(fleet)
        calls = [("write", "ana", 40), ("finish", "ana"), ("finish", "ben"), ("finish", "cal")]
        rounds = [("meet", a, b, None) for _ in range(3) for a, b in (("ana", "ben"), ("ben", "cal"), ("cal", "ana"))]
        for step in [*rounds, *calls, *rounds, ("copy", "ben"), ("write", "ben", 1), *rounds]:
            observer.play(step)

        assert fleet["ana"].stable().change_count == fleet["ana"].coverage().known
        assert fleet["ana"].coverage().is_whole
        assert fleet["ana"].close_epoch(0).state == "closed"
