"""prove, verify and spark on the command line: what is written, what is said, and what is refused."""

import pytest


@pytest.fixture
def books(klal):
    """Two members, two closed epochs, and their certificates."""
    klal("init", "a.db", "--space", "birds", "--member", "Ana")
    klal("sql", "a.db", "CREATE TABLE bird (id TEXT PRIMARY KEY, mass INTEGER)")
    ticket = klal("invite", "a.db").strip()
    klal("join", "b.db", ticket, "--member", "Ben", home="other")
    for epoch in range(2):
        klal("sql", "a.db", f"INSERT INTO bird VALUES ('a{epoch}', {epoch})")
        klal("sync", "b.db", "a.db", home="other")
        klal("finish", "b.db", home="other")
        klal("sync", "a.db", "b.db")
        klal("finish", "a.db")
        klal("sync", "b.db", "a.db", home="other")
        klal("sync", "a.db", "b.db")
        klal("close", "a.db", "--epoch", epoch, "--out", f"{epoch}.certificate")
    return klal


def hash_of(klal, path):
    return klal("verify", path, "--json")["hash"]


def test_each_kind_of_proof_is_written_and_checked_by_its_certificate(books):
    """W13: of each the command says the same when it writes it and when somebody checks it."""
    change = books("log", "a.db", "--json")[-1]["change"]
    wanted = {
        "change": (change,),
        "row": ("bird", "a0"),
        "absence": ("bird", "b"),
        "member": ("--member", "Ben"),
        "named": (),
    }
    for kind, what in wanted.items():
        made = books("prove", "a.db", *what, "--to", "it.proof", "--json")
        found = books("verify", "it.proof", "--certificate", "1.certificate", "--json")

        assert made["proves"] == found["proves"] == kind
        assert made["sentence"] == found["sentence"]
        assert (found["ok"], found["trusted"]) == (True, True)
        assert found["under"]["certificate"] == hash_of(books, "1.certificate")
        assert books("verify", "it.proof", "--json")["trusted"] is False
        assert "only if" in books("verify", "it.proof")
        assert books("verify", "it.proof", "--certificate", found["under"]["certificate"]).startswith("proved: ")


def test_a_proof_under_another_certificate_is_refused(books):
    books("prove", "a.db", "bird", "a0", "--epoch", "0", "--to", "it.proof")

    report = books("verify", "it.proof", "--certificate", "1.certificate", "--json", code=1)
    assert (report["ok"], report["rule"]) == (False, "PRF-2")
    assert "neither" in books("verify", "it.proof", "--certificate", "x.certificate", code=2)


def test_a_payload_is_shown_when_it_is_asked_for(books):
    change = books("log", "a.db", "--json")[-1]["change"]
    without = books("prove", "a.db", change, "--to", "1.proof", "--json")
    whole = books("prove", "a.db", change, "--payload", "--to", "2.proof", "--json")

    assert ([p["shown"] for p in without["parts"]], [p["shown"] for p in whole["parts"]]) == ([False], [True])
    assert whole["bytes"] > without["bytes"]


def test_what_cannot_be_asked_together_is_used_wrongly(books):
    books("prove", "a.db", "bird", "a0", "--member", "Ben", "--to", "x.proof", code=2)
    books("prove", "a.db", "bird", "a0", "--payload", "--to", "x.proof", code=2)
    books("prove", "a.db", "--since", "0", "--member", "Ben", "--to", "x.proof", code=2)
    books("prove", "a.db", "bird", "a0", code=2)
    books("verify", "a.db", "b.db", code=2)
    books("verify", "0.certificate", "--certificate", "1.certificate", code=2)
    assert "is no proof" in books("prove", "a.db", "bird", "a0", "--to", "0.certificate", code=1)


def test_an_epoch_that_is_open_proves_nothing_yet(books):
    assert (
        books("prove", "a.db", "bird", "a0", "--epoch", "2", "--to", "x.proof", "--json", code=3)["error"]
        == "incomplete"
    )


def test_a_certificate_says_in_words_what_it_shows_and_what_not(books):
    """W13, W19: alone, beside others, and against the history."""
    alone = books("verify", "1.certificate")
    both = books("verify", "1.certificate", "0.certificate")
    whole = books("verify", "1.certificate", "a.db", "--json")

    assert "what was certified before epoch 1" in alone
    assert "not shown  that nobody else was a member" in alone
    assert "no certificate is left out" in both
    assert any("worked out anew" in sentence for sentence in whole["proved"])
    assert len(whole["not_proved"]) == 1
    assert whole["payloads"] > 0


def test_a_certificate_with_other_rows_passes_alone_and_not_against_the_history(books, tmp_path):
    """T23: and the first field that differs is named with its rule."""
    import msgspec

    from klal.model.certificate import check_certificate

    true = check_certificate((tmp_path / "1.certificate").read_bytes())
    lying = msgspec.structs.replace(true, body=msgspec.structs.replace(true.body, rows_root=bytes(32)))
    (tmp_path / "lying.certificate").write_bytes(lying.encode())

    books("verify", "lying.certificate")
    report = books("verify", "lying.certificate", "b.db", "--json", home="other", code=1)
    assert (report["rule"], report["where"]) == ("CRT-3", "rows_root")
    assert books("verify", "lying.certificate", "1.certificate", "--json", code=1)["rule"] == "CRT-9"


def test_a_spark_begins_with_a_hash_and_follows_its_members(books):
    """W7: it says what it holds and why it believes it."""
    first, second = hash_of(books, "0.certificate"), hash_of(books, "1.certificate")
    assert "--hash" in books("spark", "s.spark", "0.certificate", code=2)
    assert books("spark", "s.spark", "0.certificate", "--hash", second, "--json", code=1)["rule"] == "SPK-1"
    begun = books("spark", "s.spark", "0.certificate", "--hash", first, "--json")
    assert (begun["standing"], begun["epoch"], begun["certificate"]) == ("spark", 0, first)

    books("prove", "a.db", "bird", "a1", "--to", "row.proof")
    books("prove", "a.db", "--since", "0", "--to", "step.proof")
    assert books("spark", "s.spark", "row.proof", "--json", code=1)["rule"] == "SPK-3"
    moved = books("spark", "s.spark", "step.proof", "row.proof", "--json")
    assert (moved["epoch"], moved["certificate"]) == (1, second)
    assert moved["trusts"] == "2 of 2 members signed for it"
    assert [each["proves"] for each in moved["proved"]] == ["named", "row"]
    assert "spark of space" in books("spark", "s.spark")
    assert "already" in books("spark", "s.spark", "0.certificate", "--hash", first, code=2)
