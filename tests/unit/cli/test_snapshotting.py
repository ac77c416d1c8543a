"""`klal snapshot` at the command line."""

import pytest


@pytest.fixture
def columns():
    return 120


def test_a_snapshot_is_made_said_given_and_forgotten(klal):
    """W21: a newcomer that syncs is whole in the end, and has no use for a snapshot any more."""
    klal("init", "a.db", "--space", "birds", "--member", "Ana")
    klal("sql", "a.db", "CREATE TABLE bird (id TEXT PRIMARY KEY, mass INTEGER)")
    klal("sql", "a.db", "INSERT INTO bird VALUES ('a', 1), ('b', 2)")
    assert klal("snapshot", "a.db", "--json", code=3) is None
    assert "no snapshot is here" in klal("snapshot", "a.db", code=3)
    assert "no epoch is complete here" in klal("snapshot", "a.db", "--make", code=3)
    klal("finish", "a.db")

    made = klal("snapshot", "a.db", "--make", "--json")
    assert list(made) == ["epoch", "certificate", "rows", "bytes", "state", "giver"]
    assert (made["epoch"], made["rows"], made["state"], made["giver"]) == (0, 2, "made", "")
    assert klal("snapshot", "a.db", "--json") == made
    assert klal("snapshot", "a.db").startswith("snapshot of epoch 0: 2 rows, ")
    klal("join", "b.db", klal("invite", "a.db", "--json")["ticket"], "--member", "Ben")
    klal("sync", "b.db", "a.db", "--json")
    assert klal("sql", "b.db", "SELECT count(*) AS n FROM bird", "--json") == [{"n": 2}]
    assert klal("snapshot", "b.db", "--json", code=3) is None
    assert "no snapshot is to be read here" in klal("snapshot", "b.db", "SELECT 1", code=3)
    assert klal("snapshot", "a.db", "--forget", "--json") is None
    assert klal("snapshot", "a.db", "--make", "--forget", "--json", code=2)["error"] == "usage"
