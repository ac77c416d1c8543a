"""An epoch closes when everybody has finished and everything is here: then everywhere, with the same bytes, and not
before."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from klal.api import check_certificate_file
from klal.errors import IncompleteError
from klal.rules.order import draw_of
from tests.helpers.fleet import BIRD, Fleet, answers_of, certificates_of, rows_of, scratch

NAMES = ("ana", "ben", "cal")


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as made:
        yield made


def three(fleet, names=NAMES):
    fleet.found(names[0], BIRD)
    for name in names[1:]:
        fleet.join(name)
    for name in names:
        fleet[name].execute("INSERT INTO bird VALUES(?, 100, NULL)", (name,))
    fleet.gather()
    return fleet


def waits(replica, epoch=None):
    with pytest.raises(IncompleteError) as caught:
        replica.close_epoch(epoch)
    return {(w.member_name, w.reason) for w in caught.value.waiting_for}


@given(silent=st.sampled_from(NAMES), order=st.permutations(NAMES), rounds=st.integers(0, 2))
@settings(max_examples=12)
def test_one_silent_member_holds_the_epoch_open_whoever_it_is(silent, order, rounds):
    """W10 W27: those who are ready can never complete it alone, however often they meet."""
    with scratch() as folder, Fleet(folder) as fleet:
        three(fleet)
        for name in order:
            if name != silent:
                fleet[name].finish()
        for _ in range(rounds):
            fleet.gather()

        for replica in fleet.replicas.values():
            waiting = waits(replica, 0)
            assert replica.status().epoch.state == "open"
            assert {w.member_name for w in replica.status().epoch.waiting_for} == {name for name, _ in waiting}
            # Before they have met, each knows of those it has heard from, and that is not all.
            assert rounds == 0 or waiting == {(silent, "not finished")}
        fleet[silent].finish()
        fleet.gather()
        assert {r.status().epoch.state for r in fleet.replicas.values()} == {"closed"}


def test_each_header_commits_to_all_that_its_writer_had_seen(fleet):
    """W13."""
    three(fleet)
    for name in NAMES:
        before = fleet[name].status().root
        lengths = fleet[name]._store.history.applied_lengths()
        change = fleet[name].execute("UPDATE bird SET mass = mass + 1 WHERE id = ?", (name,)).change
        history = fleet[name]._store.history
        ref = history.logs[history.by_id[change.log_id].log]
        fleet[name]._store.seal()
        vector = history.head_vector(ref)
        assert {log: length - (log == ref.log) for log, length in vector.items()} == lengths
        assert fleet[name].status().root != before


@pytest.mark.parametrize("last", NAMES)
def test_the_one_who_completes_the_work_may_be_anyone(fleet, last):
    """W20: the newest and smallest as well as the founder."""
    three(fleet)
    for name in NAMES:
        if name != last:
            fleet[name].finish()
    fleet.gather()
    fleet[last].finish()

    assert fleet[last].close_epoch(0).state == "complete"
    assert fleet[last].close_epoch(0).grade == "complete"


def test_a_certificate_is_the_same_bytes_from_everyone_and_from_whoever_comes_later(fleet, tmp_path):
    """W13 W19 W22."""
    three(fleet)
    fleet.close_epoch()
    fleet.join("dan")
    fleet.gather()

    assert len({replica.close_epoch(0).certificate.hash for replica in fleet.replicas.values()}) == 1
    assert len({replica.close_epoch(0).certificate.encode() for replica in fleet.replicas.values()}) == 1
    assert {replica.close_epoch(0).state for replica in fleet.replicas.values()} == {"closed"}
    fleet["dan"].close_epoch(0).write(tmp_path / "certificate")
    assert check_certificate_file(tmp_path / "certificate").hash == fleet["ana"].close_epoch(0).certificate.hash


def test_three_epochs_in_a_row_each_name_the_one_before(fleet):
    """W10 W15 W23: close is there in every epoch, for every member, and a late joiner gets all of them."""
    three(fleet)
    for epoch in range(3):
        fleet.close_epoch()
        for name in NAMES:
            fleet[name].execute("UPDATE bird SET note = ? WHERE id = ?", (str(epoch), name))
    fleet.join("dan")
    fleet.gather()

    for replica in fleet.replicas.values():
        chain = certificates_of(replica)
        assert [c.epoch for c in chain] == [0, 1, 2]
        assert [c.body.previous for c in chain[1:]] == [c.hash for c in chain[:-1]]
        replica.verify()
    assert len({tuple(c.hash for c in certificates_of(r)) for r in fleet.replicas.values()}) == 1


def test_what_is_written_after_ones_own_finish_is_of_the_next_epoch_and_waits_where_the_member_has_not_finished(fleet):
    """W15 W16: and it is parked, not lost, and shown."""
    three(fleet)
    fleet["ana"].finish()
    after = fleet["ana"].execute("INSERT INTO bird VALUES('next', 1, NULL)").change
    fleet.gather()

    assert {e.epoch for e in fleet["ana"].log() if e.change == after} == {1}
    assert fleet["ben"].query("SELECT count(*) FROM bird WHERE id = 'next'") == [(0,)]
    assert fleet["ben"].status().parked == 1
    assert fleet["ben"].coverage().is_whole
    fleet["ben"].finish()
    assert fleet["ben"].query("SELECT count(*) FROM bird WHERE id = 'next'") == [(1,)]
    assert fleet["ben"].status().parked == 0
    fleet["cal"].finish()
    fleet.gather()
    certificate = fleet["cal"].close_epoch(0).certificate
    assert certificate.body.row_count == 3, "what is of the next epoch is not in this certificate"
    for replica in fleet.replicas.values():
        replica.verify()


def test_finish_twice_is_refused_with_the_reason(fleet):
    """W10: until the epoch is complete; then the next one may be finished."""
    three(fleet)
    fleet["ana"].finish()
    length = fleet["ana"].coverage().held
    with pytest.raises(IncompleteError) as caught:
        fleet["ana"].finish()

    assert {(w.member_name, w.reason) for w in caught.value.waiting_for} == {
        ("ben", "not finished"),
        ("cal", "not finished"),
    }
    assert fleet["ana"].coverage().held == length
    for name in ("ben", "cal"):
        fleet[name].finish()
    fleet.gather()
    assert fleet["ana"].finish().epoch == 1


def test_a_join_that_is_discovered_late_is_heard_before_the_epoch_ends(fleet):
    """W10 W16: whoever joined inside the cut has work in it."""
    three(fleet)
    fleet["ana"].finish()
    fleet["ben"].finish()
    fleet.gather(("ana", "ben"))
    fleet.join("dan")
    fleet.meet("dan", "cal")
    fleet["cal"].finish()
    fleet.gather(NAMES)

    for name in NAMES:
        assert ("dan", "not finished") in waits(fleet[name], 0)
    fleet["dan"].finish()
    fleet.gather()
    assert {m.name for m in fleet["ana"].close_epoch(0).certificate.body.joined} == {"ana", "ben", "cal", "dan"}
    assert len({r.close_epoch(0).certificate.hash for r in fleet.replicas.values()}) == 1


def test_work_that_comes_after_the_close_is_of_the_next_certificate_and_named_late(fleet):
    """W19: a member nobody had heard of enters the next epoch, by one member's word, and nothing of theirs is lost."""
    three(fleet)
    fleet.join("dan")
    late = fleet["dan"].execute("INSERT INTO bird VALUES('late', 1, NULL)").change
    for name in NAMES:
        fleet[name].finish()
    fleet.gather(NAMES)
    assert fleet["ana"].close_epoch(0).certificate.body.row_count == 3
    fleet.gather()
    fleet["cal"].admit("dan")
    fleet.gather()

    for replica in fleet.replicas.values():
        assert [e.is_late for e in replica.log() if e.change == late] == [True]
        assert replica.query("SELECT count(*) FROM bird") == [(4,)]
        assert replica.close_epoch(0).certificate.hash == fleet["ana"].close_epoch(0).certificate.hash
        assert replica.status().epoch.number == 1
    # dan's word for epoch 0 comes after it ended; what it finishes now is the next.
    for name in (*NAMES, "dan"):
        assert fleet[name].finish().epoch == 1
    fleet.gather()
    assert {r.close_epoch(1).state for r in fleet.replicas.values()} == {"closed"}
    assert fleet["dan"].close_epoch(1).certificate.body.row_count == 4
    for replica in fleet.replicas.values():
        replica.verify()


def test_the_one_who_holds_the_last_missing_piece_is_named_and_that_piece_completes_everyone(fleet):
    """W10 W19 W26: the owner of the needles."""
    three(fleet)
    big = "x" * 200_000
    fleet["cal"].execute("INSERT INTO bird VALUES('needle', 1, ?)", (big,))
    for name in NAMES:
        fleet[name].finish()
    fleet.gather(("ana", "ben"))
    fleet.drop_by("cal")
    for path in fleet.share.rglob("*.P*"):
        path.unlink()
    for name in ("ana", "ben"):
        fleet.drop_by(name)

    for name in ("ana", "ben"):
        (owed,) = fleet[name].status().epoch.waiting_for
        assert (owed.member_name, owed.reason, owed.holders) == ("cal", "missing payloads", ("cal",))
        assert owed.count == sum(m.change_count for m in fleet[name].missing() if m.what == "payloads")
        assert all(m.holders == ("cal",) for m in fleet[name].missing())
        assert waits(fleet[name], 0) == {("cal", "missing payloads")}

    fleet.meet("ana", "cal")
    assert fleet["ana"].close_epoch(0).state == "complete"
    fleet.gather()
    assert {r.close_epoch(0).state for r in fleet.replicas.values()} == {"closed"}


@pytest.mark.parametrize("harm", ["drop", "truncate", "flip"])
def test_a_folder_item_that_is_damaged_keeps_the_end_from_coming_and_is_named(fleet, harm):
    """W19: if a tiny part of a tiny piece is missing, the end does not come."""
    fleet.found("ana", BIRD)
    fleet.join("ben")
    fleet.gather()
    fleet["ana"].execute("INSERT INTO bird VALUES('needle', 1, 'x')")
    for name in ("ana", "ben"):
        fleet[name].finish()
    fleet.drop_by("ana")
    items = [path for path in fleet.share.rglob("*") if path.is_file()]
    # Each item in turn, restored again, until every one of them has been harmed.
    kept = {path: path.read_bytes() for path in items}
    harmed = 0
    for path, data in kept.items():
        if harm == "drop":
            path.unlink()
        else:
            path.write_bytes(data[:-1] if harm == "truncate" else data[:-1] + bytes([data[-1] ^ 1]))
        with scratch() as other:
            copy = other / "ben.db"
            fleet["ben"].backup(copy)
            with fleet.guest("ben", copy) as ben:
                ben.sync(fleet.share)
                if not ben.coverage().is_whole or ben.coverage().held < 6:
                    harmed += 1
                    assert ben.status().epoch.state == "open"
                    assert "ana" in {w.member_name for w in ben.status().epoch.waiting_for}
                    waits(ben, 0)
                    ben.verify()
        for each in fleet.share.rglob("*"):
            if each.is_file() and each not in kept:
                each.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    assert harmed, "no item mattered"
    fleet.drop_by("ben")
    assert fleet["ben"].close_epoch(0).state == "complete"


def test_members_under_other_names_and_keys_come_to_the_same_outcome(tmp_path):
    """W24: relabelling changes nothing but the names."""
    found = []
    for turn in itertools.permutations(NAMES):
        with Fleet(tmp_path / "-".join(turn)) as fleet:
            three(fleet, turn)
            fleet[turn[1]].execute("UPDATE bird SET note = 'second' WHERE id = ?", (turn[0],))
            fleet.gather()
            fleet[turn[2]].execute("DELETE FROM bird WHERE id = ?", (turn[1],))
            fleet.close_epoch()
            names = {name: str(place) for place, name in enumerate(turn)}
            rows = sorted((names[i], mass, note) for i, mass, note in fleet[turn[0]].query("SELECT * FROM bird"))
            body = fleet[turn[2]].close_epoch(0).certificate.body
            waiting = {fleet[name].status().state for name in turn}
            found.append((rows, body.change_count, body.row_count, body.member_count, waiting))
    assert all(outcome == found[0] for outcome in found)


def test_ties_are_drawn_anew_by_every_certificate_and_come_out_even():
    """W24: over many epochs no key is favoured."""
    members = [bytes([i]) * 32 for i in range(5)]
    wins = dict.fromkeys(members, 0)
    for epoch in range(2000):
        certificate = epoch.to_bytes(32, "big")
        wins[max(members, key=lambda m: draw_of(b"s" * 32, certificate, m))] += 1

    assert all(320 < count < 480 for count in wins.values()), wins


def test_a_member_has_one_voice_however_many_logs_it_writes(fleet):
    """W28 W9."""
    three(fleet)
    for _ in range(12):
        fleet.destroy("cal")
        fleet.join("cal")
        fleet.meet("cal", "ana")
        fleet["cal"].execute("INSERT OR REPLACE INTO bird VALUES('cal', 2, NULL)")
        fleet.gather()
    fleet["cal"].finish()
    fleet.gather()

    assert waits(fleet["ana"], 0) == {("ana", "not finished"), ("ben", "not finished")}
    holders = fleet["ana"].who_has(fleet["cal"].log(limit=1)[0].change)
    assert sorted(holders.holders) == ["ana", "ben", "cal"]
    assert len(fleet["ana"].members()) == 3
    fleet["ana"].finish()
    fleet.gather()
    assert waits(fleet["cal"], 0) == {("ben", "not finished")}, "twelve logs of cal are one voice"
    fleet["ben"].finish()
    fleet.gather()
    assert fleet["ben"].close_epoch(0).certificate.body.member_count == 3
    for replica in fleet.replicas.values():
        replica.verify()


@pytest.mark.parametrize("left", NAMES)
def test_when_all_files_but_one_are_destroyed_that_one_brings_back_everybody(fleet, left):
    """W11."""
    three(fleet)
    fleet.close_epoch()
    fleet[left].execute("INSERT INTO bird VALUES('after', 3, NULL)")
    fleet.gather()
    want, member_ids = answers_of(fleet[left]), {name: fleet[name].member_id for name in NAMES}
    for name in NAMES:
        if name != left:
            fleet.destroy(name)
    for name in NAMES:
        if name != left:
            fleet.join(name)
    fleet.join("dan")
    for name in fleet.names:
        if name != left:
            fleet.meet(name, left)
            assert rows_of(fleet[name]) == want[1]
            assert answers_of(fleet[name])[4] == want[4], "the certificates are the same bytes"
    fleet.gather()

    assert len({replica.status().root for replica in fleet.replicas.values()}) == 1
    assert {name: fleet[name].member_id for name in NAMES} == member_ids
    assert len(fleet[left].members()) == 4
    for replica in fleet.replicas.values():
        replica.verify()
    fleet.close_epoch()
    assert {r.close_epoch(1).state for r in fleet.replicas.values()} == {"closed"}
