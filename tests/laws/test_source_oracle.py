"""The real engine beside the observer of `klal.sim.source`: one scenario, and after each step the same answers.

How the two are read against each other:

- A member has one log and one file here. Change `member:seq` of the model is header `seq` of that member's log; the
  engine's founder also writes the invitation and the table, which the driver gives to the model as writes.
- Sessions are whole or cut at the door; the model's `limit` has no twin in bytes, so cut sessions are held against the
  stored bytes alone, not against the model.
- The engine signs a receipt when a session begins and when it settles, if it says anything new; so the driver gives
  both sides of a contact a receipt before it, and after it, and once more lets them pass.
- The model names those whom the epoch is sure to count; the engine also names who is known and has not finished.
- Who joins too late for their epoch waits to be admitted (MEM-10); the model has no such word, so there it ends.
- A closed epoch: the engine counts its own word from what it computes, without waiting to have signed it.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from klal.errors import IncompleteError
from klal.reports import ChangeId
from klal.sim.source import ChangeId as ModelId
from klal.sim.source import Close, Whole
from tests.helpers.fleet import BIRD, Fleet, scratch, stored_counts

NAMES = ("ana", "ben", "cal", "dan")
who = st.sampled_from(NAMES)
BY_KIND = {
    "write": st.tuples(st.just("write"), who),
    "meet": st.tuples(st.just("meet"), who, who),
    "finish": st.tuples(st.just("finish"), who),
    "join": st.tuples(st.just("join"), who),
}
WEIGHED = ("write",) * 4 + ("meet",) * 7 + ("finish",) * 4 + ("join",) * 2
scenarios = st.lists(st.sampled_from(WEIGHED).flatmap(BY_KIND.__getitem__), min_size=10, max_size=40)


class Both:
    """One scenario on both sides."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.whole = fleet, Whole()
        self.fleet.found("ana", BIRD)
        self.whole.add_member("ana")
        for _ in range(2):  # The table and the invitation.
            self.whole.write("ana")
        self.logs = {"ana": fleet["ana"].log_id}
        self.rows = 0

    def step(self, step: tuple[Any, ...]) -> None:
        fleet, whole = self.fleet, self.whole
        if any(name not in self.logs for name in step[1:]):
            if step[0] != "join":
                return
            fleet.join(step[1])
            whole.add_member(step[1], via="ana")
            self.logs[step[1]] = fleet[step[1]].log_id
            return
        match step:
            case ("write", name):
                self.rows += 1
                fleet[name].execute("INSERT INTO bird(id) VALUES(?)", (str(self.rows),))
                whole.write(name)
            case ("finish", name):
                try:
                    fleet[name].finish(alone=True)
                except IncompleteError:
                    assert not whole.may_finish(name)
                else:
                    whole.finish(name)
            case ("meet", a, b) if a != b:
                # What an engine may apply at a contact, it applies before it signs.
                outcome = fleet.meet(a, b)
                assert outcome.is_finished
                assert not outcome.refused
                for name in (a, b):
                    whole.receipt(name)
                whole.contact(a, b)
                for name in (a, b):
                    whole.receipt(name)
                whole.contact(a, b)

    def engine_id(self, change: ModelId) -> ChangeId:
        return ChangeId(self.logs[change.member], change.seq)

    def check(self) -> None:
        for name in self.logs:
            self.check_one(name)

    def check_one(self, name: str) -> None:
        replica, whole = self.fleet[name], self.whole
        status, coverage = replica.status(), replica.coverage()
        names = {log: member for member, log in self.logs.items()}

        # W3: held, exactly, and never more than lies in the file under a seal, or is one's own.
        held = {(names[e.change.log_id], e.change.seq) for e in replica.log()}
        assert held == set(map(tuple, whole.held(name))), name
        sealed, payloads, lines = stored_counts(replica.path)
        assert sealed <= coverage.held == coverage.payloads_held == lines == len(held)
        assert payloads == sealed

        # W4 W5: what is known and not held, by name. Contacts are whole, so that is nothing.
        assert (coverage.held, coverage.known) == whole.coverage(name)[:2]
        assert {(names[m.log_id], seq) for m in coverage.missing for seq in range(m.start, m.stop)} == set(
            map(tuple, whole.coverage(name).missing)
        )
        assert {member.name for member in status.members} == whole.members_known(name)
        assert status.parked == len(whole.parked(name))

        # W6: who is known to hold what, and what is stable. Of itself a file speaks from its bytes.
        for change in sorted(whole.known(name)):
            found = replica.who_has(self.engine_id(change))
            want = whole.who_has(name, change) & whole.members_known(name)
            assert set(found.holders) - {name} == want - {name}, (name, change)
            assert (name in found.holders) == (change in whole.held(name))
        stable = {change for change in whole.known(name) if self.is_stable(name, change)}
        assert status.stable_count == len(stable)

        # W10 W26 W27: whom an epoch waits for, and which are complete.
        store = replica._store
        assert store.epochs.next_epoch == whole.complete_count(name)
        open_epoch = whole.complete_count(name)
        try:
            replica.close_epoch(open_epoch)
            raise AssertionError("an epoch that is not complete was closed")
        except IncompleteError as error:
            waiting = {(w.member_name, w.reason == "not finished") for w in error.waiting_for}
        assert waiting == self.waiting(name, open_epoch), name
        for epoch in range(open_epoch):
            certificate = replica.close_epoch(epoch).certificate
            model = whole.certificate(name, epoch)
            assert model is not None
            assert certificate.body.change_count == model.change_count
            assert {w.member.name for w in certificate.witness} == set(model.members)
            assert {names[h.log_id]: h.length for h in certificate.cut} == self.lengths(name, epoch)
            if whole.is_closed(name, epoch):
                assert replica.close_epoch(epoch).state == "closed"
            elif replica.close_epoch(epoch).state == "closed":
                assert self.named_but_by(name, epoch), "only one's own word may be ahead of one's own receipt"
        self.check_state(name, status.state)

    def waiting(self, name: str, epoch: int) -> set[tuple[str, bool]]:
        """Whom the model waits for, and whoever else is known and has not finished."""
        known = self.whole.known(name)
        finished = {c.member for c in map(self.whole.changes.get, known) if isinstance(c, Close) and c.epoch >= epoch}
        owed = {(each.member, not each.has_finished) for each in self.whole.waiting_for(name, epoch)}
        return owed | {(member, True) for member in self.whole.members_known(name) - finished}

    def is_stable(self, name: str, change: ModelId) -> bool:
        others = self.whole.members_known(name) - {name}
        # Of itself a file speaks from its bytes; while nobody else is known nothing is stable.
        return bool(others) and change in self.whole.held(name) and others <= self.whole.who_has(name, change)

    def named_but_by(self, name: str, epoch: int) -> bool:
        certificate = self.whole.certificate(name, epoch)
        receipts = self.whole._replicas[name].receipts
        others = set(certificate.members) - {name}
        return all(other in receipts and receipts[other].certified >= epoch for other in others)

    def lengths(self, name: str, epoch: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for member, seq in self.whole.cut(name, epoch) or ():
            found[member] = max(found.get(member, 0), seq + 1)
        return found

    def check_state(self, name: str, word: str) -> None:
        """W4 W6: the word is the model's, or one's own word is ahead of one's own receipt."""
        model = self.whole.state(name)
        if model in ("whole", "stable") and word != model:
            newest = self.whole.complete_count(name) - 1
            is_all = self.whole.known(name) <= (self.whole.cut(name, newest) or frozenset())
            if is_all and self.named_but_by(name, newest):
                model = "closed"
            elif all(self.is_stable(name, change) for change in self.whole.known(name)):
                model = "stable"
        assert word == model, (name, word, model)


@given(scenarios)
@settings(max_examples=20)
def test_the_engine_says_what_the_observer_of_the_whole_says(scenario: list[tuple[Any, ...]]) -> None:
    """W3 W4 W5 W6 W10 W11 W26 W27."""
    with scratch() as folder, Fleet(folder) as fleet:
        both = Both(fleet)
        both.check()
        for step in scenario:
            both.step(step)
            if any(member.standing == "waiting" for replica in fleet.replicas.values() for member in replica.members()):
                return
            both.check()


@given(
    st.lists(st.tuples(who, who, st.one_of(st.none(), st.integers(1, 6_000))), min_size=1, max_size=12),
    st.sampled_from([10, 3_000, 100_000]),
)
@settings(max_examples=10)
def test_coverage_rises_with_contact_and_never_claims_what_is_not_stored(
    meetings: list[tuple[str, str, int | None]], size: int
) -> None:
    """W3 W5: sessions may be cut anywhere."""
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", BIRD)
        for name in NAMES[1:]:
            fleet.join(name)
        for name in NAMES:
            fleet[name].execute("INSERT INTO bird VALUES(?, 1, hex(randomblob(?)))", (name, size))
            fleet[name].finish(alone=True)
        before = {name: fleet[name].coverage() for name in NAMES}
        for a, b, limit in meetings:
            if a == b:
                continue
            fleet.meet(a, b, limit)
            for name in (a, b):
                coverage = fleet[name].coverage()
                sealed, payloads, _ = stored_counts(fleet[name].path)
                assert (coverage.held, coverage.payloads_held) == (sealed, payloads)
                assert coverage.held >= before[name].held
                assert coverage.payloads_held >= before[name].payloads_held
                assert coverage.known >= before[name].known
                lacking = sum(m.change_count for m in coverage.missing)
                assert lacking == (coverage.known - coverage.held) + (coverage.held - coverage.payloads_held)
                assert (coverage.certainty == "incomplete") == (lacking > 0)
                is_alone = fleet[name].status().state == "alone"
                assert coverage.is_whole == (lacking == 0 and not is_alone)
                before[name] = coverage
                fleet[name].verify()
                reopened = fleet.reopen(name).coverage()
                assert (reopened.held, reopened.payloads_held, reopened.missing) == (
                    coverage.held,
                    coverage.payloads_held,
                    coverage.missing,
                )
