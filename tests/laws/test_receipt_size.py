"""What receipts come to in bytes: a fleet of n members stores n short ones (RCP-3, RCP-5)."""

from __future__ import annotations

import pytest

import klal.store.store
from klal.errors import MalformedError
from klal.model.codec import pack
from klal.model.receipt import HEAD_COUNT_MAX, RECEIPT_SIZE_MAX, HeldHead, Receipt, Statement
from klal.model.ticket import decode_ticket
from tests.helpers.fleet import BIRD, Fleet
from tests.helpers.many import TABLE, Many, take_in, take_receipts


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as fleet:
        yield fleet


def crowd(fleet, count):
    """Take the logs of so many members into ana's file; no change joins them."""
    ana = fleet.found("ana", TABLE)
    many = Many(ana._store, decode_ticket(ana.invite(use_count_max=count)))
    take_in(ana._store, (many.newcomer(number, is_finished=False) for number in range(count)))
    ana._store.apply_ready()
    return ana


def receipts_of(replica):
    return list(replica._store.knowledge.receipts().values())


def own_receipt(replica):
    replica._store.sign_receipt()
    return next(each for each in receipts_of(replica) if each.statement.member_id == replica.member_id)


def closed(fleet, count):
    """Close epoch 0 among so many, each of whose Closes is a head; return ana, and all receipts."""
    ana = fleet.found("ana", TABLE)
    many = Many(ana._store, decode_ticket(ana.invite(use_count_max=count)))
    take_in(ana._store, (many.newcomer(number, is_finished=False) for number in range(count)))
    ana._store.apply_ready()
    ana.finish()
    take_in(ana._store, (many.newcomer(number) for number in range(count)))
    ana._store.apply_ready()
    mine = own_receipt(ana)
    # Everybody else says the same, as all hold the same.
    said = mine.statement
    others = [many.receipt(number, said.heads, said.certificate) for number in range(count)]
    take_receipts(ana._store, others)
    return ana, [mine, *others]


@pytest.mark.parametrize("count", [20, 300])
def test_a_fleet_at_rest_after_a_close_stores_n_short_receipts(fleet, count):
    """RCP-5 STB-1: every Close is a head that nobody has joined, and all of them lie in the cut that is named."""
    ana, receipts = closed(fleet, count)
    assert len(ana._store.history.maximal_heads({})) == count + 1
    assert ana.close_epoch(0).state == "closed"

    stored = sum(len(each.body) + len(each.signature) for each in receipts)
    assert stored < (count + 1) * 240
    status = ana.status()
    assert (status.stable_count, status.state) == (status.coverage.known, "closed")
    assert all(member.state == "whole" for member in status.members)


def test_what_lies_outside_the_cut_is_named_still(fleet):
    """RCP-5: and what is inside it is known to be held as well."""
    ana, _ = closed(fleet, 20)
    ana.execute("INSERT INTO bird VALUES('after', 1, '')")
    ana._store.seal()
    (head,) = own_receipt(ana).statement.heads
    assert (head.log_id, head.length) == (ana.log_id, ana._store.writer.own.log.length)


def test_whoever_lacks_the_certificate_does_not_take_itself_for_whole(fleet):
    """RCP-5 COV-3 W4: a receipt that lists nothing is no word that there is nothing."""
    fleet.found("ana", BIRD)
    fleet.join("ben")
    fleet.join("cal")
    fleet.close_epoch()
    fleet.close_epoch()
    for name in ("ana", "ben"):
        fleet[name].execute("INSERT INTO bird(id) VALUES(?)", (name,))
    fleet["cal"].finish()
    fleet.gather()
    for name in ("ana", "ben"):
        fleet[name].finish()
    fleet.gather(("ana", "ben"))
    receipt = own_receipt(fleet["ana"])
    assert receipt.statement.certificate == fleet["ana"].close_epoch(2).certificate.hash

    take_receipts(fleet["cal"]._store, [receipt])
    status = fleet["cal"].status()
    assert (status.state, status.coverage.certainty) == ("behind", "incomplete")
    assert {member.name: member.state for member in status.members}["ana"] != "whole"
    assert any("names certificate" in warning for warning in status.warnings)
    fleet.gather()
    assert fleet["cal"].status().state == "closed"


def test_a_member_with_very_many_heads_joins_them_before_it_names_them(fleet):
    """RCP-5: in an open epoch no certificate covers them; 16 take one header, and then all name one head."""
    ana = crowd(fleet, 300)
    ben = fleet.join("ben")
    assert len(ana._store.history.maximal_heads({})) == 301

    fleet.meet("ana", "ben")
    fleet.meet("ana", "ben")
    for replica in (ana, ben):
        assert len(own_receipt(replica).statement.heads) <= 2
    assert ana._store.history.by_id[ana.log_id].length < 40
    assert ana.status().root == ben.status().root
    assert ben.query("SELECT count(*) FROM bird") == [(300,)]


def test_a_receipt_that_cannot_name_all_claims_less_and_never_more(fleet, monkeypatch):
    """RCP-1 RCP-5 COV-3: nothing is lost, and what was not named is not stable."""
    monkeypatch.setattr(klal.store.store, "HEAD_COUNT_MAX", 8)
    ana = crowd(fleet, 30)
    ben = fleet.join("ben")
    fleet.meet("ana", "ben")
    fleet.meet("ana", "ben")
    receipt = own_receipt(ben)
    assert len(receipt.statement.heads) == 8
    fleet.meet("ana", "ben")
    status = ana.status()
    ben_s = next(member for member in status.members if member.name == "ben")

    assert ben_s.state == "behind"
    assert 0 < ben_s.held < status.coverage.known
    assert ben.status().coverage.is_whole
    assert rows(ana) == rows(ben)


def rows(replica):
    return replica.query("SELECT * FROM bird ORDER BY id")


def test_the_largest_receipt_fits_and_one_head_more_is_refused():
    """RCP-1."""
    heads = tuple(
        HeldHead(number.to_bytes(32, "big"), (1 << 48) - 1, bytes(32)) for number in range(HEAD_COUNT_MAX + 1)
    )
    largest = pack(Statement(bytes(32), bytes(16), 0, 0, heads[1:], heads[1:]))
    assert len(largest) < RECEIPT_SIZE_MAX - (1 << 16)
    assert Receipt.decode(largest, b"").statement.heads == heads[1:]
    for lists in ((heads, ()), ((), heads)):
        with pytest.raises(MalformedError):
            Receipt.decode(pack(Statement(bytes(32), bytes(16), 0, 0, *lists)), b"")
