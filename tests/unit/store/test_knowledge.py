"""Receipts stay few, and what they come to is the same whether it was remembered or worked out."""

from __future__ import annotations

from contextlib import closing

import apsw
import pytest

from klal.errors import LinkError
from klal.model.receipt import HeldHead
from klal.store.knowledge import Knowledge
from tests.helpers.crowd import Crowd
from tests.helpers.fleet import BIRD, Fleet


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", BIRD)
        yield fleet


def stored(fleet):
    """Return how many receipts there are, and how many bytes they take."""
    return (
        fleet["ana"]
        ._store.connection.execute("SELECT count(*), sum(length(body) + length(signature)) FROM klal_receipt")
        .fetchone()
    )


def test_a_fleet_of_n_members_keeps_n_statements_however_often_it_speaks(fleet):
    """RCP-2, T20: the newest of each log, and no statement about statements."""
    crowd = Crowd(fleet, 60)
    for number in range(5):
        crowd.take([crowd.says(i, [crowd.people[i].head], number) for i in range(60)])
    count, size = stored(fleet)

    assert count == 60
    assert size / count < 300
    assert set(fleet["ana"]._store.knowledge.voices()) == {someone.log_id for someone in crowd.people}


def test_a_receipt_names_only_heads_that_no_other_head_has_seen(fleet):
    """RCP-3: of a chain its end, so that a statement over hundreds of logs is as small as one over two."""
    crowd = Crowd(fleet, 60, is_chained=True)
    store = fleet["ana"]._store
    store.seal()
    store.sign_receipt()
    statement = store.knowledge.receipt(fleet["ana"].log_id).statement
    heads = {head.log_id for head in statement.heads}

    assert heads == {crowd.people[-1].log_id, fleet["ana"].log_id}
    assert len(store.knowledge.receipt(fleet["ana"].log_id).body) < 400


def test_members_who_signed_for_the_same_are_one_share_and_read_once(fleet, monkeypatch):
    """STB-1: status over n members at rest asks for each head once, and not once for each member."""
    crowd = Crowd(fleet, 60)
    crowd.all_hold_all()
    asked = []
    reach = Knowledge._reach_of
    monkeypatch.setattr(
        Knowledge, "_reach_of", lambda self, head, *rest: asked.append(head) or reach(self, head, *rest)
    )
    status = fleet["ana"].status()
    fleet["ana"].execute("INSERT INTO bird VALUES('a', 1, '')")
    fleet["ana"].status()

    assert status.stable_count == status.coverage.known
    assert len(fleet["ana"]._store.knowledge.shares({})) == 1
    assert len(asked) == len(set(asked)) <= 62


def test_one_newer_word_makes_one_share_more_and_one_silent_member_stops_the_count(fleet):
    """STB-1, W10."""
    crowd = Crowd(fleet, 20)
    everything = [crowd.store._held_head(ref) for ref in crowd.store.history.maximal_heads({})]
    crowd.take([crowd.says(number, everything) for number in range(19)])
    silent = fleet["ana"].status()
    crowd.take([crowd.says(19, [crowd.people[19].head])])
    little = fleet["ana"].status()
    crowd.take([crowd.says(19, everything, 1)])
    whole = fleet["ana"].status()

    assert silent.stable_count == 0
    assert {member.name: member.state for member in silent.members}["m000019"] == "unknown"
    assert little.stable_count == 3  # What every change has seen, and two of the last one's own.
    assert whole.stable_count == whole.coverage.known


def test_what_is_remembered_is_what_a_fresh_look_finds(fleet):
    """COV-1: after heads that are not here yet, after they come, and after a write of another connection."""
    crowd = Crowd(fleet, 6)
    store = fleet["ana"]._store
    ahead = HeldHead(crowd.people[0].log_id, 9, b"\5" * 32)
    elsewhere = HeldHead(b"\6" * 32, 3, b"\5" * 32)
    branch = HeldHead(crowd.people[1].log_id, 2, b"\5" * 32)
    for number, heads in enumerate(([ahead], [elsewhere], [branch], [someone.head for someone in crowd.people])):
        crowd.take([crowd.says(number, heads)])
        fresh = Knowledge(store.connection, store.history)
        for known in (store.knowledge, fresh):
            known.shares({})
        assert store.knowledge.shares({}) == fresh.shares({})
        assert store.knowledge.shares({}, but=crowd.people[0].key.member_id) == fresh.shares(
            {}, but=crowd.people[0].key.member_id
        )
        assert store.knowledge.named() == fresh.named()
        assert store.knowledge.other_branches() == fresh.other_branches()
    assert store.knowledge.named()[elsewhere.log_id] == 3
    assert {share.lengths.get(ahead.log_id, 0) for share in store.knowledge.shares({})} == {0, 2, 9}
    assert store.knowledge.other_branches() == {(crowd.people[1].log_id, crowd.people[2].key.member_id)}
    crowd.take([crowd.says(1, [], 1)])

    assert elsewhere.log_id not in store.knowledge.named()
    assert store.knowledge.named() == Knowledge(store.connection, store.history).named()
    fleet["ana"].verify()


def test_what_a_word_says_of_changes_that_come_later_is_read_when_they_are_here(fleet):
    """COV-3: at first a head says its own log; once its past is here, that too, though no receipt came meanwhile."""
    crowd = Crowd(fleet, 2)
    store = crowd.store
    store.begin()
    coming = crowd.enter(7)
    store.rollback()
    crowd.take([crowd.says(0, [coming.head])])
    (before,) = store.knowledge.shares({})
    with store.writing():
        crowd.enter(7)
    store.apply_ready()
    (after,) = store.knowledge.shares({})

    assert before.lengths == {coming.log_id: 2}
    assert after.lengths == {coming.log_id: 2, fleet["ana"].log_id: 1}
    assert [after] == Knowledge(store.connection, store.history).shares({})


def test_what_is_only_here_is_of_mine_alone(fleet):
    """W5: what others wrote and nobody signed for is missing to them, and no loss of mine."""
    Crowd(fleet, 3)
    entries = fleet["ana"].only_here()

    assert {entry.member_name for entry in entries} == {"ana"}
    assert len(entries) == fleet["ana"].status().only_here == fleet["ana"].coverage().known - 6


def test_a_statement_that_was_rolled_back_was_never_heard(fleet):
    """COV-1: memory follows the transaction."""
    crowd = Crowd(fleet, 2)
    store = fleet["ana"]._store
    store.begin()
    store.intake.take_receipt(crowd.says(0, [crowd.people[0].head]))
    inside = store.knowledge.voices()
    store.rollback()

    assert set(inside) == {crowd.people[0].log_id}
    assert store.knowledge.voices() == {}
    assert store.knowledge.shares({}) == []


def test_verify_finds_that_klal_named_is_not_what_the_receipts_name(fleet):
    """FIL-4."""
    crowd = Crowd(fleet, 2)
    crowd.take([crowd.says(0, [crowd.people[0].head])])
    fleet["ana"].verify()
    path = fleet["ana"].path
    fleet["ana"].close()
    for sql in ("UPDATE klal_named SET length = length + 1", "DELETE FROM klal_named"):
        with closing(apsw.Connection(str(path))) as connection:
            connection.execute(sql)
        with fleet.guest("ana", path) as ana, pytest.raises(LinkError, match="klal_named") as caught:
            ana.verify()
        assert caught.value.rule == "FIL-4"
