"""What a program sees of a replica, beyond SQL: meeting others, coming back, being alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import klal
from klal.errors import IncompleteError, UsageError
from klal.file_station import FileStation
from klal.sync.station import Receipts


def _pair(folder: Path) -> tuple[klal.Replica, klal.Replica, str]:
    ana = klal.create(folder / "ana.db", space="s", member="ana", home=folder / "home-ana")
    ana.execute("CREATE TABLE t(id TEXT PRIMARY KEY, n INT)")
    ticket = ana.invite()
    ben = klal.join(folder / "ben.db", ticket, member="ben", home=folder / "home-ben")
    (folder / "stick").mkdir()
    for replica in (ben, ana, ben):
        replica.sync(folder / "stick")
    return ana, ben, ticket


def test_a_member_who_returns_writes_nothing_where_the_space_knows_it(tmp_path: Path) -> None:
    """W11: the file that comes back is, by its root, the one the others have."""
    ana, ben, ticket = _pair(tmp_path)
    ben.execute("INSERT INTO t VALUES ('a', 1)")
    for replica in (ben, ana):
        replica.sync(tmp_path / "stick")
    root = ana.status().root
    ben.close()
    (tmp_path / "ben.db").unlink()

    back = klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home-ben")
    report = back.sync(tmp_path / "stick")

    assert report.equal
    assert back.status().root == root
    assert back.query("SELECT * FROM t") == [("a", 1)]


def test_a_newcomer_takes_the_second_log_of_a_member_it_meets_in_the_same_session(tmp_path: Path) -> None:
    """W21, W28: the second log shows no join of its own."""
    ana, ben, ticket = _pair(tmp_path)
    ben.close()
    (tmp_path / "ben.db").unlink()
    back = klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home-ben")
    back.sync(tmp_path / "stick")
    back.execute("INSERT INTO t VALUES ('b', 2)")
    for replica in (back, ana):
        replica.sync(tmp_path / "stick")

    cy = klal.join(tmp_path / "cy.db", ticket, member="cy", home=tmp_path / "home-cy")
    report = cy.sync(tmp_path / "stick")

    assert report.equal
    assert report.refused == ()
    assert cy.query("SELECT * FROM t") == [("b", 2)]
    assert cy.status().warnings == ()


def test_a_returning_member_may_write_before_it_meets_anybody(tmp_path: Path) -> None:
    """W11."""
    ana, ben, ticket = _pair(tmp_path)
    ben.close()
    (tmp_path / "ben.db").unlink()
    back = klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home-ben")

    back.execute("INSERT INTO t VALUES ('offline', 1)")
    back.sync(tmp_path / "stick")
    ana.sync(tmp_path / "stick")

    assert ana.query("SELECT * FROM t") == [("offline", 1)]
    assert sorted(member.name for member in ana.members()) == ["ana", "ben"]


def test_nothing_is_stable_while_nobody_else_is_known(tmp_path: Path) -> None:
    """W4, STB-1: one disk is one disk."""
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.execute("CREATE TABLE t(id TEXT PRIMARY KEY)")

        assert ana.status().stable_count == 0
        assert {entry.state for entry in ana.log()} == {"local"}


def test_nobody_finishes_for_people_who_were_invited_and_never_heard_of(tmp_path: Path) -> None:
    """W4."""
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.invite()

        with pytest.raises(IncompleteError, match="nobody has been heard of"):
            ana.finish()

        assert ana.finish(alone=True).epoch == 0


def test_a_sync_that_was_cut_says_so(tmp_path: Path) -> None:
    ana, _, _ = _pair(tmp_path)
    ana.insert_many("t", [(f"k{i}", i) for i in range(2000)])

    report = ana.sync(tmp_path / "stick", byte_count_max=500)

    assert not report.is_finished
    assert not report.equal


def test_a_file_whose_key_is_not_at_hand_only_gives_and_the_report_says_so(tmp_path: Path) -> None:
    ana, ben, _ = _pair(tmp_path)
    ben.execute("INSERT INTO t VALUES ('a', 1)")
    ana.close()

    report = ben.sync(tmp_path / "ana.db")

    assert not report.equal
    assert report.only_gave == (str(tmp_path / "ana.db"),)
    assert report.refused == ()


def test_a_fork_that_no_fence_can_see_is_whole_once_both_branches_are_here(tmp_path: Path) -> None:
    """T15, T50, S39, COV-3: file and keys were rolled back together, and both sides wrote."""
    ana, ben, _ = _pair(tmp_path)
    ana.close()
    shutil.copytree(tmp_path / "home-ana", tmp_path / "snapshot" / "home")
    shutil.copy(tmp_path / "ana.db", tmp_path / "snapshot" / "ana.db")
    with klal.open(tmp_path / "ana.db", home=tmp_path / "home-ana") as ana:
        ana.execute("INSERT INTO t VALUES ('here', 1)")
    ben.sync(tmp_path / "ana.db")

    back = klal.open(tmp_path / "snapshot" / "ana.db", home=tmp_path / "snapshot" / "home")
    back.execute("INSERT INTO t VALUES ('there', 1)")
    door, source = FileStation(ben._store), FileStation(back._store)
    door.take(Receipts(tuple(source.receipts())))
    door.settle()
    assert ben.status().state == "behind"
    assert ben.status().standing != "whole"
    assert any("not here, beside others that are" in warning for warning in ben.status().warnings)

    back.sync(tmp_path / "ben.db")
    ben.sync(tmp_path / "snapshot" / "ana.db")
    for replica in (ben, back):
        assert replica.status().standing == "whole"
        assert replica.query("SELECT id FROM t WHERE id LIKE '%here' ORDER BY id") == [("here",), ("there",)]
    assert ben.status().root == back.status().root


def test_every_whole_replica_reads_the_whole_history_newcomers_too(tmp_path: Path) -> None:
    """W14: each change that was ever made, by whom, when and on what, the same on all."""
    ana, ben, ticket = _pair(tmp_path)
    ana.execute("INSERT INTO t VALUES ('a', 1)")
    ana.execute("UPDATE t SET n = 2")
    ben.execute("INSERT INTO t VALUES ('b', 1)")
    ben.execute("DELETE FROM t WHERE id = 'b'")
    cy = klal.join(tmp_path / "cy.db", ticket, member="cy", home=tmp_path / "home-cy")
    for replica in (ana, ben, cy, ana, ben):
        replica.sync(tmp_path / "stick")

    told = [
        [
            (entry.change, entry.member_name, entry.unix_ms, entry.epoch, entry.tables, entry.acts)
            for entry in each.log()
        ]
        for each in (ana, ben, cy)
    ]

    assert told[0] == told[1] == told[2]
    assert len(told[0]) == cy.coverage().held
    assert [entry.tables for entry in cy.log(table="t")] == [{"t": 1}] * 4
    assert {entry.standing for entry in (ana.status(), ben.status(), cy.status())} == {"whole"}


def test_a_closed_replica_says_so_in_klals_own_words(tmp_path: Path) -> None:
    ana = klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home")
    ana.close()

    assert "'s'" in repr(ana)
    for call in (ana.status, ana.missing, ana.conflicts, ana.verify, ana.finish, ana.invite):
        with pytest.raises(klal.errors.KlalError):
            call()
    ana.close()


def test_a_number_of_another_library_is_refused_and_does_not_become_its_bytes(tmp_path: Path) -> None:
    """T42: whatever has a buffer is a blob to SQLite's binding, a numpy integer too."""
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ana.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
        for wrong in (np.int64(7), np.float32(0.5), np.bool_(True)):
            for run in (
                lambda value=wrong: ana.execute("INSERT INTO t VALUES('a', ?)", (value,)),
                lambda value=wrong: ana.execute("INSERT INTO t VALUES('a', :v)", {"v": value}),
                lambda value=wrong: ana.executemany("INSERT INTO t VALUES('a', ?)", [(value,)]),
                lambda value=wrong: ana.insert_many("t", [("a", value)]),
                lambda value=wrong: ana.query("SELECT ?", (value,)),
            ):
                with pytest.raises(UsageError, match="numpy"):
                    run()
        ana.insert_many("t", [("b", np.float64(0.5)), ("c", bytearray(b"x"))])

        assert ana.query("SELECT k, v FROM t ORDER BY k") == [("b", 0.5), ("c", b"x")]
