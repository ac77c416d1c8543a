"""`klal compact` at the command line: what it says while it waits, when it is refused, and when it is done."""

import pytest

OTHERS = ("ben", "cal")


@pytest.fixture
def columns():
    return 200


def meet(klal, rounds=2):
    for _ in range(rounds):
        for name in OTHERS:
            klal("sync", "ana.db", f"{name}.db", "--json")


@pytest.fixture
def books(klal):
    """Three members, and an epoch, closed, in which one row was written many times."""
    klal("init", "ana.db", "--space", "birds", "--member", "ana")
    klal("sql", "ana.db", "CREATE TABLE bird(id TEXT PRIMARY KEY, mass INTEGER)")
    for name in OTHERS:
        ticket = klal("invite", "ana.db", "--json")["ticket"]
        klal("join", f"{name}.db", ticket, "--member", name)
    klal("sql", "ana.db", "INSERT INTO bird VALUES('N1', 0)")
    for mass in range(1, 8):
        klal("sql", "ana.db", f"UPDATE bird SET mass = {mass}")
    meet(klal, 1)
    for name in ("ana", *OTHERS):
        klal("finish", f"{name}.db")
    meet(klal)
    return klal


def test_an_epoch_that_is_not_closed_is_not_yet(klal):
    """CMP-1: exit code 3, as everywhere for what others have yet to do."""
    klal("init", "ana.db", "--space", "birds", "--member", "ana")

    report = klal("compact", "ana.db", "--json", code=3)
    assert list(report) == ["compacted", "reason", "waiting_for"]
    assert report["compacted"] is False
    assert report["waiting_for"] == [{"member": "ana", "reason": "not finished", "count": 0, "holders": []}]
    assert "not yet: epoch 0 is not closed, as far as known here" in klal("compact", "ana.db", code=3)


def test_others_are_asked_then_named_and_then_relied_on(books):
    """W14, CMP-7: the first run asks, and the answers come with receipts."""
    asked = books("compact", "ana.db", "--anyway", "--json", code=3)
    assert [(each["member"], each["reason"]) for each in asked["waiting_for"]] == [
        ("ben", "has not shown its copy"),
        ("cal", "has not shown its copy"),
    ]
    said = books("compact", "ana.db", "--anyway", code=3)
    assert said.startswith("not yet: 2 others must show that they hold all up to epoch 0, and 0 did: ben, cal did not")
    assert "ben: has not shown its copy\ncal: has not shown its copy" in said

    meet(books)
    done = books("compact", "ana.db", "--anyway", "--json")
    assert list(done) == ["epoch", "changes", "bytes_before", "bytes", "keepers"]
    assert (done["epoch"], done["keepers"]) == (0, ["ben", "cal"])
    assert done["changes"] == 8  # One INSERT and seven UPDATEs; acts stay.
    again = books("compact", "ana.db")
    assert "compacted below epoch 0: 0 payloads put down, " in again
    assert "kept whole by ben and cal" in again
    assert books("status", "ana.db", "--json")["standing"] == "part"
    assert "compacted below epoch 0" in books("status", "ana.db")
    assert "compacted: the rows as of epoch 0 are those its certificate names" in books("verify", "ana.db")


def test_where_nothing_is_gained_nothing_is_done_and_nobody_is_asked(books):
    """CMP-2: the image of the rows is weighed against what goes before others read all they hold."""
    light = books("compact", "ana.db", "--json")

    assert list(light) == ["epoch", "changes", "bytes_before", "bytes", "keepers", "image_bytes", "gone_bytes"]
    assert (light["changes"], light["keepers"], light["bytes"]) == (0, [], light["bytes_before"])
    assert light["image_bytes"] >= light["gone_bytes"] > 0
    assert "nothing to gain: an image of the rows takes 4." in books("compact", "ana.db")
    meet(books)
    assert "nothing to gain" in books("compact", "ana.db")
    assert books("status", "ana.db", "--json")["standing"] == "whole"


def test_too_few_copies_and_a_copy_that_is_kept_for_others_are_refused(books):
    """W14: exit code 1, since no waiting would help."""
    books("compact", "ana.db", "--keep", "1", "--anyway", "--json", code=3)
    meet(books)
    (keeper,) = books("compact", "ana.db", "--keep", "1", "--anyway", "--json")["keepers"]
    meet(books)

    many = books("compact", "ana.db", "--keep", "9", "--json")  # What was done is not asked for again.
    assert many["changes"] == 0
    kept = books("compact", f"{keeper}.db", "--json", code=1)
    assert kept["error"] == "copies"
    assert kept["message"] == "this copy is kept for ana, so it stays"
    (free,) = {*OTHERS} - {keeper}
    assert "9 other full copies are wanted" in books("compact", f"{free}.db", "--keep", "9", code=1)


def test_used_wrongly_is_two(books):
    assert books("compact", "ana.db", "--keep", "0", "--json", code=2)["error"] == "usage"
    assert books("compact", "nowhere.db", "--json", code=2)["error"] == "usage"
    assert books("compact", "ana.db", "--epoch", "-1", "--json", code=2)["error"] == "usage"


def test_a_proof_of_what_was_compacted_says_who_can_make_it(books):
    """CMP-6, PRF-5: refused as not yet, with who has it."""
    books("compact", "ana.db", "--anyway", "--json", code=3)
    meet(books)
    books("compact", "ana.db", "--anyway", "--json")
    meet(books)
    change = books("log", "ana.db", "--table", "bird", "--json")[-1]["change"]

    assert books("prove", "ana.db", change, "--to", "it.proof", "--json")["proves"] == "change"
    refused = books("prove", "ana.db", change, "--payload", "--to", "other.proof", "--json", code=3)
    assert "compacted here; ben, cal can answer" in refused["message"]
