"""A file is copied, restored, moved or opened twice, and written on both sides: no work is lost, no number used twice.

Nobody who did this is a forger: every file goes on under a log of its own, and the member is one member still.
"""

import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import klal
from klal.errors import KlalError, ReadOnlyError, UsageError
from klal.model.certificate import check_certificate
from klal.model.proof import check_proof
from klal.rules.merge import ChangeRef


class Space:
    """Ana and Ben with a table, and a folder they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.path = folder / "ana.db"
        self.serial = itertools.count()
        self.written: set[str] = set()
        with self.ana() as ana:
            self.ticket = ana.invite()
        self.ben = klal.join(folder / "ben.db", self.ticket, member="ben", home=folder / "ben")
        self.ben.sync(self.path)

    def ana(self):
        if not self.path.exists():
            replica = klal.create(self.path, space="s", member="ana", home=self.home)
            replica.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
            return replica
        return klal.open(self.path, home=self.home)

    def write(self, replica, count=1):
        for _ in range(count):
            key = f"{replica.path.name} {next(self.serial)}"
            replica.execute("INSERT INTO t VALUES (?, 1)", (key,))
            self.written.add(key)

    def write_at(self, path, count=1, home=None):
        with klal.open(path, home=home or self.home) as replica:
            self.write(replica, count)
            return replica.log_id

    def settle(self, *paths, by):
        """Bring all files together, through the folder or directly, and see that nothing was lost or used twice."""
        replicas = [klal.open(path, home=self.home) for path in paths] + [self.ben]
        reports = []
        for _ in range(3):
            for replica in replicas:
                if by == "folder":
                    reports.append(replica.sync(self.shared))
                else:
                    reports += [replica.sync(other.path) for other in replicas if other is not replica]
        try:
            refusals = {sentence for report in reports for sentence in report.refused}
            # Ana's key is not in Ben's home, nor his in hers: opened as a remote, such a file only gives.
            assert all("only gives" in sentence for sentence in refusals)
            self.check(replicas)
        finally:
            for replica in replicas[:-1]:
                replica.close()

    def check(self, replicas):
        assert len({replica.status().root for replica in replicas}) == 1
        for replica in replicas:
            assert {key for (key,) in replica.query("SELECT k FROM t")} == self.written
            replica.verify()
            assert replica._store.connection.execute("SELECT count(*) FROM klal_forks").get == 0
        names = [numbered(replica) for replica in replicas]
        assert all(each == names[0] for each in names)

    def close(self):
        self.ben.close()


def numbered(replica):
    """Return the hash that each number of each log names."""
    history = replica._store.history
    return {
        (log.log_id, seq): history.hash_at(ChangeRef(log.log, seq))
        for log in history.logs.values()
        for seq in range(log.length)
    }


@pytest.fixture
def space(tmp_path):
    made = Space(tmp_path)
    yield made
    made.close()


both_ways = pytest.mark.parametrize("by", ["folder", "files"])


@both_ways
def test_a_copy_and_its_original_write_logs_of_their_own(space, by):
    """W9 S40."""
    space.write_at(space.path)
    copy = space.folder / "copy.db"
    shutil.copy(space.path, copy)
    logs = [space.write_at(path) for path in (copy, space.path, copy, space.path)]

    assert logs[0] == logs[2]
    assert logs[1] == logs[3]
    assert logs[0] != logs[1]
    space.settle(space.path, copy, by=by)


@both_ways
def test_a_file_restored_in_place_from_a_backup_goes_on_in_another_log(space, by):
    """S39 T50: what was written after the backup is elsewhere, or lost with the file; no number means two things."""
    space.write_at(space.path)
    backup = space.folder / "older.db"
    shutil.copy(space.path, backup)
    before = space.write_at(space.path, 3)
    space.ben.sync(space.path)
    with backup.open("rb") as source, space.path.open("r+b") as target:  # In place: the inode stays.
        target.truncate(0)
        shutil.copyfileobj(source, target)
    after = space.write_at(space.path, 2)

    assert before != after
    space.settle(space.path, by=by)


def test_a_file_restored_before_anybody_saw_the_rest_goes_on_in_another_log(space):
    """S39: the rest is lost with the file, which nothing can mend; its numbers stay unused."""
    space.write_at(space.path)
    backup = space.folder / "older.db"
    shutil.copy(space.path, backup)
    lost = set(space.written)
    before = space.write_at(space.path, 3)
    lost = space.written - lost
    shutil.copy(backup, space.path)
    after = space.write_at(space.path)
    space.written -= lost

    assert before != after
    space.settle(space.path, by="folder")


@both_ways
def test_a_file_moved_with_its_folder_goes_on_in_its_log(space, by):
    before = space.write_at(space.path)
    moved = space.folder / "elsewhere" / "data.db"
    moved.parent.mkdir()
    space.path.rename(moved)
    after = space.write_at(moved)

    assert before == after
    space.settle(moved, by=by)


@both_ways
def test_backup_is_a_file_without_a_writer_that_goes_on_in_a_log_of_its_own(space, by):
    """S39 S40."""
    with space.ana() as ana:
        space.write(ana)
        ana.backup(space.folder / "backup.db")
        space.write(ana)
        log = ana.log_id
    assert space.write_at(space.folder / "backup.db") != log
    space.write_at(space.path)

    space.settle(space.path, space.folder / "backup.db", by=by)


@pytest.mark.parametrize("with_wal", [True, False])
def test_a_copy_made_with_cp_while_the_file_is_open_is_a_writer_of_its_own(space, with_wal):
    """S40: without its WAL a copy is the file as of the last checkpoint, which is an older file and nothing worse."""
    with space.ana() as ana:
        space.write(ana, 5)
        shutil.copy(space.path, space.folder / "copy.db")
        if with_wal:
            shutil.copy(f"{space.path}-wal", space.folder / "copy.db-wal")
        space.write(ana, 2)
        if not with_wal:
            ana.sync(space.shared)
        log = ana.log_id
        assert space.write_at(space.folder / "copy.db") != log
        space.write(ana)
        assert ana.log_id == log

    space.settle(space.path, space.folder / "copy.db", by="folder")


def test_a_copy_that_is_written_first_leaves_the_open_original_whole(space):
    """W9: the copy may even pass the fence before the original writes again."""
    space.write_at(space.path)
    copy = space.folder / "copy.db"
    shutil.copy(space.path, copy)
    with space.ana() as original, klal.open(copy, home=space.home) as other:
        for _ in range(3):
            space.write(other)
            space.write(original)
        assert other.log_id != original.log_id

    space.settle(space.path, copy, by="files")


def test_many_copies_of_copies_all_keep_their_work(space):
    """W9 S40, over every way a tree of copies can grow with a seed."""
    dice = random.Random(7)
    paths = [space.path]
    for number in range(4):
        path = space.folder / f"copy{number}.db"
        shutil.copy(dice.choice(paths), path)
        paths.append(path)
        for _ in range(3):
            space.write_at(dice.choice(paths))

    space.settle(*paths, by="folder")


def test_file_and_home_restored_together_are_found_when_the_branches_meet(space):
    """D6, S39 T50: a machine's snapshot brings back the key's fence too, which no fence can see."""
    space.write_at(space.path)
    snapshot = space.folder / "snapshot"
    snapshot.mkdir()
    shutil.copy(space.path, snapshot / "ana.db")
    shutil.copytree(space.home, snapshot / "home")
    space.write_at(space.path)
    space.ben.sync(space.path)
    with klal.open(snapshot / "ana.db", home=snapshot / "home") as restored:
        restored.sync(space.folder / "ben.db")
    logs = [space.write_at(snapshot / "ana.db", home=snapshot / "home"), space.write_at(space.path)]

    assert logs[0] != logs[1]
    space.ben.sync(snapshot / "ana.db")
    space.ben.sync(space.path)
    space.check([space.ben])


def restored(space):
    """Write on a machine and on what its snapshot brought back, and return the snapshot's file and home."""
    space.write_at(space.path)
    snapshot = space.folder / "snapshot"
    snapshot.mkdir()
    shutil.copy(space.path, snapshot / "ana.db")
    shutil.copytree(space.home, snapshot / "home")
    space.write_at(space.path, 2)
    space.write_at(snapshot / "ana.db", 3, home=snapshot / "home")
    return snapshot / "ana.db", snapshot / "home"


def test_a_restored_branch_that_was_written_before_it_met_the_other_goes_on_beside_it(space):
    """D6 LOG-4 LOG-6 S39 S41 T15 T50: two changes bear one number; all is kept, and the owner is told so."""
    path, home = restored(space)
    space.ben.sync(space.path)
    with klal.open(path, home=home) as other:
        before = other.log_id
        reports = [other.sync(space.folder / "ben.db"), space.ben.sync(path)]

        assert all(not report.refused for report in reports)
        assert space.ben.status().root == other.status().root
        for replica in (other, space.ben):
            assert {key for (key,) in replica.query("SELECT k FROM t")} == space.written
            replica.verify()
        told = [warning for warning in other.status().warnings if "two machines" in warning]
        assert len(told) == 1
        assert "all of it is kept" in told[0]
        # Neither machine writes the log again that both had.
        space.write(other)
        assert other.log_id != before
    with space.ana() as ana:
        ana.sync(space.folder / "ben.db")
        space.write(ana)
        assert ana.log_id != before
        ana.sync(space.folder / "ben.db")
    space.ben.sync(path)
    space.ben.sync(space.path)
    assert {key for (key,) in space.ben.query("SELECT k FROM t")} == space.written
    space.ben.verify()


def test_a_change_noted_before_its_log_was_found_forked_is_still_found(space):
    """LOG-7: an id names what it named."""
    with space.ana() as ana:
        space.write(ana)
    path, _ = restored(space)
    with space.ana() as ana:
        space.ben.sync(space.path)
        noted = space.ben.log(limit=1)[0].change
        space.ben.sync(path)
        names = {entry.change for entry in space.ben.log()}

        assert noted not in names
        assert space.ben.who_has(noted).holders
        assert any(change.seq == noted.seq for change in names)


def test_a_certificate_made_before_a_fork_was_found_is_the_one_that_everybody_makes(space):
    """LOG-7 FRN-4 CRT-1: what a cut is called depends on what is in it, and not on what is known beside it."""
    path, home = restored(space)
    with space.ana() as ana:
        space.ben.sync(space.path)
        space.ben.finish()
        ana.sync(space.folder / "ben.db")
        ana.finish()
        first = ana.close_epoch().certificate
    space.ben.sync(space.path)
    space.ben.sync(path)
    assert space.ben._store.history.forked
    with klal.open(path, home=home) as other:
        other.sync(space.folder / "ben.db")
        second = other.close_epoch().certificate
        other.verify()

    assert second == first
    assert check_certificate(first.encode()) == first
    space.ben.verify()
    with klal.join(space.folder / "cal.db", space.ticket, member="cal", home=space.folder / "cal") as cal:
        cal.sync(space.folder / "ben.db")
        assert cal._store.certificate(0) == first
        cal.verify()


def test_an_epoch_over_both_branches_counts_their_member_once(space):
    """W28 CRT-5: the Close may stand in a branch, and the file alone still proves it."""
    path, home = restored(space)
    with klal.open(path, home=home) as other:
        other.sync(space.folder / "ben.db")
        other.finish()
    space.ben.sync(path)
    space.ben.sync(space.path)
    space.ben.finish()
    certificate = space.ben.close_epoch().certificate

    assert certificate.body.member_count == 2
    assert certificate.body.change_count == sum(head.length for head in certificate.cut)
    assert any(witness.branch for witness in certificate.witness)
    assert check_certificate(certificate.encode()) == certificate
    space.ben.verify()


def test_a_fork_hidden_until_after_the_close_surfaces_and_the_epoch_does_not_count_as_closed(space):
    """S57: each half closes over its branch; their receipts name two certificates, and both are shown."""
    path, home = restored(space)
    with klal.join(space.folder / "cal.db", space.ticket, member="cal", home=space.folder / "cal") as cal:
        halves = ((space.path, space.home, space.ben), (path, home, cal))
        for at, keys, friend in halves:
            with klal.open(at, home=keys) as ana:
                ana.sync(friend.path)
                ana.finish()
            friend.sync(at)
        cal.finish()
        space.ben.finish()
        space.ben.sync(space.folder / "cal.db")
        cal.sync(space.folder / "ben.db")
        for replica in (space.ben, cal):
            assert any("went on in 2 ways" in warning for warning in replica.status().warnings)
            assert replica.status().epoch.state != "closed"
            replica.verify()


def test_a_healed_file_has_both_branches_and_a_change_in_one_of_them_is_proved(space):
    """LOG-4 PRF-3 FIL-5: healing takes the strands again, and a proof names the log that was signed for."""
    path, _ = restored(space)
    with space.ana() as ana:
        ana.sync(space.folder / "ben.db")
        ana.finish()
    for remote in (path, space.path):
        space.ben.sync(remote)
    space.ben.finish()
    certificate = space.ben.close_epoch().certificate
    for entry in space.ben.log():
        if entry.epoch == 0 and entry.change.log_id != space.ben.log_id:
            proof = check_proof(space.ben.prove.change(entry.change).encode())
            assert proof.certificate.hash == certificate.hash
    forks = space.ben._store.connection.execute("SELECT * FROM klal_forks").fetchall()
    space.ben.close()
    with sqlite3.connect(space.folder / "ben.db") as foreign:
        foreign.execute("DELETE FROM klal_branch")
    foreign.close()
    healed = klal.heal(space.folder / "ben.db", home=space.folder / "ben")

    assert not healed.missing
    space.ben = klal.open(space.folder / "ben.db", home=space.folder / "ben")
    assert space.ben._store.connection.execute("SELECT * FROM klal_forks").fetchall() == forks
    assert {key for (key,) in space.ben.query("SELECT k FROM t")} == space.written
    space.ben.verify()


def test_evidence_of_a_fork_that_was_tampered_with_is_found(space):
    """LOG-4 LOG-7: the proof is the two headers, and verify looks at both."""
    path, _ = restored(space)
    space.ben.sync(space.path)
    space.ben.sync(path)
    space.ben.verify()
    for number, (sql, rule) in enumerate(
        (
            ("UPDATE klal_branch SET log_id = zeroblob(32) WHERE seq = (SELECT max(seq) FROM klal_branch)", "LOG-7"),
            ("DELETE FROM klal_branch WHERE seq > 0", "LOG-7"),
            ("UPDATE klal_log SET log_id = zeroblob(32) WHERE log_id <> origin", "LOG-7"),
            ("UPDATE klal_log SET origin = log_id", "LOG-1"),
            ("UPDATE klal_log SET start = start + 1 WHERE log_id <> origin", None),
            ("UPDATE klal_log SET below = NULL WHERE log_id <> origin", None),
        )
    ):
        copy = space.folder / f"tampered{number}.db"
        space.ben.backup(copy)
        with sqlite3.connect(copy) as foreign:
            foreign.execute(sql)
        foreign.close()
        with pytest.raises(KlalError) as caught, klal.open(copy, home=space.folder / "nobody") as replica:
            replica.verify()
        assert rule is None or caught.value.rule == rule, sql


_WRITER = """
import sys, klal
path, home, name, count = sys.argv[1:]
with klal.open(path, home=home) as replica:
    for number in range(int(count)):
        replica.execute("INSERT INTO t VALUES (?, 1)", (f"{name} {number}",))
    print(replica.log_id.hex())
"""


def start_writer(space, name, count, path=None):
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path or space.path), str(space.home), name, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@both_ways
def test_two_processes_write_one_file_at_once(space, by):
    """T52: SQLite's lock orders them, and the fence is of the file: whoever finds another token starts a log."""
    writers = [start_writer(space, name, 40) for name in ("one", "two", "three")]
    done = [writer.communicate(timeout=60) for writer in writers]

    assert [writer.returncode for writer in writers] == [0, 0, 0], done
    space.written |= {f"{name} {number}" for name in ("one", "two", "three") for number in range(40)}
    space.settle(space.path, by=by)


def test_two_replicas_of_one_process_on_one_file_see_each_others_work(space):
    """T52."""
    with space.ana() as one, space.ana() as two:
        for _ in range(5):
            space.write(one)
            space.write(two, 2)
        one.sync(space.shared)
        space.write(two)
        assert {key for (key,) in one.query("SELECT k FROM t")} == space.written

    space.settle(space.path, by="folder")


def test_what_is_read_again_after_a_rollback_is_of_one_moment(space):
    """T52: a write of another process between two of its reads would be missed, and its line's number used twice."""
    with space.ana() as one, space.ana() as two:
        space.write(one)
        store = one._store
        load = store.catalog.load

        def load_and_let_the_other_write():
            store.catalog.load = load
            load()
            space.write(two)

        store.catalog.load = load_and_let_the_other_write
        with pytest.raises(klal.errors.ConstraintError):
            one.execute("INSERT INTO t SELECT * FROM t")
        space.write(one)
        assert {key for (key,) in one.query("SELECT k FROM t")} == space.written

    space.settle(space.path, by="folder")


def test_a_file_whose_home_is_lost_is_read_only(space):
    space.write_at(space.path)
    shutil.rmtree(space.home)
    with klal.open(space.path, home=space.home) as ana:
        assert ana.read_only
        assert {key for (key,) in ana.query("SELECT k FROM t")} == space.written
        for write in (
            lambda: ana.execute("INSERT INTO t VALUES ('x', 1)"),
            lambda: ana.insert_many("t", [("x", 1)]),
            lambda: ana.execute("BEGIN"),
            lambda: ana.execute("CREATE TABLE u(k TEXT PRIMARY KEY)"),
            lambda: ana.sync(space.shared),
            ana.invite,
            ana.finish,
        ):
            with pytest.raises(ReadOnlyError):
                write()
        ana.verify()
        ana.status()

    space.ben.sync(space.path)
    space.check([space.ben])


def test_a_destroyed_file_comes_back_from_any_other_with_the_key_alone(space):
    """W11 S46: the same member, in a new log."""
    before = space.write_at(space.path)
    space.ben.sync(space.path)
    space.path.unlink()
    with klal.join(space.path, space.ticket, member="ana", home=space.home) as ana:
        ana.sync(space.folder / "ben.db")
        space.write(ana)
        assert ana.log_id != before

    space.settle(space.path, by="files")
    assert [member.name for member in space.ben.members()] == ["ana", "ben"]


def test_the_home_of_another_member_does_not_write_a_file_unasked(space):
    """W9: a file speaks for its own member; a copy taken over says so by name."""
    space.write_at(space.path)
    copy = space.folder / "copy.db"
    shutil.copy(space.path, copy)
    with klal.open(copy, home=space.folder / "ben") as replica:
        assert replica.read_only
        with pytest.raises(ReadOnlyError):
            replica.execute("INSERT INTO t VALUES ('x', 1)")
    space.ben.sync(space.path)
    with klal.open(copy, home=space.folder / "ben", member="ben") as replica:
        space.write(replica)
        assert replica.member_name == "ben"
        assert replica.log_id != space.ben.log_id
        log = replica.log_id
    space.ben.sync(copy)

    assert space.ben.who_has(f"{log.hex()}:0").holders
    space.check([space.ben])


def test_an_unknown_member_is_not_opened_as(space):
    with pytest.raises(UsageError, match="nobody"):
        klal.open(space.path, home=space.home, member="nobody")


def test_a_fence_that_is_lost_costs_a_new_log_and_nothing_else(space):
    before = space.write_at(space.path)
    for fence in space.home.rglob("*.fence"):
        fence.unlink()

    assert space.write_at(space.path) != before
    space.settle(space.path, by="folder")


@pytest.mark.parametrize("damage", [b"", b"{}", b"{", b"[]", b"\xff\xfe", b'{"token": 1}'])
@pytest.mark.parametrize("kind", ["key", "fence"])
def test_a_damaged_home_is_named_in_a_sentence(space, kind, damage):
    for path in space.home.rglob(f"*.{kind}"):
        path.write_bytes(damage)

    with pytest.raises(KlalError, match=kind):
        space.write_at(space.path)


def test_thirty_incarnations_of_one_member_are_one_member(space):
    """W28: one voice in a count of members, one holder of a change."""
    paths = [space.path]
    for number in range(30):
        path = space.folder / f"copy{number}.db"
        shutil.copy(space.path, path)
        space.write_at(path)
        paths.append(path)
    for path in paths:
        space.ben.sync(path)
    with space.ana() as ana:
        ana.sync(space.folder / "ben.db")
        change = ana.log(limit=1)[0].change
        holders = ana.who_has(change)
        logs = {entry.change.log_id for entry in ana.log()}
        members = [member.name for member in ana.members()]

    assert len(logs) >= 31
    assert members == ["ana", "ben"]
    assert sorted(holders.holders) == ["ana", "ben"]
    assert space.ben.who_has(change).holders.count("ana") <= 1
    space.settle(space.path, by="files")


def test_a_row_written_behind_klals_back_is_found(space):
    """T40."""
    space.write_at(space.path)
    with sqlite3.connect(space.path) as foreign:
        foreign.execute("INSERT INTO t VALUES ('smuggled', 1)")
    foreign.close()
    with space.ana() as ana, pytest.raises(KlalError, match="rows"):
        ana.verify()
