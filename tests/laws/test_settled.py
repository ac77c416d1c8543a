"""What is called closed, and what a light client believes, nobody can give up any more (EPO-5, EPO-9, SPK-2).

Each story here has a certificate that many had put their name to, and that was given up or could have been.
"""

from __future__ import annotations

import pytest

from klal.errors import IncompleteError
from klal.spark import Spark
from tests.helpers.fleet import BIRD, Fleet, all_agree, certificates_of

SILENT = "silent"


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", BIRD)
        yield fleet


def started(fleet, *names):
    """Let them join, and close epoch 0 with them."""
    for name in names:
        fleet.join(name)
    fleet.close_epoch()
    return [name for name in fleet.names if name != "ana"]


def state(fleet, name, epoch):
    replica = fleet[name]
    with replica._store.reading():
        return replica._survey().epoch_state(epoch)


def hash_of(fleet, name, epoch):
    return certificates_of(fleet[name])[epoch].hash


def spark_of(fleet, name, epoch):
    certificate = certificates_of(fleet[name])[epoch]
    return Spark.begin(fleet.folder / f"{name}.spark", certificate, hash=certificate.hash)


def test_an_epoch_is_not_closed_upon_one_that_others_may_still_give_up(fleet):
    """EPO-5 W18: two of five could go on alone for two epochs, and the other three elect somebody for the first.

    Whoever the second of them counts has named its certificate; those whom the first went on without have not.
    """
    started(fleet, "ben", "cal", "dan", "eva")
    fleet["cal"].finish()
    fleet.meet("ana", "cal")
    for name in ("dan", "eva"):
        fleet["ana"].retire(name, SILENT)
    for name in ("ana", "ben"):
        fleet[name].finish()
    fleet.gather(("ana", "ben"))
    fleet["ana"].retire("cal", SILENT)
    for name in ("ana", "ben"):
        fleet[name].finish()
    fleet.gather(("ana", "ben"))

    given_up = hash_of(fleet, "ana", 1)
    assert [state(fleet, name, 1) for name in ("ana", "ben")] == ["complete"] * 2
    assert [state(fleet, name, 2) for name in ("ana", "ben")] == ["complete"] * 2
    assert [each.member_name for each in fleet["ana"].status().epoch.waiting_for] == ["cal"]

    for name in ("cal", "dan", "eva"):
        fleet[name].support("cal")
    fleet.gather(("cal", "dan", "eva"))
    for name in ("dan", "eva"):
        fleet[name].finish()
    fleet.gather()
    assert hash_of(fleet, "ana", 1) != given_up
    for name in ("dan", "eva"):
        fleet[name].finish()
    fleet.gather()
    all_agree(fleet, lambda replica: [each.hash for each in certificates_of(replica)])
    assert [state(fleet, name, 2) for name in fleet.names] == ["closed"] * 5


def test_a_spark_does_not_believe_what_most_have_named_and_the_steward_may_give_up(fleet):
    """SPK-2 EPO-7: four of five have named the plain certificate, and the fifth, the steward, retires a member."""
    others = started(fleet, "ben", "cal", "dan", "eva")
    fleet["ana"].finish()
    fleet.meet("ana", "ben")
    for name in others:
        fleet[name].finish()
    fleet.gather(others)
    light = spark_of(fleet, "ben", 0)
    plain = hash_of(fleet, "ben", 1)
    assert state(fleet, "ben", 1) == "complete"
    with pytest.raises(IncompleteError, match="the steward of epoch 1 has not named"):
        light.check(fleet["ben"].prove.named(since=0).encode())

    fleet["ana"].retire("eva", SILENT)
    fleet.gather()
    fleet.gather()
    found = certificates_of(fleet["ben"])[1]
    assert (found.grade, found.hash == plain) == ("without", False)
    light.check(fleet["dan"].prove.named(since=0).encode())
    assert (light.epoch, light.certificate_hash) == (1, found.hash)


def test_a_steward_lost_between_closing_and_naming_does_not_keep_all_later_epochs_open(fleet):
    """EPO-5 EPO-9 W18: who has named the certificate elects somebody who has: its steward has no say any more."""
    others = started(fleet, "ben", "cal", "dan")
    fleet["ana"].finish()
    fleet.meet("ana", "ben")
    for name in others:
        fleet[name].finish()
    fleet.gather(others)
    named = hash_of(fleet, "ben", 1)
    assert state(fleet, "ben", 1) == "complete"

    for name in others:
        fleet[name].support("ben")
        fleet.gather(others)
    fleet["ben"].retire("ana", "lost")
    for name in others:
        fleet[name].finish()
    fleet.gather(others)
    assert [state(fleet, name, 2) for name in others] == ["closed"] * 3

    # What the lost one said in between, knowing of nothing, is without effect.
    fleet["ana"].retire("dan", SILENT)
    fleet.gather()
    fleet.gather()
    assert {hash_of(fleet, name, 1) for name in fleet.names} == {named}
    assert [state(fleet, name, 2) for name in others] == ["closed"] * 3


def met_in_order(fleet):
    """Let ana meet ben and cal, and then four more, saying so each time; ben and cal have heard of nobody else."""
    for name in ("ben", "cal", "dan", "eva", "fay", "gal"):
        fleet.join(name)
    for name in ("ben", "cal"):
        fleet.meet("ana", name)
    fleet["ana"].execute("INSERT INTO bird(id) VALUES('first')")
    for name in ("ben", "cal"):
        fleet.meet("ana", name)
    later = ("dan", "eva", "fay", "gal")
    for name in later:
        fleet.meet("ana", name)
    fleet["ana"].execute("INSERT INTO bird(id) VALUES('second')")
    fleet.gather(("ana", *later))
    return later


def test_in_epoch_0_nobody_is_elected_past_those_whom_the_founder_had_met_before(fleet):
    """EPO-9 W18: four of seven are more than half, and two of the first three could have elected another."""
    later = met_in_order(fleet)
    for name in later:
        fleet[name].support("dan")
    fleet.gather(later)
    assert fleet["dan"].stewardship().steward == "ana"

    for name in ("ben", "cal"):
        fleet[name].support("ben")
    fleet.gather(("ben", "cal"))
    assert fleet["ben"].stewardship().steward == "ben"
    fleet.gather()
    assert {replica.stewardship().steward for replica in fleet.replicas.values()} == {"ben"}


def test_with_half_of_the_first_three_it_goes_on(fleet):
    """EPO-9: the order of meeting asks for two of the first three members, and for no certain one."""
    later = met_in_order(fleet)
    for name in (*later, "ben", "cal"):
        if name in ("ben", "cal"):
            fleet.meet("dan", name)
        fleet[name].support("dan")
        fleet.gather(("dan", name))
    assert fleet["dan"].stewardship().steward == "dan"


def test_whom_the_founder_meets_after_its_close_decides_nothing_in_epoch_0(fleet):
    """EPO-9: else they could elect somebody in an epoch that is closed without them."""
    started(fleet, "ben", "cal")
    before = fleet["ben"]._store.epochs.electorate(0)
    ticket = fleet["ana"].invite(use_count_max=9)
    for name in ("dan", "eva", "fay"):
        fleet.join(name, ticket)
    fleet.gather()
    fleet["ana"].execute("INSERT INTO bird(id) VALUES('more')")
    fleet.gather()
    assert {member for group in before for member in group} == {fleet[name].member_id for name in ("ana", "ben", "cal")}
    assert fleet["ben"]._store.epochs.electorate(0) == before
