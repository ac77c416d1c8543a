"""Who belongs and who decides, on real replicas: going on without somebody, coming back, leaving, being let in."""

from __future__ import annotations

import pytest

from klal.api import check_certificate_file
from klal.errors import IncompleteError, UsageError
from tests.helpers.fleet import BIRD, Fleet, all_agree, rows_of

NAMES = ("ana", "ben", "cal")


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as made:
        yield made


def band(fleet, *names):
    names = names or NAMES
    fleet.found(names[0], BIRD)
    for name in names[1:]:
        fleet.join(name)
    for name in names:
        write(fleet, name, name)
    fleet.gather()
    return fleet


def write(fleet, name, key):
    return fleet[name].execute("INSERT INTO bird VALUES(?, 100, NULL)", (key,)).change


def waits(replica, epoch=None):
    with pytest.raises(IncompleteError) as caught:
        replica.close_epoch(epoch)
    return {(w.member_name, w.reason) for w in caught.value.waiting_for}


def standing(replica, name):
    return next(m.standing for m in replica.members() if m.name == name)


def keys(replica):
    return {key for (key,) in replica.query("SELECT id FROM bird")}


def close_all(fleet, names=None):
    fleet.gather(names)
    for name in names or fleet.names:
        fleet[name].finish()
    fleet.gather(names)


# -- going on without somebody -----------------------------------------------------------------------------------------


def test_the_steward_goes_on_without_a_lost_member_and_the_certificate_says_so(fleet, tmp_path):
    """W10 W19 S54 EPO-7 CRT-6 CRT-7: the same bytes everywhere, and never called complete."""
    band(fleet)
    close_all(fleet, ("ana", "ben"))
    assert waits(fleet["ana"], 0) == {("cal", "not finished")}

    assert fleet["ana"].retire("cal", "lost at sea") == 0
    fleet.gather(("ana", "ben"))

    found = {fleet[name].close_epoch(0).certificate.encode() for name in ("ana", "ben")}
    assert len(found) == 1
    closed = fleet["ben"].close_epoch(0)
    assert (closed.grade, closed.state) == ("without", "closed")
    (gone,) = closed.certificate.body.absent
    assert (gone.name, gone.kind, gone.epoch, gone.reason) == ("cal", "retired", 0, "lost at sea")
    closed.write(tmp_path / "certificate")
    assert check_certificate_file(tmp_path / "certificate").grade == "without"
    assert standing(fleet["ben"], "cal") == "retired"
    for name in ("ana", "ben"):
        fleet[name].verify()


def test_the_work_of_the_retired_comes_late_and_a_later_certificate_is_complete(fleet):
    """W19 S38 S54 S57 MEM-8: told what happened, nothing lost, counted again once it says that it is back."""
    band(fleet)
    late = write(fleet, "cal", "late")
    close_all(fleet, ("ana", "ben"))
    fleet["ana"].retire("cal", "lost at sea")
    fleet.gather(("ana", "ben"))
    close_all(fleet, ("ana", "ben"))
    assert fleet["ana"].close_epoch(1).grade == "without", "cal's work may still be lacking"

    fleet.gather()
    assert "this member was retired from epoch 0: lost at sea" in fleet["cal"].status().warnings
    assert [e.is_late for e in fleet["ana"].log() if e.change == late] == [True]
    assert "late" in keys(fleet["ben"])
    write(fleet, "cal", "back")
    fleet.gather()
    assert {standing(fleet[name], "cal") for name in NAMES} == {"retired"}, "a member again from the next cut on"
    fleet["ana"].finish()
    fleet["ben"].finish()
    fleet.gather()
    assert waits(fleet["ana"], 2) == {("cal", "not finished")}
    fleet["cal"].finish()
    fleet.gather()

    closed = fleet["cal"].close_epoch(2)
    assert (closed.grade, closed.state, closed.certificate.body.gone) == ("complete", "closed", ())
    # The insert of epoch 0; what came back was written in epoch 2.
    assert dict(closed.certificate.body.late) == {fleet["cal"].member_id: 1}
    assert {standing(fleet[name], "cal") for name in NAMES} == {"member"}
    all_agree(fleet)
    for replica in fleet.replicas.values():
        replica.verify()


def test_a_retirement_that_meets_a_close_wins_everywhere_and_one_that_saw_it_is_void(fleet):
    """S54 EPO-7 D15: settled alike wherever they meet, in whatever order."""
    band(fleet)
    fleet["cal"].finish()
    fleet["ana"].finish()
    fleet["ana"].retire("cal", "silent")
    fleet["ben"].finish()
    fleet.meet("ben", "cal")
    assert waits(fleet["ben"], 0) == {("ana", "not finished")}
    fleet.gather()

    assert {r.close_epoch(0).grade for r in fleet.replicas.values()} == {"without"}
    assert len({r.close_epoch(0).certificate.hash for r in fleet.replicas.values()}) == 1
    with pytest.raises(UsageError, match="gone already"):
        fleet["ana"].retire("cal", "again")


def test_a_member_who_had_everything_before_it_heard_of_a_retirement_gives_up_its_certificate(fleet):
    """EPO-8 W18: the provisional one was named by nobody who counts, so two are never closed."""
    band(fleet)
    for name in NAMES:
        fleet[name].finish()
    fleet.meet("ana", "ben")
    fleet.meet("ben", "cal")
    fleet["ana"].retire("cal", "silent")
    assert fleet["ben"].close_epoch(0).grade == "complete"
    fleet.meet("ben", "ana")
    fleet.meet("ben", "ana")

    assert fleet["ben"].close_epoch(0).grade == "without"
    fleet.gather()
    assert {r.close_epoch(0).state for r in fleet.replicas.values()} == {"closed"}
    all_agree(fleet)


def test_only_the_steward_goes_on_without_somebody_and_never_without_itself(fleet):
    """W23 W24 EPO-7: refused where it is asked for; and without effect where it is said all the same."""
    band(fleet)
    for ask in (fleet["ben"].retire, fleet["ben"].expel):
        with pytest.raises(UsageError, match="only the steward"):
            ask("cal", "a rival")
    for ask in (fleet["ana"].retire, fleet["ana"].expel):
        with pytest.raises(UsageError, match="themselves"):
            ask("ana", "tired")
    with pytest.raises(UsageError, match="no member known here"):
        fleet["ana"].retire("dan", "unknown")
    with pytest.raises(UsageError, match="a reason has"):
        fleet["ana"].retire("cal", "")


def test_fewer_than_half_cannot_close_however_many_the_steward_retires(fleet):
    """EPO-8: else those it retired could elect another, and close another certificate."""
    band(fleet)
    close_all(fleet, ("ana",))
    fleet["ana"].retire("ben", "lost")
    fleet["ana"].retire("cal", "lost")

    assert waits(fleet["ana"], 0) == {("ana", "fewer than half would be left")}
    # One of them answers after all: the steward takes its word back.
    fleet["ana"].admit("ben")
    assert waits(fleet["ana"], 0) == {("ben", "not finished")}
    fleet["ben"].finish()
    fleet.gather(("ana", "ben"))
    fleet.gather(("ana", "ben"))
    assert [gone.name for gone in fleet["ben"].close_epoch(0).certificate.body.gone] == ["cal"]


# -- leaving, being let in, being expelled -----------------------------------------------------------------------------


def test_whoever_leaves_is_counted_once_more_and_waited_for_no_more(fleet):
    """D21 MEM-8: its work stays, and the certificate is complete."""
    band(fleet)
    assert fleet["cal"].leave().epoch == 0
    close_all(fleet, ("ana", "ben"))
    fleet.gather()
    assert fleet["ana"].close_epoch(0).grade == "complete"
    assert standing(fleet["ana"], "cal") == "left"
    with pytest.raises(UsageError, match="left after epoch 0"):
        write(fleet, "cal", "after")

    close_all(fleet, ("ana", "ben"))
    assert fleet["ana"].close_epoch(1).certificate.body.left == (fleet["cal"].member_id,)
    assert "cal" in keys(fleet["ana"])
    assert fleet["ana"].status().stable_count == fleet["ana"].status().coverage.known, (
        "it is not waited for here either"
    )
    fleet.gather()
    fleet["cal"].come_back()
    write(fleet, "cal", "after")
    close_all(fleet)
    assert fleet["ana"].close_epoch(2).certificate.body.member_count == 3
    all_agree(fleet)


def test_the_steward_hands_its_place_on_before_it_leaves(fleet):
    """W18 EPO-6: no authority is lost."""
    band(fleet)
    with pytest.raises(UsageError, match="hands the stewardship"):
        fleet["ana"].leave()
    fleet["ana"].hand_stewardship("cal")
    fleet["ana"].leave()
    close_all(fleet, ("ben", "cal"))
    fleet.gather()

    assert {r.stewardship().steward for r in fleet.replicas.values()} == {"cal"}
    close_all(fleet, ("cal",))
    fleet["cal"].retire("ben", "lost")
    assert fleet["cal"].close_epoch(1).grade == "without"


def test_a_newcomer_whose_epoch_is_over_waits_to_be_admitted(fleet):
    """W23 MEM-10 D16: a grant ends with its epoch; one member's word is enough, and nothing of theirs is lost."""
    band(fleet)
    fleet.join("dan")
    write(fleet, "dan", "dan")
    close_all(fleet, NAMES)
    fleet.gather()
    assert "dan" in keys(fleet["dan"])
    for name in NAMES:
        assert "dan" not in keys(fleet[name])
        assert standing(fleet[name], "dan") == "waiting"
        assert "dan joined too late for its epoch and waits to be admitted" in fleet[name].status().warnings
        assert not fleet[name].status().epoch.waiting_for or "dan" not in {
            w.member_name for w in fleet[name].status().epoch.waiting_for
        }
        fleet[name].verify()

    fleet["ben"].admit("dan")
    fleet.gather()
    assert {"dan" in keys(replica) for replica in fleet.replicas.values()} == {True}
    close_all(fleet)
    assert fleet["ana"].close_epoch(1).certificate.body.member_count == 4
    all_agree(fleet)
    for replica in fleet.replicas.values():
        replica.verify()


def test_a_new_ticket_lets_a_newcomer_into_a_later_epoch_without_another_word(fleet):
    """W23: the grant is of the epoch it is used in."""
    band(fleet)
    close_all(fleet)
    fleet.join("dan", fleet["ben"].invite())
    write(fleet, "dan", "dan")
    fleet.gather()

    assert "dan" in keys(fleet["cal"])
    assert standing(fleet["cal"], "dan") == "member"


def test_what_the_expelled_wrote_unseen_waits_until_somebody_else_has_it_in_their_past(fleet):
    """S52 MEM-9 D21: no row change is ever undone, and whoever has applied it answers for it."""
    band(fleet)
    write(fleet, "cal", "seen")
    fleet.meet("ana", "cal")
    fleet["ana"].expel("cal", "a thief")
    write(fleet, "cal", "unseen")
    fleet.meet("ana", "cal")

    assert keys(fleet["ana"]) == {"ana", "ben", "cal", "seen"}
    assert fleet["ana"].status().parked
    assert "changes of cal, who was expelled, wait for another member's word" in fleet["ana"].status().warnings
    fleet["ana"].verify()
    fleet.gather(("ana", "ben"))
    assert rows_of(fleet["ana"]) == rows_of(fleet["ben"])
    assert {standing(fleet[name], "cal") for name in ("ana", "ben")} == {"expelled"}


def test_one_who_was_expelled_unseen_by_another_is_vouched_for_by_that_ones_change(fleet):
    """S52 S55 MEM-9: everywhere alike, in whatever order it arrives."""
    band(fleet)
    write(fleet, "cal", "unseen")
    fleet.meet("ben", "cal")
    write(fleet, "ben", "voucher")
    fleet["ana"].expel("cal", "a thief")
    write(fleet, "cal", "later")
    fleet.gather()

    for replica in (fleet["ana"], fleet["ben"]):
        assert "unseen" in keys(replica)
        assert "later" not in keys(replica)
    assert rows_of(fleet["ana"]) == rows_of(fleet["ben"])


def test_only_a_steward_admits_the_expelled_again_and_from_the_next_epoch_on(fleet):
    """S53 MEM-9 W23."""
    band(fleet)
    fleet["ana"].expel("cal", "a mistake")
    close_all(fleet, ("ana", "ben"))
    assert fleet["ana"].close_epoch(0).grade == "without"
    write_after = fleet["cal"].execute("INSERT INTO bird VALUES('held back', 1, NULL)").change
    fleet.gather()
    with pytest.raises(UsageError, match="was expelled"):
        write(fleet, "cal", "more")
    with pytest.raises(UsageError, match="only the steward"):
        fleet["ben"].admit("cal")
    assert write_after is not None
    fleet["ana"].admit("cal")
    fleet.gather()
    assert "held back" in keys(fleet["ben"])
    close_all(fleet)

    assert fleet["cal"].close_epoch(1).certificate.body.member_count == 3
    all_agree(fleet)


# -- the steward's place -----------------------------------------------------------------------------------------------


def test_with_every_member_present_an_epoch_closes_without_any_steward(fleet):
    """W18: closing needs no role."""
    band(fleet)
    fleet["ana"].hand_stewardship("ben")
    close_all(fleet)
    assert {r.stewardship().steward for r in fleet.replicas.values()} == {"ben"}
    close_all(fleet)

    assert {r.close_epoch(1).state for r in fleet.replicas.values()} == {"closed"}


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_lost_stewardship_passes_by_more_than_half_and_the_epoch_closes(fleet, epoch):
    """W18 EPO-9: the founder's key and file are destroyed; gathered offline, replica by replica."""
    band(fleet)
    if epoch:
        close_all(fleet)
    else:
        # In the first epoch those vote whom the founder is known to have met.
        with pytest.raises(UsageError, match="no vote"):
            fleet["cal"].support("cal")
        write(fleet, "ana", "met them")
        fleet.gather()
    fleet.destroy("ana")
    others = ("ben", "cal")
    close_all(fleet, others)
    assert waits(fleet["ben"], epoch) == {("ana", "not finished")}
    asked = fleet["cal"].support("cal")
    assert (asked.supporters, asked.needed, asked.steward) == ({"cal": ("cal",)}, 2, "ana")
    fleet.gather(others)
    fleet["ben"].support("cal")
    fleet.gather(others)

    assert {fleet[name].stewardship().steward for name in others} == {"cal"}
    fleet["cal"].retire("ana", "her house burnt down")
    fleet.gather(others)
    closed = [fleet[name].close_epoch(epoch) for name in others]
    assert {(each.state, each.grade) for each in closed} == {("closed", "without")}
    assert len({each.certificate.hash for each in closed}) == 1
    close_all(fleet, others)
    assert fleet["ben"].close_epoch(epoch + 1).state == "closed"
    for name in others:
        fleet[name].verify()


def test_a_steward_who_comes_back_finds_its_place_taken_and_its_own_words_without_force(fleet):
    """W18 S50 S55: settled alike on every replica, whoever hears last."""
    band(fleet)
    close_all(fleet)
    for name in ("ben", "cal"):
        fleet[name].finish()
    fleet.meet("ben", "cal")
    fleet["ben"].support("ben")
    fleet.meet("ben", "cal")
    fleet["cal"].support("ben")
    fleet["ana"].retire("cal", "does not answer")
    fleet.meet("ben", "cal")
    fleet["ben"].retire("ana", "does not answer")
    fleet.gather()
    assert fleet["ana"].stewardship().steward == "ana", "what is of the next epoch waits until it has finished"
    fleet["ana"].finish()
    fleet.gather()

    assert {r.stewardship().steward for r in fleet.replicas.values()} == {"ben"}
    assert len({r.close_epoch(1).certificate.hash for r in fleet.replicas.values()}) == 1
    (gone,) = fleet["ana"].close_epoch(1).certificate.body.gone
    assert gone.name == "ana"
    assert "this member was retired from epoch 1: does not answer" in fleet["ana"].status().warnings


def test_whoever_votes_puts_its_name_to_no_certificate_until_that_is_decided(fleet):
    """EPO-9 W18: else a certificate of the steward and one of the elected could both be closed."""
    names = ("ana", "ben", "cal", "dan", "eva")
    band(fleet, *names)
    close_all(fleet)
    fleet["ben"].support("ben")
    for name in names:
        fleet[name].finish()
    for name in ("cal", "dan", "eva", "ana"):
        fleet.meet("ben", name)

    def named(by):
        receipts = fleet[by]._store.knowledge.receipts().values()
        return {r.statement.certificate for r in receipts if r.statement.member_id == fleet[by].member_id}

    assert named("ana") == {fleet["ana"].close_epoch(1).certificate.hash}
    assert named("ben") == {fleet["ben"].close_epoch(0).certificate.hash}
    fleet.gather()
    assert {r.close_epoch(1).state for r in fleet.replicas.values()} == {"closed"}, "the vote can win no more"


def test_a_thousand_logs_of_one_member_are_one_voice(fleet):
    """W28 EPO-9: however many files it votes from."""
    band(fleet, "ana", "ben", "cal", "dan", "eva")
    close_all(fleet)
    for _ in range(4):
        fleet["ben"].support("ben")
        fleet.gather()
        fleet.destroy("ben")
        fleet.join("ben")
        fleet.gather()

    asked = fleet["cal"].stewardship()
    assert asked.supporters == {"ben": ("ben",)}
    assert asked.steward == "ana"


def test_a_steward_lost_before_it_named_the_certificate_can_be_followed_by_another(fleet):
    """W18 EPO-8 EPO-9: an epoch nobody has named is open for words, though it looks complete everywhere."""
    names = ("ana", "ben", "cal", "dan", "eva")
    band(fleet, *names)
    close_all(fleet)
    left = ("ben", "dan", "eva")
    fleet["ana"].retire("cal", "lost at sea")
    fleet["ana"].finish()
    fleet.meet("ana", "ben")
    fleet.destroy("ana")
    fleet.gather(left)
    for name in left:
        fleet[name].finish()
    fleet.gather(left)
    assert waits(fleet["dan"], 1) == {("ana", "certificate not named")}

    for name in left:
        fleet[name].support("ben")
        fleet.gather(left)
    assert {fleet[name].stewardship().steward for name in left} == {"ben"}
    fleet["ben"].retire("cal", "lost at sea")
    fleet.gather(left)
    fleet.gather(left)
    closed = [fleet[name].close_epoch(1) for name in left]
    assert {each.grade for each in closed} == {"without"}
    assert closed[0].certificate.body.steward == fleet["ben"].member_id
    close_all_but = {gone.name for gone in closed[0].certificate.body.absent}
    assert close_all_but == {"cal"}
    for name in left:
        fleet[name].verify()


@pytest.mark.parametrize("goes", ["leaves", "is retired"])
def test_whoever_has_gone_hears_of_what_was_said_in_epochs_it_does_not_finish(fleet, goes):
    """EPO-2 MEM-7: nothing is parked for an epoch that its member has no say in."""
    names = ("ana", "ben", "cal", "dan", "eva")
    band(fleet, *names)
    if goes == "leaves":
        fleet["ben"].leave()
    others = ("ana", "cal", "dan", "eva")
    close_all(fleet, others)
    if goes == "is retired":
        fleet["ana"].retire("ben", "silent")
        fleet.gather(others)
    fleet.gather()
    for name in ("ana", "dan", "eva"):
        fleet[name].finish()
    fleet["ana"].retire("cal", "lost at sea")
    fleet.gather(("ana", "dan", "eva"))
    close_all(fleet, ("ana", "dan", "eva"))
    write(fleet, "ana", "later")
    fleet.gather(("ana", "ben"))

    assert fleet["ben"].status().parked == 0
    assert "later" in keys(fleet["ben"])
    if goes == "leaves":
        fleet["ben"].come_back()
    write(fleet, "ben", "back")
    fleet.gather(("ana", "ben", "dan", "eva"))
    assert "back" in keys(fleet["dan"])


def test_where_everybody_has_left_there_is_nothing_to_close_and_nothing_hangs(fleet):
    """EPO-3: an epoch without members has no cut."""
    fleet.found("ana", BIRD)
    fleet.join("ben")
    fleet.gather()
    fleet["ana"].hand_stewardship("ben")
    fleet["ben"].leave()
    fleet["ana"].leave()
    fleet.gather()

    assert fleet["ana"].close_epoch(0).grade == "complete"
    assert waits(fleet["ana"], 1) == set()
    assert "epoch 1 has no steward" in fleet["ana"].status().warnings


def test_newcomers_who_have_no_vote_set_nobody_free_who_has_voted(fleet):
    """W18 EPO-9: else the certificates of the old steward and of the elected could both be closed."""
    band(fleet, "ana", "ben", "cal", "dan")
    close_all(fleet)
    ticket = fleet["ana"].invite()
    for name in ("eva", "fay"):
        fleet.join(name, ticket)
        write(fleet, name, name)
    fleet.gather()
    others = ("eva", "fay", "cal", "dan")
    for name in ("ben", "cal", "dan"):
        fleet[name].support("ben")
    for name in others:
        fleet[name].finish()
    for name in others:
        fleet.meet("ben", name)
    fleet["ben"].finish()
    fleet["ben"].retire("ana", "silent")
    fleet["ana"].finish()
    fleet["ana"].retire("ben", "silent")
    for _ in range(2):
        fleet.gather(("ana", *others))
    one = fleet["ana"].close_epoch(1)
    for _ in range(2):
        fleet.gather(("ben", *others))
    other = fleet["ben"].close_epoch(1)

    assert one.certificate.hash != other.certificate.hash
    assert (one.state, other.state) != ("closed", "closed")
    fleet.gather()
    fleet.gather()
    assert len({r._store.epochs.certificate(1).hash for r in fleet.replicas.values()}) == 1


@pytest.mark.parametrize("votes", [("ben", "ben"), ("ben", "cal")], ids=["for one", "split"])
def test_votes_that_are_out_while_everybody_finishes_wedge_nothing(fleet, votes):
    """W18 EPO-9: who wins takes the place although the epoch is complete; who cannot win binds nobody."""
    band(fleet)
    close_all(fleet)
    for voter, candidate in zip(("ben", "cal"), votes, strict=True):
        fleet[voter].support(candidate)
    close_all(fleet)
    fleet.gather()
    fleet.gather()
    assert {r.close_epoch(1).state for r in fleet.replicas.values()} == {"closed"}
    close_all(fleet)
    fleet.gather()
    assert {r.close_epoch(2).state for r in fleet.replicas.values()} == {"closed"}


def test_one_who_came_back_and_is_lost_again_can_be_retired_again(fleet):
    """MEM-8 EPO-7."""
    band(fleet)
    close_all(fleet, ("ana", "ben"))
    fleet["ana"].retire("cal", "lost")
    fleet.gather(("ana", "ben"))
    fleet.gather()
    write(fleet, "cal", "back")
    fleet.gather()
    close_all(fleet, ("ana", "ben"))
    assert waits(fleet["ana"], 1) == {("cal", "not finished")}
    fleet["ana"].retire("cal", "lost again")

    assert fleet["ana"].close_epoch(1).grade == "without"


def test_a_steward_may_retire_somebody_and_leave_in_one_epoch(fleet):
    """EPO-8 MEM-8: its last word on the epoch is said although it has left."""
    band(fleet, "ana", "ben", "cal", "dan")
    fleet["ana"].hand_stewardship("ben")
    for wrong in ("ana",):
        with pytest.raises(UsageError, match="another member, who stays"):
            fleet["ana"].hand_stewardship(wrong)
    fleet["ana"].retire("cal", "lost")
    fleet["ana"].leave()
    close_all(fleet, ("ana", "ben", "dan")[1:])
    fleet.gather(("ana", "ben", "dan"))
    fleet.gather(("ana", "ben", "dan"))

    assert fleet["ben"].close_epoch(0).grade == "without"
    assert fleet["dan"].stewardship().steward == "ben"
