"""Exit codes, shapes and sentences of the commands, in this process."""

import pytest


@pytest.fixture
def space(klal):
    klal("init", "a.db", "--space", "birds", "--member", "Ana")
    klal("sql", "a.db", "CREATE TABLE bird (id TEXT PRIMARY KEY, mass INTEGER, note TEXT)")
    return klal


def test_used_wrongly_is_two(klal):
    assert "error: no such command 'fly'" in klal("fly", code=2)
    assert klal("fly", "--json", code=2)["error"] == "usage"
    assert "does not exist" in klal("status", "nowhere.db", "--json", code=2)["message"]
    assert "Commands:" in klal(code=2)
    assert "Usage:" in klal("sql", "--help")


def test_a_file_that_is_not_klal_is_refused(klal, tmp_path):
    (tmp_path / "letter.db").write_text("Dear all")

    assert klal("status", "letter.db", "--json", code=1)["error"] == "not-klal"
    assert klal("verify", "letter.db", "--json", code=1)["ok"] is False


def test_init_prints_who_and_what_in_hex(klal):
    report = klal("init", "a.db", "--space", "birds", "--member", "Ana", "--json")

    assert list(report) == ["space_id", "member_id", "log_id"]
    assert all(bytes.fromhex(value) for value in report.values())


def test_a_query_is_a_table_or_a_list_of_objects(space):
    written = space("sql", "a.db", "INSERT INTO bird VALUES ('a', 1, NULL), ('b', 22, 'x')", "--json")

    assert written["row_count"] == 2
    assert len(written["change"].split(":")[0]) == 64
    assert space("sql", "a.db", "SELECT id, mass FROM bird ORDER BY id", "--json") == [
        {"id": "a", "mass": 1},
        {"id": "b", "mass": 22},
    ]
    assert "id  mass\na      1\nb     22\n2 rows" in space("sql", "a.db", "SELECT id, mass FROM bird ORDER BY id")
    assert "1 row, change " in space("sql", "a.db", "DELETE FROM bird WHERE id = 'a'")
    assert space("sql", "a.db", "SELECT x'00ff' AS b", "--json") == [{"b": "x'00ff'"}]


def test_sql_that_is_not_sql_is_used_wrongly(space):
    assert space("sql", "a.db", "SELEC 1", "--json", code=2)["error"] == "usage"


def test_import_is_one_change_or_nothing(space, tmp_path):
    (tmp_path / "good.csv").write_text("id,mass\na,1\nb,\n")
    (tmp_path / "bad.csv").write_text("id,mass\nc,1\nd\n")
    (tmp_path / "same.csv").write_text("id,mass\ne,1\na,1\n")

    assert space("import", "a.db", "bird", "good.csv", "--json")["row_count"] == 2
    assert "bad.csv, line 3: column 2 (mass) is missing" in space("import", "a.db", "bird", "bad.csv", code=1)
    assert "same.csv, near line 3" in space("import", "a.db", "bird", "same.csv", code=1)
    assert space("sql", "a.db", "SELECT id, mass FROM bird ORDER BY id", "--json") == [
        {"id": "a", "mass": 1},
        {"id": "b", "mass": None},
    ]
    assert len(space("log", "a.db", "--table", "bird", "--json")) <= 2


def test_import_into_no_table_suggests_one(space, tmp_path):
    (tmp_path / "fish.csv").write_text("id,kg\na,1.5\n")

    error = space("import", "a.db", "fish", "fish.csv", "--json", code=1)

    assert "no table 'fish'" in error["message"]
    assert "CREATE TABLE fish (id TEXT PRIMARY KEY, kg REAL)" in error["hint"]


def test_another_format_is_used_wrongly(space, tmp_path):
    (tmp_path / "birds.parquet").write_bytes(b"PAR1")

    assert ".csv" in space("import", "a.db", "bird", "birds.parquet", "--json", code=2)["message"]
    assert ".csv" in space("export", "a.db", "bird", "out.parquet", "--json", code=2)["message"]
    assert "URL" in space("sync", "a.db", "ws://hub?x=1", "--json", code=2)["message"]


def test_export_is_in_the_order_of_the_key_and_comes_back_the_same(space, tmp_path):
    space("sql", "a.db", "INSERT INTO bird VALUES ('b', 2, 'x, y'), ('a', NULL, 'two\nlines')")

    assert space("export", "a.db", "bird", "out.csv", "--json") == {"row_count": 2, "path": "out.csv"}
    assert (tmp_path / "out.csv").read_text() == 'id,mass,note\na,,"two\nlines"\nb,2,"x, y"\n'
    assert "is there already" in space("export", "a.db", "bird", "out.csv", code=1)
    space("sql", "a.db", "DELETE FROM bird")
    space("import", "a.db", "bird", "out.csv")
    assert space("export", "a.db", "bird", "again.csv", "--force", "--json")["row_count"] == 2
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_two_replicas_meet_and_say_whether_they_are_equal(space, tmp_path, monkeypatch):
    ticket = space("invite", "a.db", "--json")["ticket"]
    monkeypatch.setenv("KLAL_HOME", str(tmp_path / "other"))
    space("join", "b.db", ticket, "--member", "Ben")
    space("sql", "b.db", "INSERT INTO bird VALUES ('b', 2, NULL)")
    monkeypatch.setenv("KLAL_HOME", str(tmp_path / "home"))

    (tmp_path / "stick").mkdir()
    assert space("sync", "a.db", "stick", "--json")["equal"] is True
    monkeypatch.setenv("KLAL_HOME", str(tmp_path / "other"))
    report = space("sync", "b.db", "stick", "--json")

    assert report["equal"] is True
    assert list(report)[:4] == ["sent", "received", "equal", "root"]
    assert set(report["sent"]) == {"changes", "payloads", "bytes"}
    assert "equal: both sides hold the same" in space("sync", "b.db", "stick")
    change = space("log", "b.db", "--json")[0]["change"]
    holders = space("who-has", "b.db", f"{change[:12]}:{change.partition(':')[2]}", "--json")
    assert holders["change"] == change
    assert holders["holders"] == ["Ben"]
    assert "no change here is called abcd:3" in space("who-has", "b.db", "abcd:3", code=2)


def test_close_says_not_yet_with_three(space, tmp_path):
    waiting = space("close", "a.db", "--json", code=3)

    assert waiting["epoch"] == 0
    assert waiting["waiting_for"][0]["member"] == "Ana"
    assert waiting["waiting_for"][0]["reason"] == "not finished"
    assert "not yet: epoch 0 waits for 1 member" in space("close", "a.db", code=3)
    assert not list(tmp_path.glob("*.certificate"))


def test_a_close_writes_a_certificate_that_proves_itself(space, tmp_path):
    assert space("finish", "a.db", "--json")["epoch"] == 0
    report = space("close", "a.db", "--json")

    assert list(report) == ["epoch", "certificate", "hash", "grade", "without", "state", "members"]
    assert report["certificate"] == "a.epoch-0.certificate"
    assert space("verify", report["certificate"], "--json")["hash"] == report["hash"]
    assert "everything holds: the certificate of epoch 0, complete" in space("verify", report["certificate"])
    assert space("close", "a.db", "--epoch", "0", "--out", "copy", "--json")["hash"] == report["hash"]
    assert (tmp_path / "copy").read_bytes() == (tmp_path / report["certificate"]).read_bytes()

    mangled = bytearray((tmp_path / "copy").read_bytes())
    mangled[-10] ^= 1
    (tmp_path / "copy").write_bytes(mangled)
    refused = space("verify", "copy", "--json", code=1)
    assert refused["ok"] is False
    assert refused["rule"]


def test_a_certificate_never_replaces_another_kind_of_file(space, tmp_path):
    space("finish", "a.db")
    (tmp_path / "notes").write_text("mine")

    assert "not a certificate" in space("close", "a.db", "--out", "notes", code=1)
    assert (tmp_path / "notes").read_text() == "mine"


def test_every_report_has_the_shape_of_the_page(space):
    status = space("status", "a.db", "--json")

    assert list(status)[:3] == ["space", "member", "state"]
    assert set(status) >= {"standing", "headers", "payloads", "root", "as_of_unix_ms", "members", "epoch", "stable"}
    assert set(status) >= {"only_here", "conflicts", "violations", "parked", "warnings"}
    assert status["state"] == "alone"
    assert space("missing", "a.db", "--json") == []
    assert space("conflicts", "a.db", "--json") == []
    entry = space("log", "a.db", "--limit", "1", "--json")[0]
    assert set(entry) >= {"change", "member", "unix_ms", "epoch", "tables", "state"}
    verified = space("verify", "a.db", "--json")
    assert verified["ok"] is True
    assert set(verified) >= {"changes", "payloads", "receipts", "certificates"}
    for command in ("status", "missing", "conflicts", "log", "verify"):
        assert space(command, "a.db")


def test_a_backup_goes_to_a_new_path_only(space, tmp_path):
    assert space("backup", "a.db", "copy.db", "--json")["bytes"] == (tmp_path / "copy.db").stat().st_size
    assert space("status", "copy.db", "--json")["root"] == space("status", "a.db", "--json")["root"]
    assert space("backup", "a.db", "copy.db", "--json", code=2)["error"] == "usage"


def test_a_moment_is_opened_by_name_change_and_time(space):
    """W14 W17."""
    first = space("sql", "a.db", "INSERT INTO bird VALUES ('a', 1, NULL), ('b', 2, 'x')", "--json")["change"]
    named = space("moment", "a.db", "before", "--json")
    assert list(named) == ["name", "root", "changes", "member", "unix_ms", "change"]
    space("sql", "a.db", "UPDATE bird SET mass = 3 WHERE id = 'a'")
    query = "SELECT id, mass FROM bird ORDER BY id"

    short = f"{first[:10]}:{first.partition(':')[2]}"
    for moment in ("before", first, short, named["root"]):
        assert space("at", "a.db", moment, query, "--json") == [{"id": "a", "mass": 1}, {"id": "b", "mass": 2}]
    assert space("at", "a.db", "now", query, "--json") == space("sql", "a.db", query, "--json")
    assert "id  mass\na      1\nb      2\n2 rows" in space("at", "a.db", "before", query)
    assert space("at", "a.db", "1999-01-01", "SELECT 1 AS one", "--json") == [{"one": 1}]
    assert space("moment", "a.db", "--json") == [named]
    assert "before" in space("moment", "a.db")
    assert "after is the state of 5 changes" in space("moment", "a.db", "after")


def test_a_moment_that_is_not_there_or_not_yet_says_so(space):
    assert space("at", "a.db", "whenever", "SELECT 1", "--json", code=2)["error"] == "usage"
    assert space("at", "a.db", "epoch:0", "SELECT 1", "--json", code=3)["error"] == "incomplete"
    assert "want a SELECT" in space("at", "a.db", "now", "DELETE FROM bird", code=2)
    assert "no moment has a name yet" in space("moment", "a.db")


def test_history_and_diff_show_what_changed(space):
    """W14."""
    made = space("sql", "a.db", "INSERT INTO bird VALUES ('a', 1, NULL)", "--json")["change"]
    space("sql", "a.db", "UPDATE bird SET mass = 2")

    versions = space("history", "a.db", "bird", "a", "--json")
    assert list(versions[0]) == ["change", "member", "unix_ms", "kind", "written", "row", "lost"]
    assert [(v["kind"], v["written"]) for v in versions] == [
        ("insert", {"mass": 1, "note": None}),
        ("update", {"mass": 2}),
    ]
    assert versions[0]["change"] == made
    assert "now: id = a, mass = 2, note = NULL" in space("history", "a.db", "bird", "a")
    assert "ever written" in space("history", "a.db", "bird", "b")
    assert space("diff", "a.db", made, "--json") == [
        {
            "table": "bird",
            "key": ["a"],
            "before": {"id": "a", "mass": 1, "note": None},
            "after": {"id": "a", "mass": 2, "note": None},
        }
    ]
    assert space("diff", "a.db", "now", made, "--json")[0]["after"]["mass"] == 1
    assert "mass" in space("diff", "a.db", made)
    assert "no row differs" in space("diff", "a.db", "now")


def test_a_key_is_spelled_as_its_columns_are_declared(space):
    space("sql", "a.db", "CREATE TABLE pair (n INT, id BLOB, PRIMARY KEY(n, id))")
    space("sql", "a.db", "INSERT INTO pair VALUES (7, x'0aff')")

    assert len(space("history", "a.db", "pair", """[7, "x'0aff'"]""", "--json")) == 1
    assert len(space("history", "a.db", "pair", """["7", "x'0aff'"]""", "--json")) == 1
    assert "JSON list of 2" in space("history", "a.db", "pair", "7", code=2)
