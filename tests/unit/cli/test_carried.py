"""klal bundle: exit codes, shapes and sentences."""

import pytest


@pytest.fixture
def carried(klal):
    """Ana's file, a bundle of everything, one of what is new since, and ben, who has nothing."""
    klal("init", "ana.db", "--space", "terns", "--member", "Ana")
    klal("sql", "ana.db", "CREATE TABLE nest (id TEXT PRIMARY KEY, eggs INTEGER)")
    klal("join", "ben.db", klal("invite", "ana.db").strip(), "--member", "Ben")
    klal("bundle", "export", "ana.db", "all.bundle")
    klal("sql", "ana.db", "INSERT INTO nest VALUES ('N1', 2)")
    klal("bundle", "export", "ana.db", "new.bundle", "--since", "3")
    return klal


def test_what_a_bundle_would_bring_is_shown_by_member(carried):
    text = carried("bundle", "status", "ben.db", "all.bundle")
    report = carried("bundle", "status", "ben.db", "all.bundle", "--json")

    assert "space terns" in text
    assert "new changes" in text
    assert [each["member"] for each in report["members"]] == ["Ana"]
    assert carried("bundle", "status", "all.bundle", "--json")["changes"] == report["changes"] + 1


def test_a_bundle_is_taken_once_and_then_brings_nothing(carried):
    first = carried("bundle", "import", "ben.db", "all.bundle", "--json")
    again = carried("bundle", "import", "ben.db", "all.bundle")

    assert [each["whole"] for each in first] == [True]
    assert "0 changes and 0 payloads new here" in again
    assert "nothing in it is new here" in carried("bundle", "status", "ben.db", "all.bundle")


def test_what_it_needs_and_is_not_here_is_code_three(carried, tmp_path):
    klal = carried
    klal("bundle", "import", "ben.db", "all.bundle")
    klal("bundle", "export", "ben.db", "back.bundle")
    klal("bundle", "import", "ana.db", "back.bundle")
    klal("bundle", "export", "ana.db", "for.bundle", "--for", "Ben")
    ticket = klal("invite", "ana.db").strip()
    klal("join", "cal.db", ticket, "--member", "Cal")

    assert "needs 2 changes of Ana, up to 2" in klal("bundle", "status", "cal.db", "for.bundle", code=3)
    assert "not here: it needs" in klal("bundle", "import", "cal.db", "for.bundle", code=3)
    assert klal("bundle", "import", "cal.db", "all.bundle", "back.bundle", "for.bundle", "--json")[2]["whole"]


def test_a_damaged_bundle_is_code_three_and_says_where(carried, tmp_path):
    path = tmp_path / "all.bundle"
    path.write_bytes(path.read_bytes()[:-20])

    assert "damaged: " in carried("bundle", "status", "all.bundle", code=3)
    assert "the bundle is cut off" in carried("bundle", "import", "ben.db", "all.bundle", code=3)


def test_sizes_are_spelled_short_and_files_are_numbered(carried):
    report = carried("bundle", "export", "ana.db", "s.bundle", "--size-max", "1M", "--json")

    assert [each["path"] for each in report["bundles"]] == ["s.bundle"]
    assert "no size" in carried("bundle", "export", "ana.db", "t.bundle", "--size-max", "big", code=2)
    assert "at least" in carried("bundle", "export", "ana.db", "t.bundle", "--size-max", "1k", code=2)


def test_used_wrongly_is_two(carried):
    assert "exists already" in carried("bundle", "export", "ana.db", "all.bundle", code=2)
    assert "is no bundle" in carried("bundle", "import", "ben.db", "ana.db", code=2)
    assert "takes one bundle" in carried("bundle", "status", "all.bundle", "all.bundle", code=2)
    assert "no member" in carried("bundle", "export", "ana.db", "x.bundle", "--for", "Nobody", code=2)


def test_a_certificate_can_be_named_as_what_is_left_out(carried):
    carried("finish", "ana.db", "--alone")
    carried("close", "ana.db", "--out", "c.certificate")
    carried("sql", "ana.db", "INSERT INTO nest VALUES ('N9', 1)")

    report = carried("bundle", "export", "ana.db", "x.bundle", "--since", "c.certificate", "--json")
    assert report["changes"] == 1
