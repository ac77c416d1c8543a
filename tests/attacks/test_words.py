"""Words said by those who have no right to them, and a table of verdicts that somebody else wrote to."""

from __future__ import annotations

import pytest

from klal.errors import RefusedError
from klal.model.acts import Admit, Certify, Expel, Hand, Leave, Retire, Support, Take
from tests.helpers.fleet import BIRD, Fleet, all_agree, certificates_of, rows_of


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as made:
        made.found("ana", BIRD)
        for name in ("ben", "cal", "dan"):
            made.join(name)
            made[name].execute("INSERT INTO bird(id) VALUES(?)", (name,))
        made.gather()
        made.close_epoch()
        yield made


def say(fleet, name, word):
    """Append a word as a member that keeps to no rule does."""
    store = fleet[name]._store
    with store.writing(durable=True), store.writer.engine_writes():
        store.append_acts(word)


WORDS = {
    "retire by no steward": lambda m: Retire(m["cal"], 1, "rival"),
    "expel by no steward": lambda m: Expel(m["cal"], 1, "rival"),
    "hand on what is not mine": lambda m: Hand(1, m["ben"]),
    "take without support": lambda m: Take(1, 1),
    "certify what follows from nothing": lambda m: Certify(0, bytes(32)),
    "certify as no steward": lambda m: Certify(0, m["certificate"]),
    "leave without finishing": lambda m: Leave(1),
    "vote in an epoch that has not begun": lambda m: Support(2, 1, m["ben"]),
    "vote in an epoch that is over and had one round": lambda m: Support(0, 2, m["ben"]),
    "vote for nobody": lambda m: Support(1, 1, bytes(32)),
    "retire from an epoch that is not open": lambda m: Retire(m["cal"], 7, "early"),
    "vote in a round far ahead": lambda m: Support(1, (1 << 31) - 1, m["ben"]),
}


@pytest.mark.parametrize("word", [Retire(b"z" * 32, 1, "nobody"), Expel(b"z" * 32, 1, "nobody"), Admit(b"z" * 32)])
def test_a_word_about_somebody_nobody_has_heard_of_stops_nothing(fleet, word):
    """MEM-6 EPO-3: though the steward says it."""
    say(fleet, "ana", word)
    fleet.gather()
    fleet.close_epoch()

    assert {r.close_epoch(1).state for r in fleet.replicas.values()} == {"closed"}
    assert {r.close_epoch(1).grade for r in fleet.replicas.values()} == {"complete"}
    for replica in fleet.replicas.values():
        replica.verify()


@pytest.mark.parametrize("what", WORDS)
def test_a_word_without_a_right_to_it_has_no_effect_and_is_shown_everywhere(fleet, what):
    """MEM-6 W23 T25 T27: replayed in another epoch or by another member it is nothing."""
    members = {name: replica.member_id for name, replica in fleet.replicas.items()}
    members["certificate"] = fleet["ben"].close_epoch(0).certificate.hash
    say(fleet, "ben", WORDS[what](members))
    fleet.gather()

    for replica in fleet.replicas.values():
        assert [w for w in replica.status().warnings if w.startswith("ben") and "no effect" in w], what
        assert {m.standing for m in replica.members()} == {"member"}
        assert replica.stewardship().steward == "ana"
    fleet.close_epoch()
    assert {r.close_epoch(1).grade for r in fleet.replicas.values()} == {"complete"}
    all_agree(fleet, lambda replica: (rows_of(replica), [c.hash for c in certificates_of(replica)]))
    for replica in fleet.replicas.values():
        replica.verify()


def test_admitting_one_who_was_expelled_is_no_members_right(fleet):
    """MEM-9 S53: whoever is let in again by a member who is no steward stays out."""
    cal = fleet["cal"].member_id
    fleet["ana"].expel("cal", "a thief")
    for name in ("ana", "ben", "dan"):
        fleet[name].finish()
    fleet.gather(("ana", "ben", "dan"))
    fleet.gather(("ana", "ben", "dan"))
    say(fleet, "ben", Admit(cal))
    for _ in range(2):
        fleet.gather(("ana", "ben", "dan"))
    for name in ("ana", "ben", "dan"):
        fleet[name].finish()
    fleet.gather(("ana", "ben", "dan"))

    assert [gone.name for gone in fleet["ana"].close_epoch(2).certificate.body.gone] == ["cal"]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE klal_word SET fault = 'nothing'",
        "UPDATE klal_word SET member_id = (SELECT member_id FROM klal_member ORDER BY 1 DESC LIMIT 1)",
        "DELETE FROM klal_word",
        "UPDATE klal_word SET rank = 0",
        "UPDATE klal_word SET epoch = 5",
    ],
)
def test_a_verdict_that_was_changed_in_the_file_is_found(fleet, sql):
    """MEM-6 W13 FIL-4."""
    fleet["ana"].retire("cal", "lost")
    connection = fleet["ana"]._store.connection
    connection.execute(sql)
    fleet.reopen("ana")

    with pytest.raises(RefusedError):
        fleet["ana"].verify()


def test_an_admit_lets_in_whom_it_knew_to_be_expelled_and_not_for_ever(fleet):
    """MEM-9: who is expelled again after it is expelled, though an admit lies in history."""
    fleet["ana"].expel("ben", "stole")
    fleet["ana"].admit("ben")
    assert fleet["ana"]._store.epochs.expelled == frozenset()
    fleet["ana"].expel("ben", "stole again")
    fleet.gather()

    for replica in fleet.replicas.values():
        assert replica._store.epochs.expelled == {fleet["ben"].member_id}


def test_whom_an_expelled_member_invited_waits_for_somebodys_word(fleet):
    """MEM-10: nobody had met them before the expulsion."""
    fleet.join("eva", fleet["ben"].invite())
    fleet["ana"].expel("ben", "stole")
    fleet.meet("eva", "ana")
    fleet.meet("ana", "cal")
    for name in ("ana", "cal"):
        assert fleet["eva"].member_id in fleet[name]._store.applier.questioned
        assert {m.name: m.standing for m in fleet[name].members()}.get("eva", "waiting") == "waiting"
    fleet["cal"].admit("eva")
    fleet.gather(("ana", "cal", "eva"))
    assert {m.name: m.standing for m in fleet["ana"].members()}["eva"] == "member"
